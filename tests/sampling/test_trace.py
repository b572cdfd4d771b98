"""Where an image comes from: what files say, what runs and banks know, and never a traceback."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, PngImagePlugin

from ganaug.cli import main
from ganaug.data.geometry import Geometry
from ganaug.data.intensity import IntensityMap
from ganaug.errors import DataError, GanaugError
from ganaug.sampling import Sampler, SyntheticBank
from ganaug.sampling.export import export_folder
from ganaug.sampling.trace import trace
from ganaug.sampling.translated_files import translate_files
from ganaug.sampling.writers import load_writer
from ganaug.training.run import Run
from tests.sampling.fake_sampler import FakeSampler
from tests.sampling.translation_models import make_translator

INT16 = IntensityMap(kind="window", low=-1000.0, high=2000.0, dtype="int16")
LPS = Geometry(spacing=(2.0, 1.0, 1.5), orientation="LPS", center=(0.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def exported(gan: Sampler, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of each class, seed 3."""
    out = tmp_path_factory.mktemp("trace") / "out"
    export_folder(gan, out, counts=dict.fromkeys(gan.classes, 2), seed=3)
    return out


def plain_copy(path: Path, to: Path) -> Path:
    """Save the pixels alone."""
    Image.fromarray(np.asarray(Image.open(path))).save(to)
    return to


@pytest.mark.parametrize("format_", ["png", "tiff", "nifti", "dicom", "npy"])
def test_every_format_says_where_an_image_comes_from(gan: Sampler, tiny_run: Run, tmp_path: Path, format_: str) -> None:
    if format_ == "dicom":
        pytest.importorskip("pydicom")
    export_folder(gan, tmp_path / "out", counts={"disk": 2}, seed=5, truncation=0.5, format=format_)
    file = sorted((tmp_path / "out" / "disk").iterdir())[1]
    found = trace(file, runs=[tiny_run.path], device="cpu")
    assert found.verdict == "synthetic"
    assert found.origin is not None
    assert {key: found.origin[key] for key in ("label", "seed", "index", "truncation", "model_sha256")} == {
        "label": "disk",
        "seed": 5,
        "index": 1,
        "truncation": 0.5,
        "model_sha256": gan.model_sha256,
    }
    assert (found.runs[0]["made_it"], found.runs[0]["pixels"]) == (True, "same")
    assert len(found.found_in) == (1 if format_ == "npy" else 2)
    alone = tmp_path / f"moved{file.name[file.name.index('.') :]}"
    shutil.copy(file, alone)
    assert trace(alone).verdict == ("unknown" if format_ == "npy" else "synthetic")


@pytest.mark.parametrize("format_", ["nifti", "dicom", "tiff"])
def test_volumes_say_it_too(tmp_path: Path, format_: str) -> None:
    if format_ == "dicom":
        pytest.importorskip("pydicom")
    gan = FakeSampler(shape=(1, 5, 6, 7), intensity=INT16, geometry=LPS)
    export_folder(gan, tmp_path / "out", counts={"b": 1}, format=format_)  # type: ignore[arg-type]
    (file,) = (tmp_path / "out" / "b").iterdir()
    moved = tmp_path / f"moved{load_writer(format_).SUFFIX}"
    shutil.copy(file, moved)
    found = trace(moved, banks=[tmp_path / "out"])
    assert found.origin is not None
    assert (found.origin["label"], found.origin["index"]) == ("b", 0)
    assert found.banks[0]["found"] == f"b/{file.name}"


def test_rows_of_banks_and_archives_are_traced(gan: Sampler, tiny_run: Run, tmp_path: Path) -> None:
    SyntheticBank.generate(gan, tmp_path / "bank", counts={"disk": 2, "ring": 1}, seed=7)
    export_folder(gan, tmp_path / "npz", counts={"disk": 2, "ring": 1}, seed=7, format="npz")
    for row, place in (("#1", tmp_path / "bank"), ("#train[1]", tmp_path / "npz" / "synthetic.npz")):
        found = trace(f"{place}{row}", runs=[tiny_run.path], device="cpu")
        assert found.origin is not None
        assert (found.origin["label"], found.origin["seed"], found.origin["index"]) == ("disk", 7, 1)
        assert found.runs[0]["pixels"] == "same"
        whole = trace(place)
        assert whole.origin is not None
        assert (whole.origin["index"], whole.origin["seed"]) == (None, 7)
        assert "disk 2, ring 1" in str(whole)
        with pytest.raises(DataError, match="3 images"):
            trace(f"{place}{row.replace('1', '3')}")


def test_an_image_without_provenance_is_found_by_its_pixels(
    gan: Sampler, tiny_run: Run, exported: Path, tmp_path: Path
) -> None:
    file = plain_copy(exported / "ring" / "synthetic-3-000001.png", tmp_path / "export.bmp")
    found = trace(file)
    assert (found.verdict, found.origin) == ("unknown", None)
    assert "Nothing is known" in str(found)
    assert "does not mean that it is real" in str(found)
    SyntheticBank.generate(gan, tmp_path / "bank", per_class=2, seed=3)
    export_folder(gan, tmp_path / "npz", counts={"ring": 2}, seed=3, format="npz")
    for bank, name in ((tmp_path / "bank", "#5"), (exported, "ring/synthetic-3-000001.png"), (
        tmp_path / "npz" / "synthetic.npz", "#1"
    )):  # fmt: skip
        found = trace(file, banks=[bank], runs=[tiny_run.path], device="cpu")
        assert found.banks[0]["found"] == name
        assert found.verdict == "synthetic"
        assert found.runs[0]["pixels"] == "same"


def test_a_training_image_is_called_one(tiny_run: Run, shapes: Path, tmp_path: Path) -> None:
    for file in (shapes / "disk" / "000.png", plain_copy(shapes / "disk" / "000.png", tmp_path / "copy.tif")):
        found = trace(file, runs=[tiny_run.path], device="cpu")
        assert found.verdict == "training image"
        assert found.runs[0]["made_it"] is False
        assert "none that a model made" in str(found)


def test_a_changed_picture_and_a_replaced_one_are_noticed(
    tiny_run: Run, exported: Path, shapes: Path, tmp_path: Path
) -> None:
    file = exported / "disk" / "synthetic-3-000000.png"
    info = PngImagePlugin.PngInfo()
    info.add_text("ganaug", Image.open(file).text["ganaug"], zip=True)  # type: ignore[attr-defined]
    pixels = np.asarray(Image.open(file)).astype(int)
    altered, replaced = tmp_path / "altered.png", tmp_path / "replaced.png"
    noise = np.random.default_rng(0).integers(-3, 4, pixels.shape)
    Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(altered, pnginfo=info)
    Image.open(shapes / "cross" / "000.png").save(replaced, pnginfo=info)
    for path, word, made in ((altered, "altered", True), (replaced, "different", None)):
        found = trace(path, runs=[tiny_run.path], device="cpu")
        assert (found.runs[0]["pixels"], found.runs[0]["made_it"]) == (word, made)
        assert found.verdict == "synthetic"


def test_another_run_is_said_to_be_another(exported: Path, tmp_path: Path) -> None:
    from tests.tiny import make_model

    other = make_model(tmp_path / "generator.safetensors", size=(16, 16), seed=4)
    found = trace(exported / "disk" / "synthetic-3-000000.png", runs=[other], device="cpu")
    assert found.runs[0]["made_it"] is False
    assert "not of the model" in str(found)


def test_a_translated_image_names_its_source_and_needs_it(shapes: Path, tmp_path: Path) -> None:
    gan = make_translator(tmp_path / "run" / "generator.safetensors")
    translate_files(gan, shapes, tmp_path / "out", to="ring", source="disk")
    found = trace(next((tmp_path / "out").rglob("*.png")), runs=[tmp_path / "run"], device="cpu")
    assert found.origin is not None
    assert len(found.origin["source_sha256"]) == 64
    assert found.origin["source_sha256"] in str(found)
    assert (found.runs[0]["made_it"], found.runs[0]["pixels"]) == (True, "not compared")
    assert "the image that it was translated from is needed" in str(found)


def test_a_table_that_says_otherwise_is_reported(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "out")
    table = tmp_path / "out" / "metadata.csv"
    table.write_text(table.read_text().replace("disk,True,noise,3,0", "disk,True,noise,3,1"))
    found = trace(tmp_path / "out" / "disk" / "synthetic-3-000000.png")
    assert any("says otherwise (index)" in note for note in found.notes)


def test_the_command_prints_words_or_json(exported: Path, tiny_run: Run, tmp_path: Path) -> None:
    file = str(exported / "disk" / "synthetic-3-000000.png")
    words = CliRunner().invoke(main, ["trace", file, "--run", str(tiny_run.path), "--device", "cpu"])
    assert words.exit_code == 0, words.output
    assert "is synthetic: class 'disk'" in words.output
    assert "it has the same pixels" in words.output
    report = json.loads(CliRunner().invoke(main, ["trace", file, "--json"]).stdout)
    assert report["origin"]["index"] == 0
    missing = CliRunner().invoke(main, ["trace", str(tmp_path / "none.png")])
    assert (missing.exit_code, "does not exist" in missing.output) == (3, True)


def test_damaged_files_never_end_in_a_traceback(gan: Sampler, exported: Path, tmp_path: Path) -> None:
    whole = {".png": (exported / "disk" / "synthetic-3-000000.png").read_bytes()}
    for name in ("tiff", "nifti", "dicom", "npy"):
        if load_writer(name).problem((1, 16, 16), "uint8") is None:
            export_folder(gan, tmp_path / name, counts={"disk": 1}, format=name)
            (file,) = (tmp_path / name / "disk").iterdir()
            whole[load_writer(name).SUFFIX] = file.read_bytes()
    export_folder(gan, tmp_path / "npz", counts={"disk": 1}, format="npz")
    whole[".npz"] = (tmp_path / "npz" / "synthetic.npz").read_bytes()
    rng = np.random.default_rng(0)
    for suffix, raw in whole.items():
        for number in range(40):
            broken = bytearray(raw)
            if number % 4 == 0:
                broken = broken[: rng.integers(len(raw))]
            for place in rng.integers(0, len(broken), 1 + number % 7) if broken else ():
                broken[place] = rng.integers(256)
            if number == 39:
                broken = bytearray(rng.bytes(500))
            file = tmp_path / f"broken{suffix}"
            file.write_bytes(broken)
            # An archive that cannot be read is an error in words; any other file is one of which nothing is known.
            with contextlib.suppress(GanaugError) if suffix == ".npz" else contextlib.nullcontext():
                trace(file)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 5000,
        '{"synthetic": true}',
        '{"synthetic": true, "model_sha256": 5, "seed": "x"}',
        '"model_sha256"',
    ],
    ids=["empty", "cut", "deep", "fields missing", "fields wrong", "a string"],
)
def test_a_provenance_that_is_none_is_not_believed(tmp_path: Path, text: str) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("ganaug", text)
    Image.new("L", (8, 8), 3).save(tmp_path / "odd.png", pnginfo=info)
    assert trace(tmp_path / "odd.png").verdict == "unknown"


def test_damaged_tables_do_not_hurt(exported: Path, tmp_path: Path) -> None:
    file = plain_copy(exported / "disk" / "synthetic-3-000000.png", tmp_path / "a.png")
    for table in (b"\xff\xfe\x00", b"file_name\na.png\n", b'file_name,"x\n\0', b"", b"file_name," + b"x" * 2_000_000):
        (tmp_path / "metadata.csv").write_bytes(table)
        assert trace(file).verdict == "unknown"


def test_other_peoples_synthetic_dicom_is_synthetic(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    stream = io.BytesIO(load_writer("dicom").encode(np.zeros((1, 8, 8), np.uint8), geometry=None, origin={}))
    dataset = pydicom.dcmread(stream)
    del dataset.ImageComments
    dataset.save_as(tmp_path / "other.dcm")
    found = trace(tmp_path / "other.dcm")
    assert (found.verdict, found.origin) == ("synthetic", None)
    assert "by which model is not known" in str(found)


def test_a_file_known_by_its_name_alone_is_said_to_be(gan: Sampler, tmp_path: Path) -> None:
    export_folder(gan, tmp_path / "out", counts={"disk": 1}, format="npy")
    with (tmp_path / "out" / "metadata.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    found = trace(tmp_path / "out" / row["file_name"])
    assert any("by its name" in note for note in found.notes)
