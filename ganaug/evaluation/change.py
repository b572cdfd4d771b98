"""What a translation changed: how much of the image, and whether inside what the scan shows or in the air around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.morphology import convex_hull_image

CHANGED = 0.1
"""Difference, in units of [-1, 1], from which on a pixel counts as changed: 5 % of the gray range. A network changes
every pixel by a little; less than this lies within the noise of most scans, and nobody sees it."""

LEAST_SPOT = 1 / 20
"""Side of the smallest visible change, as a share of the image's side: a spot of 3 pixels of 64, or of 3 voxels in each
direction. Less changed area than that is no change: a network that convinces a judge with less does it by what the eye
does not see."""

MOST_CHANGED = 0.75
"""Share of the foreground up to which it may be changed. A diffuse disease alters both lungs, about half of a chest
radiograph; where less than a quarter stays, nothing ties the image to the patient."""

MOST_OUTSIDE = 0.1
"""Share of the changed pixels that may lie outside the foreground. No disease is in the air around a body. Above zero,
because the body's outline is known to a few pixels only, although the foreground has a margin."""

MARGIN = 1 / 20
"""Width of the foreground's margin, as a share of the image's shortest side: blurred outlines, and swelling."""

_AIR = 0.1
"""Difference from the level of the background, in units of [-1, 1], that its noise makes after smoothing."""
_AROUND = 0.5
"""Share of the pixels at the image's border that must be background; otherwise the image has none."""
_BEYOND = 0.05
"""Share of the image that may be darker than a dark background, or brighter than a bright one: table, skin folds."""


@dataclass(frozen=True)
class Change:
    """The difference that a translation made to one image; every share is between 0 and 1."""

    share: float
    """Changed pixels among all."""
    foreground: float
    """Changed pixels of the foreground, among those of the foreground."""
    outside: float
    """Changed pixels outside the foreground, among the changed ones; 0 where none is changed."""
    dims: int

    @property
    def problem(self) -> str:
        """Why this is no twin: "unchanged", "everything", "outside"; empty if nothing speaks against it."""
        if self.share < LEAST_SPOT**self.dims:
            return "unchanged"
        if self.foreground > MOST_CHANGED:
            return "everything"
        return "outside" if self.outside > MOST_OUTSIDE else ""


def measure(source: np.ndarray, translated: np.ndarray) -> Change:
    """Return what a translation changed.

    Args:
        source: C×H×W or C×D×H×W in [-1, 1].
        translated: the same shape; of several channels the one that changed most counts.
    """
    changed = np.abs(translated - source).max(0) > CHANGED
    inside = foreground(source)
    return Change(
        share=float(changed.mean()),
        foreground=float(changed[inside].mean()),
        outside=float((changed & ~inside).sum() / max(1, changed.sum())),
        dims=changed.ndim,
    )


def foreground(image: np.ndarray) -> np.ndarray:
    """Return where an image shows anything but an even background: H×W or D×H×W bool, never empty.

    Background is what is as dark (or as bright) as most of the image's border, and connected to it: the air around a
    head, the glass around a cell. The rest counts as foreground with its convex hull (of a volume slice by slice) and a
    margin, since a disease may fill or swell what is there. An image that fills its frame, as a chest radiograph does,
    is all foreground.

    Args:
        image: C×H×W or C×D×H×W in [-1, 1].
    """
    dims = image.ndim - 1
    smooth = ndimage.uniform_filter(image.astype(np.float32), size=(1, *[3] * dims), mode="nearest")
    edge = np.ones(image.shape[1:], bool)
    edge[tuple(slice(1, -1) for _ in range(dims))] = False
    level = np.median(smooth[:, edge], axis=1).reshape(-1, *[1] * dims)
    even = (np.abs(smooth - level) < _AIR).all(0)
    if even[edge].mean() < _AROUND or not _is_extreme(smooth, level):
        return np.ones_like(edge)
    regions, _ = ndimage.label(even)
    shown = ~np.isin(regions, np.setdiff1d(regions[edge], [0]))
    if not shown.any():
        return np.ones_like(edge)
    hull = convex_hull_image(shown) if dims == 2 else np.stack([_hull(plane) for plane in shown])
    distance = ndimage.distance_transform_edt(~hull)
    near: np.ndarray = distance <= max(1.0, MARGIN * min(edge.shape))
    return near


def _hull(plane: np.ndarray) -> np.ndarray:
    return convex_hull_image(plane) if plane.any() else plane


def _is_extreme(image: np.ndarray, level: np.ndarray) -> bool:
    """Return whether hardly anything is darker, or hardly anything brighter, than the level, in every channel."""
    beyond = np.stack([(image < level - _AIR), (image > level + _AIR)])
    shares = beyond.reshape(2, len(image), -1).mean(2)
    return bool((shares.min(0) < _BEYOND).all())
