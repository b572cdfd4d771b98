"""Paired comparison of two ways to train, over several seeds and one test set, and a verdict in words.

Both the training seeds and the test images are samples, and every seed meets every image: a crossed design
with two random effects. An interval from the seeds alone pretends that the test set is the world; one from
the images alone pretends that training has no luck in it.

The variance of the difference is put together from its components (two-way analysis of variance, stratified
by class): seeds + images − their interaction, which both of the first two contain. In simulations of this
design (5 to 10 seeds, 300 images; `tests/evaluation/test_stats.py` repeats them) the 95 % interval covers the
truth in 95 to 99 % of the cases; the whole interval lies above the truth in 3 % at most. The pigeonhole
bootstrap (Owen 2007, The Annals of Applied Statistics 1) with Student's t covers 95 to 100 % with intervals
up to 1.6 times as wide: it counts the interaction three times. The weak spot is a class of some 5 test
images, nearly all of them right: 91 to 94 %, because too small a gain is reported, not too large a one.
"""

from __future__ import annotations

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
    treatment: NDArray[np.bool_], baseline: NDArray[np.bool_], labels: NDArray[np.int64]
) -> PairedDifference:
    """Compare two arms: balanced accuracy of `treatment` − that of `baseline`, with a 95 % interval.

    Both matrices are (S, I): row s is the run with seed s (the same in both arms), column i the test image i,
    True where the prediction was right. `labels` is (I,).

    The interval is mean ± t · se, where t has Satterthwaite's degrees of freedom for the sum of components,
    but never fewer than S − 1.

    Raises:
        ConfigError: fewer than 2 seeds, or shapes that do not fit each other.
        DataError: a class with fewer than 2 test images (its share of the variance cannot be known).
    """
    if treatment.ndim != 2 or treatment.shape != baseline.shape or labels.shape != treatment.shape[1:]:
        raise ConfigError(
            f"Correctness of shape {treatment.shape} and {baseline.shape} and labels of shape {labels.shape} "
            "were given; (seeds, images) twice and (images,) are wanted. Score both arms on the same seeds "
            "and test set."
        )
    seeds = treatment.shape[0]
    if seeds < 2:
        raise ConfigError(f"{seeds} seed was given; a paired interval wants at least 2. Add seeds.")
    points = 100.0 * (treatment.astype(np.float64) - baseline.astype(np.float64))
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        raise DataError(
            f"Class {int(classes[counts.argmin()])} has 1 test image; at least 2 of each class are wanted. "
            "Move more images of it to the test set."
        )

    per_seed = np.zeros(seeds)
    between_images = np.zeros(len(classes))
    interaction = 0.0
    for k, label in enumerate(classes):
        d = points[:, labels == label]
        by_seed, by_image = d.mean(axis=1), d.mean(axis=0)
        n, weight = d.shape[1], 1.0 / len(classes) ** 2
        per_seed += by_seed / len(classes)
        between_images[k] = weight * by_image.var(ddof=1) / n
        residual = d - by_seed[:, None] - by_image + d.mean()
        interaction += weight * (residual**2).sum() / ((seeds - 1) * (n - 1)) / (seeds * n)
    between_seeds = per_seed.var(ddof=1) / seeds
    # The component estimates are noisy: their sum may not fall below what either sample shows alone.
    variance = max(between_seeds + between_images.sum() - interaction, between_seeds, between_images.sum())

    spread = between_seeds**2 / (seeds - 1) + (between_images**2 / (counts - 1)).sum()
    freedom = max(seeds - 1.0, variance**2 / spread) if spread > 0 else seeds - 1.0
    half = float(stdtrit(freedom, 0.975) * np.sqrt(variance))
    mean = float(per_seed.mean())
    return PairedDifference(mean, mean - half, mean + half, tuple(float(v) for v in per_seed), labels.size)


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
    limits = (
        "The interval covers the luck of the training seed and of which images are in this test set; it does "
        "not cover another generator, another classifier, or images from elsewhere."
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
