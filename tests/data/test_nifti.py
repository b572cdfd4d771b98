import gzip
import os
import struct
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ganaug.data.geometry import PLANES, cut, to_lps
from ganaug.data.readers import MAX_CHANNELS, Decoded, decode, nifti
from ganaug.errors import DataError

AFFINE = np.array([[-2.0, 0, 0, 30], [0, 1.5, 0, -40], [0, 0, 3, 12.5], [0, 0, 0, 1]])
VERSIONS = {1: nib.Nifti1Image, 2: nib.Nifti2Image}

# Where the fields of a NIfTI-1 header stand.
DIM, DATATYPE, OFFSET, SLOPE, INTERCEPT, QFORM_CODE, SFORM_CODE, QUATERNION, SFORM = (
    40, 70, 108, 112, 116, 252, 254, 256, 280,
)  # fmt: skip


def values(*shape: int, dtype: str = "int16", seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def volume(array: np.ndarray, affine: np.ndarray | None = AFFINE, version: int = 1) -> bytearray:
    """Return a .nii file's bytes."""
    return bytearray(VERSIONS[version](array, affine, dtype=array.dtype).to_bytes())


def edited(raw: bytes | bytearray, layout: str, at: int, *numbers: float) -> bytearray:
    """Return `raw` with numbers written over a field."""
    result = bytearray(raw)
    struct.pack_into(layout, result, at, *numbers)
    return result


def decoded(raw: bytes | bytearray, packed: bool = False) -> Decoded:
    return decode(gzip.compress(bytes(raw), 1) if packed else bytes(raw), Path("a.nii.gz" if packed else "a.nii"))


def refused(raw: bytes | bytearray, problem: str, packed: bool = False) -> None:
    with pytest.raises(DataError, match=rf"^a\.nii(\.gz)?: .*{problem}"):
        decoded(raw, packed)


# --- values ---


@pytest.mark.parametrize("packed", [False, True], ids=[".nii", ".nii.gz"])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        ("uint8", "uint8"),
        ("int8", "int16"),
        ("int16", "int16"),
        ("uint16", "uint16"),
        ("int32", "int32"),
        ("float32", "float32"),
        ("float64", "float32"),
    ],
)
def test_a_volume_keeps_its_values_and_stored_type(packed: bool, version: int, stored: str, wanted: str) -> None:
    array = values(4, 5, 6, dtype=stored)
    found = decoded(volume(array, version=version), packed)
    # The affine says L, A, S: turned to superior, posterior, left, only the second axis is flipped.
    np.testing.assert_array_equal(found.pixels[..., 0], array.astype(wanted)[:, ::-1].transpose(2, 1, 0))
    assert found.pixels.dtype == np.dtype(wanted)
    assert found.pixels.flags.c_contiguous
    assert (found.format, found.mode, found.orientation) == ("NIfTI", stored, "LAS")
    assert found.spacing == (3, 1.5, 2)
    assert found.center == pytest.approx(nib.affines.apply_affine(AFFINE, (1.5, 2, 2.5)))
    assert found.hints == ()


def test_the_other_byte_order_is_read() -> None:
    array = values(4, 5, 6)
    image = nib.Nifti1Image(array, AFFINE, nib.Nifti1Header(endianness=">"))
    raw = image.to_bytes()
    assert raw[:4] == b"\0\0\x01\x5c"
    np.testing.assert_array_equal(decoded(raw).pixels, decoded(volume(array)).pixels)


@pytest.mark.parametrize(
    ("stored", "slope", "intercept", "wanted"),
    [
        ("uint8", 1, -1024, "int16"),  # HU as many converters store them
        ("int16", 1, 0, "int16"),
        ("uint8", -2, 7, "int16"),
        ("int16", 3, -5, "int32"),
        ("uint16", 1, -32768, "int16"),
        ("int32", 2, 0, "float32"),
        ("uint8", 2.0**40, 0, "float32"),
        ("int16", 0.5, 0, "float32"),
        ("uint16", 1, 0.25, "float32"),
        ("float32", 2, 1, "float32"),
    ],
)
def test_whole_scales_give_integers_and_others_real_numbers(
    stored: str, slope: float, intercept: float, wanted: str
) -> None:
    array = values(4, 5, 6, dtype=stored)
    raw = edited(edited(volume(array), "<f", SLOPE, slope), "<f", INTERCEPT, intercept)
    found = decoded(raw).pixels
    assert found.dtype == np.dtype(wanted)
    exact = array[:, ::-1].transpose(2, 1, 0).astype(float) * slope + intercept
    np.testing.assert_allclose(found[..., 0], exact, rtol=1e-6 if wanted == "float32" else 0)


def test_a_slope_of_zero_or_nan_means_no_scaling() -> None:
    array = values(4, 5, 6)
    for slope in (0, np.nan):
        found = decoded(edited(edited(volume(array), "<f", SLOPE, slope), "<f", INTERCEPT, 5)).pixels
        np.testing.assert_array_equal(found, decoded(volume(array)).pixels)


def test_channels_lie_along_the_fourth_or_behind_an_empty_time_along_the_fifth_axis() -> None:
    array = values(4, 5, 6, MAX_CHANNELS)
    found = decoded(volume(array)).pixels
    np.testing.assert_array_equal(found, array[:, ::-1].transpose(2, 1, 0, 3))
    np.testing.assert_array_equal(decoded(volume(array[:, :, :, None])).pixels, found)
    np.testing.assert_array_equal(decoded(volume(array[..., :1, None, None])).pixels, found[..., :1])


def test_time_series_and_other_arrays_are_refused_with_advice() -> None:
    refused(volume(values(4, 5, 6, 17)), "17 volumes .* time series .* save one volume")
    refused(volume(values(4, 5, 6, 2, 2)), "4×5×6×2×2 was given; X×Y×Z")
    refused(volume(values(9)), "an array of 9 was given")


@pytest.mark.parametrize("names", ["RGB", "RGBA"])
def test_color_voxels_become_three_channels(names: str) -> None:
    colors = values(4, 5, 6, len(names), dtype="uint8")
    kind = np.dtype([(name, "u1") for name in names])
    found = decoded(nib.Nifti1Image(colors.view(kind)[..., 0], AFFINE).to_bytes())
    np.testing.assert_array_equal(found.pixels, colors[:, ::-1].transpose(2, 1, 0, 3)[..., :3])
    assert found.mode == names
    flat = decoded(nib.Nifti1Image(colors[:, :, :1].view(kind)[..., 0], AFFINE).to_bytes())
    np.testing.assert_array_equal(flat.pixels, found.pixels[0])
    refused(nib.Nifti1Image(np.repeat(colors.view(kind), 2, axis=3), AFFINE).to_bytes(), "series of 2 color volumes")


def test_values_that_are_no_gray_levels_are_refused() -> None:
    refused(nib.Nifti1Image(np.ones((4, 5, 6), np.complex64), AFFINE).to_bytes(), "complex64 .* magnitude")
    refused(edited(volume(values(4, 5, 6)), "<h", DATATYPE, 1), "not supported")
    refused(edited(volume(values(4, 5, 6)), "<h", DATATYPE, 999), "data code 999")
    array = values(4, 5, 6, dtype="float32")
    array[0, 0, :3] = np.nan
    refused(volume(array), "3 of 120 values are not finite")


# --- geometry ---


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 1, 1)])
def test_a_single_slice_is_an_image_as_it_is_looked_at(shape: tuple[int, ...]) -> None:
    array = values(*shape)
    raw = nib.Nifti1Image(array, np.diag([2.0, 3.0, 5.0, 1.0])).to_bytes()
    found = decoded(raw)
    np.testing.assert_array_equal(found.pixels, array.reshape(5, 7, 1)[::-1, ::-1].swapaxes(0, 1))
    assert (found.spacing, found.orientation, found.center, found.hints) == ((3, 2), "", None, ())


@pytest.mark.parametrize("codes", ["RAS", "LAS", "LPS", "PSR", "SRA"])
@pytest.mark.parametrize("plane", PLANES)
def test_a_single_slice_looks_the_same_however_it_lies_in_the_file(codes: str, plane: str) -> None:
    array = values(5, 7, 6)
    whole = nib.Nifti1Image(array, np.diag([1.0, 2.0, 3.0, 1.0]))
    axis = 2 - PLANES.index(plane)
    one = whole.slicer[tuple(slice(3, 4) if side == axis else slice(None) for side in range(3))]
    turn = nib.orientations.ornt_transform(nib.io_orientation(one.affine), nib.orientations.axcodes2ornt(tuple(codes)))
    turned = one.as_reoriented(turn)
    if turned.shape[2] != 1:
        return  # its single layer is not the file's last axis: that is a thin volume
    pixels, spacing, *_ = to_lps(one.get_fdata()[..., None], one.affine)
    _, wanted, between = next(cut(pixels, spacing, plane))
    np.testing.assert_array_equal(decoded(turned.to_bytes()).pixels, wanted)
    assert decoded(turned.to_bytes()).spacing == between


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1.0), ("meter", 1000.0), ("micron", 0.001), ("unknown", 1.0)])
def test_the_unit_of_length_counts(unit: str, factor: float) -> None:
    image = nib.Nifti1Image(values(4, 5, 6), np.diag([2.0, 3.0, 5.0, 1.0]))
    image.header.set_xyzt_units(unit)
    assert decoded(image.to_bytes()).spacing == pytest.approx((5 * factor, 3 * factor, 2 * factor))


def test_a_single_slice_may_have_channels_and_a_damaged_affine() -> None:
    array = values(5, 7, 1, 3)
    raw = edited(volume(array), "<12f", SFORM, *[0] * 12)
    np.testing.assert_array_equal(decoded(raw).pixels, array[:, :, 0].swapaxes(0, 1))


def test_a_volume_one_voxel_wide_stays_a_volume() -> None:
    assert decoded(volume(values(1, 5, 6))).pixels.shape == (6, 5, 1, 1)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PSR", "IRP", "ASL"])
def test_every_orientation_is_turned_as_nibabel_turns_it(codes: str) -> None:
    canonical = nib.Nifti1Image(values(4, 5, 6), np.diag([2.0, 1.5, 3, 1]))
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(codes))
    )
    found = decoded(canonical.as_reoriented(turn).to_bytes())
    ras = np.asarray(canonical.dataobj)
    np.testing.assert_array_equal(found.pixels[..., 0], ras[::-1, ::-1].transpose(2, 1, 0))
    assert found.orientation == codes
    assert found.spacing == (3, 1.5, 2)
    assert found.center == pytest.approx((3, 3, 7.5))


def test_the_qform_counts_where_there_is_no_sform() -> None:
    image = nib.Nifti1Image(values(4, 5, 6), None)
    image.set_qform(AFFINE, code=1)
    found = decoded(image.to_bytes())
    assert (found.orientation, found.spacing, found.hints) == ("LAS", (3, 1.5, 2), ())


def test_a_file_that_does_not_know_left_from_right_gets_a_hint() -> None:
    raw = edited(volume(values(4, 5, 6)), "<hh", QFORM_CODE, 0, 0)
    found = decoded(raw)
    assert [hint.partition(":")[0] for hint in found.hints] == ["laterality"]
    assert found.spacing == (3, 1.5, 2)


@pytest.mark.parametrize(
    "rows",
    [[0] * 12, [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0], [np.nan] * 12, [1e30, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]],
    ids=["zeros", "two axes in one line", "nan", "absurd"],
)
def test_an_affine_that_says_nothing_is_refused_with_advice(rows: list[float]) -> None:
    refused(edited(volume(values(4, 5, 6)), "<12f", SFORM, *rows), "repair its sform and qform")


def test_a_quaternion_that_is_none_is_a_data_error() -> None:
    raw = edited(edited(volume(values(4, 5, 6)), "<hh", QFORM_CODE, 1, 0), "<3f", QUATERNION, 3, 3, 3)
    refused(raw, "cannot be decoded")


# --- hardening ---


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("dims", "problem"),
    [
        ((3, 32767, 32767, 32767), "too large when decoded"),
        ((4, 1000, 1000, 1000, 2), "too large when decoded"),
        ((2, 32767, 32767), "too many pixels"),
        ((3, 900, 900, 900), "cut off, 0 bytes|cut off, 240 bytes"),
        ((3, 40, 50, 60), "cut off, 240 bytes"),
        ((3, -4, 5, 6), "empty"),
        ((3, 0, 5, 6), "empty"),
        ((0,), "was given"),
        ((7, 4, 5, 6, 1, 1, 1, 2), "was given"),
    ],
    ids=str,
)
def test_dimensions_are_checked_before_memory_is_given(packed: bool, dims: tuple[int, ...], problem: str) -> None:
    raw = edited(volume(values(4, 5, 6)), f"<{len(dims)}h", DIM, *dims)
    tracemalloc.start()
    try:
        refused(raw, problem, packed)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("offset", [0, 100, 351, 1e7, 1e9, 3e38, -5, np.nan, np.inf])
@pytest.mark.parametrize("packed", [False, True])
def test_a_senseless_offset_of_the_pixels_is_a_data_error(packed: bool, offset: float) -> None:
    raw = edited(volume(values(4, 5, 6)), "<f", OFFSET, offset)
    if offset == 0:  # left to the program, which puts them behind the header
        assert decoded(raw, packed).pixels.shape == (6, 5, 4, 1)
    else:
        refused(raw, "", packed)


def test_no_more_is_unpacked_than_the_header_announces() -> None:
    bomb = gzip.compress(bytes(volume(values(4, 5, 6))) + bytes(50_000_000), 1)
    tracemalloc.start()
    try:
        found = decode(bomb, Path("a.nii.gz"))
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()
    assert found.pixels.shape == (6, 5, 4, 1)


def test_a_damaged_gzip_layer_is_a_data_error() -> None:
    good = gzip.compress(bytes(volume(values(4, 5, 6))))
    for damaged in (good[:-20], good[:40], good[:-8] + bytes(8), good[:100] + bytes(50) + good[150:]):
        with pytest.raises(DataError, match=r"^a\.nii\.gz: "):
            decode(damaged, Path("a.nii.gz"))


def test_a_gzip_file_of_several_members_is_read_whole() -> None:
    raw = bytes(volume(values(4, 5, 6)))
    parts = b"".join(gzip.compress(raw[at : at + 100]) for at in range(0, len(raw), 100))
    np.testing.assert_array_equal(decode(parts, Path("a.nii.gz")).pixels, decoded(raw).pixels)


def test_extensions_before_the_pixels_are_passed_over() -> None:
    image = nib.Nifti1Image(values(4, 5, 6), AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 5000))
    for packed in (False, True):
        np.testing.assert_array_equal(decoded(image.to_bytes(), packed).pixels, decoded(volume(values(4, 5, 6))).pixels)


def test_a_header_without_its_pixels_in_the_same_file_is_refused_with_advice() -> None:
    raw = volume(values(4, 5, 6))
    raw[344:348] = b"ni1\0"
    refused(raw, "header and pixels in one")


def test_nifti_is_known_by_its_content() -> None:
    for version in (1, 2):
        raw = bytes(volume(values(4, 5, 6), version=version))
        assert nifti.matches(raw[:1024])
        assert nifti.matches(gzip.compress(raw)[:1024])
        assert not nifti.matches(raw[:300])
        assert not nifti.matches(gzip.compress(bytes(2000)))


def test_real_scans_are_read_as_nibabel_reads_them() -> None:
    data = os.environ.get("GANAUG_DATA")
    files = sorted(Path(data, "ixi_t1_4mm").glob("*/*.nii*"))[::20] if data else []
    if not files:
        pytest.skip("GANAUG_DATA does not name a folder with ixi_t1_4mm")
    for path in files:
        wanted = nib.as_closest_canonical(nib.load(path))
        found = decode(path.read_bytes(), path)
        np.testing.assert_array_equal(found.pixels[..., 0], np.asarray(wanted.dataobj)[::-1, ::-1].transpose(2, 1, 0))
        assert found.spacing == pytest.approx(wanted.header.get_zooms()[::-1])
