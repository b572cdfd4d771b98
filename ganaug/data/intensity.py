"""The reversible way from stored pixel values to [-1, 1] and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from ganaug.data.readers import DTYPES
from ganaug.errors import ConfigError, ModelFileError

KINDS = ("uint8", "window", "percentiles", "per-file")

# float32 has 2**18 values in the outermost 1/64 of [-1, 1] at either end: four for each of 65,536 levels, so that not
# even a tail that holds nearly all of the 16-bit range loses one. The window in between keeps 98% of the range.
TAIL = 1 / 64
"""Length, in units of [-1, 1], of the part at either end that holds what lies beyond the window."""

_LINEAR = ("uint8", "window")

Knots = tuple[float, float, float, float]
"""Smallest stored value, low and high end of the window, largest stored value."""


@dataclass(frozen=True)
class IntensityMap:
    """A monotone map between stored values and [-1, 1].

    ``uint8`` and ``window`` are linear from `low` to `high` and clip what lies outside. ``percentiles`` and
    ``per-file`` go through `minimum`, `low`, `high` and `maximum` in straight lines to -1, -1 + `TAIL`, 1 - `TAIL` and
    1, so that no value is lost; an end that has nothing beyond the window has no tail.

    Raises:
        ConfigError: the fields do not make sense together.
    """

    kind: str
    """``uint8`` (0 to 255 exactly), ``window`` (any `low` below `high`), ``percentiles`` (one for the whole set) or
    ``per-file`` (each file has its own knots; those stored here are the ones that synthetic images are written with).
    """
    low: float
    """Stored value at the lower end of the window."""
    high: float
    """Stored value at the upper end of the window."""
    dtype: str
    """NumPy name of the stored type."""
    minimum: float | None = None
    """Stored value that becomes -1; None for the linear kinds, where `low` does."""
    maximum: float | None = None
    """Stored value that becomes 1; None for the linear kinds, where `high` does."""

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise ConfigError(f"An intensity map cannot have {problem}.")

    def _problem(self) -> str | None:
        if self.kind not in KINDS:
            return f"kind {self.kind!r:.80}; one of {', '.join(KINDS)} was wanted"
        if self.dtype not in DTYPES:
            return f"dtype {self.dtype!r:.80}; one of {', '.join(DTYPES)} was wanted"
        ends = {"minimum": self.minimum, "maximum": self.maximum}
        if self.kind in _LINEAR:
            if ends != {"minimum": None, "maximum": None}:
                return f"a minimum or maximum with kind {self.kind!r:.80}; none was wanted"
            ends = {}
        for name, value in {"low": self.low, "high": self.high, **ends}.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                return f"{name} {value!r:.80}; a finite number was wanted"
        if self.kind == "uint8" and (self.low, self.high, self.dtype) != (0, 255, "uint8"):
            return f"kind 'uint8' with {self.low} to {self.high} of {self.dtype}; 0 to 255 of uint8 was wanted"
        return self._disorder()

    def _disorder(self) -> str | None:
        minimum, low, high, maximum = self.knots
        lowest, highest = _limits(self.dtype)
        if not lowest <= minimum <= low < high <= maximum <= highest:
            order = f"{lowest:g} <= low < high <= {highest:g}"
            if self.kind in _LINEAR:
                return f"a window from {low} to {high}; {order} was wanted"
            order = f"{lowest:g} <= minimum <= low < high <= maximum <= {highest:g}"
            return f"knots at {minimum}, {low}, {high} and {maximum}; {order} was wanted"
        if self.dtype != "float32" and math.ceil(minimum) > math.floor(maximum):
            return f"a window from {low} to {high} of {self.dtype}; one that holds a whole number was wanted"
        if self.kind == "window" and 2 / (high - low) > np.finfo(np.float32).max:
            return f"a window from {low} to {high}; a wider one was wanted"
        return None

    @property
    def knots(self) -> Knots:
        """Minimum, low, high and maximum; for the linear kinds, the window's ends twice."""
        low, high = float(self.low), float(self.high)
        return (
            low if self.minimum is None else float(self.minimum),
            low,
            high,
            high if self.maximum is None else float(self.maximum),
        )

    def forward(self, array: np.ndarray, knots: np.ndarray | Sequence[float] | None = None) -> np.ndarray:
        """Return stored values (any shape) as float32 in [-1, 1].

        Args:
            array: stored values.
            knots: of the files that the values come from (see `file_knots`): four numbers, or N×4 for an array N×...
                Only kind ``per-file`` looks at them; without them it uses its own.

        Raises:
            ConfigError: there are not as many knots as images.
        """
        array = np.asarray(array)
        if self.kind in _LINEAR:
            # float32 would lose the lower digits of large 32-bit integers before the window is taken away.
            deep = array.dtype.itemsize > 2 and array.dtype.kind in "iu"
            scaled: np.ndarray = np.asarray(array, dtype=np.float64 if deep else np.float32)
            scaled = (scaled - float(self.low)) * float(2 / (self.high - self.low)) - 1.0
            return np.clip(scaled, -1, 1, out=scaled).astype(np.float32, copy=False)
        if knots is None or self.kind != "per-file":
            return _bent(array, self.knots)
        rows = np.asarray(knots, dtype=np.float64)
        if rows.ndim == 1:
            return _bent(array, self.for_file(rows).knots)
        if rows.shape != (len(array), 4):
            raise ConfigError(
                f"Knots of shape {rows.shape} were given for {len(array)} images; {(len(array), 4)} was wanted."
            )
        images = np.empty(array.shape, dtype=np.float32)
        for index, row in enumerate(rows):
            images[index] = _bent(array[index], self.for_file(row).knots)
        return images

    def inverse(self, array: np.ndarray, *, tails: bool = True) -> np.ndarray:
        """Return values in [-1, 1] (any shape; clipped) in stored units and type, integers rounded.

        With ``tails=False`` nothing leaves the window: for generated values. A tail is steep, so that a little noise
        around a value that stands at the window's end, such as air in a CT, would become a large error.
        """
        # float64: near 65535 the spacing of float32 would already shift some roundings.
        unit = np.clip(np.asarray(array, dtype=np.float64), -1, 1)
        lowest, *_, highest = self.knots
        if self.kind in _LINEAR:
            values = (unit + 1) / 2 * (self.high - self.low) + self.low
        else:
            stored, places = _corners(self.knots)
            values = np.interp(unit, places, stored)
            if not tails:
                lowest, highest = float(self.low), float(self.high)
                values = np.clip(values, lowest, highest)
        if self.dtype == "float32":
            return np.clip(values, lowest, highest).astype(np.float32)
        # A window may end between two levels; rounding must not leave it.
        return np.clip(np.rint(values), math.ceil(lowest), math.floor(highest)).astype(self.dtype)

    def for_file(self, knots: np.ndarray | Sequence[float]) -> IntensityMap:
        """Return the map of a file with these knots: for kind ``per-file`` one of its own, otherwise this one.

        Raises:
            ConfigError: the knots are no numbers of the stored type.
        """
        if self.kind != "per-file":
            return self
        minimum, low, high, maximum = usable_knots(knots, self.dtype)
        return replace(self, minimum=minimum, low=low, high=high, maximum=maximum)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for a JSON header."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Any) -> IntensityMap:
        """Return the map that `to_dict` described. Raises `ModelFileError` for anything else."""
        needed, allowed = {"kind", "low", "high", "dtype"}, {"minimum", "maximum"}
        if not isinstance(fields, dict) or not needed <= set(fields) <= needed | allowed:
            raise ModelFileError(
                f"The stored intensity map is {fields!r:.200}; an object with kind, low, high, dtype, minimum and "
                "maximum was wanted. The model file is damaged or of another version: train again, or use the ganaug "
                "that wrote it."
            )
        try:
            return cls(**fields)
        except (ConfigError, TypeError, OverflowError) as problem:
            raise ModelFileError(f"The stored intensity map is damaged: {problem} Train again.") from None


def usable_knots(knots: np.ndarray | Sequence[float], dtype: str) -> Knots:
    """Return knots whose window is not empty: the whole range where the percentiles meet, and more if need be."""
    minimum, low, high, maximum = (float(value) for value in knots)
    if low >= high:
        low, high = minimum, maximum
    if low >= high:  # a single gray level: any window that holds it will do
        step = max(1.0, abs(low) / 1024) if dtype == "float32" else 1.0
        low, high = (low, low + step) if low + step <= _limits(dtype)[1] else (low - step, low)
    return min(minimum, low), low, high, max(maximum, high)


def _limits(dtype: str) -> tuple[float, float]:
    limits = np.finfo(dtype) if dtype == "float32" else np.iinfo(dtype)
    return float(limits.min), float(limits.max)


def _corners(knots: Knots) -> tuple[list[float], list[float]]:
    """Return where the map bends: stored values, and their places in [-1, 1]."""
    minimum, low, high, maximum = knots
    stored, places = [low, high], [-1.0, 1.0]
    if minimum < low:
        stored, places = [minimum, *stored], [-1.0, -1.0 + TAIL, places[-1]]
    if high < maximum:
        stored, places = [*stored, maximum], [*places[:-1], 1.0 - TAIL, 1.0]
    return stored, places


def _bent(array: np.ndarray, knots: Knots) -> np.ndarray:
    # Looking up is seven times as fast as interpolating, once the table is there.
    if array.dtype.kind in "iu" and array.dtype.isnative and array.size >= 2 ** (8 * array.dtype.itemsize):
        return _table(knots, array.dtype.name).take(array.view(f"u{array.dtype.itemsize}"))
    stored, places = _corners(knots)
    return np.interp(array, stored, places).astype(np.float32)


@lru_cache(maxsize=16)
def _table(knots: Knots, dtype: str) -> np.ndarray:
    """Return the place in [-1, 1] of every level of an 8- or 16-bit type, ordered by its bits."""
    stored, places = _corners(knots)
    bits = np.arange(2 ** (8 * np.dtype(dtype).itemsize), dtype=f"u{np.dtype(dtype).itemsize}")
    return np.interp(bits.view(dtype), stored, places).astype(np.float32)
