"""Pictures of what a generator makes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganaug.data import scan
from ganaug.data.pictures import GAP, picture_grid, save_picture
from ganaug.data.readers import read
from ganaug.errors import ConfigError, ModelFileError
from ganaug.models.latents import latents_for
from ganaug.sampling.preview import preview, real_rows, slerp
from ganaug.sampling.sampler import Sampler
from tests.tiny import write_shapes

SCALE = 4  # 16 pixels are enlarged to a cell of 64


def _cell(picture: Image.Image, row: int, column: int, *, rows: int, columns: int, gap: int = 0) -> np.ndarray:
    """Return the pixels of a cell at their own size, counted from the picture's lower right corner."""
    side = 16 * SCALE
    right = picture.width - GAP - (columns - 1 - column) * (side + GAP) - gap
    bottom = picture.height - GAP - (rows - 1 - row) * (side + GAP)
    pixels = np.asarray(picture)[bottom - side : bottom, right - side : right]
    small = pixels[::SCALE, ::SCALE]
    assert np.array_equal(small.repeat(SCALE, 0).repeat(SCALE, 1), pixels), "a cell holds one enlarged image"
    assert (small == small[..., :1]).all(), "gray stays gray"
    return small[..., 0]


def _shown(gan: Sampler, label: int, index: int, seed: int = 0) -> np.ndarray:
    return gan.stored(gan.sample([label], indices=[index], seed=seed))[0, 0].numpy()


def test_a_row_for_each_class_and_a_column_for_each_index(gan: Sampler) -> None:
    picture = preview(gan, columns=4, seed=5)
    for row in range(3):
        for column in range(4):
            found = _cell(picture, row, column, rows=3, columns=4)
            assert np.abs(found.astype(int) - _shown(gan, row, column, seed=5)).max() <= 1


def test_only_the_classes_asked_for_in_the_order_asked_for(gan: Sampler) -> None:
    picture = preview(gan, columns=2, classes=["ring", "cross"])
    for row, label in enumerate((2, 0)):
        found = _cell(picture, row, 1, rows=2, columns=2)
        assert np.abs(found.astype(int) - _shown(gan, label, 1)).max() <= 1


def test_real_images_stand_to_the_left_of_synthetic_ones(gan: Sampler, shapes: Path) -> None:
    manifest = scan(shapes)
    picture = preview(gan, columns=3, real=manifest)
    narrow = preview(gan, columns=6)
    assert picture.width > narrow.width, "a gap divides the halves"
    gap = picture.width - narrow.width
    for row, name in enumerate(gan.classes):
        for column in range(3):
            real = _cell(picture, row, column, rows=3, columns=6, gap=gap)
            number = int(np.linspace(0, manifest.counts[name] - 1, 3)[column])
            assert np.array_equal(real, read(shapes / name / f"{number:03d}.png").pixels[..., 0])
            synthetic = _cell(picture, row, 3 + column, rows=3, columns=6)
            assert np.abs(synthetic.astype(int) - _shown(gan, row, column)).max() <= 1


def test_a_class_with_few_real_images_is_filled_up_with_white(gan: Sampler, shapes: Path) -> None:
    (row,) = real_rows(gan, scan(shapes), ["ring"], 6)
    assert row.shape == (6, 1, 16, 16)
    assert (row[4:] == 1).all()
    assert row[:4].min() < 0


def test_real_images_of_another_size_are_brought_to_the_models(gan: Sampler, tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", {"cross": 2, "disk": 2, "ring": 2}, side=40)
    assert real_rows(gan, scan(data), ["disk"], 2)[0].shape == (2, 1, 16, 16)


def test_interpolation_walks_from_the_first_image_to_the_second(gan: Sampler) -> None:
    picture = preview(gan, columns=7, interpolate=True)
    for row in range(3):
        cells = [_cell(picture, row, column, rows=3, columns=7).astype(int) for column in range(7)]
        assert np.abs(cells[0] - _shown(gan, row, 0)).max() <= 1
        assert np.abs(cells[-1] - _shown(gan, row, 1)).max() <= 1
        steps = [np.abs(a - b).mean() for a, b in itertools.pairwise(cells)]
        assert max(steps) < np.abs(cells[0] - cells[-1]).mean()
        assert min(steps) > 0


def test_wrong_requests_are_errors(gan: Sampler, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"square.*cross, disk, ring"):
        preview(gan, classes=["square"])
    with pytest.raises(ConfigError, match="0 columns"):
        preview(gan, columns=0)
    other = scan(write_shapes(tmp_path / "data", {"cross": 2, "ring": 2}))
    with pytest.raises(ModelFileError, match="Give a folder with the model's classes"):
        preview(gan, real=other)


def test_slerp_ends_at_its_ends_and_keeps_the_length() -> None:
    start, end = latents_for([0, 0], [0, 1], seed=0, dim=64)
    end = end * start.norm() / end.norm()
    path = slerp(start, end, torch.linspace(0, 1, 9))
    assert torch.allclose(path[0], start, atol=1e-5)
    assert torch.allclose(path[-1], end, atol=1e-5)
    assert torch.allclose(path.norm(dim=1), start.norm().expand(9), rtol=1e-4)
    assert torch.lerp(start, end, 0.5).norm() < 0.9 * start.norm(), "a straight line would be shorter in the middle"
    turns = torch.nn.functional.cosine_similarity(path[:-1], path[1:])
    assert torch.allclose(turns, turns[:1].expand(8), atol=1e-4), "equal steps"


def test_slerp_between_parallel_latents_stays_finite() -> None:
    start = torch.randn(8)
    for end in (start, start * 2, -start, start * (1 + 1e-7)):
        path = slerp(start, end, torch.linspace(0, 1, 5))
        assert torch.isfinite(path).all()
        assert torch.allclose(path[-1], end, atol=1e-5)


def test_a_grid_grows_with_its_names_and_headings() -> None:
    rows = [np.zeros((3, 1, 8, 8)), np.zeros((2, 1, 8, 8))]
    plain, named = picture_grid(rows), picture_grid(rows, ["short", "a rather long name"])
    headed = picture_grid(rows, split=2, headings=("real", "synthetic"))
    assert plain.height == named.height < headed.height
    assert plain.width < named.width
    assert plain.width < headed.width
    cells = np.asarray(plain)[..., 0]
    assert np.count_nonzero(cells == 128) == 5 * 64 * 64, "five images, and none where the second row is short"


def test_color_and_extreme_values_are_drawn_as_they_are(tmp_path: Path) -> None:
    image = np.zeros((1, 3, 64, 64), dtype=np.float32)
    image[0, 0], image[0, 1], image[0, 2] = 5, -1, -7
    save_picture(picture_grid([image]), tmp_path / "new" / "picture.png")
    pixels = read(tmp_path / "new" / "picture.png").pixels
    assert pixels[GAP + 5, -GAP - 5].tolist() == [255, 0, 0]
