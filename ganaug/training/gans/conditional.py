"""One training step of the class-conditional GAN."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ganaug.config import FitConfig
from ganaug.models import build_network, place
from ganaug.plugins import load_plugin
from ganaug.training.augment import augment, profile
from ganaug.training.batches import derived_seed
from ganaug.training.ema import update_ema
from ganaug.training.penalties import squared_gradient_norms
from ganaug.training.schedules import cosine


class GAN:
    """A class-conditional generator and discriminator, their optimizers, and the generator's moving average.

    Args:
        config: all settings.
        size: height and width of the images, or depth, height and width of volumes.
        channels: channels of the images.
        classes: number of classes.
        device: where to train.
        bf16: run the networks under bfloat16 autocast; parameters, optimizer and the penalties' sums stay float32.
    """

    def __init__(
        self,
        config: FitConfig,
        *,
        size: Sequence[int],
        channels: int,
        classes: int,
        device: torch.device,
        bf16: bool,
    ) -> None:
        self.config, self.device, self.bf16 = config, device, bf16
        self.loss = load_plugin("ganaug.training.losses", config.loss)
        self.strength = profile(config.augment)
        with torch.random.fork_rng(devices=[]):  # the user's own random state stays as it is
            torch.manual_seed(derived_seed(config.seed, "weights"))
            parts = [
                build_network(config.arch, part, vars(config), size=size, channels=channels, classes=classes)
                for part in ("Generator", "Discriminator")
            ]
        self.generator, self.discriminator = (place(part, device) for part in parts)
        self.average = copy.deepcopy(self.generator).requires_grad_(False).eval()
        self.optimizers = [self._adam(self.discriminator), self._adam(self.generator)]
        self.random = torch.Generator(device)
        self.attempt = 0
        """Rollbacks so far: each one draws other random numbers and halves the learning rate."""

    def _adam(self, network: nn.Module) -> torch.optim.Adam:
        betas = (0.0, self.config.beta2[0])
        return torch.optim.Adam(network.parameters(), lr=self.config.lr[0], betas=betas, fused=True)

    def step(self, images: Tensor, labels: Tensor, step: int, progress: float) -> dict[str, Tensor]:
        """Take one step of the discriminator and one of the generator.

        Args:
            images: N×C×H×W or N×C×D×H×W float32 in [-1, 1] on the device; labels: N int64.
            step: number of the step; with the seed it determines all random numbers.
            progress: fraction of the training that is done, for the schedules.

        Returns:
            Scalar tensors (not yet synchronized with the CPU): losses, penalties, mean logits.
        """
        config = self.config
        self.random.manual_seed(derived_seed(config.seed, "step", step, self.attempt))
        p = cosine(config.augment_p, progress, config.burn_in)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = cosine(config.lr, progress, config.burn_in) * 0.5**self.attempt
                group["betas"] = (0.0, cosine(config.beta2, progress, config.burn_in))

        with self._autocast():
            fakes = self.generator(self._latents(len(images)), labels)
        metrics = self._step_discriminator(images, fakes.detach(), labels, step, progress, p)
        metrics |= self._step_generator(images, fakes, labels, p)
        update_ema(
            self.average,
            self.generator,
            images=len(images),
            half_life_kimg=cosine(config.ema_half_life_kimg, progress, config.burn_in),
        )
        return metrics

    def _step_discriminator(
        self, images: Tensor, fakes: Tensor, labels: Tensor, step: int, progress: float, p: float
    ) -> dict[str, Tensor]:
        config = self.config
        penalized = step % config.penalty_every == 0
        # The penalty is taken at the augmented images themselves, so it needs no second derivative of the augmentation.
        seen = augment(torch.cat([images, fakes.float()]), p, self.strength, self.random)
        seen = seen.detach().requires_grad_(penalized)
        with self._autocast():
            logits = self.discriminator(seen, labels.repeat(2)).float()
            real, fake = logits.chunk(2)
            loss = self.loss.discriminator_loss(real, fake)
        metrics = {"loss_d": loss.detach(), "logit_gap": (real - fake).mean().detach()}
        if penalized:
            with self._autocast():
                r1, r2 = squared_gradient_norms(logits, seen).chunk(2)
            gamma = cosine(config.gamma, progress, config.burn_in) * config.penalty_every
            loss = loss + gamma / 2 * (r1.mean() + r2.mean())
            metrics |= {"r1": r1.mean().detach(), "r2": r2.mean().detach()}
        self._update(0, self.discriminator, loss)
        return metrics

    def _step_generator(self, images: Tensor, fakes: Tensor, labels: Tensor, p: float) -> dict[str, Tensor]:
        self.discriminator.requires_grad_(False)
        seen_real, seen_fake = augment(torch.cat([images, fakes.float()]), p, self.strength, self.random).chunk(2)
        with self._autocast():
            with torch.no_grad():
                real = self.discriminator(seen_real, labels).float()
            fake = self.discriminator(seen_fake, labels).float()
            loss = self.loss.generator_loss(real, fake)
        self._update(1, self.generator, loss)
        self.discriminator.requires_grad_(True)
        return {"loss_g": loss.detach()}

    def _update(self, which: int, network: nn.Module, loss: Tensor) -> None:
        if not torch.isfinite(loss):  # skipped, not repaired: the loop counts it
            return
        optimizer = self.optimizers[which]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def _latents(self, count: int) -> Tensor:
        return torch.randn(count, self.config.latent_dim, generator=self.random, device=self.device)

    @torch.inference_mode()
    def sample(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Return float32 images in [-1, 1], N×C×H×W or N×C×D×H×W, from the averaged weights."""
        return self.average(latents.to(self.device), labels.to(self.device)).float().clamp(-1, 1)

    def tensors(self) -> dict[str, Tensor]:
        """Return the full state as named tensors: three networks and two optimizers."""
        named: dict[str, Tensor] = {}
        for name, network in self._networks().items():
            named |= {f"{name}/{key}": value for key, value in network.state_dict().items()}
        for which, optimizer in enumerate(self.optimizers):
            for index, entries in optimizer.state_dict()["state"].items():
                named |= {f"adam{which}/{index}/{key}": value for key, value in entries.items()}
        return named

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` returned."""
        groups: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            group, _, rest = key.partition("/")
            groups.setdefault(group, {})[rest] = value
        for name, network in self._networks().items():
            network.load_state_dict(groups[name])
        for which, optimizer in enumerate(self.optimizers):
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in groups.get(f"adam{which}", {}).items():
                index, _, entry = key.partition("/")
                state.setdefault(int(index), {})[entry] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
            for parameter, entries in optimizer.state.items():
                for key, value in entries.items():
                    # The fused update walks through memory: moments need the layout of their parameter.
                    if value.shape == parameter.shape:
                        entries[key] = torch.empty_like(parameter).copy_(value)

    def _networks(self) -> dict[str, nn.Module]:
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "average": self.average,
        }
