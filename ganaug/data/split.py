"""Group-wise, class-stratified splits that do not depend on the order of the files."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from ganaug.errors import ConfigError


def split_three(
    labels: Sequence[int] | np.ndarray,
    groups: Sequence[str],
    *,
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int,
) -> dict[str, np.ndarray]:
    """Return the sorted indices of the ``train``, ``val`` and ``test`` side (int64).

    First the test side is split off with `split_by_group`, then the validation side from the rest in the same way, and
    everything said there holds for both: no group is on two sides, each class is shared out as nearly as whole groups
    allow, the order of the files does not matter. So the test side is the same for any validation fraction. A class
    with few groups of its own gives its first group to training, its second to test, its third to validation.

    What more data moves: among groups of one class and one size (such as images without known patients), one group more
    moves at most three others, because all are shared out in an order fixed by seed and name. Groups of other classes
    do not move if no group holds both. No number is promised for groups of differing sizes or of several classes: there
    the choice of the first ones changes how much is wanted of the next. Keep the split itself (as a column of
    ``metadata.csv``) if results before and after new data are to be compared.

    Args:
        labels: class index of each item.
        groups: group name of each item.
        fractions: of train, val and test; train above 0, and 1 in sum. A fraction of 0 leaves that side empty.
        seed: another seed gives another split.

    Raises:
        ConfigError: the fractions do not sum to 1, or labels and groups differ in number.
    """
    train, val, test = fractions
    if not (train > 0 and val >= 0 and test >= 0 and abs(train + val + test - 1) < 1e-6):
        raise ConfigError(
            f"Fractions of {train}, {val} and {test} for train, val and test were given; numbers that sum to 1, the "
            "first above 0, were wanted."
        )
    _require_pairs(labels, groups)
    rest = np.arange(len(groups))
    sides = {}
    for name, share in (("test", test), ("val", val / (train + val))):
        if share > 0:
            kept, held_out = split_by_group(
                [int(labels[i]) for i in rest.tolist()],
                [groups[i] for i in rest.tolist()],
                test_fraction=share,
                seed=seed,
            )
            rest, sides[name] = rest[kept], rest[held_out]
        else:
            sides[name] = np.array([], dtype=np.int64)
    return {"train": rest, "val": sides["val"], "test": sides["test"]}


def split_by_group(
    labels: Sequence[int] | np.ndarray, groups: Sequence[str], *, test_fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted indices of the training side and of the test side (int64).

    No group (patient) is on both sides. Each class gives the test side `test_fraction` of its images, as
    nearly as whole groups allow. Of a class that has two groups or more of its own, both sides get some; one
    with a single group of its own keeps it for training. A group's side is a function of the seed, its name
    and the class composition, never of the order of the files.

    The rarest class is served first; a group that also holds other classes counts for these too.

    Args:
        labels: class index of each item.
        groups: group name of each item.
        test_fraction: between 0 and 1, both excluded.
        seed: another seed gives another split.

    Raises:
        ConfigError: `test_fraction` is out of range, or labels and groups differ in number.
    """
    if not 0 < test_fraction < 1:
        raise ConfigError(f"A test fraction of {test_fraction} was given; a number between 0 and 1 was wanted.")
    _require_pairs(labels, groups)
    composition: dict[str, Counter[int]] = defaultdict(Counter)
    for label, group in zip(labels, groups, strict=True):
        composition[group][int(label)] += 1
    totals = sum(composition.values(), Counter())
    test_groups: set[str] = set()
    settled: set[str] = set()
    for label in sorted(totals, key=lambda label: (totals[label], label)):
        held_out = sum(composition[group][label] for group in test_groups)
        open_groups = [group for group, found in composition.items() if found[label] and group not in settled]
        open_groups.sort(key=lambda group: _order(seed, group))
        sizes = [composition[group][label] for group in open_groups]
        # Somebody must stay to be trained on: the last group, unless settled ones already train on this
        # class.
        trained_on = any(composition[group][label] for group in settled - test_groups)
        chosen = _choose(sizes, test_fraction * totals[label] - held_out, spare=not trained_on, need=held_out == 0)
        test_groups.update(open_groups[i] for i in chosen)
        settled.update(open_groups)
    sides = np.array([group in test_groups for group in groups], dtype=bool)
    return np.flatnonzero(~sides), np.flatnonzero(sides)


def _require_pairs(labels: Sequence[int] | np.ndarray, groups: Sequence[str]) -> None:
    if len(labels) != len(groups):
        raise ConfigError(f"{len(labels)} labels and {len(groups)} groups were given; one of each an item was wanted.")


def _choose(sizes: list[int], target: float, *, spare: bool, need: bool) -> list[int]:
    """Return which of `sizes`, tried in order, bring their sum nearest to `target`.

    With `spare` at least one is left over. With `need` at least one is taken where that is possible.
    """
    limit = len(sizes) - 1 if spare else len(sizes)
    chosen: list[int] = []
    remaining = target
    for index, size in enumerate(sizes):
        if len(chosen) < limit and abs(remaining - size) < abs(remaining):
            chosen.append(index)
            remaining -= size
    if need and not chosen and limit > 0:
        chosen.append(int(np.argmin(sizes)))
    return chosen


def _order(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{group}".encode("utf-8", "surrogatepass")).digest()
