"""Does the generator hand out its training images? Nearness to them against nearness to held-out images.

Copying means that the synthetic images depend on *which* real images were trained on. Training and held-out images
are one random split of the same patients, so a generator that learned only what such images have in common comes as
near to the ones as to the others, whether its images are good, blurred or all alike. An alarm rests on this
exchangeability alone. Each real image (each patient, where groups are known) gets a score that does not know its side
of the split: how near the nearest synthetic image comes to it, measured by how near the nearest real image of another
patient comes. Then the sides are compared, three times in each space:

- *whole sample*: the scores of training images are higher as a whole (Mann-Whitney).
- *runs*: the highest scores are too often those of training images (exact, over all cuts at once).
- *outliers*: a training image has a score that the tail of the held-out scores makes improbable. The probability that
  a point lies within r of a sample falls as a power of r, so the tail of the log ratio is exponential, and the
  predictive tail of an exponential sample is known exactly. This test sees a few copies among many images.

Besides, exact copies of training images are counted against those that stand among the held-out images. The level of
each test is the false-alarm rate divided by the number of tests (Bonferroni).

The usual figures C_T (Meehan, Chaudhuri and Dasgupta, "A non-parametric test to detect data-copying in generative
models", 2020) and AuthPct (Alaa et al., "How faithful is your synthetic data?", 2022) compare instead the distances
of synthetic and of held-out images to the training images. They stand in the result beside their control but raise no
alarm: blurred images, and a generator that draws only the commonest ones, are nearer to everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import combinations, product
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import convolve1d
from scipy.special import expit
from scipy.stats import beta, binom, fisher_exact, gamma, hypergeom, mannwhitneyu

from ganaug.data.fingerprint import CONSTANT, NEAR, near_duplicates, phash
from ganaug.data.names import count
from ganaug.errors import ConfigError, DataError, LeakError

MIN_HELD_OUT = 50
"""Held-out patients (images, without groups) below which nothing is said."""

FALSE_ALARM_RATE = 0.001
"""The share of evaluations of generators that do not copy that may raise the alarm."""

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Features = Callable[[Any], np.ndarray] | Sequence[np.ndarray]
"""A callable N×C×spatial → N×dim, or three arrays: features of the synthetic, training and held-out images."""

SYNTHETIC, TRAINING, HELD_OUT = 0, 1, 2
NAMES = ("synthetic", "training", "held-out")

_CELLS = 4_000_000
_ROWS = 256
_CANDIDATES = 8
_FEATURE_DIMS = 128
_SPLIT_LEVEL = 0.001
_SPLIT_DRAWS = 4999
_ENOUGH = 20
_CUTS = 24
_ORDERS = (1, 3, 10, 30)
_FAINT = 0.01


@dataclass(frozen=True)
class Space:
    """The synthetic, training and held-out images as points, and a distance between them."""

    name: str
    points: tuple[Floats, Floats, Floats]
    """N×V×D: V variants of each image, first as it is; the distance of two is that of the nearest variant of one."""
    grids: tuple[Floats, Floats, Floats] | None = None
    """N×spatial: where given, the nearest points are compared once more on these, shifted against each other."""

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
            likeness = queries[rows, 0] @ references.T
            for variant in range(1, queries.shape[1]):
                np.maximum(likeness, queries[rows, variant] @ references.T, out=likeness)
            near = norms - 2 * likeness
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


@dataclass(frozen=True)
class Evidence:
    """One test that may raise the alarm."""

    space: str
    test: Literal["whole sample", "runs", "outliers", "exact copies"]
    p: float
    level: float
    """The test alarms at p ≤ level."""

    @property
    def alarms(self) -> bool:
        """Return whether this test raises the alarm."""
        return self.p <= self.level


@dataclass(frozen=True)
class Pair:
    """A synthetic image and the training image nearest to it."""

    synthetic: int
    training: int
    distance: float
    """In the units of the space."""
    ratio: float
    """The distance, over that of the training image to the nearest other one (of another patient)."""
    percentile: float
    """Percent of the held-out images that have as small a ratio to their nearest training image."""
    same_label: bool | None


@dataclass(frozen=True)
class SpaceResult:
    """The figures of one space. Only `auc` compares the sides of the split; the others are described, not judged."""

    space: str
    auc: float
    """Probability that synthetic images come nearer to a training than to a held-out image; .5 is no copying."""
    c_t: float | None
    """C_T, a z-score: far below 0 means nearer to training images than held-out images are."""
    auth_pct: float
    """Percent of synthetic images farther from their nearest training image than that is from its own nearest."""
    auth_pct_held_out: float
    ratio: float
    """Median of `Pair.ratio` over the synthetic images."""
    ratio_held_out: float
    near_copies: tuple[int, ...]
    """Synthetic images nearer to a training image than any held-out image is, and than any synthetic image comes to a
    held-out one (both as ratios); the nearest first."""
    near_sources: int
    """Training images that the near copies belong to."""
    near_sources_by_chance: float
    """How many such training images to expect of a generator that does not copy."""
    between: int
    """Synthetic images nearer to a straight line between two training images than any held-out image is."""
    between_by_chance: float
    closest: tuple[Pair, ...]


@dataclass(frozen=True)
class Duplicates:
    """Images with the same content (to 16 bits), and images whose perceptual hashes nearly agree."""

    exact: tuple[tuple[int, int], ...]
    """(synthetic, training) of equal content; images of one value are not counted."""
    exact_held_out: int
    """Held-out images that stand among the training images."""
    near: int
    """Synthetic images with a near duplicate among the training images."""
    near_held_out: int
    near_across_classes: int | None
    """Synthetic images with a near or exact duplicate among training images of another class."""
    within: tuple[tuple[int, ...], ...]
    """Sets of synthetic images with the same content."""
    within_near: tuple[tuple[int, ...], ...]
    """Sets of synthetic images linked by near duplicates: the generator repeats itself."""
    within_across_classes: int | None
    """How many of the sets of both kinds have more than one label."""


@dataclass(frozen=True)
class Memorization:
    """What was found, and a word for it."""

    word: Literal["alarm", "no alarm", "cannot tell"]
    sentence: str
    false_alarm_rate: float
    images: tuple[int, int, int]
    """Synthetic, training, held-out images."""
    units: tuple[int, int]
    """Training and held-out patients (images, without groups)."""
    evidence: tuple[Evidence, ...]
    split_p: float | None
    """p of the test that held-out and training images are one random split; the synthetic images take no part."""
    spaces: tuple[SpaceResult, ...]
    duplicates: Duplicates

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return _listed(asdict(self)) | {"wanted_held_out": MIN_HELD_OUT}

    def __str__(self) -> str:
        return self.sentence


def memorization(
    synthetic: ArrayLike,
    training: ArrayLike,
    held_out: ArrayLike,
    *,
    labels: tuple[Sequence[int], Sequence[int], Sequence[int]] | None = None,
    groups: tuple[Sequence[str], Sequence[str]] | None = None,
    features: Features | None = None,
    false_alarm_rate: float = FALSE_ALARM_RATE,
    closest: int = 20,
    seed: int = 0,
) -> Memorization:
    """Compare how near synthetic images come to the training images and to held-out images of other patients.

    Args:
        synthetic: N×C×H×W or N×C×D×H×W, in [-1, 1].
        training: the same form; what the generator was trained on.
        held_out: the same form; what it has not seen, split off at random by patient.
        labels: classes of the three sets. Scores are then compared within classes, whose shares may differ.
        groups: patients of the training and the held-out images.
        features: a second or third space: a callable, or the features of the three sets, N×dim.
        false_alarm_rate: of a whole evaluation, over all its tests.
        closest: pairs listed in each space.
        seed: of the cells of C_T and of the check of the split.

    Raises:
        ConfigError: the false-alarm rate is not within (0, .5), or there are other than three sets of features.
        DataError: shapes that do not fit each other, values that are not finite, or an empty set.
        LeakError: training and held-out images share a patient.
    """
    if not 0 < false_alarm_rate < 0.5:
        raise ConfigError(
            f"A false-alarm rate of {false_alarm_rate:g} was given; more than 0 and less than .5 is wanted."
        )
    sets = image_sets(synthetic, training, held_out)
    codes = unit_codes(sets, groups)
    classes = label_arrays(sets, labels)
    spaces = image_spaces(sets) + feature_spaces(sets, features)
    units = (len(np.unique(codes[0])), len(np.unique(codes[1])))
    found = _duplicates(sets, classes)
    level = false_alarm_rate / (3 * len(spaces) + 1)
    enough = min(units) >= MIN_HELD_OUT

    evidence, results, split_p = [], [], None
    for space in spaces:
        nearness = _Nearness(space, codes, classes)
        results.append(_figures(nearness, classes, closest, seed))
        if enough:
            evidence += [Evidence(space.name, test, p, level) for test, p in nearness.tests().items()]
            p = _split_p(nearness, np.concatenate(codes), classes, seed)
            split_p = p if split_p is None else min(split_p, p)
    if split_p is not None:
        split_p = min(1.0, split_p * len(spaces))
    if enough:
        evidence.append(Evidence("pixels", "exact copies", _exact_p(found, sets), level))
    word, sentence = _verdict(evidence, results, found, units, split_p, false_alarm_rate, groups is not None)
    return Memorization(
        word,
        sentence,
        false_alarm_rate,
        (len(sets[0]), len(sets[1]), len(sets[2])),
        units,
        tuple(evidence),
        split_p,
        tuple(results),
        found,
    )


def image_sets(*given: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Return synthetic, training and held-out images as float32 arrays of one form.

    Raises:
        DataError: shapes that do not fit each other, values that are not finite, or an empty set.
    """
    sets = tuple(np.asarray(images, dtype=np.float32) for images in given)
    shapes = " and ".join(str(images.shape) for images in sets)
    if any(images.ndim not in (4, 5) or images.shape[1:] != sets[0].shape[1:] for images in sets):
        raise DataError(
            f"Synthetic, training and held-out images of shape {shapes} were given; N×C×H×W or N×C×D×H×W with one C "
            "and one size is wanted. Bring them to one grid."
        )
    for name, images in zip(NAMES, sets, strict=True):
        if not len(images):
            raise DataError(f"No {name} images were given; at least 1 is wanted.")
        if not np.isfinite(images).all():
            raise DataError(f"The {name} images hold values that are not finite; numbers in [-1, 1] are wanted.")
    return sets[0], sets[1], sets[2]


def unit_codes(sets: Sequence[np.ndarray], groups: tuple[Sequence[str], Sequence[str]] | None) -> tuple[Ints, Ints]:
    """Return a number for the patient of each training and held-out image; without groups each has its own.

    Raises:
        DataError: the groups do not fit the images.
        LeakError: training and held-out images share a patient.
    """
    n_training, n_held_out = len(sets[TRAINING]), len(sets[HELD_OUT])
    if groups is None:
        return np.arange(n_training), n_training + np.arange(n_held_out)
    if (len(groups[0]), len(groups[1])) != (n_training, n_held_out):
        raise DataError(
            f"Groups of {len(groups[0])} training and {len(groups[1])} held-out images were given; one for each of "
            f"{n_training} and {n_held_out} is wanted."
        )
    shared = set(groups[0]) & set(groups[1])
    if shared:
        raise LeakError(
            f"{count(len(shared), 'patient')} stand among both the training and the held-out images; none may. "
            "Hold out whole patients."
        )
    codes = np.unique(np.array([*groups[0], *groups[1]], dtype=str), return_inverse=True)[1].astype(np.int64)
    return codes[:n_training], codes[n_training:]


def label_arrays(
    sets: Sequence[np.ndarray], labels: tuple[Sequence[int], Sequence[int], Sequence[int]] | None
) -> tuple[Ints, Ints, Ints] | None:
    """Return the labels as arrays.

    Raises:
        DataError: they do not fit the images.
    """
    if labels is None:
        return None
    if len(labels) != len(sets) or any(len(a) != len(b) for a, b in zip(labels, sets, strict=True)):
        raise DataError(
            f"Labels of {', '.join(str(len(part)) for part in labels)} images were given; one for each of the "
            f"{', '.join(str(len(part)) for part in sets)} synthetic, training and held-out images is wanted."
        )
    arrays = [np.asarray(part, dtype=np.int64) for part in labels]
    return arrays[0], arrays[1], arrays[2]


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


class _Nearness:
    """Distances in one space, and a score of each real image that does not know its side of the split."""

    def __init__(self, space: Space, codes: tuple[Ints, Ints], classes: tuple[Ints, Ints, Ints] | None) -> None:
        self.space, self.codes = space, codes
        training = codes[0]
        self.n_training = len(training)
        own = space.nearest(TRAINING, TRAINING, codes=(training, training))[1]
        back, back_distance = space.nearest(HELD_OUT, TRAINING)
        self.own = own[:, 0]
        self.held_out_pairs = back[:, 0], back_distance[:, 0]
        # Searched in one pool: a search on each side would be more thorough on the smaller one.
        both = np.concatenate(codes)
        neighbor, scale = space.pooled().nearest(TRAINING, TRAINING, codes=(both, both))
        self.neighbor, scale = neighbor[:, 0], scale[:, 0]
        self.has_neighbor = np.isfinite(scale)
        known = scale[np.isfinite(scale) & (scale > 0)]
        self.floor = 1e-3 * float(np.median(known)) if len(known) else 1.0
        gap = np.concatenate([space.nearest(side, SYNTHETIC)[1][:, 0] for side in (TRAINING, HELD_OUT)])
        self.scale = np.where(np.isfinite(scale), scale, np.median(known) if len(known) else 1.0)
        self.middle = np.zeros(len(gap))
        raw = self._log_ratio(self.scale, gap)
        if classes is not None:
            label = np.concatenate(classes[TRAINING:])
            for value in np.unique(label):
                self.middle[label == value] = np.median(raw[label == value])
        self.scores = raw - self.middle

    def _log_ratio(self, scale: NDArray, gap: NDArray) -> NDArray[np.float64]:
        # The floor keeps an exact copy finite, and 0 of 0 (images of one value) at 0.
        return np.log((scale + self.floor) / (gap + self.floor))

    def ratio(self, training: Ints, distance: NDArray) -> NDArray[np.float64]:
        """Return distances to training images over those of these to the nearest other one."""
        return (distance + self.floor) / (np.where(np.isfinite(self.own), self.own, np.inf)[training] + self.floor)

    def synthetic_scores(self, training: Ints, distance: NDArray) -> NDArray[np.float64]:
        """Return what score each synthetic image alone would give to its nearest training image."""
        return self._log_ratio(self.scale[training], distance) - self.middle[training]

    def tests(self) -> dict[Literal["whole sample", "runs", "outliers"], float]:
        """Return the p-values of the three tests."""
        training, held_out = self.scores[: self.n_training], self.scores[self.n_training :]
        means = by_unit(training, self.codes[0], np.mean), by_unit(held_out, self.codes[1], np.mean)
        highest = by_unit(training, self.codes[0], np.max), by_unit(held_out, self.codes[1], np.max)
        return {
            "whole sample": float(mannwhitneyu(*means, alternative="greater").pvalue),
            "runs": runs_p(*highest),
            "outliers": outliers_p(*highest),
        }


def runs_p(training: NDArray, held_out: NDArray) -> float:
    """Return p of the test that the highest scores are too often those of training units.

    At each of a few cuts k the number of training units among the k highest is hypergeometric. The smallest of the
    p-values of all cuts is the statistic; its own distribution follows exactly, step by step from the highest score.
    """
    n, total = len(training), len(training) + len(held_out)
    # Ties count against the alarm: held-out units first.
    order = np.lexsort((np.repeat([1, 0], [n, len(held_out)]), -np.concatenate([training, held_out])))
    hits = np.cumsum(order < n)
    deepest = max(5, total // 4)
    cuts = np.unique(np.geomspace(5, deepest, _CUTS).round().astype(int))
    smallest = hypergeom.sf(hits[cuts - 1] - 1, total, n, cuts).min()
    limits = {
        int(cut): int(np.argmax(hypergeom.sf(np.arange(-1, cut + 1), total, n, cut) <= smallest * (1 + 1e-9)))
        for cut in cuts
    }
    chance = np.zeros(deepest + 1)
    chance[0] = 1.0
    crossed = 0.0
    seen = np.arange(deepest + 1)
    for drawn in range(deepest):
        hit = np.clip((n - seen) / (total - drawn), 0, 1)
        chance[1:], chance[0] = chance[1:] * (1 - hit[1:]) + chance[:-1] * hit[:-1], chance[0] * (1 - hit[0])
        limit = limits.get(drawn + 1)
        if limit is not None:
            crossed += float(chance[limit:].sum())
            chance[limit:] = 0.0
    return min(1.0, crossed)


def outliers_p(training: NDArray, held_out: NDArray) -> float:
    """Return p of the test that the highest training scores lie beyond the tail of the held-out ones.

    Above the (k+1)-th highest of n held-out scores the tail is taken as exponential. The share of all scores above it
    is then Beta(k+1, n-k), and its rate times the sum of the k excesses is Gamma(k), whatever the scores; so the
    probability that the j-th highest of m training scores lies as far out is a mean over both. The smallest of a few
    j, times their number.
    """
    n, m = len(held_out), len(training)
    k = min(max(10, n // 10), 40, n - 1)
    tail = np.sort(held_out)[::-1][: k + 1]
    total = max(float((tail[:k] - tail[k]).sum()), 1e-9)
    # Nodes evenly spaced on the logit scale: small p-values come from far in the tails of both.
    at = np.linspace(-25, 25, 101)
    weight = expit(at) * expit(-at)
    weight /= weight.sum()
    shares = np.where(at < 0, beta.ppf(expit(at), k + 1, n - k), beta.isf(expit(-at), k + 1, n - k))
    rates = np.where(at < 0, gamma.ppf(expit(at), k), gamma.isf(expit(-at), k)) / total
    ps = []
    orders = [order for order in _ORDERS if order <= m]
    for order in orders:
        excess = float(np.partition(training, m - order)[m - order] - tail[k])
        if excess > 0:
            chance = binom.sf(order - 1, m, shares[:, None] * np.exp(-rates * excess))
            ps.append(float(weight @ chance @ weight))
    return min(1.0, min(ps, default=1.0) * len(orders))


def by_unit(scores: NDArray, codes: Ints, pool: Callable[[NDArray], Any]) -> NDArray[np.float64]:
    """Return the pooled score of each patient."""
    order = codes.argsort(kind="stable")
    parts = np.split(scores[order], np.flatnonzero(np.diff(codes[order])) + 1)
    return np.array([pool(part) for part in parts])


def _split_p(nearness: _Nearness, units: NDArray, classes: tuple[Ints, Ints, Ints] | None, seed: int) -> float:
    """Return p of the test that an image and the nearest one of another patient are too often on the same side.

    The nearest-neighbor test (Schilling, "Multivariate two-sample tests based on nearest neighbors", 1986), with
    the sides of whole patients drawn anew; patients change sides with those of the same main class. Draws end early
    once it is clear that p is not small (Besag and Clifford, "Sequential Monte Carlo p-values", 1991).
    """
    rng = np.random.default_rng(seed)
    owner = np.unique(units, return_inverse=True)[1]
    side = np.zeros(owner.max() + 1)
    side[owner[nearness.n_training :]] = 1.0
    stratum = np.zeros(len(side), dtype=np.int64)
    if classes is not None:
        label = np.unique(np.concatenate(classes[TRAINING:]), return_inverse=True)[1]
        votes = np.zeros((len(side), label.max() + 1))
        np.add.at(votes, (owner, label), 1)
        stratum = votes.argmax(axis=1)
    members = [np.flatnonzero(stratum == value) for value in np.unique(stratum)]
    for rows in members:
        side[rows] -= side[rows].mean()
    here, there = owner[nearness.has_neighbor], owner[nearness.neighbor[nearness.has_neighbor]]
    seen = side[here] @ side[there]
    as_much = 0
    for drawn in range(_SPLIT_DRAWS):
        if as_much == _ENOUGH:
            return as_much / drawn
        mixed = side.copy()
        for rows in members:
            mixed[rows] = rng.permutation(side[rows])
        as_much += bool(mixed[here] @ mixed[there] >= seen * (1 - 1e-9))
    return (1 + as_much) / (1 + _SPLIT_DRAWS)


def _figures(
    nearness: _Nearness,
    classes: tuple[Ints, Ints, Ints] | None,
    closest: int,
    seed: int,
) -> SpaceResult:
    space = nearness.space
    training, gap = space.nearest(SYNTHETIC, TRAINING, k=_CANDIDATES)
    target, distance = training[:, 0], gap[:, 0]
    ratio = nearness.ratio(target, distance)
    back, back_distance = nearness.held_out_pairs
    control = np.sort(nearness.ratio(back, back_distance))
    score = nearness.synthetic_scores(target, distance)
    near = (ratio < control[0]) & (score > nearness.scores[nearness.n_training :].max())
    order = ratio.argsort(kind="stable")
    pairs = tuple(
        Pair(
            int(at),
            int(target[at]),
            float(distance[at]),
            float(ratio[at]),
            100.0 * float(np.searchsorted(control, ratio[at], side="right")) / len(control),
            None if classes is None else bool(classes[SYNTHETIC][at] == classes[TRAINING][target[at]]),
        )
        for at in order[:closest]
    )
    on_line = _off_line(space, SYNTHETIC, training)
    on_line_control = _off_line(space, HELD_OUT, space.nearest(HELD_OUT, TRAINING, k=_CANDIDATES)[0])
    sides = np.split(nearness.scores, [nearness.n_training])
    u = mannwhitneyu(*sides).statistic
    return SpaceResult(
        space.name,
        auc=float(u / (len(sides[0]) * len(sides[1]))),
        c_t=_c_t(space, distance, back_distance, seed),
        auth_pct=100.0 * float((ratio > 1).mean()),
        auth_pct_held_out=100.0 * float((control > 1).mean()),
        ratio=float(np.median(ratio)),
        ratio_held_out=float(np.median(control)),
        near_copies=tuple(order[near[order]].tolist()),
        near_sources=len(np.unique(target[near])),
        near_sources_by_chance=len(sides[0]) / (len(sides[1]) + 1),
        between=int((~near & (on_line < on_line_control.min())).sum()),
        between_by_chance=len(ratio) / (len(control) + 1),
        closest=pairs,
    )


def _off_line(space: Space, query: int, nearest: Ints) -> NDArray[np.float64]:
    """Return how far each image is from the nearest line between two of its nearest training images.

    In units of the distance to the nearest training image: 0 on a line, 1 where no line comes nearer than its end.
    """
    points, training = space.points[query][:, 0], space.points[TRAINING][:, 0]
    result = np.ones(len(points))
    if nearest.shape[1] < 2:
        return result
    first, second = (np.array(side) for side in zip(*combinations(range(nearest.shape[1]), 2), strict=True))
    for start in range(0, len(points), _ROWS):
        gaps = (training[nearest[start : start + _ROWS]] - points[start : start + _ROWS, None]).astype(np.float64)
        inner = gaps @ gaps.transpose(0, 2, 1)
        own = np.einsum("nkk->nk", inner)
        a, b, both = own[:, first], own[:, second], inner[:, first, second]
        weight = np.clip((a - both) / np.maximum(a + b - 2 * both, 1e-12), 0, 1)
        square = (1 - weight) ** 2 * a + 2 * weight * (1 - weight) * both + weight**2 * b
        shortest = np.maximum(own.min(axis=1), 1e-12)
        result[start : start + _ROWS] = np.sqrt(np.maximum(square.min(axis=1), 0) / shortest)
    return result


def _c_t(space: Space, synthetic: NDArray, held_out: NDArray, seed: int) -> float | None:
    """Return C_T (Meehan et al. 2020, section 4) of distances to the nearest training image, or None.

    The z-score of the Mann-Whitney U of synthetic against held-out distances, averaged over cells (k-means of the
    training images) by the share of the held-out images in them. Cells with fewer than 20 synthetic or held-out
    images do not count; None where there is no other cell.
    """
    from sklearn.cluster import KMeans

    cells = min(10, max(1, len(held_out) // 50))
    points = [part[:, 0] for part in space.points]
    kmeans = KMeans(cells, n_init=1, max_iter=50, random_state=seed).fit(points[TRAINING])
    of_synthetic, of_held_out = kmeans.predict(points[SYNTHETIC]), kmeans.predict(points[HELD_OUT])
    total = weights = 0.0
    for cell in range(cells):
        ours, control = synthetic[of_synthetic == cell], held_out[of_held_out == cell]
        m, n = len(ours), len(control)
        if min(m, n) < 20:
            continue
        u = float(mannwhitneyu(ours, control, method="asymptotic").statistic)
        total += n * (u - m * n / 2) / np.sqrt(m * n * (m + n + 1) / 12)
        weights += n
    return float(total / weights) if weights else None


def _duplicates(sets: tuple[Floats, Floats, Floats], classes: tuple[Ints, Ints, Ints] | None) -> Duplicates:
    contents = [_contents(images) for images in sets]
    hashes = [np.array([phash(np.moveaxis(image, 0, -1)) for image in images], dtype=np.uint64) for images in sets]
    holders: dict[bytes, list[int]] = {}
    for at, content in enumerate(contents[TRAINING]):
        if content is not None:
            holders.setdefault(content, []).append(at)
    exact = [(at, other) for at, content in enumerate(contents[SYNTHETIC]) for other in holders.get(content or b"", [])]
    near, near_across = _near(hashes[SYNTHETIC], hashes[TRAINING], classes)
    if classes is not None:
        for at, other in exact:
            near_across[at] |= classes[SYNTHETIC][at] != classes[TRAINING][other]
    repeated: dict[bytes, list[int]] = {}
    for at, content in enumerate(contents[SYNTHETIC]):
        if content is not None:
            repeated.setdefault(content, []).append(at)
    within = [tuple(places) for places in repeated.values() if len(places) > 1]
    alike = [tuple(places) for places in near_duplicates(hashes[SYNTHETIC].tolist())]
    mixed = None
    if classes is not None:
        mixed = sum(len({int(classes[SYNTHETIC][at]) for at in places}) > 1 for places in {*within, *alike})
    return Duplicates(
        exact=tuple(exact),
        exact_held_out=sum(content in holders for content in contents[HELD_OUT] if content is not None),
        near=int(near.sum()),
        near_held_out=int(_near(hashes[HELD_OUT], hashes[TRAINING], None)[0].sum()),
        near_across_classes=None if classes is None else int(near_across.sum()),
        within=tuple(within),
        within_near=tuple(alike),
        within_across_classes=mixed,
    )


def _contents(images: Floats) -> list[bytes | None]:
    """Return a hash of each image's pixels at 16 bits; None for an image of one value, which says nothing of anyone."""
    levels = np.round((images + 1) * 32767.5).astype(np.int32).reshape(len(images), -1)
    return [None if row[0] == row.max() == row.min() else sha256(row.tobytes()).digest() for row in levels]


def _near(
    hashes: NDArray[np.uint64], training: NDArray[np.uint64], classes: tuple[Ints, Ints, Ints] | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which images have a near duplicate among the training images, and which one of another class."""
    found, across = np.zeros(len(hashes), dtype=bool), np.zeros(len(hashes), dtype=bool)
    structured = training != CONSTANT
    step = max(1, _CELLS // len(training))
    for start in range(0, len(hashes), step):
        rows = slice(start, start + step)
        near = np.bitwise_count(hashes[rows, None] ^ training) <= NEAR
        near &= structured & (hashes[rows, None] != CONSTANT)
        found[rows] = near.any(axis=1)
        if classes is not None:
            across[rows] = (near & (classes[SYNTHETIC][rows, None] != classes[TRAINING])).any(axis=1)
    return found, across


def _exact_p(found: Duplicates, sets: tuple[Floats, Floats, Floats]) -> float:
    """Return p of the test that synthetic images are exact copies more often than held-out images are.

    Copies of one training image count once: a generator that draws one picture again and again is one event.
    """
    copies, control = len({training for _, training in found.exact}), found.exact_held_out
    copies = min(copies, len(sets[SYNTHETIC]))
    table = [[copies, len(sets[SYNTHETIC]) - copies], [control, len(sets[HELD_OUT]) - control]]
    return float(fisher_exact(table, alternative="greater").pvalue)


def _verdict(
    evidence: Sequence[Evidence],
    results: Sequence[SpaceResult],
    found: Duplicates,
    units: tuple[int, int],
    split_p: float | None,
    rate: float,
    grouped: bool,
) -> tuple[Literal["alarm", "no alarm", "cannot tell"], str]:
    unit = "patient" if grouped else "image"
    copies = len({at for at, _ in found.exact})
    listed = f" {count(copies, 'synthetic image')} are exact copies of training images." if copies else ""
    if not evidence:
        return "cannot tell", (
            f"Cannot tell whether the generator copies: {count(units[0], f'training {unit}')} and "
            f"{count(units[1], f'held-out {unit}')} were given, at least {MIN_HELD_OUT} of each are wanted.{listed}"
        )
    alarms = [one for one in evidence if one.alarms]
    shifted = split_p is not None and split_p < _SPLIT_LEVEL
    if shifted:
        # The scores compare the sides of a split; only equality of pixels does without their likeness.
        alarms = [one for one in alarms if one.test == "exact copies"]
    if alarms:
        figures = {result.space: result for result in results}
        worst = min(alarms, key=lambda one: one.p)
        told = "; ".join(_told(one, figures[one.space], found) for one in alarms)
        return "alarm", (
            f"Alarm: the synthetic images depend on which images were trained on: {told} (smallest p = "
            f"{worst.p:.1g}).{listed} Over all {len(evidence)} tests, a generator that does not copy raises this alarm "
            f"in at most {100 * rate:g} % of evaluations."
        )
    if shifted:
        return "cannot tell", (
            "Cannot tell whether the generator copies: the held-out images differ from the training images without any "
            f"synthetic image (p = {split_p:.1g}), so nearness to the training images proves nothing. Hold out "
            f"{unit}s drawn at random from the same source.{listed}"
        )
    return "no alarm", (
        f"No alarm: the synthetic images come no nearer to the {units[0]:,} training {unit}s than to the "
        f"{units[1]:,} held-out ones, as far as {len(evidence)} tests show. This proves no privacy.{listed}"
    )


def _told(one: Evidence, figures: SpaceResult, found: Duplicates) -> str:
    if one.test == "exact copies":
        return f"{len({training for _, training in found.exact}):,} training images stand among them pixel by pixel"
    if one.test == "whole sample":
        return f"{one.space}: nearer to training than to held-out images as a whole, AUC {figures.auc:.2f}"
    if one.test == "runs":
        return f"{one.space}: what they come nearest to are too often training images"
    return (
        f"{one.space}: nearer to single training images than to any held-out image "
        f"({count(len(figures.near_copies), 'near copy', 'near copies')} listed)"
    )


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _listed(part) for key, part in value.items()}
    return [_listed(part) for part in value] if isinstance(value, (list, tuple)) else value


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
