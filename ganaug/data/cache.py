"""The cache: training tensors ready to be mapped into memory, and what is known of files that were read before.

It lies in ``$GANAUG_CACHE``, else in the user's cache folder (``~/.cache/ganaug``), readable by the user alone, since
it holds images. ``GANAUG_CACHE=off`` does without. Everything in it is written beside its place and renamed, so that
runs at the same time do not disturb each other; all of it may be deleted at any moment.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ganaug.data.examine import VERSION
from ganaug.data.grid import Grid
from ganaug.errors import ConfigError

LIMIT_GB = 50.0
"""Default of ``$GANAUG_CACHE_GB``: the least recently used tensors go when the cache grows above it."""

_OFF = {"off", "no", "0", "none"}
_BLOCK = 2**24


def cache_folder() -> Path | None:
    """Return the cache's folder, created if need be; None if it is switched off or cannot be made."""
    named = os.environ.get("GANAUG_CACHE", "")
    if named.lower() in _OFF:
        return None
    if named:
        folder = Path(named).expanduser()
    elif sys.platform == "win32":
        folder = Path(os.environ.get("LOCALAPPDATA", Path.home())) / "ganaug" / "cache"
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ganaug"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _limit_bytes() -> float:
    text = os.environ.get("GANAUG_CACHE_GB", str(LIMIT_GB))
    try:
        return float(text) * 1e9
    except ValueError:
        raise ConfigError(f"GANAUG_CACHE_GB is {text!r}; a number of gigabytes was wanted.") from None


def replace_text(path: Path, text: str) -> None:
    """Write a file that may get lost but is never seen half written: `write_atomic` without the wait for the disk."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def tensor_key(grid: Grid, contents: Sequence[tuple[str, str]]) -> str:
    """Return the name of the tensor of these images (hash and part of each, in order) on a grid."""
    described = json.dumps([VERSION, asdict(grid), list(contents)], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()


def open_tensor(key: str) -> np.ndarray | None:
    """Return a cached tensor as a read-only memory map, or None if there is none or it is damaged."""
    folder = cache_folder()
    if folder is None:
        return None
    place = folder / "tensors" / key
    try:
        about = json.loads((place / "about.json").read_bytes())
        shape, dtype = tuple(about["shape"]), np.dtype(about["dtype"])
        if (place / "tensor.bin").stat().st_size != int(np.prod(shape, dtype=np.int64)) * dtype.itemsize:
            return None
        tensor = np.memmap(place / "tensor.bin", dtype=dtype, mode="r", shape=shape)
        os.utime(place / "about.json")  # used now: the last to be pruned
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return tensor


class TensorWriter:
    """Writes a tensor into the cache; it appears there when it is complete.

    Images come one after the other through `append`, or are written by workers at rows of their own (`write_rows`).
    Raises OSError from every method when the disk does not take it.
    """

    def __init__(self, folder: Path, grid: Grid) -> None:
        self.grid = grid
        self.count = 0
        """Images written so far."""
        self._tensors = folder / "tensors"
        self._place = self._tensors / f".{uuid.uuid4().hex}.tmp"
        self._place.mkdir(mode=0o700, parents=True)
        self.file = self._place / "tensor.bin"
        self.file.touch(mode=0o600)
        self._flushed: Future[None] | None = None
        self._image_bytes = grid.channels * math.prod(grid.size) * np.dtype(grid.dtype).itemsize

    def append(self, images: np.ndarray) -> None:
        """Write some images, N×C×size in the grid's type, after those that are there."""
        write_rows(self.file, self.count, images)
        self.count += len(images)

    def wrote(self, row: int, count: int) -> None:
        """Take note that a worker wrote `count` images from `row` on; rows that nobody wrote are closed up."""
        if row > self.count:
            with self.file.open("r+b") as stream:
                for offset in range(0, count * self._image_bytes, _BLOCK):
                    length = min(_BLOCK, count * self._image_bytes - offset)
                    part = os.pread(stream.fileno(), length, row * self._image_bytes + offset)
                    _write_all(stream.fileno(), part, self.count * self._image_bytes + offset)
        self.count += count

    def flush(self) -> None:
        """Begin to bring what was written to the disk, while the caller goes on."""
        if self._flushed is None:
            pool = ThreadPoolExecutor(1)
            self._flushed = pool.submit(_fsync, self.file)
            pool.shutdown(wait=False)

    def commit(self, key: str) -> None:
        """Make the tensor known under `key`, unless another process was quicker with the same one."""
        shape = (self.count, self.grid.channels, *self.grid.size)
        os.truncate(self.file, self.count * self._image_bytes)
        self.flush()
        if self._flushed is not None:
            self._flushed.result()
        replace_text(self._place / "about.json", json.dumps({"shape": shape, "dtype": self.grid.dtype}))
        place = self._tensors / key
        if open_tensor(key) is None:
            shutil.rmtree(place, ignore_errors=True)
        try:
            self._place.rename(place)
        except OSError:
            if open_tensor(key) is None:
                raise
        self.discard()
        prune(self._tensors, keep=key)

    def discard(self) -> None:
        """Forget what was written."""
        if self._flushed is not None:
            wait([self._flushed])
        shutil.rmtree(self._place, ignore_errors=True)


def write_rows(file: Path, row: int, images: np.ndarray) -> None:
    """Write images, N×C×size, at their place in a tensor's file; several processes may do so at once."""
    descriptor = os.open(file, os.O_WRONLY)
    try:
        _write_all(descriptor, np.ascontiguousarray(images).data.cast("B"), row * images[0].nbytes)
    finally:
        os.close(descriptor)


def _fsync(file: Path) -> None:
    """Bring a file's content to the disk: its size may survive a power cut that the content does not."""
    with file.open("r+b") as stream:
        os.fsync(stream.fileno())


def _write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def prune(tensors: Path, *, keep: str) -> None:
    """Delete the least recently used tensors above the limit, and what killed processes left behind a day ago.

    A tensor that a running process has mapped stays readable there until it ends.
    """
    found = []
    for place in tensors.iterdir():
        try:
            if place.name.startswith("."):
                if time.time() - place.stat().st_mtime > 86_400:
                    shutil.rmtree(place, ignore_errors=True)
                continue
            found.append(((place / "about.json").stat().st_mtime, (place / "tensor.bin").stat().st_size, place))
        except OSError:
            continue
    total, limit = sum(size for _, size, _ in found), _limit_bytes()
    for _, size, place in sorted(found):
        if total <= limit:
            break
        if place.name != keep:
            shutil.rmtree(place, ignore_errors=True)
            total -= size
