"""DICOM files for tests, written with pydicom as scanners and hospitals write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
"""Direction cosines of rows and columns in an axial image: toward the patient's left, then back."""
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
"""Toward the patient's back, then feet."""


def uid(*names: object) -> str:
    """Return a UID that is a function of `names`."""
    return generate_uid(entropy_srcs=[repr(names)])


def write_image(
    path: Path,
    pixels: np.ndarray,
    *,
    syntax: str = ExplicitVRLittleEndian,
    preamble: bool = True,
    **tags: Any,
) -> Path:
    """Write an image H×W or H×W×3, or frames D×H×W (D above 1), and return `path`.

    Args:
        syntax: transfer syntax; a compressed one is encoded by pydicom.
        preamble: whether the file has the mark of DICOM before its elements.
        tags: elements by their keywords, such as ``PatientID="p1"``; None leaves one out.
    """
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = uid(str(path))
    color = pixels.ndim > 2 and pixels.shape[-1] == 3
    dataset.set_pixel_data(pixels, "RGB" if color else "MONOCHROME2", 8 * pixels.itemsize, generate_instance_uid=False)
    for keyword, value in tags.items():
        if value is None:
            if keyword in dataset:
                delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    if syntax != ExplicitVRLittleEndian:
        _recode(dataset, syntax)
    if preamble:
        dataset.save_as(path, enforce_file_format=True)
    else:
        del dataset.file_meta
        dataset.save_as(path, implicit_vr=True, little_endian=True)
    return path


def _recode(dataset: Dataset, syntax: str) -> None:
    """Encode for a transfer syntax: natively, or by the encoder that pydicom has."""
    if pydicom.uid.UID(syntax).is_compressed:
        dataset.compress(syntax, generate_instance_uid=False)
        return
    dataset.file_meta.TransferSyntaxUID = syntax
    if not pydicom.uid.UID(syntax).is_little_endian and dataset.BitsAllocated == 16:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").byteswap().tobytes()


def write_series(
    folder: Path,
    volume: np.ndarray,
    spacing: Sequence[float],
    *,
    name: str = "series",
    names: str = "{:03d}.dcm",
    orientation: Sequence[float] = AXIAL,
    origin: Sequence[float] = (0.0, 0.0, 0.0),
    patient: str = "",
    seed: int | None = None,
    leave_out: Sequence[int] = (),
    **tags: Any,
) -> list[Path]:
    """Write the slices of a volume D×H×W, a file each, and return their paths in the order of the slices.

    Args:
        spacing: mm along D, H and W; slices advance along the normal of `orientation`.
        name: what the UID of the series is made of.
        names: pattern of the file names, given a number.
        origin: position of the first pixel of the first slice, LPS mm.
        seed: shuffles the numbers of the files (and their InstanceNumbers), so that they tell nothing of the order.
        leave_out: slices that are missing.
    """
    normal = np.cross(orientation[:3], orientation[3:])
    numbers = np.arange(len(volume))
    if seed is not None:
        np.random.default_rng(seed).shuffle(numbers)
    paths = []
    for index, pixels in enumerate(volume):
        if index in leave_out:
            continue
        position = np.asarray(origin) + index * spacing[0] * normal
        elements = {
            "PatientID": patient,
            "StudyInstanceUID": uid("study", patient),
            "SeriesInstanceUID": uid(patient, name),
            "SOPInstanceUID": uid(patient, name, index, tags),
            "InstanceNumber": int(numbers[index]) + 1,
            "ImagePositionPatient": [float(value) for value in position],
            "ImageOrientationPatient": list(orientation),
            "PixelSpacing": list(spacing[1:]),
            "SliceThickness": spacing[0],
        }
        paths.append(write_image(folder / names.format(numbers[index]), pixels, **{**elements, **tags}))
    return paths


def write_hospital(root: Path) -> Path:
    """Write two classes of a hospital's export: CT series with a localizer, without suffixes, and return `root`.

    ``ROOT/<class>/<patient>/`` holds 6 slices of 16×12, in HU after a slope of 1 and an intercept of -1024, with
    shuffled numbers, and a localizer of the same series.
    """
    rng = np.random.default_rng(0)
    for label in ("sick", "well"):
        for number in range(4):
            patient = f"{label}-{number}"
            folder = root / label / patient
            volume = rng.integers(0, 2000, (6, 16, 12), dtype=np.uint16)
            tags = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024, "patient": patient}
            write_series(folder, volume, (5.0, 0.7, 0.7), names="IM{:04d}", seed=number, **tags)  # type: ignore[arg-type]
            write_series(
                folder, volume[:1], (5.0, 1.0, 1.0), names="IM{:04d}_scout", orientation=SAGITTAL,
                ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], **tags,
            )  # type: ignore[arg-type]  # fmt: skip
    return root
