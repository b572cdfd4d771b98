"""TIFF: gray images and volumes (a page for each slice), and 8-bit RGB; provenance in ImageDescription."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ganaug.data.geometry import Geometry
from ganaug.sampling.writers import describe

SUFFIX = ".tif"
FORMATS = ("TIFF",)
ORIGIN = "the tag ImageDescription"

_GRAY = ("uint8", "uint16", "int16", "int32", "float32")


def problem(shape: tuple[int, ...], dtype: str) -> str | None:
    """Return why TIFF cannot hold images of `shape` (C×H×W or C×D×H×W) and `dtype`; None if it can."""
    if (shape[0] == 1 and dtype in _GRAY) or (shape[0] == 3 and dtype == "uint8"):
        return None
    return f"TIFF holds 1 channel of {', '.join(_GRAY)}, or 3 of uint8; these are {describe(shape, dtype)}."


def encode(pixels: np.ndarray, *, geometry: Geometry | None, origin: Mapping[str, Any]) -> bytes:
    """Return a TIFF file with `pixels`, C×H×W or C×D×H×W; pages run along D, pixels per centimeter along H and W."""
    import tifffile

    color = len(pixels) == 3
    stream = io.BytesIO()
    tifffile.imwrite(
        stream,
        np.ascontiguousarray(np.moveaxis(pixels, 0, -1) if color else pixels[0]),
        photometric="rgb" if color else "minisblack",
        description=json.dumps(dict(origin)),
        metadata=None,
        software=False,
        resolution=(10 / geometry.spacing[2], 10 / geometry.spacing[1]) if geometry else None,
        resolutionunit="CENTIMETER" if geometry else "NONE",
    )
    return stream.getvalue()
