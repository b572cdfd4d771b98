"""Classification accuracy score: train on synthetic images alone, test on real ones.

Ravuri & Vinyals 2019, "Classification Accuracy Score for Conditional Generative Models", arXiv 1905.10887.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ganaug.evaluation.classifier import ClassicalAugment, predict, train_classifier
from ganaug.evaluation.draws import balanced_batches
from ganaug.evaluation.stats import class_recalls
from ganaug.evaluation.study import ImageSet, check_images
from ganaug.progress import progress_bar


def cas(
    real_images: NDArray[np.uint8],
    real_labels: NDArray[np.int64],
    bank_images: NDArray[np.uint8],
    bank_labels: NDArray[np.int64],
    test_images: NDArray[np.uint8],
    test_labels: NDArray[np.int64],
    *,
    classes: Sequence[str],
    steps: int = 600,
    batch: int = 64,
    seeds: Sequence[int] = range(3),
    augment: ClassicalAugment | None = None,
    device: torch.device | str = "cpu",
    show_progress: bool = False,
) -> dict[str, Any]:
    """Score synthetic images by the classifier they train, beside one trained on as many real images.

    Images are N×C×H×W uint8, labels indices into `classes`. For each seed and class as many images are drawn
    from either side as the smaller side has; both classifiers then get the same steps, class-balanced draws,
    augmentation and initial weights. A ratio near 1 says that the synthetic images hold what tells the
    classes apart; it falls with blur, with images of the wrong class, and when a generator repeats itself.

    Returns a JSON-ready dict: ``synthetic_accuracy`` and ``real_accuracy`` (means over seeds, in [0, 1]),
    their ``ratio``, each ``…_per_seed``, each ``…_recall`` by class, ``images_per_class``, ``steps``,
    ``seeds``.

    Raises:
        DataError: images or labels of the wrong form, different shapes, or a class without real, synthetic
            or test images.
    """
    shape = real_images.shape[1:]
    counts = np.minimum(
        check_images("real", real_images, real_labels, classes, at_least=1),
        check_images("synthetic", bank_images, bank_labels, classes, at_least=1, shape=shape),
    )
    check_images("test", test_images, test_labels, classes, at_least=1, shape=shape)
    sides = {"synthetic": (bank_images, bank_labels), "real": (real_images, real_labels)}
    correct = {}
    with progress_bar("cas", len(seeds) * len(sides), unit="trainings", show=show_progress) as progress:
        for number, (side, (images, labels)) in enumerate(sides.items()):

            def report(done: int, accuracy: float, side: str = side, before: int = number * len(seeds)) -> None:
                progress.update(before + done, f"{side}: accuracy {accuracy:.3f}")

            correct[side] = hits_of(
                images, labels, test_images, test_labels,
                classes=classes, counts=counts, steps=steps, batch=batch, seeds=seeds, augment=augment,
                device=device, report=report,
            )  # fmt: skip
    result: dict[str, Any] = {
        "images_per_class": dict(zip(classes, counts.tolist(), strict=True)),
        "steps": steps,
        "seeds": [int(seed) for seed in seeds],
    }
    for side, hits in correct.items():
        recalls = class_recalls(hits, test_labels).mean(axis=0)
        result[f"{side}_accuracy"] = float(hits.mean())
        result[f"{side}_accuracy_per_seed"] = hits.mean(axis=1).tolist()
        result[f"{side}_recall"] = dict(zip(classes, recalls.tolist(), strict=True))
    result["ratio"] = result["synthetic_accuracy"] / max(result["real_accuracy"], 1e-12)
    return result


def hits_of(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    test_images: NDArray[np.uint8],
    test_labels: NDArray[np.int64],
    *,
    classes: Sequence[str],
    counts: Sequence[int] | NDArray[np.int64],
    steps: int = 600,
    batch: int = 64,
    seeds: Sequence[int] = range(3),
    augment: ClassicalAugment | None = None,
    device: torch.device | str = "cpu",
    report: Callable[[int, float], None] | None = None,
) -> NDArray[np.bool_]:
    """Return which test images are classified rightly after training on `counts` images of each class.

    One row for each seed, which draws the images and the classifier's weights: seeds × test images. See `cas`.
    """
    hits = np.zeros((len(seeds), len(test_labels)), dtype=bool)
    for row, seed in enumerate(seeds):
        rng = np.random.default_rng(seed)
        chosen = np.concatenate(
            [rng.choice(np.flatnonzero(labels == k), n, replace=False) for k, n in enumerate(counts)]
        )
        data = ImageSet(images[chosen], labels[chosen], classes)
        model = train_classifier(
            data,
            classes=len(classes),
            steps=steps,
            batch=batch,
            seed=seed,
            batches=balanced_batches(data.targets, steps=steps, batch=batch, seed=seed),
            augment=augment or ClassicalAugment(),
            device=device,
        )
        hits[row] = predict(model, test_images) == test_labels
        if report is not None:
            report(row + 1, float(hits[row].mean()))
    return hits
