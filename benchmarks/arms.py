"""What comparisons of classifiers share: strong augmentation, training at equal steps, what was got right, gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.jobs import Job
from ganaug.evaluation.classifier import ClassicalAugment, predict, train_classifier
from ganaug.evaluation.draws import balanced_batches
from ganaug.evaluation.stats import PairedDifference, class_recalls, paired_difference
from ganaug.evaluation.study import ImageSet as Labelled

BATCH = 64
SHARE = 0.5
"""Largest share of a class's draws that go to added images."""


def trained(
    images: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    steps: int,
    seed: int,
    augment: ClassicalAugment,
    added: tuple[np.ndarray, np.ndarray] | None = None,
    balanced: bool = True,
) -> nn.Module:
    """Train the classifier on N×C×H×W uint8 images with labels N, of which `added` gives more.

    All arms of one seed have the same initial weights, and where no draw goes to an added image the same draws.
    `balanced` draws the classes alike; without it they come as often as they are, an added image like any other.
    """
    is_added = np.arange(len(labels) + (0 if added is None else len(added[1]))) >= len(labels)
    if added is not None:
        images, labels = np.concatenate([images, added[0]]), np.concatenate([labels, added[1]])
    plan = None
    if balanced:
        plan = balanced_batches(
            labels, steps=steps, batch=BATCH, seed=seed, is_synthetic=is_added, synthetic_share=SHARE
        )  # fmt: skip
    return train_classifier(
        Labelled(images, labels, classes), classes=len(classes), steps=steps, batch=BATCH, seed=seed, batches=plan,
        augment=augment,
    )  # fmt: skip


def scored(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return the balanced accuracy, and for each test image (labels of one digit) whether it is right."""
    hits = predict(model, images) == labels
    return {
        "accuracy": float(class_recalls(hits, labels).mean()),
        "hits": "".join("01"[hit] for hit in hits.tolist()),
        "labels": "".join(map(str, labels.tolist())),
    }


def hits_of(results: Mapping[int, Job], seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return what the results of some seeds got right, seeds×images bool, and the labels of the images."""
    labels = np.array(list(results[seeds[0]]["labels"]), dtype=np.int64)
    return np.array([list(results[seed]["hits"]) for seed in seeds]) == "1", labels


def gain(treatment: Mapping[int, Job], baseline: Mapping[int, Job], seeds: Sequence[int]) -> PairedDifference | None:
    """Compare the results of two arms, given by seed; None for fewer than two seeds."""
    if len(seeds) < 2:
        return None
    (ours, labels), (theirs, _) = (hits_of(results, seeds) for results in (treatment, baseline))
    return paired_difference(ours, theirs, labels)


def common_seeds(arms: Mapping[str, Mapping[int, Job]]) -> list[int]:
    """Return the seeds that every arm has a result of."""
    return sorted(set.intersection(*(set(found) for found in arms.values())))


def head(names: Sequence[str]) -> list[str]:
    """Return the first two lines of a Markdown table."""
    return [row(names), "|" + "---|" * len(names)]


def row(cells: Sequence[str]) -> str:
    """Return a line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


@dataclass(frozen=True)
class StrongAugment(ClassicalAugment):
    """The classical augmentation, and of four changes of intensity each with probability `p` and random strength.

    The strengths are of the order of nnU-Net's (Isensee et al. 2021) and BigAug's (Zhang et al. 2020), wider than the
    first; they were not tuned on any second site. Contrast and brightness are the base class's, at twice its strength.
    """

    contrast: float = 0.4
    brightness: float = 0.2
    p: float = 0.5
    """Probability of each change, for each image."""
    gamma: float = 2.0
    """Exponents from 1 / gamma to gamma, evenly in the logarithm."""
    field: float = 0.5
    """Largest coefficient of the logarithm of a bias field, a polynomial of second order over [-1, 1]²."""
    blur: float = 1.5 / 64
    """Largest standard deviation of the blur, as a fraction of the longest side."""
    noise: float = 0.1
    """Largest standard deviation of white noise, as a fraction of the intensity range."""

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return a changed copy of `images`: float in [-1, 1], N×C×H×W. `generator` lives on the CPU."""
        n, _, height, width = images.shape
        x = (super().__call__(images, generator) + 1) / 2
        on = (torch.rand(4, n, 1, 1, 1, generator=generator) < self.p).float()
        u = torch.rand(3, n, 1, 1, 1, generator=generator)
        x = x.clamp(min=1e-6) ** (self.gamma ** (on[0] * (2 * u[0] - 1)))
        y, z = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
        terms = torch.stack([part.expand(height, width) for part in (y, z, y * z, y * y, z * z)])
        weights = self.field * (2 * torch.rand(n, 5, generator=generator) - 1)
        x = x * torch.einsum("nk,khw->nhw", weights, terms)[:, None].mul(on[1]).exp()
        x = blurred(x, self.blur * max(height, width) * on[2] * u[1])
        x = x + self.noise * on[3] * u[2] * torch.randn(x.shape, generator=generator)
        return (2 * x - 1).clamp(-1, 1)


def blurred(images: Tensor, sigma: Tensor) -> Tensor:
    """Return each image blurred by a Gaussian of its own standard deviation (N×1×1×1, in pixels; 0 leaves it)."""
    n, channels, height, width = images.shape
    reach = max(1, int(3 * float(sigma.max())))
    offsets = torch.arange(-reach, reach + 1).float()
    kernel = torch.exp(-0.5 * (offsets / sigma.clamp(min=1e-3)) ** 2)
    kernel = (kernel / kernel.sum(-1, keepdim=True)).expand(n, channels, 1, -1).reshape(n * channels, 1, 1, -1)
    flat = F.pad(images.reshape(1, n * channels, height, width), [reach] * 4, mode="replicate")
    flat = F.conv2d(F.conv2d(flat, kernel, groups=n * channels), kernel.transpose(2, 3), groups=n * channels)
    return flat.reshape(images.shape)
