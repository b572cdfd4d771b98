"""Memory of a training step on a CPU: the largest resident size beyond that of the imported libraries.

    OMP_NUM_THREADS=1 python -m benchmarks.memory px64:64x64x3 px128:128x128x3 px256:256x256x3
    OMP_NUM_THREADS=1 python -m benchmarks.memory px256:64x64x1 px256:128x128x1 px256:256x256x1 px256:512x512x1

Each argument is a recipe and a shape, channels last; each is measured in a process of its own, over three steps on
random images with R1 and R2. The last column stays the same down one recipe where memory grows linearly.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys


def main() -> None:
    """Print a table row for each recipe and shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", metavar="RECIPE:SHAPE")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print("RESULT " + json.dumps(measure(*_parsed(options.what[0]), options.assignments)))
        return
    print("| recipe | shape | batch | peak MB | step alone, MB | bytes for each pixel of the batch |")
    print("|---" * 6 + "|")
    for what in options.what:
        command = [sys.executable, "-m", "benchmarks.memory", "--worker", what]
        command += [f"--set={assignment}" for assignment in options.assignments]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found = json.loads(output.rpartition("RESULT ")[2])
        recipe, shape = _parsed(what)
        pixels = math.prod(shape[:-1]) * found["batch"]
        print(
            f"| {recipe} | {'×'.join(map(str, shape))} | {found['batch']} | {found['peak'] / 2**20:.0f} | "
            f"{found['step'] / 2**20:.0f} | {found['step'] / pixels:.0f} |",
            flush=True,
        )


def _parsed(what: str) -> tuple[str, tuple[int, ...]]:
    recipe, _, shape = what.partition(":")
    return recipe, tuple(int(side) for side in shape.split("x"))


def measure(recipe: str, shape: tuple[int, ...], assignments: list[str]) -> dict[str, int]:
    """Return the peak resident bytes after three steps, those beyond the libraries and networks, and the batch."""
    import torch

    from ganaug.config import FitConfig, load_recipe, parse_assignments
    from ganaug.models.device import keep_freed_memory, use_bf16
    from ganaug.plugins import load_plugin

    torch.set_num_threads(1)
    keep_freed_memory()  # as fit does
    config = FitConfig.from_dict({**load_recipe(recipe), **parse_assignments(tuple(assignments))})
    device = torch.device("cpu")
    gan = load_plugin("ganaug.training.gans", config.model).GAN(
        config, size=shape[:-1], channels=shape[-1], classes=2, device=device, bf16=use_bf16("auto", device)
    )
    images = torch.rand(config.batch, shape[-1], *shape[:-1]) * 2 - 1
    labels = torch.arange(config.batch) % 2
    before = _peak()
    for step in range(3):
        gan.step(images, labels, step, 0.5)
    return {"peak": _peak(), "step": _peak() - before, "batch": config.batch}


def _peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
