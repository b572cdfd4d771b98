"""Models of every architecture, trained a little or with random weights, for tests of the networks and their uses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ganaug.config import FitConfig
from ganaug.models.modelfile import ModelHeader, save_model
from ganaug.sampling.sampler import Sampler, load
from ganaug.training.gans.conditional import GAN
from tests.tiny import NETWORK, UINT8


def tiny_gan(
    arch: str,
    *,
    size: Sequence[int] = (16, 16),
    channels: int = 1,
    classes: int = 2,
    bf16: bool = False,
    **changes: Any,
) -> GAN:
    """Return the smallest trainable GAN of an architecture."""
    config = FitConfig(**{**NETWORK, "batch": 8, "arch": arch, **changes})
    return GAN(config, size=size, channels=channels, classes=classes, device=torch.device("cpu"), bf16=bf16)


def sampler_of(gan: GAN, path: Path, *, size: Sequence[int], channels: int = 1, classes: int = 2) -> Sampler:
    """Write the averaged generator of `gan` as a model file, and load it."""
    names = tuple("abcdefgh"[:classes])
    header = ModelHeader("conditional", names, tuple(size), channels, UINT8, gan.config.to_dict(), {"images": {}})
    save_model(path, gan.average, header)
    return load(path, device="cpu")


def random_sampler(
    arch: str, path: Path, *, size: Sequence[int] = (16, 16), channels: int = 1, classes: int = 3, **changes: Any
) -> Sampler:
    """Return the sampler of an untrained generator, every weight of which is random."""
    gan = tiny_gan(arch, size=size, channels=channels, classes=classes, **changes)
    shake(gan.average)
    return sampler_of(gan, path, size=size, channels=channels, classes=classes)


def shake(network: nn.Module, *, scale: float = 0.1) -> None:
    """Add small random numbers to every parameter, so that nothing is hidden behind a zero initialization."""
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=source) * scale)


def templates(size: Sequence[int]) -> Tensor:
    """Return two images or volumes: a bright ball beside the middle, and a bright slab. 2×1×size in [-0.6, 0.6]."""
    axes = torch.meshgrid(*[torch.linspace(-1, 1, side) for side in size], indexing="ij")
    ball = (sum((axis + 0.3).square() for axis in axes) < 0.3).float()
    slab = ((axes[0] - 0.4).abs() < 0.3).float()
    return torch.stack([ball, slab])[:, None] * 1.2 - 0.6


def learn_templates(gan: GAN, size: Sequence[int], *, steps: int) -> tuple[Tensor, Tensor]:
    """Train on noisy copies of two templates, one a class.

    Returns:
        Before and after: for samples of each class (rows), the distance to each template (columns), a pixel.
    """
    wanted = templates(size)
    labels = torch.arange(32) % 2
    images = wanted[labels] + 0.05 * torch.randn(32, *wanted.shape[1:], generator=torch.Generator().manual_seed(0))
    latents = torch.randn(16, gan.config.latent_dim, generator=torch.Generator().manual_seed(1))

    def distances() -> Tensor:
        found = [gan.sample(latents, torch.full((16,), c))[:, None] - wanted for c in (0, 1)]
        return torch.stack(found).square().flatten(3).mean((1, 3)).sqrt()

    before = distances()
    for step in range(steps):
        positions = torch.arange(step * 8, step * 8 + 8) % 32
        gan.step(images[positions], labels[positions], step, step / steps)
    return before, distances()
