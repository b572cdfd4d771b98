"""Readers: one module for each family of file formats, found by itself.

A reader is a module in this package with

- ``SUFFIXES``: the lower-case file name endings it reads, each with the name of its format, ``{".png": "PNG"}``;
- ``matches(head) -> bool``: whether the first `HEAD_BYTES` of a file look like one of its formats;
- ``decode(raw, path) -> Decoded``: the pixels, and what the file says of them. It raises `DataError` for anything
  that cannot be used, with a message that starts with the path, and nothing else; it gives out no memory before it
  has checked what the header claims (`check_size`), and only types of `DTYPES` (`as_stored`).

The content decides which reader decodes a file, not its name; a name that lies is only a hint.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from ganaug.errors import DataError
from ganaug.plugins import load_plugin, plugin_names

DTYPES = ("uint8", "uint16", "int16", "int32", "float32")
"""The types of pixels that may come out of a reader."""

MAX_PIXELS = 80_000_000
"""Images (not volumes) with more pixels are refused from their header."""

MAX_BYTES = 2 * 1024**3
"""Images and volumes that take more bytes than this when decoded are refused from their header."""

MAX_FILE_BYTES = 2 * 1024**3
"""Larger files are not read."""

MAX_CHANNELS = 16
"""More values than this at one place are rather a time series or a stack than channels."""

HEAD_BYTES = 1024
"""As much of a file is looked at to tell its format; DICOM's mark stands at 128."""

_STORED = frozenset(map(np.dtype, DTYPES))
_WIDENED = {"bool": "uint8", "int8": "int16"}

# Scanners name DICOM files with UIDs and numbers, or give them no suffix at all; nothing else comes that way.
_NAMELESS_FORMAT = "DICOM"

# A pipe would block for ever when opened plainly.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


@dataclass(frozen=True, eq=False)
class Decoded:
    """One decoded image or volume, and what its file says of it."""

    pixels: np.ndarray
    """H×W×C (image) or D×H×W×C (volume), C at least 1, one of `DTYPES`.

    Volumes with a known orientation run toward Superior, Posterior and the patient's Left.
    """
    format: str
    """PNG, JPEG, TIFF, BMP, WebP, NIfTI, DICOM or NumPy."""
    mode: str
    """How the file stores pixels, in the format's own terms, for people: 'RGBA', 'I;16', 'int16'."""
    spacing: tuple[float, ...] | None = None
    """Millimeters between pixels along H and W, or D, H and W; None if the file does not say."""
    orientation: str = ""
    """Axis codes of the volume as it lies in the file, such as 'RAS' or 'PSR'; empty if unknown."""
    center: tuple[float, float, float] | None = None
    """World coordinates of the volume's center in mm, RAS+; None if unknown."""
    group: str = ""
    """The patient that the file itself names; empty if unknown."""
    hints: tuple[str, ...] = ()
    """'kind: detail' for people; the kinds are suffix_lies, laterality, burned_in and reduced_depth."""


class Reader(Protocol):
    """The shape of a reader module."""

    SUFFIXES: Mapping[str, str]

    def matches(self, head: bytes) -> bool:
        """Return whether a file that begins with `head` looks like one of this reader's formats."""

    def decode(self, raw: bytes, path: Path) -> Decoded:
        """Decode a file's bytes; `path` is for messages only. Raises `DataError` for what cannot be used."""


@cache
def all_readers() -> tuple[Reader, ...]:
    """Return all readers, in the order of their names."""
    return tuple(cast(Reader, load_plugin(__name__, name)) for name in plugin_names(__name__))


@cache
def readers_by_suffix() -> dict[str, Reader]:
    """Return every known suffix with its reader."""
    return {suffix: reader for reader in all_readers() for suffix in reader.SUFFIXES}


def supported_suffixes() -> tuple[str, ...]:
    """Return the file name endings that can be read, sorted."""
    return tuple(sorted(readers_by_suffix()))


def suffix_of(name: str) -> str:
    """Return the longest known suffix of a file's name, lower-case ('.nii.gz', not '.gz'); empty if there is none."""
    known = readers_by_suffix()
    lowered = name.lower()
    at = lowered.find(".")
    while at >= 0:
        if lowered[at:] in known:
            return lowered[at:]
        at = lowered.find(".", at + 1)
    return ""


def is_image(path: Path) -> bool:
    """Return whether a file is one that a reader reads.

    A known suffix is enough. A file without a suffix, or with a suffix of digits, is opened: it is an image if its
    content is DICOM.
    """
    if suffix_of(path.name):
        return True
    if path.suffix and not path.suffix[1:].isdigit():
        return False
    try:
        head = _read_regular(path, HEAD_BYTES)
    except DataError:
        return False
    return any(_NAMELESS_FORMAT in reader.SUFFIXES.values() and reader.matches(head) for reader in all_readers())


def read_bytes(path: Path) -> bytes:
    """Return the content of a regular file of at most `MAX_FILE_BYTES`. Raises `DataError` for anything else."""
    return _read_regular(path)


def decode(raw: bytes, path: Path) -> Decoded:
    """Decode a file's content with the reader that its name asks for, or another if the content says so.

    Raises `DataError` for anything that cannot be used.
    """
    suffix = suffix_of(path.name)
    named = readers_by_suffix().get(suffix)
    head = raw[:HEAD_BYTES]
    reader = named
    if named is None or not named.matches(head):
        reader = next((other for other in all_readers() if other is not named and other.matches(head)), named)
    if reader is None:
        known = ", ".join(supported_suffixes())
        raise DataError(
            f"{path}: neither its name nor its content is of a known kind; one of {known} was wanted. Convert the "
            "file, or move it out of the folder."
        )
    decoded = reader.decode(raw, path)
    if named is not None and decoded.format != named.SUFFIXES[suffix]:
        hint = f"suffix_lies: named {suffix}, holds {decoded.format}"
        decoded = replace(decoded, hints=(*decoded.hints, hint))
    return decoded


def read(path: Path) -> Decoded:
    """Read and decode a file. Raises `DataError` for anything that cannot be used."""
    return decode(read_bytes(path), path)


def check_size(path: Path, shape: Sequence[int], dtype: str) -> None:
    """Raise `DataError` if pixels of `shape` (H×W×C or D×H×W×C) and `dtype` are none, or more than may be decoded."""
    if min(shape) < 1:
        raise DataError(f"{path}: the image is empty ({_times(shape)}); remove the file")
    if len(shape) == 3 and shape[0] * shape[1] > MAX_PIXELS:
        limit = f"at most {MAX_PIXELS // 1_000_000} million are read"
        raise DataError(f"{path}: the image has too many pixels ({_times(shape)} claimed, {limit}); save it smaller")
    if math.prod(shape) * np.dtype(dtype).itemsize > MAX_BYTES:
        raise DataError(
            f"{path}: too large when decoded ({_times(shape)} of {dtype} claimed, at most {MAX_BYTES // 1024**3} GiB "
            "are read); save it smaller, or in parts"
        )


def as_stored(pixels: np.ndarray, path: Path) -> np.ndarray:
    """Return pixels in the type of `DTYPES` that holds them, in the machine's byte order; the values stay.

    Raises `DataError` for NaN, infinity, and types that are no real numbers.
    """
    stored = pixels if pixels.dtype in _STORED else _converted(pixels, path)
    if stored.dtype.kind == "f" and (bad := stored.size - int(np.count_nonzero(np.isfinite(stored)))):
        raise DataError(
            f"{path}: {bad:,} of {stored.size:,} values are not finite (NaN or infinite); replace them, for example "
            "by the value of the background"
        )
    return stored


def _converted(pixels: np.ndarray, path: Path) -> np.ndarray:
    kind, name = pixels.dtype.kind, pixels.dtype.name
    if name in DTYPES:
        wanted = name  # in the other byte order
    elif name in _WIDENED:
        wanted = _WIDENED[name]
    elif kind in "iu":
        limits = np.iinfo(np.int32)
        fits = not pixels.size or (pixels.min() >= limits.min and pixels.max() <= limits.max)
        wanted = "int32" if fits else "float32"
    elif kind == "f":
        wanted = "float32"
    else:
        raise DataError(
            f"{path}: values of type {pixels.dtype} are no gray values; save the image as integers or as real "
            "floating point numbers"
        )
    with np.errstate(over="ignore"):  # what leaves the range of float32 becomes infinite, and is counted as such
        return pixels.astype(wanted)


def _times(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _read_regular(path: Path, limit: int | None = None) -> bytes:
    """Return a regular file's bytes, only the first `limit` if given."""
    try:
        descriptor = os.open(path, _OPEN_FLAGS)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise DataError(f"{path}: not a regular file; move it out of the folder")
            if limit is None and status.st_size > MAX_FILE_BYTES:
                raise DataError(
                    f"{path}: has {status.st_size:,} bytes, at most {MAX_FILE_BYTES // 1024**3} GiB are read; save it "
                    "smaller, or in parts"
                )
            parts = []
            left = status.st_size if limit is None else limit
            while left and (part := os.read(descriptor, left)):  # one call gives at most 2 GiB, less on some systems
                parts.append(part)
                left -= len(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise DataError(f"{path}: the file does not exist") from None
    except (OSError, ValueError) as problem:  # ValueError: a null character in the name
        reason = getattr(problem, "strerror", None) or problem
        raise DataError(f"{path}: cannot be opened ({reason})") from problem
