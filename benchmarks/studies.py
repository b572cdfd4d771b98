"""`ganaug study` on two medical sets with a rare class: does adding generated images help there?

    export GANAUG_DATA=…                    # the folder of the image sets
    python -m benchmarks.studies pneumoniamnist --kimg 60 --jobs 2
    python -m benchmarks.studies bccd_cells --kimg 30 --jobs 2

``pneumoniamnist``  60 normal chest radiographs and 600 with pneumonia, drawn at random from the official training
                    images, to train with. The official validation images choose, except those that stand in the
                    training images as well; the official test images test.
``bccd_cells``      red cells, white cells and platelets, dealt out 60 : 15 : 25 by smear; of the training images of
                    platelets 20, drawn at random, are kept.

Only the training images are cut: the study is to tell what can be gained from few of them, and many held-out images
tell it better. The generators' budget is in images, so that it does not depend on what else the machine does. Prints
the tables as Markdown.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ganaug.data import split_three

Row = tuple[str, str, str, str]
KEEP = {"pneumoniamnist": {"normal": 60, "pneumonia": 600}, "bccd_cells": {"Platelets": 20}}


def main() -> None:
    """Write the folder, run the study or go on with it, and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=KEEP)
    parser.add_argument("--kimg", type=float, default=60.0, help="thousand images that each generator is shown")
    parser.add_argument("--generators", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=600, help="optimizer steps of each classifier")
    parser.add_argument("--size", type=int, help="height and width (default: as ganaug fit)")
    parser.add_argument("--arms", help="names with commas between them (default: all)")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--scratch", type=Path, default=Path("scratch/studies"), help="the folder and the study")
    asked = parser.parse_args()

    from ganaug.evaluation.folder_study import study
    from ganaug.evaluation.study_parts import StudySettings

    data, out = asked.scratch / f"{asked.name}-data", asked.scratch / asked.name
    if not (data / "metadata.csv").exists():
        write_cut(asked.name, data)
    settings = StudySettings(
        generators=asked.generators,
        seeds=asked.seeds,
        steps=asked.steps,
        kimg=asked.kimg,
        size=None if asked.size is None else (asked.size, asked.size),
    )
    if asked.arms:
        settings = replace(settings, arms=tuple(asked.arms.split(",")))
    outcome = study(data, out, settings, jobs=asked.jobs, say=lambda line: print(line, flush=True))
    print(outcome.table())
    print((outcome.verdict() or {}).get("sentence", ""))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"commit {commit}")


def write_cut(name: str, root: Path) -> None:
    """Write a set as a labelled folder whose ``metadata.csv`` says the part and the group of each image."""
    root.mkdir(parents=True, exist_ok=True)
    rows = _pneumonia(root) if name == "pneumoniamnist" else _cells(root)
    # Last, so that a folder without it is known as not complete.
    with (root / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file_name", "label", "split", "group"), *rows])


def _pneumonia(root: Path) -> list[Row]:
    classes = tuple(KEEP["pneumoniamnist"])
    with np.load(Path(os.environ["GANAUG_DATA"]) / "pneumoniamnist" / "pneumoniamnist.npz") as file:
        parts = {
            part: (file[f"{part}_images"], file[f"{part}_labels"].reshape(-1)) for part in ("train", "val", "test")
        }
    known = {image.tobytes() for image in parts["train"][0]}
    rows = []
    for part, (images, labels) in parts.items():
        for label, name in enumerate(classes):
            found = np.flatnonzero(labels == label)
            if part == "train":
                found = np.sort(np.random.default_rng(0).permutation(found)[: KEEP["pneumoniamnist"][name]])
            for i in found:
                if part == "train" or images[i].tobytes() not in known:
                    rows.append(_written(Image.fromarray(images[i]), f"{name}/{part}_{i:05}.png", part, root))
    return rows


def _cells(root: Path) -> list[Row]:
    paths = sorted((Path(os.environ["GANAUG_DATA"]) / "bccd_cells").glob("*/*"))
    classes = sorted({path.parent.name for path in paths})
    labels = np.array([classes.index(path.parent.name) for path in paths])
    smears = ["_".join(path.stem.split("_")[:2]) for path in paths]
    rows = []
    for part, found in split_three(labels, smears, fractions=(0.6, 0.15, 0.25), seed=0).items():
        for label, name in enumerate(classes):
            chosen = np.random.default_rng(0).permutation(found[labels[found] == label])
            for i in np.sort(chosen[: KEEP["bccd_cells"].get(name) if part == "train" else None]):
                with Image.open(paths[i]) as image:
                    rows.append(_written(image, f"{name}/{paths[i].stem}.png", part, root, smears[i]))
    return rows


def _written(image: Image.Image, name: str, part: str, root: Path, group: str | None = None) -> Row:
    """Write an image as PNG; return its row of the table. Without a group it is one of its own."""
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    image.save(root / name)
    return name, name.split("/")[0], part, name if group is None else group


if __name__ == "__main__":
    main()
