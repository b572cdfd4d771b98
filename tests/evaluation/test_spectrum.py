"""The azimuthal spectrum: it sees what was planted, where it was planted, and nothing else."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ganaug.errors import DataError
from ganaug.evaluation.spectrum import spectrum


def textures(n: int, *sides: int, seed: int = 0, sigma: float = 1.5) -> NDArray[np.float32]:
    """Smooth random images, n×1×sides."""
    noise = np.random.default_rng(seed).normal(size=(n, 1, *sides))
    smooth = gaussian_filter(noise, (0, 0, *[sigma] * len(sides)), mode="wrap")
    return np.clip(smooth / smooth.std() * 0.3, -1, 1).astype(np.float32)


def checkerboard(*sides: int) -> NDArray[np.float32]:
    return (np.indices(sides).sum(0) % 2 * 2 - 1).astype(np.float32)


def test_real_images_are_no_farther_than_their_halves() -> None:
    found = spectrum(textures(150, 32, 32), textures(300, 32, 32, seed=1))
    assert found.differs is False
    assert found.control is not None
    assert found.distance == pytest.approx(found.control, abs=0.3)


@pytest.mark.parametrize("sides", [(32, 32), (30, 33), (16, 16, 16)])
def test_a_checkerboard_is_seen_in_the_corner(sides: tuple[int, ...]) -> None:
    fake = textures(80, *sides) + 0.02 * checkerboard(*sides)
    found = spectrum(fake, textures(160, *sides, seed=1))
    assert found.differs
    peak = np.subtract(found.synthetic, found.real).argmax()
    assert found.frequencies[peak] == pytest.approx(np.sqrt(len(sides)) / 2, abs=0.05)
    assert "dB apart" in str(found)


def test_a_wave_is_seen_at_its_frequency() -> None:
    wave = np.sin(2 * np.pi * 0.25 * np.arange(32))[None, None, None, :] * 0.1
    found = spectrum((textures(80, 32, 32) + wave).astype(np.float32), textures(160, 32, 32, seed=1))
    peak = np.subtract(found.synthetic, found.real).argmax()
    assert found.frequencies[peak] == pytest.approx(0.25, abs=0.04)


def test_white_noise_has_the_power_of_its_variance() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (60, 1, 32, 32)).astype(np.float32)
    found = spectrum(noise, noise)
    # Less at the ends, where a bin holds few frequencies: the mean of logarithms is below the logarithm of the mean.
    assert np.abs(np.array(found.real)[3:-5] + 20).max() < 0.6


def test_other_shares_of_the_classes_are_no_difference() -> None:
    coarse, fine = {"sigma": 3.0}, {"sigma": 1.0}
    real = np.concatenate([textures(150, 32, 32, seed=1, **coarse), textures(150, 32, 32, seed=2, **fine)])
    fake = np.concatenate([textures(40, 32, 32, seed=3, **coarse), textures(200, 32, 32, seed=4, **fine)])
    labels = np.repeat([0, 1], [40, 200]), np.repeat([0, 1], 150)
    assert spectrum(fake, real, labels=labels).differs is False
    assert spectrum(fake, real).differs is True


def test_halves_do_not_cut_a_patient() -> None:
    shift = np.random.default_rng(0).normal(0, 1, (20, 1, 1, 1, 1))
    real = (textures(300, 16, 16).reshape(20, 15, 1, 16, 16) * np.exp(shift)).reshape(300, 1, 16, 16)
    groups = [str(i // 15) for i in range(300)]
    whole, cut = spectrum(real[:150], real, groups=groups), spectrum(real[:150], real)
    assert whole.control is not None
    assert cut.control is not None
    assert whole.control > 2 * cut.control


def test_too_few_images_are_insufficient_and_odd_ones_refused() -> None:
    found = spectrum(textures(10, 16, 16), textures(40, 16, 16))
    assert found.distance is None
    assert "insufficient" in str(found)
    json.dumps(found.to_dict())
    with pytest.raises(DataError, match="one shape"):
        spectrum(textures(10, 16, 16), textures(10, 16, 12))
