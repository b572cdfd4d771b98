"""What the benchmarks of translation share: a process for each training, its CPU clock, results, folders of images."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

Job = dict[str, Any]
_MARK = "RESULT "


def run_jobs(module: str, jobs: Sequence[Job], *, side_by_side: int, results: Path) -> Iterator[Job]:
    """Run ``python -m module --worker JOB`` for each job; yield results in order and add them to a JSON-lines file.

    A job that fails has its error's last line under `failed`. A worker answers by `answer`, with one result or several.
    """
    with ThreadPoolExecutor(side_by_side) as pool:
        for found in pool.map(partial(_in_a_process, module), jobs):
            with results.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(result) + "\n" for result in found)
            yield from found


def answer(results: Sequence[Job]) -> None:
    """Tell the results of a worker to the process that started it."""
    print(_MARK + json.dumps(list(results)))


def read_results(path: Path) -> list[Job]:
    """Return what was written."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _in_a_process(module: str, job: Job) -> list[Job]:
    command = [sys.executable, "-m", module, "--worker", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    line = next((line for line in done.stdout.splitlines() if line.startswith(_MARK)), None)
    if done.returncode or line is None:
        return [{**job, "failed": (done.stderr.strip().splitlines() or ["no output"])[-1]}]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    facts = {"commit": commit, "machine": f"{os.cpu_count()} x {platform.machine()}"}
    return [{**job, **result, **facts} for result in json.loads(line.removeprefix(_MARK))]


def timed_fit(data: Path, out: Path, job: Job, *, device: str = "cpu", **settings: Any) -> tuple[Any, dict[str, Any]]:
    """Train on `data`; return the translator and facts about the training.

    The job says `model`, `settings` ("key=value …", which go over `settings`), `recipe`, `minutes` and `seed`. On a CPU
    the training has one thread, and its minutes are those of this process's CPU clock: the budget does not depend on
    what else the machine does. On a GPU they are wall-clock minutes.
    """
    import torch

    import ganaug
    from ganaug.config import parse_assignments
    from ganaug.training import loop

    clock = time.monotonic
    if device == "cpu":
        clock = time.process_time
        loop.time = SimpleNamespace(monotonic=clock)  # type: ignore[assignment]
        torch.set_num_threads(1)
        settings |= {"threads": 1}
    settings |= {"model": job["model"], "seed": job["seed"], "minutes": job["minutes"], "device": device}
    started = clock()
    run = ganaug.fit(
        data, out, recipe=job["recipe"], overwrite=True,
        **(settings | parse_assignments(tuple(job["settings"].split()))),
    )  # fmt: skip
    seconds = clock() - started
    facts = {"seconds": seconds, "kimg": run.metrics()[-1]["kimg"], "recipe_used": run.config_file()["recipe"]}
    return ganaug.load(run.path, device=device), facts


def write_folder(images: np.ndarray, folders: Sequence[str], root: Path) -> Path:
    """Write N×1×H×W or N×3×H×W uint8 images as PNG files, each into its folder under `root`; return `root`."""
    for i, (image, folder) in enumerate(zip(images, folders, strict=True)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.moveaxis(image, 0, -1).squeeze()).save(root / folder / f"{i:05}.png")
    return root


def safe_name(*parts: object) -> str:
    """Return a file name of these parts."""
    text = "-".join(str(part) for part in parts)
    return "".join(letter if letter.isalnum() or letter in "-_=.," else "_" for letter in text)
