"""Earlier translations that the discriminator is shown again, so that it does not forget what it has rejected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ganaug.training.batches import derived_seed

Key = tuple[int, int]
"""A domain and a class."""


class ImagePool:
    """Up to `size` images of each domain and class (Shrivastava et al. 2017, section 2.3; Zhu et al. 2017).

    One pool for all would hand the discriminator translations of another class than the real images beside them, and
    undo the matching of classes. Every decision follows from the seed and the step.
    """

    def __init__(self, size: int, *, seed: int) -> None:
        self.size, self.seed = size, seed
        self.kept: dict[Key, Tensor] = {}

    def exchange(self, images: Tensor, keys: Sequence[Key], step: int) -> Tensor:
        """Take new images (N×…) in, and return as many: half of them, once the pool is full, older ones."""
        if self.size == 0:
            return images
        rng = np.random.default_rng(derived_seed(self.seed, "pool", step))
        out = images.clone()
        for i, key in enumerate(keys):
            kept = self.kept.get(key, images[:0])
            if len(kept) < self.size:
                self.kept[key] = torch.cat([kept, images[i : i + 1]])
            elif rng.random() < 0.5:
                slot = int(rng.integers(self.size))
                out[i] = kept[slot]
                kept[slot] = images[i]
        return out

    def tensors(self) -> dict[str, Tensor]:
        """Return the images by name."""
        return {f"{domain},{label}": images for (domain, label), images in self.kept.items()}

    def load(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """Restore what `tensors` returned."""
        self.kept = {}
        for name, images in tensors.items():
            domain, _, label = name.partition(",")
            self.kept[int(domain), int(label)] = images.to(device)
