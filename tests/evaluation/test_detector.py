"""The shortcut risk: planted fingerprints are found, real images are not told apart, and the class tells nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ganaug.errors import DataError
from ganaug.evaluation import detector
from ganaug.evaluation.detector import detect
from tests.evaluation.test_spectrum import checkerboard, textures


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector, "_STEPS", 40)
    monkeypatch.setattr(detector, "_CONTROL_STEPS", 20)


def zeros(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(n, int), np.zeros(m, int)


@pytest.mark.parametrize("sides", [(16, 16), (15, 18), (10, 10, 12)])
def test_a_planted_fingerprint_is_found(sides: tuple[int, ...]) -> None:
    fake = textures(120, *sides) + 0.02 * checkerboard(*sides)
    found = detect(fake, textures(160, *sides, seed=1), labels=zeros(120, 160))
    assert found.auc is not None
    assert found.auc.value > 0.95
    assert found.control is not None
    assert found.control.low < 0.5 < found.control.high


def test_real_images_are_not_told_apart() -> None:
    found = detect(textures(200, 16, 16), textures(200, 16, 16, seed=1), labels=zeros(200, 200))
    assert found.auc is not None
    assert found.auc.low < 0.5 < found.auc.high
    assert 0.05 < found.auc.high - found.auc.low < 0.3


def test_classes_in_other_shares_are_not_told_apart_by_class_alone() -> None:
    coarse, fine = {"sigma": 3.0}, {"sigma": 1.0}
    fake = np.concatenate([textures(40, 16, 16, seed=1, **coarse), textures(160, 16, 16, seed=2, **fine)])
    real = np.concatenate([textures(160, 16, 16, seed=3, **coarse), textures(40, 16, 16, seed=4, **fine)])
    labels = np.repeat([0, 1], [40, 160]), np.repeat([0, 1], [160, 40])
    found = detect(fake, real, labels=labels)
    assert found.auc is not None
    assert found.auc.low < 0.5 < found.auc.high
    assert (found.images, sorted(found.per_class)) == (80, [0, 1])
    unaware = detect(fake, real, labels=zeros(200, 200))
    assert unaware.auc is not None
    assert unaware.auc.value > 0.7


def test_a_patient_is_on_one_side_of_a_fold() -> None:
    faces = textures(20, 16, 16, seed=5, sigma=4.0).repeat(15, 0)
    images = np.clip(faces + 0.2 * textures(300, 16, 16, seed=6), -1, 1)
    groups = [str(i // 15) for i in range(300)]
    fake = np.arange(300) // 15 % 2 == 0
    names = (
        [name for name, own in zip(groups, fake, strict=True) if own],
        [name for name, own in zip(groups, fake, strict=True) if not own],
    )
    grouped = detect(images[fake], images[~fake], labels=zeros(150, 150), groups=names)
    leaking = detect(images[fake], images[~fake], labels=zeros(150, 150))
    assert grouped.auc is not None
    assert leaking.auc is not None
    assert leaking.auc.value > 0.7
    assert grouped.auc.low < 0.5 < grouped.auc.high
    assert grouped.auc.high - grouped.auc.low > 1.5 * (leaking.auc.high - leaking.auc.low)


def test_the_same_seed_gives_the_same_and_leaves_the_callers_numbers_alone() -> None:
    fake, real = textures(40, 16, 16), textures(40, 16, 16, seed=1)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = detect(fake, real, labels=zeros(40, 40), seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert detect(fake, real, labels=zeros(40, 40), seed=2) == first


def test_few_images_are_insufficient_and_many_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    few = detect(textures(10, 16, 16), textures(50, 16, 16), labels=zeros(10, 50))
    assert few.auc is None
    assert few.left_out == (0,)
    assert "insufficient" in str(few)
    monkeypatch.setattr(detector, "MOST", 30)
    some = detect(textures(50, 16, 80), textures(50, 16, 80), labels=zeros(50, 50))
    assert some.images == 30
    assert "30 images of each kind" in some.note
    assert "parts of 64 a side" in some.note
    json.dumps(some.to_dict())
    with pytest.raises(DataError, match="a label for each"):
        detect(textures(5, 16, 16), textures(5, 16, 16), labels=zeros(4, 5))
