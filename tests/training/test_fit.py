"""`fit`: the run folder, resuming, stopping, and what happens when something goes wrong."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ganaug.data import hash_group
from ganaug.errors import ConfigError, DataError, DivergedError, GanaugError, Interrupted
from ganaug.files import MARKER, only_writer, sha256_file
from ganaug.models.modelfile import load_model
from ganaug.sampling.sampler import load
from ganaug.training import loop
from ganaug.training.checkpoint import checkpoints
from ganaug.training.fit import fit
from ganaug.training.gans.conditional import GAN
from ganaug.training.losses import relativistic
from ganaug.training.run import Run
from tests.tiny import SETTINGS, write_shapes

fit_module = sys.modules["ganaug.training.fit"]
SHORT: dict[str, Any] = {**SETTINGS, "size": (8, 8), "widths": (8,), "kimg": 0.16, "snapshots": 4}
"""20 steps of 8 images, and a snapshot after every fifth."""


class _Stop:
    """A progress that presses Ctrl-C after a number of steps."""

    def __init__(self, after: int) -> None:
        self.after = after

    def update(self, done: float, note: str = "") -> None:
        self.after -= 1
        if self.after == 0:
            os.kill(os.getpid(), signal.SIGINT)


def _stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    @contextmanager
    def bar(*_args: Any, **_kwargs: Any) -> Iterator[_Stop]:
        yield _Stop(steps)

    monkeypatch.setattr(fit_module, "progress_bar", bar)


@pytest.fixture(scope="module")
def straight(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training of 20 steps without a stop."""
    return fit(shapes, tmp_path_factory.mktemp("straight") / "run", **SHORT)


def _last_state(run: Run) -> dict[str, torch.Tensor]:
    return load_file(checkpoints(run.checkpoints)[-1] / "state.safetensors")


def _different(one: Run, other: Run) -> list[str]:
    """Return the names of all tensors that are not bitwise equal in the last checkpoints and the model files."""
    found = []
    for a, b in (
        (_last_state(one), _last_state(other)),
        (load_file(one.model_path), load_file(other.model_path)),
    ):
        assert a.keys() == b.keys()
        found += [name for name in a if not torch.equal(a[name], b[name])]
    return found


def _kimg(run: Run) -> list[float]:
    return [row["kimg"] for row in run.metrics()]


def test_a_run_folder_holds_everything(shapes: Path, tiny_run: Run) -> None:
    names = {path.name for path in tiny_run.path.iterdir()}
    assert names == {
        "config.json",
        "train_manifest.json",
        "metrics.jsonl",
        "checkpoints",
        "images",
        "generator.safetensors",
        "report.html",
        MARKER,
    }
    config = tiny_run.config()
    assert (config.batch, config.size, config.channels) == (8, (16, 16), 1)
    header = load_model(tiny_run.model_path)[1]
    assert header.classes == ("cross", "disk", "ring")
    assert header.training["images"] == {"cross": 12, "disk": 8, "ring": 4}
    assert header.training["kimg"] == 0.6
    assert len(tiny_run.metrics()) == 2
    assert len(list(tiny_run.images.glob("*.png"))) == 2
    assert len(checkpoints(tiny_run.checkpoints)) == 2


def test_the_training_manifest_has_the_hash_of_every_file_and_no_name_in_clear(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", {"disk": 4, "ring": 4}, side=8)
    run = fit(data, tmp_path / "run", **{**SHORT, "kimg": 0.008}, group_regex=r"\w+/00(\d)")
    manifest = run.train_manifest()
    assert manifest["classes"] == ["disk", "ring"]
    wanted = [
        {"label": label, "sha256": sha256_file(path), "group_hash": hash_group(path.stem[-1])}
        for label, name in enumerate(manifest["classes"])
        for path in sorted((data / name).iterdir())
    ]
    assert manifest["files"] == wanted


def test_metrics_say_what_a_person_needs(tiny_run: Run) -> None:
    for row in tiny_run.metrics():
        assert row["diversity_by_class"].keys() == {"cross", "disk", "ring"}
        assert row["diversity_least"] == min(row["diversity_by_class"].values())
        assert row["diversity_by_class"][row["diversity_least_class"]] == row["diversity_least"]
        assert row["images_per_second"] > 0
        assert row["skipped_steps"] == 0
        assert {"loss_d", "loss_g", "r1", "r2"} <= row.keys()
    assert _kimg(tiny_run) == sorted(_kimg(tiny_run))


def test_the_report_stands_alone(tiny_run: Run) -> None:
    page = tiny_run.report_path.read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    for word in ("cross", "disk", "ring", "Diversity"):
        assert word in page
    assert "<td>ring</td><td>4</td>" in page


def test_the_same_training_gives_the_same_bits_and_leaves_the_users_random_state_alone(
    shapes: Path, straight: Run, tmp_path: Path
) -> None:
    torch.manual_seed(123)
    np.random.seed(123)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
    again = fit(shapes, tmp_path / "run", **SHORT)
    assert _different(straight, again) == []
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]


def test_another_seed_gives_another_training(shapes: Path, straight: Run, tmp_path: Path) -> None:
    other = fit(shapes, tmp_path / "run", **{**SHORT, "kimg": 0.008}, seed=1)
    assert not torch.equal(
        load_file(straight.model_path)["output.weight"], load_file(other.model_path)["output.weight"]
    )


@pytest.mark.parametrize("steps", [3, 10, 13])
def test_resume_is_bitwise_equal(
    shapes: Path, straight: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """Stopped before the first snapshot, right at one, and between two."""
    _stop_after(monkeypatch, steps)
    with pytest.raises(Interrupted):
        fit(shapes, tmp_path / "run", **SHORT)
    monkeypatch.undo()
    resumed = fit(shapes, tmp_path / "run", resume=True)
    assert _kimg(resumed) == _kimg(straight)
    assert _different(straight, resumed) == []


def test_a_stop_saves_the_state_and_names_the_command_that_goes_on(
    shapes: Path, straight: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stop_after(monkeypatch, 7)
    out = tmp_path / "my runs" / "run"
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted) as caught:
        fit(shapes, out, **SHORT, group_regex=r"/(\d+)")
    assert caught.value.exit_code == 1
    assert signal.getsignal(signal.SIGINT) is before
    command = shlex.split(str(caught.value).splitlines()[-1])
    assert command == ["ganaug", "fit", str(shapes), "--out", str(out), "--resume"]
    assert checkpoints(Run(out).checkpoints)[-1].name == "step-000000007"

    monkeypatch.undo()
    resumed = fit(shapes, out, resume=True)
    assert resumed.config_file()["group_regex"] == r"/(\d+)"
    assert _kimg(resumed) == _kimg(straight)
    assert load(out, device="cpu").header.training["kimg"] == 0.16


def test_a_stop_after_a_snapshot_leaves_a_model_that_samples(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stop_after(monkeypatch, 6)
    with pytest.raises(Interrupted):
        fit(shapes, tmp_path / "run", **SHORT)
    assert load(tmp_path / "run", device="cpu").sample([0, 1, 2]).shape == (3, 1, 8, 8)
    assert (tmp_path / "run" / "report.html").is_file()


def _kill_at_snapshot(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Fill the disk from the model file of the n-th snapshot on, when its metrics and picture are written already."""
    original: Callable[..., None] = loop.save_model
    calls = Counter[str]()

    def save_model(*args: Any) -> None:
        calls["all"] += 1
        if calls["all"] >= number:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(*args)

    monkeypatch.setattr(loop, "save_model", save_model)


@pytest.mark.parametrize("number", [1, 3])
def test_a_full_disk_is_a_sentence_and_after_it_resume_repeats_no_row(
    shapes: Path, straight: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    _kill_at_snapshot(monkeypatch, number)
    with pytest.raises(GanaugError, match=r"No space is left.*--resume"):
        fit(shapes, tmp_path / "run", **SHORT)
    monkeypatch.undo()
    resumed = fit(shapes, tmp_path / "run", resume=True)
    assert _kimg(resumed) == _kimg(straight)


def test_a_damaged_newest_checkpoint_costs_a_snapshot_and_is_said(
    shapes: Path, straight: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _stop_after(monkeypatch, 12)
    with pytest.raises(Interrupted):
        fit(shapes, tmp_path / "run", **SHORT)
    monkeypatch.undo()
    newest = checkpoints(tmp_path / "run" / "checkpoints")[-1] / "state.safetensors"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    resumed = fit(shapes, tmp_path / "run", resume=True)
    assert "step-000000012 is damaged" in capsys.readouterr().err
    assert _kimg(resumed) == _kimg(straight)


def test_when_every_checkpoint_is_damaged_the_run_stays_as_it_is(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stop_after(monkeypatch, 12)
    with pytest.raises(Interrupted):
        fit(shapes, tmp_path / "run", **SHORT)
    monkeypatch.undo()
    for path in checkpoints(tmp_path / "run" / "checkpoints"):
        (path / "state.json").write_text("{")
    model, rows = sha256_file(tmp_path / "run" / "generator.safetensors"), _kimg(Run(tmp_path / "run"))
    with pytest.raises(GanaugError, match="no good checkpoint"):
        fit(shapes, tmp_path / "run", resume=True)
    assert sha256_file(tmp_path / "run" / "generator.safetensors") == model
    assert _kimg(Run(tmp_path / "run")) == rows


def test_resuming_a_finished_run_changes_nothing_and_more_kimg_go_on(shapes: Path, tmp_path: Path) -> None:
    run = fit(shapes, tmp_path / "run", **{**SHORT, "kimg": 0.08, "snapshots": 1})
    before = run.metrics(), sha256_file(run.model_path)
    fit(shapes, run.path, resume=True)
    assert (run.metrics(), sha256_file(run.model_path)) == before
    fit(shapes, run.path, resume=True, kimg=0.12)
    assert _kimg(run) == [0.08, 0.12]


def test_resuming_a_run_by_the_clock_with_kimg_follows_kimg(shapes: Path, tmp_path: Path) -> None:
    run = fit(shapes, tmp_path / "run", **{**SHORT, "snapshots": 1}, minutes=0.002)
    wanted = _kimg(run)[-1] + 0.08
    fit(shapes, run.path, resume=True, kimg=wanted)
    assert _kimg(run)[-1] == pytest.approx(wanted, abs=0.01)


def test_minutes_end_the_training_in_time(shapes: Path, tmp_path: Path) -> None:
    run = fit(shapes, tmp_path / "run", **{**SHORT, "kimg": 1e6}, minutes=0.01)  # hours, if the images counted
    assert run.metrics()[-1]["seconds"] >= 0.3  # the last of two snapshots may itself take the rest of the time
    assert run.metrics()[-1]["kimg"] < 1e6


@pytest.mark.parametrize(
    "changes", [{"batch": 4}, {"seed": 3, "lr": (1e-3, 1e-3)}, {"size": (12, 12)}, {"recipe": "px16"}]
)
def test_a_resumed_run_keeps_its_settings(shapes: Path, tiny_run: Run, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"keeps its settings, but another {', '.join(sorted(changes))} was given"):
        fit(shapes, tiny_run.path, resume=True, **changes)


def test_the_whole_command_may_be_given_again_to_resume(shapes: Path, straight: Run, tmp_path: Path) -> None:
    for kimg in (0.08, 0.16):
        run = fit(shapes, tmp_path / "run", resume=True, **{**SHORT, "kimg": kimg})
    assert _kimg(run)[-1] == 0.16


def test_an_output_inside_the_data_folder_is_refused(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", {"disk": 2, "ring": 2}, side=8)
    with pytest.raises(ConfigError, match="one inside the other"):
        fit(data, data / "run", **SHORT)
    assert {path.name for path in data.iterdir()} == {"disk", "ring"}


def test_a_run_is_not_resumed_on_other_images(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", {"disk": 4, "ring": 4}, side=8)
    run = fit(data, tmp_path / "run", **{**SHORT, "kimg": 0.008})
    (data / "disk" / "000.png").write_bytes((data / "disk" / "001.png").read_bytes())
    (data / "disk" / "new.png").write_bytes((data / "disk" / "001.png").read_bytes())
    with pytest.raises(DataError, match="1 files are missing or changed and 2 are new"):
        fit(data, run.path, resume=True)


def test_a_folder_that_is_no_run_is_not_resumed(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match=r"no config\.json"):
        fit(shapes, tmp_path, resume=True, **SHORT)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_resume_starts_a_run_that_is_not_there_yet(shapes: Path, tmp_path: Path) -> None:
    run = fit(shapes, tmp_path / "run", resume=True, **{**SHORT, "kimg": 0.008})
    assert _kimg(run) == [0.008]


def test_a_folder_that_holds_something_is_refused_and_untouched(shapes: Path, tiny_run: Run) -> None:
    before = {str(path): path.stat().st_mtime_ns for path in tiny_run.path.rglob("*")}
    with pytest.raises(ConfigError, match="--resume or --overwrite"):
        fit(shapes, tiny_run.path, **SHORT)
    assert {str(path): path.stat().st_mtime_ns for path in tiny_run.path.rglob("*")} == before


@pytest.mark.parametrize("how", ["resume", "overwrite"])
def test_a_run_folder_has_one_training_at_a_time(shapes: Path, tmp_path: Path, how: str) -> None:
    run = fit(shapes, tmp_path / "run", **SHORT)
    before = sha256_file(run.model_path)
    with only_writer(run.path), pytest.raises(ConfigError, match="Another process is writing to"):
        fit(shapes, run.path, **{how: True}, **({} if how == "resume" else SHORT))
    assert sha256_file(run.model_path) == before


def test_overwrite_starts_anew(shapes: Path, tmp_path: Path) -> None:
    for _ in range(2):
        run = fit(shapes, tmp_path / "run", overwrite=True, **{**SHORT, "kimg": 0.008})
    assert _kimg(run) == [0.008]


@pytest.mark.parametrize("settings", [{"loss": "nope"}, {"size": (4, 4)}, {"bacth": 3}, {"device": "cuda:99"}])
def test_a_wrong_setting_leaves_no_folder(shapes: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        fit(shapes, tmp_path / "run", **{**SHORT, **settings})
    assert list(tmp_path.iterdir()) == []


def test_sixteen_bit_color_and_odd_sizes_train(tmp_path: Path) -> None:
    gray = write_shapes(tmp_path / "gray", {"disk": 3, "ring": 3}, side=11, dtype="uint16")
    run = fit(gray, tmp_path / "a", **{**SHORT, "kimg": 0.016, "size": None, "stem": 2})
    header = load_model(run.model_path)[1]
    assert (header.size, header.channels, header.intensity.dtype) == ((11, 11), 1, "uint16")
    color = write_shapes(tmp_path / "color", {"disk": 3, "ring": 3}, side=10, channels=3)
    run = fit(color, tmp_path / "b", **{**SHORT, "kimg": 0.016, "size": (9, 14), "precision": "bf16"})
    header = load_model(run.model_path)[1]
    assert (header.size, header.channels, header.intensity.dtype) == ((9, 14), 3, "uint8")


def _spoil(monkeypatch: pytest.MonkeyPatch, bad: Callable[[int], bool]) -> None:
    """Make the generator's loss NaN in the steps that `bad` chooses (counted from 1, repeated ones too)."""
    original = relativistic.generator_loss
    calls = Counter[str]()

    def generator_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        calls["all"] += 1
        loss = original(real, fake)
        return loss * torch.nan if bad(calls["all"]) else loss

    assert isinstance(relativistic, ModuleType)
    monkeypatch.setattr(relativistic, "generator_loss", generator_loss)


def test_a_run_of_nan_ends_as_diverged_and_keeps_its_checkpoint(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _spoil(monkeypatch, lambda step: step > 7)
    with pytest.raises(DivergedError, match="left the finite numbers") as caught:
        fit(shapes, tmp_path / "run", **SHORT)
    assert caught.value.exit_code == 4
    monkeypatch.undo()
    assert checkpoints(tmp_path / "run" / "checkpoints")[-1].name == "step-000000005"
    assert torch.isfinite(load(tmp_path / "run", device="cpu").sample([0, 1, 2])).all()


def test_nan_from_the_first_step_ends_as_diverged_too(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _spoil(monkeypatch, lambda step: True)
    with pytest.raises(DivergedError):
        fit(shapes, tmp_path / "run", **SHORT)
    assert not (tmp_path / "run" / "generator.safetensors").exists()


def test_a_few_bad_steps_are_skipped_counted_and_survived(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _spoil(monkeypatch, lambda step: step in (2, 3, 8, 12))
    run = fit(shapes, tmp_path / "run", **SHORT)
    assert [row["skipped_steps"] for row in run.metrics()] == [2, 3, 4, 4]
    assert all(torch.isfinite(value).all() for value in _last_state(run).values())


def test_after_a_rollback_the_run_goes_on_from_the_checkpoint_and_finishes(
    shapes: Path, straight: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _spoil(monkeypatch, lambda step: 8 <= step <= 10)  # then back to step 5
    run = fit(shapes, tmp_path / "run", **SHORT)
    assert _kimg(run) == _kimg(straight)
    assert json.loads((checkpoints(run.checkpoints)[-1] / "state.json").read_text())["attempt"] == 1


def test_steps_before_a_rollback_stay_counted_as_skipped(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _spoil(monkeypatch, lambda step: 8 <= step <= 10)
    run = fit(shapes, tmp_path / "run", **SHORT)
    assert run.metrics()[-1]["skipped_steps"] == 3


def test_a_collapsed_generator_ends_as_diverged_and_keeps_its_run(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GAN, "sample", lambda _self, latents, _labels: torch.zeros(len(latents), 1, 8, 8))
    with pytest.raises(DivergedError, match=r"collapsed.*0.00 times") as caught:
        fit(shapes, tmp_path / "run", **{**SHORT, "kimg": 0.04})
    assert caught.value.exit_code == 4
    assert (tmp_path / "run" / "generator.safetensors").is_file()
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_checkpoint_that_cannot_be_written_is_a_sentence_and_the_older_ones_serve(
    shapes: Path, straight: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Path.write_bytes
    calls = Counter[str]()

    def write_bytes(path: Path, data: bytes) -> int:
        calls[path.name] += 1
        if calls["state.safetensors"] > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(GanaugError, match="No space"):
        fit(shapes, tmp_path / "run", **SHORT)
    monkeypatch.undo()
    folder = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["latest.json", "step-000000010"]
    assert _kimg(fit(shapes, tmp_path / "run", resume=True)) == _kimg(straight)


def test_ctrl_c_in_a_terminal_ends_with_a_command_that_finishes_the_run(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    python = [sys.executable, "-m"]
    sets = ["--set=batch=8", "--set=snapshots=5", "--set=widths=[8]", "--set=precision=fp32"]
    fitting = ["ganaug", "fit", str(shapes), "--out", str(out), "--recipe", "smoke", "--kimg", "0.8", "--size", "8x8"]
    with subprocess.Popen([*python, *fitting, *sets], stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not Run(out).metrics() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, message = process.communicate(timeout=60)
    assert process.returncode == 1, message
    assert "Traceback" not in message
    (command,) = [line for line in message.splitlines() if "--resume" in line]
    assert len(Run(out).metrics()) < 5

    done = subprocess.run([*python, *shlex.split(command)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert _kimg(Run(out)) == sorted(set(_kimg(Run(out))))
    assert _kimg(Run(out))[-1] == 0.8


def test_held_out_patients_stay_out_of_the_training_and_are_the_same_for_every_seed(tmp_path: Path) -> None:
    folder = write_shapes(tmp_path / "data", {"disk": 20, "ring": 10})
    everything = {sha256_file(path) for path in folder.rglob("*.png")}
    trained = []
    for seed in (0, 1):
        run = fit(folder, tmp_path / str(seed), hold_out=0.3, seed=seed, **{**SHORT, "kimg": 0.03})
        trained.append({entry["sha256"] for entry in run.train_manifest()["files"]})
    assert trained[0] == trained[1]
    assert trained[0] < everything
    assert len(everything - trained[0]) == 9
    again = fit(folder, tmp_path / "0", resume=True)
    assert {entry["sha256"] for entry in again.train_manifest()["files"]} == trained[0]
    with pytest.raises(ConfigError, match="hold_out"):
        fit(folder, tmp_path / "2", hold_out=1.0, **SHORT)
