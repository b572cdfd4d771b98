"""The command line as a user meets it: what it prints, what it writes, how it ends."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from ganaug.cli import main
from ganaug.sampling import SyntheticBank
from ganaug.training.run import Run
from tests.tiny import write_shapes

COMMANDS = ["inspect", "fit", "sample", "translate", "twins", "preview", "trace", "purge", "evaluate", "study", "demo"]
QUICK = ["--recipe", "smoke", "--kimg", "0.1", "--set", "batch=8", "--set", "widths=[8]", "--set", "group_width=4"]


def ganaug(*words: str | Path) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(word) for word in words])


def complain(result: Result, code: int, *wanted: str) -> None:
    """Assert that a command ended with an error in words, and no traceback."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    for text in wanted:
        assert text in result.output


def test_the_whole_way_from_a_folder_to_a_balanced_one(shapes: Path, tmp_path: Path) -> None:
    run, more, look = tmp_path / "run", tmp_path / "more", tmp_path / "look.png"
    fitted = ganaug("fit", shapes, "--out", run, *QUICK)
    assert fitted.exit_code == 0, fitted.output
    assert "ganaug sample" in fitted.output  # says what to do next
    assert ganaug("preview", run, "--out", look, "--real", shapes).exit_code == 0
    assert Image.open(look).size[0] > 100
    sampled = ganaug("sample", run, "--balance", shapes, "--out", more, "--json")
    assert sampled.exit_code == 0, sampled.output
    counts = {kind: len(list((shapes / kind).iterdir())) for kind in ("cross", "disk", "ring")}
    added = {kind: len(list((more / kind).glob("*.png"))) if (more / kind).exists() else 0 for kind in counts}
    assert {kind: counts[kind] + added[kind] for kind in counts} == dict.fromkeys(counts, max(counts.values()))
    with (more / "metadata.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["file_name"] for row in rows} == {str(p.relative_to(more)) for p in more.rglob("*.png")}


def test_sample_writes_a_bank_that_opens(tiny_run: Run, tmp_path: Path) -> None:
    result = ganaug(
        "sample", tiny_run.path, "--out", tmp_path / "bank", "--counts", "ring=3,disk=2", "--format", "bank"
    )
    assert result.exit_code == 0, result.output
    assert SyntheticBank.open(tmp_path / "bank").counts == {"cross": 0, "disk": 2, "ring": 3}


def test_inspect_says_what_is_there_what_is_wrong_and_what_would_be_trained(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", {"disk": 11, "ring": 10})
    (data / "disk" / "000.png").write_bytes(b"no image")
    (data / "notes.txt").write_text("hello")
    text = ganaug("inspect", data).output
    for wanted in ("disk", "ring", "000.png", "notes.txt", "16x16", "px16"):
        assert wanted in text
    report = json.loads(CliRunner().invoke(main, ["inspect", str(data), "--json"]).stdout)
    assert report["plan"]["classes"] == {"disk": 10, "ring": 10}
    assert {problem["kind"] for problem in report["problems"]} >= {"unreadable", "not_images"}


def test_inspect_reports_what_fit_would_refuse(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", {"disk": 5, "ring": 1})
    result = ganaug("inspect", data)
    assert result.exit_code == 0
    assert "'fit' would refuse it" in result.output


def test_dry_run_times_and_writes_nothing(shapes: Path, tmp_path: Path) -> None:
    result = ganaug("fit", shapes, "--out", tmp_path / "run", *QUICK, "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["images_per_second"] > 0
    assert found["classes"] == {"cross": 12, "disk": 8, "ring": 4}
    assert not (tmp_path / "run").exists()


def test_skipped_and_ignored_files_are_named(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", {"disk": 12, "ring": 12})
    whole = (data / "disk" / "003.png").read_bytes()
    (data / "disk" / "003.png").write_bytes(whole[: len(whole) // 2])
    (data / "ring" / "notes.txt").write_text("hello")
    result = ganaug("fit", data, "--out", tmp_path / "run", *QUICK)
    assert result.exit_code == 0, result.output
    assert "1 of 24" in result.output
    assert "disk/003.png" in result.output
    assert "notes.txt" in result.output


def broken(tmp_path: Path, kind: str) -> Path:
    """Return a data folder that cannot be trained on."""
    data = tmp_path / "data"
    if kind == "empty":
        data.mkdir()
    elif kind == "one class":
        write_shapes(data, {"disk": 5})
    elif kind == "one image":
        write_shapes(data, {"disk": 5, "ring": 1})
    elif kind == "many unreadable":
        write_shapes(data, {"disk": 5, "ring": 5})
        for path in (data / "disk").iterdir():
            path.write_bytes(b"\x89PNG\r\n\x1a\n")
    elif kind == "gray and color":
        write_shapes(data, {"disk": 5})
        write_shapes(tmp_path / "other", {"ring": 5}, channels=3)
        (tmp_path / "other" / "ring").rename(data / "ring")
    return data


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("missing", "does not exist"),
        ("empty", "no files"),
        ("one class", "At least two were wanted"),
        ("one image", "ring (1 image)"),
        ("many unreadable", "5 of 10"),
        ("gray and color", "--channels"),
    ],
)
def test_bad_data_is_said_with_exit_code_3_and_nothing_is_written(tmp_path: Path, kind: str, wanted: str) -> None:
    result = ganaug("fit", broken(tmp_path, kind), "--out", tmp_path / "run", *QUICK)
    complain(result, 3, wanted)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--size", "4x4"], "8 to 1024 pixels"),
        (["--size", "big"], "HxW"),
        (["--set", "lrr=1"], "'lr'"),
        (["--set", "nonsense"], "key=value"),
        (["--recipe", "nope"], "px16"),
        (["--model", "nope"], "conditional"),
        (["--device", "cuda:99"], "no such GPU"),
        (["--minutes", "0"], "above 0"),
        (["--minutes", "1", "--kimg", "1"], "give one"),
        (["--resume", "--overwrite"], "give one"),
    ],
)
def test_bad_options_are_said_with_exit_code_2_and_nothing_is_written(
    shapes: Path, tmp_path: Path, words: Sequence[str], wanted: str
) -> None:
    complain(ganaug("fit", shapes, "--out", tmp_path / "run", *words), 2, wanted)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "code", "wanted"),
    [
        ([], 2, "exactly one"),
        (["--per-class", "2", "--counts", "ring=2"], 2, "exactly one"),
        (["--counts", "ring=two"], 2, "CLASS=NUMBER"),
        (["--counts", "ring=1,ring=2"], 2, "twice"),
        (["--counts", "square=2"], 2, "cross, disk, ring"),
        (["--per-class", "2", "--truncation", "0"], 2, "above 0"),
    ],
)
def test_bad_samples_are_said(tiny_run: Run, tmp_path: Path, words: list[str], code: int, wanted: str) -> None:
    complain(ganaug("sample", tiny_run.path, "--out", tmp_path / "out", *words), code, wanted)
    assert not (tmp_path / "out").exists()


def test_sample_refuses_to_write_into_the_data_it_balances(tiny_run: Run, shapes: Path) -> None:
    complain(ganaug("sample", tiny_run.path, "--out", shapes / "more", "--balance", shapes), 2, "inside")
    assert not (shapes / "more").exists()


def test_overwrite_never_takes_what_a_command_reads(tiny_run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert ganaug("sample", tiny_run.path, "--out", out, "--per-class", "2").exit_code == 0
    complain(ganaug("fit", out, "--out", out, "--overwrite", *QUICK), 2, "inside")
    complain(ganaug("sample", tiny_run.path, "--out", tiny_run.path, "--per-class", "2", "--overwrite"), 2, "inside")
    assert tiny_run.model_path.is_file()
    assert len(list(out.rglob("*.png"))) == 6


def test_what_is_not_a_run_is_said(shapes: Path, tmp_path: Path) -> None:
    complain(ganaug("sample", shapes, "--out", tmp_path / "out", "--per-class", "2"), 3, "ganaug fit")
    complain(ganaug("preview", tmp_path / "nothing", "--out", tmp_path / "p.png"), 3, "ganaug fit")


def test_nothing_of_the_users_is_overwritten(shapes: Path, tiny_run: Run, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("precious")
    for words in (["fit", shapes, *QUICK], ["sample", tiny_run.path, "--per-class", "1"], ["demo"]):
        complain(ganaug(*words, "--out", theirs), 2, "not empty")
        complain(ganaug(*words, "--out", theirs, "--overwrite"), 2, "not made by ganaug")
    picture = tmp_path / "look.png"
    picture.write_bytes(b"precious")
    complain(ganaug("preview", tiny_run.path, "--out", picture), 2, "exists")
    assert (theirs / "thesis.txt").read_text() == "precious"
    assert picture.read_bytes() == b"precious"


def test_a_fault_of_ours_is_a_sentence_with_a_file_to_report(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("ganaug.data.scan", fail)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    result = ganaug("inspect", shapes)
    complain(result, 1, "ZeroDivisionError: a bug", "report")
    (details,) = tmp_path.glob("ganaug-error-*.txt")
    assert "Traceback" in details.read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_defaults_and_json(command: str) -> None:
    text = ganaug(command, "--help").output
    assert "--json" in text
    assert "default" in text


def test_the_commands_are_listed_in_the_order_of_use() -> None:
    lines = [line.split()[0] for line in ganaug("--help").output.splitlines() if line.startswith("  ") and line.strip()]
    assert [word for word in lines if word in COMMANDS] == COMMANDS


def test_as_a_program_progress_goes_to_standard_error_and_json_to_standard_output(shapes: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "ganaug", "fit", str(shapes), "--out", str(tmp_path / "run"), *QUICK]
    found = subprocess.run([*words, "--json"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert Path(json.loads(found.stdout)["model"]).is_file()
    assert found.stderr == ""
    again = subprocess.run([*words, "--overwrite"], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "fit: 100/100 %" in again.stderr
    refused = subprocess.run(words, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith("Error: ")
