"""From a folder of scans to synthetic scans in the same format, through the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ganaug.cli import main
from tests import dicoms

TINY = [
    "--recipe", "smoke", "--kimg", "0.1", "--device", "cpu",
    "--set", "batch=4", "--set", "widths=[8,8]", "--set", "group_width=8", "--set", "snapshots=1",
]  # fmt: skip


def run(*arguments: str | Path) -> str:
    """Run a command, which has to succeed, and return what it printed on standard output."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, f"{arguments}\n{result.output}"
    return result.stdout


def walk(data: Path, tmp_path: Path, *options: str) -> tuple[dict, Path, list[Path]]:
    """Go through inspect, fit and sample; return the report, the folder and the files of synthetic images."""
    sliced = [*options] if "--slices" in options else []
    report = json.loads(run("inspect", data, "--json", *sliced, "--out", tmp_path / "look.png"))
    assert "error" not in report["plan"], report["plan"]
    assert (tmp_path / "look.png").stat().st_size > 0
    run("fit", data, "--out", tmp_path / "run", *TINY, *options, "--json")
    run("preview", tmp_path / "run", "--real", data, "--columns", "2", "--out", tmp_path / "preview.png")
    run("sample", tmp_path / "run", "--out", tmp_path / "made", "--per-class", "2", "--json")
    with (tmp_path / "made" / "metadata.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * len(report["classes"])
    return report, tmp_path / "made", sorted({tmp_path / "made" / row["file_name"] for row in rows})


def blob(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return a bright ball in [0, 1] at a random place, with a little noise."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
    distance = sum((axis - rng.uniform(-0.3, 0.3)) ** 2 for axis in grid)
    return np.clip(np.exp(-4 * distance) + 0.02 * rng.standard_normal(shape), 0, 1)


def test_volumes_of_differing_shape_spacing_and_scale_leave_as_nifti(tmp_path: Path) -> None:
    made_of = [
        ((20, 24, 18), 139, np.uint8, 2.0),
        ((25, 30, 16), 3800, np.int16, 1.6),
        ((18, 22, 20), 900.0, np.float32, 2.2),
    ]
    for number in range(6):
        shape, scale, dtype, step = made_of[number % 3]
        affine = np.diag([-step, step, step, 1.0])
        affine[:3, 3] = (20, -30, number)
        path = tmp_path / "data" / "ab"[number // 3] / f"{number}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image((blob(shape, number) * scale).astype(dtype), affine), path)
    report, _, files = walk(tmp_path / "data", tmp_path)
    assert report["plan"]["intensity"]["kind"] == "per-file"
    for file in files:
        image = nibabel.load(file)
        assert file.name.endswith(".nii.gz")
        assert nibabel.aff2axcodes(image.affine) == ("L", "A", "S")
        assert image.header["sform_code"] > 0
        assert np.isfinite(image.get_fdata()).all()
        extent = np.multiply(image.shape, image.header.get_zooms())
        assert np.all(np.abs(extent - [40, 48, 32]) < 12), "about as large as the training volumes, in mm"
        provenance = json.loads(image.header.extensions[0].get_content())
        assert provenance["synthetic"] is True


def test_a_ct_series_in_hounsfield_units_leaves_as_dicom_in_hounsfield_units(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    for number in range(4):
        volume = (blob((10, 24, 20), number) * 1400 - 1000).astype(np.int16)
        folder = tmp_path / "data" / "ab"[number // 2] / f"patient{number}"
        dicoms.write_series(folder, volume, (3.0, 1.5, 1.5), PatientID=f"P{number}")
    report, _, files = walk(tmp_path / "data", tmp_path)
    assert report["groups"] == 4
    for file in files:
        scan = pydicom.dcmread(file)
        assert "SYNTHETIC" in str(scan.PatientName)
        hounsfield = scan.pixel_array * float(scan.get("RescaleSlope", 1)) + float(scan.get("RescaleIntercept", 0))
        assert hounsfield.ndim == 3
        assert -1100 <= hounsfield.min() < hounsfield.max() <= 500


def test_radiographs_leave_as_dicom(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    for number in range(6):
        pixels = (blob((30, 26), number) * 4095).astype(np.uint16)
        dicoms.write_image(tmp_path / "data" / "ab"[number // 3] / f"IM{number}", pixels, PatientID=f"P{number}")
    _, _, files = walk(tmp_path / "data", tmp_path)
    assert {pydicom.dcmread(file).pixel_array.dtype for file in files} == {np.dtype(np.uint16)}


@pytest.mark.parametrize("whole", [True, False])
def test_an_archive_leaves_as_an_archive(tmp_path: Path, whole: bool) -> None:
    images = np.stack([(blob((16, 16), seed) * 255).astype(np.uint8) for seed in range(20)])
    labels = np.arange(20)[:, None] % 2
    path = tmp_path / "data" / "toy.npz"
    path.parent.mkdir()
    parts = {"train": slice(0, 12), "val": slice(12, 16), "test": slice(16, 20)}
    np.savez_compressed(
        path,
        **{f"{name}_images": images[part] for name, part in parts.items()},
        **{f"{name}_labels": labels[part] for name, part in parts.items()},
    )
    report, folder, _ = walk(path if whole else path.parent, tmp_path)
    assert report["plan"]["images"] == 12, "validation and test images are not trained on"
    made = np.load(next(folder.glob("*.npz")))
    assert made["train_images"].shape == (4, 16, 16)
    assert made["train_images"].dtype == np.uint8
    assert made["train_labels"].ravel().tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_images_leave_as_16_bit(tmp_path: Path, suffix: str) -> None:
    for number in range(6):
        path = tmp_path / "data" / "ab"[number // 3] / f"{number}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((blob((20, 20), number) * 30_000 + 1000).astype(np.uint16)).save(path)
    _, _, files = walk(tmp_path / "data", tmp_path)
    for file in files:
        assert file.suffix.startswith(f".{suffix}")
        with Image.open(file) as image:
            assert image.mode.startswith("I;16")
            assert np.asarray(image).min() >= 900


def test_slices_of_volumes_are_images(tmp_path: Path) -> None:
    for number in range(4):
        path = tmp_path / "data" / "ab"[number // 2] / f"{number}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        volume = (blob((20, 24, 12), number) * 255).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(volume, np.diag([2.0, 2, 2, 1])), path)
    report, _, files = walk(tmp_path / "data", tmp_path, "--slices", "coronal")
    assert report["images"] == 4 * 24
    assert report["groups"] == 4
    with Image.open(files[0]) as image:
        assert image.size == (20, 12), "left to right, superior on top"


def test_four_modes_and_four_spellings_of_the_suffix(tmp_path: Path) -> None:
    gray = [(blob((20, 18), seed) * 255).astype(np.uint8) for seed in range(8)]
    for number, pixels in enumerate(gray):
        mode, name = [("L", "x.png"), ("RGB", "x.JPG"), ("RGBA", "x.PnG"), ("LA", "x.TIFF")][number % 4]
        path = tmp_path / "data" / "ab"[number // 4] / f"{number}{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert(mode).save(path)
    report, _, files = walk(tmp_path / "data", tmp_path)
    assert report["plan"]["settings"]["channels"] == 1, "gray images that were saved as color count as gray"
    assert len(files) == 4
