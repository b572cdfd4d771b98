"""What is asked for: all that determines a folder of synthetic images, and the batches in which they are made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from ganaug.data.intensity import IntensityMap
from ganaug.errors import ModelFileError
from ganaug.sampling.counts import check_counts
from ganaug.sampling.provenance import provenance, similarity_score

BATCH = 256
"""Images made at a time, at most."""
BATCH_BYTES = 64 * 2**20
"""Bytes of float32 images made at a time, at most, unless a single one is larger."""

TRIED = "similarity.json"
"""In an unfinished folder: class → the similarity of each image that was tried."""

_NOT_ASKED_FOR = ("intensity", "blocks", "numbers", "similarity")

_VERSION = 1
"""Raised when the same request gives other files, so that a folder of an older version is not taken for complete."""


class ImageSource(Protocol):
    """What is needed of a sampler to make stored images."""

    @property
    def classes(self) -> Sequence[str]: ...
    @property
    def shape(self) -> Sequence[int]: ...
    @property
    def intensity(self) -> IntensityMap: ...
    @property
    def model_sha256(self) -> str: ...
    def sample(
        self,
        labels: Sequence[int],
        *,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        truncation: float = 1.0,
    ) -> Any:
        """Return a float tensor of N×C×H×W or N×C×D×H×W in [-1, 1]."""


class BankRequest(Protocol):
    """What is needed to fill a bank; images lie class by class."""

    @property
    def classes(self) -> Sequence[str]: ...
    @property
    def counts(self) -> dict[str, int]: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def intensity(self) -> IntensityMap: ...
    @property
    def seed(self) -> int: ...
    @property
    def truncation(self) -> float: ...
    @property
    def model_sha256(self) -> str: ...
    @property
    def columns(self) -> dict[str, np.ndarray]:
        """What the bank keeps of each image beside its pixels: N rows each."""

    def __len__(self) -> int: ...
    def make(self, gan: Any, positions: slice) -> np.ndarray:
        """Make the images at `positions`, N×C×… in the stored type."""

    def manifest(self, gan: Any) -> bytes | None:
        """Return the bank's ``train_manifest.json``; None if there is none."""


@dataclass(frozen=True)
class Request:
    """So many images of each class, from one model under one seed; image i of a class has the index i."""

    format: str
    """A writer's name, 'npz' or 'bank'."""
    model_sha256: str
    classes: tuple[str, ...]
    counts: dict[str, int]
    """Class → images, all classes in their order."""
    seed: int
    truncation: float
    shape: tuple[int, ...]
    """Of one image, channels first: (C, H, W) or (C, D, H, W)."""
    dtype: str
    """NumPy name of the stored type."""
    intensity: IntensityMap = field(repr=False)
    """The way between stored values and [-1, 1]."""
    blocks: dict[str, Any] | None = None
    """Which images are left out: `NearCopies.settings`."""
    numbers: np.ndarray | None = field(default=None, repr=False)
    """The index of each image where some are left out, N int64; see `leave_out`."""
    similarity: np.ndarray | None = field(default=None, repr=False)
    """Of each image to the training images, N float32, where it is known."""

    @classmethod
    def of(
        cls,
        gan: ImageSource,
        counts: Mapping[str, int],
        *,
        format: str,
        seed: int,
        truncation: float,
        blocks: dict[str, Any] | None = None,
    ) -> Request:
        """Return the request for `counts` images of `gan`. Raises ConfigError if the counts do not fit its classes."""
        return cls(
            format=format,
            model_sha256=gan.model_sha256,
            classes=tuple(gan.classes),
            counts=check_counts(counts, gan.classes),
            seed=int(seed),
            truncation=float(truncation),
            shape=tuple(int(side) for side in gan.shape),
            dtype=gan.intensity.dtype,
            intensity=gan.intensity,
            blocks=blocks,
        )

    def __len__(self) -> int:
        return sum(self.counts.values())

    @cached_property
    def labels(self) -> np.ndarray:
        """The label of each image, N int64, ascending."""
        return np.repeat(np.arange(len(self.classes), dtype=np.int64), list(self.counts.values()))

    @cached_property
    def indices(self) -> np.ndarray:
        """The index of each image within its class, N int64."""
        if self.numbers is not None:
            return self.numbers
        return np.concatenate([np.arange(count, dtype=np.int64) for count in self.counts.values()])

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """Label and index of each image, and its similarity to the training images where it is known."""
        known = {} if self.similarity is None else {"similarity": self.similarity}
        return {"labels": self.labels, "indices": self.indices, **known}

    @property
    def batch(self) -> int:
        """How many images to make at a time, so that a batch of large volumes does not fill the memory."""
        return images_at_a_time(self.shape)

    def manifest(self, gan: ImageSource) -> bytes | None:
        """Return the ``train_manifest.json`` of the generator's run; None if it is not known."""
        found: bytes | None = getattr(gan, "manifest_bytes", lambda: None)()
        return found

    def origin(self, i: int) -> dict[str, Any]:
        """Return the provenance of image `i`."""
        return provenance(
            label=self.classes[int(self.labels[i])],
            seed=self.seed,
            index=int(self.indices[i]),
            model_sha256=self.model_sha256,
            truncation=self.truncation,
            scores=None if self.similarity is None else similarity_score(self.similarity[i]),
        )

    def make(self, gan: ImageSource, positions: np.ndarray | slice) -> np.ndarray:
        """Make the images at `positions`, N×C×… in the stored type.

        Raises:
            ModelFileError: the model's images are not finite, or not of the shape that it promises.
        """
        labels, indices = self.labels[positions], self.indices[positions]
        images = gan.sample(labels.tolist(), seed=self.seed, indices=indices.tolist(), truncation=self.truncation)
        values = images.detach().cpu().float().numpy()
        if values.shape != (len(labels), *self.shape):
            raise ModelFileError(
                f"The sampler returned images of shape {values.shape}; {(len(labels), *self.shape)} was wanted. "
                "The model file does not fit this version of ganaug: train it again."
            )
        if not np.isfinite(values).all():
            raise ModelFileError(
                "The model makes images with NaN or infinity: train it again, or take an older snapshot."
            )
        return gan.intensity.inverse(values, tails=False)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        values = {key: value for key, value in asdict(self).items() if key not in _NOT_ASKED_FOR}
        return {"version": _VERSION, **values, **({} if self.blocks is None else {"blocks": self.blocks})}


def images_at_a_time(shape: Sequence[int]) -> int:
    """Return how many images of `shape` (channels first) a batch holds that takes `BATCH_BYTES` as float32."""
    return max(1, min(BATCH, BATCH_BYTES // (4 * math.prod(shape))))
