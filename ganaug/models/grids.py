"""The sizes of a network's stages: from the image down to a base grid, halved and rounded, never padded."""

from __future__ import annotations

import math
from collections.abc import Sequence

VALUES_IN_A_PASS = 1 << 22
"""Numbers of output, in all images together, that a forward pass without gradients may make."""


def stage_grids(size: Sequence[int], base: int) -> list[tuple[int, ...]]:
    """Return the grids of the stages from the base grid up to `size` (any number of dimensions).

    Stage i of k has sides round(side / 2^(k-i)); the number of halvings k is the largest that leaves the longest side
    at `base` pixels or more and no side below 2.

    >>> stage_grids((28, 28), 4)
    [(7, 7), (14, 14), (28, 28)]
    """
    halvings = 0
    while max(size) / 2 ** (halvings + 1) >= base and min(size) / 2 ** (halvings + 1) >= 2:
        halvings += 1
    return [tuple(max(1, int(side / 2**k + 0.5)) for side in size) for k in range(halvings, -1, -1)]


def images_in_a_pass(shape: Sequence[int], *, most: int) -> int:
    """Return how many images of `shape` (channels first) to make at once: a power of two up to `most`.

    It follows from the shape alone, never from the memory that happens to be free: the number of images in a pass may
    decide the order of its sums.
    """
    fitting = max(1, min(most, VALUES_IN_A_PASS // math.prod(shape)))
    return 1 << (fitting.bit_length() - 1)


def coarser(size: Sequence[int], factor: int) -> tuple[int, ...]:
    """Return `size` divided by `factor`, rounded up."""
    return tuple(-(-side // factor) for side in size)


def stage_widths(widths: Sequence[int], stages: int) -> list[int]:
    """Return the channels of each stage: `widths` from the base grid up, its last entry repeated as needed."""
    return [widths[min(i, len(widths) - 1)] for i in range(stages)]
