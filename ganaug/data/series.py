"""DICOM series: the slices of one volume, each in a file of its own, found and put together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ganaug.data.layouts import Entry
from ganaug.data.names import printable
from ganaug.data.parallel import parallel_map
from ganaug.data.planes import Plane, ordered, plane_of, same_direction, stack, uneven_step
from ganaug.data.readers import Decoded, as_stored, check_size, read_bytes, readers_by_suffix, suffix_of
from ganaug.data.readers._dicom_file import has_mark, parse, quiet
from ganaug.data.readers.dicom import decode_plane
from ganaug.errors import DataError

_HEAD = 2**16
"""Bytes that are read of a file at first; few headers are longer."""

# What tells images of one series at one position apart: kinds of image, echoes, time points, diffusion weightings.
_REPEATS = (
    "ImageType", "EchoTime", "TemporalPositionIdentifier", "AcquisitionNumber", "DiffusionBValue", "TriggerTime",
)  # fmt: skip
_TEXTS = (*_REPEATS, "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID")
_TAGS = (
    *_TEXTS, "ImagePositionPatient", "ImageOrientationPatient", "SliceLocation", "NumberOfFrames", "Rows", "Columns",
)  # fmt: skip
_LAST_TAG = 0x0028_0011  # Columns


@dataclass(frozen=True)
class _Slice:
    """What a file's header says of its place in a series."""

    series: tuple[str, ...]
    """Series, and patient and study besides: anonymizers give all patients one series."""
    instance: str
    size: tuple[int, int]
    plane: Plane
    repeats: tuple[str, ...]
    is_localizer: bool


def join_series(root: Path, entries: Sequence[Entry], *, show_progress: bool = False) -> tuple[Entry, ...]:
    """Join the files of each DICOM series that form a volume into one entry, with `files` in the order of position.

    A volume is made of files in one folder with the same series, size and orientation, at least two, each at a
    position of its own. Where several lie at one position and something tells them apart (echo, time point, kind of
    image), each of these is a volume. Everything else stays as it is: localizers, time points that nothing tells
    apart, files without a position, and files that cannot be read, which the reader will report. So do the series
    whose files differ in label, group, split or domain: somebody labelled them slice by slice.

    Returns:
        All entries, sorted by path; that of a volume is the path of its first file.
    """
    entries = sorted(entries, key=lambda entry: entry.path)
    folders: dict[PurePosixPath, list[Entry]] = defaultdict(list)
    for entry in entries:
        if not entry.part and not entry.files and may_be_dicom(entry.path):
            folders[PurePosixPath(entry.path).parent].append(entry)
    candidates = [entry for folder in folders.values() if len(folder) > 1 for entry in folder]
    if not candidates:
        return tuple(entries)
    headers = parallel_map(
        partial(_header, root), [entry.path for entry in candidates], label="series", unit="files",
        show_progress=show_progress,
    )  # fmt: skip
    places: dict[tuple[Any, ...], list[tuple[Entry, _Slice]]] = defaultdict(list)
    labels: dict[tuple[str, ...], dict[str, set[tuple[str, ...]]]] = defaultdict(lambda: defaultdict(set))
    for entry, header in zip(candidates, headers, strict=True):
        if header is not None:
            label = (entry.label, entry.group, entry.split, entry.domain)
            labels[header.series][header.instance or entry.path].add(label)
            places[(PurePosixPath(entry.path).parent, label, header.series, header.size)].append((entry, header))
    # A copy of a whole series under another label does not make it labelled by slice.
    by_slice = {series for series, given in labels.items() if len(set(map(frozenset, given.values()))) > 1}
    volumes = [
        volume
        for (_, _, series, _), members in places.items()
        if series not in by_slice
        for parallel in _by_direction(members)
        for volume in _volumes(parallel)
    ]
    joined = {entry.path for volume in volumes for entry in volume}
    alone = [entry for entry in entries if entry.path not in joined]
    whole = [replace(volume[0], files=tuple(entry.path for entry in volume)) for volume in volumes]
    return tuple(sorted([*alone, *whole], key=lambda entry: entry.path))


def leftovers(root: Path, entries: Sequence[Entry]) -> tuple[str, ...]:
    """Return the paths of single images that no one wants beside volumes: localizers, and what else a series holds.

    Args:
        entries: as `join_series` gave them. An image is left over if there is a volume in its folder, and it says of
            itself that it is a localizer, or belongs to the series of the volume (as a copy, or turned another way).
    """
    folders: dict[PurePosixPath, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.files or (not entry.part and may_be_dicom(entry.path)):
            folders[PurePosixPath(entry.path).parent].append(entry)
    found = []
    for members in folders.values():
        volumes = [entry for entry in members if entry.files]
        if not volumes or len(volumes) == len(members):
            continue
        series = {header.series for entry in volumes if (header := _header(root, entry.path))}
        for entry in members:
            header = None if entry.files else _header(root, entry.path)
            if header and (header.series in series or header.is_localizer):
                found.append(entry.path)
    return tuple(found)


def decode_series(raws: Sequence[bytes], paths: Sequence[Path]) -> Decoded:
    """Decode the files of a series to one volume D×H×W×C in the order of `geometry.to_lps`.

    A missing slice is an error and not bridged: the anatomy would jump there, a generator would learn the jump, and no
    spacing would be true of the volume. Such volumes are rare enough to be skipped with a message that names the gap.

    Args:
        raws: contents of the files, in any order.
        paths: their paths, for messages.

    Raises:
        DataError: a file cannot be used, they do not fit each other, or steps between slices differ by more than 10 %.
    """
    planes: list[Plane] = []
    slices: list[np.ndarray] = []
    hints: list[str] = []
    for raw, path in zip(raws, paths, strict=True):
        decoded, plane = decode_plane(raw, path)
        if decoded.pixels.ndim != 3 or (slices and decoded.pixels.shape != slices[0].shape):
            raise DataError(f"{path}: has another shape than the series that it belongs to; export the series again")
        if not slices:
            check_size(path, (len(raws), *decoded.pixels.shape), decoded.pixels.dtype.name)
        planes.append(plane)
        slices.append(decoded.pixels)
        hints += [hint for hint in decoded.hints if hint not in hints]
    order = _evenly(planes, paths)
    pixels = as_stored(np.stack([slices[index] for index in order]), paths[0])
    slices.clear()  # three copies of a large volume would be too many
    volume = stack(pixels, [planes[index] for index in order])
    return Decoded(
        volume.pixels, "DICOM", f"series of {len(order)}, {pixels.dtype}", volume.spacing, volume.orientation,
        volume.center, decoded.group, tuple(hints),
    )  # fmt: skip


def _evenly(planes: Sequence[Plane], paths: Sequence[Path]) -> list[int]:
    """Return the indices of planes in the order of position. Raises `DataError` if they are not evenly spaced."""
    parallel = len(planes) > 1 and all(same_direction(plane, planes[0]) for plane in planes)
    order = ordered(planes) if parallel else None
    if order is None:
        raise DataError(f"{paths[0]}: its series is no stack of slices at positions of their own; export it again")
    if uneven := uneven_step([planes[index] for index in order]):
        before, step, usual = uneven
        one, other = (printable(paths[index].name) for index in order[before : before + 2])
        raise DataError(
            f"{paths[0]}: the slices of its series are {usual:.4g} mm apart, but {one} and {other} {step:.4g} mm; copy "
            "what is missing from its source, or resample the series to even steps"
        )
    return order


def may_be_dicom(path: str) -> bool:
    """Return whether a listed file is DICOM, or at least named so; it is not opened."""
    suffix = suffix_of(path)
    # Without a suffix it is among the entries because its content is DICOM.
    return not suffix or readers_by_suffix()[suffix].SUFFIXES[suffix] == "DICOM"


def _header(root: Path, path: str) -> _Slice | None:
    """Return what a file says of its place in a series, or None if it says too little or cannot be read."""
    file = root / path
    try:
        if not file.is_file():
            return None
        with file.open("rb") as stream:
            head = stream.read(_HEAD)
        try:
            return _slice(head, file)
        except Exception:
            # Damaged, which the reader will say; or cut off before the end of a long header.
            return _slice(read_bytes(file), file) if len(head) == _HEAD else None
    except Exception:
        return None


def _slice(raw: bytes, path: Path) -> _Slice | None:
    if not has_mark(raw):
        return None
    with quiet():
        dataset = parse(raw, path, stop_when=lambda tag, *_: tag > _LAST_TAG, tags=_TAGS)
        texts = {name: str(dataset.get(name, "")) for name in _TEXTS}
        size = (int(dataset.Rows), int(dataset.Columns))
        if not texts["SeriesInstanceUID"] or int(dataset.get("NumberOfFrames") or 1) != 1:
            return None
        return _Slice(
            series=(texts["SeriesInstanceUID"], texts["StudyInstanceUID"], texts["PatientID"]),
            instance=texts["SOPInstanceUID"],
            size=size,
            plane=plane_of(dataset),
            repeats=tuple(texts[name] for name in _REPEATS),
            is_localizer="LOCALIZER" in texts["ImageType"],
        )


_Members = list[tuple[Entry, _Slice]]


def _by_direction(members: _Members) -> Iterator[_Members]:
    while members:
        first = members[0][1].plane
        yield [member for member in members if same_direction(member[1].plane, first)]
        members = [member for member in members if not same_direction(member[1].plane, first)]


def _volumes(members: _Members) -> Iterator[list[Entry]]:
    """Yield the files of each volume among parallel slices of one series, in the order of position."""
    instances = {slice_.instance or entry.path: (entry, slice_) for entry, slice_ in reversed(members)}
    members = list(instances.values())[::-1]  # of copies of one file the first
    for telling in (None, *range(len(_REPEATS))):
        parts: dict[str, _Members] = defaultdict(list)
        for entry, slice_ in members:
            parts["" if telling is None else slice_.repeats[telling]].append((entry, slice_))
        orders = [ordered([slice_.plane for _, slice_ in part]) for part in parts.values()]
        if all(order is not None for order in orders):
            for part, order in zip(parts.values(), orders, strict=True):
                if order is not None and len(order) > 1:
                    yield [part[index][0] for index in order]
            return
