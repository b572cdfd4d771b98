"""Checkpoints: a crash or a damaged file at any moment leaves a good one."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from ganaug.errors import GanaugError
from ganaug.files import sha256_file
from ganaug.training import checkpoint
from ganaug.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint, tidy


def _save(folder: Path, step: int) -> Path:
    return save_checkpoint(folder, step, {"a/b": torch.full((3,), float(step))}, {"step": step, "elapsed_s": 0.5})


def _flip(path: Path, place: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    weight = torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    tensors = {"a/b": weight, "same memory": weight, "step": torch.tensor(3.0), "n": torch.tensor([2**40])}
    save_checkpoint(tmp_path, 7, tensors, {"step": 7, "elapsed_s": 0.1 + 0.2})
    loaded, state, damaged = load_checkpoint(tmp_path)
    assert loaded.keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(loaded[name], value), name
        assert loaded[name].dtype == value.dtype
    assert state == {"step": 7, "elapsed_s": 0.1 + 0.2}
    assert damaged == []


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 99, 1_000_000_000):
        _save(tmp_path, step)
    assert [load_checkpoint(tmp_path)[1]["step"], len(checkpoints(tmp_path))] == [1_000_000_000, 2]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_step_can_be_saved_again(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        save_checkpoint(tmp_path, 3, {"x": torch.tensor(value)}, {})
    assert float(load_checkpoint(tmp_path)[0]["x"]) == 2
    assert len(checkpoints(tmp_path)) == 1


@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "SHA256.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "empty"])
def test_a_damaged_newest_one_gives_way_to_the_one_before(tmp_path: Path, name: str, damage: str) -> None:
    for step in (1, 2):
        path = _save(tmp_path, step) / name
    if damage == "flip":
        _flip(path, place=1)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    tensors, state, damaged = load_checkpoint(tmp_path)
    assert state["step"] == 1
    assert torch.equal(tensors["a/b"], torch.ones(3))
    assert len(damaged) == 1
    assert "step-000000002 is damaged" in damaged[0]


def test_when_all_are_damaged_the_error_names_them_and_says_what_to_do(tmp_path: Path) -> None:
    for step in (1, 2):
        _flip(_save(tmp_path, step) / "state.safetensors")
    with pytest.raises(GanaugError, match=r"no good checkpoint.*000000002.*000000001.*--overwrite"):
        load_checkpoint(tmp_path)


def test_no_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GanaugError, match="no good checkpoint"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("step", ["write_bytes", "write_json", "sha256_file", "_fsync_file"])
def test_a_save_that_fails_leaves_the_older_ones_and_no_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def broken(*_args: object) -> NoReturn:
        raise OSError(errno.EIO, "Input/output error")

    for number in (1, 2):
        _save(tmp_path, number)
    monkeypatch.setattr(Path if step == "write_bytes" else checkpoint, step, broken)
    with pytest.raises(OSError, match="Input/output error"):
        _save(tmp_path, 3)
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest.json", "step-000000001", "step-000000002"]
    assert load_checkpoint(tmp_path)[1:] == ({"step": 2, "elapsed_s": 0.5}, [])
    _save(tmp_path, 3)
    assert load_checkpoint(tmp_path)[1]["step"] == 3


def _full_above(monkeypatch: pytest.MonkeyPatch, folder: Path, most: int) -> None:
    """Let the disk hold so many states, and no more."""
    original = Path.write_bytes

    def write_bytes(path: Path, data: bytes) -> int:
        if path.name == "state.safetensors" and len(list(folder.glob("*/state.safetensors"))) >= most:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)


def test_on_a_full_disk_the_older_ones_give_way_to_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2):
        _save(tmp_path, number)
    _full_above(monkeypatch, tmp_path, 2)
    _save(tmp_path, 3)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000000002", "step-000000003"]


def test_on_a_full_disk_the_newest_good_one_and_the_best_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2, 3, 4):
        save_checkpoint(tmp_path, number, {"x": torch.ones(())}, {"step": number}, best=1)
    _flip(tmp_path / "step-000000004" / "state.safetensors")
    _full_above(monkeypatch, tmp_path, 2)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, 5, {"x": torch.ones(())}, {"step": 5}, best=1)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000000001", "step-000000003"]
    assert load_checkpoint(tmp_path)[1:] == ({"step": 3}, [])


def test_where_none_is_good_nothing_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2):
        _flip(_save(tmp_path, number) / "state.safetensors")
    _full_above(monkeypatch, tmp_path, 2)
    with pytest.raises(OSError, match="No space left"):
        _save(tmp_path, 3)
    assert len(checkpoints(tmp_path)) == 2


def test_a_seal_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    path = _save(tmp_path, 2) / "SHA256.json"
    path.write_text('{"/dev/zero": "0"}')
    assert load_checkpoint(tmp_path)[1]["step"] == 1


def test_a_state_that_is_no_object_is_damage(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    path = _save(tmp_path, 2)
    (path / "state.json").write_text("[1]")
    seal = {name: sha256_file(path / name) for name in ("state.safetensors", "state.json")}
    (path / "SHA256.json").write_text(json.dumps(seal))
    assert load_checkpoint(tmp_path)[1]["step"] == 1


def test_a_step_whose_second_saving_was_killed_is_still_there(tmp_path: Path) -> None:
    first = _save(tmp_path, 3)
    first.rename(tmp_path / f".before-{first.name}")
    (tmp_path / ".partial-000000003").mkdir()
    tidy(tmp_path)
    assert load_checkpoint(tmp_path)[1:] == ({"step": 3, "elapsed_s": 0.5}, [])
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_part_left_by_a_killed_process_is_not_a_checkpoint(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    (tmp_path / ".partial-000000002").mkdir()
    (tmp_path / ".partial-000000002" / "state.safetensors").write_bytes(b"half")
    assert load_checkpoint(tmp_path)[1]["step"] == 1
    _save(tmp_path, 2)
    assert load_checkpoint(tmp_path)[1]["step"] == 2


def test_every_file_is_on_the_disk_before_the_seal_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, write_json = checkpoint._fsync_file, checkpoint.write_json

    def spied_fsync(path: Path) -> None:
        events.append(path.name)
        fsync(path)

    def spied_write_json(path: Path, value: object) -> None:
        events.append(f"> {path.name}")
        write_json(path, value)

    monkeypatch.setattr(checkpoint, "_fsync_file", spied_fsync)
    monkeypatch.setattr(checkpoint, "write_json", spied_write_json)
    _save(tmp_path, 1)
    assert events.index("> SHA256.json") > max(events.index("state.safetensors"), events.index("state.json"))
