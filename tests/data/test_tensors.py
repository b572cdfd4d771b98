from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ganaug.data.grid import Grid
from ganaug.data.reading import scan
from ganaug.data.tensors import load_images, read_item
from ganaug.errors import DataError
from tests.data.folders import make_folder, pixels, save


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_images_of_the_wanted_size_keep_their_pixels(tmp_path: Path, dtype: str) -> None:
    manifest = scan(make_folder(tmp_path, {"a": 2, "b": 1}, dtype=dtype))
    images = load_images(manifest, Grid((12, 10), 1, "stretch", dtype))
    assert images.shape == (3, 1, 12, 10)
    assert images.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(images[:, 0], [pixels(seed, dtype=dtype) for seed in (1, 2, 3)])


def test_color_planes_come_first_in_rgb_order(tmp_path: Path) -> None:
    manifest = scan(make_folder(tmp_path, {"a": 1, "b": 1}, channels=3))
    images = load_images(manifest, Grid((12, 10), 3, "stretch", "uint8"))
    np.testing.assert_array_equal(images[0], pixels(1, channels=3).transpose(2, 0, 1))


def test_an_item_reads_as_it_is_stored(tmp_path: Path) -> None:
    manifest = scan(make_folder(tmp_path, {"a": 1, "b": 1}, channels=3))
    np.testing.assert_array_equal(read_item(manifest.root, manifest.items[0]), pixels(1, channels=3))


def test_volumes_are_cut_once_for_all_their_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volumes = {}
    for index, name in enumerate(("a/x", "b/y")):
        volumes[name] = np.random.default_rng(index).integers(0, 1000, (5, 8, 9)).astype(np.int16)
        volumes[name][2] = 7  # an empty slice: nothing to learn
        (tmp_path / name).parent.mkdir()
        np.save(tmp_path / f"{name}.npy", volumes[name])
    manifest = scan(tmp_path, slices="axial")
    assert [item.name for item in manifest.items[:4]] == [f"a/x.npy#axial[{i}]" for i in (0, 1, 3, 4)]
    assert len({item.group for item in manifest.items}) == 2, "the volume is the group"
    assert len({item.sha256 for item in manifest.items}) == 8
    opened: list[str] = []
    import ganaug.data.examine as examine

    real = examine.decode_entry
    monkeypatch.setattr(examine, "decode_entry", lambda root, entry: opened.append(entry.path) or real(root, entry))
    images = load_images(manifest, Grid((8, 9), 1, "stretch", "int16"))
    assert opened == ["a/x.npy", "b/y.npy"]
    np.testing.assert_array_equal(images[:4, 0], volumes["a/x"][[0, 1, 3, 4]])
    np.testing.assert_array_equal(read_item(manifest.root, manifest.items[-1])[..., 0], volumes["b/y"][4])
    some = manifest.subset([6, 1])
    np.testing.assert_array_equal(
        load_images(some, Grid((8, 9), 1, "stretch", "int16"))[:, 0], [volumes["b/y"][3], volumes["a/x"][1]]
    )


def test_a_file_that_changed_since_the_scan_is_named(tmp_path: Path) -> None:
    manifest = scan(make_folder(tmp_path, {"a": 1, "b": 1}))
    grid = Grid((12, 10), 1, "stretch", "uint8")
    save(tmp_path / "a" / "000.png", pixels(1, 20, 20))
    with pytest.raises(DataError, match=r"a/000\.png: changed since it was scanned"):
        load_images(manifest, grid)
    (tmp_path / "a" / "000.png").unlink()
    with pytest.raises(DataError, match=r"a/000\.png"):
        load_images(manifest, grid)


def test_more_than_the_memory_holds_is_an_error_that_says_so(tmp_path: Path) -> None:
    manifest = scan(make_folder(tmp_path, {"a": 1, "b": 1}))
    many = replace(manifest, items=manifest.items * 100)
    with pytest.raises(DataError, match=r"do not fit into memory.*--size"):
        load_images(many, Grid((10**7, 10**7), 3, "stretch", "uint8"))
