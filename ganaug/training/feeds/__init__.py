"""What a training feeds its GAN, and what its snapshots look at: classes for noise GANs, domains for translation."""

from __future__ import annotations

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


class Feed(Protocol):
    """What the loop asks of a feed."""

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Return this process's part of the batch of a step, on the device: the first arguments of `GAN.step`."""

    def look(self, gan: Any) -> Look:
        """Look at what the averaged weights make now."""


def one_plane(images: Tensor) -> Tensor:
    """Return images as they are, and of volumes a copy of their central axial plane: N×C×H×W."""
    return images if images.ndim == 4 else images[:, :, images.shape[2] // 2].clone()
