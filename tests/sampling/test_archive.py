"""All images in one archive, with the keys of MedMNIST."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from ganaug.data import scan
from ganaug.data.intensity import IntensityMap
from ganaug.sampling import archive
from ganaug.sampling.export import export_folder
from tests.sampling.fake_sampler import FakeSampler, read_back

FLOATS = IntensityMap(kind="window", low=0.0, high=1000.0, dtype="float32")


def _load(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "synthetic.npz", allow_pickle=False) as stored:
        return dict(stored)


def test_the_archive_has_the_images_labels_and_origins(tmp_path: Path) -> None:
    gan = FakeSampler(classes=("a", "病", "c"))
    summary = export_folder(gan, tmp_path / "out", counts={"a": 3, "c": 5}, format="npz")  # type: ignore[arg-type]
    assert (summary["format"], summary["images"], summary["kept"]) == ("npz", 8, 0)
    stored = _load(tmp_path / "out")
    assert (stored["train_images"].shape, stored["train_images"].dtype) == ((8, 4, 6), np.uint8)
    assert (stored["train_labels"].shape, stored["train_labels"].dtype) == ((8, 1), np.uint8)
    assert stored["class_names"].tolist() == ["a", "病", "c"]
    for image, label, index in zip(stored["train_images"], stored["train_labels"], stored["index"], strict=True):
        assert read_back(image[None]) == (label[0], index)
    assert (int(stored["seed"]), float(stored["truncation"]), str(stored["model_sha256"])) == (0, 1.0, "ab" * 32)


def test_the_table_names_each_member(tmp_path: Path) -> None:
    export_folder(FakeSampler(), tmp_path / "out", counts={"a": 1, "b": 1}, format="npz")  # type: ignore[arg-type]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "synthetic.npz", "metadata.csv", "README.md", "request.json", ".ganaug"
    }  # fmt: skip
    with (tmp_path / "out" / "metadata.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["file_name"], row["label"]) for row in rows] == [
        ("synthetic.npz#train[0]", "a"),
        ("synthetic.npz#train[1]", "b"),
    ]


@pytest.mark.parametrize(
    ("shape", "wanted"), [((3, 4, 6), (4, 6, 3)), ((1, 2, 4, 6), (2, 4, 6)), ((2, 5, 4, 6), (5, 4, 6, 2))]
)
def test_channels_come_last_and_volumes_stay_volumes(
    tmp_path: Path, shape: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    gan = FakeSampler(shape=shape, intensity=FLOATS)
    export_folder(gan, tmp_path / "out", counts={"a": 0, "b": 3}, format="npz")  # type: ignore[arg-type]
    images = _load(tmp_path / "out")["train_images"]
    assert (images.shape, images.dtype) == ((3, *wanted), np.float32)
    first = images[2] if shape[0] == 1 else np.moveaxis(images[2], -1, 0)[0]
    assert np.allclose(first[..., 0, :], 10)
    assert np.allclose(first[..., 1, :], 2)


def test_more_classes_than_a_byte_counts_take_wider_labels(tmp_path: Path) -> None:
    names = [str(i) for i in range(257)]
    gan = FakeSampler(classes=names, intensity=FLOATS)
    export_folder(gan, tmp_path / "out", counts={"256": 2}, format="npz")  # type: ignore[arg-type]
    assert _load(tmp_path / "out")["train_labels"].tolist() == [[256], [256]]


def test_an_archive_that_was_done_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> str:
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr("ganaug.sampling.export.data_card", broken)
        with pytest.raises(RuntimeError):
            export_folder(FakeSampler(), tmp_path / "out", counts={"a": 3}, format="npz")  # type: ignore[arg-type]
    gan = FakeSampler()
    assert export_folder(gan, tmp_path / "out", counts={"a": 3}, format="npz")["kept"] == 3  # type: ignore[arg-type]
    assert gan.calls == []


def test_an_archive_that_was_cut_off_is_written_again_from_the_images_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(archive.shutil, "copyfileobj", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(Exception, match="No space is left"):
            export_folder(FakeSampler(), tmp_path / "out", counts={"a": 3}, format="npz")  # type: ignore[arg-type]
    assert not list(tmp_path.rglob("*.npz*"))
    gan = FakeSampler()
    assert export_folder(gan, tmp_path / "out", counts={"a": 3}, format="npz")["kept"] == 3  # type: ignore[arg-type]
    assert gan.calls == []
    export_folder(FakeSampler(), tmp_path / "again", counts={"a": 3}, format="npz")  # type: ignore[arg-type]
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_the_archive_reads_back_as_a_labelled_data_set(tmp_path: Path) -> None:
    gan = FakeSampler(classes=("a", "病", "c"))
    export_folder(gan, tmp_path / "out", counts={"a": 3, "病": 2, "c": 4}, format="npz")  # type: ignore[arg-type]
    manifest = scan(tmp_path / "out" / "synthetic.npz")
    assert manifest.counts == {"a": 3, "c": 4, "病": 2}
    assert manifest.skipped == ()
    assert {item.format for item in manifest.items} == {"npz"}
