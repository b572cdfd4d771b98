"""How fast a training runs here: a few real steps on random images."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ganaug.distributed import of_any, of_main, world_size
from ganaug.models.device import choose_device, use_bf16
from ganaug.plugins import load_plugin

if TYPE_CHECKING:
    from ganaug.training.plan import Plan

ROUNDS = 3, 8
"""Least and most rounds of steps; the first one, in which memory is taken and kernels are chosen, never counts."""
SECONDS = 1.0
"""Time after which no further round begins, once there are enough."""


def probe(plan: Plan) -> dict[str, float]:
    """Return images/s of the planned training, and the minutes and kimg to expect; times some steps if need be."""
    config = plan.config
    if plan.sizing is not None:
        rate = plan.sizing.speed
    else:
        rate = images_per_second(replace(plan, config=replace(config, threads=choose_threads(plan))))
    minutes = config.minutes if config.minutes is not None else 1000 * config.kimg / rate / 60
    return {
        "images_per_second": rate,
        "expected_minutes": minutes,
        "expected_kimg": minutes * 60 * rate / 1000,
    }


def choose_threads(plan: Plan, *, speed: Callable[[Plan], float] | None = None) -> int:
    """Return the number of CPU threads that trains fastest now: all of PyTorch's, or one.

    On a machine that others use, threads that wait for each other make a step several times slower than one thread
    alone; on a quiet one they are worth having. Only a look tells.
    """
    config, most = plan.config, torch.get_num_threads()
    if config.threads is not None:
        return config.threads
    if most == 1 or choose_device(config.device).type != "cpu":
        return most
    speed = speed or images_per_second
    return max((most, 1), key=lambda threads: speed(replace(plan, config=replace(config, threads=threads))))


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let PyTorch use `count` CPU threads, and restore the caller's number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def images_per_second(plan: Plan) -> float:
    """Return the speed of the planned training's steps, on the threads that its config names.

    Several processes take the same steps together, and all of them get what the first one measured.
    """
    config, device = plan.config, choose_device(plan.config.device)
    with cpu_threads(config.threads or torch.get_num_threads()):
        more: dict[str, Any] = {"classes": len(plan.manifest.classes)}
        if plan.translation is not None:
            more = {"translation": plan.translation}
        gan = load_plugin("ganaug.training.gans", config.model).GAN(
            config,
            size=plan.size,
            channels=plan.channels,
            device=device,
            bf16=use_bf16(config.precision, device),
            **more,
        )
        noise = torch.Generator(device)  # the user's own random state stays as it is
        count = max(1, config.batch // world_size())
        batch = gan.random_batch(count, noise, shape=(plan.channels, *plan.size))
        # A round has as many steps as it takes until one has both a penalty and a step of the generator again.
        steps = math.lcm(config.penalty_every, getattr(gan, "critic_steps", 1))

        def round_of_steps() -> None:
            for step in range(steps):
                gan.step(*batch, step, 1.0)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return of_main(config.batch * steps / best_time(round_of_steps))


def best_time(work: Callable[[], None], *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds of the fastest of a few repetitions of `work`.

    What else the machine does makes single repetitions slower, and never one faster: the fastest varies least.
    """
    begun, seconds = clock(), list[float]()
    while len(seconds) < ROUNDS[0] or (len(seconds) < ROUNDS[1] and of_main(clock() - begun) < SECONDS):
        start = clock()
        work()
        seconds.append(clock() - start)
    return min(seconds[1:])


def has_room(device: torch.device) -> bool:
    """Return whether a step that takes twice the memory of the largest one so far would fit, in every process."""
    return not of_any(not _has_room(device))


def _has_room(device: torch.device) -> bool:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return 2 * torch.cuda.max_memory_allocated(device) < free + torch.cuda.memory_reserved(device)
    try:
        import resource
    except ImportError:  # Windows, where nothing of the standard library tells
        return False
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return 4 * peak < whole  # a computer has other work too
