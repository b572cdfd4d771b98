"""Model files of small translation networks, untrained, every weight of which is random."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ganaug.config import FitConfig
from ganaug.data.geometry import Geometry
from ganaug.data.intensity import IntensityMap
from ganaug.models.modelfile import ModelHeader, save_model
from ganaug.models.translation import Translation, build_translation
from ganaug.sampling import load
from ganaug.sampling.translator import Translator
from tests.tiny import UINT8, randomize


def make_translator(
    path: Path,
    *,
    domains: Sequence[str] = ("cross", "disk", "ring"),
    targets: Sequence[str] | None = None,
    rule: str = "class",
    labels: Sequence[str] = (),
    size: tuple[int, ...] = (16, 16),
    channels: int = 1,
    intensities: IntensityMap | Sequence[IntensityMap] = UINT8,
    residual: bool = True,
    degrade: str = "",
    geometry: Geometry | None = None,
    training: dict[str, Any] | None = None,
    scale: float = 0.15,
    **settings: Any,
) -> Translator:
    """Write a model file and return what `load` makes of it. With ``scale=0`` it returns its input, or gray."""
    config = FitConfig(
        **{"model": "cyclegan", "arch": "resnet", "widths": (8, 4), "group_width": 4, "label_dim": 4, **settings}
    )
    maps = (intensities,) * len(domains) if isinstance(intensities, IntensityMap) else tuple(intensities)
    translation = Translation(rule, tuple(domains), tuple(targets or domains), maps, tuple(labels), residual, degrade)
    plain = {**config.to_dict(), "size": size, "channels": channels}
    plain["resize"] = "stretch" if config.resize == "auto" else config.resize
    network = build_translation(vars(config), translation, size=size, channels=channels)
    randomize(network, 0, scale=scale)
    header = ModelHeader(
        "cyclegan",
        tuple(domains),
        size,
        channels,
        maps[0],
        plain,
        {"images": {}, **(training or {})},
        geometry=geometry,
        source_format="PNG",
        translation=translation,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(path, network, header)
    gan = load(path, device="cpu")
    assert isinstance(gan, Translator)
    return gan


def unit_images(n: int, *shape: int, seed: int = 0) -> torch.Tensor:
    """Random images in [-1, 1]."""
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
