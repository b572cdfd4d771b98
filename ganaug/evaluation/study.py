"""The paired study: does adding synthetic images help a classifier, against the best that works without them?

Every arm trains the same classifier for the same number of optimizer steps, from the same initial weights
and, where both balance their draws, with the same plan of draws; only the images differ. So a gain cannot
come from more training, and arms can be compared seed by seed and image by image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ganaug.errors import ConfigError, DataError
from ganaug.evaluation.arms import ARMS, train_arm
from ganaug.evaluation.classifier import ClassicalAugment, predict
from ganaug.evaluation.results import StudyResult
from ganaug.evaluation.stats import class_recalls
from ganaug.mixing import SyntheticMixDataset
from ganaug.progress import progress_bar
from ganaug.sampling.bank import SyntheticBank
from ganaug.sampling.leak import validate_against


class ImageSet(Dataset[tuple[torch.Tensor, int]]):
    """Images in memory, N×C×H×W uint8, with labels and class names, as `SyntheticMixDataset` takes them."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64], classes: Sequence[str]) -> None:
        self.images = torch.from_numpy(np.ascontiguousarray(images))
        self.targets = np.asarray(labels, dtype=np.int64)
        self.classes = tuple(classes)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index], int(self.targets[index])


def run_study(
    train_images: NDArray[np.uint8],
    train_labels: NDArray[np.int64],
    test_images: NDArray[np.uint8],
    test_labels: NDArray[np.int64],
    bank: SyntheticBank,
    *,
    classes: Sequence[str],
    arms: Sequence[str] = ("as-is", "classical", "synthetic"),
    seeds: Sequence[int] = range(6),
    steps: int = 600,
    batch: int = 64,
    sampling_strategy: Any = "auto",
    synthetic_share: float = 0.5,
    smallest_gain: float = 0.5,
    augment: ClassicalAugment | None = None,
    device: torch.device | str = "cpu",
    show_progress: bool = False,
) -> StudyResult:
    """Train every arm (names in `ARMS`) with every seed, and score it on the real test images.

    Images are N×C×H×W uint8, labels indices into `classes`. A seed decides the initial weights, the draws,
    the augmentation and which images of the bank are used. `sampling_strategy` says how many those are (as
    for `SyntheticMixDataset`); `synthetic_share` is the largest share of a class's draws that they get (see
    `ganaug.evaluation.draws.balanced_batches`). `augment` replaces the classical augmentation of the balanced
    arms. `smallest_gain`, in points, is the smallest gain that counts as worthwhile in the verdict.

    The test images must be none that the generator has seen. Here they are compared by their pixels with what the bank
    knows of its generator's training, and ``settings["leak_guard"]`` says what came of it; compare their files and
    patients beforehand, with `ganaug.sampling.leak.validate_against` or `ganaug.evaluation.leak.refuse_leak`.

    Raises:
        LeakError: test images that the generator was trained on.
        ConfigError: an unknown or repeated arm or seed, fewer than 2 seeds, or a bank with too few images.
        DataError: images or labels of the wrong form, no training or fewer than 2 test images of a class.
        ModelFileError: the bank has other classes.
    """
    arms, seeds = tuple(arms), tuple(int(seed) for seed in seeds)
    _check_names(arms, seeds)
    train_counts = check_images("training", train_images, train_labels, classes, at_least=1)
    check_images("test", test_images, test_labels, classes, at_least=2, shape=train_images.shape[1:])
    guarded = validate_against(bank, test_images)
    augment = augment or ClassicalAugment()
    real = ImageSet(train_images, train_labels, classes)
    correct = {arm: np.zeros((len(seeds), len(test_labels)), dtype=bool) for arm in arms}
    synthetic_counts = np.zeros(len(classes), dtype=np.int64)

    with progress_bar("study", len(seeds) * len(arms), unit="trainings", show=show_progress) as progress:
        for row, seed in enumerate(seeds):
            mixed = SyntheticMixDataset(real, bank, sampling_strategy=sampling_strategy, seed=seed)
            synthetic_counts = np.bincount(mixed.targets[mixed.is_synthetic], minlength=len(classes))
            for column, name in enumerate(arms):
                model = train_arm(
                    ARMS[name],
                    real,
                    mixed=mixed,
                    bank=bank,
                    classes=len(classes),
                    steps=steps,
                    batch=batch,
                    seed=seed,
                    synthetic_share=synthetic_share,
                    augment=augment,
                    device=device,
                )
                correct[name][row] = predict(model, test_images) == test_labels
                recall = class_recalls(correct[name][row], test_labels).mean()
                progress.update(
                    row * len(arms) + column + 1, f"{ARMS[name].title}, seed {seed}: balanced accuracy {recall:.3f}"
                )
    settings = {
        "steps": steps,
        "batch": batch,
        "sampling_strategy": "custom" if callable(sampling_strategy) else sampling_strategy,
        "synthetic_share": synthetic_share,
        "smallest_gain": smallest_gain,
        "augment": asdict(augment),
        "leak_guard": str(guarded),
    }
    return StudyResult(
        tuple(classes),
        tuple(train_counts),
        np.asarray(test_labels, dtype=np.int64),
        seeds,
        correct,
        tuple(synthetic_counts.tolist()),
        settings,
    )


def _check_names(arms: tuple[str, ...], seeds: tuple[int, ...]) -> None:
    unknown = [arm for arm in arms if arm not in ARMS]
    if unknown or not arms or len(set(arms)) < len(arms):
        raise ConfigError(f"The arms are {', '.join(arms) or 'none'}; different ones of {', '.join(ARMS)} are wanted.")
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise ConfigError(
            f"The seeds are {', '.join(map(str, seeds)) or 'none'}; at least 2 different ones are wanted."
        )


def check_images(
    part: str,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    *,
    at_least: int,
    shape: tuple[int, ...] | None = None,
) -> list[int]:
    """Return the number of images of each class, after refusing what cannot be trained or scored on.

    `part` names the images in a message; `shape` is the C×H×W that they must have.

    Raises:
        DataError: images or labels of the wrong form, or a class with fewer than `at_least` images.
    """
    if images.ndim != 4 or images.dtype != np.uint8 or np.shape(labels) != images.shape[:1]:
        raise DataError(
            f"The {part} images are {images.dtype} of shape {images.shape} with labels of shape "
            f"{np.shape(labels)}; N×C×H×W of uint8 with N labels is wanted. Load them with the run's own "
            "size and channels."
        )
    if shape is not None and images.shape[1:] != shape:
        raise DataError(
            f"The {part} images are of {images.shape[1:]} (C×H×W), the others of {shape}; one shape is "
            "wanted. Load both with the run's own size and channels."
        )
    if len(labels) and not 0 <= np.min(labels) <= np.max(labels) < len(classes):
        raise DataError(
            f"The {part} labels go from {np.min(labels)} to {np.max(labels)}; 0 to {len(classes) - 1} is "
            f"wanted, for the classes {', '.join(classes)}."
        )
    counts: list[int] = np.bincount(labels, minlength=len(classes)).tolist()
    short = [f"{name!r} ({count})" for name, count in zip(classes, counts, strict=True) if count < at_least]
    if short:
        raise DataError(
            f"Too few {part} images of {', '.join(short)}; at least {at_least} of each class are wanted. Add "
            "images, or leave the class out of training and test."
        )
    return counts
