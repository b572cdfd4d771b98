"""The DCGAN: its resampling layers fit any grid, its normalization is PyTorch's, its penalty is exact."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ganaug.models import build_network, place
from ganaug.models.archs.dcgan import BatchNorm, Down, Generator, Up, floor_grids
from ganaug.training.penalties import backward_penalized, squared_gradient_norms
from tests.models.archs import shake, tiny_gan
from tests.tiny import NETWORK, randomize

SIDES = st.lists(st.integers(4, 40), min_size=2, max_size=3).map(tuple)


def _network(part: str, size: tuple[int, ...], *, channels: int = 1, stem: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return build_network("dcgan", part, {**NETWORK, "base": 4, "stem": stem}, size=size, channels=channels, classes=3)


@settings(deadline=None, max_examples=30)
@given(fine=SIDES, factor=st.sampled_from([2, 4]))
def test_going_up_leads_back_to_the_grid_that_going_down_came_from(fine: tuple[int, ...], factor: int) -> None:
    coarse = tuple(side // factor for side in fine)
    down = Down(len(fine), 2, 3, factor)(torch.randn(1, 2, *fine))
    assert down.shape == (1, 3, *coarse)
    assert Up(3, 2, coarse, fine, factor=factor)(down).shape == (1, 2, *fine)


@settings(deadline=None)
@given(size=st.lists(st.integers(8, 300), min_size=2, max_size=3), stem=st.sampled_from([1, 2, 4]))
def test_grids_are_halves_rounded_down_to_the_base_grid(size: list[int], stem: int) -> None:
    grids = floor_grids(size, base=4, stem=stem)
    assert grids[-1] == tuple(side // stem for side in size)
    for coarse, fine in pairwise(grids):
        assert coarse == tuple(side // 2 for side in fine)
    assert min(grids[0]) >= 2
    assert max(grids[0]) < 8 or min(grids[0]) < 4


def test_with_a_stem_of_two_a_transposed_convolution_draws_the_image_as_in_the_paper() -> None:
    plain, paper = (_network("Generator", (32, 32), stem=stem) for stem in (1, 2))
    assert isinstance(plain, Generator)
    assert isinstance(paper, Generator)
    weights = [weight for name, weight in plain.named_parameters() if name.startswith("doublings")]
    assert [tuple(weight.shape[2:]) for weight in weights] == [(4, 4)] * 3
    assert len(paper.doublings) == 2
    assert isinstance(paper.output, Up)
    assert paper(torch.randn(2, 8), torch.tensor([0, 1])).shape == (2, 1, 32, 32)


@pytest.mark.parametrize("shape", [(6, 5, 7, 4), (4, 5, 3, 4, 2)])
def test_its_normalization_is_pytorchs_in_training_and_in_evaluation(shape: tuple[int, ...]) -> None:
    ours = BatchNorm(5)
    theirs = nn.BatchNorm2d(5) if len(shape) == 4 else nn.BatchNorm3d(5)
    shake(ours)
    with torch.no_grad():
        theirs.weight.copy_(ours.scale)
        theirs.bias.copy_(ours.shift)
    for scale in (1.0, 5.0, 0.2):
        x = torch.randn(shape) * scale + scale
        assert torch.allclose(ours(x), theirs(x), atol=1e-5)
    for network in (ours, theirs):
        network.eval()
    x = torch.randn(shape)
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)
    assert not torch.allclose(ours(x), ours.train()(x), atol=1e-2)
    assert {value.dtype for value in ours.state_dict().values()} == {torch.float32}


def test_the_averaged_copy_gets_the_running_averages_and_does_not_change_them_when_it_samples() -> None:
    gan = tiny_gan("dcgan", ema_half_life_kimg=(10.0, 10.0))
    batch = torch.rand(8, 1, 16, 16) * 2 - 1, torch.arange(8) % 2
    for step in range(3):
        gan.step(*batch, step, 0.5)
    assert not gan.average.training
    trained = {name: value for name, value in gan.generator.named_buffers() if "share" not in name}
    assert len(trained) == 6
    latents, labels = torch.randn(5, 8), torch.zeros(5, dtype=torch.int64)
    before = gan.sample(latents, labels)
    averaged = dict(gan.average.named_buffers())
    for name in trained:
        value = averaged[name]
        assert value.abs().max() > 0
        assert not torch.equal(value, torch.ones_like(value))
        assert torch.equal(value, trained[name])
    assert torch.equal(gan.sample(latents, labels), before)
    assert torch.allclose(gan.sample(latents[:2], labels[:2]), before[:2], atol=1e-5)


def test_images_stay_inside_the_range_of_tanh() -> None:
    generator = _network("Generator", (16, 16))
    shake(generator, scale=1.0)
    images = generator(torch.randn(8, 8) * 10, torch.arange(8) % 3)
    assert images.abs().max() <= 1


@pytest.mark.parametrize(("size", "stem"), [((12, 8), 1), ((19, 22), 2), ((18, 13), 4), ((8, 6, 10), 2)])
def test_the_penalized_step_is_that_of_differentiating_twice(size: tuple[int, ...], stem: int) -> None:
    network = place(_network("Discriminator", size, channels=2, stem=stem), "cpu").double()
    randomize(network)
    source = torch.Generator().manual_seed(1)
    images, labels = torch.randn(8, 2, *size, dtype=torch.float64, generator=source), torch.arange(8) % 3
    gamma = torch.rand(8, generator=source)

    def objective(logits: Tensor) -> Tensor:
        return nn.functional.softplus(-logits).mean()

    logits, norms = backward_penalized(network, images, labels, objective, gamma)
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    images.requires_grad_()
    twice = network(images, labels)
    wanted_norms = squared_gradient_norms(twice, images)
    (objective(twice) + (gamma * wanted_norms).sum()).backward()
    assert torch.allclose(logits, twice.float(), rtol=1e-5)
    assert torch.allclose(norms, wanted_norms, rtol=1e-4)
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(found[name], parameter.grad, rtol=1e-4, atol=1e-6 * float(parameter.grad.abs().max()))


@pytest.mark.parametrize(("size", "stem"), [((9, 8), 1), ((10, 9), 2), ((4, 6, 5), 1)])
def test_the_gradient_penalty_and_its_own_gradient_match_finite_differences(size: Any, stem: int) -> None:
    labels, small = torch.tensor([0, 1]), 1e-6
    network = place(_network("Discriminator", size, channels=2, stem=stem), "cpu").double()
    source = torch.Generator().manual_seed(1)
    images = torch.randn(2, 2, *size, dtype=torch.float64, generator=source).requires_grad_()

    def slopes(direction: Tensor) -> Tensor:
        return (network(images + small * direction, labels) - network(images - small * direction, labels)) / small / 2

    found = squared_gradient_norms(network(images, labels), images)
    wanted = torch.zeros(2, dtype=torch.float64)
    with torch.no_grad():
        for one_pixel in torch.eye(images[0].numel(), dtype=torch.float64).view(-1, 1, 2, *size):
            wanted += slopes(one_pixel).square()
    assert torch.allclose(found.double(), wanted, rtol=1e-4)

    parameters = [p for name, p in network.named_parameters() if name.startswith(("input", "halvings", "features"))]

    def value() -> float:
        (slope,) = torch.autograd.grad(network(images, labels).tanh().sum(), images)
        return float(slope.square().sum())

    penalty = squared_gradient_norms(network(images, labels).tanh(), images).sum()
    for parameter, gradient in zip(parameters, torch.autograd.grad(penalty, parameters), strict=True):
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=source)
        values = []
        for step in (small, -2 * small, small):
            with torch.no_grad():
                parameter.add_(direction, alpha=step)
            values.append(value())
        assert float((gradient * direction).sum()) == pytest.approx((values[0] - values[1]) / 2 / small, rel=1e-3)
