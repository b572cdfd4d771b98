"""What several rooms' tests share: one small data set and one short training of it."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: on tensors this small more threads only wait

from collections.abc import Iterator
from pathlib import Path

import pytest

from ganaug.sampling.sampler import Sampler, load
from ganaug.training.fit import fit
from ganaug.training.run import Run
from tests.tiny import SETTINGS, write_shapes


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder for the tests, so that they neither read nor fill the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GANAUG_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 16×16 gray images: 12 crosses, 8 disks, 4 rings. Do not write to it."""
    return write_shapes(tmp_path_factory.mktemp("shapes") / "data", {"cross": 12, "disk": 8, "ring": 4})


@pytest.fixture(scope="session")
def tiny_run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished training on `shapes`. Do not write to it."""
    return fit(shapes, tmp_path_factory.mktemp("runs") / "shapes", **SETTINGS, kimg=0.6)


@pytest.fixture(scope="session")
def gan(tiny_run: Run) -> Sampler:
    """The generator of `tiny_run`."""
    return load(tiny_run.path, device="cpu")
