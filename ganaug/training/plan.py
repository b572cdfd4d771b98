"""What a training of a folder would be: every setting resolved, with the reasons."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ganaug.config import FitConfig, load_recipe, recipe_names
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
from ganaug.data.domains import Domains
from ganaug.data.geometry import PLANES
from ganaug.data.names import count
from ganaug.data.split import split_by_group
from ganaug.errors import ConfigError
from ganaug.models.device import choose_device
from ganaug.models.translation import PACKAGE as TRANSLATORS
from ganaug.models.translation import Translation
from ganaug.plugins import load_plugin, plugin_names
from ganaug.training.augment import profile
from ganaug.training.budget import Sizing, size_network
from ganaug.training.probe import choose_threads, has_room, images_per_second
from ganaug.training.translating import check_translation, find_domains, settled, translates, translation_of

FEW = 500
"""Images below which `auto` refines the recipe of images by +few, and does not widen the network."""
WIDEST, WIDEST_ON_GPU = 2.0, 4.0
"""Largest factors of a recipe's widths for a generous time budget."""


AUTO = "auto"
"""In the place of a batch: the largest that fits."""


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
    sizing: Sizing | None = None
    """How the network was fitted to the minutes; None where nothing had to be measured."""
    domains: Domains | None = None
    """The domains of the images, for translation."""
    translation: Translation | None = None
    """What the model file will say about them."""

    @property
    def size(self) -> tuple[int, ...]:
        """Height and width of the training images, or depth, height and width."""
        return self.grid.size

    @property
    def channels(self) -> int:
        """Channels of the training images."""
        return self.grid.channels

    @property
    def counts(self) -> dict[str, int]:
        """Images of each class, or of each domain."""
        if self.domains is None:
            return self.manifest.counts
        return {name: int((self.domains.of == d).sum()) for d, name in enumerate(self.domains.names)}

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "recipe": self.recipe,
            "images": len(self.manifest),
            "classes" if self.domains is None else "domains": self.counts,
            "reasons": list(self.reasons),
            "intensity": self.intensity.to_dict(),
            "sizing": self.sizing and self.sizing.to_dict(),
            "settings": self.config.to_dict(),
        }


def make_plan(
    manifest: Manifest,
    *,
    recipe: str = "auto",
    settings: Mapping[str, Any] | None = None,
    target: Manifest | None = None,
) -> Plan:
    """Decide how to train on the images of `manifest`.

    With recipe 'auto' and a time budget, `minutes`, some steps are timed and the network is fitted to the budget,
    unless `settings` name its widths, or the threads, which are else found by timing too. Without minutes nothing is
    timed, and the plan is the same on any machine. A `target` is the site that a translation goes to.

    Raises:
        DataError: the images cannot be trained on; the message says what to change.
        ConfigError: a setting or a recipe does not exist or does not fit.
    """
    given = with_length(settings or {})
    asked = asked_settings(recipe, given)
    manifest, held_out = training_side(manifest, asked)
    check_translation(asked, target=target is not None)
    domains, found = None, list[str]()
    if translates(asked):
        manifest, domains, found = find_domains(manifest, target and target.training_part(), asked)
    else:
        require_trainable(manifest)
    grid, reasons = _grid(manifest, asked)
    reasons = [*held_out, *found, *reasons]
    chosen = recipe == "auto"
    if chosen:
        images = len(manifest)
        recipe, why = choose_recipe(grid.size, channels=grid.channels, images=images, translates=domains is not None)
        reasons.append(f"Recipe {recipe}: {why}")
    config = FitConfig().updated(load_recipe(recipe), source=f"recipe {recipe}").updated(given)
    config = config.updated({"size": grid.size, "channels": grid.channels, "resize": grid.resize})
    sites = target is not None
    plan = plan_from(manifest, config, recipe=recipe, reasons=reasons, domains=domains, sites=sites, given=given)
    budget = (
        chosen and domains is None and config.minutes is not None and given.keys().isdisjoint({"widths", "threads"})
    )
    return _sized(plan, given) if budget else plan


def _sized(plan: Plan, given: Mapping[str, Any]) -> Plan:
    """Return the plan with the network that its minutes allow."""

    @functools.cache
    def speed(config: FitConfig) -> float:
        try:
            return images_per_second(replace(plan, config=config))
        except torch.OutOfMemoryError:
            return 0.0

    device = choose_device(plan.config.device)
    widest = WIDEST_ON_GPU if device.type == "cuda" else WIDEST
    sizing = size_network(
        replace(plan.config, threads=choose_threads(plan, speed=lambda other: speed(other.config))),
        speed,
        # The discriminator of a wide network knows a few images by heart before the generator has learned from it.
        widest=1.0 if len(plan.manifest) < FEW else widest,
        fixed=given,
        has_room=functools.partial(has_room, device),
    )
    return replace(plan, config=sizing.chosen, reasons=(*plan.reasons, sizing.reason), sizing=sizing)


def plan_from(
    manifest: Manifest,
    config: FitConfig,
    *,
    recipe: str,
    reasons: Sequence[str],
    domains: Domains | None = None,
    sites: bool = False,
    given: Mapping[str, Any] | None = None,
) -> Plan:
    """Return the plan of a complete config, in which nothing is left to choose but the intensity map.

    For translation there are `domains`, `sites` if they are sites, and what the user has `given`, or None if all is
    settled.

    Raises:
        DataError, ConfigError: see `make_plan`.
    """
    grid, _ = _grid(manifest, config)
    load_plugin("ganaug.training.gans", config.model)  # an unknown name fails here, before anything is written
    if domains is not None and config.arch in plugin_names("ganaug.models.archs"):
        fitting = ", ".join(name for name in recipe_names() if name.startswith("translate"))
        raise ConfigError(
            f"The recipe {recipe} was given for --model {config.model}, and its arch {config.arch!r} makes images from "
            f"noise. Leave --recipe out, or take one for translation: {fitting}."
        )
    load_plugin("ganaug.models.archs" if domains is None else TRANSLATORS, config.arch)
    load_plugin("ganaug.training.losses", config.loss)
    profile(config.augment)
    choose_device(config.device)
    if domains is not None:
        translation, why_each = translation_of(manifest, domains, grid, config, sites=sites)
        config = config if given is None else settled(config, translation, given)
        return Plan(
            manifest,
            config,
            grid,
            translation.intensities[0],
            recipe,
            (*reasons, *why_each),
            domains=domains,
            translation=translation,
        )
    intensity, why = choose_map(
        config.intensity,
        manifest.knots,
        [item.dtype for item in manifest.items],
        dims=len(grid.size),
        window=config.window,
    )
    return Plan(manifest, config, grid, intensity, recipe, (*reasons, f"Intensity {intensity.kind}: {why}"))


def training_side(manifest: Manifest, config: FitConfig) -> tuple[Manifest, tuple[str, ...]]:
    """Return what may be trained on, without the patients that ``hold_out`` leaves out, and a sentence on these.

    Which patients those are depends on their names alone, not on the seed: runs of one folder leave out the same.
    """
    part = manifest.training_part()
    if not config.hold_out:
        return part, ()
    groups = [item.group for item in part.items]
    kept, left = split_by_group(part.labels, groups, test_fraction=config.hold_out, seed=0)
    return part.subset(kept), (
        f"Held out: {count(len(left), 'image')} of {count(len({groups[i] for i in left.tolist()}), 'patient')}, which "
        "ganaug evaluate recognizes.",
    )


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
    """Return a copy of `settings` in which a given `kimg` is not overruled by minutes from elsewhere.

    A batch that is to be found by trying is left out.
    """
    length = {"minutes": None} if "kimg" in settings else {}
    return length | {key: value for key, value in settings.items() if (key, value) != ("batch", AUTO)}


def choose_recipe(
    size: tuple[int, ...], *, channels: int = 1, images: int = FEW, translates: bool = False
) -> tuple[str, str]:
    """Return the shipped recipe for this many images or volumes of a size, and the reason."""
    longest = max(size)
    if translates:
        kind = "volumes" if len(size) == 3 else f"images whose longest side is {longest} pixels"
        name = "translate3d" if len(size) == 3 else "translate64" if longest <= 64 else "translate128"
        return name, f"for translation of {kind}."
    if len(size) == 3:
        return "vol32" if longest <= 32 else "vol64", f"for volumes; their longest side is {count(longest, 'voxel')}."
    name = next((f"px{side}" for side in (16, 32, 64, 128) if longest <= side), "px256")
    why = f"for images whose longest side is {longest} pixels"
    if channels == 3:
        name, why = f"{name}+color", f"{why}, in color"
    if images < FEW:
        name, why = f"{name}+few", f"{why}, of which there are fewer than {FEW}"
    return name, f"{why}."
