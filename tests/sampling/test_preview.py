"""Pictures of what a generator makes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from ganaug.cli.preview import preview as command
from ganaug.data import scan
from ganaug.data.pictures import GAP, picture_grid, save_picture
from ganaug.data.readers import read
from ganaug.errors import ConfigError, DataError, ModelFileError
from ganaug.sampling.latent_tools import project
from ganaug.sampling.preview import (
    COARSE_ROWS,
    mixing_picture,
    preview,
    projection_picture,
    read_image,
    real_rows,
)
from ganaug.sampling.sampler import Sampler
from ganaug.training.run import Run
from tests.models.archs import random_sampler
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


def test_truncation_draws_the_same_latents_under_each_factor_row_by_row(gan: Sampler) -> None:
    picture = preview(gan, columns=3, classes=["disk", "ring"], truncations=(0.3, 1.0))
    for row, (label, psi) in enumerate(((1, 0.3), (1, 1.0), (2, 0.3), (2, 1.0))):
        images = gan.stored(gan.sample([label] * 3, truncation=psi))
        for column in range(3):
            found = _cell(picture, row, column, rows=4, columns=3)
            assert np.abs(found.astype(int) - images[column, 0].numpy()).max() <= 1


def test_real_images_stand_beside_every_row_of_their_class(gan: Sampler, shapes: Path) -> None:
    plain = preview(gan, columns=2, real=scan(shapes))
    both = preview(gan, columns=2, real=scan(shapes), truncations=(0.5, 1.0))
    assert both.height > 1.8 * plain.height


def test_mixed_styles_stand_between_the_images_that_they_come_from(tmp_path: Path) -> None:
    gan = random_sampler("style", tmp_path / "model.safetensors", size=(16, 16))
    picture = mixing_picture(gan, columns=4, seed=2, classes=["b", "c"])
    lines = COARSE_ROWS + 1
    for block, label in enumerate((1, 2)):
        images = gan.stored(gan.sample([label] * (COARSE_ROWS + 4), seed=2))[:, 0].numpy().astype(int)
        cells = np.array(
            [
                [_cell(picture, lines * block + row, column, rows=2 * lines, columns=5) for column in range(5)]
                for row in range(lines)
            ]
        ).astype(int)
        assert (cells[0, 0] == 255).all()
        for column in range(4):
            assert np.abs(cells[0, 1 + column] - images[COARSE_ROWS + column]).max() <= 1
        for row in range(COARSE_ROWS):
            assert np.abs(cells[1 + row, 0] - images[row]).max() <= 1
            for column in range(4):
                mixed = cells[1 + row, 1 + column]
                assert np.abs(mixed - cells[1 + row, 0]).mean() > 1
                assert np.abs(mixed - cells[0, 1 + column]).mean() > 1


def test_mixing_a_model_without_styles_is_an_error_that_says_what_to_train(gan: Sampler) -> None:
    with pytest.raises(ConfigError, match=r"arch 'style' was wanted.*--set arch=style"):
        mixing_picture(gan)


def test_a_file_is_read_as_the_training_read_it(gan: Sampler, shapes: Path, tmp_path: Path) -> None:
    path = shapes / "disk" / "000.png"
    (row,) = real_rows(gan, scan(shapes), ["disk"], 1)
    assert np.array_equal(read_image(gan, path), row[0])
    large = tmp_path / "color.png"
    Image.open(path).convert("RGB").resize((64, 48)).save(large)
    image = read_image(gan, large)
    assert image.shape == (1, 16, 16)
    assert image.dtype == np.float32
    assert -1 <= image.min() < image.max() <= 1
    volume = tmp_path / "volume.npy"
    np.save(volume, np.zeros((9, 9, 9, 9), dtype=np.uint8))
    with pytest.raises(DataError, match=r"volume\.npy: "):
        read_image(gan, volume)


def test_a_projection_is_drawn_as_image_closest_and_difference(gan: Sampler) -> None:
    image = gan.sample([1], indices=[3])[0]
    found = project(gan, image, steps=0)
    picture = np.asarray(projection_picture(gan, image.numpy(), found))
    side = 128
    cells = [picture[GAP : GAP + side, -(GAP + side) * (3 - i) : -(GAP + side) * (3 - i) + side] for i in range(3)]
    assert np.array_equal(cells[0], cells[1]), "sample 3 is among those that the search begins with"
    assert np.ptp(cells[0]) > 50
    assert (cells[2] == 0).all()
    other = project(gan, image, label=0, steps=0)
    assert np.asarray(projection_picture(gan, image.numpy(), other))[GAP:, -side:].max() > 50


def test_the_command_draws_each_kind_of_picture(tiny_run: Run, shapes: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> Result:
        return CliRunner().invoke(
            command, [str(tiny_run.path), "--out", str(tmp_path / f"{len(list(tmp_path.iterdir()))}.png"), "--json",
                      *map(str, arguments)]
        )  # fmt: skip

    image = shapes / "ring" / "000.png"
    assert run("--truncation", "0.3,1").exit_code == 0
    assert run("--interpolate", "--truncation", 0.5).exit_code == 0
    found = run("--project", image, "--to-class", "ring")
    assert found.exit_code == 0, found.output
    facts = json.loads(found.stdout)
    assert facts["class"] == "ring"
    assert 0 < facts["distance"] < facts["start_distance"]
    assert len(list(tmp_path.iterdir())) == 3
    for wrong, word in (
        (("--truncation", "much"), "0.3,0.7,1"),
        (("--to-class", "ring"), "--project"),
        (("--project", image, "--interpolate"), "at most one"),
        (("--mix-styles", "--real", shapes), "--real"),
        (("--mix-styles", "--truncation", "0.5,1"), "one --truncation"),
        (("--project", image, "--truncation", "0.5"), "no --truncation"),
    ):
        refused = run(*wrong)
        assert refused.exit_code == 2, wrong
        assert word in refused.output
    for wrong, message in (
        (("--mix-styles",), "has no styles"),
        (("--project", image, "--to-class", "square"), "square"),
        (("--truncation", "0.5,2"), "truncation = 2.0"),
    ):
        refused = run(*wrong)
        assert isinstance(refused.exception, ConfigError)
        assert message in str(refused.exception)


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
