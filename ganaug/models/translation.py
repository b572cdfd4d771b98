"""All directions of a translation model in one network, and what its model file says about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganaug.data.intensity import IntensityMap
from ganaug.errors import ModelFileError
from ganaug.models import network_arguments
from ganaug.plugins import load_plugin

PACKAGE = "ganaug.models.translators"


@dataclass(frozen=True)
class Translation:
    """What a model file says about a translation between domains: classes, sites or contrasts."""

    rule: str
    """'style': a translated image keeps its label; 'class': it takes that of the target."""
    domains: tuple[str, ...]
    """Names, in the order of the network's index."""
    targets: tuple[str, ...]
    """The domains that images can be turned into."""
    intensities: tuple[IntensityMap, ...]
    """The way of each domain's stored values to [-1, 1] and back; under rule 'class' all are alike."""
    labels: tuple[str, ...]
    """Class names under rule 'style', where the training knew them."""
    residual: bool
    """Whether the networks make the difference to their input."""
    degrade: str
    """What was done to images to make pairs, such as 'downsample=4'; '' nothing."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for a JSON header."""
        return {**vars(self), "intensities": [intensity.to_dict() for intensity in self.intensities]}

    @classmethod
    def from_dict(cls, values: Any) -> Translation:
        """Return what `to_dict` described; anything else is a ModelFileError, KeyError, TypeError or ValueError."""
        made = cls(
            rule=str(values["rule"]),
            domains=tuple(map(str, values["domains"])),
            targets=tuple(map(str, values["targets"])),
            intensities=tuple(IntensityMap.from_dict(fields) for fields in values["intensities"]),
            labels=tuple(map(str, values["labels"])),
            residual=bool(values["residual"]),
            degrade=str(values["degrade"]),
        )
        good = made.rule in ("style", "class") and len(made.domains) == len(made.intensities) >= 2
        if not good or not made.targets or not {*made.targets} <= {*made.domains}:
            raise ModelFileError(
                f"The model file describes a translation {values!r:.200}, which no run can have. Train it again."
            )
        return made

    @property
    def target_indices(self) -> tuple[int, ...]:
        """Positions of the targets among the domains."""
        return tuple(self.domains.index(name) for name in self.targets)


class TranslationNet(nn.Module):
    """Images and the index of a domain to images of that domain.

    ``forward(images: N×C×spatial in [-1, 1], to: N int64) -> N×C×spatial`` float32 in [-1, 1]. Two domains have a
    generator for each target, which takes its input for one of the other domain; more share one generator. Nothing is
    normalized over space, and sides that are no multiples of `stride` are filled by repeating the border.

    Args:
        arch: a module of `ganaug.models.translators`.
        settings: network settings of a `FitConfig`.
        size: sides of the training images.
        channels: of the images.
        domains: number of domains.
        targets: indices of those that it translates to.
        residual, masked: see `ganaug.models.translators.resnet.Generator`.
    """

    def __init__(
        self,
        arch: str,
        settings: Mapping[str, Any],
        *,
        size: Sequence[int],
        channels: int,
        domains: int,
        targets: Sequence[int],
        residual: bool,
        masked: bool,
    ) -> None:
        super().__init__()
        kind = load_plugin(PACKAGE, arch).Generator
        self.targets = tuple(targets)
        shared = domains > 2
        fixed = {
            "size": tuple(size),
            "channels": channels,
            "targets": domains if shared else 1,
            "residual": residual,
            "mask": masked,
        }
        arguments = network_arguments(kind, settings, fixed)
        names = ["all"] if shared else [f"to{target}" for target in self.targets]
        self.generators = nn.ModuleDict({name: kind(**arguments) for name in names})
        first = next(iter(self.generators.values()))
        self.stride = int(first.stride)  # type: ignore[arg-type]
        """Sides are filled up to multiples of it."""
        self.reach = int(first.reach)  # type: ignore[arg-type]
        """Pixels on every side on which an output pixel depends at most."""

    def route(self, images: Tensor, to: int) -> tuple[Tensor, Tensor | None]:
        """Return images of the domain `to`, not clamped, and the mask of what changed, if the network has one."""
        return self.route_all(images, torch.full((len(images),), to, device=images.device), f"to{to}")

    def route_all(self, images: Tensor, to: Tensor, name: str = "all") -> tuple[Tensor, Tensor | None]:
        """Return images of the domains `to` (N), as `route` does, from one generator: the shared one or that named."""
        sides = images.shape[2:]
        missing = [-side % self.stride for side in sides]
        if any(missing):
            images = F.pad(images, [end for side in missing[::-1] for end in (0, side)], mode="replicate")
        generator = self.generators["all" if "all" in self.generators else name]
        made, mask = generator(images, to)
        if any(missing):
            inside = (..., *(slice(0, side) for side in sides))
            made, mask = made[inside], None if mask is None else mask[inside]
        return made, mask

    def forward(self, images: Tensor, to: Tensor) -> Tensor:
        made = torch.empty_like(images, dtype=torch.float32)
        for target in to.unique().tolist():
            rows = (to == target).nonzero()[:, 0]
            made[rows] = self.route(images[rows], target)[0].float().clamp(-1, 1)
        return made


def build_translation(
    settings: Mapping[str, Any], translation: Translation, *, size: Sequence[int], channels: int
) -> TranslationNet:
    """Build the network that a model file or a training describes."""
    return TranslationNet(
        str(settings["arch"]),
        settings,
        size=size,
        channels=channels,
        domains=len(translation.domains),
        targets=translation.target_indices,
        residual=translation.residual,
        masked=translation.rule == "class" and float(settings["mask_weight"]) > 0,
    )
