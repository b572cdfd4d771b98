"""What the study of a folder found: tables, the choice made on validation, the verdict, the recommended setting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from ganaug.evaluation.arms import FOLDER_ARMS
from ganaug.evaluation.jackknife import Jackknifed, deal_blocks, difference, jackknifed
from ganaug.evaluation.scores import MEASURES, SPECIFICITY, score
from ganaug.evaluation.significance import holm, sign_flip_p
from ganaug.evaluation.stats import PairedDifference, class_recalls, paired_difference, verdict

REFERENCE = "augmented"
"""The arm that all differences in the tables are taken to: oversampling with the tuned augmentation."""
WORDS = {"helps": "use", "does not help": "do not use", "cannot tell": "cannot tell"}


@dataclass(frozen=True, eq=False)
class Part:
    """Real images that the arms were scored on."""

    labels: np.ndarray
    """Class of each, N int64."""
    groups: tuple[str, ...] | None
    """Patient of each; None where each image is its own."""
    probabilities: dict[str, np.ndarray]
    """Arm → seeds×N×classes."""


@dataclass(frozen=True, eq=False)
class StudyOutcome:
    """Every prediction of a study, and the figures that follow from them."""

    classes: tuple[str, ...]
    train_counts: tuple[int, ...]
    seeds: tuple[int, ...]
    generators: tuple[int, ...]
    """Generator of each seed, for the arms that have one."""
    parts: dict[str, Part]
    """``val``, ``test`` and, with another site's labelled images, ``site``."""
    settings: dict[str, Any]
    smallest_gain: float
    """In points of balanced accuracy."""

    @property
    def arms(self) -> tuple[str, ...]:
        """Names, in the order of the tables."""
        return tuple(self.parts["test"].probabilities)

    @property
    def rare(self) -> tuple[int, ...]:
        """Classes with fewer than half as many training images as the largest."""
        return tuple(k for k, count in enumerate(self.train_counts) if 2 * count < max(self.train_counts))

    def scores(self, part: str, arm: str) -> dict[str, np.ndarray]:
        """Return each measure of an arm's classifiers, S values in [0, 1] by name."""
        return self._jackknifed[part][arm].full

    @cached_property
    def _jackknifed(self) -> dict[str, dict[str, Jackknifed]]:
        found: dict[str, dict[str, Jackknifed]] = {}
        for name, part in self.parts.items():
            # Nothing is compared on validation images: they choose, and no interval is read off them.
            blocks = [] if name == "val" else deal_blocks(part.labels, part.groups)
            found[name] = {
                arm: jackknifed(
                    [partial(_score, rows, part.labels, self.rare) for rows in probabilities], len(part.labels), blocks
                )
                for arm, probabilities in part.probabilities.items()
            }
        return found

    def units(self, *arms: str) -> tuple[int, ...] | None:
        """Return the generator of each seed where an arm has one that differs between the seeds; else None."""
        several = len(set(self.generators)) > 1
        return self.generators if several and any(FOLDER_ARMS[arm].generated for arm in arms) else None

    def compare(self, part: str, treatment: str, baseline: str) -> PairedDifference:
        """Return the paired difference in balanced accuracy, in points, with its interval."""
        there = self.parts[part]
        hits = [there.probabilities[arm].argmax(axis=2) == there.labels for arm in (treatment, baseline)]
        generators = self.units(treatment, baseline)
        return paired_difference(hits[0], hits[1], there.labels, groups=there.groups, generators=generators)

    @cached_property
    def chosen(self) -> tuple[str | None, str]:
        """The arm with a generator, and the arm without, that have the highest mean balanced accuracy on validation.

        Duplicates are a control, and not chosen.
        """
        part = self.parts["val"]
        hits = {arm: rows.argmax(axis=2) == part.labels for arm, rows in part.probabilities.items()}
        means = {arm: float(class_recalls(rows, part.labels).mean()) for arm, rows in hits.items()}
        with_generator = [arm for arm in self.arms if FOLDER_ARMS[arm].generated]
        without = [arm for arm in self.arms if not FOLDER_ARMS[arm].source]
        # The first of equals: the order of the arms goes from simple to involved.
        best = max(with_generator, key=lambda arm: means[arm]) if with_generator else None
        return best, max(without, key=lambda arm: means[arm])

    def verdict(self, part: str = "test") -> dict[str, Any] | None:
        """Return the verdict on the comparison of the two chosen arms, made once on images that chose nothing.

        It is not "use" where another way without generated images is clearly better than the chosen one with them:
        then the validation images have chosen the wrong one to compare with.
        """
        treatment, baseline = self.chosen
        if treatment is None:
            return None
        found = self.compare(part, treatment, baseline)
        said = verdict(
            found,
            smallest_gain=self.smallest_gain,
            treatment=f"Training with '{FOLDER_ARMS[treatment].title}'",
            baseline=f"'{FOLDER_ARMS[baseline].title}'",
        )
        word = WORDS[said.word]
        if said.word == "helps" and found.high < self.smallest_gain:
            word = "do not use"
        sentence = said.sentence
        if word == "use" and sum(not FOLDER_ARMS[arm].source for arm in self.arms) == 1:
            sentence += (
                " There was one way without generated images to compare with. The choice among the others was made "
                "with the same classifiers, and without a second such way 'use' is wrong in up to 10 % of the cases "
                "without an effect (simulated), instead of 3 to 5 %."
            )
        if word == "use" and (clearly := self._clearly_better(part, treatment)):
            arm, more = clearly
            word = "cannot tell"
            sentence = (
                f"Cannot tell. {sentence} But '{FOLDER_ARMS[arm].title}', without generated images, had "
                f"{-more.mean:.1f} points more than that on the same images (95 % interval {-more.high:.1f} to "
                f"{-more.low:.1f}), and was not the best on the validation images: these and the test images differ, "
                "and which way is better on others is open."
            )
        return {
            "word": word,
            "sentence": sentence,
            "treatment": treatment,
            "baseline": baseline,
            "difference": found.to_dict(),
            "sign_flip_p": sign_flip_p(self._unit_means(found, treatment, baseline)),
            "smallest_gain": self.smallest_gain,
        }

    def _clearly_better(self, part: str, treatment: str) -> tuple[str, PairedDifference] | None:
        """Return the arm without added images that is the most above `treatment`, by its whole interval, if any is."""
        found = {arm: self.compare(part, treatment, arm) for arm in self.arms if not FOLDER_ARMS[arm].source}
        above = {arm: difference for arm, difference in found.items() if difference.high < 0}
        return min(above.items(), key=lambda pair: pair[1].mean) if above else None

    def _unit_means(self, found: PairedDifference, *arms: str) -> Sequence[float]:
        generators = self.units(*arms)
        if generators is None:
            return found.per_seed
        values, numbers = np.array(found.per_seed), np.array(generators)
        return [float(values[numbers == number].mean()) for number in np.unique(numbers)]

    def comparisons(self, part: str) -> dict[str, dict[str, Any]]:
        """Return for each arm its differences to `REFERENCE`, or to the chosen baseline if that was not run.

        By arm: measure → [mean, low, high] in points, the sign-flip p of balanced accuracy over the seeds (over the
        generators, where several take part) and Holm's correction of it over the arms.
        """
        reference = REFERENCE if REFERENCE in self.arms else self.chosen[1]
        others = [arm for arm in self.arms if arm != reference]
        jackknife = self._jackknifed[part]
        rows: dict[str, dict[str, Any]] = {}
        for arm in others:
            found = self.compare(part, arm, reference)
            row: dict[str, Any] = {"balanced_accuracy": [found.mean, found.low, found.high]}
            for name in MEASURES:
                if name != "balanced_accuracy":
                    values = difference(jackknife[arm], jackknife[reference], name, generators=self.units(arm))
                    row[name] = [None if math.isnan(100 * value) else 100 * value for value in values]
            rows[arm] = {
                "reference": reference,
                "points": row,
                "p": sign_flip_p(self._unit_means(found, arm, reference)),
            }
        corrected = holm({arm: row["p"] for arm, row in rows.items()})
        return {arm: {**row, "p_holm": corrected[arm]} for arm, row in rows.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the single probabilities as JSON values."""
        treatment, baseline = self.chosen
        parts = {}
        for name, part in self.parts.items():
            parts[name] = {
                "images": dict(
                    zip(self.classes, np.bincount(part.labels, minlength=len(self.classes)).tolist(), strict=True)
                ),
                "groups": None if part.groups is None else len(set(part.groups)),
                "scores": {
                    arm: {measure: values.tolist() for measure, values in self.scores(name, arm).items()}
                    for arm in self.arms
                },
                "against_reference": {} if name == "val" else self.comparisons(name),
                "verdict": None if name == "val" else self.verdict(name),
            }
        return {
            "classes": list(self.classes),
            "train_images": dict(zip(self.classes, self.train_counts, strict=True)),
            "rare_classes": [self.classes[k] for k in self.rare],
            "seeds": list(self.seeds),
            "generators": list(self.generators),
            "arms": {arm: FOLDER_ARMS[arm].title for arm in self.arms},
            "chosen_on_validation": {"with_generator": treatment, "without": baseline},
            "settings": self.settings,
            "parts": parts,
        }

    def limit_of_p(self) -> list[str]:
        """Return a sentence where so few generators take part that no p of theirs can be small."""
        units = len(set(self.generators))
        if not 1 < units < 10 or not any(FOLDER_ARMS[arm].generated for arm in self.arms):
            return []
        return [
            f"With {units} generators the p of an arm that has one cannot be below {2 / 2**units:.3f} before the "
            "correction; the intervals do not have this limit."
        ]

    def rows(self, part: str) -> list[list[str]]:
        """Return the cells of a table, a row an arm below the head: means over the seeds in %, difference in points."""
        comparisons = self.comparisons(part)
        rows = [["arm", *(measure.title for measure in MEASURES.values()), "difference [95 %]", "p (Holm)"]]
        for arm in self.arms:
            values, last = self.scores(part, arm), ["reference", ""]
            if arm in comparisons:
                mean, low, high = comparisons[arm]["points"]["balanced_accuracy"]
                last = [f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]", f"{comparisons[arm]['p_holm']:.2f}"]
            rows.append([FOLDER_ARMS[arm].title, *(f"{100 * values[name].mean():.1f}" for name in MEASURES), *last])
        return rows

    def table(self, part: str = "test") -> str:
        """Return a plain text table of an arm a row: means over the seeds in %, and the difference in points."""
        rows = self.rows(part)
        widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        there = self.parts[part]
        about = "all classes" if not self.rare else "the rare: " + ", ".join(
            f"{self.classes[k]} ({self.train_counts[k]})" for k in self.rare
        )  # fmt: skip
        return "\n".join(
            [
                lines[0], "  ".join("-" * width for width in widths), *lines[1:], "",
                f"In %, means over {len(self.seeds)} seeds on {len(there.labels)} real {part} images. Sensitivity at "
                f"{SPECIFICITY:.0%} specificity and AUPRC: {about}. ECE: less is better.",
                "Difference: points of balanced accuracy, paired; p from sign flips, corrected for the number of arms.",
                *self.limit_of_p(),
            ]
        )  # fmt: skip


def _score(
    probabilities: np.ndarray, labels: np.ndarray, rare: Sequence[int], positions: np.ndarray
) -> Mapping[str, float]:
    return score(probabilities[positions], labels[positions], rare=rare)
