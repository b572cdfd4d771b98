"""Train `stylegan2-pytorch` (PyPI) on labeled images under a budget of CPU seconds, and sample it.

Unconditional: one model for each class, each with an equal share of the budget. Sizes are powers of two from 16; it has
no gray option, so gray images are shown as three equal channels and samples averaged over them. Samples are truncated
as the peer's own are (its `trunc_psi`). lucidrains.py says what was done to run it on a CPU; besides, the experiment
tracker `aim`, which the peer imports and uses only when asked to log, is an empty module here.

--small sets latent_dim 128, fmap_max 64 and network_capacity 128 / size.
"""

from __future__ import annotations

import argparse
import sys
import types
from typing import Any

import harness
import lucidrains
import torch

SIZES = (16, 32, 64, 128, 256, 512, 1024)


def sample(trainer: Any, number: int, averaged: bool) -> torch.Tensor:
    """Return N×3×H×W samples in [0, 1]."""
    gan = trainer.GAN.eval()
    latents = [(torch.randn(number, gan.G.latent_dim), gan.G.num_layers)]
    noise = torch.rand(number, gan.G.image_size, gan.G.image_size, 1)
    networks = (gan.SE, gan.GE) if averaged else (gan.S, gan.G)
    return trainer.generate_truncated(*networks, latents, noise, trunc_psi=trainer.trunc_psi)


def train(options: argparse.Namespace, data: harness.Data) -> harness.Trained:
    """Train and sample."""
    sys.modules["aim"] = types.ModuleType("aim")
    return lucidrains.train_each_class(
        options,
        data,
        "stylegan2_pytorch",
        # The peer's averaged generator ignores fmap_max, which therefore must not bind in the generator.
        small={"latent_dim": 128, "fmap_max": 64, "network_capacity": max(1, 128 // options.size)},
        fixed={},
        sample=sample,
        generators=lambda trainer: [trainer.GAN.S, trainer.GAN.G],
    )


if __name__ == "__main__":
    harness.main("stylegan2-pytorch", train, description=__doc__, sizes=SIZES)
