"""Planes: where the slices of a DICOM volume lie, and the volume that they make.

Positions are those of DICOM: millimeters toward the patient's Left, Posterior and Superior. Source: DICOM PS3.3,
C.7.6.2 (Image Plane Module).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ganaug.data.geometry import to_lps
from ganaug.errors import DataError

LARGEST = 1e9
"""Numbers beyond this are damage: no distance, slope or intercept is as large."""

SAME_PLACE = 1e-3
"""Slices that are closer than this, in mm, lie at one position; files store about so many digits."""

SAME_DIRECTION = 1e-3
"""Direction cosines that differ by less than this are alike; scanners round them."""

UNEVEN = 0.1
"""A step between slices may differ from the usual one by this share of it."""


@dataclass(frozen=True)
class Plane:
    """Where a slice lies, as far as its file says."""

    position: tuple[float, ...] | None = None
    """Of the center of its first pixel, mm."""
    orientation: tuple[float, ...] | None = None
    """Two unit vectors: the direction along a row (growing columns), then along a column (growing rows)."""
    location: float | None = None
    """Position along an axis that the file does not name, mm."""
    spacing: tuple[float, ...] | None = None
    """Millimeters between rows, and between columns."""


@dataclass(frozen=True)
class Stack:
    """A volume, in the terms of `ganaug.data.readers.Decoded`."""

    pixels: np.ndarray
    spacing: tuple[float, ...] | None
    orientation: str
    center: tuple[float, float, float] | None


def plane_of(*datasets: Any) -> Plane:
    """Return the plane that a data set describes; of several, each element is taken from the first that has it."""

    def first(keyword: str, count: int) -> tuple[float, ...] | None:
        found = (numbers(dataset, keyword, count) for dataset in datasets)
        return next((values for values in found if values is not None), None)

    orientation = first("ImageOrientationPatient", 6)
    location = first("SliceLocation", 1)
    spacing = first("PixelSpacing", 2) or first("ImagerPixelSpacing", 2)
    return Plane(
        position=first("ImagePositionPatient", 3),
        orientation=orientation if orientation and _is_orientation(orientation) else None,
        location=location[0] if location else None,
        spacing=spacing if spacing and min(spacing) > 0 else None,
    )


def numbers(dataset: Any, keyword: str, count: int) -> tuple[float, ...] | None:
    """Return the `count` numbers of an element, or None if there are others, or none, or absurd ones."""
    try:
        value = dataset.get(keyword)
        values = tuple(float(number) for number in ([value] if isinstance(value, int | float | str) else value))
    except Exception:  # pydicom converts values only now, and damaged ones fail in many ways
        return None
    return values if len(values) == count and all(abs(number) < LARGEST for number in values) else None


def ordered(planes: Sequence[Plane]) -> list[int] | None:
    """Return the indices of parallel planes in the order of their positions.

    The order is along the normal of the planes; where they have no positions, along their slice locations.

    Returns:
        None if that is unknown, or two lie at one position.
    """
    offsets = _offsets(planes)
    if offsets is None:
        return None
    order = np.argsort(offsets, kind="stable")
    return order.tolist() if np.all(np.diff(offsets[order]) > SAME_PLACE) else None


def uneven_step(planes: Sequence[Plane]) -> tuple[int, float, float] | None:
    """Return the step between `planes`, which are in order, that differs most from the usual one by too much.

    Returns:
        The index of the plane before it, its length and the usual (median) length in mm; None if all are even.
    """
    steps = np.diff(_require_offsets(planes))
    usual = float(np.median(steps))
    worst = int(np.argmax(np.abs(steps - usual)))
    return None if abs(steps[worst] - usual) <= UNEVEN * usual else (worst, float(steps[worst]), usual)


def stack(slices: np.ndarray, planes: Sequence[Plane]) -> Stack:
    """Make a volume of slices that are in order and evenly spaced.

    Args:
        slices: D×H×W×C, one of `planes` for each.
        planes: parallel, at least two.

    Returns:
        The volume in the order of `geometry.to_lps`; where the planes have no orientation, as it is. Slices of a
        tilted gantry are stacked straight: each keeps its pixels, and its shift against the next is left out.
    """
    offsets = _require_offsets(planes)
    step = float(offsets[-1] - offsets[0]) / (len(planes) - 1)
    first = planes[0]
    spacing = None if first.spacing is None else (step, *first.spacing)
    if first.orientation is None or any(plane.position is None for plane in planes):
        return Stack(slices, spacing, "", None)
    along_row, along_column = np.reshape(first.orientation, (2, 3))
    affine = np.eye(4)
    between_rows, between_columns = first.spacing or (1.0, 1.0)
    affine[:3, 0] = along_row * between_columns
    affine[:3, 1] = along_column * between_rows
    affine[:3, 2] = np.cross(along_row, along_column) * step
    affine[:3, 3] = first.position
    affine[:2] *= -1  # to RAS+
    volume, turned, codes, center = to_lps(slices.transpose(2, 1, 0, 3), affine)
    return Stack(volume, turned if spacing else None, codes, center if spacing else None)


def same_direction(one: Plane, other: Plane) -> bool:
    """Return whether two planes have like orientations, or both none."""
    if one.orientation is None or other.orientation is None:
        return one.orientation is other.orientation
    return bool(np.abs(np.subtract(one.orientation, other.orientation)).max() < SAME_DIRECTION)


def _offsets(planes: Sequence[Plane]) -> np.ndarray | None:
    positions = [plane.position for plane in planes]
    orientation = planes[0].orientation
    if orientation is not None and None not in positions:
        return np.array(positions) @ np.cross(orientation[:3], orientation[3:])
    locations = [plane.location for plane in planes]
    return None if None in locations else np.array(locations, np.float64)


def _require_offsets(planes: Sequence[Plane]) -> np.ndarray:
    offsets = _offsets(planes)
    if offsets is None:
        raise DataError("The slices do not say where they lie; ImagePositionPatient or SliceLocation was wanted.")
    return offsets


def _is_orientation(values: tuple[float, ...]) -> bool:
    along_row, along_column = np.reshape(values, (2, 3))
    lengths = (np.linalg.norm(along_row), np.linalg.norm(along_column))
    return bool(np.allclose(lengths, 1, atol=0.01) and abs(along_row @ along_column) < 0.01)
