"""How many synthetic images to add to each class, in imbalanced-learn's words for over-sampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np

from ganaug.errors import ConfigError

T = TypeVar("T")
Targets = Mapping[str, int] | Mapping[int, int]
SamplingStrategy = str | float | Targets | Callable[[np.ndarray], Targets]

WORDS = ("auto", "minority", "not minority", "not majority", "all")


def resolve_sampling_strategy(
    strategy: SamplingStrategy, counts: Mapping[int, int], classes: Sequence[str]
) -> dict[int, int]:
    """Return label → number of synthetic images to add, for the classes that `strategy` speaks of.

    `counts` is label → number of real images. The words are imbalanced-learn's ``sampling_strategy`` for
    over-samplers, where "majority" and "minority" are the first class of the largest and smallest count:

    - ``"minority"``, ``"not minority"``, ``"not majority"`` (= ``"auto"``), ``"all"``: fill those classes up to the
      majority's count;
    - a float r in (0, 1], two classes only: fill the minority up to r × the majority;
    - a mapping class name or label → wanted total of real and synthetic images;
    - a callable that gets the array of real labels and returns such a mapping.

    Raises:
        ConfigError: an unknown word or class, or a target that would need real images removed.
    """
    counts = {label: int(counts.get(label, 0)) for label in range(len(classes))}
    majority = max(counts, key=lambda label: counts[label])
    minority = min(counts, key=lambda label: counts[label])
    if callable(strategy):
        labels = np.repeat(np.fromiter(counts, dtype=np.int64), list(counts.values()))
        strategy = strategy(labels)
        if not isinstance(strategy, Mapping):
            raise ConfigError(
                f"The sampling_strategy function returned {strategy!r}; a mapping class → wanted total was wanted."
            )
    if isinstance(strategy, Mapping):
        return _from_targets(strategy, counts, classes)
    if isinstance(strategy, str):
        chosen = {
            "auto": [label for label in counts if label != majority],
            "minority": [minority],
            "not minority": [label for label in counts if label != minority],
            "not majority": [label for label in counts if label != majority],
            "all": list(counts),
        }.get(strategy)
        if chosen is None:
            raise ConfigError(
                f"sampling_strategy is {strategy!r}; one of {', '.join(map(repr, WORDS))}, a float, a "
                "mapping or a function was wanted."
            )
        return {label: counts[majority] - counts[label] for label in chosen}
    if isinstance(strategy, Real) and not isinstance(strategy, bool):
        return _from_ratio(float(strategy), counts, classes, majority)
    raise ConfigError(
        f"sampling_strategy is {strategy!r}; one of {', '.join(map(repr, WORDS))}, a float, a mapping class "
        "→ wanted total, or a function was wanted."
    )


def _from_ratio(ratio: float, counts: Mapping[int, int], classes: Sequence[str], majority: int) -> dict[int, int]:
    if len(classes) != 2:
        raise ConfigError(
            f"sampling_strategy is the ratio {ratio}, which needs two classes; there are {len(classes)}. "
            "Give a mapping class → wanted total instead."
        )
    if not 0 < ratio <= 1:
        raise ConfigError(f"sampling_strategy is the ratio {ratio}; a number above 0 and at most 1 was wanted.")
    minority = 1 - majority
    added = int(counts[majority] * ratio) - counts[minority]
    if added < 0:
        raise ConfigError(
            f"sampling_strategy is the ratio {ratio}, but {classes[minority]!r} already has "
            f"{counts[minority]} images for {counts[majority]} of {classes[majority]!r}. Give a larger "
            "ratio: real images are never removed."
        )
    return {minority: added}


def _from_targets(targets: Targets, counts: Mapping[int, int], classes: Sequence[str]) -> dict[int, int]:
    added: dict[int, int] = {}
    for label, total in by_label(targets, classes, "sampling_strategy").items():
        name = classes[label]
        if isinstance(total, bool) or not isinstance(total, Integral):
            raise ConfigError(f"sampling_strategy wants {total!r} images of {name!r}; an integer was wanted.")
        if total < counts[label]:
            raise ConfigError(
                f"sampling_strategy wants {total} images of {name!r} in all, but there are {counts[label]} "
                "real ones already. Give that number or more: real images are never removed."
            )
        added[label] = int(total) - counts[label]
    return dict(sorted(added.items()))


def by_label(values: Mapping[Any, T], classes: Sequence[str], argument: str) -> dict[int, T]:
    """Return what `values` says of classes, that it names or gives the labels of, by label.

    Raises:
        ConfigError: an unknown class, or one named twice; the message speaks of `argument`.
    """
    found: dict[int, T] = {}
    for key, value in values.items():
        if isinstance(key, str) and key in classes:
            label = list(classes).index(key)
        elif isinstance(key, Integral) and 0 <= int(key) < len(classes):
            label = int(key)
        else:
            raise ConfigError(
                f"{argument} names the class {key!r}; one of {', '.join(map(repr, classes))}, or a "
                f"label from 0 to {len(classes) - 1}, was wanted."
            )
        if label in found:
            raise ConfigError(f"{argument} names the class {classes[label]!r} twice. Name it once.")
        found[label] = value
    return found
