from __future__ import annotations

import json
import multiprocessing
import os
import stat
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest

import ganaug.data.ahead as ahead
from ganaug.data import cache
from ganaug.data.cache import TensorWriter, cache_folder, open_tensor, prune
from ganaug.data.grid import Grid
from ganaug.data.reading import scan
from ganaug.data.tensors import load_images, load_tensor
from ganaug.errors import ConfigError, DataError
from tests.data.folders import make_folder, pixels, save

GRID = Grid((12, 10), 1, "stretch", "uint8")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GANAUG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, nothing is decoded any more."""

    def refuse(*_args: object) -> None:
        raise AssertionError("a file was decoded")

    monkeypatch.setattr("ganaug.data.examine.decode_entry", refuse)


def test_the_cache_is_for_the_user_alone(own_cache: Path) -> None:
    assert cache_folder() == own_cache
    assert stat.S_IMODE(own_cache.stat().st_mode) == 0o700


@pytest.mark.parametrize("word", ["off", "OFF", "0"])
def test_the_cache_can_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("GANAUG_CACHE", word)
    manifest = scan(make_folder(tmp_path / "data", {"a": 2, "b": 2}), grid_of=lambda _: GRID)
    assert cache_folder() is None
    assert not isinstance(load_tensor(manifest, GRID), np.memmap)


def test_a_second_scan_decodes_nothing_and_finds_the_same(
    own_cache: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    data = make_folder(tmp_path / "data", {"a": 3, "b": 2})
    first = scan(data)
    request.getfixturevalue("no_decoding")
    assert scan(data) == first
    assert scan(data, group_regex="([ab])/").items[0].group == "a", "labels and groups are not what is remembered"


def test_a_changed_file_is_read_anew_and_no_other(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_folder(tmp_path / "data", {"a": 3, "b": 2})
    first = scan(data)
    changed = data / "a" / "001.png"
    times = changed.stat()
    save(changed, pixels(99))
    os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))  # as careful copies do; the inode's time tells
    seen: list[str] = []
    real = ahead.Examiner.__call__
    monkeypatch.setattr(ahead.Examiner, "__call__", lambda self, entry: seen.append(entry.path) or real(self, entry))
    second = scan(data)
    assert seen == ["a/001.png"]
    assert [a == b for a, b in zip(first.items, second.items, strict=True)] == [True, False, True, True, True]


def test_unreadable_files_are_not_remembered(own_cache: Path, tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", {"a": 20, "b": 2})
    (data / "a" / "000.png").write_bytes(b"nonsense")
    assert len(scan(data).skipped) == 1
    assert len(scan(data).skipped) == 1


def test_a_damaged_memory_is_as_good_as_none(own_cache: Path, tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", {"a": 3, "b": 2})
    first = scan(data)
    (memory,) = (own_cache / "facts").iterdir()
    good = memory.read_text()
    for text in (
        "{",
        "[]",
        "{}",
        '{"kinds": [], "entries": {"a/000.png##0": 3}}',
        good.replace('"PNG",', ""),
        good[:-9],
    ):
        memory.write_text(text)
        assert scan(data) == first


def test_the_scan_leaves_the_tensor_that_training_asks_for(
    own_cache: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    data = make_folder(tmp_path / "data", {"a": 60, "b": 40})
    wanted = load_images(scan(data), GRID)
    for memory in (own_cache / "facts").iterdir():
        memory.unlink()
    manifest = scan(data, grid_of=lambda _: GRID)
    request.getfixturevalue("no_decoding")
    tensor = load_tensor(manifest, GRID)
    assert isinstance(tensor, np.memmap)
    assert not tensor.flags.writeable
    np.testing.assert_array_equal(tensor, wanted)


def test_only_what_trains_is_in_the_tensor(own_cache: Path, tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", {"a": 4, "b": 4})
    rows = [f"{c}/{i:03d}.png,{c},{'test' if i == 1 else 'train'}" for c in "ab" for i in range(4)]
    (data / "metadata.csv").write_text("file_name,label,split\n" + "\n".join(rows))
    manifest = scan(data, grid_of=lambda _: GRID)
    assert len(list((own_cache / "tensors").iterdir())) == 1
    trained = manifest.training_part()
    assert len(trained) == 6
    np.testing.assert_array_equal(load_tensor(trained, GRID), load_images(trained, GRID))
    assert len(list((own_cache / "tensors").iterdir())) == 1, "it was the one that the scan had written"


def test_a_wrong_guess_costs_a_second_look_and_nothing_else(own_cache: Path, tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", {"a": 4, "b": 4})
    guesses = iter([Grid((8, 8), 1, "stretch", "uint8"), GRID])
    manifest = scan(data, grid_of=lambda _: next(guesses))
    assert list((own_cache / "tensors").iterdir()) == []
    np.testing.assert_array_equal(load_tensor(manifest, GRID), load_images(manifest, GRID))


def test_another_grid_or_another_image_is_another_tensor(own_cache: Path, tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", {"a": 2, "b": 2})
    load_tensor(scan(data), GRID)
    load_tensor(scan(data), Grid((8, 8), 1, "stretch", "uint8"))
    save(data / "a" / "000.png", pixels(77))
    load_tensor(scan(data), GRID)
    assert len(list((own_cache / "tensors").iterdir())) == 3


def test_a_copy_of_the_folder_shares_the_tensor(own_cache: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        load_tensor(scan(make_folder(tmp_path / name, {"a": 2, "b": 2})), GRID)
    assert len(list((own_cache / "tensors").iterdir())) == 1


@pytest.mark.parametrize("damage", ["short", "no header", "bad header"])
def test_a_damaged_tensor_is_made_again(own_cache: Path, tmp_path: Path, damage: str) -> None:
    manifest = scan(make_folder(tmp_path / "data", {"a": 2, "b": 2}))
    load_tensor(manifest, GRID)
    (place,) = (own_cache / "tensors").iterdir()
    if damage == "short":
        os.truncate(place / "tensor.bin", 5)
    elif damage == "no header":
        (place / "about.json").unlink()
    else:
        (place / "about.json").write_text(json.dumps({"shape": [4], "dtype": "O"}))
    np.testing.assert_array_equal(load_tensor(manifest, GRID), load_images(manifest, GRID))
    assert open_tensor(place.name) is not None


def test_a_full_disk_falls_back_to_memory(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = scan(make_folder(tmp_path / "data", {"a": 2, "b": 2}))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TensorWriter, "append", full)
    np.testing.assert_array_equal(load_tensor(manifest, GRID), load_images(manifest, GRID))
    assert "No space left" in capsys.readouterr().err
    assert list((own_cache / "tensors").iterdir()) == []


def _load(data: Path, start: Barrier, results: multiprocessing.Queue) -> None:
    start.wait()
    results.put(int(load_tensor(scan(data, grid_of=lambda _: GRID), GRID).sum()))


def test_runs_at_the_same_time_do_not_disturb_each_other(own_cache: Path, tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", {"a": 30, "b": 30})
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_load, args=(data, start, results)) for _ in range(4)]
    for process in processes:
        process.start()
    sums = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert sums == {int(load_images(scan(data), GRID).sum())}
    assert len(list((own_cache / "tensors").iterdir())) == 1


def test_the_oldest_tensors_go_when_the_cache_is_full(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == own_cache
    for age, key in enumerate(("new", "middle", "old")):
        writer = TensorWriter(own_cache, GRID)
        writer.append(np.zeros((10, 1, 12, 10), np.uint8))
        writer.commit(key)
        os.utime(own_cache / "tensors" / key / "about.json", (1e9 - 1000 * age,) * 2)
    monkeypatch.setenv("GANAUG_CACHE_GB", str(2500 / 1e9))
    prune(own_cache / "tensors", keep="new")
    assert sorted(place.name for place in (own_cache / "tensors").iterdir()) == ["middle", "new"]


def test_what_a_killed_process_left_goes_after_a_day_and_not_before(own_cache: Path) -> None:
    assert cache_folder() == own_cache
    tensors = own_cache / "tensors"
    for name, when in (("fresh", None), ("stale", 1e9)):
        (tensors / f".{name}.tmp").mkdir(parents=True)
        if when:
            os.utime(tensors / f".{name}.tmp", (when, when))
    prune(tensors, keep="")
    assert [place.name for place in tensors.iterdir()] == [".fresh.tmp"]


def test_a_limit_that_is_no_number_is_said(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANAUG_CACHE_GB", "plenty")
    with pytest.raises(ConfigError, match="'plenty'; a number of gigabytes"):
        cache._limit_bytes()


def test_an_error_leaves_no_half_written_tensor(own_cache: Path, tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", {"a": 2, "b": 2})
    manifest = scan(data)
    save(data / "a" / "000.png", pixels(1, 3, 3))
    with pytest.raises(DataError, match="changed since it was scanned"):
        load_tensor(manifest, GRID)
    assert list((own_cache / "tensors").iterdir()) == []


def test_unreadable_files_leave_no_gaps_in_the_tensor(own_cache: Path, tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", {"a": 700, "b": 300})
    for number in (0, 1, 255, 256, 600, 699):
        (data / "a" / f"{number:03d}.png").write_bytes(b"nonsense")
    manifest = scan(data, grid_of=lambda _: GRID)
    assert len(manifest.skipped) == 6
    (place,) = (own_cache / "tensors").iterdir()
    tensor = load_tensor(manifest, GRID)
    assert [place] == list((own_cache / "tensors").iterdir()), "it is the one that the scan wrote"
    np.testing.assert_array_equal(tensor, load_images(manifest, GRID))


@pytest.mark.parametrize("held", [0, 300, 10**9])
def test_large_images_are_written_a_few_at_a_time(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    monkeypatch.setattr(ahead, "_HELD_BYTES", held)
    manifest = scan(make_folder(tmp_path / "data", {"a": 60, "b": 40}), grid_of=lambda _: GRID)
    np.testing.assert_array_equal(load_tensor(manifest, GRID), load_images(manifest, GRID))


def test_a_disk_that_fills_up_during_the_scan_loses_no_facts(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_folder(tmp_path / "data", {"a": 60, "b": 40})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ahead, "write_rows", full)
    manifest = scan(data, grid_of=lambda _: GRID)
    assert list((own_cache / "tensors").iterdir()) == []
    monkeypatch.setenv("GANAUG_CACHE", "off")
    assert manifest == scan(data)


def test_slices_are_in_the_tensor_of_the_scan(own_cache: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(60):
        path = tmp_path / "data" / "ab"[number % 2] / f"{number}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, rng.integers(0, 99, (3 + number % 3, 12, 10)).astype(np.int16))
    grid = Grid((12, 10), 1, "stretch", "int16")
    manifest = scan(tmp_path / "data", slices="axial", grid_of=lambda _: grid)
    (place,) = (own_cache / "tensors").iterdir()
    np.testing.assert_array_equal(load_tensor(manifest, grid), load_images(manifest, grid))
    assert [place] == list((own_cache / "tensors").iterdir())
