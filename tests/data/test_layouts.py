import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganaug.data.layouts import Entry, Listing, _unlabelled, layouts
from ganaug.data.layouts import npz as npz_layout
from ganaug.data.reading import scan
from ganaug.data.tensors import read_item
from ganaug.errors import DataError
from tests.data.folders import make_folder, pixels, save

DICOM = bytes(128) + b"DICM" + bytes(200)


def listed(root: Path) -> Listing:
    return next(layout for layout in layouts() if layout.matches(root)).listing(root)


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def table(root: Path, *rows: str, header: str = "file_name,label") -> None:
    (root / "metadata.csv").write_text("\n".join([header, *rows]), encoding="utf-8")


def archive(path: Path, **arrays: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return path


def images(n: int, *shape: int, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(n).integers(0, 200, (n, *(shape or (6, 5)))).astype(dtype)


# --- folders ---


def test_files_without_a_suffix_are_listed_if_they_hold_dicom(tmp_path: Path) -> None:
    put(tmp_path / "a" / "IM0001", DICOM)
    put(tmp_path / "a" / "1.2.840.113619.2", DICOM)
    put(tmp_path / "b" / "series" / "00000001", DICOM)
    put(tmp_path / "b" / "README", b"some text")
    found = listed(tmp_path)
    assert [entry.path for entry in found.entries] == ["a/1.2.840.113619.2", "a/IM0001", "b/series/00000001"]
    assert [entry.label for entry in found.entries] == ["a", "a", "b"]
    assert found.ignored == ("b/README",)


def test_names_that_lead_nowhere_are_no_images(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 1, "b": 1})
    (tmp_path / "a" / "IM1").symlink_to(tmp_path / "a" / "gone")
    os.mkfifo(tmp_path / "a" / "IM2")
    assert [entry.path for entry in listed(tmp_path).entries] == ["a/000.png", "b/000.png"]


# --- tables ---


def test_a_folder_in_the_table_stands_for_its_dicom_files(tmp_path: Path) -> None:
    for name in ("p1/IM1", "p1/IM2", "p1/more/x.dcm", "p10/IM1", "p1.dcm", "p2/y.dcm"):
        put(tmp_path / name, DICOM)
    put(tmp_path / "p1" / "notes.txt", b"text")
    save(tmp_path / "p1" / "preview.png", pixels(0))
    table(tmp_path, "p1/,a,Ann,Train", "p2,b,Bob,test", "p10/IM1,b,Cem,", header="file_name,label,group,split")
    found = listed(tmp_path)
    assert found.entries == (
        Entry("p1/IM1", "a", "Ann", "train"),
        Entry("p1/IM2", "a", "Ann", "train"),
        Entry("p1/more/x.dcm", "a", "Ann", "train"),
        Entry("p10/IM1", "b", "Cem", ""),
        Entry("p2/y.dcm", "b", "Bob", "test"),
    )
    assert found.ignored == ("p1.dcm", "p1/notes.txt", "p1/preview.png")


def test_a_file_named_by_itself_and_by_its_folder_is_named_twice(tmp_path: Path) -> None:
    put(tmp_path / "p1" / "IM1", DICOM)
    table(tmp_path, "p1,a", "p1/IM1,b")
    with pytest.raises(DataError, match=r"1 file more than once: p1/IM1"):
        listed(tmp_path)


def test_a_folder_without_dicom_files_cannot_stand_in_the_table(tmp_path: Path) -> None:
    make_folder(tmp_path, {"p1": 2})
    table(tmp_path, "p1,a")
    with pytest.raises(DataError, match="line 2: p1 is a folder without DICOM files"):
        listed(tmp_path)


def test_a_name_longer_than_the_system_allows_is_listed_as_a_file(tmp_path: Path) -> None:
    table(tmp_path, f"{'x' * 5000}.png,a")
    assert len(listed(tmp_path).entries[0].path) == 5004


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), min_size=1, max_size=12)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.tuples(cells, cells, cells, cells), min_size=1, max_size=5))
def test_any_text_in_a_table_is_read_back_or_refused(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str, str]]
) -> None:
    import csv

    root = tmp_path_factory.mktemp("table")
    with (root / "metadata.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("file_name", "label", "group", "split"), *rows])
    try:
        entries = listed(root).entries
    except DataError:
        return
    labels = sorted((label.strip(), group.strip(), split.strip().lower()) for _, label, group, split in rows)
    assert sorted((entry.label, entry.group, entry.split) for entry in entries) == labels


def test_a_table_may_name_domains(tmp_path: Path) -> None:
    for name in ("1.png", "2.png"):
        save(tmp_path / name, pixels(0))
    table(tmp_path, "1.png,a,Siemens 3T ", "2.png,a,", header="file_name,label,domain")
    assert [entry.domain for entry in listed(tmp_path).entries] == ["Siemens 3T", ""]
    table(tmp_path, "1.png,a", "2.png,b")
    assert [entry.domain for entry in listed(tmp_path).entries] == ["", ""]


# --- images without labels ---


def unlabelled(root: Path) -> list[str]:
    assert _unlabelled.matches(root)
    found = _unlabelled.listing(root)
    assert found.classes == ()
    assert {entry.label for entry in found.entries} == {""}
    return [f"{entry.path}#{entry.part}" if entry.part else entry.path for entry in found.entries]


def test_a_layout_without_labels_is_never_found_by_itself() -> None:
    assert _unlabelled not in layouts()


def test_images_without_labels_lie_in_any_nesting(tmp_path: Path) -> None:
    for name in ("flat.png", "p1/x.png", "p1/deep/er/x.tif"):
        save(tmp_path / name, pixels(0))
    put(tmp_path / "p2" / "IM0001", DICOM)
    put(tmp_path / "set.npz", b"no zip")
    put(tmp_path / "p1" / "notes.txt", b"x")
    assert unlabelled(tmp_path) == ["flat.png", "p1/deep/er/x.tif", "p1/x.png", "p2/IM0001"]
    assert _unlabelled.listing(tmp_path).ignored == ("p1/notes.txt", "set.npz")


@pytest.mark.parametrize(
    "arrays",
    [
        {"train_images": images(2), "train_labels": np.array([5, 6]), "test_images": images(1)},
        {"train_images": images(2), "train_labels": np.array([[0, 1], [1, 1]]), "test_images": images(1)},
    ],
)
def test_an_archive_gives_its_images_and_splits_whatever_its_labels_are(
    tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    path = archive(tmp_path / "set.npz", **arrays)
    assert unlabelled(path) == unlabelled(tmp_path) == ["set.npz#train[0]", "set.npz#train[1]", "set.npz#test[0]"]
    assert [entry.split for entry in _unlabelled.listing(path).entries] == ["train", "train", "test"]


def test_a_table_without_labels_gives_groups_splits_and_domains(tmp_path: Path) -> None:
    for name in ("1.png", "2.png", "3.png"):
        save(tmp_path / "images" / name, pixels(0))
    rows = ["images/1.png,Ann,test,A,sick", "images/2.png,Bob,,B,"]
    table(tmp_path, *rows, header="file_name,group,split,domain,label")
    assert unlabelled(tmp_path) == ["images/1.png", "images/2.png"]
    found = _unlabelled.listing(tmp_path)
    assert found.entries[0] == Entry("images/1.png", "", "Ann", "test", domain="A")
    assert found.ignored == ("images/3.png",)
    table(tmp_path, "images/1.png", header="name")
    with pytest.raises(DataError, match="lacks the column file_name"):
        _unlabelled.listing(tmp_path)


def test_images_without_labels_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    put(tmp_path / "texts" / "x" / "notes.txt", b"x")
    make_folder(tmp_path / "splits", {"train": 1, "Test": 1})
    for name, message in {
        "empty": "holds no files. A folder of images",
        "texts": r"No images were found in .*1 file such as x/notes\.txt\. Files that end in",
        "splits": r"\(Test, train\) look like splits\. Point to the one whose",
    }.items():
        with pytest.raises(DataError, match=message):
            _unlabelled.listing(tmp_path / name)
    with pytest.raises(
        DataError, match=r"holds data; train_images \(and the same with val and test\), x_train, images"
    ):
        _unlabelled.listing(archive(tmp_path / "x.npz", data=images(2)))


# --- archives ---


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (("train_images", "train_labels"), {"train": "train"}),
        (("x_train", "y_train"), {"train": "train"}),
        (("X_train", "y_train"), {"train": "train"}),
        (("images", "labels"), {"images": ""}),
        (("x", "y"), {"images": ""}),
        (("X", "y"), {"images": ""}),
    ],
)
def test_images_and_labels_are_found_under_their_usual_names(
    tmp_path: Path, names: tuple[str, str], parts: dict[str, str]
) -> None:
    path = archive(tmp_path / "set.npz", **{names[0]: images(3), names[1]: np.array([1, 0, 1])})
    (part, split), *_ = parts.items()
    assert listed(path) == Listing(
        ("0", "1"),
        tuple(Entry("set.npz", label, split=split, part=f"{part}[{i}]") for i, label in enumerate("101")),
        (),
    )


def test_splits_come_in_their_order_and_images_in_theirs(tmp_path: Path) -> None:
    path = archive(
        tmp_path / "set.npz",
        test_images=images(2), test_labels=np.array([[0], [1]]),
        train_images=images(11), train_labels=np.zeros((11, 1), np.uint8),
        val_images=images(1), val_labels=np.array([2.0]),
    )  # fmt: skip
    found = listed(path)
    assert [entry.split for entry in found.entries] == ["train"] * 11 + ["val"] + ["test"] * 2
    assert [entry.part for entry in found.entries[8:13]] == ["train[8]", "train[9]", "train[10]", "val[0]", "test[0]"]
    assert found.classes == ("0", "1", "2")


def test_an_archive_alone_in_a_folder_is_the_data_set(tmp_path: Path) -> None:
    archive(tmp_path / "Set.NPZ.npz", images=images(2), labels=np.array([0, 1]))
    (tmp_path / "README.md").write_text("x")
    (tmp_path / ".hidden.npz").write_text("x")
    (tmp_path / "__MACOSX").mkdir()
    found = listed(tmp_path)
    assert [entry.path for entry in found.entries] == ["Set.NPZ.npz"] * 2
    assert found.ignored == ("README.md",)


def test_an_archive_beside_class_folders_or_another_archive_or_a_table_is_not(tmp_path: Path) -> None:
    for name in ("folders", "two", "table"):
        archive(tmp_path / name / "set.npz", images=images(2), labels=np.array([0, 1]))
    make_folder(tmp_path / "folders", {"a": 1, "b": 1})
    assert listed(tmp_path / "folders").classes == ("a", "b")
    assert listed(tmp_path / "folders").ignored == ("set.npz",)
    archive(tmp_path / "two" / "other.npz", images=images(2), labels=np.array([0, 1]))
    with pytest.raises(DataError, match=r"one \.npz archive"):
        listed(tmp_path / "two")
    save(tmp_path / "table" / "x.png", pixels(0))
    table(tmp_path / "table", "x.png,a")
    assert listed(tmp_path / "table").classes == ("a",)


def test_a_link_to_an_archive_elsewhere_is_refused(tmp_path: Path) -> None:
    archive(tmp_path / "private.npz", images=images(2), labels=np.array([0, 1]))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "set.npz").symlink_to(tmp_path / "private.npz")
    with pytest.raises(DataError, match="leads out of the folder"):
        listed(tmp_path / "data")


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.integers(1, 30), st.randoms())
def test_a_class_keeps_its_number_as_its_label(tmp_path_factory: pytest.TempPathFactory, n: int, random: Any) -> None:
    labels = list(range(n)) * 2
    random.shuffle(labels)
    found = listed(archive(tmp_path_factory.mktemp("npz") / "x.npz", images=images(2 * n), labels=np.array(labels)))
    assert list(found.classes) == sorted(found.classes)
    assert [found.classes.index(entry.label) for entry in found.entries] == labels


@pytest.mark.parametrize("key", ["classes", "class_names"])
def test_names_in_the_archive_take_the_place_of_numbers(tmp_path: Path, key: str) -> None:
    names = {key: np.array(["normal", "Läsion", "other"])}
    path = archive(tmp_path / "x.npz", images=images(3), labels=np.array([1, 0, 1]), **names)
    found = listed(path)
    assert [entry.label for entry in found.entries] == ["Läsion", "normal", "Läsion"]
    assert found.classes == ("Läsion", "normal", "other")


@pytest.mark.parametrize("dtype", ["U", "S"])
def test_labels_may_be_names(tmp_path: Path, dtype: str) -> None:
    labels = np.array(["sick ", "well", "sick"]).astype(dtype)[:, None]
    found = listed(archive(tmp_path / "x.npz", x=images(3), y=labels))
    assert [entry.label for entry in found.entries] == ["sick", "well", "sick"]
    assert found.classes == ("sick", "well")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "holds no arrays; train_images"),
        ({"data": images(2)}, "holds data; train_images"),
        ({"images": images(2)}, "has images but no labels"),
        ({"images": images(2), "labels": np.zeros((2, 3))}, r"shape 2×3, several labels.*labels\.argmax"),
        ({"images": images(2), "labels": np.zeros(3)}, "shape 3; one label for each of 2 images"),
        ({"images": images(2), "labels": np.zeros((2, 1, 1))}, "shape 2×1×1; one label"),
        ({"images": images(2), "labels": np.array(3)}, "one label for each"),
        ({"images": images(2), "labels": np.array([0, -1])}, "such as -1; whole numbers"),
        ({"images": images(2), "labels": np.array([0.5, 1])}, r"such as 0\.5; whole numbers"),
        ({"images": images(2), "labels": np.array([np.inf, 1])}, "such as inf; whole numbers"),
        ({"images": images(2), "labels": np.array(["a", " "])}, "empty name, the one at 1"),
        ({"images": images(2), "labels": np.array([b"a", b"\xff"])}, "no UTF-8 text"),
        ({"images": images(2), "labels": np.array(["a", "\ud800"])}, "no UTF-8 text"),
        ({"images": images(2), "labels": np.array([0, 2]), "classes": np.array(["a", "b"])}, "labels 2 have no name"),
        ({"images": images(2), "labels": np.array([0, 1]), "classes": np.array(["a", "a"])}, "names a class twice"),
        ({"images": images(2), "labels": np.array([0, 1]), "classes": np.array([4, 5])}, "no list of names"),
        ({"images": images(2), "labels": np.array([0, 1]), "classes": np.array(["a", None])}, "Python objects"),
        ({"images": np.zeros((0, 4, 4)), "labels": np.zeros(0)}, "holds no images"),
        ({"images": images(2, 5), "labels": np.zeros(2)}, "shape 2×5; N×H×W"),
        ({"images": images(2, 3, 9, 9), "labels": np.zeros(2)}, r"channels first.*transpose\(0, 2, 3, 1\)"),
        ({"images": images(2, 9, 9, 4), "labels": np.zeros(2)}, r"3 \(color\) were wanted: save images\[\.\.\., :3\]"),
        ({"images": np.zeros((9, 0, 4), np.uint8), "labels": np.zeros(9)}, "the image is empty"),
        ({"images": np.zeros((10**9, 4, 0), np.uint8), "labels": np.zeros(9)}, "at most 2,000,000 images"),
        ({"images": np.array([["a"], ["b"]])[..., None], "labels": np.zeros(2)}, "numbers were wanted"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_labels_and_images_that_cannot_be_used_are_named(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    path = archive(tmp_path / "set.npz", **arrays)
    with pytest.raises(DataError, match=message) as caught:
        listed(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 3), (8, 9, 10), (8, 9, 10, 1), (8, 9, 10, 3)])
def test_images_color_and_volumes_are_listed_alike(tmp_path: Path, shape: tuple[int, ...]) -> None:
    found = listed(archive(tmp_path / "x.npz", images=images(2, *shape), labels=np.array([0, 1])))
    assert len(found.entries) == 2


def test_something_else_is_no_archive(tmp_path: Path) -> None:
    assert not npz_layout.matches(put(tmp_path / "x.zip", b""))
    assert not npz_layout.matches(tmp_path)
    with pytest.raises(DataError, match=r"not an \.npz archive"):
        listed(put(tmp_path / "x.npz", b"no zip"))


def test_medmnist_is_listed_as_it_was_published() -> None:
    if "GANAUG_DATA" not in os.environ:
        pytest.skip("GANAUG_DATA is not set")
    found = listed(Path(os.environ["GANAUG_DATA"]) / "pneumoniamnist")
    assert found.classes == ("0", "1")
    assert len(found.entries) == 4708 + 524 + 624
    train = [entry for entry in found.entries if entry.split == "train"]
    assert [sum(entry.label == name for entry in train) for name in found.classes] == [1214, 3494]


def test_a_table_may_name_images_of_an_archive_and_give_them_groups(tmp_path: Path) -> None:
    images = np.arange(4 * 6 * 5, dtype=np.uint8).reshape(4, 6, 5)
    np.savez(tmp_path / "set.npz", train_images=images, train_labels=np.array([0, 1, 0, 1]))
    rows = [
        "set.npz#train[2],sick,p1",
        "set.npz#train[0],sick,p1",
        "set.npz#train[3],well,p2",
        "set.npz#train[9],well,p2",
    ]
    (tmp_path / "metadata.csv").write_text("file_name,label,group\n" + "\n".join(rows))
    manifest = scan(tmp_path, max_unreadable=1)
    assert [(item.name, item.label, item.group) for item in manifest.items] == [
        ("set.npz#train[2]", 0, "p1"),
        ("set.npz#train[0]", 0, "p1"),
        ("set.npz#train[3]", 1, "p2"),
    ]
    assert [name for name, _ in manifest.skipped] == ["set.npz#train[9]"]
    np.testing.assert_array_equal(read_item(tmp_path, manifest.items[0])[..., 0], images[2])
