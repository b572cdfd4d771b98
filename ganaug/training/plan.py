"""What a training of a folder would be: every setting resolved, with the reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ganaug.config import FitConfig, load_recipe
from ganaug.data import Manifest, choose_size, require_trainable, resolve_channels, resolve_dtype
from ganaug.errors import ConfigError
from ganaug.models.device import choose_device
from ganaug.plugins import load_plugin
from ganaug.training.augment import profile


@dataclass(frozen=True)
class Plan:
    """A training that is ready to start."""

    manifest: Manifest
    """The images that train (what the metadata assigns to a test or validation split is left out)."""
    config: FitConfig
    recipe: str
    reasons: tuple[str, ...]
    """What was chosen and why, a sentence each."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the training images."""
        if self.config.size is None:
            raise ConfigError("The plan has no size. Make it with make_plan, or set size.")
        return self.config.size[0], self.config.size[1]

    @property
    def channels(self) -> int:
        """Channels of the training images."""
        if self.config.channels is None:
            raise ConfigError("The plan has no channels. Make it with make_plan, or set channels.")
        return self.config.channels

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "recipe": self.recipe,
            "images": len(self.manifest),
            "classes": self.manifest.counts,
            "reasons": list(self.reasons),
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
    named = {} if recipe == "auto" else load_recipe(recipe)
    asked = FitConfig().updated(named, source=f"recipe {recipe}").updated(given)
    channels = resolve_channels(manifest, asked.channels)
    resolve_dtype(manifest)
    reasons = []
    if asked.size is None:
        size, why = choose_size(manifest, largest=asked.largest)
        reasons.append(f"Size {size[0]}x{size[1]}: {why}")
    else:
        size = (asked.size[0], asked.size[1])
        reasons.append(f"Size {size[0]}x{size[1]}: as asked for.")
    if recipe == "auto":
        recipe, why = choose_recipe(size)
        reasons.append(f"Recipe {recipe}: {why}")
        named = load_recipe(recipe)
    config = FitConfig().updated(named, source=f"recipe {recipe}").updated(given)
    config = config.updated({"size": size, "channels": channels})
    load_plugin("ganaug.training.gans", config.model)  # an unknown name fails here, before anything is written
    load_plugin("ganaug.models.archs", config.arch)
    load_plugin("ganaug.training.losses", config.loss)
    profile(config.augment)
    choose_device(config.device)
    return Plan(manifest, config, recipe, tuple(reasons))


def with_length(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `settings` in which a given `kimg` is not overruled by minutes from elsewhere."""
    return {"minutes": None, **settings} if "kimg" in settings else dict(settings)


def choose_recipe(size: tuple[int, int]) -> tuple[str, str]:
    """Return the shipped recipe for images of this size, and the reason."""
    longest = max(size)
    name = next((f"px{side}" for side in (16, 32, 64) if longest <= side), "px128")
    return name, f"for images whose longest side is {longest} pixels."
