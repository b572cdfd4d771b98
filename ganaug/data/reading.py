"""`scan` and `scan_unlabelled`: a folder to a `Manifest`, every file decoded once."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from ganaug.data.ahead import Ahead, Found, GridOf, examine_all
from ganaug.data.examine import Examiner, Facts
from ganaug.data.geometry import PLANES
from ganaug.data.layouts import Entry, Listing, _unlabelled, layouts
from ganaug.data.manifest import MAX_UNREADABLE, UNKNOWN, Item, Manifest, require_readable
from ganaug.data.memory import JoinedSeries, Memory
from ganaug.data.names import count, few
from ganaug.data.series import join_series, leftovers, may_be_dicom
from ganaug.errors import ConfigError, DataError


def scan(
    root: str | Path,
    *,
    group_regex: str | None = None,
    slices: str | None = None,
    detail: bool = False,
    max_unreadable: float = MAX_UNREADABLE,
    show_progress: bool = False,
    grid_of: GridOf | None = None,
) -> Manifest:
    """Read a labelled folder: every file is fully decoded once, so that truncated ones are found now.

    The result does not depend on the order of the file system. What is known of unchanged files from an earlier scan
    is taken from the cache.

    Args:
        root: ``ROOT/<class>/**/<file>``, a folder with ``metadata.csv`` (``file_name,label[,group,split,domain]``),
            or a MedMNIST-style ``.npz`` archive.
        group_regex: searched in each POSIX path relative to `root`; its first capture group, or the whole
            match, is the item's group. Without it the table's ``group`` column counts, then the patient that a DICOM
            file names (unless all name the same), and where these are silent the file's content, so that each image
            is its own group and exact copies share one.
        slices: ``axial``, ``coronal`` or ``sagittal`` cuts volumes into images; a volume is then the group.
        detail: also compute what only `inspect` reports (`Item.phash`, a hint for burned-in text).
        max_unreadable: the share of unreadable files, 0 to 1, up to which they are skipped (see
            `Manifest.skipped`).
        show_progress: show a progress bar.
        grid_of: the training grid that a manifest leads to. If given, the training tensor is written into the cache in
            the same pass, with the grid guessed from a sample of the files; `load_tensor` finds it if the guess held.

    Raises:
        DataError: the folder, its labels or too many of its files cannot be used.
        ConfigError: `group_regex` is not a regular expression, or `slices` is no plane.
    """
    return _scan(root, _listing, group_regex, slices, detail, max_unreadable, show_progress, grid_of)


def scan_unlabelled(
    path: str | Path,
    *,
    group_regex: str | None = None,
    slices: str | None = None,
    show_progress: bool = False,
    grid_of: GridOf | None = None,
) -> Manifest:
    """Read images whose classes are not known; otherwise as `scan`, whose limits and errors these are too.

    Args:
        path: a folder of images, flat or nested in any way (the names of its sub-folders say nothing); a folder with
            ``metadata.csv``, of which ``file_name`` and, where it has them, ``group``, ``split`` and ``domain`` are
            read; or an ``.npz`` archive, whose labels are ignored.
        group_regex: see `scan`.
        slices: see `scan`.
        show_progress: see `scan`.
        grid_of: see `scan`.

    Returns:
        A manifest without classes; the label of every item is `UNKNOWN`.

    Raises:
        DataError: there are no images, too many of them cannot be read, or the sub-folders are splits.
        ConfigError: see `scan`.
    """
    return _scan(path, _unlabelled_listing, group_regex, slices, False, MAX_UNREADABLE, show_progress, grid_of)


def _scan(
    path: str | Path,
    listing_of: Callable[[Path, Path], Listing],
    group_regex: str | None,
    slices: str | None,
    detail: bool,
    max_unreadable: float,
    show_progress: bool,
    grid_of: GridOf | None,
) -> Manifest:
    if slices is not None and slices not in PLANES:
        raise ConfigError(f"slices = {slices!r} was given; one of {', '.join(PLANES)} was wanted.")
    shown, root = Path(path), Path(path).resolve()
    listing = listing_of(shown, root)
    root = root if root.is_dir() else root.parent
    entries, beside = _joined(root, _grouped(listing.entries, group_regex), show_progress)
    listing = replace(listing, ignored=tuple(sorted((*listing.ignored, *beside))))
    memory = Memory(root, entries, slices=slices, detail=detail)
    found: list[Found] = [memory.recall(entry) or "" for entry in entries]
    missing = [index for index, facts in enumerate(found) if not facts]
    manifest_of = partial(_manifest, root, listing)
    ahead = None
    if missing:
        examiner, fresh = Examiner(root, slices, detail), [entries[index] for index in missing]
        # A tensor is only worth writing if all of its images are decoded anyway.
        if grid_of is not None and len(missing) == len(entries):
            ahead = Ahead.guess(examiner, fresh, manifest_of, grid_of)
        for index, facts in zip(missing, examine_all(examiner, fresh, ahead, show_progress=show_progress), strict=True):
            found[index] = facts
            memory.add(entries[index], facts)
        if ahead is not None:
            ahead.flush()
        for index in set(range(len(entries))).difference(missing):
            memory.add(entries[index], found[index])
        memory.write()
    with _no_garbage():
        manifest = manifest_of(entries, found)
    if ahead is not None:
        ahead.finish(manifest)
    require_readable(manifest, max_unreadable)
    return manifest


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Do not look for garbage where thousands of objects are made that all stay: it costs more than making them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _joined(root: Path, entries: tuple[Entry, ...], show_progress: bool) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    """Return the entries with the files of each DICOM series as one, and what stands beside volumes and is left out.

    Which files belong together is remembered: finding out opens each of them.
    """
    if not any(not entry.part and may_be_dicom(entry.path) for entry in entries):
        return entries, ()
    remembered = JoinedSeries(root, entries)
    known = remembered.recall()
    if known is None:
        joined = join_series(root, entries, show_progress=show_progress)
        known = joined, leftovers(root, joined)
        remembered.store(*known)
    joined, beside = known
    left = set(beside)
    return tuple(entry for entry in joined if entry.path not in left), beside


def _manifest(root: Path, listing: Listing, entries: Sequence[Entry], found: Sequence[Found]) -> Manifest:
    """Put entries and facts together."""
    labels = {"": UNKNOWN} | {name: index for index, name in enumerate(listing.classes)}
    patients = {facts.patient for several in found if not isinstance(several, str) for facts in several} - {""}
    # Anonymized sets often name one patient for all, which says nothing.
    trusted = len(patients) > 1
    items: list[Item] = []
    skipped: list[tuple[str, str]] = []
    for entry, several in zip(entries, found, strict=True):
        if isinstance(several, str):
            skipped.append((f"{entry.path}#{entry.part}" if entry.part else entry.path, several))
            continue
        items += [_item(entry, facts, labels[entry.label], trusted) for facts in several]
    return Manifest(root, listing.classes, tuple(items), tuple(skipped), listing.ignored)


def _item(entry: Entry, facts: Facts, label: int, trusted: bool) -> Item:
    return Item(
        path=entry.path,
        label=label,
        # The content and not the path: two folders often number their files alike, and copies of one image
        # must not land on two sides of a split.
        group=entry.group or (facts.patient if trusted else "") or facts.source,
        sha256=facts.sha256,
        shape=facts.shape,
        channels=facts.channels,
        dtype=facts.dtype,
        split=entry.split,
        domain=entry.domain,
        minimum=facts.minimum,
        maximum=facts.maximum,
        low=facts.low,
        high=facts.high,
        gray=facts.gray,
        format=facts.format,
        mode=facts.mode,
        spacing=facts.spacing,
        orientation=facts.orientation,
        center=facts.center,
        part=facts.part,
        files=entry.files,
        sources=() if facts.source == facts.sha256 and not facts.files else (facts.source, *facts.files),
        patient=facts.patient,
        hints=facts.hints,
        phash=facts.phash,
        content=facts.content,
    )


def _listing(shown: Path, root: Path) -> Listing:
    if not root.exists():
        raise DataError(f"{shown} does not exist. A folder with one sub-folder for each class was wanted.")
    for layout in layouts():
        if layout.matches(root):
            return layout.listing(root)
    raise DataError(f"{shown} is a file. A folder with one sub-folder for each class was wanted.")


def _unlabelled_listing(shown: Path, root: Path) -> Listing:
    if not root.exists():
        raise DataError(f"{shown} does not exist. {_unlabelled.WANTED}")
    if not _unlabelled.matches(root):
        raise DataError(f"{shown} is a file. {_unlabelled.WANTED}")
    return _unlabelled.listing(root)


def _grouped(entries: tuple[Entry, ...], group_regex: str | None) -> tuple[Entry, ...]:
    """Return the entries with the group that `group_regex` finds in their paths."""
    if group_regex is None:
        return entries
    if any(entry.part for entry in entries):
        raise ConfigError(
            f"The group pattern {group_regex!r} was given, but the images of an archive have no paths. Leave it out, "
            "or put a metadata.csv beside it: file_name,label,group with names such as set.npz#train[12]."
        )
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
