"""`ganaug translate`: files in, files out, each with its size, type, place and origin."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from ganaug.cli import main
from ganaug.data import scan
from ganaug.data.geometry import Geometry
from ganaug.data.intensity import IntensityMap
from ganaug.data.readers import read
from ganaug.sampling import SyntheticBank, Translator
from tests.dicoms import AXIAL, write_image
from tests.sampling.translation_models import make_translator
from tests.tiny import UINT8, UINT16, make_model, write_shapes

HU = IntensityMap(kind="percentiles", minimum=-1024.0, low=-1000.0, high=1000.0, maximum=3000.0, dtype="int16")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["translate", *map(str, arguments), "--device", "cpu"])


def done(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    summary: dict[str, Any] = json.loads(result.stdout)
    return summary


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def gan(tmp_path_factory: pytest.TempPathFactory) -> Translator:
    return make_translator(tmp_path_factory.mktemp("run") / "generator.safetensors")


def test_a_labelled_folder_becomes_one_of_the_target_with_its_origin(
    gan: Translator, shapes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    summary = done(gan.path.parent, shapes, "--to", "ring", "--out", out)
    assert (summary["images"], summary["formats"], summary["to"]) == (20, ["png"], "ring")
    assert summary["left_out"] == ["4 of 24 images are not of the source and were left out."]
    table = rows(out)
    assert table[0]["file_name"] == "ring/cross/000.png"
    source = shapes / "cross" / "000.png"
    assert table[0]["source"] == f"{hashlib.sha256(source.read_bytes()).hexdigest()}#0"
    assert {row["label"] for row in table} == {"ring"}
    assert scan(out).counts == {"ring": 20}
    stored = np.asarray(Image.open(source))[None, None]
    made = np.asarray(Image.open(out / "ring/cross/000.png"))
    assert np.abs(made.astype(int) - gan.translate_stored(stored, to="ring").numpy()[0, 0].astype(int)).max() <= 1
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert done(gan.path.parent, shapes, "--to", "ring", "--out", out)["kept"] == 20
    only = done(gan.path.parent, shapes, "--to", "ring", "--from", "disk", "--out", tmp_path / "disks")
    assert only["images"] == 8
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_folder_that_broke_off_goes_on_to_the_same_bytes(
    gan: Translator, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ganaug.sampling.translated_files._BLOCK", 5)
    whole, made = Translator.translate, []

    def breaks_off(self: Translator, images: torch.Tensor, **options: Any) -> torch.Tensor:
        made.append(len(images))
        if len(made) == 3:
            raise KeyboardInterrupt
        return whole(self, images, **options)

    monkeypatch.setattr(Translator, "translate", breaks_off)
    assert run(gan.path, shapes, "--to", "ring", "--out", tmp_path / "out").exit_code == 1
    assert not (tmp_path / "out").exists()
    assert done(gan.path, shapes, "--to", "ring", "--out", tmp_path / "out")["kept"] == 10
    done(gan.path, shapes, "--to", "ring", "--out", tmp_path / "again")
    one, two = ({p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()}
                for f in (tmp_path / "out", tmp_path / "again"))  # fmt: skip
    assert one == two


def test_a_file_of_another_size_keeps_size_type_and_fine_detail(tmp_path: Path) -> None:
    gan = make_translator(tmp_path / "m.safetensors", domains=("a", "b"), intensities=UINT16)
    image = np.random.default_rng(0).integers(1000, 50_000, (53, 37)).astype(np.uint16)
    Image.fromarray(image).save(tmp_path / "scan.png")
    done(gan.path, tmp_path / "scan.png", "--to", "b", "--out", tmp_path / "out")
    made = read(tmp_path / "out" / "scan.png").pixels[..., 0]
    assert made.dtype == np.uint16
    assert made.shape == image.shape
    change = made.astype(int) - image
    assert np.abs(change).max() > 500
    fine = np.abs(np.diff(change, axis=0)).mean() / np.abs(np.diff(image.astype(int), axis=0)).mean()
    assert fine < 0.2, "the change is as smooth as the model's resolution, and the detail is the image's own"
    assert rows(tmp_path / "out")[0]["label"] == "b"
    done(gan.path, tmp_path / "scan.png", "--to", "b", "--out", tmp_path / "native", "--native")
    native = read(tmp_path / "native" / "scan.png").pixels
    wanted = gan.translate_stored(image[None, None], to="b").numpy()[0, 0]
    assert np.abs(native[..., 0].astype(int) - wanted).max() <= 1


def test_a_network_that_changes_nothing_gives_back_every_value_also_beyond_the_window(tmp_path: Path) -> None:
    gan = make_translator(
        tmp_path / "m.safetensors", size=(8, 16, 16), domains=("a", "b"), intensities=HU, scale=0,
        geometry=Geometry((3.0, 2.0, 2.0), "LPS", (0.0, 0.0, 0.0)), resize="spacing",
    )  # fmt: skip
    turn = np.array([[0.96, 0.1, 0.2, -30], [-0.1, 0.99, 0.05, -12], [-0.19, -0.07, 2.9, 7], [0, 0, 0, 1.0]])
    volume = np.random.default_rng(0).integers(-1024, 3000, (21, 18, 9)).astype(np.int16)
    nib.save(nib.Nifti1Image(volume, turn), tmp_path / "scan.nii")
    done(gan.path, tmp_path / "scan.nii", "--to", "b", "--out", tmp_path / "out")
    made = nib.load(tmp_path / "out" / "scan.nii")
    assert np.array_equal(np.asarray(made.dataobj), volume)
    assert made.get_data_dtype() == np.int16
    assert np.allclose(made.affine, nib.load(tmp_path / "scan.nii").affine, atol=1e-5)


def test_a_direct_network_and_maps_of_their_own_write_the_target_s_units(tmp_path: Path) -> None:
    gan = make_translator(
        tmp_path / "m.safetensors", size=(8, 8, 8), domains=("mr", "ct"), rule="style", residual=False,
        intensities=(UINT8, HU),
    )  # fmt: skip
    volume = np.random.default_rng(0).integers(0, 255, (10, 12, 9)).astype(np.uint8)
    (tmp_path / "flat").mkdir()
    nib.save(nib.Nifti1Image(volume, np.diag([-2, -2, 3, 1])), tmp_path / "flat" / "head.nii.gz")
    done(gan.path, tmp_path / "flat", "--to", "ct", "--out", tmp_path / "out")
    made = nib.load(tmp_path / "out" / "head.nii.gz")
    assert made.get_data_dtype() == np.int16
    assert made.shape == (10, 12, 9)
    assert np.asarray(made.dataobj).min() >= -1000
    assert rows(tmp_path / "out")[0]["label"] == ""


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_model_of_slices_translates_volumes_slice_by_slice(tmp_path: Path, plane: str) -> None:
    gan = make_translator(tmp_path / "m.safetensors", size=(12, 12), domains=("a", "b"), slices=plane)
    volume = np.random.default_rng(0).integers(0, 255, (10, 12, 9)).astype(np.uint8)
    nib.save(nib.Nifti1Image(volume, np.diag([-2, -2, 3, 1])), tmp_path / "head.nii.gz")
    done(gan.path, tmp_path / "head.nii.gz", "--to", "b", "--out", tmp_path / "out", "--native")
    made = np.asarray(nib.load(tmp_path / "out" / "head.nii.gz").dataobj)
    axis = {"axial": 2, "coronal": 1, "sagittal": 0}[plane]
    upright = volume.take(4, axis=axis).T if plane == "axial" else volume.take(4, axis=axis).T[::-1]
    wanted = gan.translate_stored(upright[None, None].copy(), to="b").numpy()[0, 0]
    got = made.take(4, axis=axis).T if plane == "axial" else made.take(4, axis=axis).T[::-1]
    assert np.abs(got.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_single_slice_stays_where_it_lies(tmp_path: Path, axis: int) -> None:
    gan = make_translator(tmp_path / "m.safetensors", size=(12, 12), domains=("a", "b"), scale=0)
    values = np.random.default_rng(0).integers(0, 255, (10, 12, 1)).astype(np.uint8)
    affine = np.roll(np.array([[0, 2.0, 0], [-3, 0, 0], [0, 0, 1]]), axis, axis=0)
    affine = np.vstack([np.c_[affine, [4, 5, 6]], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "slice.nii.gz")
    done(gan.path, tmp_path / "slice.nii.gz", "--to", "b", "--out", tmp_path / "out")
    made = nib.load(tmp_path / "out" / "slice.nii.gz")
    assert np.array_equal(np.asarray(made.dataobj), values)
    assert np.allclose(made.affine, affine)


@pytest.mark.parametrize("side", [(12, 14), (10, 9, 8)])
def test_super_resolution_writes_a_finer_grid_in_the_same_place(tmp_path: Path, side: tuple[int, ...]) -> None:
    gan = make_translator(
        tmp_path / "m.safetensors", size=(16,) * len(side), domains=("degraded", "original"), targets=("original",),
        rule="style", degrade="downsample=2",
    )  # fmt: skip
    values = np.random.default_rng(0).integers(60, 190, side).astype(np.uint8)
    volume = values if len(side) == 3 else values[..., None]
    affine = np.array([[0, 2.0, 0, 4], [-3, 0, 0, 5], [0, 0, 1, 6], [0, 0, 0, 1.0]])
    nib.save(nib.Nifti1Image(volume, affine), tmp_path / "low.nii.gz")
    done(gan.path, tmp_path / "low.nii.gz", "--to", "original", "--out", tmp_path / "out")
    made = nib.load(tmp_path / "out" / "low.nii.gz")
    factors = [2, 2, 2 if len(side) == 3 else 1]
    assert made.shape == tuple(n * f for n, f in zip(volume.shape, factors, strict=True))
    steps = np.linalg.norm(affine[:3, :3], axis=0) / factors
    assert np.allclose(np.linalg.norm(made.affine[:3, :3], axis=0), steps)
    ends = [affine @ [*(np.array(volume.shape) / 2 - 0.5), 1], made.affine @ [*(np.array(made.shape) / 2 - 0.5), 1]]
    assert np.allclose(*ends)


def test_formats_keep_their_names_as_far_as_they_can_be_written(gan: Translator, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    (flat / "deep").mkdir(parents=True)
    image = np.random.default_rng(0).integers(0, 255, (16, 16)).astype(np.uint8)
    Image.fromarray(image).save(flat / "a.jpg")
    Image.fromarray(image).save(flat / "b.tiff")
    Image.fromarray(image).save(flat / "c.bmp")
    Image.fromarray(image).save(flat / "c.png")
    np.save(flat / "d.npy", image)
    write_image(flat / "deep" / "e", image.astype(np.uint16), ImageOrientationPatient=list(AXIAL), PatientID="MRN1")
    (flat / "notes.txt").write_text("hello")
    own = IntensityMap(kind="per-file", minimum=0.0, low=0.0, high=139.0, maximum=200.0, dtype="uint16")
    wide = make_translator(tmp_path / "m.safetensors", domains=("a", "b"), intensities=own)
    result = run(gan.path, flat, "--to", "ring", "--out", tmp_path / "bad")
    assert result.exit_code == 3
    assert "uint16 was given; uint8 was wanted" in result.output
    done(wide.path, flat, "--to", "b", "--out", tmp_path / "out")
    names = {row["file_name"] for row in rows(tmp_path / "out")}
    assert names == {"a.png", "b.tiff", "c.bmp.png", "c.png", "d.npy", "deep/e"}
    assert all(read(tmp_path / "out" / name).pixels.shape == (16, 16, 1) for name in names)
    assert read(tmp_path / "out" / "deep" / "e").format == "DICOM"
    assert b"MRN1" not in b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    tiffs = done(wide.path, flat, "--to", "b", "--out", tmp_path / "tiffs", "--format", "tiff")
    assert tiffs["formats"] == ["tiff"]
    assert "deep/e.tif" in {row["file_name"] for row in rows(tmp_path / "tiffs")}


def test_sub_folders_that_the_model_does_not_know_are_no_labels(tmp_path: Path) -> None:
    gan = make_translator(tmp_path / "m.safetensors", domains=("a", "b"), rule="style", labels=("ill", "well"))
    data = write_shapes(tmp_path / "data", {"disk": 2, "ring": 2})
    (data / "disk").rename(data / "miller")
    done(gan.path, data, "--to", "b", "--out", tmp_path / "out")
    assert {(row["label"], row["file_name"].split("/")[0]) for row in rows(tmp_path / "out")} == {
        ("", "miller"),
        ("", "ring"),
    }
    (data / "miller").rename(data / "ill")
    done(gan.path, data, "--to", "b", "--out", tmp_path / "labelled")
    assert {row["label"] for row in rows(tmp_path / "labelled")} == {"ill", "ring"}


def test_archives_and_banks(gan: Translator, tmp_path: Path, shapes: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (5, 16, 16)).astype(np.uint8)
    np.savez(tmp_path / "set.npz", train_images=images, train_labels=np.array([0, 0, 1, 1, 1]))
    summary = done(
        gan.path, shapes, "--to", "ring", "--out", tmp_path / "bank", "--format", "bank", "--count", 7, "--seed", 3
    )
    assert summary["counts"] == {"cross": 0, "disk": 0, "ring": 7}
    assert len(SyntheticBank.open(tmp_path / "bank")) == 7
    style = make_translator(tmp_path / "m.safetensors", domains=("a", "b"), rule="style")
    done(style.path, tmp_path / "set.npz", "--to", "b", "--out", tmp_path / "out")
    assert [(row["file_name"], row["label"]) for row in rows(tmp_path / "out")][:1] == [("set-train-000000.png", "0")]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--to", "star"], 2, "'star' was given; this model knows cross, disk, ring"),
        (["--to", "ring", "--from", "ring"], 2, "both 'ring'"),
        (["--to", "ring", "--native", "--format", "bank"], 2, "--native was given with --format bank"),
        (["--to", "ring", "--count", "3"], 2, "for --format bank"),
        (["--to", "ring", "--format", "dicom", "--from", "disk"], 0, "8 images translated to ring (dicom)"),
        (["--to", "ring", "--device", "nope"], 2, "nope"),
    ],
)
def test_options_that_do_not_fit(
    gan: Translator, shapes: Path, tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    result = CliRunner().invoke(main, ["translate", str(gan.path), str(shapes), "--out", str(tmp_path / "o"), *options])
    assert result.exit_code == code, result.output
    assert message in result.output


def test_wrong_runs_and_inputs_say_what_to_do(gan: Translator, shapes: Path, tmp_path: Path) -> None:
    options = ["--out", str(tmp_path / "o"), "--balance", str(shapes)]
    sampled = CliRunner().invoke(main, ["sample", str(gan.path), *options])
    assert sampled.exit_code == 2
    assert "ganaug translate RUN INPUT --to CLASS --out DIR" in sampled.output
    noise = run(make_model(tmp_path / "noise.safetensors"), shapes, "--to", "ring", "--out", tmp_path / "o")
    assert noise.exit_code == 2
    assert "ganaug sample" in noise.output
    missing = run(gan.path, tmp_path / "nothing", "--to", "ring", "--out", tmp_path / "o")
    assert missing.exit_code == 3
    assert "does not exist" in missing.output
    inside = run(gan.path, shapes, "--to", "ring", "--out", shapes / "ring" / "o")
    assert inside.exit_code == 2
    np.save(tmp_path / "volume.npy", np.zeros((20, 20, 20), np.uint8))
    volume = run(gan.path, tmp_path / "volume.npy", "--to", "ring", "--out", tmp_path / "o")
    assert volume.exit_code == 3
    assert "a volume, and the model was trained on images" in volume.output
    far = make_translator(tmp_path / "m.safetensors", domains=("a", "b"), intensities=HU)
    np.save(tmp_path / "far.npy", np.arange(5000, 5400, dtype=np.int16).reshape(20, 20))
    result = run(far.path, tmp_path / "far.npy", "--to", "b", "--out", tmp_path / "o")
    assert result.exit_code == 3
    assert "5000 to 5399" in result.output
    assert not (tmp_path / "o").exists()
