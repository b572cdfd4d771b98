"""How fast a training runs, by a clock that the tests turn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ganaug.data.manifest import Item, Manifest
from ganaug.training import probe as probe_module
from ganaug.training.plan import Plan, make_plan
from ganaug.training.probe import ROUNDS, SECONDS, best_time, choose_threads, has_room, images_per_second, probe
from tests.tiny import NETWORK

SETTINGS: dict[str, Any] = {**NETWORK, "batch": 4, "size": (8, 8), "device": "cpu", "precision": "fp32", "threads": 1}


class _Clock:
    """A clock on which the n-th piece of work takes `seconds[n]`, and the last of them all further ones."""

    def __init__(self, *seconds: float) -> None:
        self.now, self.seconds, self.works = 100.0, seconds, 0

    def work(self) -> None:
        self.now += self.seconds[min(self.works, len(self.seconds) - 1)]
        self.works += 1

    def __call__(self) -> float:
        return self.now


def _plan(**settings: Any) -> Plan:
    """Return the plan of a small training; a plan looks at no files."""
    facts = {"shape": (8, 8), "channels": 1, "dtype": "uint8"}
    items = tuple(Item(f"{i}.png", i % 2, f"g{i}", f"{i:064x}", **facts) for i in range(4))
    return make_plan(Manifest(Path("data"), ("a", "b"), items), recipe="smoke", settings={**SETTINGS, **settings})


@pytest.mark.parametrize(
    ("seconds", "best", "works"),
    [
        ((0.5, 0.02, 0.01, 0.03), 0.01, ROUNDS[1]),
        ((0.001, 0.02, 0.03, 0.02), 0.02, ROUNDS[1]),  # the first one never counts, however fast
        ((9.0, 7.0, 5.0, 1.0), 5.0, ROUNDS[0]),  # two count, however slow
        ((0.0, 0.4 * SECONDS), 0.4 * SECONDS, 4),
    ],
)
def test_the_fastest_round_but_the_first_counts_and_slow_ones_are_few(
    seconds: tuple[float, ...], best: float, works: int
) -> None:
    clock = _Clock(*seconds)
    assert best_time(clock.work, clock=clock) == pytest.approx(best)
    assert clock.works == works


@pytest.mark.parametrize(
    ("settings", "steps"), [({}, 1), ({"penalty_every": 4}, 4), ({"loss": "wgan-gp"}, 5), ({"critic_steps": 2}, 2)]
)
def test_a_round_holds_as_many_steps_as_it_takes_until_all_parts_of_a_step_come_again(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], steps: int
) -> None:
    from ganaug.training.gans.conditional import GAN

    seen: list[tuple[int, float]] = []
    monkeypatch.setattr(GAN, "step", lambda _self, images, _labels, step, done: seen.append((step, done)))
    monkeypatch.setattr(probe_module, "best_time", lambda work: work() or 2.0)
    assert images_per_second(_plan(**settings)) == 4 * steps / 2.0
    assert seen == [(step, 1.0) for step in range(steps)]  # at the end of the schedules: all of the augmentation


def test_the_probe_times_real_steps_and_counts_the_minutes() -> None:
    timing = probe(_plan(kimg=3.0))
    rate = timing["images_per_second"]
    assert rate > 0
    assert timing["expected_kimg"] == pytest.approx(3.0)
    assert timing["expected_minutes"] == pytest.approx(3000 / rate / 60)
    timing = probe(_plan(minutes=2.0))
    assert timing["expected_minutes"] == 2
    assert timing["expected_kimg"] == pytest.approx(timing["images_per_second"] * 120 / 1000)


def test_the_probe_leaves_the_users_random_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    images_per_second(_plan())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_probe_runs_on_the_threads_that_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(probe_module, "best_time", lambda _work: seen.append(torch.get_num_threads()) or 1.0)
    before = torch.get_num_threads()
    for threads in (2, 1, None):
        images_per_second(_plan(threads=threads))
    assert seen == [2, 1, before]
    assert torch.get_num_threads() == before


def test_threads_are_the_faster_of_all_and_one_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    plan = _plan(threads=None)
    for fast in (6, 1):
        assert choose_threads(plan, speed=lambda plan, fast=fast: float(plan.config.threads == fast)) == fast
    assert choose_threads(_plan(threads=3), speed=lambda plan: 1 / 0) == 3
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert choose_threads(plan, speed=lambda plan: 1 / 0) == 1


def test_there_is_room_for_twice_the_memory_only_where_a_quarter_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if probe_module.sys.platform == "darwin" else 1024)
    page = 4096
    for share, wanted in ((5, True), (3, False)):
        pages = {"SC_PHYS_PAGES": share * used // page, "SC_PAGE_SIZE": page}
        monkeypatch.setattr(probe_module.os, "sysconf", pages.__getitem__)
        assert has_room(torch.device("cpu")) is wanted


@pytest.mark.gpu
def test_on_a_gpu_a_probe_waits_for_the_device() -> None:
    plan = _plan(device="cuda", batch=64, size=(64, 64), widths=(256, 256))
    alone = images_per_second(plan)
    gan_alone = images_per_second(replace(plan, config=replace(plan.config, widths=(1024, 1024))))
    assert gan_alone < alone
    assert has_room(torch.device("cuda"))
