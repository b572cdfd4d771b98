import io
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ganaug.data.geometry import Geometry
from ganaug.data.layouts import Entry
from ganaug.data.readers import Decoded, decode
from ganaug.data.series import join_series
from ganaug.sampling.provenance import provenance
from ganaug.sampling.writers import default_format, dicom, load_writer

SHA = "0123456789abcdef" * 4
PLACE = Geometry(spacing=(3.5, 0.7, 0.8), orientation="LPS", center=(1.5, -20.25, 300.0))


def origin(index: int = 0, **changes: Any) -> dict[str, Any]:
    """Return the provenance of a synthetic image."""
    made = provenance(label='lésion \\ "b"', seed=0, index=index, model_sha256=SHA, truncation=1.0)
    return {**made, **changes}


def pixels(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    """Return random values over the whole range of a type."""
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def read(raw: bytes) -> Decoded:
    return decode(raw, Path("a.dcm"))


def opened(raw: bytes) -> pydicom.FileDataset:
    return pydicom.dcmread(io.BytesIO(raw))


# --- what it can hold ---


HELD = [((1, 5, 7), "uint8"), ((1, 5, 7), "uint16"), ((1, 5, 7), "int16"), ((3, 5, 7), "uint8")]


@pytest.mark.parametrize(("shape", "dtype"), [*HELD, *(((c, 4, *sides), dtype) for (c, *sides), dtype in HELD)])
def test_what_it_can_hold_comes_back_through_the_reader(shape: tuple[int, ...], dtype: str) -> None:
    assert dicom.problem(shape, dtype) is None
    made = pixels(shape, dtype)
    found = read(dicom.encode(made, geometry=None, origin=origin()))
    assert (found.format, found.pixels.dtype.name, found.spacing) == ("DICOM", dtype, None)
    np.testing.assert_array_equal(np.moveaxis(found.pixels, -1, 0), made)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((1, 5, 7), "float32"), ((1, 5, 7), "int32"), ((2, 5, 7), "uint8"), ((3, 5, 7), "uint16"), ((3, 4, 5, 7), "int16"),
     ((1, 70_000, 2), "uint8"), ((1, 2, 70_000), "uint8"), ((1, 60_000, 60_000), "uint16")],
)  # fmt: skip
def test_what_it_cannot_hold_is_said(shape: tuple[int, ...], dtype: str) -> None:
    reason = dicom.problem(shape, dtype)
    assert reason is not None
    assert reason.startswith("DICOM holds")
    assert dtype in reason.split("these are")[1]


def test_without_pydicom_the_reason_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert "pip install 'ganaug[dicom]'" in str(dicom.problem((1, 8, 8), "uint8"))


def test_owners_of_dicom_files_get_it_by_default() -> None:
    assert default_format("DICOM", (1, 64, 64), "int16") == "dicom"
    assert load_writer("dicom").SUFFIX == ".dcm"


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["uint8", "uint16", "int16"]).flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            st.tuples(st.just(1), *[st.integers(1, 6)] * 2)
            | st.tuples(st.just(1), st.integers(2, 5), *[st.integers(1, 6)] * 2),
        )
    )
)
def test_any_gray_values_survive_here_and_in_pydicom(made: np.ndarray) -> None:
    raw = dicom.encode(made, geometry=PLACE if made.ndim == 4 else None, origin=origin())
    np.testing.assert_array_equal(read(raw).pixels[..., 0], made[0])
    dataset = opened(raw)
    measured = dataset.pixel_array.astype(int) * int(dataset.RescaleSlope) + int(dataset.RescaleIntercept)
    np.testing.assert_array_equal(measured.reshape(made.shape[1:]), made[0])


# --- it shows nobody ---


def test_it_cannot_be_mistaken_for_a_patient() -> None:
    dataset = opened(dicom.encode(pixels((1, 5, 7), "uint8"), geometry=None, origin=origin()))
    assert str(dataset.PatientName) == "SYNTHETIC^GANAUG"
    assert dataset.PatientID == f"SYNTHETIC-{SHA[:12]}"
    assert list(dataset.ImageType) == ["DERIVED", "SECONDARY"]
    assert dataset.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
    assert dataset[0x0008_001C].value == "YES"  # Synthetic Data
    assert (dataset.ConversionType, dataset.Modality) == ("SYN", "OT")
    assert "generative model" in dataset.DerivationDescription
    assert not dataset.StudyDate
    assert not dataset.PatientBirthDate


def test_the_provenance_stands_in_the_file() -> None:
    made = origin(7, scores='{"judge": 0.5}')
    dataset = opened(dicom.encode(pixels((1, 5, 7), "uint8"), geometry=None, origin=made))
    assert json.loads(dataset.ImageComments) == made


def test_the_same_origin_gives_the_same_bytes_and_another_one_other_uids() -> None:
    made = pixels((1, 4, 5, 7), "int16")
    raw = dicom.encode(made, geometry=PLACE, origin=origin())
    assert raw == dicom.encode(made, geometry=PLACE, origin=dict(reversed(origin().items())))
    one, other = opened(raw), opened(dicom.encode(made, geometry=PLACE, origin=origin(1)))
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        assert one[keyword].value.is_valid
        assert one[keyword].value.startswith("2.25.")
        assert one[keyword].value != other[keyword].value
    assert one.StudyInstanceUID == other.StudyInstanceUID


def test_synthetic_images_are_never_joined_to_a_volume(tmp_path: Path) -> None:
    for index in range(3):
        for name, shape in (("i", (1, 5, 7)), ("v", (1, 4, 5, 7))):
            raw = dicom.encode(pixels(shape, "uint8", index), geometry=PLACE, origin=origin(index))
            (tmp_path / f"{name}{index}.dcm").write_bytes(raw)
    entries = tuple(Entry(f"{name}{index}.dcm", "a") for name in "iv" for index in range(3))
    assert join_series(tmp_path, entries) == entries


# --- geometry ---


@pytest.mark.parametrize("orientation", ["LPS", "PIR", "LIP", "PSR"])
def test_volumes_carry_their_place(orientation: str) -> None:
    place = Geometry(PLACE.spacing, orientation, PLACE.center)
    made = pixels((1, 4, 5, 7), "int16")
    found = read(dicom.encode(made, geometry=place, origin=origin()))
    np.testing.assert_array_equal(found.pixels[..., 0], made[0])
    assert found.spacing == pytest.approx(PLACE.spacing)
    assert found.center == pytest.approx(PLACE.center)
    # DICOM stacks along the normal; what runs against it comes back turned round in its third axis.
    assert found.orientation[:2] == orientation[:2]


@settings(deadline=None, max_examples=25)
@given(
    spacing=st.tuples(*[st.floats(0.01, 100)] * 3),
    center=st.tuples(*[st.floats(-1e4, 1e4)] * 3),
)
def test_any_spacing_and_center_survive(spacing: tuple[float, float, float], center: tuple[float, ...]) -> None:
    place = Geometry(spacing, "LPS", center)  # type: ignore[arg-type]
    found = read(dicom.encode(pixels((1, 3, 2, 2), "uint8"), geometry=place, origin=origin()))
    assert found.spacing == pytest.approx(spacing, rel=1e-4)
    assert found.center == pytest.approx(center, abs=1e-4)
    assert found.orientation == "LPS"


def test_readers_without_functional_groups_find_the_spacing_too() -> None:
    dataset = opened(dicom.encode(pixels((1, 4, 5, 7), "uint16"), geometry=PLACE, origin=origin()))
    assert [float(value) for value in dataset.PixelSpacing] == [0.7, 0.8]
    assert (float(dataset.SpacingBetweenSlices), int(dataset.NumberOfFrames)) == (3.5, 4)


# --- for viewers, and quiet ---


def test_the_window_spans_the_values() -> None:
    made = np.array([[[-900, 100], [0, 50]]], np.int16)
    dataset = opened(dicom.encode(made, geometry=None, origin=origin()))
    low = float(dataset.WindowCenter) - float(dataset.WindowWidth) / 2
    assert low <= -900
    assert low + float(dataset.WindowWidth) >= 100


def test_nothing_is_warned_of() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        dicom.encode(pixels((1, 4, 5, 7), "int16"), geometry=PLACE, origin=origin())
    assert not seen
