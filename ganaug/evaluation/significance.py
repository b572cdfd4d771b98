"""Tests beside the intervals: sign flips of paired differences, and Holm's correction for several comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

_EXACT = 14
_DRAWS = 20_000


def sign_flip_p(differences: Sequence[float], *, seed: int = 0) -> float:
    """Return the two-sided p of paired differences whose signs were a matter of chance.

    The share of sign patterns with a mean as far from 0 as the one found: of all 2ⁿ up to n = 14, above that of 20,000
    drawn ones and the one found. With n differences it cannot be below 2 / 2ⁿ (Fisher 1935, "The design of
    experiments", section 21).

    Args:
        differences: one for each pair of trainings, of seeds or of generators.
        seed: of the drawn patterns.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    if n <= _EXACT:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        drawn = np.random.default_rng(seed).integers(0, 2, (_DRAWS, n)) * 2 - 1
        signs = np.concatenate([np.ones((1, n), dtype=np.int64), drawn])
    means = np.abs(signs @ values)
    # Sums of the same numbers in another order differ in the last digits, and are as far from 0.
    return float((means >= means[0] - 1e-9 * max(1.0, means[0])).mean())


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p values corrected for their number, under the same names (Holm 1979, Scandinavian Journal of Statistics).

    At most .05 of the sets of comparisons without any effect hold a corrected p of .05 or less.
    """
    corrected: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = highest
    return {name: corrected[name] for name in p_values}
