"""What every architecture promises, whatever its networks look like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ganaug.models import build_network
from ganaug.models.modelfile import load_model
from ganaug.plugins import plugin_names
from ganaug.sampling.sampler import Sampler
from tests.models.archs import learn_templates, random_sampler, sampler_of, shake, tiny_gan
from tests.tiny import NETWORK

ARCHS = plugin_names("ganaug.models.archs")
SIZES = [(8, 8), (45, 37), (9, 16, 12), (23, 14, 15)]


def _networks(arch: str, size: tuple[int, ...], *, channels: int = 1, stem: int = 1) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    settings = {**NETWORK, "blocks": 1, "expansion": 2.0, "base": 4, "stem": stem}
    generator, discriminator = (
        build_network(arch, part, settings, size=size, channels=channels, classes=3)
        for part in ("Generator", "Discriminator")
    )
    return generator, discriminator


def test_the_three_architectures_are_found() -> None:
    assert {"dcgan", "modern", "style"} <= set(ARCHS)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("stem", [1, 2, 4])
@pytest.mark.parametrize(("size", "channels"), list(zip(SIZES, (3, 1, 2, 1), strict=True)))
def test_any_size_and_channel_count_goes_through_and_gradients_reach_all_weights(
    arch: str, size: tuple[int, ...], channels: int, stem: int
) -> None:
    generator, discriminator = _networks(arch, size, channels=channels, stem=stem)
    shake(generator)
    shake(discriminator)
    latents, labels = torch.randn(6, 8), torch.arange(6) % 3
    images = generator(latents, labels)
    assert images.shape == (6, channels, *size)
    logits = discriminator(images, labels)
    assert logits.shape == (6,)
    logits.tanh().sum().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.any(), name


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("size", [(31, 22), (9, 16, 11)])
@pytest.mark.parametrize("stem", [1, 2, 4])
def test_every_pixel_reaches_the_logit_and_is_reached_by_the_latents(
    arch: str, size: tuple[int, ...], stem: int
) -> None:
    generator, discriminator = _networks(arch, size, stem=stem)
    shake(generator)
    shake(discriminator)
    labels = torch.zeros(8, dtype=torch.int64)
    images = generator(torch.randn(8, 8), labels).detach().requires_grad_()
    assert (images.std(0) > 0).all()
    (slope,) = torch.autograd.grad(discriminator(images, labels).sum(), images)
    assert (slope.abs().sum(0) > 0).all()


@pytest.mark.parametrize("arch", ARCHS)
def test_logits_see_their_own_image_alone_and_so_do_images_in_evaluation_mode(arch: str) -> None:
    latents, images, labels = torch.randn(4, 8), torch.randn(4, 1, 16, 16), torch.tensor([0, 1, 2, 0])
    generator, discriminator = _networks(arch, (16, 16))
    for network, inputs in ((generator.eval(), latents), (discriminator, images)):
        shake(network)
        whole = network(inputs, labels)
        alone = torch.cat([network(inputs[i : i + 1], labels[i : i + 1]) for i in range(4)])
        assert torch.allclose(whole, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch", ARCHS)
def test_the_class_reaches_the_image_and_the_logit_from_the_start(arch: str) -> None:
    generator, discriminator = _networks(arch, (16, 16))
    images = generator.eval()(torch.randn(1, 8).repeat(3, 1), torch.arange(3))
    assert torch.pdist(images.flatten(1)).min() > 0.1
    logits = discriminator(torch.randn(1, 1, 16, 16).repeat(3, 1, 1, 1), torch.arange(3))
    assert len(set(logits.tolist())) == 3


@pytest.mark.parametrize("arch", ARCHS)
def test_the_first_images_and_logits_have_a_sensible_scale(arch: str) -> None:
    settings = {**NETWORK, "widths": (64, 32, 16), "blocks": 1, "expansion": 2.0, "base": 4, "stem": 1}
    for size in ((16, 16), (45, 37), (24, 16, 20)):
        generator, discriminator = (
            build_network(arch, part, settings, size=size, channels=1, classes=3)
            for part in ("Generator", "Discriminator")
        )
        labels = torch.arange(16) % 3
        with torch.no_grad():
            images = generator(torch.randn(16, 8), labels)
            logits = discriminator(images.clamp(-1, 1), labels)
        assert 0.1 < images.std() < 3
        assert 0.01 < logits.std() < 10


@pytest.fixture(scope="module", params=ARCHS)
def samplers(request: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Sampler]:
    """Untrained samplers of one architecture: of color images and of volumes whose sides are odd."""
    folder = tmp_path_factory.mktemp(request.param)
    return [
        random_sampler(request.param, folder / "color.safetensors", size=(13, 22), channels=3),
        random_sampler(request.param, folder / "volumes.safetensors", size=(9, 13, 10), channels=2),
    ]


@pytest.mark.parametrize("truncation", [1.0, 0.6])
def test_an_image_is_bitwise_the_same_in_any_batch_and_order(samplers: list[Sampler], truncation: float) -> None:
    for gan in samplers:
        labels = [i % 3 for i in range(70)]
        indices = [i * i for i in range(70)]
        whole = gan.sample(labels, indices=indices, seed=7, truncation=truncation)
        assert torch.pdist(whole.flatten(1)).min() > 1e-4
        order = torch.randperm(70, generator=torch.Generator().manual_seed(1)).tolist()[:40]
        for chosen in (order, order[:3], order[:1], [69], list(range(60, 70))):
            again = gan.sample(
                [labels[i] for i in chosen], indices=[indices[i] for i in chosen], seed=7, truncation=truncation
            )
            assert torch.equal(again, whole[chosen])


def test_truncation_draws_images_together(samplers: list[Sampler]) -> None:
    for gan in samplers:
        spread = [float(torch.pdist(gan.sample([1] * 30, truncation=psi).flatten(1)).mean()) for psi in (1.0, 0.5, 0.1)]
        assert spread[0] > spread[1] > spread[2] > 0


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("size", [(12, 16), (8, 12, 8)])
def test_a_trained_generator_survives_its_model_file(arch: str, size: tuple[int, ...], tmp_path: Path) -> None:
    gan = tiny_gan(arch, size=size)
    batch = torch.rand(8, 1, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1, torch.arange(8) % 2
    for step in range(3):
        gan.step(*batch, step, step / 3)
    loaded = sampler_of(gan, tmp_path / "model.safetensors", size=size)
    generator, header, _ = load_model(tmp_path / "model.safetensors")
    assert header.settings["arch"] == arch
    assert not generator.training
    state = gan.average.state_dict()
    for name, value in generator.state_dict().items():
        assert torch.equal(value, state[name]), name
    latents, labels = loaded.latents([0, 1] * 32), torch.tensor([0, 1] * 32)
    assert torch.equal(loaded.sample([0, 1] * 32), gan.sample(latents, labels))


@pytest.mark.parametrize("arch", ARCHS)
def test_where_labels_are_ignored_all_classes_are_one_and_the_latent_still_matters(arch: str, tmp_path: Path) -> None:
    gan = tiny_gan(arch, labels="ignored", classes=3)
    batch = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1, torch.arange(8) % 3
    other = tiny_gan(arch, labels="ignored", classes=3)
    for step in range(3):
        gan.step(*batch, step, step / 3)
        other.step(batch[0], torch.zeros(8, dtype=torch.int64), step, step / 3)
    assert [name for name, value in gan.tensors().items() if not torch.equal(value, other.tensors()[name])] == []
    loaded = sampler_of(gan, tmp_path / "model.safetensors", size=(16, 16), classes=3)
    latents = loaded.latents([0] * 4)
    images = [loaded.decode(latents, torch.full((4,), label)) for label in range(3)]
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[0], images[2])
    assert torch.pdist(images[0].flatten(1)).min() > 0.1


@pytest.mark.parametrize("arch", ARCHS)
def test_after_loading_its_state_a_training_goes_on_bitwise_equal(arch: str) -> None:
    trained, fresh = tiny_gan(arch), tiny_gan(arch, seed=5)
    batch = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1, torch.arange(8) % 2
    for step in range(3):
        trained.step(*batch, step, step / 6)
    fresh.config = trained.config
    fresh.load_tensors({name: value.clone().contiguous() for name, value in trained.tensors().items()})
    torch.manual_seed(123)  # the global random state takes no part
    for step in range(3, 6):
        for gan in (trained, fresh):
            gan.step(*batch, step, step / 6)
    assert [name for name, value in trained.tensors().items() if not torch.equal(value, fresh.tensors()[name])] == []


@pytest.mark.parametrize(
    ("arch", "size", "steps"),
    [
        ("dcgan", (8, 8), 100),
        ("dcgan", (8, 8, 8), 80),
        ("style", (8, 8), 150),
        pytest.param("style", (8, 8, 8), 150, marks=pytest.mark.slow),
    ],
)
def test_a_few_seconds_of_training_bring_each_class_to_its_template(
    arch: str, size: tuple[int, ...], steps: int
) -> None:
    settings: dict[str, Any] = {"gamma": (1.0, 0.3), "ema_half_life_kimg": (0.0, 0.1), "augment": "none"}
    gan = tiny_gan(arch, size=size, lr=(1e-2, 2e-3), **settings)
    before, after = learn_templates(gan, size, steps=steps)
    for c in (0, 1):
        assert after[c, c] < before[c, c] / 2
        assert after[c, c] < after[c, 1 - c] / 2


@pytest.mark.parametrize("arch", ["dcgan", "style"])
@pytest.mark.parametrize(("size", "stem"), [((13, 22), 2), ((8, 12, 9), 1)])
def test_steps_in_bf16_stay_finite_and_train_float32_weights(arch: str, size: tuple[int, ...], stem: int) -> None:
    gan = tiny_gan(arch, size=size, channels=3, stem=stem, bf16=True)
    batch = torch.rand(8, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1, torch.arange(8) % 2
    before = {name: value.clone() for name, value in gan.tensors().items()}
    for step in range(3):
        metrics = gan.step(*batch, step, step / 3)
        assert all(torch.isfinite(value) for value in metrics.values())
    after = gan.tensors()
    still = {name for name, v in before.items() if torch.equal(v, after[name]) and not name.endswith(".share")}
    # A relativistic loss does not see a constant; gamma is not steered here.
    assert still <= {"discriminator/logit.bias", "steering/gamma_log"}
    assert {value.dtype for value in after.values()} == {torch.float32}
