"""Which intensity map a training set gets: the scales of its files, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ganaug.data.intensity import KINDS, IntensityMap, Knots, usable_knots
from ganaug.errors import ConfigError, DataError

SCALES_DIFFER = 4.0
"""Files whose windows differ in width by more than this factor (95th over 5th percentile) have no common scale."""

_PER_MILLE = (1, 999)
_SPREAD = (5, 95)
_BLOCK = 2**20
_MARKER_SHARE, _PADDING_SHARE = 0.05, 0.75
"""Shares of a file's pixels that a marker, or the padding around the field of view, may have."""
_PADDING_GAP = 0.25
"""Distance of the padding from the window, over the window's width, above which it is left out."""


def file_knots(pixels: np.ndarray) -> Knots:
    """Return a file's minimum, 0.1 percentile, 99.9 percentile and maximum; all four are values that it holds.

    Deeper than 8 bit, the percentiles leave out a marker burned in at the top (65535 above an X-ray of 0 to 4095) and
    the padding around the field of view (-3024 below a CT that begins at -1024): values that stand far off alone.

    Args:
        pixels: any shape, at least one value, one of the stored types.
    """
    ranks = [1, *(-(-pixels.size * share // 1000) for share in _PER_MILLE), pixels.size]
    flat = pixels.ravel(order="K")
    # A histogram beats sorting where it is small beside the image, and is blind to how the values lie.
    if pixels.dtype == np.uint8 or (pixels.dtype.itemsize == 2 and pixels.size > 2**18):
        limits = np.iinfo(pixels.dtype)
        levels = int(limits.max) - int(limits.min) + 1
        counts = np.zeros(levels, dtype=np.int64)
        for start in range(0, flat.size, _BLOCK):  # bincount turns all it is given into 64 bit
            block = flat[start : start + _BLOCK]
            counts += np.bincount(block if limits.min == 0 else block.astype(np.int64) - limits.min, minlength=levels)
        values = np.searchsorted(np.cumsum(counts), ranks) + int(limits.min)
    else:
        places = [rank - 1 for rank in ranks]
        values = np.partition(flat, places)[places]
    minimum, low, high, maximum = (float(value) for value in values.tolist())
    if pixels.dtype == np.uint8:
        return minimum, low, high, maximum
    if high == maximum:
        high = _below_marker(flat, minimum, maximum)
    if low == minimum:
        low = _above_padding(flat, minimum, high)
    return minimum, low, high, maximum


def _below_marker(flat: np.ndarray, minimum: float, maximum: float) -> float:
    """Return the 99.9 percentile without a text or marker burned in at the top, far above all that was measured."""
    rest = flat[flat < maximum]
    top = float(rest.max()) if rest.size >= (1 - _MARKER_SHARE) * flat.size and rest.size else minimum
    if top == minimum or maximum - top <= top - minimum:
        return maximum
    return float(np.partition(rest, -(rest.size // 1000) - 1)[-(rest.size // 1000) - 1])


def _above_padding(flat: np.ndarray, minimum: float, high: float) -> float:
    """Return the 0.1 percentile without the value around the field of view, far below all that was measured."""
    rest = flat[flat > minimum]
    bottom = float(rest.min()) if rest.size >= (1 - _PADDING_SHARE) * flat.size and rest.size else high
    if bottom >= high or bottom - minimum <= _PADDING_GAP * (high - bottom):
        return minimum
    return float(np.partition(rest, rest.size // 1000)[rest.size // 1000])


def common_dtype(dtypes: Iterable[str]) -> str:
    """Return the stored type that holds the values of all these stored types (float32 beside any float32)."""
    names = set(dtypes)
    return "float32" if "float32" in names else np.result_type(*sorted(names)).name


def choose_map(
    setting: str,
    knots: np.ndarray,
    dtypes: Iterable[str],
    *,
    dims: int,
    window: tuple[float, float] | None = None,
) -> tuple[IntensityMap, str]:
    """Choose the map for a training set, and say in a sentence why.

    ``auto`` takes ``uint8`` for 8-bit images; otherwise ``percentiles``, or ``per-file`` where stored types are mixed
    or the files have no common scale (`SCALES_DIFFER`). 8-bit volumes are ``uint8`` unless their scales differ.

    Args:
        setting: one of `KINDS`, or ``auto``.
        knots: N×4, the `file_knots` of each file.
        dtypes: stored type of each file.
        dims: 2 for images, 3 for volumes.
        window: low and high, with setting ``window`` only.

    Raises:
        ConfigError: the setting does not exist or does not fit the files.
        DataError: there is no file.
    """
    names = sorted(set(dtypes))
    knots = np.asarray(knots, dtype=np.float64).reshape(-1, 4)
    if not names or not len(knots):
        raise DataError("An intensity map cannot be chosen without images; at least one was wanted. Add images.")
    if setting not in ("auto", *KINDS):
        raise ConfigError(f"intensity = {setting!r} was given; one of auto, {', '.join(KINDS)} was wanted.")
    if (window is not None) != (setting == "window"):
        raise ConfigError(
            f"intensity = {setting!r} and window = {window!r} were given; intensity 'window' must have a window, such "
            "as [-1000, 400], and no other may."
        )
    dtype = common_dtype(names)
    if setting == "auto":
        setting, why = _choose_kind(knots, names, dims)
    else:
        why = "as asked for"
    if setting == "uint8":
        if names != ["uint8"]:
            raise ConfigError(
                f"intensity = 'uint8' was given, but files are stored as {', '.join(names)}; 8-bit files were wanted. "
                "Use auto, percentiles, per-file, or a window of stored values."
            )
        return IntensityMap("uint8", 0, 255, dtype), f"{why}."
    if window is not None:
        _require_overlap(window, knots)
        return IntensityMap("window", *window, dtype), f"{why}; values outside {_span(window)} are clipped."
    fitted = _fitted(setting, knots, dtype)
    minimum, low, high, maximum = fitted.knots
    if setting == "per-file":
        why += f"; synthetic images are written with the middle one, {_span((low, high))}"
    elif minimum < low or high < maximum:
        why += f"; what lies beyond it, from {minimum:g} up to {maximum:g}, is kept in the ends of the scale"
    return fitted, f"{why}."


def _choose_kind(knots: np.ndarray, names: list[str], dims: int) -> tuple[str, str]:
    if len(names) > 1:
        listed = f"{', '.join(names[:-1])} and {names[-1]}"
        return "per-file", f"files are stored as {listed}, so each file gets its own window"
    if names == ["uint8"] and dims == 2:
        return "uint8", "all images are 8 bit, so 0 to 255 becomes -1 to 1"
    windows = knots[knots[:, 1] < knots[:, 2], 1:3]
    widths = windows[:, 1] - windows[:, 0]
    if len(widths):
        narrow, wide = np.percentile(widths, _SPREAD)
        if wide > SCALES_DIFFER * narrow:
            least, most = _span(windows[np.argmin(widths)]), _span(windows[np.argmax(widths)])
            return "per-file", f"files run from {least} to {most}, so each file gets its own window"
    if names == ["uint8"]:
        return "uint8", "all volumes are 8 bit and of one scale, so 0 to 255 becomes -1 to 1"
    low, high = _fitted("percentiles", knots, names[0]).knots[1:3]
    return "percentiles", f"one window for all files, {_span((low, high))}"


def _fitted(kind: str, knots: np.ndarray, dtype: str) -> IntensityMap:
    if kind == "per-file":
        # Of one file, and not each knot's own median: these would be a scale that no file has.
        order = np.argsort(knots[:, 2] - knots[:, 1], kind="stable")
        chosen = knots[order[(len(order) - 1) // 2]]
    else:
        minimum, maximum = knots[:, 0].min(), knots[:, 3].max()
        low, high = np.percentile(knots[:, 1], _SPREAD[0]), np.percentile(knots[:, 2], _SPREAD[1])
        chosen = np.array([minimum, low, high, maximum])
    if dtype != "float32":
        chosen = np.rint(chosen)
    minimum, low, high, maximum = usable_knots(chosen, dtype)
    return IntensityMap(kind, low, high, dtype, minimum, maximum)


def _require_overlap(window: tuple[float, float], knots: np.ndarray) -> None:
    lowest, highest = float(knots[:, 0].min()), float(knots[:, 3].max())
    if window[1] <= lowest or highest <= window[0]:
        raise ConfigError(
            f"The window {_span(window)} was given, but the files' values run from {lowest:g} to {highest:g}; a window "
            "that holds some of them was wanted, in stored units (Hounsfield units for CT)."
        )


def _span(ends: Sequence[float] | np.ndarray) -> str:
    return f"{ends[0]:g}–{ends[1]:g}"
