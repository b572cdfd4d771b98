"""PNG: what other programs read is what was meant."""

from __future__ import annotations

import io
import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ganaug.sampling.writers import png

CASES = [(1, "uint8", "L"), (1, "uint16", "I;16"), (3, "uint8", "RGB")]


@settings(deadline=None)
@given(st.sampled_from(CASES), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32), st.booleans())
def test_pillow_reads_the_pixels_bit_for_bit(
    case: tuple[int, str, str], height: int, width: int, seed: int, smooth: bool
) -> None:
    channels, dtype, mode = case
    pixels = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (channels, height, width), dtype)
    if smooth:
        pixels[:] = pixels[:, :1] // 3 + np.arange(height, dtype=dtype)[:, None]
    data = png.encode(pixels, geometry=None, origin={"seed": seed})
    with Image.open(io.BytesIO(data)) as image:
        image.verify()
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == mode
        assert np.array_equal(np.asarray(image).reshape(height, width, channels), pixels.transpose(1, 2, 0))
        assert json.loads(image.text["ganaug"]) == {"seed": seed}  # type: ignore[attr-defined]


@pytest.mark.parametrize(("dtype", "depth"), [("uint8", 8), ("uint16", 16)])
def test_the_bit_depth_stays(dtype: str, depth: int) -> None:
    data = png.encode(np.zeros((1, 3, 5), dtype), geometry=None, origin={})
    assert struct.unpack(">2I5B", data[16:29]) == (5, 3, depth, 0, 0, 0, 0)


def test_labels_of_any_script_survive_in_the_text_chunk() -> None:
    data = png.encode(np.zeros((1, 3, 5), np.uint8), geometry=None, origin={"label": 'ä\n"病'})
    with Image.open(io.BytesIO(data)) as image:
        assert json.loads(image.text["ganaug"]) == {"label": 'ä\n"病'}  # type: ignore[attr-defined]


def test_natural_images_stay_about_as_small_as_pillow_makes_them() -> None:
    y, x = np.mgrid[:128, :128]
    rng = np.random.default_rng(0)
    image = (90 + 60 * np.sin(x / 9) * np.cos(y / 13) + rng.normal(0, 2, x.shape)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    assert len(png.encode(image[None], geometry=None, origin={})) < 1.15 * buffer.tell()
