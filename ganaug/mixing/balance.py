"""How many synthetic images each class gets, and the weights that correct what imbalance is left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Literal

from ganaug.errors import ConfigError, DataError
from ganaug.mixing.strategy import SamplingStrategy, by_label, resolve_sampling_strategy

Balance = Literal["synthesize", "resample", "both"]
BALANCES = ("synthesize", "resample", "both")
Ratio = float | Mapping[str, float] | Mapping[int, float]
"""For all classes, or by class name or label; classes that a mapping does not name have 0."""


@dataclass(frozen=True)
class Mixture:
    """What a data set is made of besides its real items."""

    synthetic: dict[int, int]
    """Label → synthetic images, of the classes that get or could have got some."""
    weights: dict[int, float]
    """Label → how often an item of that class is to be drawn in an epoch; 1 for all where no weights are needed."""


def plan_mixture(
    strategy: SamplingStrategy,
    counts: Mapping[int, int],
    classes: Sequence[str],
    *,
    balance: Balance = "synthesize",
    ratio: Ratio | None = None,
    symmetric: float | bool = False,
) -> Mixture:
    """Return what to add to classes that have `counts` (label → real images, of all labels).

    1. `symmetric` = s gives every class s synthetic images for each real one, rounded up.
    2. `strategy` (see `resolve_sampling_strategy`) sets the total T of each class, counting those of step 1 as had.
       Totals that are numbers, from a mapping or a function, include them.
    3. `balance` says how a class gets there. ``"synthesize"``: by synthetic images, weights stay 1. ``"resample"``:
       without any, by the weight T / n of its n items. ``"both"``: half of what step 2 lacks, rounded up, by synthetic
       images, the rest by the weight T / n.
    4. `ratio` = r cuts every class to r synthetic images for each real one, rounded down; a mapping class name or label
       → r those that it names, and all others to none. What is cut stays missing under "synthesize"; under "both" the
       weights make up for it.

    `symmetric` = True, only with "both", gives every class as many synthetic images for each real one as the class
    with most, within `ratio`: the same synthetic share everywhere, so that being synthetic tells nothing of the class.

    Raises:
        ConfigError: a setting is out of range, or two of them contradict each other.
        DataError: a class has no real image, and no explicit total asks for synthetic ones alone.
    """
    _check(balance, ratio, symmetric, classes)
    share = 0.0 if symmetric is True else float(symmetric)
    base = {label: _at_least(share * count) for label, count in counts.items()}
    explicit = callable(strategy) or isinstance(strategy, Mapping)
    if explicit:
        wanted = resolve_sampling_strategy(strategy, counts, classes)
        lacking = {label: max(0, count - base[label]) for label, count in wanted.items()}
    else:
        had = {label: count + base[label] for label, count in counts.items()}
        lacking = resolve_sampling_strategy(strategy, had, classes)
    names = sorted({*lacking, *(label for label, count in base.items() if count or symmetric is True)})
    totals = {label: counts[label] + base[label] + lacking.get(label, 0) for label in counts}
    needs_real = not explicit or balance == "resample" or ratio is not None or symmetric is True
    _refuse_empty([classes[label] for label in names if not counts[label] and totals[label] and needs_real])

    part = {"synthesize": 1.0, "resample": 0.0, "both": 0.5}[balance]
    cap = {label: _cap(limit, counts[label]) for label, limit in enumerate(_limits(ratio, classes))}
    made = {label: min(base[label] + _at_least(part * lacking.get(label, 0)), cap[label]) for label in names}
    if symmetric is True:
        most = max((made[label] / counts[label] for label in names if counts[label]), default=0.0)
        made = {label: min(round(most * counts[label]), cap[label]) for label in names}
    synthetic = {label: int(count) for label, count in made.items()}
    items = {label: counts[label] + synthetic.get(label, 0) for label in counts}
    weights = {
        label: totals[label] / items[label] if balance != "synthesize" and items[label] else 1.0 for label in counts
    }
    return Mixture(synthetic, weights)


def _limits(ratio: Ratio | None, classes: Sequence[str]) -> list[float | None]:
    """Return the ratio of each class, None for no limit."""
    if not isinstance(ratio, Mapping):
        return [ratio] * len(classes)
    named = by_label(ratio, classes, "ratio")
    return [named.get(label, 0.0) for label in range(len(classes))]


def _cap(limit: float | None, images: int) -> float:
    return math.inf if limit is None else _at_most(limit * images)


def _check(balance: str, ratio: Ratio | None, symmetric: float | bool, classes: Sequence[str]) -> None:
    if balance not in BALANCES:
        raise ConfigError(f"balance is {balance!r}; one of {', '.join(map(repr, BALANCES))} was wanted.")
    limits = [limit for limit in _limits(ratio, classes) if limit is not None]
    if any(isinstance(limit, bool) or not _is_share(limit) for limit in limits):
        raise ConfigError(
            f"ratio is {ratio!r}; a number of 0 or more was wanted: the most synthetic images for each real one of a "
            "class, such as 0.5, or None for no limit, or a mapping class → number."
        )
    if not isinstance(symmetric, bool) and not _is_share(symmetric):
        raise ConfigError(
            f"symmetric is {symmetric!r}; True, False, or a number of 0 or more was wanted: the synthetic images that "
            "every class gets for each real one, such as 0.25."
        )
    if symmetric is True and isinstance(ratio, Mapping):
        raise ConfigError(
            f"symmetric is True, the same synthetic share in every class, with a ratio for each, {ratio!r}. Give one "
            "number as ratio, or leave one of the two out."
        )
    if symmetric is not True and symmetric > min(limits, default=math.inf):
        raise ConfigError(
            f"symmetric is {symmetric}, more synthetic images for each real one than ratio={ratio} allows. Raise ratio "
            "or lower symmetric."
        )
    if symmetric and balance == "resample":
        raise ConfigError(
            f"symmetric is {symmetric!r}, but balance='resample' adds no synthetic images. Use balance='both' or leave "
            "symmetric out."
        )
    if symmetric is True and balance == "synthesize":
        raise ConfigError(
            "symmetric is True with balance='synthesize': the same synthetic share in every class leaves the classes "
            "as unequal as they are. Use balance='both', whose weights level them, or a number such as symmetric=0.25."
        )


def _refuse_empty(names: Sequence[str]) -> None:
    if names:
        raise DataError(
            f"The real data set has no image of {', '.join(map(repr, names))}. Is it the right part of your data? To "
            "train a class on synthetic images alone, ask for a number with a mapping, sampling_strategy={"
            f"{names[0]!r}: 100}}, without ratio, symmetric=True and balance='resample'."
        )


def _is_share(value: object) -> bool:
    return isinstance(value, Real) and math.isfinite(value) and float(value) >= 0


# A product such as .29 × 100 lies a little beside the whole number that is meant.
def _at_most(value: float) -> int:
    return math.floor(value + 1e-9)


def _at_least(value: float) -> int:
    return math.ceil(value - 1e-9)
