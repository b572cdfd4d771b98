"""Images through Pillow: PNG, JPEG, TIFF, BMP and WebP; a TIFF of several pages is a volume.

What comes out is gray (1 channel) or RGB (3 channels) in the type that the file stores. Palettes become RGB, alpha is
dropped, CMYK becomes RGB, a JPEG is turned as its EXIF orientation says. 16-bit color is read as 8 bit, because Pillow
has no such mode; a hint says so.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
from PIL import (
    BmpImagePlugin,
    ExifTags,
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from ganaug.data.readers import MAX_PIXELS, Decoded, as_stored, check_size
from ganaug.data.readers._jpeg import decode_plain
from ganaug.errors import DataError

SUFFIXES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".dib": "BMP",
    ".webp": "WebP",
}

# How the files of a format begin, its name, and Pillow's reader for it. No other of Pillow's forty ever sees a file.
_FORMATS = (
    (b"\xff\xd8\xff", "JPEG", JpegImagePlugin.jpeg_factory),
    (b"\x89PNG\r\n\x1a\n", "PNG", PngImagePlugin.PngImageFile),
    (b"II*\0", "TIFF", TiffImagePlugin.TiffImageFile),
    (b"MM\0*", "TIFF", TiffImagePlugin.TiffImageFile),
    (b"II+\0", "TIFF", TiffImagePlugin.TiffImageFile),
    (b"MM\0+", "TIFF", TiffImagePlugin.TiffImageFile),
    (b"BM", "BMP", BmpImagePlugin.BmpImageFile),
    (b"\x28\0\0\0", "BMP", BmpImagePlugin.DibImageFile),
    (b"RIFF", "WebP", WebPImagePlugin.WebPImageFile),
)

_GRAY16 = ("I;16", "I;16B", "I;16L", "I;16N")
# The mode to convert to, for each mode that a file may open in.
_TARGETS = {
    "1": "L",
    "L": "L",
    "LA": "L",
    "P": "RGB",
    "PA": "RGB",
    "RGB": "RGB",
    "RGBA": "RGB",
    "RGBX": "RGB",
    "CMYK": "RGB",
    "YCbCr": "RGB",
} | {mode: mode for mode in (*_GRAY16, "I", "F")}
# How each of these lies in memory.
_LAYOUTS = {"L": "u1", "RGB": "u1", "I": "i4", "F": "f4", "I;16": "<u2", "I;16L": "<u2", "I;16B": ">u2", "I;16N": "u2"}

_ANY_PIXELS = 4_000_000
_PIXELS_A_BYTE = {"JPEG": 1024, "PNG": 10_000, "WebP": 10_000}
"""What a byte of a file with more than `_ANY_PIXELS` may hold.

A JPEG spends a bit on each 8×8 block of its finest channel, or is cut off and would be filled up with gray; PNG cannot
hold more; a WebP of a few bytes could hold 80 million blank pixels.
"""

_REDUCED = "reduced_depth: 16-bit color read as 8 bit"

_BITS_TAG, _PHOTOMETRIC_TAG, _PLANAR_TAG, _SAMPLE_FORMAT_TAG = 258, 262, 284, 339
_WHITE_IS_ZERO = 0
_IN_PLANES = 2
_SIGNED = 2
# Pillow (13.0) forgets that libtiff has swapped the bytes of these already.
_SWAPPED_TWICE = ("I;16BS", "I;32BS", "F;32BF")


def matches(head: bytes) -> bool:
    """Return whether a file begins as one of these formats does."""
    return _format(head) is not None


def decode(raw: bytes, path: Path) -> Decoded:
    """Return the image H×W×C, or the volume D×H×W×C of a TIFF's pages. Raises `DataError` for an unusable file."""
    found = _format(raw)
    if found is None:
        raise DataError(
            f"{path}: not a PNG, JPEG, TIFF, BMP or WebP image, or its header is damaged; copy it again from its source"
        )
    name, opened = found
    if name == "JPEG" and (pixels := decode_plain(raw)) is not None:
        return Decoded(pixels, name, "L" if pixels.shape[2] == 1 else "RGB")
    try:
        # From memory and not from the path: Pillow maps some files, garbles turned TIFFs there (13.0), and a file
        # that shrinks meanwhile kills the process.
        return _decoded(opened(io.BytesIO(raw)), name, len(raw), path)
    except DataError:
        raise
    except Image.DecompressionBombError:
        limit = f"at most {MAX_PIXELS // 1_000_000} million are read"
        raise DataError(f"{path}: the image has too many pixels ({limit}); save it smaller") from None
    # Pillow's decoders raise nearly anything on damaged bytes: OSError, SyntaxError, struct.error and more.
    except Exception as problem:
        reason = str(problem) or type(problem).__name__
        advice = "copy it again from its source, or save it as 8 or 16 bit gray or as 8 bit RGB"
        raise DataError(f"{path}: cannot be decoded ({reason}); {advice}") from problem


def _format(head: bytes) -> tuple[str, Callable[[IO[bytes]], ImageFile.ImageFile]] | None:
    for magic, name, opened in _FORMATS:
        if head.startswith(magic):
            return name, opened
    return None


def _decoded(image: ImageFile.ImageFile, form: str, file_bytes: int, path: Path) -> Decoded:
    """Check an opened file's header, then decode its pixels."""
    mode = image.mode
    hints: tuple[str, ...] = ()
    if mode not in _TARGETS:
        raise DataError(f"{path}: pixels of mode {mode!r} cannot be used; save the image as gray or as RGB")
    target = _TARGETS[mode]
    dtype, pages = "uint8", 1  # as in every JPEG; behind a camera's photo lies only its thumbnail
    if form != "JPEG":
        dtype, pages = _dtype(image, target), getattr(image, "n_frames", 1)
        if pages > 1 and form != "TIFF":
            raise DataError(f"{path}: has {pages} frames, one was wanted; save each frame as a file of its own")
        packing = _packing(image)
        if mode == "I":
            mode = packing
        elif ";16" in packing and form in ("PNG", "TIFF") and mode not in _GRAY16:
            # A gray image with alpha opens as RGBA.
            target, mode = "L" if packing.startswith("LA") else target, packing
            hints = (_REDUCED,)
    shape = (image.height, image.width, 3 if target == "RGB" else 1)
    check_size(path, shape if pages == 1 else (pages, *shape), dtype)
    claimed = image.height * image.width
    if claimed > _ANY_PIXELS and claimed > file_bytes * _PIXELS_A_BYTE.get(form, MAX_PIXELS):
        raise DataError(
            f"{path}: {image.width}×{image.height} pixels are claimed in only {file_bytes:,} bytes, the file is cut "
            "off or blank; copy it again from its source, or remove it"
        )
    pixels = _volume(image, (pages, *shape), target, dtype, path) if pages > 1 else _pixels(image, target, dtype, path)
    return Decoded(as_stored(pixels, path), form, mode, hints=hints)


def _pixels(image: ImageFile.ImageFile, target: str, dtype: str, path: Path) -> np.ndarray:
    """Decode one page into H×W×C."""
    if image.format in ("JPEG", "MPO"):
        _turn(image)
    elif image.format == "TIFF":
        _check_tiff(image, path)
    width, height = image.size
    rows = max(1, _ANY_PIXELS // width)
    if rows >= height:
        pixels = _unpacked(image, target).astype(dtype)
    else:  # part by part, or a large image would lie in memory four times
        pixels = np.empty((height, width, 3 if target == "RGB" else 1), dtype)
        for top in range(0, height, rows):
            pixels[top : top + rows] = _unpacked(image.crop((0, top, width, min(top + rows, height))), target)
    if target in _GRAY16 and _tag(image, _PHOTOMETRIC_TAG) == _WHITE_IS_ZERO:  # Pillow turns these up to 8 bit only
        np.subtract(np.iinfo(np.uint16).max, pixels, out=pixels)
    return pixels


def _unpacked(image: Image.Image, target: str) -> np.ndarray:
    # A palette may carry transparency, which Pillow only accepts on the way through RGBA.
    plain = image.convert("RGBA") if image.mode in ("P", "PA") else image
    packed = (plain if plain.mode == target else plain.convert(target)).tobytes()
    return np.frombuffer(packed, _LAYOUTS[target]).reshape(image.height, image.width, -1)


def _volume(image: ImageFile.ImageFile, shape: tuple[int, ...], target: str, dtype: str, path: Path) -> np.ndarray:
    """Decode all pages, which must be alike, into D×H×W×C."""
    kinds: dict[str, None] = {}  # in the order of the pages
    for page in range(shape[0]):
        image.seek(page)
        kinds[f"{image.width}×{image.height} {image.mode} {_dtype(image, _TARGETS.get(image.mode, ''))}"] = None
    if len(kinds) > 1:
        raise DataError(
            f"{path}: its {shape[0]} pages are of different kinds ({', '.join(kinds)}), pages of one size and mode "
            "were wanted; save each page as a file of its own (for example: magick in.tif page-%03d.tif)"
        )
    volume = np.empty(shape, dtype)
    for page in range(shape[0]):
        image.seek(page)
        volume[page] = _pixels(image, target, dtype, path)
    return volume


def _turn(image: ImageFile.ImageFile) -> None:
    """Turn a JPEG as its EXIF orientation says. (Pillow turns TIFFs itself; elsewhere viewers ignore it.)"""
    if "exif" not in image.info and "xmp" not in image.info:
        return
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF does not harm the pixels; every viewer shows such a photo as it lies
        return
    if isinstance(value, int) and 2 <= value <= 8:
        ImageOps.exif_transpose(image, in_place=True)


def _packing(image: ImageFile.ImageFile) -> str:
    """Return how Pillow unpacks the file's samples, such as 'RGB;16B'."""
    arguments = image.tile[0].args if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _check_tiff(image: ImageFile.ImageFile, path: Path) -> None:
    """Raise `DataError` for the TIFFs that Pillow (13.0) reads without complaint, but wrongly."""
    compressed = bool(image.tile) and image.tile[0].codec_name == "libtiff"
    in_planes = _tag(image, _PLANAR_TAG) == _IN_PLANES
    plain_bytes = _tag(image, _BITS_TAG) == 8 and _tag(image, _PHOTOMETRIC_TAG) != _WHITE_IS_ZERO
    if _packing(image) in _SWAPPED_TWICE if compressed else in_planes and not plain_bytes:
        problem = "compressed big-endian samples" if compressed else "separate planes that are not of 8 bit"
        raise DataError(
            f"{path}: {problem} cannot be read; save the TIFF little-endian and with the channels of a pixel together"
        )
    areas = [part.extents for part in image.tile if part.extents]
    there = sum((right - left) * (bottom - top) for left, top, right, bottom in areas)
    if there < image.width * image.height:  # the rest would be black
        claimed = f"{image.width}×{image.height} pixels are claimed"
        raise DataError(f"{path}: {claimed}, {there:,} are there; copy it again from its source")


def _dtype(image: ImageFile.ImageFile, target: str) -> str:
    """Return the type of the stored values; of a TIFF's integers, Pillow's mode tells only the size."""
    if target == "I":
        return f"{'int' if _tag(image, _SAMPLE_FORMAT_TAG) == _SIGNED else 'uint'}{_tag(image, _BITS_TAG)}"
    if target == "L" and image.mode == "L" and _tag(image, _SAMPLE_FORMAT_TAG) == _SIGNED:
        return "int8"
    return "uint16" if target in _GRAY16 else "float32" if target == "F" else "uint8"


def _tag(image: ImageFile.ImageFile, tag: int) -> int | None:
    """Return the first value of a TIFF's tag; None if it is not there, or the image is no TIFF."""
    value = getattr(image, "tag_v2", {}).get(tag)
    return value[0] if isinstance(value, tuple) else value
