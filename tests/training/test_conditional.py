"""The step of the conditional GAN: what it changes, and that it learns."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ganaug.config import FitConfig
from ganaug.models import build_network, place
from ganaug.training.augment import augment, profile
from ganaug.training.batches import BalancedBatches, derived_seed
from ganaug.training.gans import conditional
from ganaug.training.gans.conditional import GAN, class_share
from ganaug.training.schedules import cosine
from tests.tiny import NETWORK, randomize


def _gan(
    *,
    size: tuple[int, ...] = (16, 16),
    channels: int = 1,
    bf16: bool = False,
    counts: tuple[int, int] | None = None,
    **changes: Any,
) -> GAN:
    config = FitConfig(**{**NETWORK, "batch": 8, **changes})
    device = torch.device("cpu")
    return GAN(config, size=size, channels=channels, classes=2, device=device, bf16=bf16, counts=counts)


def _batch(size: tuple[int, ...] = (16, 16), channels: int = 1) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    return torch.rand(8, channels, *size, generator=source) * 2 - 1, torch.arange(8) % 2


def _copy(gan: GAN) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in gan.tensors().items()}


def _written_out(config: FitConfig, batch: tuple[Tensor, Tensor], steps: int) -> dict[str, Tensor]:
    """Take steps of the relativistic game with R1 + R2, written out in one piece, and return all weights."""
    torch.manual_seed(derived_seed(config.seed, "weights"))
    generator, discriminator = (
        place(build_network(config.arch, part, vars(config), size=(16, 16), channels=1, classes=2), "cpu")
        for part in ("Generator", "Discriminator")
    )
    average = copy.deepcopy(generator)
    adam_d, adam_g = (
        torch.optim.Adam(network.parameters(), lr=config.lr[0], betas=(0.0, config.beta2[0]), fused=True)
        for network in (discriminator, generator)
    )
    random, strength, (images, labels) = torch.Generator(), profile(config.augment), batch
    for step in range(steps):

        def seed(use: str, step: int = step) -> None:
            random.manual_seed(derived_seed(config.seed, "step", step, 0, use))

        def now(pair: tuple[float, float], step: int = step) -> float:
            return cosine(pair, step / steps, config.burn_in)

        for optimizer in (adam_d, adam_g):
            optimizer.param_groups[0] |= {"lr": now(config.lr), "betas": (0.0, now(config.beta2))}
        seed("latents")
        fakes = generator(torch.randn(len(images), config.latent_dim, generator=random), labels)

        seed("discriminator")
        both = torch.cat([images, fakes.detach()])
        seen = augment(both, now(config.augment_p), strength, random).requires_grad_()
        real, fake = discriminator(seen, labels.repeat(2)).chunk(2)
        (slope,) = torch.autograd.grad(torch.cat([real, fake]).sum(), seen, create_graph=True)
        r1, r2 = slope.square().flatten(1).sum(1).chunk(2)
        adam_d.zero_grad()
        (F.softplus(fake - real).mean() + now(config.gamma) / 2 * (r1.mean() + r2.mean())).backward()
        adam_d.step()

        seed("generator")
        seen_real, seen_fake = augment(torch.cat([images, fakes]), now(config.augment_p), strength, random).chunk(2)
        real, fake = discriminator(seen_real, labels).detach(), discriminator(seen_fake, labels)
        adam_g.zero_grad()
        F.softplus(real - fake).mean().backward()
        adam_g.step()
        with torch.no_grad():
            decay = 0.5 ** (len(images) / (1000 * now(config.ema_half_life_kimg))) if step else 0.0
            for mean, parameter in zip(average.parameters(), generator.parameters(), strict=True):
                mean.lerp_(parameter, 1 - decay)
    networks = {"generator": generator, "discriminator": discriminator, "average": average}
    return {f"{name}/{key}": v for name, network in networks.items() for key, v in network.state_dict().items()}


def test_the_default_step_is_the_relativistic_game_with_r1_and_r2() -> None:
    gan = _gan(gamma=(2.0, 0.5), ema_half_life_kimg=(0.0, 0.05), augment_p=(0.1, 0.4))
    for step in range(5):
        gan.step(*_batch(), step, step / 5)
    found, wanted = gan.tensors(), _written_out(gan.config, _batch(), 5)
    # Not bit by bit: the step has the penalty's gradient without a second derivative.
    assert [name for name, value in wanted.items() if not torch.allclose(found[name], value, atol=1e-4)] == []


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
@pytest.mark.parametrize(
    ("size", "channels", "stem"),
    [((16, 16), 1, 1), ((13, 22), 3, 1), ((28, 28), 1, 2), ((8, 8), 3, 1), ((11, 16, 13), 2, 1), ((12, 16, 20), 1, 2)],
)
def test_steps_stay_finite_and_train_every_network(size: tuple[int, ...], channels: int, stem: int, bf16: bool) -> None:
    gan = _gan(size=size, channels=channels, stem=stem, bf16=bf16)
    before = _copy(gan)
    for step in range(3):
        metrics = gan.step(*_batch(size, channels), step, step / 3)
        assert {"loss_d", "loss_g", "r1", "r2", "logit_gap"} <= metrics.keys()
        assert all(torch.isfinite(value) and value.shape == () for value in metrics.values())
    after = gan.tensors()
    for network in ("generator", "discriminator", "average"):
        names = [name for name in before if name.startswith(f"{network}/") and not re.search(r"film|share$", name)]
        still = {name for name in names if torch.equal(before[name], after[name])}
        assert still <= {"discriminator/logit.bias"}  # a relativistic loss does not see a constant
    assert all(torch.isfinite(value).all() for value in after.values())
    assert {value.dtype for name, value in after.items()} == {torch.float32}, "parameters and optimizer stay float32"


def test_bf16_takes_nearly_the_same_first_step_as_float32() -> None:
    exact, rough = (_gan(bf16=bf16).step(*_batch(), 0, 0.0) for bf16 in (False, True))
    for name, value in exact.items():
        assert float(rough[name]) == pytest.approx(float(value), rel=0.1, abs=0.05), name


def test_the_same_step_gives_the_same_numbers_and_another_step_others() -> None:
    first, again, other, attempt = (_gan() for _ in range(4))
    attempt.attempt = 1
    before = torch.get_rng_state()
    for gan, step in ((first, 3), (again, 3), (other, 4), (attempt, 3)):
        gan.step(*_batch(), step, 0.3)
    assert torch.equal(torch.get_rng_state(), before), "the user's own random state stays as it was"
    # Adam's first step is the sign of the gradient: a small weight might move alike by chance.
    key = "generator/input.weight"
    assert torch.equal(first.tensors()[key], again.tensors()[key])
    assert not torch.equal(first.tensors()[key], other.tensors()[key])
    assert not torch.equal(first.tensors()[key], attempt.tensors()[key])


def test_seeds_start_from_different_weights() -> None:
    one, same, other = (_gan(seed=seed).tensors()["generator/input.weight"] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_rollback_halves_the_learning_rate() -> None:
    gan = _gan(lr=(4e-3, 1e-3))
    for attempt, progress, wanted in ((0, 0.0, 4e-3), (0, 1.0, 1e-3), (1, 0.0, 2e-3), (2, 1.0, 2.5e-4)):
        gan.attempt = attempt
        gan.step(*_batch(), 0, progress)
        for optimizer in gan.optimizers:
            assert optimizer.param_groups[0]["lr"] == pytest.approx(wanted)


def test_gamma_grows_while_the_discriminator_is_too_sure_and_falls_back_but_never_below_its_schedule() -> None:
    gan = _gan(confidence=(0.6, 0.6))
    gan._steer(torch.tensor(0.5), 0.5)
    assert float(gan.gamma_log) == 0.0
    for confidence in (1.0, 1.0, 0.5, 0.6):
        before = float(gan.gamma_log)
        gan._steer(torch.tensor(confidence), 0.5)
        assert float(gan.gamma_log) - before == pytest.approx(conditional.STEERING * (confidence - 0.6), abs=1e-6)
    for confidence, bound in ((1.0, math.log(conditional.LARGEST_FACTOR)), (0.5, 0.0)):
        for _ in range(2000):
            gan._steer(torch.tensor(confidence), 0.5)
        assert float(gan.gamma_log) == pytest.approx(bound)
    gan._steer(torch.tensor(torch.nan), 0.5)
    assert float(gan.gamma_log) == 0.0


@pytest.mark.parametrize("changes", [{}, {"arch": "style"}, {"penalty": "r1"}], ids=["at once", "twice", "r1"])
def test_the_factor_on_gamma_acts_as_a_larger_gamma_does(changes: dict[str, Any]) -> None:
    factor, gamma = _gan(**changes, gamma=(2.0, 2.0)), _gan(**changes, gamma=(6.0, 6.0))
    factor.gamma_log += math.log(3.0)
    for gan in (factor, gamma):
        gan.step(*_batch(), 0, 0.5)
    found, wanted = factor.tensors(), gamma.tensors()
    for name in wanted:
        if name.startswith("discriminator/"):
            torch.testing.assert_close(found[name], wanted[name], atol=1e-5, rtol=1e-4)


def test_the_confidence_is_that_of_the_whole_batch_and_steers_only_when_asked() -> None:
    for target in (0.0, 0.51):
        gan = _gan(confidence=(target, target))
        for step in range(20):
            gan.gamma_log.zero_()
            metrics = gan.step(*_batch(), step, 0.5)
        confidence = float(metrics["confidence"])
        assert confidence == pytest.approx(math.exp(-float(metrics["loss_d"])), abs=0.05)  # of pairs much alike
        moved = conditional.STEERING * (confidence - target) if target else 0.0
        assert moved >= 0.0, "the step is long enough into a training to be sure of something"
        assert float(gan.gamma_log) == pytest.approx(moved, abs=1e-6)
        assert float(metrics["gamma_factor"]) == pytest.approx(math.exp(moved), rel=1e-5)


def test_a_gradient_of_nan_under_a_finite_loss_is_skipped_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    gan = _gan()
    backward = gan._backward_discriminator

    def spoiled(*arguments: Any) -> Any:
        result = backward(*arguments)
        next(gan.discriminator.parameters()).grad[0] = torch.nan  # type: ignore[index]
        return result

    monkeypatch.setattr(gan, "_backward_discriminator", spoiled)
    before = {name: value.clone() for name, value in gan.discriminator.state_dict().items()}
    metrics = gan.step(*_batch(), 0, 0.5)
    assert bool(metrics["loss_d"].isnan())
    assert all(torch.equal(value, before[name]) for name, value in gan.discriminator.state_dict().items())
    assert all(bool(value.isfinite().all()) for value in gan.tensors().values())


def test_a_step_with_a_loss_that_is_not_finite_changes_no_weight() -> None:
    gan = _gan()
    gan.step(*_batch(), 0, 0.0)
    before = _copy(gan)
    images, labels = _batch()
    images[0, 0, 0, 0] = torch.nan
    metrics = gan.step(images, labels, 1, 1.0)
    assert not torch.isfinite(sum(metrics.values(), torch.zeros(())))
    after = gan.tensors()
    for name, value in before.items():
        if name.startswith("discriminator/"):
            assert torch.equal(value, after[name]), name
        assert torch.isfinite(after[name]).all(), name


def test_lazy_penalties_come_every_nth_step_and_weigh_as_much() -> None:
    gan = _gan(penalty_every=3)
    assert ["r1" in gan.step(*_batch(), step, 0.0) for step in range(6)] == [True, False, False] * 2


def test_the_penalty_holds_the_logits_slope_down() -> None:
    slopes = []
    for gamma in (0.0, 30.0):
        gan = _gan(gamma=(gamma, gamma), lr=(2e-3, 2e-3), augment="none")
        for step in range(25):
            metrics = gan.step(*_batch(), step, 0.0)
        slopes.append(float(metrics["r1"]))
    assert slopes[1] < slopes[0] / 4


def test_real_and_fake_images_are_augmented_in_one_call_with_the_scheduled_p(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Tensor, float]] = []
    original = conditional.augment

    def spy(images: Tensor, p: float, *rest: Any, **rows: Any) -> Tensor:
        calls.append((images.detach().clone(), p))
        return original(images, p, *rest, **rows)

    monkeypatch.setattr(conditional, "augment", spy)
    gan = _gan(augment_p=(0.0, 0.4), burn_in=0.5)
    images, labels = _batch()
    for progress in (0.0, 0.25, 0.9):
        gan.step(images, labels, 0, progress)
    assert [p for _, p in calls] == pytest.approx([0, 0, 0.2, 0.2, 0.4, 0.4])
    for seen, _ in calls:
        assert len(seen) == 16
        assert torch.equal(seen[:8], images)
        assert not torch.equal(seen[8:], images)


def test_the_discriminator_is_trainable_again_after_a_step() -> None:
    gan = _gan()
    gan.step(*_batch(), 0, 0.0)
    assert all(parameter.requires_grad for parameter in gan.discriminator.parameters())
    assert not any(parameter.requires_grad for parameter in gan.average.parameters())


def test_samples_come_from_the_averaged_weights_and_are_in_range() -> None:
    gan = _gan(ema_half_life_kimg=(1000.0, 1000.0))
    for step in range(3):
        gan.step(*_batch(), step, 0.0)
    latents, labels = torch.randn(4, 8) * 20, torch.tensor([0, 1, 0, 1])
    images = gan.sample(latents, labels)
    assert images.abs().max() == 1
    with torch.no_grad():
        assert torch.equal(images, gan.average(latents, labels).clamp(-1, 1))
        assert not torch.equal(images, gan.generator(latents, labels).clamp(-1, 1))


@pytest.mark.parametrize("size", [(16, 16), (9, 12, 10)])
def test_after_loading_its_state_it_goes_on_bitwise_equal(size: tuple[int, ...]) -> None:
    trained, fresh = _gan(size=size), _gan(size=size, seed=5)
    for step in range(4):
        trained.step(*_batch(size), step, step / 8)
    state = {name: value.clone().contiguous() for name, value in trained.tensors().items()}
    fresh.config = trained.config
    fresh.load_tensors(state)
    for step in range(4, 8):
        for gan in (trained, fresh):
            gan.step(*_batch(size), step, step / 8)
    different = [name for name, value in trained.tensors().items() if not torch.equal(value, fresh.tensors()[name])]
    assert different == []


# Learning. Class 0 is bright on the left, class 1 on the right; in each, half of the images are bright at the top and
# half at the bottom.

STEPS, BATCH, COUNT = 200, 32, 24


def _quadrants() -> tuple[Tensor, Tensor]:
    images = 0.1 * torch.randn(4 * COUNT, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.6
    kind = torch.arange(4 * COUNT) // COUNT
    labels, mode = kind // 2, kind % 2
    for image, c, m in zip(images, labels.tolist(), mode.tolist(), strict=True):
        image[:, 4 * m : 4 * m + 4, 4 * c : 4 * c + 4] += 1.2
    return images.clamp(-1, 1), labels


def _learn(*, shuffled: bool) -> tuple[float, list[float]]:
    """Train for some seconds.

    Returns:
        The share of samples whose brightest quadrant is one of their label's, and for each class the share of its
        rarer mode.
    """
    images, labels = _quadrants()
    config = FitConfig(
        **{**NETWORK, "label_dim": 8},
        batch=BATCH,
        lr=(4e-3, 1e-3),
        gamma=(3.0, 0.3),
        ema_half_life_kimg=(0.0, 0.3),
        augment="none",
    )
    gan = GAN(config, size=(8, 8), channels=1, classes=2, device=torch.device("cpu"), bf16=False)
    batches = BalancedBatches(labels.numpy(), power=0.5, seed=0)
    random = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        positions = torch.from_numpy(batches.batch(step, BATCH))
        told = labels[positions]
        if shuffled:
            told = told[torch.randperm(BATCH, generator=random)]
        gan.step(images[positions], told, step, step / STEPS)
    wanted = torch.arange(400) % 2
    samples = gan.sample(torch.randn(400, 8, generator=random), wanted)
    quadrants = torch.nn.functional.avg_pool2d(samples, 4).squeeze(1).transpose(1, 2).flatten(1)  # left two, right two
    brightest = quadrants.argmax(1)
    right = float((brightest // 2 == wanted).float().mean())
    lower = [float((brightest[wanted == c] % 2).float().mean()) for c in (0, 1)]
    return right, [min(share, 1 - share) for share in lower]


def test_a_few_seconds_of_training_learn_the_classes_and_both_modes_inside_each() -> None:
    right, rarer_mode = _learn(shuffled=False)
    assert right >= 0.95
    assert min(rarer_mode) >= 0.25, "a class collapsed to one of its two modes"


def test_with_shuffled_labels_the_same_training_does_not_learn_the_classes() -> None:
    right, _ = _learn(shuffled=True)
    assert right < 0.75


def _templates() -> Tensor:
    """A bright ball near one corner of a volume, and a bright slab across another: 2×1×8×8×8."""
    z, y, x = torch.meshgrid(*[torch.arange(8.0)] * 3, indexing="ij")
    ball = ((z - 2) ** 2 + (y - 2) ** 2 + (x - 5) ** 2 < 5).float()
    slab = ((z - 5).abs() < 1.5).float()
    return torch.stack([ball, slab])[:, None] * 1.2 - 0.6


def test_a_few_seconds_of_training_bring_each_class_to_its_template_volume() -> None:
    templates = _templates()
    noise = 0.05 * torch.randn(32, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(32) % 2
    volumes = templates[labels] + noise
    gan = _gan(size=(8, 8, 8), lr=(4e-3, 1e-3), gamma=(2.0, 0.5), ema_half_life_kimg=(0.0, 0.2), augment="none")
    latents = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))

    def distances() -> Tensor:
        """Return, for samples of each class (rows), the distance to each template (columns), a voxel."""
        found = [gan.sample(latents, torch.full((16,), c))[:, None] - templates for c in (0, 1)]
        return torch.stack(found).square().flatten(3).mean((1, 3)).sqrt()

    before = distances()
    for step in range(100):
        positions = torch.arange(step * 8, step * 8 + 8) % 32
        gan.step(volumes[positions], labels[positions], step, step / 100)
    after = distances()
    for c in (0, 1):
        assert after[c, c] < before[c, c] / 2
        assert after[c, c] < after[c, 1 - c] / 2


def _steps(pieces: int = 1, **changes: Any) -> dict[str, Tensor]:
    gan = _gan(pieces=pieces, augment_p=(0.5, 0.5), counts=(2, 40), **changes)
    for step in range(3):
        gan.step(*_batch(), step, 0.5)
    return gan.tensors()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"embedding_noise": 1.0, "augment_rare": 0.3, "transition": (0.0, 1.0)},
        {"loss": "wgan-gp", "critic_steps": 2},
        {"penalty": "r1", "loss": "nonsaturating"},
    ],
    ids=["default", "rare classes", "wgan-gp", "r1"],
)
def test_a_step_is_the_same_in_one_piece_and_in_several(changes: dict[str, Any]) -> None:
    whole, divided = _steps(1, **changes), _steps(3, **changes)
    moments = {name for name in whole if "exp_avg_sq" in name}  # Adam divides by these: tiny ones magnify rounding
    for name in whole.keys() - moments:
        assert torch.allclose(whole[name], divided[name], atol=2e-4), name
    other = _steps(1, **changes, seed=1)
    assert not torch.allclose(whole["generator/input.weight"], other["generator/input.weight"], atol=2e-3)


def test_each_metric_is_of_the_whole_batch_however_it_is_divided() -> None:
    found = [_gan(pieces=pieces).step(*_batch(), 0, 0.5) for pieces in (1, 4)]
    assert found[0].keys() == found[1].keys() >= {"loss_d", "loss_g", "r1", "r2", "logit_gap"}
    for name, value in found[0].items():
        assert float(found[1][name]) == pytest.approx(float(value), rel=1e-3, abs=1e-5), name


def test_in_a_transition_the_class_comes_in_from_nothing_to_all() -> None:
    config = FitConfig(transition=(0.2, 0.6))
    shares = [class_share(config, progress) for progress in (0.0, 0.2, 0.3, 0.5, 0.6, 1.0)]
    assert shares == pytest.approx([0, 0, 0.25, 0.75, 1, 1])
    assert class_share(FitConfig(), 0.0) == 1
    assert class_share(FitConfig(labels="ignored", transition=(0.2, 0.6)), 1.0) == 0


@pytest.mark.parametrize(("progress", "blind"), [(0.1, True), (0.9, False)])
def test_before_a_transition_no_network_sees_the_class(progress: float, blind: bool) -> None:
    gan = _gan(transition=(0.2, 0.6))
    for network in (gan.generator, gan.discriminator):
        randomize(network)
    images, labels = _batch()
    gan.step(images, labels, 0, progress)
    latents = torch.randn(8, NETWORK["latent_dim"])
    for of_class in (gan.discriminator(images, labels), gan.generator(latents, labels), gan.sample(latents, labels)):
        assert len(of_class) == 8
    same = [
        torch.equal(gan.discriminator(images, labels), gan.discriminator(images, 1 - labels)),
        torch.equal(gan.generator(latents, labels), gan.generator(latents, 1 - labels)),
        torch.equal(gan.sample(latents, labels), gan.sample(latents, 1 - labels)),
    ]
    assert same == [blind] * 3


def test_noise_on_the_embedding_reaches_the_generator_in_training_and_is_larger_for_rare_classes() -> None:
    gan = _gan(embedding_noise=2.0, counts=(20, 2000))
    noises: list[Tensor] = []
    embed = gan.generator.embed
    embed.register_forward_pre_hook(lambda _module, given: noises.append(given[1]))
    images = torch.zeros(64, 1, 16, 16)
    labels = torch.arange(64) % 2
    gan.step(images, labels, 0, 0.5)
    rare, common = noises[0][labels == 0].std(), noises[0][labels == 1].std()
    assert float(rare) == pytest.approx(2.0, rel=0.2)
    assert float(common) == pytest.approx(2.0 * (1 - 0.99**20), rel=0.2)
    first, again = (gan.sample(torch.zeros(2, NETWORK["latent_dim"]), torch.zeros(2).long()) for _ in range(2))
    assert torch.equal(first, again)


def test_rare_classes_are_augmented_more_often_but_not_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    original = conditional.augment
    monkeypatch.setattr(
        conditional, "augment", lambda images, p, *rest, **rows: seen.append(p) or original(images, p, *rest, **rows)
    )
    gan = _gan(augment_p=(0.2, 0.2), augment_rare=0.5, counts=(25, 100))
    images, labels = _batch()
    gan.step(images, labels, 0, 0.0)
    assert torch.equal(seen[0], torch.where(labels.repeat(2) == 0, 0.4, 0.2))
    gan = _gan(augment_p=(0.2, 0.2), augment_rare=1.0, counts=(1, 100))
    gan.step(images, labels, 0, 0.0)
    assert float(seen[-1].max()) == pytest.approx(0.5)


@pytest.mark.parametrize("class_in", ["input", "fine", "input+fine", "input+all"])
def test_the_class_reaches_the_images_by_each_way(class_in: str) -> None:
    gan = _gan(class_in=class_in)
    randomize(gan.generator)
    latents = torch.randn(4, NETWORK["latent_dim"])
    zeros = torch.zeros(4, dtype=torch.int64)
    assert not torch.equal(gan.generator(latents, zeros), gan.generator(latents, zeros + 1))
    embedded = sum("film" in name for name, _ in gan.generator.named_parameters())
    assert (embedded > 0) == (class_in != "input")
    assert gan.generator.input.in_features == NETWORK["latent_dim"] + NETWORK["label_dim"] * ("input" in class_in)
