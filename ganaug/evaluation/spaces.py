"""Images as points, and distances between them: pixels, pixels aligned, and features of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve1d

from ganaug.errors import ConfigError
from ganaug.evaluation.three_sets import HELD_OUT, SYNTHETIC, TRAINING, Floats, Ints

Features = Callable[[Any], np.ndarray] | Sequence[np.ndarray]
"""A callable N×C×spatial → N×dim, or three arrays: features of the synthetic, training and held-out images."""

_CELLS = 4_000_000
_ROWS = 256
_CANDIDATES = 8
_FEATURE_DIMS = 128
_FAINT = 0.01


@dataclass(frozen=True)
class Space:
    """The synthetic, training and held-out images as points, and a distance between them."""

    name: str
    points: tuple[Floats, Floats, Floats]
    """N×V×D: V variants of each image, first as it is; the distance of two is that of the nearest variant of one."""
    grids: tuple[Floats, Floats, Floats] | None = None
    """N×spatial: where given, the nearest points are compared once more on these, shifted against each other."""

    def subset(self, kept: tuple[Ints, Ints, Ints]) -> Space:
        """Return the space of some of the synthetic, training and held-out images."""
        points = (self.points[0][kept[0]], self.points[1][kept[1]], self.points[2][kept[2]])
        grids = self.grids
        return Space(
            self.name,
            points,
            None if grids is None else (grids[0][kept[0]], grids[1][kept[1]], grids[2][kept[2]]),
        )

    def nearest(
        self, query: int, reference: int, *, k: int = 1, codes: tuple[Ints, Ints] | None = None
    ) -> tuple[Ints, NDArray[np.float64]]:
        """Return positions and distances (N×k, ascending) of the nearest references of each query.

        Args:
            query: `SYNTHETIC`, `TRAINING` or `HELD_OUT`.
            reference: the same.
            k: at most this many; fewer where there are fewer references.
            codes: patients of queries and references. Pairs of one patient are left out; where fewer than k
                references are left, the distance is infinite.
        """
        queries, references = self.points[query], self.points[reference][:, 0]
        wanted = min(max(k, _CANDIDATES if self.grids else k), len(references))
        norms = np.einsum("nd,nd->n", references, references)
        still = None if self.grids is None else _standardized(_inner(self.grids[reference]))
        indices, distances = [], []
        step = max(1, _CELLS // len(references))
        for start in range(0, len(queries), step):
            rows = slice(start, start + step)
            # |x - y|² / 2 - |y|² / 2. Variants of an image differ in norm: the likest is not always the nearest.
            half = np.full((len(queries[rows]), len(references)), np.inf, dtype=np.float32)
            for variant in queries[rows].transpose(1, 0, 2):
                own = np.einsum("nd,nd->n", variant, variant)[:, None] / 2
                np.minimum(half, own - variant @ references.T, out=half)
            near = 2 * half + norms
            if codes is not None:
                near[codes[0][rows, None] == codes[1]] = np.inf
            chosen = near.argmin(axis=1)[:, None]
            if wanted > 1:
                chosen = np.argpartition(near, wanted - 1, axis=1)[:, :wanted]
            exact = (
                self._plain(query, reference, rows, chosen)
                if still is None
                else self._aligned(query, rows, chosen, still)
            )
            exact[np.isinf(np.take_along_axis(near, chosen, axis=1))] = np.inf
            order = exact.argsort(axis=1, kind="stable")[:, :k]
            indices.append(np.take_along_axis(chosen, order, axis=1))
            distances.append(np.take_along_axis(exact, order, axis=1))
        return np.concatenate(indices), np.concatenate(distances)

    def to_synthetic(self, *, k: int = 1) -> NDArray[np.float64]:
        """Return the distance of each training, then each held-out image to the k-th nearest synthetic one."""
        return self._to_nearest_synthetic if k == 1 else self._to_synthetic(k)

    @cached_property
    def _to_nearest_synthetic(self) -> NDArray[np.float64]:
        return self._to_synthetic(1)

    def _to_synthetic(self, k: int) -> NDArray[np.float64]:
        return np.concatenate([self.nearest(side, SYNTHETIC, k=k)[1][:, -1] for side in (TRAINING, HELD_OUT)])

    def pooled(self) -> Space:
        """Return the space with the training and the held-out images together in the place of the training images."""

        def joined(sets: tuple[Floats, Floats, Floats]) -> tuple[Floats, Floats, Floats]:
            return sets[SYNTHETIC], np.concatenate(sets[TRAINING:]), sets[HELD_OUT]

        return Space(self.name, joined(self.points), None if self.grids is None else joined(self.grids))

    def _plain(self, query: int, reference: int, rows: slice, chosen: Ints) -> NDArray[np.float64]:
        """Return distances N×k without the rounding of |x|² - 2xy + |y|², which would drown near copies."""
        block = self.points[query][rows]
        squares = np.empty(chosen.shape)
        for column in range(chosen.shape[1]):
            gap = block - self.points[reference][chosen[:, column], :1]
            squares[:, column] = np.einsum("nvd,nvd->nv", gap, gap).min(axis=1)
        return np.sqrt(squares)

    def _aligned(self, query: int, rows: slice, chosen: Ints, still: Floats) -> NDArray[np.float64]:
        """Return distances N×k, each the smallest over the mirrored and shifted forms of the query."""
        assert self.grids is not None
        block = self.grids[query][rows]
        squares = np.empty(chosen.shape)
        for start in range(0, len(block), _ROWS):
            part = block[start : start + _ROWS]
            forms = np.stack(list(_forms(part)), axis=2)
            others = still[chosen[start : start + _ROWS]]
            norms = (others**2).sum(axis=2)[..., None] + (forms**2).sum(axis=1)[:, None]
            squares[start : start + _ROWS] = (norms - 2 * others @ forms).min(axis=2)
        return np.sqrt(np.maximum(squares, 0))


def image_spaces(sets: tuple[Floats, Floats, Floats]) -> list[Space]:
    """Return two spaces: pixels as they are, and aligned ones.

    *pixels*: the Euclidean distance on at most 16 pixels a side (10 of volumes).
    *aligned*: the gray image on at most 24 pixels a side (12 of volumes), less its mean and over its contrast; the
    distance is the smallest over mirroring the last axis and shifts by one pixel of this grid, found among the 8
    nearest on a blurred grid of half the size (of small images: among all). It sees copies that are mirrored, moved,
    brighter or of other contrast.
    """
    volume = sets[0].ndim == 5
    fine, half = (12, 8) if volume else (24, 12)
    flat = [_reduced(images, 10 if volume else 16).reshape(len(images), 1, -1) for images in sets]
    gray = [_reduced(images.mean(axis=1, keepdims=True), fine)[:, 0] for images in sets]
    plain = Space("pixels", (flat[0], flat[1], flat[2]))
    if max(sets[0].shape[2:]) <= half:
        every = [np.stack(list(_forms(images)), axis=1) for images in gray]
        return [plain, Space("aligned", (every[0], every[1], every[2]))]
    coarse = []
    for images in gray:
        blurred = _reduced(images[:, None], half)[:, 0]
        for axis in range(1, blurred.ndim):
            blurred = convolve1d(blurred, [0.25, 0.5, 0.25], axis=axis, mode="nearest")
        coarse.append(np.stack([_standardized(blurred), _standardized(blurred[..., ::-1])], axis=1))
    return [plain, Space("aligned", (coarse[0], coarse[1], coarse[2]), (gray[0], gray[1], gray[2]))]


def feature_spaces(sets: tuple[Floats, Floats, Floats], features: Features | None) -> list[Space]:
    """Return the space of the features, reduced to their first 128 principal components, or nothing.

    Raises:
        ConfigError: there are other than three sets, or they do not fit the images.
    """
    if features is None:
        return []
    if callable(features):
        # Imported here: everything else in this module does without torch.
        from torch import from_numpy

        features = [features(from_numpy(images)) for images in sets]
    parts = [np.asarray(part, dtype=np.float32) for part in features]
    if len(parts) != 3 or any(
        a.ndim != 2 or len(a) != len(b) or a.shape[1:] != parts[0].shape[1:] for a, b in zip(parts, sets, strict=True)
    ):
        raise ConfigError(
            f"Features of shape {' and '.join(str(part.shape) for part in parts)} were given; N×dim for each of the "
            f"{', '.join(str(len(part)) for part in sets)} synthetic, training and held-out images is wanted."
        )
    # Of both sides of the split: fitted to one of them it would itself tell the sides apart.
    real = np.concatenate(parts[TRAINING:])
    center = real.mean(axis=0)
    if real.shape[1] > _FEATURE_DIMS:
        turn = np.linalg.eigh(np.cov(real.T))[1][:, : -_FEATURE_DIMS - 1 : -1].astype(np.float32)
        parts = [(part - center) @ turn for part in parts]
    else:
        parts = [part - center for part in parts]
    return [Space("features", (parts[0][:, None], parts[1][:, None], parts[2][:, None]))]


def _forms(grids: Floats) -> Iterator[Floats]:
    """Yield N×pixels of the grids mirrored and shifted in all ways, first as they are, standardized."""
    for form in (grids, grids[..., ::-1]):
        for shift in product((0, -1, 1), repeat=grids.ndim - 1):
            yield _standardized(_inner(form, shift))


def _inner(grids: Floats, shift: Sequence[int] = ()) -> Floats:
    """Return N×pixels of the grids without their rim of one pixel, shifted by at most that."""
    cut = [slice(None)]
    for axis in range(grids.ndim - 1):
        by = shift[axis] if shift else 0
        cut.append(slice(1 + by, grids.shape[axis + 1] - 1 + by) if grids.shape[axis + 1] > 2 else slice(None))
    return grids[tuple(cut)].reshape(len(grids), -1)


def _standardized(images: Floats) -> Floats:
    """Return N×pixels of mean 0 and norm near 1; nearly constant images stay near 0 instead of becoming noise."""
    flat = images.reshape(len(images), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    norm_of = np.sqrt((flat**2).mean(axis=1, keepdims=True)) + _FAINT
    return (flat / (norm_of * np.sqrt(flat.shape[1]))).astype(np.float32)


def _reduced(images: Floats, side: int) -> Floats:
    """Return N×C×spatial images averaged over equal areas to at most `side` pixels along each axis."""
    for axis in range(2, images.ndim):
        size = images.shape[axis]
        if size > side:
            edges = np.linspace(0, size, side + 1)
            low, high = edges[:-1, None], edges[1:, None]
            pixel = np.arange(size)
            weights = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None)
            weights /= weights.sum(axis=1, keepdims=True)
            images = np.moveaxis(np.tensordot(images, weights.astype(np.float32), axes=(axis, 1)), -1, axis)
    return np.ascontiguousarray(images, dtype=np.float32)
