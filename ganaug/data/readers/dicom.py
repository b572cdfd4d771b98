"""DICOM files through pydicom: one image, or the frames of a volume.

What comes out is what the scanner measured: the modality LUT is applied (a CT is in HU, a PET in Bq/ml), no window is.
White is high in every gray image (MONOCHROME1 is turned round); palettes and YCbCr become RGB of 8 bit. A file of many
frames is a volume: toward Superior, Posterior and Left if its functional groups say where the frames lie, otherwise in
the order of the file. Slices in files of their own are joined by `ganaug.data.series`.

Compressed pixels are read where a decoder is installed: RLE, 8-bit JPEG and JPEG 2000 always; other JPEG, lossless
JPEG and JPEG-LS with python-gdcm.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ganaug.data.names import printable
from ganaug.data.planes import Plane, Stack, numbers, ordered, plane_of, same_direction, stack, uneven_step
from ganaug.data.readers import Decoded, as_stored, check_size
from ganaug.data.readers._dicom_file import has_mark, has_pixels, parse, quiet, stored_pixels
from ganaug.errors import DataError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SUFFIXES = {".dcm": "DICOM", ".dicom": "DICOM", ".ima": "DICOM"}

_BITS_ALLOCATED = (1, 8, 16, 32, 64)
_GRAY = ("MONOCHROME1", "MONOCHROME2")
_PALETTE = "PALETTE COLOR"
# Where a file of many frames keeps what may differ between them.
_MACROS = (
    "PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence", "PixelValueTransformationSequence",
    "FrameAnatomySequence",
)  # fmt: skip
_AS_STORED = (1.0, 0.0)  # slope and intercept


def matches(head: bytes) -> bool:
    """Return whether a file that begins with `head` has the mark of a DICOM file."""
    return has_mark(head)


def decode(raw: bytes, path: Path) -> Decoded:
    """Decode a DICOM file: H×W×C, or D×H×W×C if it has several frames. Raises `DataError` for an unusable file."""
    return decode_plane(raw, path)[0]


def decode_plane(raw: bytes, path: Path) -> tuple[Decoded, Plane]:
    """Decode a DICOM file as `decode` does, and say where its image lies."""
    try:
        with quiet():
            dataset = parse(raw, path)
            return _decode(dataset, path), plane_of(dataset)
    except DataError:
        raise
    # On damaged bytes pydicom and the decoders raise nearly anything: AttributeError, struct.error, RecursionError.
    except Exception as problem:
        reason = " ".join(str(problem).split()) or type(problem).__name__
        raise DataError(f"{path}: cannot be decoded ({printable(reason[:200])}); export it again") from problem


def _decode(dataset: Dataset, path: Path) -> Decoded:
    if not has_pixels(dataset):
        kind = getattr(
            dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID"), "name", "unknown"
        )
        raise DataError(f"{path}: holds no image (its kind is {printable(str(kind))!r}); move it out of the folder")
    rows, columns = _whole(dataset, path, "Rows"), _whole(dataset, path, "Columns")
    samples = _whole(dataset, path, "SamplesPerPixel", 1)
    frames = max(1, _whole(dataset, path, "NumberOfFrames", 1))
    allocated = _whole(dataset, path, "BitsAllocated")
    stored = _whole(dataset, path, "BitsStored", allocated)
    photometric = _text(dataset, "PhotometricInterpretation")
    if allocated not in _BITS_ALLOCATED:
        raise DataError(f"{path}: allocates {allocated} bits for a value; 1, 8, 16, 32 or 64 were wanted")
    scales = _scales(dataset, path, frames) if photometric in _GRAY else [_AS_STORED]

    # The largest that is held on the way: scaled values take 32 bit at first.
    width = max(allocated // 8, 1 if scales == [_AS_STORED] else 4)
    channels = 3 if photometric == _PALETTE else samples
    for shape in [(rows, columns, channels), (frames, rows, columns, channels)][: 1 + (frames > 1)]:
        check_size(path, shape, f"uint{8 * width}")
    pixels, colors = stored_pixels(
        dataset, path, frames=frames, rows=rows, columns=columns, samples=samples, allocated=allocated
    )

    hints = [*_hints(dataset)]
    if photometric in _GRAY and samples == 1:
        if photometric == "MONOCHROME1":
            pixels = _turned_round(pixels, stored)
        pixels = _measured(pixels, dataset, scales)
    elif photometric == _PALETTE and samples == 1:
        pixels = _through_palette(pixels, dataset)
    elif colors == "RGB" and samples == 3 and pixels.dtype in (np.uint8, np.uint16):
        if pixels.dtype == np.uint16:
            hints.append(f"reduced_depth: color of {stored} bit, read as 8 bit")
            pixels = (pixels >> max(0, stored - 8)).astype(np.uint8)
    else:
        raise DataError(
            f"{path}: pixels of the kind {printable(photometric)!r}, {samples} values of {stored} bit each, cannot be "
            "used; export it as MONOCHROME2, or as RGB of 8 bit"
        )
    pixels = as_stored(pixels, path)
    mode, group = f"{photometric} {stored} bit", _text(dataset, "PatientID")
    if frames == 1:
        spacing = plane_of(dataset, *_macros(dataset, 0)).spacing
        return Decoded(pixels[0], "DICOM", mode, spacing, group=group, hints=tuple(hints))
    volume = _volume(pixels, dataset)
    return Decoded(
        volume.pixels, "DICOM", f"{mode}, {frames} frames", volume.spacing, volume.orientation, volume.center, group,
        tuple(hints),
    )  # fmt: skip


def _turned_round(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Turn the range of `bits` end for end: 0 to 2^bits - 1, or -2^(bits - 1) to 2^(bits - 1) - 1."""
    match pixels.dtype.kind:
        case "u":
            return pixels ^ pixels.dtype.type(2**bits - 1)
        case "i":
            return ~pixels
        case _:
            return -pixels


def _measured(pixels: np.ndarray, dataset: Dataset, scales: list[tuple[float, float]]) -> np.ndarray:
    """Apply the modality LUT: int16 where whole numbers fit, else int32 or float32."""
    if dataset.get("ModalityLUTSequence"):
        from pydicom.pixels import apply_modality_lut

        return apply_modality_lut(pixels, dataset)
    if scales == [_AS_STORED]:
        return pixels
    slopes, intercepts = np.reshape(scales, (-1, 2, 1, 1, 1)).swapaxes(0, 1)
    if pixels.dtype.kind == "f" or np.any(slopes % 1) or np.any(intercepts % 1):
        return pixels.astype(np.float32) * slopes.astype(np.float32) + intercepts.astype(np.float32)
    least, most = float(pixels.min()), float(pixels.max())
    ends = np.concatenate([slopes * least + intercepts, slopes * most + intercepts])
    limits = np.iinfo(np.int32)
    if ends.min() < limits.min or ends.max() > limits.max:
        return (pixels * slopes + intercepts).astype(np.float32)
    scaled = pixels.astype(np.int32) * slopes.astype(np.int32) + intercepts.astype(np.int32)
    small = np.iinfo(np.int16)
    return scaled.astype(np.int16) if scaled.min() >= small.min and scaled.max() <= small.max else scaled


def _through_palette(pixels: np.ndarray, dataset: Dataset) -> np.ndarray:
    from pydicom.pixels import apply_color_lut

    colors = apply_color_lut(pixels[..., 0], dataset)[..., :3]
    # Palettes of 16 bit repeat a byte of 8 bit, or shift it: screens have no more.
    return (colors >> 8).astype(np.uint8) if colors.dtype == np.uint16 else colors


def _volume(pixels: np.ndarray, dataset: Dataset) -> Stack:
    """Put frames into the order of their positions; without those (or with a frame missing) they stay as they are."""
    frames = len(pixels)
    if len(dataset.get("PerFrameFunctionalGroupsSequence") or ()) == frames:
        planes = [plane_of(*_macros(dataset, frame)) for frame in range(frames)]
        order = ordered(planes) if all(same_direction(plane, planes[0]) for plane in planes) else None
        if order and uneven_step(sorted_planes := [planes[index] for index in order]) is None:
            return stack(pixels[order], sorted_planes)
    inside = plane_of(dataset, *_macros(dataset, 0)).spacing
    step = numbers(dataset, "SpacingBetweenSlices", 1) or numbers(dataset, "SliceThickness", 1)
    is_film = "FrameTime" in dataset or "FrameTimeVector" in dataset
    if inside is None or step is None or step[0] == 0 or is_film:
        return Stack(pixels, None, "", None)
    return Stack(pixels, (abs(step[0]), *inside), "", None)


def _scales(dataset: Dataset, path: Path, frames: int) -> list[tuple[float, float]]:
    """Return the rescale slope and intercept of each frame, or one of both if they are alike."""
    found = []
    for frame in range(frames if "PerFrameFunctionalGroupsSequence" in dataset else 1):
        sources = [dataset, *_macros(dataset, frame)]
        slope = next((value[0] for source in sources if (value := numbers(source, "RescaleSlope", 1))), 1.0)
        intercept = next((value[0] for source in sources if (value := numbers(source, "RescaleIntercept", 1))), 0.0)
        if slope == 0:
            raise DataError(f"{path}: its rescale slope is 0, which leaves nothing of the image; export it again")
        found.append((slope, intercept))
    return found[:1] if len(set(found)) == 1 else found


def _macros(dataset: Dataset, frame: int) -> list[Dataset]:
    """Return what the functional groups say of a frame: its own first, then what all frames share."""
    own = (dataset.get("PerFrameFunctionalGroupsSequence") or [])[frame : frame + 1]
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [])[:1]
    return [item for group in (*own, *shared) for name in _MACROS for item in (group.get(name) or [])[:1]]


def _hints(dataset: Dataset) -> Iterator[str]:
    sources = [dataset, *_macros(dataset, 0)]
    names = ("ImageLaterality", "Laterality", "FrameLaterality")
    sides = {_text(source, name) for source in sources for name in names} & {"L", "R"}
    if len(sides) == 1:
        yield f"laterality: {sides.pop()}"
    if _text(dataset, "BurnedInAnnotation") == "YES":
        yield "burned_in: the file says so"


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip(" \0")


def _whole(dataset: Dataset, path: Path, keyword: str, default: int | None = None) -> int:
    value = dataset.get(keyword)
    if value is None and default is not None:
        return default
    if not isinstance(value, int) or not 0 <= value < 2**31:
        raise DataError(f"{path}: its element {keyword} is missing or damaged ({value!r:.40}); export it again")
    return value
