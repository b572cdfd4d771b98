"""The judge of samples: it accepts real images, and not those that are something else than they are said to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ganaug.data import scan
from ganaug.evaluation.judging import ClassJudge, averaged
from ganaug.sampling import SyntheticBank, load
from ganaug.sampling.sampler import Sampler
from ganaug.training.fit import fit
from tests.tiny import SETTINGS, shape_image, write_shapes

KINDS = ("cross", "disk", "ring")


@pytest.fixture(scope="module")
def gan(tmp_path_factory: pytest.TempPathFactory) -> Sampler:
    root = tmp_path_factory.mktemp("judging")
    write_shapes(root / "data", {"cross": 60, "disk": 60, "ring": 5})
    found = load(fit(root / "data", root / "run", kimg=0.03, size=(16, 16), **SETTINGS).path)
    assert isinstance(found, Sampler)
    return found


@pytest.fixture(scope="module")
def judge(gan: Sampler) -> ClassJudge:
    return ClassJudge.train(gan, scan(gan.path.parent.parent / "data"), steps=120)


def drawn(kind: str, count: int) -> torch.Tensor:
    rng = np.random.default_rng(7)
    images = np.stack([shape_image(kind, rng) for _ in range(count)])
    return torch.from_numpy(images[:, None].astype(np.float32) * 2 - 1)


def test_new_images_of_a_class_are_accepted_and_those_of_another_are_not(judge: ClassJudge) -> None:
    assert judge.accuracy > 0.6
    for label, kind in enumerate(KINDS[:2]):
        images = drawn(kind, 40)
        assert judge(images, np.full(40, label)).mean() > 0.5
        assert judge(images, np.full(40, 1 - label)).mean() < 0.1


def test_a_class_of_few_images_has_no_threshold_and_is_accepted(judge: ClassJudge) -> None:
    assert judge.thresholds[2] == 0
    assert judge(drawn("disk", 5), np.full(5, 2)).all()


def test_a_bank_of_accepted_images_knows_how_many_were_tried(gan: Sampler, judge: ClassJudge, tmp_path: Path) -> None:
    bank = SyntheticBank.generate(gan, tmp_path / "bank", counts={"ring": 8, "cross": 0, "disk": 0}, accept=judge)
    assert bank.acceptance["ring"] == {"tried": 8, "accepted": 8}


def test_large_images_are_averaged_and_small_ones_left_alone() -> None:
    small = torch.rand(2, 1, 32, 40)
    assert averaged(small) is small
    large = torch.rand(2, 1, 41, 80)
    assert averaged(large).shape == (2, 1, 21, 40)
    torch.testing.assert_close(averaged(large)[0, 0, 0, 0], large[0, 0, :2, :2].mean())
    assert averaged(torch.rand(1, 1, 20, 48, 48)).shape == (1, 1, 10, 24, 24)
