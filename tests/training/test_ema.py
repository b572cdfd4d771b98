"""The moving average of the generator's weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ganaug.training.ema import update_ema


def _pair(start: float, target: float) -> tuple[nn.BatchNorm1d, nn.BatchNorm1d]:
    networks = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    for network, value in zip(networks, (start, target), strict=True):
        for parameter in network.parameters():
            nn.init.constant_(parameter, value)
    return networks


@pytest.mark.parametrize("images", [10, 100, 1000])
def test_after_a_half_life_the_distance_is_half_whatever_the_batch(images: int) -> None:
    average, model = _pair(1.0, 0.0)
    for _ in range(2000 // images):
        update_ema(average, model, images=images, half_life_kimg=2.0)
    assert torch.allclose(next(average.parameters()), torch.tensor(0.5), atol=1e-4)
    assert torch.equal(next(model.parameters()), torch.zeros(3))


def test_a_half_life_of_zero_copies_but_does_not_share() -> None:
    average, model = _pair(1.0, 0.25)
    update_ema(average, model, images=10, half_life_kimg=0)
    assert torch.equal(next(average.parameters()), next(model.parameters()))
    nn.init.constant_(next(model.parameters()), 7.0)
    assert torch.equal(next(average.parameters()), torch.full((3,), 0.25))


def test_buffers_are_copied() -> None:
    average, model = _pair(1.0, 0.0)
    for buffer in (model.running_mean, model.num_batches_tracked):
        assert buffer is not None
        buffer.fill_(9)
    update_ema(average, model, images=1, half_life_kimg=100)
    assert [buffer.mean(dtype=torch.float32).item() for buffer in average.buffers()] == [9, 1, 9]
