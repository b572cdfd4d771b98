"""The exponential moving average of the generator's weights."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_ema(average: nn.Module, model: nn.Module, *, images: int, half_life_kimg: float) -> None:
    """Move `average` towards `model` after a step of `images`; a half-life of 0 copies."""
    decay = 0.5 ** (images / (half_life_kimg * 1000)) if half_life_kimg > 0 else 0.0
    targets = [parameter.detach() for parameter in model.parameters()]
    torch._foreach_lerp_([parameter.data for parameter in average.parameters()], targets, 1 - decay)
    for buffer, source in zip(average.buffers(), model.buffers(), strict=True):
        buffer.copy_(source)
