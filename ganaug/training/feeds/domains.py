"""The feeds of translation: unpaired images of several domains, pairs, and images with degraded copies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganaug.config import FitConfig
from ganaug.data.degrade import parse_degrade
from ganaug.data.domains import Domains
from ganaug.distributed import rank, world_size
from ganaug.models.translation import Translation
from ganaug.training.augment import augment, profile
from ganaug.training.batches import (
    BalancedBatches,
    DeviceImages,
    apportion,
    class_probabilities,
    derived_seed,
)
from ganaug.training.feeds import PICTURED, WATCHED, Look, Real, See, evenly, one_plane, unseen
from ganaug.training.guards import pairwise_distance


class MatchedBatches:
    """Batches that hold equally many images of every domain, and the same classes of each.

    Draw j of a step is an image of one class from each domain; which image is unrelated between the domains. Classes
    are drawn with p(c) ∝ (mean share of c in the domains)^power.

    Args:
        of: N domain indices.
        labels: N class indices, or the same number throughout where nothing is matched; -1 is left out.
        power: see above.
        seed: of the order.

    Raises:
        ValueError: there is no class that all domains have.
    """

    def __init__(self, of: np.ndarray, labels: np.ndarray, *, power: float, seed: int) -> None:
        count = int(of.max()) + 1
        self.common = np.array(sorted(set.intersection(*({*labels[of == d].tolist()} for d in range(count))) - {-1}))
        if not len(self.common):
            raise ValueError("no class stands in all domains")
        kept = np.isin(labels, self.common)
        self.positions = [np.flatnonzero((of == d) & kept) for d in range(count)]
        locals_ = [np.searchsorted(self.common, labels[positions]) for positions in self.positions]
        shares = np.mean([np.bincount(part, minlength=len(self.common)) / len(part) for part in locals_], axis=0)
        length = max(len(self.common), *map(len, self.positions))
        # Shares as large numbers: `class_probabilities` raises counts to a power.
        draws = apportion(length, class_probabilities(list(shares * length), power))
        self.walks = [
            BalancedBatches(part, power=power, seed=seed, draws=draws, name=f"domain {d}")
            for d, part in enumerate(locals_)
        ]

    def batch(self, step: int, size: int) -> np.ndarray:
        """Return the positions of `size` images, those of draw 0 in all domains, of draw 1, and so on."""
        each = size // len(self.walks)
        parts = [positions[walk.batch(step, each)] for positions, walk in zip(self.positions, self.walks, strict=True)]
        return np.stack(parts, axis=1).ravel()


class DomainImages:
    """Images of all domains in one array, each domain with its own way to [-1, 1]."""

    def __init__(
        self,
        pixels: np.ndarray,
        of: np.ndarray,
        translation: Translation,
        device: torch.device,
        *,
        knots: np.ndarray,
    ) -> None:
        self.of, self.device = of, device
        self.shape = tuple(pixels.shape[1:])
        unique = list(dict.fromkeys(translation.intensities))
        self.which = np.array([unique.index(intensity) for intensity in translation.intensities])
        labels = np.zeros(len(of), dtype=np.int64)
        self.readers = [
            DeviceImages(pixels, labels, intensity, device, knots=knots if intensity.kind == "per-file" else None)
            for intensity in unique
        ]

    def batch(self, positions: np.ndarray) -> Tensor:
        """Return images N×C×spatial, float32 in [-1, 1] on the device."""
        which = self.which[self.of[positions]]
        if (which == which[0]).all():
            return self.readers[which[0]].batch(positions)[0]
        images = torch.empty(len(positions), *self.shape, device=self.device)
        for number, reader in enumerate(self.readers):
            rows = np.flatnonzero(which == number)
            if len(rows):
                images[torch.from_numpy(rows).to(self.device)] = reader.batch(positions[rows])[0]
        return images


class DomainFeed:
    """Unpaired images of every domain, class-matched where the rule is 'style' and the classes are known."""

    def __init__(self, images: DomainImages, domains: Domains, translation: Translation, *, config: FitConfig) -> None:
        self.images, self.domains, self.translation, self.config = images, domains, translation, config
        labels = domains.labels if matches_classes(domains, config) else np.zeros(len(domains.of), dtype=np.int64)
        self.labels = labels
        self.batches = MatchedBatches(domains.of, labels, power=config.class_power, seed=config.seed)
        self.watched = [evenly(np.flatnonzero(domains.of == d), WATCHED) for d in range(len(domains.names))]

    def batch(self, step: int) -> tuple[Tensor, ...]:
        positions = np.split(self.batches.batch(step, self.config.batch), world_size())[rank()]
        columns = (torch.from_numpy(values[positions]) for values in (self.domains.of, self.labels))
        return (self.images.batch(positions), *columns)

    @property
    def real(self) -> Real:
        return Real(self.images.batch, self.domains.of, self.domains.names, self.images.shape)

    def look(self, gan: Any, see: See = unseen) -> Look:
        count, names = len(self.domains.names), self.domains.names
        rows, titles, cycles, changes, diversity = [], [], [], [], {}
        for source in range(count):
            target = (source + 1) % count
            real = self.images.batch(self.watched[source])
            made = _translated(gan, real, target)
            see(target, made)
            back = _translated(gan, made, source)
            cycles.append(float((back - real).abs().mean()))
            changes.append(float((made - real).abs().mean()))
            wanted = pairwise_distance(self.images.batch(self.watched[target]).cpu())
            diversity[names[target]] = pairwise_distance(made.cpu()) / wanted if wanted else 1.0
            for title, images in ((names[source], real), (f"to {names[target]}", made), ("and back", back)):
                rows.append(one_plane(images[: PICTURED[1]].cpu()).numpy())
                titles.append(title)
        metrics = {
            "cycle": round(float(np.mean(cycles)), 5),
            "changed": round(float(np.mean(changes)), 5),
            "changed_least": round(min(changes), 5),
        }
        return Look({name: diversity[name] for name in names}, rows[: PICTURED[0]], titles[: PICTURED[0]], metrics)


class PairFeed:
    """Pairs of the first two domains."""

    def __init__(self, images: DomainImages, domains: Domains, translation: Translation, *, config: FitConfig) -> None:
        assert domains.pairs is not None
        self.images, self.pairs, self.translation, self.config = images, domains.pairs, translation, config
        zeros = np.zeros(len(self.pairs), dtype=np.int64)
        self.batches = BalancedBatches(zeros, power=1, seed=config.seed)
        self.watched = self.pairs[evenly(np.arange(len(self.pairs)), WATCHED)]

    def batch(self, step: int) -> tuple[Tensor, ...]:
        rows = np.split(self.batches.batch(step, self.config.batch // 2), world_size())[rank()]
        return self._images(self.pairs[rows])

    def _images(self, pairs: np.ndarray) -> tuple[Tensor, Tensor]:
        return self.images.batch(pairs[:, 0]), self.images.batch(pairs[:, 1])

    real = None
    """The truth is at hand: the distance to it says more than coverage."""

    def look(self, gan: Any, see: See = unseen) -> Look:
        return _look_at_pairs(gan, self._images(self.watched), self.translation)


class DegradedFeed:
    """Images, and copies of them that were degraded a moment before."""

    def __init__(self, images: DomainImages, domains: Domains, translation: Translation, *, config: FitConfig) -> None:
        self.images, self.translation, self.config = images, translation, config
        self.degrade = parse_degrade(translation.degrade)
        zeros = np.zeros(len(domains.of), dtype=np.int64)
        self.batches = BalancedBatches(zeros, power=1, seed=config.seed)
        self.watched = evenly(np.arange(len(zeros)), WATCHED)
        strength = profile(config.augment)
        self.moves = replace(strength, brightness=0, contrast=0, depth_gain=0, saturation=0, hue_deg=0)
        self.random = torch.Generator(images.device)

    def batch(self, step: int) -> tuple[Tensor, ...]:
        of = self.config.batch // 2
        mine = np.split(np.arange(of), world_size())[rank()]
        positions = self.batches.batch(step, of)
        rows = torch.from_numpy(mine).to(self.images.device)
        self.random.manual_seed(derived_seed(self.config.seed, "moves", step))
        original = augment(
            self.images.batch(positions[mine]), self.config.augment_p[1], self.moves, self.random, rows=rows, of=of
        )
        keys = torch.from_numpy(step * of + mine)
        return self.degrade(original, keys), original

    real = None
    """As of `PairFeed`."""

    def look(self, gan: Any, see: See = unseen) -> Look:
        original = self.images.batch(self.watched)
        degraded = self.degrade(original, torch.arange(len(original)))
        return _look_at_pairs(gan, (degraded, original), self.translation)


def matches_classes(domains: Domains, config: FitConfig) -> bool:
    """Return whether batches hold the same classes of every domain: rule 'style', and classes are known in each.

    Images without a class then take no part.
    """
    known = [set(domains.labels[domains.of == d].tolist()) - {-1} for d in range(len(domains.names))]
    return config.pairing == "labels" and domains.rule == "style" and bool(set.intersection(*known))


def _look_at_pairs(gan: Any, pair: tuple[Tensor, Tensor], translation: Translation) -> Look:
    rows, titles, diversity, errors = [], [], {}, []
    for target in translation.target_indices:
        source, truth = pair[1 - target], pair[target]
        made = _translated(gan, source, target)
        errors.append(float((made - truth).abs().mean()))
        wanted = pairwise_distance(truth.cpu())
        diversity[translation.domains[target]] = pairwise_distance(made.cpu()) / wanted if wanted else 1.0
        names = (translation.domains[1 - target], f"to {translation.domains[target]}", "truth")
        for title, images in zip(names, (source, made, truth), strict=True):
            rows.append(one_plane(images[: PICTURED[1]].cpu()).numpy())
            titles.append(title)
    return Look(diversity, rows, titles, {"error": round(float(np.mean(errors)), 5)})


def _translated(gan: Any, images: Tensor, target: int) -> Tensor:
    """Translate a few at a time: many volumes may not fit into memory together."""
    parts = images.split(4) if images.ndim == 5 else [images]
    return torch.cat([gan.translate(part, torch.full((len(part),), target)).clone() for part in parts])
