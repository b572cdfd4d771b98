from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ganaug.data.grid import Grid, choose_grid, choose_size, to_grid
from ganaug.data.manifest import Item, Manifest
from ganaug.errors import ConfigError, DataError

DTYPES = ("uint8", "uint16", "int16", "int32", "float32")


def sized(*sizes: tuple[int, ...], spacing: tuple[float, ...] | None = None, **fields: Any) -> Manifest:
    """Return a manifest that claims images of these sizes; no file is behind it."""
    items = tuple(
        Item(f"a/{i}", 0, str(i), "", shape=size, channels=1, dtype="uint8", **{"spacing": spacing, **fields})
        for i, size in enumerate(sizes)
    )
    return Manifest(Path("data"), ("a", "b"), items)


def joined(*manifests: Manifest) -> Manifest:
    return replace(manifests[0], items=tuple(item for manifest in manifests for item in manifest.items))


def grid_of(manifest: Manifest, **settings: Any) -> tuple[Grid, list[str]]:
    defaults = {"size": None, "channels": 1, "resize": "auto", "largest": 64, "largest_volume": 32}
    return choose_grid(manifest, **{**defaults, **settings})


# --- images on a grid ---


shapes = st.one_of(st.tuples(*[st.integers(1, 12)] * 2), st.tuples(*[st.integers(1, 8)] * 3))


@settings(deadline=None, derandomize=True)
@given(shapes, st.integers(1, 4), st.sampled_from(DTYPES), st.sampled_from(["stretch", "crop", "spacing"]))
def test_what_fits_stays_as_it_is(size: tuple[int, ...], channels: int, dtype: str, resize: str) -> None:
    if resize == ("spacing" if len(size) == 2 else "crop"):
        resize = "stretch"
    spacing = (3.0, 0.9375, 0.9375) if resize == "spacing" else None
    pixels = (np.random.default_rng(0).random((*size, channels)) * 200).astype(dtype)
    noisy = None if spacing is None else (3.0, 0.93750003, 0.9375)  # as float32 headers have it
    fitted = to_grid(pixels, Grid(size, channels, resize, dtype, spacing), spacing=noisy)
    np.testing.assert_array_equal(fitted, np.moveaxis(pixels, -1, 0))
    assert fitted.dtype == np.dtype(dtype)
    assert np.shares_memory(fitted, pixels)


@settings(deadline=None, derandomize=True)
@given(shapes, shapes, st.sampled_from([1, 3]), st.sampled_from([1, 3]), st.sampled_from(DTYPES))
def test_whatever_comes_leaves_in_the_grids_form(
    shape: tuple[int, ...], size: tuple[int, ...], before: int, after: int, dtype: str
) -> None:
    pixels = (np.random.default_rng(0).random((*shape, before)) * 200).astype(dtype)
    grid = Grid(size, after, "stretch", dtype)
    if len(shape) != len(size):
        with pytest.raises(DataError, match=r"was given; an? (image|volume) was wanted"):
            to_grid(pixels, grid)
        return
    fitted = to_grid(pixels, grid)
    assert (fitted.shape, fitted.dtype) == ((after, *size), np.dtype(dtype))
    if (before, after) == (1, 3):
        assert (fitted == fitted[:1]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dims", [2, 3])
def test_color_becomes_luma_and_gray_saved_as_color_its_own_values(dtype: str, dims: int) -> None:
    shape = (9, 8, 7)[:dims]
    gray = np.random.default_rng(0).integers(0, 255, (*shape, 1)).astype(dtype)
    grid = Grid(shape, 1, "stretch", dtype)
    np.testing.assert_array_equal(to_grid(np.repeat(gray, 3, axis=-1), grid), np.moveaxis(gray, -1, 0))
    red = np.zeros((*shape, 3), dtype)
    red[..., 0] = 200
    wanted = 59.8 if dtype == "float32" else 60
    np.testing.assert_allclose(to_grid(red, grid), wanted, rtol=1e-6)


def test_8_bit_images_become_what_pillow_makes_of_them() -> None:
    color = np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype(np.uint8)
    luma = Image.fromarray(color).convert("L")
    np.testing.assert_array_equal(to_grid(color, Grid((40, 30), 1, "stretch", "uint8"))[0], np.asarray(luma))
    small = luma.resize((16, 20), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(to_grid(color, Grid((20, 16), 1, "stretch", "uint8"))[0], np.asarray(small))


def test_deep_color_is_rounded_once_and_last() -> None:
    color = np.zeros((2, 2, 3), np.uint16)
    color[..., 0] = 4  # a luma of 1.196, which is 1 where it is rounded too early
    color[0, :, 0] = 6  # 1.794
    assert (to_grid(color, Grid((1, 1), 1, "stretch", "uint16")) == 1).all()  # 1.495


def test_a_wider_type_keeps_the_values_and_a_narrower_one_is_refused() -> None:
    pixels = np.full((4, 4, 1), 200, np.uint8)
    assert (to_grid(pixels, Grid((4, 4), 1, "stretch", "int16")) == 200).all()
    assert to_grid(pixels, Grid((8, 8), 1, "stretch", "float32")).dtype == np.float32
    with pytest.raises(DataError, match="stored as int16 was given; uint8 was wanted"):
        to_grid(pixels.astype(np.int16), Grid((4, 4), 1, "stretch", "uint8"))


def test_channels_that_cannot_be_had_are_refused() -> None:
    with pytest.raises(DataError, match="with 2 channels was given; 3 were wanted"):
        to_grid(np.zeros((4, 4, 2), np.uint8), Grid((4, 4), 3, "stretch", "uint8"))


def test_volumes_meet_a_grid_by_their_spacing() -> None:
    volume = np.random.default_rng(0).integers(0, 99, (10, 40, 40, 1)).astype(np.int16)
    grid = Grid((10, 20, 20), 1, "spacing", "int16", (4.0, 2.0, 2.0))
    half = to_grid(volume, grid, spacing=(4.0, 1.0, 1.0))
    np.testing.assert_array_equal(half, to_grid(volume, replace(grid, resize="stretch", spacing=None)))
    cropped = to_grid(volume, grid, spacing=(4.0, 2.0, 2.0))
    np.testing.assert_array_equal(cropped[0], volume[:, 10:30, 10:30, 0])


def test_a_volume_without_a_usable_spacing_is_refused_where_it_is_needed() -> None:
    volume = np.zeros((10, 10, 10, 1), np.uint8)
    grid = Grid((8, 8, 8), 1, "spacing", "uint8", (2.0, 2.0, 2.0))
    with pytest.raises(DataError, match=r"10×10×10 whose file does not say its spacing.*--set resize=stretch"):
        to_grid(volume, grid)
    for odd in (1e-9, 1e9):
        with pytest.raises(DataError, match=r"near the training grid's 2×2×2 mm"):
            to_grid(volume, grid, spacing=(1.0, odd, 1.0))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": (0, 8)}, "0x8"),
        ({"size": (8,)}, "two or three"),
        ({"channels": 0}, "1 to 64"),
        ({"channels": 65}, "1 to 64"),
        ({"resize": "squash"}, "stretch, crop, spacing"),
        ({"resize": "auto"}, "stretch, crop, spacing"),
        ({"resize": "spacing"}, "given for images"),
        ({"resize": "crop", "size": (8, 8, 8)}, "given for volumes"),
        ({"dtype": "float64"}, "uint8, uint16"),
        ({"spacing": (1.0, 1.0, 1.0)}, "no other mode may"),
        ({"size": (8, 8, 8), "resize": "spacing"}, "three numbers"),
        ({"size": (8, 8, 8), "resize": "spacing", "spacing": (1.0, 0.0, 1.0)}, "above 0"),
        ({"size": (8, 8, 8), "resize": "spacing", "spacing": (1.0, float("nan"), 1.0)}, "above 0"),
    ],
    ids=str,
)
def test_a_nonsensical_grid_is_a_config_error(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Grid(**{"size": (8, 8), "channels": 1, "resize": "stretch", "dtype": "uint8", **fields})


# --- choosing the size ---


@pytest.mark.parametrize(
    ("sizes", "largest", "multiple", "wanted", "words"),
    [
        ([(28, 30)] * 3, 64, 4, (28, 30), "all 3 images have this size"),
        ([(27, 64)] * 3, 64, 4, (27, 64), "all 3 images have this size"),
        ([(256, 128)] * 3, 64, 4, (64, 32), "all 3 images are 256×128, scaled down to fit 64"),
        ([(20, 20), (40, 60), (300, 90)], 64, 4, (40, 60), "20×20 to 300×90; the median is 40×60"),
        ([(100, 100), (110, 120), (300, 300)], 64, 4, (60, 64), "the median is 110×120, scaled down"),
        ([(30, 30), (31, 33)], 64, 16, (32, 32), "multiple of 16"),
        ([(4, 4)] * 3, 64, 4, (8, 8), "at least 8"),
        ([(1000, 20)] * 3, 64, 4, (64, 8), "scaled down"),
        ([(50, 50), (52, 51)], 30, 16, (16, 16), "multiple of 16"),
        ([(24, 30, 28)] * 3, 32, 4, (24, 30, 28), "all 3 volumes have this size"),
        ([(30, 256, 200)] * 3, 32, 4, (8, 32, 24), "all 3 volumes are 30×256×200, scaled down to fit 32 voxels"),
        ([(20, 20, 20), (40, 20, 30)], 32, 4, (32, 20, 24), "20×20×20 to 40×20×30; the median is 30×20×25, rounded to"),
    ],
)
def test_the_proposed_size(
    sizes: list[tuple[int, ...]], largest: int, multiple: int, wanted: tuple[int, ...], words: str
) -> None:
    size, reason = choose_size(sized(*sizes), largest=largest, multiple=multiple)
    assert size == wanted
    assert words in reason


def test_volumes_of_known_spacing_are_measured_in_millimeters() -> None:
    size, reason = choose_size(sized((60, 60, 45), spacing=(4, 4, 4)), largest=32)
    assert size == (32, 32, 24)
    assert "60×60×45 (240×240×180 mm), scaled down to fit 32 voxels, rounded up" in reason
    thick = sized((30, 256, 256), (32, 512, 512), (28, 200, 200), spacing=(5, 1, 1))
    assert choose_size(thick, largest=32)[0] == (20, 32, 32)
    assert choose_size(thick, largest=30)[0] == (20, 28, 28)


def test_volumes_are_not_enlarged_beyond_their_finest_spacing() -> None:
    small = joined(sized((20, 20, 20), spacing=(2, 1, 1)), sized((20, 22, 20), spacing=(2, 1, 1)))
    size, reason = choose_size(small, largest=64)
    assert size == (40, 24, 20)
    assert "scaled down" not in reason


def test_no_size_without_images_or_below_the_smallest() -> None:
    with pytest.raises(DataError, match="no readable image"):
        choose_size(replace(sized((8, 8)), items=()), largest=64)
    with pytest.raises(ConfigError, match="at least 8"):
        choose_size(sized((8, 8)), largest=4)


# --- choosing the grid ---


def test_images_are_stretched_unless_asked_otherwise() -> None:
    grid, reasons = grid_of(sized((28, 28), (28, 28)))
    assert grid == Grid((28, 28), 1, "stretch", "uint8")
    assert reasons == ["Size 28x28: all 2 images have this size."]
    grid, reasons = grid_of(sized((28, 28)), size=(32, 16), channels=3, resize="crop")
    assert grid == Grid((32, 16), 3, "crop", "uint8")
    assert reasons == ["Size 32x16: as asked for."]


def test_the_grid_holds_the_values_of_all_files() -> None:
    mixed = joined(sized((8, 8)), replace(sized((8, 8)), items=(replace(sized((8, 8)).items[0], dtype="int16"),)))
    assert grid_of(mixed)[0].dtype == "int16"


def test_volumes_that_all_tell_their_spacing_get_voxels_of_one_size() -> None:
    manifest = joined(sized((60, 60, 45), spacing=(4, 4, 4)), sized((60, 60, 40), spacing=(4, 4, 4.5)))
    grid, reasons = grid_of(manifest)
    assert grid == Grid((32, 32, 24), 1, "spacing", "uint8", (7.5, 7.5, 7.5))
    assert reasons[1].startswith("Resize spacing: every voxel is 7.5 mm;")
    assert grid_of(manifest, resize="spacing")[0] == grid
    stretched, reasons = grid_of(manifest, resize="stretch")
    assert stretched == Grid((32, 32, 24), 1, "stretch", "uint8")
    assert len(reasons) == 1


@settings(deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.tuples(*[st.integers(1, 300)] * 3), st.tuples(*[st.floats(0.05, 20)] * 3)), min_size=1, max_size=6
    ),
    st.integers(8, 64),
)
def test_a_chosen_grid_holds_the_median_volume_and_is_chosen_again_from_its_size(
    volumes: list[tuple[tuple[int, ...], tuple[float, ...]]], largest: int
) -> None:
    manifest = joined(*(sized(shape, spacing=spacing) for shape, spacing in volumes))
    grid, _ = grid_of(manifest, largest_volume=largest)
    assert grid.spacing is not None
    assert 8 <= min(grid.size) <= max(grid.size) <= largest
    extents = np.median([np.multiply(shape, spacing) for shape, spacing in volumes], axis=0)
    assert (np.multiply(grid.size, grid.spacing) >= 0.999 * extents).all()
    assert grid_of(manifest, size=grid.size, resize=grid.resize)[0] == grid


def test_volumes_of_one_size_and_spacing_that_fit_are_left_alone() -> None:
    grid, reasons = grid_of(sized((20, 30, 30), (20, 30, 30), spacing=(5, 0.9375, 0.93751)))
    assert (grid.size, grid.resize, grid.spacing) == ((20, 30, 30), "spacing", (5, 0.9375, 0.9375))
    assert "every voxel is 5×0.9375×0.9375 mm" in reasons[1]


def test_volumes_that_do_not_tell_their_spacing_are_stretched() -> None:
    manifest = joined(sized((20, 20, 20), spacing=(1, 1, 1)), sized((20, 20, 20)))
    grid, reasons = grid_of(manifest)
    assert (grid.resize, grid.spacing) == ("stretch", None)
    assert reasons[1] == "Resize stretch: 1 of 2 volumes do not say their spacing (mm between voxels)."
    with pytest.raises(DataError, match=r"1 of 2 volumes do not say .*: a/0\. Use --set resize=stretch"):
        grid_of(joined(sized((20, 20, 20)), sized((20, 20, 20), spacing=(1, 1, 1))), resize="spacing")
    with pytest.raises(DataError, match="1 of 1 volume do not say"):
        grid_of(sized((20, 20, 20), spacing=(1, 1e-12, 1)), resize="spacing")


def test_images_and_volumes_together_are_refused_with_a_way_out() -> None:
    with pytest.raises(DataError, match=r"1 volume \(such as a/0\) and 2 images are mixed in data.*--slices axial"):
        grid_of(joined(sized((20, 20, 20)), sized((20, 20), (9, 9))))


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ((20, 20), {"size": (8, 8, 8)}, "data holds images; height and width were wanted"),
        ((20, 20, 20), {"size": (8, 8)}, "holds volumes; depth, height and width were wanted.*--slices axial"),
        ((20, 20), {"resize": "spacing"}, "given for images; 'stretch' or 'crop'"),
        ((20, 20, 20), {"resize": "crop"}, "given for volumes; 'spacing' or 'stretch'"),
        ((20, 20), {"resize": "squash"}, "auto, stretch, crop, spacing"),
        ((20, 20), {"largest": 4}, "at least 8"),
        ((20, 20, 20), {"largest_volume": 7}, "at least 8"),
        ((20, 20), {"channels": 100}, "1 to 64"),
    ],
)
def test_settings_that_do_not_fit_are_config_errors(
    shape: tuple[int, ...], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        grid_of(sized(shape), **settings)
