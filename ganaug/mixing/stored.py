"""Bank images beside items of other libraries: turned to their axes, held against their scale."""

from __future__ import annotations

import numpy as np

from ganaug.data.intensity import IntensityMap
from ganaug.errors import ConfigError

# How a slice lies in space, by the axis that it is cut across: as `ganaug.data.geometry.cut` does it.
_SLICES = {
    "S": ("wh1", "LPS"), "I": ("wh1", "LPS"), "P": ("w1h", "LPI"), "A": ("w1h", "LPI"),
    "L": ("1wh", "LPI"), "R": ("1wh", "LPI"),
}  # fmt: skip


def in_world(dims: int, affine: np.ndarray, item: tuple[int, ...]) -> tuple[str, str]:
    """Return how a bank image lies in RAS+ space: `layout` and `codes` for `turned`.

    Args:
        dims: 3 for a volume, 2 for an image or slice.
        affine: 4×4, of the item.
        item: the item's sides; of an image two, or three of which one is 1.
    """
    from nibabel.orientations import aff2axcodes

    if dims == 3:
        return "whd", "LPS"
    return _SLICES[aff2axcodes(affine)[item.index(1) if 1 in item else 2]]


def turned(stored: np.ndarray, layout: str, codes: str, affine: np.ndarray) -> np.ndarray:
    """Turn a bank image to an item's axes, by flips and swaps only.

    Args:
        stored: C×H×W or C×D×H×W.
        layout: which of its sides (w, h, d; 1 for none) lies along each axis of the affine's space.
        codes: the direction of each of these sides there, such as 'LPS'.
        affine: 4×4, from the item's voxel indices to that space.

    Returns:
        C×X×Y×Z in the item's axes.
    """
    from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

    sides = {side: place for place, side in enumerate("dhw"[-(stored.ndim - 1) :], start=1)}
    array = stored.transpose([sides[side] for side in layout if side != "1"] + [0])
    array = np.expand_dims(array, [place for place, side in enumerate(layout) if side == "1"])
    there = apply_orientation(array, ornt_transform(axcodes2ornt(codes), io_orientation(affine)))
    return np.ascontiguousarray(np.moveaxis(there, -1, 0))


def same_units(low: float, high: float, synthetic: np.ndarray, intensity: IntensityMap, *, remedy: str) -> bool:
    """Return whether real values from `low` to `high` may be in the stored units of a bank; False if one cannot tell.

    A scaled image is told by its range: a tenth of that of a synthetic one or less, more than a hundred times it, or
    far beyond the values that the bank's model was trained on. (Real images may go far beyond a narrow window.)

    Raises:
        ConfigError: they are not; `remedy` says what to do.
    """
    lowest, *_, highest = intensity.knots
    around = (highest - lowest) / 2
    first, last = float(synthetic.min()), float(synthetic.max())
    if low == high or first == last:
        return False
    # An explicit window may be much narrower than the files, and files scaled each by itself have no common units.
    inside = intensity.kind in ("window", "per-file") or lowest - around <= low <= high <= highest + around
    if not inside or not 0.1 < (high - low) / (last - first) < 100:
        raise ConfigError(
            f"The real values go from {low:.4g} to {high:.4g}, the synthetic ones, in stored units, from {first:.4g} "
            f"to {last:.4g}: their scales differ. {remedy}"
        )
    return True
