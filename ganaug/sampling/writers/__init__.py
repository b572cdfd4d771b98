"""Writers: one module for each file format, found by itself.

A writer is a module in this package with

- ``SUFFIX``: the file name ending it writes, such as ``".png"``;
- ``FORMATS``: the formats of training files (`Decoded.format`) whose owners get this writer by default;
- ``ORIGIN``: where in a file the provenance stands, for people; empty if the format has no place for it;
- ``problem(shape, dtype) -> str | None``: why the format cannot hold such an image, as a sentence; None if it can;
- ``encode(pixels, *, geometry, origin) -> bytes``: a file's content, always the same for the same arguments.

Shapes are C×H×W for images and C×D×H×W for volumes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np

from ganaug.data.geometry import Geometry
from ganaug.errors import ConfigError
from ganaug.plugins import load_plugin, plugin_names


class Writer(Protocol):
    """The shape of a writer module."""

    SUFFIX: str
    FORMATS: tuple[str, ...]
    ORIGIN: str

    def problem(self, shape: tuple[int, ...], dtype: str) -> str | None:
        """Return why the format cannot hold an image of `shape` and `dtype`; None if it can."""

    def encode(self, pixels: np.ndarray, *, geometry: Geometry | None, origin: Mapping[str, Any]) -> bytes:
        """Return the content of a file with `pixels` (C×H×W or C×D×H×W, stored type) and their provenance."""


def writer_names() -> list[str]:
    """Return the names of all writers, sorted."""
    return plugin_names(__name__)


def load_writer(name: str) -> Writer:
    """Return the writer `name`. Raises ConfigError for an unknown one."""
    return cast(Writer, load_plugin(__name__, name))


def default_format(source_format: str, shape: Sequence[int], dtype: str) -> str:
    """Return the writer (or 'npz') that fits the user's own files.

    That of the training files' format if it can hold the images; otherwise PNG if that can, then NIfTI for volumes and
    TIFF for images, then whichever can.

    Args:
        source_format: most frequent `Decoded.format` of the training set, 'npz' for an archive, '' if unknown.
        shape: of one image, C×H×W or C×D×H×W.
        dtype: NumPy name of the stored type.

    Raises:
        ConfigError: no writer can hold such images.
    """
    if source_format.lower() == "npz":
        return "npz"
    names = writer_names()
    fitting = [name for name in names if load_writer(name).problem(tuple(shape), dtype) is None]
    own = [name for name in names if source_format in load_writer(name).FORMATS]
    preferred = [*own, "png", *(("nifti",) if len(shape) == 4 else ("tiff", "nifti")), *names]
    for name in preferred:
        if name in fitting:
            return name
    raise ConfigError(f"No file format can hold {describe(shape, dtype)}. Use --format npz or bank.")


def describe(shape: Sequence[int], dtype: str) -> str:
    """Return images of `shape` (channels first) in words: 'volumes of 32×32×24, 1 channel of int16'."""
    kind = "volumes" if len(shape) == 4 else "images"
    return f"{kind} of {'×'.join(map(str, shape[1:]))}, {shape[0]} channel{'s' if shape[0] > 1 else ''} of {dtype}"
