import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganaug.data.readers import (
    ImageInfo,
    is_image,
    pillow,
    probe,
    read,
    readers_by_suffix,
    supported_suffixes,
)
from ganaug.errors import DataError
from ganaug.plugins import load_plugin, plugin_names
from tests.data.folders import pixels, save

READERS = [load_plugin("ganaug.data.readers", name) for name in plugin_names("ganaug.data.readers")]


# --- what every reader promises ---


def test_no_two_readers_claim_a_suffix() -> None:
    claimed = [suffix for reader in READERS for suffix in reader.SUFFIXES]
    assert sorted(claimed) == sorted(set(claimed)) == list(supported_suffixes())


@pytest.mark.parametrize("suffix", supported_suffixes())
@pytest.mark.parametrize(
    "content", [b"", b"\0" * 50, b"not an image at all", None], ids=["empty", "zeros", "text", "no"]
)
def test_what_is_no_image_is_a_data_error_that_names_the_file(
    tmp_path: Path, suffix: str, content: bytes | None
) -> None:
    path = tmp_path / f"scan{suffix}"
    if content is not None:
        path.write_bytes(content)
    for function in (probe, read):
        with pytest.raises(DataError) as caught:
            function(path)
        assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("suffix", supported_suffixes())
def test_folders_pipes_and_impossible_names_are_data_errors(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"folder{suffix}").mkdir()
    os.mkfifo(tmp_path / f"pipe{suffix}")
    for name in (f"folder{suffix}", f"pipe{suffix}", f"{'x' * 5000}{suffix}", f"nul\0{suffix}"):
        with pytest.raises(DataError):
            read(tmp_path / name)


def test_the_longest_suffix_wins_and_case_does_not_matter() -> None:
    suffixes = list(readers_by_suffix())
    assert [len(suffix) for suffix in suffixes] == sorted(map(len, suffixes), reverse=True)
    assert is_image("a/SCAN.PNG")
    assert is_image("a.b.JpEg")
    assert not is_image("a/notes.txt")
    assert not is_image("png")


def test_an_unknown_suffix_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\.png"):
        read(tmp_path / "scan.xyz")


# --- Pillow: pixels ---


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF", ".bmp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_files_give_their_pixels(tmp_path: Path, suffix: str, channels: int) -> None:
    array = pixels(0, channels=channels)
    path = save(tmp_path / f"a{suffix}", array)
    np.testing.assert_array_equal(read(path), array.reshape(12, 10, channels))
    assert probe(path) == ImageInfo(12, 10, channels, "uint8")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_keeps_its_depth(tmp_path: Path, suffix: str) -> None:
    array = pixels(0, dtype="uint16")
    path = save(tmp_path / f"a{suffix}", array)
    found = read(path)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found[..., 0], array)
    assert probe(path) == ImageInfo(12, 10, 1, "uint16")


def test_16_bit_tiff_of_the_other_byte_order_and_polarity(tmp_path: Path) -> None:
    array = pixels(0, dtype="uint16")
    Image.frombytes("I;16B", (10, 12), array.astype(">u2").tobytes()).save(tmp_path / "big.tif")
    np.testing.assert_array_equal(read(tmp_path / "big.tif")[..., 0], array)

    data = save(tmp_path / "negative.tif", array).read_bytes()
    photometric = struct.pack("<HHIHH", 262, 3, 1, 1, 0)  # BlackIsZero
    assert data.count(photometric) == 1
    (tmp_path / "negative.tif").write_bytes(data.replace(photometric, struct.pack("<HHIHH", 262, 3, 1, 0, 0)))
    np.testing.assert_array_equal(read(tmp_path / "negative.tif")[..., 0], 65535 - array)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossy_files_are_close(tmp_path: Path, suffix: str, channels: int) -> None:
    ramp = np.linspace(30, 200, 32).astype(np.uint8)
    array = np.broadcast_to(ramp[:, None], (32, 32)).copy()
    if channels == 3:
        array = np.repeat(array[..., None], 3, axis=2)
    found = read(save(tmp_path / f"a{suffix}", array))
    wanted = 3 if suffix == ".webp" else channels  # WebP knows no grey
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
def test_every_mode_becomes_grey_or_rgb(tmp_path: Path, mode: str, suffix: str, channels: int) -> None:
    color = Image.fromarray(np.full((8, 6, 3), (200, 40, 90), np.uint8))
    source = color.convert(mode)
    path = tmp_path / f"a{suffix}"
    source.save(path)
    found = read(path)
    assert found.shape == (8, 6, channels)
    assert found.dtype == np.uint8
    assert probe(path) == ImageInfo(8, 6, channels, "uint8")
    if channels == 3:
        assert np.abs(found.astype(int) - (200, 40, 90)).max() < 60  # the web palette is coarse


@pytest.mark.filterwarnings("error")
def test_a_palette_with_transparency_loses_only_the_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "L").convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "a.png", transparency=b"\x10\x80")
    np.testing.assert_array_equal(read(tmp_path / "a.png")[0], [[10, 20, 30], [40, 50, 60]])


def test_a_bilevel_image_spans_the_full_range(tmp_path: Path) -> None:
    Image.fromarray(np.eye(8, dtype=bool)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png")[..., 0], np.eye(8) * 255)


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_the_header_agrees(tmp_path: Path, suffix: str, orientation: int) -> None:
    upright = np.zeros((16, 32), np.uint8)
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
    found = read(path)
    assert probe(path) == ImageInfo(16, 32, 1, "uint8")
    assert np.abs(found[..., 0].astype(int) - upright).max() < 20


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_exif_block_does_not_cost_the_image(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(np.full((16, 32), 9, np.uint8)).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\x7f garbage")
    assert read(path).shape == (16, 32, 1)


def test_the_content_decides_and_not_the_suffix(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", pixels(0))
    path.rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read(tmp_path / "a.jpg")[..., 0], pixels(0))


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


@pytest.mark.parametrize("suffix", [".tif", ".png", ".webp"])
def test_several_pages_are_refused_with_advice(tmp_path: Path, suffix: str) -> None:
    pages = [Image.fromarray(pixels(seed)) for seed in range(3)]
    pages[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=pages[1:])
    for function in (probe, read):
        with pytest.raises(DataError, match=r"3 pages .* save each page"):
            function(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("array", [np.ones((4, 4), np.int32), np.ones((4, 4), np.float32)], ids=["int32", "float32"])
def test_pixels_deeper_than_16_bit_are_refused_with_advice(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(DataError, match="save the image as 8 or 16 bit"):
        read(save(tmp_path / "a.tif", array))


@pytest.mark.parametrize("side", [9_500, 65_000], ids=["above our cap", "above Pillow's"])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels_are_refused_from_the_header(tmp_path: Path, side: int) -> None:
    assert side**2 > pillow.MAX_PIXELS
    data = bytearray(save(tmp_path / "a.bmp", pixels(0)).read_bytes())
    struct.pack_into("<ii", data, 18, side, side)
    (tmp_path / "a.bmp").write_bytes(data)
    for function in (probe, read):
        with pytest.raises(DataError, match="too many pixels"):
            function(tmp_path / "a.bmp")
