"""What a training's samples are like while it runs: coverage of the real images, spread within a class, and whether a
sample looks like its class, in the features of a small classifier.

The classifier is trained once, at the start, on the training images. It watches the generator and calls out when a
class collapses; it has seen the real images that it compares with, so its figures are no evidence for a report. All
random numbers are its own: a training with it ends in the same weights as one without, unless a class collapses.

A class collapses in two ways. Its samples become one image: their spread is far below that of any draw of real images.
Or they leave the real images, for noise or for another class: they may be as far apart as before, but cover nothing
any more. Generators of short trainings cover next to nothing from beginning to end, so that the second way counts only
for a class that covered as much as a draw of real images does before. A class of fewer than some ten images is too
small for it: even real images may cover none of the others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganaug.config import FitConfig
from ganaug.data.names import count
from ganaug.models import grids, place
from ganaug.models.classifier import Classifier
from ganaug.training.batches import derived_seed
from ganaug.training.feeds import WATCHED, Real, evenly
from ganaug.training.guards import pairwise_distance
from ganaug.training.judge import train_member

LONGEST = {2: 32, 3: 16}
"""Longest side of the images that the classifier sees, in pixels or voxels: larger ones are averaged down."""
MOST_STEPS, LEAST_STEPS = 300, 40
"""Optimizer steps of the classifier. Fewer teach it nothing: such short trainings are not watched."""
PIXELS = 1 << 17
"""Pixels of one image times steps, about: the larger the images, the fewer steps."""
SHARE_OF_MINUTES, SHARE_OF_STEPS = 0.03, 1 / 8
"""The most that the classifier may take of a training by the clock, and its steps over those of a training by kimg,
which take eight times as long each or longer."""
SHORTEST_S = 0.5
"""Seconds for the classifier below which it is not even tried how fast it is."""
FEWEST = 4
"""Images of a class below which nothing is said about it."""
REFERENCE = 96
"""The most real images of a class that samples are compared with."""
MOST_NEIGHBORS, AIMED_COVERAGE = 5, 0.7
"""The neighborhood of a real image is as large as its k-th neighbor is far; k is what brings the coverage by other real
images nearest to this. Near 1 it could not tell a good generator from a fair one."""
DRAWS = 200
"""Draws of real images that the alarm is calibrated on."""
COLLAPSED_OF_REAL = 0.25
"""A class has collapsed when its spread, or the coverage that it once had, is below this times the 1st percentile of
what draws of real images have."""
_REACHED = "reached"
"""Name of the tensor that says which classes covered as much as real images do."""


def expected_coverage(real: int, fake: int, neighbors: int) -> float:
    """Return the mean coverage of `real` images by `fake` ones of the same distribution, whatever that is.

    A real image is missed if the nearest `neighbors` of the `real - 1 + fake` others are all real ones.
    Source: Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models" (2020), section 3.2 (the
    definition), and counting.
    """
    return 1 - math.prod((real - 1 - j) / (real - 1 + fake - j) for j in range(neighbors))


def choose_neighbors(real: int, fake: int) -> int:
    """Return the k for which `expected_coverage` is nearest to `AIMED_COVERAGE`."""
    among = range(1, min(MOST_NEIGHBORS, max(1, real - 1)) + 1)
    return min(among, key=lambda k: abs(expected_coverage(real, fake, k) - AIMED_COVERAGE))


def coverage(real: Tensor, between: Tensor, neighbors: int) -> Tensor:
    """Return the share of real images that have a fake one no farther than their k-th real neighbor.

    Args:
        real: distances between the real images, …×N×N.
        between: distances from the real to the fake ones, …×N×M.
        neighbors: k.

    Source: Naeem et al. (2020), equation 6.
    """
    radii = real.kthvalue(min(neighbors + 1, real.shape[-1]), dim=-1).values  # the first one is the image itself
    return (between.min(-1).values <= radii).float().mean(-1)


@dataclass(frozen=True)
class Reference:
    """The real images of a class, and what other real images of it would be told."""

    features: Tensor
    """N×D, on the CPU."""
    distances: Tensor
    """Between them, N×N."""
    coverage_real: float
    """Mean coverage of real images by other real ones."""
    agreement_real: float
    """Share of them that the classifier takes for their class. It was trained on them."""
    spread_real_low: float
    """1st percentile of the spread of draws of real images."""
    coverage_real_low: float
    """1st percentile of their coverage of the others."""

    @property
    def mean_distance(self) -> float:
        """Mean distance of two of them."""
        n = len(self.distances)
        return float(self.distances.sum()) / (n * (n - 1))

    @property
    def alarm_below(self) -> float:
        """Spread below which the class has collapsed; 0, and so never, where the real images are all alike."""
        return COLLAPSED_OF_REAL * self.spread_real_low

    @property
    def lost_below(self) -> float:
        """Coverage below which a class that reached `coverage_real_low` has collapsed; 0, and so never, where a draw of
        real images may cover no other."""
        return COLLAPSED_OF_REAL * self.coverage_real_low

    def coverage(self, fakes: Tensor) -> float:
        """Return the coverage of the real images by samples (features, M×D)."""
        neighbors = choose_neighbors(len(self.features), len(fakes))
        return float(coverage(self.distances, _distances(self.features, fakes), neighbors))

    def spread(self, fakes: Tensor) -> float:
        """Return the samples' mean distance over that of the real images; 1 where the real ones are all alike."""
        return pairwise_distance(fakes) / self.mean_distance if self.mean_distance > 0 else 1.0


def reference(features: Tensor, right: Tensor, *, seed: int) -> Reference:
    """Return the reference of a class: draws of half of the real images, at most `WATCHED`, against the others.

    Args:
        features: of its real images, N×D, at least `FEWEST`.
        right: which of them the classifier takes for their class, N.
        seed: of the draws.
    """
    distances = _distances(features, features)
    n, m = len(features), min(WATCHED, len(features) // 2)
    random = np.random.default_rng(seed)
    order = torch.from_numpy(random.permuted(np.tile(np.arange(n), (DRAWS, 1)), axis=1))
    drawn, others = order[:, :m], order[:, m:]

    def among(rows: Tensor, columns: Tensor) -> Tensor:
        return distances[rows[:, :, None], columns[:, None, :]]

    mean = float(distances.sum()) / (n * (n - 1))
    spreads = among(drawn, drawn).sum((1, 2)) / (m * (m - 1) * mean) if mean > 0 else torch.zeros(DRAWS)
    covered = coverage(among(others, others), among(others, drawn), choose_neighbors(n - m, m))
    return Reference(
        features,
        distances,
        float(covered.mean()),
        float(right.float().mean()),
        float(spreads.quantile(0.01)),
        float(covered.quantile(0.01)),
    )


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # By differences: the faster way by products leaves a rest where an image meets itself, and coverage counts on zero.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


class Monitor:
    """Watches the samples of a training.

    Args:
        network: the classifier.
        real: the training images.
        seed: of the training.
        facts: how the classifier came about, for `monitor.json`.
    """

    def __init__(self, network: Classifier, real: Real, *, seed: int, facts: Mapping[str, Any]) -> None:
        self.names, self.facts, self.network = real.names, dict(facts), network.eval().requires_grad_(False)
        self.device = network.head.weight.device
        self.unwatched: dict[str, str] = {}
        self.references: dict[int, Reference] = {}
        for c, name in enumerate(real.names):
            members = np.flatnonzero(real.labels == c)
            if len(members) < FEWEST:
                self.unwatched[name] = f"{count(len(members), 'image')}, {FEWEST} are wanted"
                continue
            size = grids.images_in_a_pass(real.shape, most=64)
            positions = evenly(members, REFERENCE)
            found = [self._seen(real.read(part)) for part in np.split(positions, range(size, len(positions), size))]
            features, classes = (torch.cat(parts) for parts in zip(*found, strict=True))
            self.references[c] = reference(features, classes == c, seed=derived_seed(seed, "monitor", c))
        self._samples: dict[int, tuple[Tensor, Tensor]] = {}
        self._reached = torch.zeros(len(real.names), dtype=torch.bool)
        """Whether each class has covered as much as draws of real images do."""

    def see(self, label: int, images: Tensor) -> None:
        """Look at the samples of a class (N×C×spatial in [-1, 1]) for the next `figures`."""
        if label in self.references:
            size = grids.images_in_a_pass(images.shape[1:], most=64)
            features, classes = zip(*map(self._seen, images.split(size)), strict=True)
            self._samples[label] = torch.cat(features), torch.cat(classes)

    def figures(self) -> dict[str, Any]:
        """Return the figures of what was seen since the last call, for metrics.jsonl: JSON values."""
        covered: dict[str, float] = {}
        spread: dict[str, float] = {}
        agreed: dict[str, float] = {}
        for c, (features, classes) in sorted(self._samples.items()):
            name, real = self.names[c], self.references[c]
            covered[name] = round(real.coverage(features), 4)
            self._reached[c] |= covered[name] >= real.coverage_real_low
            spread[name] = round(real.spread(features), 4)
            agreed[name] = round(float((classes == c).float().mean()), 4)
        self._samples = {}
        if not covered:
            return {}
        references = [*self.references.values()]
        return {
            "coverage": _mean(covered.values()),
            "coverage_least": min(covered.values()),
            "coverage_real": _mean(real.coverage_real for real in references),
            "coverage_by_class": covered,
            "agreement": _mean(agreed.values()),
            "agreement_least": min(agreed.values()),
            "agreement_real": _mean(real.agreement_real for real in references),
            "agreement_by_class": agreed,
            "spread_by_class": spread,
        }

    def collapsed(self, figures: Mapping[str, Any]) -> list[str]:
        """Return the names of the classes that have collapsed, by their spread or by the coverage that they lost."""
        spread, covered = figures.get("spread_by_class", {}), figures.get("coverage_by_class", {})
        found = []
        for c, real in self.references.items():
            name = self.names[c]
            lost = bool(self._reached[c]) and covered.get(name, math.inf) < real.lost_below
            if lost or spread.get(name, math.inf) < real.alarm_below:
                found.append(name)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return what is watched and what real images would be told, as JSON values."""
        classes = {
            self.names[c]: {
                "real_images": len(real.features),
                "coverage_real": round(real.coverage_real, 4),
                "agreement_real": round(real.agreement_real, 4),
                "spread_real_low": round(real.spread_real_low, 4),
                "alarm_below_spread": round(real.alarm_below, 4),
                "coverage_real_low": round(real.coverage_real_low, 4),
                "alarm_below_coverage_once_reached": round(real.lost_below, 4),
            }
            for c, real in self.references.items()
        }
        return {"classifier": self.facts, "classes": classes, "unwatched": self.unwatched}

    def tensors(self) -> dict[str, Tensor]:
        """Return the classifier's weights, and what the alarm remembers."""
        return {**self.network.state_dict(), _REACHED: self._reached.clone()}

    @torch.inference_mode()
    def _seen(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (N×D) and most probable classes (N), on the CPU."""
        features = self.network.features(averaged(images.to(self.device)))
        return features.float().cpu(), self.network.head(features).argmax(1).cpu()


def _mean(values: Iterable[float]) -> float:
    return round(float(np.mean([*values])), 4)


def averaged(images: Tensor) -> Tensor:
    """Return images (N×C×spatial) with their longest side at `LONGEST` at most, by means over areas."""
    size = small_size(images.shape[2:])
    return images if size == tuple(images.shape[2:]) else F.interpolate(images, size=size, mode="area")


def small_size(size: Sequence[int]) -> tuple[int, ...]:
    """Return the size at which the classifier sees images of `size`."""
    scale = min(1.0, LONGEST[len(size)] / max(size))
    return tuple(max(1, round(side * scale)) for side in size)


def load_monitor(tensors: Mapping[str, Tensor], real: Real, *, seed: int, device: torch.device) -> Monitor:
    """Return the monitor whose `Monitor.tensors` these are."""
    with torch.random.fork_rng(devices=[]):
        network = Classifier(size=small_size(real.shape[1:]), channels=real.shape[0], classes=len(real.names))
    weights = dict(tensors)
    reached = weights.pop(_REACHED, None)  # runs of before have none
    network.load_state_dict(weights)
    place(network, device)
    found = Monitor(network, real, seed=seed, facts={})
    if reached is not None:
        found._reached |= reached.to(torch.bool).cpu()
    return found


def train_monitor(real: Real, config: FitConfig, device: torch.device) -> Monitor | str:
    """Train the classifier on the training images, all classes alike, and return the monitor.

    It takes some seconds: 3 % of a training by the clock at most, and an eighth of the steps of one by kimg.

    Returns:
        The monitor, or a sentence on why there is none.
    """
    if max(np.bincount(real.labels[real.labels >= 0])) < FEWEST:
        return f"No class has {FEWEST} images or more."
    start = time.monotonic()
    size = small_size(real.shape[1:])
    steps = min(MOST_STEPS, max(LEAST_STEPS, PIXELS // math.prod(size)))
    known = np.flatnonzero(real.labels >= 0)

    def train(steps: int) -> Classifier:
        return train_member(
            lambda positions: averaged(real.read(positions)),
            known,
            real.labels[known],
            len(real.names),
            device,
            derived_seed(config.seed, "monitor"),
            steps,
            styles=False,
        )

    if config.minutes is None:
        steps = min(steps, int(SHARE_OF_STEPS * 1000 * config.kimg / config.batch))
    else:
        limit = SHARE_OF_MINUTES * 60 * config.minutes
        if limit < SHORTEST_S:
            return f"The training is too short: a classifier may take {limit:.2g} s of it, {SHORTEST_S:g} s are wanted."
        train(2)
        begun = time.monotonic()
        train(3)  # the first ones took memory
        steps = min(steps, int((limit - (begun - start)) * 3 / (time.monotonic() - begun)))
    if steps < LEAST_STEPS:
        return f"The training is too short: {steps} steps of a classifier fit into it, {LEAST_STEPS} are wanted."
    network = train(steps)
    facts = {"steps": steps, "seconds": round(time.monotonic() - start, 2), "size": list(size)}
    return Monitor(network, real, seed=config.seed, facts=facts)
