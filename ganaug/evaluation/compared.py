"""Synthetic, training and held-out images, checked, and as points in the spaces in which they are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ganaug.evaluation.spaces import Features, Space, feature_spaces, image_spaces
from ganaug.evaluation.three_sets import Floats, Ints, Labels, image_sets, label_arrays, unit_codes


@dataclass(frozen=True, eq=False)
class Compared:
    """What `memorization` and `membership` work on; make it once for both."""

    sets: tuple[Floats, Floats, Floats]
    """N×C×spatial."""
    codes: tuple[Ints, Ints]
    """Number of the patient of each training and held-out image; without groups each image has its own."""
    classes: tuple[Ints, Ints, Ints] | None
    spaces: tuple[Space, ...]
    grouped: bool
    """Whether patients are known."""

    @classmethod
    def of(
        cls,
        synthetic: ArrayLike,
        training: ArrayLike,
        held_out: ArrayLike,
        *,
        labels: tuple[Labels, Labels, Labels] | None = None,
        groups: tuple[Sequence[str], Sequence[str]] | None = None,
        features: Features | None = None,
    ) -> Compared:
        """Check the three sets and lay out their spaces.

        Args:
            synthetic: N×C×H×W or N×C×D×H×W, in [-1, 1].
            training: the same form; what the generator was trained on.
            held_out: the same form; what it has not seen, split off at random by patient.
            labels: classes of the three sets. Scores are then compared within classes, whose shares may differ.
            groups: patients of the training and the held-out images.
            features: a second or third space: a callable, or the features of the three sets, N×dim.

        Raises:
            ConfigError: there are other than three sets of features, or they do not fit the images.
            DataError: shapes that do not fit each other, values that are not finite, or an empty set.
            LeakError: training and held-out images share a patient.
        """
        sets = image_sets(synthetic, training, held_out)
        codes, classes = unit_codes(sets, groups), label_arrays(sets, labels)
        spaces = image_spaces(sets) + feature_spaces(sets, features)
        return cls(sets, codes, classes, tuple(spaces), groups is not None)

    @property
    def units(self) -> tuple[int, int]:
        """Training and held-out patients (images, without groups)."""
        return len(np.unique(self.codes[0])), len(np.unique(self.codes[1]))

    @property
    def unit(self) -> str:
        """What `units` counts."""
        return "patient" if self.grouped else "image"
