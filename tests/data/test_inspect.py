import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganaug.data import scan
from ganaug.data.inspect import class_advice, format_report, inspect_manifest
from tests.data.folders import make_folder, pixels, save
from tests.data.items import UINT16, kinds, make_item, make_manifest


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
    return inspect_manifest(scan(root, detail=True))


def test_every_problem_is_found_and_names_its_files(messy: dict[str, Any]) -> None:
    assert kinds(messy["problems"]) == {
        "unreadable": ["normal/005.png"],
        "not_images": ["normal/notes.txt"],
        "unlabelled_images": ["outside.png"],
        "constant_images": ["benign/black.png"],
        "empty_class": [],
        "one_image_class": ["rare/000.png"],
        "duplicates": ["normal/001.png", "normal/copy.png"],
        "duplicates_across_classes": ["benign/stray.png", "normal/002.png"],
        "no_groups": [],
        "mixed_sizes": ["benign/wide.png"],
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
    assert benign["formats"] == {"PNG": 17}
    assert sum(benign["modes"].values()) == 17
    assert len(benign["modes"]) == 3
    assert benign["intensity"] == [0, pixels(79, dtype="uint16").max()]
    assert rows["normal"]["images"] == 20
    assert rows["normal"]["groups"] == 19
    assert {key: value for key, value in rows["empty"].items() if value} == {"name": "empty"}
    assert (messy["images"], messy["unreadable"], messy["ignored"], messy["imbalance"]) == (38, 1, 2, 20)


def test_the_figures_of_volumes() -> None:
    volumes = [
        make_item(
            f"a/{depth}.nii",
            shape=(depth, 12, 10),
            spacing=(thickness, 1.0, 0.5),
            orientation="RAS",
            split="train",
            format="NIfTI",
            **UINT16,
        )
        for depth, thickness in ((8, 2.0), (9, 3.0), (30, 2.5))
    ]
    flat = make_item("a/flat.png", spacing=(7.0, 7.0))
    row = inspect_manifest(make_manifest(*volumes, flat))["classes"][0]
    assert row["depth"] == [8, 9, 30]
    assert row["height"] == [12, 12, 12]
    assert row["spacing"] == [[2.0, 2.5, 3.0], [1.0, 1.0, 1.0], [0.5, 0.5, 0.5]]
    assert row["orientations"] == {"RAS": 3}
    assert row["splits"] == {"train": 3}
    assert row["formats"] == {"NIfTI": 3, "PNG": 1}


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
    assert lines.index("9 problems:") < lines.index("3 notes:") < lines.index("Training by class size:")


def test_a_wide_table_leaves_out_what_matters_least() -> None:
    items = [
        make_item(
            f"a/{index}.nii",
            shape=(100 + index, 1200, 1000 + index),
            spacing=(1.0001 + index, 0.51234, 0.51234),
            format=f"Format{index}",
            mode=f"MONOCHROME2 {index} bit",
            **UINT16,
        )
        for index in range(20)
    ]
    lines = format_report(inspect_manifest(make_manifest(*items))).splitlines()
    header = next(line for line in lines if line.startswith("class"))
    assert {"size", "intensity", "type"} <= set(header.split())
    assert "mode" not in header
    assert max(len(line) for line in lines if line.startswith(("class", "a ", "b "))) <= 110


def test_a_clean_folder_has_notes_at_most(tmp_path: Path) -> None:
    report = inspect_manifest(scan(make_folder(tmp_path, {"a": 2, "b": 2}), detail=True))
    assert {problem["level"] for problem in report["problems"]} <= {"note"}
    assert "No problems were found." in format_report(report)


def test_a_few_names_are_printed_and_the_json_has_all(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 2, "b": 2})
    for index in range(12):
        (tmp_path / "a" / f"note{index:02d}.txt").write_text("x")
    report = inspect_manifest(scan(tmp_path))
    text = format_report(report)
    assert text.count("note0") == 5
    assert "and 7 more" in text
    assert len(kinds(report["problems"])["not_images"]) == 12


def test_copies_are_printed_side_by_side() -> None:
    items = [make_item(f"a/{index}.png", sha256=str(index // 5)) for index in range(10)]
    assert "a/0.png = a/1.png = a/2.png = …, a/5.png = a/6.png" in format_report(
        inspect_manifest(make_manifest(*items))
    )


def test_of_many_classes_the_first_are_listed() -> None:
    names = tuple(f"p{index:03d}" for index in range(300))
    items = [make_item(f"{name}/1.png", label=index) for index, name in enumerate(names)]
    text = format_report(inspect_manifest(make_manifest(*items, classes=names)))
    assert "and 260 more classes" in text
    assert "300 classes with 1 image ('p000', 'p001', 'p002', 'p003', 'p004' and 295 more)" in text
    assert len(text.splitlines()) < 60


def test_names_that_a_terminal_cannot_take_are_escaped(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "a" / "bell\x1b[31m.txt").write_text("x")
    report = inspect_manifest(scan(tmp_path))
    assert "\x1b" not in format_report(report)
    assert kinds(report["problems"])["not_images"] == ["a/bell\x1b[31m.txt"]

    bell = "a\x1b[31m"
    item = make_item(bell, format=bell, mode=bell, sha256=bell, phash=7, hints=(f"suffix_lies: {bell}",))
    items = [item, item, replace(item, path="other", shape=(9, 9), label=1)]
    assert "\x1b" not in format_report(inspect_manifest(make_manifest(*items, classes=(bell, "b"))))


def test_advice_by_class_size() -> None:
    advice = class_advice({"none": 0, "one": 1, "few": 9, "rare": 10, "small": 50, "enough": 500})
    assert {row["class"]: row["level"] for row in advice} == {
        "none": "untrainable",
        "one": "untrainable",
        "few": "repeats",
        "rare": "rare",
        "small": "small",
        "enough": "enough",
    }
    assert [row["to_level"] for row in advice] == [500, 499, 491, 490, 450, 0]
    assert class_advice({}) == []


def test_domains_are_told_with_their_classes() -> None:
    rows = [("north", 0), ("north", 0), ("north", 1), ("south", 1), ("", 1)]
    items = [make_item(f"{index}.png", domain=name, label=label) for index, (name, label) in enumerate(rows)]
    report = inspect_manifest(make_manifest(*items))
    assert report["domains"] == {
        "north": {"images": 3, "classes": {"a": 2, "b": 1}},
        "south": {"images": 1, "classes": {"b": 1}},
    }
    text = format_report(json.loads(json.dumps(report)))
    assert "\n2 domains: north (3 images), south (1 image); 1 image without one\n" in text
    plain = inspect_manifest(make_manifest(make_item("1.png")))
    assert plain["domains"] == {}
    assert "domain" not in format_report(plain)


def test_the_advice_is_on_what_may_be_trained_on() -> None:
    items = [make_item(f"a/{index}.png", split="train" if index < 3 else "test") for index in range(9)]
    report = inspect_manifest(make_manifest(*items))
    assert [row["images"] for row in report["advice"]] == [3, 0]
    assert "a (3 images): the generator will mostly repeat" in format_report(report)


def test_a_folder_without_readable_images_has_a_report() -> None:
    assert "a (0 images)" in format_report(inspect_manifest(make_manifest()))
