"""Images that stand in a folder twice: exact copies, and images that look alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from ganaug.data.fingerprint import NEAR, near_duplicates
from ganaug.data.geometry import PLANES
from ganaug.data.manifest import Item
from ganaug.data.names import count
from ganaug.data.problems import Problem, problem, split_of


def copy_problems(items: Sequence[Item]) -> Iterator[Problem]:
    """Yield exact copies (one SHA-256) and near duplicates (perceptual hashes at most `NEAR` bits apart).

    Near duplicates are looked for where the scan made perceptual hashes, and only between groups: images of one patient
    look alike. Each problem has ``sets``, a list of lists of names that belong together.
    """
    copies: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        copies[item.sha256].append(item)
    yield from _exact([members for members in copies.values() if len(members) > 1])
    alike = near_duplicates(_hashes(items), groups=[item.group for item in items])
    sets = [[items[index] for index in indices] for indices in alike]
    yield from _near([members for members in sets if len({item.sha256 for item in members}) > 1])


def _exact(sets: list[list[Item]]) -> Iterator[Problem]:
    within, classes, splits = _sorted_out(sets)
    if within:
        extra = sum(len(members) - 1 for members in within)
        copies = count(extra, "exact copy", "exact copies")
        yield _of_sets("duplicates", f"{copies} of other images in the same class; remove the copies", within)
    if classes:
        message = f"{count(len(classes), 'image')} with exact copies in another class; only one label can be right"
        yield _of_sets("duplicates_across_classes", message, classes)
    if splits:
        message = (
            f"{count(len(splits), 'image')} with exact copies in another split; what is measured on them means "
            "nothing: keep each in one split"
        )
        yield _of_sets("duplicates_across_splits", message, splits)


def _near(sets: list[list[Item]]) -> Iterator[Problem]:
    within, classes, splits = _sorted_out(sets)
    apart = f"perceptual hashes at most {NEAR} of 64 bits apart"
    if within:
        message = (
            f"{_counted(within)} within one class ({apart}); look at them: remove what is one image saved "
            "twice, and give images of one patient one group"
        )
        yield _of_sets("near_duplicates", message, within)
    if classes:
        message = f"{_counted(classes)} across classes ({apart}); look which label is right"
        yield _of_sets("near_duplicates_across_classes", message, classes)
    if splits:
        message = (
            f"{_counted(splits)} across splits ({apart}); look at them: what shows one patient must be in one split"
        )
        yield _of_sets("near_duplicates_across_splits", message, splits)


def _hashes(items: Sequence[Item]) -> list[int | None]:
    """Return the perceptual hashes; of a volume that was cut into slices only that of the central one.

    The slices at the rim of all volumes look alike.
    """
    slices: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        if item.part.partition("[")[0] in PLANES:
            slices[item.path].append(index)
    hashes = [item.phash for item in items]
    for indices in slices.values():
        for index in indices:
            if index != indices[len(indices) // 2]:
                hashes[index] = None
    return hashes


def _sorted_out(sets: list[list[Item]]) -> tuple[list[list[Item]], list[list[Item]], list[list[Item]]]:
    """Return the sets within a class and split, those across classes, and those across splits; some are both."""
    classes = [members for members in sets if len({item.label for item in members}) > 1]
    splits = [members for members in sets if len({split_of(item) for item in members}) > 1]
    across = {id(members) for members in (*classes, *splits)}
    return [members for members in sets if id(members) not in across], classes, splits


def _counted(sets: list[list[Item]]) -> str:
    return f"{sum(map(len, sets)):,} images look alike in {count(len(sets), 'set')}"


def _of_sets(kind: str, message: str, sets: list[list[Item]]) -> Problem:
    names = [[item.name for item in members] for members in sets]
    return problem(kind, message, [name for members in names for name in members], sets=names)
