"""What CycleGAN and pix2pix share: the translation networks, augmentation that only moves, and translating."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ganaug.config import FitConfig
from ganaug.errors import ConfigError
from ganaug.models import network_arguments, place
from ganaug.models.translation import PACKAGE, Translation, TranslationNet, build_translation
from ganaug.plugins import load_plugin
from ganaug.training.augment import augment, profile
from ganaug.training.batches import derived_seed
from ganaug.training.gans._base import BaseGAN

LOSSES = ("lsgan", "nonsaturating", "hinge", "minimax", "relativistic")
"""Losses without a penalty of their own: the patch discriminator is held down by spectral normalization."""


class TranslationGAN(BaseGAN):
    """Generators between domains, a patch discriminator with a head for each, their optimizers and the average.

    Args:
        config: all settings.
        size: sides of the training images.
        channels: of the images of every domain.
        translation: what is translated.
        device, bf16: see `ganaug.training.gans.conditional.GAN`.
        seen: channels that the discriminator sees: those of an image, or of a pair.
    """

    critic_steps = 1

    def __init__(
        self,
        config: FitConfig,
        *,
        size: Sequence[int],
        channels: int,
        translation: Translation,
        device: torch.device,
        bf16: bool,
        seen: int,
    ) -> None:
        if config.loss.replace("-", "_") not in LOSSES:
            raise ConfigError(
                f"loss = {config.loss!r} was given for model {config.model!r}; one of {', '.join(LOSSES)} was wanted."
            )
        self.loss = load_plugin("ganaug.training.losses", config.loss)
        self.translation, self.channels = translation, channels
        self.shared = len(translation.domains) > 2
        kind = load_plugin(PACKAGE, config.arch).Discriminator
        fixed = {"size": tuple(size), "channels": seen, "domains": len(translation.domains)}
        with torch.random.fork_rng(devices=[]):  # the user's own random state stays as it is
            torch.manual_seed(derived_seed(config.seed, "weights"))
            generator: TranslationNet = build_translation(vars(config), translation, size=size, channels=channels)
            discriminator = kind(**network_arguments(kind, vars(config), fixed))
        generator, discriminator = (place(part, device) for part in (generator, discriminator))  # type: ignore[assignment]
        average = copy.deepcopy(generator).requires_grad_(False).eval()
        super().__init__(
            config, generator=generator, discriminator=discriminator, average=average, device=device, bf16=bf16
        )
        self.net = generator
        # Brightness and contrast are what is to be learned. A moved image is a good source, and the network, which
        # moves nothing itself, answers in place.
        moves = replace(profile(config.augment), brightness=0, contrast=0, depth_gain=0, saturation=0, hue_deg=0)
        self.strength = moves

    def _moved(self, images: Tensor, p: float, step: int, rows: Tensor, of: int) -> Tensor:
        self._seed(step, "moves")
        return augment(images, p, self.strength, self.random, rows=rows, of=of)

    def _heads(self, images: Tensor, domains: Tensor) -> Tensor:
        with self._autocast():
            logits: Tensor = self.discriminator(images, domains)
        return logits.float()

    @torch.inference_mode()
    def translate(self, images: Tensor, to: Tensor) -> Tensor:
        """Return images (N×C×spatial) in the domains `to` (N), by the averaged weights: float32 in [-1, 1]."""
        made: Tensor = self.average(images.to(self.device), to.to(self.device))
        return made
