"""Paired comparison of two ways to train, over several seeds and one test set, and a verdict in words.

Both the training seeds and the test images are samples, and every seed meets every image: a crossed design
with two random effects. An interval from the seeds alone pretends that the test set is the world; one from
the images alone pretends that training has no luck in it.

The variance of the difference is put together from its components (two-way analysis of variance, stratified
by class): seeds + images − their interaction, which both of the first two contain. In simulations of this
design (5 to 10 seeds, 300 images; `tests/evaluation/test_stats.py` repeats them) the 95 % interval covers the
truth in 94 to 97 % of the cases; the whole interval lies above the truth in 3 % at most. With several images
of a patient, or two seeds of each of 5 generators, it covers 94 to 96 % where they are named (`groups`,
`generators`), and 78 to 86 % where they are not. The pigeonhole bootstrap (Owen 2007, The Annals of Applied
Statistics 1) with Student's t covers 95 to 100 % with intervals up to 1.6 times as wide: it counts the
interaction three times. The weak spot is a class of some 5 test images: 93 to 99 %, the least where nearly
all of them are right, because too small a gain is reported, not too large a one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from ganaug.errors import ConfigError, DataError

MIN_SEEDS = 5
"""With fewer seeds no verdict is given. Swapping the arms of a pair at random (a two-sided sign-flip test)
cannot go below p = 2 / 2ⁿ: .25 for 3 seeds, .125 for 4, .0625 for 5, .031 for 6. Below 5 a "helps" would rest
on the assumption of normal seeds alone."""


@dataclass(frozen=True)
class PairedDifference:
    """The difference in balanced accuracy of two arms, in percentage points, with its 95 % interval."""

    mean: float
    low: float
    high: float
    per_seed: tuple[float, ...]
    test_images: int
    generators: int = 0
    """Generators that the interval counts as drawn; 0 where it holds for the one that was examined."""
    test_groups: int = 0
    """Groups (patients) of the test images; as many as images where each is its own."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return asdict(self) | {"per_seed": list(self.per_seed)}

    def __str__(self) -> str:
        return f"{self.mean:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


@dataclass(frozen=True)
class Verdict:
    """A word for machines and for headlines, and a sentence with the numbers and their limits."""

    word: Literal["helps", "does not help", "cannot tell"]
    sentence: str

    def to_dict(self) -> dict[str, str]:
        """Return the fields as JSON types."""
        return asdict(self)


def class_recalls(correct: NDArray[np.bool_], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the recall of each class in [0, 1], shape (S, K), from correctness (S, I) and labels (I,).

    K counts the classes that the labels hold, in ascending order; the mean over them is the balanced
    accuracy.
    """
    correct = np.atleast_2d(correct)
    return np.stack([correct[:, labels == c].mean(axis=1) for c in np.unique(labels)], axis=1)


def paired_difference(
    treatment: NDArray[np.bool_],
    baseline: NDArray[np.bool_],
    labels: NDArray[np.int64],
    *,
    groups: Sequence[str] | None = None,
    generators: Sequence[int] | None = None,
) -> PairedDifference:
    """Compare two arms: balanced accuracy of `treatment` − that of `baseline`, with a 95 % interval.

    Both matrices are (S, I): row s is the run with seed s (the same in both arms), column i the test image i,
    True where the prediction was right. `labels` is (I,).

    Images of one group (patient) are not independent: with `groups` (I) whole groups count as drawn. Nor are seeds that
    share a generator: with `generators` (S), the number of each seed's generator, the generators count as drawn, and
    their seeds' mean is what each of them shows.

    The interval is mean ± t · se, where t has Satterthwaite's degrees of freedom for the sum of components,
    but never fewer than one less than the fewest of seeds (generators) and of a class's images (groups).

    Raises:
        ConfigError: fewer than 2 seeds or generators, or shapes that do not fit each other.
        DataError: a class with fewer than 2 test images or groups (its share of the variance cannot be known).
    """
    if treatment.ndim != 2 or treatment.shape != baseline.shape or labels.shape != treatment.shape[1:]:
        raise ConfigError(
            f"Correctness of shape {treatment.shape} and {baseline.shape} and labels of shape {labels.shape} "
            "were given; (seeds, images) twice and (images,) are wanted. Score both arms on the same seeds "
            "and test set."
        )
    if treatment.shape[0] < 2:
        raise ConfigError(f"{treatment.shape[0]} seed was given; a paired interval wants at least 2. Add seeds.")
    points = 100.0 * (treatment.astype(np.float64) - baseline.astype(np.float64))
    clusters = _clusters(labels, groups)
    per_seed = np.stack([points[:, labels == c].mean(axis=1) for c in np.unique(labels)]).mean(axis=0)
    rows = by_generator(points, generators)
    mean, half = _crossed(rows, labels, clusters)
    units = len(rows) if generators is not None else 0
    return PairedDifference(
        mean, mean - half, mean + half, tuple(float(v) for v in per_seed), labels.size, units, int(clusters.max()) + 1
    )


def by_generator(rows: NDArray[np.float64], generators: Sequence[int] | None) -> NDArray[np.float64]:
    """Return the mean of the rows (S×…) of each generator, or the rows where no generators are given.

    Raises:
        ConfigError: not one generator for each row, or fewer than 2 of them.
    """
    if generators is None:
        return rows
    numbers = np.unique(generators)
    if len(generators) != len(rows) or len(numbers) < 2:
        raise ConfigError(
            f"{len(generators)} seeds of {len(numbers)} generators were given for {len(rows)} seeds; one for each seed "
            "and at least 2 different ones are wanted."
        )
    return np.stack([rows[np.asarray(generators) == number].mean(axis=0) for number in numbers])


def _clusters(labels: NDArray[np.int64], groups: Sequence[str] | None) -> NDArray[np.int64]:
    """Return the number of each image's group, after making sure that each class has at least 2."""
    if groups is not None and len(groups) != len(labels):
        raise ConfigError(f"{len(groups)} groups were given for {len(labels)} test images; one of each is wanted.")
    clusters = np.arange(len(labels)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    for label in np.unique(labels):
        there = len(np.unique(clusters[labels == label]))
        if there < 2:
            what = "image" if groups is None else "group (patient)"
            raise DataError(
                f"Class {int(label)} has {there} test {what}; at least 2 of each class are wanted. "
                "Move more images of it to the test set."
            )
    return clusters


def _crossed(
    points: NDArray[np.float64], labels: NDArray[np.int64], clusters: NDArray[np.int64]
) -> tuple[float, float]:
    """Return the mean over the classes of the mean of `points` (S×I), and half its 95 % interval."""
    seeds = len(points)
    classes = np.unique(labels)
    per_seed = np.zeros(seeds)
    # What each group adds to the deviation of the mean: its variance is that of a sum over groups, also where a group
    # has images of several classes (Cochran 1977, "Sampling techniques", section 6.8).
    influence = np.zeros((seeds, clusters.max() + 1))
    between_by_class, freedoms = np.zeros(len(classes)), np.zeros(len(classes))
    for k, label in enumerate(classes):
        chosen = labels == label
        d, own = points[:, chosen], clusters[chosen]
        by_seed, there = d.mean(axis=1), len(np.unique(own))
        per_seed += by_seed / len(classes)
        deviation = (d - by_seed[:, None]) / (d.shape[1] * len(classes)) * np.sqrt(there / (there - 1))
        part = np.stack([np.bincount(own, row, minlength=influence.shape[1]) for row in deviation])
        influence += part
        between_by_class[k], freedoms[k] = (part.mean(axis=0) ** 2).sum(), there - 1
    between_images = float((influence.mean(axis=0) ** 2).sum())
    interaction = float(((influence - influence.mean(axis=0)) ** 2).sum()) / ((seeds - 1) * seeds)
    between_seeds = float(per_seed.var(ddof=1)) / seeds
    # The component estimates are noisy: their sum may not fall below what either sample shows alone.
    variance = max(between_seeds + between_images - interaction, between_seeds, between_images)

    spread = between_seeds**2 / (seeds - 1) + (between_by_class**2 / freedoms).sum()
    least = min(seeds - 1.0, float(freedoms.min()))
    freedom = max(least, variance**2 / spread) if spread > 0 else least
    return float(per_seed.mean()), float(stdtrit(freedom, 0.975) * np.sqrt(variance))


def verdict(
    diff: PairedDifference,
    *,
    smallest_gain: float = 0.5,
    treatment: str = "Adding the synthetic images",
    baseline: str = "oversampling and classical augmentation alone",
) -> Verdict:
    """Put a difference into words: does `treatment` help over `baseline`?

    "helps" when the whole interval lies above 0; "does not help" when it lies below `smallest_gain`, in
    points, the smallest gain that would be worth the trouble; "cannot tell" otherwise, with fewer than
    `MIN_SEEDS` seeds, and when nothing differed (which says little of how large a difference
    could be).
    """
    numbers = (
        f"{diff.mean:+.1f} points of balanced accuracy against {baseline} (95 % interval {diff.low:+.1f} to "
        f"{diff.high:+.1f}; {len(diff.per_seed)} seeds, {diff.test_images} test images)"
    )
    luck, beyond = "the luck of the training seed", "another generator, another classifier,"
    if diff.generators:
        luck, beyond = (
            f"the luck of the generator ({diff.generators} trained) and of the training seed",
            "another classifier",
        )
    limits = (
        f"The interval covers {luck} and of which images are in this test set; it does not cover {beyond} or images "
        "from elsewhere."
    )
    if diff.generators and diff.generators < MIN_SEEDS:
        return Verdict(
            "cannot tell",
            f"Cannot tell: {numbers}, but {diff.generators} generators are too few for a verdict that holds for "
            f"another one. Train at least {MIN_SEEDS}.",
        )
    if len(diff.per_seed) < MIN_SEEDS:
        return Verdict(
            "cannot tell",
            f"Cannot tell: {numbers}, but {len(diff.per_seed)} seeds are too few for a verdict. Run at least "
            f"{MIN_SEEDS}, better 10.",
        )
    if diff.low == diff.mean == diff.high == 0:
        return Verdict(
            "cannot tell",
            f"Cannot tell: {numbers}; they never differed, so this test set cannot show how large a "
            "difference could be. A larger or harder one is needed.",
        )
    if diff.low > 0:
        small = (
            f" The gain is below the {smallest_gain:g} points set as worthwhile." if diff.high < smallest_gain else ""
        )
        return Verdict("helps", f"{treatment} helps here: {numbers}.{small} {limits}")
    if diff.high < smallest_gain:
        harm = "and does harm" if diff.high < 0 else f"by {smallest_gain:g} points or more"
        return Verdict("does not help", f"{treatment} does not help here {harm}: {numbers}. {limits}")
    return Verdict(
        "cannot tell",
        f"Cannot tell whether {treatment[0].lower()}{treatment[1:]} helps: {numbers}; both no gain and a "
        f"gain of {smallest_gain:g} points or more are possible. More test images or seeds would narrow it. "
        f"{limits}",
    )
