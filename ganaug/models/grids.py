"""The sizes of a network's stages: from the image down to a base grid, halved and rounded, never padded."""

from __future__ import annotations

from collections.abc import Sequence


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


def coarser(size: Sequence[int], factor: int) -> tuple[int, ...]:
    """Return `size` divided by `factor`, rounded up."""
    return tuple(-(-side // factor) for side in size)


def stage_widths(widths: Sequence[int], stages: int) -> list[int]:
    """Return the channels of each stage: `widths` from the base grid up, its last entry repeated as needed."""
    return [widths[min(i, len(widths) - 1)] for i in range(stages)]
