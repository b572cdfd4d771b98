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

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ganaug.data.names import count
from ganaug.evaluation.compared import Compared
from ganaug.evaluation.copies import Duplicates, exact_copies_p, find_duplicates, without_repeats
from ganaug.evaluation.copy_figures import SpaceResult, space_figures
from ganaug.evaluation.exchangeability import Nearness, split_p
from ganaug.evaluation.three_sets import (
    FALSE_ALARM_RATE,
    HELD_OUT,
    MIN_HELD_OUT,
    SYNTHETIC,
    TRAINING,
    require_rate,
)

_SPLIT_LEVEL = 0.001


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
    compared: Compared, *, false_alarm_rate: float = FALSE_ALARM_RATE, closest: int = 20, seed: int = 0
) -> Memorization:
    """Compare how near synthetic images come to the training images and to held-out images of other patients.

    Args:
        compared: the three sets, of `Compared.of`.
        false_alarm_rate: of a whole evaluation, over all its tests.
        closest: pairs listed in each space.
        seed: of the cells of C_T and of the check of the split.

    Raises:
        ConfigError: the false-alarm rate is not within (0, .5).
    """
    require_rate(false_alarm_rate)
    sets, codes, classes, spaces = compared.sets, compared.codes, compared.classes, compared.spaces
    units = compared.units
    found = find_duplicates(sets, classes)
    level = false_alarm_rate / (3 * len(spaces) + 1)
    enough = min(units) >= MIN_HELD_OUT

    evidence, results, uneven = [], [], None
    kept = without_repeats(sets)
    scored = enough and len(kept[SYNTHETIC]) > 0
    own = (codes[0][kept[TRAINING]], codes[1][kept[HELD_OUT]])
    same = None if classes is None else (classes[0][kept[0]], classes[1][kept[1]], classes[2][kept[2]])
    for space in spaces:
        nearness = Nearness(space, codes, classes)
        results.append(space_figures(nearness, classes, closest=closest, seed=seed))
        if scored:
            if any(len(rows) < len(images) for rows, images in zip(kept, sets, strict=True)):
                nearness = Nearness(space.subset(kept), own, same)
            evidence += [Evidence(space.name, test, p, level) for test, p in nearness.tests().items()]
            p = split_p(nearness, same, seed=seed)
            uneven = p if uneven is None else min(uneven, p)
    if uneven is not None:
        uneven = min(1.0, uneven * len(spaces))
    if enough:
        evidence.append(Evidence("pixels", "exact copies", exact_copies_p(found, sets), level))
    word, sentence = _verdict(evidence, results, found, units, uneven, false_alarm_rate, compared.unit)
    return Memorization(
        word,
        sentence,
        false_alarm_rate,
        (len(sets[0]), len(sets[1]), len(sets[2])),
        units,
        tuple(evidence),
        uneven,
        tuple(results),
        found,
    )


def _verdict(
    evidence: Sequence[Evidence],
    results: Sequence[SpaceResult],
    found: Duplicates,
    units: tuple[int, int],
    split_p: float | None,
    rate: float,
    unit: str,
) -> tuple[Literal["alarm", "no alarm", "cannot tell"], str]:
    copies = len({at for at, _ in found.exact})
    many = "are exact copies of training images" if copies > 1 else "is an exact copy of a training image"
    listed = f" {count(copies, 'synthetic image')} {many}." if copies else ""
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
        smallest = f"= {worst.p:.1g}" if worst.p > 0 else "below 1e-300"
        return "alarm", (
            f"Alarm: the synthetic images depend on which images were trained on: {told} (smallest p {smallest})."
            f"{listed} Over all {len(evidence)} tests, a generator that does not copy raises this alarm "
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
