"""NumPy arrays, .npy: images H×W and H×W×C, volumes D×H×W and D×H×W×C.

The shape tells which: three axes are an image if the last is 1, 3 or 4 and the others are larger, otherwise a volume.
Nothing is ever unpickled. Source: the NEP "A simple file format for NumPy arrays".
"""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np

from ganaug.data.readers import MAX_CHANNELS, Decoded, as_stored, check_size
from ganaug.errors import DataError

SUFFIXES = {".npy": "NumPy"}

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_RGBA = 4


def matches(head: bytes) -> bool:
    """Return whether a file begins as .npy files do."""
    return head.startswith(np.lib.format.MAGIC_PREFIX)


def decode(raw: bytes, path: Path) -> Decoded:
    """Return the array as an image H×W×C or a volume D×H×W×C. Raises `DataError` for an unusable file."""
    shape, fortran, dtype, start = _header(raw, path)
    if dtype.kind not in "biuf":
        raise DataError(f"{path}: an array of {dtype} was given; one of integers or real numbers was wanted")
    if not 2 <= len(shape) <= 4:
        raise DataError(
            f"{path}: an array with {len(shape)} axes was given; H×W, H×W×C, D×H×W or D×H×W×C was wanted, save each "
            "image in a file of its own"
        )
    image = len(shape) == 3 and shape[2] in (1, 3, _RGBA) and min(shape[:2]) > shape[2]
    whole = shape if image or len(shape) == 4 else (*shape, 1)
    if whole[-1] > MAX_CHANNELS:
        raise DataError(
            f"{path}: {whole[-1]} channels were given, at most {MAX_CHANNELS} are read; save each image in a file of "
            "its own"
        )
    check_size(path, whole, dtype.name)
    wanted, there = math.prod(shape) * dtype.itemsize, len(raw) - start
    if there < wanted:
        raise DataError(
            f"{path}: cut off, {there:,} bytes of pixels are there and {wanted:,} were wanted; copy it again from its "
            "source"
        )
    stored = np.frombuffer(raw, dtype, math.prod(shape), start).reshape(shape, order="F" if fortran else "C")
    pixels = stored.reshape(whole)
    if image and whole[-1] == _RGBA:
        pixels = pixels[..., :3]
    return Decoded(np.array(as_stored(pixels, path), order="C"), "NumPy", dtype.name)


def _header(raw: bytes, path: Path) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Return shape, whether the first axis runs fastest, type, and where the pixels begin."""
    stream = io.BytesIO(raw)
    try:
        version = np.lib.format.read_magic(stream)
        shape, fortran, dtype = _HEADERS[version](stream)
    # NumPy parses the header as Python text and raises nearly anything on damaged bytes.
    except Exception as problem:
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise DataError(f"{path}: not a NumPy array, or its header is damaged ({reason}); save it again") from None
    return tuple(map(int, shape)), bool(fortran), dtype, stream.tell()
