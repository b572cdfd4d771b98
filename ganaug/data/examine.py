"""One entry of a listing to its facts: decoded once, hashed, measured. This is what the worker processes run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ganaug.data.geometry import cut
from ganaug.data.layouts import Entry
from ganaug.data.manifest import hash_content
from ganaug.data.readers import DTYPES, Decoded, decode, read_bytes
from ganaug.data.scales import file_knots
from ganaug.errors import DataError

VERSION = 3
"""Goes up when a reader or this module finds other facts in the same bytes: remembered facts are then forgotten."""


_NAMES = {np.dtype(name): name for name in DTYPES}


class Facts(NamedTuple):
    """What is known of one image; a plain tuple, because thousands of them travel between processes."""

    part: str
    sha256: str
    source: str
    """Hash of the file, volume or series that it comes from: the group where no patient is known."""
    files: tuple[str, ...]
    """Hashes of the files of a series."""
    minimum: float
    maximum: float
    low: float
    high: float
    phash: int | None
    content: str
    # From here on what many images of a folder share.
    patient: str
    shape: tuple[int, ...]
    channels: int
    dtype: str
    gray: bool
    format: str
    mode: str
    spacing: tuple[float, ...] | None
    orientation: str
    center: tuple[float, float, float] | None
    hints: tuple[str, ...]


OWN = 10
"""The first fields of `Facts`, in which images differ."""


@dataclass(frozen=True)
class Examiner:
    """Examines the entries of one folder."""

    root: Path
    slices: str | None = None
    """The plane in which volumes are cut into images; None keeps them."""
    detail: bool = False
    """Also look for what only `inspect` reports: perceptual hashes, text burned into the image."""

    def __call__(self, entry: Entry) -> tuple[list[Facts], list[np.ndarray]] | str:
        """Return the facts and pixels of every image that comes of `entry`, or in a few words why there are none."""
        try:
            decoded, sha256, files = decode_entry(self.root, entry)
            images = images_of(decoded, self.slices)
            found = [(self._facts(decoded, sha256, files, entry, *image), image[1]) for image in images]
        except DataError as problem:
            return str(problem).removeprefix(f"{self.root / entry.path}: ")
        except OSError as problem:
            return problem.strerror or type(problem).__name__
        if not found:
            return "all slices of the volume are empty (one value throughout)"
        return [facts for facts, _ in found], [pixels for _, pixels in found]

    def _facts(
        self,
        decoded: Decoded,
        sha256: str,
        files: tuple[str, ...],
        entry: Entry,
        plane_part: str,
        pixels: np.ndarray,
        spacing: tuple[float, ...] | None,
    ) -> Facts:
        minimum, low, high, maximum = _knots(decoded)
        hints, phash = decoded.hints, None
        if self.detail:
            from ganaug.data import fingerprint

            phash = fingerprint.phash(pixels)
            if fingerprint.burned_in(pixels) and not any(hint.startswith("burned_in") for hint in hints):
                hints = (*hints, "burned_in: bright strokes on the dark margin")
        whole, channels = pixels.ndim == 4, pixels.shape[-1]
        return Facts(
            f"{entry.part}{plane_part}",
            hashlib.sha256(f"{sha256}#{plane_part}".encode()).hexdigest() if plane_part else sha256,
            sha256,
            files,
            minimum,
            maximum,
            low,
            high,
            phash,
            hash_content(pixels),
            decoded.group,
            pixels.shape[:-1],
            channels,
            _NAMES[pixels.dtype],
            channels == 3 and _is_gray(pixels),
            decoded.format,
            decoded.mode,
            spacing,
            decoded.orientation if whole else "",
            decoded.center if whole else None,
            hints,
        )


def decode_entry(root: Path, entry: Entry) -> tuple[Decoded, str, tuple[str, ...]]:
    """Return what an entry holds, the hex SHA-256 of its content, and those of its files if it has several.

    That is the hash of the file's bytes; of the pixels for a member of an archive (archives are rewritten as a whole);
    of the files' hashes for a series.

    Raises:
        DataError: it cannot be read.
    """
    if entry.files:
        from ganaug.data.series import decode_series

        paths = [root / name for name in entry.files]
        raws = [read_bytes(path) for path in paths]
        digests = tuple(hashlib.sha256(raw).hexdigest() for raw in raws)
        return decode_series(raws, paths), hashlib.sha256("".join(digests).encode()).hexdigest(), digests
    if entry.part:
        from ganaug.data.archives import decode_part, part_sha256

        decoded = decode_part(root, entry.path, entry.part)
        return decoded, part_sha256(decoded.pixels), ()
    path = root / entry.path
    raw = read_bytes(path)
    return decode(raw, path), hashlib.sha256(raw).hexdigest(), ()


def images_of(decoded: Decoded, slices: str | None) -> Iterator[tuple[str, np.ndarray, tuple[float, ...] | None]]:
    """Yield the name of the part, the pixels and their spacing: the whole, or with `slices` each slice of a volume.

    Slices with one value throughout hold nothing to learn and are passed over.
    """
    if slices is None or decoded.pixels.ndim == 3:
        yield "", decoded.pixels, decoded.spacing
        return
    for index, pixels, spacing in cut(decoded.pixels, decoded.spacing, slices):
        if pixels.min() < pixels.max():
            yield f"{slices}[{index}]", pixels, spacing


def read_images(root: Path, entry: Entry, slices: str | None) -> dict[str, tuple[np.ndarray, tuple[float, ...] | None]]:
    """Return the pixels and spacing of every image of an entry by the name of its part. Raises `DataError`."""
    decoded, *_ = decode_entry(root, entry)
    return {f"{entry.part}{part}": (pixels, spacing) for part, pixels, spacing in images_of(decoded, slices)}


def _knots(decoded: Decoded) -> tuple[float, float, float, float]:
    pixels = decoded.pixels
    if pixels.dtype == np.uint8 and pixels.ndim == 3:  # 8-bit images keep their full range: no percentiles needed
        minimum, maximum = float(pixels.min()), float(pixels.max())
        return minimum, minimum, maximum, maximum
    minimum, low, high, maximum = file_knots(pixels)
    return minimum, low, high, maximum


def _is_gray(pixels: np.ndarray) -> bool:
    first = pixels[..., :1]
    return bool((pixels[..., 1:] == first).all())


Examined = tuple[list[Facts], list[np.ndarray]] | str
Examine = Callable[[Entry], Examined]
