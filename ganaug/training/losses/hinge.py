"""The hinge loss: the discriminator stops at a margin of 1.

Source: Lim & Ye, "Geometric GAN" (2017), equations 15 and 16; SAGAN (Zhang et al. 2019), equation 4. Where they hold
the discriminator down by normalizing its weights by their largest singular value, R1 + R2 do it here.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

PENALTY = "r1r2"
CRITIC_STEPS = 1


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return E[max(0, 1 - D(real))] + E[max(0, 1 + D(fake))]."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def generator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return -E[D(fake)]; the real logits are not used."""
    return -fake.mean()
