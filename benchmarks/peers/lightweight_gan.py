"""Train `lightweight-gan` (PyPI) on labeled images under a budget of CPU seconds, and sample it.

Unconditional: one model for each class, each with an equal share of the budget. Sizes are powers of two from 32; gray
images use the peer's own gray option. lucidrains.py says what was done to run it on a CPU.

--small sets latent_dim 64, fmap_max 32. The discriminator's branch for 32×32 copies has no such option and alone counts
about 0.4 M parameters.
"""

from __future__ import annotations

import argparse
from typing import Any

import harness
import lucidrains
import torch

SIZES = (32, 64, 128, 256, 512, 1024)


def sample(trainer: Any, number: int, averaged: bool) -> torch.Tensor:
    """Return N×C×H×W samples in [0, 1]."""
    trainer.GAN.eval()
    return trainer.generate_(trainer.GAN.GE if averaged else trainer.GAN.G, torch.randn(number, trainer.latent_dim))


def train(options: argparse.Namespace, data: harness.Data) -> harness.Trained:
    """Train and sample."""
    return lucidrains.train_each_class(
        options,
        data,
        "lightweight_gan",
        small={"latent_dim": 64, "fmap_max": 32},
        fixed={"greyscale": data.images.shape[1] == 1, "use_aim": False},
        sample=sample,
        generators=lambda trainer: [trainer.GAN.G],
    )


if __name__ == "__main__":
    harness.main("lightweight-gan", train, description=__doc__, sizes=SIZES)
