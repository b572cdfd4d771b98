"""Images made on the device while a classifier trains: a pool that is renewed bit by bit, or new ones in each step."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganaug.data.intensity import IntensityMap
from ganaug.distributed import rank, world_size
from ganaug.errors import ConfigError, ModelFileError
from ganaug.mixing.replacing import Kept
from ganaug.sampling.provenance import provenance
from ganaug.sampling.sampler import CHUNK, Sampler

POOL, POOL_BYTES = 1024, 1 << 28
"""Images in a pool by default, fewer if they would take more bytes than this."""
REFRESH = 4
"""Images of a pool that are made anew for each batch, by default."""
ROWS, ROWS_OF_A_STEP = CHUNK, 8
"""Images in a forward pass, where they are small: for a pool, and where each step makes its own; there the last pass of
every step is filled up."""
VALUES_IN_A_PASS = 1 << 22
"""Numbers of output, in all images together, that a pass makes at most."""
_STRIDE = 1 << 20  # indices of a class that a step without a pool may use

Origin = Callable[[int], dict[str, Any]]


class SamplerSource:
    """Images of a sampler as a function of (seed, step), in stored values on the sampler's device.

    The pool holds the same number of images of each of K classes: in step t those of index m to m + size - 1, where m
    grows by `refresh` / K a step, in jumps of a whole forward pass. With ``pool=0`` each step makes its own images,
    from index t · 2²⁰ on. Several ranks take turns with the indices. Nothing else decides what an image shows: a
    training that goes on in step t makes the pool that it had there.

    Args:
        pool: images, at least one of each class is held; None for 1024, or as many as fit into 256 MiB.
        refresh: images made anew a step, on average; 0 keeps the first ones.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(self, sampler: Sampler, *, pool: int | None = None, refresh: int | None = None, seed: int = 0) -> None:
        for name, value in (("pool", pool), ("refresh", refresh)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise ConfigError(f"{name} is {value!r}; a number of images, 0 or more, was wanted.")
        if pool == 0 and refresh is not None:
            raise ConfigError(f"refresh is {refresh}, but with pool=0 there is nothing to refresh. Leave it out.")
        self._kept = Kept(sampler)
        self._dtype = torch.uint8 if sampler.intensity.dtype == "uint8" else torch.float32
        image_bytes = math.prod(sampler.shape) * self._dtype.itemsize
        images = min(POOL, POOL_BYTES // image_bytes) if pool is None else pool
        self.size = 0 if pool == 0 else max(1, images // len(sampler.classes))
        """Images of each class in the pool."""
        self.refresh = REFRESH if refresh is None else refresh
        self.seed = seed
        self.held = torch.ones(len(sampler.classes), dtype=torch.int64)
        """How many images of each class there are, as far as draws are concerned."""
        fitting = max(1, VALUES_IN_A_PASS // math.prod(sampler.shape))
        self._rows = min(ROWS if self.size else ROWS_OF_A_STEP, fitting)
        self._passes: Passes | None = None
        self._pool: Tensor | None = None
        self._indices = np.full((len(sampler.classes), self.size), -1)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_passes": None, "_pool": None, "_indices": np.full_like(self._indices, -1)}

    def __repr__(self) -> str:
        return f"{self.model!r}, pool={self.size * len(self.held)}"

    @property
    def model(self) -> Sampler:
        """The sampler."""
        sampler: Sampler = self._kept.model
        return sampler

    def take(self, classes: Tensor, where: Tensor, step: int) -> tuple[Tensor, Origin]:
        """Return images of `classes` (n int64) for batch `step`, n×C×… as stored, and where each comes from.

        `where` (n, in [0, 1)) chooses among the images of a class that are in the pool.

        Raises:
            ConfigError: in a DataLoader's worker.
            ModelFileError: the images are not finite.
        """
        self._kept.refuse_workers()
        labels = classes.numpy()
        if self.size:
            self._fill(self.indices_in(step))
            assert self._pool is not None
            slots = (where * self.size).long().numpy()
            indices = self._indices[labels, slots]
            stored = self._pool[torch.from_numpy(labels * self.size + slots).to(self._pool.device)]
        else:
            own = step * _STRIDE + _number_within(labels)
            indices = own * world_size() + rank()
            stored = self._empty(len(labels))
            self._make(labels, indices, stored, np.arange(len(labels)))
        return stored, lambda i: self._origin(int(labels[i]), int(indices[i]))

    def indices_in(self, step: int) -> np.ndarray:
        """Return the index of the image in each slot of the pool in a step, K×size int64."""
        # Whole passes are made, and the classes take turns.
        renewed = step * self.refresh // self._rows * self._rows
        classes = len(self._indices)
        first = ((renewed - np.arange(classes) + classes - 1) // classes)[:, None]
        return (first + (np.arange(self.size) - first) % self.size) * world_size() + rank()

    def _fill(self, wanted: np.ndarray) -> None:
        labels, slots = np.nonzero(self._indices != wanted)
        if not len(labels):
            return
        if self._pool is None:
            self._pool = self._empty(self._indices.size)
        self._make(labels, wanted[labels, slots], self._pool, labels * self.size + slots)
        self._indices = wanted

    def _empty(self, images: int) -> Tensor:
        return torch.empty((images, *self.model.shape), dtype=self._dtype, device=self.model.device)

    @torch.inference_mode()
    def _make(self, labels: np.ndarray, indices: np.ndarray, out: Tensor, places: np.ndarray) -> None:
        """Make the images of `labels` and `indices` and write them to `places` of `out`."""
        sampler = self.model
        first_time = self._passes is None
        if self._passes is None:
            self._passes = Passes(sampler, self._rows)
        for start in range(0, len(labels), self._rows):
            part = slice(start, start + self._rows)
            latents = sampler.latents(labels[part].tolist(), seed=self.seed, indices=indices[part].tolist())
            images = self._passes(latents, torch.from_numpy(labels[part]))
            if first_time and start == 0 and not bool(images.isfinite().all()):
                raise ModelFileError(
                    "The model makes images with NaN or infinity: train it again, or take an older snapshot."
                )
            out[torch.from_numpy(places[part]).to(out.device)] = to_stored(images, sampler.intensity).to(out.dtype)

    def _origin(self, label: int, index: int) -> dict[str, Any]:
        return provenance(
            label=self.model.classes[label],
            seed=self.seed,
            index=index,
            model_sha256=self.model.model_sha256,
            truncation=1.0,
        )


class Passes:
    """The generator's forward pass over a fixed number of rows, on CUDA replayed as a graph where it can be captured.

    Call it in inference mode.
    """

    def __init__(self, sampler: Sampler, rows: int) -> None:
        self._generator, self._device, self._rows = sampler.generator, sampler.device, rows
        self._latents = torch.zeros(rows, sampler.latent_dim, device=self._device)
        self._labels = torch.zeros(rows, dtype=torch.int64, device=self._device)
        self._images: Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        if self._device.type == "cuda":
            with suppress(RuntimeError):  # a network may do what a graph cannot hold; without one it is only slower
                self._capture()

    def __call__(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Return the images, n×C×… float32, of latents (n×Z) and labels (n), n at most `rows`; valid until the next."""
        self._latents.zero_()[: len(latents)] = latents.to(self._device)
        self._labels.zero_()[: len(labels)] = labels.to(self._device)
        if self._graph is None:
            self._images = self._run()
        else:
            self._graph.replay()
        assert self._images is not None
        return self._images[: len(latents)]

    def _run(self) -> Tensor:
        # The user's step may stand under autocast, and the images must not depend on it.
        with torch.autocast(self._device.type, enabled=False):
            return self._generator(self._latents, self._labels)

    def _capture(self) -> None:
        with torch.cuda.device(self._device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # libraries set themselves up on the first calls, which no graph may record
                for _ in range(3):
                    self._run()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # Of this thread alone: a DataLoader's pinning thread may use the device meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._images = self._run()
            self._graph = graph


def to_stored(images: Tensor, intensity: IntensityMap) -> Tensor:
    """Return generated images (any shape, in [-1, 1], clipped) as stored values, float32, integers rounded.

    It is `IntensityMap.inverse` with ``tails=False``, on the images' device.
    """
    low, high = float(intensity.low), float(intensity.high)
    first, last = (float(place) for place in intensity.forward(np.array([low, high])))
    values = (images.float().clamp(first, last) - first) * ((high - low) / (last - first)) + low
    if intensity.dtype == "float32":
        return values.clamp_(low, high)
    return values.round_().clamp_(math.ceil(low), math.floor(high))


def _number_within(labels: np.ndarray) -> np.ndarray:
    """Return how many of the same label stand before each."""
    numbers = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        same = labels == label
        numbers[same] = np.arange(same.sum())
    return numbers
