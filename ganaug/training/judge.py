"""A judge of classes: a small ensemble that is trained on labelled images, and knows from images that it has not seen
how far it can be believed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganaug.models import place
from ganaug.models.classifier import Classifier
from ganaug.training.augment import augment, profile
from ganaug.training.batches import BalancedBatches, derived_seed

STEPS, BATCH = 300, 32
FOLDS = 3

Read = Callable[[np.ndarray], Tensor]
"""Positions to images: N×C×spatial float32 in [-1, 1] on the training device."""


@dataclass(frozen=True)
class Judge:
    """Classifiers, one a fold, each trained without the images of its own fold."""

    members: tuple[Classifier, ...]
    folds: np.ndarray
    """Fold of each training image, N; -1 for images without a label."""
    held_out: np.ndarray
    """Probabilities of each training image by the one member that has not seen it, N×classes; 0 without a label."""

    @torch.inference_mode()
    def probabilities(self, images: Tensor, *, without: int | None = None) -> np.ndarray:
        """Return the members' mean class probabilities, N×classes.

        Args:
            images: N×C×spatial in [-1, 1].
            without: only the member that has not seen this fold: for an image of the fold, or made from one.
        """
        members = self.members if without is None else self.members[without : without + 1]
        total = torch.stack([_probabilities(member, images) for member in members]).mean(0)
        return total.cpu().numpy()


def train_judge(
    read: Read,
    labels: np.ndarray,
    groups: Sequence[str],
    *,
    classes: int,
    device: torch.device,
    seed: int,
    steps: int = STEPS,
    folds: int = FOLDS,
    styles: bool = True,
    report: Callable[[float], None] | None = None,
) -> Judge:
    """Train a judge.

    Args:
        read: gives the images.
        labels: class of each, N; -1 is left out.
        groups: patient of each, N: a fold never cuts one.
        classes: number of classes.
        device: where the images are.
        seed: of weights, folds and draws.
        steps: optimizer steps of each member, of `BATCH` images with all classes alike.
        folds: members.
        styles: change gray values, bias, blur and noise at random, so that another scanner does not put it off.
        report: is told the share of the work that is done.
    """
    known = np.flatnonzero(labels >= 0)
    fold = np.full(len(labels), -1)
    fold[known] = _folds(labels[known], [groups[i] for i in known.tolist()], folds, seed)
    members = []
    for k in range(folds):
        shown = np.flatnonzero((fold != k) & (fold >= 0))
        members.append(
            train_member(read, shown, labels[shown], classes, device, derived_seed(seed, "judge", k), steps, styles)
        )
        if report is not None:
            report((k + 1) / folds)
    held_out = np.zeros((len(labels), classes))
    for k, member in enumerate(members):
        for part in np.array_split(np.flatnonzero(fold == k), max(1, (fold == k).sum() // 64)):
            if len(part):
                held_out[part] = _probabilities(member, read(part)).cpu().numpy()
    return Judge(tuple(members), fold, held_out)


@torch.inference_mode()
def _probabilities(member: Classifier, images: Tensor) -> Tensor:
    return torch.cat([member(part).softmax(1) for part in images.split(64)])


def _folds(labels: np.ndarray, groups: Sequence[str], folds: int, seed: int) -> np.ndarray:
    """Deal whole groups out to folds, class by class, so that each fold has images of every class where it can."""
    order = np.random.default_rng(derived_seed(seed, "folds")).permutation(len(labels))
    images: dict[str, np.ndarray] = {}
    for i in order.tolist():
        images.setdefault(groups[i], np.zeros(int(labels.max()) + 1, dtype=int))[labels[i]] += 1
    fold_of: dict[str, int] = {}
    dealt = np.zeros((folds, int(labels.max()) + 1), dtype=int)
    for group, own in images.items():
        # To the fold that has the fewest images of what the group has most of, and then the fewest of all.
        fold = min(range(folds), key=lambda k: (dealt[k, own.argmax()], dealt[k].sum()))
        fold_of[group] = fold
        dealt[fold] += own
    return np.array([fold_of[group] for group in groups])


def train_member(
    read: Read,
    shown: np.ndarray,
    labels: np.ndarray,
    classes: int,
    device: torch.device,
    seed: int,
    steps: int,
    styles: bool,
) -> Classifier:
    """Train one classifier on the images at positions `shown`, whose classes are `labels`; see `train_judge`."""
    example = read(shown[:1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Classifier(size=example.shape[2:], channels=example.shape[1], classes=classes)
    place(network, device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    batches = BalancedBatches(labels, power=0.0, seed=seed)
    random = torch.Generator(device)
    moves = replace(profile("safe"), brightness=0, contrast=0)
    for step in range(steps):
        rows = batches.batch(step, BATCH)
        random.manual_seed(derived_seed(seed, "step", step))
        images = augment(read(shown[rows]), 0.5, moves, random)
        images = restyled(images, random) if styles else images
        wanted = torch.from_numpy(labels[rows]).to(device)
        loss = F.cross_entropy(network(images), wanted, label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval().requires_grad_(False)


def restyled(images: Tensor, random: torch.Generator) -> Tensor:
    """Return images as other scanners might have taken them: tone curve, contrast, bias field, blur, noise.

    Args:
        images: N×C×H×W or N×C×D×H×W in [-1, 1].
        random: on the images' device.
    """
    count, dims, device = len(images), images.ndim - 2, images.device
    each = (count, *[1] * (dims + 1))

    def normal(scale: float) -> Tensor:
        return torch.randn(each, generator=random, device=device) * scale

    unit = ((images + 1) / 2).clamp(0, 1)
    unit = unit ** torch.exp(normal(0.3))
    axis = [torch.linspace(-1, 1, side, device=device) for side in images.shape[2:]]
    for d, places in enumerate(axis):
        shape = [1] * (dims + 2)
        shape[d + 2] = len(places)
        unit = unit * torch.exp(normal(0.2) * places.view(shape))
    unit = unit * torch.exp(normal(0.15)) + normal(0.05)
    pool = F.avg_pool2d if dims == 2 else F.avg_pool3d
    blurred = pool(unit, 3, stride=1, padding=1, count_include_pad=False)
    share = torch.rand(each, generator=random, device=device) * (normal(1.0) > 0)
    unit = unit + share * (blurred - unit)
    level = torch.rand(each, generator=random, device=device) * 0.06
    unit = unit + level * torch.randn(images.shape, generator=random, device=device)
    return unit.clamp(0, 1) * 2 - 1
