"""Pictures of what a generator makes: a row for each class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ganaug.data.grid import Grid, to_grid
from ganaug.data.manifest import Manifest
from ganaug.data.pictures import picture_grid
from ganaug.data.readers import read
from ganaug.data.scales import common_dtype, file_knots
from ganaug.data.tensors import load_images
from ganaug.errors import ConfigError, DataError, ModelFileError
from ganaug.sampling.latent_tools import Projection, mix_styles
from ganaug.sampling.latent_tools import interpolate as interpolation
from ganaug.sampling.sampler import Sampler

COARSE_ROWS = 3
"""Images of each class that give their coarse styles in `mixing_picture`."""


def preview(
    gan: Sampler,
    *,
    columns: int = 10,
    seed: int = 0,
    classes: Sequence[str] = (),
    interpolate: bool = False,
    truncations: Sequence[float] = (1.0,),
    real: Manifest | None = None,
) -> Image.Image:
    """Draw samples of each class.

    Args:
        columns: images of each class.
        classes: the classes to show; all by default.
        interpolate: walk from one latent to another within each row, instead of independent samples.
        truncations: draw the same latents under each of these (see `Sampler.decode`), a row for each.
        real: a labelled folder of the same classes, to show as many real images to the left.

    Raises:
        ConfigError: an unknown class, columns below 1, or a truncation out of range.
        ModelFileError: `real` has other classes than the model.
    """
    labels = labels_of(gan, classes)
    _require_columns(columns)
    rows, titles = [], []
    for label in labels:
        for truncation in truncations:
            if interpolate:
                images = interpolation(gan, label, count=columns, seed=seed, truncation=truncation)
            else:
                images = gan.sample([label] * columns, seed=seed, truncation=truncation)
            rows.append(images.numpy())
            name = gan.classes[label]
            titles.append(name if len(truncations) == 1 else f"{name}  psi {truncation:g}")
    if real is None:
        return picture_grid(rows, titles)
    names = [gan.classes[label] for label in labels]
    shown = [row for row in real_rows(gan, real, names, columns) for _ in truncations]
    rows = [np.concatenate([left, right]) for left, right in zip(shown, rows, strict=True)]
    return picture_grid(rows, titles, split=columns, headings=("real", "synthetic"))


def mixing_picture(
    gan: Sampler, *, columns: int = 10, seed: int = 0, classes: Sequence[str] = (), truncation: float = 1.0
) -> Image.Image:
    """Draw mixed styles: for each class, images with the coarse styles of one and the fine styles of another.

    Of each class, the first row shows the `columns` images that give the fine styles. Each of the `COARSE_ROWS` rows
    below begins with the image that gives the coarse styles of all images to its right.

    Raises:
        ConfigError: the model has no styles, an unknown class, columns below 1, or truncation out of range.
    """
    _require_columns(columns)
    rows, titles = [], []
    for label in labels_of(gan, classes):
        labels = [label] * (COARSE_ROWS + columns)
        styles = gan.styles(gan.latents(labels, seed=seed), torch.tensor(labels), truncation=truncation)
        coarse, fine = styles[:COARSE_ROWS], styles[COARSE_ROWS:]
        rows.append(np.concatenate([_blank(gan, 1), gan.draw(fine).numpy()]))
        titles += [gan.classes[label], *[""] * COARSE_ROWS]
        for style in coarse:
            mixed = mix_styles(gan, style.expand_as(fine), fine)
            rows.append(torch.cat([gan.draw(style[None]), mixed]).numpy())
    return picture_grid(rows, titles)


def projection_picture(gan: Sampler, image: np.ndarray, found: Projection) -> Image.Image:
    """Draw an image (C×spatial in [-1, 1]), its projection, and how far they differ: black where they agree."""
    difference = np.abs(image - found.image.numpy()) - 1
    return picture_grid([np.stack([image, found.image.numpy(), difference])], [gan.classes[found.label]], cell=128)


def read_image(gan: Sampler, path: Path) -> np.ndarray:
    """Read an image or volume file as the model's training read its own: C×H×W or C×D×H×W float32 in [-1, 1].

    Raises:
        DataError: the file cannot be read, or cannot be brought to the model's size, channels and type.
    """
    decoded = read(path)
    grid = training_grid(gan, [decoded.pixels.dtype.name, gan.intensity.dtype])
    try:
        pixels = to_grid(decoded.pixels, grid, spacing=decoded.spacing)
    except DataError as problem:
        raise DataError(f"{path}: {problem}") from None
    return gan.intensity.forward(pixels, knots=file_knots(decoded.pixels))


def real_rows(gan: Sampler, real: Manifest, names: Sequence[str], columns: int) -> list[np.ndarray]:
    """Return `columns` real images of each class, spread over it, at the model's size, in [-1, 1].

    A class with fewer images is padded with white.
    """
    if real.classes != gan.classes:
        raise ModelFileError(
            f"{real.root} has the classes {', '.join(real.classes)}; the model makes {', '.join(gan.classes)}. "
            "Give a folder with the model's classes."
        )
    grid = training_grid(gan, (item.dtype for item in real.items))
    rows = []
    for name in names:
        members = np.flatnonzero(real.labels == gan.classes.index(name))
        # Spread over the class: neighbors in the list are often slices of one patient.
        spread = np.unique(np.linspace(0, max(len(members) - 1, 0), columns).astype(int))
        positions = members[spread[: len(members)]]
        shown = real.subset(positions)
        pixels = load_images(shown, grid)
        unit = gan.intensity.forward(pixels, knots=shown.knots if gan.intensity.kind == "per-file" else None)
        rows.append(np.concatenate([unit, _blank(gan, columns - len(unit))]))
    return rows


def training_grid(gan: Sampler, dtypes: Iterable[str]) -> Grid:
    """Return the grid that the model's training images were brought to, for images of these stored types."""
    resize = str(gan.header.settings["resize"])
    spacing = gan.header.geometry.spacing if gan.header.geometry and resize == "spacing" else None
    return Grid(gan.header.size, gan.header.channels, resize, common_dtype(dtypes), spacing)


def labels_of(gan: Sampler, classes: Sequence[str]) -> list[int]:
    """Return the labels of named classes, of all if none is named. Raises ConfigError for an unknown one."""
    unknown = [name for name in classes if name not in gan.classes]
    if unknown:
        raise ConfigError(f"Classes {', '.join(unknown)} were given; this model has {', '.join(gan.classes)}.")
    return [gan.classes.index(name) for name in classes or gan.classes]


def _require_columns(columns: int) -> None:
    if columns < 1:
        raise ConfigError(f"{columns} columns were given; at least 1 was wanted.")


def _blank(gan: Sampler, count: int) -> np.ndarray:
    return np.ones((count, *gan.shape), dtype=np.float32)
