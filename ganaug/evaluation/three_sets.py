"""The three sets that are compared: synthetic, training and held-out images, their patients and labels, checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ganaug.data.names import count
from ganaug.errors import ConfigError, DataError, LeakError

MIN_HELD_OUT = 50
"""Held-out patients (images, without groups) below which nothing is said."""

FALSE_ALARM_RATE = 0.001
"""The share of evaluations of generators that do not copy that may raise the alarm."""

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Labels = Sequence[int] | Ints

SYNTHETIC, TRAINING, HELD_OUT = 0, 1, 2
NAMES = ("synthetic", "training", "held-out")


def require_rate(false_alarm_rate: float) -> None:
    """Refuse a false-alarm rate that is not within (0, .5).

    Raises:
        ConfigError: it is not.
    """
    if not 0 < false_alarm_rate < 0.5:
        raise ConfigError(
            f"A false-alarm rate of {false_alarm_rate:g} was given; more than 0 and less than .5 is wanted."
        )


def image_sets(*given: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Return synthetic, training and held-out images as float32 arrays of one form.

    Raises:
        DataError: shapes that do not fit each other, values that are not finite, or an empty set.
    """
    sets = tuple(np.asarray(images, dtype=np.float32) for images in given)
    shapes = " and ".join(str(images.shape) for images in sets)
    if any(images.ndim not in (4, 5) or images.shape[1:] != sets[0].shape[1:] for images in sets):
        raise DataError(
            f"Synthetic, training and held-out images of shape {shapes} were given; N×C×H×W or N×C×D×H×W with one C "
            "and one size is wanted. Bring them to one grid."
        )
    for name, images in zip(NAMES, sets, strict=True):
        if not len(images):
            raise DataError(f"No {name} images were given; at least 1 is wanted.")
        if not np.isfinite(images).all():
            raise DataError(f"The {name} images hold values that are not finite; numbers in [-1, 1] are wanted.")
    return sets[0], sets[1], sets[2]


def unit_codes(sets: Sequence[np.ndarray], groups: tuple[Sequence[str], Sequence[str]] | None) -> tuple[Ints, Ints]:
    """Return a number for the patient of each training and held-out image; without groups each has its own.

    Raises:
        DataError: the groups do not fit the images.
        LeakError: training and held-out images share a patient.
    """
    n_training, n_held_out = len(sets[TRAINING]), len(sets[HELD_OUT])
    if groups is None:
        return np.arange(n_training), n_training + np.arange(n_held_out)
    if (len(groups[0]), len(groups[1])) != (n_training, n_held_out):
        raise DataError(
            f"Groups of {len(groups[0])} training and {len(groups[1])} held-out images were given; one for each of "
            f"{n_training} and {n_held_out} is wanted."
        )
    shared = set(groups[0]) & set(groups[1])
    if shared:
        raise LeakError(
            f"{count(len(shared), 'patient')} stand among both the training and the held-out images; none may. "
            "Hold out whole patients."
        )
    codes = np.unique(np.array([*groups[0], *groups[1]], dtype=str), return_inverse=True)[1].astype(np.int64)
    return codes[:n_training], codes[n_training:]


def label_arrays(
    sets: Sequence[np.ndarray], labels: tuple[Labels, Labels, Labels] | None
) -> tuple[Ints, Ints, Ints] | None:
    """Return the labels as arrays.

    Raises:
        DataError: they do not fit the images.
    """
    if labels is None:
        return None
    if len(labels) != len(sets) or any(len(a) != len(b) for a, b in zip(labels, sets, strict=True)):
        raise DataError(
            f"Labels of {', '.join(str(len(part)) for part in labels)} images were given; one for each of the "
            f"{', '.join(str(len(part)) for part in sets)} synthetic, training and held-out images is wanted."
        )
    arrays = [np.asarray(part, dtype=np.int64) for part in labels]
    return arrays[0], arrays[1], arrays[2]
