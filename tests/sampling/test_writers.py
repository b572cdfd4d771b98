"""What every writer promises: pixels come back bit for bit, the same bytes each time, a sentence where it cannot."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from ganaug.data.geometry import Geometry
from ganaug.data.readers import DTYPES, read, suffix_of
from ganaug.errors import ConfigError
from ganaug.sampling.provenance import provenance
from ganaug.sampling.writers import default_format, load_writer, writer_names

pytest.importorskip("pydicom")

SHAPES = [(1, 9, 7), (3, 9, 7), (2, 9, 7), (1, 5, 9, 7), (3, 5, 9, 7), (2, 5, 9, 7)]
EVERY = list(itertools.product(writer_names(), SHAPES, DTYPES))
HELD = [case for case in EVERY if load_writer(case[0]).problem(*case[1:]) is None]
REFUSED = [case for case in EVERY if case not in HELD]
ORIGIN = provenance(label='病変 "x"', seed=3, index=7, model_sha256="ab" * 32, truncation=0.9)
SOMEWHERE = Geometry(spacing=(4.0, 1.5, 0.7), orientation="PSR", center=(-3.5, 12.25, 40.0))


def noise(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    """Return values from the whole range of `dtype`, its ends among them."""
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        return rng.normal(0, 1e3, shape).astype(dtype)
    limits = np.iinfo(dtype)
    values = rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
    values.flat[:2] = limits.min, limits.max
    return values


def test_the_formats_promised_are_there() -> None:
    assert {"png", "tiff", "nifti", "dicom", "npy"} <= set(writer_names())
    for needed in (("png", (1, 9, 7), "uint16"), ("tiff", (1, 5, 9, 7), "int16"), ("nifti", (2, 5, 9, 7), "float32")):
        assert needed in HELD


@pytest.mark.parametrize(("name", "shape", "dtype"), HELD)
def test_pixels_come_back_through_our_own_reader(tmp_path: Path, name: str, shape: tuple[int, ...], dtype: str) -> None:
    writer, pixels = load_writer(name), noise(shape, dtype)
    for geometry in (None, SOMEWHERE):
        path = tmp_path / f"image{writer.SUFFIX}"
        path.write_bytes(writer.encode(pixels, geometry=geometry, origin=ORIGIN))
        decoded = read(path)
        assert decoded.pixels.dtype == dtype
        assert np.array_equal(decoded.pixels, np.moveaxis(pixels, 0, -1))
        assert decoded.format in writer.FORMATS, "who trained on such files gets them again"
        assert suffix_of(path.name) == writer.SUFFIX


@pytest.mark.parametrize(("name", "shape", "dtype"), HELD)
def test_the_same_image_gives_the_same_bytes_however_it_lies_in_memory(
    name: str, shape: tuple[int, ...], dtype: str
) -> None:
    writer, pixels = load_writer(name), noise(shape, dtype)
    turned = np.ascontiguousarray(pixels.T).T
    first, second = (writer.encode(p, geometry=SOMEWHERE, origin=ORIGIN) for p in (pixels, turned))
    assert first == second
    other = writer.encode(noise(shape, dtype, seed=1), geometry=SOMEWHERE, origin=ORIGIN)
    assert first != other


@pytest.mark.parametrize(("name", "shape", "dtype"), REFUSED)
def test_what_does_not_fit_is_said_in_a_sentence(name: str, shape: tuple[int, ...], dtype: str) -> None:
    problem = load_writer(name).problem(shape, dtype)
    assert problem is not None
    assert dtype in problem
    assert "×".join(map(str, shape[1:])) in problem
    assert problem.endswith(".")


@pytest.mark.parametrize(
    ("source", "shape", "dtype", "wanted"),
    [
        ("PNG", (1, 9, 7), "uint16", "png"),
        ("JPEG", (3, 9, 7), "uint8", "png"),
        ("", (1, 9, 7), "uint8", "png"),
        ("TIFF", (1, 9, 7), "uint8", "tiff"),
        ("TIFF", (1, 5, 9, 7), "uint16", "tiff"),
        ("NIfTI", (1, 5, 9, 7), "int16", "nifti"),
        ("NIfTI", (1, 9, 7), "int16", "nifti"),
        ("DICOM", (1, 9, 7), "int16", "dicom"),
        ("NumPy", (1, 9, 7), "float32", "npy"),
        ("npz", (1, 9, 7), "uint8", "npz"),
        ("PNG", (1, 5, 9, 7), "uint8", "nifti"),
        ("PNG", (1, 9, 7), "float32", "tiff"),
        ("PNG", (3, 9, 7), "uint16", "nifti"),
        ("TIFF", (4, 9, 7), "uint8", "nifti"),
        ("NumPy", (2, 9, 7), "uint8", "nifti"),
    ],
)
def test_everybody_gets_the_format_of_the_own_files_where_it_can_hold_the_images(
    source: str, shape: tuple[int, ...], dtype: str, wanted: str
) -> None:
    assert default_format(source, shape, dtype) == wanted


def test_images_that_nothing_holds_are_an_error_that_says_what_does() -> None:
    with pytest.raises(ConfigError, match=r"40,000×8|40000×8.*npz or bank"):
        default_format("PNG", (2, 40_000, 8), "float32")
