"""2 N steps are N steps, a stop, and N steps more: the same SHA-256 of everything that a training is made of."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ganaug.errors import Interrupted
from ganaug.files import sha256_file
from ganaug.training.checkpoint import checkpoints
from ganaug.training.fit import fit
from ganaug.training.run import Run
from tests.tiny import SETTINGS

fit_module = sys.modules["ganaug.training.fit"]
N = 10
CORES: dict[str, dict[str, Any]] = {
    "conditional": {**SETTINGS, "size": (8, 8), "widths": (8,), "kimg": 2 * N * 8 / 1000, "threads": 1},
    "cyclegan": {
        "model": "cyclegan", "rule": "class", "domains": ("disk", "ring"), "recipe": "translate64", "widths": (8, 4),
        "group_width": 4, "size": (8, 8), "batch": 4, "kimg": 2 * N * 4 / 1000, "pool": 3, "snapshots": 2,
        "precision": "fp32", "device": "cpu", "threads": 1,
    },
}  # fmt: skip


class _Stop:
    def __init__(self, after: int) -> None:
        self.after = after

    def update(self, _done: float, _note: str = "") -> None:
        self.after -= 1
        if self.after == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def _sums(run: Run) -> dict[str, str]:
    """Return what a checkpoint is made of: networks, average, optimizers, pool; counters, from which all draws follow;
    and the model file without its header, which tells the time."""
    newest = checkpoints(run.checkpoints)[-1]
    state = json.loads((newest / "state.json").read_text())
    del state["elapsed_s"]
    rows = [{key: row[key] for key in row if "second" not in key} for row in run.metrics()]
    return {
        "state.safetensors": sha256_file(newest / "state.safetensors"),
        "state.json": json.dumps(state),
        "metrics": json.dumps(rows),
    }


@pytest.mark.parametrize("core", CORES)
def test_a_training_that_was_stopped_in_the_middle_ends_with_the_same_sums(
    core: str, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = fit(shapes, tmp_path / "straight", **CORES[core])

    @contextmanager
    def bar(*_args: Any, **_options: Any) -> Iterator[_Stop]:
        yield _Stop(N)

    monkeypatch.setattr(fit_module, "progress_bar", bar)
    with pytest.raises(Interrupted):
        fit(shapes, tmp_path / "run", **CORES[core])
    monkeypatch.undo()
    halfway = checkpoints(tmp_path / "run" / "checkpoints")[-1]
    assert halfway.name == f"step-{N:09d}"
    assert sha256_file(halfway / "state.safetensors") != _sums(straight)["state.safetensors"]
    resumed = fit(shapes, tmp_path / "run", resume=True)
    assert _sums(resumed) == _sums(straight)
