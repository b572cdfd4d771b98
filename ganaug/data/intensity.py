"""The reversible way from stored pixel values to [-1, 1] and back."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ganaug.errors import ConfigError, DataError, ModelFileError

KINDS = ("uint8", "window")
DTYPES = ("uint8", "uint16", "int16")

_PERCENTILES = (0.1, 99.9)


@dataclass(frozen=True)
class IntensityMap:
    """A linear map between a window of stored values and [-1, 1]; values outside the window are clipped.

    Raises:
        ConfigError: the four fields do not make sense together.
    """

    kind: str
    """``uint8`` (0 to 255 exactly) or ``window`` (any `low` below `high`)."""
    low: float
    """Stored value that becomes -1."""
    high: float
    """Stored value that becomes 1."""
    dtype: str
    """NumPy name of the stored type."""

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise ConfigError(f"An intensity map cannot have {problem}.")

    def _problem(self) -> str | None:
        if self.kind not in KINDS:
            return f"kind {self.kind!r}; one of {', '.join(KINDS)} was wanted"
        if self.dtype not in DTYPES:
            return f"dtype {self.dtype!r}; one of {', '.join(DTYPES)} was wanted"
        for name, value in (("low", self.low), ("high", self.high)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                return f"{name} {value!r}; a finite number was wanted"
        if self.kind == "uint8" and (self.low, self.high, self.dtype) != (0, 255, "uint8"):
            return f"kind 'uint8' with {self.low} to {self.high} of {self.dtype}; 0 to 255 of uint8 was wanted"
        limits = np.iinfo(self.dtype)
        if not limits.min <= self.low < self.high <= limits.max:
            wanted = f"{limits.min} <= low < high <= {limits.max}"
            return f"a window from {self.low} to {self.high}; {wanted} was wanted"
        return None

    def forward(self, array: np.ndarray) -> np.ndarray:
        """Return stored values (any shape) as float32 in [-1, 1]."""
        scaled = np.asarray(array, dtype=np.float32)
        scaled = (scaled - np.float32(self.low)) * np.float32(2 / (self.high - self.low)) - np.float32(1)
        return np.clip(scaled, -1, 1, out=scaled)

    def inverse(self, array: np.ndarray) -> np.ndarray:
        """Return values in [-1, 1] (any shape; clipped) in stored units and type, rounded."""
        # float64: near 65535 the spacing of float32 would already shift some roundings.
        unit = (np.clip(np.asarray(array, dtype=np.float64), -1, 1) + 1) / 2
        values = np.rint(unit * (self.high - self.low) + self.low)
        # A window may end between two levels; rounding must not leave it.
        return np.clip(values, math.ceil(self.low), math.floor(self.high)).astype(self.dtype)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for a JSON header."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Any) -> IntensityMap:
        """Return the map that `to_dict` described. Raises `ModelFileError` for anything else."""
        if not isinstance(fields, dict) or set(fields) != {"kind", "low", "high", "dtype"}:
            raise ModelFileError(
                f"The stored intensity map is {fields!r}; an object with kind, low, high and dtype was "
                "wanted. The model file is damaged or of another version: train again, or use the ganaug "
                "that wrote it."
            )
        try:
            return cls(**fields)
        except (ConfigError, TypeError) as problem:
            raise ModelFileError(f"The stored intensity map is damaged: {problem} Train again.") from None

    @classmethod
    def fit(cls, images: np.ndarray | Iterable[np.ndarray]) -> IntensityMap:
        """Choose the map for a training set.

        uint8 data keep their full range. 16-bit data get the window between the 0.1 and 99.9 percentile of
        all their pixels, or between the smallest and the largest where these coincide.

        Args:
            images: one array N×..., or arrays one by one, all of one dtype (uint8, uint16 or int16).

        Raises:
            DataError: there is no pixel, or the dtype is another one or mixed.
        """
        counts: np.ndarray | None = None
        dtype: np.dtype | None = None
        for image in images:
            if dtype not in (None, image.dtype) or image.dtype.name not in DTYPES:
                raise DataError(
                    f"Images of type {image.dtype} were given; images of one type out of {', '.join(DTYPES)} "
                    "were wanted. Save them all with one bit depth."
                )
            dtype = image.dtype
            if dtype == np.uint8:
                return cls("uint8", 0, 255, "uint8")
            # A histogram is exact for 16 bit and takes half a megabyte, however many images come.
            levels = np.bincount(image.ravel().astype(np.int64) - np.iinfo(dtype).min, minlength=2**16)
            counts = levels if counts is None else counts + levels
        if counts is None or dtype is None or not counts.any():
            raise DataError("An intensity window cannot be chosen without images; at least one was wanted.")
        low, high = _window(counts)
        offset = int(np.iinfo(dtype).min)
        return cls("window", float(low + offset), float(high + offset), dtype.name)


def _window(counts: np.ndarray) -> tuple[int, int]:
    """Return the first and last level of a histogram's window, the second above the first."""
    cumulative = np.cumsum(counts)
    low, high = (int(np.searchsorted(cumulative, cumulative[-1] * q / 100)) for q in _PERCENTILES)
    if low >= high:
        levels = np.flatnonzero(counts)
        low, high = int(levels[0]), int(levels[-1])
    if low >= high:  # a single grey level: any window that holds it will do
        low, high = (low - 1, low) if low == len(counts) - 1 else (low, low + 1)
    return low, high
