"""The contract of every adversarial loss."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ganaug.plugins import load_plugin, plugin_names
from ganaug.training.losses import nonsaturating, relativistic

PACKAGE = "ganaug.training.losses"
LOSSES = plugin_names(PACKAGE)


def _logits(seed: int = 0, count: int = 16) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    real, fake = torch.randn(2, count, generator=source)
    return real.requires_grad_(), fake.requires_grad_()


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_finite_scalars_also_for_extreme_logits(name: str) -> None:
    loss = load_plugin(PACKAGE, name)
    for far in (0.0, 1.0, -90.0, 90.0):
        real, fake = (torch.full((4,), value, requires_grad=True) for value in (far, -far))
        for value in (loss.discriminator_loss(real, fake), loss.generator_loss(real, fake)):
            assert value.shape == ()
            gradients = torch.autograd.grad(value, [real, fake], allow_unused=True)
            assert torch.isfinite(value)
            assert all(torch.isfinite(g).all() for g in gradients if g is not None)


@pytest.mark.parametrize("name", LOSSES)
def test_the_discriminator_gains_when_real_logits_rise_over_fake_ones(name: str) -> None:
    loss = load_plugin(PACKAGE, name).discriminator_loss
    real, fake = _logits()
    for_real, for_fake = torch.autograd.grad(loss(real, fake), [real, fake])
    assert for_real.sum() < 0
    assert for_fake.sum() > 0
    assert loss(real + 0.1, fake - 0.1) < loss(real, fake)


@pytest.mark.parametrize("name", LOSSES)
def test_the_generator_gains_when_fake_logits_rise(name: str) -> None:
    loss = load_plugin(PACKAGE, name).generator_loss
    real, fake = _logits()
    (for_fake,) = torch.autograd.grad(loss(real, fake), fake)
    assert for_fake.sum() < 0
    assert loss(real, fake + 0.1) < loss(real, fake)


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_is_a_mean_and_not_a_sum(name: str) -> None:
    loss = load_plugin(PACKAGE, name)
    real, fake = (x.detach() for x in _logits())
    for function in (loss.discriminator_loss, loss.generator_loss):
        assert torch.allclose(function(real, fake), function(real.repeat(3), fake.repeat(3)))


def test_relativistic_does_not_see_a_constant_added_to_both() -> None:
    real, fake = _logits()
    for function in (relativistic.discriminator_loss, relativistic.generator_loss):
        assert torch.allclose(function(real + 5, fake + 5), function(real, fake), atol=1e-5)
    assert not torch.allclose(
        nonsaturating.discriminator_loss(real + 5, fake + 5), nonsaturating.discriminator_loss(real, fake)
    )


def test_relativistic_pairs_each_fake_with_the_real_image_beside_it() -> None:
    real, fake = _logits()
    assert not torch.allclose(
        relativistic.discriminator_loss(real, fake), relativistic.discriminator_loss(real.flip(0), fake)
    )


def test_known_values() -> None:
    real, fake = torch.tensor([2.0]), torch.tensor([-1.0])
    assert relativistic.discriminator_loss(real, fake).item() == pytest.approx(math.log1p(math.exp(-3)))
    assert relativistic.generator_loss(real, fake).item() == pytest.approx(math.log1p(math.exp(3)))
    wanted = math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))
    assert nonsaturating.discriminator_loss(real, fake).item() == pytest.approx(wanted)
    assert nonsaturating.generator_loss(real, fake).item() == pytest.approx(math.log1p(math.exp(1)))
