"""DICOM: a Secondary Capture that says in every way the format has that it shows nobody.

Gray images of 8 and 16 bit, signed ones through a rescale intercept, and RGB of 8 bit; a volume is one file of many
frames, with the place of each where the geometry is known. The same pixels and origin give the same bytes. Source:
DICOM PS3.3, A.8 (Secondary Capture IODs) and C.12.1 (SOP Common Module).
"""

from __future__ import annotations

import importlib.util
import io
import json
import math
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ganaug.data.geometry import Geometry
from ganaug.sampling.writers import describe

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SUFFIX = ".dcm"
FORMATS = ("DICOM",)
ORIGIN = "the element ImageComments (0020,4000)"

_HELD = ((1, "uint8"), (1, "uint16"), (1, "int16"), (3, "uint8"))
_LONGEST = 2**16 - 1  # rows and columns are stored in 16 bit
_MAX_BYTES = 2**32 - 2
# Secondary Capture storage: one image; many frames of 8 bit, of 16 bit, of color.
_ONE = "1.2.840.10008.5.1.4.1.1.7"
_MANY_8, _MANY_16, _MANY_COLOR = f"{_ONE}.2", f"{_ONE}.3", f"{_ONE}.4"
_SYNTHETIC_DATA = 0x0008_001C  # younger than some of pydicom's dictionaries
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "ganaug")
_NOTE = "Made by a generative model (ganaug). Shows no real patient. To train with, not to diagnose."


def problem(shape: tuple[int, ...], dtype: str) -> str | None:
    """Return why DICOM cannot hold images of `shape` (C×H×W or C×D×H×W) and `dtype`; None if it can."""
    if importlib.util.find_spec("pydicom") is None:
        return "DICOM needs pydicom; install it with: pip install 'ganaug[dicom]'."
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if (shape[0], dtype) in _HELD and max(shape[-2:]) <= _LONGEST and size <= _MAX_BYTES:
        return None
    return (
        "DICOM holds images and volumes with 1 channel of uint8, uint16 or int16, or 3 of uint8, with at most "
        f"{_LONGEST:,} rows and columns and 4 GiB; these are {describe(shape, dtype)}."
    )


def encode(pixels: np.ndarray, *, geometry: Geometry | None, origin: Mapping[str, Any]) -> bytes:
    """Return a DICOM file with `pixels`, C×H×W or C×D×H×W.

    The UIDs are made of the origin. Without a geometry a volume has no spacing and no place.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    is_volume, is_color = pixels.ndim == 4, len(pixels) == 3
    dataset = Dataset()
    _identify(dataset, origin)
    if is_volume:
        dataset.SOPClassUID = _MANY_COLOR if is_color else _MANY_8 if pixels.dtype == np.uint8 else _MANY_16
        shown = _place(dataset, np.moveaxis(pixels, 0, -1), geometry)
    else:
        dataset.SOPClassUID = _ONE
        shown = np.moveaxis(pixels, 0, -1)
    if not is_color:
        shown = _stored(dataset, shown[..., 0])
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.set_pixel_data(
        np.ascontiguousarray(shown),
        "RGB" if is_color else "MONOCHROME2",
        8 * shown.itemsize,
        generate_instance_uid=False,
    )
    if is_volume:
        dataset.NumberOfFrames = len(shown)
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _identify(dataset: Dataset, origin: Mapping[str, Any]) -> None:
    """Say that this is nobody, and where it comes from."""
    model = str(origin.get("model_sha256", ""))
    text = json.dumps(dict(origin), sort_keys=True)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.add_new(_SYNTHETIC_DATA, "CS", "YES")
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.ConversionType = "SYN"
    dataset.Modality = "OT"
    dataset.Manufacturer = "ganaug"
    dataset.PatientName = "SYNTHETIC^GANAUG"
    dataset.PatientID = f"SYNTHETIC-{model[:12]}"
    dataset.SeriesDescription = "Synthetic"
    dataset.DerivationDescription = _NOTE
    dataset.ImageComments = text
    # Required of multi-frame images, and no date: the same image is the same file on every day.
    dataset.ContentDate, dataset.ContentTime = "19000101", "000000"
    dataset.StudyInstanceUID = _uid("study", model)
    dataset.SeriesInstanceUID = _uid("series", text)
    dataset.SOPInstanceUID = _uid("instance", text)
    dataset.InstanceNumber = 1
    # Required, and unknown: there was no patient and no examination.
    for keyword in (
        "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
        "ReferringPhysicianName", "SeriesNumber", "PatientOrientation",
    ):  # fmt: skip
        setattr(dataset, keyword, None)


def _uid(kind: str, text: str) -> str:
    return f"2.25.{uuid.uuid5(_NAMESPACE, f'{kind}:{text}').int}"


def _place(dataset: Dataset, frames: np.ndarray, geometry: Geometry | None) -> np.ndarray:
    """Describe where frames D×H×W×C lie; return them as the file shall order them."""
    from pydicom.dataset import Dataset
    from pydicom.tag import Tag

    if geometry is None:
        dataset.FrameIncrementPointer = Tag("PageNumberVector")
        dataset.PageNumberVector = list(range(1, len(frames) + 1))
        return frames
    array, affine = geometry.to_file(frames)  # columns × rows × frames × C
    affine[:2] *= -1  # to DICOM's LPS+
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    between_columns, between_rows, between_frames = (_decimal(step) for step in steps)

    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [between_rows, between_columns]
    measures.SpacingBetweenSlices = measures.SliceThickness = between_frames
    orientation.ImageOrientationPatient = [_decimal(value) for value in (affine[:3, :2] / steps[:2]).T.ravel()]
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = []
    for number in range(array.shape[2]):
        position, frame = Dataset(), Dataset()
        position.ImagePositionPatient = [_decimal(value) for value in affine[:3] @ (0, 0, number, 1)]
        frame.PlanePositionSequence = [position]
        dataset.PerFrameFunctionalGroupsSequence.append(frame)
    # Again for readers that know no functional groups.
    dataset.PixelSpacing = measures.PixelSpacing
    dataset.SpacingBetweenSlices = dataset.SliceThickness = between_frames
    dataset.FrameIncrementPointer = Tag("PerFrameFunctionalGroupsSequence")
    dataset.FrameOfReferenceUID = _uid("frame of reference", dataset.SOPInstanceUID)
    dataset.PositionReferenceIndicator = None
    return np.ascontiguousarray(array.transpose(2, 1, 0, 3))


def _stored(dataset: Dataset, shown: np.ndarray) -> np.ndarray:
    """Return values as they are stored; describe the way back, and a window that shows all of them."""
    low, high = int(shown.min()), int(shown.max())
    is_signed = shown.dtype == np.int16
    intercept = int(np.iinfo(np.int16).min) if is_signed else 0
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = intercept, 1, "US"
    dataset.WindowCenter, dataset.WindowWidth = _decimal((low + high + 1) / 2), max(2, high - low + 1)
    dataset.PresentationLUTShape = "IDENTITY"
    # Secondary Capture knows no negative values.
    return (shown.astype(np.int32) - intercept).astype(np.uint16) if is_signed else shown


def _decimal(value: float) -> str:
    """Return a number in the 16 characters that DICOM has for one."""
    from pydicom.valuerep import format_number_as_ds

    return format_number_as_ds(float(value) + 0.0)
