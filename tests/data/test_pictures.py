from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ganaug.data.manifest import Item
from ganaug.data.pictures import GAP, MOST_ROWS, inspect_picture, picture_grid, save_picture
from tests.data.items import make_item, make_manifest

BLACK, GRAY, WHITE = [0, 0, 0], [128, 128, 128], [255, 255, 255]


def cells(rows: list[np.ndarray], **options: bool) -> np.ndarray:
    return np.asarray(picture_grid(rows, cell=64, **options))


def test_a_volume_is_shown_by_its_central_axial_slice() -> None:
    volume = np.random.default_rng(0).uniform(-1, 1, (2, 1, 6, 16, 12)).astype(np.float32)
    assert np.array_equal(cells([volume]), cells([volume[:, :, 3]]))


def test_three_planes_stand_side_by_side_with_superior_on_top() -> None:
    volume = np.zeros((1, 1, 8, 16, 12), np.float32)
    volume[:, :, 6:] = 1  # toward superior
    volume[:, :, :2] = -1
    shown = cells([volume], planes=True)
    # Axial 12 wide, coronal 12, sagittal 16; each 16 high, and enlarged to 40 × 2 pixels.
    factor = 64 // 40 + 1
    assert shown.shape[:2] == (16 * factor + 2 * GAP, 40 * factor + 2 * GAP)
    for column, top, bottom in ((6, GRAY, GRAY), (18, WHITE, BLACK), (32, WHITE, BLACK)):
        x = GAP + column * factor
        assert shown[GAP + (8 * factor if column > 12 else 0) + 1, x].tolist() == top
        assert shown[-GAP - 2, x].tolist() == bottom


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_of_odd_numbers_of_channels_the_first_is_drawn(channels: int) -> None:
    images = np.random.default_rng(0).uniform(-1, 1, (3, channels, 16, 16)).astype(np.float32)
    assert np.array_equal(cells([images]), cells([images[:, :1]]))
    shown = cells([images])
    assert (shown[..., 0] == shown[..., 1]).all()


def decoder(images: dict[str, np.ndarray]) -> Callable[[Item], np.ndarray]:
    return lambda item: images[item.path]


def square(value: int, height: int = 20, width: int = 20, dtype: str = "uint8") -> np.ndarray:
    return np.full((height, width, 1), value, dtype)


def test_each_class_has_a_row_of_evenly_spaced_images_and_a_histogram() -> None:
    items = [make_item(f"a/{index:02d}", shape=(20, 20)) for index in range(21)]
    items += [make_item("b/0", label=1, shape=(20, 20))]
    asked: list[str] = []

    def decode(item: Item) -> np.ndarray:
        asked.append(item.path)
        return square(10 * int(item.path[2:]))

    picture = inspect_picture(make_manifest(*items), decode, columns=5, cell=64)
    assert asked == ["a/00", "a/05", "a/10", "a/15", "a/20", "b/0"]
    pixels = np.asarray(picture)
    step = 64 + GAP
    left = picture.width - 6 * step - 6 * GAP
    middle = [GAP + 32, GAP + step + 32]
    assert [pixels[middle[0], left + 32 + column * step, 0] for column in range(5)] == [0, 50, 100, 150, 200]
    assert pixels[middle[1], left + 32].tolist() == BLACK
    assert pixels[middle[1], left + 32 + step].tolist() == WHITE, "the class has one image"
    histogram = pixels[GAP + 60, left + 5 * step + 4 * GAP :, 0]
    bars = np.flatnonzero(histogram[:64] < 100)
    assert bars.tolist() == [value * 64 // 255 for value in (0, 50, 100, 150, 200)]


def test_images_keep_their_proportions_in_mm() -> None:
    def drawn(height: int, width: int, **fields: object) -> tuple[int, int]:
        item = make_item("a/1", shape=(height, width), **fields)
        pixels = np.asarray(
            inspect_picture(make_manifest(item), decoder({"a/1": square(0, height, width)}), columns=1, cell=64)
        )
        left = pixels.shape[1] - 2 * (64 + GAP) - 6 * GAP
        black = pixels[GAP : GAP + 64, left : left + 64, 0] == 0
        return int(black.any(axis=1).sum()), int(black.any(axis=0).sum())

    assert drawn(20, 20) == (64, 64)
    assert drawn(10, 40) == (16, 64)
    assert drawn(300, 150) == (64, 32)
    assert drawn(10, 40, spacing=(4.0, 1.0)) == (64, 64)
    assert drawn(20, 20, spacing=(9.0, 0.5, 1.0)) == (32, 64)
    assert drawn(1, 1000) == (1, 64)


def test_values_beyond_8_bit_are_seen_through_the_window_of_their_file() -> None:
    fields = {"dtype": "int16", "minimum": -2000.0, "low": -1000.0, "high": 1000.0, "maximum": 9000.0, "shape": (8, 8)}
    images = {f"a/{index}": square(value, 8, 8, "int16") for index, value in enumerate((-1500, -1000, 0, 1000, 9000))}
    flat = make_item("b/flat", label=1, **{**fields, "minimum": 7.0, "low": 7.0, "high": 7.0, "maximum": 7.0})
    picture = inspect_picture(
        make_manifest(*(make_item(path, **fields) for path in images), flat),
        decoder({**images, "b/flat": square(7, 8, 8, "int16")}),
        columns=5,
        cell=64,
    )
    left = picture.width - 6 * (64 + GAP) - 6 * GAP
    pixels = np.asarray(picture)
    assert [pixels[30, left + 30 + column * (64 + GAP), 0] for column in range(5)] == [0, 0, 128, 255, 255]
    assert pixels[30 + 64 + GAP, left + 30, 0] == 128


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((9, 8, 3), np.uint8),
        np.zeros((9, 8, 2), np.uint8),
        np.zeros((5, 9, 8, 1), np.uint8),
        np.zeros((1, 9, 8, 3), np.uint8),
        np.zeros((3000, 2000, 1), np.uint8),
    ],
    ids=["color", "two channels", "volume", "color volume", "large"],
)
def test_every_kind_of_image_is_drawn(pixels: np.ndarray) -> None:
    item = make_item("a/1", shape=pixels.shape[:-1], channels=pixels.shape[-1])
    picture = inspect_picture(make_manifest(item), decoder({"a/1": pixels}), columns=1, cell=64)
    assert np.asarray(picture)[GAP + 32, -64 - 40 - 6 * GAP].tolist() == BLACK


def test_many_classes_and_odd_names_are_drawn_too(tmp_path: Path) -> None:
    names = ("\x1b[31m\n", "名", "x" * 300, *(f"c{index}" for index in range(60)))
    picture = inspect_picture(make_manifest(classes=names), decoder({}), columns=2, cell=32)
    assert picture.width < 500
    assert picture.height < (MOST_ROWS + 1) * (32 + GAP)
    save_picture(picture, tmp_path / "new" / "picture.png")
    assert (tmp_path / "new" / "picture.png").stat().st_size > 0
