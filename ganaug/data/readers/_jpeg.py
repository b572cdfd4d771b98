"""Plain JPEGs by libjpeg-turbo without Pillow's way to it, which takes four times as long on small images.

Pillow stays the judge: whatever is not plain (another color space, turned by EXIF, large, damaged) is left to it.
"""

from __future__ import annotations

import numpy as np
import simplejpeg

LARGEST = 4_000_000
"""Pixels up to which an image is decoded here; above, Pillow's part no longer matters."""

_GRAY, _COLOR = "Gray", "YCbCr"


def decode_plain(raw: bytes) -> np.ndarray | None:
    """Return a plain gray or YCbCr JPEG as H×W×1 or H×W×3 (RGB) uint8; None for anything else."""
    # Only these can ask for the image to be turned; a false hit costs nothing but time.
    if b"Exif\0" in raw or b"http://ns.adobe.com/xap" in raw:
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(raw)
        if height * width > LARGEST or space not in (_GRAY, _COLOR):
            return None
        # Strict: a file that is cut short or damaged is an error here, and Pillow says what is wrong with it.
        return simplejpeg.decode_jpeg(raw, "GRAY" if space == _GRAY else "RGB")
    except ValueError:
        return None
