"""Images that look alike, and text burned into images: what can be seen without knowing what an image shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
from PIL import Image

from ganaug.errors import ConfigError

CONSTANT = 0
"""The hash of an image that shows no structure; it is near to no other hash."""

NEAR = 3
"""Images are near duplicates if at most this many of the 64 bits of their hashes differ."""

_SIDE = 32
_BATCH = 1_000_000

_LEAST_SIDE = 48
_LARGE_SIDE = 1024
_LEAST_CHARACTERS = 4
_MOST_CHARACTERS = 1000
_CONTRAST = 0.35
_FLAT = 0.12


def phash(pixels: np.ndarray) -> int:
    """Return the 64-bit perceptual hash of an image, of a volume that of its central axial slice.

    The image is averaged over its channels and reduced to 32×32; a bit says whether one of the 8×8 lowest
    frequencies of its cosine transform (without those that are constant along an axis) is above their median. The
    hash stays nearly the same under another size, compression, brightness and contrast; a shift or crop changes it.
    Of a volume one slice is taken and not a mean of several, because aligned scans of different patients have similar
    means. Source: the DCT based hash of Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions",
    2010.

    Args:
        pixels: H×W×C or D×H×W×C, any real type.

    Returns:
        0 to 2^64 - 1; `CONSTANT` for an image that is constant along an axis.
    """
    from scipy.fft import dctn

    plane = _plane(pixels)
    small = np.mean([_reduced(plane[..., channel]) for channel in range(plane.shape[-1])], axis=0)
    spread = np.ptp(small)
    if spread == 0:
        return CONSTANT
    frequencies = dctn((small - small.min()) / spread, norm="ortho")[1:9, 1:9].ravel()
    # What is nothing but rounding would be above or below the median by chance.
    frequencies[np.abs(frequencies) < 1e-5] = 0
    bits = frequencies > np.median(frequencies)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def near_duplicates(
    hashes: Sequence[int | None], distance: int = NEAR, *, groups: Sequence[str] | None = None
) -> list[list[int]]:
    """Return the sets of images whose hashes are linked by steps of at most `distance` bits.

    Exact, without comparing all pairs: of six blocks of bits at most three can differ in three bits, so two near
    hashes agree in some three blocks, and only hashes that do are compared.

    Args:
        hashes: of each image; None and `CONSTANT` belong to no set.
        distance: 0 to 3 bits.
        groups: the patient of each image. Images of one patient are expected to look alike: only images of different
            patients are linked.

    Returns:
        For each set of at least two images their positions, sorted; the sets are sorted too.

    Raises:
        ConfigError: `distance` is not within 0 to 3.
    """
    if not 0 <= distance <= NEAR:
        raise ConfigError(f"A distance of {distance} bits was given; 0 to {NEAR} was wanted.")
    known = [index for index, value in enumerate(hashes) if value not in (None, CONSTANT)]
    if not known:
        return []
    nodes, node_of = np.unique(np.array([hashes[index] for index in known], dtype=np.uint64), return_inverse=True)
    codes: dict[str, int] = {}
    group_of = np.array(
        [index if groups is None else codes.setdefault(groups[index], len(codes)) for index in known], dtype=np.int64
    )
    first, last = _extremes(node_of, group_of, len(nodes))
    component = _components(nodes, distance, first, last)[node_of]
    first, last = _extremes(component, group_of, len(nodes))
    members: dict[int, list[int]] = {}
    for index, label in zip(known, component.tolist(), strict=True):
        if first[label] < last[label]:
            members.setdefault(label, []).append(index)
    return sorted(members.values())


def burned_in(pixels: np.ndarray) -> bool:
    """Return whether text seems to be burned into the margin of an image, of a volume into its central axial slice.

    A hint and no proof: at least four bright, thin marks of one height in a row, on a dark and even margin, are taken
    for text. Slanted text, text on bright ground and text over the anatomy are missed.

    Args:
        pixels: H×W×C or D×H×W×C, any real type.
    """
    from scipy import ndimage

    plane = _plane(pixels)
    if min(plane.shape[:2]) < _LEAST_SIDE:
        return False
    step = max(1, min(plane.shape[:2]) // _LARGE_SIDE)
    with np.errstate(over="ignore", invalid="ignore"):
        gray = plane[::step, ::step].mean(axis=-1, dtype=np.float32)
        spread = np.ptp(gray)
    if not 0 < spread < np.inf:
        return False
    gray = (gray - gray.min()) / spread
    height, width = gray.shape
    margin = np.ones(gray.shape, dtype=bool)
    margin[height // 4 : height - height // 4, width // 3 : width - width // 3] = False
    ground = float(np.percentile(gray[margin], 20))
    if ground > 0.5:
        return False
    marks, _ = ndimage.label(gray > ground + _CONTRAST * (1 - ground), np.ones((3, 3)))
    characters = [
        (rows.start, rows.stop, columns.start, columns.stop)
        for number, (rows, columns) in enumerate(ndimage.find_objects(marks), start=1)
        if _is_character(gray, marks, number, rows, columns, ground) and margin[rows, columns].all()
    ]
    # More of them are rather a texture, and all pairs of them are compared.
    return len(characters) <= _MOST_CHARACTERS and _longest_row(characters) >= _LEAST_CHARACTERS


def _plane(pixels: np.ndarray) -> np.ndarray:
    return pixels[len(pixels) // 2] if pixels.ndim == 4 else pixels


def _reduced(channel: np.ndarray) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(channel, dtype=np.float32))
    return np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR), dtype=np.float64)


def _extremes(labels: np.ndarray, values: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest value of each label; where they differ there are at least two values."""
    first = np.full(size, np.iinfo(np.int64).max)
    last = np.full(size, -1)
    np.minimum.at(first, labels, values)
    np.maximum.at(last, labels, values)
    return first, last


def _components(nodes: np.ndarray, distance: int, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return a label for each of the different hashes, the same for those that are linked."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    labels = np.arange(len(nodes))
    pending = [np.empty((2, 0), dtype=np.int64)]
    waiting = 0

    def merged() -> np.ndarray:
        left, right = labels[np.concatenate(pending, axis=1)]
        graph = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(len(nodes), len(nodes)))
        return connected_components(graph, directed=False)[1][labels]

    for left, right in _candidates(nodes):
        near = np.bitwise_count(nodes[left] ^ nodes[right]) <= distance
        near &= np.minimum(first[left], first[right]) < np.maximum(last[left], last[right])
        near &= labels[left] != labels[right]
        if near.any():
            pending.append(np.stack([left[near], right[near]]))
            waiting += pending[-1].shape[1]
        # Merged as they come: the pairs of a dense set would not fit into memory.
        if waiting > _BATCH:
            labels, waiting = merged(), 0
            del pending[1:]
    return merged()


def _candidates(nodes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of positions, among them every pair of hashes that differ in at most three bits."""
    blocks = [sum(1 << bit for bit in range(start, 64, 6)) for start in range(6)]
    for chosen in combinations(blocks, 3):
        keys = nodes & np.uint64(sum(chosen))
        order = np.argsort(keys, kind="stable")
        ends = np.searchsorted(keys[order], keys[order], side="right")
        left = np.arange(len(nodes))
        step = 1
        while (left := left[left + step < ends[left]]).size:
            yield order[left], order[left + step]
            step += 1


def _is_character(gray: np.ndarray, marks: np.ndarray, number: int, rows: slice, columns: slice, ground: float) -> bool:
    """Return whether a bright mark has the size of a character, is no block, and stands alone on the ground."""
    height, width = rows.stop - rows.start, columns.stop - columns.start
    if not 4 <= height <= max(6, len(gray) / 14) or width > 2 * height:
        return False
    filled = np.count_nonzero(marks[rows, columns] == number) / (height * width)
    if filled > 0.9 and width > height / 2:
        return False
    around = np.s_[max(0, rows.start - 2) : rows.stop + 2, max(0, columns.start - 2) : columns.stop + 2]
    bright = np.pad(marks[around] > 0, 1)
    # The blurred edge of a stroke is neither stroke nor ground.
    touched = bright[1:-1, 1:-1] | bright[:-2, 1:-1] | bright[2:, 1:-1] | bright[1:-1, :-2] | bright[1:-1, 2:]
    rest = np.abs(gray[around][~touched] - ground)
    return not rest.size or float((rest < _FLAT).mean()) >= 0.9


def _longest_row(characters: list[tuple[int, int, int, int]]) -> int:
    """Return how many of the boxes (top, bottom, left, right) stand in one row at most, of one height and close."""
    characters = sorted(characters, key=lambda box: box[2])
    lengths: list[int] = []
    for index, (top, bottom, left, _) in enumerate(characters):
        length = 1
        for before in range(index):
            other_top, other_bottom, _, other_right = characters[before]
            low, high = sorted((bottom - top, other_bottom - other_top))
            level = abs((top + bottom) - (other_top + other_bottom)) / 2 <= 0.35 * high
            if low >= 0.6 * high and level and -1 <= left - other_right <= 1.5 * high:
                length = max(length, lengths[before] + 1)
        lengths.append(length)
    return max(lengths, default=0)
