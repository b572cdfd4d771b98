"""How fast a labelled folder gets into the cache, beside a bare loop of Pillow decodes over as many processes.

    python benchmarks/reading.py DATA [--repeats 5]

Both sides are timed alternately in one run, from a cold cache folder each time (the operating system's file cache is
warm for both). The ratio of the medians is what counts; the absolute figures depend on the machine.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

from PIL import Image

from ganaug.data import Grid, Manifest, choose_grid, load_tensor, resolve_channels, scan
from ganaug.data.parallel import available_cpus


def bare(path: Path) -> tuple[int, int]:
    """Decode one image and throw it away."""
    with Image.open(path) as image:
        image.load()
        return image.size


def bare_loop(files: list[Path], workers: int) -> None:
    """Decode all images in processes that are started for it, as ours are."""
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        pool.map(bare, files, 64)
        pool.close()
        pool.join()


def grid_of(manifest: Manifest) -> Grid:
    """Choose the grid as `ganaug fit` does."""
    channels = resolve_channels(manifest, None)
    return choose_grid(manifest, size=None, channels=channels, resize="auto", largest=64, largest_volume=32)[0]


def ours(data: Path) -> None:
    """Read the folder into the cache and map the tensor."""
    manifest = scan(data, grid_of=grid_of)
    load_tensor(manifest, grid_of(manifest))


def seconds(work: partial) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Print images/s of both sides and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    files = [path for path in arguments.data.rglob("*") if path.is_file()]
    workers = available_cpus()
    times: dict[str, list[float]] = {"bare": [], "ours": [], "again": []}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GANAUG_CACHE"] = str(Path(folder, "cache"))
        for _ in range(arguments.repeats + 1):
            times["bare"].append(seconds(partial(bare_loop, files, workers)))
            shutil.rmtree(Path(folder, "cache"), ignore_errors=True)
            times["ours"].append(seconds(partial(ours, arguments.data)))
            times["again"].append(seconds(partial(ours, arguments.data)))
    rates = {name: len(files) / statistics.median(values[1:]) for name, values in times.items()}  # the first warms up
    print(f"{len(files)} images, {workers} processes, {arguments.repeats} repeats")
    print(f"bare Pillow decodes      {rates['bare']:8.0f} images/s")
    print(f"into the cache           {rates['ours']:8.0f} images/s, {rates['ours'] / rates['bare']:.2f} of bare")
    print(f"again, from the cache    {rates['again']:8.0f} images/s")


if __name__ == "__main__":
    main()
