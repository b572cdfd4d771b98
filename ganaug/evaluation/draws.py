"""Which items each training step sees, planned before training, so that arms can share a plan."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganaug.errors import ConfigError


def shuffled_batches(items: int, *, steps: int, batch: int, seed: int) -> Tensor:
    """Return (steps, batch) item indices: a new random order of all items each epoch, every batch full."""
    generator = torch.Generator().manual_seed(seed)
    epochs = -(-steps * batch // items)
    order = torch.cat([torch.randperm(items, generator=generator) for _ in range(epochs)])
    return order[: steps * batch].view(steps, batch)


def balanced_batches(
    targets: NDArray[np.int64],
    *,
    steps: int,
    batch: int,
    seed: int,
    is_synthetic: NDArray[np.bool_] | None = None,
    synthetic_share: float = 0.5,
    synthetic_until: float = 1.0,
) -> Tensor:
    """Return (steps, batch) item indices: classes equally often, synthetic items sharing their draws.

    Each draw picks a class, then a real item of it. Where the class has synthetic items (`is_synthetic`), the
    draw goes to one of those instead, with the smaller of two probabilities: `synthetic_share`, and the
    synthetic fraction of the class's items. The first keeps a class of 12 real images topped up to 140 from
    being learned from synthetic images nine times in ten; the second keeps a class that got 5 images to fill
    a small gap from seeing those 5 in every other draw. Drawing uniformly within the class is
    `synthetic_share=1`.

    So the imbalance is corrected once, by the draws; synthetic images take the place of repeated real ones.
    The plan with synthetic items is the plan without them, of the same seed, with some draws replaced: the
    closest pairing. After the fraction `synthetic_until` of the steps no draw is replaced any more.

    Raises:
        ConfigError: a fraction outside [0, 1], or a class without a real item.
    """
    for name, value in (("synthetic_share", synthetic_share), ("synthetic_until", synthetic_until)):
        if not 0.0 <= value <= 1.0:
            raise ConfigError(f"{name} is {value:g}; a fraction from 0 to 1 is wanted.")
    synthetic = np.zeros(len(targets), dtype=bool) if is_synthetic is None else is_synthetic
    classes = np.unique(targets)

    rng = np.random.default_rng(seed)
    size = (steps, batch)
    # All four are drawn whatever the arm, so that arms of one seed agree wherever no draw is replaced.
    which = rng.integers(len(classes), size=size)
    pick_real, pick_synthetic, choose = rng.random(size), rng.random(size), rng.random(size)
    choose[round(synthetic_until * steps) :] = 1.0

    plan = np.empty(size, dtype=np.int64)
    for k, label in enumerate(classes):
        here = which == k
        real = np.flatnonzero((targets == label) & ~synthetic)
        made = np.flatnonzero((targets == label) & synthetic)
        if not len(real):
            raise ConfigError(
                f"Class {int(label)} has {len(made)} synthetic items and no real one; the study adds to real "
                "images. Remove the class or add real images of it."
            )
        chosen = real[(pick_real[here] * len(real)).astype(np.int64)]
        if len(made):
            share = min(synthetic_share, len(made) / (len(made) + len(real)))
            replaced = choose[here] < share
            chosen[replaced] = made[(pick_synthetic[here][replaced] * len(made)).astype(np.int64)]
        plan[here] = chosen
    return torch.from_numpy(plan)
