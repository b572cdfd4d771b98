"""The gradient penalty against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ganaug.config import FitConfig
from ganaug.models import build_network
from ganaug.training.penalties import squared_gradient_norms
from tests.tiny import NETWORK, randomize

LABELS = torch.tensor([0, 1])


def _network(stem: int) -> tuple[nn.Module, Tensor]:
    settings = vars(FitConfig(**{**NETWORK, "stem": stem}))
    network = build_network("modern", "Discriminator", settings, size=(8, 6), channels=1, classes=2).double()
    randomize(network)
    images = torch.randn(2, 1, 8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return network, images.requires_grad_()


@pytest.mark.parametrize("stem", [1, 2])
def test_it_is_the_squared_length_of_the_logits_slope(stem: int) -> None:
    network, images = _network(stem)
    found = squared_gradient_norms(network(images, LABELS), images)
    small = 1e-6  # the network is piecewise linear: a small step crosses no kink
    wanted = torch.zeros(2, dtype=torch.float64)
    with torch.no_grad():
        for y in range(8):
            for x in range(6):
                step = torch.zeros_like(images)
                step[:, :, y, x] = small
                slope = (network(images + step, LABELS) - network(images - step, LABELS)) / (2 * small)
                wanted += slope.square()
    assert found.shape == (2,)
    assert torch.allclose(found.double(), wanted, rtol=1e-4)


def test_its_own_gradient_matches_finite_differences() -> None:
    network, images = _network(1)
    # A bend after the logit, so that the slope depends on every parameter smoothly.
    parameters = dict(network.named_parameters())

    def penalty() -> Tensor:
        (slope,) = torch.autograd.grad(network(images, LABELS).tanh().sum(), images, create_graph=True)
        return slope.square().sum()

    ours = squared_gradient_norms(network(images, LABELS).tanh(), images).sum()
    assert ours.item() == pytest.approx(penalty().item(), rel=1e-5)
    gradients = torch.autograd.grad(ours, list(parameters.values()), allow_unused=True)
    small = 1e-6
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(direction, alpha=sign * small)
            values.append(penalty().item())
            with torch.no_grad():
                parameter.add_(direction, alpha=-sign * small)
        wanted = (values[0] - values[1]) / (2 * small)
        found = 0.0 if gradient is None else float((gradient * direction).sum())
        assert found == pytest.approx(wanted, rel=1e-3, abs=1e-4), name


def test_each_image_has_its_own() -> None:
    network, images = _network(1)
    together = squared_gradient_norms(network(images, LABELS), images)
    for i in range(2):
        alone = images.detach()[i : i + 1].requires_grad_()
        assert torch.allclose(together[i], squared_gradient_norms(network(alone, LABELS[i : i + 1]), alone)[0])


def test_it_is_float32_whatever_the_network_ran_in() -> None:
    network, images = _network(1)
    network, images = network.float(), images.detach().float().requires_grad_()
    exact = squared_gradient_norms(network(images, LABELS), images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = squared_gradient_norms(network(images, LABELS).float(), images)
    assert rough.dtype == torch.float32
    assert torch.allclose(rough, exact, rtol=0.1)
