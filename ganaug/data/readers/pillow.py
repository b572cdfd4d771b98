"""Two-dimensional images through Pillow: PNG, JPEG, TIFF (8 and 16 bit), BMP and WebP.

What comes out is grey (1 channel) or RGB (3 channels), uint8 or, for 16-bit grey, uint16. Palettes become
RGB, alpha is dropped, CMYK becomes RGB, a JPEG is turned as its EXIF orientation says. 16-bit color is read
as 8 bit, because Pillow has no such mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ganaug.data.readers import ImageInfo
from ganaug.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".dib", ".webp")

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "DIB", "WEBP")
"""Decoders that may look at a file; Pillow would otherwise try all of its forty on whatever it is given."""

MAX_PIXELS = 80_000_000
"""Images with more pixels are refused from their header; Pillow itself warns a little above."""

_GREY16 = ("I;16", "I;16B", "I;16L", "I;16N")
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
} | {mode: mode for mode in _GREY16}

_PHOTOMETRIC_TAG = 262
_WHITE_IS_ZERO = 0


def probe(path: Path) -> ImageInfo:
    """Return size, channels and type from the header. Raises `DataError` for a file that cannot be used."""
    with _opened(path) as image:
        width, height = image.size
        if _orientation(image) >= 5:  # these turn the image by 90 degrees
            width, height = height, width
        target = _TARGETS[image.mode]
        return ImageInfo(height, width, 3 if target == "RGB" else 1, "uint16" if target in _GREY16 else "uint8")


def read(path: Path) -> np.ndarray:
    """Return the pixels H×W×C, uint8 or uint16, C 1 or 3. Raises `DataError` for an unusable file."""
    with _opened(path) as image:
        if _orientation(image) > 1:
            ImageOps.exif_transpose(image, in_place=True)
        target = _TARGETS[image.mode]
        if target in _GREY16:
            pixels = np.array(image).astype(np.uint16)
            if _white_is_zero(image):
                pixels = np.iinfo(np.uint16).max - pixels
        else:
            # A palette may carry transparency, which Pillow only accepts on the way through RGBA.
            plain = image.convert("RGBA") if image.mode in ("P", "PA") else image
            pixels = np.array(plain if plain.mode == target else plain.convert(target))
        return pixels.reshape(*pixels.shape[:2], -1)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open a file, check its header, and turn every failure, here or in the body, into a `DataError`."""
    try:
        # Given a path, Pillow would map some files into memory; it garbles turned TIFFs there (13.0), and a
        # file that shrinks meanwhile kills the process.
        with path.open("rb") as stream, Image.open(stream, formats=FORMATS) as image:
            _check_header(path, image)
            yield image
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"{path}: not a PNG, JPEG, TIFF, BMP or WebP image, or its header is damaged") from None
    except Image.DecompressionBombError:
        raise DataError(_too_large(path)) from None
    except FileNotFoundError:
        raise DataError(f"{path}: the file does not exist") from None
    # Pillow's decoders raise nearly anything on damaged bytes: OSError, SyntaxError, struct.error and more.
    except Exception as problem:
        reason = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
        raise DataError(f"{path}: cannot be decoded ({reason})") from problem


def _check_header(path: Path, image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise DataError(_too_large(path, f"{image.width}×{image.height} "))
    # Cameras put a thumbnail behind the photo (MPO); anywhere else a second page is a second image.
    if image.format != "MPO" and (pages := getattr(image, "n_frames", 1)) > 1:
        raise DataError(
            f"{path}: has {pages} pages or frames, one was wanted; save each page as a file of its own "
            "(for example: magick in.tif page-%03d.tif)"
        )
    if image.mode not in _TARGETS:
        raise DataError(
            f"{path}: pixels of mode {image.mode!r} (signed, 32 bit or floating point) cannot be used; save "
            "the image as 8 or 16 bit grey, or as RGB"
        )


def _too_large(path: Path, size: str = "") -> str:
    limit = f"at most {MAX_PIXELS // 1_000_000} million are read"
    return f"{path}: the image has too many pixels ({size}claimed, {limit}); save it smaller"


def _orientation(image: Image.Image) -> int:
    """Return a JPEG's EXIF orientation, 1 to 8. (Pillow turns TIFFs itself; elsewhere viewers ignore it.)"""
    if image.format not in ("JPEG", "MPO"):
        return 1
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF does not harm the pixels; every viewer shows such a photo as it lies
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _white_is_zero(image: Image.Image) -> bool:
    """Return whether a 16-bit TIFF stores negatives; Pillow turns these only up to 8 bit."""
    tags = getattr(image, "tag_v2", None)
    return tags is not None and tags.get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO
