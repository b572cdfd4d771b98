"""A labelled folder of synthetic images: complete or absent, gone on with, and described file by file."""

from __future__ import annotations

import csv
import errno
import json
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from ganaug.data import scan
from ganaug.data.geometry import Geometry
from ganaug.data.intensity import IntensityMap
from ganaug.data.readers import read
from ganaug.errors import ConfigError, GanaugError, ModelFileError
from ganaug.files import MARKER
from ganaug.sampling import export, request
from ganaug.sampling.export import COLUMNS, export_formats
from ganaug.sampling.sampler import load
from tests.sampling.fake_sampler import FakeSampler, read_back
from tests.tiny import make_model

COUNTS = {"a": 3, "b": 0, "c": 9}
UINT16 = IntensityMap(kind="window", low=0.0, high=50_000.0, dtype="uint16")
INT16 = IntensityMap(kind="window", low=-1000.0, high=2000.0, dtype="int16")


def export_folder(gan: Any, out: Path, **options: Any) -> dict[str, Any]:
    return export.export_folder(gan, out, **options)


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in _files(folder)}


def _counts(folder: Path) -> dict[str, int]:
    return dict(Counter(path.parent.name for path in folder.rglob("*.png")))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "out"
    summary = export_folder(FakeSampler(), out, counts=COUNTS, seed=3, truncation=0.9)
    assert summary == {
        "out": str(out),
        "format": "png",
        "images": 12,
        "kept": 0,
        "counts": COUNTS,
        "seed": 3,
        "model_sha256": "ab" * 32,
    }
    return out


def test_each_class_has_the_count_asked_for(exported: Path) -> None:
    assert Counter(row["label"] for row in _rows(exported)) == {"a": 3, "c": 9}
    assert _counts(exported) == {"a": 3, "c": 9}
    assert (exported / "b").is_dir(), "so that label indices stay the same"


def test_the_table_describes_exactly_the_files_on_disk(exported: Path) -> None:
    rows = _rows(exported)
    assert tuple(rows[0]) == COLUMNS
    about = {"metadata.csv", "README.md", "request.json", MARKER}
    assert {row["file_name"] for row in rows} | about == _files(exported)
    assert len({row["file_name"] for row in rows}) == len(rows)
    for row in rows:
        assert row["model_sha256"] == "ab" * 32
        assert (row["synthetic"], row["seed"], row["truncation"]) == ("True", "3", "0.9")


def test_every_file_holds_the_image_that_its_row_names(exported: Path) -> None:
    for row in _rows(exported):
        pixels = read(exported / row["file_name"]).pixels
        assert pixels.shape == (4, 6, 1)
        assert int(pixels[0, 0, 0]) == 10 * "abc".index(row["label"]) + 3
        assert int(pixels[1, 0, 0]) == int(row["index"])


def test_the_text_chunk_says_what_the_row_says(exported: Path) -> None:
    for row in _rows(exported):
        with Image.open(exported / row["file_name"]) as picture:
            origin: dict[str, Any] = json.loads(picture.text["ganaug"])  # type: ignore[attr-defined]
        assert {key: str(value) for key, value in origin.items()} == {k: v for k, v in row.items() if k != "file_name"}


def test_the_folder_reads_back_as_a_labelled_data_set(exported: Path) -> None:
    manifest = scan(exported)
    assert manifest.classes == ("a", "c")
    assert manifest.counts == {"a": 3, "c": 9}
    assert {(item.height, item.width, item.channels, item.dtype) for item in manifest.items} == {(4, 6, 1, "uint8")}
    assert manifest.skipped == ()


def test_a_real_models_images_are_those_that_it_samples(tmp_path: Path) -> None:
    gan = load(make_model(tmp_path / "m.safetensors"), device="cpu")
    export_folder(gan, tmp_path / "out", counts={"cross": 2, "ring": 3}, seed=3, truncation=0.9)
    for row in _rows(tmp_path / "out"):
        label = gan.classes.index(row["label"])
        image = gan.stored(gan.sample([label], indices=[int(row["index"])], seed=3, truncation=0.9))
        assert np.array_equal(read(tmp_path / "out" / row["file_name"]).pixels[..., 0], image[0, 0].numpy())


def test_more_images_begin_with_the_same_ones(exported: Path, tmp_path: Path) -> None:
    export_folder(FakeSampler(), tmp_path / "more", counts={"c": 12}, seed=3, truncation=0.9)
    for name in (path.name for path in (exported / "c").iterdir()):
        assert (tmp_path / "more" / "c" / name).read_bytes() == (exported / "c" / name).read_bytes()


@pytest.mark.parametrize("batch", [1, 5, 256])
def test_the_batches_do_not_change_a_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    export_folder(FakeSampler(), tmp_path / "one", counts={"a": 7, "c": 6})
    monkeypatch.setattr(request, "BATCH", batch)
    gan = FakeSampler()
    export_folder(gan, tmp_path / "two", counts={"a": 7, "c": 6})
    assert max(gan.calls) <= batch
    assert sum(gan.calls) == 13
    assert _contents(tmp_path / "one") == _contents(tmp_path / "two")


def test_a_batch_of_large_volumes_stays_small() -> None:
    gan = FakeSampler(shape=(1, 100, 200, 200), intensity=INT16)
    asked = request.Request.of(gan, {"a": 10}, format="nifti", seed=0, truncation=1.0)
    assert asked.batch * 4 * 100 * 200 * 200 <= request.BATCH_BYTES
    assert asked.batch == 4


def test_a_batch_is_encoded_while_the_next_one_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second batch waits for the first one's files, which would never come if they waited for it."""
    monkeypatch.setattr(request, "BATCH", 4)
    written = threading.Semaphore(0)
    original = export.write_file

    def write_file(path: Path, data: bytes) -> None:
        original(path, data)
        written.release()

    class Waits(FakeSampler):
        def sample(self, labels: Sequence[int], **options: Any) -> torch.Tensor:
            if len(self.calls) == 1:
                for _ in range(4):
                    assert written.acquire(timeout=20)
            return super().sample(labels, **options)

    monkeypatch.setattr(export, "write_file", write_file)
    assert export_folder(Waits(), tmp_path / "out", counts={"a": 8})["images"] == 8


def test_few_batches_wait_to_be_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "BATCH", 4)
    ahead = []
    written = Counter[str]()
    original = export.write_file

    def write_file(path: Path, data: bytes) -> None:
        threading.Event().wait(0.01)
        original(path, data)
        written["all"] += 1

    class Counts(FakeSampler):
        def sample(self, labels: Sequence[int], **options: Any) -> torch.Tensor:
            ahead.append(sum(self.calls) - written["all"])
            return super().sample(labels, **options)

    monkeypatch.setattr(export, "write_file", write_file)
    export_folder(Counts(), tmp_path / "out", counts={"a": 60})
    assert 4 <= max(ahead) <= 2 * 4


@pytest.mark.parametrize("format_", [name for name in export_formats() if name not in ("auto", "npz", "bank")])
def test_every_writers_folder_reads_back(tmp_path: Path, format_: str) -> None:
    if format_ == "dicom":
        pytest.importorskip("pydicom")
    summary = export_folder(FakeSampler(), tmp_path / "out", counts={"a": 2, "c": 3}, format=format_)
    assert summary["format"] == format_
    manifest = scan(tmp_path / "out")
    assert manifest.counts == {"a": 2, "c": 3}
    for row in _rows(tmp_path / "out"):
        pixels = np.moveaxis(read(tmp_path / "out" / row["file_name"]).pixels, -1, 0)
        assert read_back(pixels) == ("abc".index(row["label"]), int(row["index"]))


@pytest.mark.parametrize(
    ("source", "intensity", "suffix"), [("PNG", UINT16, ".png"), ("TIFF", UINT16, ".tif"), ("NIfTI", INT16, ".nii.gz")]
)
def test_files_leave_as_they_came(tmp_path: Path, source: str, intensity: IntensityMap, suffix: str) -> None:
    gan = FakeSampler(intensity=intensity, source_format=source)
    export_folder(gan, tmp_path / "out", counts={"a": 2, "b": 2})
    for row in _rows(tmp_path / "out"):
        assert row["file_name"].endswith(suffix)
        assert read(tmp_path / "out" / row["file_name"]).pixels.dtype == intensity.dtype


def test_volumes_leave_with_their_geometry(tmp_path: Path) -> None:
    geometry = Geometry(spacing=(4.0, 1.5, 2.0), orientation="RSA", center=(1.0, -2.0, 30.0))
    gan = FakeSampler(shape=(1, 3, 4, 6), intensity=INT16, source_format="NIfTI", geometry=geometry)
    export_folder(gan, tmp_path / "out", counts={"a": 1, "c": 2})
    for row in _rows(tmp_path / "out"):
        image = nib.load(tmp_path / "out" / row["file_name"])
        assert nib.aff2axcodes(image.affine) == ("R", "S", "A")  # type: ignore[attr-defined]
        assert image.header.get_zooms() == (2.0, 4.0, 1.5)  # type: ignore[attr-defined]
        decoded = read(tmp_path / "out" / row["file_name"])
        assert decoded.center == (1.0, -2.0, 30.0)
        assert np.array_equal(np.unique(decoded.pixels[:, 1]), [int(row["index"])])


def test_a_format_that_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    gan = FakeSampler(shape=(1, 3, 4, 6), intensity=INT16)
    with pytest.raises(
        ConfigError, match=r"--format png does not fit this model.*volumes of 3×4×6, 1 channel of int16"
    ):
        export_folder(gan, tmp_path / "out", counts={"a": 1}, format="png")
    with pytest.raises(ConfigError, match=r"--format jpg was given; one of auto, .*tiff, npz, bank"):
        export_folder(gan, tmp_path / "out", counts={"a": 1}, format="jpg")
    with pytest.raises(ConfigError, match="'z'"):
        export_folder(gan, tmp_path / "out", counts={"z": 1})
    assert list(tmp_path.iterdir()) == []


def test_a_bank_comes_by_the_same_way(tmp_path: Path) -> None:
    from ganaug.sampling.bank import SyntheticBank

    gan = FakeSampler()
    summary = export_folder(gan, tmp_path / "out", counts=COUNTS, format="bank")
    assert (summary["format"], summary["images"], summary["kept"]) == ("bank", 12, 0)
    assert SyntheticBank.open(tmp_path / "out").counts == COUNTS
    again = SyntheticBank.generate(gan, tmp_path / "out", counts=COUNTS)
    assert len(again) == 12
    assert sum(gan.calls) == 12, "both ways make the same bank"


def test_a_complete_folder_is_not_touched_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_folder(FakeSampler(), out, counts=COUNTS)
    before = {path: path.stat().st_mtime_ns for path in (out, *out.rglob("*"))}
    gan = FakeSampler()
    summary = export_folder(gan, out, counts={"c": 9, "a": 3}, format="png")
    assert (summary["images"], summary["kept"]) == (12, 12)
    assert gan.calls == []
    assert {path: path.stat().st_mtime_ns for path in (out, *out.rglob("*"))} == before


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"truncation": 0.5}, {"counts": {"a": 4}}, {"format": "tiff"}, {"gan": "cd"}], ids=str
)
def test_any_other_request_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    export_folder(FakeSampler(), tmp_path / "out", counts={"a": 3})
    before = _contents(tmp_path / "out")
    gan = FakeSampler()
    gan.model_sha256 = change.pop("gan", gan.model_sha256[:2]) * 32
    with pytest.raises(ConfigError, match="not empty"):
        export_folder(gan, tmp_path / "out", **{"counts": {"a": 3}, **change})
    assert _contents(tmp_path / "out") == before


def test_a_folder_that_holds_something_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(ConfigError):
            export_folder(FakeSampler(), tmp_path / "out", counts=COUNTS, overwrite=overwrite)
    assert _files(tmp_path) == {"out/thesis.txt"}
    assert (tmp_path / "out" / "thesis.txt").read_text() == "precious"


def test_overwrite_replaces_an_export_and_an_empty_folder_is_taken(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    export_folder(FakeSampler(), out, counts={"a": 2})
    export_folder(FakeSampler(), out, counts={"c": 1}, overwrite=True)
    assert _counts(out) == {"c": 1}
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


class BreaksOff(FakeSampler):
    """Raises `problem` once `after` images were asked for."""

    def __init__(self, problem: BaseException, after: int, **options: Any) -> None:
        super().__init__(**options)
        self.problem, self.after = problem, after

    def sample(self, labels: Sequence[int], **options: Any) -> torch.Tensor:
        if sum(self.calls) >= self.after:
            raise self.problem
        return super().sample(labels, **options)


@pytest.mark.parametrize("problem", [RuntimeError("broken"), KeyboardInterrupt()])
def test_a_failure_midway_is_gone_on_with_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: BaseException
) -> None:
    monkeypatch.setattr(request, "BATCH", 4)
    out = tmp_path / "out"
    with pytest.raises(type(problem)):
        export_folder(BreaksOff(problem, after=8), out, counts=COUNTS)
    assert not out.exists()
    gan = FakeSampler()
    assert export_folder(gan, out, counts=COUNTS)["kept"] == 8
    assert gan.calls == [4]
    export_folder(FakeSampler(), tmp_path / "again", counts=COUNTS)
    assert _contents(out) == _contents(tmp_path / "again")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "again"}


def test_what_a_power_cut_left_empty_or_cut_is_made_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RuntimeError):
        export_folder(BreaksOff(RuntimeError(), after=12), out, counts={"a": 300})
    export_folder(FakeSampler(), out, counts={"a": 12})
    wanted = _contents(out)
    begun = tmp_path / ".out.unfinished"
    out.replace(begun)
    (begun / "a" / "synthetic-0-000003.png").write_bytes(b"")
    (begun / "a" / "synthetic-0-000004.png").unlink()
    (begun / "a" / "synthetic-0-000004.png.part").write_bytes(b"\x89PNG")
    (begun / "metadata.csv").unlink()
    (begun / "metadata.csv.part").write_bytes(b"file_na")
    gan = FakeSampler()
    assert export_folder(gan, out, counts={"a": 12})["kept"] == 10
    assert sum(gan.calls) == 2
    assert _contents(out) == wanted


def _fill_the_disk(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let the file system fail at the end of a write once `after` files were written."""
    original = Path.replace
    calls = Counter[str]()

    def replace(self: Path, target: Path) -> Path:
        calls["all"] += 1
        if calls["all"] > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, target)

    monkeypatch.setattr(Path, "replace", replace)


@pytest.mark.parametrize("format_", ["png", "npz", "bank"])
def test_a_full_disk_is_a_sentence_and_the_work_goes_on_later(tmp_path: Path, format_: str) -> None:
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patched:
        _fill_the_disk(patched, 2)
        with pytest.raises(GanaugError, match=r"No space is left.*run the same command again"):
            export_folder(FakeSampler(), out, counts=COUNTS, format=format_)
    assert {path.name for path in tmp_path.iterdir()} == {".out.unfinished"}
    assert not list(tmp_path.rglob("*.part"))
    export_folder(FakeSampler(), out, counts=COUNTS, format=format_)
    export_folder(FakeSampler(), tmp_path / "again", counts=COUNTS, format=format_)
    assert _contents(out) == _contents(tmp_path / "again")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "again"}


def test_a_failure_midway_of_overwrite_keeps_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_folder(FakeSampler(), out, counts={"a": 2})
    before = _contents(out)
    with pytest.raises(RuntimeError):
        export_folder(BreaksOff(RuntimeError(), after=0), out, counts=COUNTS, overwrite=True)
    assert _contents(out) == before
    export_folder(FakeSampler(), out, counts=COUNTS, overwrite=True)
    assert _counts(out) == {"a": 3, "c": 9}


def test_a_model_that_makes_nan_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    class MakesNan(FakeSampler):
        def sample(self, labels: Sequence[int], **options: Any) -> torch.Tensor:
            return super().sample(labels, **options) * float("nan")

    with pytest.raises(ModelFileError, match="NaN"):
        export_folder(MakesNan(), tmp_path / "out", counts=COUNTS)
    assert list(tmp_path.iterdir()) == []


def _round_trip(tmp_path: Path, labels: list[str]) -> Path:
    """Export two images of each class and check that they come back with their labels."""
    classes = tuple(sorted(labels))
    out = tmp_path / "deep" / "out"
    export_folder(FakeSampler(classes=classes), out, counts=dict.fromkeys(classes, 2))
    back = scan(out)
    assert back.classes == classes
    assert back.counts == dict.fromkeys(classes, 2)
    assert {p.name for p in tmp_path.iterdir()} == {"deep"}, "a name led out of the folder"
    for row in _rows(out):
        pixels = read(out / row["file_name"]).pixels
        assert read_back(np.moveaxis(pixels, -1, 0)) == (classes.index(row["label"]), int(row["index"]))
    return out


def test_class_names_with_odd_characters_become_safe_folders_and_keep_their_labels(tmp_path: Path) -> None:
    labels = [
        "a/b",
        "CON",
        "ä ö",
        "..",
        ".hidden",
        'say "hi", twice',
        "tab\there",
        "../up",
        "c:\\d",
        "?",
        "病変",
        "x" * 300,
    ]
    out = _round_trip(tmp_path, labels)
    folders = [path.name for path in out.iterdir() if path.is_dir()]
    assert len(folders) == len(labels)
    assert not any(set(name) & set('/\\:*?"<>|\t') for name in folders)
    assert all(name == name.strip(" .") for name in folders)
    assert "ä ö" in folders


@pytest.mark.parametrize(
    "labels",
    [
        ["a/b", "a_b", "a:b"],
        ["Case", "case"],
        ["a", "b"],
        ["?", "*", "_"],
        ["a*b", "a*b-2", "a/b"],
        ["病" * 100, "b"],
        ["metadata.csv", "README.md", "request.json"],
    ],
)
def test_class_names_that_collide_after_cleaning_get_folders_of_their_own(tmp_path: Path, labels: list[str]) -> None:
    _round_trip(tmp_path, labels)


def test_a_class_whose_name_is_no_valid_text_is_written_all_the_same(tmp_path: Path) -> None:
    gan = FakeSampler(classes=("bad\udcff", "good"))
    export_folder(gan, tmp_path / "out", counts={"bad\udcff": 1, "good": 1})
    assert [row["label"] for row in _rows(tmp_path / "out")] == ["bad\\udcff", "good"]
