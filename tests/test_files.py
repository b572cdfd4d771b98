"""Files on disk: atomic writes, output folders that never overwrite what is not ours, disk errors as sentences."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import NoReturn

import pytest

from ganaug.errors import ConfigError, GanaugError, ModelFileError
from ganaug.files import (
    MARKER,
    append_line,
    disk_errors,
    drop_temporaries,
    only_writer,
    prepare_output,
    read_json,
    sha256_file,
    write_atomic,
    write_json,
)


def _no_space(*_args: object) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_sha256_is_of_the_bytes(tmp_path: Path) -> None:
    data = os.urandom(3_000_001)
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_write_atomic_replaces_a_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"old", b"new and longer"):
        write_atomic(path, data)
        assert path.read_bytes() == data
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_write_atomic_keeps_the_old_file_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    monkeypatch.setattr(os if step == "fsync" else Path, step, _no_space)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_write_atomic_cleans_up_after_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_args: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


def test_json_comes_back(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, "ä"], "b": {"c": True}}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json", ModelFileError, "hint") == value


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe\x00", b"[1,"])
def test_missing_and_damaged_json_is_the_wanted_error_with_its_hint(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"x\.json .* Do this and that\.$"):
        read_json(path, ModelFileError, "Do this and that.")


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_prepare_output_creates_and_marks_a_folder(tmp_path: Path) -> None:
    folder = prepare_output(tmp_path / "a" / "b")
    assert _contents(folder) == {MARKER: b""}


def test_prepare_output_takes_an_empty_folder(tmp_path: Path) -> None:
    assert _contents(prepare_output(tmp_path)) == {MARKER: b""}


def test_prepare_output_refuses_a_folder_that_holds_something(tmp_path: Path) -> None:
    prepare_output(tmp_path / "out")
    (tmp_path / "out" / "result").write_text("precious")
    with pytest.raises(ConfigError, match=r"not empty.*--resume or --overwrite") as caught:
        prepare_output(tmp_path / "out", options="--resume or --overwrite")
    assert caught.value.exit_code == 2
    assert (tmp_path / "out" / "result").read_text() == "precious"


def test_overwrite_replaces_only_what_ganaug_made(tmp_path: Path) -> None:
    ours, theirs = prepare_output(tmp_path / "ours"), tmp_path / "theirs"
    (ours / "old").write_text("old")
    prepare_output(ours, overwrite=True)
    assert _contents(ours) == {MARKER: b""}

    (theirs / "deep").mkdir(parents=True)
    (theirs / "deep" / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="not made by ganaug"):
        prepare_output(theirs, overwrite=True)
    assert _contents(theirs) == {"deep/thesis.txt": b"precious"}


def test_a_marker_that_is_a_folder_is_not_a_marker(tmp_path: Path) -> None:
    (tmp_path / "theirs" / MARKER).mkdir(parents=True)
    with pytest.raises(ConfigError, match="not made by ganaug"):
        prepare_output(tmp_path / "theirs", overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_prepare_output_refuses_a_file(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ConfigError, match="is a file"):
        prepare_output(tmp_path / "file", overwrite=overwrite)
    assert (tmp_path / "file").read_text() == "precious"


def test_nested_and_huge_json_is_the_wanted_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    path.write_text("[" * 100_000)
    with pytest.raises(ModelFileError, match=r"nested too deeply.* Do this"):
        read_json(path, ModelFileError, "Do this.")
    monkeypatch.setattr("ganaug.files.MOST_JSON", 2**20)
    path.write_text("1" + " " * 2**20)
    with pytest.raises(ModelFileError, match=r"more than 1 MiB.* Do this"):
        read_json(path, ModelFileError, "Do this.")


def test_what_a_link_in_the_place_of_the_temporary_file_points_to_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("precious")
    (tmp_path / f".x.json.{os.getpid()}.tmp").symlink_to(tmp_path / "theirs")
    write_json(tmp_path / "x.json", [1])
    assert (tmp_path / "theirs").read_text() == "precious"
    assert not (tmp_path / "x.json").is_symlink()


def test_a_line_is_added_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lines"
    append_line(path, "one")

    def no_space(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        append_line(path, "two")
    monkeypatch.undo()
    append_line(path, "three")
    assert path.read_text() == "one\nthree\n"


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    folder, theirs = tmp_path / "run", tmp_path / "theirs"
    for place in (folder / "images", theirs):
        place.mkdir(parents=True)
        (place / ".a.png.12.tmp").touch()
    (folder / "b.tmp").touch()
    (folder / "linked").symlink_to(theirs)
    drop_temporaries(folder)
    assert sorted(path.name for path in folder.rglob("*")) == ["b.tmp", "images", "linked"]
    assert (theirs / ".a.png.12.tmp").exists()


def test_a_folder_has_one_writer_at_a_time(tmp_path: Path) -> None:
    with only_writer(tmp_path / "out"):
        with pytest.raises(ConfigError, match=r"Another process is writing to .*out"), only_writer(tmp_path / "out"):
            pass
        prepare_output(tmp_path / "out", overwrite=True)  # the lock outlives the emptying
        with pytest.raises(ConfigError, match="Another process"), only_writer(tmp_path / "out"):
            pass
    with only_writer(tmp_path / "out"):
        pass


def test_a_folder_that_holds_the_marker_alone_is_empty(tmp_path: Path) -> None:
    prepare_output(tmp_path / "out")
    prepare_output(tmp_path / "out")
    assert _contents(tmp_path / "out") == {MARKER: b""}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_sentence(number: int) -> None:
    with pytest.raises(GanaugError, match=r"No space is left.*runs/x") as caught, disk_errors(Path("runs/x")):
        raise OSError(number, os.strerror(number))
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_forbidden_write_is_a_sentence_that_names_the_file(number: int) -> None:
    with pytest.raises(GanaugError, match="runs/x/y cannot be written"), disk_errors(Path("runs/x")):
        raise OSError(number, os.strerror(number), "runs/x/y")


def test_any_other_disk_error_is_a_sentence_too() -> None:
    with pytest.raises(GanaugError, match=r"runs/x .*Input/output error"), disk_errors(Path("runs/x")):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_errors_that_are_not_the_disks_pass_through() -> None:
    with pytest.raises(ZeroDivisionError), disk_errors(Path("runs/x")):
        raise ZeroDivisionError
