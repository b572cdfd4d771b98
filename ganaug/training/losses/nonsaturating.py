"""The non-saturating loss of Goodfellow et al., "Generative Adversarial Nets" (2014), section 3.

By itself it need not converge; with R1 or R2 it does, near the solution (Mescheder et al. 2018, theorem 4.1). Both
together keep more modes than one (R3GAN, table 1); ``penalty: r1`` is StyleGAN2's choice.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

PENALTY = "r1r2"
CRITIC_STEPS = 1


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return E[softplus(-D(real))] + E[softplus(D(fake))]."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return E[softplus(-D(fake))]; the real logits are not used."""
    return F.softplus(-fake).mean()
