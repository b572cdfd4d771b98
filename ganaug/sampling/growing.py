"""A ``.npy`` file that grows by whole rows, so that a killed process can go on behind the last one."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

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
    is then an error and not a bus error.

    Args:
        shape: of the complete array, rows first.
        rows: returns the array's rows of a slice.

    Returns:
        The number of rows that were there already.
    """
    header = _header(shape, np.dtype(dtype))
    row_bytes = math.prod(shape[1:]) * np.dtype(dtype).itemsize
    with path.open("r+b" if path.exists() else "w+b") as stream:
        begun = stream.read(len(header)) == header
        kept = min((os.fstat(stream.fileno()).st_size - len(header)) // row_bytes, shape[0]) if begun else 0
        stream.seek(0)
        stream.write(header)
        stream.seek(len(header) + kept * row_bytes)
        stream.truncate()
        for start in range(kept, shape[0], batch):
            progress.update(start)
            stop = min(start + batch, shape[0])
            stream.write(np.ascontiguousarray(rows(slice(start, stop)), dtype=dtype).data)
        stream.flush()
        os.fsync(stream.fileno())
    progress.update(shape[0])
    return kept


def _header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    stream = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, described)
    return stream.getvalue()
