"""The networks of the first stable convolutional GAN: strided convolutions, batch normalization in the generator.

Source: Radford et al., "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks",
ICLR 2016, section 3. As there: no pooling (the discriminator learns its downsampling by strided convolutions, the
generator its upsampling by transposed ones), batch normalization after all but the generator's last layer, ReLU in the
generator and tanh at its end, leaky ReLU in the discriminator. Kernels have 4 pixels, so that all pixels get as many
taps. With ``stem: 2`` the last transposed convolution draws the image, as in the paper; with ``stem: 4`` it is wider
and enlarges four times. With ``stem: 1`` there is one stage more at the full size and a 3×3 convolution draws it
(Miyato et al. 2018, table 3), which small images need.

Two things differ. The discriminator has no batch normalization: each logit must come from its own image alone, or
gradient penalties are not defined (Gulrajani et al. 2017, section 4). And there are classes: an embedding joined to z
(Mirza & Osindero 2014) in the generator, projection (Miyato & Koyama 2018) in the discriminator.

In training the images of a batch see each other through the generator's normalization. In evaluation mode they do not:
running averages take the place of the batch's own. The settings `blocks`, `group_width` and `expansion` have no
meaning here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganaug.models import channels_last
from ganaug.models.conv import Conv
from ganaug.models.grids import stage_widths
from ganaug.models.labels import ClassEmbedding
from ganaug.models.piecewise import Run, plain

MOMENTUM = 0.1
"""Weight of the newest batch in the running averages of the normalization."""


class BatchNorm(nn.Module):
    """Batch normalization of N×C×spatial, for any number of dimensions.

    Unlike PyTorch's it keeps no count of batches: all that is saved is float32.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize by the batch's own statistics in training, by their running averages otherwise."""
        return F.batch_norm(
            x, self.mean, self.variance, self.scale, self.shift, training=self.training, momentum=MOMENTUM
        )


class Down(Conv):
    """A convolution at every f-th place, so wide (3f - 2 pixels) that it sees the last pixels too.

    A side of s pixels becomes one of ⌊s/f⌋.
    """

    def __init__(self, dims: int, inputs: int, outputs: int, factor: int = 2) -> None:
        super().__init__(dims, inputs, outputs, 3 * factor - 2, stride=factor)
        stride, _, groups = self.geometry
        self.geometry = (stride, (factor - 1,) * dims, groups)


class Up(nn.Module):
    """The transposed convolution that leads from a grid of ⌊s/f⌋ pixels back to one of s; see `Down`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        coarse: tuple[int, ...],
        fine: tuple[int, ...],
        *,
        factor: int = 2,
        bias: bool = False,
    ) -> None:
        super().__init__()
        dims = len(fine)
        self.weight = nn.Parameter(torch.empty(inputs, outputs, *[3 * factor - 2] * dims))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.factor = factor
        self.rest = tuple(large - factor * small for small, large in zip(coarse, fine, strict=True))
        taps = (3 - 2 / factor) ** dims  # that each pixel gets
        nn.init.normal_(self.weight, std=math.sqrt(2 / (inputs * taps)))

    def forward(self, x: Tensor) -> Tensor:
        """Upsample."""
        transposed = F.conv_transpose2d if x.ndim == 4 else F.conv_transpose3d
        return transposed(
            x, self.weight, self.bias, stride=self.factor, padding=self.factor - 1, output_padding=self.rest
        )


def floor_grids(size: Sequence[int], *, base: int, stem: int) -> list[tuple[int, ...]]:
    """Return the grids of the stages from the base grid up to size / stem, each half of the next one, rounded down."""
    grids = [tuple(side // stem for side in size)]
    while max(grids[0]) // 2 >= base and min(grids[0]) // 2 >= 2:
        grids.insert(0, tuple(side // 2 for side in grids[0]))
    return grids


class Generator(nn.Module):
    """Latents and labels to images.

    ``forward(latents: N×Z, labels: N) -> N×C×spatial``, float, in [-1, 1].
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
        base: int,
        stem: int,
    ) -> None:
        super().__init__()
        dims = len(size)
        grids = floor_grids(size, base=base, stem=stem)
        stages = stage_widths(widths, len(grids))
        self.grid = grids[0]
        self.embed = ClassEmbedding(classes, label_dim)
        self.input = nn.Linear(latent_dim + label_dim, stages[0] * math.prod(self.grid), bias=False)
        self.norms = nn.ModuleList(BatchNorm(width) for width in stages)
        self.doublings = nn.ModuleList(
            Up(stages[i], stages[i + 1], grids[i], grids[i + 1]) for i in range(len(grids) - 1)
        )
        self.output: nn.Module
        if stem == 1:
            self.output = Conv(dims, stages[-1], channels, 3)
        else:
            self.output = Up(stages[-1], channels, grids[-1], tuple(size), factor=stem, bias=True)
        nn.init.normal_(self.embed.weight)
        nn.init.normal_(self.input.weight, std=1 / math.sqrt(latent_dim + label_dim))

    def forward(self, latents: Tensor, labels: Tensor, label_noise: Tensor | None = None) -> Tensor:
        x = self.input(torch.cat([latents, self.embed(labels, label_noise)], dim=1))
        x = channels_last(x.view(x.shape[0], -1, *self.grid))
        x = F.relu(self.norms[0](x))
        for doubling, norm in zip(self.doublings, self.norms[1:], strict=True):
            x = F.relu(norm(doubling(x)))
        return torch.tanh(self.output(x))


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
        base: int,
        stem: int,
    ) -> None:
        super().__init__()
        dims = len(size)
        grids = floor_grids(size, base=base, stem=stem)
        stages = stage_widths(widths, len(grids))[::-1]
        self.input = Conv(dims, channels, stages[0], 3) if stem == 1 else Down(dims, channels, stages[0], stem)
        self.halvings = nn.ModuleList(Down(dims, stages[i], stages[i + 1]) for i in range(len(stages) - 1))
        features, width = stages[-1] * math.prod(grids[0]), stages[-1]
        self.features = nn.Linear(features, width)
        self.logit = nn.Linear(width, 1)
        self.project = ClassEmbedding(classes, width)
        nn.init.kaiming_normal_(self.features.weight, a=0.2)
        nn.init.zeros_(self.features.bias)
        nn.init.normal_(self.project.weight)

    def forward(self, images: Tensor, labels: Tensor, run: Run = plain) -> Tensor:
        x = run(self.input, channels_last(images), bend=True)
        for halving in self.halvings:
            x = run(halving, x, bend=True)
        hidden = run(self.features, x.flatten(1), bend=True)
        projection = (self.project(labels).to(hidden.dtype) * hidden).sum(1) / math.sqrt(hidden.shape[1])
        return run(self.logit, hidden).squeeze(1) + projection
