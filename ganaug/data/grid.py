"""The training grid: one size, one number of channels, one stored type for all images or volumes of a set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ganaug.data.manifest import Item, Manifest
from ganaug.data.names import count, few
from ganaug.data.readers import DTYPES
from ganaug.data.resample import resize_image, resize_volume
from ganaug.data.scales import common_dtype
from ganaug.errors import ConfigError, DataError

RESIZE_MODES = ("stretch", "crop", "spacing")

MIN_SIDE = 8
"""Smallest side, in pixels or voxels, that `choose_size` proposes."""

MAX_CHANNELS = 64

# Files of one protocol differ in the last digits of their spacing.
_SAME_SPACING = 1e-3
_USABLE_SPACING = (1e-6, 1e4)  # mm: from electron microscopes to beyond any scanner
_USABLE_STEPS = (1e-3, 1e3)
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow has it for 8 bit


@dataclass(frozen=True)
class Grid:
    """What every image of a training set is brought to.

    Raises:
        ConfigError: the fields do not make sense together.
    """

    size: tuple[int, ...]
    """Height and width of images, or depth, height and width of volumes."""
    channels: int
    resize: str
    """``stretch`` takes the whole image and may change its proportions; ``crop`` keeps them and takes the largest
    centered part that has the proportions of `size` (images only); ``spacing`` gives all voxels one size in mm and then
    crops around the center, or pads with the volume's minimum (volumes only)."""
    dtype: str
    """Stored type of the result."""
    spacing: tuple[float, ...] | None = None
    """Millimeters between voxels along D, H and W, with ``spacing`` only."""

    def __post_init__(self) -> None:
        if len(self.size) not in (2, 3) or min(self.size) < 1:
            shown = "x".join(map(str, self.size))
            raise ConfigError(f"The size {shown} was given; two or three positive numbers were wanted.")
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise ConfigError(f"{self.channels} channels were given; 1 to {MAX_CHANNELS} were wanted.")
        _require_mode(self.resize, RESIZE_MODES, dims=len(self.size))
        if self.dtype not in DTYPES:
            raise ConfigError(f"The type {self.dtype!r} was given; one of {', '.join(DTYPES)} was wanted.")
        good = self.spacing is None or (len(self.spacing) == 3 and all(0 < s < math.inf for s in self.spacing))
        if not good or (self.spacing is None) == (self.resize == "spacing"):
            raise ConfigError(
                f"The resize mode {self.resize!r} and a spacing of {self.spacing} were given; 'spacing' must have "
                "three numbers of mm above 0, and no other mode may."
            )


def to_grid(pixels: np.ndarray, grid: Grid, *, spacing: tuple[float, ...] | None = None) -> np.ndarray:
    """Return an image or volume on `grid`: C×H×W or C×D×H×W in the grid's type.

    What fits already is returned as it is, as a view. Anything else is resampled once, antialiased (see
    `ganaug.data.resample`). Color becomes gray as BT.601 luma, gray becomes color by repetition.

    Args:
        pixels: H×W×C or D×H×W×C, in a stored type.
        grid: the wanted form.
        spacing: mm between voxels along D, H and W; needed by grids that resize by spacing.

    Raises:
        DataError: the image is a volume and the grid is not (or the reverse), its channels or type cannot be had from
            it, or its spacing is not known and needed.
    """
    fits = pixels.dtype == grid.dtype and pixels.shape == (*grid.size, grid.channels)
    if fits and (grid.spacing is None or _same(spacing, grid.spacing)):
        return pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels.transpose(3, 0, 1, 2)
    _require_possible(pixels, grid)
    plain = _luma(pixels) if grid.channels == 1 and pixels.shape[-1] == 3 else pixels
    if pixels.ndim == 3:
        height, width = grid.size
        values = resize_image(plain, (height, width), crop=grid.resize == "crop")
    else:
        values = _on_volume_grid(plain, grid, spacing)
    if values.dtype.kind == "f" and grid.dtype != "float32":  # luma, which rounds only now
        values = np.rint(values)
    stored = np.moveaxis(values.astype(grid.dtype, copy=False), -1, 0)
    return np.repeat(stored, grid.channels, axis=0) if len(stored) < grid.channels else stored


def _on_volume_grid(pixels: np.ndarray, grid: Grid, spacing: tuple[float, ...] | None) -> np.ndarray:
    depth, height, width = grid.size
    fits = pixels.shape[:-1] == grid.size
    if grid.spacing is None:
        return pixels if fits else resize_volume(pixels, (depth, height, width))
    if spacing is None:
        raise DataError(
            f"A volume of {_times(pixels.shape[:-1])} whose file does not say its spacing was given; mm between voxels "
            "were wanted, to resize by them. Save it as NIfTI or DICOM with a spacing, or use --set resize=stretch."
        )
    if fits and _same(spacing, grid.spacing):
        return pixels
    deep, high, wide = (new / old for new, old in zip(grid.spacing, spacing, strict=True))
    if not _USABLE_STEPS[0] <= min(deep, high, wide) <= max(deep, high, wide) <= _USABLE_STEPS[1]:
        raise DataError(
            f"A volume with {_steps(spacing)} mm between voxels was given; something near the training grid's "
            f"{_steps(grid.spacing)} mm was wanted. Correct the spacing in its header, or use --set resize=stretch."
        )
    return resize_volume(pixels, (depth, height, width), steps=(deep, high, wide))


def _require_possible(pixels: np.ndarray, grid: Grid) -> None:
    given = f"{'An image' if pixels.ndim == 3 else 'A volume'} of {_times(pixels.shape[:-1])}"
    if pixels.ndim != len(grid.size) + 1:
        wanted = "an image" if len(grid.size) == 2 else "a volume"
        raise DataError(
            f"{given} was given; {wanted} was wanted. Keep images and volumes apart; --slices axial turns volumes into "
            "images."
        )
    channels = pixels.shape[-1]
    if channels != grid.channels and {channels, grid.channels} != {1, 3}:
        raise DataError(
            f"{given} with {count(channels, 'channel')} was given; {grid.channels} were wanted. Only gray (1) and "
            "color (3) can be turned into each other: leave it out, or save it with the wanted channels."
        )
    if common_dtype([pixels.dtype.name, grid.dtype]) != grid.dtype:
        raise DataError(
            f"{given} stored as {pixels.dtype} was given; {grid.dtype} was wanted, which does not hold all of its "
            f"values. Save it as {grid.dtype}."
        )


def _luma(pixels: np.ndarray) -> np.ndarray:
    """Return color as gray ...×1: 8-bit images rounded as Pillow does it, anything else unrounded as float32."""
    if pixels.dtype == np.uint8 and pixels.ndim == 3:
        return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    red, green, blue = (np.float32(share) * pixels[..., i : i + 1].astype(np.float32) for i, share in enumerate(_LUMA))
    return np.clip(red + green + blue, pixels.min(axis=-1, keepdims=True), pixels.max(axis=-1, keepdims=True))


def _same(spacing: Sequence[float] | None, other: Sequence[float]) -> bool:
    return spacing is not None and all(abs(a - b) <= _SAME_SPACING * b for a, b in zip(spacing, other, strict=True))


def _times(sides: Sequence[float] | np.ndarray) -> str:
    return "×".join(f"{side:.0f}" for side in sides)


def _steps(spacing: Sequence[float]) -> str:
    return "×".join(f"{step:g}" for step in spacing)


def choose_grid(
    manifest: Manifest,
    *,
    size: tuple[int, ...] | None,
    channels: int,
    resize: str,
    largest: int,
    largest_volume: int,
) -> tuple[Grid, list[str]]:
    """Return the training grid of a set and, in sentences, how it was chosen.

    Args:
        manifest: at least one image; all images, or all volumes.
        size: two or three sides, or None to choose them.
        channels: of the grid.
        resize: a resize mode, or ``auto``: ``spacing`` for volumes whose files all tell it, otherwise ``stretch``.
        largest: longest side, in pixels, that is chosen for images.
        largest_volume: longest side, in voxels, that is chosen for volumes.

    Raises:
        DataError: there is no image, images and volumes are mixed, or spacings are asked for and not known.
        ConfigError: a setting does not fit the images, or is out of range.
    """
    dims = _shared_dims(manifest)
    _require_mode(resize, ("auto", *RESIZE_MODES), dims=dims)
    if size is None:
        size, why = choose_size(manifest, largest=largest if dims == 2 else largest_volume)
    else:
        _require_sides(manifest, size, dims)
        why = "as asked for"
    reasons = [f"Size {'x'.join(map(str, size))}: {why}."]
    dtype = common_dtype(item.dtype for item in manifest.items)
    if dims == 2 or resize == "stretch":
        return Grid(size, channels, "crop" if resize == "crop" else "stretch", dtype), reasons

    silent = [item.name for item in manifest.items if _spacing_of(item) is None]
    missing = f"{len(silent):,} of {count(len(manifest), 'volume')} do not say their spacing (mm between voxels)"
    if silent and resize == "auto":
        return Grid(size, channels, "stretch", dtype), [*reasons, f"Resize stretch: {missing}."]
    if silent:
        raise DataError(
            f"{manifest.root}: {missing}: {few(silent)}. Use --set resize=stretch, or save them as NIfTI or DICOM, "
            "with a spacing."
        )
    spacing = _grid_spacing(manifest, size)
    steps = _steps(spacing if len(set(spacing)) > 1 else spacing[:1])
    reasons.append(f"Resize spacing: every voxel is {steps} mm; larger volumes are cropped, smaller ones padded.")
    return Grid(size, channels, "spacing", dtype, spacing), reasons


def choose_size(manifest: Manifest, *, largest: int, multiple: int = 4) -> tuple[tuple[int, ...], str]:
    """Propose a training size (height, width, or depth, height, width) and say in plain words why.

    The images' own size if they share one that fits; otherwise the median sides, scaled down to fit and rounded to
    `multiple`. Volumes whose files all tell their spacing are measured in mm, for voxels that are as high and wide as
    deep, and rounded up, so that the median volume loses nothing.

    Args:
        manifest: at least one image; all images, or all volumes.
        largest: longest side, in pixels, that may be proposed.
        multiple: sides that are not the images' own are multiples of this.

    Raises:
        DataError: the manifest is empty, or images and volumes are mixed.
        ConfigError: `largest` is below 8.
    """
    dims = _shared_dims(manifest)
    if largest < MIN_SIDE:
        raise ConfigError(f"A largest side of {largest} pixels was given; at least {MIN_SIDE} was wanted.")
    total = count(len(manifest), "image" if dims == 2 else "volume")
    shapes, spacings = _shapes(manifest), _spacings(manifest)
    if dims == 2 and (pixel := _oblong_pixel(manifest)) is not None:
        # Of slices across thick ones: as large as they would be with square pixels.
        shapes = np.rint(shapes * (pixel / pixel.min())).astype(np.int64)
    own = _own_size(shapes, spacings)
    if own is not None and min(own) >= MIN_SIDE and max(own) <= largest:
        return own, f"all {total} have this size"

    sides = np.median(shapes, axis=0)
    measured, limit = _times(sides), largest // multiple * multiple
    if spacings is None:
        scale = min(1.0, largest / sides.max())
        size = tuple(multiple * round(side * scale / multiple) for side in sides.tolist())
    else:
        extents = np.median(shapes * spacings, axis=0)
        finest = float(np.median(spacings, axis=0).min())
        scale = min(1.0, limit * finest / extents.max())
        size = tuple(multiple * math.ceil(side * scale / multiple - 1e-6) for side in (extents / finest).tolist())
        measured += f" ({_times(extents)} mm)"
    size = tuple(max(MIN_SIDE, min(side, limit)) for side in size)
    if (shapes == shapes[0]).all():
        start = f"all {total} are {measured}"
    else:
        start = f"sizes run from {_times(shapes.min(axis=0))} to {_times(shapes.max(axis=0))}; the median is {measured}"
    steps = [f"scaled down to fit {largest} {'pixels' if dims == 2 else 'voxels'}"] if scale < 1 else []
    steps.append(f"rounded {'' if spacings is None else 'up '}to a multiple of {multiple}, at least {MIN_SIDE}")
    return size, f"{start}, {', '.join(steps)}"


def _shared_dims(manifest: Manifest) -> int:
    if not manifest.items:
        raise DataError(f"{manifest.root} has no readable image to choose a size from. Add images.")
    volumes = [item.name for item in manifest.items if len(item.shape) == 3]
    if volumes and len(volumes) < len(manifest):
        raise DataError(
            f"{count(len(volumes), 'volume')} (such as {few(volumes, 3)}) and "
            f"{count(len(manifest) - len(volumes), 'image')} are mixed in {manifest.root}; one kind was wanted. Turn "
            "the volumes into images with --slices axial, or move one kind out of the folder."
        )
    return 3 if volumes else 2


def _require_mode(resize: str, known: Sequence[str], *, dims: int) -> None:
    if resize not in known:
        raise ConfigError(f"The resize mode {resize!r} was given; one of {', '.join(known)} was wanted.")
    if resize == "crop" and dims == 3:
        raise ConfigError("The resize mode 'crop' was given for volumes; 'spacing' or 'stretch' was wanted.")
    if resize == "spacing" and dims == 2:
        raise ConfigError("The resize mode 'spacing' was given for images; 'stretch' or 'crop' was wanted.")


def _require_sides(manifest: Manifest, size: tuple[int, ...], dims: int) -> None:
    if len(size) != dims:
        wanted = (
            "images; height and width were wanted, such as --size 64x64."
            if dims == 2
            else "volumes; depth, height and width were wanted, such as --size 24x32x32. Or turn the volumes into "
            "images: --slices axial."
        )
        raise ConfigError(f"The size {'x'.join(map(str, size))} was given, but {manifest.root} holds {wanted}")


def _shapes(manifest: Manifest) -> np.ndarray:
    return np.array([item.shape for item in manifest.items])


def _spacings(manifest: Manifest) -> np.ndarray | None:
    """Return the spacings of volumes, N×3, if all of them are known."""
    found = [spacing for item in manifest.items if (spacing := _spacing_of(item)) is not None]
    return np.array(found) if len(found) == len(manifest) else None


def _spacing_of(item: Item) -> tuple[float, ...] | None:
    """Return a volume's spacing if its file says one that can be meant."""
    if item.spacing is None or len(item.shape) == 2:
        return None
    least, most = _USABLE_SPACING
    return item.spacing if least <= min(item.spacing) <= max(item.spacing) <= most else None


def _oblong_pixel(manifest: Manifest) -> np.ndarray | None:
    """Return the median height and width of a pixel in mm if all files say them and they differ by more than 10 %."""
    found = [item.spacing for item in manifest.items]
    if None in found:
        return None
    pixel = np.median(np.array(found, dtype=np.float64), axis=0)
    usable = _USABLE_SPACING[0] <= pixel.min() <= pixel.max() <= _USABLE_SPACING[1]
    return pixel if usable and pixel.max() > 1.1 * pixel.min() else None


def _own_size(shapes: np.ndarray, spacings: np.ndarray | None) -> tuple[int, ...] | None:
    """Return the size that all have, if they have one, and one spacing."""
    alike = spacings is None or all(_same(spacing, spacings[0]) for spacing in spacings)
    return tuple(shapes[0].tolist()) if alike and (shapes == shapes[0]).all() else None


def _grid_spacing(manifest: Manifest, size: tuple[int, ...]) -> tuple[float, ...]:
    """Return the files' own spacing if they fit `size` as they are; otherwise one at which the median volume fits."""
    shapes, spacings = _shapes(manifest), _spacings(manifest)
    if spacings is None:
        raise DataError(f"{manifest.root} has volumes without a spacing. Use --set resize=stretch.")
    if _own_size(shapes, spacings) == size:
        steps = np.median(spacings, axis=0).tolist()
    else:
        steps = [float((np.median(shapes * spacings, axis=0) / size).max())] * 3
    # A sample of the files is to give the very number that all of them give.
    return tuple(float(f"{step:.4g}") for step in steps)
