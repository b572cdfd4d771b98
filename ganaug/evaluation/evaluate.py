"""`ganaug evaluate`: how good are a generator's images, are they copies, and what gives them away?

Every figure stands beside its control, what real images give in the place of the synthetic ones, and alarms speak of
the difference alone. The feature network and every classifier learn from the training images; all is measured against
held-out images of other patients.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ganaug
from ganaug.data.leak import Trained, refuse_leak
from ganaug.data.manifest import Manifest
from ganaug.data.names import count
from ganaug.data.reading import scan
from ganaug.data.tensors import load_images
from ganaug.errors import DataError, ModelFileError
from ganaug.evaluation.cas import hits_of
from ganaug.evaluation.classifier import ClassicalAugment, predict, train_classifier
from ganaug.evaluation.compared import Compared
from ganaug.evaluation.detector import detect
from ganaug.evaluation.distances import per_class
from ganaug.evaluation.draws import balanced_batches
from ganaug.evaluation.features import FeatureNetwork, imagenet_features, trained_features, user_features
from ganaug.evaluation.judging import ClassJudge
from ganaug.evaluation.membership import membership
from ganaug.evaluation.memorization import memorization
from ganaug.evaluation.spectrum import spectrum
from ganaug.evaluation.stats import class_recalls
from ganaug.evaluation.study import ImageSet
from ganaug.files import check_output, disk_errors, keep_apart, only_writer, prepare_output, write_json
from ganaug.models.device import choose_device
from ganaug.progress import progress_bar
from ganaug.sampling.counts import slices_of
from ganaug.sampling.preview import training_grid
from ganaug.sampling.sampler import Sampler, load_sampler

METRICS = "metrics.json"
MOST_IMAGES = 5000
"""Synthetic images that are made, at most."""
STEPS = 200
"""Optimizer steps of each classifier."""
_PARTS = ("features", "fidelity", "labels", "judge", "memorization", "membership", "spectrum", "detector")


@dataclass(frozen=True, eq=False)
class ImageParts:
    """Synthetic, training and held-out images on the generator's grid."""

    classes: tuple[str, ...]
    images: dict[str, np.ndarray]
    """``synthetic``, ``training``, ``held_out``: N×C×spatial float32 in [-1, 1]."""
    labels: dict[str, np.ndarray]
    groups: dict[str, list[str]] | None
    """Patients of the real images; None where each image is its own."""
    train: Manifest

    def three(self, values: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return values in the order synthetic, training, held out."""
        return values["synthetic"], values["training"], values["held_out"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was found, and what the page shows."""

    metrics: dict[str, Any]
    """The content of ``metrics.json``."""
    parts: ImageParts
    gan: Sampler

    def summary(self) -> str:
        """Return the findings in lines for a terminal."""
        found = self.metrics
        lines = []
        for row, control in zip(found["fidelity"], found["fidelity_of_training"], strict=True):
            if row["reason"]:
                lines.append(f"{row['name']:<12} {row['reason']}")
                continue
            lines.append(f"{row['name']:<12} {_figures(row)}")
            if not control["reason"]:
                lines.append(f"{'':<12} {_figures(control)}  (training images in their place)")
        labels = found["labels"]
        lines += [
            f"Features: {found['network']['name']} {found['network']['sha256'][:12]}",
            f"Trained on synthetic, tested on real: {labels['synthetic_on_real']:.3f} balanced accuracy; trained on as "
            f"many real images {labels['real_on_real']:.3f}. Trained on real, tested on synthetic: "
            f"{labels['real_on_synthetic']:.3f}.",
            f"Copies: {found['memorization']['sentence']}",
            f"Membership: {found['membership']['sentence']}",
            found["detector"]["sentence"],
            found["spectrum"]["sentence"],
        ]
        return "\n".join(lines)


def _figures(row: dict[str, Any]) -> str:
    kid, prdc = row["kid"], row["prdc"]
    told = f"KID {kid['value']:.4f} [{kid['low']:.4f}, {kid['high']:.4f}]"
    if prdc is None:
        return told
    return told + "".join(f"  {name} {prdc[name]:.2f}" for name in ("precision", "recall", "density", "coverage"))


def evaluate(
    run: str | Path,
    real: str | Path,
    out: str | Path | None = None,
    *,
    train: str | Path | None = None,
    per_class_count: int | None = None,
    features: str = "classifier",
    seed: int = 0,
    group_regex: str | None = None,
    device: str = "auto",
    overwrite: bool = False,
    show_progress: bool = False,
) -> Evaluation:
    """Evaluate the generator of a run against real images that it has not seen.

    Args:
        run: a run folder of a conditional model.
        real: a labelled folder. The images that the run was trained on are recognized by their hashes and are the
            training side; the others are held out, and none of them may be of a training patient.
        out: a folder to create for ``metrics.json`` and ``report.html``; without it nothing is written.
        train: the training images, where `real` has none of them.
        per_class_count: synthetic images of each class; by default as many as there are training images, 100 to 1000.
        features: ``classifier`` (trained on the training images), ``imagenet`` (where its weights are installed), or
            ``module:attr``, a network of your own; see `ganaug.evaluation.features`.
        seed: of the synthetic images and of everything that is drawn.

    Raises:
        DataError: no training images or no held-out ones, or other classes.
        LeakError: held-out images of training patients.
        ConfigError: `features` cannot be used, or `out` may not be written.
    """
    if out is not None:
        for source in (run, real, *([train] if train else [])):
            keep_apart(Path(out), Path(source))
        with disk_errors(Path(out)):
            check_output(Path(out), overwrite=overwrite)
    place = choose_device(device)
    given = None if features == "classifier" else _given_network(features, place)
    gan = load_sampler(run, device=device)
    raw = gan.manifest_bytes()
    if raw is None:
        raise ModelFileError(f"{run} has no train_manifest.json; a run folder was wanted, to know what was trained on.")
    training, held_out = _sides(raw, real, train, gan, group_regex, show_progress)
    parts = _images(gan, training, held_out, per_class_count, seed)
    seconds: dict[str, float] = {}
    with progress_bar("evaluate", len(_PARTS), unit="parts", show=show_progress) as progress:

        @contextmanager
        def timed(part: str) -> Any:
            start = time.perf_counter()
            yield
            seconds[part] = round(time.perf_counter() - start, 1)
            progress.update(len(seconds), part)

        found: dict[str, Any] = {}
        with timed("features"):
            network = _trained_network(parts, place, seed) if given is None else given
            vectors = {side: network(torch.from_numpy(images)) for side, images in parts.images.items()}
        with timed("fidelity"):
            # The training images in the synthetic ones' place: what a figure is of images that are real.
            for key, side in (("fidelity", "synthetic"), ("fidelity_of_training", "training")):
                rows = per_class(
                    vectors[side], vectors["held_out"], parts.labels[side], parts.labels["held_out"],
                    classes=parts.classes, network=network.name, sha256=network.sha256, seed=seed,
                )  # fmt: skip
                found[key] = [row.to_dict() for row in rows]
        with timed("labels"):
            found["labels"] = label_figures(parts, device=place, seed=seed)
        with timed("judge"):
            found["judge"] = judge_figures(gan, parts, seed=seed)
        groups = None if parts.groups is None else (parts.groups["training"], parts.groups["held_out"])
        with timed("memorization"):
            compared = Compared.of(
                *parts.three(parts.images),
                labels=parts.three(parts.labels),
                groups=groups,
                features=parts.three(vectors),
            )
            copies = memorization(compared, seed=seed)
            found["memorization"] = {**copies.to_dict(), "sentence": str(copies)}
        with timed("membership"):
            attack = membership(compared, seed=seed)
            found["membership"] = {**attack.to_dict(), "sentence": str(attack)}
        pair = (parts.images["synthetic"], parts.images["held_out"])
        classes = (parts.labels["synthetic"], parts.labels["held_out"])
        patients = None if groups is None else groups[1]
        with timed("spectrum"):
            waves = spectrum(*pair, labels=classes, groups=patients, seed=seed)
            found["spectrum"] = {**waves.to_dict(), "sentence": str(waves)}
        with timed("detector"):
            told = detect(*pair, labels=classes, groups=(None, patients), seed=seed)
            found["detector"] = {**told.to_dict(), "sentence": str(told)}
    metrics = {
        "format": "ganaug-metrics",
        "version": 1,
        "ganaug": ganaug.__version__,
        "model_sha256": gan.model_sha256,
        "seed": seed,
        "classes": list(parts.classes),
        "images": {side: _counts(labels, parts.classes) for side, labels in parts.labels.items()},
        "patients": None if parts.groups is None else {side: len(set(g)) for side, g in parts.groups.items()},
        "network": {"name": network.name, "sha256": network.sha256, "dim": network.dim},
        **found,
        "seconds": seconds,
    }
    evaluation = Evaluation(metrics, parts, gan)
    if out is not None:
        from ganaug.evaluation.evaluate_report import write_evaluation_report

        with disk_errors(Path(out)), only_writer(Path(out)):
            prepare_output(Path(out), overwrite=overwrite)
            write_json(Path(out) / METRICS, metrics)
            write_evaluation_report(evaluation, Path(out))
    return evaluation


def _sides(
    raw: bytes, real: str | Path, train: str | Path | None, gan: Sampler, group_regex: str | None, show: bool
) -> tuple[Manifest, Manifest]:
    """Return the training images and the held-out ones."""
    options: dict[str, Any] = {"group_regex": group_regex, "slices": slices_of(gan), "show_progress": show}
    manifest = scan(real, **options)
    _require_classes(manifest, gan, real)
    trained = Trained.of(raw)
    known = np.array([not trained.files.isdisjoint((item.sha256, *item.sources)) for item in manifest.items])
    training, held_out = (manifest.subset(np.flatnonzero(side)) for side in (known, ~known))
    if train is not None:
        training = scan(train, **options)
        _require_classes(training, gan, train)
        held_out = manifest  # the whole of it: an image that was trained on is a leak here
    if not len(held_out):
        raise DataError(
            f"The run was trained on all {count(len(manifest), 'image')} of {real}; held-out images of other patients "
            "are wanted, or nothing can be said. Train on a part: ganaug fit on a folder without them."
        )
    if not len(training):
        raise DataError(
            f"{real} holds none of the images that the run was trained on; they are wanted too, to tell copies from "
            "new images. Give their folder: --train DATA."
        )
    refuse_leak(raw, held_out)
    return training, held_out


def _require_classes(manifest: Manifest, gan: Sampler, name: object) -> None:
    if tuple(manifest.classes) != tuple(gan.classes):
        raise ModelFileError(
            f"{name} has the classes {', '.join(manifest.classes)}, the generator {', '.join(gan.classes)}; the same "
            "names are wanted."
        )


def _images(gan: Sampler, training: Manifest, held_out: Manifest, asked: int | None, seed: int) -> ImageParts:
    images, labels, groups = {}, {}, {}
    for side, manifest in (("training", training), ("held_out", held_out)):
        stored = load_images(manifest, training_grid(gan, (item.dtype for item in manifest.items)))
        knots = manifest.knots if gan.intensity.kind == "per-file" else None
        images[side] = gan.intensity.forward(stored, knots=knots)
        labels[side] = manifest.labels
        groups[side] = [item.group for item in manifest.items]
    classes = len(gan.classes)
    here = np.bincount(labels["training"], minlength=classes)
    numbers = np.full(classes, asked) if asked else np.clip(here, 100, 1000)
    numbers = np.minimum(numbers, max(1, MOST_IMAGES // classes)) if not asked else numbers
    labels["synthetic"] = np.repeat(np.arange(classes), numbers)
    images["synthetic"] = gan.sample(labels["synthetic"].tolist(), seed=seed).numpy()
    named = any(len(set(names)) < len(names) for names in groups.values())
    return ImageParts(tuple(gan.classes), images, labels, groups if named else None, training)


def _trained_network(parts: ImageParts, device: torch.device, seed: int) -> FeatureNetwork:
    images = torch.from_numpy(parts.images["training"])
    return trained_features(images, parts.labels["training"], classes=len(parts.classes), seed=seed, device=device)


def _given_network(features: str, device: torch.device) -> FeatureNetwork:
    return imagenet_features(device=device) if features == "imagenet" else user_features(features, device=device)


def label_figures(parts: ImageParts, *, device: torch.device, seed: int) -> dict[str, Any]:
    """Return the classification accuracy score and its mirror, all as balanced accuracy in [0, 1].

    ``synthetic_on_real`` is of a classifier that is trained on synthetic images and tested on held-out real ones,
    ``real_on_real`` of one trained on as many training images of each class, and ``ratio`` the first over the second.
    ``real_on_synthetic`` is of one trained on all training images and tested on synthetic ones, beside the same on
    held-out images, ``real_on_held_out``. With ``…_recall`` of each class, by name.
    """
    images, labels = parts.images, parts.labels
    counts = np.minimum(
        *(np.bincount(labels[side], minlength=len(parts.classes)) for side in ("synthetic", "training"))
    )
    found: dict[str, Any] = {"images_per_class": _named(counts.tolist(), parts.classes), "steps": STEPS}
    for side, name in (("synthetic", "synthetic_on_real"), ("training", "real_on_real")):
        hits = hits_of(
            images[side], labels[side], images["held_out"], labels["held_out"],
            classes=parts.classes, counts=counts, steps=STEPS, seeds=[seed], device=device,
        )  # fmt: skip
        _recalls(found, name, hits, labels["held_out"], parts.classes)
    found["ratio"] = found["synthetic_on_real"] / max(found["real_on_real"], 1e-12)
    data = ImageSet(images["training"], labels["training"], parts.classes)
    model = train_classifier(
        data,
        classes=len(parts.classes),
        steps=STEPS,
        seed=seed,
        batches=balanced_batches(data.targets, steps=STEPS, batch=64, seed=seed),
        augment=ClassicalAugment(),
        device=device,
    )
    for side, name in (("synthetic", "real_on_synthetic"), ("held_out", "real_on_held_out")):
        _recalls(found, name, predict(model, images[side])[None] == labels[side], labels[side], parts.classes)
    return found


def _recalls(found: dict[str, Any], name: str, hits: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> None:
    recalls = class_recalls(hits, labels)[0]
    there = [classes[c] for c in np.unique(labels)]
    found[name] = float(recalls.mean())
    found[f"{name}_recall"] = dict(zip(there, recalls.tolist(), strict=True))


def judge_figures(gan: Sampler, parts: ImageParts, *, seed: int) -> dict[str, Any]:
    """Return by class the share of synthetic images whose most probable class, to a judge, is their own, and accepted.

    The judge is an ensemble trained on the training images (`ganaug.evaluation.judging.ClassJudge`). Beside it what
    its members say of training images that they have not seen.
    """
    judge = ClassJudge.train(gan, parts.train, seed=seed)
    labels, images = parts.labels["synthetic"], torch.from_numpy(parts.images["synthetic"])
    probabilities = np.concatenate([judge.probabilities(block) for block in images.split(256)])
    agrees = probabilities.argmax(axis=1) == labels
    accepted = probabilities[np.arange(len(labels)), labels] >= judge.thresholds[labels]
    return {
        "agreement": _named([float(agrees[labels == c].mean()) for c in range(len(parts.classes))], parts.classes),
        "accepted": _named([float(accepted[labels == c].mean()) for c in range(len(parts.classes))], parts.classes),
        "balanced_accuracy_on_real": judge.accuracy,
    }


def _counts(labels: np.ndarray, classes: Sequence[str]) -> dict[str, int]:
    return _named(np.bincount(labels, minlength=len(classes)).tolist(), classes)


def _named(values: Sequence[Any], classes: Sequence[str]) -> dict[str, Any]:
    return dict(zip(classes, values, strict=True))
