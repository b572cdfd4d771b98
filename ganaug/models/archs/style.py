"""The networks whose latent is a style: a mapping network and modulated convolutions.

Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (StyleGAN2), CVPR 2020, sections 2 and 4
and appendix B; truncation and style mixing are of the first StyleGAN (CVPR 2019, sections 3.1 and appendix B), the
class in the mapping network of StyleGAN2-ADA (NeurIPS 2020). As there: the normalized z and the normalized class
embedding go through a small perceptron to w; each convolution scales its input channels by an affine function of w and
its output channels back to unit variance (demodulation); the network starts from a learned constant; every stage adds
its part of the image (skip connections); bilinear resampling; equalized learning rates.

Left out: the noise inputs (an image is a function of its latent alone), path length regularization, minibatch standard
deviation, and the mapping network's hundred times lower learning rate, with which it would stay as it is in a training
of minutes. The discriminator is the residual one of `modern`. The setting `blocks` counts the convolutions of a
stage after the one that upsamples (1 in the paper); `expansion` and `group_width` matter in the discriminator only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganaug.models import channels_last
from ganaug.models.archs.modern import Discriminator as Discriminator
from ganaug.models.conv import Conv
from ganaug.models.grids import coarser, stage_grids, stage_widths
from ganaug.models.labels import ClassEmbedding

MAPPING_LAYERS = 4
"""Layers of the mapping network (8 in the paper, 2 in StyleGAN2-ADA's small settings)."""
FIRST_WEIGHTS = 0.1
"""Standard deviation of the convolutions' first weights. Demodulation takes their scale out of the image, but not out
of the training: smaller weights turn faster (1 in the paper, whose trainings are hundreds of times longer)."""
MIXING = 0.5
"""Probability that a training image takes its finer styles from another latent of its class (0.9 in the paper)."""


def _activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


def _normalized(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


def _second_draw(latents: Tensor) -> tuple[Tensor, Tensor]:
    """Return other latents (N×Z, standard normal) and N×1 numbers, uniform in [0, 1), that follow from the latents.

    They are made of bits so low that nothing of the latents themselves shows in them. So a training draws no random
    numbers but those of its seed, and an image is the same however its batch is divided.
    """
    sizes = latents.float().abs()
    low = torch.frac(sizes * 4096).clamp(1e-4, 1 - 1e-4)
    return math.sqrt(2) * torch.erfinv(2 * low - 1), torch.frac(sizes[:, :1] * 64)


class Dense(nn.Module):
    """A linear layer with an equalized learning rate: weights near N(0, 1), scaled when they are used."""

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.full((outputs,), bias))

    def forward(self, x: Tensor) -> Tensor:
        """Map N×inputs to N×outputs."""
        return F.linear(x, self.weight / math.sqrt(x.shape[1]), self.bias)


class ModulatedConv(nn.Module):
    """A convolution whose input channels are scaled by a style, and whose output is scaled back (equations 1 to 3).

    The activations are scaled, not the weights, which is the same and needs no kernel for each image.
    """

    def __init__(self, dims: int, inputs: int, outputs: int, kernel: int, *, style: int, demodulate: bool) -> None:
        super().__init__()
        self.scales = Dense(style, inputs, bias=1.0)
        self.conv = Conv(dims, inputs, outputs, kernel, bias=False)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.demodulate = demodulate
        nn.init.normal_(self.conv.weight, std=FIRST_WEIGHTS if demodulate else 1)

    def forward(self, x: Tensor, styles: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Return N×outputs×grid, upsampled where `grid` is finer than that of x; `styles` is N×W."""
        weight = self.conv.weight
        with torch.autocast(x.device.type, enabled=False):
            scales = self.scales(styles.float())
            if self.demodulate:
                power = scales.square() @ weight.square().flatten(2).sum(2).t()
                gains = torch.rsqrt(power + 1e-8)
            else:
                scales = scales / math.sqrt(weight[0].numel())
                gains = None
        x = self.conv(x * _spread(scales, x))
        if gains is not None:
            x = x * _spread(gains, x)
        return upsample(x, grid) + self.bias.to(x.dtype).view(1, -1, *[1] * (x.ndim - 2))


def _spread(values: Tensor, x: Tensor) -> Tensor:
    """Return N×C values in the type of x (N×C×spatial) and of its number of dimensions."""
    return values.to(x.dtype).view(*values.shape, *[1] * (x.ndim - 2))


def upsample(x: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Resample linearly to a finer grid: at a factor of 2 the paper's filter [1, 3, 3, 1]."""
    if tuple(x.shape[2:]) == grid:
        return x
    return F.interpolate(x, size=grid, mode="bilinear" if x.ndim == 4 else "trilinear", align_corners=False)


class Generator(nn.Module):
    """Latents and labels to images, by way of styles.

    ``forward(latents: N×Z, labels: N) -> N×C×spatial``, float, about [-1, 1] (not clamped). In training, some images
    take their finer styles from a second latent.
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
        base: int,
        stem: int,
    ) -> None:
        super().__init__()
        dims = len(size)
        self.grids = stage_grids(coarser(size, stem), base)
        stages = stage_widths(widths, len(self.grids))
        if stem > 1:  # one stage more, narrow and with a single convolution, draws the finest details
            self.grids, stages = [*self.grids, tuple(size)], [*stages, stages[-1]]
        self.style_dim = latent_dim
        self.embed = ClassEmbedding(classes, label_dim)
        sides = [latent_dim + label_dim, *[self.style_dim] * MAPPING_LAYERS]
        self.mapping = nn.ModuleList(Dense(sides[i], sides[i + 1]) for i in range(MAPPING_LAYERS))
        self.constant = nn.Parameter(torch.randn(1, stages[0], *self.grids[0]))
        self.stages = nn.ModuleList()
        self.images = nn.ModuleList()
        previous = stages[0]
        for number, width in enumerate(stages):
            plain = blocks if number == 0 or stem == 1 or number < len(stages) - 1 else 0
            convs = nn.ModuleList()
            for _ in range(plain + (number > 0)):
                convs.append(ModulatedConv(dims, previous, width, 3, style=self.style_dim, demodulate=True))
                previous = width
            self.stages.append(convs)
            self.images.append(ModulatedConv(dims, width, channels, 1, style=self.style_dim, demodulate=False))
        self.layers = sum(len(cast(nn.ModuleList, convs)) for convs in self.stages)
        """How many styles an image takes, from the coarsest layer to the finest."""
        nn.init.normal_(self.embed.weight)

    def map(self, latents: Tensor, labels: Tensor, label_noise: Tensor | None = None) -> Tensor:
        """Return the styles w (N×W, float32) of latents (N×Z) of classes `labels` (N)."""
        with torch.autocast(latents.device.type, enabled=False):
            # The share once more: normalization takes it out.
            classes = _normalized(self.embed(labels, label_noise)) * self.embed.share
            x = torch.cat([_normalized(latents.float()), classes], dim=1)
            for layer in self.mapping:
                x = _activate(layer(x))
        return x

    def synthesize(self, styles: Tensor) -> Tensor:
        """Return the images of styles: N×layers×W, one for each layer, to N×C×spatial."""
        x = channels_last(self.constant.expand(len(styles), *self.constant.shape[1:]))
        image: Tensor | None = None
        layer = 0
        for grid, convs, draw in zip(self.grids, self.stages, self.images, strict=True):
            if len(cast(nn.ModuleList, convs)) == 1:
                # Upsampled after its only convolution, the stage could not draw anything finer than the one before.
                x = upsample(x, grid)
            for conv in cast(nn.ModuleList, convs):
                x = _activate(conv(x, styles[:, layer], grid))
                layer += 1
            part = draw(x, styles[:, layer - 1], grid).float()  # a sum over the stages: bfloat16 would show
            image = part if image is None else upsample(image, grid) + part
        assert image is not None
        return image

    def forward(self, latents: Tensor, labels: Tensor, label_noise: Tensor | None = None) -> Tensor:
        styles = self.map(latents, labels, label_noise)[:, None].expand(-1, self.layers, -1)
        if self.training:
            others, chance = _second_draw(latents)
            first = 1 + torch.floor(chance / MIXING * (self.layers - 1))
            finer = torch.arange(self.layers, device=styles.device) >= first
            styles = torch.where(finer[..., None], self.map(others, labels, label_noise)[:, None], styles)
        return self.synthesize(styles)
