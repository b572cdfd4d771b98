"""Compare settings on the demo's digits: one table row for each, at equal wall-clock time.

    python benchmarks/digits.py --minutes 1 "" "expansion=2" "batch=64" "loss=nonsaturating lr=[5e-4,1e-4]"

Each argument is a row: settings on top of the recipe that --recipe auto chooses, separated by spaces. The score is the
accuracy, on the demo's real test images, of a classifier trained on synthetic images alone, over that of one trained on
the whole real training set before three of its classes were cut to 12 images (so the rare classes count).
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import ganaug
from ganaug.config import parse_assignments
from ganaug.data import Grid, load_images, scan
from ganaug.demo import RARE, write_digits
from ganaug.evaluation.cas import cas
from ganaug.sampling import load


def uncut(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the images and labels of the training part as it was before the cut."""
    digits = load_digits()
    test = {path.stem for path in (folder / "test").rglob("*.png")}
    kept = [i for i in range(len(digits.target)) if f"digit-{i:04d}" not in test]
    pixels = np.round(digits.images[kept] * (255 / 16)).astype(np.uint8)
    return pixels[:, None], digits.target[kept].astype(np.int64)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", default=[""], help="settings of each row, separated by spaces")
    parser.add_argument("--minutes", type=float, default=1.0, help="training time of each row")
    parser.add_argument("--steps", type=int, default=600, help="optimizer steps of each classifier")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generators")
    options = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"{options.minutes:g} minutes a row, seed {options.seed}, commit {commit}, "
          f"{os.cpu_count()} x {platform.machine()}\n")  # fmt: skip
    print("| settings | kimg | accuracy synthetic | accuracy real | ratio | rare recall | diversity (least) |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_digits(folder / "train", folder / "test")
        test = scan(folder / "test")
        real = uncut(folder)
        for number, row in enumerate(options.rows):
            settings = parse_assignments(tuple(row.split()))
            run = ganaug.fit(
                folder / "train", folder / f"run{number}", minutes=options.minutes, seed=options.seed, **settings
            )
            gan = load(run.path, device="cpu")
            labels = np.sort(real[1])
            images = gan.stored(gan.sample(labels, seed=1)).numpy()
            held_out = load_images(test, Grid((8, 8), 1, "stretch", "uint8"))
            score = cas(
                *real, images, labels, held_out, test.labels, classes=gan.classes, steps=options.steps, seeds=range(2)
            )
            last = run.metrics()[-1]
            rare = np.mean([score["synthetic_recall"][name] for name in RARE])
            print(
                f"| {row or 'as the recipe'} | {last['kimg']:.0f} | {score['synthetic_accuracy']:.3f} | "
                f"{score['real_accuracy']:.3f} | {score['ratio']:.3f} | {rare:.3f} | "
                f"{last['diversity']:.2f} ({last['diversity_least']:.2f}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
