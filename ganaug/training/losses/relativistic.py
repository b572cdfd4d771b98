"""The relativistic pairing loss: is this fake more real than the real image beside it?

Source: Jolicoeur-Martineau, "The relativistic discriminator" (2018); Huang et al., R3GAN (2024), equation 2, with
f(t) = -log(1 + exp(-t)), and with R1 + R2 as there. Real and fake are paired under the same label.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

PENALTY = "r1r2"
CRITIC_STEPS = 1


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return E[softplus(-(D(real) - D(fake)))]."""
    return F.softplus(fake - real).mean()


def generator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return E[softplus(-(D(fake) - D(real)))]."""
    return F.softplus(real - fake).mean()
