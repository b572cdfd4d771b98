"""What a training feeds its GAN, and what its snapshots look at: classes for noise GANs, domains for translation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from torch import Tensor

WATCHED = 24
"""Images of each class in a snapshot's diversity."""
PICTURED = (20, 10)
"""Most rows of a snapshot's picture, and images in each."""


@dataclass(frozen=True)
class Look:
    """What a snapshot saw."""

    diversity: dict[str, float]
    """By class or domain: mean distance between its images over that of its real ones."""
    rows: list[np.ndarray]
    """Of the picture: each N×C×H×W in [-1, 1]."""
    names: list[str]
    """Of the rows."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Further numbers for metrics.jsonl."""


@dataclass(frozen=True)
class Real:
    """The training images, as a monitor compares samples with them."""

    read: Callable[[np.ndarray], Tensor]
    """Positions to images: N×C×spatial float32 in [-1, 1] on the training device."""
    labels: np.ndarray
    """Class or domain of each, N; -1 for images that are compared with nothing."""
    names: tuple[str, ...]
    """Of the classes or domains."""
    shape: tuple[int, ...]
    """C×spatial."""


See = Callable[[int, Tensor], None]
"""Is shown the images that a snapshot looks at: label, and images N×C×spatial in [-1, 1]."""


def unseen(_label: int, _images: Tensor) -> None:
    """Look at nothing."""


class Feed(Protocol):
    """What the loop asks of a feed."""

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Return this process's part of the batch of a step, on the device: the first arguments of `GAN.step`."""

    def look(self, gan: Any, see: See = unseen) -> Look:
        """Look at what the averaged weights make now, and show it to `see` as well."""

    @property
    def real(self) -> Real | None:
        """What `see` may compare with; None where there is nothing that is better than `Look.metrics`."""


def evenly(positions: Sequence[int] | np.ndarray, most: int) -> np.ndarray:
    """Return up to `most` positions, evenly from all: files of one patient stand side by side."""
    wanted = np.linspace(0, len(positions) - 1, min(most, len(positions))).round().astype(np.int64)
    return np.asarray(positions)[wanted]


def one_plane(images: Tensor) -> Tensor:
    """Return images as they are, and of volumes a copy of their central axial plane: N×C×H×W."""
    return images if images.ndim == 4 else images[:, :, images.shape[2] // 2].clone()
