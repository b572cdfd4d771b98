"""Guards: numbers that left the finite range, and classes that collapsed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ganaug.errors import DivergedError
from ganaug.training.guards import FiniteGuard, class_diversity, pairwise_distance


def test_three_bad_steps_in_a_row_roll_back() -> None:
    guard = FiniteGuard()
    assert [guard.must_roll_back(False) for _ in range(6)] == [False, False, True, False, False, True]
    assert (guard.skipped, guard.rollbacks) == (6, 2)


def test_a_good_step_forgives_the_bad_ones_before_it() -> None:
    guard = FiniteGuard()
    for finite in (False, False, True, False, False, True) * 5:
        assert not guard.must_roll_back(finite)
    assert (guard.skipped, guard.rollbacks) == (20, 0)


def test_after_two_rollbacks_it_gives_up() -> None:
    guard = FiniteGuard()
    for _ in range(8):
        guard.must_roll_back(False)
    with pytest.raises(DivergedError, match=r"3 steps in a row, again after 2 rollbacks.*gamma") as caught:
        guard.must_roll_back(False)
    assert caught.value.exit_code == 4


@given(st.lists(st.booleans(), max_size=60))
def test_it_gives_up_exactly_when_a_third_run_of_three_is_complete(steps: list[bool]) -> None:
    guard, runs, in_a_row = FiniteGuard(), 0, 0
    for finite in steps:
        in_a_row = 0 if finite else in_a_row + 1
        if in_a_row == 3:
            runs, in_a_row = runs + 1, 0
            if runs == 3:
                with pytest.raises(DivergedError):
                    guard.must_roll_back(finite)
                return
            assert guard.must_roll_back(finite)
        else:
            assert not guard.must_roll_back(finite)


def test_pairwise_distance_is_the_mean_over_all_pairs() -> None:
    images = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 8.0]]).view(3, 1, 1, 2)
    assert pairwise_distance(images) == pytest.approx((5 + 8 + 5) / 3)
    assert pairwise_distance(images[:1]) == 0


def test_diversity_shows_one_collapsed_class_among_good_ones() -> None:
    source = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(20)
    real = np.array([pairwise_distance(torch.randn(20, 1, 4, 4, generator=source)) for _ in range(3)])
    fakes = torch.randn(60, 1, 4, 4, generator=source)
    fakes[labels == 1] = fakes[20].clone()
    good, collapsed, also_good = class_diversity(fakes, labels, real)
    assert collapsed == 0
    assert good == pytest.approx(1, abs=0.15)
    assert also_good == pytest.approx(1, abs=0.15)


def test_a_class_of_identical_real_images_cannot_collapse() -> None:
    assert class_diversity(torch.zeros(4, 1, 2, 2), torch.zeros(4), np.array([0.0])).tolist() == [1.0]
