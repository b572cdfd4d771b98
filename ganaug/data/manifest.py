"""A labelled folder as a list of files: every one decoded once, hashed, labelled, and put into a group."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ganaug.data.layouts import Entry, Listing, layouts
from ganaug.data.names import count, few, printable
from ganaug.data.parallel import parallel_map
from ganaug.data.readers import read
from ganaug.errors import ConfigError, DataError
from ganaug.files import sha256_file

MAX_UNREADABLE = 0.10
"""The share of unreadable files up to which they are skipped; more of them is an error."""


@dataclass(frozen=True)
class Item:
    """One readable image."""

    path: str
    """POSIX path relative to the manifest's root."""
    label: int
    """Index into the manifest's classes."""
    group: str
    """What a split must not cut: the patient where that is known, otherwise the file's content."""
    sha256: str
    """Hex SHA-256 of the file's bytes."""
    height: int
    width: int
    channels: int
    dtype: str
    """Stored type, ``uint8`` or ``uint16``."""
    split: str = ""
    """The split that the user's table names for it, in lower case; empty where none is named."""
    minimum: float | None = None
    """Smallest pixel value, in stored units."""
    maximum: float | None = None
    """Largest pixel value, in stored units."""


@dataclass(frozen=True)
class Manifest:
    """The images of a labelled folder."""

    root: Path
    classes: tuple[str, ...]
    """Class names, sorted; a class may have no image."""
    items: tuple[Item, ...]
    """Readable images, sorted by path."""
    skipped: tuple[tuple[str, str], ...] = ()
    """Path and reason of every image that could not be read."""
    ignored: tuple[str, ...] = ()
    """Paths of files that take no part: not images, or images without a label."""

    def __len__(self) -> int:
        return len(self.items)

    @property
    def labels(self) -> np.ndarray:
        """Class indices of the items, int64."""
        return np.array([item.label for item in self.items], dtype=np.int64)

    @property
    def counts(self) -> dict[str, int]:
        """Number of images by class name, in the order of the classes."""
        found = Counter(item.label for item in self.items)
        return {name: found[label] for label, name in enumerate(self.classes)}

    def subset(self, indices: Sequence[int] | np.ndarray) -> Manifest:
        """Return a manifest of the items at `indices`, in that order, with the same root and classes."""
        return replace(self, items=tuple(self.items[int(i)] for i in indices), skipped=(), ignored=())

    def training_part(self) -> Manifest:
        """Return the items that may be trained on: not those whose table row names another split."""
        return replace(self, items=tuple(item for item in self.items if item.split in ("", "train", "training")))

    def to_json(self) -> dict[str, Any]:
        """Return what ``train_manifest.json`` stores: classes; label, hash and hashed group of each file.

        No paths, and groups only as hashes: both often name patients, and a run folder may be passed on.
        """
        files = [
            {
                "label": item.label,
                "sha256": item.sha256,
                "group_hash": hash_group(item.group),
            }
            for item in self.items
        ]
        return {"classes": list(self.classes), "files": files}


def hash_group(group: str) -> str:
    """Return the hex SHA-256 of a group's name."""
    return hashlib.sha256(group.encode("utf-8", "surrogatepass")).hexdigest()


def scan(
    root: str | Path,
    *,
    group_regex: str | None = None,
    max_unreadable: float = MAX_UNREADABLE,
    show_progress: bool = False,
) -> Manifest:
    """Read a labelled folder: every file is fully decoded once, so that truncated ones are found now.

    The result does not depend on the order of the file system.

    Args:
        root: ``ROOT/<class>/**/<file>``, or a folder with ``metadata.csv``
            (``file_name,label[,group,split]``).
        group_regex: searched in each POSIX path relative to `root`; its first capture group, or the whole
            match, is the item's group. Without it the table's ``group`` column counts, and where that is
            silent the file's content, so that each image is its own group and exact copies share one.
        max_unreadable: the share of unreadable files, 0 to 1, up to which they are skipped (see
            `Manifest.skipped`).
        show_progress: show a progress bar.

    Raises:
        DataError: the folder, its labels or too many of its files cannot be used.
        ConfigError: `group_regex` is not a regular expression.
    """
    shown, root = Path(root), Path(root).resolve()
    listing = _listing(shown, root)
    if len(listing.classes) < 2:
        raise DataError(
            f"{shown} has a single class, {listing.classes[0]!r} ({count(len(listing.entries), 'image')}). "
            "At least two classes were wanted: add a sub-folder (or a label in metadata.csv) for each class "
            "to tell apart."
        )
    entries = _grouped(listing.entries, group_regex)
    labels = {name: index for index, name in enumerate(listing.classes)}
    results = parallel_map(partial(_examine, root, labels), entries, label="reading", show_progress=show_progress)
    items: list[Item] = []
    skipped: list[tuple[str, str]] = []
    for entry, result in zip(entries, results, strict=True):
        if isinstance(result, Item):
            items.append(result)
        else:
            skipped.append((entry.path, result))
    manifest = Manifest(root, listing.classes, tuple(items), tuple(skipped), listing.ignored)
    require_readable(manifest, max_unreadable)
    return manifest


def require_readable(manifest: Manifest, max_unreadable: float = MAX_UNREADABLE) -> None:
    """Raise a DataError if a larger share than `max_unreadable` of the files could not be read."""
    skipped, files = manifest.skipped, len(manifest.items) + len(manifest.skipped)
    if len(skipped) > max_unreadable * files:
        raise DataError(
            f"{len(skipped):,} of {count(files, 'file')} in {manifest.root} cannot be read, more than the "
            f"{max_unreadable:.0%} that are skipped: {_named(skipped)}. Repair or remove them, or copy them again from "
            "their source."
        )


def left_out(manifest: Manifest) -> tuple[str, ...]:
    """Return a sentence for people about the files that were skipped, and one about those that are no images."""
    sentences = []
    if manifest.skipped:
        total = len(manifest.items) + len(manifest.skipped)
        sentences.append(
            f"Skipped: {len(manifest.skipped):,} of {count(total, 'file')} cannot be read: {_named(manifest.skipped)}."
        )
    if manifest.ignored:
        sentences.append(
            f"Ignored: {count(len(manifest.ignored), 'file')} that are no images: {few(manifest.ignored)}."
        )
    return tuple(sentences)


def _named(skipped: tuple[tuple[str, str], ...]) -> str:
    named = "; ".join(f"{printable(path)} ({printable(reason)})" for path, reason in skipped[:3])
    return named + ("; …" if len(skipped) > 3 else "")


def _listing(shown: Path, root: Path) -> Listing:
    if not root.exists():
        raise DataError(f"{shown} does not exist. A folder with one sub-folder for each class was wanted.")
    for layout in layouts():
        if layout.matches(root):
            return layout.listing(root)
    raise DataError(f"{shown} is a file. A folder with one sub-folder for each class was wanted.")


def _grouped(entries: tuple[Entry, ...], group_regex: str | None) -> tuple[Entry, ...]:
    """Return the entries with the group that `group_regex` finds in their paths."""
    if group_regex is None:
        return entries
    try:
        pattern = re.compile(group_regex)
    except re.error as problem:
        raise ConfigError(
            f"The group pattern {group_regex!r} is not a regular expression ({problem}). Something like "
            r"'patient(\d+)' was wanted."
        ) from None
    found = []
    for entry in entries:
        match = pattern.search(entry.path)
        group = match.group(1 if pattern.groups else 0) if match else None
        found.append(replace(entry, group=group or ""))
    silent = [entry.path for entry in found if not entry.group]
    if silent:
        raise DataError(
            f"The group pattern {group_regex!r} finds nothing in {len(silent):,} of "
            f"{count(len(found), 'path')}: {few(silent)}. Write a pattern that matches every path relative "
            "to the data folder."
        )
    return tuple(found)


def _examine(root: Path, labels: dict[str, int], entry: Entry) -> Item | str:
    """Return the decoded file's item, or in a few words why it cannot be read."""
    path = root / entry.path
    try:
        pixels = read(path)
        digest = sha256_file(path)
    except DataError as problem:
        return str(problem).removeprefix(f"{path}: ")
    except OSError as problem:
        return problem.strerror or type(problem).__name__
    height, width, channels = pixels.shape
    return Item(
        path=entry.path,
        label=labels[entry.label],
        # The content and not the path: two folders often number their files alike, and copies of one image
        # must not land on two sides of a split.
        group=entry.group or digest,
        sha256=digest,
        height=height,
        width=width,
        channels=channels,
        dtype=pixels.dtype.name,
        split=entry.split,
        minimum=float(pixels.min()),
        maximum=float(pixels.max()),
    )


def require_trainable(manifest: Manifest) -> None:
    """Raise `DataError` unless there are at least two classes, each with at least two images."""
    if len(manifest.classes) < 2:
        raise DataError(
            f"{manifest.root} has {count(len(manifest.classes), 'class', 'classes')} "
            f"({few(manifest.classes)}). At least two were wanted: add a sub-folder (or a label in "
            "metadata.csv) for each class to tell apart."
        )
    small = [f"{printable(name)} ({count(n, 'image')})" for name, n in manifest.counts.items() if n < 2]
    if small:
        raise DataError(
            f"Too few readable images to learn from in {manifest.root}: {few(small, 10)}. At least 2 in each "
            "class were wanted, and some tens are wise: add images, or move the class out of the folder."
        )


def resolve_channels(manifest: Manifest, channels: int | None) -> int:
    """Return the number of channels to train with: the given one, or the one that all images share.

    Raises:
        DataError: grey and color images are mixed and `channels` is None.
        ConfigError: `channels` is neither 1 nor 3.
    """
    if channels is not None:
        if channels not in (1, 3):
            raise ConfigError(f"--channels {channels} was given; 1 (grey) or 3 (color) was wanted.")
        return channels
    found = Counter(item.channels for item in manifest.items)
    if len(found) > 1:
        parts = ", ".join(f"{count(n, 'image')} with {count(c, 'channel')}" for c, n in found.most_common())
        rare = found.most_common()[-1][0]
        files = [item.path for item in manifest.items if item.channels == rare]
        raise DataError(
            f"Grey and color images are mixed in {manifest.root}: {parts}, such as {few(files)}. Choose what "
            "to train with: --channels 1 turns all into grey, --channels 3 turns all into RGB."
        )
    return next(iter(found), 1)


def resolve_dtype(manifest: Manifest) -> str:
    """Return the stored type that all images share. Raises `DataError` where bit depths are mixed."""
    found = Counter(item.dtype for item in manifest.items)
    if len(found) > 1:
        parts = ", ".join(f"{count(n, 'image')} of {dtype}" for dtype, n in found.most_common())
        rare = found.most_common()[-1][0]
        files = [item.path for item in manifest.items if item.dtype == rare]
        raise DataError(
            f"Bit depths are mixed in {manifest.root}: {parts}, such as {few(files)}. Their grey values "
            "cannot be compared: save all images with one bit depth, or move those files out of the folder."
        )
    return next(iter(found), "uint8")
