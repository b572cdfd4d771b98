"""NIfTI-1 and NIfTI-2 volumes, .nii and .nii.gz, through nibabel.

The header is checked before anything else is unpacked, and no more is unpacked than it announces. Values keep their
stored type unless a slope or intercept applies: whole ones give integers (so that HU stay integers), others float32.
A volume is turned as `ganaug.data.geometry.to_lps` says; one with a single slice is an image, rows along the file's
second axis and columns along its first, with no geometry. A fourth axis is taken as channels.
"""

from __future__ import annotations

import gzip
import io
import logging
import math
import struct
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from ganaug.data.geometry import PLANES, cut, is_valid_affine, to_lps
from ganaug.data.readers import MAX_CHANNELS, Decoded, as_stored, check_size
from ganaug.errors import DataError

SUFFIXES = {".nii": "NIfTI", ".nii.gz": "NIfTI"}

_GZIP = b"\x1f\x8b"
_GZIP_RATIO = 1032
"""No byte of a gzip file gives more; what the header announces beyond cannot be there."""
_HEADER_BYTES = {1: 348, 2: 540}
_MAX_OFFSET = 64 * 1024**2
"""Extensions between header and pixels hold a few KB, rarely a whole DICOM header; never this much."""

_COLORS = {("R", "G", "B"): 3, ("R", "G", "B", "A"): 4}
_MILLIMETERS = {"meter": 1000.0, "micron": 0.001}
_LEFT_UNKNOWN = "laterality: neither sform nor qform says where the patient's left is"
_SILENT = logging.Logger("silent", logging.CRITICAL + 1)  # nibabel logs what it mends in a header


def matches(head: bytes) -> bool:
    """Return whether a file begins as NIfTI does, below its gzip layer if it has one."""
    if head.startswith(_GZIP):
        try:
            head = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(head, _HEADER_BYTES[2])
        except zlib.error:
            return False
    return _version(head) is not None


def decode(raw: bytes, path: Path) -> Decoded:
    """Return the volume D×H×W×C, or the image H×W×C. Raises `DataError` for an unusable file."""
    try:
        return _decoded(raw, path)
    except DataError:
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        raise DataError(
            f"{path}: its gzip layer is damaged or cut off ({problem}); copy it again from its source"
        ) from problem
    # nibabel raises nearly anything on a damaged header: HeaderDataError, ValueError, OverflowError and more.
    except Exception as problem:
        reason = str(problem) or type(problem).__name__
        raise DataError(f"{path}: cannot be decoded ({reason}); copy it again from its source") from problem


def _version(head: bytes) -> int | None:
    """Return 1 or 2 for a NIfTI file that holds header and pixels, None for anything else."""
    if len(head) < _HEADER_BYTES[1]:
        return None
    sizes = struct.unpack("<i", head[:4]) + struct.unpack(">i", head[:4])
    if _HEADER_BYTES[1] in sizes and head[344:348] == b"n+1\0":
        return 1
    return 2 if _HEADER_BYTES[2] in sizes and head[4:12] == b"n+2\0\r\n\x1a\n" else None


def _decoded(raw: bytes, path: Path) -> Decoded:
    stream: IO[bytes] = io.BytesIO(raw)
    if raw.startswith(_GZIP):
        stream = gzip.GzipFile(fileobj=stream)  # type: ignore[assignment]
    header = _header(stream, path)
    shape = _shape(header, path)
    dtype, colors = _stored_type(header, path)
    if colors > 1 and shape[3] > 1:
        raise DataError(f"{path}: a series of {shape[3]} color volumes; save each volume in a file of its own")
    slope, intercept = header.get_slope_inter()
    scaled = colors == 1 and slope is not None and (slope, intercept) != (1, 0)
    is_image = shape[2] == 1
    spatial = shape[1::-1] if is_image else shape[2::-1]
    check_size(path, (*spatial, shape[3] * colors), "float32" if scaled and dtype.itemsize < 4 else dtype.name)
    affine = _affine(header, path) if not is_image else _affine_of_image(header)
    start = int(header.get_data_offset()) or header.single_vox_offset
    body = _body(raw, stream, start, math.prod(shape) * colors * dtype.itemsize, path)
    array = np.frombuffer(body, dtype).reshape(colors, *shape, order="F")
    # To X×Y×Z×C: the file has a voxel's colors (the last is alpha) side by side, but its channels volume by volume.
    array = array[0] if colors == 1 else np.moveaxis(array[:3, ..., 0], 0, 3)
    array = as_stored(_scaled(array, slope, intercept) if scaled else array, path)
    mode = dtype.name if colors == 1 else "RGBA"[:colors]
    pixels, spacing, orientation, center = to_lps(array, affine)
    hints = () if header["sform_code"] > 0 or header["qform_code"] > 0 else (_LEFT_UNKNOWN,)
    if is_image:  # the one slice, as it would be looked at
        _, image, between = next(cut(pixels, spacing, PLANES[pixels.shape[:3].index(1)]))
        return Decoded(np.ascontiguousarray(image), "NIfTI", mode, between, hints=hints)
    return Decoded(pixels, "NIfTI", mode, spacing, orientation, center, hints=hints)


def _header(stream: IO[bytes], path: Path) -> Any:
    """Read and check the header at the beginning of `stream`."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    head = stream.read(_HEADER_BYTES[1])
    version = _version(head)
    if version is None:
        raise DataError(
            f"{path}: not a NIfTI-1 or NIfTI-2 file with header and pixels in one; convert it with a current program"
        )
    head += stream.read(_HEADER_BYTES[version] - len(head))
    header = (Nifti1Header if version == 1 else Nifti2Header)(head, check=False)
    header.check_fix(logger=_SILENT)
    return header


def _shape(header: Any, path: Path) -> tuple[int, int, int, int]:
    """Return X, Y, Z and channels."""
    shape = [int(side) for side in header.get_data_shape()]
    given = "×".join(map(str, shape))
    if len(shape) == 5 and shape[3] == 1:  # vectors and colors lie along the fifth axis, behind an empty time axis
        del shape[3]
    while len(shape) > 4 and shape[-1] == 1:
        shape.pop()
    if not 2 <= len(shape) <= 4:
        raise DataError(
            f"{path}: an array of {given} was given; X×Y×Z or X×Y×Z×channels was wanted, save each volume in a file of "
            "its own"
        )
    x, y, z, channels = (*shape, 1, 1)[:4]
    if channels > MAX_CHANNELS:
        raise DataError(
            f"{path}: {channels:,} volumes in one file ({given}) are a time series rather than channels, of which at "
            f"most {MAX_CHANNELS} are read; save one volume, or their mean, for example with nibabel's slicer"
        )
    return x, y, z, channels


def _stored_type(header: Any, path: Path) -> tuple[np.dtype, int]:
    """Return the type of a stored value, and how many make a voxel: 1, or 3 or 4 colors."""
    dtype = header.get_data_dtype()
    if dtype.names in _COLORS:
        return np.dtype(np.uint8), _COLORS[dtype.names]
    if dtype.kind not in "iuf":
        raise DataError(
            f"{path}: values of type {dtype.name} are no gray values; save the magnitude, or another real part"
        )
    return dtype, 1


def _affine_of_image(header: Any) -> np.ndarray:
    """Return the affine of a single slice, which needs none to be looked at."""
    affine = np.asarray(header.get_best_affine(), np.float64)
    return affine if is_valid_affine(affine) else np.diag([-1.0, -1.0, 1.0, 1.0])


def _affine(header: Any, path: Path) -> np.ndarray:
    affine = np.asarray(header.get_best_affine(), np.float64)
    with np.errstate(all="ignore"):
        affine[:3] *= _MILLIMETERS.get(header.get_xyzt_units()[0], 1.0)
    if not is_valid_affine(affine):
        raise DataError(
            f"{path}: its affine {affine.tolist()} gives no direction of its own to each side of the volume; repair "
            "its sform and qform, for example with nibabel's set_sform"
        )
    return affine


def _body(raw: bytes, stream: IO[bytes], start: int, size: int, path: Path) -> memoryview:
    """Return the `size` bytes of pixels that begin at `start` of the unpacked file."""
    compressed = raw.startswith(_GZIP)
    if not stream.tell() <= start <= _MAX_OFFSET:
        raise DataError(f"{path}: its header puts the pixels at byte {start:,}; copy it again from its source")
    body = memoryview(raw)[start : start + size]
    if compressed:
        possible = start + size <= len(raw) * _GZIP_RATIO
        stream.seek(start)
        body = memoryview(stream.read(size) if possible else b"")
        stream.read(1)  # behind the pixels, where the checksum is compared
    if len(body) < size:
        raise DataError(
            f"{path}: cut off, {len(body):,} bytes of pixels are there and {size:,} were wanted; copy it again from "
            "its source"
        )
    return body


def _scaled(array: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Return slope × array + intercept, as integers where that is exact and they fit, otherwise as real numbers."""
    from nibabel.volumeutils import apply_read_scaling

    if array.dtype.kind in "iu" and slope.is_integer() and intercept.is_integer():
        ends = [int(end) * int(slope) + int(intercept) for end in (array.min(), array.max())]
        for name in ("int16", "int32"):
            limits = np.iinfo(name)
            if limits.min <= min(ends) and max(ends) <= limits.max and max(abs(slope), abs(intercept)) < 2**31:
                whole = array.astype(np.int32)  # what runs over on the way comes back, as the result fits
                whole *= int(slope)
                whole += int(intercept)
                return whole.astype(name)
    with np.errstate(all="ignore"):  # what leaves the range of float32 is counted and reported by `as_stored`
        return apply_read_scaling(array, np.float32(slope), np.float32(intercept))
