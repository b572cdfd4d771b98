"""The image sets of the benchmarks, each split once into training and test images.

They are read from the folder that $GANAUG_DATA names: `mednist64` (labelled folder), `pneumoniamnist` (MedMNIST file),
`mnist_t10k` (idx files) and `bccd_cells` (labelled folder, one smear a file-name prefix).
"""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

SETS = ("mednist64", "pneumoniamnist", "mnist_t10k", "bccd_cells")
RARE = {"mednist64": 2, "pneumoniamnist": 1, "mnist_t10k": 3, "bccd_cells": 1}
"""How many classes `cut` makes rare: the last ones of a fixed random order."""


@dataclass(frozen=True)
class ImageSet:
    """Training and test images of one set: N×C×H×W uint8, labels N int64."""

    name: str
    classes: tuple[str, ...]
    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    rare: tuple[int, ...] = ()
    """Classes that were cut."""


def load_set(name: str) -> ImageSet:
    """Return a set by name."""
    root = Path(os.environ["GANAUG_DATA"]) / name
    return {"mednist64": _mednist, "pneumoniamnist": _pneumonia, "mnist_t10k": _mnist, "bccd_cells": _cells}[name](root)


def cut(images: ImageSet, keep: int) -> ImageSet:
    """Return the set with `RARE` of its classes cut to `keep` training images each; the test images stay."""
    order = np.random.default_rng(0).permutation(len(images.classes))
    rare = tuple(sorted(int(c) for c in order[: RARE[images.name]]))
    kept = np.concatenate(
        [np.flatnonzero(images.train_labels == c)[: keep if c in rare else None] for c in range(len(images.classes))]
    )
    return replace(images, train=images.train[kept], train_labels=images.train_labels[kept], rare=rare)


def _split(
    name: str, classes: tuple[str, ...], images: np.ndarray, labels: np.ndarray, groups: np.ndarray, test: float
) -> ImageSet:
    """Split by groups at random; the same for every caller."""
    names = np.unique(groups)
    held_out = np.random.default_rng(0).permutation(names)[: round(test * len(names))]
    away = np.isin(groups, held_out)
    return ImageSet(name, classes, images[~away], labels[~away], images[away], labels[away])


def _folder(root: Path, size: tuple[int, int], mode: str) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, list[Path]]:
    paths = sorted(path for path in root.glob("*/*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    classes = tuple(sorted({path.parent.name for path in paths}))
    images = []
    for path in paths:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert(mode).resize(size, Image.Resampling.LANCZOS))
        images.append(np.moveaxis(pixels, -1, 0) if pixels.ndim == 3 else pixels[None])
    labels = np.array([classes.index(path.parent.name) for path in paths], dtype=np.int64)
    return classes, np.stack(images), labels, paths


def _mednist(root: Path) -> ImageSet:
    classes, images, labels, paths = _folder(root, (64, 64), "L")
    return _split("mednist64", classes, images, labels, np.array([str(path) for path in paths]), 0.2)


def _cells(root: Path) -> ImageSet:
    classes, images, labels, paths = _folder(root, (64, 64), "RGB")
    smears = np.array(["_".join(path.stem.split("_")[:2]) for path in paths])
    return _split("bccd_cells", classes, images, labels, smears, 0.2)


def _pneumonia(root: Path) -> ImageSet:
    with np.load(root / "pneumoniamnist.npz") as file:
        parts = {key: file[key] for key in file.files}
    labels = {part: parts[f"{part}_labels"].reshape(-1).astype(np.int64) for part in ("train", "test")}
    images = {part: parts[f"{part}_images"].reshape(-1, 1, 28, 28) for part in ("train", "test")}
    classes = ("normal", "pneumonia")
    return ImageSet("pneumoniamnist", classes, images["train"], labels["train"], images["test"], labels["test"])


def _mnist(root: Path) -> ImageSet:
    def read(pattern: str, header: int) -> np.ndarray:
        with gzip.open(next(root.glob(pattern))) as file:
            return np.frombuffer(file.read(), np.uint8, offset=header)

    images = read("*images*", 16).reshape(-1, 1, 28, 28)
    labels = read("*labels*", 8).astype(np.int64)
    classes = tuple(str(digit) for digit in range(10))
    return _split("mnist_t10k", classes, images, labels, np.arange(len(images)), 0.2)
