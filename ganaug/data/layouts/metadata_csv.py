"""``ROOT/metadata.csv`` with the columns ``file_name,label[,group,split,domain]``, as Hugging Face ImageFolder has.

``domain`` is the site, the scanner or the contrast of an image. Other columns are ignored, so a folder that ``ganaug
sample`` wrote can be read back. A `file_name` may be an image of an archive, ``set.npz#train[12]``, which gives it a
group, or another label; one that is a folder stands for every DICOM file in it.
"""

from __future__ import annotations

import csv
import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath

from ganaug.data.layouts import Entry, Listing
from ganaug.data.names import MAX_NAME, count, few, printable
from ganaug.data.readers import is_image, readers_by_suffix, suffix_of
from ganaug.data.tree import require_inside, walk
from ganaug.errors import DataError

PRIORITY = 10

FILE_NAME = "metadata.csv"


def matches(root: Path) -> bool:
    """Return whether `root` has a ``metadata.csv``."""
    return (root / FILE_NAME).is_file()


def listing(root: Path, *, labelled: bool = True) -> Listing:
    """Return the files that the table names, with their labels, groups, splits and domains.

    Args:
        root: the folder of the table.
        labelled: whether to read labels; without them the column may be missing, and there are no classes.

    Raises:
        DataError: the table cannot be read, lacks a column or a value, or names a file twice or outside
            `root`.
    """
    require_inside(root, FILE_NAME)
    table = root / FILE_NAME
    files = walk(root).files
    entries: list[Entry] = []
    wanted = ("file_name", "label") if labelled else ("file_name",)
    for line, row in _rows(table, wanted):
        missing = next((column for column in wanted if not row.get(column)), None)
        if missing is not None:
            raise DataError(f"{table}, line {line}: the column '{missing}' is empty. Fill it in, or remove the line.")
        long = next((name for name in ("label", "domain") if len(row.get(name, "")) > MAX_NAME), None)
        if long is not None:
            raise DataError(
                f"{table}, line {line}: the {long} has {len(row[long]):,} letters; at most {MAX_NAME} were wanted. "
                "Shorten it, or check the quotes around the line."
            )
        path = _relative(table, line, row["file_name"])
        require_inside(root, path)
        entry = Entry(
            path,
            row["label"] if labelled else "",
            row.get("group", ""),
            row.get("split", "").lower(),
            domain=row.get("domain", ""),
        )
        archive, _, part = path.partition(".npz#")
        if part:
            entries.append(replace(entry, path=f"{archive}.npz", part=part))
            continue
        if os.path.isdir(root / path):  # noqa: PTH112 - Path.is_dir raises for names that are too long
            entries += [replace(entry, path=file) for file in _dicom_files(table, line, path, files)]
        else:
            entries.append(entry)
    if not entries:
        raise DataError(f"{table} has a header and no rows. One row for each image was wanted.")
    named = Counter(f"{entry.path}#{entry.part}" if entry.part else entry.path for entry in entries)
    twice = sorted(name for name, times in named.items() if times > 1)
    if twice:
        raise DataError(
            f"{table} names {count(len(twice), 'file')} more than once: {few(twice)}. Give each file one "
            "row, with one label."
        )
    used = {entry.path for entry in entries} | {FILE_NAME}
    ignored = tuple(path for path in files if path not in used)
    classes = tuple(sorted({entry.label for entry in entries} - {""}))
    return Listing(classes, tuple(sorted(entries, key=lambda entry: entry.path)), ignored)


def _dicom_files(table: Path, line: int, folder: str, files: Sequence[str]) -> list[str]:
    """Return the DICOM files below a folder that the table names."""
    below = files[bisect_left(files, f"{folder}/") : bisect_left(files, f"{folder}0")]  # 0 comes after the slash
    found = [path for path in below if is_image(table.parent / path)]
    readers = readers_by_suffix()
    # Files without a known suffix are images only if they hold DICOM.
    suffixes = {path: suffix_of(PurePosixPath(path).name) for path in found}
    dicom = [path for path, suffix in suffixes.items() if not suffix or readers[suffix].SUFFIXES[suffix] == "DICOM"]
    if not dicom:
        raise DataError(
            f"{table}, line {line}: {printable(folder)} is a folder without DICOM files. Name the image files "
            "themselves, one row each."
        )
    return dicom


def _rows(table: Path, wanted: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Return the table's rows with their line numbers; names and values are stripped of blanks.

    Raises:
        DataError: the table cannot be read, or lacks one of the columns `wanted`.
    """
    try:
        # utf-8-sig: Excel begins its UTF-8 files with a byte order mark.
        with table.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            header = [name.strip() for name in next(reader, [])]
            rows = [
                (reader.line_num, dict(zip(header, (cell.strip() for cell in row), strict=False)))
                for row in reader
                if any(cell.strip() for cell in row)
            ]
    except UnicodeDecodeError as problem:
        raise DataError(f"{table} is not UTF-8 text ({problem.reason}). Save it as CSV UTF-8.") from problem
    except (OSError, csv.Error) as problem:
        raise DataError(f"{table} cannot be read as CSV ({problem}). Save it as plain CSV with commas.") from problem
    absent = [name for name in wanted if name not in header]
    if absent:
        raise DataError(
            f"{table} lacks the column{'s' if len(absent) > 1 else ''} {', '.join(absent)}; it has "
            f"{few(header) or 'no header'}. A first line such as file_name,label,group, with commas between "
            "the columns, was wanted."
        )
    return rows


def _relative(table: Path, line: int, name: str) -> str:
    """Return a file name from the table as a POSIX path relative to the root; refuse one that leads out."""
    # Tables written on Windows have backslashes; no image worth reading has one in its name.
    path = PurePosixPath(name.replace("\\", "/"))
    if "\0" in name or path.is_absolute() or PureWindowsPath(name).drive or ".." in path.parts or not path.parts:
        raise DataError(
            f"{table}, line {line}: the file name {printable(name)!r} does not lie inside the folder. A path "
            f"relative to {table.parent}, without '..', was wanted."
        )
    return path.as_posix()
