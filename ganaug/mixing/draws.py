"""What the added items of an epoch show: a function of (seed, epoch) alone, the same in every worker."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np

from ganaug.errors import ConfigError
from ganaug.sampling.bank import SyntheticBank

Schedule = Callable[[int], float] | tuple[int, int]


@dataclass(frozen=True)
class EpochItems:
    """The items that follow the real ones, in one epoch."""

    is_synthetic: np.ndarray
    """Whether each shows an image of the bank, bool; the others show a real item of the same class."""
    sources: np.ndarray
    """Its position in the bank, or in the real data set, int64."""


def draw_epoch(
    added: Mapping[int, int],
    bank: SyntheticBank,
    real_labels: np.ndarray,
    *,
    seed: int,
    epoch: int,
    factor: float = 1.0,
) -> EpochItems:
    """Draw for each label of `added` (label → items) its share `factor` from the bank and the rest from real items."""
    shown = {label: math.floor(factor * count + 0.5) for label, count in added.items()}
    sources = []
    for label, count in added.items():
        ranks = draw_evenly(shown[label], bank.counts[bank.classes[label]], (seed, epoch, label))
        sources.append(bank.positions(label, ranks))
        if shown[label] < count:
            own = np.flatnonzero(real_labels == label)
            sources.append(own[draw_evenly(count - shown[label], len(own), (seed, epoch, label, 1))])
    return EpochItems(
        is_synthetic=np.concatenate(
            [np.zeros(0, bool), *(np.arange(count) < shown[label] for label, count in added.items())]
        ),
        sources=np.concatenate([np.zeros(0, np.int64), *sources]),
    )


def draw_evenly(count: int, available: int, key: Sequence[int]) -> np.ndarray:
    """Draw `count` numbers below `available` in an order that `key` decides: none twice before all were drawn once."""
    random = np.random.default_rng(tuple(key))
    rounds, rest = divmod(count, available) if count else (0, 0)
    drawn = [random.permutation(available) for _ in range(rounds)]
    if rest:
        drawn.append(random.choice(available, rest, replace=False))
    return np.concatenate([np.zeros(0, np.int64), *drawn])


def check_schedule(schedule: Schedule | None) -> None:
    """Raise ConfigError unless `schedule` is None, a function, or a pair of epochs in order."""
    if schedule is None or callable(schedule):
        return
    numbers = isinstance(schedule, tuple | list) and all(
        isinstance(epoch, Real) and not isinstance(epoch, bool) for epoch in schedule
    )
    if not numbers or len(schedule) != 2 or not 0 <= schedule[0] <= schedule[1]:
        raise ConfigError(
            f"schedule is {schedule!r}; a pair of epochs (last that uses all synthetic images, first that uses none), "
            "0 or more and in this order, or a function epoch → factor in [0, 1], was wanted."
        )


def schedule_factor(schedule: Schedule | None, epoch: int) -> float:
    """Return which share, in [0, 1], of the synthetic items `schedule` lets `epoch` use.

    Raises:
        ConfigError: a function returned something else.
    """
    if schedule is None:
        return 1.0
    if not callable(schedule):
        last, none = schedule
        return float(np.clip((none - epoch) / (none - last), 0, 1)) if none > last else float(epoch < none)
    factor = schedule(epoch)
    try:
        value = float(factor)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value <= 1:
        raise ConfigError(f"schedule returned {factor!r} for epoch {epoch}; a number from 0 to 1 was wanted.")
    return value
