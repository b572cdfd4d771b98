"""How fast a training runs here: a few real steps on random images."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ganaug.models.device import choose_device, use_bf16
from ganaug.plugins import load_plugin
from ganaug.training.plan import Plan

WARM_UP, TIMED = 2, 4


def probe(plan: Plan) -> dict[str, float]:
    """Time some steps of the planned training and return images/s, and the minutes and kimg to expect."""
    config = plan.config
    with cpu_threads(choose_threads(plan)):
        rate = config.batch / _seconds_per_step(plan)
    minutes = config.minutes if config.minutes is not None else 1000 * config.kimg / rate / 60
    return {
        "images_per_second": rate,
        "expected_minutes": minutes,
        "expected_kimg": minutes * 60 * rate / 1000,
    }


def choose_threads(plan: Plan) -> int:
    """Return the number of CPU threads that trains fastest now: all of PyTorch's, or one.

    On a machine that others use, threads that wait for each other make a step several times slower than one thread
    alone; on a quiet one they are worth having. Only a look tells.
    """
    config, most = plan.config, torch.get_num_threads()
    if config.threads is not None:
        return config.threads
    if most == 1 or choose_device(config.device).type != "cpu":
        return most
    seconds = {}
    for threads in (most, 1):
        with cpu_threads(threads):
            seconds[threads] = _seconds_per_step(plan)
    return min(seconds, key=lambda threads: seconds[threads])


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let PyTorch use `count` CPU threads, and restore the caller's number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _seconds_per_step(plan: Plan) -> float:
    config = plan.config
    device = choose_device(config.device)
    gan = load_plugin("ganaug.training.gans", config.model).GAN(
        config,
        size=plan.size,
        channels=plan.channels,
        classes=len(plan.manifest.classes),
        device=device,
        bf16=use_bf16(config.precision, device),
    )
    images = torch.rand(config.batch, plan.channels, *plan.size, device=device) * 2 - 1
    labels = torch.arange(config.batch, device=device) % len(plan.manifest.classes)
    start = 0.0
    for step in range(WARM_UP + TIMED):
        if step == WARM_UP:
            start = time.perf_counter()
        losses = gan.step(images, labels, step, 1.0)
        float(losses["loss_g"])  # waits for the device
    return (time.perf_counter() - start) / TIMED
