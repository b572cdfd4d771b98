"""Layouts: the ways in which labels may lie beside images, one module each, found by itself.

A layout is a module in this package with

- ``PRIORITY``: among the layouts that match, the highest is used;
- ``matches(root) -> bool``: whether this is such a folder, without reading it through;
- ``listing(root) -> Listing``: every file with its class name. Raises `DataError` for labels that cannot be
  used.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol, cast

from ganaug.plugins import load_plugin, plugin_names


@dataclass(frozen=True)
class Entry:
    """One labelled file, not yet opened."""

    path: str
    """POSIX path relative to the root; relative to its folder if the root is an archive."""
    label: str
    """Class name; empty in a listing without classes."""
    group: str = ""
    """The patient, where the layout says so; empty where it does not."""
    split: str = ""
    """``train``, ``val``, ``test`` or another name, where the layout says so."""
    files: tuple[str, ...] = ()
    """All files of a DICOM series, in order, once they are joined; empty otherwise."""
    part: str = ""
    """Which image of an archive this is, such as ``train[12]``; empty for a file of its own."""
    domain: str = ""
    """The site, scanner or contrast, where the layout says so; empty where it does not."""


@dataclass(frozen=True)
class Listing:
    """What a layout found."""

    classes: tuple[str, ...]
    """Class names, sorted; a class may have no entry. Empty where labels were not asked for."""
    entries: tuple[Entry, ...]
    """The files, sorted by path; the images of an archive in its own order."""
    ignored: tuple[str, ...]
    """Files under the root that take no part, sorted."""


class Layout(Protocol):
    """The shape of a layout module."""

    PRIORITY: int

    def matches(self, root: Path) -> bool:
        """Return whether `root` is laid out this way."""

    def listing(self, root: Path) -> Listing:
        """Return the labelled files of `root`."""


@cache
def layouts() -> tuple[Layout, ...]:
    """Return all layouts, the highest priority first."""
    found = [cast(Layout, load_plugin(__name__, name)) for name in plugin_names(__name__)]
    return tuple(sorted(found, key=lambda layout: -layout.PRIORITY))
