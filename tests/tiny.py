"""Small labelled folders, settings and model files, for the tests of every room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ganaug.config import FitConfig
from ganaug.data.intensity import IntensityMap
from ganaug.models import build_network
from ganaug.models.modelfile import ModelHeader, save_model

UINT8 = IntensityMap(kind="uint8", low=0.0, high=255.0, dtype="uint8")
UINT16 = IntensityMap(kind="window", low=1000.0, high=50_000.0, dtype="uint16")

NETWORK: dict[str, Any] = {"widths": (16, 8), "group_width": 8, "latent_dim": 8, "label_dim": 4}
"""The smallest networks that have every part: two widths, groups, FiLM above 8 pixels."""

SETTINGS: dict[str, Any] = {
    **NETWORK,
    "recipe": "smoke",
    "batch": 8,
    "snapshots": 2,
    "device": "cpu",
    "precision": "fp32",
}
"""Keyword arguments of `ganaug.fit` for a training of a second or two."""


def shape_image(kind: str, rng: np.random.Generator, *, side: int = 16) -> np.ndarray:
    """Draw a bright disk, ring or cross at a random place of a dark noisy square: floats in [0, 1]."""
    y, x = np.mgrid[:side, :side] - rng.uniform(side * 0.4, side * 0.6, size=(2, 1, 1))
    radius = np.hypot(y, x)
    inside = {
        "disk": radius < side * 0.25,
        "ring": abs(radius - side * 0.3) < side * 0.08,
        "cross": (np.minimum(abs(y), abs(x)) < side * 0.08) & (radius < side * 0.35),
    }[kind]
    return np.clip(0.2 + 0.6 * inside + rng.normal(0, 0.03, inside.shape), 0, 1)


def write_shapes(
    root: Path, counts: Mapping[str, int], *, side: int = 16, channels: int = 1, dtype: str = "uint8", seed: int = 0
) -> Path:
    """Write ``ROOT/<kind>/<number>.png`` for each kind of `counts`, 8 or 16 bit, gray or RGB; return `root`."""
    rng = np.random.default_rng(seed)
    for kind, count in counts.items():
        (root / kind).mkdir(parents=True)
        for number in range(count):
            image = (shape_image(kind, rng, side=side) * np.iinfo(dtype).max).astype(dtype)
            if channels == 3:
                image = np.stack([image, image // 2, image.max() - image], axis=2)
            Image.fromarray(image).save(root / kind / f"{number:03d}.png")
    return root


def make_model(
    path: Path,
    *,
    classes: Sequence[str] = ("cross", "disk", "ring"),
    size: tuple[int, int] = (16, 12),
    channels: int = 1,
    intensity: IntensityMap = UINT8,
    seed: int = 0,
) -> Path:
    """Write the model file of an untrained generator, every weight of which is random; return `path`."""
    settings = FitConfig(**NETWORK, size=size, channels=channels).to_dict()
    generator = build_network("modern", "Generator", settings, size=size, channels=channels, classes=len(classes))
    randomize(generator, seed)
    header = ModelHeader("conditional", tuple(classes), size, channels, intensity, settings, {"images": {}})
    save_model(path, generator, header)
    return path


def randomize(network: torch.nn.Module, seed: int = 0, *, scale: float = 0.3) -> None:
    """Set every parameter to small random numbers, so that nothing is hidden behind a zero initialization."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=source) * scale)
