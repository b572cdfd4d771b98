"""Least squares: the discriminator's outputs are drawn to 1 for real and to 0 for fake images.

Source: Mao et al., "Least squares generative adversarial networks" (2017), equation 9 (the 0-1 coding). The paper has
no penalty and relies on batch normalization in both networks; our discriminators have none, and R1 + R2 take its place.
"""

from __future__ import annotations

from torch import Tensor

PENALTY = "r1r2"
CRITIC_STEPS = 1


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return ½ E[(D(real) - 1)²] + ½ E[D(fake)²]."""
    return (real - 1).square().mean() / 2 + fake.square().mean() / 2


def generator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return ½ E[(D(fake) - 1)²]; the real logits are not used."""
    return (fake - 1).square().mean() / 2
