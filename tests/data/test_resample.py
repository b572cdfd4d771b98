import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ganaug.data.resample import resize_image, resize_volume

DTYPES = ("uint8", "uint16", "int16", "int32", "float32")


# --- images ---


def test_shrinking_averages_instead_of_picking_pixels() -> None:
    checkers = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None]
    small = resize_image(checkers, (8, 8))
    assert np.abs(small[1:-1, 1:-1].astype(int) - 127).max() <= 3


def test_16_bit_keeps_its_depth_and_range_when_resized() -> None:
    ramp = np.broadcast_to(np.linspace(1000, 1200, 64), (64, 64)).astype(np.uint16)[..., None]
    small = resize_image(ramp, (16, 16))
    assert small.dtype == np.uint16
    assert len(np.unique(small)) == 16
    assert abs(small.mean() - 1100) < 1
    edge = np.zeros((32, 32, 1), np.uint16)
    edge[:, 16:] = 65535
    small = resize_image(edge, (10, 10))  # bicubic overshoots on both sides and must not wrap around
    assert small[:, :4].max() < 9000
    assert small[:, 6:].min() > 56000


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "float32"])
def test_nothing_gets_darker_or_brighter_than_the_image_was(dtype: str) -> None:
    edge = np.full((32, 32, 1), 100, dtype)
    edge[:, 16:] = 900
    for size in ((10, 10), (50, 70)):
        resized = resize_image(edge, size)
        assert resized.dtype == edge.dtype
        assert (resized.min(), resized.max()) == (100, 900)


def test_the_largest_integers_do_not_wrap_around() -> None:
    limit = np.iinfo(np.int32).max
    assert (resize_image(np.full((9, 9, 1), limit, np.int32), (4, 5)) == limit).all()


def test_stretch_takes_the_whole_image_and_crop_its_middle() -> None:
    image = np.zeros((16, 48, 1), np.uint8)
    image[:, 16:32] = 200
    assert resize_image(image, (8, 8), crop=True)[:, 1:-1].min() >= 195
    stretched = resize_image(image, (8, 8))
    assert stretched[:, 0].max() < 20
    assert stretched[:, 4].min() > 180
    tall = image.transpose(1, 0, 2)
    assert resize_image(tall, (8, 8), crop=True)[1:-1].min() >= 195


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_channels_are_resized_each_by_itself(channels: int, dtype: str) -> None:
    image = np.random.default_rng(0).integers(0, 255, (20, 30, channels)).astype(dtype)
    resized = resize_image(image, (13, 11))
    for channel in range(channels):
        np.testing.assert_array_equal(resized[..., [channel]], resize_image(image[..., [channel]], (13, 11)))


# --- volumes ---


shapes = st.tuples(*[st.integers(1, 14)] * 3)
sizes = st.tuples(*[st.integers(1, 12)] * 3)
step_lengths = st.one_of(st.none(), st.tuples(*[st.floats(0.2, 8)] * 3))


@settings(deadline=None, derandomize=True, max_examples=200)
@given(shapes, sizes, step_lengths, st.sampled_from(DTYPES), st.integers(1, 200))
def test_a_constant_volume_stays_constant(
    shape: tuple[int, int, int], size: tuple[int, int, int], steps: tuple[float, float, float] | None, dtype: str,
    level: int,
) -> None:  # fmt: skip
    resized = resize_volume(np.full((*shape, 2), level, dtype), size, steps=steps)
    assert (resized.shape, resized.dtype) == ((*size, 2), np.dtype(dtype))
    assert (resized == level).all()


@settings(deadline=None, derandomize=True)
@given(
    st.tuples(*[st.integers(1, 9)] * 3), st.tuples(*[st.integers(1, 9)] * 3), step_lengths, st.integers(0, 2), st.data()
)
def test_what_is_symmetric_stays_centered(
    shape: tuple[int, int, int], size: tuple[int, int, int], steps: tuple[float, float, float] | None, axis: int,
    data: st.DataObject,
) -> None:  # fmt: skip
    volume = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=shape).astype(np.float32)
    volume = (volume + np.flip(volume, axis)) / 2
    resized = resize_volume(volume[..., None], size, steps=steps)[..., 0]
    np.testing.assert_allclose(resized, np.flip(resized, axis), atol=1e-4)


@settings(deadline=None, derandomize=True)
@given(
    st.integers(12, 40), st.integers(8, 30), st.one_of(st.none(), st.floats(0.3, 3)), st.integers(0, 2),
    st.sampled_from([np.float32, np.uint16]),
)  # fmt: skip
def test_a_ramp_keeps_its_slope_and_its_place(
    length: int, side: int, step: float | None, axis: int, dtype: type[np.generic]
) -> None:
    shape, size, steps = [4, 4, 4], [4, 4, 4], [1.0, 1.0, 1.0]
    shape[axis], size[axis], steps[axis] = length, side, step or 1.0
    ramp = np.moveaxis(np.broadcast_to(np.arange(length) * 100.0 + 50, (4, 4, length)), 2, axis).astype(dtype)
    resized = resize_volume(
        ramp[..., None], (size[0], size[1], size[2]), steps=(steps[0], steps[1], steps[2]) if step else None
    )
    profile = np.moveaxis(resized[..., 0], axis, 2)[2, 2].astype(float)
    scale = step or length / side
    wanted = ((np.arange(side) + 0.5 - side / 2) * scale + length / 2) * 100
    # The ends are outside of the volume, or feel its edge through the filter.
    reach = 2.5 * max(scale, 1) * 100
    inside = (wanted > reach) & (wanted < length * 100 - reach)
    assert np.abs(profile - wanted)[inside].max(initial=0) <= 0.03 * 100 * max(scale, 1) + 0.5


def test_a_volume_is_filtered_like_an_image_along_each_pair_of_axes() -> None:
    volume = np.random.default_rng(0).normal(size=(20, 30, 40)).astype(np.float32)
    resized = resize_volume(volume[..., None], (20, 12, 50))[..., 0]
    for plane, wanted in zip(resized, volume, strict=True):
        by_pillow = np.asarray(Image.fromarray(wanted).resize((50, 12), Image.Resampling.BICUBIC))
        np.testing.assert_allclose(plane, np.clip(by_pillow, volume.min(), volume.max()), rtol=1e-6)
    turned = resize_volume(volume.transpose(1, 2, 0)[..., None], (12, 50, 20))[..., 0]
    np.testing.assert_allclose(turned.transpose(2, 0, 1), resized, atol=1e-5)


def test_shrinking_a_volume_averages_along_all_axes() -> None:
    checkers = (np.indices((32, 32, 32)).sum(axis=0) % 2 * 1000).astype(np.int16)[..., None]
    small = resize_volume(checkers, (8, 8, 8))
    assert np.abs(small[1:-1, 1:-1, 1:-1].astype(int) - 500).max() <= 5


def ball(shape: tuple[int, ...], spacing: tuple[float, ...], radius: float) -> np.ndarray:
    """Return a volume of 0 and 1000 with a ball around its center, its radius in mm, with soft edges."""
    offsets = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(shape, spacing, strict=True)]
    distance = np.sqrt(sum(axis**2 for axis in np.meshgrid(*offsets, indexing="ij")))
    return (1000 * np.clip((radius - distance) / max(spacing) + 0.5, 0, 1)).astype(np.int16)[..., None]


def test_voxels_that_are_not_cubes_become_cubes_and_a_ball_stays_round() -> None:
    spacing = (5.0, 1.0, 2.0)
    source = ball((24, 110, 60), spacing, radius=40)
    steps = (3 / 5, 3 / 1, 3 / 2)
    resized = resize_volume(source, (36, 36, 36), steps=steps)[..., 0]
    inside = resized > 500
    widths = [inside.any(axis=tuple({0, 1, 2} - {axis})).sum() * 3 for axis in range(3)]
    assert max(abs(width - 80) for width in widths) <= 3
    volume = inside.sum() * 27
    assert abs(volume / (4 / 3 * np.pi * 40**3) - 1) < 0.02
    second_moments = [float(((np.indices(inside.shape)[axis] - 17.5) ** 2)[inside].mean()) for axis in range(3)]
    assert max(second_moments) / min(second_moments) < 1.03


def test_a_larger_volume_is_cropped_and_a_smaller_one_gets_its_minimum_around_it() -> None:
    volume = np.random.default_rng(0).integers(-500, 900, (12, 12, 12, 1)).astype(np.int16)
    kept = resize_volume(volume, (8, 8, 8), steps=(1, 1, 1))
    np.testing.assert_array_equal(kept, volume[2:10, 2:10, 2:10])
    padded = resize_volume(volume, (16, 12, 20), steps=(1, 1, 1))
    np.testing.assert_array_equal(padded[2:14, :, 4:16], volume)
    outside = np.ones(padded.shape, bool)
    outside[2:14, :, 4:16] = False
    assert (padded[outside] == volume.min()).all()


def test_the_rim_is_not_darkened_by_what_is_around_it() -> None:
    volume = np.full((10, 10, 10, 1), 700, np.int16)
    volume[5, 5, 5] = -1000
    padded = resize_volume(volume, (12, 12, 12), steps=(1.1, 1.1, 1.1))[..., 0]
    filled = padded[2:10, 2:10, 2:10]
    assert (padded[1, 6, 6], padded[6, 10, 6]) == (700, 700)
    assert (filled[0] == 700).all()
    assert (padded[0] == -1000).all()


def test_a_single_slice_thinner_than_the_grids_voxels_is_not_lost() -> None:
    slice_ = np.random.default_rng(0).integers(100, 900, (1, 16, 16, 1)).astype(np.uint16)
    slice_[0, 0, 0] = 0
    for side in (4, 5):
        volume = resize_volume(slice_, (side, 16, 16), steps=(7.5, 1, 1))
        middle = volume[(side - 1) // 2 : side // 2 + 1]
        assert len(middle) == 2 - side % 2
        for plane in middle:
            np.testing.assert_array_equal(plane, slice_[0])
        assert volume.any(axis=(1, 2, 3)).sum() == len(middle)
