"""`scan`: a labelled folder to a `Manifest`, every file decoded once."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ganaug.data.cache import JoinedSeries, Memory, TensorWriter, cache_folder
from ganaug.data.examine import Examined, Examiner, Facts
from ganaug.data.geometry import PLANES
from ganaug.data.grid import Grid, to_grid
from ganaug.data.layouts import Entry, Listing, layouts
from ganaug.data.manifest import MAX_UNREADABLE, TRAINED, Item, Manifest, require_readable
from ganaug.data.names import count, few
from ganaug.data.parallel import chunked_map
from ganaug.data.series import join_series, leftovers, may_be_dicom
from ganaug.data.tensors import key_of
from ganaug.errors import ConfigError, DataError, GanaugError

SAMPLED = 32
"""Entries that are looked at first, to guess the training grid and write its tensor in the same pass."""

GridOf = Callable[[Manifest], Grid]


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
        root: ``ROOT/<class>/**/<file>``, a folder with ``metadata.csv`` (``file_name,label[,group,split]``), or a
            MedMNIST-style ``.npz`` archive.
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
    if slices is not None and slices not in PLANES:
        raise ConfigError(f"slices = {slices!r} was given; one of {', '.join(PLANES)} was wanted.")
    shown, root = Path(root), Path(root).resolve()
    listing = _listing(shown, root)
    root = root if root.is_dir() else root.parent
    if len(listing.classes) < 2:
        raise DataError(
            f"{shown} has a single class, {listing.classes[0]!r} ({count(len(listing.entries), 'image')}). "
            "At least two classes were wanted: add a sub-folder (or a label in metadata.csv) for each class "
            "to tell apart."
        )
    entries, beside = _joined(root, _grouped(listing.entries, group_regex), show_progress)
    listing = replace(listing, ignored=tuple(sorted((*listing.ignored, *beside))))
    memory = Memory(root, entries, slices=slices, detail=detail)
    known = [memory.recall(entry) for entry in entries]
    found: list[list[Facts] | str] = [facts if facts is not None else "" for facts in known]
    missing = [index for index, facts in enumerate(known) if facts is None]
    if missing:
        work = _Pass(Examiner(root, slices, detail), listing.classes)
        fresh = [entries[index] for index in missing]
        # A tensor is only worth writing if all of its images are decoded anyway.
        writer = work.writer(fresh, grid_of) if grid_of and len(missing) == len(entries) else None
        for index, facts in zip(missing, work.run(fresh, writer, show_progress), strict=True):
            found[index] = facts
        memory.store(
            [entry for entry, facts in zip(entries, found, strict=True) if not isinstance(facts, str)],
            [facts for facts in found if not isinstance(facts, str)],
        )
    else:
        writer = None
    manifest = _manifest(root, listing, entries, found)
    if writer is not None:
        writer.finish(manifest)
    require_readable(manifest, max_unreadable)
    return manifest


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


def _manifest(root: Path, listing: Listing, entries: Sequence[Entry], found: Sequence[list[Facts] | str]) -> Manifest:
    """Put entries and facts together."""
    labels = {name: index for index, name in enumerate(listing.classes)}
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
        hints=facts.hints,
        phash=facts.phash,
    )


@dataclass(frozen=True)
class _Examine:
    """Examines a part of the entries in a worker; pixels come back only as images on the grid."""

    examiner: Examiner
    grid: Grid | None

    def __call__(self, entries: Sequence[Entry]) -> tuple[list[list[Facts] | str], np.ndarray | None]:
        facts: list[list[Facts] | str] = []
        images: list[np.ndarray] = []
        for entry in entries:
            examined: Examined = self.examiner(entry)
            if isinstance(examined, str):
                facts.append(examined)
                continue
            facts.append(examined[0])
            if self.grid is not None and entry.split in TRAINED:
                images += _on_grid(*examined, self.grid)
        return facts, np.stack(images) if images else None


def _on_grid(facts: list[Facts], pixels: list[np.ndarray], grid: Grid) -> list[np.ndarray]:
    try:
        return [to_grid(image, grid, spacing=fact.spacing) for fact, image in zip(facts, pixels, strict=True)]
    except GanaugError:
        # It does not fit the guess, so the guess was wrong and the tensor will not be used.
        return []


class _Writer:
    """A tensor that is written ahead of the decision which grid it should have."""

    def __init__(self, folder: Path, grid: Grid, grid_of: GridOf) -> None:
        self.grid, self.grid_of = grid, grid_of
        self._tensor: TensorWriter | None = TensorWriter(folder, grid)

    def append(self, images: np.ndarray) -> None:
        try:
            if self._tensor is not None:
                self._tensor.append(images)
        except OSError:
            self.give_up()

    def finish(self, manifest: Manifest) -> None:
        """Keep the tensor if it is the one that will be asked for."""
        if self._tensor is None:
            return
        trained = manifest.training_part()
        try:
            if self._tensor.count == len(trained) and self.grid_of(trained) == self.grid:
                self._tensor.commit(key_of(trained.items, self.grid))
        except (GanaugError, OSError):
            pass  # it is only an advance; what is wrong is said when the tensor is really asked for
        self.give_up()

    def give_up(self) -> None:
        if self._tensor is not None:
            self._tensor.discard()
        self._tensor = None


@dataclass(frozen=True)
class _Pass:
    """One pass over the entries that are not known yet."""

    examiner: Examiner
    classes: tuple[str, ...]

    def writer(self, entries: Sequence[Entry], grid_of: GridOf) -> _Writer | None:
        folder = cache_folder()
        trained = [entry for entry in entries if entry.split in TRAINED]
        if folder is None or not trained:
            return None
        sample = trained[:: max(1, len(trained) // SAMPLED)]
        looked_at = chunked_map(_Examine(self.examiner, None), sample, label="looking")
        found = [facts for part, _ in looked_at for facts in part]
        guess = _manifest(self.examiner.root, Listing(self.classes, tuple(sample), ()), sample, found)
        try:
            return _Writer(folder, grid_of(guess), grid_of)
        except (GanaugError, OSError):
            return None

    def run(self, entries: Sequence[Entry], writer: _Writer | None, show_progress: bool) -> list[list[Facts] | str]:
        examine = _Examine(self.examiner, writer.grid if writer else None)
        found: list[list[Facts] | str] = []
        try:
            for facts, images in chunked_map(
                examine, entries, label="reading", unit="files", show_progress=show_progress
            ):
                found += facts
                if writer is not None and images is not None:
                    writer.append(images)
        except BaseException:
            if writer is not None:
                writer.give_up()
            raise
        return found


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
