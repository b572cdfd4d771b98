"""The monitor: coverage, spread and agreement of the watched samples, and what an alarm does to a training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from ganaug.config import FitConfig
from ganaug.errors import ConfigError, DivergedError
from ganaug.files import sha256_file
from ganaug.sampling.sampler import load
from ganaug.training import monitor
from ganaug.training.checkpoint import checkpoints
from ganaug.training.feeds import WATCHED, Real
from ganaug.training.fit import fit
from ganaug.training.gans.conditional import GAN
from ganaug.training.guards import CollapseGuard
from ganaug.training.monitor import (
    Monitor,
    Reference,
    choose_neighbors,
    expected_coverage,
    load_monitor,
    reference,
    train_monitor,
)
from ganaug.training.run import Run
from tests.tiny import SETTINGS, shape_image

CPU = torch.device("cpu")
LONG = FitConfig(kimg=6.4, batch=8)
"""100 steps of the classifier."""
BRIEF = FitConfig(kimg=2.56, batch=8)
"""40 steps of it."""
SHORT: dict[str, Any] = {**SETTINGS, "size": (8, 8), "widths": (8,), "kimg": 0.32, "snapshots": 8}
"""40 steps of 8 images, and a snapshot after every fifth."""


def _gaussian(n: int, seed: int = 0, dim: int = 12) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def _shapes(counts: dict[str, int], *, side: int = 12, volumes: bool = False, seed: int = 0) -> tuple[Tensor, Real]:
    """Return drawn shapes in [-1, 1], and the same as what a monitor compares with."""
    rng = np.random.default_rng(seed)
    drawn = [shape_image(kind, rng, side=side) for kind, n in counts.items() for _ in range(n)]
    images = torch.from_numpy(np.stack(drawn)).float()[:, None] * 2 - 1
    if volumes:
        images = images[:, :, None].repeat(1, 1, side, 1, 1)
    labels = np.repeat(np.arange(len(counts)), [*counts.values()])
    return images, Real(lambda rows: images[rows], labels, tuple(counts), tuple(images.shape[1:]))


@pytest.fixture(scope="module")
def watching() -> Monitor:
    """A monitor of 30 crosses, 30 disks and 12 rings."""
    found = train_monitor(_shapes({"cross": 30, "disk": 30, "ring": 12})[1], LONG, CPU)
    assert isinstance(found, Monitor)
    return found


def _figures(watching: Monitor, classes: list[Tensor]) -> dict[str, Any]:
    for label, images in enumerate(classes):
        watching.see(label, images)
    return watching.figures()


@pytest.mark.parametrize(("real", "fake", "neighbors"), [(96, 24, 5), (24, 24, 2), (12, 24, 1), (40, 10, 4)])
def test_the_expected_coverage_is_what_other_images_of_the_same_kind_have(real: int, fake: int, neighbors: int) -> None:
    found = []
    for seed in range(300):
        features = _gaussian(real + fake, seed)
        distances = torch.cdist(features, features)
        found.append(float(monitor.coverage(distances[:real, :real], distances[:real, real:], neighbors)))
    error = np.std(found) / np.sqrt(len(found))
    assert np.mean(found) == pytest.approx(expected_coverage(real, fake, neighbors), abs=4 * error)


@given(st.integers(2, 96))
def test_the_neighborhood_is_small_and_grows_with_the_number_of_images(real: int) -> None:
    assert 1 <= choose_neighbors(real, WATCHED) <= choose_neighbors(real + 1, WATCHED) <= 5
    assert 0.5 < expected_coverage(real, WATCHED, choose_neighbors(real, WATCHED)) < 1


def test_each_image_lost_by_the_samples_costs_coverage_and_one_image_again_and_again_costs_spread() -> None:
    real = reference(_gaussian(96), torch.ones(96), seed=0)
    good = _gaussian(WATCHED, seed=1)
    few, one = good[torch.arange(WATCHED) % 3], good[:1] + 0.01 * _gaussian(WATCHED, seed=2)
    assert real.coverage_real == pytest.approx(0.7, abs=0.05)
    assert real.coverage(one) < real.coverage(few) < 0.5 * real.coverage(good)
    assert real.spread(good) == pytest.approx(1, abs=0.1)
    assert real.spread(one) < real.alarm_below < real.spread(few)


@pytest.mark.parametrize("count", [4, 5, 12, 96])
@pytest.mark.parametrize("seed", range(5))
def test_real_images_are_never_an_alarm_however_few(count: int, seed: int) -> None:
    features = _gaussian(count, seed) * torch.linspace(0.1, 3, count)[:, None]  # some far more alike than others
    real = reference(features, torch.ones(count), seed=seed)
    assert real.alarm_below <= real.spread_real_low / 4 < 0.5
    others = features[torch.from_numpy(np.random.default_rng(seed).permutation(count)[: max(3, count // 3)])]
    assert real.spread(others) > real.alarm_below


@pytest.mark.parametrize("count", [4, 8, 12, 24, 96])
def test_held_out_real_images_never_look_as_if_they_had_lost_what_real_ones_cover(count: int) -> None:
    for seed in range(40):
        # A third of them clustered, a third of very unequal likeness.
        features = _gaussian(count + 2 * WATCHED, seed)
        if seed % 3 == 1:
            features = 0.2 * features + 3 * _gaussian(3, seed + 100)[torch.arange(len(features)) % 3]
        if seed % 3 == 2:
            features = features * torch.linspace(0.1, 3, 16).repeat(len(features) // 16 + 1)[: len(features), None]
        real = reference(features[:count], torch.ones(count), seed=seed)
        for held_out in features[count:].split(WATCHED):
            assert real.coverage(held_out) >= real.lost_below
        assert count < 12 or seed % 3 or real.lost_below > 0


def test_samples_that_become_noise_are_an_alarm_once_their_class_was_as_good_as_real(watching: Monitor) -> None:
    _, real = _shapes({"cross": 30, "disk": 30, "ring": 12})
    weights = {name: value for name, value in watching.tensors().items() if name != "reached"}
    fresh, _ = _shapes({"cross": WATCHED, "disk": WATCHED, "ring": WATCHED}, seed=1)
    good = [*fresh.split(WATCHED)]
    noise = [2 * torch.rand(part.shape, generator=torch.Generator().manual_seed(7)) - 1 for part in good]

    young = load_monitor(weights, real, seed=LONG.seed, device=CPU)
    figures = _figures(young, noise)
    assert max(figures["coverage_by_class"].values()) < 0.05
    # They are not one image: spread alone sees nothing.
    assert all(figures["spread_by_class"][young.names[c]] > one.alarm_below for c, one in young.references.items())
    assert young.collapsed(figures) == [], "a generator begins with noise"

    assert young.collapsed(_figures(young, good)) == []
    assert young.collapsed(_figures(young, [good[0], noise[1], good[2]])) == ["disk"]
    again = load_monitor(young.tensors(), real, seed=LONG.seed, device=CPU)
    assert set(again.collapsed(_figures(again, noise))) >= {"cross", "disk"}, "remembered in checkpoints"


def test_real_images_that_are_all_alike_cannot_collapse() -> None:
    real = reference(torch.ones(8, 3), torch.ones(8), seed=0)
    assert (real.alarm_below, real.spread(torch.zeros(4, 3))) == (0, 1)


def test_the_figures_tell_good_samples_wrong_classes_and_a_collapsed_class_apart(watching: Monitor) -> None:
    fresh, _ = _shapes({"cross": WATCHED, "disk": WATCHED, "ring": WATCHED}, seed=1)
    good = [*fresh.split(WATCHED)]
    figures = _figures(watching, good)
    assert figures["agreement"] > 0.9
    assert figures["coverage"] == pytest.approx(figures["coverage_real"], abs=0.2)
    assert watching.collapsed(figures) == []
    assert figures["coverage_least"] == min(figures["coverage_by_class"].values())

    figures = _figures(watching, [good[0], good[2], good[1]])
    assert figures["agreement_by_class"]["cross"] > 0.9
    assert max(figures["agreement_by_class"][name] for name in ("disk", "ring")) < 0.3

    alike = good[2][:1] + 0.01 * torch.randn(good[2].shape, generator=torch.Generator().manual_seed(0))
    figures = _figures(watching, [good[0], good[1], alike])
    assert watching.collapsed(figures) == ["ring"]
    assert figures["coverage_by_class"]["ring"] < 0.5 * figures["coverage_real"]


def test_a_class_of_three_images_is_left_out_and_named() -> None:
    images, real = _shapes({"disk": 8, "ring": 3})
    found = train_monitor(real, BRIEF, CPU)
    assert isinstance(found, Monitor)
    assert found.unwatched == {"ring": "3 images, 4 are wanted"}
    assert _figures(found, [images[:8], images[:8]])["coverage_by_class"].keys() == {"disk"}
    assert found.to_dict()["classes"].keys() == {"disk"}


@pytest.mark.parametrize("length", [{"kimg": 2.0}, {"minutes": 0.001}])
def test_a_training_too_short_for_a_classifier_is_not_watched_and_says_so(length: dict[str, Any]) -> None:
    _, real = _shapes({"disk": 8, "ring": 8})
    assert "too short" in str(train_monitor(real, FitConfig(batch=8, **length), CPU))


def test_volumes_are_watched_on_a_coarser_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "LEAST_STEPS", 2)
    images, real = _shapes({"disk": 6, "ring": 6}, side=20, volumes=True)
    found = train_monitor(real, FitConfig(kimg=0.24, batch=8), CPU)
    assert isinstance(found, Monitor)
    assert (found.facts["size"], found.facts["steps"]) == ([16, 16, 16], 3)
    figures = _figures(found, [images[:6], images[6:]])
    assert figures["coverage"] == 1
    assert json.loads(json.dumps(figures)) == figures


def test_a_monitor_comes_back_from_its_weights_as_it_was(watching: Monitor) -> None:
    images, real = _shapes({"cross": 30, "disk": 30, "ring": 12})
    again = load_monitor(watching.tensors(), real, seed=LONG.seed, device=CPU)
    good = [images[:WATCHED], images[30:54], images[60:]]
    assert _figures(again, good) == _figures(watching, good)
    assert again.to_dict()["classes"] == watching.to_dict()["classes"]


def test_the_guard_remembers_the_best_snapshot_and_goes_back_once() -> None:
    guard = CollapseGuard()
    for step, coverage in ((5, 0.2), (10, 0.6), (15, 0.4)):
        guard.note(step, coverage)
    guard.roll_back(["ring"])
    again = CollapseGuard(**guard.state())  # type: ignore[arg-type]
    assert (again.best_step, again.best, again.rollbacks) == (10, 0.6, 1)
    with pytest.raises(DivergedError, match=r"of ring became.*best state.*gamma.*monitor=false") as caught:
        again.roll_back(["ring"])
    assert caught.value.exit_code == 4


def test_neither_a_short_time_nor_few_steps_make_an_alarm() -> None:
    guard = CollapseGuard()
    assert [guard.is_young(*at) for at in ((1000, 0.19), (100, 0.9), (1000, 0.2))] == [True, True, False]


@pytest.mark.parametrize("value", ["yes", 1, None, 0.0])
def test_monitor_is_true_or_false(value: object) -> None:
    assert FitConfig.from_dict({"monitor": False}).monitor is False
    with pytest.raises(ConfigError, match="true or false was wanted"):
        FitConfig.from_dict({"monitor": value})


@pytest.fixture
def short_trainings_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "LEAST_STEPS", 5)
    monkeypatch.setattr(CollapseGuard, "young_steps", 0)


def _plant(monkeypatch: pytest.MonkeyPatch, collapsed: Callable[[int, GAN], bool]) -> None:
    """Make the samples of class 1 one image when `collapsed` (step, gan), and noise otherwise; step 10 is the best."""
    seen = {"step": 0}

    def sample(gan: GAN, latents: Tensor, labels: Tensor) -> Tensor:
        seen["step"] = step = int(gan.optimizers[0].state_dict()["state"][0]["step"])
        images = [torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(hash(float(z[0])))) for z in latents]
        one = (labels == 1) & collapsed(step, gan)
        return torch.where(one[:, None, None, None], torch.zeros(()), torch.stack(images))

    def coverage(_reference: Reference, _fakes: Tensor) -> float:
        return 1 / (1 + 0.02 * abs(seen["step"] - 10))

    monkeypatch.setattr(GAN, "sample", sample)
    monkeypatch.setattr(Reference, "coverage", coverage)


def _weights(run: Run) -> dict[str, Tensor]:
    state = load_file(checkpoints(run.checkpoints)[-1] / "state.safetensors")
    return {name: value for name, value in state.items() if not name.startswith("monitor/")}


def _steps(run: Run) -> list[str]:
    return [path.name[-3:] for path in checkpoints(run.checkpoints)]


@pytest.mark.usefixtures("short_trainings_are_watched")
def test_a_training_with_the_monitor_ends_in_the_same_bits_as_one_without(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "COLLAPSED_OF_REAL", 0.0)  # no generator is worth anything after 40 steps
    runs = [fit(shapes, tmp_path / str(on), **SHORT, monitor=on) for on in (True, False)]
    on, off = map(_weights, runs)
    assert on.keys() == off.keys()
    assert all(torch.equal(on[name], off[name]) for name in on)
    assert "coverage" in runs[0].metrics()[-1]
    assert not {"coverage", "unwatched"} & runs[1].metrics()[-1].keys()
    assert runs[0].monitor_path.is_file()
    assert not runs[1].monitor_path.exists()
    page = runs[0].report_path.read_text(encoding="utf-8")
    assert "Coverage: the share of real images" in page


@pytest.mark.usefixtures("short_trainings_are_watched")
def test_a_collapse_goes_back_to_the_best_snapshot_once_and_the_run_finishes(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plant(monkeypatch, lambda step, gan: gan.attempt == 0 and step >= 20)
    run = fit(shapes, tmp_path / "run", **SHORT)
    rows = run.metrics()
    (alarm,) = [i for i, row in enumerate(rows) if "alarm" in row]
    assert rows[alarm]["alarm"] == "collapse: class disk"
    assert rows[alarm]["kimg"] == 0.16
    assert [row["kimg"] for row in rows] == [0.04, 0.08, 0.12, 0.16, 0.12, 0.16, 0.2, 0.24, 0.28, 0.32]
    assert [row["attempt"] for row in rows] == [0] * 4 + [1] * 6
    state = json.loads((checkpoints(run.checkpoints)[-1] / "state.json").read_text())
    assert (state["attempt"], state["collapse"]["rollbacks"]) == (1, 1)
    assert "collapse: class disk" in run.report_path.read_text(encoding="utf-8")


@pytest.mark.usefixtures("short_trainings_are_watched")
def test_a_second_collapse_is_the_end_and_leaves_the_best_model(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plant(monkeypatch, lambda step, _: step >= 20)
    with pytest.raises(DivergedError, match=r"of disk became.*the run folder is that of the best state"):
        fit(shapes, tmp_path / "run", **SHORT)
    monkeypatch.undo()
    run = Run(tmp_path / "run")
    assert [row["kimg"] for row in run.metrics() if "alarm" in row] == [0.16, 0.16]
    assert load(run.path, device="cpu").header.training["kimg"] == 0.08
    model, best = load_file(run.model_path), load_file(run.checkpoints / "step-000000010" / "state.safetensors")
    assert all(torch.equal(model[name], best[f"average/{name}"]) for name in model)


@pytest.mark.usefixtures("short_trainings_are_watched")
def test_a_run_that_is_killed_right_after_going_back_resumes_to_the_same_bits(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plant(monkeypatch, lambda step, gan: gan.attempt == 0 and step >= 20)
    straight = fit(shapes, tmp_path / "straight", **SHORT)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ganaug.training.loop.drop_later", killed)
        with pytest.raises(KeyboardInterrupt):
            fit(shapes, tmp_path / "killed", **SHORT)
    resumed = fit(shapes, tmp_path / "killed", resume=True)
    assert [row["kimg"] for row in resumed.metrics()] == [row["kimg"] for row in straight.metrics()]
    one, two = _weights(straight), _weights(resumed)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert _steps(resumed) == _steps(straight)


@pytest.mark.usefixtures("short_trainings_are_watched")
def test_a_young_generator_is_no_collapse_and_neither_is_one_that_nobody_watches(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plant(monkeypatch, lambda step, _: step < 8)
    rows = fit(shapes, tmp_path / "run", **SHORT).metrics()
    assert rows[0]["spread_by_class"]["disk"] == 0
    assert not any("alarm" in row for row in rows)
    _plant(monkeypatch, lambda _step, _gan: True)
    assert not any("alarm" in row for row in fit(shapes, tmp_path / "off", **SHORT, monitor=False).metrics())


@pytest.mark.usefixtures("short_trainings_are_watched")
def test_a_run_of_before_resumes_and_is_watched_from_there(shapes: Path, tmp_path: Path) -> None:
    run = fit(shapes, tmp_path / "run", **{**SHORT, "kimg": 0.08, "snapshots": 1}, monitor=False)
    values = run.config_file()
    del values["settings"]["monitor"]
    run.config_path.write_text(json.dumps(values))
    for path in checkpoints(run.checkpoints):
        state, seal = (json.loads((path / name).read_text()) for name in ("state.json", "SHA256.json"))
        del state["collapse"]
        (path / "state.json").write_text(json.dumps(state))
        seal["state.json"] = sha256_file(path / "state.json")
        (path / "SHA256.json").write_text(json.dumps(seal))
    more = fit(shapes, run.path, resume=True, kimg=0.4, monitor=True, snapshots=2)
    assert "coverage" in more.metrics()[-1]


@pytest.mark.usefixtures("short_trainings_are_watched")
def test_translations_are_watched_by_their_domains(shapes: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "recipe": "translate64",
        "widths": (8, 4),
        "group_width": 4,
        "batch": 6,
        "precision": "fp32",
    }
    run = fit(shapes, tmp_path / "run", model="cyclegan", rule="class", size=(8, 8), snapshots=1, kimg=0.3, **settings)
    row = run.metrics()[-1]
    assert row["coverage_by_class"].keys() == row["agreement_by_class"].keys() == {"cross", "disk", "ring"}
    assert row["agreement_real"] > 0
