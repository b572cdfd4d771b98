"""One ``.npz`` archive with images and labels, as MedMNIST and Keras have them: by itself, or alone in a folder.

The arrays are ``train_images`` and ``train_labels`` (and the same with ``val`` and ``test``), ``x_train`` and
``y_train`` (likewise), ``images`` and ``labels``, or ``x`` and ``y``; with ``classes`` or ``class_names`` (text) the
numbers in the labels stand for these names. Without them the classes are called by their numbers, all with as many
digits as the largest: sorted by name they are then in the order of their numbers, so that the label of a class is still
the number that stands in the archive, as long as none is left out.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ganaug.data.archives import as_images, member_names, open_member, tables
from ganaug.data.layouts import Entry, Listing
from ganaug.data.names import MAX_NAME, few
from ganaug.data.tree import walk
from ganaug.errors import DataError

PRIORITY = 5

SUFFIX = ".npz"

MAX_LABEL_BYTES = 256 * 1024**2

_NAME_KEYS = ("classes", "class_names")

Label = int | str
"""A number, or a class name."""


def matches(root: Path) -> bool:
    """Return whether `root` is an archive, or a folder with one archive and no sub-folders."""
    if not root.is_dir():
        return root.name.lower().endswith(SUFFIX)
    try:
        names = os.listdir(root)  # noqa: PTH208 - there may be many, and their names are enough
    except OSError:
        return False
    archives = [name for name in names if name.lower().endswith(SUFFIX) and not name.startswith(".")]
    return len(archives) == 1 and not walk(root).folders


def listing(root: Path, *, labelled: bool = True) -> Listing:
    """Return every image of the archive with its class and split.

    Args:
        root: the archive, or the folder that it is alone in.
        labelled: whether to read labels; without them there may be none, and there are no classes.

    Raises:
        DataError: the archive or its labels cannot be used.
    """
    path, ignored = (root, ()) if not root.is_dir() else _alone(root)
    parts = tables(path, labelled=labelled)
    # This also unpacks the images, once and for all processes that are started later.
    lengths = {part: len(as_images(open_member(path, images), path, images)) for part, (images, _) in parts.items()}
    if labelled:
        numbers = {part: _labels(path, labels, lengths[part]) for part, (_, labels) in parts.items()}
        names = _class_names(path, numbers)
        found = {part: [names[label] for label in labels] for part, labels in numbers.items()}
        classes = tuple(sorted(set(names.values())))
    else:
        found, classes = {part: [""] * length for part, length in lengths.items()}, ()
    entries = tuple(
        Entry(path.name, label, split="" if part == "images" else part, part=f"{part}[{index}]")
        for part, labels in found.items()
        for index, label in enumerate(labels)
    )
    if not entries:
        raise DataError(f"{path}: holds no images; at least two{' for each class' if labelled else ''} were wanted")
    return Listing(classes, entries, ignored)


def _alone(root: Path) -> tuple[Path, tuple[str, ...]]:
    files = walk(root).files
    name = next(file for file in files if file.lower().endswith(SUFFIX))
    return root / name, tuple(file for file in files if file != name)


def _labels(path: Path, key: str, images: int) -> list[Label]:
    """Return the label of each image, a whole number from 0 or a class name."""
    labels = open_member(path, key, limit=MAX_LABEL_BYTES)
    shape = "×".join(map(str, labels.shape))
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2:
        raise DataError(
            f"{path}: {key} has the shape {shape}, several labels for each image; one was wanted. Choose one, or, if "
            f"they are one-hot, save {key}.argmax(axis=1)"
        )
    if labels.shape != (images,):
        raise DataError(f"{path}: {key} has the shape {shape}; one label for each of {images:,} images was wanted")
    if labels.dtype.kind in "US":
        return [*_text(path, key, labels)]
    odd = labels < 0
    if labels.dtype.kind == "f":
        odd |= ~np.isfinite(labels) | (np.rint(labels) != labels)
    if odd.any():
        raise DataError(
            f"{path}: {key} holds values such as {labels[odd][0]}; whole numbers from 0, or names, were wanted. Leave "
            "images without a label out"
        )
    return [int(label) for label in labels.tolist()]


def _text(path: Path, key: str, values: np.ndarray) -> list[str]:
    try:
        names = np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values
        found = [str(name).strip() for name in names.tolist()]
        "".join(found).encode()  # lone surrogates are not text that could be written anywhere
    except (UnicodeError, ValueError) as problem:
        raise DataError(f"{path}: {key} is no UTF-8 text; save it with np.array([...], dtype=str)") from problem
    if max(map(len, found), default=0) > MAX_NAME:
        raise DataError(f"{path}: {key} has a name of more than {MAX_NAME} letters; shorten it")
    if not all(found):
        raise DataError(f"{path}: {key} has an empty name, the one at {found.index('')}; fill it in")
    return found


def _class_names(path: Path, numbers: dict[str, list[Label]]) -> dict[Label, str]:
    """Return the class name of each label that occurs, or that the archive names."""
    found = sorted({label for labels in numbers.values() for label in labels}, key=str)
    key = next((key for key in _NAME_KEYS if key in member_names(path)), None)
    if key is None:
        digits = max((len(str(label)) for label in found if isinstance(label, int)), default=0)
        return {label: str(label).zfill(digits) if isinstance(label, int) else label for label in found}
    listed = open_member(path, key, limit=MAX_LABEL_BYTES)
    if listed.ndim != 1 or listed.dtype.kind not in "US":
        raise DataError(f"{path}: {key} is no list of names; save it with np.array([...], dtype=str)")
    names = _text(path, key, listed)
    if len(set(names)) < len(names):
        raise DataError(f"{path}: {key} names a class twice: {few(names, 20)}; give each class a name of its own")
    named: dict[Label, str] = {name: name for name in names} | dict(enumerate(names))
    unknown = [str(label) for label in found if label not in named]
    if unknown:
        raise DataError(
            f"{path}: the labels {few(unknown)} have no name in {key}, which has {len(names)}: "
            f"{few(names, 20)}. Add them, or correct the labels"
        )
    return named
