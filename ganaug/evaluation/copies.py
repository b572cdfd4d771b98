"""Synthetic images with the content of a training image, and those whose perceptual hashes nearly agree."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray
from scipy.stats import fisher_exact

from ganaug.data.fingerprint import CONSTANT, NEAR, near_duplicates, phash
from ganaug.evaluation.three_sets import HELD_OUT, SYNTHETIC, TRAINING, Floats, Ints

_CELLS = 4_000_000


@dataclass(frozen=True)
class Duplicates:
    """Images with the same content (to 16 bits), and images whose perceptual hashes nearly agree."""

    exact: tuple[tuple[int, int], ...]
    """(synthetic, training) of equal content; images of one value are not counted."""
    exact_held_out: int
    """Held-out images that stand among the training images."""
    near: int
    """Synthetic images with a near duplicate among the training images."""
    near_held_out: int
    near_across_classes: int | None
    """Synthetic images with a near or exact duplicate among training images of another class."""
    within: tuple[tuple[int, ...], ...]
    """Sets of synthetic images with the same content."""
    within_near: tuple[tuple[int, ...], ...]
    """Sets of synthetic images linked by near duplicates: the generator repeats itself."""
    within_across_classes: int | None
    """How many of the sets of both kinds have more than one label."""


def find_duplicates(sets: tuple[Floats, Floats, Floats], classes: tuple[Ints, Ints, Ints] | None) -> Duplicates:
    """Return the duplicates of the training images among the synthetic and the held-out ones.

    Args:
        sets: synthetic, training and held-out images, N×C×spatial in [-1, 1].
        classes: their labels.
    """
    contents = [_contents(images) for images in sets]
    hashes = [np.array([phash(np.moveaxis(image, 0, -1)) for image in images], dtype=np.uint64) for images in sets]
    holders: dict[bytes, list[int]] = {}
    for at, content in enumerate(contents[TRAINING]):
        if content is not None:
            holders.setdefault(content, []).append(at)
    exact = [(at, other) for at, content in enumerate(contents[SYNTHETIC]) for other in holders.get(content or b"", [])]
    near, near_across = _near(hashes[SYNTHETIC], hashes[TRAINING], classes)
    if classes is not None:
        for at, other in exact:
            near_across[at] |= classes[SYNTHETIC][at] != classes[TRAINING][other]
    repeated: dict[bytes, list[int]] = {}
    for at, content in enumerate(contents[SYNTHETIC]):
        if content is not None:
            repeated.setdefault(content, []).append(at)
    within = [tuple(places) for places in repeated.values() if len(places) > 1]
    alike = [tuple(places) for places in near_duplicates(hashes[SYNTHETIC].tolist())]
    mixed = None
    if classes is not None:
        mixed = sum(len({int(classes[SYNTHETIC][at]) for at in places}) > 1 for places in {*within, *alike})
    return Duplicates(
        exact=tuple(exact),
        exact_held_out=sum(content in holders for content in contents[HELD_OUT] if content is not None),
        near=int(near.sum()),
        near_held_out=int(_near(hashes[HELD_OUT], hashes[TRAINING], None)[0].sum()),
        near_across_classes=None if classes is None else int(near_across.sum()),
        within=tuple(within),
        within_near=tuple(alike),
        within_across_classes=mixed,
    )


def without_repeats(sets: tuple[Floats, Floats, Floats]) -> tuple[Ints, Ints, Ints]:
    """Return which synthetic, training and held-out images stay where real images of equal content occur in the data.

    In a set with repeats a twin is no sign of copying: a held-out image has one by chance, and the distance of 0 would
    look impossible to a test that knows images without twins. So the images of repeated content are left out, whichever
    side they are on, and the synthetic images with the content of a real one, which `exact_copies_p` judges by
    how many held-out images are copies too. Where no two real images are equal all stay: there a twin is a sign.
    """
    synthetic, training, held_out = (_contents(images) for images in sets)
    everyone = [content for content in (*training, *held_out) if content is not None]
    seen = Counter(everyone)
    repeated = {content for content, times in seen.items() if times > 1}
    if not repeated:
        return np.arange(len(synthetic)), np.arange(len(training)), np.arange(len(held_out))
    return (
        np.flatnonzero([content not in seen for content in synthetic]),
        np.flatnonzero([content not in repeated for content in training]),
        np.flatnonzero([content not in repeated for content in held_out]),
    )


def exact_copies_p(found: Duplicates, sets: tuple[Floats, Floats, Floats]) -> float:
    """Return p of the test that synthetic images are exact copies more often than held-out images are.

    Copies of one training image count once: a generator that draws one picture again and again is one event.
    """
    copies, control = len({training for _, training in found.exact}), found.exact_held_out
    copies = min(copies, len(sets[SYNTHETIC]))
    table = [[copies, len(sets[SYNTHETIC]) - copies], [control, len(sets[HELD_OUT]) - control]]
    return float(fisher_exact(table, alternative="greater").pvalue)


def _contents(images: Floats) -> list[bytes | None]:
    """Return a hash of each image's pixels at 16 bits; None for an image of one value, which says nothing of anyone."""
    levels = np.round((images + 1) * 32767.5).astype(np.int32).reshape(len(images), -1)
    return [None if row[0] == row.max() == row.min() else sha256(row.tobytes()).digest() for row in levels]


def _near(
    hashes: NDArray[np.uint64], training: NDArray[np.uint64], classes: tuple[Ints, Ints, Ints] | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which images have a near duplicate among the training images, and which one of another class."""
    found, across = np.zeros(len(hashes), dtype=bool), np.zeros(len(hashes), dtype=bool)
    structured = training != CONSTANT
    step = max(1, _CELLS // len(training))
    for start in range(0, len(hashes), step):
        rows = slice(start, start + step)
        near = np.bitwise_count(hashes[rows, None] ^ training) <= NEAR
        near &= structured & (hashes[rows, None] != CONSTANT)
        found[rows] = near.any(axis=1)
        if classes is not None:
            across[rows] = (near & (classes[SYNTHETIC][rows, None] != classes[TRAINING])).any(axis=1)
    return found, across
