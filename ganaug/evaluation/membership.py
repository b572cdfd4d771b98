"""Can an attacker who holds an image tell from the synthetic images whether it was trained on?

Two attacks that need nothing but the synthetic images score every training image (member) and every held-out image
(non-member); a score that ranks members above non-members gives them away.

- *nearest*: the nearer the nearest synthetic image, the likelier a member. The full black-box attack of GAN-Leaks
  (Chen et al., "GAN-Leaks: a taxonomy of membership inference attacks against generative models", 2020).
- *calibrated*: the same over the distance to the nearest images of a reference that the generator never saw, half of
  the held-out images; the other half are the non-members, and then the halves change places. The density ratio of
  DOMIAS (van Breugel et al., "Membership inference attacks against synthetic data through overfitting detection",
  2023), with nearest-neighbor densities.

What counts is besides the AUC the true-positive rate at a low false-positive rate: an attack that gives away a few
people for certain is an attack (Carlini et al., "Membership inference attacks from first principles", 2022). Both
figures are free of how many members and non-members there are. Control: the same attack on a bank of real images that
was not trained at all, a part of the held-out images; its AUC must be .5, or members and non-members differ by
themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, norm, rankdata

from ganaug.data.names import count
from ganaug.evaluation.compared import Compared
from ganaug.evaluation.distances import Interval
from ganaug.evaluation.exchangeability import by_unit, class_medians, runs_p
from ganaug.evaluation.spaces import Space
from ganaug.evaluation.three_sets import (
    FALSE_ALARM_RATE,
    HELD_OUT,
    MIN_HELD_OUT,
    TRAINING,
    Ints,
    require_rate,
)

AttackName: TypeAlias = Literal["nearest", "calibrated"]

RATES = (0.01, 0.05)
"""False-positive rates at which the true-positive rate is told."""

_REFERENCE_NEIGHBORS = 5
_LEVEL = 0.95
_CONTROL_LEVEL = 0.001


@dataclass(frozen=True)
class Hits:
    """Members found while at most a share of the non-members is taken for members."""

    rate: float
    """The false-positive rate allowed."""
    tpr: Interval
    """True-positive rate; Clopper-Pearson for the members (patients counted by how alike theirs are), at the threshold
    found on the non-members."""
    false_positives: int
    non_members: int
    fpr: Interval
    """The false-positive rate of that threshold, Clopper-Pearson: what the threshold may let through elsewhere."""


@dataclass(frozen=True)
class Attack:
    """One attack in one space."""

    space: str
    attack: AttackName
    auc: Interval
    """DeLong et al. 1988, with whole patients as clusters (Obuchowski 1997), on the logit scale."""
    p: float
    """The smaller of two p-values, doubled: of an AUC above .5, and of too many members among the highest scores
    (`runs_p`), which sees an attack that gives away few."""
    control: Interval
    """AUC of the same attack with real held-out images in place of the synthetic ones; .5 is wanted."""
    control_p: float
    """Two-sided, of a control other than .5."""
    hits: tuple[Hits, ...]
    """For those of `RATES` that the number of non-members can show."""


@dataclass(frozen=True)
class Membership:
    """All attacks, and a word for them."""

    word: Literal["alarm", "no alarm", "cannot tell"]
    sentence: str
    false_alarm_rate: float
    units: tuple[int, int]
    """Training and held-out patients (images, without groups)."""
    attacks: tuple[Attack, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        found = asdict(self)
        found["attacks"] = [one | {"hits": list(one["hits"])} for one in found["attacks"]]
        return found | {"units": list(self.units), "wanted_held_out": MIN_HELD_OUT}

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True)
class _Fold:
    """Scores of all members and of some non-members, comparable within the fold."""

    members: NDArray[np.float64]
    non_members: NDArray[np.float64]
    rows: Ints
    """Which held-out images the non-members are."""


def membership(compared: Compared, *, false_alarm_rate: float = FALSE_ALARM_RATE, seed: int = 0) -> Membership:
    """Attack the synthetic images: which real images were trained on?

    Args:
        compared: the three sets, of `Compared.of`; training images are the members, held-out ones the non-members.
        false_alarm_rate: of all attacks together.
        seed: of the halves of the held-out images.

    Raises:
        ConfigError: the false-alarm rate is not within (0, .5).
    """
    require_rate(false_alarm_rate)
    codes, units, unit = compared.codes, compared.units, compared.unit
    if min(units) < MIN_HELD_OUT:
        return Membership(
            "cannot tell",
            f"Cannot tell whether members can be told: {count(units[0], f'training {unit}')} and "
            f"{count(units[1], f'held-out {unit}')} were given, at least {MIN_HELD_OUT} of each are wanted.",
            false_alarm_rate,
            units,
            (),
        )
    quarters = _quarters(codes[1], np.random.default_rng(seed))
    attacks = []
    for space in compared.spaces:
        for name, (folds, control) in _Scorer(space, compared.classes).folds(quarters).items():
            auc, above = _auc(folds, codes)
            p = min(1.0, 2 * min(above, _few_p(folds, codes)))
            control_auc, above = _auc(control, codes)
            hits = tuple(found for rate in RATES for found in _hits(folds, codes, rate))
            attacks.append(Attack(space.name, name, auc, p, control_auc, 2 * min(above, 1 - above), hits))
    word, sentence = _verdict(attacks, units, unit, false_alarm_rate)
    return Membership(word, sentence, false_alarm_rate, units, tuple(attacks))


class _Scorer:
    """Scores in one space, with any part of the real images in the place of the synthetic ones."""

    def __init__(self, space: Space, classes: tuple[Ints, Ints, Ints] | None) -> None:
        self.space, self.classes = space, classes

    def folds(self, quarters: Sequence[Ints]) -> dict[AttackName, tuple[list[_Fold], list[_Fold]]]:
        """Return the folds of each attack and of its control, where real images stand for the synthetic ones."""
        halves = [np.concatenate(quarters[:2]), np.concatenate(quarters[2:])]
        everyone = np.concatenate(halves)
        near = self.space.to_synthetic()
        nearest, calibrated = [self._fold(near[self._rows(everyone)], everyone)], []
        nearest_control, calibrated_control = [], []
        for side in (0, 1):
            tested = halves[1 - side]
            bank, reference = quarters[2 * side], quarters[2 * side + 1]
            calibrated.append(self._fold(near[self._rows(tested)], tested, reference=halves[side]))
            nearest_control.append(self._fold(self._distance(halves[side], tested), tested))
            calibrated_control.append(self._fold(self._distance(bank, tested), tested, reference=reference))
        return {"nearest": (nearest, nearest_control), "calibrated": (calibrated, calibrated_control)}

    def _fold(self, near: NDArray[np.float64], tested: Ints, *, reference: Ints | None = None) -> _Fold:
        """Return the scores of all members and of the tested non-members from their distances to a bank."""
        known = near[near > 0]
        floor = 1e-3 * float(np.median(known)) if len(known) else 1.0
        scores = -np.log(near + floor)
        if reference is not None:
            scores += np.log(self._distance(reference, tested, k=_REFERENCE_NEIGHBORS) + floor)
        label = None
        if self.classes is not None:
            label = np.concatenate([self.classes[TRAINING], self.classes[HELD_OUT][tested]])
        scores -= class_medians(scores, label)
        n = len(scores) - len(tested)
        return _Fold(scores[:n], scores[n:], tested)

    def _rows(self, tested: Ints) -> Ints:
        """Return where members and tested non-members stand among all real images."""
        n = len(self.space.points[TRAINING])
        return np.concatenate([np.arange(n), n + tested])

    def _distance(self, bank: Ints, tested: Ints, *, k: int = 1) -> NDArray[np.float64]:
        """Return the distance of members and of tested non-members to the k-th nearest of some held-out images."""

        def parts(arrays: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
            return arrays[HELD_OUT][bank], arrays[TRAINING], arrays[HELD_OUT][tested]

        space = Space(self.space.name, parts(self.space.points), self.space.grids and parts(self.space.grids))
        return space.to_synthetic(k=k)


def _quarters(codes: Ints, rng: np.random.Generator) -> list[Ints]:
    """Return the held-out images in four parts of about as many whole patients each."""
    units, unit = np.unique(codes, return_inverse=True)
    part = np.empty(len(units), dtype=np.int64)
    part[rng.permutation(len(units))] = np.arange(len(units)) % 4
    return [np.flatnonzero(part[unit] == number) for number in range(4)]


def _placements(fold: _Fold) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the share of non-members below each member and of members above each non-member, ties as half."""
    both = rankdata(np.concatenate([fold.members, fold.non_members]))
    m, n = len(fold.members), len(fold.non_members)
    return (both[:m] - rankdata(fold.members)) / n, 1 - (both[m:] - rankdata(fold.non_members)) / m


def _auc(folds: Sequence[_Fold], codes: tuple[Ints, Ints]) -> tuple[Interval, float]:
    """Return the AUC, averaged over the folds, with its 95 % interval, and one-sided p of an AUC above .5."""
    members = np.zeros(len(folds[0].members))
    auc, rows, others = 0.0, [], []
    for fold in folds:
        of_members, of_non_members = _placements(fold)
        members += of_members / len(folds)
        auc += float(of_members.mean()) / len(folds)
        rows.append(fold.rows)
        # Of a fold with more non-members each counts for less.
        others.append((of_non_members - of_non_members.mean()) * len(codes[1]) / len(folds) / len(fold.rows))
    held_out = np.zeros(len(codes[1]))
    held_out[np.concatenate(rows)] = np.concatenate(others)
    variance = _clustered(members - members.mean(), codes[0]) + _clustered(held_out, codes[1])
    units = [len(np.unique(part)) for part in codes]
    # The variance that no difference would have: close to an AUC of 1 the estimate above vanishes.
    least = (units[0] + units[1] + 1) / (12 * units[0] * units[1])
    p = float(norm.sf((auc - 0.5) / np.sqrt(max(variance, least))))
    if not 0 < auc < 1 or variance == 0:
        bound = ((1 - _LEVEL) / 2) ** (1 / min(units))
        return Interval(auc, min(auc, bound), max(auc, 1 - bound)), p
    half = norm.ppf((1 + _LEVEL) / 2) * np.sqrt(variance) / (auc * (1 - auc))
    middle = np.log(auc / (1 - auc))
    low, high = (float(1 / (1 + np.exp(-(middle + side * half)))) for side in (-1, 1))
    return Interval(auc, low, high), p


def _few_p(folds: Sequence[_Fold], codes: tuple[Ints, Ints]) -> float:
    """Return p of too many members among the highest scores of a fold, each patient by the highest of its scores."""
    ps = [
        runs_p(by_unit(fold.members, codes[0], np.max), by_unit(fold.non_members, codes[1][fold.rows], np.max))
        for fold in folds
    ]
    return min(ps) * len(ps)


def _clustered(parts: NDArray[np.float64], codes: Ints) -> float:
    """Return the variance of the mean of centered values whose clusters are drawn as wholes."""
    sums = np.bincount(np.unique(codes, return_inverse=True)[1], weights=parts)
    return float((sums**2).sum() * len(sums) / max(len(sums) - 1, 1)) / len(parts) ** 2


def _hits(folds: Sequence[_Fold], codes: tuple[Ints, Ints], rate: float) -> Iterator[Hits]:
    """Yield the members found at a false-positive rate, or nothing where there are too few non-members for it."""
    if any(rate * len(fold.non_members) < 1 for fold in folds):
        return
    found = np.zeros(len(folds[0].members))
    false = total = 0
    for fold in folds:
        allowed = int(rate * len(fold.non_members) + 1e-9)
        threshold = np.sort(fold.non_members)[::-1][allowed]
        found += (fold.members > threshold) / len(folds)
        false += int((fold.non_members > threshold).sum())
        total += len(fold.non_members)
    tpr = float(found.mean())
    n = float(len(found))
    alike = _clustered(found - tpr, codes[0])
    if 0 < tpr < 1 and alike > 0:
        n = min(n, tpr * (1 - tpr) / alike)
    elif len(np.unique(codes[0])) < n:
        n = float(len(np.unique(codes[0])))
    yield Hits(rate, _clopper_pearson(tpr * n, n), false, total, _clopper_pearson(false, total))


def _clopper_pearson(hits: float, n: float) -> Interval:
    """Return the exact 95 % interval of a share (Clopper and Pearson 1934); n may be an effective number."""
    tail = (1 - _LEVEL) / 2
    low = float(beta.ppf(tail, hits, n - hits + 1)) if hits > 0 else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, n - hits)) if hits < n else 1.0
    return Interval(hits / n, low, high)


def _verdict(
    attacks: Sequence[Attack], units: tuple[int, int], unit: str, rate: float
) -> tuple[Literal["alarm", "no alarm", "cannot tell"], str]:
    best = min(attacks, key=lambda one: one.p)
    hits = "".join(
        f"; at {100 * one.rate:g} % false positives it finds {100 * one.tpr.value:.1f} %" for one in best.hits
    )
    figures = (
        f"the {best.attack} attack on {best.space} ranks a training image above a held-out one with probability "
        f"{best.auc.value:.3f} (95 % interval {best.auc.low:.3f} to {best.auc.high:.3f}; control without a generator "
        f"{best.control.value:.3f}){hits}"
    )
    given = f"({units[0]:,} training and {units[1]:,} held-out {unit}s)"
    if any(one.control_p < _CONTROL_LEVEL / len(attacks) for one in attacks):
        return "cannot tell", (
            f"Cannot tell whether members can be told: {figures}, but an attack on real images that nobody trained on "
            f"does not give .5. The held-out images differ from the training images; hold out {unit}s drawn at random."
        )
    if best.p <= rate / len(attacks):
        return "alarm", (
            f"Alarm: members can be told from the synthetic images: {figures} {given}. Over all {len(attacks)} "
            f"attacks, a generator that gives nothing away raises it in at most {100 * rate:g} % of evaluations."
        )
    return "no alarm", (
        f"No alarm: these attacks do not tell members: at best {figures} {given}. A stronger attacker, who holds the "
        "model itself, may do more."
    )
