"""Samples that are left out because somebody does not accept them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ganaug.errors import ConfigError, DataError
from ganaug.sampling import SyntheticBank
from tests.sampling.fake_sampler import UINT8, FakeSampler, read_back


class Multiples:
    """Accepts the images whose index, which the fake sampler spells out, is a multiple; counts what it is asked."""

    def __init__(self, of: int) -> None:
        self.of, self.asked = of, 0

    @property
    def settings(self) -> dict[str, Any]:
        return {"of": self.of}

    def __call__(self, images: torch.Tensor, labels: np.ndarray) -> np.ndarray:
        self.asked += len(images)
        found = [read_back(stored) for stored in UINT8.inverse(images.numpy())]
        assert [label for label, _ in found] == labels.tolist()
        return np.array([index % self.of == 0 for _, index in found])


def test_only_accepted_images_are_in_the_bank_under_their_own_indices(tmp_path: Path) -> None:
    gan, accept = FakeSampler(), Multiples(3)
    counts = {"a": 6, "b": 2, "c": 0}
    bank = SyntheticBank.generate(gan, tmp_path / "bank", counts=counts, accept=accept, batch=4)
    assert [read_back(bank.image(i)) for i in range(len(bank))] == [(0, 3 * i) for i in range(6)] + [(1, 0), (1, 3)]
    assert bank.indices.tolist() == [0, 3, 6, 9, 12, 15, 0, 3]
    assert bank.acceptance == {
        "a": {"tried": 16, "accepted": 6},
        "b": {"tried": 4, "accepted": 2},
        "c": {"tried": 0, "accepted": 0},
    }
    assert bank.provenance(1)["scores"] == "{}"

    asked = accept.asked
    SyntheticBank.generate(gan, tmp_path / "bank", counts=counts, accept=accept)
    assert accept.asked == asked, "a complete bank is not judged again"
    with pytest.raises(ConfigError, match="overwrite"):
        SyntheticBank.generate(gan, tmp_path / "bank", counts=counts, accept=Multiples(2))


def test_a_judge_that_accepts_hardly_anything_is_an_error_that_says_so(tmp_path: Path) -> None:
    gan = FakeSampler()
    with pytest.raises(DataError, match="only 1 were accepted; 3 were wanted"):
        SyntheticBank.generate(gan, tmp_path / "bank", per_class=3, accept=Multiples(200))
    with pytest.raises(ConfigError, match="both given"):
        SyntheticBank.generate(
            gan, tmp_path / "bank", per_class=3, accept=Multiples(1), max_similarity=0.5, against=tmp_path
        )
