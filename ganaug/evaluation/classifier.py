"""The small classifier that the study and the classification accuracy score train, and how they train it.

Everything is seeded, and the caller's random state is left as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from ganaug.errors import ConfigError, DivergedError
from ganaug.evaluation.draws import shuffled_batches
from ganaug.progress import Progress, Silent

_WIDTHS = (32, 64, 128)
_LARGEST_FIRST_GRID = 40
"""Above this many pixels a side narrow stride-2 stages come first: cheaper, and later pixels see more."""


def to_unit(images: Tensor) -> Tensor:
    """Return images as float32 in [-1, 1]: uint8 is mapped from 0..255, floating point is taken as it is."""
    return images.float() / 127.5 - 1.0 if images.dtype == torch.uint8 else images.float()


def small_classifier(shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """Build a small convolutional classifier for images of `shape` (C, H, W), 8 to 128 pixels a side.

    Three stages of 3×3 convolution, BatchNorm and ReLU, with pooling between them and global average pooling
    at the end; larger images pass one stride-2 stage for each halving down to 40 pixels first.
    """
    channels, side = shape[0], min(shape[1:])
    layers: list[nn.Module] = []
    while side > _LARGEST_FIRST_GRID:
        layers += _stage(channels, _WIDTHS[0] // 2, stride=2)
        channels, side = _WIDTHS[0] // 2, side // 2
    for index, width in enumerate(_WIDTHS):
        if index:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        layers += _stage(channels, width, stride=1)
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def _stage(channels: int, width: int, *, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]


@dataclass(frozen=True)
class ClassicalAugment:
    """Small random shifts, rotations, zooms and intensity changes, drawn for each image of a batch by itself.

    One `grid_sample` for the batch: the same as torchvision's RandomAffine + ColorJitter for each image,
    without their cost for each image. No flips: they change the meaning of digits and of sided anatomy.
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
        """Return a changed copy of `images`: float in [-1, 1], N×C×H×W. `generator` lives on the CPU."""
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
    lr: float = 1e-2,
    seed: int = 0,
    batches: Tensor | None = None,
    mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    augment: ClassicalAugment | None = None,
    label_smoothing: float = 0.05,
    weight_decay: float = 1e-2,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> nn.Sequential:
    """Train a small classifier for exactly `steps` optimizer steps, whatever the size of the data set.

    `dataset` is map-style and yields (image, label): C×H×W tensors of one shape, uint8 or float in [-1, 1].
    `batches`, of shape (steps, batch), says which items each step sees (`ganaug.evaluation.draws` makes such
    plans); without it the data are shuffled anew each epoch. `mix` changes each batch (`ganaug.SyntheticMix`),
    before `augment` does. A data set with `set_epoch` is told when as many
    items as it has were drawn. AdamW, 10 % linear warm-up, cosine to 0, cross-entropy with label smoothing.
    The CPU part runs on one thread.

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
    if len(batches) != steps:
        raise ConfigError(f"The plan has {len(batches)} batches; {steps} steps want as many.")

    with _one_thread(), torch.random.fork_rng(devices=[]):
        # The data set's own transforms may draw from the global generator, so it is seeded too; the CPU's one
        # alone, because fork_rng restores that one alone.
        torch.default_generator.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        model = small_classifier(tuple(dataset[0][0].shape), classes)
        # Convolutions of this size run about twice as fast in this layout on a CPU.
        model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min((step + 1) / (0.1 * steps), 0.5 * (1.0 + math.cos(math.pi * step / steps))),
        )
        loader = DataLoader(dataset, batch_sampler=_told_epochs(dataset, batches), generator=generator)
        report = progress or Silent()
        for step, (images, labels) in enumerate(loader, start=1):
            if mix is not None:
                images, labels = mix(images, labels)
            inputs = to_unit(images.to(device))
            if augment is not None:
                inputs = augment(inputs, generator)
            scores = model(inputs.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(scores, labels.to(device), label_smoothing=label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            scheduler.step()
            if step % 50 == 0 or step == steps:
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise DivergedError(
                        f"The classifier's loss was {value} at step {step}; a finite number is wanted. Lower "
                        f"the learning rate ({lr:g}), or look for infinite values in the images."
                    )
                report.update(step, f"loss {value:.3f}")
    return model.eval()


@contextmanager
def _one_thread() -> Iterator[None]:
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


@torch.inference_mode()
def predict(model: nn.Module, images: NDArray[np.uint8] | Tensor, *, batch: int = 256) -> NDArray[np.int64]:
    """Return the most probable label of each image, N int64.

    `images` are N×C×H×W, uint8 or float in [-1, 1].
    """
    device = next(model.parameters()).device
    stacked = torch.as_tensor(images)
    if len(stacked) == 0:
        return np.empty(0, dtype=np.int64)
    with _one_thread():
        parts = [model(to_unit(part.to(device))).argmax(dim=1).cpu() for part in stacked.split(batch)]
    return torch.cat(parts).numpy()
