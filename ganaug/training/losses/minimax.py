"""The minimax game of Goodfellow et al., "Generative Adversarial Nets" (2014), equation 1, as it was first written.

The generator lowers log(1 - sigmoid(D(fake))), which hardly slopes where the discriminator is sure of a fake: the loss
saturates (section 3 of the paper, which is why `nonsaturating` exists). R1 + R2 keep the discriminator from being sure,
and with them the game converges near its solution (Mescheder et al. 2018, theorem 4.1). The paper has neither;
``penalty: none`` is its game, and small networks learn next to nothing by it.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ganaug.training.losses.nonsaturating import discriminator_loss

__all__ = ["CRITIC_STEPS", "PENALTY", "discriminator_loss", "generator_loss"]

PENALTY = "r1r2"
CRITIC_STEPS = 1


def generator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return E[log(1 - sigmoid(D(fake)))] = -E[softplus(D(fake))]; the real logits are not used."""
    return -F.softplus(fake).mean()
