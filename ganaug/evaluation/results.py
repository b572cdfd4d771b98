"""What a study found: every prediction's correctness, and the figures, table and verdict made of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganaug.evaluation.arms import ARMS
from ganaug.evaluation.stats import PairedDifference, Verdict, class_recalls, paired_difference, verdict

PRIMARY = ("synthetic", "classical")
"""The comparison that the verdict speaks of, fixed before any result is seen."""


@dataclass(frozen=True)
class StudyResult:
    """What every arm got right, seed by seed and test image by test image; all figures follow from it."""

    classes: tuple[str, ...]
    train_counts: tuple[int, ...]
    """Real training images of each class."""
    test_labels: NDArray[np.int64]
    seeds: tuple[int, ...]
    correct: dict[str, NDArray[np.bool_]]
    """Arm → (seeds, test images): whether the prediction was right."""
    synthetic_counts: tuple[int, ...]
    """Synthetic images of each class in the synthetic arms."""
    settings: dict[str, Any]

    def accuracy(self, arm: str) -> NDArray[np.float64]:
        """Return the accuracy of each seed, in [0, 1]."""
        return self.correct[arm].mean(axis=1)

    def recalls(self, arm: str) -> NDArray[np.float64]:
        """Return (seeds, classes) recalls in [0, 1]."""
        return class_recalls(self.correct[arm], self.test_labels)

    def balanced_accuracy(self, arm: str) -> NDArray[np.float64]:
        """Return the mean recall over the classes of each seed, in [0, 1]."""
        return self.recalls(arm).mean(axis=1)

    @property
    def rare(self) -> tuple[int, ...]:
        """Labels of the classes with fewer than half as many real training images as the largest class."""
        return tuple(k for k, count in enumerate(self.train_counts) if 2 * count < max(self.train_counts))

    @cached_property
    def differences(self) -> dict[str, dict[str, PairedDifference]]:
        """Baseline ("classical", "as-is") → arm → paired difference in balanced accuracy."""
        return {
            baseline: {
                arm: paired_difference(correct, self.correct[baseline], self.test_labels)
                for arm, correct in self.correct.items()
                if arm != baseline
            }
            for baseline in ("classical", "as-is")
            if baseline in self.correct
        }

    @property
    def verdict(self) -> Verdict | None:
        """The verdict on the primary comparison, or None where one of its two arms was not run."""
        treatment, baseline = PRIMARY
        if treatment not in self.correct or baseline not in self.correct:
            return None
        return verdict(self.differences[baseline][treatment], smallest_gain=self.settings["smallest_gain"])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON types; correctness as one string of 0 and 1 for each seed."""
        found = self.verdict
        return {
            "classes": list(self.classes),
            "train_counts": list(self.train_counts),
            "synthetic_counts": list(self.synthetic_counts),
            "rare_classes": [self.classes[k] for k in self.rare],
            "settings": self.settings,
            "seeds": list(self.seeds),
            "test_labels": self.test_labels.tolist(),
            "arms": {
                arm: {
                    "title": ARMS[arm].title,
                    "balanced_accuracy": self.balanced_accuracy(arm).tolist(),
                    "accuracy": self.accuracy(arm).tolist(),
                    "recall": dict(zip(self.classes, self.recalls(arm).T.tolist(), strict=True)),
                    "correct": ["".join("01"[int(hit)] for hit in row) for row in correct],
                }
                for arm, correct in self.correct.items()
            },
            "differences": {
                baseline: {arm: diff.to_dict() for arm, diff in arms.items()}
                for baseline, arms in self.differences.items()
            },
            "primary": dict(zip(("treatment", "baseline"), PRIMARY, strict=True)),
            "verdict": found.to_dict() if found else None,
        }

    def table(self) -> str:
        """Return a plain text table: one row for each arm, and below it what the columns are."""
        baseline = next((name for name in ("classical", "as-is") if name in self.correct), None)
        header = ["arm", "balanced accuracy", "accuracy"]
        header += ["rare recall"] if self.rare else []
        header += ["difference [95 % interval]"] if baseline and len(self.correct) > 1 else []
        rows = [header]
        for arm in self.correct:
            balanced = 100 * self.balanced_accuracy(arm)
            row = [ARMS[arm].title, f"{balanced.mean():.1f} ± {balanced.std(ddof=1):.1f}"]
            row.append(f"{100 * self.accuracy(arm).mean():.1f}")
            if self.rare:
                row.append(f"{100 * self.recalls(arm)[:, list(self.rare)].mean():.1f}")
            if baseline and len(self.correct) > 1:
                row.append("baseline" if arm == baseline else str(self.differences[baseline][arm]))
            rows.append(row)
        widths = [max(len(row[k]) for row in rows) for k in range(len(header))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        lines.insert(1, "  ".join("-" * width for width in widths))
        notes = [
            f"In %, mean ± standard deviation over {len(self.seeds)} seeds, on {len(self.test_labels)} real "
            f"test images; {self.settings['steps']} steps of {self.settings['batch']} images in every arm."
        ]
        if baseline:
            notes.append(f"Difference: points of balanced accuracy, paired, against '{ARMS[baseline].title}'.")
        if self.rare:
            notes.append("Rare: " + ", ".join(f"{self.classes[k]} ({self.train_counts[k]})" for k in self.rare))
        return "\n".join(line.rstrip() for line in [*lines, "", *notes])
