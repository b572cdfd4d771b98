"""Can a small network tell synthetic from real images of one class? Its AUC is the shortcut risk.

A classifier that is trained on synthetic images of the rare class may learn how they were made instead of what they
show. The network sees as many real as synthetic images of each class, so that the class tells nothing, and is scored
within each class on patients whom it has not seen (cross-fitting). AUC .5: it cannot tell; 1: it always can. The
control does the same with two halves of the real images, and should be about .5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ganaug.data.names import count
from ganaug.errors import DataError
from ganaug.evaluation.distances import Interval

MOST = 1500
"""Images of each kind that are looked at."""
LARGEST = {2: 64, 3: 24}
"""Dimensions → the longest side that is looked at; of larger images a part."""
LEAST = 20
"""Images of each kind that a class must have to take part."""

_FOLDS = 2
_STEPS, _BATCH, _RATE = 100, 64, 3e-3
_CONTROL_STEPS = 50
_RESAMPLES = 399
_WIDTHS = (24, 32, 32)

Labels = Sequence[int] | NDArray[Any]


@dataclass(frozen=True)
class Detection:
    """How well real and synthetic images are told apart; `str` says it in a sentence."""

    auc: Interval | None
    """Within classes, on unseen patients, with the 95 % interval over images (patients); None: too few images."""
    control: Interval | None
    """The same for two halves of the real images; None: too few."""
    per_class: dict[int, float]
    """Label → AUC."""
    images: int
    """Of each kind that took part."""
    left_out: tuple[int, ...]
    """Labels with fewer than `LEAST` images of a kind."""
    note: str = ""
    """What was not looked at, in a sentence."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            **asdict(self),
            "per_class": {str(k): v for k, v in self.per_class.items()},
            "left_out": list(self.left_out),
        }

    def __str__(self) -> str:
        if self.auc is None:
            return f"Shortcut risk: insufficient (fewer than {LEAST} real and synthetic images in every class)."
        control = "" if self.control is None else f"; two halves of the real images {_text(self.control)}"
        return f"Shortcut risk: a small network tells synthetic from real with AUC {_text(self.auc)}{control}."


def detect(
    synthetic: NDArray[np.floating[Any]],
    real: NDArray[np.floating[Any]],
    *,
    labels: tuple[Labels, Labels],
    groups: tuple[Sequence[str] | None, Sequence[str] | None] = (None, None),
    seed: int = 0,
) -> Detection:
    """Train a small network to tell synthetic from real images of the same class.

    Images that its generator was trained on are told apart no worse than others: give either.

    Args:
        synthetic: N×C×H×W or N×C×D×H×W in [-1, 1].
        real: M images of the same shape.
        labels: class of each synthetic, and of each real image.
        groups: patient of each synthetic image (that of the source of a translated one), and of each real image. A
            patient is on one side of a fold only.
        seed: of draws, folds and networks.

    Raises:
        DataError: shapes or lengths do not fit.
    """
    fake_labels, real_labels = (np.asarray(given, np.int64) for given in labels)
    if synthetic.shape[1:] != real.shape[1:] or (len(fake_labels), len(real_labels)) != (len(synthetic), len(real)):
        raise DataError(
            f"Synthetic images of shape {synthetic.shape} and real ones of {real.shape} with {len(fake_labels)} and "
            f"{len(real_labels)} labels were given; one shape and a label for each was wanted."
        )
    rng = np.random.default_rng(seed)
    fakes = _Set(synthetic, fake_labels, _names(groups[0], len(synthetic), "synthetic "))
    reals = _Set(real, real_labels, _names(groups[1], len(real), "real "))
    pair, left_out = _balanced(fakes, reals, rng)
    if pair is None:
        return Detection(None, None, {}, 0, left_out)
    auc, per_class = _score(*pair, steps=_STEPS, rng=rng)
    codes = np.unique(reals.groups, return_inverse=True)[1]
    in_first = rng.permutation(codes.max() + 1)[codes] % 2 == 0
    halves, _ = _balanced(reals.subset(in_first), reals.subset(~in_first), rng)
    control = None if halves is None else _score(*halves, steps=_CONTROL_STEPS, rng=rng)[0]
    taken = len(pair[0].labels)
    notes = []
    if taken < min(len(synthetic), len(real)):
        notes.append(f"{count(taken, 'image')} of each kind were looked at, as many of each class.")
    if max(real.shape[2:]) > LARGEST[real.ndim - 2]:
        notes.append(f"Only parts of {LARGEST[real.ndim - 2]} a side were looked at.")
    return Detection(auc, control, per_class, taken, left_out, " ".join(notes))


@dataclass(frozen=True)
class _Set:
    images: NDArray[Any]
    labels: NDArray[np.int64]
    groups: NDArray[Any]

    def subset(self, rows: NDArray[Any]) -> _Set:
        return _Set(self.images[rows], self.labels[rows], self.groups[rows])


def _names(groups: Sequence[str] | None, n: int, alone: str) -> NDArray[Any]:
    names = [f"{alone}{i}" for i in range(n)] if groups is None else list(groups)
    if len(names) != n:
        raise DataError(f"{len(names)} groups were given for {count(n, 'image')}; as many were wanted.")
    return np.asarray(names, dtype=object).astype(str)


def _balanced(one: _Set, other: _Set, rng: np.random.Generator) -> tuple[tuple[_Set, _Set] | None, tuple[int, ...]]:
    """Return as many images of each class of both sets, and the classes with too few."""
    every = np.union1d(one.labels, other.labels).tolist()
    numbers = {label: min(int((some.labels == label).sum()) for some in (one, other)) for label in every}
    left_out = tuple(label for label, n in numbers.items() if n < LEAST)
    numbers = {label: n for label, n in numbers.items() if n >= LEAST}
    if not numbers:
        return None, left_out
    share = min(1.0, MOST / sum(numbers.values()))
    parts: list[_Set] = []
    for some in (one, other):
        rows = [
            rng.permutation(np.flatnonzero(some.labels == label))[: max(LEAST, int(n * share))]
            for label, n in numbers.items()
        ]
        parts.append(some.subset(np.sort(np.concatenate(rows))))
    return (parts[0], parts[1]), left_out


def _score(fakes: _Set, reals: _Set, *, steps: int, rng: np.random.Generator) -> tuple[Interval, dict[int, float]]:
    """Return the cross-fitted AUC within classes with its interval, and that of each class."""
    images = np.concatenate([fakes.images, reals.images])
    labels, groups = (np.concatenate(pair) for pair in ((fakes.labels, reals.labels), (fakes.groups, reals.groups)))
    is_fake = np.arange(len(images)) < len(fakes.labels)
    units = np.unique(groups, return_inverse=True)[1]
    folds = _folds(units, labels, is_fake, rng)
    scores = np.empty(len(images))
    for fold in range(_FOLDS):
        seen = folds != fold
        scores[~seen] = _fitted_scores(images, is_fake, labels, seen, steps=steps, seed=int(rng.integers(2**31)))
    # Only images of one class that one network scored are compared.
    wins, weights = [], []
    classes: dict[int, list[tuple[float, int]]] = {}
    resampled = rng.multinomial(len(set(units.tolist())), np.full(units.max() + 1, 1 / (units.max() + 1)), _RESAMPLES)
    for label in np.unique(labels).tolist():
        for fold in range(_FOLDS):
            own = (labels == label) & (folds == fold)
            a, b = np.flatnonzero(own & is_fake), np.flatnonzero(own & ~is_fake)
            if not len(a) or not len(b):
                continue
            above = (np.sign(scores[a][:, None] - scores[b][None]) + 1) / 2
            times = np.concatenate([np.ones((1, units.max() + 1)), resampled])
            of_a, of_b = times[:, units[a]], times[:, units[b]]
            wins.append(((of_a @ above) * of_b).sum(1))
            weights.append(of_a.sum(1) * of_b.sum(1))
            classes.setdefault(label, []).append((float(above.sum()), above.size))
    values = np.sum(wins, 0) / np.maximum(np.sum(weights, 0), 1)
    # Each of two networks is tested on what the other learned from, so that chance drives both figures the same way:
    # their mean may vary as much as one of them, and the resamples see the two as independent.
    spread = np.sqrt(_FOLDS) * (np.quantile(values[1:], (0.025, 0.975)) - values[0])
    low, high = np.clip(values[0] + spread, 0, 1).tolist()
    per_class = {label: sum(w for w, _ in found) / sum(n for _, n in found) for label, found in classes.items()}
    return Interval(float(values[0]), low, high), per_class


def _folds(
    units: NDArray[np.int64], labels: NDArray[np.int64], is_fake: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return the fold of each image; a group is in one, and classes and kinds are spread evenly."""
    order = rng.permutation(units.max() + 1)
    first = np.zeros(units.max() + 1, np.int64)
    first[units[::-1]] = (2 * labels + is_fake)[::-1]
    order = order[np.argsort(first[order], kind="stable")]
    fold_of = np.empty(len(order), np.int64)
    fold_of[order] = np.arange(len(order)) % _FOLDS
    return fold_of[units]


def _fitted_scores(
    images: NDArray[Any],
    is_fake: NDArray[np.bool_],
    labels: NDArray[np.int64],
    seen: NDArray[np.bool_],
    *,
    steps: int,
    seed: int,
) -> NDArray[np.float64]:
    """Train on what is `seen`, and return the scores of all others."""
    rng = np.random.default_rng(seed)
    # A group that holds many images of one kind may leave the other fold uneven: each draw levels it out.
    pools = [np.flatnonzero(seen & (is_fake == kind)) for kind in (False, True)]
    chances = [1 / np.bincount(labels[pool], minlength=labels.max() + 1)[labels[pool]] for pool in pools]
    shares = [
        chance * np.bincount(labels[seen & is_fake], minlength=labels.max() + 1)[labels[pool]]
        for pool, chance in zip(pools, chances, strict=True)
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(images.shape[1], images.ndim - 2)
        scale = _residual(torch.from_numpy(_part(images[pools[0][:256]], rng))).std().clamp_min(1e-4)
        optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
        target = torch.tensor([0.0, 1.0]).repeat_interleave(_BATCH // 2)
        for _ in range(steps):
            rows = [
                rng.choice(pool, _BATCH // 2, p=share / share.sum()) for pool, share in zip(pools, shares, strict=True)
            ]
            batch = torch.from_numpy(_part(images[np.concatenate(rows)], rng))
            loss = F.binary_cross_entropy_with_logits(network(_seen_as(batch, scale)).flatten(), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        rest = np.flatnonzero(~seen)
        with torch.no_grad():
            scores = [
                network(_seen_as(torch.from_numpy(_part(images[part])), scale)).flatten().numpy()
                for part in np.array_split(rest, -(-len(rest) // 128))
            ]
    return np.concatenate(scores).astype(np.float64)


def _part(images: NDArray[Any], rng: np.random.Generator | None = None) -> NDArray[np.float32]:
    """Return a part of at most `LARGEST` a side: at random, or the center. Its sides are even."""
    for axis in range(2, images.ndim):
        side = images.shape[axis]
        length = max(2, min(side, LARGEST[images.ndim - 2]) // 2 * 2)
        if side < 2:
            images = np.repeat(images, 2, axis)
            continue
        # In steps of two, so that what repeats every other pixel stays in its place.
        spare = (side - length) // 2
        start = 2 * (spare // 2 if rng is None else int(rng.integers(spare + 1)))
        images = images.take(range(start, start + length), axis)
    return np.ascontiguousarray(images, np.float32)


def _residual(images: Tensor) -> Tensor:
    """Return what a blur of three pixels takes away: there fingerprints are, and anatomy hardly is."""
    dims = images.ndim - 2
    pool = F.avg_pool2d if dims == 2 else F.avg_pool3d
    padded = F.pad(images, [1] * 2 * dims, mode="replicate")
    return images - pool(padded, 3, 1)


def _seen_as(images: Tensor, scale: Tensor) -> Tensor:
    """Return images and their evened residuals with 2×2 (2×2×2) pixels as channels: half the size, nothing lost."""
    both = torch.cat([images, _residual(images) / scale], 1)
    dims = images.ndim - 2
    for axis in range(dims):
        halves = both.unflatten(axis + 2, (-1, 2)).movedim(axis + 3, 1)
        both = halves.flatten(1, 2)
    return both


def _network(channels: int, dims: int) -> nn.Sequential:
    conv = nn.Conv2d if dims == 2 else nn.Conv3d
    pool = nn.AdaptiveAvgPool2d if dims == 2 else nn.AdaptiveAvgPool3d
    layers: list[nn.Module] = []
    width = 2 * channels * 2**dims
    for stage, out in enumerate(_WIDTHS):
        layers += [conv(width, out, 3, stride=1 if stage == 0 else 2, padding=1), nn.LeakyReLU(0.1)]
        width = out
    return nn.Sequential(*layers, pool(1), nn.Flatten(), nn.Linear(width, 1))


def _text(value: Interval) -> str:
    return f"{value.value:.2f} ({value.low:.2f} to {value.high:.2f})"
