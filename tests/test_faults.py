"""What the world does to a run: a full disk, a read-only one, files that vanish, clocks that jump, a second process."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from ganaug.cli import main
from ganaug.errors import DataError, GanaugError
from ganaug.files import MARKER
from ganaug.models.modelfile import load_model
from ganaug.sampling.export import export_folder
from ganaug.training import loop
from ganaug.training.checkpoint import checkpoints, load_checkpoint
from ganaug.training.fit import fit
from ganaug.training.run import Run
from tests.sampling.fake_sampler import FakeSampler
from tests.sampling.kill_loop import contents
from tests.tiny import SETTINGS, make_model, write_shapes

pytestmark = pytest.mark.faults

fit_module = sys.modules["ganaug.training.fit"]
SHORT: dict[str, Any] = {
    **SETTINGS, "size": (8, 8), "widths": (8,), "threads": 1, "monitor": False, "kimg": 0.16, "snapshots": 4,
}  # fmt: skip
"""20 steps of 8 images, and a snapshot after every fifth."""
FITTING = ["--recipe", "smoke", "--size", "8x8", "--batch", "8", "--device", "cpu", "--set", "widths=[8]"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Return what mounts a disk of so many bytes in memory."""
    mounted: list[Path] = []

    def mount(size: int, *, options: str = "") -> Path:
        place = tmp_path / f"disk-{len(mounted)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}{options}", "tmpfs", str(place)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a disk in memory is not allowed here")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture(scope="module")
def straight(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training of 20 steps on a disk with room."""
    return fit(shapes, tmp_path_factory.mktemp("straight") / "run", **SHORT)


def _leave(place: Path, room: int) -> Path:
    """Fill a disk up to so many bytes; return the file that does it."""
    ballast = place / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(place).free - room))
    return ballast


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _same_weights(one: Run, other: Run) -> bool:
    states = [load_file(checkpoints(run.checkpoints)[-1] / "state.safetensors") for run in (one, other)]
    models = [load_file(run.model_path) for run in (one, other)]
    return all(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in (states, models))


def test_a_disk_that_fills_up_costs_the_pictures_first(
    disk: Callable[..., Path], shapes: Path, straight: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    place = disk(64 * 2**20)
    one = _bytes(checkpoints(straight.checkpoints)[-1])
    _leave(place, round(4.5 * one) + _bytes(straight.path) - _bytes(straight.checkpoints))
    run = fit(shapes, place / "run", **SHORT)
    assert _same_weights(run, straight)
    assert [row["kimg"] for row in run.metrics()] == [row["kimg"] for row in straight.metrics()]
    assert len(list(run.images.glob("*.png"))) < len(list(straight.images.glob("*.png")))
    assert capfd.readouterr().err.count("is nearly full: pictures are left out") == 1


def test_on_a_full_disk_the_newest_checkpoint_stays_and_the_run_goes_on_when_there_is_room(
    disk: Callable[..., Path], shapes: Path, straight: Run
) -> None:
    place = disk(64 * 2**20)
    one = _bytes(checkpoints(straight.checkpoints)[-1])
    ballast = _leave(place, round(1.6 * one))
    with pytest.raises(GanaugError, match=r"No space is left.*--resume"):
        fit(shapes, place / "run", **SHORT)
    run = Run(place / "run")
    assert load_checkpoint(run.checkpoints)[2] == []
    assert [path.name for path in run.path.rglob(".*") if path.name != MARKER] == []
    ballast.unlink()
    assert _same_weights(fit(shapes, run.path, resume=True), straight)


def test_a_disk_without_room_for_a_single_checkpoint_is_a_sentence(disk: Callable[..., Path], shapes: Path) -> None:
    place = disk(64 * 2**20)
    ballast = _leave(place, 8 * 4096)
    done = CliRunner().invoke(main, ["fit", str(shapes), "--out", str(place / "run"), "--kimg", "0.1", *FITTING])
    assert (done.exit_code, "Traceback" in done.output) == (1, False)
    assert "No space is left" in done.stderr
    ballast.unlink()
    done = CliRunner().invoke(main, ["fit", str(shapes), "--out", str(place / "run"), "--resume"])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("format_", ["png", "npz", "bank"])
def test_samples_go_on_where_a_full_disk_stopped_them(disk: Callable[..., Path], tmp_path: Path, format_: str) -> None:
    place = disk(64 * 2**20)
    order: dict[str, Any] = {"counts": {"a": 60}, "format": format_}
    export_folder(FakeSampler(shape=(1, 64, 64)), tmp_path / "whole", **order)  # type: ignore[arg-type]
    ballast = _leave(place, round(0.5 * _bytes(tmp_path / "whole")))
    with pytest.raises(GanaugError, match="No space is left"):
        export_folder(FakeSampler(shape=(1, 64, 64)), place / "out", **order)  # type: ignore[arg-type]
    assert not (place / "out").exists()
    ballast.unlink()
    export_folder(FakeSampler(shape=(1, 64, 64)), place / "out", **order)  # type: ignore[arg-type]
    assert contents(place / "out") == contents(tmp_path / "whole")


def test_a_read_only_output_is_a_sentence_of_every_command(
    disk: Callable[..., Path], shapes: Path, tmp_path: Path
) -> None:
    model, place = make_model(tmp_path / "generator.safetensors"), disk(2**20, options=",ro")
    enough = write_shapes(tmp_path / "data", {"disk": 24, "ring": 24})
    out = str(place / "out")
    commands = [
        ["fit", str(shapes), "--out", out, "--kimg", "0.1", *FITTING],
        ["sample", str(model), "--per-class", "2", "--out", out],
        ["preview", str(model), "--out", f"{out}.png"],
        ["study", str(enough), "--out", out, "--kimg", "0.1", "--steps", "1"],
        ["demo", "--out", out],
    ]
    for command in commands:
        done = CliRunner().invoke(main, command)
        assert done.exit_code != 0, command
        assert "cannot be written" in done.stderr or "Read-only" in done.stderr, (command, done.stderr)
        assert "fault in ganaug" not in done.stderr, command


def test_a_file_that_vanishes_between_the_scan_and_the_reading_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANAUG_CACHE", "off")
    data = write_shapes(tmp_path / "data", {"disk": 6, "ring": 5})
    original = fit_module.load_tensor

    def load_tensor(*args: Any, **options: Any) -> Any:
        (data / "ring" / "003.png").unlink()
        return original(*args, **options)

    monkeypatch.setattr(fit_module, "load_tensor", load_tensor)
    with pytest.raises(DataError, match=r"ring.003\.png"):
        fit(data, tmp_path / "run", **SHORT)


def test_a_folder_that_vanishes_during_the_training_is_not_missed(shapes: Path, straight: Run, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(shapes, data)
    run = tmp_path / "run"
    _at_step(8, lambda: shutil.rmtree(data))
    try:
        assert _same_weights(fit(data, run, **SHORT), straight)
    finally:
        _at_step(0, None)
    with pytest.raises(DataError, match="data"):
        fit(data, run, resume=True)


def test_a_run_folder_that_vanishes_is_a_sentence(shapes: Path, tmp_path: Path) -> None:
    _at_step(8, lambda: shutil.rmtree(tmp_path / "run"))
    try:
        with pytest.raises(GanaugError, match=r"run.* cannot be read or written"):
            fit(shapes, tmp_path / "run", **SHORT)
    finally:
        _at_step(0, None)


_progress_bar = fit_module.progress_bar


def _at_step(number: int, act: Callable[[], Any] | None) -> None:
    """Do something after so many steps of the trainings to come; nothing with None."""

    class Bar:
        seen = 0

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def update(self, _done: float, _note: str = "") -> None:
            self.seen += 1
            if act is not None and self.seen == number:
                act()

    fit_module.progress_bar = _progress_bar if act is None else lambda *_args, **_options: Bar()  # type: ignore[attr-defined]


def test_wall_clocks_that_jump_change_nothing(
    shapes: Path, straight: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jumps = iter([1e9, -5e8, 0.0, 4e9] * 10_000)
    monkeypatch.setattr(time, "time", lambda: 1.7e9 + next(jumps))
    assert _same_weights(fit(shapes, tmp_path / "run", **SHORT), straight)
    export_folder(FakeSampler(), tmp_path / "out", counts={"a": 9}, format="png")  # type: ignore[arg-type]
    assert len(list((tmp_path / "out").rglob("*.png"))) == 9


def test_a_computer_that_slept_through_its_minutes_ends_with_a_model(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the clock that trainings use; on most systems it stands still while the computer sleeps."""
    slept = iter([0.0] * 40 + [1e7] * 1_000_000)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + next(slept)))
    run = fit(shapes, tmp_path / "run", **{**SHORT, "kimg": 200.0, "minutes": 10.0})
    assert load_model(run.model_path)[1].classes == ("cross", "disk", "ring")
    assert len(run.metrics()) >= 1


def _start(shapes: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ganaug", "fit", str(shapes), "--out", str(out), *FITTING, *more]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _wait_for(ready: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not ready() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


def test_a_second_training_on_one_folder_is_refused_and_the_first_goes_on(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = _start(shapes, out, "--kimg", "1e6")
    _wait_for(lambda: checkpoints(out / "checkpoints"), first)
    for more in (["--resume"], ["--overwrite", "--kimg", "1"]):
        done = CliRunner().invoke(main, ["fit", str(shapes), "--out", str(out), *FITTING, *more])
        assert done.exit_code == 2
        assert "Another process is writing to" in done.stderr
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    assert "The state is saved" in first.communicate(timeout=120)[1]
    assert load_checkpoint(out / "checkpoints")[2] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_training_saves_within_ten_seconds(shapes: Path, tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "run"
    process = _start(shapes, out, "--kimg", "1e6")
    _wait_for(lambda: checkpoints(out / "checkpoints"), process)
    process.send_signal(number)
    _, message = process.communicate(timeout=10)
    assert process.returncode == 1, message
    (command,) = [line for line in message.splitlines() if "--resume" in line]
    assert shlex.split(command) == ["ganaug", "fit", str(shapes), "--out", str(out), "--resume"]
    assert load_checkpoint(out / "checkpoints")[1]["step"] > 0


def test_a_disk_that_forbids_writing_is_a_sentence(shapes: Path, tmp_path: Path) -> None:
    if not hasattr(os, "geteuid") or os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    place = tmp_path / "theirs"
    place.mkdir(mode=0o500)
    with pytest.raises(GanaugError, match="cannot be written"):
        fit(shapes, place / "run", **SHORT)
