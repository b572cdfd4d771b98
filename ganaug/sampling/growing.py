"""A ``.npy`` file that grows by whole rows, so that a killed process can go on behind the last one.

Of a team each process writes its rows to a file of its own, also because several machines must not write to one file of
a network file system; rank 0 then puts them together.
"""

from __future__ import annotations

import io
import math
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ganaug.distributed import Team, team
from ganaug.progress import Progress


def grow_npy(
    path: Path,
    shape: tuple[int, ...],
    dtype: str,
    rows: Callable[[slice], np.ndarray],
    *,
    batch: int,
    progress: Progress,
) -> int:
    """Fill `path` up to an array of `shape`, asking for `batch` rows at a time.

    What the file holds already is kept up to its last whole row. Plain writes and no writable memory map: a full disk
    is then an error and not a bus error. A team comes back when the whole file is there; what it had begun is gone on
    with by a team of any size.

    Args:
        shape: of the complete array, rows first.
        rows: returns the array's rows of a slice.

    Returns:
        The number of rows that were there already.
    """
    array = _Array(_header(shape, np.dtype(dtype)), shape[0], math.prod(shape[1:]) * np.dtype(dtype).itemsize)

    def write(stream: BinaryIO, first: int, stop: int) -> None:
        for start in range(first, stop, batch):
            progress.update(start)
            part = rows(slice(start, min(start + batch, stop)))
            stream.write(np.ascontiguousarray(part, dtype=dtype).data)
        stream.flush()
        os.fsync(stream.fileno())

    members = team()
    kept = int(members.tell(str(_begun(path, array, members.size)) if members.leads else "")[0])
    if members.size > 1:
        found = _write_part(path, array, kept, members, write)
        if members.leads:
            _gathered(path, array, kept)
        members.tell()
        kept += found
    else:
        with path.open("r+b") as stream:
            stream.seek(0, os.SEEK_END)
            write(stream, kept, array.rows)
    progress.update(array.rows)
    return kept


@dataclass(frozen=True)
class _Array:
    header: bytes
    rows: int
    row_bytes: int


def _write_part(
    path: Path, array: _Array, kept: int, members: Team, write: Callable[[BinaryIO, int, int], None]
) -> int:
    """Write this process's part of the rows from `kept` on; return how many of all parts' rows were there already."""
    part, rows = _part(path, array.rows, kept, members.size, members.rank)
    with part.open("r+b" if part.exists() else "w+b") as stream:
        there = min(os.fstat(stream.fileno()).st_size // array.row_bytes, len(rows))
        stream.seek(there * array.row_bytes)
        stream.truncate()
        write(stream, rows.start + there, rows.stop)
    return members.total(there)


def _begun(path: Path, array: _Array, size: int) -> int:
    """Leave the file with its header and its whole rows, and the parts that a team of `size` would go on with.

    Returns:
        The number of rows.
    """
    with path.open("r+b" if path.exists() else "w+b") as stream:
        ours = stream.read(len(array.header)) == array.header
        there = (os.fstat(stream.fileno()).st_size - len(array.header)) // array.row_bytes
        kept = min(there, array.rows) if ours else 0
        stream.seek(0)
        stream.write(array.header)
        stream.truncate(len(array.header) + kept * array.row_bytes)
    wanted = {_part(path, array.rows, kept, size, rank)[0] for rank in range(size)} if size > 1 else set()
    if not ours or not {part for _, part in _parts(path)} <= wanted:
        kept = _gathered(path, array, kept) if ours else 0
        for _, part in _parts(path):
            part.unlink()
    return kept


def _gathered(path: Path, array: _Array, kept: int) -> int:
    """Put the parts behind the file's `kept` rows, as far as they follow each other; return how many rows it has."""
    with path.open("r+b") as stream:
        for first, part in sorted(_parts(path)):
            there = min(first + part.stat().st_size // array.row_bytes, array.rows)
            if first > kept:
                break
            if there > kept:
                with part.open("rb") as source:
                    source.seek((kept - first) * array.row_bytes)
                    stream.seek(len(array.header) + kept * array.row_bytes)
                    shutil.copyfileobj(source, stream, 2**20)
                kept = there
                stream.truncate(len(array.header) + kept * array.row_bytes)
                stream.flush()
                os.fsync(stream.fileno())
            part.unlink()
    return kept


def _part(path: Path, rows: int, kept: int, size: int, rank: int) -> tuple[Path, range]:
    """Return the file of process `rank` of `size` for its part of the rows from `kept` on, and these rows."""
    part = Team(rank, size).part(rows - kept)
    mine = range(kept + part.start, kept + part.stop)
    return path.with_name(f"{path.name}.rows-{mine.start}-{mine.stop}"), mine


def _parts(path: Path) -> list[tuple[int, Path]]:
    """Return the parts beside `path`, each with the first of its rows."""
    found = ((re.fullmatch(r".*\.rows-(\d+)-\d+", part.name), part) for part in path.parent.glob(f"{path.name}.*"))
    return [(int(match[1]), part) for match, part in found if match]


def _header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    stream = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, described)
    return stream.getvalue()
