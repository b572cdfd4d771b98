"""Where one file's voxels lie, so that a translated copy of it lies there too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ganaug.data.geometry import PLANES, Geometry, is_valid_affine
from ganaug.data.manifest import Item

_MILLIMETERS = {"meter": 1000.0, "micron": 0.001}
_AXES = ("SI", "PA", "LR")
"""Axis codes that run along D, H and W."""


@dataclass(frozen=True)
class Place(Geometry):
    """Where a file says that its voxels lie, also if they run along no axis of the world."""

    affine: tuple[tuple[float, ...], ...] = ()
    """4×4, from the file's voxel indices to RAS+ mm; empty to follow from the other fields."""
    plane: str = ""
    """Of a single slice, which of `PLANES` it lies in."""

    def to_file(self, volume: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Turn a volume D×H×W[×C] to the file's axes, X×Y×Z[×C], and return it with the file's own affine."""
        array, affine = super().to_file(volume)
        return array, np.array(self.affine) if self.affine else affine

    def as_volume(self, image: np.ndarray) -> np.ndarray:
        """Return a slice C×H×W as the volume C×D×H×W that it is in its file."""
        upright = image if self.plane == "axial" else image[:, ::-1]
        return np.expand_dims(upright, 1 + PLANES.index(self.plane))

    def finer(self, factor: int) -> Place:
        """Return the place of the same volume with so many voxels for each along every axis, but across a slice."""
        depth, height, width = self.spacing
        spacing = (depth / factor, height / factor, width / factor)
        affine = np.array(self.affine)
        if self.affine:
            steps = np.full(3, 1 / factor)
            if self.plane:
                # The file's axis across the slice is the one that runs along the normal of its plane.
                across = "SAL"[PLANES.index(self.plane)], "IPR"[PLANES.index(self.plane)]
                steps[[axis in across for axis in self.orientation]] = 1
            shift = np.eye(4)
            shift[:3, :3] = np.diag(steps)
            shift[:3, 3] = (steps - 1) / 2
            affine = affine @ shift
        return Place(spacing, self.orientation, self.center, tuple(map(tuple, affine.tolist())), self.plane)


def place_of(root: Path, item: Item) -> Place | None:
    """Return where an image lies: as its NIfTI header says, else as far as the scan knows it; None if it does not."""
    if item.format == "NIfTI" and not item.part:
        found = _of_nifti(root / item.path, item)
        if found is not None:
            return found
    if len(item.shape) == 2 or item.spacing is None or not item.orientation or item.center is None:
        return None
    depth, height, width = item.spacing
    return Place((depth, height, width), item.orientation, item.center)


def _of_nifti(path: Path, item: Item) -> Place | None:
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError
    from nibabel.orientations import aff2axcodes

    try:
        header: Any = nib.load(path).header
        affine = np.asarray(header.get_best_affine(), np.float64)
        affine[:3] *= _MILLIMETERS.get(header.get_xyzt_units()[0], 1.0)
    except (ImageFileError, OSError, ValueError, KeyError, AttributeError):  # its name lies about its format
        return None
    if not is_valid_affine(affine):
        return None
    codes = "".join(aff2axcodes(affine))
    plane = ""
    if len(item.shape) == 2:
        shape = dict(zip(codes, (*header.get_data_shape(), 1, 1)[:3], strict=True))
        sides = [next(shape[code] for code in pair if code in shape) for pair in _AXES]
        plane = PLANES[sides.index(1)]
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    of_axis = {code: float(step) for code, step in zip(codes, steps, strict=True)}
    depth, height, width = (next(of_axis[code] for code in pair if code in of_axis) for pair in _AXES)
    return Place((depth, height, width), codes, (0.0, 0.0, 0.0), tuple(map(tuple, affine.tolist())), plane)
