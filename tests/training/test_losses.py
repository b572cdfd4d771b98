"""The contract of every adversarial loss."""

from __future__ import annotations

from math import exp, log

import pytest
import torch
from torch import Tensor

from ganaug.config import PENALTIES
from ganaug.plugins import load_plugin, plugin_names
from ganaug.training.losses import hinge, lsgan, minimax, nonsaturating, relativistic

PACKAGE = "ganaug.training.losses"
LOSSES = plugin_names(PACKAGE)

REAL, FAKE = (2.0, -0.5), (-1.0, 1.5)
BY_HAND: dict[str, tuple[float, float]] = {
    # -log σ(t) = log(1 + exp(-t)), of what the real image is ahead by: 3 and -2.
    "relativistic": (
        (log(1 + exp(-3)) + log(1 + exp(2))) / 2,
        (log(1 + exp(3)) + log(1 + exp(-2))) / 2,
    ),
    "nonsaturating": (
        (log(1 + exp(-2)) + log(1 + exp(0.5))) / 2 + (log(1 + exp(-1)) + log(1 + exp(1.5))) / 2,
        (log(1 + exp(1)) + log(1 + exp(-1.5))) / 2,
    ),
    # log(1 - σ(t)) = -log(1 + exp(t))
    "minimax": (
        (log(1 + exp(-2)) + log(1 + exp(0.5))) / 2 + (log(1 + exp(-1)) + log(1 + exp(1.5))) / 2,
        -(log(1 + exp(-1)) + log(1 + exp(1.5))) / 2,
    ),
    "hinge": ((0 + 1.5) / 2 + (0 + 2.5) / 2, -(-1 + 1.5) / 2),
    "lsgan": ((1 + 2.25) / 4 + (1 + 2.25) / 4, (4 + 0.25) / 4),
    "wgan_clip": ((-1 + 1.5) / 2 - (2 - 0.5) / 2, -(-1 + 1.5) / 2),
    "wgan_gp": ((-1 + 1.5) / 2 - (2 - 0.5) / 2, -(-1 + 1.5) / 2),
}
"""The discriminator's and the generator's loss of the logits REAL and FAKE, by the papers' formulas."""

IN_THE_PAPER = {"wgan_clip": ("clip", 5), "wgan_gp": ("gradient-penalty", 5)}
"""Penalty and steps of the discriminator, where the paper has its own."""


def _logits(seed: int = 0, count: int = 16) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    real, fake = torch.randn(2, count, generator=source)
    return real.requires_grad_(), fake.requires_grad_()


@pytest.mark.parametrize("name", LOSSES)
def test_it_is_the_papers_formula_on_numbers_worked_out_by_hand(name: str) -> None:
    loss = load_plugin(PACKAGE, name)
    real, fake = torch.tensor(REAL), torch.tensor(FAKE)
    found = loss.discriminator_loss(real, fake).item(), loss.generator_loss(real, fake).item()
    assert found == pytest.approx(BY_HAND[name], rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_it_names_the_regularization_and_the_steps_that_it_works_with(name: str) -> None:
    loss = load_plugin(PACKAGE, name)
    assert loss.PENALTY in set(PENALTIES) - {"auto", "none"}
    assert IN_THE_PAPER.get(name, ("r1r2", 1)) == (loss.PENALTY, loss.CRITIC_STEPS)


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


def test_where_the_discriminator_is_sure_of_a_fake_the_minimax_generator_hardly_learns() -> None:
    real, fake = torch.tensor([8.0]), torch.tensor([-8.0], requires_grad=True)
    slopes = [torch.autograd.grad(game.generator_loss(real, fake), fake)[0].item() for game in (minimax, nonsaturating)]
    sure = 1 / (1 + exp(8))
    assert slopes == pytest.approx([-sure, sure - 1], rel=1e-4)


def test_beyond_its_margin_the_hinge_lets_the_discriminator_rest_and_least_squares_pulls_it_back() -> None:
    for loss, wanted in ((hinge, (0.0, 0.0)), (lsgan, (2.0, -3.0))):
        real, fake = torch.tensor([3.0], requires_grad=True), torch.tensor([-3.0], requires_grad=True)
        slopes = torch.autograd.grad(loss.discriminator_loss(real, fake), [real, fake])
        assert tuple(slope.item() for slope in slopes) == wanted
