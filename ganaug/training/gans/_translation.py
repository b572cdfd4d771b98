"""What CycleGAN and pix2pix share: the translation networks, augmentation that only moves, and translating."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ganaug.config import FitConfig
from ganaug.distributed import world_size
from ganaug.errors import ConfigError
from ganaug.models import network_arguments, place
from ganaug.models.translation import PACKAGE, Translation, TranslationNet, build_translation
from ganaug.plugins import load_plugin
from ganaug.training.augment import augment, profile
from ganaug.training.batches import derived_seed
from ganaug.training.gans._base import BaseGAN
from ganaug.training.penalties import squared_gradient_norms
from ganaug.training.schedules import cosine

LOSSES = ("lsgan", "nonsaturating", "hinge", "minimax", "relativistic")
PENALTIES = ("auto", "r1r2", "none")
"""R1 and R2 (which 'auto' is) hold the discriminator down, or with 'none' spectral normalization."""


class TranslationGAN(BaseGAN):
    """Generators between domains, a patch discriminator with a head for each, their optimizers and the average.

    Args:
        config: all settings.
        size: sides of the training images.
        channels: of the images of every domain.
        translation: what is translated.
        device, bf16: see `ganaug.training.gans.conditional.GAN`.
    """

    critic_steps = 1
    images_seen = 1
    """Images that the discriminator sees side by side: 2 where it judges pairs."""

    def __init__(
        self,
        config: FitConfig,
        *,
        size: Sequence[int],
        channels: int,
        translation: Translation,
        device: torch.device,
        bf16: bool,
    ) -> None:
        if config.loss.replace("-", "_") not in LOSSES:
            raise ConfigError(
                f"loss = {config.loss!r} was given for model {config.model!r}; one of {', '.join(LOSSES)} was wanted."
            )
        if config.penalty not in PENALTIES:
            raise ConfigError(
                f"penalty = {config.penalty!r} was given for model {config.model!r}; one of {', '.join(PENALTIES)} was "
                "wanted."
            )
        self.penalized = config.penalty != "none"
        self.loss = load_plugin("ganaug.training.losses", config.loss)
        self.translation, self.channels = translation, channels
        self.shared = len(translation.domains) > 2
        kind = load_plugin(PACKAGE, config.arch).Discriminator
        fixed = {
            "size": tuple(size),
            "channels": self.images_seen * channels,
            "domains": len(translation.domains),
            "spectral": not self.penalized,
        }
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

    def _discriminate(
        self,
        real: Tensor,
        fake: Tensor,
        heads: tuple[Tensor, Tensor],
        objective: Callable[[Tensor, Tensor], Tensor],
        progress: float,
    ) -> dict[str, Tensor]:
        """Take a step of the discriminator; `objective` makes the loss of the logits of real and of fake images.

        The penalties are those of the mean logit of an image's patches.
        """
        gamma = cosine(self.config.gamma, progress, self.config.burn_in) if self.penalized else 0.0
        seen = torch.cat([real, fake]).requires_grad_(gamma > 0)
        logits = self._heads(seen, torch.cat(heads))
        loss = objective(*logits.chunk(2))
        values = {"loss_d": loss.detach()}
        if gamma > 0:
            with self._autocast():
                norms = squared_gradient_norms(logits.mean(1), seen).chunk(2)
            values |= {name: norm.mean().detach() for name, norm in zip(("r1", "r2"), norms, strict=True)}
            loss = loss + gamma / 2 * (norms[0].mean() + norms[1].mean())
        share = 1 / world_size()
        (loss * share).backward()
        values = {name: value * share for name, value in values.items()}
        values["loss_d"] = values["loss_d"] + self._update(0, values["loss_d"].clone())
        return values

    @torch.inference_mode()
    def translate(self, images: Tensor, to: Tensor) -> Tensor:
        """Return images (N×C×spatial) in the domains `to` (N), by the averaged weights: float32 in [-1, 1]."""
        made: Tensor = self.average(images.to(self.device), to.to(self.device))
        return made
