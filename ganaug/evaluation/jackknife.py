"""Paired comparison of any measure of two arms (AUROC, sensitivity, calibration), with an interval.

As in `ganaug.evaluation.stats` seeds and test images are both samples. What the images contribute is found by leaving
out one block of test patients at a time (delete-a-group jackknife: Kott 2001, Journal of Official Statistics 17), which
needs nothing of a measure but that it can be computed. The interaction of both is not taken off, so that the intervals
are somewhat wide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from ganaug.evaluation.stats import by_generator

BLOCKS = 40
"""Of test images, at most; as many as the smallest class has groups, if these are fewer."""
LEAST_BLOCKS = 5

Score = Callable[[NDArray[np.intp]], Mapping[str, float]]
"""Positions of test images to the measures of one trained classifier on them, by name."""


@dataclass(frozen=True)
class Jackknifed:
    """The measures of the classifiers of one arm, by name: on all test images, and without each block."""

    full: dict[str, NDArray[np.float64]]
    """Of each seed, S."""
    without: dict[str, NDArray[np.float64]]
    """Of each seed and block left out, S×B."""


def deal_blocks(labels: NDArray[np.int64], groups: Sequence[str] | None = None) -> list[NDArray[np.intp]]:
    """Return the positions of the images of each block: whole groups, each class over all blocks.

    Empty where a class has fewer than `LEAST_BLOCKS` groups, or all of them in one block: there an interval would be a
    guess.
    """
    owner = np.arange(len(labels)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    fewest = min(len(np.unique(owner[labels == label])) for label in np.unique(labels))
    count = min(BLOCKS, fewest)
    if count < LEAST_BLOCKS:
        return []
    there = np.zeros((owner.max() + 1, labels.max() + 1), dtype=bool)
    there[owner, labels] = True
    drawn = np.random.default_rng(0).permutation(len(there))
    # By the classes that they hold, so that alike ones are neighbors and go to different blocks.
    order = drawn[np.lexsort(there[drawn].T)]
    block = np.empty(len(order), dtype=np.intp)
    block[order] = np.arange(len(order)) % count
    if any(len(np.unique(block[there[:, label]])) < 2 for label in np.unique(labels)):
        return []
    return [np.flatnonzero(block[owner] == b) for b in range(count)]


def jackknifed(scores: Sequence[Score], images: int, blocks: Sequence[NDArray[np.intp]]) -> Jackknifed:
    """Compute the measures of an arm's classifiers (one `Score` a seed) with all images and without each block."""
    everything = np.arange(images)
    kept = [np.setdiff1d(everything, block) for block in blocks]
    full = [score(everything) for score in scores]
    without = [[score(part) for part in kept] for score in scores]
    names = list(full[0])
    return Jackknifed(
        {name: np.array([row[name] for row in full]) for name in names},
        {name: np.array([[cell[name] for cell in row] for row in without]).reshape(len(full), -1) for name in names},
    )


def difference(
    treatment: Jackknifed, baseline: Jackknifed, name: str, *, generators: Sequence[int] | None = None
) -> tuple[float, float, float]:
    """Return the mean of treatment − baseline over the seeds and its 95 % interval; NaN for an interval without blocks.

    `generators` as in `ganaug.evaluation.stats.paired_difference`.
    """
    full = by_generator(treatment.full[name] - baseline.full[name], generators)
    without = (treatment.without[name] - baseline.without[name]).mean(axis=0)
    mean, blocks, units = float(full.mean()), len(without), len(full)
    if blocks < LEAST_BLOCKS or units < 2:
        return mean, float("nan"), float("nan")
    between_units = float(full.var(ddof=1)) / units
    between_blocks = float((blocks - 1) / blocks * ((without - without.mean()) ** 2).sum())
    variance = between_units + between_blocks
    spread = between_units**2 / (units - 1) + between_blocks**2 / (blocks - 1)
    freedom = variance**2 / spread if spread > 0 else min(units, blocks) - 1.0
    half = float(stdtrit(freedom, 0.975) * np.sqrt(variance))
    return mean, mean - half, mean + half
