"""Drawn images and digits, for tests of what compares synthetic, training and held-out images."""

import numpy as np
from sklearn.datasets import load_digits

DIGITS = load_digits()


def blobs(rng: np.random.Generator, n: int, size: int = 20) -> np.ndarray:
    """Draw n images of two ellipses each, of random place, size, turn and brightness, with a little noise."""
    y, x = np.mgrid[:size, :size] / (size - 1) * 2 - 1
    images = np.full((n, size, size), -0.8)
    for side, radius in ((-0.3, 1.0), (0.4, 0.7)):
        across, down = rng.uniform(-0.35, 0.35, (2, n, 1, 1))
        a = radius * rng.uniform(0.15, 0.5, (n, 1, 1))
        b = a * rng.uniform(0.5, 1, (n, 1, 1))
        turn = rng.uniform(0, np.pi, (n, 1, 1))
        u = (x - across - side) * np.cos(turn) + (y - down) * np.sin(turn)
        v = (y - down) * np.cos(turn) - (x - across - side) * np.sin(turn)
        edge = np.minimum(8 * ((u / a) ** 2 + (v / b) ** 2 - 1), 50)
        images += rng.uniform(0.4, 1.2, (n, 1, 1)) / (1 + np.exp(edge))
    images += 0.02 * rng.normal(size=images.shape)
    return images.clip(-1, 1)[:, None].astype(np.float32)


def digits(rng: np.random.Generator, n: int) -> np.ndarray:
    """Draw n different real digits of 8×8 pixels; some of them nearly coincide."""
    return (DIGITS.images[rng.permutation(len(DIGITS.images))[:n]] / 8 - 1)[:, None].astype(np.float32)


SOURCES = {"blobs": blobs, "digits": digits}


def three_sets(source: str, seed: int, *counts: int) -> tuple[np.random.Generator, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    return rng, np.split(SOURCES[source](rng, sum(counts)), np.cumsum(counts)[:-1])


def noisy(rng: np.random.Generator, images: np.ndarray, sd: float = 0.05) -> np.ndarray:
    return (images + sd * rng.normal(size=images.shape)).clip(-1, 1).astype(np.float32)
