"""No recipe collapses within a class: a training that is long enough to see it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import ganaug
from ganaug.evaluation.classifier import to_unit, train_classifier
from ganaug.evaluation.study import ImageSet
from ganaug.sampling import load

RARE = (3, 6)
"""Digits of which the training keeps 15 images."""


def _features(classifier: nn.Sequential, images: np.ndarray) -> Tensor:
    with torch.inference_mode():
        return classifier[:-1](to_unit(torch.from_numpy(images)))


@pytest.mark.slow
def test_the_digits_of_a_class_differ_as_much_as_real_ones_do(tmp_path: Path) -> None:
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = digits.target.astype(np.int64)
    kept = np.concatenate([np.flatnonzero(labels == c)[: 15 if c in RARE else None] for c in range(10)])
    np.savez(tmp_path / "digits.npz", images=images[kept, 0], labels=labels[kept])
    run = ganaug.fit(tmp_path / "digits.npz", tmp_path / "run", kimg=50, threads=1, seed=0)
    gan = load(run.path, device="cpu")
    fakes = gan.stored(gan.sample(np.repeat(np.arange(10), 100).tolist())).numpy()

    names = [str(c) for c in range(10)]
    classifier = train_classifier(ImageSet(images, labels, names), classes=10, steps=300)
    ratios = []
    for c in range(10):
        made, real = (_features(classifier, found) for found in (fakes[100 * c : 100 * c + 100], images[labels == c]))
        ratios.append(float(torch.pdist(made).mean() / torch.pdist(real).mean()))
    assert min(ratios) >= 0.8, ratios
    right = classifier(to_unit(torch.from_numpy(fakes))).argmax(1).numpy() == np.repeat(np.arange(10), 100)
    assert right.mean() > 0.8  # differing is easy for noise; these are digits of their class
