"""The non-saturating loss of Goodfellow et al., "Generative Adversarial Nets" (2014), section 3."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return E[softplus(-D(real))] + E[softplus(D(fake))]."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return E[softplus(-D(fake))]; the real logits are not used."""
    return F.softplus(-fake).mean()
