"""The modern networks: inverted-bottleneck residual stages without normalization layers.

Source: Huang et al., "The GAN is dead; long live the GAN! A Modern Baseline GAN" (R3GAN), NeurIPS 2024, section 3 and
appendix: 1×1 → grouped 3×3 → 1×1 blocks, leaky ReLU, bilinear resampling, zero-initialized last convolutions. The class
enters the generator by an embedding joined to z and by zero-initialized feature-wise modulation (FiLM, Perez et al.
2018) in stages above 8 pixels, and the discriminator by projection (Miyato & Koyama 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganaug.models import channels_last
from ganaug.models.conv import SLOPE, Conv
from ganaug.models.grids import coarser, stage_grids, stage_widths
from ganaug.models.labels import ClassEmbedding
from ganaug.models.piecewise import KINK, Run, plain

FILM_ABOVE = 8
"""FiLM acts in stages whose longest side is above this many pixels: class details, not global layout."""


def _groups(width: int, group_width: int) -> int:
    """Return the number of groups closest to width / group_width that divides `width`."""
    groups = max(1, width // group_width)
    while width % groups:
        groups -= 1
    return groups


def _film(x: Tensor, modulation: Tensor) -> Tensor:
    scale, shift = modulation.to(x.dtype).unflatten(1, (2, -1)).unbind(1)
    shape = (*scale.shape, *[1] * (x.ndim - 2))
    return torch.addcmul(shift.view(shape), x, 1 + scale.view(shape))


class ResidualBlock(nn.Module):
    """x + W₃ φ(G φ(W₁ x)): 1×1, grouped 3×3, 1×1, the last one zero-initialized; φ is a biased leaky ReLU."""

    def __init__(
        self, dims: int, width: int, *, expansion: float, group_width: int, label_dim: int | None = None
    ) -> None:
        super().__init__()
        inner = max(group_width, round(width * expansion / group_width) * group_width)
        self.reduce = Conv(dims, width, inner, 1)
        self.spatial = Conv(dims, inner, inner, 3, groups=_groups(inner, group_width))
        self.expand = Conv(dims, inner, width, 1, bias=False)
        self.film = nn.Linear(label_dim, 2 * inner) if label_dim is not None else None
        nn.init.zeros_(self.expand.weight)
        if self.film is not None:
            nn.init.zeros_(self.film.weight)
            nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, embedded: Tensor | None = None, run: Run = plain) -> Tensor:
        hidden = run(self.reduce, x, bend=True)
        if self.film is None or embedded is None:
            hidden = run(self.spatial, hidden, bend=True)
        else:
            hidden = F.leaky_relu(_film(self.spatial(hidden), self.film(embedded)), SLOPE)
        return run(self.expand, hidden, plus=x)


def downsample(x: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Resample to a coarser grid by averaging areas (at a factor of 2 the same as bilinear resampling)."""
    if all(source == 2 * target for source, target in zip(x.shape[2:], grid, strict=True)):
        return _Halving.apply(x) if x.ndim == 4 else _halve(x)
    coarse = F.interpolate(x, size=grid, mode="area")
    return coarse if x.ndim == 4 else channels_last(coarse.to(x.dtype))


class _Halving(torch.autograd.Function):
    """`F.avg_pool2d(x, 2)`, whose own gradient takes a CPU five times as long."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return F.interpolate(grad / 4, scale_factor=2, mode="nearest")


def _halve(x: Tensor) -> Tensor:
    """Average 2×2×2 voxels, as `F.avg_pool3d` does, which on a CPU knows neither bfloat16 nor channels-last."""
    sums = x.movedim(1, -1)
    for dim in (1, 2, 3):
        even, odd = sums.unflatten(dim, (-1, 2)).unbind(dim + 1)
        sums = even + odd
    return (sums / 8).movedim(-1, 1)


class Generator(nn.Module):
    """Latents and labels to images.

    ``forward(latents: N×Z, labels: N) -> N×C×spatial``, float, about [-1, 1] (not clamped).
    """

    def __init__(
        self,
        *,
        size: Sequence[int],
        channels: int,
        classes: int,
        latent_dim: int,
        label_dim: int,
        widths: Sequence[int],
        blocks: int,
        group_width: int,
        expansion: float,
        base: int,
        stem: int,
        class_in: str = "input+fine",
    ) -> None:
        super().__init__()
        dims = len(size)
        self.size = tuple(size)
        self.joined = "input" in class_in
        inputs = latent_dim + label_dim * self.joined
        film_above = FILM_ABOVE if "fine" in class_in else 0 if "all" in class_in else math.inf
        self.grids = stage_grids(coarser(size, stem), base)
        stages = stage_widths(widths, len(self.grids))
        self.mode = "bilinear" if dims == 2 else "trilinear"
        self.embed = ClassEmbedding(classes, label_dim)
        self.input = nn.Linear(inputs, stages[0] * math.prod(self.grids[0]))
        self.stages = nn.ModuleList()
        self.changes = nn.ModuleList()
        previous = stages[0]
        for width, grid in zip(stages, self.grids, strict=True):
            change = nn.Identity() if width == previous else Conv(dims, previous, width, 1, bias=False)
            self.changes.append(change)
            film = label_dim if max(grid) > film_above else None
            self.stages.append(
                nn.ModuleList(
                    ResidualBlock(dims, width, expansion=expansion, group_width=group_width, label_dim=film)
                    for _ in range(blocks)
                )
            )
            previous = width
        # With a stem the residual stages stop at a coarser grid, and one plain convolution draws the finest details.
        self.head = Conv(dims, previous, previous, 3) if stem > 1 else None
        self.output = Conv(dims, previous, channels, 1)
        nn.init.normal_(self.embed.weight)
        nn.init.normal_(self.input.weight, std=1 / math.sqrt(inputs))
        nn.init.zeros_(self.input.bias)
        nn.init.normal_(self.output.weight, std=1 / math.sqrt(previous))

    def forward(self, latents: Tensor, labels: Tensor, label_noise: Tensor | None = None) -> Tensor:
        embedded = self.embed(labels, label_noise)
        x = self.input(torch.cat([latents, embedded], dim=1) if self.joined else latents)
        x = channels_last(x.view(x.shape[0], -1, *self.grids[0]))
        for grid, change, stage in zip(self.grids, self.changes, self.stages, strict=True):
            x = change(x)  # on the coarse grid: a quarter of the work
            if tuple(x.shape[2:]) != grid:
                x = F.interpolate(x, size=grid, mode=self.mode, align_corners=False)
            for block in cast(nn.ModuleList, stage):
                x = block(x, embedded)
        if self.head is not None:
            x = F.interpolate(x, size=self.size, mode=self.mode, align_corners=False)
            x = self.head(x, bend=True)
        return self.output(x)


class Discriminator(nn.Module):
    """Images and labels to one logit each: ``forward(images: N×C×spatial, labels: N) -> N``.

    It is linear in pieces: `run` may carry out its layers in another way (see `ganaug.models.piecewise`).
    """

    piecewise_linear = True

    def __init__(
        self,
        *,
        size: Sequence[int],
        channels: int,
        classes: int,
        widths: Sequence[int],
        blocks: int,
        group_width: int,
        expansion: float,
        base: int,
        stem: int,
    ) -> None:
        super().__init__()
        dims = len(size)
        self.grids = stage_grids(coarser(size, stem), base)[::-1]
        stages = stage_widths(widths, len(self.grids))[::-1]
        self.input = Conv(dims, channels, stages[0], 3 if stem == 1 else 2 * stem - 1, stride=stem)
        self.stages = nn.ModuleList()
        self.changes = nn.ModuleList()
        previous = stages[0]
        for width in stages:
            self.changes.append(nn.Identity() if width == previous else Conv(dims, previous, width, 1, bias=False))
            self.stages.append(
                nn.ModuleList(
                    ResidualBlock(dims, width, expansion=expansion, group_width=group_width) for _ in range(blocks)
                )
            )
            previous = width
        features = previous * math.prod(self.grids[-1])
        self.features = nn.Linear(features, previous)
        self.logit = nn.Linear(previous, 1)
        self.project = ClassEmbedding(classes, previous)
        nn.init.normal_(self.input.weight, std=1 / math.sqrt(self.input.weight[0].numel()))
        nn.init.normal_(self.features.weight, std=1 / math.sqrt(features))
        nn.init.zeros_(self.features.bias)
        nn.init.normal_(self.project.weight)

    def forward(self, images: Tensor, labels: Tensor, run: Run = plain) -> Tensor:
        x = run(self.input, channels_last(images))
        for grid, change, stage in zip(self.grids, self.changes, self.stages, strict=True):
            if tuple(x.shape[2:]) != grid:
                x = downsample(x, grid)
            x = run(change, x)
            for block in cast(nn.ModuleList, stage):
                x = block(x, run=run)
        hidden = run(self.features, run(KINK, x, bend=True).flatten(1), bend=True)
        projection = (self.project(labels).to(hidden.dtype) * hidden).sum(1) / math.sqrt(hidden.shape[1])
        return run(self.logit, hidden).squeeze(1) + projection
