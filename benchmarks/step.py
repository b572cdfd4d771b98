"""Where a training step's CPU time goes: one table row for each recipe.

    OMP_NUM_THREADS=1 python benchmarks/step.py px32:28x28x1 px64:64x64x3 vol32:32x32x24x1

Each argument is a recipe and a shape, channels last. The step runs in one thread on random images, at half of the
training. The total is CPU time, so that other work on the machine disturbs it little; its division is the profiler's.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import time
from collections import Counter

import torch
from torch.profiler import ProfilerActivity, profile

from ganaug.config import FitConfig, load_recipe
from ganaug.models.device import use_bf16
from ganaug.plugins import load_plugin

KINDS = {
    "convolutions": ("aten::convolution_backward", "aten::mkldnn_convolution", "mkldnn::_convolution"),
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "leaky ReLU": ("aten::leaky_relu",),
    "sums, products": ("aten::add", "aten::mul", "aten::sum", "aten::div", "aten::fill_", "aten::pow"),
    "copies": ("aten::copy_", "aten::cat"),
    "resampling": ("aten::avg_pool", "aten::upsample", "aten::grid_sampler"),
    "optimizer, average": ("aten::_fused_adam_", "aten::_foreach"),
}


def kind_of(operator: str) -> str:
    """Return the column of an operator: that of the longest prefix which it has."""
    fitting = [(len(prefix), kind) for kind, some in KINDS.items() for prefix in some if operator.startswith(prefix)]
    return max(fitting, default=(0, "the rest"))[1]


def measure(recipe: str, shape: tuple[int, ...], steps: int) -> dict[str, float]:
    """Return the CPU seconds for 1,000 images, in all and of each kind of operator."""
    config = FitConfig.from_dict(load_recipe(recipe))
    device = torch.device("cpu")
    gan = load_plugin("ganaug.training.gans", config.model).GAN(
        config, size=shape[:-1], channels=shape[-1], classes=2, device=device, bf16=use_bf16("auto", device)
    )
    images = torch.rand(config.batch, shape[-1], *shape[:-1]) * 2 - 1
    labels = torch.arange(config.batch) % 2
    for step in range(3):
        gan.step(images, labels, step, 0.5)
    start = time.process_time()
    for step in range(steps):
        gan.step(images, labels, step, 0.5)
    total = (time.process_time() - start) / steps / config.batch * 1000
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for step in range(steps):
            gan.step(images, labels, step, 0.5)
    parts: Counter[str] = Counter()
    for row in found.key_averages():
        parts[kind_of(row.key)] += row.self_cpu_time_total
    return {"all": total, **{kind: total * part / parts.total() for kind, part in parts.items()}}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", help="recipe:shape, such as px32:28x28x1")
    parser.add_argument("--steps", type=int, default=10, help="steps that are timed, and again profiled")
    options = parser.parse_args()
    torch.set_num_threads(1)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"CPU seconds for 1,000 images, one thread, commit {commit}, {os.cpu_count()} x {platform.machine()}\n")
    columns = ["all", *KINDS, "the rest"]
    print(f"| | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
    for row in options.rows:
        recipe, _, sides = row.partition(":")
        found = measure(recipe, tuple(int(side) for side in sides.split("x")), options.steps)
        print(f"| {row} | {' | '.join(f'{found.get(column, 0):.2f}' for column in columns)} |", flush=True)


if __name__ == "__main__":
    main()
