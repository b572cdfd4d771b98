"""Would it show in the synthetic images had training and held-out images changed sides? Scores, and tests of them.

Each real image gets a score that does not know its side of the split, and every test here asks whether the scores of
the two sides could be exchanged. See `ganaug.evaluation.memorization` for what follows from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import beta, binom, gamma, hypergeom, mannwhitneyu

from ganaug.evaluation.spaces import Space
from ganaug.evaluation.three_sets import TRAINING, Ints

_SPLIT_DRAWS = 4999
_ENOUGH = 20
_CUTS = 24
_ORDERS = (1, 3, 10, 30)


class Nearness:
    """Distances in one space, and a score of each real image that does not know its side of the split."""

    def __init__(self, space: Space, codes: tuple[Ints, Ints], classes: tuple[Ints, Ints, Ints] | None) -> None:
        self.space, self.codes = space, codes
        training = codes[0]
        self.n_training = len(training)
        self.own = space.nearest(TRAINING, TRAINING, codes=(training, training))[1][:, 0]
        # Searched in one pool: a search on each side would be more thorough on the smaller one.
        both = np.concatenate(codes)
        neighbor, scale = space.pooled().nearest(TRAINING, TRAINING, codes=(both, both))
        self.neighbor, scale = neighbor[:, 0], scale[:, 0]
        self.has_neighbor = np.isfinite(scale)
        known = scale[np.isfinite(scale) & (scale > 0)]
        self.floor = 1e-3 * float(np.median(known)) if len(known) else 1.0
        gap = space.to_synthetic()
        self.scale = np.where(np.isfinite(scale), scale, np.median(known) if len(known) else 1.0)
        raw = self._log_ratio(self.scale, gap)
        self.middle = class_medians(raw, None if classes is None else np.concatenate(classes[TRAINING:]))
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


def split_p(nearness: Nearness, classes: tuple[Ints, Ints, Ints] | None, *, seed: int) -> float:
    """Return p of the test that an image and the nearest one of another patient are too often on the same side.

    The nearest-neighbor test (Schilling, "Multivariate two-sample tests based on nearest neighbors", 1986), with
    the sides of whole patients drawn anew; patients change sides with those of the same main class. Draws end early
    once it is clear that p is not small (Besag and Clifford, "Sequential Monte Carlo p-values", 1991).
    """
    rng = np.random.default_rng(seed)
    owner = np.unique(np.concatenate(nearness.codes), return_inverse=True)[1]
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


def by_unit(scores: NDArray, codes: Ints, pool: Callable[[NDArray], Any]) -> NDArray[np.float64]:
    """Return the pooled score of each patient."""
    order = codes.argsort(kind="stable")
    parts = np.split(scores[order], np.flatnonzero(np.diff(codes[order])) + 1)
    return np.array([pool(part) for part in parts])


def class_medians(scores: NDArray, labels: Ints | None) -> NDArray[np.float64]:
    """Return for each score the median of those of its class, or 0 without labels."""
    medians = np.zeros(len(scores))
    if labels is not None:
        for value in np.unique(labels):
            medians[labels == value] = np.median(scores[labels == value])
    return medians
