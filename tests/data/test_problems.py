import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from ganaug.data.problems import class_problems, file_problems, group_problems, side_problems
from tests.data.items import kinds, make_item, make_manifest


def test_files_without_a_part_in_it_are_told_apart(tmp_path: Path) -> None:
    manifest = replace(
        make_manifest(make_item("a/1.png")),
        root=tmp_path,
        skipped=(("a/2.png", "truncated"), ("a/3.png", "truncated"), ("a/4.png", "empty")),
        ignored=("notes.txt", "stray.png"),
    )
    found = {problem["kind"]: problem for problem in file_problems(manifest)}
    assert kinds(found.values()) == {
        "unreadable": ["a/2.png", "a/3.png", "a/4.png"],
        "not_images": ["notes.txt"],
        "unlabelled_images": ["stray.png"],
    }
    assert found["unreadable"]["reasons"]["a/4.png"] == "empty"
    assert "truncated (2); empty (1)" in found["unreadable"]["message"]
    assert [found[kind]["level"] for kind in found] == ["problem", "note", "problem"]


def test_what_the_readers_noticed_is_reported_by_file() -> None:
    volume = {"path": "a/v.nii", "hints": ("reduced_depth: 64 bit to 32 bit", "suffix_lies: named .nii, holds DICOM")}
    manifest = make_manifest(
        make_item("a/1.png", hints=("suffix_lies: named .png, holds JPEG", "burned_in: at the margin")),
        make_item("a/2.png", hints=("suffix_lies: named .png, holds JPEG",)),
        make_item("a/3.png", minimum=7, maximum=7),
        make_item(**volume, part="axial[0]"),
        make_item(**volume, part="axial[1]"),
        make_item("a/4.png"),
    )
    found = {problem["kind"]: problem for problem in file_problems(manifest)}
    assert kinds(found.values()) == {
        "suffix_lies": ["a/1.png", "a/2.png", "a/v.nii"],
        "burned_in": ["a/1.png"],
        "constant_images": ["a/3.png"],
        "reduced_depth": ["a/v.nii"],
    }
    assert "named .png, holds JPEG: 2; named .nii, holds DICOM: 1" in found["suffix_lies"]["message"]


def test_an_image_alone_in_its_class_is_named() -> None:
    items = [make_item(f"{path}.png", label="abc".index(path[0])) for path in ("b/1", "c/1", "c/2")]
    manifest = make_manifest(*items, classes=("a", "b", "c"))
    assert kinds(class_problems(manifest)) == {"empty_class": [], "one_image_class": ["b/1.png"]}


def slices(path: str, **fields: str) -> list:
    source = hashlib.sha256(path.encode()).hexdigest()
    names = [f"axial[{index}]" for index in range(3)]
    return [
        make_item(
            path,
            **{"group": source, **fields},
            part=name,
            sha256=hashlib.sha256(f"{source}#{name}".encode()).hexdigest(),
        )
        for name in names
    ]


@pytest.mark.parametrize(
    "items",
    [[make_item("a/1.png"), make_item("a/2.png")], [*slices("a/1.nii"), *slices("a/2.nii")]],
    ids=["images", "slices"],
)
def test_unknown_patients_are_a_note(items: list) -> None:
    assert kinds(group_problems(items)) == {"no_groups": []}
    known = [replace(item, group=f"patient {item.path}") for item in items]
    assert list(group_problems(known)) == []
    assert list(group_problems([known[0], *items[1:]])) == [], "some are known"


def test_one_group_cannot_be_split() -> None:
    items = [make_item(f"a/{index}.png", group="p") for index in range(3)]
    assert kinds(group_problems(items)) == {"one_group": []}
    assert list(group_problems(items[:1])) == []
    assert list(group_problems([])) == []


def test_patients_in_two_splits_or_two_classes() -> None:
    items = [
        make_item("a/1.png", group="p", split="train"),
        make_item("a/2.png", group="p", split="test"),
        make_item("a/3.png", group="q", split=""),
        make_item("a/4.png", group="q", split="training"),
        make_item("a/5.png", group="r", split="val"),
        make_item("b/1.png", group="r", split="val", label=1),
    ]
    found = {problem["kind"]: problem for problem in group_problems(items)}
    assert kinds(found.values()) == {
        "groups_across_splits": ["a/1.png", "a/2.png"],
        "groups_across_classes": ["a/5.png", "b/1.png"],
    }
    assert found["groups_across_classes"]["level"] == "note"


def test_copies_without_a_known_patient_are_no_torn_group() -> None:
    copies = [make_item("a/1.png", sha256="0" * 64, split="train"), make_item("b/1.png", sha256="0" * 64, split="test")]
    assert list(group_problems([*copies, make_item("a/2.png", group="p")])) == []


@pytest.mark.parametrize(
    ("names", "sides"),
    [
        (["hand_L.png", "hand_R.png"], {"L": 1, "R": 1}),
        (["L/1.png", "R/2.png"], {"L": 1, "R": 1}),
        (["Left knee.png", "right-2.png", "RIGHT.png"], {"L": 1, "R": 2}),
        (["l_1.png", "r_1.png", "r.2.png"], {"L": 1, "R": 2}),
        (["bright.png", "leftover.png", "rl.png", "lung_LR.png"], {}),
        (["L_1.png", "L_2.png"], {}),
        (["L_1.png", "R_2.png", *(f"{index}.png" for index in range(30))], {}),
    ],
)
def test_names_that_tell_the_side_of_the_body(names: list[str], sides: dict[str, int]) -> None:
    found = list(side_problems([make_item(f"a/{name}") for name in names]))
    assert bool(found) == bool(sides)
    for problem in found:
        assert ", ".join(f"{side}: {n}" for side, n in sides.items()) in problem["message"]
        assert len(problem["files"]) == sum(sides.values())


def test_tags_that_tell_the_side_of_the_body() -> None:
    items = [make_item("a/1.dcm", hints=("laterality: L",)), *(make_item(f"a/{index}.png") for index in range(30))]
    assert kinds(side_problems(items)) == {"laterality": ["a/1.dcm"]}


def test_files_that_do_not_say_where_left_is() -> None:
    items = [make_item("a/1.nii", hints=("laterality: no form says where left is",)), make_item("a/2.nii")]
    (found,) = side_problems(items)
    assert (found["kind"], found["level"], found["files"]) == ("unknown_sides", "problem", ["a/1.nii"])
    assert "no form says where left is (1)" in found["message"]
