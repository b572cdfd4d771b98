"""Arrays in ``.npz`` archives, as MedMNIST and Keras save data sets: read without pickle and without trust.

An archive is a zip of ``.npy`` files. What an array claims is checked against what the zip claims, and both against a
cap, before memory is given. Large arrays are unpacked into a temporary file that has no name and are mapped from there.
"""

from __future__ import annotations

import errno
import hashlib
import io
import math
import re
import shutil
import stat
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from ganaug.data.names import few, printable
from ganaug.data.readers import Decoded, as_stored, check_size
from ganaug.errors import DataError

MAX_BYTES = 64 * 1024**3
"""Larger arrays are not read. (An image out of one has the caps of the readers.)"""

IN_MEMORY = 512 * 1024**2
"""Larger arrays are unpacked into a temporary file."""

MAX_IMAGES = 2_000_000
"""Archives with more images are refused: each takes half a kilobyte in the manifest, however small it is."""

_HEADER_BYTES = 2**16
_BLOCK = 2**20
_DEFLATE_RATIO = 1032  # the most that one byte of a deflate stream can stand for
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # all that NumPy writes; the others can ask for much memory
_PART = re.compile(r"(\w+)\[(\d{1,9})\]")

_SPLITS = ("train", "val", "test")
_KEYS = (
    {split: (f"{split}_images", f"{split}_labels") for split in _SPLITS},
    {split: (f"x_{split}", f"y_{split}") for split in _SPLITS},
    {split: (f"X_{split}", f"y_{split}") for split in _SPLITS},
    {"images": ("images", "labels")},
    {"images": ("x", "y")},
    {"images": ("X", "y")},
)

# Threads that ask for the same array are to wait for it, not to unpack it again.
_LOCK = threading.Lock()


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    length: int
    """Bytes before the values."""


def member_names(path: Path) -> tuple[str, ...]:
    """Return the names of the arrays in an archive, sorted. Raises `DataError` if it cannot be read."""
    return _names(*_identity(path))


def tables(path: Path, *, labelled: bool = True) -> dict[str, tuple[str, str]]:
    """Return the names of the arrays with images and with labels, by the name of their part.

    The parts are ``train``, ``val`` and ``test``, or ``images`` alone where the archive has no splits. With `labelled`
    False the arrays with labels may be missing.

    Raises:
        DataError: the archive cannot be read, or has no arrays of such names.
    """
    names = set(member_names(path))
    for keys in _KEYS:
        found = {part: pair for part, pair in keys.items() if pair[0] in names}
        if not found:
            continue
        for images, labels in found.values():
            if labelled and labels not in names:
                raise DataError(f"{path}: has {images} but no {labels}; save the labels beside the images")
        return found
    held = few(sorted(names)) or "no arrays"
    wanted = (
        "train_images and train_labels (and the same with val and test), x_train and y_train, images and labels, or x "
        "and y"
        if labelled
        else "train_images (and the same with val and test), x_train, images, or x"
    )
    raise DataError(f"{path}: holds {held}; {wanted} were wanted: save the arrays under such names")


def open_member(path: Path, name: str, *, limit: int = MAX_BYTES) -> np.ndarray:
    """Return an array of an archive, read-only: numbers, truth values or text.

    It is kept for the next call while the file stays as it is; processes forked meanwhile share it.

    Args:
        path: the archive.
        name: of the array, without ``.npy``.
        limit: the most bytes that it may have.

    Raises:
        DataError: there is no such array, it is damaged, larger than `limit`, or of Python objects (pickle).
    """
    identity = _identity(path)
    with _LOCK:
        return _member(*identity, name, limit)


def as_images(array: np.ndarray, path: Path, name: str) -> np.ndarray:
    """Return an array of images as N×H×W×C or N×D×H×W×C; N×H×W, N×D×H×W and N×...×C with C 1 or 3 are understood.

    Raises:
        DataError: its shape is another one, or there are too many images.
    """
    shape = array.shape
    shown = f"{path}: {name} has the shape {'×'.join(map(str, shape))}"
    if len(shape) == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3):
        raise DataError(f"{shown}, with the channels first; N×H×W×C was wanted: save {name}.transpose(0, 2, 3, 1)")
    if len(shape) == 4 and shape[3] in (2, 4):
        raise DataError(f"{shown}; 1 channel (gray) or 3 (color) were wanted: save {name}[..., :{shape[3] - 1}]")
    colored = len(shape) in (4, 5) and shape[-1] in (1, 3)
    if not colored and len(shape) not in (3, 4):
        raise DataError(f"{shown}; N×H×W, N×H×W×C, N×D×H×W or N×D×H×W×C with 1 or 3 channels was wanted")
    if len(array) > MAX_IMAGES:
        raise DataError(f"{shown}; at most {MAX_IMAGES:,} images are read from one archive: save it in parts")
    if array.dtype.kind not in "biuf":
        raise DataError(f"{shown} and values of type {array.dtype}; numbers were wanted")
    images = array if colored else array[..., None]
    check_size(path, images.shape[1:], images.dtype.name)
    return images


def decode_part(root: Path, path: str, part: str) -> Decoded:
    """Return one image or volume of an archive.

    Args:
        root: the folder that the archive's path is relative to.
        path: the archive.
        part: such as ``train[12]``, or ``images[12]`` in an archive without splits.

    Raises:
        DataError: it cannot be read, or there is no such part.
    """
    archive = root / path
    match = _PART.fullmatch(part)
    images, _ = tables(archive, labelled=False).get(match[1], ("", "")) if match else ("", "")
    if match is None or not images:
        raise DataError(f"{archive}: has no part {printable(part)}; the archive has changed: run the command again")
    array = as_images(open_member(archive, images), archive, images)
    index = int(match[2])
    if index >= len(array):
        raise DataError(
            f"{archive}: has no part {part}, {images} ends at {len(array) - 1}; the archive has changed: run the "
            "command again"
        )
    return Decoded(as_stored(array[index], archive), format="npz", mode=array.dtype.name)


def part_sha256(pixels: np.ndarray) -> str:
    """Return the hex SHA-256 of an image's type, shape and values; the same for the same image in any archive."""
    digest = hashlib.sha256(f"{pixels.dtype.name} {'x'.join(map(str, pixels.shape))}\n".encode())
    digest.update(np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<")).data)
    return digest.hexdigest()


def _identity(path: Path) -> tuple[Path, int, int]:
    try:
        status = path.stat()
    except OSError as problem:
        raise DataError(f"{path}: cannot be opened ({problem.strerror})") from problem
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path}: not a regular file; an .npz archive was wanted")
    return path, status.st_mtime_ns, status.st_size


@lru_cache(maxsize=8)
def _names(path: Path, modified: int, size: int) -> tuple[str, ...]:
    with _opened(path) as archive:
        return tuple(sorted(name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")))


@lru_cache(maxsize=8)
def _member(path: Path, modified: int, size: int, name: str, limit: int) -> np.ndarray:
    if name not in _names(path, modified, size):
        raise DataError(f"{path}: has no array {printable(name)}")
    with _opened(path) as archive:
        entry = archive.getinfo(f"{name}.npy")
        with archive.open(entry) as stream:
            header = _header(path, entry, stream.read(_HEADER_BYTES))
        total = _checked_bytes(path, size, entry, header, limit)
        with archive.open(entry) as stream:
            values = _values(path, entry, stream, header.length, total)
    shape = header.shape[::-1] if header.fortran else header.shape
    array = values.view(header.dtype).reshape(shape)
    array.flags.writeable = False
    return array.T if header.fortran else array


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive, and turn every failure, here or in the body, into a `DataError`."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except DataError:
        raise
    except zipfile.BadZipFile as problem:
        raise DataError(f"{path}: not an .npz archive, or damaged ({problem}); copy it again") from None
    # Damaged archives raise nearly anything: zlib.error, EOFError, struct.error, RuntimeError for a password.
    except Exception as problem:
        if getattr(problem, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(path) from problem
        reason = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
        raise DataError(f"{path}: cannot be read ({printable(reason)}); copy it again") from problem


def _header(path: Path, entry: zipfile.ZipInfo, head: bytes) -> _Header:
    # Only from the first bytes: a header may claim gigabytes for itself.
    stream = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(stream)
    # The header is a Python literal, and its parser has no closed list of what it raises.
    except Exception as problem:
        raise DataError(f"{path}: {printable(entry.filename)} is no array of NumPy, or damaged") from problem
    if dtype.hasobject:
        raise DataError(
            f"{path}: {printable(entry.filename)} holds Python objects, which are not read because loading them can "
            "run any program; save it as a plain array, text as np.array([...], dtype=str)"
        )
    if dtype.kind not in "biufUS" or dtype.itemsize == 0:
        raise DataError(f"{path}: {printable(entry.filename)} is of type {dtype}; real numbers or text were wanted")
    return _Header(shape, fortran, dtype, stream.tell())


def _checked_bytes(path: Path, size: int, entry: zipfile.ZipInfo, header: _Header, limit: int) -> int:
    """Return how many bytes the values take, after checking that all claims agree; `size` is the archive's."""
    total = math.prod(header.shape) * header.dtype.itemsize
    name, shape = printable(entry.filename), "×".join(map(str, header.shape))
    if min(header.shape, default=0) < 0 or header.length + total != entry.file_size:
        raise DataError(
            f"{path}: {name} claims {shape} of {header.dtype}, and the archive {entry.file_size:,} bytes for it; it is "
            "damaged: copy or save it again"
        )
    if total > limit:
        raise DataError(
            f"{path}: {name} is too large ({total:,} bytes claimed, at most {limit:,} are read); save it in parts"
        )
    if entry.compress_type not in _METHODS:
        raise DataError(f"{path}: {name} is packed in an unknown way; save it with np.savez or np.savez_compressed")
    packed = min(entry.compress_size, size)
    if entry.file_size > packed * (1 if entry.compress_type == zipfile.ZIP_STORED else _DEFLATE_RATIO):
        raise DataError(
            f"{path}: {name} claims {entry.file_size:,} bytes out of {packed:,}; it is damaged: copy or save it again"
        )
    return total


def _values(path: Path, entry: zipfile.ZipInfo, stream: IO[bytes], skip: int, total: int) -> np.ndarray:
    """Return the bytes behind the header."""
    stream.read(skip)
    blocks = _blocks(path, entry, stream, total)
    if total <= IN_MEMORY:
        values = np.empty(total, dtype=np.uint8)
        done = 0
        for block in blocks:
            values[done : done + len(block)] = np.frombuffer(block, dtype=np.uint8)
            done += len(block)
        return values
    if shutil.disk_usage(tempfile.gettempdir()).free < total:
        raise _no_space(path)
    with tempfile.TemporaryFile() as file:
        for block in blocks:
            file.write(block)
        file.flush()
        return np.asarray(np.memmap(file, dtype=np.uint8, mode="r", shape=(total,)))


def _blocks(path: Path, entry: zipfile.ZipInfo, stream: IO[bytes], total: int) -> Iterator[bytes]:
    left = total
    while left:
        block = stream.read(min(_BLOCK, left))
        if not block:
            raise DataError(f"{path}: {printable(entry.filename)} ends too early; copy or save it again")
        left -= len(block)
        yield block


def _no_space(path: Path) -> DataError:
    return DataError(
        f"{path}: there is no room to unpack it in {tempfile.gettempdir()}; free some space there, or name another "
        "folder with the environment variable TMPDIR"
    )
