"""Gradient consistency: edges stay where they are when an image is translated.

Source: Hiasa et al., "Cross-modality image synthesis from unpaired data using CycleGAN" (2018), equations 1 and 2,
which correlate the gradients along each axis. Here it is their magnitude, so that an edge may turn from dark-bright to
bright-dark, as it does between the contrasts of MR.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LEAST = 1e-3
"""Gradient magnitude below which there is no edge, in units of [-1, 1] for each pixel."""


def gradient_consistency(images: Tensor, others: Tensor) -> Tensor:
    """Return 1 - the correlation of the gradient magnitudes of each pair: N floats in [0, 2], 0 where they agree.

    `images` and `others` are N×C×H×W or N×C×D×H×W.
    """
    first, second = (_edges(part).flatten(1) for part in (images, others))
    first, second = (part - part.mean(1, keepdim=True) for part in (first, second))
    norms = (first.square().sum(1) * second.square().sum(1) + 1e-12).sqrt()
    return 1 - (first * second).sum(1) / norms


def _edges(images: Tensor) -> Tensor:
    """Return the gradient's magnitude at the inner pixels, by central differences."""
    dims = range(2, images.ndim)
    inner = [slice(None), slice(None)] + [slice(1, -1)] * len(dims)
    total = torch.full((), _LEAST**2, device=images.device)
    for dim in dims:
        ahead, behind = list(inner), list(inner)
        ahead[dim], behind[dim] = slice(2, None), slice(None, -2)
        total = total + ((images[tuple(ahead)] - images[tuple(behind)]) / 2).square()
    return total.sqrt()
