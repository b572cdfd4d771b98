"""One training step of pix2pix: translation from pairs.

Source: Isola et al., "Image-to-image translation with conditional adversarial networks" (2017), section 3: the
discriminator sees source and target side by side, and the generator's loss has the L1 distance to the truth. Its noise
(dropout) is left out, as the paper finds no use for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from ganaug.distributed import rank, sum_over_processes, world_size
from ganaug.training.gans._translation import TranslationGAN
from ganaug.training.schedules import cosine


class GAN(TranslationGAN):
    """Generators in one or both directions, and the discriminator of pairs; see `TranslationGAN`."""

    images_seen = 2

    def step(self, first: Tensor, second: Tensor, step: int, progress: float) -> dict[str, Tensor]:
        """Take one step of the discriminator and one of the generators.

        Args:
            first: this process's images of the first domain, N×C×H×W or N×C×D×H×W float32 in [-1, 1] on the device.
            second: those of the second domain, each the partner of the one in `first`.
            step: number of the step; with the seed it determines all random numbers.
            progress: fraction of the training that is done.

        Returns:
            Scalar tensors: losses and their parts, of the whole batch.
        """
        config = self.config
        self._schedule(progress)
        of = len(first) * world_size()
        rows = torch.arange(len(first), device=self.device) + rank() * len(first)
        # Pairs that were made by degrading images were moved before: aliases do not turn with the head.
        p = 0.0 if self.translation.degrade else cosine(config.augment_p, progress, config.burn_in)
        pair = self._moved(torch.cat([first, second], 1), p, step, rows, of).split(self.channels, 1)
        values: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))
        share = 1 / world_size()
        targets = self.translation.target_indices
        made = {}
        for target in targets:
            with self._autocast():
                made[target] = self.net.route(pair[1 - target], target)[0].float()

        heads = torch.cat([torch.full((len(first),), target, device=self.device) for target in targets])
        real = torch.cat([torch.cat([pair[1 - target], pair[target]], 1) for target in targets])
        fake = torch.cat([torch.cat([pair[1 - target], made[target]], 1) for target in targets])
        values |= self._discriminate(real, fake.detach(), (heads, heads), self.loss.discriminator_loss, progress)

        self.discriminator.requires_grad_(False)
        with torch.no_grad():
            judged = self._heads(real, heads)
        adversarial = self.loss.generator_loss(judged, self._heads(fake, heads))
        self.discriminator.requires_grad_(True)
        distance = torch.stack([(made[target] - pair[target]).abs().mean() for target in targets]).mean()
        parts = {"adversarial": adversarial, "paired": config.paired_weight * distance}
        loss = torch.stack([*parts.values()]).sum()
        (loss * share).backward()
        values |= {f"loss_{name}": value.detach() * share for name, value in parts.items()}
        values["loss_g"] = loss.detach() * share
        values["loss_g"] = values["loss_g"] + self._update(1, values["loss_g"].clone())
        sum_over_processes(list(values.values()))
        self._update_average(2 * len(first), progress)
        return dict(values)

    def random_batch(self, count: int, noise: torch.Generator, *, shape: Sequence[int]) -> tuple[Tensor, ...]:
        """Return random pairs (each C×spatial), `count` images in all, to try a step with."""
        pairs = torch.rand(2, count // 2, *shape, device=self.device, generator=noise) * 2 - 1
        return pairs[0], pairs[1]
