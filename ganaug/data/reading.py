"""`scan`: a labelled folder to a `Manifest`, every file decoded once."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import numpy as np

from ganaug.data.cache import JoinedSeries, Memory, TensorWriter, cache_folder, write_rows
from ganaug.data.examine import Examined, Examiner, Facts
from ganaug.data.geometry import PLANES
from ganaug.data.grid import Grid, to_grid
from ganaug.data.layouts import Entry, Listing, layouts
from ganaug.data.manifest import MAX_UNREADABLE, TRAINED, Item, Manifest, require_readable
from ganaug.data.names import count, few
from ganaug.data.parallel import CHUNK, chunked_map
from ganaug.data.series import join_series, leftovers, may_be_dicom
from ganaug.data.tensors import key_of
from ganaug.errors import ConfigError, DataError, GanaugError

SAMPLED = 32
"""Entries that are looked at first, to guess the training grid and write its tensor in the same pass."""

_HELD_BYTES = 16 << 20
"""Images that a worker holds before it writes them."""
_SLICED_CHUNK = 8
"""Volumes to be cut that a worker is given at a time: each gives hundreds of images."""

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
    found: list[list[Facts] | str] = [memory.recall(entry) or "" for entry in entries]
    missing = [index for index, facts in enumerate(found) if not facts]
    writer = None
    if missing:
        work = _Pass(Examiner(root, slices, detail), listing.classes)
        fresh = [entries[index] for index in missing]
        # A tensor is only worth writing if all of its images are decoded anyway.
        writer = work.writer(fresh, grid_of) if grid_of and len(missing) == len(entries) else None
        for index, facts in zip(missing, work.run(fresh, writer, show_progress), strict=True):
            found[index] = facts
            memory.add(entries[index], facts)
        if writer is not None:
            writer.flush()
        for index in set(range(len(entries))).difference(missing):
            memory.add(entries[index], found[index])
        memory.write()
    with _no_garbage():
        manifest = _manifest(root, listing, entries, found)
    if writer is not None:
        writer.finish(manifest)
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
    """Examines a part of the entries in a worker, and writes their images on the grid where there is one."""

    examiner: Examiner
    grid: Grid | None = None
    file: Path | None = None
    """The tensor's file, if the rows of the images are known; otherwise the images come back."""

    def __call__(self, numbered: Sequence[tuple[int, Entry]]) -> _Part:
        facts: list[list[Facts] | str] = []
        images: list[np.ndarray] = []
        first = next((row for row, entry in numbered if entry.split in TRAINED), 0)
        written = 0
        try:
            for _, entry in numbered:
                examined: Examined = self.examiner(entry)
                if isinstance(examined, str):
                    facts.append(examined)
                    continue
                facts.append(examined[0])
                if self.grid is not None and entry.split in TRAINED:
                    images += _on_grid(*examined, self.grid)
                    if self.file is not None and images and len(images) * images[0].nbytes > _HELD_BYTES:
                        write_rows(self.file, first + written, np.stack(images))
                        written, images = written + len(images), []
            if images and self.file is not None:
                write_rows(self.file, first + written, np.stack(images))
                written, images = written + len(images), []
        except OSError:
            facts += [self._facts(entry) for _, entry in numbered[len(facts) :]]
            return _Part(facts, failed=True)
        return _Part(facts, np.stack(images) if images else None, first, written)

    def _facts(self, entry: Entry) -> list[Facts] | str:
        examined = self.examiner(entry)
        return examined if isinstance(examined, str) else examined[0]


@dataclass(frozen=True)
class _Part:
    """What comes back of a part of the entries."""

    facts: list[list[Facts] | str]
    images: np.ndarray | None = None
    row: int = 0
    count: int = 0
    failed: bool = False


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

    @property
    def file(self) -> Path | None:
        """The file that workers write to."""
        return self._tensor.file if self._tensor else None

    def take(self, part: _Part) -> None:
        """Add the images of a part, or take note that they are written."""
        if self._tensor is None:
            return
        try:
            if part.images is not None:
                self._tensor.append(part.images)
            elif part.count:
                self._tensor.wrote(part.row, part.count)
        except OSError:
            self.give_up()
        if part.failed:
            self.give_up()

    def flush(self) -> None:
        """All is written: let it go to the disk meanwhile."""
        if self._tensor is not None:
            self._tensor.flush()

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
        found = _Examine(self.examiner)([(0, entry) for entry in sample]).facts
        guess = _manifest(self.examiner.root, Listing(self.classes, tuple(sample), ()), sample, found)
        try:
            return _Writer(folder, grid_of(guess), grid_of)
        except (GanaugError, OSError):
            return None

    def run(self, entries: Sequence[Entry], writer: _Writer | None, show_progress: bool) -> Iterator[list[Facts] | str]:
        """Yield the facts of each entry, or why there are none, while the workers go on."""
        examine = _Examine(self.examiner)
        if writer is not None:
            # How many slices a volume has is not known before it is read; anything else has its row.
            examine = _Examine(self.examiner, writer.grid, None if self.examiner.slices else writer.file)
        chunk = _SLICED_CHUNK if self.examiner.slices else CHUNK
        rows = accumulate((entry.split in TRAINED for entry in entries), initial=0)
        numbered = list(zip(rows, entries, strict=False))
        try:
            for part in chunked_map(
                examine, numbered, label="reading", unit="files", show_progress=show_progress, chunk=chunk
            ):
                if writer is not None:
                    writer.take(part)
                yield from part.facts
        except BaseException:
            if writer is not None:
                writer.give_up()
            raise


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
