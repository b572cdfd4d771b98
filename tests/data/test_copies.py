from ganaug.data.copies import copy_problems
from ganaug.data.manifest import Item
from tests.data.items import kinds, make_item


def test_exact_copies_within_and_across_classes_and_splits() -> None:
    items = [
        make_item("a/1.png", sha256="1"),
        make_item("a/2.png", sha256="1", split="train"),
        make_item("a/3.png", sha256="1"),
        make_item("a/4.png", sha256="2"),
        make_item("b/4.png", sha256="2", label=1),
        make_item("a/5.png", sha256="3", split="train"),
        make_item("a/6.png", sha256="3", split="test"),
        make_item("a/7.png", sha256="4", split="val"),
        make_item("b/7.png", sha256="4", label=1, split="test"),
        make_item("a/8.png"),
    ]
    found = {problem["kind"]: problem for problem in copy_problems(items)}
    assert kinds(found.values()) == {
        "duplicates": ["a/1.png", "a/2.png", "a/3.png"],
        "duplicates_across_classes": ["a/4.png", "b/4.png", "a/7.png", "b/7.png"],
        "duplicates_across_splits": ["a/5.png", "a/6.png", "a/7.png", "b/7.png"],
    }
    assert found["duplicates_across_splits"]["sets"] == [["a/5.png", "a/6.png"], ["a/7.png", "b/7.png"]]
    assert found["duplicates"]["message"].startswith("2 exact copies of other images")


def test_near_duplicates_within_and_across_classes_and_splits() -> None:
    items = [
        make_item("a/1.png", phash=0xFF),
        make_item("a/2.png", phash=0xFE),
        make_item("a/3.png", phash=0xFF << 32),
        make_item("b/3.png", phash=0xFF << 32 | 7, label=1),
        make_item("a/4.png", phash=0xFFF0 << 40),
        make_item("a/5.png", phash=0xFFF1 << 40, split="test"),
        make_item("a/6.png", phash=1 << 20 | 0xF),
        make_item("a/7.png", phash=None),
    ]
    found = {problem["kind"]: problem for problem in copy_problems(items)}
    assert kinds(found.values()) == {
        "near_duplicates": ["a/1.png", "a/2.png"],
        "near_duplicates_across_classes": ["a/3.png", "b/3.png"],
        "near_duplicates_across_splits": ["a/4.png", "a/5.png"],
    }


def test_an_exact_copy_is_not_reported_as_a_near_one_too() -> None:
    items = [make_item(f"a/{index}.png", sha256="1", group=str(index), phash=5) for index in range(2)]
    assert list(kinds(copy_problems(items))) == ["duplicates"]


def test_images_of_one_patient_may_look_alike() -> None:
    images = [make_item(f"a/{index}.png", group="p", phash=255) for index in range(3)]
    assert list(copy_problems(images)) == []
    other = make_item("a/q.png", group="q", phash=254)
    assert kinds(copy_problems([*images, other])) == {"near_duplicates": [*(f"a/{i}.png" for i in range(3)), "a/q.png"]}


def test_sliced_volumes_are_compared_by_their_central_slice() -> None:
    def volume(path: str, center: int) -> list[Item]:
        return [
            make_item(path, part=f"axial[{i}]", sha256=f"{path} {i}", group=path, phash=center if i == 2 else 15)
            for i in range(5)
        ]

    alike = [*volume("a/1.nii", 255 << 9), *volume("a/2.nii", 254 << 9)]
    assert kinds(copy_problems(alike)) == {"near_duplicates": ["a/1.nii#axial[2]", "a/2.nii#axial[2]"]}
    assert list(copy_problems([*volume("a/1.nii", 255 << 9), *volume("a/2.nii", 255 << 30)])) == []
