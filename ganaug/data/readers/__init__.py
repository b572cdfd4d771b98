"""Readers: one module for each family of file formats, found by itself.

A reader is a module in this package with

- ``SUFFIXES``: the lower-case file name endings it reads, such as ``(".png", ".jpg")``;
- ``probe(path) -> ImageInfo``: size, channels and type from the header, without decoding pixels;
- ``read(path) -> ndarray``: the pixels, H×W×C, in the type the file stores.

Both functions raise `DataError` for anything that cannot be read, with a message that starts with the path,
and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from ganaug.errors import DataError
from ganaug.plugins import load_plugin, plugin_names


@dataclass(frozen=True)
class ImageInfo:
    """What a file's header says of its image, after the reader's conversions (palette to RGB and so on)."""

    height: int
    width: int
    channels: int
    dtype: str


class Reader(Protocol):
    """The shape of a reader module."""

    SUFFIXES: tuple[str, ...]

    def probe(self, path: Path) -> ImageInfo:
        """Return the size, channels and type of the image at `path`."""

    def read(self, path: Path) -> np.ndarray:
        """Return the pixels of the image at `path`, H×W×C."""


@cache
def readers_by_suffix() -> dict[str, Reader]:
    """Return every known suffix with its reader, the longest suffix first (``.nii.gz`` before ``.gz``)."""
    readers = [cast(Reader, load_plugin(__name__, name)) for name in plugin_names(__name__)]
    found = {suffix: reader for reader in readers for suffix in reader.SUFFIXES}
    return dict(sorted(found.items(), key=lambda pair: (-len(pair[0]), pair[0])))


def supported_suffixes() -> tuple[str, ...]:
    """Return the file name endings that can be read, sorted."""
    return tuple(sorted(readers_by_suffix()))


def is_image(name: str | Path) -> bool:
    """Return whether a file's name ends as one that a reader reads; the file is not opened."""
    return _find(str(name)) is not None


def probe(path: Path) -> ImageInfo:
    """Return size, channels and type from a file's header. Raises `DataError` if it cannot be read."""
    return _reader(path).probe(path)


def read(path: Path) -> np.ndarray:
    """Return a file's pixels, H×W×C, in the stored type. Raises `DataError` if it cannot be read."""
    return _reader(path).read(path)


def _find(name: str) -> Reader | None:
    lowered = name.lower()
    return next((reader for suffix, reader in readers_by_suffix().items() if lowered.endswith(suffix)), None)


def _reader(path: Path) -> Reader:
    reader = _find(path.name)
    if reader is None:
        known = ", ".join(supported_suffixes())
        raise DataError(f"{path}: no reader knows this kind of file; one of {known} was wanted")
    # A named pipe would block for ever, and a folder named like an image is not one.
    try:
        special = path.exists() and not path.is_file()
    except OSError as problem:
        raise DataError(f"{path}: cannot be opened ({problem.strerror})") from problem
    if special:
        raise DataError(f"{path}: not a regular file")
    return reader
