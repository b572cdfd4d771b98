"""Folders appear whole or not at all, are gone on with, belong to one process at a time, and never replace others'."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ganaug.errors import ConfigError, ModelFileError
from ganaug.files import MARKER
from ganaug.sampling.folder import REQUEST, continued, remove, whole_file, whole_files, write_file

ROOT = Path(__file__).parents[2]


def fill(
    folder: Path, request: dict[str, Any], *, overwrite: bool = False, files: dict[str, str] | None = None
) -> bool:
    """Fill a folder; return whether there was something to do."""
    with continued(folder, request, overwrite=overwrite) as place:
        for name, content in (files or {"file": str(request)}).items():
            if place is not None:
                (place / name).write_text(content)
        return place is not None


def break_off(folder: Path, request: dict[str, Any], problem: BaseException, **options: Any) -> None:
    """Fill a folder by half, then raise `problem`."""

    def half() -> None:
        with continued(folder, request, **options) as place:
            assert place is not None
            (place / "half").write_text(str(request))
            raise problem

    with pytest.raises(type(problem)):
        half()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_folder_takes_its_name_when_the_body_is_done(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with continued(out, {"n": 1}) as place:
        assert place is not None
        assert not out.exists()
        assert place.parent == out.parent
        (place / "file").write_text("x")
    assert names(out) == {"file", MARKER, REQUEST}
    assert names(tmp_path / "deep") == {"out"}


def test_the_same_request_again_touches_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert fill(out, {"n": (1, 2), "x": 0.1})
    before = {path: path.stat().st_mtime_ns for path in (out, *out.rglob("*"))}
    assert not fill(out, {"x": 0.1, "n": [1, 2]})
    assert {path: path.stat().st_mtime_ns for path in (out, *out.rglob("*"))} == before
    assert names(tmp_path) == {"out"}


def test_another_request_is_refused_until_it_may_overwrite(tmp_path: Path) -> None:
    out = tmp_path / "out"
    fill(out, {"n": 1})
    with pytest.raises(ConfigError, match=r"not empty.*--overwrite"):
        fill(out, {"n": 2})
    assert (out / "file").read_text() == "{'n': 1}"
    assert fill(out, {"n": 2}, overwrite=True)
    assert (out / "file").read_text() == "{'n': 2}"
    assert names(tmp_path) == {"out"}


def test_overwrite_makes_the_same_request_anew(tmp_path: Path) -> None:
    fill(tmp_path / "out", {"n": 1}, files={"file": "damaged"})
    assert fill(tmp_path / "out", {"n": 1}, overwrite=True, files={"file": "whole"})
    assert (tmp_path / "out" / "file").read_text() == "whole"


@pytest.mark.parametrize("problem", [RuntimeError("broken"), KeyboardInterrupt(), OSError(28, "No space left")])
def test_the_same_request_goes_on_with_what_was_begun(tmp_path: Path, problem: BaseException) -> None:
    out = tmp_path / "out"
    break_off(out, {"n": 1}, problem)
    assert names(tmp_path) == {".out.unfinished"}
    with continued(out, {"n": 1}) as place:
        assert place is not None
        assert (place / "half").is_file()
    assert names(out) == {"half", MARKER, REQUEST}
    assert names(tmp_path) == {"out"}


def test_another_request_begins_with_an_empty_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    break_off(out, {"n": 1}, RuntimeError())
    with continued(out, {"n": 2}) as place:
        assert place is not None
        assert names(place) == {MARKER, REQUEST}


def test_what_cannot_end_well_leaves_nothing_behind(tmp_path: Path) -> None:
    break_off(tmp_path / "out", {"n": 1}, ModelFileError("the model makes NaN"))
    assert names(tmp_path) == set()


def test_the_old_folder_stays_while_the_new_one_is_made(tmp_path: Path) -> None:
    out = tmp_path / "out"
    fill(out, {"n": 1})
    break_off(out, {"n": 2}, RuntimeError(), overwrite=True)
    assert (out / "file").read_text() == "{'n': 1}"
    with continued(out, {"n": 2}, overwrite=True) as place:
        assert place is not None
        assert (place / "half").is_file()
        assert (out / "file").read_text() == "{'n': 1}"
    assert names(out) == {"half", MARKER, REQUEST}
    assert names(tmp_path) == {"out"}


def test_a_swap_that_was_cut_off_is_finished(tmp_path: Path) -> None:
    out = tmp_path / "out"
    fill(out, {"n": 1})
    break_off(out, {"n": 2}, RuntimeError(), overwrite=True)
    out.replace(tmp_path / ".out.retired")  # as a kill between the two renames leaves it
    assert fill(out, {"n": 2}, overwrite=True)
    assert names(out) == {"half", "file", MARKER, REQUEST}
    assert names(tmp_path) == {"out"}


def test_an_old_folder_that_was_half_deleted_is_deleted(tmp_path: Path) -> None:
    out, retired = tmp_path / "out", tmp_path / ".out.retired"
    fill(out, {"n": 1})
    fill(retired, {"n": 0})
    (retired / "file").unlink()
    assert fill(out, {"n": 2}, overwrite=True)
    assert names(tmp_path) == {"out"}


def test_an_old_folder_that_a_kill_spared_goes_when_the_new_one_is_found_complete(tmp_path: Path) -> None:
    out, retired = tmp_path / "out", tmp_path / ".out.retired"
    fill(out, {"n": 1})
    fill(retired, {"n": 0})
    assert not fill(out, {"n": 1})
    assert names(tmp_path) == {"out"}
    retired.mkdir()
    (retired / "thesis.txt").write_text("years of work")
    assert not fill(out, {"n": 1})
    assert names(retired) == {"thesis.txt"}


@pytest.mark.parametrize("name", ["out", ".out.unfinished", ".out.retired"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_ours_stays_whatever_it_is_called(tmp_path: Path, name: str, overwrite: bool) -> None:
    foreign = tmp_path / name
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match=r"not empty|not made by ganaug"):
        fill(tmp_path / "out", {"n": 1}, overwrite=overwrite)
    assert (foreign / "thesis.txt").read_text() == "years of work"
    assert names(tmp_path) == {name}
    assert names(foreign) == {"thesis.txt"}


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(ConfigError, match="is a file"):
        fill(tmp_path / "out", {"n": 1}, overwrite=True)


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / ".out.unfinished").mkdir()  # as a kill at the very beginning leaves it
    assert fill(tmp_path / "out", {"n": 1})
    assert names(tmp_path) == {"out"}


def test_the_root_of_a_disk_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda self: self.name == "out")
    with pytest.raises(ConfigError, match=r"root of a disk.*folder inside"):
        fill(tmp_path / "out", {"n": 1})


def test_a_second_writer_is_refused_while_the_first_is_at_work(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    out = tmp_path / "out"
    script = (
        "import sys; from pathlib import Path; from ganaug.errors import ConfigError\n"
        "from ganaug.sampling.folder import continued\n"
        "for n in 1, 2:\n"
        "    try:\n"
        "        with continued(Path(sys.argv[1]), {'n': n}, overwrite=True): print('worked')\n"
        "    except ConfigError as problem: print(problem)\n"
    )
    with continued(out, {"n": 1}) as place:
        assert place is not None
        (place / "file").write_text("x")
        with pytest.raises(ConfigError, match=r"Another process is writing to .*out at this moment"):
            fill(out, {"n": 1})
        ran = subprocess.run(
            [sys.executable, "-c", script, str(out)], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert ran.stdout.count("Another process is writing to") == 2
    assert (out / "file").read_text() == "x"
    with continued(tmp_path / "other", {"n": 1}):
        fill(tmp_path / "third", {"n": 1})


def test_whoever_waited_at_the_lock_finds_the_work_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process finishes between the second one's opening of the lock and its locking."""
    fcntl = pytest.importorskip("fcntl")
    out = tmp_path / "out"
    original, begun = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        if not begun:
            begun.append(True)
            assert fill(out, {"n": 1})
        original(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    assert not fill(out, {"n": 1})
    assert names(tmp_path) == {"out"}


def test_a_file_system_without_locks_is_good_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def flock(*_: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert fill(tmp_path / "out", {"n": 1})


@pytest.mark.parametrize("data", [b"x", b"x" * 3_000_000])
def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    write_file(path, data)
    assert path.read_bytes() == data

    def half() -> None:
        with whole_file(tmp_path / "half") as stream:
            stream.write(data)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert names(tmp_path) == {"file"}


def test_what_a_killed_process_left_of_a_file_is_removed(tmp_path: Path) -> None:
    for name, content in {"whole": "x", "empty": "", "cut.part": "x"}.items():
        (tmp_path / name).write_text(content)
    assert whole_files(tmp_path) == {"whole"}
    assert names(tmp_path) == {"whole"}


def test_the_marker_goes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "out", {"n": 1}, files={str(i): "x" for i in range(5)})
    order: list[str] = []
    original = Path.unlink

    def unlink(self: Path, missing_ok: bool = False) -> None:
        order.append(self.name)
        original(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    remove(tmp_path / "out")
    assert order[-1] == MARKER
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_in_a_folder_of_ours_are_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "scan").write_text("precious")
    fill(tmp_path / "out", {"n": 1})
    (tmp_path / "out" / "link").symlink_to(tmp_path / "data")
    fill(tmp_path / "out", {"n": 2}, overwrite=True)
    assert (tmp_path / "data" / "scan").read_text() == "precious"
