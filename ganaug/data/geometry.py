"""Where a volume lies in the world: from a file's own axes to one order for all, and back.

Inside ganaug a volume is D×H×W: toward the patient's head (Superior), back (Posterior) and left, so that a slice
``[d]`` looks as radiologists expect it, anterior on top and the patient's right on the left. World coordinates are
millimeters, RAS+ (toward Right, Anterior and Superior), as NIfTI has them. Source: nibabel's documentation,
"Coordinate systems and affines".
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ganaug.errors import ConfigError, DataError, ModelFileError

PLANES = ("axial", "coronal", "sagittal")
"""The ways to cut a volume into slices."""

_FARTHEST = 1e9  # mm
_SMALLEST = 1e-9  # mm between voxels
_FLATTEST = 1e-6  # volume between the three directions; 1 at right angles
_INSIDE = "LPS"  # of W, H and D, in this order
_AXES = ({"L", "R"}, {"P", "A"}, {"S", "I"})


def to_lps(
    array: np.ndarray, affine: np.ndarray
) -> tuple[np.ndarray, tuple[float, float, float], str, tuple[float, float, float]]:
    """Turn a volume from its file's axes to D×H×W.

    Axes are flipped and swapped only, never resampled: an oblique volume takes the nearest axes.

    Args:
        array: X×Y×Z or X×Y×Z×C, as the file stores it.
        affine: 4×4, from voxel indices to RAS+ mm.

    Returns:
        The volume D×H×W[×C], its spacing in mm along D, H and W, the axis codes of `array` (such as 'RAS'), and
        the RAS+ mm of its center.

    Raises:
        DataError: `is_valid_affine` says no.
    """
    from nibabel.orientations import aff2axcodes, apply_orientation, axcodes2ornt, io_orientation, ornt_transform

    affine = np.asarray(affine, np.float64)
    if not is_valid_affine(affine):
        raise DataError(f"The affine {affine.tolist()} gives no axis of its own to each side of the volume.")
    stored = io_orientation(affine)
    codes = "".join(aff2axcodes(affine))
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    center = affine[:3, :3] @ ((np.array(array.shape[:3]) - 1) / 2) + affine[:3, 3]
    turned = apply_orientation(array, ornt_transform(stored, axcodes2ornt(_INSIDE)))
    of_world = np.argsort(stored[:, 0])  # the file's axis that runs along each of the world's
    return (
        np.ascontiguousarray(turned.swapaxes(0, 2)),
        (float(steps[of_world[2]]), float(steps[of_world[1]]), float(steps[of_world[0]])),
        codes,
        (float(center[0]), float(center[1]), float(center[2])),
    )


def is_valid_affine(affine: np.ndarray) -> bool:
    """Return whether a 4×4 affine holds no absurd numbers and gives each axis a direction of its own."""
    if affine.shape != (4, 4) or not np.all(np.abs(affine) < _FARTHEST):  # neither is NaN
        return False
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.all(steps > _SMALLEST):
        return False
    return bool(abs(np.linalg.det(affine[:3, :3] / steps)) > _FLATTEST)


@dataclass(frozen=True)
class Geometry:
    """Where synthetic volumes lie, so that they can be written into files."""

    spacing: tuple[float, float, float]
    """Millimeters between voxels along D, H and W."""
    orientation: str
    """Axis codes that written files shall have; 'LPS' if the training files do not tell."""
    center: tuple[float, float, float]
    """RAS+ mm of the volume's center."""

    def to_file(self, volume: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Turn a volume D×H×W[×C] to the file's axes, X×Y×Z[×C], and return it with its 4×4 affine (float64)."""
        from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

        inside = volume.swapaxes(0, 2)
        depth, height, width = self.spacing
        affine = np.diag([-width, -height, depth, 1.0])
        affine[:3, 3] = np.array(self.center) - affine[:3, :3] @ ((np.array(inside.shape[:3]) - 1) / 2)
        turn = ornt_transform(axcodes2ornt(_INSIDE), axcodes2ornt(self.orientation))
        affine = affine @ inv_ornt_aff(turn, inside.shape[:3])
        return np.ascontiguousarray(apply_orientation(inside, turn)), affine + 0.0  # no negative zeros

    def to_dict(self) -> dict[str, Any]:
        """Return the geometry as plain values for JSON."""
        return {"spacing": list(self.spacing), "orientation": self.orientation, "center": list(self.center)}

    @classmethod
    def from_dict(cls, values: Any) -> Geometry:
        """Read what `to_dict` gave. Raises `ModelFileError` for anything else."""
        try:
            spacing = tuple(float(value) for value in values["spacing"])
            center = tuple(float(value) for value in values["center"])
            orientation = str(values["orientation"])
        except (KeyError, TypeError, ValueError, OverflowError):
            good = False
        else:
            good = (
                len(spacing) == len(center) == 3
                and all(math.isfinite(value) for value in (*spacing, *center))
                and min(spacing) > 0
                and len(orientation) == 3
                and all(len(axis & set(orientation)) == 1 for axis in _AXES)
            )
        if not good:
            raise ModelFileError(
                f"The model file holds the geometry {values!r:.200}; three spacings above 0 mm, axis codes such as "
                "'LPS' and a center of three numbers were wanted. Train the model again."
            )
        return cls((spacing[0], spacing[1], spacing[2]), orientation, (center[0], center[1], center[2]))


def cut(
    pixels: np.ndarray, spacing: tuple[float, ...] | None, plane: str
) -> Iterator[tuple[int, np.ndarray, tuple[float, float] | None]]:
    """Cut a volume D×H×W×C into slices as they are looked at.

    Axial slices have anterior on top; coronal and sagittal ones have superior on top; the patient's right, or
    anterior in sagittal ones, is on the left.

    Args:
        pixels: D×H×W×C, in the order of `to_lps`.
        spacing: mm along D, H and W; None if unknown.
        plane: one of `PLANES`.

    Yields:
        The index along the cut axis, the slice H×W×C, and its spacing (H, W).

    Raises:
        ConfigError: `plane` is none of `PLANES`.
    """
    if plane not in PLANES:
        raise ConfigError(f"The plane {plane!r} was given; one of {', '.join(PLANES)} was wanted.")
    axis = PLANES.index(plane)
    upright = pixels if plane == "axial" else pixels[::-1]
    kept = None if spacing is None else tuple(spacing[side] for side in range(3) if side != axis)
    between = None if kept is None else (kept[0], kept[1])
    for index in range(pixels.shape[axis]):
        yield index, upright.take(index, axis=axis), between
