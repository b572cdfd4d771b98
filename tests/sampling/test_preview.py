"""Pictures of what a generator makes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from ganaug.cli.preview import preview as command
from ganaug.data import scan
from ganaug.data.intensity import IntensityMap
from ganaug.data.pictures import GAP, picture_grid, save_picture
from ganaug.data.readers import read
from ganaug.errors import ConfigError, DataError, ModelFileError
from ganaug.sampling.latent_tools import Projection, project
from ganaug.sampling.preview import (
    COARSE_ROWS,
    TITLE,
    mixing_picture,
    preview,
    projection_picture,
    read_image,
    real_rows,
)
from ganaug.sampling.sampler import Sampler, load
from ganaug.training.run import Run
from tests.dicoms import write_series
from tests.models.archs import random_sampler
from tests.tiny import make_model, write_shapes

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
    gap = picture.width - preview(gan, columns=5).width
    assert gap > 0, "the images that give coarse styles stand apart"
    lines = COARSE_ROWS + 1
    for block, label in enumerate((1, 2)):
        images = gan.stored(gan.sample([label] * (COARSE_ROWS + 4), seed=2))[:, 0].numpy().astype(int)
        cells = np.array(
            [
                [
                    _cell(picture, lines * block + row, column, rows=2 * lines, columns=5, gap=(column == 0) * gap)
                    for column in range(5)
                ]
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


def test_parts_of_files_and_folders_of_a_series_are_read_too(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (5, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", test_images=images, test_labels=np.zeros((5, 1), dtype=np.uint8))
    gan = random_sampler("modern", tmp_path / "model.safetensors", resize="stretch")
    assert np.array_equal(read_image(gan, tmp_path / "set.npz#test[3]"), images[3][None] * np.float32(2 / 255) - 1)

    volume = np.random.default_rng(1).integers(0, 255, (16, 12, 9), dtype=np.uint8)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "head.nii.gz")
    whole = random_sampler("modern", tmp_path / "volumes.safetensors", size=(9, 12, 16), resize="stretch")
    found = read_image(whole, tmp_path / "head.nii.gz")
    assert found.shape == (1, 9, 12, 16)
    sliced = random_sampler("modern", tmp_path / "slices.safetensors", size=(12, 16), slices="axial", resize="stretch")
    assert np.array_equal(read_image(sliced, tmp_path / "head.nii.gz#axial[4]"), found[:, 4])

    series, empty = tmp_path / "series", tmp_path / "empty"
    empty.mkdir()
    write_series(series, volume.T, (1.0, 1.0, 1.0))
    assert read_image(whole, series).shape == (1, 9, 12, 16)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), series / "another.nii")
    for model, path, message in (
        (gan, tmp_path / "set.npz", r"set\.npz is an archive\. Name one of its images: .*set\.npz#test\[0\]"),
        (gan, tmp_path / "set.npz#test[9]", r"ends at 4"),
        (gan, tmp_path / "set.npz#train[0]", r"has no part train\[0\]"),
        (gan, tmp_path / "none.png", r"There is no file .*none\.png"),
        (gan, tmp_path / "none.npz#test[0]", r"There is no file .*none\.npz"),
        (gan, empty, r"is a folder of 0 images; one image, or the files of one DICOM series"),
        (whole, series, r"is a folder of 2 images"),
        (gan, tmp_path / "head.nii.gz", r"A volume of 9×12×16 was given; an image was wanted"),
        (sliced, tmp_path / "head.nii.gz", r"trained on axial slices\. Give .*head\.nii\.gz#axial\[4\], say: .* of 9"),
        (sliced, tmp_path / "head.nii.gz#axial[9]", r"Give .*head\.nii\.gz#axial\[4\]"),
        (whole, tmp_path / "head.nii.gz#axial[4]", r"trained on whole files\. Give .*head\.nii\.gz\.$"),
    ):
        with pytest.raises(DataError, match=message):
            read_image(model, path)


def test_values_that_would_be_plain_black_or_white_are_refused(tmp_path: Path, shapes: Path) -> None:
    gan = random_sampler("modern", tmp_path / "model.safetensors", resize="stretch")
    deep = tmp_path / "deep"
    write_shapes(deep, {"disk": 2, "ring": 2, "cross": 2}, dtype="uint16")
    for name, kind in zip("abc", ("disk", "ring", "cross"), strict=True):
        (deep / kind).rename(deep / name)
    with pytest.raises(DataError, match=r"000\.png holds uint16 values .* trained on 8-bit images, 0 to 255"):
        read_image(gan, deep / "a" / "000.png")
    with pytest.raises(DataError, match="trained on 8-bit images"):
        preview(gan, real=scan(deep), columns=2)
    hounsfield = replace(gan.header, intensity=IntensityMap("window", -1000, -100, "int16"))
    gan.header = hounsfield
    with pytest.raises(DataError, match=r"uint8 values from \d+ to \d+; the model was trained on values from -1000 to"):
        read_image(gan, shapes / "disk" / "000.png")
    inside = np.full((16, 16), -500, dtype=np.int16)
    inside[0] = 2000  # partly outside is what a window is for
    np.save(tmp_path / "ct.npy", inside)
    found = read_image(gan, tmp_path / "ct.npy")
    assert (found[0, 0] == 1).all()
    assert found[0, 1] == pytest.approx(1 / 9, abs=1e-6)


def test_class_names_are_drawn_in_one_short_line(tmp_path: Path) -> None:
    names = ("a\nb", "x" * 300, "plain")
    gan = load(make_model(tmp_path / "model.safetensors", classes=names), device="cpu")
    assert preview(gan, columns=1).width < 400
    found = project(gan, gan.sample([1], indices=[4])[0], steps=0)
    assert projection_picture(gan, found.image.numpy(), found).width < 700


def test_a_projection_is_drawn_as_image_closest_and_difference(gan: Sampler) -> None:
    image = gan.sample([1], indices=[3])[0]
    found = project(gan, image, steps=0)
    step = 128 + 2 * GAP
    cells = _projected(gan, image, found, step)
    assert np.array_equal(cells[0], cells[1]), "sample 3 is among those that the search begins with"
    assert np.ptp(cells[0]) > 50
    assert (cells[2] == 0).all()
    other = project(gan, image, label=0, steps=0)
    assert _projected(gan, image, other, step)[2].max() > 100


def _projected(gan: Sampler, image: torch.Tensor, found: Projection, step: int) -> list[np.ndarray]:
    """Return the three cells of a projection's picture, and see that something is written above each."""
    picture = np.asarray(projection_picture(gan, image.numpy(), found))
    assert picture.shape[1] == 3 * step
    for i in range(3):
        assert picture[:TITLE, i * step : (i + 1) * step].min() < 100
    return [picture[TITLE + GAP : -GAP, i * step + GAP : i * step + GAP + 128] for i in range(3)]


@pytest.mark.parametrize(("size", "channels"), [((8, 12, 10), 1), ((12, 40), 3), ((64, 8), 1)])
def test_projections_of_volumes_color_and_narrow_images_are_drawn(
    size: tuple[int, ...], channels: int, tmp_path: Path
) -> None:
    gan = random_sampler("dcgan", tmp_path / "model.safetensors", size=size, channels=channels)
    image = gan.sample([2], indices=[5])[0]
    found = project(gan, image, steps=2)
    picture = projection_picture(gan, image.numpy(), found)
    assert picture.width > 3 * 60, "room for the titles"
    shown = np.asarray(picture)[TITLE:]
    assert (np.ptp(shown.astype(int), axis=2).max() > 0) == (channels == 3)


@pytest.fixture
def command_line(tiny_run: Run, tmp_path: Path) -> Callable[..., Result]:
    """Run `ganaug preview` on `tiny_run`, each time with another --out."""

    def run(*arguments: object) -> Result:
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.png"
        return CliRunner().invoke(
            command, [str(tiny_run.path), "--out", str(out), "--json", "--device", "cpu", *map(str, arguments)]
        )

    return run


def test_the_command_draws_each_kind_of_picture(
    command_line: Callable[..., Result], shapes: Path, tmp_path: Path
) -> None:
    for arguments in (
        ("--truncation", "0.3,1", "--classes", "ring, disk", "--columns", 2),
        ("--interpolate", "--truncation", "0.5,1", "--real", shapes, "--columns", 2),
        ("--seed", 3),
    ):
        found = command_line(*arguments)
        assert found.exit_code == 0, found.output
    found = command_line("--project", shapes / "ring" / "000.png", "--to-class", "ring")
    assert found.exit_code == 0, found.output
    facts = json.loads(found.stdout)
    assert facts["class"] == "ring"
    assert facts["samples"] == 1000
    assert 0 < facts["distance"] < facts["start_distance"]
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--truncation", "much"), "0.3,0.7,1"),
        (("--to-class", "ring"), "--to-class was given without --project"),
        (("--project", "x.png", "--interpolate"), "at most one"),
        (("--mix-styles", "--interpolate"), "at most one"),
        (("--mix-styles", "--real", "data"), "--mix-styles goes without --real"),
        (("--mix-styles", "--truncation", "0.5,1"), "one --truncation"),
        (("--project", "x.png", "--truncation", "0.5"), "--project goes without --truncation."),
        (("--project", "x.png", "--columns", "10", "--real", "data"), "goes without --columns and --real."),
        (("--project", "x.png", "--classes", "ring"), "goes without --classes. Name the class with --to-class."),
        (("--interpolate", "--columns", "1"), "at least --columns 2"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_anything_is_loaded(
    wrong: tuple[str, ...], message: str, command_line: Callable[..., Result]
) -> None:
    refused = command_line(*wrong)
    assert refused.exit_code == 2
    assert message in " ".join(refused.output.split())


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (("--mix-styles",), ConfigError, "has no styles"),
        (("--project", "ring/000.png", "--to-class", "square"), ConfigError, "square"),
        (("--project", "ring/nothing.png"), DataError, "There is no file"),
        (("--truncation", "0.5,2"), ConfigError, "truncation = 2.0"),
        (("--truncation", "nan"), ConfigError, "truncation = nan"),
        (("--classes", "ring,square"), ConfigError, "square"),
    ],
)
def test_what_the_model_cannot_do_is_said(
    wrong: tuple[str, ...], error: type[Exception], message: str, command_line: Callable[..., Result], shapes: Path
) -> None:
    refused = command_line(*(shapes / part if part.endswith(".png") else part for part in wrong))
    assert isinstance(refused.exception, error)
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
