"""The loop on volumes: snapshots of bounded memory, and a model that knows what it makes. Images: see `test_fit.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ganaug.config import FitConfig
from ganaug.data.geometry import Geometry
from ganaug.models import grids
from ganaug.models.modelfile import ModelHeader
from ganaug.progress import progress_bar
from ganaug.sampling.sampler import load
from ganaug.training.batches import DeviceImages
from ganaug.training.feeds import WATCHED
from ganaug.training.feeds.classes import ClassFeed
from ganaug.training.gans.conditional import GAN
from ganaug.training.loop import Trainer
from ganaug.training.run import Run
from tests.tiny import NETWORK, UINT8

SIZE, CLASSES = (9, 12, 10), ("flat", "round")
GEOMETRY = Geometry(spacing=(4.0, 2.0, 2.0), orientation="RAS", center=(0.0, -10.0, 5.0))


def _trainer(path: Path, **changes: Any) -> Trainer:
    config = FitConfig(**{**NETWORK, "batch": 20, "snapshots": 2, "kimg": 0.2, "size": SIZE, "channels": 2, **changes})
    gan = GAN(config, size=SIZE, channels=2, classes=2, device=torch.device("cpu"), bf16=False)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 2, *SIZE), dtype=np.uint8)
    labels = np.arange(8) % 2
    header = ModelHeader("conditional", CLASSES, SIZE, 2, UINT8, config.to_dict(), {}, GEOMETRY, "NIfTI")
    images = DeviceImages(pixels, labels, UINT8, torch.device("cpu"))
    feed = ClassFeed(images, labels, config=config, classes=CLASSES)
    return Trainer(gan, feed, config=config, header=header, run=Run(path), resume_command="")


def _train(trainer: Trainer) -> dict[str, Any]:
    with progress_bar("fit", 100.0, unit="%", show=False) as progress:
        return trainer.train(progress)


def test_a_training_on_volumes_leaves_pictures_metrics_and_a_model_that_makes_volumes(tmp_path: Path) -> None:
    metrics = _train(_trainer(tmp_path))
    assert set(metrics["diversity_by_class"]) == set(CLASSES)
    pictures = sorted((tmp_path / "images").glob("*.png"))
    assert len(pictures) == 2
    with Image.open(pictures[-1]) as picture:
        assert picture.width > 10 * SIZE[2]
        assert picture.height > 2 * SIZE[1]
    gan = load(tmp_path, device="cpu")
    assert gan.sample([0, 1, 1]).shape == (3, 2, *SIZE)
    assert (gan.header.geometry, gan.header.source_format) == (GEOMETRY, "NIfTI")


def test_the_samples_that_a_snapshot_watches_are_made_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grids, "VALUES_IN_A_PASS", 5 * 2 * int(np.prod(SIZE)))
    trainer = _trainer(tmp_path)
    sample = trainer.gan.sample
    passes: list[Tensor] = []

    def spy(latents: Tensor, labels: Tensor) -> Tensor:
        passes.append(labels)
        return sample(latents, labels)

    monkeypatch.setattr(trainer.gan, "sample", spy)
    trainer.config = trainer.config.updated({"snapshots": 1, "kimg": 0.004})
    _train(trainer)
    assert {len(labels) for labels in passes} == {4}
    assert torch.cat(passes).tolist() == [0] * WATCHED + [1] * WATCHED
