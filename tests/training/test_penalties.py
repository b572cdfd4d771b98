"""What holds a discriminator down, on functions whose slopes are known.

That the penalties of the networks are those of finite differences, and their gradients too, is in `test_contract`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ganaug.config import FitConfig
from ganaug.models import build_network
from ganaug.training.penalties import between, clip_weights, squared_gradient_norms, unit_gradient_penalty
from tests.tiny import NETWORK, randomize

IMAGES = torch.tensor([[[[1.0, -2.0]]], [[[0.5, 3.0]]]])
"""Two images of 1×2 pixels."""


def _bowl(images: Tensor, weights: Tensor) -> Tensor:
    """Return ½ Σ wₚ xₚ² of each image, whose slope is wₚ xₚ at pixel p."""
    return (weights * images.square()).flatten(1).sum(1) / 2


def _plane(images: Tensor, weights: Tensor) -> Tensor:
    return (weights * images).flatten(1).sum(1)


def test_squared_gradient_norms_are_those_of_each_image_and_so_are_their_slopes_in_the_weights() -> None:
    images, weights = IMAGES.clone().requires_grad_(), torch.tensor([2.0, -1.0], requires_grad=True)
    norms = squared_gradient_norms(_bowl(images, weights), images)
    assert norms.tolist() == [2**2 + 2**2, 1**2 + 3**2]
    (slope,) = torch.autograd.grad(norms.sum(), weights)  # Σ 2 wₚ xₚ²
    assert slope.tolist() == [2 * 2 * (1 + 0.25), 2 * -1 * (4 + 9)]


def test_the_unit_gradient_penalty_is_that_of_each_image_and_so_is_its_slope_in_the_weights() -> None:
    images, weights = IMAGES.clone().requires_grad_(), torch.tensor([3.0, 4.0], requires_grad=True)
    penalty = unit_gradient_penalty(_plane(images, weights), images)
    assert penalty.tolist() == [16, 16]  # (5 - 1)²
    (slope,) = torch.autograd.grad(penalty.sum(), weights)  # 2 · 2 (5 - 1) w / 5
    assert slope.tolist() == pytest.approx([16 * 3 / 5, 16 * 4 / 5])


def test_the_unit_gradient_penalty_of_a_discriminator_without_any_slope_is_1_and_can_be_trained() -> None:
    images, weights = IMAGES.clone().requires_grad_(), torch.zeros(2, requires_grad=True)
    penalty = unit_gradient_penalty(_plane(images, weights), images)
    assert penalty.tolist() == [1, 1]
    (slope,) = torch.autograd.grad(penalty.sum(), weights)
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("size", [(4, 3), (2, 3, 4)])
def test_points_between_lie_on_the_line_from_fake_to_real_each_image_at_its_own_place(size: tuple[int, ...]) -> None:
    real, fake = torch.randn(2, 3, 1, *size, generator=torch.Generator().manual_seed(0))
    points = between(real, fake, torch.tensor([0.0, 1.0, 0.25]))
    assert torch.equal(points[0], fake[0])
    assert torch.allclose(points[1], real[1])
    assert torch.allclose(points[2], 0.75 * fake[2] + 0.25 * real[2], atol=1e-6)


def test_clipping_moves_weights_beyond_the_bound_to_it_and_no_others() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.Embedding(2, 1))
    values = torch.tensor([0.005, -0.3, 0.02, -0.01, 0.009, 1.0])
    with torch.no_grad():
        network[0].weight.copy_(values.view(2, 3))
    clip_weights(network, 0.01)
    assert network[0].weight.flatten().tolist() == pytest.approx([0.005, -0.01, 0.01, -0.01, 0.009, 0.01])
    assert all(float(parameter.detach().abs().max()) <= 0.01 for parameter in network.parameters())


@pytest.mark.parametrize("penalty", [squared_gradient_norms, unit_gradient_penalty])
def test_sums_are_float32_whatever_the_network_ran_in(penalty: Callable[[Tensor, Tensor], Tensor]) -> None:
    settings, labels = vars(FitConfig(**NETWORK)), torch.tensor([0, 1])
    network = build_network("modern", "Discriminator", settings, size=(8, 6), channels=1, classes=2)
    randomize(network)
    images = torch.randn(2, 1, 8, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
    exact = penalty(network(images, labels), images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = penalty(network(images, labels).float(), images)
    assert rough.dtype == torch.float32
    assert torch.allclose(rough, exact, rtol=0.1)
