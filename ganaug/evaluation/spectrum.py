"""The azimuthal power spectrum: which spatial frequencies synthetic images have too much or too little of.

Generators that upsample leave a mark there which no eye sees and any classifier can use (Durall, Keuper and Keuper
2020, "Watch your Up-Convolution", CVPR). Curves are means over images of the logarithm of the power at each distance
from frequency 0, up to the corner, where checkerboards are. The difference of synthetic and real is held against that
of two halves of the real images, drawn with the same number of images of each class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganaug.errors import DataError

DRAWS = 100
"""Random halvings of the real images."""
MIN_IMAGES = 30
"""Images of each kind in a draw below which nothing is said."""

_MOST_VALUES = 100_000_000
_BLOCK_VALUES = 4_000_000
_ROUNDING = (2 / 255) ** 2 / 12
"""Power of the rounding to 8 bit: what lies below is not compared, since only one of two sets may be rounded."""


@dataclass(frozen=True)
class Spectrum:
    """The curves of both sets and how far they are apart, beside two halves of the real images."""

    frequencies: tuple[float, ...]
    """Cycles per pixel, the middle of each bin; above 0.5 are the corners."""
    real: tuple[float, ...]
    """Mean power of the real images, dB."""
    synthetic: tuple[float, ...]
    """Mean power of the synthetic images, dB, the classes in the shares that the real ones have in the draws."""
    distance: float | None
    """Root of the mean square difference over the frequencies, dB, mean over draws; None if there are too few."""
    control: float | None
    """The same of two halves of the real images, mean over draws."""
    control_high: float | None
    """Its 95th percentile."""
    n_real: int
    n_synthetic: int
    in_a_draw: int
    """Images of each kind that are compared at a time."""
    note: str = ""
    """What was left out, in a sentence."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        found = asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}

    @property
    def differs(self) -> bool | None:
        """Whether the synthetic images are farther from the real ones than 95 % of the halves are; None: too few."""
        return None if self.distance is None or self.control_high is None else self.distance > self.control_high

    def __str__(self) -> str:
        if self.distance is None:
            return f"Spectrum: insufficient ({self.in_a_draw} images of each kind to compare, {MIN_IMAGES} wanted)."
        apart = np.abs(np.subtract(self.synthetic, self.real))
        return (
            f"Spectrum: {self.distance:.2f} dB apart, halves of the real images {self.control:.2f} (95 % below "
            f"{self.control_high:.2f}); most at {self.frequencies[int(apart.argmax())]:.2f} cycles per pixel."
        )


def spectrum(
    synthetic: NDArray[np.floating[Any]],
    real: NDArray[np.floating[Any]],
    *,
    labels: tuple[Sequence[int] | NDArray[Any], Sequence[int] | NDArray[Any]] | None = None,
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> Spectrum:
    """Compare the azimuthal spectra of synthetic and real images.

    Args:
        synthetic: N×C×H×W or N×C×D×H×W in [-1, 1].
        real: M images of the same shape.
        labels: classes of the synthetic and of the real images: then as many of each class are compared.
        groups: patient of each real image; halves do not cut one.
        seed: of the halvings.

    Raises:
        DataError: the shapes differ, or a set is empty.
    """
    if synthetic.shape[1:] != real.shape[1:] or not len(synthetic) or not len(real):
        raise DataError(
            f"Synthetic images of shape {synthetic.shape} and real ones of {real.shape} were given; images of one "
            "shape, at least one of each kind, were wanted."
        )
    rng = np.random.default_rng(seed)
    most = max(1, _MOST_VALUES // int(np.prod(real.shape[1:])))
    rows = [np.sort(rng.permutation(len(images))[:most]) for images in (synthetic, real)]
    used = [_curves(images[own]) for images, own in zip((synthetic, real), rows, strict=True)]
    fake_labels, real_labels = (
        np.asarray(given)[own] for given, own in zip(labels or (np.zeros(len(synthetic)), np.zeros(len(real))), rows,
                                                     strict=True)
    )  # fmt: skip
    names = np.arange(len(real)).astype(str) if groups is None else np.asarray(groups, dtype=object).astype(str)
    codes = np.unique(names[rows[1]], return_inverse=True)[1]
    apart, control, in_a_draw, fakes = [], [], 0, []
    for _ in range(DRAWS):
        in_first = rng.permutation(codes.max() + 1)[codes] % 2 == 0
        parts = _drawn(rng, [(fake_labels, None), (real_labels, in_first), (real_labels, ~in_first)])
        in_a_draw = max(in_a_draw, len(parts[0]))
        if len(parts[0]) < MIN_IMAGES:
            continue
        fake, one, other = (
            curves[part].mean(0) for curves, part in zip((used[0], used[1], used[1]), parts, strict=True)
        )
        fakes.append(fake)
        apart.append(float(np.sqrt(((fake - one) ** 2).mean())))
        control.append(float(np.sqrt(((other - one) ** 2).mean())))
    kept = [len(own) for own in rows]
    left_out = f"{kept[0]} of {len(synthetic)} synthetic and {kept[1]} of {len(real)} real images, drawn at random."
    return Spectrum(
        frequencies=tuple(_frequencies(real.shape[2:])),
        real=tuple(used[1].mean(0).tolist()),
        synthetic=tuple((np.mean(fakes, 0) if fakes else used[0].mean(0)).tolist()),
        distance=float(np.mean(apart)) if apart else None,
        control=float(np.mean(control)) if apart else None,
        control_high=float(np.quantile(control, 0.95)) if apart else None,
        n_real=kept[1],
        n_synthetic=kept[0],
        in_a_draw=in_a_draw,
        note=left_out if kept != [len(synthetic), len(real)] else "",
    )


def _drawn(
    rng: np.random.Generator, sets: Sequence[tuple[NDArray[Any], NDArray[np.bool_] | None]]
) -> list[NDArray[np.int64]]:
    """Return positions in each set: as many of each class as the set has that has least of it."""
    found: list[list[NDArray[np.int64]]] = [[] for _ in sets]
    for label in reduce(np.union1d, [labels for labels, _ in sets]):
        members = [np.flatnonzero((labels == label) & (True if mask is None else mask)) for labels, mask in sets]
        n = min(map(len, members))
        for own, part in zip(found, members, strict=True):
            own.append(rng.permutation(part)[:n])
    return [np.concatenate(own) for own in found]


def _radii(sides: Sequence[int]) -> NDArray[np.int64]:
    """Return the bin of each frequency of a real FFT; bins are one over the longest side wide, 0 is the mean alone."""
    axes = [np.fft.fftfreq(side) for side in sides[:-1]] + [np.fft.rfftfreq(sides[-1])]
    squares = sum(axis.reshape([-1 if i == j else 1 for j in range(len(sides))]) ** 2 for i, axis in enumerate(axes))
    return np.rint(np.sqrt(squares) * max(sides)).astype(np.int64)


def _frequencies(sides: Sequence[int]) -> list[float]:
    bins = _radii(sides)
    return [int(k) / max(sides) for k in np.unique(bins) if k > 0]


def _curves(images: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the spectrum of each image in dB, N×bins, channels together."""
    sides = images.shape[2:]
    axes = tuple(range(2, images.ndim))
    bins = _radii(sides)
    window = reduce(np.multiply.outer, [np.hanning(side + 2)[1:-1] for side in sides])
    # The half that a real FFT leaves out counts too.
    weight = np.where((np.arange(bins.shape[-1]) == 0) | (2 * np.arange(bins.shape[-1]) == sides[-1]), 1.0, 2.0)
    weights = np.broadcast_to(weight, bins.shape).ravel()
    counts = np.bincount(bins.ravel(), weights)
    present = np.flatnonzero(counts)
    present = present[present > 0]
    curves = []
    step = max(1, _BLOCK_VALUES // int(np.prod(images.shape[1:])))
    for start in range(0, len(images), step):
        block = np.asarray(images[start : start + step], np.float32)
        block = (block - block.mean(axes, keepdims=True)) * window.astype(np.float32)
        power = (np.abs(np.fft.rfftn(block, axes=axes)) ** 2).mean(1) / (window**2).sum()
        flat = power.reshape(len(block), -1) * weights
        sums = np.stack([np.bincount(bins.ravel(), row, len(counts)) for row in flat])
        curves.append(10 * np.log10(sums[:, present] / counts[present] + _ROUNDING))
    return np.concatenate(curves)
