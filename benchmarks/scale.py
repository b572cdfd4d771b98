"""What a training costs in bytes, in messages and in time, and what that makes of many processes.

    OMP_NUM_THREADS=1 python -m benchmarks.scale files reading steps px64 --out docs/results/scale.json
    OMP_NUM_THREADS=1 python -m benchmarks.scale steps px128 --out docs/results/scale.json

Each section adds its figures to the JSON file: 'files' the sizes of networks, checkpoints and model files of all
recipes; 'reading' what an image costs before the training; 'steps RECIPE' in two processes at once, in turn, a step
that each takes alone at three batch sizes, a step that both share, and the all-reduce of its gradients. Times are CPU
seconds of single threads, since other work on a machine disturbs them little. `predict` is the model that
docs/concepts/scale.md explains.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.measure import WorkCounter
from ganaug.config import FitConfig, load_recipe
from ganaug.data import load_tensor, scan
from ganaug.data.grid import Grid
from ganaug.data.leak import training_contents
from ganaug.distributed import is_main, processes, rank, sum_over_processes, world_size
from ganaug.models.device import use_bf16
from ganaug.models.modelfile import ModelHeader, save_model
from ganaug.plugins import load_plugin
from ganaug.sampling.provenance import provenance
from ganaug.training.checkpoint import save_checkpoint
from tests.tiny import UINT8

SIDES = {"px64": 64, "px128": 128, "px256": 256}
WARM_UP, STEPS = 2, 9
COLLECTIVES = 5
"""In a step of `fit`: the gradients of both networks, the metrics, the clock and the wish to stop; the last three are
a few numbers."""


@dataclass(frozen=True)
class Machine:
    """What the model takes a cluster to be."""

    flops: float
    """Operations a second that a step reaches on one device."""
    fixed_s: float
    """Seconds of a step that do not depend on the batch: starting kernels, the optimizers."""
    bytes_per_second: float
    """Of the slowest link of the ring, in one direction."""
    latency_s: float
    """Of one message over that link."""


def ring_seconds(size: int, count: int, machine: Machine) -> float:
    """Return the time of a ring all-reduce of `size` bytes over `count` devices: 2(N-1) messages of size/N bytes."""
    messages = 2 * (count - 1)
    return messages * machine.latency_s + messages / count * size / machine.bytes_per_second


def predict(count: int, batch: int, flops: float, sizes: tuple[int, ...], machine: Machine) -> float:
    """Return the seconds of a step of `batch` images in all on `count` devices.

    Args:
        flops: operations of one image in a step.
        sizes: bytes of the all-reduces of a step.
    """
    compute = machine.fixed_s + batch / count * flops / machine.flops
    return compute + sum(ring_seconds(size, count, machine) for size in sizes) * (count > 1)


def _gan(recipe: str, batch: int) -> Any:
    torch.manual_seed(0)
    config = FitConfig.from_dict(load_recipe(recipe)).updated({"batch": batch})
    device, side = torch.device("cpu"), SIDES[recipe]
    return load_plugin("ganaug.training.gans", config.model).GAN(
        config, size=(side, side), channels=1, classes=2, device=device, bf16=use_bf16("auto", device)
    )


def _batch(recipe: str, count: int) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(rank())
    return torch.rand(count, 1, SIDES[recipe], SIDES[recipe], generator=source) * 2 - 1, torch.arange(count) % 2


def files() -> dict[str, Any]:
    """Return the sizes of each recipe's networks and files, written by what `fit` writes them with, after one step."""
    found = {}
    for recipe, side in SIDES.items():
        gan = _gan(recipe, 4)
        counter = WorkCounter()
        with counter:
            gan.step(*_batch(recipe, 4), 0, 0.5)
        networks = {
            name: sum(parameter.numel() for parameter in network.parameters())
            for name, network in (("generator", gan.generator), ("discriminator", gan.discriminator))
        }
        header = ModelHeader("conditional", ("a", "b"), (side, side), 1, UINT8, gan.config.to_dict(), {})
        with tempfile.TemporaryDirectory() as folder:
            place = save_checkpoint(Path(folder), 1, gan.tensors(), {"step": 1})
            save_model(Path(folder) / "generator.safetensors", gan.average, header)
            found[recipe] = {
                "parameters": networks,
                "checkpoint_bytes": sum(path.stat().st_size for path in place.iterdir()),
                "model_bytes": (Path(folder) / "generator.safetensors").stat().st_size,
                "flops_per_image": counter.flops / 4,
                "reduced_bytes": [4 * (networks[name] + 1) for name in ("discriminator", "generator")],
            }
    return found


def reading(count: int = 2000) -> dict[str, Any]:
    """Return what an image of 64×64 costs before the training, by `count` PNGs in a cache of their own."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        os.environ["GANAUG_CACHE"] = str(root / "cache")
        for number in range(count):
            path = root / "data" / "ab"[number % 2] / f"{number:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (64, 64), dtype=np.uint8)).save(path)
        grid = Grid((64, 64), 1, "stretch", "uint8")
        found: dict[str, Any] = {"images": count}

        def timed(label: str, work: Callable[[], Any]) -> Any:
            # With the time of the processes that read.
            start = sum(os.times()[:4])
            value = work()
            found[label] = (sum(os.times()[:4]) - start) / count
            return value

        manifest = timed("scan_cpu_s", lambda: scan(root / "data", grid_of=lambda _manifest: grid))
        timed("scan_again_cpu_s", lambda: scan(root / "data", grid_of=lambda _manifest: grid))
        tensor = load_tensor(manifest, grid)
        found["mapped"] = isinstance(tensor, np.memmap)
        found["tensor_bytes"] = tensor.nbytes / count
        tracemalloc.start()
        again = scan(root / "data")
        found["manifest_memory_bytes"] = tracemalloc.get_traced_memory()[0] / len(again)
        tracemalloc.stop()
        contents = training_contents(manifest, grid, tensor)
        found["manifest_file_bytes"] = len(json.dumps(manifest.to_json(contents), indent=2)) / count
    row = provenance(label="a", seed=0, index=0, model_sha256="0" * 64, truncation=1.0)
    found["metadata_row_bytes"] = len(",".join(map(str, row.values())))
    return found


def _cpu_of(work: Callable[[], object]) -> float:
    """Return the CPU seconds of a call, threads included."""
    start = time.process_time()
    work()
    return time.process_time() - start


@contextmanager
def _alone() -> Iterator[None]:
    """Let this process take itself for the only one."""
    with mock.patch.dict(os.environ, {"RANK": "0", "WORLD_SIZE": "1"}):
        yield


def worker(recipe: str) -> dict[str, Any]:
    """Measure steps of this process alone and as one of several, in turn; every process has to call this."""
    torch.set_num_threads(1)
    batch, count = FitConfig.from_dict(load_recipe(recipe)).batch, world_size()
    sizes = {"alone": batch, "alone, its part": batch // count, "alone, a quarter": batch // 4}
    with _alone():
        gans = {name: (_gan(recipe, size), _batch(recipe, size)) for name, size in sizes.items()}
    shared, part = _gan(recipe, batch), _batch(recipe, batch // count)
    flats = [
        torch.zeros(sum(parameter.numel() for parameter in network.parameters()) + 1)
        for network in (shared.discriminator, shared.generator)
    ]
    small, walls = torch.zeros(10), []
    rounds: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], object]) -> None:
        rounds.setdefault(name, []).append(_cpu_of(work))

    for step in range(WARM_UP + STEPS):
        for name, (gan, images) in gans.items():
            with _alone():
                timed(name, lambda gan=gan, images=images, step=step: gan.step(*images, step, 0.5))
        timed("shared", lambda step=step: shared.step(*part, step, 0.5))
        start = time.perf_counter()
        timed("reduce", lambda: [sum_over_processes([flat]) for flat in flats])
        walls.append(time.perf_counter() - start)
        timed("small reduces", lambda: [sum_over_processes([small]) for _ in range(20)])
    kept = {name: values[WARM_UP:] for name, values in rounds.items()}
    return {
        "processes": count,
        "batch": batch,
        "reduced_bytes": [flat.nbytes for flat in flats],
        "cpu_s": {name: statistics.median(values) for name, values in kept.items()},
        "reduce_least_wall_s": min(walls),
        # Of the rounds' ratios: other work changes from round to round.
        "efficiency": statistics.median(
            one / two / count for one, two in zip(kept["alone"], kept["shared"], strict=True)
        ),
        "efficiency_without_messages": statistics.median(
            one / two / count for one, two in zip(kept["alone"], kept["alone, its part"], strict=True)
        ),
    }


def steps(recipe: str) -> dict[str, Any]:
    """Return what `worker` finds in two processes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "two.json"
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        subprocess.run(
            [*start, "-m", "benchmarks.scale", "worker", recipe, "--out", str(out)],
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        found: dict[str, Any] = json.loads(out.read_text())[f"worker {recipe}"]
        return found


def main() -> None:
    """Measure the sections that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="+", help="files, reading, steps RECIPE …")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = json.loads(options.out.read_text()) if options.out.exists() else {}
    words = iter(options.sections)
    with processes():
        for word in words:
            if word in ("steps", "worker"):
                recipe = next(words)
                found[f"{word} {recipe}"] = {"steps": steps, "worker": worker}[word](recipe)
            else:
                found[word] = {"files": files, "reading": reading}[word]()
        if is_main():
            commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout
            found["machine"] = f"{os.cpu_count()} × {platform.machine()}, torch {torch.__version__}"
            found["commit"] = commit.strip()
            options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
