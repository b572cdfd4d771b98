"""How a training treats classes of few images differently from others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

RARE = 20
"""Images of a class for which `embedding_noise` is meant; classes of more get less."""
BETA = 0.99
"""Of the effective number of images, (1 - β^n) / (1 - β): how much a further image adds (Cui et al. 2019)."""
MOST_AUGMENT = 0.5
"""Highest probability of a change of rare classes' images: above it flips and turns leak into the samples."""


def embedding_noise(counts: Sequence[int], strength: float) -> Tensor:
    """Return, for each class, the standard deviation of the noise on its embedding in training (float32).

    It is `strength` for classes of `RARE` images and fewer, and falls with the effective number of images. Without
    noise a class of few images becomes one point of the generator's input, to which it ties those few images.

    Source: Rangwani et al., "NoisyTwins" (2023), equation 5.
    """
    effective = 1 - BETA ** torch.tensor(counts, dtype=torch.float64)
    return (strength * ((1 - BETA**RARE) / effective).clamp(max=1)).float()


def augment_raise(counts: Sequence[int], power: float) -> Tensor:
    """Return, for each class, the factor (n_max / n_c)^power on the probability of a change of its images (float32).

    A class of 20 images beside classes of 800 is learned by heart long before those are learned at all: one probability
    for all is too low for the one or too high for the others.
    """
    numbers = torch.tensor(counts, dtype=torch.float64)
    return ((numbers.max() / numbers) ** power).float()
