import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganaug.data.inspect import format_report, inspect_manifest
from ganaug.data.manifest import scan
from tests.data.folders import make_folder, pixels, save


@pytest.fixture
def messy(tmp_path: Path) -> dict[str, Any]:
    """Return the report on a folder with one of each problem."""
    root = make_folder(tmp_path / "scans", {"benign": 12, "normal": 20, "rare": 1})
    (root / "empty").mkdir()
    (root / "normal" / "005.png").write_text("broken")
    (root / "normal" / "notes.txt").write_text("x")
    save(root / "outside.png", pixels(0))
    shutil.copy(root / "normal" / "001.png", root / "normal" / "copy.png")
    shutil.copy(root / "normal" / "002.png", root / "benign" / "stray.png")
    save(root / "benign" / "wide.png", pixels(77, 12, 40))
    save(root / "benign" / "color.png", pixels(78, channels=3))
    save(root / "benign" / "deep.png", pixels(79, dtype="uint16"))
    save(root / "benign" / "black.png", np.zeros((12, 10), np.uint8))
    return inspect_manifest(scan(root))


def test_every_problem_is_found_and_names_its_files(messy: dict[str, Any]) -> None:
    found = {problem["kind"]: problem["files"] for problem in messy["problems"]}
    assert found == {
        "unreadable": ["normal/005.png"],
        "not_images": ["normal/notes.txt"],
        "unlabelled_images": ["outside.png"],
        "constant_images": ["benign/black.png"],
        "empty_class": [],
        "one_image_class": ["rare/000.png"],
        "duplicates": ["normal/001.png", "normal/copy.png"],
        "duplicates_across_classes": ["benign/stray.png", "normal/002.png"],
        "mixed_sizes": [],
        "mixed_channels": ["benign/color.png"],
        "mixed_dtypes": ["benign/deep.png"],
    }


def test_the_figures_of_each_class_and_in_all(messy: dict[str, Any]) -> None:
    rows = {row["name"]: row for row in messy["classes"]}
    assert list(rows) == ["benign", "empty", "normal", "rare"]
    benign = rows["benign"]
    assert (benign["images"], benign["groups"]) == (17, 17)
    assert (benign["height"], benign["width"]) == ([12, 12, 12], [10, 10, 40])
    assert benign["channels"] == {"1": 16, "3": 1}
    assert benign["dtypes"] == {"uint16": 1, "uint8": 16}
    assert benign["intensity"] == [0, pixels(79, dtype="uint16").max()]
    assert rows["normal"]["images"] == 20
    assert rows["normal"]["groups"] == 19
    assert rows["empty"] == {
        "name": "empty",
        "images": 0,
        "groups": 0,
        "height": None,
        "width": None,
        "channels": {},
        "dtypes": {},
        "intensity": None,
    }
    assert (messy["images"], messy["unreadable"], messy["ignored"], messy["imbalance"]) == (38, 1, 2, 20)


def test_the_report_is_plain_json(messy: dict[str, Any]) -> None:
    assert json.loads(json.dumps(messy)) == messy


def test_the_text_has_aligned_columns_and_every_message(messy: dict[str, Any]) -> None:
    text = format_report(messy)
    lines = text.splitlines()
    assert "38 images in 4 classes" in lines[0]
    header = next(i for i, line in enumerate(lines) if line.startswith("class"))
    table = lines[header : header + 5]
    end = table[0].index("images") + len("images")
    assert [line[:end].split()[-1] for line in table] == ["images", "17", "0", "20", "1"]
    assert all(line[end] == " " for line in table)
    for problem in messy["problems"]:
        assert problem["message"] in text


def test_a_clean_folder_has_no_problems(tmp_path: Path) -> None:
    report = inspect_manifest(scan(make_folder(tmp_path, {"a": 2, "b": 2})))
    assert report["problems"] == []
    assert "No problems were found." in format_report(report)


def test_at_most_five_names_are_printed_and_the_json_has_all(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 2, "b": 2})
    for index in range(12):
        (tmp_path / "a" / f"note{index:02d}.txt").write_text("x")
    report = inspect_manifest(scan(tmp_path))
    text = format_report(report)
    assert text.count("note") == 5
    assert "and 7 more" in text
    assert len(report["problems"][0]["files"]) == 12


def test_names_that_a_terminal_cannot_take_are_escaped(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "a" / "bell\x1b[31m.txt").write_text("x")
    report = inspect_manifest(scan(tmp_path))
    assert "\x1b" not in format_report(report)
    assert report["problems"][0]["files"] == ["a/bell\x1b[31m.txt"]
