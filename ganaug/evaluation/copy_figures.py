"""How near the synthetic images come to the training images in one space: figures that describe and do not judge."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from ganaug.evaluation.exchangeability import Nearness
from ganaug.evaluation.spaces import Space
from ganaug.evaluation.three_sets import HELD_OUT, SYNTHETIC, TRAINING, Ints

_ROWS = 256
_LINE_ENDS = 8
"""Nearest training images of each image, the lines between which are looked at."""


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


def space_figures(
    nearness: Nearness, classes: tuple[Ints, Ints, Ints] | None, *, closest: int, seed: int
) -> SpaceResult:
    """Return the figures of one space, with the `closest` pairs; the seed is of the cells of C_T."""
    space = nearness.space
    training, gap = space.nearest(SYNTHETIC, TRAINING, k=_LINE_ENDS)
    target, distance = training[:, 0], gap[:, 0]
    ratio = nearness.ratio(target, distance)
    back, back_gap = space.nearest(HELD_OUT, TRAINING, k=_LINE_ENDS)
    control = np.sort(nearness.ratio(back[:, 0], back_gap[:, 0]))
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
    on_line_control = _off_line(space, HELD_OUT, back)
    sides = np.split(nearness.scores, [nearness.n_training])
    u = mannwhitneyu(*sides).statistic
    return SpaceResult(
        space.name,
        auc=float(u / (len(sides[0]) * len(sides[1]))),
        c_t=_c_t(space, distance, back_gap[:, 0], seed),
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
