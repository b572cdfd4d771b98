from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganaug.errors import ConfigError
from ganaug.evaluation.draws import balanced_batches, shuffled_batches

REAL = np.array([0] * 90 + [1] * 10)
MIXED = np.concatenate([REAL, np.ones(80, dtype=np.int64)])
SYNTHETIC = np.arange(180) >= 100


@given(items=st.integers(1, 50), steps=st.integers(1, 20), batch=st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_shuffled_batches_visit_every_item_equally_often(items: int, steps: int, batch: int) -> None:
    plan = shuffled_batches(items, steps=steps, batch=batch, seed=0)
    assert tuple(plan.shape) == (steps, batch)
    seen = np.bincount(plan.flatten().numpy(), minlength=items)
    assert seen.max() - seen.min() <= 1


def test_balanced_batches_draw_each_class_equally_often() -> None:
    plan = balanced_batches(REAL, steps=100, batch=50, seed=0).numpy()
    assert np.mean(REAL[plan] == 1) == pytest.approx(0.5, abs=0.03)
    assert np.bincount(plan.ravel(), minlength=100).min() > 0


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0.0), (0.5, 0.5), (0.7, 0.7), (1.0, 80 / 90)])
def test_synthetic_share_of_a_class_is_capped_by_its_synthetic_fraction(share: float, expected: float) -> None:
    plan = balanced_batches(MIXED, steps=200, batch=50, seed=0, is_synthetic=SYNTHETIC, synthetic_share=share).numpy()
    rare = plan[MIXED[plan] == 1]
    assert len(rare) / plan.size == pytest.approx(0.5, abs=0.02)
    assert SYNTHETIC[rare].mean() == pytest.approx(expected, abs=0.03)
    assert not SYNTHETIC[plan[MIXED[plan] == 0]].any()


def test_plan_with_synthetic_items_is_the_plain_plan_with_draws_replaced() -> None:
    plain = balanced_batches(REAL, steps=50, batch=20, seed=4).numpy()
    mixed = balanced_batches(MIXED, steps=50, batch=20, seed=4, is_synthetic=SYNTHETIC).numpy()
    kept = ~SYNTHETIC[mixed]
    assert 0.6 < kept.mean() < 0.9
    np.testing.assert_array_equal(mixed[kept], plain[kept])
    np.testing.assert_array_equal(MIXED[mixed], REAL[plain])


def test_synthetic_draws_end_at_the_given_fraction_of_the_training() -> None:
    options: dict[str, Any] = {"steps": 40, "batch": 20, "seed": 1, "is_synthetic": SYNTHETIC}
    early = balanced_batches(MIXED, synthetic_until=0.5, **options).numpy()
    late = balanced_batches(MIXED, **options).numpy()
    assert not SYNTHETIC[early[20:]].any()
    np.testing.assert_array_equal(early[:20], late[:20])


def test_bad_fractions_and_classes_without_real_items_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"synthetic_share is 1\.5"):
        balanced_batches(MIXED, steps=1, batch=1, seed=0, is_synthetic=SYNTHETIC, synthetic_share=1.5)
    with pytest.raises(ConfigError, match="Class 1"):
        balanced_batches(np.array([0, 1]), steps=1, batch=1, seed=0, is_synthetic=np.array([False, True]))
