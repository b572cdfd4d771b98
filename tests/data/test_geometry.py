import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganaug.data.geometry import PLANES, Geometry, cut, is_valid_affine, to_lps
from ganaug.errors import ConfigError, DataError, ModelFileError

SIGNED_PERMUTATIONS = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product([1, -1], repeat=3)
]  # fmt: skip

steps = st.tuples(*[st.floats(0.01, 50)] * 3)
origins = st.tuples(*[st.floats(-500, 500)] * 3)
shapes = st.tuples(*[st.integers(1, 5)] * 3)


def axis_aligned(turn: tuple[tuple[int, ...], tuple[int, ...]], step: tuple, origin: tuple) -> np.ndarray:
    """Return an affine whose file axis i runs along world axis order[i] in steps of step[i]."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(zip(*turn, strict=True)):
        affine[world, axis] = sign * step[axis]
    affine[:3, 3] = origin
    return affine


def numbered(shape: tuple[int, ...], channels: int = 0) -> np.ndarray:
    """Return an array in which no value occurs twice."""
    whole = (*shape, channels) if channels else shape
    return np.arange(np.prod(whole)).reshape(whole)


def places(array: np.ndarray, affine: np.ndarray) -> dict[int, tuple[float, ...]]:
    """Return where in the world each value lies."""
    return {int(array[index]): tuple(affine[:3, :3] @ index + affine[:3, 3]) for index in np.ndindex(array.shape)}


# --- there and back ---


@settings(deadline=None)
@given(st.sampled_from(SIGNED_PERMUTATIONS), steps, origins, shapes, st.integers(0, 2))
def test_axis_aligned_volumes_come_back_as_they_were(turn, step, origin, shape, channels) -> None:  # type: ignore[no-untyped-def]
    array, affine = numbered(shape, channels), axis_aligned(turn, step, origin)
    inside, spacing, codes, center = to_lps(array, affine)
    back, found = Geometry(spacing, codes, center).to_file(inside)
    np.testing.assert_array_equal(back, array)
    np.testing.assert_allclose(found, affine, rtol=1e-12, atol=1e-9)
    assert codes == "".join(nib.aff2axcodes(affine))
    assert inside.flags.c_contiguous
    assert back.flags.c_contiguous


@settings(deadline=None)
@given(st.sampled_from(SIGNED_PERMUTATIONS), steps, origins, shapes)
def test_every_voxel_stays_where_it_is_in_the_world(turn, step, origin, shape) -> None:  # type: ignore[no-untyped-def]
    array, affine = numbered(shape), axis_aligned(turn, step, origin)
    inside, spacing, _, center = to_lps(array, affine)
    # To superior, posterior and left: away from the center by the spacing along -R, -A and S.
    half = (np.array(inside.shape) - 1) / 2
    before = places(array, affine)
    for index in np.ndindex(inside.shape):
        d, h, w = (np.array(index) - half) * spacing
        np.testing.assert_allclose(before[int(inside[index])], np.add(center, (-w, -h, d)), atol=1e-6)


@settings(deadline=None)
@given(steps, origins, shapes, st.tuples(*[st.floats(-0.6, 0.6)] * 3))
def test_oblique_volumes_keep_their_center_and_voxel_size_and_take_the_nearest_axes(  # type: ignore[no-untyped-def]
    step, origin, shape, angles
) -> None:
    rotation = nib.eulerangles.euler2mat(*angles)
    affine = np.eye(4)
    affine[:3, :3] = rotation * step
    affine[:3, 3] = origin
    array = numbered(shape)
    inside, spacing, codes, center = to_lps(array, affine)
    assert codes == "".join(nib.aff2axcodes(affine))
    assert sorted(spacing) == pytest.approx(sorted(step))
    middle = (np.array(shape) - 1) / 2
    assert center == pytest.approx(affine[:3, :3] @ middle + affine[:3, 3])
    back, written = Geometry(spacing, codes, center).to_file(inside)
    np.testing.assert_array_equal(back, array)
    np.testing.assert_allclose(written[:3, :3] @ middle + written[:3, 3], center, atol=1e-9)


@settings(deadline=None)
@given(st.sampled_from(SIGNED_PERMUTATIONS), steps, origins, shapes)
def test_a_written_file_is_read_back_by_nibabel(turn, step, origin, shape) -> None:  # type: ignore[no-untyped-def]
    _, spacing, codes, center = to_lps(numbered(shape), axis_aligned(turn, step, origin))
    array, affine = Geometry(spacing, codes, center).to_file(numbered(shape).astype(np.int16))
    image = nib.Nifti1Image(array, affine)
    assert "".join(nib.aff2axcodes(image.affine)) == codes
    again, spacing_again, codes_again, center_again = to_lps(np.asarray(image.dataobj), image.affine)
    np.testing.assert_array_equal(again, numbered(shape))
    assert (spacing_again, codes_again) == (pytest.approx(spacing), codes)
    assert center_again == pytest.approx(center, abs=1e-6)


def test_another_size_keeps_center_and_orientation() -> None:
    geometry = Geometry((3.0, 1.5, 2.0), "PSR", (10.0, -20.0, 30.0))
    array, affine = geometry.to_file(np.zeros((7, 8, 9, 2), np.int16))
    assert array.shape == (8, 7, 9, 2)  # posterior, superior, right
    assert "".join(nib.aff2axcodes(affine)) == "PSR"
    np.testing.assert_allclose(affine @ (3.5, 3, 4, 1), (10, -20, 30, 1))
    assert not np.signbit(affine[affine == 0]).any()


@pytest.mark.parametrize(
    ("affine", "good"),
    [
        (np.eye(4), True),
        (np.diag([1e-5, 1e-5, 1e-5, 1]), True),
        (np.diag([1, 1, 0, 1]), False),
        (np.array([[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]), False),
        (np.diag([1, 1, np.nan, 1]), False),
        (np.diag([1, 1, np.inf, 1]), False),
        (np.diag([1, 1e200, 1, 1]), False),
        (np.eye(3), False),
    ],
)
def test_only_affines_that_give_each_axis_a_direction_are_used(affine: np.ndarray, good: bool) -> None:
    assert is_valid_affine(affine.astype(float)) == good
    if not good:
        with pytest.raises(DataError, match="affine"):
            to_lps(np.zeros((2, 2, 2)), affine)


# --- stored in the model file ---


def test_a_geometry_survives_the_model_file() -> None:
    geometry = Geometry((3.0, 1.5, 2.0), "PSR", (10.0, -20.0, 30.0))
    assert Geometry.from_dict(geometry.to_dict()) == geometry


@pytest.mark.parametrize(
    "change",
    [
        {"spacing": [1, 2]},
        {"spacing": [1, 2, 0]},
        {"spacing": [1, 2, float("inf")]},
        {"spacing": "abc"},
        {"spacing": None},
        {"orientation": "RAX"},
        {"orientation": "RLS"},
        {"orientation": "RASS"},
        {"orientation": ""},
        {"center": [1, 2, float("nan")]},
        {"center": 5},
    ],
    ids=str,
)
def test_a_damaged_geometry_is_a_model_file_error(change: dict) -> None:
    good = {"spacing": [1, 2, 3], "orientation": "RAS", "center": [0, 0, 0]}
    with pytest.raises(ModelFileError, match="geometry"):
        Geometry.from_dict(good | change)
    for broken in (None, [], {"spacing": [1, 2, 3]}):
        with pytest.raises(ModelFileError):
            Geometry.from_dict(broken)


# --- slices ---


def test_slices_are_cut_as_they_are_looked_at() -> None:
    volume = numbered((4, 5, 6), 2)
    spacing = (3.0, 1.5, 2.0)
    found = {plane: list(cut(volume, spacing, plane)) for plane in PLANES}
    assert {plane: len(slices) for plane, slices in found.items()} == {"axial": 4, "coronal": 5, "sagittal": 6}
    for index, axial, between in found["axial"]:
        np.testing.assert_array_equal(axial, volume[index])
        assert between == (1.5, 2)
    for index, coronal, between in found["coronal"]:
        np.testing.assert_array_equal(coronal, volume[::-1, index])  # superior on top
        assert between == (3, 2)
    for index, sagittal, between in found["sagittal"]:
        np.testing.assert_array_equal(sagittal, volume[::-1, :, index])  # superior on top, anterior on the left
        assert between == (3, 1.5)
    assert [index for index, _, _ in found["coronal"]] == [0, 1, 2, 3, 4]
    assert all(image.flags.c_contiguous for slices in found.values() for _, image, _ in slices)


def test_the_head_is_on_top_of_coronal_and_sagittal_slices() -> None:
    array = np.zeros((4, 5, 6))  # R, A, S
    array[:, :, -1] = 1  # the crown
    array[:, -1] += 2  # the face
    array[-1] += 4  # the right ear
    volume = to_lps(array, np.eye(4))[0][..., None]
    axial, coronal, sagittal = (next(iter(cut(volume, None, plane)))[1][..., 0].astype(int) for plane in PLANES)
    for image, on_top, on_the_left in ((axial, 2, 4), (coronal, 1, 4), (sagittal, 1, 2)):
        rows, columns = np.indices(image.shape)
        np.testing.assert_array_equal(image & on_top > 0, rows == 0)
        np.testing.assert_array_equal(image & on_the_left > 0, columns == 0)


def test_slices_without_spacing_and_unknown_planes() -> None:
    assert [between for _, _, between in cut(np.zeros((2, 3, 4, 1)), None, "coronal")] == [None] * 3
    with pytest.raises(ConfigError, match=r"'oblique'.*axial, coronal, sagittal"):
        list(cut(np.zeros((2, 3, 4, 1)), None, "oblique"))
