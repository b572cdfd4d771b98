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
from ganaug.training.penalties import between, clip_weights, squared_gradient_norms, unit_gradient_penalty
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
        self.penalty = self.loss.PENALTY if config.penalty == "auto" else config.penalty
        self.critic_steps = config.critic_steps or self.loss.CRITIC_STEPS
        self.strength = profile(config.augment)
        with torch.random.fork_rng(devices=[]):  # the user's own random state stays as it is
            torch.manual_seed(derived_seed(config.seed, "weights"))
            parts = [
                build_network(config.arch, part, vars(config), size=size, channels=channels, classes=classes)
                for part in ("Generator", "Discriminator")
            ]
        self.generator, self.discriminator = (place(part, device) for part in parts)
        self.average = copy.deepcopy(self.generator).requires_grad_(False).eval()
        if config.labels == "ignored":
            _forget_classes(self.average)
        self.optimizers = [self._adam(self.discriminator), self._adam(self.generator)]
        self.random = torch.Generator(device)
        self.attempt = 0
        """Rollbacks so far: each one draws other random numbers and halves the learning rate."""

    def _adam(self, network: nn.Module) -> torch.optim.Adam:
        betas = (0.0, self.config.beta2[0])
        return torch.optim.Adam(network.parameters(), lr=self.config.lr[0], betas=betas, fused=True)

    def step(self, images: Tensor, labels: Tensor, step: int, progress: float) -> dict[str, Tensor]:
        """Take one step of the discriminator, and in every `critic_steps`-th call one of the generator.

        Args:
            images: N×C×H×W or N×C×D×H×W float32 in [-1, 1] on the device; labels: N int64.
            step: number of the step; with the seed it determines all random numbers.
            progress: fraction of the training that is done, for the schedules.

        Returns:
            Scalar tensors (not yet synchronized with the CPU): losses, penalties, mean logits.
        """
        config = self.config
        labels = self._seen(labels)
        self.random.manual_seed(derived_seed(config.seed, "step", step, self.attempt))
        p = cosine(config.augment_p, progress, config.burn_in)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = cosine(config.lr, progress, config.burn_in) * 0.5**self.attempt
                group["betas"] = (0.0, cosine(config.beta2, progress, config.burn_in))

        generator_moves = (step + 1) % self.critic_steps == 0
        with self._autocast(), torch.set_grad_enabled(generator_moves):
            fakes = self.generator(self._latents(len(images)), labels)
        metrics = self._step_discriminator(images, fakes.detach(), labels, step, progress, p)
        if generator_moves:
            metrics |= self._step_generator(images, fakes, labels, p)
        update_ema(
            self.average,
            self.generator,
            images=len(images),
            half_life_kimg=cosine(config.ema_half_life_kimg, progress, config.burn_in),
        )
        if config.labels == "ignored":
            _forget_classes(self.average)
        return metrics

    def _step_discriminator(
        self, images: Tensor, fakes: Tensor, labels: Tensor, step: int, progress: float, p: float
    ) -> dict[str, Tensor]:
        config = self.config
        penalized = step % config.penalty_every == 0
        # The penalty is taken at the augmented images themselves, so it needs no second derivative of the augmentation.
        seen = augment(torch.cat([images, fakes.float()]), p, self.strength, self.random).detach()
        # R1 alone differentiates the real half twice, and so the halves pass one after the other.
        parts = list(seen.chunk(2)) if self.penalty == "r1" else [seen]
        sloped = parts[0].requires_grad_(penalized and self.penalty in ("r1", "r1r2"))
        with self._autocast():
            logits = [self.discriminator(part, labels.repeat(len(part) // len(labels))).float() for part in parts]
            real, fake = torch.cat(logits).chunk(2)
            loss = self.loss.discriminator_loss(real, fake)
        metrics = {
            "loss_d": loss.detach(),
            "loss_g": self.loss.generator_loss(real, fake).detach(),
            "logit_gap": (real - fake).mean().detach(),
        }
        if sloped.requires_grad:
            with self._autocast():
                norms = squared_gradient_norms(logits[0], sloped).split(len(images))
            means = dict(zip(("r1", "r2"), [norm.mean() for norm in norms], strict=False))
            gamma = cosine(config.gamma, progress, config.burn_in) * config.penalty_every
            loss = loss + gamma / 2 * sum(means.values())
            metrics |= {name: mean.detach() for name, mean in means.items()}
        if penalized and self.penalty == "gradient-penalty":
            with self._autocast():
                points = between(seen[: len(images)], seen[len(images) :], self.random).requires_grad_()
                penalty = unit_gradient_penalty(self.discriminator(points, labels).float(), points).mean()
            loss = loss + config.gp_weight * config.penalty_every * penalty
            metrics["gradient_penalty"] = penalty.detach()
        self._update(0, self.discriminator, loss)
        if self.penalty == "clip":
            clip_weights(self.discriminator, config.weight_clip)
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

    def _seen(self, labels: Tensor) -> Tensor:
        return torch.zeros_like(labels) if self.config.labels == "ignored" else labels

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


@torch.no_grad()
def _forget_classes(generator: nn.Module) -> None:
    """Give all classes the embedding of class 0: whoever samples from these weights gets the same for each class."""
    for module in generator.modules():
        if isinstance(module, nn.Embedding):
            module.weight.copy_(module.weight[:1].expand_as(module.weight))
