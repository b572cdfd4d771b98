"""A picture of counterfactual twins: in each row a source, its translation and their difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ganaug.data.pictures import GAP, picture_grid

SCALE = 1.0
"""Difference, in units of [-1, 1], that is drawn in full color: half of the gray range."""

_BRIGHTER = (178, 24, 43)
_DARKER = (33, 102, 172)
_NEUTRAL = 255
_FRAME = (200, 200, 200)
_TITLES = ("source", "translation", "difference")
_CELL = 128
_LINE = 17
_TOP = 24
_LEGEND = 44


@dataclass(frozen=True)
class Row:
    """One twin to draw."""

    lines: tuple[str, ...]
    """Texts to its left."""
    source: np.ndarray
    """C×H×W or C×D×H×W in [-1, 1]."""
    difference: np.ndarray
    """Translation minus source."""


def twins_picture(rows: Sequence[Row]) -> Image.Image:
    """Draw twins; of a volume the axial slice that changes most. One scale holds for all differences."""
    font, small = ImageFont.load_default(size=14), ImageFont.load_default(size=11)
    cells = [[_cell(image) for image in _images(row)] for row in rows]
    margin = int(max(font.getlength(line) for row in rows for line in row.lines)) + 12
    width = cells[0][0].width
    tops = [_TOP + sum(max(cell[0].height, _LINE * 4) + GAP for cell in cells[:r]) for r in range(len(cells) + 1)]
    canvas = Image.new("RGB", (margin + 3 * (width + GAP), tops[-1] + _LEGEND), "white")
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(_TITLES):
        draw.text((margin + column * (width + GAP) + GAP, 4), title, fill="black", font=font)
    for row, images, top in zip(rows, cells, tops, strict=False):
        for number, line in enumerate(row.lines):
            draw.text((4, top + 4 + number * _LINE), line, fill="black", font=font)
        for column, image in enumerate(images):
            left = margin + column * (width + GAP)
            canvas.paste(image, (left, top))
            draw.rectangle((left + 1, top + 1, left + image.width - 2, top + image.height - 2), outline=_FRAME)
    ramp = colored(np.tile(np.linspace(-SCALE, SCALE, width, dtype=np.float32), (1, 12, 1)))
    left = margin + 2 * (width + GAP)
    canvas.paste(_bytes(ramp), (left, tops[-1] + 6))
    half = f"{SCALE / 2:.0%}"
    for text, share in ((f"-{half}", 0.0), ("0", 0.5), (f"+{half}", 1.0)):
        at = left + share * (width - small.getlength(text))
        draw.text((at, tops[-1] + 22), text, fill="black", font=small)
    note = "difference, of the gray range: "
    draw.text((left - small.getlength(note) - 6, tops[-1] + 6), note, fill="black", font=small)
    return canvas


def colored(difference: np.ndarray) -> np.ndarray:
    """Return a difference (C×H×W) as color, 3×H×W in [0, 1]: white at zero, red where brighter, blue where darker.

    Of several channels the one that differs most.
    """
    largest = np.take_along_axis(difference, np.abs(difference).argmax(0)[None], 0)[0]
    amount = np.clip(np.abs(largest) / SCALE, 0, 1)
    full = np.where(largest[None] > 0, *(np.array(color).reshape(3, 1, 1) for color in (_BRIGHTER, _DARKER)))
    mixed: np.ndarray = (_NEUTRAL + amount * (full - _NEUTRAL)) / 255
    return mixed


def _images(row: Row) -> list[np.ndarray]:
    """Return the source, the translation and the difference, 3×H×W or 1×H×W in [-1, 1]."""
    source, difference = row.source, row.difference
    if source.ndim == 4:
        most = int(np.abs(difference).sum((0, 2, 3)).argmax())
        source, difference = source[:, most], difference[:, most]
    return [source, np.clip(source + difference, -1, 1), colored(difference) * 2 - 1]


def _cell(image: np.ndarray) -> Image.Image:
    return picture_grid([image[None]], cell=_CELL)


def _bytes(color: np.ndarray) -> Image.Image:
    return Image.fromarray((color.transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8))
