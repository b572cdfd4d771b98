"""The network that a training's minutes allow: narrower when they show too few images, wider when they show plenty."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from ganaug.config import FitConfig
from ganaug.models.grids import coarser, stage_grids, stage_widths

TOO_FEW, PLENTY = 0.5, 3.0
"""Shares of the images that the recipe wants to see between which its network stays as it is. They lie a factor of six
apart: a speed that is measured on a machine in use may be off by two, and must not narrow a network here, widen it
there."""
FASTER = 1.2
"""Least gain in speed for which a network gives up capacity."""
NARROWER, WIDER = (0.71, 0.5), (1.41, 2.0, 2.83, 4.0)
"""Factors of the recipe's widths, in the order in which they are tried: about half or twice the work each time."""
NARROWEST = 48
"""Channels that the widest stage keeps, however short the budget."""
COARSER_ABOVE = 64
"""Longest side of images, in pixels, above which the finest residual stage may go from half the size to a quarter."""


@dataclass(frozen=True)
class Sizing:
    """The network that was chosen for a time budget, and why."""

    recipe: FitConfig
    """What the recipe asks for, with the budget in `minutes`."""
    chosen: FitConfig
    """The same with other widths, or another stem."""
    recipe_speed: float
    """Images/s of the recipe's own network."""
    speed: float
    """Images/s of the chosen one."""

    @property
    def reason(self) -> str:
        """Say what was chosen and why, in a sentence."""
        before, after = (_widths(config) for config in (self.recipe, self.chosen))
        share = _share(self.recipe, self.recipe_speed)
        shown = f"{_thousands(_kimg(self.recipe, self.recipe_speed))} thousand images ({self.recipe_speed:.0f}/s)"
        start = f"Budget: {self.recipe.minutes:g} minutes show about {shown}, the recipe wants {self.recipe.kimg:g}"
        if self.chosen != self.recipe:
            stem = f" and stem {self.chosen.stem}" if self.chosen.stem != self.recipe.stem else ""
            now = f"{_thousands(_kimg(self.chosen, self.speed))} ({self.speed:.0f}/s)"
            return f"{start}: widths {before} become {after}{stem}, which show about {now}."
        if share < TOO_FEW:
            return f"{start}; a narrower network is hardly faster here: widths {before} are kept."
        return f"{start}: widths {before} are kept."

    def to_dict(self) -> dict[str, Any]:
        """Return the sizing as JSON values."""
        return {
            "minutes": self.recipe.minutes,
            "recipe_kimg": self.recipe.kimg,
            "recipe_widths": list(self.recipe.widths),
            "recipe_images_per_second": self.recipe_speed,
            "widths": list(self.chosen.widths),
            "stem": self.chosen.stem,
            "images_per_second": self.speed,
        }


def size_network(
    config: FitConfig,
    speed: Callable[[FitConfig], float],
    *,
    widest: float,
    fixed: Collection[str] = (),
    has_room: Callable[[], bool] = lambda: True,
) -> Sizing:
    """Choose the network that `config.minutes` allow.

    Args:
        config: what the recipe asks for; `kimg` is what it wants to see, `size` is known.
        speed: measures the images/s of a config; 0 if it does not fit into memory.
        widest: largest factor of the widths.
        fixed: settings that the user has given, and that stay.
        has_room: whether a network of twice the size of the last one measured would still fit into memory.
    """
    own = found = speed(config)
    chosen = config
    narrower = [replace(config, widths=scaled_widths(config, factor)) for factor in NARROWER]
    narrower = [narrow for narrow in narrower if narrow != config and max(narrow.widths) >= NARROWEST]
    for narrow in narrower:
        # Even if all the work went with the square of the widths, this one would not do: the next one is measured.
        hopeless = _share(config, own) * (max(config.widths) / max(narrow.widths)) ** 2 < TOO_FEW
        if _share(config, found) >= TOO_FEW or (hopeless and narrow != narrower[-1]):
            continue
        chosen, found = _faster(chosen, found, narrow, speed)
    if _share(config, found) < TOO_FEW and "stem" not in fixed and _may_be_coarser(chosen):
        chosen, found = _faster(chosen, found, _with_stem_4(chosen), speed)
    for factor in WIDER:
        if factor > widest or _share(config, found) <= PLENTY or not has_room():
            break
        wide = replace(config, widths=scaled_widths(config, factor))
        rate = speed(wide)
        if _share(config, rate) < 1:
            break
        chosen, found = wide, rate
    return Sizing(config, chosen, own, found)


def scaled_widths(config: FitConfig, factor: float) -> tuple[int, ...]:
    """Return the widths times `factor`, in whole groups: multiples of `group_width`, or what is narrower already."""
    group = config.group_width
    scaled = (max(1, round(width * factor / group)) * group for width in config.widths)
    return tuple(min(pair) if factor < 1 else max(pair) for pair in zip(config.widths, scaled, strict=True))


def _faster(
    chosen: FitConfig, found: float, other: FitConfig, speed: Callable[[FitConfig], float]
) -> tuple[FitConfig, float]:
    """Return the other network and its speed if it is enough faster than the chosen one, else the chosen one's."""
    rate = speed(other)
    return (other, rate) if rate >= FASTER * found else (chosen, found)


def _may_be_coarser(config: FitConfig) -> bool:
    assert config.size is not None
    images = len(config.size) == 2 and max(config.size) > COARSER_ABOVE
    return images and config.stem == 2 and config.arch != "dcgan"  # whose stem is 1 or 2


def _with_stem_4(config: FitConfig) -> FitConfig:
    """Return the config with its finest stage on the grid of the one before, whose place it takes."""
    assert config.size is not None
    stages = stage_widths(config.widths, len(stage_grids(coarser(config.size, config.stem), config.base)))
    return replace(config, stem=4, widths=(*stages[:-2], stages[-1]))


def _kimg(config: FitConfig, speed: float) -> float:
    """Return the thousands of images that the budget shows."""
    assert config.minutes is not None
    return 60 * config.minutes * speed / 1000


def _share(config: FitConfig, speed: float) -> float:
    """Return the images that the budget shows over those that the recipe wants to see."""
    return _kimg(config, speed) / config.kimg


def _widths(config: FitConfig) -> str:
    return "-".join(map(str, config.widths))


def _thousands(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"
