"""Scheduled settings: along half a cosine from a first to a second value (R3GAN, table 9)."""

from __future__ import annotations

import math


def cosine(pair: tuple[float, float], progress: float, burn_in: float) -> float:
    """Return the setting at `progress` in [0, 1] of the training; from `burn_in` on it is the second value."""
    start, end = pair
    phase = min(max(progress, 0.0) / burn_in, 1.0)
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * phase))
