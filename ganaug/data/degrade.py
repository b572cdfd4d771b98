"""Degradations that make pairs out of a user's own images: ``downsample=4`` and ``kspace=4``.

Each is a linear operator P on images, and its result an image of the same size, P x. Both know which part of an image
they keep, so that `consistent` can put the kept part of the original back into any output y of a network: the result is
the image closest to y that degrades to what was measured. That is an orthogonal projection onto a set which contains
the original, so that its squared error against the original is never larger than that of y, whatever y is. Clipping to
[-1, 1] afterwards does not increase the error either, but what was measured then holds only where nothing was clipped.

Both leave a constant as it is, so that P (x + c) = P x + c: it makes no difference which value stands for no signal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from PIL import Image

from ganaug.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

MIN_FACTOR, MAX_FACTOR = 2, 16

_CENTER_SHARE = 0.32
"""Part of the sampled lines that lies in the fully sampled center: 8 % of all lines at factor 4, 4 % at factor 8, as in
fastMRI (Zbontar et al. 2018, arXiv:1811.08839, section 5.3)."""
_TRIED_SEEDS = 256
"""Seeds of MONAI's mask that are tried for all its offsets, of which there are 23 at most."""


@dataclass(frozen=True)
class Degrade(ABC):
    """A degradation by a whole factor. ``str(degrade)`` is what `parse_degrade` reads.

    Raises:
        ConfigError: the factor is not from 2 to 16.
    """

    factor: int

    name: ClassVar[str]

    def __post_init__(self) -> None:
        if not MIN_FACTOR <= self.factor <= MAX_FACTOR:
            raise ConfigError(
                f"degrade = {self} was given; a whole factor from {MIN_FACTOR} to {MAX_FACTOR} was wanted, for example "
                f"{self.name}=4."
            )

    def __str__(self) -> str:
        return f"{self.name}={self.factor}"

    @abstractmethod
    def __call__(self, images: Tensor, keys: Sequence[int] | Tensor) -> Tensor:
        """Return degraded images, in the shape, type and device of `images`.

        The result is not clipped: beside sharp edges it may leave [-1, 1]. Image and key alone determine it, whatever
        else is in the batch (to float rounding). Gradients flow.

        Args:
            images: N×C×H×W or N×C×D×H×W, floats in [-1, 1].
            keys: N whole numbers of 64 bit, one an image: what is random about its degradation follows from its key.

        Raises:
            ConfigError: the images are too small for the factor, or there are not N keys.
        """

    @abstractmethod
    def consistent(self, output: Tensor, degraded: Tensor, keys: Sequence[int] | Tensor | None = None) -> Tensor:
        """Return `output` with the part of it that was measured replaced by that of `degraded`.

        ``degrade(result, keys)`` equals ``degraded`` (to float rounding), a second call changes nothing, and the
        squared error against the image that `degraded` was made from is at most that of `output`. Gradients flow into
        both arguments. The result is not clipped.

        Args:
            output: N×C×H×W or N×C×D×H×W, an estimate of the original.
            degraded: what the call of this object returned for the original, in the same shape.
            keys: the keys of that call, or None to find out from `degraded` what was measured.

        Returns:
            Images of the shape and device of `output`; float32 where that has less, which could not hold them.
        """

    def _checked(self, images: Tensor, sides: Sequence[int], keys: Sequence[int] | Tensor | None) -> None:
        smallest = 2 * self.factor
        if min(sides) < smallest:
            shown = "x".join(map(str, images.shape[2:]))
            raise ConfigError(
                f"degrade = {self} wants images of {smallest} pixels or more along each axis that it degrades; these "
                f"are {shown}. Choose a smaller factor or a larger --size."
            )
        if keys is not None and len(keys) != len(images):
            raise ConfigError(f"{len(keys)} keys were given for {len(images)} images; one for each was wanted.")


class Downsample(Degrade):
    """Fewer pixels along every axis, then as many as before: pairs for super-resolution.

    Down and up again with Pillow's bicubic filter, which widens where it shrinks (Keys 1981, a = -0.5), one axis after
    the other; volumes as images. A side of n pixels becomes round(n / factor). Nothing about it is random.
    """

    name = "downsample"

    def __call__(self, images: Tensor, keys: Sequence[int] | Tensor) -> Tensor:
        self._checked(images, images.shape[2:], keys)
        return self._along_each_axis(images, [there_and_back for there_and_back, _, _ in self._matrices(images)])

    def consistent(self, output: Tensor, degraded: Tensor, keys: Sequence[int] | Tensor | None = None) -> Tensor:
        """As in the base class; `keys` make no difference.

        With A the way down and B the way up, the result is y + A⁺ (B⁺ d - A y), where B⁺ d are the few pixels that `d`
        was made from. A pseudo-inverse of a Kronecker product is that of its factors, so all of it goes axis by axis.
        """
        self._checked(output, output.shape[2:], keys)
        output, degraded = _at_least_float32(output), _at_least_float32(degraded)
        measured, kept = zip(*((measured, kept) for _, measured, kept in self._matrices(output)), strict=True)
        return output + self._along_each_axis(degraded, measured) - self._along_each_axis(output, kept)

    def _matrices(self, images: Tensor) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        return [_resampling(side, self.factor) for side in images.shape[2:]]

    @staticmethod
    def _along_each_axis(images: Tensor, matrices: Sequence[np.ndarray]) -> Tensor:
        import torch

        # Autocast would turn the products into half precision, and the measured pixels would not be those any more.
        with torch.autocast(images.device.type, enabled=False):
            result = _at_least_float32(images)
            for axis, matrix in enumerate(matrices, start=2):
                columns = torch.from_numpy(matrix).to(result.device, result.dtype).T
                result = (result.movedim(axis, -1) @ columns).movedim(-1, axis)
        return result.to(images.dtype)


class Undersample(Degrade):
    """Fewer lines of k-space: pairs for accelerated Cartesian MR, of which the zero-filled image is the input.

    The phase-encoding axis is the last one, W. Lines are sampled by MONAI's `EquispacedKspaceMask`: the center fully,
    the others at equal distances, N / factor of N lines together, with an offset that the key determines.

    The k-space of an image is conjugate symmetric, and so is the mask here: MONAI's for the frequencies from 0 up,
    mirrored to those below. The zero-filled image is thereby real and may have negative overshoot; its magnitude is not
    taken, as this would not be linear. Where every line has the same fate over all its length, the Fourier transform
    along W alone gives exactly what a transform along all axes gives.
    """

    name = "kspace"

    def __call__(self, images: Tensor, keys: Sequence[int] | Tensor) -> Tensor:
        self._checked(images, images.shape[-1:], keys)
        return _kept_lines(images, self.masks(images.shape[-1], keys))

    def consistent(self, output: Tensor, degraded: Tensor, keys: Sequence[int] | Tensor | None = None) -> Tensor:
        """As in the base class: hard data consistency, the measured lines of k-space are put back.

        Without `keys` the mask is the one, of the few that exist for this factor and width, that leaves out the least
        of the k-space energy of `degraded`, which is none in the zero-filled image itself. Images that were rounded to
        8 bit or clipped since have a little energy everywhere, and are recognized as well.
        """
        self._checked(output, output.shape[-1:], keys)
        masks = self.masks(output.shape[-1], keys) if keys is not None else self._recognized(degraded)
        output = _at_least_float32(output)
        return output + _kept_lines(degraded - output, masks)

    def masks(self, width: int, keys: Sequence[int] | Tensor) -> np.ndarray:
        """Return which frequencies 0…width // 2 along W are sampled, N×(width // 2 + 1) bool, one row for each key."""
        variants = _line_masks(width, self.factor)
        return variants[_scattered(keys) % np.uint64(len(variants))]

    def _recognized(self, degraded: Tensor) -> np.ndarray:
        import torch

        variants = _line_masks(degraded.shape[-1], self.factor)
        spectrum = torch.fft.rfft(_at_least_float32(degraded.detach()), dim=-1)
        energy = spectrum.abs().square().flatten(1, -2).sum(dim=1).double().cpu().numpy()
        return variants[np.argmin(energy @ ~variants.T, axis=1)]


KINDS: dict[str, type[Degrade]] = {kind.name: kind for kind in (Downsample, Undersample)}


def parse_degrade(text: str) -> Degrade:
    """Return the degradation that ``downsample=4`` or ``kspace=4`` stands for.

    Raises:
        ConfigError: the text names no known kind, or its factor is not a whole number from 2 to 16.
    """
    name, _, factor = text.strip().partition("=")
    kind = KINDS.get(name.strip())
    if kind is None or not factor.strip().isdecimal():
        wanted = " or ".join(f"{known}=4" for known in KINDS)
        raise ConfigError(
            f"degrade = {text!r} was given; {wanted} was wanted, with a whole factor from {MIN_FACTOR} to {MAX_FACTOR}."
        )
    return kind(int(factor))


@lru_cache(maxsize=64)
def _resampling(side: int, factor: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return B A, A⁺ B⁺ and A⁺ A of one axis, side×side, with A the way down and B the way up.

    NumPy and not torch: a cached tensor that was made in inference mode could not take part in training later.
    """
    few = round(side / factor)
    down, up = (_pillow_matrix(*sides).astype(np.float64) for sides in ((side, few), (few, side)))
    raised = np.linalg.pinv(down)
    return up @ down, raised @ np.linalg.pinv(up), raised @ down


def _pillow_matrix(before: int, after: int) -> np.ndarray:
    """Return the matrix, after×before, by which Pillow's bicubic filter resizes one axis."""
    unit = Image.fromarray(np.eye(before, dtype=np.float32))
    return np.asarray(unit.resize((before, after), Image.Resampling.BICUBIC))


@lru_cache(maxsize=64)
def _line_masks(width: int, factor: int) -> np.ndarray:
    """Return all masks over the frequencies 0…width // 2, V×(width // 2 + 1) bool, in one order on every machine."""
    import torch
    from monai.apps.reconstruction.transforms.array import EquispacedKspaceMask

    # An odd number of lines lies evenly around frequency 0, which is the line width // 2 of MONAI's mask.
    center = 2 * round((_CENTER_SHARE * width / factor - 1) / 2) + 1
    line = torch.zeros(1, width, 2)
    masks = []
    for seed in range(_TRIED_SEEDS):
        sample = EquispacedKspaceMask([center / width], [factor], spatial_dims=1)
        sample.set_random_state(seed)
        sample(line)
        both_signs = np.fft.ifftshift(sample.mask.numpy().ravel() > 0)
        masks.append(both_signs[: width // 2 + 1])
    return np.unique(np.stack(masks), axis=0)


def _scattered(keys: Sequence[int] | Tensor) -> np.ndarray:
    """Return keys as uint64 of which every bit depends on all bits of the key, so that near keys are unrelated.

    Source: the output function of SplitMix64 (Steele, Lea and Flood 2014).
    """
    numbers = keys if isinstance(keys, Sequence) else keys.tolist()
    mixed = np.array([number % 2**64 for number in numbers], dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def _kept_lines(images: Tensor, masks: np.ndarray) -> Tensor:
    """Return images without the frequencies along W that `masks` (N×(W // 2 + 1) bool) leaves out."""
    import torch

    sampled = torch.from_numpy(masks).to(images.device).view(len(masks), *[1] * (images.ndim - 2), -1)
    spectrum = torch.fft.rfft(_at_least_float32(images), dim=-1) * sampled
    return torch.fft.irfft(spectrum, n=images.shape[-1], dim=-1).to(images.dtype)


def _at_least_float32(images: Tensor) -> Tensor:
    import torch

    return images.to(torch.promote_types(images.dtype, torch.float32))
