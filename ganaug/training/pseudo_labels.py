"""Classes of another site's images that nobody labelled, as far as they can be told, and a guard for where they cannot.

A translation that is trained on sites whose class mixes differ learns to add or to remove what tells the classes apart
(Cohen et al., "Distribution matching losses can hallucinate features in medical image translation", 2018). Batches of
the same classes from either site avoid it, and for that the target's classes have to be known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ganaug.distributed import is_main, wait
from ganaug.errors import ConfigError
from ganaug.files import read_json, write_json
from ganaug.models.device import choose_device
from ganaug.progress import progress_bar
from ganaug.training.feeds.domains import DomainImages
from ganaug.training.judge import Judge, Read, train_judge
from ganaug.training.run import Run

if TYPE_CHECKING:
    from ganaug.training.plan import Plan

FILE_NAME = "target_labels.json"
"""In a run folder: what `label_target` found, so that a resumed run has the same."""

LEAST_BELIEVED = 0.5
"""Share of the target's images that must get a label; below it none of them is believed."""
LEAST_IMAGES = 8
"""Believed images of a class below which it counts as absent."""
ERRORS = 0.05
"""Share of errors among the source's held-out images that are as sure as the threshold."""


@dataclass(frozen=True)
class PseudoLabels:
    """What the judge says of images without labels."""

    labels: np.ndarray
    """Class of each, N; -1 where it is not sure enough."""
    believed: bool
    """Whether they are good enough to match classes by."""
    mix: np.ndarray
    """Estimated share of each class, over all images."""
    accuracy: float
    """Balanced accuracy on the source's held-out images."""
    threshold: float
    """Probability from which a label is given."""

    @property
    def share(self) -> float:
        """Share of the images that got a label."""
        return float((self.labels >= 0).mean())

    def sentence(self, classes: tuple[str, ...]) -> str:
        """Say what was found, and what follows."""
        mix = ", ".join(f"{name} {share:.0%}" for name, share in zip(classes, self.mix, strict=True))
        start = (
            f"Classes of the target: a judge that is right on {self.accuracy:.0%} of the source's held-out images "
            f"(mean over the classes) is sure of {self.share:.0%} of the target's; estimated mix: {mix}."
        )
        if self.believed:
            return f"{start} Batches have the same classes of both."
        return (
            f"{start} That is too little to match classes by: the class mix of the target counts as unknown, and the "
            "translation is held to gray values and texture (a network that sees only a neighborhood). Label some of "
            "the target's images, if you can."
        )


def with_target_labels(planned: Plan, pixels: np.ndarray, run: Run, *, show_progress: bool = False) -> Plan:
    """Return the plan of a site transfer with classes for the target's images, which `run` keeps from then on.

    Plans whose target is labelled, or that have none, are returned as they are. Where the classes cannot be told, the
    network becomes one that sees a small neighborhood only: it can learn another tone, bias, blur and noise, but no
    lesion.
    """
    domains, translation = planned.domains, planned.translation
    if domains is None or translation is None or not _is_unlabelled_transfer(planned):
        return planned
    path = run.path / FILE_NAME
    if is_main() and not path.exists():
        device = choose_device(planned.config.device)
        images = DomainImages(pixels, domains.of, translation, device, knots=planned.manifest.knots)
        source, target = (np.flatnonzero(domains.of == d) for d in (0, 1))
        with progress_bar("judging the target", 100.0, unit="%", show=show_progress) as progress:
            judge = train_judge(
                images.batch,
                np.where(domains.of == 0, domains.labels, -1),
                [item.group for item in planned.manifest.items],
                classes=len(domains.classes),
                device=device,
                seed=planned.config.seed,
                report=lambda share: progress.update(100 * share),
            )
        found = label_target(judge, images.batch, source, domains.labels[source], target)
        values = {
            "believed": found.believed,
            "sentence": found.sentence(domains.classes),
            "labels": {planned.manifest.items[i].sha256: int(c) for i, c in zip(target, found.labels, strict=True)},
        }
        write_json(path, values)
    wait()
    return _labelled(planned, read_json(path, ConfigError, "Start the run anew with --overwrite."))


def _is_unlabelled_transfer(planned: Plan) -> bool:
    domains = planned.domains
    assert domains is not None
    known = [bool((domains.labels[domains.of == d] >= 0).any()) for d in range(len(domains.names))]
    return domains.rule == "style" and known == [True, False] and planned.config.pairing == "labels"


def _labelled(planned: Plan, values: dict[str, Any]) -> Plan:
    domains, config = planned.domains, planned.config
    assert domains is not None
    if values["believed"]:
        given = values["labels"]
        items = planned.manifest.items
        labels = np.array(
            [
                label if label >= 0 else given.get(item.sha256, -1)
                for label, item in zip(domains.labels.tolist(), items, strict=True)
            ],
            dtype=np.int64,
        )
        domains = replace(domains, labels=labels)
    else:
        config = config.updated({"widths": config.widths[-2:], "blocks": 1})
    reasons = tuple(reason for reason in planned.reasons if reason != values["sentence"])
    return replace(planned, domains=domains, config=config, reasons=(*reasons, values["sentence"]))


def label_target(judge: Judge, read: Read, source: np.ndarray, labels: np.ndarray, target: np.ndarray) -> PseudoLabels:
    """Label the images at positions `target` by a judge of those at `source`, whose classes are `labels`.

    Each image is judged twice, as it is and with its gray values brought to the source's by their ranks, and the two
    opinions are averaged. The threshold is the least confidence from which on the judge errs in at most `ERRORS` of the
    source's held-out images. The mix is estimated from the labels and the judge's confusions on held-out images
    (Lipton et al. 2018, "Detecting and correcting for label shift with black box predictors", equation 3).
    """
    classes = judge.held_out.shape[1]
    held_out = judge.held_out[source]
    guess, sure = held_out.argmax(1), held_out.max(1)
    confusion = np.stack(
        [np.bincount(guess[labels == c], minlength=classes) / max(1, (labels == c).sum()) for c in range(classes)]
    )
    accuracy = float(np.diag(confusion).mean())
    threshold = _threshold(sure, guess == labels)
    sample = source[np.linspace(0, len(source) - 1, min(256, len(source))).round().astype(int)]
    wanted = torch.cat([read(part) for part in np.array_split(sample, -(-len(sample) // 32))])
    opinions = []
    for part in np.array_split(target, max(1, len(target) // 64)):
        images = read(part)
        opinions.append((judge.probabilities(images) + judge.probabilities(with_grays_of(images, wanted))) / 2)
    probabilities = np.concatenate(opinions)
    found = probabilities.argmax(1)
    given = np.where(probabilities.max(1) >= threshold, found, -1)
    mix = _mix(np.bincount(found, minlength=classes) / len(found), confusion)
    counts = np.bincount(given[given >= 0], minlength=classes)
    given = np.where(counts[given] >= LEAST_IMAGES, given, -1)
    believed = bool((given >= 0).mean() >= LEAST_BELIEVED and (counts >= LEAST_IMAGES).sum() >= 2)
    return PseudoLabels(given, believed, mix, accuracy, threshold)


def _threshold(sure: np.ndarray, right: np.ndarray) -> float:
    """Return the least confidence from which on at most `ERRORS` are wrong; above 1 if there is none."""
    order = np.argsort(-sure)
    wrong = np.cumsum(~right[order]) / np.arange(1, len(order) + 1)
    good = np.flatnonzero(wrong <= ERRORS)
    return float(sure[order][good[-1]]) if len(good) else 1.1


def _mix(predicted: np.ndarray, confusion: np.ndarray) -> np.ndarray:
    """Return the class shares that explain the predicted ones, given P(predicted | true) in the rows of `confusion`."""
    solved = np.linalg.lstsq(confusion.T, predicted, rcond=None)[0].clip(0)
    total = float(solved.sum())
    return solved / total if total > 0 else predicted


def with_grays_of(images: Tensor, wanted: Tensor) -> Tensor:
    """Return images whose gray values follow the distribution that those of `wanted` have together.

    One map for all images, channel by channel: of each value the quantile among all images is looked up in `wanted`.
    """
    out = torch.empty_like(images)
    quantiles = torch.linspace(0, 1, 257, device=images.device)
    for channel in range(images.shape[1]):
        here, there = (_values(part[:, channel]) for part in (images, wanted))
        knots, values = (np.quantile(part, quantiles.cpu().numpy()) for part in (here, there))
        mapped = np.interp(images[:, channel].cpu().numpy(), knots, values)
        out[:, channel] = torch.from_numpy(mapped).to(images)
    return out


def _values(images: Tensor) -> np.ndarray:
    flat = images.flatten().cpu().numpy()
    return flat[:: max(1, len(flat) // 100_000)]
