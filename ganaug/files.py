"""Files on disk: atomic writes, hashes, and output folders that never overwrite what is not ours."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ganaug.errors import ConfigError, GanaugError

if sys.platform != "win32":
    import fcntl

MARKER = ".ganaug"
"""An empty file in every folder that ganaug created; only such a folder may be replaced by ``--overwrite``."""

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a disk, or a share of it, that is full."""

MOST_JSON = 2**31
"""Bytes of a JSON file that is read: the manifest of ten million images is as large."""

_TEMPORARY = ".tmp"


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fsync_dir(path: Path) -> None:
    """Make a rename inside `path` durable (a no-op where directories cannot be opened, as on Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader sees the old file or the new one, never a part.

    The bytes go to a temporary neighbour, are flushed to the disk, and replace `path` in one rename.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")
    try:
        temporary.unlink(missing_ok=True)  # of a killed process of this number
        # "x": what somebody puts there meanwhile, such as a link out of the folder, is not written through.
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def append_line(path: Path, text: str) -> None:
    """Add a line to a file, whole or not at all where the disk is full."""
    with path.open("ab") as stream:
        before = stream.tell()
        try:
            stream.write(f"{text}\n".encode())
            stream.flush()
            os.fsync(stream.fileno())
        except OSError:
            with suppress(OSError):
                os.ftruncate(stream.fileno(), before)
            raise


def drop_temporaries(folder: Path) -> None:
    """Remove what `write_atomic` left in `folder` and below when its process was killed. Nobody else may write there.

    Symbolic links are not followed.
    """
    for place, _, names in os.walk(folder):
        for name in names:
            if name.startswith(".") and name.endswith(_TEMPORARY):
                with suppress(OSError):
                    Path(place, name).unlink()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_atomic(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path, error: type[GanaugError], hint: str) -> Any:
    """Read a JSON file; raise `error` with `hint` (what to do) if it is missing, damaged or unreasonably large."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MOST_JSON + 1)
        if len(data) > MOST_JSON:
            raise ValueError(f"it has more than {MOST_JSON // 2**20} MiB")
        return json.loads(data.decode("utf-8"))
    except FileNotFoundError:
        raise error(f"{path} does not exist. {hint}") from None
    except RecursionError:
        raise error(f"{path} cannot be read as JSON (it is nested too deeply). {hint}") from None
    except (OSError, ValueError) as problem:
        raise error(f"{path} cannot be read as JSON ({problem}). {hint}") from None


def check_output(folder: Path, *, overwrite: bool = False, options: str = "--overwrite") -> None:
    """Raise a ConfigError if `prepare_output` would refuse `folder`; touch nothing.

    `options` names, for the message, the command-line options that the user may add.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"The output {folder} is a file; a folder was wanted. Choose another path.")
    if not folder.is_dir() or all(path.name == MARKER and path.is_file() for path in folder.iterdir()):
        return
    if not overwrite:
        raise ConfigError(
            f"The output folder {folder} exists and is not empty. Choose another folder, or add {options}."
        )
    if not (folder / MARKER).is_file():
        raise ConfigError(
            f"The folder {folder} was not made by ganaug (it has no {MARKER} file), so --overwrite will not "
            "delete it. Choose another folder, or empty this one yourself."
        )


def keep_apart(out: Path, source: Path) -> None:
    """Raise a ConfigError if `out` and the folder it is made from lie one inside the other.

    Results inside a data folder would be taken for a class; a source inside the output would go with --overwrite.
    """
    a, b = out.resolve(), source.resolve()
    if a.is_relative_to(b) or b.is_relative_to(a):
        raise ConfigError(f"The output {out} and {source} lie one inside the other. Choose an output folder elsewhere.")


def prepare_output(folder: Path, *, overwrite: bool = False, options: str = "--overwrite") -> Path:
    """Create an output folder, or refuse one that holds something.

    With `overwrite` a folder that ganaug made itself (it carries the marker) is emptied first; anything else stays
    untouched.

    Raises:
        ConfigError: `folder` is a file, or is not empty and may not be replaced.
    """
    check_output(folder, overwrite=overwrite, options=options)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()  # and it stays: a folder half emptied by a killed process is still known as ours
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != MARKER:
            path.unlink()
    return folder


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to an output folder of ours for as long as this lasts, also after a kill.

    A folder that is not there is created, with the marker, which is what is locked. Where the file system has no locks
    nothing is kept away.

    Raises:
        ConfigError: another process writes to it at this moment.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / MARKER, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def lock(descriptor: int, folder: Path) -> None:
    """Lock an open file of `folder` until it is closed.

    Raises:
        ConfigError: another process has locked it.
    """
    if sys.platform == "win32":  # no such locks
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(
            f"Another process is writing to {folder} at this moment. Wait until it is done, or choose another folder."
        ) from None
    except OSError as problem:  # a file system without locks
        if problem.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn 'no space left', 'permission denied' and 'read-only' into a GanaugError that names `folder`."""
    try:
        yield
    except OSError as problem:
        if problem.errno in FULL:
            raise GanaugError(
                f"No space is left on the disk that holds {folder}. What was complete is kept; free some space "
                "and run the same command again (with --resume where the command has it)."
            ) from problem
        if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise GanaugError(
                f"{problem.filename or folder} cannot be written ({problem.strerror}). Choose a folder that you may "
                "write to."
            ) from problem
        raise GanaugError(
            f"{problem.filename or folder} cannot be read or written ({problem.strerror or problem}). "
            "Check the path and the disk."
        ) from problem
