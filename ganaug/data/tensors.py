"""Files to one array of training images: converted to the wanted channels, resized once, antialiased."""

from __future__ import annotations

from functools import partial

import numpy as np
from PIL import Image

from ganaug.data.manifest import Item, Manifest, resolve_dtype
from ganaug.data.names import count
from ganaug.data.parallel import parallel_map
from ganaug.data.readers import read
from ganaug.errors import ConfigError, DataError

RESIZE_MODES = ("stretch", "crop")

MIN_SIDE = 8
"""Smallest side, in pixels, that `choose_size` proposes."""


def load_images(
    manifest: Manifest,
    *,
    size: tuple[int, int],
    channels: int,
    resize: str = "stretch",
    show_progress: bool = False,
) -> np.ndarray:
    """Decode all images into one array N×C×H×W of the stored type (uint8 or uint16).

    An image that has `size` already keeps its pixels untouched; any other is resized once, bicubic with
    antialiasing.

    Args:
        manifest: the images, in the order of the result.
        size: height and width, in pixels.
        channels: 1 turns color into grey (BT.601 luma), 3 repeats grey three times.
        resize: ``stretch`` takes the whole image and may change its proportions; ``crop`` keeps them and
            takes the largest centered part that has the proportions of `size`.
        show_progress: show a progress bar.

    Raises:
        DataError: bit depths are mixed, or a file changed or vanished since the scan, or memory does not
            suffice.
        ConfigError: `size`, `channels` or `resize` is out of range.
    """
    if resize not in RESIZE_MODES:
        raise ConfigError(f"The resize mode {resize!r} was given; one of {', '.join(RESIZE_MODES)} was wanted.")
    if channels not in (1, 3):
        raise ConfigError(f"{channels} channels were given; 1 (grey) or 3 (color) was wanted.")
    if min(size) < 1:
        raise ConfigError(f"The size {size[0]}x{size[1]} was given; two positive numbers of pixels were wanted.")
    shape = (len(manifest), channels, *size)
    try:
        images = np.empty(shape, dtype=resolve_dtype(manifest))
    except (MemoryError, ValueError) as problem:
        raise DataError(
            f"{len(manifest):,} images of {size[0]}x{size[1]} do not fit into memory ({problem}). Choose a "
            "smaller size, for example --size 64x64."
        ) from problem
    load = partial(_load, manifest, size, channels, resize)
    loaded = parallel_map(load, manifest.items, label="loading", show_progress=show_progress)
    for index, pixels in enumerate(loaded):
        images[index] = pixels.transpose(2, 0, 1)
    return images


def _load(manifest: Manifest, size: tuple[int, int], channels: int, resize: str, item: Item) -> np.ndarray:
    pixels = read(manifest.root / item.path)
    if (*pixels.shape, pixels.dtype.name) != (item.height, item.width, item.channels, item.dtype):
        raise DataError(f"{manifest.root / item.path}: changed since it was scanned. Run the command again.")
    if channels == 1 and pixels.shape[2] == 3:
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    resized = resize_image(pixels, size, crop=resize == "crop")
    return np.repeat(resized, channels, axis=2) if resized.shape[2] < channels else resized


def resize_image(pixels: np.ndarray, size: tuple[int, int], *, crop: bool = False) -> np.ndarray:
    """Return an image H×W×C at `size` (height, width), in its own type; with `crop`, of its centered part."""
    height, width = pixels.shape[:2]
    if (height, width) == size:
        return pixels
    box = _centered_box(height, width, size) if crop else (0.0, 0.0, float(width), float(height))
    planes = []
    for plane in np.moveaxis(pixels, 2, 0):
        # Pillow resizes 8 bit in integers; anything deeper has to go through its float mode to keep its
        # depth.
        source = Image.fromarray(np.ascontiguousarray(plane if plane.dtype == np.uint8 else plane.astype(np.float32)))
        planes.append(np.asarray(source.resize(size[::-1], Image.Resampling.BICUBIC, box=box)))
    resized = np.stack(planes, axis=2)
    if pixels.dtype != np.uint8:
        limits = np.iinfo(pixels.dtype)
        resized = np.clip(np.rint(resized), limits.min, limits.max)
    return resized.astype(pixels.dtype)


def _centered_box(height: int, width: int, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return left, top, right, bottom of the largest centered part with the proportions of `size`."""
    scale = min(height / size[0], width / size[1])
    part_height, part_width = size[0] * scale, size[1] * scale
    left, top = (width - part_width) / 2, (height - part_height) / 2
    return left, top, min(left + part_width, width), min(top + part_height, height)


def choose_size(manifest: Manifest, *, largest: int, multiple: int = 4) -> tuple[tuple[int, int], str]:
    """Propose a training size (height, width) and say in plain words why.

    The images' own size if they share one that fits; otherwise the median height and width, scaled down to
    fit and rounded to `multiple`.

    Args:
        manifest: at least one image.
        largest: longest side, in pixels, that may be proposed.
        multiple: sides that are not the images' own are multiples of this.

    Raises:
        DataError: the manifest is empty.
        ConfigError: `largest` is below 8.
    """
    if not manifest.items:
        raise DataError(f"{manifest.root} has no readable image to choose a size from. Add images.")
    if largest < MIN_SIDE:
        raise ConfigError(f"A largest side of {largest} pixels was given; at least {MIN_SIDE} was wanted.")
    heights = np.array([item.height for item in manifest.items])
    widths = np.array([item.width for item in manifest.items])
    height, width = float(np.median(heights)), float(np.median(widths))
    uniform = bool((heights == heights[0]).all() and (widths == widths[0]).all())
    if uniform and min(height, width) >= MIN_SIDE and max(height, width) <= largest:
        return (int(height), int(width)), f"all {count(len(manifest), 'image')} have this size"

    scale = min(1.0, largest / max(height, width))
    size = (_rounded(height * scale, multiple, largest), _rounded(width * scale, multiple, largest))
    if uniform:
        start = f"all {count(len(manifest), 'image')} are {height:.0f}×{width:.0f}"
    else:
        start = (
            f"sizes run from {heights.min()}×{widths.min()} to {heights.max()}×{widths.max()}; the median is "
            f"{height:.0f}×{width:.0f}"
        )
    steps = [f"scaled down to fit {largest} pixels"] if scale < 1 else []
    steps.append(f"rounded to a multiple of {multiple}, at least {MIN_SIDE}")
    return size, f"{start}, {', '.join(steps)}"


def _rounded(side: float, multiple: int, largest: int) -> int:
    nearest = multiple * round(side / multiple)
    return max(MIN_SIDE, min(nearest, largest // multiple * multiple))
