"""Grids of images for people: one row a class, small images enlarged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP = 2
_PAPER = (255, 255, 255)


def picture_grid(
    rows: Sequence[np.ndarray],
    names: Sequence[str] = (),
    *,
    cell: int = 64,
    split: int | None = None,
    headings: tuple[str, str] | None = None,
) -> Image.Image:
    """Draw rows of images.

    Args:
        rows: for each row, N×C×H×W floats in [-1, 1]; C is 1 or 3.
        names: a name for each row, written to its left.
        cell: images are enlarged by a whole factor until their longest side comes close to this many pixels.
        split: column before which a wider gap is left (real images to the left, synthetic to the right).
        headings: texts above the two sides of the split.
    """
    height, width = rows[0].shape[2:]
    factor = max(1, round(cell / max(height, width)))
    height, width = height * factor, width * factor
    columns = max(len(row) for row in rows)
    font = ImageFont.load_default(size=14)
    margin = max((int(font.getlength(name)) for name in names), default=-8) + 8
    top = 22 if headings else 0
    divide = 5 * GAP if split else 0
    canvas = Image.new(
        "RGB",
        (margin + columns * (width + GAP) + GAP + divide, top + len(rows) * (height + GAP) + GAP),
        _PAPER,
    )
    draw = ImageDraw.Draw(canvas)

    def left(column: int) -> int:
        return margin + GAP + column * (width + GAP) + (divide if split and column >= split else 0)

    if headings:
        draw.text((left(0), 3), headings[0], fill=(0, 0, 0), font=font)
        draw.text((left(split or 0), 3), headings[1], fill=(0, 0, 0), font=font)
    for r, row in enumerate(rows):
        y = top + GAP + r * (height + GAP)
        if names:
            draw.text((2, y + height // 2 - 9), names[r], fill=(0, 0, 0), font=font)
        for column, image in enumerate(row):
            canvas.paste(_enlarged(image, factor), (left(column), y))
    return canvas


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture as a PNG, creating the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, format="PNG", optimize=True)


def _enlarged(image: np.ndarray, factor: int) -> Image.Image:
    pixels = np.clip((np.asarray(image, dtype=np.float32) + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)
    pixels = pixels.repeat(factor, axis=1).repeat(factor, axis=2)
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
