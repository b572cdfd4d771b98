"""Scheduled settings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganaug.training.schedules import cosine

PAIRS = st.tuples(st.floats(0, 100), st.floats(0, 100))
BURN_INS = st.floats(0.01, 1)


@given(PAIRS, BURN_INS)
def test_it_starts_at_the_first_value_and_stays_at_the_second(pair: tuple[float, float], burn_in: float) -> None:
    assert cosine(pair, 0, burn_in) == pytest.approx(pair[0])
    for progress in (burn_in, (1 + burn_in) / 2, 1.0):
        assert cosine(pair, progress, burn_in) == pytest.approx(pair[1])
    assert cosine(pair, burn_in / 2, burn_in) == pytest.approx(sum(pair) / 2)


@given(PAIRS, BURN_INS, st.floats(0, 1), st.floats(0, 1))
def test_it_moves_one_way_only(pair: tuple[float, float], burn_in: float, one: float, other: float) -> None:
    early, late = (cosine(pair, progress, burn_in) for progress in sorted((one, other)))
    rising = pair[1] >= pair[0]
    assert (late >= early - 1e-9) if rising else (late <= early + 1e-9)
    assert min(pair) - 1e-9 <= early <= max(pair) + 1e-9
