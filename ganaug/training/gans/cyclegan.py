"""One training step of CycleGAN: translation between domains without pairs.

Sources: Zhu et al., "Unpaired image-to-image translation using cycle-consistent adversarial networks" (2017), section
3 and 5.2; for three or more domains, with one generator, Choi et al., "StarGAN" (2018), section 3.1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ganaug.config import FitConfig
from ganaug.distributed import from_all, rank, sum_over_processes, world_size
from ganaug.training.batches import derived_seed
from ganaug.training.consistency import gradient_consistency
from ganaug.training.gans._translation import TranslationGAN
from ganaug.training.pool import ImagePool
from ganaug.training.schedules import cosine


class GAN(TranslationGAN):
    """Generators in all directions, the discriminator of all domains, and the image pool; see `TranslationGAN`."""

    def __init__(self, config: FitConfig, **fixed: Any) -> None:
        super().__init__(config, **fixed)
        self.pool = ImagePool(config.pool, seed=config.seed)

    def step(self, images: Tensor, domains: Tensor, labels: Tensor, step: int, progress: float) -> dict[str, Tensor]:
        """Take one step of the discriminator and one of the generators.

        Args:
            images: this process's part of the batch, N×C×H×W or N×C×D×H×W float32 in [-1, 1] on the device.
            domains: N int64, on the CPU.
            labels: N int64, on the CPU: the classes under rule 'style', which a translated image keeps.
            step: number of the step; with the seed it determines all random numbers.
            progress: fraction of the training that is done.

        Returns:
            Scalar tensors: losses and their parts, of the whole batch.
        """
        config = self.config
        self._schedule(progress)
        of = len(images) * world_size()
        rows = torch.arange(len(images), device=self.device) + rank() * len(images)
        images = self._moved(images, cosine(config.augment_p, progress, config.burn_in), step, rows, of)
        targets = self._targets(domains, step, rows.cpu(), of)
        on_device = domains.to(self.device), targets.to(self.device)
        values: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))
        share = 1 / world_size()

        identity = cosine(config.identity_weight, progress, config.burn_in)
        if identity:  # in the same passes
            made, mask = self._routed(torch.cat([images, images]), torch.cat([targets, domains]))
        else:
            made, mask = self._routed(images, targets)
        fakes = made[: len(images)]

        shown = self._shown(fakes.detach(), targets, labels, step)
        values |= self._discriminate(
            images,
            shown,
            on_device,
            lambda real, fake: self.loss.discriminator_loss(_beside(real, domains, targets), fake),
            progress,
        )

        self.discriminator.requires_grad_(False)
        fake = self._heads(fakes, on_device[1])
        with torch.no_grad():
            real = _beside(self._heads(images, on_device[0]), domains, targets)
        parts = {"adversarial": self.loss.generator_loss(real, fake)}
        self.discriminator.requires_grad_(True)
        noise = config.code_noise * self._seeded(step, "code noise", of, *images.shape[1:])[rows]
        back, _ = self._routed(fakes + noise, domains)
        parts["cycle"] = config.cycle_weight * (back - images).abs().mean()
        if identity:
            parts["identity"] = identity * (made[len(images) :] - images).abs().mean()
        if config.gradient_weight:
            parts["gradient"] = config.gradient_weight * gradient_consistency(images, fakes).mean()
        if mask is not None:
            # From 0 on: at first nothing is changed, and the penalty alone would shut the mask for good.
            parts["mask"] = min(1.0, 2 * progress) * config.mask_weight * mask[: len(images)].mean()
        loss = torch.stack([*parts.values()]).sum()
        (loss * share).backward()
        values |= {f"loss_{name}": value.detach() * share for name, value in parts.items()}
        values["loss_g"] = loss.detach() * share
        values["loss_g"] = values["loss_g"] + self._update(1, values["loss_g"].clone())
        sum_over_processes(list(values.values()))
        self._update_average(len(images), progress)
        return dict(values)

    def _targets(self, domains: Tensor, step: int, rows: Tensor, of: int) -> Tensor:
        """Return another domain for each image: the other one of two, or one at random."""
        count = len(self.translation.domains)
        if count == 2:
            return 1 - domains
        draws = torch.Generator().manual_seed(derived_seed(self.config.seed, "step", step, self.attempt, "targets"))
        return (domains + 1 + torch.randint(count - 1, (of,), generator=draws)[rows]) % count

    def _routed(self, images: Tensor, to: Tensor) -> tuple[Tensor, Tensor | None]:
        """Translate each image to its domain in `to` (N, on the CPU), each generator's images in one pass."""
        with self._autocast():
            if self.shared:
                made, mask = self.net.route_all(images, to.to(self.device))
                return made.float(), mask
            order = torch.argsort(to, stable=True)
            inverse = torch.argsort(order)
            sizes = torch.bincount(to, minlength=len(self.translation.domains)).tolist()
            pieces = images[order.to(self.device)].split(sizes)
            passed = [self.net.route(piece, target) for target, piece in enumerate(pieces) if len(piece)]
        back = inverse.to(self.device)
        masks = [mask for _, mask in passed if mask is not None]
        return torch.cat([made.float() for made, _ in passed])[back], torch.cat(masks)[back] if masks else None

    def _shown(self, fakes: Tensor, targets: Tensor, labels: Tensor, step: int) -> Tensor:
        """Return this process's part of what the pool gives for the translations of all processes."""
        everyone, keys = from_all(fakes), from_all(torch.stack([targets, labels], 1)).tolist()
        shown = self.pool.exchange(everyone, [(int(domain), int(label)) for domain, label in keys], step)
        return shown.chunk(world_size())[rank()]

    def random_batch(self, count: int, noise: torch.Generator, *, shape: Sequence[int]) -> tuple[Tensor, ...]:
        """Return random images (C×spatial each), domains and labels, to try a step with."""
        images = torch.rand(count, *shape, device=self.device, generator=noise) * 2 - 1
        domains = torch.arange(count) % len(self.translation.domains)
        return images, domains, torch.zeros(count, dtype=torch.int64)

    def _more_state(self) -> Mapping[str, Tensor]:
        return {f"pool/{name}": images for name, images in self.pool.tensors().items()}

    def _load_more_state(self, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        self.pool.load(groups.get("pool", {}), self.device)


def _beside(real: Tensor, domains: Tensor, targets: Tensor) -> Tensor:
    """Return the logits of real images in the order of the fakes' domains, where there are as many of each."""
    order = torch.argsort(domains, stable=True)
    places = torch.argsort(torch.argsort(targets, stable=True), stable=True)
    return real[order[places].to(real.device)]
