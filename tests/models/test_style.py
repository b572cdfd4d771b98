"""The style-based generator: modulation, mapping, mixing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ganaug.models import StyleGenerator, build_network
from ganaug.models.archs import modern, style
from ganaug.models.archs.style import Generator, ModulatedConv, upsample
from ganaug.models.labels import set_class_share
from tests.models.archs import random_sampler, shake
from tests.tiny import NETWORK


def _generator(size: tuple[int, ...] = (16, 16), *, stem: int = 1, blocks: int = 1) -> Generator:
    torch.manual_seed(0)
    settings = {**NETWORK, "base": 4, "stem": stem, "blocks": blocks}
    network = build_network("style", "Generator", settings, size=size, channels=1, classes=3)
    assert isinstance(network, Generator)
    return network


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("demodulate", [True, False])
def test_modulation_is_a_convolution_with_weights_of_each_image(dims: int, demodulate: bool) -> None:
    layer = ModulatedConv(dims, 4, 6, 3, style=5, demodulate=demodulate)
    shake(layer)
    grid = (6, 5, 4)[:dims]
    x, styles = torch.randn(3, 4, *grid), torch.randn(3, 5)
    found = layer(x, styles, grid)
    convolve = F.conv2d if dims == 2 else F.conv3d
    for i in range(3):
        scales = layer.scales(styles[i : i + 1]).view(1, 4, *[1] * dims)
        weight = layer.conv.weight * scales  # equation 1 of StyleGAN2
        if demodulate:
            weight = weight / weight.flatten(1).norm(dim=1).view(-1, 1, *[1] * dims)  # equation 3
        else:
            weight = weight / (4 * 3**dims) ** 0.5
        assert torch.allclose(found[i : i + 1], convolve(x[i : i + 1], weight, layer.bias, padding=1), atol=1e-4)


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_demodulation_takes_the_scale_of_weights_and_styles_out(factor: float) -> None:
    layer = ModulatedConv(2, 8, 8, 3, style=5, demodulate=True)
    x, styles = torch.randn(2, 8, 6, 6), torch.randn(2, 5)
    before = layer(x, styles, (6, 6))
    with torch.no_grad():
        layer.conv.weight.mul_(factor)
    assert torch.allclose(layer(x, styles, (6, 6)), before, atol=1e-3)


def test_upsampling_by_two_is_the_papers_filter() -> None:
    x = torch.randn(1, 1, 5, 5)
    taps = torch.tensor([1.0, 3, 3, 1]) / 4
    kernel = torch.outer(taps, taps)[None, None]
    filtered = F.conv_transpose2d(x, kernel, stride=2, padding=1)
    assert torch.allclose(upsample(x, (10, 10))[..., 1:-1, 1:-1], filtered[..., 1:-1, 1:-1], atol=1e-6)
    assert upsample(x, (5, 5)) is x


def test_it_is_a_style_generator_and_its_discriminator_the_residual_one() -> None:
    assert isinstance(_generator(), StyleGenerator)
    assert not isinstance(
        build_network("modern", "Generator", {**NETWORK, "base": 4, "stem": 1, "blocks": 1, "expansion": 1.0},
                      size=(8, 8), channels=1, classes=2), StyleGenerator
    )  # fmt: skip
    assert style.Discriminator is modern.Discriminator


@pytest.mark.parametrize(("stem", "blocks", "layers"), [(1, 1, 5), (2, 1, 4), (4, 1, 2), (1, 2, 8)])
def test_every_layer_takes_its_own_style(stem: int, blocks: int, layers: int) -> None:
    generator = _generator(stem=stem, blocks=blocks)
    assert generator.layers == layers
    styles = torch.randn(1, layers, 8)
    with torch.no_grad():
        before = generator.synthesize(styles)
        assert before.shape == (1, 1, 16, 16)
        for layer in range(layers):
            changed = styles.clone()
            changed[:, layer] = torch.randn(8)
            assert not torch.equal(generator.synthesize(changed), before)


@pytest.mark.parametrize("stem", [1, 2, 4])
def test_the_finest_details_are_drawn_by_a_convolution_at_full_size(stem: int) -> None:
    generator = _generator(stem=stem)
    seen: list[tuple[int, ...]] = []
    for module in generator.stages.modules():
        if isinstance(module, ModulatedConv):
            module.register_forward_pre_hook(lambda _module, inputs: seen.append(tuple(inputs[0].shape[2:])))
    generator.synthesize(torch.randn(1, generator.layers, 8))
    assert seen[-1] == (16, 16)
    assert sorted(seen) == seen


def test_the_length_of_a_latent_does_not_matter_and_its_direction_and_class_do() -> None:
    generator = _generator()
    latents, labels = torch.randn(4, 8), torch.tensor([0, 1, 2, 0])
    found = generator.map(latents, labels)
    assert found.shape == (4, generator.style_dim)
    assert torch.allclose(generator.map(latents * 7, labels), found, atol=1e-5)
    assert (generator.map(-latents, labels) - found).abs().mean() > 0.05
    assert (generator.map(latents, (labels + 1) % 3) - found).abs().mean() > 0.05


def _mixed(generator: Generator, latents: Tensor, labels: Tensor, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Return the styles that a training pass draws its images from."""
    seen: list[Tensor] = []
    with monkeypatch.context() as patch:
        patch.setattr(generator, "synthesize", seen.append)
        generator.train()(latents, labels)
    return seen[0].detach()


def test_in_training_about_half_of_the_images_take_their_finer_styles_from_another_latent_of_their_class(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = _generator((32, 32))
    latents, labels = torch.randn(1000, 8), torch.arange(1000) % 3
    styles = _mixed(generator, latents, labels, monkeypatch)
    own = generator.map(latents, labels).detach()
    from_own = (styles == own[:, None]).all(2)
    assert from_own[:, 0].all(), "the coarsest style is the image's own"
    others = generator.map(style._second_draw(latents)[0], labels).detach()
    from_other = (styles == others[:, None]).all(2)
    assert (from_own ^ from_other).all()
    assert (from_own[:, :-1] | ~from_own[:, 1:]).all(), "one crossover: own styles first, then the other's"
    crossovers = torch.bincount(from_own.sum(1), minlength=generator.layers + 1)
    assert 430 < crossovers[-1] < 570
    assert (crossovers[1:-1] > 25).all(), "every layer can be the first of the other's"


def test_the_second_latents_are_normal_and_have_nothing_to_do_with_the_first() -> None:
    torch.manual_seed(0)
    latents = torch.randn(20_000, 8)
    others, chance = style._second_draw(latents)
    assert others.mean().abs() < 0.01
    assert others.std() == pytest.approx(1, abs=0.01)
    assert others.pow(4).mean() == pytest.approx(3, abs=0.1)
    joint = torch.cat([latents, latents.abs(), others, chance], dim=1)
    correlation = torch.corrcoef(joint.t())[16:, :] - torch.eye(25)[16:]
    assert correlation.abs().max() < 0.04
    assert 0 <= chance.min() < 0.01 < 0.99 < chance.max() < 1


def test_a_training_pass_makes_the_same_images_however_the_batch_is_divided() -> None:
    generator = _generator().train()
    latents, labels = torch.randn(12, 8), torch.arange(12) % 3
    with torch.no_grad():
        whole = generator(latents, labels)
        parts = [generator(*part) for part in zip(latents.split(5), labels.split(5), strict=True)]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-5)


def test_a_class_that_comes_in_slowly_moves_the_styles_little_at_first() -> None:
    generator = _generator()
    latents, labels = torch.randn(16, 8), torch.zeros(16, dtype=torch.int64)
    moved = []
    for share in (0.0, 0.01, 0.1, 1.0):
        set_class_share(generator, share)
        moved.append(float((generator.map(latents, labels) - generator.map(latents, labels + 1)).abs().mean().detach()))
    assert moved[0] == 0
    assert 0 < moved[1] < moved[2] / 3 < moved[3] / 9


def test_mixing_draws_no_random_numbers_and_stops_in_evaluation_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = _generator()
    latents, labels = torch.randn(16, 8), torch.arange(16) % 3
    state = torch.get_rng_state()
    first = _mixed(generator, latents, labels, monkeypatch)
    assert torch.equal(_mixed(generator, latents, labels, monkeypatch), first)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        trained, evaluated = generator.train()(latents, labels), generator.eval()(latents, labels)
        whole = generator.synthesize(generator.map(latents, labels)[:, None].expand(-1, generator.layers, -1))
    assert torch.equal(evaluated, whole)
    assert not torch.allclose(trained, evaluated, atol=1e-3)


@pytest.mark.parametrize("size", [(16, 12), (9, 12, 10)])
def test_truncation_moves_images_towards_the_image_of_their_classs_mean_style(
    size: tuple[int, ...], tmp_path: Path
) -> None:
    gan = random_sampler("style", tmp_path / "model.safetensors", size=size)
    labels = [0, 1, 2] * 5
    means = gan.draw(torch.stack([gan.mean_style(label) for label in labels]))
    distances = [
        (gan.sample(labels, truncation=psi) - means).square().flatten(1).mean(1) for psi in (1.0, 0.6, 0.3, 0.01)
    ]
    averages = [float(found.mean()) for found in distances]
    assert averages[0] > averages[1] > averages[2] > averages[3]
    assert averages[3] < averages[0] / 100
    apart = torch.pdist(means[:3].flatten(1))
    assert apart.min() > 1e-2, "each class has its own mean"


def test_the_mean_style_is_that_of_many_latents_and_always_the_same(tmp_path: Path) -> None:
    gan = random_sampler("style", tmp_path / "model.safetensors")
    labels = [1] * 4000
    mean = gan.styles(gan.latents(labels, seed=3), torch.tensor(labels)).mean(0)
    spread = gan.styles(gan.latents(labels, seed=3), torch.tensor(labels)).std(0).mean()
    assert (gan.mean_style(1) - mean).abs().max() < 0.2 * spread
    wanted = gan.sample([1, 0, 1], truncation=0.5)
    fresh = random_sampler("style", tmp_path / "model.safetensors")
    assert torch.equal(fresh.sample([0], truncation=0.5)[0], wanted[1])
    assert torch.equal(fresh.sample([1, 0, 1], truncation=0.5), wanted)
