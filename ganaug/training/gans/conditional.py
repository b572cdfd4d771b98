"""One training step of the class-conditional GAN."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ganaug.config import FitConfig
from ganaug.distributed import rank, sum_over_processes, world_size
from ganaug.models import build_network, place
from ganaug.models.labels import set_class_share
from ganaug.plugins import load_plugin
from ganaug.training.augment import augment, profile
from ganaug.training.batches import derived_seed
from ganaug.training.gans._base import BaseGAN
from ganaug.training.penalties import (
    backward_penalized,
    between,
    clip_weights,
    squared_gradient_norms,
    unit_gradient_penalty,
)
from ganaug.training.rarity import MOST_AUGMENT, augment_raise, embedding_noise
from ganaug.training.schedules import cosine

STEERING = 0.05
"""How far the factor on `gamma` moves in a step, as a logarithm, for each unit of confidence."""
LARGEST_FACTOR = 1e4
"""Where that factor stops; it is never below 1."""


@dataclass(frozen=True)
class _Piece:
    """Some images of a batch, and the random numbers that go with them."""

    images: Tensor
    labels: Tensor
    latents: Tensor
    noise: Tensor | None
    rows: Tensor
    """Their positions in the batch of all processes."""
    of: int
    """Images in that batch."""

    @property
    def share(self) -> float:
        """Their share of the batch, and of its mean loss."""
        return len(self.images) / self.of

    @property
    def pair_rows(self) -> Tensor:
        """Positions of these real images, and of the fakes beside them, in the batch of both."""
        return torch.cat([self.rows, self.rows + self.of])


def class_share(config: FitConfig, progress: float) -> float:
    """Return the share that the class has in the networks' work at `progress` of the training (see `transition`)."""
    if config.labels == "ignored":
        return 0.0
    start, end = config.transition
    if progress >= end:
        return 1.0
    return max(0.0, (progress - start) / (end - start))


class GAN(BaseGAN):
    """A class-conditional generator and discriminator, their optimizers, and the generator's moving average.

    Args:
        config: all settings.
        size: height and width of the images, or depth, height and width of volumes.
        channels: channels of the images.
        classes: number of classes.
        counts: training images of each class, where the settings treat rare classes differently.
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
        counts: Sequence[int] | None = None,
    ) -> None:
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
        generator, discriminator = (place(part, device) for part in parts)
        self._share: float | None = class_share(config, 0.0)
        for network in (generator, discriminator):
            set_class_share(network, self._share)
        average = copy.deepcopy(generator).requires_grad_(False).eval()
        super().__init__(
            config, generator=generator, discriminator=discriminator, average=average, device=device, bf16=bf16
        )
        self.classes = classes
        counts = counts or [1] * classes
        self.noise = embedding_noise(counts, config.embedding_noise).to(device) if config.embedding_noise else None
        self.augment_raise = augment_raise(counts, config.augment_rare).to(device) if config.augment_rare else None
        self.gamma_log = torch.zeros((), device=device)
        """Logarithm of the factor on `gamma` (see `confidence`)."""

    def step(self, images: Tensor, labels: Tensor, step: int, progress: float) -> dict[str, Tensor]:
        """Take one step of the discriminator, and in every `critic_steps`-th call one of the generator.

        The step is a function of the whole batch: into how many pieces it is divided, over how many processes, changes
        only the order in which numbers are summed (and what batch normalization sees, where a network has it).

        Args:
            images: this process's images of the batch, N×C×H×W or N×C×D×H×W float32 in [-1, 1] on the device; the
                processes have equally many, in the order of their ranks.
            labels: N int64.
            step: number of the step; with the seed it determines all random numbers.
            progress: fraction of the training that is done, for the schedules.

        Returns:
            Scalar tensors (not yet synchronized with the CPU): losses, penalties, mean logits; of the whole batch.
        """
        config = self.config
        self._schedule(progress)
        augment_p = self._augment_p(progress)
        pieces = self._pieces(images, labels, step)
        generator_moves = (step + 1) % self.critic_steps == 0
        keep = generator_moves and len(pieces) == 1  # the fakes of one piece serve both networks
        metrics: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))

        total = torch.zeros((), device=self.device)
        for piece in pieces:
            with torch.set_grad_enabled(keep):
                fakes = self._fakes(piece)
            loss, values = self._backward_discriminator(piece, fakes.detach(), step, progress, augment_p)
            total += loss * piece.share
            for name, value in values.items():
                metrics[name] += value.detach() * piece.share
        metrics["loss_d"] = metrics["loss_d"] + self._update(0, total)
        if self.penalty == "clip":
            clip_weights(self.discriminator, config.weight_clip)

        if generator_moves:
            self.discriminator.requires_grad_(False)
            total = torch.zeros((), device=self.device)
            for piece in pieces:
                loss = self._generator_loss(piece, fakes if keep else self._fakes(piece), step, augment_p)
                (loss * piece.share).backward()
                total += loss.detach() * piece.share
            self.discriminator.requires_grad_(True)
            metrics["loss_g"] = total.clone()
            metrics["loss_g"] = metrics["loss_g"] + self._update(1, total)
        sum_over_processes(list(metrics.values()))
        self._steer(metrics["confidence"], progress)
        self._update_average(len(images), progress)
        return {**metrics, "gamma_factor": self.gamma_log.exp()}

    def _schedule(self, progress: float) -> None:
        super()._schedule(progress)
        if (share := class_share(self.config, progress)) != self._share:
            for network in (self.generator, self.discriminator):
                set_class_share(network, share)
            self._share = share

    def _steer(self, confidence: Tensor, progress: float) -> None:
        """Move the factor on `gamma` by how sure of its pairs the discriminator was in this step."""
        if target := cosine(self.config.confidence, progress, self.config.burn_in):
            moved = (self.gamma_log + STEERING * (confidence - target)).clamp(0.0, math.log(LARGEST_FACTOR))
            self.gamma_log = torch.where(torch.isfinite(moved), moved, self.gamma_log)

    def _augment_p(self, progress: float) -> float | Tensor:
        p = cosine(self.config.augment_p, progress, self.config.burn_in)
        if self.augment_raise is None:
            return p
        return (p * self.augment_raise).clamp(max=max(p, MOST_AUGMENT))

    def _pieces(self, images: Tensor, labels: Tensor, step: int) -> list[_Piece]:
        """Divide this process's part of the batch, with the random numbers that the whole batch would have."""
        of = len(images) * world_size()
        rows = torch.arange(len(images), device=self.device) + rank() * len(images)
        latents = self._seeded(step, "latents", of, self.config.latent_dim)[rows]
        noise = None
        if self.noise is not None:
            noise = self._seeded(step, "label noise", of, self.config.label_dim)[rows] * self.noise[labels, None]
        size = math.ceil(len(images) / self.config.pieces)
        return [
            _Piece(images[part], labels[part], latents[part], None if noise is None else noise[part], rows[part], of)
            for part in torch.arange(len(images), device=self.device).split(size)
        ]

    def _fakes(self, piece: _Piece) -> Tensor:
        with self._autocast():
            fakes: Tensor = self.generator(piece.latents, piece.labels, piece.noise)
        return fakes.float()

    def _augmented(self, piece: _Piece, fakes: Tensor, p: float | Tensor) -> Tensor:
        """Return real and fake images, changed; `self.random` is at the start of its numbers for this."""
        p = p if isinstance(p, float) else p[piece.labels.repeat(2)]
        both = torch.cat([piece.images, fakes])
        return augment(both, p, self.strength, self.random, rows=piece.pair_rows, of=2 * piece.of)

    def _backward_discriminator(
        self, piece: _Piece, fakes: Tensor, step: int, progress: float, p: float | Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Add this piece's part of the loss's gradient to the discriminator's; return its loss, and metrics."""
        config, count = self.config, len(fakes)
        penalized = step % config.penalty_every == 0
        self._seed(step, "discriminator")
        # The penalty is taken at the augmented images themselves, so it needs no second derivative of the augmentation.
        seen = self._augmented(piece, fakes, p).detach()
        gamma = cosine(config.gamma, progress, config.burn_in) * config.penalty_every * self.gamma_log.exp()
        if penalized and self.penalty in ("r1", "r1r2") and getattr(self.discriminator, "piecewise_linear", False):
            return self._backward_at_once(piece, seen, gamma, step)
        # R1 alone differentiates the real half twice, and so the halves pass one after the other.
        parts = list(seen.chunk(2)) if self.penalty == "r1" else [seen]
        sloped = parts[0].requires_grad_(penalized and self.penalty in ("r1", "r1r2"))
        with self._autocast():
            logits = [self.discriminator(part, piece.labels.repeat(len(part) // count)).float() for part in parts]
            real, fake = torch.cat(logits).chunk(2)
            loss = self.loss.discriminator_loss(real, fake)
        values = self._metrics(real, fake, loss, step)
        if sloped.requires_grad:
            with self._autocast():
                norms = squared_gradient_norms(logits[0], sloped).split(count)
            means = dict(zip(("r1", "r2"), [norm.mean() for norm in norms], strict=False))
            loss = loss + gamma / 2 * sum(means.values())
            values |= means
        if penalized and self.penalty == "gradient-penalty":
            epsilon = torch.rand(piece.of, generator=self.random, device=self.device)[piece.rows]
            with self._autocast():
                points = between(seen[:count], seen[count:], epsilon).requires_grad_()
                penalty = unit_gradient_penalty(self.discriminator(points, piece.labels).float(), points).mean()
            loss = loss + config.gp_weight * config.penalty_every * penalty
            values["gradient_penalty"] = penalty
        (loss * piece.share).backward()
        return loss.detach(), values

    def _backward_at_once(
        self, piece: _Piece, seen: Tensor, gamma: Tensor, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Do what `_backward_discriminator` does for R1 (and R2) of a network that is linear in pieces."""
        count = len(piece.images)
        weights = torch.full((2 * count,), 0.5 / count, device=self.device)
        weights[count:] *= self.penalty == "r1r2"
        weights *= gamma
        with self._autocast():
            logits, norms = backward_penalized(
                self.discriminator,
                seen,
                piece.labels.repeat(2),
                lambda logits: self.loss.discriminator_loss(*logits.chunk(2)) * piece.share,
                weights * piece.share,
            )
        real, fake = logits.chunk(2)
        loss = self.loss.discriminator_loss(real, fake)
        values = self._metrics(real, fake, loss, step)
        names = ("r1", "r2") if self.penalty == "r1r2" else ("r1",)
        values |= dict(zip(names, norms.view(2, count).mean(1), strict=False))
        return loss + (weights * norms).sum(), values

    def _metrics(self, real: Tensor, fake: Tensor, loss: Tensor, step: int) -> dict[str, Tensor]:
        values = {"loss_d": loss, "logit_gap": (real - fake).mean(), "confidence": torch.sigmoid(real - fake).mean()}
        if (step + 1) % self.critic_steps:  # the generator rests in this step
            values["loss_g"] = self.loss.generator_loss(real, fake)
        return values

    def _generator_loss(self, piece: _Piece, fakes: Tensor, step: int, p: float | Tensor) -> Tensor:
        self._seed(step, "generator")
        seen_real, seen_fake = self._augmented(piece, fakes, p).chunk(2)
        with self._autocast():
            with torch.no_grad():
                real = self.discriminator(seen_real, piece.labels).float()
            fake = self.discriminator(seen_fake, piece.labels).float()
            loss: Tensor = self.loss.generator_loss(real, fake)
        return loss

    @torch.inference_mode()
    def sample(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Return float32 images in [-1, 1], N×C×H×W or N×C×D×H×W, from the averaged weights."""
        return self.average(latents.to(self.device), labels.to(self.device)).float().clamp(-1, 1)

    def random_batch(self, count: int, noise: torch.Generator, *, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return random images (C×spatial each) and labels, to try a step with."""
        images = torch.rand(count, *shape, device=self.device, generator=noise) * 2 - 1
        return images, torch.arange(count, device=self.device) % self.classes

    def _more_state(self) -> Mapping[str, Tensor]:
        return {"steering/gamma_log": self.gamma_log}

    def _load_more_state(self, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        self._share = None
        self.gamma_log = groups["steering"]["gamma_log"].to(self.device)
