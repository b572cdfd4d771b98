"""Between the stored values of synthetic images and the values of a training batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ganaug.data.intensity import IntensityMap
from ganaug.errors import ConfigError
from ganaug.mixing.stored import same_units

Normalize = tuple[Sequence[float], Sequence[float]]


class BatchValues:
    """Turns stored values into those of a batch, and back.

    A batch is uint8, as stored; or floating point, (u - mean) / std with `normalize` = (mean, std), else u. There u = 0
    and 1 are the stored values `scale` = (low, high), and u beyond them is clipped; without `scale` they are 0 and 255
    of 8-bit images, and u is the stored value itself of all others, whose range is no convention. `transform` replaces
    all of that: a function from stored values, n×C×H×W float32 on the batch's device, to those of the batch.

    Raises:
        ConfigError: an argument has another form, or two exclude each other.
    """

    def __init__(
        self,
        intensity: IntensityMap,
        *,
        normalize: Normalize | None = None,
        scale: tuple[float, float] | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if transform is not None and (normalize is not None or scale is not None):
            raise ConfigError("transform= was given with normalize= or scale=; one of them was wanted.")
        self.intensity = intensity
        self.normalize = None if normalize is None else _figures(normalize)
        self.transform = transform
        self._clip = scale is not None
        self._ends: tuple[float, float] | None = (0.0, 255.0) if intensity.dtype == "uint8" else None
        if scale is not None:
            self._ends = _ends(scale)
        self._as_stored = normalize is None and scale is None and transform is None

    def check_type(self, images: Tensor) -> None:
        """Raise ConfigError if no values are right for images of that type and as many channels."""
        channels = images.shape[1]
        if self.normalize is not None and {len(x) for x in self.normalize} - {1, channels}:
            raise ConfigError(
                f"normalize has {len(self.normalize[0])} means and {len(self.normalize[1])} deviations; one or "
                f"{channels} of each were wanted, as the images have channels."
            )
        as_stored = images.dtype == torch.uint8 and self.intensity.dtype == "uint8" and self._as_stored
        if not images.is_floating_point() and not as_stored:
            given = "" if self._as_stored else ", and normalize=, scale= or transform= was given"
            raise ConfigError(
                f"The batch's images are {images.dtype}, the synthetic ones {self.intensity.dtype}{given}. Give float "
                "images, or uint8 ones for an 8-bit bank without these arguments."
            )

    def from_stored(self, stored: Tensor, like: Tensor) -> Tensor:
        """Return stored images (n×C×…) in the device, channels, type and values of a batch `like`."""
        images = stored.to(like.device).expand(-1, like.shape[1], *[-1] * (like.ndim - 2))
        if not like.is_floating_point():
            return images.to(like.dtype)
        # float32 would lose the lower digits of large 32-bit integers before the low end is taken away.
        images = images.double() if images.dtype == torch.int32 and self._ends else images.float()
        if self.transform is not None:
            images = self.transform(images.clone(memory_format=torch.contiguous_format))
            if not isinstance(images, Tensor) or images.shape != (len(stored), *like.shape[1:]):
                raise ConfigError(
                    f"transform= returned {tuple(getattr(images, 'shape', ())) or type(images).__name__}; images of "
                    f"shape {(len(stored), *like.shape[1:])} were wanted, as it gets them."
                )
            return images.to(like.device, like.dtype)
        if self._ends is not None:
            low, high = self._ends
            images = (images - low if low else images) / (high - low)
            images = images.clamp_(0, 1) if self._clip else images
        if self.normalize is not None:
            mean, std = (_per_channel(figures, like) for figures in self.normalize)
            images = (images - mean) / std
        return images.to(like.dtype)

    def to_stored(self, images: Tensor) -> Tensor:
        """Return images of a batch (n×C×…) as stored values, float32. There is no way back from `transform`."""
        values = images.float()
        if not images.is_floating_point():
            return values
        if self.normalize is not None:
            mean, std = (_per_channel(figures, images) for figures in self.normalize)
            values = values * std + mean
        if self._ends is not None:
            values = values * (self._ends[1] - self._ends[0]) + self._ends[0]
        return values

    def check(self, images: Tensor, stored: Tensor | None, new: Tensor | None) -> bool:
        """Return whether the values of a batch fit those that synthetic images get; False if one cannot tell yet.

        `stored` are synthetic images and `new` the same in the values of the batch, where there are some.

        Raises:
            ConfigError: they do not fit.
        """
        if not images.numel() or not images.is_floating_point():
            return not images.is_floating_point()
        channels = images.detach().flatten(2).transpose(0, 1).flatten(1).float()
        ends = torch.stack([channels.amin(1), channels.amax(1)]).view(2, -1, *[1] * (images.ndim - 2))
        low, high = float(ends.min()), float(ends.max())
        if self.transform is not None:
            return new is not None and low < high and self._check_transformed(low, high, new)
        if self.normalize is not None and 0 <= low < high <= 1:
            raise ConfigError(
                f"The batch's images go from {low:.3g} to {high:.3g}, as they do before normalization, but normalize= "
                "was given, which says that the batch is normalized already. Leave it out, or normalize first."
            )
        first, last = (float(end) for end in self.to_stored(ends).aminmax())
        if self._ends is not None:
            self._check_range(low, high, first, last)
        return stored is not None and same_units(
            first, last, stored.cpu().numpy(), self.intensity, remedy=self._remedy()
        )

    def _check_range(self, low: float, high: float, first: float, last: float) -> None:
        assert self._ends is not None
        # A bicubic resize overshoots by some hundredths; every usual normalization leaves by more.
        slack = 0.1 * (self._ends[1] - self._ends[0])
        if first < self._ends[0] - slack or last > self._ends[1] + slack:
            wanted = "[0, 1] was wanted" if self.normalize is None else "[0, 1] before normalize= was wanted"
            raise ConfigError(
                f"The batch's images go from {low:.3g} to {high:.3g}; {wanted}. If your transform normalizes, pass the "
                "same figures as normalize=(mean, std); if they go to 255, divide them; if it adds noise, which "
                "synthetic images would lack, put it behind this one."
            )

    def _check_transformed(self, low: float, high: float, new: Tensor) -> bool:
        first, last = (float(end) for end in new.float().aminmax())
        if first < last and not 0.1 < (high - low) / (last - first) < 100:
            raise ConfigError(
                f"The real values go from {low:.4g} to {high:.4g}, but transform= makes the synthetic ones go from "
                f"{first:.4g} to {last:.4g}. Pass what the real images went through, from their stored values on."
            )
        return first < last

    def _remedy(self) -> str:
        low, high = self.intensity.low, self.intensity.high
        return (
            "Pass scale=(low, high), the stored values that are 0 and 1 in your batches, for example scale=(0, 65535) "
            f"behind ToDtype(torch.float32, scale=True) of 16-bit images, or scale=({low:g}, {high:g}) if you cut them "
            "to the model's window; or transform=, what the real images went through."
        )


def _per_channel(figures: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(figures, device=like.device).view(-1, *[1] * (like.ndim - 2))


def _figures(normalize: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    try:
        mean, std = (tuple(float(value) for value in values) for values in normalize)
    except (TypeError, ValueError):
        raise ConfigError(f"normalize is {normalize!r}; a pair of sequences (mean, std) was wanted.") from None
    if not mean or not std or not min(std) > 0:
        raise ConfigError(f"normalize is {normalize!r}; a mean and a deviation above 0 for each channel were wanted.")
    return mean, std


def _ends(scale: Any) -> tuple[float, float]:
    try:
        low, high = (float(value) for value in scale)
    except (TypeError, ValueError):
        low = high = 0.0
    if not low < high:
        raise ConfigError(
            f"scale is {scale!r}; (low, high), the stored values that are 0 and 1 in the batch, was wanted."
        )
    return low, high
