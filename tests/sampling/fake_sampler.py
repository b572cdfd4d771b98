"""A sampler without a network: each image spells out its class, seed and index, for tests to read back."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from ganaug.data.intensity import IntensityMap

UINT8 = IntensityMap(kind="uint8", low=0.0, high=255.0, dtype="uint8")


class FakeSampler:
    """In a stored image row 0 is 10 × class + seed, row 1 is the index (below 256), the rest is 7."""

    model_sha256 = "ab" * 32

    def __init__(
        self,
        classes: Sequence[str] = ("a", "b", "c"),
        shape: tuple[int, ...] = (1, 4, 6),
        intensity: IntensityMap = UINT8,
        **header: Any,
    ) -> None:
        self.classes, self.shape, self.intensity = tuple(classes), shape, intensity
        known = {"geometry": None, "source_format": "PNG", "model": "fake", "training": {}, "settings": {}}
        self.header = SimpleNamespace(**{**known, **header})
        self.calls: list[int] = []

    def sample(
        self,
        labels: Sequence[int],
        *,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        truncation: float = 1.0,
    ) -> torch.Tensor:
        assert indices is not None
        self.calls.append(len(labels))
        stored = np.full((len(labels), *self.shape), 7, dtype=self.intensity.dtype)
        stored[..., 0, :] = (10 * np.asarray(labels) + seed).reshape(-1, *[1] * (len(self.shape) - 1))
        stored[..., 1, :] = np.asarray(indices).reshape(-1, *[1] * (len(self.shape) - 1))
        return torch.from_numpy(self.intensity.forward(stored))


def read_back(stored: np.ndarray) -> tuple[int, int]:
    """Return the class and the index that a stored image (seed 0) spells out."""
    return int(stored[0, 0, 0]) // 10, int(stored[0, 1, 0])
