"""Output folders that appear whole or not at all, and go on where a killed process stopped."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ganaug.distributed import team
from ganaug.errors import ConfigError, GanaugError
from ganaug.files import MARKER, check_output, fsync_dir, lock

OVERWRITE = "--overwrite (overwrite=True)"
"""What to add, on the command line or in Python, to replace a folder."""

REQUEST = "request.json"
"""The file in each folder that says what was asked for; the same request again finds its work done."""

_TEMPORARY = ".part"
_LARGE = 2**20
"""Bytes from which on a file is flushed at once; a power cut leaves smaller ones whole or empty."""


@contextmanager
def continued(folder: Path, request: Mapping[str, Any], *, overwrite: bool = False) -> Iterator[Path | None]:
    """Yield a hidden neighbor of `folder` to fill; if the body succeeds it takes that name in one rename.

    If the body fails, or the process is killed, the neighbor stays, and the same request later gets it again with
    what it holds; another request gets it empty. One process at a time may fill it, or one team (see
    `ganaug.distributed`), of which each process fills its part. A folder that is replaced stays until the new one is
    complete.

    Args:
        folder: an absolute path.
        request: all that determines the result, as JSON values.
        overwrite: replace what is at `folder` if ganaug made it, even by the same request.

    Yields:
        The neighbor; None if `folder` is complete already, made by the same request, and `overwrite` is not given.

    Raises:
        ConfigError: `folder` holds something else and may not be replaced, or another process is filling it.
    """
    members = team()
    if members.leads:
        with _continued(folder, request, overwrite) as place:
            members.tell("" if place is None else str(place))
            yield place
            members.tell()
    else:
        # The one that leads holds the lock.
        found = members.tell()[0]
        yield Path(found) if found else None
        if found:
            _to_disk(Path(found))
        members.tell()
    members.tell()  # it has its name


@contextmanager
def _continued(folder: Path, request: Mapping[str, Any], overwrite: bool) -> Iterator[Path | None]:
    """Do what `continued` does, in one process."""
    wanted = json.loads(json.dumps(request))
    work, retired = (folder.with_name(f".{folder.name}.{state}") for state in ("unfinished", "retired"))
    held = None
    while held is None:
        if _is_complete(folder, wanted, overwrite):
            if (retired / MARKER).is_file():  # its replacement was complete, and then the process was killed
                with suppress(OSError):
                    remove(retired)
            yield None
            return
        for hidden in (work, retired):
            if hidden.is_symlink():
                raise ConfigError(f"{hidden} is a link, which is not followed: remove it, or choose another folder.")
            check_output(hidden, overwrite=True)
        held = _lock(work, folder)
    try:
        if _is_complete(folder, wanted, overwrite):  # another process was quicker
            remove(work)
            yield None
            return
        if _request_of(work) != wanted or _has_link(work):
            _empty(work)
            write_file(work / REQUEST, (json.dumps(wanted, indent=2) + "\n").encode())
        yield work
        _to_disk(work)
        _take_name(work, folder, retired)
    except GanaugError:
        if team().size == 1:  # others may still write into it
            remove(work)  # a model or an argument that does not fit: going on would end alike
        raise
    finally:
        os.close(held)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a stream to write a file of an unfinished folder, which is then there whole or not at all."""
    temporary = path.with_name(path.name + _TEMPORARY)
    try:
        with temporary.open("wb") as stream:
            yield stream
            if stream.tell() >= _LARGE:
                stream.flush()
                os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def write_file(path: Path, data: bytes) -> None:
    """Write a file of an unfinished folder so that it is there whole or not at all."""
    with whole_file(path) as stream:
        stream.write(data)


def whole_files(folder: Path) -> set[str]:
    """Return the names of the files in `folder` that are whole, and remove what a killed process left of others."""
    names = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(_TEMPORARY) or entry.stat().st_size == 0:
                Path(entry.path).unlink()
            else:
                names.add(entry.name)
    return names


def is_whole(path: Path) -> bool:
    """Return whether a file of an unfinished folder is there; after a power cut a small one is whole or empty."""
    return path.is_file() and path.stat().st_size > 0


def remove(folder: Path) -> None:
    """Delete a folder of ours; its marker goes last, so that one half deleted is still known as ours."""
    if folder.is_dir():
        _empty(folder)
        (folder / MARKER).unlink(missing_ok=True)
        folder.rmdir()


def _empty(folder: Path) -> None:
    for path in list(folder.iterdir()):
        if path.name == MARKER:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _has_link(folder: Path) -> bool:
    """Return whether a symbolic link lies in `folder`: ganaug makes none, and would write to where it leads."""
    return any(Path(place, name).is_symlink() for place, *names in os.walk(folder) for name in itertools.chain(*names))


def _is_complete(folder: Path, wanted: Any, overwrite: bool) -> bool:
    """Return whether `folder` holds what is wanted. Raises ConfigError if it holds anything else that must stay."""
    if not overwrite and _request_of(folder) == wanted:
        return True
    check_output(folder, overwrite=overwrite, options=OVERWRITE)
    if folder.is_mount():
        raise ConfigError(
            f"The output {folder} is the root of a disk or volume, and a finished folder cannot take its name. "
            "Choose a folder inside it."
        )
    return False


def _request_of(folder: Path) -> Any:
    try:
        return json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _lock(work: Path, folder: Path) -> int | None:
    """Create `work` and lock its marker; None if another process finished it meanwhile."""
    work.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(work / MARKER, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        return None
    if sys.platform == "win32":  # no such locks; and a folder with an open file could not be renamed
        os.close(descriptor)
        return os.open(os.devnull, os.O_RDONLY)
    try:
        lock(descriptor, folder)
    except BaseException:
        os.close(descriptor)
        raise
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(descriptor), (work / MARKER).stat()):
            return descriptor
    os.close(descriptor)
    return None


def _to_disk(folder: Path) -> None:
    """Bring all files to the disk, in one call: an fsync for each of thousands may take longer than making them."""
    if sys.platform == "linux":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
        finally:
            os.close(descriptor)
    elif hasattr(os, "sync"):
        os.sync()


def _take_name(work: Path, folder: Path, retired: Path) -> None:
    if folder.exists():
        remove(retired)  # of a process that was killed before it could
        folder.replace(retired)
    try:
        work.replace(folder)
    except BaseException:
        if retired.exists() and not folder.exists():
            retired.replace(folder)
        raise
    fsync_dir(folder.parent)
    remove(retired)
