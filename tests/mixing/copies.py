"""Banks of given images, for tests that must know every voxel."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from ganaug.data.intensity import IntensityMap
from ganaug.sampling.bank import SyntheticBank

MAPS = {
    "uint8": IntensityMap(kind="uint8", low=0, high=255, dtype="uint8"),
    "uint16": IntensityMap(kind="percentiles", low=0, high=50_000, dtype="uint16", minimum=0, maximum=50_000),
    "int16": IntensityMap(kind="window", low=-1000, high=3000, dtype="int16"),
    "float32": IntensityMap(kind="window", low=-256, high=256, dtype="float32"),
}


class Copies:
    """Image i of a class is the i-th of its given images, channels first, in the stored dtype."""

    model_sha256 = "cd" * 32

    def __init__(self, images: Mapping[str, np.ndarray]) -> None:
        first = next(iter(images.values()))
        self.images = list(images.values())
        self.classes, self.shape, self.intensity = tuple(images), first.shape[1:], MAPS[first.dtype.name]
        self.header = SimpleNamespace(geometry=None, source_format="", model="copies", training={}, settings={})

    def sample(
        self, labels: Sequence[int], *, seed: int = 0, indices: Sequence[int] | None = None, truncation: float = 1.0
    ) -> torch.Tensor:
        assert indices is not None
        pairs = zip(labels, indices, strict=True)
        return torch.from_numpy(self.intensity.forward(np.stack([self.images[label][i] for label, i in pairs])))


def bank_of(path: Path, images: Mapping[str, np.ndarray]) -> SyntheticBank:
    """Write the bank that holds, for each class, N images (channels first); return it."""
    return SyntheticBank.generate(Copies(images), path, counts={name: len(held) for name, held in images.items()})
