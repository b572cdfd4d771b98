"""Guards: numbers that left the finite range, and classes that collapsed to one image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ganaug.data.names import few
from ganaug.errors import DivergedError

COLLAPSED = 0.1
"""Below this ratio of the samples' pairwise distance to the real images', a class has collapsed."""


class FiniteGuard:
    """Counts skipped steps: rolls back after 3 in a row, gives up after 2 rollbacks."""

    patience = 3
    allowed = 2

    def __init__(self, *, in_a_row: int = 0, skipped: int = 0, rollbacks: int = 0) -> None:
        self.in_a_row, self.skipped, self.rollbacks = in_a_row, skipped, rollbacks

    def state(self) -> dict[str, int]:
        """Return the counters, as the arguments that restore them."""
        return dict(vars(self))

    def must_roll_back(self, finite: bool) -> bool:
        """Take note of a step; return whether the run must go back to its last checkpoint.

        Raises:
            DivergedError: the rollbacks are used up.
        """
        if finite:
            self.in_a_row = 0
            return False
        self.in_a_row += 1
        self.skipped += 1
        if self.in_a_row < self.patience:
            return False
        if self.rollbacks >= self.allowed:
            raise DivergedError(
                f"The training left the finite numbers {self.patience} steps in a row, again after "
                f"{self.rollbacks} rollbacks. The last good state is kept. Try a larger --set gamma=… or a smaller "
                "--set lr=…, or --set precision=fp32."
            )
        self.in_a_row = 0
        self.rollbacks += 1
        return True


class CollapseGuard:
    """Remembers the best snapshot; goes back to it when classes collapse, once, and then gives up."""

    allowed = 1
    young = 0.2
    young_steps = 300
    """Share of the training, and steps, before which alike samples are no collapse: generators begin with them."""

    def __init__(self, *, best_step: int | None = None, best: float = 0.0, rollbacks: int = 0) -> None:
        self.best_step, self.best, self.rollbacks = best_step, best, rollbacks

    def state(self) -> dict[str, int | float | None]:
        """Return what is remembered, as the arguments that restore it."""
        return dict(vars(self))

    def is_young(self, step: int, fraction: float) -> bool:
        """Return whether it is too early for an alarm at this step and fraction of the training."""
        return fraction < self.young or step < self.young_steps

    def note(self, step: int, coverage: float) -> None:
        """Take note of a snapshot without an alarm, and of its mean coverage of the real images."""
        if self.best_step is None or coverage >= self.best:
            self.best_step, self.best = step, coverage

    def roll_back(self, collapsed: Sequence[str]) -> None:
        """Use up a rollback because of these classes.

        Raises:
            DivergedError: there is none left.
        """
        if self.rollbacks >= self.allowed:
            raise DivergedError(
                f"The samples of {few(collapsed)} became one image, or left the real ones, again after going back to "
                "the best state at half the learning rate. The generator in the run folder is that of the best state. "
                "Try a larger --set gamma=… or a smaller --set lr=…, or give the class more images; --set "
                "monitor=false trains without this check."
            )
        self.rollbacks += 1


def pairwise_distance(images: Tensor) -> float:
    """Return the mean Euclidean distance between all pairs of images (N×…); 0 for fewer than two."""
    if len(images) < 2:
        return 0.0
    return float(torch.pdist(images.flatten(1).float()).mean())


def class_diversity(fakes: Tensor, labels: Tensor, real: np.ndarray) -> np.ndarray:
    """Return, for each class, the mean pairwise distance of the fakes over that of the real images.

    1 is as diverse as the data; near 0 the class has collapsed to one image, which no global distance shows.
    `real` holds the mean distances of the real classes; where it is 0 (identical images) the ratio is 1.
    """
    distances = np.array([pairwise_distance(fakes[labels == c]) for c in range(len(real))])
    return np.where(real > 0, distances / np.maximum(real, 1e-12), 1.0)
