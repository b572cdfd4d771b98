"""Walks, mixed styles, and the image closest to a given one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ganaug.errors import ConfigError
from ganaug.models.latents import latents_for
from ganaug.sampling import interpolate, latent_tools, mix_styles, project
from ganaug.sampling.latent_tools import STARTS, slerp
from ganaug.sampling.sampler import Sampler
from tests.models.archs import random_sampler


@pytest.fixture(scope="module")
def styled(tmp_path_factory: pytest.TempPathFactory) -> Sampler:
    """An untrained generator of arch 'style'."""
    return random_sampler("style", tmp_path_factory.mktemp("style") / "model.safetensors")


def _styles(gan: Sampler, label: int, indices: list[int]) -> torch.Tensor:
    labels = [label] * len(indices)
    return gan.styles(gan.latents(labels, indices=indices), torch.tensor(labels))


def test_slerp_ends_at_its_ends_and_keeps_the_length() -> None:
    start, end = latents_for([0, 0], [0, 1], seed=0, dim=64)
    end = end * start.norm() / end.norm()
    path = slerp(start, end, torch.linspace(0, 1, 9))
    assert torch.allclose(path[0], start, atol=1e-5)
    assert torch.allclose(path[-1], end, atol=1e-5)
    assert torch.allclose(path.norm(dim=1), start.norm().expand(9), rtol=1e-4)
    assert torch.lerp(start, end, 0.5).norm() < 0.9 * start.norm(), "a straight line would be shorter in the middle"
    turns = torch.nn.functional.cosine_similarity(path[:-1], path[1:])
    assert torch.allclose(turns, turns[:1].expand(8), atol=1e-4), "equal steps"


def test_slerp_between_parallel_latents_stays_finite() -> None:
    start = torch.randn(8)
    for end in (start, start * 2, -start, start * (1 + 1e-7)):
        path = slerp(start, end, torch.linspace(0, 1, 5))
        assert torch.isfinite(path).all()
        assert torch.allclose(path[-1], end, atol=1e-5)


def test_interpolation_starts_at_image_0_and_ends_at_image_1(gan: Sampler, styled: Sampler) -> None:
    for sampler in (gan, styled):
        for truncation in (1.0, 0.5):
            path = interpolate(sampler, 2, count=6, seed=3, truncation=truncation)
            ends = sampler.sample([2, 2], seed=3, truncation=truncation)
            assert torch.allclose(path[[0, -1]], ends, atol=1e-4)
            steps = (path[1:] - path[:-1]).abs().flatten(1).mean(1)
            assert steps.min() > 0


def test_interpolation_goes_between_any_two_samples_and_wants_two_ends(gan: Sampler) -> None:
    path = interpolate(gan, 1, count=2, seed=4, indices=(7, 3))
    assert torch.allclose(path, gan.sample([1, 1], indices=[7, 3], seed=4), atol=1e-4)
    for count in (1, 0, -3):
        with pytest.raises(ConfigError, match=f"count = {count} was given; .* 2 or more"):
            interpolate(gan, 1, count=count)
    with pytest.raises(ConfigError, match=r"Labels \[3\]"):
        interpolate(gan, 3, count=4)


@pytest.mark.parametrize("arch", ["modern", "dcgan", "style"])
def test_less_truncation_is_more_diversity_all_the_way(arch: str, tmp_path: Path) -> None:
    gan = random_sampler(arch, tmp_path / "model.safetensors")
    spread = [
        float(torch.pdist(gan.sample([1] * 60, truncation=psi).flatten(1)).mean())
        for psi in (0.05, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)
    ]
    assert spread == sorted(spread)
    assert len(set(spread)) == len(spread)


def test_the_same_latents_make_the_same_images_by_way_of_styles(styled: Sampler) -> None:
    labels = [0, 1, 2, 1] * 20
    latents = styled.latents(labels, seed=5)
    images = styled.draw(styled.styles(latents, torch.tensor(labels)))
    assert torch.allclose(images, styled.sample(labels, seed=5), atol=1e-6)


def test_mixing_takes_the_first_layers_from_one_image_and_the_others_from_another(styled: Sampler) -> None:
    coarse, fine = _styles(styled, 0, [0, 1, 2]), _styles(styled, 0, [3, 4, 5])
    layers = styled.style_generator.layers
    from_coarse, from_fine = styled.draw(coarse), styled.draw(fine)
    assert torch.equal(mix_styles(styled, coarse, fine, layers=layers), from_coarse)
    assert torch.equal(mix_styles(styled, coarse, fine, layers=0), from_fine)
    moved = [
        float((mix_styles(styled, coarse, fine, layers=count) - from_coarse).abs().mean())
        for count in range(layers + 1)
    ]
    assert moved[-1] == 0
    assert min(moved[:-1]) > 1e-3
    assert torch.equal(mix_styles(styled, coarse, fine), mix_styles(styled, coarse, fine, layers=layers // 2))


def test_mixing_leaves_what_the_coarse_layers_draw_as_it_is(styled: Sampler) -> None:
    coarse, fine = _styles(styled, 1, [0]), _styles(styled, 1, [1])
    stages: list[torch.Tensor] = []
    images = styled.generator.get_submodule("images")
    hooks = [layer.register_forward_hook(lambda *passed: stages.append(passed[2][:1])) for layer in images.children()]
    try:
        styled.draw(coarse)
        mix_styles(styled, coarse, fine, layers=3)  # the base grid's layer, and two at 8×8
    finally:
        for hook in hooks:
            hook.remove()
    assert [tuple(part.shape[2:]) for part in stages] == [(4, 4), (8, 8), (16, 16)] * 2
    assert torch.equal(stages[0], stages[3])
    assert torch.equal(stages[1], stages[4])
    assert not torch.allclose(stages[2], stages[5], atol=1e-3)


def test_mixing_wants_styles_and_a_layer_count_that_exist(styled: Sampler, gan: Sampler) -> None:
    styles = _styles(styled, 0, [0, 1])
    for wrong in (-1, 6):
        with pytest.raises(ConfigError, match=f"layers = {wrong} was given; this model has 5"):
            mix_styles(styled, styles, styles, layers=wrong)
    for coarse, fine in ((styles, styles[:1]), (styles[:, :5], styles[:, :5]), (styles[0], styles[0])):
        with pytest.raises(ConfigError, match="as many of each were wanted, N×8"):
            mix_styles(styled, coarse, fine)
    for use in (lambda: mix_styles(gan, styles, styles), lambda: gan.draw(styles), lambda: gan.mean_style(0)):
        with pytest.raises(ConfigError, match=r"arch 'modern', which has no styles; arch 'style' was wanted"):
            use()


@pytest.mark.parametrize(
    ("arch", "size", "channels"), [("modern", (16, 12), 1), ("dcgan", (9, 8, 10), 1), ("style", (16, 16), 3)]
)
def test_projection_recovers_a_generated_image(arch: str, size: tuple[int, ...], channels: int, tmp_path: Path) -> None:
    gan = random_sampler(arch, tmp_path / "model.safetensors", size=size, channels=channels)
    image = gan.sample([1], indices=[1000])[0]
    found = project(gan, image, steps=150)
    assert found.start_distance > 0.02
    assert found.distance < found.start_distance / 5
    assert found.label == 1
    assert found.distance == pytest.approx(float((found.image - image).square().mean().sqrt()), abs=1e-6)
    label = torch.tensor([found.label])
    again = gan.draw(found.latent[None]) if gan.has_styles else gan.decode(found.latent[None], label)
    assert torch.allclose(again[0], found.image, atol=1e-5)


def test_projection_is_the_same_each_time_and_draws_no_random_numbers(gan: Sampler) -> None:
    image = gan.sample([2], indices=[77])[0]
    state = torch.get_rng_state()
    first, again = (project(gan, image, label=2, steps=5) for _ in range(2))
    assert torch.equal(first.latent, again.latent)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in gan.generator.parameters())


def test_projection_stays_in_the_class_asked_for_and_is_never_worse_than_the_closest_sample(gan: Sampler) -> None:
    image = gan.sample([0], indices=[5])[0]
    for label in range(3):
        for steps, lr in ((0, 0.1), (3, 30.0)):  # a step size that leads nowhere
            found = project(gan, image, label=label, steps=steps, lr=lr)
            assert found.label == label
            assert found.distance <= found.start_distance + 1e-6
    exact = project(gan, image, steps=0)
    assert exact.label == 0
    assert exact.distance < 1e-5, "image 5 is among the samples that the search begins with"


def test_projection_looks_at_a_thousand_samples_of_the_classes_asked_for(gan: Sampler) -> None:
    image = gan.sample([1], indices=[333])[0]
    wide, narrow = project(gan, image, steps=0), project(gan, gan.sample([1], indices=[999])[0], label=1, steps=0)
    assert (wide.samples, narrow.samples) == (1002, 1000)
    for found in (wide, narrow):
        assert found.distance == found.start_distance < 1e-5
    rows = gan.sample([0, 1, 2] * 334)
    image = gan.sample([1], indices=[2000])[0]
    near = (rows - image).square().flatten(1).mean(1).sqrt().min()
    assert project(gan, image, steps=0).start_distance == pytest.approx(float(near), abs=1e-6)


@pytest.mark.parametrize(("arch", "times"), [("modern", 8), ("style", 4)])
def test_projection_stays_where_samples_lie(arch: str, times: float, tmp_path: Path) -> None:
    gan = random_sampler(arch, tmp_path / "model.safetensors")
    labels = torch.zeros(1000, dtype=torch.int64)
    latents = gan.latents(labels)
    center, scale = torch.zeros(gan.latent_dim), torch.ones(gan.latent_dim)
    if gan.has_styles:
        latents = gan.styles(latents, labels)
        center, scale = latents.mean(0), latents.std(0)
    far = center + times * (latents[:1] - center)
    image = (gan.draw(far) if gan.has_styles else gan.decode(far, labels[:1]))[0]
    found = project(gan, image, label=0, steps=80, lr=0.3)
    assert found.distance < found.start_distance
    furthest = ((latents - center) / scale).norm(dim=1).max()
    reached = ((found.latent - center) / scale).norm()
    assert 0.9 * furthest < reached < 1.01 * furthest < 0.8 * ((far - center) / scale).norm()


def test_projection_in_parts_is_that_of_all_starts_at_once(gan: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    image = gan.sample([2], indices=[1234])[0]
    whole = project(gan, image, steps=20)
    monkeypatch.setattr(latent_tools, "images_in_a_pass", lambda _shape, most: 1 if most == STARTS else 50)
    parts = project(gan, image, steps=20)
    assert parts.distance == pytest.approx(whole.distance, rel=1e-3)
    assert torch.allclose(parts.latent, whole.latent, atol=1e-3)


def test_projection_takes_arrays_says_how_far_it_is_and_works_where_gradients_are_off(
    gan: Sampler, capsys: pytest.CaptureFixture[str]
) -> None:
    image = gan.sample([0], indices=[555])[0]
    with torch.no_grad():
        found = project(gan, image.numpy(), steps=5, show_progress=True)
    assert found.distance < found.start_distance
    shown = capsys.readouterr()
    assert not shown.out
    assert "looking for starts: 1002/1002 samples" in shown.err
    assert "projecting: 5/5 steps" in shown.err
    assert "distance 0." in shown.err


def test_projection_refuses_what_does_not_fit(gan: Sampler) -> None:
    with pytest.raises(ConfigError, match=r"shape \(1, 8, 8\) was given; \(1, 16, 16\) was wanted"):
        project(gan, torch.zeros(1, 8, 8))
    for image in (torch.full((1, 16, 16), 255.0), torch.full((1, 16, 16), float("nan"))):
        with pytest.raises(ConfigError, match=r"-1 to 1 was wanted, as from .*read_image"):
            project(gan, image)
    for wrong in ({"steps": -1}, {"lr": 0.0}, {"lr": float("nan")}, {"lr": float("inf")}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))} = "):
            project(gan, torch.zeros(1, 16, 16), **wrong)
    with pytest.raises(ConfigError, match=r"Labels \[7\]"):
        project(gan, torch.zeros(1, 16, 16), label=7)
