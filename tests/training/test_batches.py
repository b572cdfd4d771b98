"""Which images each step sees."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ganaug.data.intensity import IntensityMap
from ganaug.training.batches import BalancedBatches, DeviceImages, apportion, class_probabilities, derived_seed
from tests.tiny import UINT8, UINT16

COUNTS = st.lists(st.integers(1, 30), min_size=1, max_size=5)
POWERS = st.sampled_from([0.0, 0.3, 0.5, 1.0])
SIZES = st.integers(1, 40)


def _labels(counts: list[int]) -> np.ndarray:
    labels = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(0).permutation(labels)


def _stream(batches: BalancedBatches, size: int, total: int) -> np.ndarray:
    steps = -(-total // size)
    return np.concatenate([batches.batch(step, size) for step in range(steps)])[:total]


@given(COUNTS, POWERS)
def test_an_epoch_draws_classes_in_proportion_to_a_power_of_their_size(counts: list[int], power: float) -> None:
    labels = _labels(counts)
    drawn = labels[BalancedBatches(labels, power=power, seed=0).batch(0, len(labels))]
    found = np.bincount(drawn, minlength=len(counts))
    wanted = len(labels) * np.array(counts) ** power / (np.array(counts) ** power).sum()
    assert (abs(found - wanted) < 1 + 1e-9).all()


def test_the_power_goes_from_all_alike_to_as_in_the_data() -> None:
    assert class_probabilities([100, 25], 0).tolist() == [0.5, 0.5]
    assert class_probabilities([100, 25], 1).tolist() == [0.8, 0.2]
    assert class_probabilities([100, 25], 0.5) == pytest.approx([2 / 3, 1 / 3])


@given(st.integers(1, 500), st.lists(st.floats(0.01, 1), min_size=1, max_size=8))
def test_apportion_gives_everything_away_and_something_to_each(total: int, weights: list[float]) -> None:
    shares = np.array(weights) / sum(weights)
    total = max(total, len(weights))
    given_out = apportion(total, shares)
    assert given_out.sum() == total
    assert given_out.min() >= 1
    if (total * shares >= 1).all():
        assert (abs(given_out - total * shares) < 1 + 1e-9).all()


@given(COUNTS, POWERS, SIZES, st.integers(1, 4))
def test_after_any_epoch_no_image_of_a_class_is_two_ahead_of_another(
    counts: list[int], power: float, size: int, epochs: int
) -> None:
    labels = _labels(counts)
    seen = Counter(_stream(BalancedBatches(labels, power=power, seed=1), size, epochs * len(labels)).tolist())
    for c in range(len(counts)):
        times = [seen[i] for i in np.flatnonzero(labels == c).tolist()]
        assert max(times) - min(times) <= 1


@settings(derandomize=True)
@given(COUNTS, POWERS, SIZES, st.integers(1, 100))
def test_every_image_of_a_class_is_shown_before_any_is_shown_twice(
    counts: list[int], power: float, size: int, total: int
) -> None:
    labels = _labels(counts)
    stream = _stream(BalancedBatches(labels, power=power, seed=1), size, total)
    for c, count in enumerate(counts):
        shown = stream[labels[stream] == c]
        for start in range(0, len(shown), count):
            turn = shown[start : start + count]
            assert len(set(turn.tolist())) == len(turn)


@given(COUNTS, POWERS, SIZES, st.permutations(range(8)))
def test_a_batch_is_a_function_of_seed_and_step_alone(
    counts: list[int], power: float, size: int, order: list[int]
) -> None:
    labels = _labels(counts)
    one = BalancedBatches(labels, power=power, seed=2)
    drawn = {step: one.batch(step, size) for step in order}
    for step in range(8):
        fresh = BalancedBatches(labels, power=power, seed=2)
        assert np.array_equal(drawn[step], fresh.batch(step, size))
        assert len(drawn[step]) == size


@given(COUNTS, POWERS, SIZES)
def test_batches_of_any_size_cut_the_same_stream(counts: list[int], power: float, size: int) -> None:
    labels = _labels(counts)
    batches = BalancedBatches(labels, power=power, seed=3)
    epochs = np.concatenate([batches.batch(epoch, len(labels)) for epoch in range(3)])
    assert np.array_equal(_stream(batches, size, len(epochs)), epochs)


def test_epochs_and_seeds_differ() -> None:
    labels = _labels([20, 10])
    batches, other = (BalancedBatches(labels, power=1, seed=seed) for seed in (0, 1))
    epochs = [batches.batch(epoch, 30) for epoch in range(3)]
    assert all(sorted(epoch.tolist()) == list(range(30)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[0], other.batch(0, 30))


def test_classes_are_mixed_inside_an_epoch() -> None:
    labels = _labels([500, 500])
    drawn = labels[BalancedBatches(labels, power=1, seed=0).batch(0, 1000)]
    changes = np.count_nonzero(np.diff(drawn))
    assert 400 < changes < 600
    assert abs(drawn[:500].mean() - 0.5) < 0.08


def test_derived_seeds_depend_on_every_part_and_on_nothing_else() -> None:
    seeds = [derived_seed(*parts) for parts in [(0,), (1,), (0, 1), (1, 0), ("a",), ("a", 0), ("0", 1, 2), (0, 12)]]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derived_seed(0, "step", 5) == derived_seed(0, "step", 5)


@pytest.mark.parametrize("intensity", [UINT8, UINT16], ids=["uint8", "uint16"])
def test_device_images_are_the_chosen_ones_mapped_to_the_unit_range(intensity: IntensityMap) -> None:
    highest = np.iinfo(np.dtype(intensity.dtype).name).max
    stored = np.random.default_rng(0).integers(0, highest, (6, 1, 3, 4), endpoint=True).astype(intensity.dtype)
    images = DeviceImages(stored, np.array([0, 1, 2, 0, 1, 2]), intensity, torch.device("cpu"))
    batch, labels = images.batch(np.array([4, 0, 4]))
    assert labels.tolist() == [1, 0, 1]
    assert batch.dtype == torch.float32
    assert torch.equal(batch, torch.from_numpy(intensity.forward(stored[[4, 0, 4]])))
    assert batch.min() >= -1
    assert batch.max() <= 1


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32"])
def test_volumes_of_any_stored_type_are_read_row_by_row_with_their_files_windows(dtype: str, tmp_path: Path) -> None:
    stored = np.arange(5 * 24).reshape(5, 1, 2, 3, 4).astype(dtype)
    np.save(tmp_path / "images.npy", stored)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    knots = np.arange(20.0).reshape(5, 4)
    calls: list[tuple[np.ndarray, np.ndarray]] = []

    def forward(array: np.ndarray, *, knots: np.ndarray) -> np.ndarray:
        calls.append((array, knots))
        return np.asarray(array, dtype=np.float32) / 1000

    intensity: Any = SimpleNamespace(kind="per-file", forward=forward)
    images = DeviceImages(mapped, np.array([0, 1, 0, 1, 1]), intensity, torch.device("cpu"), knots=knots)
    assert calls == []
    batch, labels = images.batch(np.array([3, 3, 0]))
    ((array, windows),) = calls
    assert array.dtype == dtype
    assert np.array_equal(array, stored[[3, 3, 0]])
    assert np.array_equal(windows, knots[[3, 3, 0]])
    assert batch.shape == (3, 1, 2, 3, 4)
    assert torch.equal(batch, torch.from_numpy(stored[[3, 3, 0]].astype(np.float32) / 1000))
    assert labels.tolist() == [1, 1, 0]


@pytest.mark.gpu
@pytest.mark.parametrize("intensity", [UINT8, UINT16], ids=["uint8", "uint16"])
def test_on_a_gpu_the_batches_are_the_same(intensity: IntensityMap) -> None:
    stored = np.random.default_rng(0).integers(0, 255, (6, 1, 2, 3, 4), endpoint=True).astype(intensity.dtype)
    labels, positions = np.array([0, 1, 2, 0, 1, 2]), np.array([4, 0, 4])
    here, there = (DeviceImages(stored, labels, intensity, torch.device(name)) for name in ("cpu", "cuda"))
    assert (there.resident is not None) == (intensity is UINT8)
    for one, other in zip(here.batch(positions), there.batch(positions), strict=True):
        assert other.device.type == "cuda"
        assert torch.allclose(one, other.cpu(), atol=1e-6)
