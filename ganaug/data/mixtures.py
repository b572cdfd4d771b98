"""Images of one folder that differ in what all share in a training: what `fit` makes of it, and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ganaug.data.manifest import Item
from ganaug.data.names import count, printable
from ganaug.data.problems import Problem, problem
from ganaug.data.scales import SCALES_DIFFER, choose_map

LISTED = 4
"""Values that a message lists, the most frequent ones."""


def mixture_problems(items: Sequence[Item]) -> Iterator[Problem]:
    """Yield what is mixed. The files are those unlike the most frequent kind, if that holds at least half of all."""
    yield from _mixed(
        items,
        "mixed_dimensions",
        lambda item: "volumes" if item.dims == 3 else "images",
        "volumes beside images",
        "--slices axial cuts the volumes into images; or move one kind out",
    )
    yield from _mixed(
        items,
        "mixed_sizes",
        size_text,
        "image sizes",
        "fit brings them to one, --size chooses which",
        level="note",
    )
    yield from _mixed_channels(items)
    yield from _mixed(
        items,
        "mixed_dtypes",
        lambda item: item.dtype,
        "stored types",
        "fit gives each file its own window then, so that gray values of different files no longer compare; save all "
        "in one type if they should",
    )
    yield from _different_scales(items)
    volumes = [item for item in items if item.dims == 3]
    unknown = [item for item in volumes if not item.orientation]
    yield from _mixed(
        volumes,
        "mixed_orientations",
        lambda item: item.orientation or "unknown",
        "orientations of volumes",
        "those that the file does not tell cannot be turned: save them in one orientation, with a header that says so"
        if unknown
        else "all are turned to one when they are read",
        level="problem" if unknown else "note",
    )
    yield from _mixed(
        [item for item in items if item.spacing],
        "mixed_spacings",
        lambda item: "×".join(f"{side:.3g}" for side in item.spacing or ()) + " mm",
        "pixel spacings",
        "fit resamples volumes to one; images are brought to one size only, so that structures differ in scale",
        level="note",
    )


def size_text(item: Item) -> str:
    """Return an image's height×width or a volume's depth×height×width, in pixels."""
    return "×".join(map(str, item.shape))


def _mixed(
    items: Sequence[Item],
    kind: str,
    value_of: Callable[[Item], str],
    what: str,
    advice: str,
    *,
    level: str = "problem",
) -> Iterator[Problem]:
    """Report images that differ in a value."""
    values = [value_of(item) for item in items]
    found = Counter(values)
    if len(found) < 2:
        return
    usual, n_usual = found.most_common(1)[0]
    listed = ", ".join(f"{printable(value)} ({n:,})" for value, n in found.most_common(LISTED))
    if len(found) > LISTED:
        listed += f" and {len(found) - LISTED:,} more"
    # Where nothing is usual, nothing stands out either.
    others = [
        item.name for item, value in zip(items, values, strict=True) if value != usual and 2 * n_usual >= len(items)
    ]
    yield problem(kind, f"mixed {what}: {listed}; {advice}", others, level=level)


def _mixed_channels(items: Sequence[Item]) -> Iterator[Problem]:
    gray = [item for item in items if item.gray]
    if gray:
        channels = {item.channels for item in items}
        agree = channels == {1, 3} and len(gray) == sum(item.channels == 3 for item in items)
        message = f"{count(len(gray), 'color image holds', 'color images hold')} nothing but gray"
        message += "; fit treats them as gray" if agree else "; --channels 1 trains on gray"
        yield problem("gray_saved_as_color", message, (item.name for item in gray), level="note")
        if agree:
            return
    yield from _mixed(
        items,
        "mixed_channels",
        lambda item: count(item.channels, "channel"),
        "channels",
        "choose --channels 1 (all become gray) or --channels 3 (all become color); other numbers of channels have to "
        "be moved out",
    )


def _different_scales(items: Sequence[Item]) -> Iterator[Problem]:
    dtypes = {item.dtype for item in items}
    if len(dtypes) != 1:
        return
    knots = np.array([(item.minimum, item.low, item.high, item.maximum) for item in items], dtype=np.float64)
    chosen, why = choose_map("auto", knots, dtypes, dims=items[0].dims)
    if chosen.kind == "uint8":
        return
    # Together they cover what makes `choose_map` give up a common scale.
    factor = SCALES_DIFFER if chosen.kind == "percentiles" else np.sqrt(SCALES_DIFFER)
    widths = knots[:, 2] - knots[:, 1]
    usual = np.median(widths[widths > 0]) if widths.any() else 0.0
    far = (widths > 0) & ((widths > factor * usual) | (widths < usual / factor))
    files = [items[index].name for index in np.flatnonzero(far).tolist()]
    if chosen.kind == "per-file":
        message = f"{why.rstrip('.')}; if all do share a scale, such as Hounsfield units, give --window"
        yield problem("different_scales", message, files, level="note")
    elif files:
        message = (
            f"{count(len(files), 'image')} with gray values over a range more than {SCALES_DIFFER:g} times as wide or "
            "narrow as usual; in the one window that fit takes for all they come out nearly black or white: check "
            "their units, or move them out"
        )
        yield problem("different_scales", message, files)
