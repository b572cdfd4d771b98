"""A labelled folder of synthetic images: complete or absent, and described file by file."""

from __future__ import annotations

import csv
import errno
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ganaug.data import scan
from ganaug.data.readers import read
from ganaug.errors import ConfigError, GanaugError
from ganaug.files import MARKER
from ganaug.sampling.export import COLUMNS, export_folder
from ganaug.sampling.sampler import Sampler, load
from tests.tiny import UINT16, make_model

COUNTS = {"cross": 3, "disk": 0, "ring": 9}


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def exported(gan: Sampler, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "out"
    summary = export_folder(gan, out, counts=COUNTS, seed=3, truncation=0.9)
    assert summary == {"out": str(out), "images": 12, "counts": COUNTS, "seed": 3, "model_sha256": gan.model_sha256}
    return out


def test_each_class_has_the_count_asked_for(exported: Path) -> None:
    assert Counter(row["label"] for row in _rows(exported)) == {"cross": 3, "ring": 9}
    assert Counter(path.parent.name for path in exported.rglob("*.png")) == {"cross": 3, "ring": 9}


def test_the_table_describes_exactly_the_files_on_disk(gan: Sampler, exported: Path) -> None:
    rows = _rows(exported)
    assert tuple(rows[0]) == COLUMNS
    assert {row["file_name"] for row in rows} | {"metadata.csv", "README.md", MARKER} == _files(exported)
    assert len({row["file_name"] for row in rows}) == len(rows)
    for row in rows:
        assert row["model_sha256"] == gan.model_sha256
        assert (row["synthetic"], row["seed"], row["truncation"]) == ("True", "3", "0.9")


def test_every_file_holds_the_image_that_its_row_names(gan: Sampler, exported: Path) -> None:
    for row in _rows(exported):
        label = gan.classes.index(row["label"])
        image = gan.sample([label], indices=[int(row["index"])], seed=3, truncation=0.9)
        assert np.array_equal(read(exported / row["file_name"])[..., 0], gan.stored(image)[0, 0].numpy())


def test_the_text_chunk_says_what_the_row_says(exported: Path) -> None:
    for row in _rows(exported):
        with Image.open(exported / row["file_name"]) as picture:
            origin: dict[str, Any] = json.loads(picture.text["ganaug"])  # type: ignore[attr-defined]
        assert {key: str(value) for key, value in origin.items()} == {k: v for k, v in row.items() if k != "file_name"}


def test_the_folder_reads_back_as_a_labelled_data_set(exported: Path) -> None:
    manifest = scan(exported)
    assert manifest.classes == ("cross", "ring")
    assert manifest.counts == {"cross": 3, "ring": 9}
    assert {(item.height, item.width, item.channels, item.dtype) for item in manifest.items} == {(16, 16, 1, "uint8")}
    assert manifest.skipped == ()


def test_the_card_warns_and_counts(exported: Path, gan: Sampler) -> None:
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\n")
    for text in ("never to test or to", "| ring | 9 | 4 |", "| disk | 0 | 8 |", gan.model_sha256, "n<1K"):
        assert text in card


def test_more_images_begin_with_the_same_ones(gan: Sampler, exported: Path, tmp_path: Path) -> None:
    export_folder(gan, tmp_path / "more", counts={"ring": 12}, seed=3, truncation=0.9)
    for name in (path.name for path in (exported / "ring").iterdir()):
        assert (tmp_path / "more" / "ring" / name).read_bytes() == (exported / "ring" / name).read_bytes()


def test_more_images_than_a_batch_are_all_there(gan: Sampler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ganaug.sampling.export.BATCH", 5)
    export_folder(gan, tmp_path / "out", counts={"cross": 7, "ring": 6})
    assert scan(tmp_path / "out").counts == {"cross": 7, "ring": 6}
    images = {path.read_bytes() for path in (tmp_path / "out").rglob("*.png")}
    assert len(images) == 13


@pytest.mark.parametrize("channels", [1, 3])
def test_color_and_sixteen_bit_models_write_such_files(tmp_path: Path, channels: int) -> None:
    intensity = {"intensity": UINT16} if channels == 1 else {}
    gan = load(make_model(tmp_path / "m.safetensors", channels=channels, **intensity), device="cpu")  # type: ignore[arg-type]
    export_folder(gan, tmp_path / "out", counts={"cross": 2, "disk": 2})
    items = scan(tmp_path / "out").items
    assert {(item.channels, item.dtype) for item in items} == {(channels, "uint16" if channels == 1 else "uint8")}
    for item in items:
        pixels = torch.from_numpy(read(tmp_path / "out" / item.path)).permute(2, 0, 1)
        index = int(item.path[-10:-4])
        label = [("cross", "disk")[item.label] == name for name in gan.classes].index(True)
        assert torch.equal(pixels, gan.stored(gan.sample([label], indices=[index]))[0])


def test_a_folder_that_holds_something_is_refused_and_untouched(gan: Sampler, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(ConfigError):
            export_folder(gan, tmp_path / "out", counts=COUNTS, overwrite=overwrite)
    assert _files(tmp_path) == {"out/thesis.txt"}
    assert (tmp_path / "out" / "thesis.txt").read_text() == "precious"


def test_overwrite_replaces_an_export_and_an_empty_folder_is_taken(gan: Sampler, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    export_folder(gan, out, counts={"cross": 2})
    with pytest.raises(ConfigError, match="not empty"):
        export_folder(gan, out, counts={"ring": 1})
    assert scan_counts(out) == {"cross": 2}
    export_folder(gan, out, counts={"ring": 1}, overwrite=True)
    assert scan_counts(out) == {"ring": 1}
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def scan_counts(folder: Path) -> dict[str, int]:
    return dict(Counter(path.parent.name for path in folder.rglob("*.png")))


def _break_at(monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException) -> None:
    original = Image.Image.save
    calls = Counter[str]()

    def save(*args: Any, **kwargs: Any) -> None:
        calls["all"] += 1
        if calls["all"] == number:
            raise error
        original(*args, **kwargs)

    monkeypatch.setattr(Image.Image, "save", save)


@pytest.mark.parametrize(
    ("error", "wanted"),
    [(OSError(errno.ENOSPC, "No space left on device"), GanaugError), (KeyboardInterrupt(), KeyboardInterrupt)],
    ids=["full disk", "ctrl-c"],
)
def test_a_failure_midway_leaves_nothing_behind(
    gan: Sampler,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    wanted: type[BaseException],
) -> None:
    _break_at(monkeypatch, 10, error)
    with pytest.raises(wanted):
        export_folder(gan, tmp_path / "out", counts=COUNTS)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_midway_of_overwrite_keeps_what_was_there(
    gan: Sampler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_folder(gan, tmp_path / "out", counts={"cross": 2})
    before = {name: (tmp_path / "out" / name).read_bytes() for name in _files(tmp_path / "out")}
    _break_at(monkeypatch, 10, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(GanaugError, match="No space is left"):
        export_folder(gan, tmp_path / "out", counts=COUNTS, overwrite=True)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in _files(tmp_path / "out")} == before
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def _from_table(root: Path, labels: list[str]) -> tuple[str, ...]:
    """Write a folder whose metadata.csv uses `labels`, and return the classes that it has."""
    root.mkdir()
    with (root / "metadata.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file_name", "label"])
        for number, label in enumerate(labels):
            Image.fromarray(np.full((8, 8), number, dtype=np.uint8)).save(root / f"{number}.png")
            writer.writerow([f"{number}.png", label])
    return scan(root).classes


def _round_trip(tmp_path: Path, labels: list[str]) -> Path:
    """Export two images of each class and check that they come back with their labels."""
    classes = _from_table(tmp_path / "data", labels)
    assert set(classes) == set(labels)
    gan = load(make_model(tmp_path / "m.safetensors", classes=classes), device="cpu")
    out = tmp_path / "deep" / "out"
    out.parent.mkdir()
    export_folder(gan, out, counts=dict.fromkeys(classes, 2))
    back = scan(out)
    assert back.classes == classes
    assert back.counts == dict.fromkeys(classes, 2)
    assert {p.name for p in tmp_path.iterdir()} == {"data", "m.safetensors", "deep"}, "a name led out of the folder"
    for row in _rows(out):
        image = gan.sample([classes.index(row["label"])], indices=[int(row["index"])])
        assert np.array_equal(read(out / row["file_name"])[..., 0], gan.stored(image)[0, 0].numpy())
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


@pytest.mark.parametrize("labels", [["a/b", "a_b", "a:b"], ["Case", "case"], ["a ", "a", "b"][1:], ["?", "*", "_"]])
def test_class_names_that_collide_after_cleaning_get_folders_of_their_own(tmp_path: Path, labels: list[str]) -> None:
    _round_trip(tmp_path, labels)


def test_a_name_made_unique_does_not_collide_either(tmp_path: Path) -> None:
    _round_trip(tmp_path, ["a*b", "a*b-2", "a/b"])


def test_a_long_name_in_another_script_fits_the_file_system(tmp_path: Path) -> None:
    _round_trip(tmp_path, ["病" * 100, "b"])
