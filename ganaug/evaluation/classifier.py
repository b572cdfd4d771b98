"""The small classifier that the study and the classification accuracy score train, and how they train it.

Everything is seeded, and the caller's random state is left as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from ganaug.errors import ConfigError, DivergedError
from ganaug.evaluation.draws import shuffled_batches
from ganaug.models import channels_last, place
from ganaug.progress import Progress, Silent

_WIDTHS = (32, 64, 128)
_LARGEST_FIRST_GRID = {2: 40, 3: 24}
"""By dimensions: above so many pixels a side narrow stride-2 stages come first: cheaper, and later pixels see more."""


def to_unit(images: Tensor) -> Tensor:
    """Return images as float32 in [-1, 1]: uint8 is mapped from 0..255, floating point is taken as it is."""
    return images.float() / 127.5 - 1.0 if images.dtype == torch.uint8 else images.float()


def small_classifier(shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """Build a small convolutional classifier for images (C, H, W) or volumes (C, D, H, W), 8 to 128 pixels a side.

    Three stages of 3×3 convolution, BatchNorm and ReLU, with pooling between them and global average pooling
    at the end; larger images pass one stride-2 stage for each halving down to 40 pixels first (volumes to 24).
    """
    channels, side, dims = shape[0], min(shape[1:]), len(shape) - 1
    layers: list[nn.Module] = []
    while side > _LARGEST_FIRST_GRID[dims]:
        layers += _stage(dims, channels, _WIDTHS[0] // 2, stride=2)
        channels, side = _WIDTHS[0] // 2, side // 2
    for index, width in enumerate(_WIDTHS):
        if index:
            layers.append((nn.MaxPool2d if dims == 2 else nn.MaxPool3d)(2, ceil_mode=True))
        layers += _stage(dims, channels, width, stride=1)
        channels = width
    pool = (nn.AdaptiveAvgPool2d if dims == 2 else nn.AdaptiveAvgPool3d)(1)
    return nn.Sequential(*layers, pool, nn.Flatten(), nn.Linear(channels, classes))


def _stage(dims: int, channels: int, width: int, *, stride: int) -> list[nn.Module]:
    conv, norm = (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
    convolution = conv(channels, width, 3, stride=stride, padding=1, bias=False)
    return [convolution, norm(width), nn.ReLU(inplace=True)]


class Augment(Protocol):
    """Random changes of a batch."""

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return changed copies of `images`, float in [-1, 1], N×C×H×W or N×C×D×H×W. `generator` is on the CPU."""


@dataclass(frozen=True)
class ClassicalAugment:
    """Small random shifts, rotations, zooms and intensity changes, drawn for each image of a batch by itself.

    One `grid_sample` for the batch: the same as torchvision's RandomAffine + ColorJitter for each image,
    without their cost for each image. No flips: they change the meaning of digits and of sided anatomy. The planes of a
    volume move alike.
    """

    shift: float = 0.08
    """Largest shift, as a fraction of the side."""
    rotate_deg: float = 12.0
    """Largest rotation either way, in degrees."""
    scale: float = 0.12
    """Largest zoom either way: factors from 1 / (1 + scale) to 1 + scale."""
    contrast: float = 0.2
    """Largest change of contrast around the image's mean: factors from 1 - contrast to 1 + contrast."""
    brightness: float = 0.1
    """Largest change of brightness, as a fraction of the intensity range."""

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return a changed copy of `images`: float in [-1, 1], N×C×H×W or N×C×D×H×W. `generator` lives on the CPU."""
        if images.ndim == 5:
            return self(images.flatten(1, 2), generator).view(images.shape)
        n, _, height, width = images.shape
        u = (torch.rand(n, 6, generator=generator) * 2.0 - 1.0).to(images.device)
        angle = u[:, 0] * math.radians(self.rotate_deg)
        zoom = (1.0 + self.scale) ** u[:, 1]
        cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
        # Coordinates run over [-1, 1] along both sides: without the ratio a rotation would shear a non-square
        # image.
        ratio = height / width
        theta = torch.stack(
            [
                torch.stack([cos, -sin * ratio, 2.0 * self.shift * u[:, 2]], dim=1),
                torch.stack([sin / ratio, cos, 2.0 * self.shift * u[:, 3]], dim=1),
            ],
            dim=1,
        )
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
        mean = moved.mean(dim=(1, 2, 3), keepdim=True)
        gain = (1.0 + self.contrast * u[:, 4]).view(-1, 1, 1, 1)
        bias = (2.0 * self.brightness * u[:, 5]).view(-1, 1, 1, 1)
        return ((moved - mean) * gain + mean + bias).clamp(-1.0, 1.0)


def train_classifier(
    dataset: Dataset[Any],
    *,
    classes: int,
    steps: int,
    batch: int = 64,
    lr: float | None = None,
    seed: int = 0,
    batches: Tensor | None = None,
    mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    augment: Augment | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    mixup: float = 0.0,
    model: Callable[[tuple[int, ...], int], nn.Module] | None = None,
    label_smoothing: float = 0.05,
    weight_decay: float = 1e-2,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> nn.Module:
    """Train a classifier for exactly `steps` optimizer steps, whatever the size of the data set.

    `dataset` is map-style and yields (image, label): C×H×W tensors of one shape, uint8 or float in [-1, 1].
    `batches`, of shape (steps, batch), says which items each step sees (`ganaug.evaluation.draws` makes such
    plans); without it the data are shuffled anew each epoch. `mix` changes each batch (`ganaug.SyntheticMix`),
    before `augment` does, and last comes MixUp with the parameter `mixup`, if it is above 0. A data set with
    `set_epoch` is told when as many items as it has were drawn. AdamW, 10 % linear warm-up, cosine to 0,
    cross-entropy with label smoothing, unless `loss` is given: it maps logits N×K and labels (N int64, or N×K
    probabilities under MixUp) to a mean loss. The CPU part runs on one thread.

    `model` maps the shape of an image and the number of classes to another network than `small_classifier`. `lr` is
    1e-2 by default, and 1e-3 for another network, which may have normalization that bears less.

    Returns the model in evaluation mode on `device`.

    Raises:
        ConfigError: `steps` or `batch` below 1, an empty data set, or a plan of another length.
        DivergedError: the loss is no longer finite.
    """
    items = len(dataset)  # type: ignore[arg-type]  # Dataset does not declare __len__; map-style ones have it
    if min(steps, batch, items) < 1:
        raise ConfigError(
            f"{steps} steps of {batch} images from a data set of {items} were asked for; at least 1 of each is wanted."
        )
    if batches is None:
        batches = shuffled_batches(items, steps=steps, batch=batch, seed=seed)
    lr = lr or (1e-2 if model is None else 1e-3)
    loss = loss or partial(F.cross_entropy, label_smoothing=label_smoothing)
    if len(batches) != steps:
        raise ConfigError(f"The plan has {len(batches)} batches; {steps} steps want as many.")

    with one_thread(), torch.random.fork_rng(devices=[]):
        # The data set's own transforms may draw from the global generator, so it is seeded too; the CPU's one
        # alone, because fork_rng restores that one alone.
        torch.default_generator.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        network = (model or small_classifier)(tuple(dataset[0][0].shape), classes)
        # Convolutions of this size run about twice as fast in this layout on a CPU.
        place(network, device)
        optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=weight_decay)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min((step + 1) / (0.1 * steps), 0.5 * (1.0 + math.cos(math.pi * step / steps))),
        )
        blend = _mixup(mixup, classes) if mixup > 0 else None
        loader = DataLoader(dataset, batch_sampler=_told_epochs(dataset, batches), generator=generator)
        report = progress or Silent()
        network.train()
        for step, (images, labels) in enumerate(loader, start=1):
            if mix is not None:
                images, labels = mix(images, labels)
            inputs, wanted = to_unit(images.to(device)), labels.to(device)
            if augment is not None:
                inputs = augment(inputs, generator)
            if blend is not None:
                inputs, wanted = blend(inputs, wanted)
            error = loss(network(channels_last(inputs)), wanted)
            optimizer.zero_grad(set_to_none=True)
            error.backward()
            optimizer.step()
            scheduler.step()
            if step % 50 == 0 or step == steps:
                value = float(error.detach())
                if not math.isfinite(value):
                    raise DivergedError(
                        f"The classifier's loss was {value} at step {step}; a finite number is wanted. Lower "
                        f"the learning rate ({lr:g}), or look for infinite values in the images."
                    )
                report.update(step, f"loss {value:.3f}")
    return network.eval()


def _mixup(alpha: float, classes: int) -> nn.Module:
    from torchvision.transforms import v2

    blend: nn.Module = v2.MixUp(alpha=alpha, num_classes=classes)
    return blend


@contextmanager
def one_thread() -> Iterator[None]:
    """Run CPU operations on one thread.

    They are so small here that a second thread makes a training 1.4 to 1.6 times as fast on an idle machine (8 to 28
    pixels a side), but 2 to 30 times as slow once another process wants its core: threads spin while they wait for
    each other. On one thread the weights are also the same for any number of cores.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _told_epochs(dataset: Any, batches: Tensor) -> Iterator[list[int]]:
    """Yield the batches; tell a data set that renews its items each epoch (`set_epoch`) when one begins."""
    renew = getattr(dataset, "set_epoch", None)
    for step, indices in enumerate(batches.tolist()):
        if renew is not None:
            renew(step * batches.shape[1] // len(dataset))
        yield indices


def predict(model: nn.Module, images: NDArray[Any] | Tensor, *, batch: int = 256) -> NDArray[np.int64]:
    """Return the most probable label of each image, N int64; see `probabilities`."""
    return probabilities(model, images, batch=batch).argmax(axis=1) if len(images) else np.empty(0, dtype=np.int64)


@torch.inference_mode()
def probabilities(model: nn.Module, images: NDArray[Any] | Tensor, *, batch: int = 256) -> NDArray[np.float32]:
    """Return the probability of each class for each image, N×K float32.

    `images` are N×C×H×W or N×C×D×H×W, at least one, uint8 or float in [-1, 1].
    """
    device = next(model.parameters()).device
    parts = torch.as_tensor(images).split(batch)
    with one_thread():
        found = [model(to_unit(part.to(device))).float().softmax(dim=1).cpu() for part in parts]
    return torch.cat(found).numpy()
