"""The cache: what is known of files that were read before, and training tensors ready to be mapped into memory.

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
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ganaug.data.examine import OWN, VERSION, Facts
from ganaug.data.grid import Grid
from ganaug.data.layouts import Entry
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


class Memory:
    """The facts of a folder's files, remembered while the files stay as they are.

    A file counts as unchanged while its size, its inode and the times of its last change do.
    """

    def __init__(self, root: Path, entries: Sequence[Entry], *, slices: str | None, detail: bool) -> None:
        self.root = root
        folder = cache_folder()
        self._prefix = f"{root}{os.sep}"
        name = hashlib.sha256(json.dumps([str(root), slices, detail, VERSION]).encode("utf-8", "surrogatepass"))
        self.path = folder / "facts" / f"{name.hexdigest()}.json" if folder else None
        self._signatures = self._all_signatures(entries) if folder else {}
        self._stored = self._load()
        self._new: dict[str, list] = {}
        self._kinds: dict[tuple, int] = {}

    def recall(self, entry: Entry) -> list[Facts] | None:
        """Return the facts of an entry's images, if they are known and its files are as they were."""
        try:
            signature, images = self._stored["entries"][_key(entry)]
            if signature != self._signature(entry):
                return None
            return [_unpacked(values, self._stored["kinds"]) for values in images]
        except (KeyError, TypeError, ValueError, IndexError):
            return None

    def add(self, entry: Entry, facts: list[Facts] | str) -> None:
        """Take note of the facts of an entry's images; a reason why there are none is not remembered."""
        signature = self._signature(entry)
        if signature is not None and not isinstance(facts, str):
            self._new[_key(entry)] = [signature, [_packed(image, self._kinds) for image in facts]]

    def write(self) -> None:
        """Remember what was noted, and nothing else of the folder."""
        if self.path is None:
            return
        text = json.dumps({"kinds": list(self._kinds), "entries": self._new}, separators=(",", ":"))
        try:
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
            _replace(self.path, text)
        except OSError:  # a cache that cannot be written is no reason to stop
            return

    def _load(self) -> dict[str, Any]:
        if self.path is None:
            return {}
        try:
            values = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}

    def _signature(self, entry: Entry) -> list | None:
        if not entry.files:
            return self._signatures.get(entry.path)
        signatures = [self._signatures.get(name) for name in entry.files]
        return None if None in signatures else signatures

    def _all_signatures(self, entries: Sequence[Entry]) -> dict[str, list[int] | None]:
        names = dict.fromkeys(name for entry in entries for name in entry.files or (entry.path,))
        return {name: _signature(self._prefix + name) for name in names}


class JoinedSeries:
    """Which files of a folder form a DICOM series, remembered while all of them stay as they are."""

    def __init__(self, root: Path, entries: Sequence[Entry]) -> None:
        folder = cache_folder()
        self._entries = entries
        self.path: Path | None = None
        if folder is not None:
            known = [[entry.path, _signature(f"{root}{os.sep}{entry.path}")] for entry in entries]
            labels = [[entry.label, entry.group, entry.split] for entry in entries]
            text = json.dumps([VERSION, str(root), known, labels])
            self.path = folder / "series" / f"{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}.json"

    def recall(self) -> tuple[tuple[Entry, ...], tuple[str, ...]] | None:
        """Return the joined entries and the paths of what was left over, or None if they are not known."""
        if self.path is None:
            return None
        by_path = {entry.path: entry for entry in self._entries}
        try:
            stored = json.loads(self.path.read_bytes())
            entries = [replace(by_path[files[0]], files=tuple(files) if len(files) > 1 else ()) for files in stored[0]]
            return tuple(entries), tuple(map(str, stored[1]))
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return None

    def store(self, entries: Sequence[Entry], beside: Sequence[str]) -> None:
        """Remember joined entries, and the paths of what was left over."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
            _replace(self.path, json.dumps([[entry.files or (entry.path,) for entry in entries], list(beside)]))
        except OSError:
            return


def _key(entry: Entry) -> str:
    return f"{entry.path}#{entry.part}#{len(entry.files)}"


def _signature(path: str) -> list[int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - half the time of Path.stat, and there may be a million files
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _packed(facts: Facts, kinds: dict[tuple, int]) -> list:
    """Return facts as JSON values; what many images share is written once, in `kinds`."""
    own = facts[:OWN]
    # Most images are whole files: their source is themselves, and their percentiles their extremes.
    if facts.source == facts.sha256 and facts.low == facts.minimum and facts.high == facts.maximum:
        own = (facts.part, facts.sha256, facts.minimum, facts.maximum, facts.phash)
    return [*own, kinds.setdefault(facts[OWN:], len(kinds))]


def _unpacked(values: list, kinds: list) -> Facts:
    *own, kind = values
    if len(own) < OWN:
        part, sha256, minimum, maximum, phash = own
        own = [part, sha256, sha256, minimum, maximum, minimum, maximum, phash]
    shared = (tuple(value) if isinstance(value, list) else value for value in kinds[kind])
    return Facts._make((*own, *shared))


def _replace(path: Path, text: str) -> None:
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
        _replace(self._place / "about.json", json.dumps({"shape": shape, "dtype": self.grid.dtype}))
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
