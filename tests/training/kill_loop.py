"""Train again and again, killed with no warning at random moments, until it is complete; prints what was seen as JSON.

Run as ``python -m tests.training.kill_loop KILLS FOLDER``, in a process of its own since it forks.
"""

from __future__ import annotations

import json
import mmap
import random
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file

from ganaug.files import MARKER
from ganaug.models.modelfile import load_model
from ganaug.training.checkpoint import checkpoints, load_checkpoint
from ganaug.training.fit import fit
from ganaug.training.run import Run
from tests.killing import killed_after
from tests.tiny import SETTINGS, write_shapes

fit_module = sys.modules["ganaug.training.fit"]
INTERVAL = 4
"""Steps between two snapshots."""
STEPS = 40
ORDER: dict[str, Any] = {
    **SETTINGS, "size": (8, 8), "widths": (8,), "threads": 1,
    "kimg": STEPS * 8 / 1000, "snapshots": STEPS // INTERVAL,
}  # fmt: skip
WATCHED = 4
"""One run in so many has the monitor, whose classifier is trained before the first step."""
LIFE, LONGER = 0.6, 1.2
"""Most of an attempt's life, in lives of an undisturbed run; and what it is raised by while nothing is gained."""


@contextmanager
def _counted(steps: mmap.mmap) -> Iterator[None]:
    """Let the training tell its number of steps to the process that kills it."""
    original = fit_module.progress_bar

    class Told:
        def __init__(self, steps_done: int) -> None:
            self.done = steps_done

        def update(self, done: float, note: str = "") -> None:
            steps[:8] = struct.pack("q", round(done * STEPS / 100))

    @contextmanager
    def bar(*_args: Any, **_kwargs: Any) -> Iterator[Told]:
        yield Told(0)

    fit_module.progress_bar = bar  # type: ignore[attr-defined]
    try:
        yield
    finally:
        fit_module.progress_bar = original  # type: ignore[attr-defined]


def attempt(data: Path, out: Path, order: dict[str, Any], steps: mmap.mmap) -> None:
    """Begin the training, or go on with it."""
    with _counted(steps):
        fit(data, out, resume=True, **({} if (out / "config.json").exists() else order))


def look(run: Run, reached: int) -> int:
    """Check that all that is there is whole; return the steps that the kill cost."""
    names = {path.name for path in run.path.iterdir() if not path.name.startswith(".")}
    known = {"config.json", "train_manifest.json", "checkpoints", "images", "metrics.jsonl", "monitor.json"}
    assert names <= known | {"generator.safetensors", "report.html"}, names
    for path in run.path.glob("*.json"):
        json.loads(path.read_text())
    for path in run.images.glob("[!.]*"):
        with Image.open(path) as picture:
            picture.load()
    if run.model_path.exists():
        load_model(run.model_path)
    for path in checkpoints(run.checkpoints):
        assert {file.name for file in path.iterdir()} == {"SHA256.json", "state.json", "state.safetensors"}
    if not checkpoints(run.checkpoints):
        assert reached == 0, "steps without a state"
        return 0
    _, state, damaged = load_checkpoint(run.checkpoints)
    assert damaged == [], damaged
    return max(0, reached - int(state["step"]))


def _state(run: Run) -> dict[str, torch.Tensor]:
    return load_file(checkpoints(run.checkpoints)[-1] / "state.safetensors")


def main(kills: int, root: Path) -> None:
    """Kill so many times, over as many runs as that takes; each run ends as an undisturbed one."""
    torch.set_num_threads(1)
    data = write_shapes(root / "data", {"disk": 6, "ring": 5})
    straight = {}
    for watched in (True, False):
        start = time.monotonic()
        run = fit(data, root / f"straight-{watched}", **ORDER, monitor=watched)
        straight[watched] = run, LIFE * (time.monotonic() - start)
    source, steps = random.Random(0), mmap.mmap(-1, 8)
    done, runs, cost = 0, 0, list[int]()
    while done < kills:
        out = root / f"run-{runs}"
        watched = runs % WATCHED == 0
        like, life = straight[watched]
        runs += 1
        steps[:8] = struct.pack("q", 0)
        limit, newest = life, 0
        work = partial(attempt, data, out, {**ORDER, "monitor": watched}, steps)
        while killed_after(source.uniform(0, limit), work):
            done += 1
            if out.exists():
                cost.append(look(Run(out), struct.unpack("q", steps[:8])[0]))
            found = len(Run(out).metrics())
            limit, newest = (life, found) if found > newest else (LONGER * limit, newest)
        finished, state = (_state(one) for one in (Run(out), like))
        assert finished.keys() == state.keys()
        assert all(torch.equal(finished[name], state[name]) for name in state), "other weights"
        rows = [[row["kimg"] for row in one.metrics()] for one in (Run(out), like)]
        assert rows[0] == rows[1], "other snapshots"
        hidden = [path.name for path in out.rglob(".*") if path.name != MARKER]
        assert hidden == [], hidden
    assert max(cost) <= INTERVAL, f"{max(cost)} steps were lost"
    print(json.dumps({"kills": done, "runs": runs, "steps": STEPS, "lost": max(cost)}))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
