"""NumPy's own format: H×W or D×H×W, channels last if there are several; no place for provenance."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from ganaug.data.geometry import Geometry
from ganaug.sampling.writers import describe

SUFFIX = ".npy"
FORMATS = ("NumPy",)
ORIGIN = ""


def problem(shape: tuple[int, ...], dtype: str) -> str | None:
    """Return why .npy cannot hold images of `shape` (C×H×W or C×D×H×W) and `dtype`; None if it can."""
    if len(shape) == 4 or shape[0] in (1, 3):
        return None
    return f"In .npy only images with 1 or 3 channels are not taken for volumes; these are {describe(shape, dtype)}."


def encode(pixels: np.ndarray, *, geometry: Geometry | None, origin: Mapping[str, Any]) -> bytes:
    """Return a .npy file with `pixels`, C×H×W or C×D×H×W."""
    array = pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()
