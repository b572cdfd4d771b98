"""TIFF: what other programs read is what was meant."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from ganaug.data.geometry import Geometry
from ganaug.sampling.writers import tiff

BITS, DESCRIPTION, SAMPLE_FORMAT = 258, 270, 339


def _open(pixels: np.ndarray, geometry: Geometry | None = None) -> Image.Image:
    data = tiff.encode(pixels, geometry=geometry, origin={"label": "ä", "seed": 4})
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize(
    ("dtype", "bits", "kind"),
    [("uint8", 8, 1), ("uint16", 16, 1), ("int16", 16, 2), ("int32", 32, 2), ("float32", 32, 3)],
)
def test_each_type_keeps_its_bits_and_pillow_reads_them(dtype: str, bits: int, kind: int) -> None:
    pixels = np.linspace(-300, 300, 6 * 5).reshape(1, 6, 5)
    pixels = (np.abs(pixels) if dtype[0] == "u" else pixels).astype(dtype)
    with _open(pixels) as image:
        assert image.tag_v2[BITS] == (bits,)  # type: ignore[attr-defined]
        assert tuple(np.atleast_1d(image.tag_v2.get(SAMPLE_FORMAT, 1))) == (kind,)  # type: ignore[attr-defined]
        assert np.array_equal(np.asarray(image), pixels[0])


def test_a_volume_is_a_page_for_each_slice() -> None:
    pixels = np.arange(4 * 6 * 5, dtype=np.uint16).reshape(1, 4, 6, 5) * 500
    with _open(pixels) as image:
        assert image.n_frames == 4  # type: ignore[attr-defined]
        for page in range(4):
            image.seek(page)
            assert np.array_equal(np.asarray(image), pixels[0, page])


@pytest.mark.parametrize("depth", [3, 4])
def test_a_few_pages_are_not_taken_for_colors(depth: int) -> None:
    with _open(np.zeros((1, depth, 6, 5), np.uint8)) as image:
        assert (image.n_frames, image.mode) == (depth, "L")  # type: ignore[attr-defined]


def test_color_is_rgb() -> None:
    pixels = np.arange(3 * 6 * 5, dtype=np.uint8).reshape(3, 6, 5)
    with _open(pixels) as image:
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), pixels.transpose(1, 2, 0))


def test_the_description_says_where_it_comes_from() -> None:
    with _open(np.zeros((1, 6, 5), np.uint8)) as image:
        assert json.loads(image.tag_v2[DESCRIPTION]) == {"label": "ä", "seed": 4}  # type: ignore[attr-defined]


def test_the_resolution_is_the_spacing_where_it_is_known() -> None:
    geometry = Geometry(spacing=(4.0, 0.5, 0.25), orientation="LPS", center=(0.0, 0.0, 0.0))
    with _open(np.zeros((1, 4, 6, 5), np.uint8), geometry) as image:
        x, y, unit = (float(image.tag_v2[tag]) for tag in (282, 283, 296))  # type: ignore[attr-defined]
    assert (x, y, unit) == (40, 20, 3), "pixels a centimeter along W and H"
