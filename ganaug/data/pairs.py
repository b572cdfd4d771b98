"""Paired images: the same stem in two domains is a pair, and whether the two of a pair lie over each other."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from ganaug.data.layouts.npz import SUFFIX as ARCHIVE
from ganaug.data.manifest import UNKNOWN, Item, Manifest
from ganaug.data.mixtures import size_text
from ganaug.data.names import count, few, printable
from ganaug.data.readers import suffix_of
from ganaug.data.tensors import read_item
from ganaug.errors import ConfigError, DataError

SHIFTED = 0.02
"""The share of a side from which a shift between the two images of a pair is reported."""

SAMPLED = 32
"""Pairs that are looked at for shifts."""

CLEARER = 0.05
"""How much more alike (by correlation) the edges must at least be after a shift than before it."""

CHANCE = 10.0
"""Divided by the root of the number of pixels: as much more alike as noise may be at the best of all shifts."""

_LONGEST = {2: 256, 3: 96}
"""Images and volumes with longer sides are reduced before they are compared."""


def pair_by_stem(manifest: Manifest, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Find the pairs of two domains.

    Two images are a pair if they have the same stem: the path without suffix (``.nii.gz`` is one) and without the first
    part that is the domain's name, such as ``p1/007`` for ``t2/p1/007.nii.gz`` and for ``p1/t2/007.png``. Of a DICOM
    series the folder counts; slices, and images of archives, pair by their number.

    Args:
        manifest: of `by_class`, `by_column` or `joined` in `ganaug.data.domains`.
        names: the two domains: values of the items' `domain`, or classes.

    Returns:
        Positions of items, P×2 int64, one column a domain, sorted by stem; and a sentence on each kind of image that
        is left without a partner.

    Raises:
        ConfigError: `names` are not two.
        DataError: there is no pair, or the images of a pair differ in size or channels.
    """
    if len(names) != 2 or names[0] == names[1]:
        raise ConfigError(
            f"Paired training was asked for between {few(list(names)) or 'no domains'}; two domains were wanted: "
            "--domains a,b."
        )
    stems = [_stems(manifest, name) for name in names]
    sentences = []
    for name, found in zip(names, stems, strict=True):
        twice = sorted(stem for stem, positions in found.items() if len(positions) > 1)
        if twice:
            sentences.append(
                f"{count(len(twice), 'stem stands', 'stems stand')} for several images of {printable(name)}, which are "
                f"left out: {few(twice)}."
            )
            for stem in twice:
                found[stem] = []
    first, second = ({stem: at[0] for stem, at in found.items() if at} for found in stems)
    shared = sorted(first.keys() & second.keys())
    if not shared:
        examples = " and ".join(printable(min(found, default="none")) for found in (first, second))
        raise DataError(
            f"No image of {printable(names[0])} has the same stem as one of {printable(names[1])} in {manifest.root}: "
            f"the stems are such as {examples}. Two folders with the same file names were wanted, or train without "
            "pairs: --model cyclegan."
        )
    for (name, one), (partner, other) in (
        ((names[0], first), (names[1], second)),
        ((names[1], second), (names[0], first)),
    ):
        alone = sorted(manifest.items[one[stem]].name for stem in one.keys() - other.keys())
        if alone:
            sentences.append(
                f"{len(alone):,} of {count(len(one), 'image')} of {printable(name)} have no partner in "
                f"{printable(partner)} and are left out: {few(alone)}."
            )
    pairs = np.array([(first[stem], second[stem]) for stem in shared], dtype=np.int64)
    _require_one_shape(manifest, pairs)
    return pairs, sentences


def misaligned(manifest: Manifest, pairs: np.ndarray, *, sampled: int = SAMPLED, shifted: float = SHIFTED) -> list[str]:
    """Return a sentence that names the pairs whose two images are shifted against each other; none if all lie well.

    The shift is the peak of the phase correlation of gradient magnitudes, which contrasts share where gray values do
    not (Kuglin & Hines 1975). It counts if the edges are clearly more alike after it than before. Rotation and scale
    are not looked for.

    Args:
        manifest: the images.
        pairs: positions of items, P×2, of one shape each, see `pair_by_stem`.
        sampled: so many pairs are looked at, evenly spread.
        shifted: the share of a side above which a shift is reported.

    Raises:
        DataError: a file changed or vanished since the scan.
    """
    looked_at = np.unique(np.linspace(0, len(pairs) - 1, min(sampled, len(pairs))).round().astype(int)).tolist()
    found = []
    for one, other in (pairs[index].tolist() for index in looked_at):
        items = manifest.items[one], manifest.items[other]
        shift = _shift(*(read_item(manifest.root, item) for item in items))
        if shift is not None and (np.abs(shift) > shifted * np.array(items[0].shape)).any():
            sides = zip(shift.tolist(), ("depth", "height", "width")[-len(shift) :], strict=True)
            steps = ", ".join(f"{step:+d} along the {side}" for step, side in sides if step)
            found.append(f"{items[1].name} against {items[0].name} ({steps})")
    if not found:
        return []
    listed = "; ".join(map(printable, found[:3])) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")
    return [
        f"{len(found)} of {count(len(looked_at), 'pair')} that were looked at are shifted by more than {shifted:.0%} "
        f"of a side, in pixels: {listed}. Register the images of a pair to each other, or train without pairs: --model "
        "cyclegan."
    ]


def _stems(manifest: Manifest, name: str) -> dict[str, list[int]]:
    """Return the positions of a domain's items by their stem."""
    by_domain = name in manifest.domains
    label = manifest.classes.index(name) if name in manifest.classes else UNKNOWN
    found = defaultdict(list)
    for position, item in enumerate(manifest.items):
        if (item.domain == name) if by_domain else (item.label == label != UNKNOWN):
            found[_stem(item, name)].append(position)
    return found


def _stem(item: Item, name: str) -> str:
    suffix = suffix_of(item.path) or (ARCHIVE if item.path.lower().endswith(ARCHIVE) else "")
    # The files of a series are numbered by the scanner, and seldom alike in two of them.
    path = item.path.rpartition("/")[0] if item.files else item.path[: len(item.path) - len(suffix)]
    parts = path.split("/")
    if name in parts[:-1] or (name == parts[-1] and (suffix == ARCHIVE or item.files)):
        parts.remove(name)
    return "/".join(parts) + (f"#{item.part}" if item.part else "")


def _require_one_shape(manifest: Manifest, pairs: np.ndarray) -> None:
    different = []
    for one, other in pairs.tolist():
        first, second = manifest.items[one], manifest.items[other]
        if (first.shape, _channels(first)) != (second.shape, _channels(second)):
            different.append(f"{_described(first)} and {_described(second)}")
    if different:
        named = "; ".join(different[:3]) + (f"; and {len(different) - 3} more" if len(different) > 3 else "")
        raise DataError(
            f"{len(different):,} of {count(len(pairs), 'pair')} in {manifest.root} differ in size or channels: "
            f"{named}. Two images of one shape, pixel upon pixel, were wanted: resample one to the other, or train "
            "without pairs: --model cyclegan."
        )


def _described(item: Item) -> str:
    return f"{printable(item.name)} ({size_text(item)}, {count(_channels(item), 'channel')})"


def _channels(item: Item) -> int:
    return 1 if item.gray else item.channels


def _shift(one: np.ndarray, other: np.ndarray) -> np.ndarray | None:
    """Return how far `other` lies from `one` along each side, in pixels; None if that cannot be told, or is chance.

    Args:
        one: H×W×C or D×H×W×C.
        other: the same size.
    """
    from skimage.registration import phase_cross_correlation

    steps = [-(-side // _LONGEST[one.ndim - 1]) for side in one.shape[:-1]]
    fixed, moving = _edges(one, steps), _edges(other, steps)
    if not (fixed.any() and moving.any()):
        return None
    back = phase_cross_correlation(fixed, moving)[0].astype(int)
    gain = _likeness(fixed, moving, back) - _likeness(fixed, moving, np.zeros_like(back))
    if gain < max(CLEARER, CHANCE / math.sqrt(fixed.size)):
        return None
    return -back * np.array(steps)


def _edges(pixels: np.ndarray, steps: Sequence[int]) -> np.ndarray:
    """Return gradient magnitudes, reduced by `steps` along the sides, that fade toward the border."""
    from scipy.ndimage import gaussian_gradient_magnitude
    from skimage.transform import downscale_local_mean

    gray = pixels.mean(axis=-1, dtype=np.float32)
    whole = gray[tuple(slice(side - side % step) for side, step in zip(gray.shape, steps, strict=True))]
    edges = gaussian_gradient_magnitude(downscale_local_mean(whole, tuple(steps)), 1.0)
    edges -= edges.mean()
    for axis, side in enumerate(edges.shape):
        # Without it the border, which is in one place in both, would be the strongest edge.
        edges *= np.hanning(side + 2)[1:-1].reshape(-1, *[1] * (edges.ndim - axis - 1))
    return edges


def _likeness(one: np.ndarray, other: np.ndarray, shift: np.ndarray) -> float:
    """Return the correlation of `one` with `other` moved by `shift`, where both are."""
    here = tuple(slice(max(0, s), side + min(0, s)) for s, side in zip(shift.tolist(), one.shape, strict=True))
    there = tuple(slice(max(0, -s), side + min(0, -s)) for s, side in zip(shift.tolist(), one.shape, strict=True))
    first, second = one[here] - one[here].mean(), other[there] - other[there].mean()
    return float((first * second).sum() / max(np.sqrt((first**2).sum() * (second**2).sum()), 1e-12))
