"""Latents are a pure function of (seed, class, index)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ganaug.models.latents import latents_for

ROWS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 10**6)), min_size=1, max_size=12)


@given(ROWS, st.integers(0, 2**63 - 1), st.randoms(use_true_random=False))
def test_a_row_depends_on_its_own_label_and_index_alone(rows: list, seed: int, random: object) -> None:
    def draw(rows: list) -> torch.Tensor:
        return latents_for([label for label, _ in rows], [index for _, index in rows], seed=seed, dim=5)

    together = draw(rows)
    order = list(range(len(rows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert torch.equal(draw([rows[i] for i in order]), together[order])
    assert torch.equal(torch.cat([draw([row]) for row in rows]), together)


def test_all_seeds_labels_and_indices_give_different_rows() -> None:
    values = (0, 1, 2, 255, 256, 2**32 - 1, 2**32, 2**62)
    drawn = {
        latents_for([label], [index], seed=seed, dim=4).numpy().tobytes()
        for seed, label, index in itertools.product(values, repeat=3)
    }
    assert len(drawn) == len(values) ** 3


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_the_largest_seeds_are_different_too() -> None:
    first, second = (latents_for([0], [0], seed=seed, dim=4) for seed in (2**64 - 1, 2**64 - 2))
    assert not torch.equal(first, second)


def test_a_longer_latent_begins_like_a_shorter_one() -> None:
    short, long = (latents_for([1], [2], seed=3, dim=dim) for dim in (4, 64))
    assert torch.equal(short, long[:, :4])


def test_the_rows_are_independent_standard_normals() -> None:
    drawn = latents_for([0, 1] * 500, np.arange(1000) // 2, seed=0, dim=32).numpy()
    assert drawn.dtype == np.float32
    assert stats.kstest(drawn.ravel(), "norm").pvalue > 1e-3
    between = np.corrcoef(drawn[0::2].ravel(), drawn[1::2].ravel())[0, 1]
    neighbors = np.corrcoef(drawn[:-2].ravel(), drawn[2:].ravel())[0, 1]
    assert abs(between) < 0.04
    assert abs(neighbors) < 0.04


def test_no_rows_are_an_empty_batch() -> None:
    assert latents_for([], [], seed=0, dim=7).shape == (0, 7)


def test_labels_and_indices_must_come_in_pairs() -> None:
    with pytest.raises(ValueError, match="zip"):
        latents_for([0, 1], [0], seed=0, dim=2)
