import builtins
import io
import random
import tracemalloc
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder

from ganaug.data.readers import Decoded, dicom
from ganaug.errors import DataError
from tests.dicoms import AXIAL, write_image


def values(low: int, high: int, shape: tuple[int, ...] = (12, 10), dtype: str = "uint16", seed: int = 0) -> np.ndarray:
    """Return random whole numbers from `low` to `high`, both of which occur."""
    found = np.random.default_rng(seed).integers(low, high, shape, dtype=dtype, endpoint=True)
    found.flat[:2] = low, high
    return found


def read(path: Path) -> Decoded:
    return dicom.decode(path.read_bytes(), path)


# --- gray: what the scanner measured ---


def test_a_ct_comes_out_in_hounsfield_units_of_16_bit(tmp_path: Path) -> None:
    stored = values(0, 4095)
    tags = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024, "PixelSpacing": [0.7, 0.6]}
    found = read(write_image(tmp_path / "a.dcm", stored, BitsStored=12, HighBit=11, PatientID=" p7 ", **tags))
    assert found.pixels.dtype == np.int16
    np.testing.assert_array_equal(found.pixels[..., 0], stored.astype(int) - 1024)
    assert (found.format, found.mode) == ("DICOM", "MONOCHROME2 12 bit")
    assert (found.spacing, found.group, found.hints) == ((0.7, 0.6), "p7", ())


def test_an_x_ray_with_white_as_zero_is_turned_round_within_its_bits(tmp_path: Path) -> None:
    stored = values(0, 4095)
    tags = {"BitsStored": 12, "HighBit": 11, "ImagerPixelSpacing": [0.14, 0.15]}
    found = read(write_image(tmp_path / "a.dcm", stored, PhotometricInterpretation="MONOCHROME1", **tags))
    assert found.pixels.dtype == np.uint16
    np.testing.assert_array_equal(found.pixels[..., 0], 4095 - stored)
    assert found.spacing == (0.14, 0.15)


def test_signed_values_with_white_as_lowest_keep_their_range(tmp_path: Path) -> None:
    stored = values(-32768, 32767, dtype="int16")
    found = read(write_image(tmp_path / "a.dcm", stored, PhotometricInterpretation="MONOCHROME1"))
    assert found.pixels.dtype == np.int16
    np.testing.assert_array_equal(found.pixels[..., 0], -1 - stored.astype(int))


def test_a_pet_with_a_fraction_as_slope_becomes_floating_point(tmp_path: Path) -> None:
    stored = values(0, 32767)
    found = read(write_image(tmp_path / "a.dcm", stored, RescaleSlope="0.37", RescaleIntercept=0))
    assert found.pixels.dtype == np.float32
    np.testing.assert_allclose(found.pixels[..., 0], stored * 0.37, rtol=1e-6)


@pytest.mark.parametrize(
    ("slope", "intercept", "dtype"),
    [(1, 0, "uint16"), (1, -1024, "int32"), (2, 0, "int32"), (100_000, 0, "float32"), (-1, 0, "int32")],
)
def test_scaled_values_take_the_type_that_holds_them(tmp_path: Path, slope: int, intercept: int, dtype: str) -> None:
    stored = values(0, 65535)
    found = read(write_image(tmp_path / "a.dcm", stored, RescaleSlope=slope, RescaleIntercept=intercept))
    assert found.pixels.dtype == dtype
    np.testing.assert_allclose(found.pixels[..., 0], stored.astype(float) * slope + intercept, rtol=1e-6)


def test_a_slope_of_zero_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="slope is 0"):
        read(write_image(tmp_path / "a.dcm", values(0, 9), RescaleSlope=0, RescaleIntercept=0))


def test_a_modality_table_is_applied(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor = [4, 0, 16]
    heights = np.array([10, 200, 3000, 40000], "<u2")
    table.LUTData = heights.tobytes()
    stored = values(0, 3, dtype="uint8")
    found = read(write_image(tmp_path / "a.dcm", stored, ModalityLUTSequence=[table]))
    assert found.pixels.dtype == np.uint16
    np.testing.assert_array_equal(found.pixels[..., 0], heights[stored])


def test_a_window_is_not_applied(tmp_path: Path) -> None:
    stored = values(0, 4000)
    found = read(write_image(tmp_path / "a.dcm", stored, WindowCenter=40, WindowWidth=400))
    np.testing.assert_array_equal(found.pixels[..., 0], stored)


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(["uint8", "uint16", "int16"]).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9))
    )
)
def test_any_gray_image_survives(tmp_path_factory: pytest.TempPathFactory, stored: np.ndarray) -> None:
    path = write_image(tmp_path_factory.getbasetemp() / "any.dcm", stored)
    found = read(path).pixels
    assert found.dtype == stored.dtype
    np.testing.assert_array_equal(found[..., 0], stored)


# --- color ---


def test_rgb_stays_as_it_is(tmp_path: Path) -> None:
    stored = values(0, 255, (12, 10, 3), "uint8")
    np.testing.assert_array_equal(read(write_image(tmp_path / "a.dcm", stored)).pixels, stored)


def test_ycbcr_becomes_rgb(tmp_path: Path) -> None:
    stored = np.full((4, 6, 3), (76, 85, 255), np.uint8)  # red
    found = read(write_image(tmp_path / "a.dcm", stored, PhotometricInterpretation="YBR_FULL"))
    assert np.abs(found.pixels.astype(int) - (255, 0, 0)).max() <= 2


def test_a_palette_becomes_rgb(tmp_path: Path) -> None:
    palette = values(0, 255, (4, 3), "uint8")
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for channel, name in enumerate(("Red", "Green", "Blue")):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [4, 0, 16]
        tags[f"{name}PaletteColorLookupTableData"] = (palette[:, channel].astype("<u2") << 8).tobytes()
    stored = values(0, 3, dtype="uint8")
    np.testing.assert_array_equal(read(write_image(tmp_path / "a.dcm", stored, **tags)).pixels, palette[stored])


def test_deep_color_is_reduced_with_a_hint(tmp_path: Path) -> None:
    stored = values(0, 65535, (12, 10, 3))
    found = read(write_image(tmp_path / "a.dcm", stored))
    np.testing.assert_array_equal(found.pixels, stored >> 8)
    assert found.hints == ("reduced_depth: color of 16 bit, read as 8 bit",)


def test_an_unknown_kind_of_color_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'HSV', 3 values of 8 bit each, cannot be used; export it"):
        read(write_image(tmp_path / "a.dcm", values(0, 9, (4, 4, 3), "uint8"), PhotometricInterpretation="HSV"))


# --- what else a file says ---


@pytest.mark.parametrize("keyword", ["ImageLaterality", "Laterality", "FrameLaterality"])
def test_side_and_burned_in_text_are_passed_on(tmp_path: Path, keyword: str) -> None:
    tags = {keyword: "L", "BurnedInAnnotation": "YES"}
    found = read(write_image(tmp_path / "a.dcm", values(0, 9), **tags))
    assert found.hints == ("laterality: L", "burned_in: the file says so")


@pytest.mark.parametrize("spacing", [[0, 1], [-1, 1], [1], ["1e300", "1"]])
def test_an_absurd_spacing_counts_as_unknown(tmp_path: Path, spacing: list[Any]) -> None:
    assert read(write_image(tmp_path / "a.dcm", values(0, 9), PixelSpacing=spacing)).spacing is None


# --- many frames ---


def test_frames_become_a_volume_with_the_spacing_that_is_told(tmp_path: Path) -> None:
    stored = values(0, 999, (5, 8, 6))
    tags = {"PixelSpacing": [0.5, 0.4], "SpacingBetweenSlices": -2.5}
    found = read(write_image(tmp_path / "a.dcm", stored, **tags))
    np.testing.assert_array_equal(found.pixels[..., 0], stored)
    assert (found.spacing, found.orientation, found.center) == ((2.5, 0.5, 0.4), "", None)
    assert found.mode == "MONOCHROME2 16 bit, 5 frames"


def test_the_frames_of_a_film_have_no_spacing(tmp_path: Path) -> None:
    tags = {"PixelSpacing": [0.5, 0.4], "SliceThickness": 3, "FrameTime": 40}
    assert read(write_image(tmp_path / "a.dcm", values(0, 9, (5, 8, 6)), **tags)).spacing is None


def item(**sequences: dict[str, Any]) -> Dataset:
    """Return an item of a functional group sequence, with one item in each of `sequences`."""
    outer = Dataset()
    for name, elements in sequences.items():
        inner = Dataset()
        for keyword, value in elements.items():
            setattr(inner, keyword, value)
        setattr(outer, name, [inner])
    return outer


def enhanced(path: Path, stored: np.ndarray, heights: list[float], scales: list[tuple[float, float]]) -> Path:
    """Write axial frames at `heights`, each with its own slope and intercept, as an enhanced CT does."""
    shared = item(
        PixelMeasuresSequence={"PixelSpacing": [0.5, 0.4], "SliceThickness": 9},
        PlaneOrientationSequence={"ImageOrientationPatient": list(AXIAL)},
    )
    each = [
        item(
            PlanePositionSequence={"ImagePositionPatient": [10, 20, height]},
            PixelValueTransformationSequence={"RescaleSlope": slope, "RescaleIntercept": intercept},
        )
        for height, (slope, intercept) in zip(heights, scales, strict=True)
    ]
    return write_image(path, stored, SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=each)


def test_functional_groups_put_frames_in_order_and_scale_each(tmp_path: Path) -> None:
    stored = values(0, 999, (3, 8, 6))
    found = read(enhanced(tmp_path / "a.dcm", stored, [4.0, -2.0, 1.0], [(1, 0), (2, -5), (1, -1024)]))
    scaled = [stored[0].astype(int), stored[1].astype(int) * 2 - 5, stored[2].astype(int) - 1024]
    np.testing.assert_array_equal(found.pixels[..., 0], np.stack([scaled[1], scaled[2], scaled[0]]))
    assert (found.pixels.dtype, found.spacing, found.orientation) == (np.int16, (3.0, 0.5, 0.4), "LPS")
    assert found.center == pytest.approx((-(10 + 2.5 * 0.4), -(20 + 3.5 * 0.5), 1.0))


def test_frames_at_one_place_stay_in_the_order_of_the_file(tmp_path: Path) -> None:
    stored = values(0, 999, (3, 8, 6))
    found = read(enhanced(tmp_path / "a.dcm", stored, [1.0, 1.0, 0.0], [(1, 0)] * 3))
    np.testing.assert_array_equal(found.pixels[..., 0], stored)
    assert found.orientation == ""


# --- transfer syntaxes ---


@pytest.mark.parametrize(
    "syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.RLELossless], ids=["implicit", "big", "rle"]
)
@pytest.mark.parametrize("shape", [(12, 10), (4, 12, 10)])
def test_lossless_syntaxes_give_the_same_pixels(tmp_path: Path, syntax: str, shape: tuple[int, ...]) -> None:
    stored = values(0, 65535, shape)
    np.testing.assert_array_equal(read(write_image(tmp_path / "a.dcm", stored, syntax=syntax)).pixels[..., 0], stored)


def compressed(path: Path, frames: list[bytes], syntax: str, stored: np.ndarray, **tags: Any) -> Path:
    """Write already compressed frames; `stored` gives the shape that the header claims."""
    write_image(path, stored, **tags)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    return path


def coded(array: np.ndarray, kind: str = "JPEG", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format=kind, **options)
    return stream.getvalue()


def test_jpeg_and_jpeg_2000_are_read(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.linspace(20, 220, 32).astype(np.uint8)[:, None], (32, 32)).copy()
    lossy = compressed(tmp_path / "a.dcm", [coded(ramp, quality=95)], uid.JPEGBaseline8Bit, ramp)
    assert np.abs(read(lossy).pixels[..., 0].astype(int) - ramp).max() < 6
    frames = [coded(frame, "JPEG2000", no_jp2=True) for frame in (ramp, 255 - ramp)]
    lossless = compressed(tmp_path / "b.dcm", frames, uid.JPEG2000Lossless, np.stack([ramp, ramp]))
    np.testing.assert_array_equal(read(lossless).pixels[..., 0], [ramp, 255 - ramp])


@pytest.mark.parametrize(
    ("syntax", "install"), [(uid.JPEGLosslessSV1, "python-gdcm"), (uid.HTJ2KLossless, "pylibjpeg pylibjpeg-openjpeg")]
)
def test_a_missing_decoder_is_named(tmp_path: Path, syntax: str, install: str) -> None:
    if get_decoder(syntax).is_available:
        pytest.skip("the decoder is installed here")
    path = compressed(tmp_path / "a.dcm", [b"\xff\xd8" * 9], syntax, values(0, 9))
    with pytest.raises(DataError, match=rf"compressed as '{uid.UID(syntax).name[:12]}.*pip install {install}"):
        read(path)


def test_film_codecs_are_refused_by_name(tmp_path: Path) -> None:
    path = compressed(tmp_path / "a.dcm", [b"12345678"], uid.MPEG4HP41, values(0, 9))
    with pytest.raises(DataError, match=r"'MPEG-4 AVC/H.264 High Profile / Level 4.1' are not read; export it"):
        read(path)


def test_every_file_of_pydicoms_own_collection_is_read_as_pydicom_reads_it_or_refused() -> None:
    agreed = refusals = 0
    for path in sorted(Path(pydicom.__file__).parent.glob("data/test_files/*.dcm")):
        try:
            found = read(path)
        except DataError:
            refusals += 1
            continue
        with warnings.catch_warnings(action="ignore"):
            dataset = pydicom.dcmread(path, force=True)
            if dataset.PhotometricInterpretation != "MONOCHROME2":
                continue
            wanted = dataset.pixel_array * float(dataset.get("RescaleSlope", 1)) + dataset.get("RescaleIntercept", 0)
        np.testing.assert_allclose(found.pixels[..., 0], wanted)
        agreed += 1
    assert agreed >= 10
    assert refusals >= 10  # structured reports, plans, damaged ones


# --- refusals ---


def test_a_file_deflated_as_a_whole_is_refused_before_it_expands(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.dcm", np.zeros((8000, 8000), np.uint16))
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    assert path.stat().st_size < 1_000_000
    assert most_memory(lambda: refused(path, "is deflated as a whole.*dcmconv")) < 20_000_000


def refused(path: Path, pattern: str) -> None:
    with pytest.raises(DataError, match=pattern):
        read(path)


def most_memory(work: Callable[[], None]) -> int:
    """Return the bytes that `work` had allocated at most."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("tags", "pattern"),
    [
        ({"Rows": 9000, "Columns": 9000}, "too many pixels"),
        ({"NumberOfFrames": 2_000_000_000}, "too large when decoded"),
        ({"Rows": 8000, "Columns": 8000, "RescaleSlope": 0.5, "RescaleIntercept": 0}, "cannot be decoded.*less than"),
        ({"Rows": 0}, "the image is empty"),
        ({"BitsAllocated": 12}, "allocates 12 bits"),
        ({"Columns": None}, "its element Columns is missing or damaged"),
        ({"PixelData": None}, "holds no image .its kind is 'CT Image Storage'"),
    ],
)
def test_claims_are_checked_before_memory_is_given(tmp_path: Path, tags: dict[str, Any], pattern: str) -> None:
    path = write_image(tmp_path / "a.dcm", values(0, 9), **tags)
    assert most_memory(lambda: refused(path, pattern)) < 20_000_000


def test_compressed_pixels_that_are_not_what_the_header_claims_are_refused(tmp_path: Path) -> None:
    large = np.zeros((8000, 8000), np.uint8)
    hidden = compressed(tmp_path / "a.dcm", [coded(large)], uid.JPEGBaseline8Bit, values(0, 9, dtype="uint8"))
    assert most_memory(lambda: refused(hidden, "claims 10×12 pixels, the compressed image has 8000×8000")) < 20_000_000
    few = compressed(tmp_path / "b.dcm", [coded(large[:8, :8])], uid.JPEGBaseline8Bit, large[:24, :8].reshape(3, 8, 8))
    refused(few, "holds 1 of the 3 frames")
    run = compressed(tmp_path / "c.dcm", [b"\x01\0\0\0\x40\0\0\0" + bytes(56) + b"\x81\0" * 9], uid.RLELossless, large)
    assert most_memory(lambda: refused(run, "cannot hold the 64,000,000")) < 20_000_000


@pytest.mark.parametrize("content", [b"", b"\0" * 500, b"not an image at all" * 9, b"\0" * 128 + b"DICM"])
def test_what_is_no_dicom_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(content)
    refused(path, "not a DICOM file|holds no image")


def test_a_file_without_the_mark_is_read_if_it_begins_as_dicom_does(tmp_path: Path) -> None:
    stored = values(0, 4095)
    path = write_image(tmp_path / "a.ima", stored, preamble=False)
    assert not dicom.matches(path.read_bytes())
    np.testing.assert_array_equal(read(path).pixels[..., 0], stored)


def test_without_pydicom_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_image(tmp_path / "a.dcm", values(0, 9))
    import_any = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.startswith("pydicom"):
            raise ImportError(name)
        return import_any(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    refused(path, r"need pydicom; install it with: pip install 'ganaug\[dicom\]'")


# --- quiet, and robust ---


def test_nothing_is_printed_and_the_filters_are_as_before(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.dcm", values(0, 9), NumberOfFrames=None)
    odd = bytearray(path.read_bytes())
    odd += bytes(6)  # pydicom warns of what follows the pixels
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: dicom.decode(bytes(odd), path), range(40)))
        assert warnings.filters == before
    assert not seen


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return `data` with a few bytes changed, cut, doubled or inserted; all over the header."""
    result = bytearray(data)
    for _ in range(rng.choice([1, 2, 4, 16])):
        at = rng.randrange(128, max(129, len(result)))
        match rng.randrange(4):
            case 0:
                result[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                result[at : at + 4] = rng.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\1\0"])
            case 2:
                del result[at : at + rng.randrange(1, 40)]
            case 3:
                result[at:at] = result[at - 20 : at + rng.randrange(1, 40)]
    return bytes(result)


def seeds(folder: Path) -> list[bytes]:
    """Return a small valid file of each kind."""
    gray, color = values(0, 4095), values(0, 255, (12, 10, 3), "uint8")
    small = np.zeros((16, 16), np.uint8)
    paths = [
        write_image(folder / "ct.dcm", gray, RescaleSlope=1, RescaleIntercept=-1024, PixelSpacing=[1, 1]),
        write_image(folder / "implicit.dcm", gray, syntax=uid.ImplicitVRLittleEndian),
        write_image(folder / "color.dcm", color),
        write_image(folder / "rle.dcm", color, syntax=uid.RLELossless),
        enhanced(folder / "frames.dcm", values(0, 9, (3, 8, 6)), [0.0, 1.0, 2.0], [(1, 0), (2, 0), (1, 1)]),
        compressed(folder / "jpeg.dcm", [coded(small)], uid.JPEGBaseline8Bit, small),
        compressed(folder / "j2k.dcm", [coded(small, "JPEG2000", no_jp2=True)], uid.JPEG2000Lossless, small),
    ]
    return [path.read_bytes() for path in paths]


def survive(folder: Path, seed: int, times: int) -> int:
    """Decode `times` mutated files; return how many were refused."""
    rng = random.Random(seed)
    valid, path, refusals = seeds(folder), folder / "scan.dcm", 0
    for _ in range(times):
        try:
            found = dicom.decode(mutated(rng.choice(valid), rng), path)
        except DataError:
            refusals += 1
            continue
        assert found.pixels.ndim in (3, 4)
        assert found.pixels.dtype.name in ("uint8", "uint16", "int16", "int32", "float32")
    return refusals


def test_mutated_files_give_pixels_or_a_data_error(tmp_path: Path) -> None:
    assert 50 < survive(tmp_path, seed=0, times=300) < 300


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", range(1, 6))
def test_many_mutated_files(tmp_path: Path, seed: int) -> None:
    assert survive(tmp_path, seed, times=1000) < 1000
