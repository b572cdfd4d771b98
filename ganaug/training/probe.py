"""How long a training would take here: a few real steps on random images."""

from __future__ import annotations

import time

import torch

from ganaug.models.device import choose_device, use_bf16
from ganaug.plugins import load_plugin
from ganaug.training.plan import Plan

WARM_UP, TIMED = 3, 5


def probe(plan: Plan) -> dict[str, float]:
    """Time some steps of the planned training and return images/s, and the minutes and kimg to expect."""
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
    for step in range(WARM_UP + TIMED):
        if step == WARM_UP:
            start = time.perf_counter()
        losses = gan.step(images, labels, step, 1.0)
        float(losses["loss_g"])  # waits for the device
    rate = TIMED * config.batch / (time.perf_counter() - start)
    minutes = config.minutes if config.minutes is not None else 1000 * config.kimg / rate / 60
    return {
        "images_per_second": rate,
        "expected_minutes": minutes,
        "expected_kimg": minutes * 60 * rate / 1000,
    }
