"""Images and volumes at another size: each axis resampled once, antialiased, in the stored type.

Both go through Pillow's bicubic filter, which widens where it shrinks. It works on one axis after the other, so a
volume needs two passes, within its slices and across them, and gets exactly what an image gets. A Gaussian followed by
linear interpolation lets more aliasing through, blurs more, and takes many times as long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

Box = tuple[float, float, float, float]
"""Left, top, right and bottom of a part of an image, in pixels from its upper left corner."""


def resize_image(pixels: np.ndarray, size: tuple[int, int], *, crop: bool = False) -> np.ndarray:
    """Return an image H×W×C at `size` (height, width), in its own type; with `crop`, of its centered part.

    Beyond 8 bit no value leaves the range of the image. (32-bit integers keep seven digits.)
    """
    height, width = pixels.shape[:2]
    if (height, width) == size:
        return pixels
    box = _centered_box(height, width, size) if crop else (0.0, 0.0, float(width), float(height))
    if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        return _resampled(pixels, size, box)
    return np.stack([_as_source(_resampled(plane, size, box), plane) for plane in np.moveaxis(pixels, 2, 0)], axis=2)


def resize_volume(
    pixels: np.ndarray, size: tuple[int, int, int], *, steps: tuple[float, float, float] | None = None
) -> np.ndarray:
    """Return a volume D×H×W×C at `size` (depth, height, width), in its own type; no value leaves its range.

    Args:
        pixels: the volume.
        size: wanted number of voxels along D, H and W.
        steps: length of a wanted voxel along D, H and W, in voxels of `pixels`. The result lies over the middle of the
            volume; voxels whose centers are outside of it get its minimum. None stretches the volume to `size`.
    """
    lengths = pixels.shape[:3]
    if steps is None:
        axes = [_Axis(0, side, 0.0, float(length)) for length, side in zip(lengths, size, strict=True)]
    else:
        axes = [_centered_axis(*axis) for axis in zip(lengths, size, steps, strict=True)]
    filled = tuple(slice(axis.start, axis.stop) for axis in axes)
    channels = []
    for values in np.moveaxis(pixels, 3, 0):
        channel = np.full(size, values.min(), dtype=pixels.dtype)
        channel[filled] = _as_source(_resampled_volume(values, *axes), values)
        channels.append(channel)
    return np.stack(channels, axis=3)


def _centered_box(height: int, width: int, size: tuple[int, int]) -> Box:
    """Return the largest centered part with the proportions of `size`."""
    scale = min(height / size[0], width / size[1])
    part_height, part_width = size[0] * scale, size[1] * scale
    left, top = (width - part_width) / 2, (height - part_height) / 2
    return left, top, min(left + part_width, width), min(top + part_height, height)


def _resampled(plane: np.ndarray, size: tuple[int, int], box: Box) -> np.ndarray:
    # Pillow resizes 8 bit in integers; anything deeper has to go through its float mode to keep its depth.
    source = Image.fromarray(np.ascontiguousarray(plane if plane.dtype == np.uint8 else plane.astype(np.float32)))
    return np.asarray(source.resize(size[::-1], Image.Resampling.BICUBIC, box=box))


def _as_source(values: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Return resampled values in the type of the source, without what the filter adds beside sharp edges."""
    if values.dtype == np.uint8:
        return values
    if source.dtype.kind == "f":
        return np.clip(values, source.min(), source.max())
    # float64: float32 rounds the largest 32-bit integer up, out of its type.
    return np.clip(np.rint(values.astype(np.float64)), source.min(), source.max()).astype(source.dtype)


@dataclass(frozen=True)
class _Axis:
    """How one axis is resampled: its part from `first` to `last` fills start:stop of the result."""

    start: int
    stop: int
    first: float
    """In voxels from the outer face of the first one; below 0 where the volume has to be continued."""
    last: float

    @property
    def steps(self) -> int:
        return self.stop - self.start

    def margins(self, length: int) -> tuple[int, int]:
        """Return by how many voxels a volume of this length has to be continued before and behind."""
        return math.ceil(max(0.0, -self.first)), math.ceil(max(0.0, self.last - length))


def _centered_axis(length: int, side: int, step: float) -> _Axis:
    """Return how `side` voxels, each as long as `step` of the source's, lie over the middle of the source."""
    before = length / 2 - side * step / 2
    # The voxels whose centers lie within the source, and the middle ones of a source that is thinner than they are.
    start = min(max(0, math.ceil(-before / step - 0.5 - 1e-6)), (side - 1) // 2)
    stop = max(min(side, math.floor((length - before) / step - 0.5 + 1e-6) + 1), side // 2 + 1)
    edges = (before + start * step, before + stop * step)
    # An edge that misses a face by rounding alone needs no margin there.
    first, last = (float(round(edge)) if abs(edge - round(edge)) < 1e-6 * length else edge for edge in edges)
    return _Axis(start, stop, first, last)


def _resampled_volume(volume: np.ndarray, deep: _Axis, high: _Axis, wide: _Axis) -> np.ndarray:
    """Return a volume D×H×W resampled within its slices and then across them, as float32."""
    (above, below), (left, right) = high.margins(volume.shape[1]), wide.margins(volume.shape[2])
    box = (wide.first + left, high.first + above, wide.last + left, high.last + above)
    slices = [
        _resampled(np.pad(plane.astype(np.float32), ((above, below), (left, right)), mode="edge"),
                   (high.steps, wide.steps), box)
        for plane in volume
    ]  # fmt: skip
    front, back = deep.margins(len(slices))
    columns = np.pad(np.stack(slices).reshape(len(slices), -1), ((front, back), (0, 0)), mode="edge")
    box = (0.0, deep.first + front, float(columns.shape[1]), deep.last + front)
    return _resampled(columns, (deep.steps, columns.shape[1]), box).reshape(-1, high.steps, wide.steps)
