"""What a classifier's probabilities are worth: accuracy, ranking, sensitivity at a fixed specificity, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

BINS = 15
"""Of the calibration error."""
SPECIFICITY = 0.9


@dataclass(frozen=True)
class Measure:
    """One figure of merit."""

    title: str
    higher_is_better: bool = True


MEASURES = {
    "balanced_accuracy": Measure("balanced accuracy"),
    "sensitivity": Measure("sensitivity at fixed specificity"),
    "auprc": Measure("AUPRC"),
    "auroc": Measure("AUROC"),
    "ece": Measure("ECE", higher_is_better=False),
}
"""By name, in the order of the tables; all are in [0, 1]."""


def score(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.int64],
    *,
    rare: Sequence[int] = (),
    specificity: float = SPECIFICITY,
) -> dict[str, float]:
    """Return the measures of one classifier on one set of images, by name.

    Sensitivity and AUPRC are those of each class against all others, and the mean over the classes in `rare` (all
    classes, if it is empty); AUROC is the mean over all classes; balanced accuracy is the mean recall. Sensitivity is
    the highest that a threshold reaches at `specificity` or more. The expected calibration error is that of the most
    probable class in 15 bins of equal width (Guo et al. 2017, "On calibration of modern neural networks", eq. 3).

    Args:
        probabilities: N×K, rows that sum to 1.
        labels: N class indices; every class of the K has an image, and none has all.
        rare: classes that the study is about.
        specificity: in [0, 1).
    """
    found = np.unique(labels)
    guess = probabilities.argmax(axis=1)
    asked = list(rare) or found.tolist()
    return {
        "balanced_accuracy": float(np.mean([(guess[labels == c] == c).mean() for c in found])),
        "sensitivity": float(
            np.mean([sensitivity_at(probabilities[:, c], labels == c, specificity) for c in asked])
        ),
        "auprc": float(np.mean([average_precision_score(labels == c, probabilities[:, c]) for c in asked])),
        "auroc": float(np.mean([roc_auc_score(labels == c, probabilities[:, c]) for c in found])),
        "ece": calibration_error(probabilities, labels),
    }  # fmt: skip


def sensitivity_at(scores: NDArray[np.floating], positive: NDArray[np.bool_], specificity: float) -> float:
    """Return the highest sensitivity of a threshold on `scores` whose specificity is `specificity` or more."""
    false_positives, sensitivities, _ = roc_curve(positive, scores, drop_intermediate=False)
    return float(sensitivities[false_positives <= 1 - specificity + 1e-12].max())


def calibration_error(probabilities: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Return the expected calibration error of the most probable class, N×K probabilities and N labels."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, right - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(labels))
