"""Real images to translate: a folder or a data set, on a model's grid, with what the leak guard must know of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ganaug.data.archives import part_sha256
from ganaug.data.grid import Grid, to_grid
from ganaug.data.leak import training_contents
from ganaug.data.manifest import UNKNOWN, Manifest, hash_content
from ganaug.data.readers import as_stored
from ganaug.data.reading import scan
from ganaug.data.scales import file_knots
from ganaug.data.tensors import load_tensor
from ganaug.errors import ConfigError, DataError
from ganaug.sampling.counts import slices_of
from ganaug.sampling.leak import TRAINING_KNOWN
from ganaug.sampling.translator import Translator


@dataclass(frozen=True, eq=False)
class Sources:
    """Real images with their labels."""

    classes: tuple[str, ...]
    """Class names; none where none is known."""
    labels: np.ndarray
    """Indices into `classes`, N int64; `UNKNOWN` where no class is known."""
    domains: tuple[str, ...]
    """The domain that a table names for each image; empty where it names none."""
    sha256: tuple[str, ...]
    """Of each image's file, or of its pixels where it comes from no file."""
    on_grid: Callable[[np.ndarray, Grid], tuple[np.ndarray, np.ndarray, dict[str, list[str]]]]
    """Positions and a grid to the images (n×C×size, stored), their `file_knots` (n×4), and the hashes by which the leak
    guard knows them."""
    name: str = "the images"
    """What to call them in messages."""

    def __len__(self) -> int:
        return len(self.labels)

    def class_of(self, i: int) -> str:
        """Return the class name of an image; empty if it is not known."""
        return "" if self.labels[i] == UNKNOWN else self.classes[int(self.labels[i])]


def open_sources(gan: Translator, real: Any, *, group_regex: str | None, show_progress: bool) -> Sources:
    """Return the images of a folder (its training part), a `Manifest`, a data set of (image, label), or two arrays.

    Raises:
        ConfigError: `real` is nothing of these.
        DataError: the folder cannot be used.
    """
    if isinstance(real, str | Path):
        real = scan(real, group_regex=group_regex, slices=slices_of(gan), show_progress=show_progress).training_part()
    if isinstance(real, Manifest):
        return _of_manifest(real, show_progress)
    if isinstance(real, tuple) and len(real) == 2 and len(real[0]) == len(real[1]):
        images, labels = real
        return _of_items(lambda i: (images[i], labels[i]), len(images), getattr(images, "classes", None), gan)
    if hasattr(real, "__getitem__") and hasattr(real, "__len__") and not isinstance(real, Mapping):
        return _of_items(lambda i: real[i], len(real), getattr(real, "classes", None), gan)
    raise ConfigError(
        f"Images to translate of type {type(real).__name__} were given; a labelled folder, a data set whose items are "
        "(image, label), or a pair of arrays (images, labels) was wanted."
    )


def _of_manifest(manifest: Manifest, show_progress: bool) -> Sources:
    def on_grid(positions: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray, dict[str, list[str]]]:
        part = manifest.subset(positions)
        images = load_tensor(part, grid, show_progress=show_progress)
        seen = part.to_json(training_contents(part, grid, images))
        hashes = {
            "source_hashes": [entry["sha256"] for entry in seen["files"]] + seen["source_hashes"],
            "patient_hashes": [entry["group_hash"] for entry in seen["files"]] + seen["patient_hashes"],
            "content_hashes": seen["content_hashes"],
        }
        return images, part.knots, hashes

    return Sources(
        manifest.classes,
        manifest.labels,
        tuple(item.domain for item in manifest.items),
        tuple(item.sha256 for item in manifest.items),
        on_grid,
        str(manifest.root),
    )


def _of_items(item: Callable[[int], Any], length: int, classes: Any, gan: Translator) -> Sources:
    names = tuple(map(str, classes)) if isinstance(classes, Sequence) else ()
    dims, channels = len(gan.header.size), gan.header.channels

    def pixels_of(i: int) -> tuple[np.ndarray, int]:
        pair = item(i)
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ConfigError(f"Item {i} is a {type(pair).__name__}; a pair (image, label) was wanted.")
        try:
            label = int(pair[1])
        except (TypeError, ValueError):
            raise ConfigError(f"Item {i} has the label {pair[1]!r}; an integer was wanted.") from None
        return _pixels(pair[0], dims, channels, i), label

    labels, hashes = np.empty(length, np.int64), []
    for i in range(length):
        pixels, labels[i] = pixels_of(i)
        hashes.append(part_sha256(pixels))
    if length and labels.min() < 0:
        raise ConfigError(f"A label is {labels.min()}; positions in a list of classes, from 0, were wanted.")
    if not names:
        known = gan.classes if gan.rule == "class" else gan.labels
        names = known or tuple(map(str, range(int(labels.max(initial=-1)) + 1)))
    if length and labels.max() >= len(names):
        raise ConfigError(f"A label is {labels.max()}; 0 to {len(names) - 1} was wanted, for {', '.join(names)}.")

    def on_grid(positions: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray, dict[str, list[str]]]:
        images = np.empty((len(positions), grid.channels, *grid.size), grid.dtype)
        knots = np.empty((len(positions), 4))
        contents = set()
        for row, i in enumerate(positions.tolist()):
            pixels, _ = pixels_of(i)
            plain = Grid(grid.size, grid.channels, "stretch" if grid.spacing else grid.resize, grid.dtype)
            try:
                images[row] = to_grid(pixels, plain)
            except DataError as problem:
                raise DataError(f"Item {i}: {problem}") from None
            knots[row] = file_knots(pixels)
            contents |= {hash_content(pixels), hash_content(np.moveaxis(images[row], 0, -1))}
        files = [hashes[i] for i in positions.tolist()]
        return images, knots, {"source_hashes": files, "content_hashes": sorted(contents - {""})}

    return Sources(names, labels, ("",) * length, tuple(hashes), on_grid)


def _pixels(image: Any, dims: int, channels: int, i: int) -> np.ndarray:
    """Return an array, tensor or PIL image of stored values as H×W×C or D×H×W×C."""
    if hasattr(image, "detach"):
        image = image.detach().cpu().numpy()
    if not isinstance(image, np.ndarray | Image.Image):
        raise ConfigError(f"Item {i} holds a {type(image).__name__}; an array, a tensor or a PIL image was wanted.")
    array = np.asarray(image)
    if array.ndim == dims:
        array = array[..., None]
    elif array.ndim == dims + 1 and array.shape[0] in (1, 3, channels) and array.shape[-1] not in (1, 3, channels):
        array = np.moveaxis(array, 0, -1)
    if array.ndim != dims + 1 or not array.size:
        raise ConfigError(f"Item {i} has the shape {array.shape}; an image of {dims} sides and channels was wanted.")
    return np.ascontiguousarray(as_stored(array, Path(f"item {i}")))


def with_sources(manifest: bytes | None, hashes: Mapping[str, Sequence[str]]) -> bytes:
    """Return a run's ``train_manifest.json`` to which the hashes of translated images' sources are added.

    The leak guard then knows the sources as it knows the training images. Without a manifest the result says that it
    knows nothing else.
    """
    values: dict[str, Any] = (
        {"classes": [], "files": [], TRAINING_KNOWN: False} if manifest is None else json.loads(manifest)
    )
    for key, added in hashes.items():
        values[key] = sorted({*values.get(key, []), *added} - {""})
    return (json.dumps(values) + "\n").encode()
