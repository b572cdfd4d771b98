"""One image or volume of any size through a translation model and back: what a file holds in, what a file holds out.

The image goes to the model's resolution, in the way in which its training images did, is translated, and comes back.
Networks that make a difference to their input lose nothing on the way: the difference alone is resampled and added to
the image itself. Where source and target share an intensity map it is added in stored units, so that a pixel which does
not change keeps its value to the last bit, also beyond the map's window.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ganaug.data.degrade import Downsample
from ganaug.data.grid import Grid, to_grid
from ganaug.data.intensity import IntensityMap
from ganaug.data.resample import resize_image, resize_volume
from ganaug.data.scales import file_knots
from ganaug.errors import DataError
from ganaug.sampling.translator import Translator


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image on its way through a translator."""

    unit: np.ndarray
    """C×the model's resolution, float32 in [-1, 1]: what is translated."""
    stored: np.ndarray
    """C×its own size, in the stored type, with the model's channels."""
    there: IntensityMap
    """The way of its stored values to [-1, 1]: that of its domain, or for the kind ``per-file`` its own."""
    source: int
    """The domain that it comes from."""


def prepare(
    translator: Translator,
    pixels: np.ndarray,
    *,
    source: int,
    spacing: tuple[float, ...] | None = None,
    native: bool = False,
    knots: tuple[float, float, float, float] | None = None,
) -> Prepared:
    """Bring an image to a model's resolution and into [-1, 1].

    A model for super-resolution gets the image enlarged by its factor, at that size; with ``resize: stretch`` an image
    is brought to the size of the training's, with ``crop`` and ``spacing`` to their scale, and nothing is cut off.

    Args:
        pixels: H×W×C or D×H×W×C, in a stored type.
        source: the domain that it comes from.
        spacing: mm along D, H and W; needed by models whose training resized by it.
        native: keep the image at its own resolution.
        knots: minimum, low, high and maximum of the file, for maps of the kind ``per-file``; found in the image if they
            are not given.

    Raises:
        DataError: the image's dimensions, channels, type or range do not fit the model, or its spacing is needed and
            not known.
    """
    intensity, sides = translator.intensities[source], pixels.shape[:-1]
    if len(sides) != len(translator.header.size):
        raise DataError(_other_dimensions(translator, len(sides)))
    own = Grid(sides, translator.header.channels, "stretch", intensity.dtype)
    stored = to_grid(pixels, own)
    lowest, highest = float(stored.min()), float(stored.max())
    low, high = intensity.knots[1:3]
    if intensity.kind != "per-file" and (highest <= low or high <= lowest) and lowest < highest:
        raise DataError(
            f"its values go from {lowest:g} to {highest:g}, those of {translator.classes[source]!r} that the model "
            f"learned from go from {low:g} to {high:g}; save it in the same units, or name another domain with --from"
        )
    there = intensity.for_file(knots or file_knots(stored)) if intensity.kind == "per-file" else intensity
    if isinstance(translator.degrade, Downsample):
        unit = _resized(there.forward(stored), tuple(side * translator.degrade.factor for side in sides))
        return Prepared(unit, stored, there, source)
    size = sides if native else _model_size(translator, sides, spacing)
    scaled = stored if size == sides else to_grid(pixels, replace(own, size=size))
    return Prepared(there.forward(scaled), stored, there, source)


def finish(translator: Translator, given: Prepared, made: np.ndarray, *, to: int) -> np.ndarray:
    """Return a translated image at its own size as a file of the target would store it, H×W×C or D×H×W×C.

    Args:
        given: what `prepare` returned.
        made: what the model made of ``given.unit``, in the same shape.
        to: the target.
    """
    alike = translator.intensities[given.source] == translator.intensities[to]
    back = given.there if alike else translator.intensities[to]
    if isinstance(translator.degrade, Downsample):
        out = back.inverse(made, tails=False)
    elif not translator.translation.residual:
        out = back.inverse(_resized(made, given.stored.shape[1:]), tails=False)
    else:
        change = _resized(made - given.unit, given.stored.shape[1:])
        start = given.there.forward(given.stored)
        out = _added(given.stored, start, change, back) if alike else back.inverse(start + change, tails=False)
    return np.ascontiguousarray(np.moveaxis(out, 0, -1))


def _added(stored: np.ndarray, start: np.ndarray, change: np.ndarray, intensity: IntensityMap) -> np.ndarray:
    """Return stored values moved by `change`, which is in units of [-1, 1] as `start`, where they stand, is."""
    fine = replace(intensity, dtype="float32", kind="window" if intensity.kind == "uint8" else intensity.kind)
    before = fine.inverse(start, tails=False).astype(np.float64)
    moved = stored + (fine.inverse(start + change, tails=False) - before) * (change != 0)
    if stored.dtype.kind == "f":
        return moved.astype(stored.dtype)
    limits = np.iinfo(stored.dtype)
    return np.clip(np.rint(moved), limits.min, limits.max).astype(stored.dtype)


def _resized(values: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Return C×spatial float32 at another size."""
    if values.shape[1:] == size:
        return values
    last = np.moveaxis(values, 0, -1)
    if len(size) == 2:
        return np.moveaxis(resize_image(last, (size[0], size[1])), -1, 0)
    return np.moveaxis(resize_volume(last, (size[0], size[1], size[2])), -1, 0)


def _model_size(translator: Translator, sides: tuple[int, ...], spacing: tuple[float, ...] | None) -> tuple[int, ...]:
    """Return the size at which an image has the resolution of the training's."""
    grid = translator.grid(0)
    if grid.resize == "crop":
        scale = min(side / wanted for side, wanted in zip(sides, grid.size, strict=True))
        return tuple(max(1, round(side / scale)) for side in sides)
    if grid.spacing is None:
        return grid.size
    if spacing is None:
        raise DataError("its file does not say its spacing, which the model needs; save it as NIfTI or DICOM, with one")
    steps = [new / old for new, old in zip(grid.spacing, spacing, strict=True)]
    size = tuple(max(1, round(side / step)) for side, step in zip(sides, steps, strict=True))
    if np.prod(size, dtype=np.float64) > 2**31:
        raise DataError(f"its spacing of {spacing} mm makes {size} voxels of it at the model's; correct its header")
    # Within the rounding of a voxel the image is at the model's spacing as it is.
    return sides if all(abs(new - old) < 1 for new, old in zip(size, sides, strict=True)) else size


def _other_dimensions(translator: Translator, dims: int) -> str:
    given, wanted = ("an image", "volumes") if dims == 2 else ("a volume", "images")
    return f"it is {given}, and the model was trained on {wanted}; train one on such files"
