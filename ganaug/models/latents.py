"""Latents as a pure function of (seed, class, index)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def latents_for(labels: Iterable[int], indices: Iterable[int], *, seed: int, dim: int) -> Tensor:
    """Return one standard normal latent (float32, N×dim) for each pair of a label and an index.

    Philox is a counter-based generator (Salmon et al. 2011): the seed is its key, label and index are its counter, so
    that image i of class c is the same in any batch, order, process or machine.
    """
    rows = []
    for label, index in zip(labels, indices, strict=True):
        counter = np.array([0, 0, int(label), int(index)], dtype=np.uint64)
        bits = np.random.Philox(key=np.array([seed, 0], dtype=np.uint64), counter=counter)
        rows.append(np.random.Generator(bits).standard_normal(dim, dtype=np.float32))
    return torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, dim)
