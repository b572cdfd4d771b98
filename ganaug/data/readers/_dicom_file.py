"""DICOM files through pydicom, safely: elements, and pixels as they are stored, checked before memory is given."""

from __future__ import annotations

import io
import struct
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ganaug.data.names import printable
from ganaug.errors import DataError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.pixels.decoders.base import Decoder
    from pydicom.uid import UID

_MARK = slice(128, 132)
# Such a file may expand a thousandfold, and pydicom lets it before it tells anything of the file.
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_RLE = "1.2.840.10008.1.2.5"
_RLE_EXPANDS = 64  # at most: two bytes stand for a run of 128
_JPEG = b"\xff\xd8"
# The markers that height and width stand behind, for all kinds of JPEG and for JPEG-LS.
_JPEG_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_JPEG_FILL = 0xFF
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def has_mark(head: bytes) -> bool:
    """Return whether a file that begins with `head` has the mark of a DICOM file."""
    return head[_MARK] == b"DICM"


def parse(
    raw: bytes, path: Path, *, stop_when: Callable[..., bool] | None = None, tags: Sequence[str] | None = None
) -> Dataset:
    """Return the elements of a DICOM file, no value longer than the file itself.

    Args:
        stop_when: called with the tag, type and length of each element; True ends the reading.
        tags: keywords of the elements that are wanted; the others are passed over.

    Raises:
        DataError: it is no DICOM file, one that is compressed as a whole, or pydicom is not installed. On damaged
            bytes pydicom raises nearly any other exception, also when a value is asked for.
    """
    if not (has_mark(raw) or _begins_without_mark(raw)):
        raise DataError(f"{path}: not a DICOM file, or its first bytes are damaged; copy it again, or move it out")
    try:
        from pydicom.filereader import read_partial
        from pydicom.tag import Tag
    except ImportError as problem:
        raise DataError(f"{path}: DICOM files need pydicom; install it with: pip install 'ganaug[dicom]'") from problem
    if _DEFLATED in raw:
        raise DataError(
            f"{path}: is deflated as a whole, which may expand without bound and is not read; convert it (for "
            "example: dcmconv +te in.dcm out.dcm)"
        )
    wanted = [Tag(keyword) for keyword in tags] if tags else None
    return read_partial(io.BytesIO(raw), stop_when, force=True, specific_tags=wanted)  # type: ignore[arg-type]


def _begins_without_mark(raw: bytes) -> bool:
    """Return whether the first element is one that a DICOM file without a preamble begins with."""
    if len(raw) < 8:
        return False
    little = struct.unpack("<HHL", raw[:8])
    big = struct.unpack(">HHL", raw[:8])
    group, element, length = little if little[0] < big[0] else big
    explicit = raw[4:6].isalpha() and raw[4:6].isupper()
    return group in (0x0002, 0x0008) and element <= 0x0100 and (explicit or length <= 1024)


def has_pixels(dataset: Dataset) -> bool:
    """Return whether a data set holds an image."""
    return any(keyword in dataset for keyword in _PIXELS)


def stored_pixels(
    dataset: Dataset, path: Path, *, frames: int, rows: int, columns: int, samples: int, allocated: int
) -> tuple[np.ndarray, str]:
    """Decode the pixels of a data set whose claimed size is allowed.

    Returns:
        Frames×rows×columns×samples in the stored type, YCbCr turned to RGB where that is understood; and the
        photometric interpretation of what came out.

    Raises:
        DataError: no decoder is installed for the compression, or what is compressed is not what the header claims.
    """
    from pydicom.pixels import get_decoder

    syntax = _syntax(dataset)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        name = printable(syntax.name)
        raise DataError(f"{path}: pixels stored as {name!r} are not read; export it uncompressed") from None
    if not decoder.is_available:
        raise DataError(
            f"{path}: compressed as {syntax.name!r}, which needs another decoder; install it with: {_install(decoder)}"
        )
    if syntax.is_encapsulated:
        claimed = frames * rows * columns * samples * max(1, allocated // 8)
        _check_compressed(dataset, path, syntax, frames, (columns, rows), claimed)
    dataset.file_meta.TransferSyntaxUID = syntax
    try:
        pixels, about = decoder.as_array(dataset, allow_excess_frames=False, view_only=True)  # type: ignore[arg-type]
    except Exception as problem:
        # Such as JPEG of 12 bit, which Pillow's decoder cannot read although it is there.
        if syntax.is_encapsulated and "gdcm" in "".join(decoder.missing_dependencies):
            raise DataError(
                f"{path}: compressed as {syntax.name!r}, which cannot be decoded here; if the file is sound, another "
                f"decoder may read it: {_install(decoder)}"
            ) from problem
        raise
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    return pixels.reshape(frames, rows, columns, samples), str(about["photometric_interpretation"])


def _syntax(dataset: Dataset) -> UID:
    from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if named := dataset.file_meta.get("TransferSyntaxUID"):
        return UID(named)
    implicit, little = dataset.original_encoding  # as pydicom guessed
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _install(decoder: Decoder) -> str:
    missing = " ".join(decoder.missing_dependencies)
    return f"pip install {'python-gdcm' if 'gdcm' in missing else 'pylibjpeg pylibjpeg-openjpeg'}"


def _check_compressed(
    dataset: Dataset, path: Path, syntax: UID, frames: int, size: tuple[int, int], claimed: int
) -> None:
    """Compare what is compressed with what the header claims, before a decoder gives memory to either."""
    from pydicom.encaps import generate_frames

    data = dataset.PixelData
    if syntax == _RLE:
        if len(data) * _RLE_EXPANDS < claimed:
            raise DataError(
                f"{path}: {len(data):,} compressed bytes cannot hold the {claimed:,} that its header claims; export "
                "it again"
            )
        return
    found = 0
    for found, frame in enumerate(generate_frames(data, number_of_frames=frames), start=1):
        if (held := _coded_size(frame)) != size:
            raise DataError(
                f"{path}: the header claims {size[0]}×{size[1]} pixels, the compressed image has {held[0]}×{held[1]}; "
                "export it again"
            )
        if found == frames:
            break
    if found < frames:
        raise DataError(f"{path}: holds {found} of the {frames} frames that its header claims; export it again")


def _coded_size(frame: bytes) -> tuple[int, int]:
    """Return the width and height that a compressed frame itself claims; Pillow knows not every kind of JPEG."""
    if not frame.startswith(_JPEG):
        from PIL import Image

        with Image.open(io.BytesIO(frame), formats=("JPEG2000",)) as image:
            return image.size
    at = len(_JPEG)
    while len(head := frame[at : at + 9]) == 9:
        if head[1] in _JPEG_FRAMES:
            height, width = struct.unpack(">HH", head[5:])
            return width, height
        at += 1 if head[1] == _JPEG_FILL else 2 + int.from_bytes(head[2:4], "big")
    return 0, 0


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the warnings of pydicom and Pillow from the user; what matters becomes an error.

    `warnings.catch_warnings` restores the filters that it found, which among threads may be those of another: here
    the first to come sets them, and the last to leave restores them.
    """
    global _inside, _catch
    with _lock:
        if _inside == 0:
            _catch = warnings.catch_warnings()
            _catch.__enter__()
            warnings.filterwarnings("ignore", module="pydicom|PIL")
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _catch.__exit__(None, None, None)


_lock = threading.Lock()
_inside = 0
_catch = warnings.catch_warnings()
