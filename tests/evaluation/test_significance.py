import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import permutation_test

from ganaug.evaluation.significance import holm, sign_flip_p


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1.0, 2.0, 3.0, 4.0, 5.0], 2 / 32),
        ([-1.0, -2.0, -3.0, -4.0, -5.0], 2 / 32),
        ([1.0, 1.0, 1.0], 2 / 8),
        # |sum| >= 1 for every pattern of odd numbers.
        ([1.0, 1.0, -1.0], 1.0),
        # |± 3 ± 2 ± 1| >= 4: 6, 4 and their mirror images.
        ([3.0, 2.0, -1.0], 4 / 8),
        # A zero doubles all counts, and changes no share.
        ([3.0, 2.0, -1.0, 0.0], 4 / 8),
        ([0.0, 0.0, 0.0], 1.0),
        ([2.0], 1.0),
        # Sums of .1, .2 and .3 in another order differ in the last digits.
        ([0.1, 0.2, 0.3], 2 / 8),
        ([0.3, -0.1, -0.2], 1.0),
    ],
)
def test_exact_p(differences: list[float], p: float) -> None:
    assert sign_flip_p(differences) == p


def test_agrees_with_scipy() -> None:
    values = np.random.default_rng(0).normal(0.4, 1, 9)
    theirs = permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(values.tolist()) == pytest.approx(theirs.pvalue)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_neither_order_nor_sign_nor_unit_matters_and_the_floor_holds(differences: list[float]) -> None:
    p = sign_flip_p(differences)
    assert min(1.0, 2 / 2 ** len(differences)) <= p <= 1
    assert sign_flip_p(differences[::-1]) == p
    assert sign_flip_p([-value for value in differences]) == p


def test_drawn_patterns_come_near_the_exact_share_and_never_to_0() -> None:
    values = [1.0] * 15
    assert 0 < sign_flip_p(values) <= 3 / 20_000
    # 12 of 15 with the same sign: P(|2B - 15| >= 9) for a binomial B of 15 fair coins.
    exact = 2 * (1 + 15 + 105 + 455) / 2**15
    assert sign_flip_p([1.0] * 12 + [-1.0] * 3) == pytest.approx(exact, abs=0.004)
    assert sign_flip_p(values, seed=1) == sign_flip_p(values, seed=1)


@pytest.mark.parametrize("seeds", [6, 10])
def test_p_is_uniform_or_larger_where_there_is_no_effect(seeds: int) -> None:
    rng = np.random.default_rng(5)
    found = np.array([sign_flip_p(rng.standard_t(3, seeds)) for _ in range(1500)])
    for level in (0.05, 0.1, 0.25, 0.5):
        # 3 standard errors of a share of 1500.
        assert (found <= level).mean() <= level + 3 * np.sqrt(level * (1 - level) / 1500)
    assert found.mean() == pytest.approx(0.5, abs=0.04)


def test_holm_by_hand() -> None:
    corrected = holm({"c": 0.04, "a": 0.01, "d": 0.6, "b": 0.015})
    # 4 × .01, 3 × .015, 2 × .04, 1 × .6.
    assert corrected == pytest.approx({"c": 0.08, "a": 0.04, "d": 0.6, "b": 0.045})
    assert list(corrected) == ["c", "a", "d", "b"]
    # 2 × .03 < 3 × .025: a larger p never gets a smaller correction; and none exceeds 1.
    assert holm({"x": 0.025, "y": 0.03, "z": 0.9}) == pytest.approx({"x": 0.075, "y": 0.075, "z": 0.9})
    assert holm({"x": 0.7, "y": 0.8}) == {"x": 1.0, "y": 1.0}
    assert holm({}) == {}


def test_familywise_error_is_at_most_5_percent_where_nothing_has_an_effect() -> None:
    rng = np.random.default_rng(8)
    families = 600
    wrong = 0
    for _ in range(families):
        # Eight arms against one baseline: its luck is in every difference.
        baseline, arms = rng.normal(size=10), rng.normal(size=(8, 10))
        corrected = holm({str(k): sign_flip_p(arm - baseline) for k, arm in enumerate(arms)})
        wrong += min(corrected.values()) <= 0.05
    assert wrong / families <= 0.05 + 1.65 * np.sqrt(0.05 * 0.95 / families)
