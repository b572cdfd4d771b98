"""The Wasserstein loss with clipped weights: the critic's mean difference bounds a multiple of the distance.

Source: Arjovsky et al., "Wasserstein GAN" (2017), equation 2 and algorithm 1: after each step the critic's weights are
clipped (`weight_clip`, there 0.01), and the critic takes five steps for each one of the generator.
"""

from __future__ import annotations

from torch import Tensor

PENALTY = "clip"
CRITIC_STEPS = 5


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return E[D(fake)] - E[D(real)]."""
    return fake.mean() - real.mean()


def generator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return -E[D(fake)]; the real logits are not used."""
    return -fake.mean()
