import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from ganaug.data.manifest import Manifest, hash_content, require_trainable, resolve_channels
from ganaug.data.reading import scan
from ganaug.errors import ConfigError, DataError
from tests.data.folders import make_folder, pixels, save


def write_table(root: Path, text: str) -> None:
    (root / "metadata.csv").write_text(text, encoding="utf-8")


def test_the_stored_manifest_carries_hashes_and_no_patient(tmp_path: Path) -> None:
    for seed, name in enumerate(("a/x", "a/y", "b/x", "b/y")):
        save(tmp_path / f"{name}.png", pixels(seed))
    write_table(
        tmp_path,
        "file_name,label,group\na/x.png,a,Mueller\na/y.png,a,Maier\nb/x.png,b,Mueller\nb/y.png,b,Kim\n",
    )
    manifest = scan(tmp_path)
    stored = json.loads(json.dumps(manifest.to_json()))
    assert stored["classes"] == ["a", "b"]
    assert len(stored["files"]) == 4
    assert "x.png" not in json.dumps(stored)
    assert [entry["label"] for entry in stored["files"]] == [0, 0, 1, 1]
    assert stored["files"][0]["group_hash"] == hashlib.sha256(b"Mueller").hexdigest()
    assert stored["files"][0]["group_hash"] == stored["files"][2]["group_hash"]
    assert stored["files"][0]["sha256"] == manifest.items[0].sha256
    assert "Mueller" not in json.dumps(stored)


# --- what training needs ---


def test_a_subset_keeps_the_classes_and_the_order_asked_for(tmp_path: Path) -> None:
    manifest = scan(make_folder(tmp_path, {"a": 2, "b": 2}))
    part = manifest.subset(np.array([3, 0]))
    assert [item.path for item in part.items] == ["b/001.png", "a/000.png"]
    assert part.classes == manifest.classes


def test_classes_too_small_to_train_are_named(tmp_path: Path) -> None:
    manifest = scan(make_folder(tmp_path, {"a": 3, "b": 1, "c": 3}))
    with pytest.raises(DataError, match=r"b \(1 image\)") as caught:
        require_trainable(manifest)
    assert "a (" not in str(caught.value)
    require_trainable(scan(make_folder(tmp_path, {"b": 2, "d": 2})))
    with pytest.raises(DataError, match="least two"):
        require_trainable(Manifest(tmp_path, ("a",), manifest.items[:3]))


def test_channels_that_agree_need_no_choice_and_mixed_ones_do(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 3, "b": 3})
    assert resolve_channels(scan(tmp_path), None) == 1
    assert resolve_channels(scan(tmp_path), 3) == 3
    save(tmp_path / "b" / "color.png", pixels(0, channels=3))
    mixed = scan(tmp_path)
    with pytest.raises(DataError, match=r"6 images .*1 image .*b/color\.png.*--channels 1 .*--channels 3"):
        resolve_channels(mixed, None)
    assert resolve_channels(mixed, 1) == 1
    with pytest.raises(ConfigError, match=r"--channels 2 was given.*have 1 channel.*Only gray \(1\) and color \(3\)"):
        resolve_channels(scan(make_folder(tmp_path / "gray", {"a": 1, "b": 1})), 2)


def test_gray_images_saved_as_color_count_as_gray_beside_gray_ones(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 2, "b": 2})
    save(tmp_path / "b" / "color.png", np.repeat(pixels(0)[..., None], 3, axis=2))
    assert resolve_channels(scan(tmp_path), None) == 1
    color = save(tmp_path / "b" / "color.png", pixels(0, channels=3))
    with pytest.raises(DataError, match="mixed"):
        resolve_channels(scan(tmp_path), None)
    color.unlink()
    for name in "ab":
        save(tmp_path / "all" / name / "x.png", np.repeat(pixels(0)[..., None], 3, axis=2))
    assert resolve_channels(scan(tmp_path / "all"), None) == 3, "a set of one kind stays what it is"


def test_the_content_hash_sees_the_picture_and_not_how_it_is_saved() -> None:
    image = np.random.default_rng(0).integers(0, 200, (6, 5, 1)).astype(np.uint8)
    color = np.repeat(image, 3, axis=2)
    same = [image.astype(kind) for kind in ("uint16", "int16", "int32", "float32", ">i2", "float64")]
    assert {hash_content(other) for other in (image, color, np.asfortranarray(color), *same)} == {hash_content(image)}
    assert hash_content(image).startswith("int 6x5x1 ")
    tinted, brighter, halved = color.copy(), image.copy(), image * np.float32(0.5)
    tinted[0, 0, 1] += 1
    brighter[5, 4] += 1
    others = [tinted, brighter, halved, image.transpose(1, 0, 2), image.reshape(5, 6, 1), image - np.int16(300)]
    assert len({hash_content(other) for other in (image, *others)}) == 7
    assert hash_content(halved).startswith("float 6x5x1 ")


def test_an_image_of_one_value_has_no_content() -> None:
    assert hash_content(np.full((4, 4, 3), 7, np.uint8)) == ""
