"""Large images through a network in tiles, with the result that the whole image would give.

A convolutional network without normalization over space has a reach: no output pixel depends on input pixels farther
away. A tile with a margin of that width has the right result in its core, and only the core is kept. Nothing is
blended: windows that overlap by half and are averaged, by Gaussian weights or not, cost as much, and still mix in what
was computed too close to a border.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ganaug.models.grids import VALUES_IN_A_PASS

WORK = 2
"""Most pixels that tiles may compute for each one kept, along each axis; tiles become larger than wanted rather than
exceed it."""
_SHRINKS = 0.75
"""A finer split must bring the longest tile down to this share of its length."""

Span = tuple[int, int, int, int]
"""Where a tile begins and ends, and its core does, along one axis."""


def in_tiles(
    network: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    stride: int,
    reach: int,
    values: int = VALUES_IN_A_PASS,
) -> Tensor:
    """Return ``network(images)``, computed in tiles if an image has more than `values` values.

    Args:
        network: N×C×spatial to the same shape; it translates along with its input in steps of `stride`.
        images: N×C×H×W or N×C×D×H×W. Sides that are no multiples of `stride` are filled up by repeating the border, and
            the result is cropped.
        stride: tiles begin and end at multiples of it.
        reach: pixels on every side, at most, on which an output pixel depends.
        values: of an image or a tile, all channels together, that go through the network at once.
    """
    sides = images.shape[2:]
    missing = [-side % stride for side in sides]
    if any(missing):
        images = F.pad(images, [end for side in missing[::-1] for end in (0, side)], mode="replicate")
    axes = plan_tiles(images.shape[2:], stride=stride, reach=reach, pixels=max(1, values // images.shape[1]))
    if all(len(axis) == 1 for axis in axes):
        made = network(images)
    else:
        made = torch.empty(images.shape, dtype=torch.float32, device=images.device)
        for spans in itertools.product(*axes):
            tile = network(_part(images, [(begin, end) for begin, end, _, _ in spans]))
            core = _part(tile, [(first - begin, last - begin) for begin, _, first, last in spans])
            _part(made, [(first, last) for *_, first, last in spans]).copy_(core)
    return _part(made, [(0, side) for side in sides])


def _part(images: Tensor, spans: Iterable[tuple[int, int]]) -> Tensor:
    """Return a view of images between a first and a last pixel along each axis."""
    for axis, (first, last) in enumerate(spans, start=2):
        images = images.narrow(axis, first, last - first)
    return images


def plan_tiles(sides: Sequence[int], *, stride: int, reach: int, pixels: int) -> list[list[Span]]:
    """Return the tiles along each axis, of at most `pixels` where their margins leave room for that.

    They follow from the arguments alone, never from the memory that happens to be free: the same image has the same
    result on every machine of a kind.

    Args:
        sides: multiples of `stride`.
    """
    margin = -(-reach // stride) * stride
    axes = [[(0, side, 0, side)] for side in sides]
    while math.prod(map(_longest, axes)) > pixels:
        finer = [
            [*axes[:i], split, *axes[i + 1 :]]
            for i in range(len(axes))
            if (split := _next_split(axes[i], sides[i], stride, margin)) is not None
        ]
        bearable = [plan for plan in finer if math.prod(map(_computed, plan)) <= WORK ** len(sides) * math.prod(sides)]
        if not bearable:
            break
        axes = min(bearable, key=lambda plan: math.prod(map(_longest, plan)))
    return axes


def _longest(axis: list[Span]) -> int:
    return max(end - begin for begin, end, _, _ in axis)


def _computed(axis: list[Span]) -> int:
    return sum(end - begin for begin, end, _, _ in axis)


def _next_split(axis: list[Span], side: int, stride: int, margin: int) -> list[Span] | None:
    """Return the axis in so many more parts that its longest tile is markedly shorter; None if that cannot be."""
    wanted = _SHRINKS * _longest(axis)
    for parts in range(len(axis) + 1, side // stride + 1):
        edges = [side // stride * i // parts * stride for i in range(parts + 1)]
        split = [
            (max(0, first - margin), min(side, last + margin), first, last) for first, last in itertools.pairwise(edges)
        ]
        if _longest(split) <= wanted:
            return split
    return None
