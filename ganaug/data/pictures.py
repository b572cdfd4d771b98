"""Grids of images for people: one row a class, of real images and volumes or of what a generator makes."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ganaug.data.manifest import Item, Manifest
from ganaug.data.names import count, printable
from ganaug.files import write_atomic

GAP = 2
"""Pixels between images."""

MOST_ROWS = 40
"""Classes that `inspect_picture` draws."""

_PAPER = (255, 255, 255)
_INK = (0, 0, 0)
_PALE = (150, 150, 150)
_NAME_LENGTH = 24
_BINS = 64


def picture_grid(
    rows: Sequence[np.ndarray],
    names: Sequence[str] = (),
    *,
    cell: int = 64,
    split: int | None = None,
    headings: tuple[str, str] | None = None,
    planes: bool = False,
) -> Image.Image:
    """Draw rows of images.

    Args:
        rows: for each row, N×C×H×W or N×C×D×H×W floats in [-1, 1]. Three channels are drawn as color, of another
            number the first; of a volume its central axial slice.
        names: a name for each row, written to its left.
        cell: images are enlarged by a whole factor until their longest side comes close to this many pixels.
        split: column before which a wider gap is left (real images to the left, synthetic to the right).
        headings: texts above the two sides of the split.
        planes: draw the central axial, coronal and sagittal slice of a volume side by side.
    """
    flat = [_flat(np.asarray(row), planes) for row in rows]
    height, width = flat[0].shape[2:]
    factor = max(1, round(cell / max(height, width)))
    height, width = height * factor, width * factor
    columns = max(len(row) for row in flat)
    font = ImageFont.load_default(size=14)
    margin = max((int(font.getlength(name)) for name in names), default=-8) + 8
    top = 22 if headings else 0
    divide = 5 * GAP if split else 0
    canvas = Image.new(
        "RGB",
        (margin + columns * (width + GAP) + GAP + divide, top + len(flat) * (height + GAP) + GAP),
        _PAPER,
    )
    draw = ImageDraw.Draw(canvas)

    def left(column: int) -> int:
        return margin + GAP + column * (width + GAP) + (divide if split and column >= split else 0)

    if headings:
        draw.text((left(0), 3), headings[0], fill=_INK, font=font)
        draw.text((left(split or 0), 3), headings[1], fill=_INK, font=font)
    for r, row in enumerate(flat):
        y = top + GAP + r * (height + GAP)
        if names:
            draw.text((2, y + height // 2 - 9), names[r], fill=_INK, font=font)
        for column, image in enumerate(row):
            canvas.paste(_enlarged(image, factor), (left(column), y))
    return canvas


def inspect_picture(
    manifest: Manifest, decode: Callable[[Item], np.ndarray], *, columns: int = 8, cell: int = 96
) -> Image.Image:
    """Draw real images of each class as they are: evenly spaced ones of its files, and a histogram of their values.

    Images keep their proportions (in mm, where the file tells the spacing). 8-bit values are drawn from 0 to 255,
    others from the file's 0.1 to its 99.9 percentile; the histograms of all rows have one scale.

    Args:
        manifest: the first `MOST_ROWS` of its classes are drawn; one without images is an empty row.
        decode: the stored pixels of an item, H×W×C or D×H×W×C. Of a volume the central axial slice is drawn.
        columns: images of each class.
        cell: height and width of the square that an image is fitted into, in pixels.

    Raises:
        DataError: what `decode` raises.
    """
    labels = manifest.labels
    rows = [_evenly(np.flatnonzero(labels == label), columns) for label in range(min(len(manifest.classes), MOST_ROWS))]
    shown = [[manifest.items[index] for index in row] for row in rows]
    font, small = ImageFont.load_default(size=14), ImageFont.load_default(size=11)
    texts = [(_clipped(printable(name)), count(n, "image")) for name, n in manifest.counts.items()][:MOST_ROWS]
    margin = max((int(font.getlength(text)) for pair in texts for text in pair), default=0) + 10
    step = cell + GAP
    bottom = GAP + len(rows) * step
    canvas = Image.new("RGB", (margin + (columns + 1) * step + 6 * GAP, bottom + 18), _PAPER)
    draw = ImageDraw.Draw(canvas)
    scale = _scale([item for row in shown for item in row])
    right = margin + columns * step + 4 * GAP
    for r, row in enumerate(shown):
        y = GAP + r * step
        draw.text((4, y + cell // 2 - 18), texts[r][0], fill=_INK, font=font)
        draw.text((4, y + cell // 2), texts[r][1], fill=_PALE, font=font)
        levels = np.zeros(_BINS)
        for column, item in enumerate(row):
            pixels = decode(item)
            levels += _histogram(pixels, scale)
            picture = _fitted(pixels, item, cell)
            x = margin + column * step + (cell - picture.width) // 2
            canvas.paste(picture, (x, y + (cell - picture.height) // 2))
        canvas.paste(_bars(levels, cell), (right, y))
    low, high = (f"{value:.6g}" for value in scale)
    draw.text((right, bottom), low, fill=_PALE, font=small)
    draw.text((right + cell - small.getlength(high), bottom), high, fill=_PALE, font=small)
    if len(manifest.classes) > MOST_ROWS:
        more = count(len(manifest.classes) - MOST_ROWS, "more class", "more classes")
        draw.text((4, bottom), f"and {more}", fill=_PALE, font=small)
    return canvas


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture as a PNG, atomically, creating the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = io.BytesIO()
    picture.save(data, format="PNG", optimize=True)
    write_atomic(path, data.getvalue())


def _flat(row: np.ndarray, planes: bool) -> np.ndarray:
    """Return N×1×H×W or N×3×H×W of a row of images or volumes."""
    row = row if row.shape[1] == 3 else row[:, :1]
    if row.ndim == 4:
        return row
    _, _, depth, height, width = row.shape
    axial = row[:, :, depth // 2]
    if not planes:
        return axial
    # Superior on top, and all on one baseline.
    views = [axial, row[:, :, ::-1, height // 2], row[:, :, ::-1, :, width // 2]]
    tallest = max(view.shape[2] for view in views)
    return np.concatenate(
        [np.pad(view, ((0, 0), (0, 0), (tallest - view.shape[2], 0), (0, 0)), constant_values=-1) for view in views],
        axis=3,
    )


def _enlarged(image: np.ndarray, factor: int) -> Image.Image:
    pixels = np.clip((np.asarray(image, dtype=np.float32) + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)
    pixels = pixels.repeat(factor, axis=1).repeat(factor, axis=2)
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def _evenly(indices: np.ndarray, number: int) -> list[int]:
    return [int(indices[at]) for at in np.linspace(0, len(indices) - 1, min(number, len(indices))).round().astype(int)]


def _clipped(text: str) -> str:
    return text if len(text) <= _NAME_LENGTH else text[: _NAME_LENGTH - 1] + "…"


def _window(item: Item) -> tuple[float, float]:
    if item.dtype == "uint8":
        return 0.0, 255.0
    return (item.low, item.high) if item.low < item.high else (item.minimum, item.maximum)


def _scale(items: Sequence[Item]) -> tuple[float, float]:
    """Return the lowest and the highest value of the items' windows, the second above the first."""
    windows = [_window(item) for item in items] or [(0.0, 255.0)]
    low, high = min(low for low, _ in windows), max(high for _, high in windows)
    return low, high if high > low else low + 1


def _fitted(pixels: np.ndarray, item: Item, cell: int) -> Image.Image:
    """Return the picture of one image, as large as a square cell allows."""
    plane = pixels[len(pixels) // 2] if pixels.ndim == 4 else pixels
    step = max(1, min(plane.shape[:2]) // 1024)
    plane = plane[::step, ::step] if plane.shape[2] == 3 else plane[::step, ::step, :1]
    low, high = _window(item)
    # float64: the difference of two 32-bit values may not fit in their own type.
    unit = (plane.astype(np.float64) - low) / (high - low) if high > low else np.full(plane.shape, 0.5)
    shades = (np.clip(unit, 0, 1) * 255 + 0.5).astype(np.uint8)
    picture = Image.fromarray(shades if shades.shape[2] == 3 else shades[..., 0])
    between_rows, between_columns = item.spacing[-2:] if item.spacing else (1.0, 1.0)
    height, width = plane.shape[0] * between_rows, plane.shape[1] * between_columns
    factor = cell / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    # Small images show their pixels.
    enlarged = size[0] >= picture.width and size[1] >= picture.height
    return picture.resize(size, Image.Resampling.NEAREST if enlarged else Image.Resampling.BOX)


def _histogram(pixels: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    low, high = scale
    values = np.clip(pixels.ravel()[:: max(1, pixels.size // 100_000)].astype(np.float64), low, high)
    return np.histogram(values, bins=_BINS, range=scale)[0] / len(values)


def _bars(levels: np.ndarray, cell: int) -> Image.Image:
    """Return a histogram; square roots, so that a large background does not hide the rest."""
    picture = Image.new("RGB", (cell, cell), (240, 240, 240))
    draw = ImageDraw.Draw(picture)
    heights = np.sqrt(levels / max(levels.max(), 1e-12)) * (cell - 4)
    edges = np.linspace(0, cell, len(levels) + 1).round().astype(int).tolist()
    for (left, right), height in zip(pairwise(edges), heights.round().astype(int).tolist(), strict=True):
        if height and right > left:
            draw.rectangle((left, cell - height, right - 1, cell), fill=(70, 70, 70))
    return picture
