"""Pictures of what a generator makes: a row for each class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ganaug.data.grid import Grid
from ganaug.data.manifest import Manifest
from ganaug.data.pictures import picture_grid
from ganaug.data.scales import common_dtype
from ganaug.data.tensors import load_images
from ganaug.errors import ConfigError, ModelFileError
from ganaug.models.latents import latents_for
from ganaug.sampling.sampler import Sampler


def preview(
    gan: Sampler,
    *,
    columns: int = 10,
    seed: int = 0,
    classes: Sequence[str] = (),
    interpolate: bool = False,
    real: Manifest | None = None,
) -> Image.Image:
    """Draw samples of each class.

    Args:
        columns: images of each class.
        classes: the classes to show; all by default.
        interpolate: walk from one latent to another within each row, instead of independent samples.
        real: a labelled folder of the same classes, to show as many real images to the left.

    Raises:
        ConfigError: an unknown class, or columns below 1.
        ModelFileError: `real` has other classes than the model.
    """
    names = list(classes) or list(gan.classes)
    unknown = [name for name in names if name not in gan.classes]
    if unknown:
        raise ConfigError(f"Classes {', '.join(unknown)} were given; this model has {', '.join(gan.classes)}.")
    if columns < 1:
        raise ConfigError(f"{columns} columns were given; at least 1 was wanted.")
    rows = []
    for name in names:
        label = gan.classes.index(name)
        latents = _latents(gan, label, columns, seed, interpolate)
        rows.append(gan.decode(latents, torch.full((columns,), label)).numpy())
    if real is None:
        return picture_grid(rows, names)
    shown = real_rows(gan, real, names, columns)
    rows = [np.concatenate([left, right]) for left, right in zip(shown, rows, strict=True)]
    return picture_grid(rows, names, split=columns, headings=("real", "synthetic"))


def real_rows(gan: Sampler, real: Manifest, names: Sequence[str], columns: int) -> list[np.ndarray]:
    """Return `columns` real images of each class, spread over it, at the model's size, in [-1, 1].

    A class with fewer images is padded with white.
    """
    if real.classes != gan.classes:
        raise ModelFileError(
            f"{real.root} has the classes {', '.join(real.classes)}; the model makes {', '.join(gan.classes)}. "
            "Give a folder with the model's classes."
        )
    grid = training_grid(gan, real)
    rows = []
    for name in names:
        members = np.flatnonzero(real.labels == gan.classes.index(name))
        # Spread over the class: neighbors in the list are often slices of one patient.
        spread = np.unique(np.linspace(0, max(len(members) - 1, 0), columns).astype(int))
        positions = members[spread[: len(members)]]
        shown = real.subset(positions)
        pixels = load_images(shown, grid)
        unit = gan.intensity.forward(pixels, knots=shown.knots if gan.intensity.kind == "per-file" else None)
        blank = np.ones((columns - len(unit), *gan.shape), dtype=np.float32)
        rows.append(np.concatenate([unit, blank]))
    return rows


def training_grid(gan: Sampler, real: Manifest) -> Grid:
    """Return the grid that the model's training images were brought to, for the images of `real`."""
    resize = str(gan.header.settings["resize"])
    spacing = gan.header.geometry.spacing if gan.header.geometry and resize == "spacing" else None
    dtype = common_dtype(item.dtype for item in real.items)
    return Grid(gan.header.size, gan.header.channels, resize, dtype, spacing)


def _latents(gan: Sampler, label: int, columns: int, seed: int, interpolate: bool) -> Tensor:
    if not interpolate:
        return latents_for([label] * columns, range(columns), seed=seed, dim=gan.latent_dim)
    start, end = latents_for([label, label], [0, 1], seed=seed, dim=gan.latent_dim)
    return slerp(start, end, torch.linspace(0, 1, columns))


def slerp(start: Tensor, end: Tensor, at: Tensor) -> Tensor:
    """Interpolate along the great circle: normal latents stay at their typical length (White 2016).

    `start` and `end` have Z numbers, `at` N fractions in [0, 1]; returns N×Z.
    """
    cosine = torch.nn.functional.cosine_similarity(start, end, dim=0).clamp(-1, 1)
    angle = torch.acos(cosine)
    if float(torch.sin(angle)) < 1e-4:
        return torch.lerp(start, end, at[:, None])
    weights = torch.stack([torch.sin((1 - at) * angle), torch.sin(at * angle)]) / torch.sin(angle)
    return weights[0][:, None] * start + weights[1][:, None] * end
