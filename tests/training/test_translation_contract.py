"""The contract of the translation GANs, next to that of the conditional one (`test_contract.py`): a step trains every
weight in either precision, it resumes bitwise with its image pool, and it is the same however it is divided."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ganaug.config import FitConfig
from ganaug.errors import ConfigError
from ganaug.models.translation import Translation
from ganaug.plugins import load_plugin
from ganaug.training.gans import cyclegan
from ganaug.training.gans._translation import LOSSES, TranslationGAN
from tests.tiny import UINT8, randomize

TINY: dict[str, Any] = {
    "arch": "resnet",
    "loss": "lsgan",
    "widths": (8, 4),
    "group_width": 4,
    "label_dim": 4,
    "batch": 12,
    "pool": 3,
    "augment_p": (0.5, 0.5),
}
INVERTING: dict[str, Any] = {
    "batch": 16,
    "widths": (16, 16),
    "group_width": 8,
    "gamma": (0.3, 0.03),
    "lr": (4e-3, 4e-3),
    "beta2": (0.9, 0.99),
    "ema_half_life_kimg": (0.0, 0.1),
    "cycle_weight": 2.0,
    "identity_weight": (0.0, 0.0),
    "augment": "none",
}
KINDS = [("cyclegan", 2, "style"), ("cyclegan", 2, "class"), ("cyclegan", 3, "class"), ("pix2pix", 2, "style")]
SIZES = {"2d": (12, 10), "3d": (6, 8, 7)}


def _translation(domains: int, rule: str, **changes: Any) -> Translation:
    names = tuple("abcd"[:domains])
    values = {"targets": names, "labels": (), "residual": rule == "class", "degrade": ""} | changes
    return Translation(rule=rule, domains=names, intensities=(UINT8,) * domains, **values)


def _gan(
    model: str, domains: int, rule: str, *, size: tuple[int, ...] = SIZES["2d"], bf16: bool = False, **changes: Any
) -> TranslationGAN:
    config = FitConfig(**{**TINY, "model": model, **changes})
    gan: TranslationGAN = load_plugin("ganaug.training.gans", model).GAN(
        config,
        size=size,
        channels=2,
        translation=_translation(domains, rule),
        device=torch.device("cpu"),
        bf16=bf16,
    )
    return gan


def _batch(gan: TranslationGAN, step: int, size: tuple[int, ...] = SIZES["2d"]) -> tuple[Tensor, ...]:
    return gan.random_batch(12, torch.Generator().manual_seed(step), shape=(2, *size))  # type: ignore[no-any-return, operator]


@pytest.mark.parametrize("dims", SIZES)
@pytest.mark.parametrize(("model", "domains", "rule"), KINDS)
def test_a_step_trains_every_weight_and_is_nearly_the_same_in_bf16(
    model: str, domains: int, rule: str, dims: str
) -> None:
    first = []
    for bf16 in (False, True):
        gan = _gan(model, domains, rule, size=SIZES[dims], bf16=bf16)
        randomize(gan.generator, scale=0.1)  # nothing hides behind a zero initialization
        before = {name: value.clone() for name, value in gan.tensors().items()}
        first.append({k: float(v) for k, v in gan.step(*_batch(gan, 0, SIZES[dims]), 0, 0.5).items()})
        after = gan.tensors()
        assert all(torch.isfinite(value).all() for value in after.values())
        parts = {"generator": gan.generator, "discriminator": gan.discriminator}
        weights = [f"{part}/{name}" for part, network in parts.items() for name, _ in network.named_parameters()]
        assert {name for name in weights if torch.equal(before[name], after[name])} == set()
    assert {"loss_d", "loss_g"} <= first[0].keys()
    assert first[1] == pytest.approx(first[0], rel=0.1, abs=0.02)


@pytest.mark.parametrize(("model", "domains", "rule"), KINDS)
def test_after_loading_its_state_it_goes_on_bitwise_equal(model: str, domains: int, rule: str) -> None:
    trained, fresh = (_gan(model, domains, rule, seed=seed) for seed in (0, 5))
    for step in range(3):
        trained.step(*_batch(trained, step), step, step / 8)
    fresh.config = trained.config
    if isinstance(fresh, cyclegan.GAN):
        fresh.pool.seed = trained.config.seed
    fresh.load_tensors({name: value.clone().contiguous() for name, value in trained.tensors().items()})
    for step in range(3, 7):
        for gan in (trained, fresh):
            gan.step(*_batch(gan, step), step, step / 8)
    different = [name for name, value in trained.tensors().items() if not torch.equal(value, fresh.tensors()[name])]
    assert different == []
    assert model != "cyclegan" or any(name.startswith("pool/") for name in trained.tensors())


@pytest.mark.parametrize("loss", LOSSES)
def test_it_learns_to_invert_images_without_pairs(loss: str) -> None:
    """Domain b is the negative of a: a translation must find it from the two sets alone. From some weights it settles
    on another map for a while, which nothing in the two sets contradicts; from one of three it has to find this one."""
    assert any(_inversion_error(_inverting(loss, seed)) < 0.2 for seed in range(3))  # of the untouched image 1.5


def _inverting(loss: str, seed: int) -> TranslationGAN:
    gan = _gan("cyclegan", 2, "style", size=(8, 8), loss=loss, seed=seed, **INVERTING)
    random = torch.Generator().manual_seed(0)
    domains, labels = torch.arange(16) % 2, torch.zeros(16, dtype=torch.int64)
    for step in range(150):
        images = _blobs(16, random) * (1 - 2 * domains.view(-1, 1, 1, 1))
        gan.step(images, domains, labels, step, step / 150)
    return gan


def _blobs(count: int, random: torch.Generator) -> Tensor:
    """Return dark images with a bright block at a random place, 2 channels."""
    images = torch.full((count, 2, 8, 8), -0.8)
    for image in images:
        y, x = torch.randint(6, (2,), generator=random).tolist()
        image[:, y : y + 3, x : x + 3] = 0.4
    return images


def _inversion_error(gan: TranslationGAN) -> float:
    images = _blobs(32, torch.Generator().manual_seed(1))
    return float((gan.translate(images, torch.ones(32, dtype=torch.int64)) + images).abs().mean())


def test_a_loss_with_its_own_penalty_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"wgan_gp.*one of lsgan"):
        _gan("cyclegan", 2, "style", loss="wgan_gp")


@pytest.mark.parametrize("domains", [2, 3])
def test_a_target_is_always_another_domain_and_all_of_them_come(domains: int) -> None:
    gan = _gan("cyclegan", domains, "class")
    assert isinstance(gan, cyclegan.GAN)
    of = torch.arange(120) % domains
    targets = gan._targets(of, 3, torch.arange(120), 120)
    assert bool((targets != of).all())
    assert {(int(a), int(b)) for a, b in zip(of, targets, strict=True)} == {
        (a, b) for a in range(domains) for b in range(domains) if a != b
    }


def test_the_discriminator_sees_real_images_of_the_fakes_domain_beside_them() -> None:
    domains, targets = torch.tensor([0, 1, 0, 1, 0, 1]), torch.tensor([1, 0, 1, 0, 1, 0])
    real = torch.tensor([0.0, 10.0, 1.0, 11.0, 2.0, 12.0])[:, None]
    assert cyclegan._beside(real, domains, targets)[:, 0].tolist() == [10, 0, 11, 1, 12, 2]


def test_the_mask_is_open_at_first_and_its_penalty_comes_later() -> None:
    """At first nothing is changed: a penalty would shut the mask before there is anything to let through."""
    gan = _gan("cyclegan", 2, "class")
    images = _batch(gan, 0)[0]
    made, mask = gan.net.route(images, 1)
    assert torch.equal(made, images)
    assert mask is not None
    assert float(mask.detach().mean()) > 0.8
    assert float(gan.step(*_batch(gan, 0), 0, 0.0)["loss_mask"]) == 0
    penalties = [float(gan.step(*_batch(gan, 1), 1, progress)["loss_mask"]) for progress in (0.25, 0.5, 1.0)]
    assert 0 < penalties[0] < 0.7 * penalties[1]
    assert penalties[2] == pytest.approx(penalties[1], rel=0.3)
