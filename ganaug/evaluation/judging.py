"""A judge that says of images made from noise whether they show the class that they are meant to show."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganaug.data.manifest import Manifest
from ganaug.data.tensors import load_images
from ganaug.evaluation.twin_judge import LEAST_IMAGES, PERCENTILE
from ganaug.sampling.preview import training_grid
from ganaug.sampling.sampler import Sampler
from ganaug.training.judge import STEPS, Judge, train_judge

LONGEST = {2: 40, 3: 24}
"""Longest side, in pixels or voxels, of what the judge looks at: it is a quarter of the time at 64 pixels."""


def averaged(images: Tensor) -> Tensor:
    """Return images (N×C×spatial) as small as the judge sees them: means of whole blocks of pixels."""
    dims = images.ndim - 2
    factor = -(-max(images.shape[2:]) // LONGEST[dims])
    if factor == 1:
        return images
    pool = F.avg_pool2d if dims == 2 else F.avg_pool3d
    return pool(images, factor, ceil_mode=True)


@dataclass(frozen=True)
class ClassJudge:
    """Accepts an image whose class is as probable as that of all but the least typical fifth of the real ones.

    Every class has its own threshold: the probability that 80 % of its real images reach when they are judged by the
    member that has not seen them. So a class that is hard to tell, or whose judge is unsure, is not judged by the
    measure of another. A class of fewer than 10 images has no threshold: all its images are accepted.

    The generator has learned from all training images, and so has every member of the judge from two thirds of them:
    what they agree on may be learned by heart. This is a filter for bad images, not a measure of the generator.
    """

    judge: Judge
    thresholds: np.ndarray
    """Of each class, K; 0 accepts everything."""
    accuracy: float
    """Balanced accuracy of the judge on real images that its members have not seen."""
    settings: dict[str, Any]
    """What determines its decisions."""

    @classmethod
    def train(cls, gan: Sampler, train: Manifest, *, seed: int = 0, steps: int = STEPS) -> ClassJudge:
        """Train the judge of a generator's classes on its training images."""
        grid = training_grid(gan, (item.dtype for item in train.items))
        stored = load_images(train, grid)
        labels, groups = train.labels, [item.group for item in train.items]
        knots = train.knots if gan.intensity.kind == "per-file" else None

        def read(positions: np.ndarray) -> Tensor:
            part = None if knots is None else knots[positions]
            return averaged(torch.from_numpy(gan.intensity.forward(stored[positions], knots=part)).to(gan.device))

        judge = train_judge(
            read, labels, groups, classes=len(gan.classes), device=gan.device, seed=seed, steps=steps, styles=False
        )
        own = judge.held_out[np.arange(len(labels)), labels]
        thresholds = np.zeros(len(gan.classes))
        for label in range(len(gan.classes)):
            if (labels == label).sum() >= LEAST_IMAGES:
                thresholds[label] = np.percentile(own[labels == label], PERCENTILE)
        guess = judge.held_out.argmax(axis=1)
        accuracy = float(np.mean([(guess[labels == c] == c).mean() for c in np.unique(labels)]))
        contents = sorted(f"{item.sha256} {item.label}" for item in train.items)
        settings = {
            "class_judge": 1, "seed": seed, "steps": steps,
            "images_sha256": hashlib.sha256("\n".join(contents).encode()).hexdigest(),
        }  # fmt: skip
        return cls(judge, thresholds, accuracy, settings)

    def probabilities(self, images: Tensor) -> np.ndarray:
        """Return the members' mean class probabilities of N×C×spatial images in [-1, 1], N×K."""
        there = next(self.judge.members[0].parameters()).device
        return self.judge.probabilities(averaged(images.to(there)))

    def __call__(self, images: Tensor, labels: np.ndarray) -> np.ndarray:
        """Return which images (N×C×spatial in [-1, 1]) with their labels (N) are accepted, N bool."""
        own = self.probabilities(images)[np.arange(len(labels)), labels]
        accepted: np.ndarray = own >= self.thresholds[labels]
        return accepted

    def to_dict(self) -> dict[str, Any]:
        """Return what it can as JSON values."""
        return {"balanced_accuracy": self.accuracy, "thresholds": self.thresholds.tolist()}
