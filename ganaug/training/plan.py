"""What a training of a folder would be: every setting resolved, with the reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ganaug.config import FitConfig, load_recipe
from ganaug.data import (
    Geometry,
    Grid,
    IntensityMap,
    Manifest,
    choose_grid,
    choose_map,
    require_trainable,
    resolve_channels,
)
from ganaug.data.geometry import PLANES
from ganaug.data.names import count
from ganaug.models.device import choose_device
from ganaug.plugins import load_plugin
from ganaug.training.augment import profile


@dataclass(frozen=True)
class Plan:
    """A training that is ready to start."""

    manifest: Manifest
    """The images that train (what the metadata assigns to a test or validation split is left out)."""
    config: FitConfig
    """Every setting, with size, channels and resize mode decided."""
    grid: Grid
    """What every image is brought to."""
    intensity: IntensityMap
    """The way of stored values to [-1, 1] and back."""
    recipe: str
    reasons: tuple[str, ...]
    """What was chosen and why, a sentence each."""

    @property
    def size(self) -> tuple[int, ...]:
        """Height and width of the training images, or depth, height and width."""
        return self.grid.size

    @property
    def channels(self) -> int:
        """Channels of the training images."""
        return self.grid.channels

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "recipe": self.recipe,
            "images": len(self.manifest),
            "classes": self.manifest.counts,
            "reasons": list(self.reasons),
            "intensity": self.intensity.to_dict(),
            "settings": self.config.to_dict(),
        }


def make_plan(manifest: Manifest, *, recipe: str = "auto", settings: Mapping[str, Any] | None = None) -> Plan:
    """Decide how to train on the images of `manifest`.

    Raises:
        DataError: the images cannot be trained on; the message says what to change.
        ConfigError: a setting or a recipe does not exist or does not fit.
    """
    given = with_length(settings or {})
    manifest = manifest.training_part()
    require_trainable(manifest)
    asked = asked_settings(recipe, given)
    grid, reasons = _grid(manifest, asked)
    if recipe == "auto":
        recipe, why = choose_recipe(grid.size)
        reasons.append(f"Recipe {recipe}: {why}")
    config = FitConfig().updated(load_recipe(recipe), source=f"recipe {recipe}").updated(given)
    config = config.updated({"size": grid.size, "channels": grid.channels, "resize": grid.resize})
    return plan_from(manifest, config, recipe=recipe, reasons=reasons)


def plan_from(manifest: Manifest, config: FitConfig, *, recipe: str, reasons: Sequence[str]) -> Plan:
    """Return the plan of a complete config, in which nothing is left to choose but the intensity map.

    Raises:
        DataError, ConfigError: see `make_plan`.
    """
    grid, _ = _grid(manifest, config)
    load_plugin("ganaug.training.gans", config.model)  # an unknown name fails here, before anything is written
    load_plugin("ganaug.models.archs", config.arch)
    load_plugin("ganaug.training.losses", config.loss)
    profile(config.augment)
    choose_device(config.device)
    intensity, why = choose_map(
        config.intensity,
        manifest.knots,
        [item.dtype for item in manifest.items],
        dims=len(grid.size),
        window=config.window,
    )
    return Plan(manifest, config, grid, intensity, recipe, (*reasons, f"Intensity {intensity.kind}: {why}"))


def asked_settings(recipe: str, settings: Mapping[str, Any]) -> FitConfig:
    """Return what recipe and settings ask for, before anything is chosen from the folder."""
    named = {} if recipe == "auto" else load_recipe(recipe)
    return FitConfig().updated(named, source=f"recipe {recipe}").updated(with_length(settings))


def predict_grid(manifest: Manifest, *, recipe: str = "auto", settings: Mapping[str, Any] | None = None) -> Grid:
    """Return the grid that `make_plan` would choose; also for a sample of a folder, without its other checks."""
    return _grid(manifest.training_part(), asked_settings(recipe, settings or {}))[0]


def _grid(manifest: Manifest, asked: FitConfig) -> tuple[Grid, list[str]]:
    return choose_grid(
        manifest,
        size=asked.size,
        channels=resolve_channels(manifest, asked.channels),
        resize=asked.resize,
        largest=asked.largest,
        largest_volume=asked.largest_volume,
    )


def geometry_of(manifest: Manifest, grid: Grid) -> Geometry | None:
    """Return where synthetic volumes lie: as the training volumes in the middle of all; None for images."""
    if len(grid.size) != 3:
        return None
    known = [item for item in manifest.items if item.spacing is not None]
    extents = [np.multiply(item.shape, item.spacing) for item in known if item.spacing is not None]
    spacing = grid.spacing or (tuple(np.median(extents, axis=0) / grid.size) if extents else (1.0, 1.0, 1.0))
    depth, height, width = (round(float(step), 6) for step in spacing)
    orientations = Counter(item.orientation for item in known if item.orientation)
    centers = [item.center for item in known if item.center is not None]
    x, y, z = (float(value) for value in (np.median(centers, axis=0) if centers else np.zeros(3)))
    orientation = orientations.most_common(1)[0][0] if orientations else "LPS"
    return Geometry((depth, height, width), orientation, (x, y, z))


def format_of(manifest: Manifest) -> str:
    """Return the file format that most of the images have; none for slices, which are no files."""
    if any(item.part.startswith(PLANES) for item in manifest.items):
        return ""
    return Counter(item.format for item in manifest.items).most_common(1)[0][0]


def with_length(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `settings` in which a given `kimg` is not overruled by minutes from elsewhere."""
    return {"minutes": None, **settings} if "kimg" in settings else dict(settings)


def choose_recipe(size: tuple[int, ...]) -> tuple[str, str]:
    """Return the shipped recipe for images or volumes of this size, and the reason."""
    longest = max(size)
    if len(size) == 3:
        return "vol32", f"for volumes; their longest side is {count(longest, 'voxel')}."
    name = next((f"px{side}" for side in (16, 32, 64) if longest <= side), "px128")
    return name, f"for images whose longest side is {longest} pixels."
