"""Banks of given images, for tests: a sampler that hands out arrays instead of running a network."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ganaug.data.intensity import IntensityMap
from ganaug.sampling.bank import SyntheticBank


class _Arrays:
    model_sha256 = "cd" * 32
    intensity = IntensityMap(kind="uint8", low=0.0, high=255.0, dtype="uint8")

    def __init__(self, images: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> None:
        self.classes, self.shape = tuple(classes), images.shape[1:]
        self.by_class = [images[labels == k] for k in range(len(classes))]

    def sample(
        self,
        labels: Sequence[int],
        *,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        truncation: float = 1.0,
    ) -> torch.Tensor:
        assert indices is not None
        stored = np.stack([self.by_class[k][i] for k, i in zip(labels, indices, strict=True)])
        return torch.from_numpy(self.intensity.forward(stored))


def bank_of(folder: Path, images: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> SyntheticBank:
    """Return a real bank on disk that holds exactly `images` (N×C×H×W uint8) with `labels`."""
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    source = _Arrays(images, labels, classes)
    return SyntheticBank.generate(source, folder, counts=dict(zip(source.classes, counts, strict=True)))


def digits(*chosen: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's 8×8 digits of the given kinds as N×1×8×8 uint8 and labels from 0."""
    from sklearn.datasets import load_digits

    data = load_digits()
    keep = np.isin(data.target, chosen)
    images = np.round(data.images[keep] * (255 / 16)).astype(np.uint8)[:, None]
    return images, np.searchsorted(np.array(chosen), data.target[keep]).astype(np.int64)
