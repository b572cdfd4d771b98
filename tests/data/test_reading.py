import hashlib
import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ganaug.data.cache import open_tensor
from ganaug.data.grid import Grid
from ganaug.data.inspect import format_report, inspect_manifest
from ganaug.data.leak import refuse_leak
from ganaug.data.manifest import UNKNOWN, Manifest, require_trainable
from ganaug.data.reading import scan, scan_unlabelled
from ganaug.data.split import split_three
from ganaug.data.tensors import key_of, load_images, read_item
from ganaug.errors import ConfigError, DataError, LeakError
from tests.data.folders import make_folder, pixels, save
from tests.dicoms import write_series


def write_table(root: Path, text: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "metadata.csv").write_text(text, encoding="utf-8")


def test_folders_are_classes_at_any_depth(tmp_path: Path) -> None:
    make_folder(tmp_path, {"normal": 2, "lesion": 1})
    path = save(tmp_path / "lesion" / "siteA" / "deep" / "x.PNG", pixels(9, 7, 5, 3))
    manifest = scan(tmp_path)
    assert manifest.classes == ("lesion", "normal")
    assert [item.path for item in manifest.items] == [
        "lesion/000.png",
        "lesion/siteA/deep/x.PNG",
        "normal/000.png",
        "normal/001.png",
    ]
    deep = manifest.items[1]
    assert (deep.height, deep.width, deep.channels, deep.dtype) == (7, 5, 3, "uint8")
    assert deep.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (deep.minimum, deep.maximum) == (pixels(9, 7, 5, 3).min(), pixels(9, 7, 5, 3).max())
    assert manifest.labels.dtype == np.int64
    assert manifest.labels.tolist() == [0, 0, 1, 1]
    assert manifest.counts == {"lesion": 2, "normal": 2}
    assert len(manifest) == 4


def test_the_result_does_not_depend_on_the_order_of_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(tmp_path, {"b": 3, "a": 3})
    first = scan(tmp_path)
    real = os.scandir

    class Backwards:
        def __init__(self, path: Path) -> None:
            with real(path) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Backwards)
    assert scan(tmp_path) == first


def test_a_class_without_images_keeps_its_place(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 1, "c": 1})
    (tmp_path / "b").mkdir()
    manifest = scan(tmp_path)
    assert manifest.counts == {"a": 1, "b": 0, "c": 1}
    assert manifest.labels.tolist() == [0, 2]


def test_hidden_and_system_files_leave_no_trace_and_others_are_listed(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 1, "b": 1, ".cache": 1, "__MACOSX": 1})
    save(tmp_path / "preview.png", pixels(1))
    for name in ("a/Thumbs.db", "a/.DS_Store", "b/desktop.ini", "b/notes.txt", "README.md"):
        (tmp_path / name).write_text("x")
    manifest = scan(tmp_path)
    assert manifest.classes == ("a", "b")
    assert manifest.ignored == ("README.md", "b/notes.txt", "preview.png")
    assert manifest.skipped == ()


# --- unreadable files ---


def test_truncated_files_are_skipped_by_name_and_reason(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 10, "b": 10})
    good = (tmp_path / "a" / "003.png").read_bytes()
    (tmp_path / "a" / "003.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "b" / "004.png").write_text("an error page")
    manifest = scan(tmp_path)
    assert len(manifest) == 18
    assert [path for path, _ in manifest.skipped] == ["a/003.png", "b/004.png"]
    assert "not a PNG" in manifest.skipped[1][1]
    assert all(str(tmp_path) not in reason for _, reason in manifest.skipped)


def test_too_many_unreadable_files_are_an_error_that_names_some(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 9, "b": 9})
    for name in ("a/000.png", "b/001.png"):
        (tmp_path / name).write_text("broken")
    with pytest.raises(DataError, match=r"2 of 18 files .* 10% .*a/000\.png .*b/001\.png"):
        scan(tmp_path)
    assert len(scan(tmp_path, max_unreadable=0.2)) == 16


def test_a_broken_link_is_skipped(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 10, "b": 10})
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "a" / "nowhere.png")
    assert scan(tmp_path).skipped == (("a/gone.png", "the file does not exist"),)


# --- bad folders ---


def no_folder(root: Path) -> None: ...


def a_file(root: Path) -> None:
    root.write_text("x")


def an_empty_folder(root: Path) -> None:
    (root / "a").mkdir(parents=True)


def images_at_the_top(root: Path) -> None:
    save(root / "x.png", pixels(0))


def no_images(root: Path) -> None:
    (root / "a").mkdir(parents=True)
    (root / "a" / "scan.mha").write_text("x")


def splits(root: Path) -> None:
    make_folder(root, {"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 1})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_folder, "does not exist.*sub-folder for each class was wanted"),
        (a_file, "is a file.*folder.*wanted"),
        (an_empty_folder, "holds no files.*One sub-folder for each class"),
        (images_at_the_top, r"Images lie directly in .*x\.png.*metadata\.csv"),
        (no_images, r"No images were found .*scan\.mha.*\.png"),
        (splits, "look like splits, not classes.*Point to"),
    ],
)
def test_a_folder_that_cannot_be_used_gets_an_error_that_says_what_to_do(
    tmp_path: Path, make: object, message: str
) -> None:
    make(tmp_path / "data")  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        scan(tmp_path / "data")


@pytest.mark.parametrize("folder", [True, False], ids=["folder", "file"])
def test_links_out_of_the_folder_are_refused(tmp_path: Path, folder: bool) -> None:
    make_folder(tmp_path / "data", {"a": 2, "b": 2})
    outside = save(tmp_path / "private" / "x.png", pixels(0))
    (tmp_path / "data" / "a" / "more.png").symlink_to(outside.parent if folder else outside)
    with pytest.raises(DataError, match=r"a/more\.png .*leads out of the folder, to .*private"):
        scan(tmp_path / "data")


def test_links_within_the_folder_are_allowed_and_loops_end(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "a" / "same.png").symlink_to("000.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    manifest = scan(tmp_path)
    assert manifest.counts == {"a": 3, "b": 2}
    assert manifest.ignored == ("a/loop",)


# --- metadata.csv ---


def test_the_table_gives_labels_groups_and_splits(tmp_path: Path) -> None:
    make_folder(tmp_path, {"x": 4})
    write_table(
        tmp_path,
        "\ufefffile_name,age, label ,group,split,synthetic\n"
        "x/001.png,40,sick,p1,Train,true\n\nx\\000.png,41,healthy,,,\n x/002.png ,42,sick,p1,test,false\n",
    )
    manifest = scan(tmp_path)
    assert manifest.classes == ("healthy", "sick")
    assert [(item.path, item.label, item.split) for item in manifest.items] == [
        ("x/000.png", 0, ""),
        ("x/001.png", 1, "train"),
        ("x/002.png", 1, "test"),
    ]
    assert [item.group for item in manifest.items] == [manifest.items[0].sha256, "p1", "p1"]
    assert manifest.ignored == ("x/003.png",)
    assert [item.path for item in manifest.training_part().items] == ["x/000.png", "x/001.png"]


def test_the_table_gives_domains_that_a_subset_and_a_pickle_keep(tmp_path: Path) -> None:
    make_folder(tmp_path, {"x": 3})
    write_table(tmp_path, "file_name,label,domain\nx/000.png,a,Site B\nx/001.png,a,Site A\nx/002.png,b,\n")
    manifest = scan(tmp_path)
    assert [item.domain for item in manifest.items] == ["Site B", "Site A", ""]
    assert manifest.domains == {"Site A": 1, "Site B": 1}
    assert manifest.subset([1]).domains == {"Site A": 1}
    assert pickle.loads(pickle.dumps(manifest)) == manifest == scan(tmp_path)
    write_table(tmp_path, "file_name,label,domain\nx/000.png,a,Site C\nx/001.png,a,Site A\nx/002.png,b,\n")
    assert scan(tmp_path).items[0].domain == "Site C", "not the one that was there at the first scan"
    assert scan(make_folder(tmp_path / "folders", {"a": 1})).domains == {}


def test_a_series_whose_slices_get_other_domains_is_joined_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANAUG_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "data"
    paths = write_series(root / "x", np.arange(4 * 8 * 6, dtype=np.uint16).reshape(4, 8, 6), (2.0, 1.0, 1.0))
    for domains, images in (("AAAA", 1), ("ABAB", 4)):
        rows = [f"x/{path.name},a,{name}" for path, name in zip(paths, domains, strict=True)]
        write_table(root, "\n".join(["file_name,label,domain", *rows]))
        assert len(scan(root)) == images


def test_without_a_split_column_all_items_are_for_training(tmp_path: Path) -> None:
    manifest = scan(make_folder(tmp_path, {"a": 2, "b": 2}))
    assert manifest.training_part() == manifest


def test_a_missing_or_foreign_file_in_the_table_is_skipped(tmp_path: Path) -> None:
    make_folder(tmp_path, {"x": 10})
    rows = [f"x/{index:03d}.png,{'ab'[index % 2]}" for index in range(10)]
    write_table(tmp_path, "\n".join(["file_name,label", *rows, "x/gone.png,a"]))
    assert scan(tmp_path).skipped == (("x/gone.png", "the file does not exist"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks the columns file_name, label; it has no header"),
        ("file_name,label\n", "no rows"),
        ("file,label\nx/000.png,a\n", "lacks the column file_name; it has file, label"),
        ("file_name;label\nx/000.png;a\n", "commas between"),
        ("file_name,label\nx/000.png,a\nx/001.png,\n", "line 3: the column 'label' is empty"),
        ("file_name,label\n,a\n", "line 2: the column 'file_name' is empty"),
        ("file_name,label\nx/000.png,a\nx/./000.png,b\n", r"more than once: x/000\.png"),
        ("file_name,label\n../y.png,a\n", "does not lie inside"),
        ("file_name,label\nx\\..\\..\\y.png,a\n", "does not lie inside"),
        ("file_name,label\n/etc/passwd,a\n", "does not lie inside"),
        ("file_name,label\nC:\\scan.png,a\n", "does not lie inside"),
        ("file_name,label\n.,a\n", "does not lie inside"),
        (f"file_name,label\n{'x' * 200_000},a\n", "cannot be read as CSV"),
    ],
)
def test_a_bad_table_gets_an_error_that_names_the_place(tmp_path: Path, text: str, message: str) -> None:
    make_folder(tmp_path, {"x": 2})
    write_table(tmp_path, text)
    with pytest.raises(DataError, match=message):
        scan(tmp_path)


def test_a_table_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path, {"x": 2})
    (tmp_path / "metadata.csv").write_bytes("file_name,label\nx/000.png,Läsion\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        scan(tmp_path)


def test_a_table_cannot_reach_out_through_a_link(tmp_path: Path) -> None:
    make_folder(tmp_path / "data", {"x": 2})
    save(tmp_path / "private" / "y.png", pixels(0))
    (tmp_path / "data" / ".link").symlink_to(tmp_path / "private")
    write_table(tmp_path / "data", "file_name,label\nx/000.png,a\n.link/y.png,b\n")
    with pytest.raises(DataError, match="leads out of the folder"):
        scan(tmp_path / "data")


# --- groups ---


def test_each_image_is_its_own_group_and_copies_share_one(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 3, "b": 3})
    shutil.copy(tmp_path / "a" / "000.png", tmp_path / "a" / "copy.png")
    groups = {item.path: item.group for item in scan(tmp_path).items}
    assert len(set(groups.values())) == 6
    assert groups["a/000.png"] == groups["a/copy.png"]


def test_folders_that_number_their_files_alike_do_not_share_groups(tmp_path: Path) -> None:
    one = scan(make_folder(tmp_path / "one", {"a": 2, "b": 2}))
    other = scan(make_folder(tmp_path / "other", {"a": 2, "b": 2}, height=9))
    assert [item.path for item in one.items] == [item.path for item in other.items]
    assert not {item.group for item in one.items} & {item.group for item in other.items}


@pytest.mark.parametrize(("pattern", "wanted"), [(r"p(\d+)_", {"1", "2"}), (r"p\d+", {"p1", "p2"})])
def test_the_pattern_finds_the_group_in_the_path(tmp_path: Path, pattern: str, wanted: set[str]) -> None:
    for seed, name in enumerate(("a/p1_x", "a/p2_x", "b/p1_y", "b/p2_y")):
        save(tmp_path / f"{name}.png", pixels(seed))
    manifest = scan(tmp_path, group_regex=pattern)
    assert {item.group for item in manifest.items} == wanted
    assert manifest.items[0].group == manifest.items[2].group


def test_a_pattern_that_misses_files_names_them(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 2, "b": 2})
    save(tmp_path / "a" / "p1_x.png", pixels(0))
    with pytest.raises(DataError, match=r"nothing in 4 of 5 paths: a/000\.png"):
        scan(tmp_path, group_regex=r"p(\d+)")
    with pytest.raises(DataError, match="nothing in 5 of 5"):
        scan(tmp_path, group_regex=r"a|b|(never)")


def test_a_bad_pattern_is_a_config_error(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 2, "b": 2})
    with pytest.raises(ConfigError, match="not a regular expression"):
        scan(tmp_path, group_regex="(")


def test_a_single_class_can_be_looked_at_and_not_trained_on(tmp_path: Path) -> None:
    manifest = scan(make_folder(tmp_path, {"lesion": 3}))
    assert manifest.counts == {"lesion": 3}
    with pytest.raises(DataError, match=r"1 class .*lesion.*At least two were wanted"):
        require_trainable(manifest)


# --- images whose classes are not known ---


def nifti(path: Path, volume: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(volume, np.eye(4)).to_filename(path)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder with an image at the top, one below, a DICOM series, a NIfTI volume, a broken file and a text."""
    root = tmp_path / "site"
    save(root / "flat.png", pixels(0))
    for index in range(8):
        save(root / "p1" / f"{index}.png", pixels(1 + index))
    rng = np.random.default_rng(0)
    write_series(root / "p2" / "series", rng.integers(0, 4000, (4, 8, 6), dtype=np.uint16), (2.0, 1.0, 1.0))
    nifti(root / "p3" / "v.nii.gz", rng.integers(0, 200, (6, 5, 4), dtype=np.int16))
    (root / "p3" / "broken.png").write_text("x")
    (root / "notes.txt").write_text("x")
    return root


def test_images_without_labels_are_read_like_labelled_ones(mixed: Path) -> None:
    manifest = scan_unlabelled(mixed)
    assert (manifest.root, manifest.classes) == (mixed.resolve(), ())
    assert {item.label for item in manifest.items} == {UNKNOWN}
    names = ["flat.png", *(f"p1/{index}.png" for index in range(8)), "p2/series/000.dcm", "p3/v.nii.gz"]
    assert [item.path for item in manifest.items] == names
    assert (len(manifest.items[9].files), manifest.items[9].shape) == (4, (4, 8, 6))
    assert [path for path, _ in manifest.skipped] == ["p3/broken.png"]
    assert manifest.ignored == ("notes.txt",)
    assert scan_unlabelled(mixed) == manifest
    labelled = scan(mixed)
    assert [replace(item, label=UNKNOWN) for item in labelled.items] == list(manifest.items[1:])
    sliced = scan_unlabelled(mixed, slices="axial")
    assert sum(item.path == "p3/v.nii.gz" for item in sliced.items) == 4
    grouped = scan_unlabelled(mixed, group_regex=r"^(p\d|flat)")
    assert {item.group for item in grouped.items} == {"flat", "p1", "p2", "p3"}


def test_a_manifest_without_labels_can_be_used_like_any_other(mixed: Path) -> None:
    manifest = scan_unlabelled(mixed, group_regex=r"^(p\d|flat)")
    assert manifest.counts == {}
    assert (manifest.labels.dtype, manifest.labels.tolist()) == (np.int64, [UNKNOWN] * 11)
    assert manifest.training_part().items == manifest.items
    part = manifest.subset(range(9))
    assert load_images(part, Grid((12, 10), 1, "stretch", "uint8")).shape == (9, 1, 12, 10)
    sides = split_three(manifest.labels, [item.group for item in manifest.items], seed=0)
    assert sorted(index for side in sides.values() for index in side.tolist()) == list(range(11))
    stored = json.loads(json.dumps(manifest.to_json()))
    assert stored["classes"] == []
    assert [entry["label"] for entry in stored["files"]] == [UNKNOWN] * 11
    with pytest.raises(LeakError, match="11 of 11"):
        refuse_leak(stored, manifest)
    with pytest.raises(DataError, match="has 0 classes"):
        require_trainable(manifest)
    report = inspect_manifest(manifest)
    assert (report["images"], report["unknown"], report["classes"], report["imbalance"]) == (11, 11, [], None)
    assert "11 images of unknown class" in format_report(report)


def test_images_of_known_and_unknown_class_are_told_apart(tmp_path: Path) -> None:
    items = scan(make_folder(tmp_path, {"a": 3, "b": 1})).items
    manifest = Manifest(tmp_path, ("a", "b"), (*items[:3], *(replace(item, label=UNKNOWN) for item in items[3:])))
    assert manifest.counts == {"a": 3, "b": 0}
    report = inspect_manifest(manifest)
    assert [row["images"] for row in report["classes"]] == [3, 0], "and not one in the last class"
    assert (report["images"], report["unknown"]) == (4, 1)


def test_an_archive_without_labels_is_read(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 200, (5, 6, 5), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", train_images=images[:3], test_images=images[3:])
    for path in (tmp_path, tmp_path / "set.npz"):
        manifest = scan_unlabelled(path)
        assert manifest.labels.tolist() == [UNKNOWN] * 5
        assert [item.split for item in manifest.items] == ["train"] * 3 + ["test"] * 2
        np.testing.assert_array_equal([read_item(manifest.root, item)[..., 0] for item in manifest.items], images)


def test_what_holds_no_images_without_labels_gets_an_error_that_says_what_to_do(mixed: Path) -> None:
    for name, message in {
        "missing": "missing does not exist. A folder of images, flat or nested, or one .npz archive",
        "notes.txt": "notes.txt is a file. A folder of images",
    }.items():
        with pytest.raises(DataError, match=message):
            scan_unlabelled(mixed / name)
    with pytest.raises(ConfigError, match="slices = 'sideways' was given"):
        scan_unlabelled(mixed, slices="sideways")
    (mixed / "p1" / "0.png").write_text("x")
    (mixed / "p1" / "1.png").write_text("x")
    with pytest.raises(DataError, match=r"3 of 12 files in .* cannot be read"):
        scan_unlabelled(mixed)


def test_a_scan_without_labels_leaves_the_tensor_that_training_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANAUG_CACHE", str(tmp_path / "cache"))
    for seed in range(4):
        save(tmp_path / "site" / f"{seed}.png", pixels(seed))
    grid = Grid((12, 10), 1, "stretch", "uint8")
    manifest = scan_unlabelled(tmp_path / "site", grid_of=lambda _: grid)
    assert open_tensor(key_of(manifest.items, grid)) is not None
