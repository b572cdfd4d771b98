from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganaug.data.manifest import Item, Manifest, scan
from ganaug.data.tensors import choose_size, load_images, resize_image
from ganaug.errors import ConfigError, DataError
from tests.data.folders import make_folder, pixels, save


def sized(*sizes: tuple[int, int]) -> Manifest:
    """Return a manifest that claims images of these sizes; no file is behind it."""
    items = tuple(Item(f"a/{i}.png", 0, str(i), "", h, w, 1, "uint8") for i, (h, w) in enumerate(sizes))
    return Manifest(Path("data"), ("a", "b"), items)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("resize", ["stretch", "crop"])
def test_images_of_the_wanted_size_keep_their_pixels(tmp_path: Path, dtype: str, resize: str) -> None:
    manifest = scan(make_folder(tmp_path, {"a": 2, "b": 3}, dtype=dtype))
    images = load_images(manifest, size=(12, 10), channels=1, resize=resize)
    assert (images.shape, images.dtype) == ((5, 1, 12, 10), np.dtype(dtype))
    for seed, image in enumerate(images, start=1):
        np.testing.assert_array_equal(image[0], pixels(seed, dtype=dtype))


def test_color_planes_come_first_in_rgb_order(tmp_path: Path) -> None:
    manifest = scan(make_folder(tmp_path, {"a": 1, "b": 1}, channels=3))
    images = load_images(manifest, size=(12, 10), channels=3)
    np.testing.assert_array_equal(images[0], pixels(1, channels=3).transpose(2, 0, 1))


def test_grey_and_color_meet_in_the_chosen_channels(tmp_path: Path) -> None:
    save(tmp_path / "a" / "grey.png", pixels(1))
    save(tmp_path / "b" / "red.png", np.full((12, 10, 3), (255, 0, 0), np.uint8))
    manifest = scan(tmp_path)
    color = load_images(manifest, size=(12, 10), channels=3)
    for plane in color[0]:
        np.testing.assert_array_equal(plane, pixels(1))
    np.testing.assert_array_equal(color[1, :, 0, 0], [255, 0, 0])
    grey = load_images(manifest, size=(12, 10), channels=1)
    np.testing.assert_array_equal(grey[0, 0], pixels(1))
    assert (grey[1] == 76).all()  # 0.299 × 255


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


def test_stretch_takes_the_whole_image_and_crop_its_middle() -> None:
    image = np.zeros((16, 48, 1), np.uint8)
    image[:, 16:32] = 200
    assert resize_image(image, (8, 8), crop=True)[:, 1:-1].min() >= 195
    stretched = resize_image(image, (8, 8))
    assert stretched[:, 0].max() < 20
    assert stretched[:, 4].min() > 180
    tall = image.transpose(1, 0, 2)
    assert resize_image(tall, (8, 8), crop=True)[1:-1].min() >= 195


def test_enlarging_works(tmp_path: Path) -> None:
    manifest = scan(make_folder(tmp_path, {"a": 1, "b": 1}, channels=3))
    images = load_images(manifest, size=(30, 20), channels=3, resize="crop")
    assert images.shape == (2, 3, 30, 20)
    assert abs(images[0].mean() - pixels(1, channels=3).mean()) < 12


def test_a_file_that_changed_since_the_scan_is_named(tmp_path: Path) -> None:
    manifest = scan(make_folder(tmp_path, {"a": 2, "b": 2}))
    save(tmp_path / "b" / "001.png", pixels(0, channels=3))
    with pytest.raises(DataError, match=r"b/001\.png: changed since"):
        load_images(manifest, size=(12, 10), channels=1)
    (tmp_path / "b" / "001.png").unlink()
    with pytest.raises(DataError, match=r"b/001\.png: the file does not exist"):
        load_images(manifest, size=(12, 10), channels=1)


def test_mixed_bit_depths_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 2, "b": 2})
    Image.fromarray(pixels(0, dtype="uint16")).save(tmp_path / "a" / "deep.png")
    with pytest.raises(DataError, match="Bit depths are mixed"):
        load_images(scan(tmp_path), size=(12, 10), channels=1)


def test_more_than_the_memory_holds_is_an_error_that_says_so() -> None:
    manifest = sized(*[(8, 8)] * 1000)
    with pytest.raises(DataError, match=r"do not fit into memory.*smaller"):
        load_images(manifest, size=(10**7, 10**7), channels=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (0, 8)}, "0x8"),
        ({"channels": 2}, "2 channels"),
        ({"resize": "squash"}, "stretch, crop"),
    ],
)
def test_settings_out_of_range_are_config_errors(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_images(sized((8, 8)), **{"size": (8, 8), "channels": 1, **settings})  # type: ignore[arg-type]


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
    ],
)
def test_the_proposed_size(
    sizes: list[tuple[int, int]], largest: int, multiple: int, wanted: tuple[int, int], words: str
) -> None:
    size, reason = choose_size(sized(*sizes), largest=largest, multiple=multiple)
    assert size == wanted
    assert words in reason


def test_no_size_without_images_or_below_the_smallest() -> None:
    with pytest.raises(DataError, match="no readable image"):
        choose_size(replace(sized((8, 8)), items=()), largest=64)
    with pytest.raises(ConfigError, match="at least 8"):
        choose_size(sized((8, 8)), largest=4)
