"""A second site, simulated: real images as three other scanners would have stored them.

Each scanner is a function of (N×1×H×W uint8 images, seed) that returns as many; it changes every image of the site the
same way, up to a small variation between images, and keeps the anatomy. The strengths were fixed by eye before anything
was trained: stronger than common augmentation reaches, and weak enough to see what the images show.

``curve``
    A contrast curve: values to the power of 1 / 2.2 (images stored with a display's gamma), then the sigmoid of a DICOM
    VOI LUT (PS3.3 C.11.2.1.3.1) with center .5 and width .75, so that both ends are compressed. It is monotone: nothing
    is inverted, and up to rounding a site-wide intensity map can undo it. Between images the exponent varies by ±10 %.
``bias``
    A smooth multiplicative field, as near a surface coil whose profile nobody corrected: it falls by a factor of 4
    across the image, from 1.25 at the near side (where bright tissue is clipped) to .31. BrainWeb's strongest field,
    "40 %", falls by 1.5. All images of the site have it from the same side, ±15°. No map of the intensity can undo it.
``noise``
    A quarter of the resolution in each direction, roughly, and a low signal: a Gaussian blur of σ = 1/40 of the side
    (1.6 of 64 pixels), then Rician noise √((x + n)² + m²) whose n and m have a standard deviation of .05 of the range,
    in the middle of BrainWeb's noise of 1 to 9 % of the brightest tissue: with .1 nothing was to be seen in the soft
    tissue of CT. Air becomes brighter, as in magnitude images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from benchmarks.sets import ImageSet

Scanner = Callable[[np.ndarray, int], np.ndarray]

GAMMA = 1 / 2.2
CENTER, WIDTH = 0.5, 0.75
EXPONENT_VARIES = 0.1
NEAR, FALLS_BY = 1.25, 4.0
DIRECTION_DEG, DIRECTION_VARIES_DEG = 35.0, 15.0
BLUR_SIDES = 1 / 40
NOISE = 0.05


def curve(images: np.ndarray, seed: int) -> np.ndarray:
    """Return the images through the site's contrast curve."""
    jitter = np.random.default_rng(seed).uniform(-1, 1, (len(images), 1, 1, 1))
    values = _unit(images) ** (GAMMA * (1 + EXPONENT_VARIES * jitter))
    return _stored(1 / (1 + np.exp(-4 * (values - CENTER) / WIDTH)))


def bias(images: np.ndarray, seed: int) -> np.ndarray:
    """Return the images times a field that falls exponentially across them."""
    jitter = np.random.default_rng(seed).uniform(-1, 1, (len(images), 1, 1, 1))
    angle = np.radians(DIRECTION_DEG + DIRECTION_VARIES_DEG * jitter)
    height, width = images.shape[2:]
    down, across = np.linspace(-0.5, 0.5, height)[:, None], np.linspace(-0.5, 0.5, width)
    cos, sin = np.cos(angle), np.sin(angle)
    # From 0 at the nearest corner to 1 at the farthest, whatever the angle.
    depth = (across * cos + down * sin) / (np.abs(cos) + np.abs(sin)) + 0.5
    return _stored(_unit(images) * NEAR * np.exp(-math.log(FALLS_BY) * depth))


def noise(images: np.ndarray, seed: int) -> np.ndarray:
    """Return blurred images with Rician noise."""
    sigma = BLUR_SIDES * max(images.shape[2:])
    blurred = gaussian_filter(_unit(images), (0, 0, sigma, sigma))
    real, imaginary = np.random.default_rng(seed).normal(0, NOISE, (2, *images.shape))
    return _stored(np.hypot(blurred + real, imaginary))


SCANNERS: dict[str, Scanner] = {"curve": curve, "bias": bias, "noise": noise}


def _unit(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float64) / 255


def _stored(values: np.ndarray) -> np.ndarray:
    return np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)


@dataclass(frozen=True)
class Sites:
    """Labelled images of site A, images of site B, and test images. No real image is in two of the parts."""

    classes: tuple[str, ...]
    a: np.ndarray
    a_labels: np.ndarray
    b: np.ndarray
    """Through the scanner, and given without labels to all but the oracle."""
    b_labels: np.ndarray
    test_a: np.ndarray
    """The test images as site A has them."""
    test_b: np.ndarray
    """The same through the scanner."""
    test_labels: np.ndarray


def two_sites(images: ImageSet, scanner: Scanner, *, skew: float = 1.0) -> Sites:
    """Return site A, one half of each class's training images, and site B, the other half through `scanner`.

    `skew` below 1 keeps only that share of B's images in every second class: a site with another mix of classes. The
    split is the same for every scanner.
    """
    generator = np.random.default_rng(0)
    ours: list[np.ndarray] = []
    theirs: list[np.ndarray] = []
    for label in range(len(images.classes)):
        order = generator.permutation(np.flatnonzero(images.train_labels == label))
        half = len(order) // 2
        ours.append(order[:half])
        theirs.append(order[half:][: math.ceil((skew if label % 2 else 1.0) * (len(order) - half))])
    a, b = np.sort(np.concatenate(ours)), np.sort(np.concatenate(theirs))
    return Sites(
        images.classes,
        images.train[a],
        images.train_labels[a],
        scanner(images.train[b], 1),
        images.train_labels[b],
        images.test,
        scanner(images.test, 2),
        images.test_labels,
    )
