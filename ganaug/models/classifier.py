"""A small classifier for images and volumes, which judges; it is not meant to be anybody's final model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ganaug.models import channels_last

_COARSEST = 6
"""Longest side, in pixels, at which the features are averaged over space, or somewhat less."""


class Classifier(nn.Module):
    """``forward(images: N×C×spatial in [-1, 1]) -> N×classes`` logits.

    3×3 convolutions with group normalization, each but the first on half the grid of the one before, down to about 6
    pixels; mean over space; a linear layer.
    """

    def __init__(
        self, *, size: Sequence[int], channels: int, classes: int, widths: Sequence[int] = (24, 48, 96)
    ) -> None:
        super().__init__()
        conv = nn.Conv2d if len(size) == 2 else nn.Conv3d
        levels, side = 0, max(size)
        while side > _COARSEST:
            levels, side = levels + 1, -(-side // 2)
        each = [widths[min(level, len(widths) - 1)] for level in range(levels)]
        outputs = [*each, each[-1]] if each else [widths[0]]
        self.convs = nn.ModuleList(
            conv(a, b, 3, stride=1 if i == 0 else 2, padding=1)
            for i, (a, b) in enumerate(itertools.pairwise([channels, *outputs]))
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for width in outputs)
        self.head = nn.Linear(outputs[-1], classes)

    def features(self, images: Tensor) -> Tensor:
        """Return what the linear layer is given: the last feature map's mean over space, N×features."""
        x = channels_last(images)
        for layer, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(layer(x)))
        return x.flatten(2).mean(2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits
