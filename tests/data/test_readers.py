import gzip
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganaug.data import readers
from ganaug.data.readers import (
    DTYPES,
    Decoded,
    all_readers,
    as_stored,
    check_size,
    decode,
    is_image,
    pillow,
    read,
    read_bytes,
    suffix_of,
    supported_suffixes,
)
from ganaug.data.tree import walk
from ganaug.errors import DataError
from tests.data.folders import pixels, save

tifffile = pytest.importorskip("tifffile")  # comes with scikit-image

DICOM_HEAD = bytes(128) + b"DICM" + b"\x02\0\0\0UL\x04\0\0\0\0\0"


def array_file(path: Path, array: np.ndarray) -> Path:
    """Write an array as .npy under any name."""
    with path.open("wb") as stream:
        np.save(stream, array)
    return path


def png(color_type: int, depth: int, samples: np.ndarray) -> bytes:
    """Return a PNG that Pillow cannot write, of H×W×C samples."""
    height, width = samples.shape[:2]
    lines = b"".join(b"\0" + line.astype(">u2" if depth == 16 else "u1").tobytes() for line in samples)
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0),
        b"IDAT": zlib.compress(lines),
        b"IEND": b"",
    }
    framed = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


# --- what every reader promises ---


def test_no_two_readers_claim_a_suffix() -> None:
    claimed = [suffix for reader in all_readers() for suffix in reader.SUFFIXES]
    assert sorted(claimed) == sorted(set(claimed)) == list(supported_suffixes())
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in claimed)


@pytest.mark.parametrize("reader", all_readers(), ids=lambda reader: reader.__name__.rpartition(".")[2])
@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 50, b"not an image at all", b"\x1f\x8b\x08\0broken", gzip.compress(b"a text")],
    ids=["empty", "zeros", "text", "broken gzip", "packed text"],
)
def test_what_is_no_image_is_a_data_error_that_names_the_file(reader: readers.Reader, content: bytes) -> None:
    assert not reader.matches(content[: readers.HEAD_BYTES])
    with pytest.raises(DataError, match=r"^some/scan: .+"):
        reader.decode(content, Path("some/scan"))


@pytest.mark.parametrize("suffix", supported_suffixes())
def test_what_cannot_be_opened_is_a_data_error(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"folder{suffix}").mkdir()
    os.mkfifo(tmp_path / f"pipe{suffix}")
    for name in ("folder", "pipe", "absent", "x" * 5000, "nul\0"):
        path = tmp_path / f"{name}{suffix}"
        with pytest.raises(DataError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")


# --- which reader ---


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("SCAN.PNG", ".png"),
        ("a.b.JpEg", ".jpeg"),
        ("t1.nii.gz", ".nii.gz"),
        ("sub-01.T1w.NII", ".nii"),
        ("notes.txt", ""),
        ("archive.gz", ""),
        ("png", ""),
        ("a.png.bak", ""),
    ],
)
def test_the_longest_suffix_wins_and_case_does_not_matter(name: str, suffix: str) -> None:
    assert suffix_of(name) == suffix
    assert is_image(Path(name)) == bool(suffix)


@pytest.mark.parametrize("name", ["IM_0001", "00000012", "I.17", "1.2.840.113619.2.55.3"])
def test_a_file_without_a_suffix_is_an_image_if_it_holds_dicom(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert not is_image(path)
    path.write_bytes(b"no such thing")
    assert not is_image(path)
    path.write_bytes(DICOM_HEAD)
    assert is_image(path)


def test_only_files_of_dicom_may_lack_a_suffix_and_pipes_are_not_waited_for(tmp_path: Path) -> None:
    save(tmp_path / "a.png", pixels(0)).rename(tmp_path / "plain")
    (tmp_path / "notes.txt").write_bytes(DICOM_HEAD)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert not any(is_image(tmp_path / name) for name in ("plain", "notes.txt", "folder", "pipe"))


def test_the_index_of_a_dicom_disk_is_no_file_of_the_data(tmp_path: Path) -> None:
    for name in ("DICOMDIR", "IM_0001"):
        (tmp_path / name).write_bytes(DICOM_HEAD)
    assert walk(tmp_path).files == ("IM_0001",)


def test_an_unknown_kind_of_file_lists_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "scan.xyz").write_bytes(b"something")
    with pytest.raises(DataError, match=r"\.nii\.gz.*\.png"):
        read(tmp_path / "scan.xyz")


@pytest.mark.parametrize(
    ("named", "holds"), [(".jpg", "PNG"), (".npy", "PNG"), (".nii.gz", "NumPy"), (".png", "NumPy"), (".tif", "BMP")]
)
def test_the_content_decides_and_a_suffix_that_lies_is_a_hint(tmp_path: Path, named: str, holds: str) -> None:
    path = tmp_path / f"a{named}"
    if holds == "NumPy":
        array_file(path, pixels(0))
    else:
        Image.fromarray(pixels(0)).save(path, format=holds)
    found = read(path)
    np.testing.assert_array_equal(found.pixels[..., 0], pixels(0))
    assert found.format == holds
    assert found.hints == (f"suffix_lies: named {named}, holds {holds}",)


@pytest.mark.parametrize("name", ["a.jpeg", "a.JPG", "a.tiff", "a.dib"])
def test_other_spellings_of_a_suffix_are_no_lies(tmp_path: Path, name: str) -> None:
    assert read(save(tmp_path / name, pixels(0))).hints == ()


def test_an_image_is_read_without_the_libraries_of_other_formats(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", pixels(0))
    code = (
        "import sys; from pathlib import Path; from ganaug.data.readers import read; read(Path(sys.argv[1])); "
        "print(' '.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True, timeout=60)
    assert not {"nibabel", "pydicom", "scipy", "skimage", "monai", "torch"} & set(done.stdout.split())


# --- limits and types ---


def test_a_file_above_the_cap_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    path.touch()
    os.truncate(path, readers.MAX_FILE_BYTES + 1)  # takes no room on the disk
    with pytest.raises(DataError, match="at most 2 GiB"):
        read_bytes(path)


@pytest.mark.parametrize(
    ("shape", "dtype", "problem"),
    [
        ((0, 4, 1), "uint8", "empty"),
        ((-3, 4, 4, 1), "uint8", "empty"),
        ((8_001, 10_000, 1), "uint8", "too many pixels"),
        ((2**31, 1, 1, 1), "int16", "too large"),
        ((2**62, 2**62, 2**62, 1), "uint8", "too large"),
    ],
)
def test_sizes_out_of_bounds_are_data_errors(shape: tuple[int, ...], dtype: str, problem: str) -> None:
    with pytest.raises(DataError, match=rf"^a\.nii: .*{problem}"):
        check_size(Path("a.nii"), shape, dtype)


def test_sizes_at_the_bounds_pass() -> None:
    check_size(Path("a"), (8_000, 10_000, 3), "uint8")
    check_size(Path("a"), (1024, 1024, 1024, 1), "int16")


@pytest.mark.parametrize(
    ("given", "values", "wanted"),
    [
        ("bool", [0, 1], "uint8"),
        ("int8", [-128, 127], "int16"),
        (">u2", [0, 65535], "uint16"),
        (">f4", [-1.5, 2.25], "float32"),
        ("uint32", [0, 2**31 - 1], "int32"),
        ("uint32", [0, 2**31], "float32"),
        ("int64", [-(2**31), 5], "int32"),
        ("uint64", [0, 2**40], "float32"),
        ("float16", [-1.5, 2.25], "float32"),
        ("float64", [-1.5, 2.25], "float32"),
        *[(name, [0, 7], name) for name in DTYPES],
    ],
)
def test_every_type_becomes_one_of_the_stored_ones(given: str, values: list[float], wanted: str) -> None:
    found = as_stored(np.array(values, given), Path("a"))
    assert found.dtype == np.dtype(wanted)
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (np.array([1, np.nan, np.inf, 4], np.float32), "2 of 4 values are not finite"),
        (np.array([1, 1e300]), "1 of 2 values are not finite"),
        (np.array([1j]), "no gray values"),
        (np.array(["a"]), "no gray values"),
    ],
)
def test_values_that_are_no_gray_levels_are_data_errors(values: np.ndarray, problem: str) -> None:
    with pytest.raises(DataError, match=rf"^a: .*{problem}"):
        as_stored(values, Path("a"))


# --- Pillow: pixels ---


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF", ".bmp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_files_give_their_pixels(tmp_path: Path, suffix: str, channels: int) -> None:
    array = pixels(0, channels=channels)
    found = read(save(tmp_path / f"a{suffix}", array))
    np.testing.assert_array_equal(found.pixels, array.reshape(12, 10, channels))
    assert found.pixels.dtype == np.uint8
    assert found.pixels.flags.writeable
    assert found.format == {".png": "PNG", ".bmp": "BMP"}.get(suffix, "TIFF")
    assert found.mode == ("L" if channels == 1 else "RGB")
    assert (found.spacing, found.orientation, found.center, found.group, found.hints) == (None, "", None, "", ())


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_gray_keeps_its_depth(tmp_path: Path, suffix: str) -> None:
    array = pixels(0, dtype="uint16")
    found = read(save(tmp_path / f"a{suffix}", array))
    assert found.pixels.dtype == np.uint16
    assert found.mode == "I;16"
    np.testing.assert_array_equal(found.pixels[..., 0], array)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossy_files_are_close(tmp_path: Path, suffix: str, channels: int) -> None:
    ramp = np.linspace(30, 200, 32).astype(np.uint8)
    array = np.broadcast_to(ramp[:, None], (32, 32)).copy()
    if channels == 3:
        array = np.repeat(array[..., None], 3, axis=2)
    found = read(save(tmp_path / f"a{suffix}", array)).pixels
    wanted = 3 if suffix == ".webp" else channels  # WebP knows no gray
    assert found.shape == (32, 32, wanted)
    assert np.abs(found.astype(int) - ramp[:, None, None]).max() < 12


@pytest.mark.parametrize(
    ("mode", "suffix", "channels"),
    [
        ("1", ".png", 1),
        ("LA", ".png", 1),
        ("P", ".png", 3),
        ("RGBA", ".png", 3),
        ("RGBA", ".tif", 3),
        ("CMYK", ".jpg", 3),
        ("CMYK", ".tif", 3),
        ("YCbCr", ".tif", 3),
    ],
)
def test_every_mode_becomes_gray_or_rgb(tmp_path: Path, mode: str, suffix: str, channels: int) -> None:
    color = Image.fromarray(np.full((8, 6, 3), (200, 40, 90), np.uint8))
    path = tmp_path / f"a{suffix}"
    color.convert(mode).save(path)
    found = read(path).pixels
    assert found.shape == (8, 6, channels)
    assert found.dtype == np.uint8
    if channels == 3:
        assert np.abs(found.astype(int) - (200, 40, 90)).max() < 60  # the web palette is coarse


@pytest.mark.filterwarnings("error")
def test_a_palette_with_transparency_loses_only_the_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "L").convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "a.png", transparency=b"\x10\x80")
    np.testing.assert_array_equal(read(tmp_path / "a.png").pixels[0], [[10, 20, 30], [40, 50, 60]])


def test_a_bilevel_image_spans_the_full_range(tmp_path: Path) -> None:
    Image.fromarray(np.eye(8, dtype=bool)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png").pixels[..., 0], np.eye(8) * 255)


@pytest.mark.parametrize(
    ("color_type", "samples", "channels", "mode"), [(2, 3, 3, "RGB;16B"), (6, 4, 3, "RGBA;16B"), (4, 2, 1, "LA;16B")]
)
def test_16_bit_color_is_read_as_8_bit_and_says_so(color_type: int, samples: int, channels: int, mode: str) -> None:
    array = pixels(0, channels=samples, dtype="uint16")
    found = decode(png(color_type, 16, array), Path("a.png"))
    assert found.hints == ("reduced_depth: 16-bit color read as 8 bit",)
    assert found.mode == mode
    np.testing.assert_array_equal(found.pixels, array[..., :channels] >> 8)


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(16, 32), (32, 16)])
def test_orientation_is_applied(tmp_path: Path, suffix: str, orientation: int, size: tuple[int, int]) -> None:
    upright = np.zeros(size, np.uint8)
    upright[:8, :8] = 255  # a bright corner at the top left
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    image = Image.fromarray(np.ascontiguousarray(stored))
    exif = image.getexif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    image.save(path, exif=exif)
    found = read(path).pixels
    assert found.shape == (*size, 1)
    assert np.abs(found[..., 0].astype(int) - upright).max() < 20


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_exif_block_does_not_cost_the_image(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(np.full((16, 32), 9, np.uint8)).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\x7f garbage")
    assert read(path).pixels.shape == (16, 32, 1)


def test_a_thumbnail_behind_a_photo_is_passed_over(tmp_path: Path) -> None:
    photo, thumbnail = (Image.new("L", size, 9) for size in ((32, 16), (8, 4)))
    photo.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[thumbnail])
    found = read(tmp_path / "a.jpg")
    assert found.pixels.shape == (16, 32, 1)
    assert found.format == "JPEG"


# --- Pillow: the many kinds of TIFF ---


def tiff(array: np.ndarray, **options: object) -> Decoded:
    """Write an array with tifffile and decode it."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)
    return decode(stream.getvalue(), Path("a.tif"))


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        ("int8", "int16"),
        ("uint16", "uint16"),
        ("int16", "int16"),
        ("int32", "int32"),
        ("uint32", "int32"),
        ("float32", "float32"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"compression": "deflate"}, {"bigtiff": True}], ids=str)
def test_deep_gray_keeps_its_values_and_type(stored: str, wanted: str, options: dict[str, object]) -> None:
    rng = np.random.default_rng(0)
    array = (
        rng.normal(size=(12, 10)).astype(stored)
        if stored == "float32"
        else rng.integers(np.iinfo(stored).min, min(np.iinfo(stored).max, 2**31 - 1), (12, 10), dtype=stored)
    )
    found = tiff(array, **options).pixels
    assert found.dtype == np.dtype(wanted)
    np.testing.assert_array_equal(found[..., 0], array)


@pytest.mark.parametrize("stored", ["uint16", "int16", "int32", "float32"])
def test_the_other_byte_order_is_read(stored: str) -> None:
    array = pixels(0, dtype="uint16").astype(stored)
    found = tiff(array, byteorder=">").pixels
    assert found.dtype == np.dtype(stored)
    np.testing.assert_array_equal(found[..., 0], array)


def test_uint32_that_no_integer_type_holds_becomes_real() -> None:
    found = tiff(np.array([[0, 2**32 - 1]], np.uint32)).pixels
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[0, :, 0], np.array([0, 2**32 - 1], np.float32))


def test_negatives_are_turned() -> None:
    for dtype, white in (("uint8", 255), ("uint16", 65535)):
        array = pixels(0, dtype=dtype)
        np.testing.assert_array_equal(tiff(array, photometric="miniswhite").pixels[..., 0], white - array)


def test_planes_of_8_bit_are_read() -> None:
    array = pixels(0, channels=3)
    found = tiff(np.moveaxis(array, -1, 0).copy(), photometric="rgb", planarconfig="separate").pixels
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("array", "options"),
    [
        (pixels(0, 3, 12, 10, "uint16"), {"photometric": "rgb", "planarconfig": "separate"}),
        (pixels(0, dtype="uint16").astype(np.int16), {"byteorder": ">", "compression": "deflate"}),
        (pixels(0, dtype="uint16").astype(np.int32), {"byteorder": ">", "compression": "deflate"}),
        (pixels(0, dtype="uint16").astype(np.float32), {"byteorder": ">", "compression": "deflate"}),
    ],
    ids=["16 bit planes", "int16", "int32", "float32"],
)
def test_what_pillow_would_garble_is_refused_with_advice(array: np.ndarray, options: dict[str, object]) -> None:
    with pytest.raises(DataError, match="save the TIFF little-endian"):
        tiff(array, **options)


def test_what_pillow_cannot_read_is_refused_with_advice() -> None:
    with pytest.raises(DataError, match="save it as 8 or 16 bit gray"):
        tiff(np.ones((4, 4)))  # float64


@pytest.mark.parametrize(
    ("channels", "dtype"), [(1, "uint8"), (3, "uint8"), (1, "uint16"), (1, "int16"), (1, "float32")]
)
def test_pages_are_a_volume_in_their_order(channels: int, dtype: str) -> None:
    array = np.stack([pixels(seed, channels=channels, dtype="uint8").astype(dtype) for seed in range(5)])
    found = tiff(array, photometric="rgb" if channels == 3 else "minisblack")
    assert found.pixels.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found.pixels, array.reshape(5, 12, 10, channels))
    assert found.orientation == ""


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", None])
def test_compressed_pages_are_a_volume_too(tmp_path: Path, compression: str | None) -> None:
    pages = [Image.fromarray(pixels(seed)) for seed in range(3)]
    path = tmp_path / "a.tif"
    pages[0].save(path, save_all=True, append_images=pages[1:], compression=compression)
    np.testing.assert_array_equal(read(path).pixels[..., 0], np.stack([np.array(page) for page in pages]))


@pytest.mark.parametrize(
    ("second", "named"),
    [
        (pixels(1, 7, 10), "10×12 L uint8, 10×7 L uint8"),
        (pixels(1, channels=3), "10×12 L uint8, 10×12 RGB uint8"),
        (pixels(1, dtype="uint16"), "10×12 L uint8, 10×12 I;16 uint16"),
    ],
)
def test_pages_that_are_not_alike_are_refused_and_named(tmp_path: Path, second: np.ndarray, named: str) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(pixels(0)).save(path, save_all=True, append_images=[Image.fromarray(second)])
    with pytest.raises(DataError, match=named) as caught:
        read(path)
    assert "save each page as a file of its own" in str(caught.value)


# --- Pillow: refusals ---


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp", ".webp"])
def test_a_truncated_file_is_a_data_error(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", pixels(0, 64, 64, 3))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(DataError):
        read(path)


def test_a_format_outside_the_list_is_refused_whatever_its_name(tmp_path: Path) -> None:
    Image.fromarray(pixels(0)).save(tmp_path / "a.png", format="GIF")
    with pytest.raises(DataError, match="not a PNG"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_animations_are_refused_with_advice(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(pixels(seed)) for seed in range(3)]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=r"3 frames.* save each frame"):
        read(tmp_path / f"a{suffix}")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", [9_500, 65_000], ids=["above our cap", "above Pillow's"])
@pytest.mark.parametrize("suffix", [".bmp", ".png", ".tif", ".jpg"])
def test_too_many_pixels_are_refused_from_the_header(tmp_path: Path, suffix: str, side: int) -> None:
    assert side**2 > readers.MAX_PIXELS
    data = bytearray(save(tmp_path / f"a{suffix}", pixels(0)).read_bytes())
    match suffix:
        case ".bmp":
            struct.pack_into("<ii", data, 18, side, side)
        case ".png":
            struct.pack_into(">II", data, 16, side, side)
            struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
        case ".tif":
            for tag in (256, 257):
                at = data.index(struct.pack("<HHI", tag, 4, 1))
                struct.pack_into("<I", data, at + 8, side)
        case ".jpg":
            struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, side, side)
    with pytest.raises(DataError, match="too many pixels"):
        decode(bytes(data), tmp_path / f"a{suffix}")


def test_a_jpeg_that_claims_more_than_it_can_hold_is_not_filled_up_with_gray(tmp_path: Path) -> None:
    data = bytearray(save(tmp_path / "a.jpg", pixels(0)).read_bytes())
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, 8_000, 8_000)
    with pytest.raises(DataError, match="cut off or blank"):
        decode(bytes(data), Path("a.jpg"))


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_a_tiff_that_claims_more_rows_than_it_has_is_not_filled_up_with_black(compression: str | None) -> None:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels(0), compression=compression, metadata=None)
    data = bytearray(stream.getvalue())
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        at = file.pages[0].tags["ImageLength"].valueoffset
    struct.pack_into("<I", data, at, 900)
    with pytest.raises(DataError):
        decode(bytes(data), Path("a.tif"))


@pytest.mark.parametrize(("mode", "dtype"), [("L", "uint8"), ("RGB", "uint8"), ("P", "uint8"), ("I;16", "uint16")])
def test_a_large_image_read_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch, mode: str, dtype: str) -> None:
    deep = dtype == "uint16"
    image = Image.fromarray(pixels(0, 50, 7, 1 if deep else 3, dtype))
    stream = io.BytesIO()
    (image if deep else image.convert(mode)).save(stream, "PNG")
    whole = decode(stream.getvalue(), Path("a.png")).pixels
    for most in (100, 5):
        monkeypatch.setattr(pillow, "_ANY_PIXELS", most)
        np.testing.assert_array_equal(decode(stream.getvalue(), Path("a.png")).pixels, whole)


# --- NumPy ---


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((12, 10), (12, 10, 1)),
        ((12, 10, 1), (12, 10, 1)),
        ((12, 10, 3), (12, 10, 3)),
        ((12, 10, 4), (12, 10, 3)),
        ((12, 10, 2), (12, 10, 2, 1)),
        ((3, 12, 10), (3, 12, 10, 1)),
        ((3, 12, 3), (3, 12, 3, 1)),
        ((5, 12, 10, 2), (5, 12, 10, 2)),
        ((5, 12, 10, 16), (5, 12, 10, 16)),
    ],
    ids=str,
)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["uint8", ">i2", "float64"])
def test_the_shape_of_an_array_tells_what_it_is(
    tmp_path: Path, shape: tuple[int, ...], wanted: tuple[int, ...], order: str, dtype: str
) -> None:
    array = np.asarray(np.random.default_rng(0).integers(0, 200, shape), dtype, order=order)
    found = read(array_file(tmp_path / "a.npy", array))
    assert found.format == "NumPy"
    assert found.mode == np.dtype(dtype).name
    assert found.pixels.flags.c_contiguous
    assert found.pixels.flags.writeable
    channels = wanted[-1] if len(shape) == len(wanted) else 1
    np.testing.assert_array_equal(found.pixels, array.reshape(*wanted[:-1], -1)[..., :channels])
    assert found.pixels.shape == wanted


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (np.zeros(5), "1 axes"),
        (np.zeros((2, 2, 2, 2, 2)), "5 axes"),
        (np.zeros((4, 4, 4, 17)), "17 channels"),
        (np.zeros((0, 4)), "empty"),
        (np.zeros((4, 4), complex), "complex128"),
        (np.zeros((4, 4), "U3"), "<U3"),
        (np.zeros((4, 4), [("x", "f4")]), "'x'"),
        (np.array([[{}]]), "object"),
    ],
)
def test_arrays_that_are_no_images_are_refused(tmp_path: Path, array: np.ndarray, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        read(array_file(tmp_path / "a.npy", array))


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("{'descr': '<u2', 'fortran_order': False, 'shape': (60000, 60000)}", "too many pixels"),
        ("{'descr': '<u2', 'fortran_order': False, 'shape': (60000, 60000, 60000)}", "too large"),
        ("{'descr': '<u2', 'fortran_order': False, 'shape': (100, 100)}", "cut off, 8 bytes"),
        ("{'descr': '<u2', 'fortran_order': False, 'shape': (-1, 4)}", "empty"),
        ("{'descr': '<u2', 'fortran_order': False}", "header is damaged"),
        ("(" * 9000, "header is damaged"),
        ("{'descr': '<u2', 'shape': (1, 1)}" + " " * 20_000, "header is damaged"),
    ],
    ids=["pixels", "bytes", "short", "negative", "no shape", "nested", "long"],
)
def test_claims_of_an_array_header_are_checked_first(header: str, problem: str) -> None:
    raw = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(8)
    with pytest.raises(DataError, match=problem):
        decode(raw, Path("a.npy"))
