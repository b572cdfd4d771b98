"""The networks: any size, identity at first, and the class matters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganaug.config import FitConfig
from ganaug.models import build_network, channels_last, place
from ganaug.models.archs.modern import FILM_ABOVE, Discriminator, Generator, ResidualBlock, downsample
from ganaug.training.penalties import backward_penalized, squared_gradient_norms
from tests.tiny import NETWORK, randomize

SIZES = [(8, 8), (28, 28), (45, 37), (64, 48), (9, 16, 12), (24, 32, 32), (23, 28, 31)]


def _network(part: str, size: tuple[int, ...], *, channels: int = 1, stem: int = 1, **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    settings = vars(FitConfig(**{**NETWORK, "stem": stem, **changes}))
    return build_network("modern", part, settings, size=size, channels=channels, classes=3)


@pytest.mark.parametrize("stem", [1, 2, 4])
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("size", SIZES)
def test_any_size_and_channel_count_goes_through_both_networks(size: tuple[int, ...], channels: int, stem: int) -> None:
    generator, discriminator = (
        _network(part, size, channels=channels, stem=stem) for part in ("Generator", "Discriminator")
    )
    randomize(generator)
    latents, labels = torch.randn(2, 8), torch.tensor([0, 2])
    images = generator(latents, labels)
    assert images.shape == (2, channels, *size)
    logits = discriminator(images, labels)
    assert logits.shape == (2,)
    logits.sum().backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("size", [(28, 28), (9, 16, 12)])
def test_every_pixel_reaches_the_logit_and_is_reached_by_the_latents(size: tuple[int, ...]) -> None:
    generator, discriminator = (_network(part, size, stem=2) for part in ("Generator", "Discriminator"))
    randomize(generator)
    randomize(discriminator)
    images = generator(torch.randn(8, 8), torch.zeros(8, dtype=torch.int64)).detach().requires_grad_()
    assert (images.std(0) > 0).all()
    (slope,) = torch.autograd.grad(discriminator(images, torch.zeros(8, dtype=torch.int64)).sum(), images)
    assert (slope.abs().sum(0) > 0).all()


@pytest.mark.parametrize("size", [(28, 28), (9, 16, 12)])
@pytest.mark.parametrize("part", ["Generator", "Discriminator"])
def test_at_first_every_residual_block_is_the_identity(part: str, size: tuple[int, ...]) -> None:
    network = _network(part, size, blocks=2)
    blocks = [module for module in network.modules() if isinstance(module, ResidualBlock)]
    assert len(blocks) == 6
    for block in blocks:
        x = torch.randn(2, block.reduce.weight.shape[1], *[4] * len(size))
        assert torch.equal(block(x, torch.randn(2, 4)), x)


def test_film_modulates_only_above_its_size_and_not_at_first() -> None:
    generator = _network("Generator", (32, 32))
    assert isinstance(generator, Generator)
    for grid, stage in zip(generator.grids, generator.stages, strict=True):
        assert isinstance(stage, nn.ModuleList)
        for block in stage:
            assert isinstance(block, ResidualBlock)
            assert (block.film is not None) == (max(grid) > FILM_ABOVE)
            if block.film is not None:
                assert not any(parameter.any() for parameter in block.film.parameters())


def test_the_class_reaches_the_image_through_film_alone_once_film_is_not_zero() -> None:
    generator = _network("Generator", (16, 16))
    assert isinstance(generator, Generator)
    latents, labels = torch.randn(1, 8).repeat(3, 1), torch.arange(3)
    with torch.no_grad():
        generator.input.weight[:, 8:] = 0  # the other way in: the embedding joined to z
        for block in generator.modules():
            if isinstance(block, ResidualBlock):
                nn.init.normal_(block.expand.weight, std=0.3)
        before = generator(latents, labels)
        for block in generator.modules():
            if isinstance(block, ResidualBlock) and block.film is not None:
                nn.init.normal_(block.film.weight, std=0.3)
        after = generator(latents, labels)
    assert torch.equal(before[0], before[1])
    assert (after[0] - after[1]).abs().mean() > 0.01
    assert (after[0] - after[2]).abs().mean() > 0.01


def test_the_class_reaches_the_image_through_the_embedding_from_the_start() -> None:
    generator = _network("Generator", (16, 16))
    images = generator(torch.randn(1, 8).repeat(2, 1), torch.tensor([0, 1]))
    assert (images[0] - images[1]).abs().mean() > 0.01


def test_the_class_changes_the_logit_of_the_same_image() -> None:
    discriminator = _network("Discriminator", (16, 16))
    logits = discriminator(torch.randn(1, 1, 16, 16).repeat(3, 1, 1, 1), torch.arange(3))
    assert len(set(logits.tolist())) == 3
    assert isinstance(discriminator, Discriminator)
    nn.init.zeros_(discriminator.project.weight)
    logits = discriminator(torch.randn(1, 1, 16, 16).repeat(3, 1, 1, 1), torch.arange(3))
    assert torch.allclose(logits, logits[:1].expand(3))


@pytest.mark.parametrize("part", ["Generator", "Discriminator"])
def test_images_of_a_batch_do_not_see_each_other(part: str) -> None:
    """No batch statistics: a relativistic pair and a gradient penalty need each logit to come from its own image."""
    network = _network(part, (16, 16)).double()
    randomize(network)
    inputs = (torch.randn(4, 8) if part == "Generator" else torch.randn(4, 1, 16, 16)).double()
    labels = torch.tensor([0, 1, 2, 0])
    whole = network(inputs, labels)
    assert torch.allclose(whole, torch.cat([network(inputs[i : i + 1], labels[i : i + 1]) for i in range(4)]))


def test_the_first_images_and_logits_have_a_sensible_scale() -> None:
    for size in ((16, 16), (45, 37), (96, 96), (24, 32, 32)):
        generator, discriminator = (
            _network(part, size, widths=(64, 32, 16)) for part in ("Generator", "Discriminator")
        )
        labels = torch.arange(16) % 3
        with torch.no_grad():
            images = generator(torch.randn(16, 8), labels)
            logits = discriminator(images.clamp(-1, 1), labels)
        assert 0.1 < images.std() < 3
        assert 0.01 < logits.std() < 10


@pytest.mark.parametrize("size", [(16, 16), (9, 16, 12)])
def test_place_keeps_the_numbers_and_lays_convolutions_out_channels_last(size: tuple[int, ...]) -> None:
    generator, discriminator = (_network(part, size) for part in ("Generator", "Discriminator"))
    labels = torch.tensor([0, 1])
    images = generator(torch.randn(2, 8), labels)
    before = discriminator(images, labels)
    after = place(discriminator, "cpu")(images, labels)
    assert torch.allclose(after, before, atol=1e-5)
    weights = [p for p in discriminator.parameters() if p.ndim > 2]
    assert len(weights) > 6
    assert all(weight.stride(1) == 1 for weight in weights), "also with one input channel, where both layouts agree"
    assert isinstance(discriminator, Discriminator)
    assert discriminator.input(images).stride(1) == 1


@pytest.mark.parametrize(("size", "grid"), [((8, 6, 10), (4, 3, 5)), ((7, 6, 10), (4, 3, 5)), ((8, 6), (4, 3))])
def test_downsampling_averages_areas_in_the_type_and_layout_of_its_input(
    size: tuple[int, ...], grid: tuple[int, ...]
) -> None:
    images = torch.randn(2, 3, *size)
    area = nn.functional.interpolate(images, size=grid, mode="area")
    assert torch.allclose(downsample(images, grid), area, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coarse = downsample(channels_last(images.bfloat16()), grid)
    assert coarse.dtype == torch.bfloat16
    assert coarse.stride(1) == 1
    assert torch.allclose(coarse.float(), area, atol=0.03)


@pytest.mark.parametrize("stem", [1, 2])
def test_the_gradient_penalty_of_a_volume_and_its_own_gradient_match_finite_differences(stem: int) -> None:
    size, labels, small = (4, 6, 5), torch.tensor([0, 1]), 1e-6
    network = place(_network("Discriminator", size, channels=2, stem=stem), "cpu").double()
    randomize(network)
    source = torch.Generator().manual_seed(1)
    volumes = torch.randn(2, 2, *size, dtype=torch.float64, generator=source).requires_grad_()

    def slopes(direction: Tensor) -> Tensor:
        return (network(volumes + small * direction, labels) - network(volumes - small * direction, labels)) / small / 2

    found = squared_gradient_norms(network(volumes, labels), volumes)
    wanted = torch.zeros(2, dtype=torch.float64)
    with torch.no_grad():
        for one_voxel in torch.eye(volumes[0].numel(), dtype=torch.float64).view(-1, 1, 2, *size):
            wanted += slopes(one_voxel).square()
    assert torch.allclose(found.double(), wanted, rtol=1e-4)

    parameters = [p for name, p in network.named_parameters() if name.startswith(("input", "stages", "changes"))]

    def value() -> float:
        (slope,) = torch.autograd.grad(network(volumes, labels).tanh().sum(), volumes)
        return float(slope.square().sum())

    # A bend after the logit, so that the slope depends on every parameter smoothly.
    penalty = squared_gradient_norms(network(volumes, labels).tanh(), volumes).sum()
    for parameter, gradient in zip(parameters, torch.autograd.grad(penalty, parameters), strict=True):
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=source)
        values = []
        for step in (small, -2 * small, small):
            with torch.no_grad():
                parameter.add_(direction, alpha=step)
            values.append(value())
        assert float((gradient * direction).sum()) == pytest.approx((values[0] - values[1]) / 2 / small, rel=1e-3)


def _step(network: nn.Module, images: Tensor, gamma: Tensor, *, twice: bool) -> Tensor:
    """Return the gradients of a loss and a penalty, in one vector, found by differentiating twice or without."""
    labels = torch.arange(len(images)) % 3
    network.zero_grad()

    def objective(logits: Tensor) -> Tensor:
        real, fake = logits.chunk(2)
        return nn.functional.softplus(fake - real).mean()

    if twice:
        images = images.detach().requires_grad_()
        logits = network(images, labels).float()
        norms = squared_gradient_norms(logits, images)
        (objective(logits) + (gamma * norms).sum()).backward()
    else:
        logits, norms = backward_penalized(network, images, labels, objective, gamma)
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None] + [logits, norms]).detach()


@pytest.mark.parametrize(
    ("size", "channels", "stem"), [((12, 8), 1, 1), ((9, 11), 3, 1), ((16, 16), 2, 2), ((8, 6, 10), 1, 2)]
)
def test_the_penalized_step_is_that_of_differentiating_twice(size: tuple[int, ...], channels: int, stem: int) -> None:
    network = place(_network("Discriminator", size, channels=channels, stem=stem, blocks=2), "cpu").double()
    randomize(network)
    source = torch.Generator().manual_seed(1)
    images = torch.randn(12, channels, *size, dtype=torch.float64, generator=source)
    gamma = torch.rand(12, generator=source)
    gamma[3] = 0  # as on fakes under R1 alone
    wanted = _step(network, images, gamma, twice=True)
    found = _step(network, images, gamma, twice=False)
    assert found.shape == wanted.shape
    weights = slice(-2 * len(images))
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-6 * float(wanted[weights].abs().max()))


def test_the_penalized_step_in_bfloat16_is_near_to_differentiating_twice_in_bfloat16() -> None:
    network = place(_network("Discriminator", (16, 16), widths=(64, 32), blocks=2), "cpu")
    randomize(network, scale=0.1)
    source = torch.Generator().manual_seed(1)
    images, gamma = torch.randn(16, 1, 16, 16, generator=source), torch.full((16,), 20.0)  # the penalty dominates
    weights = slice(-2 * len(images))  # without the logits and norms, which are large and the same for both
    exact = _step(network, images, gamma, twice=True)[weights]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        twice, ours = (_step(network, images, gamma, twice=twice)[weights] for twice in (True, False))
    assert (ours - twice).norm() < 0.05 * twice.norm()
    assert (ours - exact).norm() < 1.2 * (twice - exact).norm()


def test_an_image_that_the_loss_has_no_use_for_still_has_its_penalty() -> None:
    network = _network("Discriminator", (8, 8)).double()
    randomize(network)
    images, labels = torch.randn(4, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    backward_penalized(network, images, labels, lambda logits: 0 * logits.sum(), torch.ones(4))
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    images = images.requires_grad_()
    squared_gradient_norms(network(images, labels), images).sum().backward()
    wanted = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert wanted["input.weight"].abs().max() > 1
    for name, gradient in wanted.items():
        assert torch.allclose(found[name], gradient, rtol=1e-4, atol=1e-5), name


def test_build_network_takes_its_settings_from_all_of_a_config() -> None:
    narrow, wide = (
        sum(p.numel() for p in _network("Generator", (16, 16), widths=widths).parameters())
        for widths in ((8, 8), (32, 16))
    )
    assert narrow < wide
