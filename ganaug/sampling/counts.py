"""How many images of each class to make: checked counts, and the counts that level an unequal set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path

from ganaug.data.reading import scan
from ganaug.errors import ConfigError, ModelFileError


def check_counts(counts: Mapping[str, int], classes: Sequence[str]) -> dict[str, int]:
    """Return `counts` with every one of `classes`, in their order; a class that is not named gets 0.

    Raises:
        ConfigError: an unknown class, a count that is no integer or is negative, or nothing to make at all.
    """
    unknown = [name for name in counts if name not in classes]
    if unknown:
        raise ConfigError(
            f"Counts were given for {', '.join(map(repr, unknown))}, but the model's classes are "
            f"{', '.join(classes)}. Name only those."
        )
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, Integral) or count < 0:
            raise ConfigError(f"The count of class {name!r} is {count!r}; an integer of 0 or more was wanted.")
    if not any(counts.values()):
        raise ConfigError("The counts ask for no images at all. Ask for at least one image of one class.")
    return {name: int(counts.get(name, 0)) for name in classes}


def balancing_counts(counts: Mapping[str, int]) -> dict[str, int]:
    """Return how many images each class lacks to reach the largest one.

    Raises:
        ConfigError: `counts` is empty, or every class is as large as the largest already.
    """
    largest = max(counts.values(), default=0)
    missing = {name: largest - count for name, count in counts.items()}
    if not any(missing.values()):
        raise ConfigError(
            f"There is nothing to balance: each of the {len(counts)} classes has {largest} images. "
            "Ask for a number of images for each class instead (per_class, --per-class)."
        )
    return missing


def slices_of(gan: object) -> str | None:
    """Return the plane along which the volumes that `gan` learned from were cut; None if they were not."""
    settings = getattr(getattr(gan, "header", None), "settings", {})
    return settings.get("slices")


def requested_counts(
    classes: Sequence[str],
    *,
    counts: Mapping[str, int] | None = None,
    per_class: int | None = None,
    balance: str | Path | Mapping[str, int] | None = None,
    slices: str | None = None,
) -> dict[str, int]:
    """Return class → number of images to make, from exactly one of the three ways to ask for them.

    `counts` is that mapping already, `per_class` the number for each class, `balance` a labelled folder (or archive),
    or its class → images: each class is then filled up to the largest. Of a folder whose table names splits the
    training part counts, as it does for `fit`. `slices` is the plane along which the model's training volumes were
    cut (`slices_of`); volumes to balance are then counted in slices too.

    Raises:
        ConfigError: none or several are given, or the counts do not fit.
        ModelFileError: the folder to balance has other classes than the model.
    """
    ways = {"counts": counts, "per_class": per_class, "balance": balance}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) != 1:
        raise ConfigError(f"{' and '.join(given) or 'No counts'} given; exactly one of {', '.join(ways)} was wanted.")
    if counts is not None:
        return check_counts(counts, classes)
    if per_class is not None:
        return check_counts(dict.fromkeys(classes, per_class), classes)
    if isinstance(balance, Mapping):
        return balancing_counts(check_counts(balance, classes))
    assert balance is not None
    manifest = scan(Path(balance), slices=slices).training_part()
    if tuple(manifest.classes) != tuple(classes):
        raise ModelFileError(
            f"The folder {balance} has the classes {', '.join(manifest.classes)}, but the model makes "
            f"{', '.join(classes)}. Balance a folder with the model's classes, or give counts."
        )
    return balancing_counts({name: manifest.counts[name] for name in classes})
