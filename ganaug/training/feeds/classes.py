"""The feed of a GAN that makes images of classes from latents."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganaug.config import FitConfig
from ganaug.distributed import rank, world_size
from ganaug.models import grids
from ganaug.models.latents import latents_for
from ganaug.training.batches import BalancedBatches, DeviceImages
from ganaug.training.feeds import PICTURED, WATCHED, Look, Real, See, one_plane, unseen
from ganaug.training.guards import class_diversity, pairwise_distance


class ClassFeed:
    """Class-balanced batches, and a look at samples of every class.

    Args:
        images: the training images.
        labels: their classes (N integers).
        classes: the names.
    """

    def __init__(
        self, images: DeviceImages, labels: np.ndarray, *, config: FitConfig, classes: tuple[str, ...]
    ) -> None:
        self.images, self.labels, self.config, self.classes = images, labels, config, classes
        self.batches = BalancedBatches(labels, power=config.class_power, seed=config.seed)
        self.shape = tuple(images.images.shape[1:])
        self.real_distances = np.array(
            [pairwise_distance(images.batch(members[:WATCHED])[0]) for members in self.batches.members]
        )

    def batch(self, step: int) -> tuple[Tensor, ...]:
        positions = self.batches.batch(step, self.config.batch)
        return self.images.batch(np.split(positions, world_size())[rank()])

    @property
    def real(self) -> Real:
        return Real(lambda positions: self.images.batch(positions)[0], self.labels, self.classes, self.shape)

    def look(self, gan: Any, see: See = unseen) -> Look:
        ratios, rows = np.empty(len(self.classes)), []
        for c in range(len(ratios)):  # one class at a time: many volumes may not fit into memory together
            fakes = self._watched(gan, c)
            see(c, fakes)
            ratios[c] = class_diversity(fakes, torch.zeros(WATCHED), self.real_distances[c : c + 1])[0]
            if c < PICTURED[0]:
                rows.append(one_plane(fakes[: PICTURED[1]]).numpy())
        diversity = {name: float(r) for name, r in zip(self.classes, ratios, strict=True)}
        return Look(diversity, rows, list(self.classes[: PICTURED[0]]))

    def _watched(self, gan: Any, label: int) -> Tensor:
        """Return `WATCHED` samples of a class, on the CPU, from the same latents in every snapshot and every run."""
        latents = latents_for([label] * WATCHED, range(WATCHED), seed=0, dim=self.config.latent_dim)
        count = grids.images_in_a_pass(self.shape, most=WATCHED)
        parts = zip(latents.split(count), torch.full((WATCHED,), label).split(count), strict=True)
        return torch.cat([gan.sample(z, c).cpu() for z, c in parts])
