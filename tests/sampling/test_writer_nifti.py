"""NIfTI: nibabel finds the values, the type and the place that were meant."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganaug.data.geometry import Geometry, to_lps
from ganaug.sampling.writers import nifti

CODES = ["".join(c) for axes in itertools.permutations(("LR", "PA", "SI")) for c in itertools.product(*axes)]
MILLIMETERS = st.floats(0.125, 10, width=32)


def _open(pixels: np.ndarray, geometry: Geometry | None = None, **origin: Any) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(nifti.encode(pixels, geometry=geometry, origin=origin)))


@settings(deadline=None)
@given(
    st.sampled_from(CODES),
    st.tuples(MILLIMETERS, MILLIMETERS, MILLIMETERS),
    st.tuples(*[st.floats(-200, 200, width=32)] * 3),
    st.tuples(*[st.integers(1, 6)] * 3),
    st.sampled_from([1, 2]),
)
def test_a_volume_lies_where_its_geometry_says(
    codes: str,
    spacing: tuple[float, float, float],
    center: tuple[float, float, float],
    sides: tuple[int, int, int],
    channels: int,
) -> None:
    pixels = np.arange(channels * np.prod(sides), dtype=np.int16).reshape(channels, *sides)
    image = _open(pixels, Geometry(spacing, codes, center))
    assert "".join(nib.aff2axcodes(image.affine)) == codes
    turned, steps, _, middle = to_lps(np.asarray(image.dataobj), image.affine)
    assert np.array_equal(turned, pixels[0] if channels == 1 else np.moveaxis(pixels, 0, -1))
    assert np.allclose(steps, spacing, rtol=1e-5)
    assert np.allclose(middle, center, atol=1e-3)
    for code, coded in ((image.get_sform(coded=True)), (image.get_qform(coded=True))):
        assert coded > 0
        assert np.allclose(code, image.affine, atol=1e-3)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32"])
def test_the_stored_type_stays_and_nothing_is_scaled(dtype: str) -> None:
    pixels = np.array([0, 1, 100, 255] * 6).reshape(1, 2, 3, 4).astype(dtype)
    image = _open(pixels)
    assert image.get_data_dtype() == dtype
    assert image.header.get_slope_inter() == (None, None)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert np.array_equal(np.asarray(image.dataobj), pixels[0].transpose(2, 1, 0))


def test_without_a_geometry_voxels_are_a_millimeter_toward_left_back_and_head() -> None:
    image = _open(np.zeros((1, 2, 3, 4), np.uint8))
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    assert image.header.get_zooms() == (1, 1, 1)


def test_an_image_is_a_volume_of_one_slice_and_channels_are_the_fourth_axis() -> None:
    elsewhere = Geometry((1.0, 1.0, 1.0), "RAS", (0.0, 0.0, 0.0))
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 3, 4)
    image = _open(pixels, elsewhere)
    assert image.shape == (4, 3, 1)
    assert np.array_equal(np.asarray(image.dataobj)[:, :, 0], pixels[0].T), "an image is never turned"
    assert _open(np.zeros((2, 3, 4), np.uint8)).shape == (4, 3, 1, 2)
    assert _open(np.zeros((2, 5, 3, 4), np.uint8)).shape == (4, 3, 5, 2)


def test_the_header_extension_says_where_it_comes_from(tmp_path: Path) -> None:
    data = nifti.encode(np.zeros((1, 2, 3, 4), np.uint8), geometry=None, origin={"label": "ä", "seed": 4})
    (tmp_path / "volume.nii.gz").write_bytes(data)
    (extension,) = nib.load(tmp_path / "volume.nii.gz").header.extensions  # type: ignore[attr-defined]
    assert extension.get_code() == 6
    content = extension.get_content()
    text = content if isinstance(content, str) else content.decode()
    assert json.loads(text.rstrip("\0")) == {"label": "ä", "seed": 4}


def test_the_gzip_layer_holds_no_time() -> None:
    data = nifti.encode(np.zeros((1, 2, 3, 4), np.uint8), geometry=None, origin={})
    assert data[:4] == b"\x1f\x8b\x08\x00"
    assert data[4:8] == bytes(4)
