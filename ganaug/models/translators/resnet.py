"""Residual translation networks and a patch discriminator, for images and volumes of any size.

Sources: Johnson et al., "Perceptual losses for real-time style transfer and super-resolution" (2016), appendix:
encoder, residual blocks on a coarse grid, decoder; Odena et al., "Deconvolution and checkerboard artifacts" (2016):
resize, then convolve; Isola et al., "Image-to-image translation with conditional adversarial networks" (2017), section
3.2: the discriminator judges patches. The residual blocks are those of `archs.modern`, without instance normalization,
which forgets an image's own brightness and makes seams between tiles; the encoder's features are added again on the way
up.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ganaug.models import channels_last
from ganaug.models.archs.modern import ResidualBlock, downsample
from ganaug.models.conv import Conv

_COARSEST = 4
"""Pixels that the longest side of the discriminator's coarsest grid keeps. (On 2×2×2 voxels, oneDNN's weight gradient
in bfloat16 is now and then not finite.)"""


SATURATED = 6.0
"""Beyond it sigmoid is 0 or 1 to a quarter of a percent, and tanh of the half to half of one."""


class Generator(nn.Module):
    """Images to images of the same size: ``forward(images: N×C×spatial, to: N) -> (made: N×C'×spatial, mask or None)``.

    The result is about [-1, 1], not clamped. A `residual` network makes x + mask · Δ, with Δ in [-2, 2] and 0 at the
    start; without a mask head the mask is 1. Sides must be multiples of `stride`.

    Args:
        size: sides of the training images, of which only their number counts.
        channels: C and C'.
        targets: how many domains it translates to; with more than one the target enters every residual block by FiLM.
        widths: channels of the stages, from the coarsest up to the finest; each is half as coarse as the one before.
        blocks: residual blocks on the coarsest grid.
        stem: factor by which the finest stage is coarser than the image.
        residual: make the difference to the input, not the image itself.
        mask: add a head that confines the difference.
    """

    def __init__(
        self,
        *,
        size: Sequence[int],
        channels: int,
        targets: int,
        widths: Sequence[int],
        blocks: int,
        group_width: int,
        expansion: float,
        label_dim: int,
        stem: int,
        residual: bool,
        mask: bool,
    ) -> None:
        super().__init__()
        dims = len(size)
        fine = list(widths)[::-1]
        self.residual, self.channels, self.masked = residual, channels, mask and residual
        self.stride = stem * 2 ** (len(fine) - 1)
        self.mode = "bilinear" if dims == 2 else "trilinear"
        self.embed = nn.Embedding(targets, label_dim) if targets > 1 else None
        # A stem of patches that do not overlap keeps the coarse pixels centered on theirs, as the averages below do.
        self.input = Conv(dims, channels, fine[0], 3 if stem == 1 else stem, stride=stem)
        self.down = nn.ModuleList(Conv(dims, a, b, 3) for a, b in itertools.pairwise(fine))
        film = label_dim if targets > 1 else None
        self.trunk = nn.ModuleList(
            ResidualBlock(dims, fine[-1], expansion=expansion, group_width=group_width, label_dim=film)
            for _ in range(blocks)
        )
        self.up = nn.ModuleList(Conv(dims, b, a, 3) for a, b in reversed(list(itertools.pairwise(fine))))
        self.head = Conv(dims, fine[0] + (channels if stem > 1 else 0), fine[0], 3)
        self.output = Conv(dims, fine[0], channels + self.masked, 3)
        self.stem = stem
        # A 3×3 convolution reaches one of its own pixels far, and so does bilinear resampling, one of the coarse ones.
        coarse = self.stride
        self.reach = 2 + (1 if stem == 1 else 2 * stem) + blocks * coarse
        """Pixels on every side, at most, on which an output pixel depends."""
        for level in range(1, len(fine)):
            step = stem * 2**level
            self.reach += step + step // 2 + step + step
        with torch.no_grad():
            self.output.weight.mul_(0.0 if residual else 0.5)
            if self.masked and self.output.bias is not None:
                # Open, or the changes that the mask lets through are too faint to be learned before it is shut.
                self.output.bias[-1] = 2.0

    def forward(self, images: Tensor, to: Tensor) -> tuple[Tensor, Tensor | None]:
        embedded = None if self.embed is None else self.embed(to)
        x = self.input(channels_last(images), bend=True)
        kept = []
        for layer in self.down:
            kept.append(x)
            x = layer(downsample(x, tuple(side // 2 for side in x.shape[2:])), bend=True)
        for block in self.trunk:
            x = cast(ResidualBlock, block)(x, embedded)
        for layer in self.up:
            x = layer(F.interpolate(x, scale_factor=2, mode=self.mode, align_corners=False), bend=True)
            x = x + kept.pop()
        if self.stem > 1:
            x = F.interpolate(x, scale_factor=self.stem, mode=self.mode, align_corners=False)
            x = torch.cat([x, images.to(x.dtype)], dim=1)
        made = self.output(self.head(x, bend=True)).float()
        if not self.residual:
            return made, None
        made = within(made, SATURATED)
        change = 2 * torch.tanh(made[:, : self.channels] / 2)
        if not self.masked:
            return images + change, None
        mask = torch.sigmoid(made[:, self.channels :])
        return images + mask * change, mask


class _Within(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.limit = limit
        return x.clamp(-limit, limit)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,), (gradient,) = ctx.saved_tensors, gradients
        # A step goes against the gradient.
        outward = (x.abs() > ctx.limit) & (x * gradient < 0)
        return gradient.masked_fill(outward, 0.0), None


def within(x: Tensor, limit: float) -> Tensor:
    """Return `x` clamped to ±`limit`. What lies outside has a gradient where that leads back, and none further out.

    The difference and its mask would else be lost for good once a large step has taken them to where tanh and sigmoid
    are flat: of five trainings on 660 radiographs one ended with a mask that was 0 everywhere.
    """
    clamped: Tensor = _Within.apply(x, limit)
    return clamped


class Discriminator(nn.Module):
    """Images to the logits of overlapping patches: ``forward(images: N×C×spatial, domain: N) -> N×P``, a head a domain.

    Args:
        size: sides of the training images.
        channels: of what it sees.
        domains: heads.
        widths, stem: as the generator's.
        spectral: divide every weight by its largest singular value (Miyato et al. 2018).
    """

    def __init__(
        self, *, size: Sequence[int], channels: int, domains: int, widths: Sequence[int], stem: int, spectral: bool
    ) -> None:
        super().__init__()
        dims = len(size)
        fine = list(widths)[::-1]
        levels = 1
        while levels < len(fine) + 1 and max(size) >= stem * _COARSEST * 2**levels:
            levels += 1
        fine = (fine + [fine[-1]] * levels)[:levels]
        layers = [Conv(dims, channels, fine[0], 3 if stem == 1 else 2 * stem - 1, stride=stem)]
        layers += [Conv(dims, a, b, 3, stride=2) for a, b in itertools.pairwise(fine)]
        layers.append(Conv(dims, fine[-1], fine[-1], 3))
        self.layers = nn.ModuleList(spectral_norm(layer) if spectral else layer for layer in layers)
        logits = Conv(dims, fine[-1], domains, 1)
        self.logits = spectral_norm(logits) if spectral else logits

    def forward(self, images: Tensor, domain: Tensor) -> Tensor:
        x = channels_last(images)
        for layer in self.layers:
            x = layer(x, bend=True)
        heads = self.logits(x).flatten(2)
        return heads[torch.arange(len(heads), device=heads.device), domain]
