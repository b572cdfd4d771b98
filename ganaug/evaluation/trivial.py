"""TrivialAugment for batches: one random change of random strength for each image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ganaug.evaluation.classifier import Augment, ClassicalAugment


@dataclass(frozen=True)
class TrivialAugment:
    """torchvision's TrivialAugmentWide (Müller and Hutter 2021) on each image of a batch by itself.

    For gray and color images (not for volumes, whose planes are no color channels). It posterizes and solarizes too: it
    was made for photographs, and whether it is a strong baseline on these scans the validation says.
    """

    before: Augment | None = None
    """What changes the images first."""
    _transform: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        from torchvision.transforms import InterpolationMode, v2

        transform = v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR)
        object.__setattr__(self, "_transform", transform)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return changed copies of `images`: float in [-1, 1], N×C×H×W with 1 or 3 channels."""
        if self.before is not None:
            images = self.before(images, generator)
        stored = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        with torch.random.fork_rng(devices=[]):
            # torchvision draws from the global generator alone.
            torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            changed = torch.stack([self._transform(image) for image in stored])
        return changed.float() / 127.5 - 1


AUGMENTATIONS: dict[str, type[ClassicalAugment] | Any] = {
    "classical": ClassicalAugment,
    "trivial": TrivialAugment,
    "both": lambda: TrivialAugment(before=ClassicalAugment()),
}
"""What a study's augmentation is tuned over, by name."""


def augmentation(name: str) -> Augment:
    """Return one of `AUGMENTATIONS` by name."""
    made: Augment = AUGMENTATIONS[name]()
    return made
