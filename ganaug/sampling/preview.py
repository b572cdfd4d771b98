"""Pictures of what a generator makes: a row for each class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ganaug.data.archives import tables
from ganaug.data.examine import Examiner
from ganaug.data.geometry import PLANES
from ganaug.data.grid import Grid, to_grid
from ganaug.data.layouts import Entry
from ganaug.data.manifest import Manifest
from ganaug.data.names import count, printable
from ganaug.data.pictures import picture_grid
from ganaug.data.readers import is_image
from ganaug.data.scales import common_dtype
from ganaug.data.series import join_series
from ganaug.data.tensors import load_images
from ganaug.errors import ConfigError, DataError, ModelFileError
from ganaug.sampling.latent_tools import Projection, mix_styles
from ganaug.sampling.latent_tools import interpolate as interpolation
from ganaug.sampling.sampler import Sampler

COARSE_ROWS = 3
"""Images of each class that give their coarse styles in `mixing_picture`."""
TITLE = 22
"""Height, in pixels, of the titles above a projection's three images."""
TITLE_LENGTH = 24
"""Most letters of a class name."""


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
        interpolate: walk from sample 0 to sample 1 of the class in each row, instead of independent samples.
        truncations: draw the same latents under each of these (see `Sampler.decode`), a row for each.
        real: a labelled folder of the same classes, to show as many real images to the left.

    Raises:
        ConfigError: an unknown class, columns below 1 (2 with `interpolate`), or a truncation out of range.
        ModelFileError: `real` has other classes than the model.
        DataError: `real` cannot be brought to the model's size, channels and range of values.
    """
    labels = labels_of(gan, classes)
    _require_columns(columns, 2 if interpolate else 1)
    rows, titles = [], []
    for label in labels:
        for truncation in truncations:
            if interpolate:
                images = interpolation(gan, label, count=columns, seed=seed, truncation=truncation)
            else:
                images = gan.sample([label] * columns, seed=seed, truncation=truncation)
            rows.append(images.numpy())
            titles.append(_title(gan, label, "" if len(truncations) == 1 else f", truncation {truncation:g}"))
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
        titles += [_title(gan, label), *[""] * COARSE_ROWS]
        for style in coarse:
            mixed = mix_styles(gan, style.expand_as(fine), fine)
            rows.append(torch.cat([gan.draw(style[None]), mixed]).numpy())
    return picture_grid(rows, titles, split=1, headings=("coarse", "fine (first row), mixed (below)"))


def projection_picture(gan: Sampler, image: np.ndarray, found: Projection) -> Image.Image:
    """Draw an image (C×spatial in [-1, 1]), its projection, and how far they differ: black where they agree,
    white where they are half of the range apart or more. Of volumes the three central planes are drawn.
    """
    closest = found.image.numpy()
    difference = np.minimum(2 * np.abs(image - closest) - 1, 1)
    titles = ("given", f"closest: {_title(gan, found.label)}", "difference")
    cells = [
        picture_grid([shown[None]], cell=128 if image.ndim == 3 else 256, planes=True)
        for shown in (image, closest, difference)
    ]
    font = ImageFont.load_default(size=14)
    widths = [max(cell.width, int(font.getlength(title)) + 8) for cell, title in zip(cells, titles, strict=True)]
    canvas = Image.new("RGB", (sum(widths), TITLE + cells[0].height), "white")
    draw = ImageDraw.Draw(canvas)
    for i, (cell, title) in enumerate(zip(cells, titles, strict=True)):
        left = sum(widths[:i])
        draw.text((left + 2, 3), title, fill="black", font=font)
        canvas.paste(cell, (left, TITLE))
    return canvas


def read_image(gan: Sampler, path: Path | str) -> np.ndarray:
    """Read an image or volume as the model's training read its own: C×H×W or C×D×H×W float32 in [-1, 1].

    Args:
        gan: the model.
        path: a file of any format that ganaug reads, a folder with the files of one DICOM series, or a part of a file:
            ``archive.npz#train[12]``, ``head.nii.gz#axial[17]`` (for a model of slices).

    Raises:
        DataError: it cannot be read, or cannot be brought to the model's size, channels, type and range of values.
    """
    root, entry, part = _entry_of(Path(path))
    plane = gan.header.settings.get("slices")
    examined = Examiner(root, plane)(entry)
    if isinstance(examined, str):
        raise DataError(f"{path}: {examined.rstrip('.')}.")
    found = {facts.part: (facts, pixels) for facts, pixels in zip(*examined, strict=True)}
    if part not in found:
        middle = list(found)[len(found) // 2]
        raise DataError(
            f"{path} was given; the model was trained on {f'{plane} slices' if plane else 'whole files'}. Give "
            f"{root / entry.path}{'#' if middle else ''}{middle}"
            f"{f', say: it is one of {len(found)}' if len(found) > 1 else ''}."
        )
    facts, pixels = found[part]
    grid = training_grid(gan, [facts.dtype, gan.intensity.dtype])
    try:
        stored = to_grid(pixels, grid, spacing=facts.spacing)
    except DataError as problem:
        raise DataError(f"{path}: {problem}") from None
    _require_range(gan, str(path), facts.dtype, facts.minimum, facts.maximum)
    return gan.intensity.forward(stored, knots=(facts.minimum, facts.low, facts.high, facts.maximum))


def _entry_of(path: Path) -> tuple[Path, Entry, str]:
    """Return the folder and the entry that a path names, and the part of the file that it means."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and is_image(file))
        joined = join_series(path, [Entry(file.name, "") for file in files])
        if len(joined) != 1:
            raise DataError(
                f"{path} is a folder of {count(len(joined), 'image')}; one image, or the files of one DICOM series, "
                "were wanted. Give the path of a file."
            )
        return path, joined[0], ""
    if path.exists():
        if path.suffix.lower() == ".npz":
            raise DataError(f"{path} is an archive. Name one of its images: {path}#{next(iter(tables(path)))}[0], say.")
        return path.parent, Entry(path.name, ""), ""
    name, found, part = path.name.rpartition("#")
    file = path.with_name(name) if found and name else path
    if not file.is_file():
        raise DataError(f"There is no file {file}. Give the path of an image or volume.")
    # Slices are parts of a volume, and volumes may be parts of an archive: "train[12]axial[17]".
    plane = min((at for at in map(part.find, PLANES) if at >= 0), default=len(part))
    return path.parent, Entry(name, "", part=part[:plane]), part


def _require_range(gan: Sampler, source: str, dtype: str, lowest: float, highest: float) -> None:
    """Refuse values that the model's intensity map would turn to plain black or white. Raises DataError."""
    _, low, high, _ = gan.intensity.knots
    if gan.intensity.kind == "uint8" and dtype != "uint8":
        wanted = "8-bit images, 0 to 255"
    elif gan.intensity.kind != "per-file" and (highest <= low or high <= lowest):
        wanted = f"values from {low:g} to {high:g}"
    else:
        return
    raise DataError(
        f"{source} holds {dtype} values from {lowest:g} to {highest:g}; the model was trained on {wanted}. Save it as "
        "such."
    )


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
    minima, _, _, maxima = real.knots.T
    _require_range(gan, str(real.root), grid.dtype, float(minima.min()), float(maxima.max()))
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


def _require_columns(columns: int, least: int = 1) -> None:
    if columns < least:
        raise ConfigError(f"{count(columns, 'column')} were given; at least {least} was wanted.")


def _title(gan: Sampler, label: int, more: str = "") -> str:
    """Return the name of a class for a picture, short and in one line."""
    name = printable(gan.classes[label])
    return (name if len(name) <= TITLE_LENGTH else f"{name[: TITLE_LENGTH - 3]}...") + more


def _blank(gan: Sampler, number: int) -> np.ndarray:
    return np.ones((number, *gan.shape), dtype=np.float32)
