"""What a labelled folder holds and what is wrong with it, for people and for machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ganaug.data.copies import copy_problems
from ganaug.data.manifest import UNKNOWN, Item, Manifest
from ganaug.data.mixtures import mixture_problems
from ganaug.data.names import count, few, printable
from ganaug.data.problems import class_problems, file_problems, group_problems, side_problems

TABLE_WIDTH = 110
"""Columns of text within which the table stays by leaving out the less important of its own."""

TABLE_ROWS = 40
"""Classes that the table lists."""

_NAME_WIDTH = 40
_CELL_WIDTH = 24

_LEVELS = (
    (2, "untrainable", "cannot be trained: at least 2 images are needed"),
    (
        10,
        "repeats",
        "the generator will mostly repeat these few images: do not publish samples, and rather collect more",
    ),
    (50, "rare", "rare: drawn more often than their share (p ~ n^0.5); check how diverse the samples are"),
    (500, "small", "small: enough to learn from; look at the samples for repetitions"),
    (None, "enough", "enough to learn from"),
)


def inspect_manifest(manifest: Manifest) -> dict[str, Any]:
    """Return a report of plain JSON values.

    Keys:
        ``root``.
        ``classes``: a list with ``name, images, groups``; ``depth, height, width`` (smallest, median, largest; None
        without volumes or images) in pixels; ``spacing``, the same for each axis in mm; ``formats, modes, channels,
        dtypes, orientations, splits`` (images of each); ``intensity`` (smallest, largest stored value).
        ``images, groups, unreadable, ignored``: totals; ``unknown``: the images whose class is not known.
        ``domains``: by the name of each domain ``images`` and, for the classes that it has, ``classes`` (images of
        each); empty where the table names none.
        ``imbalance``: the largest class over the smallest one that has images.
        ``problems``: a list with ``kind, level, message, files`` (see `ganaug.data.problems.Problem`).
        ``advice``: `class_advice` on the images that may be trained on.
    """
    by_class: list[list[Item]] = [[] for _ in manifest.classes]
    for item in manifest.items:
        if item.label != UNKNOWN:
            by_class[item.label].append(item)
    sizes = [len(items) for items in by_class if items]
    return {
        "root": str(manifest.root),
        "classes": [{"name": name, **_summary(items)} for name, items in zip(manifest.classes, by_class, strict=True)],
        "images": len(manifest),
        "groups": len({item.group for item in manifest.items}),
        "unreadable": len(manifest.skipped),
        "ignored": len(manifest.ignored),
        "unknown": sum(item.label == UNKNOWN for item in manifest.items),
        "domains": _domains(manifest),
        "imbalance": round(max(sizes) / min(sizes), 2) if sizes else None,
        "problems": [
            *file_problems(manifest),
            *class_problems(manifest),
            *copy_problems(manifest.items),
            *group_problems(manifest.items),
            *side_problems(manifest.items),
            *mixture_problems(manifest.items),
        ],
        "advice": class_advice(manifest.training_part().counts),
    }


def class_advice(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return what a training does with classes of these sizes.

    Returns:
        For each class ``class, images, level`` (untrainable below 2 images, repeats below 10, rare below 50, small
        below 500, enough), ``message``, and ``to_level``: the synthetic images that would make it as large as the
        largest class.
    """
    most = max(counts.values(), default=0)
    advice = []
    for name, n in counts.items():
        level, message = next((level, text) for limit, level, text in _LEVELS if limit is None or n < limit)
        advice.append({"class": name, "images": n, "level": level, "message": message, "to_level": most - n})
    return advice


def _summary(items: list[Item]) -> dict[str, Any]:
    return {
        "images": len(items),
        "groups": len({item.group for item in items}),
        "depth": _spread([item.shape[0] for item in items if item.dims == 3]),
        "height": _spread([item.height for item in items]),
        "width": _spread([item.width for item in items]),
        "spacing": _spacing(items),
        "formats": _counts(item.format for item in items),
        "modes": _counts(item.mode for item in items),
        "channels": {str(key): n for key, n in sorted(Counter(item.channels for item in items).items())},
        "dtypes": _counts(item.dtype for item in items),
        "orientations": _counts(item.orientation for item in items),
        "splits": _counts(item.split for item in items),
        "intensity": [min(item.minimum for item in items), max(item.maximum for item in items)] if items else None,
    }


def _domains(manifest: Manifest) -> dict[str, Any]:
    found = Counter((item.domain, item.label) for item in manifest.items)
    return {
        name: {
            "images": images,
            "classes": {
                label: found[name, index] for index, label in enumerate(manifest.classes) if found[name, index]
            },
        }
        for name, images in manifest.domains.items()
    }


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted((value, n) for value, n in Counter(values).items() if value))


def _spread(values: Sequence[float]) -> list[float] | None:
    """Return the smallest, the (lower) median and the largest value."""
    ordered = sorted(values)
    return [ordered[0], ordered[(len(ordered) - 1) // 2], ordered[-1]] if ordered else None


def _spacing(items: list[Item]) -> list[list[float] | None] | None:
    """Return the spread along each axis, of volumes where there are any."""
    known = [item.spacing for item in items if item.spacing]
    axes = max(map(len, known), default=0)
    return [_spread(values) for values in zip(*(s for s in known if len(s) == axes), strict=True)] or None


def format_report(report: dict[str, Any]) -> str:
    """Return the report of `inspect_manifest` as text with aligned columns; a few names a problem."""
    totals = f"{count(report['images'], 'image')} in {count(len(report['classes']), 'class', 'classes')}"
    lines = [f"{printable(report['root'])}: {totals}, {count(report['groups'], 'group')}"]
    if report["unknown"]:
        lines.append(f"{count(report['unknown'], 'image')} of unknown class")
    if report["domains"]:
        lines.append(_domains_line(report))
    if report["imbalance"]:
        lines.append(f"largest class : smallest class = {report['imbalance']:g} : 1")
    lines += ["", *_table(report["classes"]), ""]
    problems = [found for found in report["problems"] if found["level"] == "problem"]
    notes = [found for found in report["problems"] if found["level"] == "note"]
    lines.append(f"{count(len(problems), 'problem')}:" if problems else "No problems were found.")
    lines += _listed(problems)
    if notes:
        lines += ["", f"{count(len(notes), 'note')}:", *_listed(notes)]
    return "\n".join([*lines, "", *_advice_lines(report["advice"])])


def _domains_line(report: dict[str, Any]) -> str:
    images = {name: row["images"] for name, row in report["domains"].items()}
    named = few([f"{name} ({count(n, 'image')})" for name, n in images.items()])
    unnamed = report["images"] - sum(images.values())
    line = f"{count(len(images), 'domain')}: {named}"
    return f"{line}; {count(unnamed, 'image')} without one" if unnamed else line


def _table(classes: list[dict[str, Any]]) -> list[str]:
    columns = {
        "class": [_short(printable(row["name"]), _NAME_WIDTH) for row in classes],
        "images": [f"{row['images']:,}" for row in classes],
        "groups": [f"{row['groups']:,}" for row in classes],
        "size": [_sides(row["depth"], row["height"], row["width"]) for row in classes],
        "mm": [_sides(*(row["spacing"] or [])) for row in classes],
        "channels": [_kinds(row["channels"]) for row in classes],
        "format": [_kinds(row["formats"]) for row in classes],
        "mode": [_kinds(row["modes"]) for row in classes],
        "type": [_kinds(row["dtypes"]) for row in classes],
        "intensity": [_range(row["intensity"]) for row in classes],
    }
    if set(columns["mm"]) == {"-"}:
        del columns["mm"]
    for spare in ("mode", "mm", "format"):
        widths = {head: max(map(len, (head, *cells))) for head, cells in columns.items()}
        if sum(widths.values()) + 2 * (len(widths) - 1) > TABLE_WIDTH:
            columns.pop(spare, None)
    # Names to the left, figures to the right.
    lines = [
        "  ".join(
            cell.ljust(widths[head]) if head == "class" else cell.rjust(widths[head])
            for head, cell in zip(columns, row, strict=True)
        ).rstrip()
        for row in [tuple(columns), *zip(*columns.values(), strict=True)]
    ]
    more = len(classes) - TABLE_ROWS
    return [*lines[: 1 + TABLE_ROWS], f"and {count(more, 'more class', 'more classes')}"] if more > 0 else lines


def _listed(problems: list[dict[str, Any]]) -> list[str]:
    lines = []
    for found in problems:
        lines.append(f"  - {found['message']}")
        if found["files"]:
            lines.append(f"      {_named(found)}")
    return lines


def _named(found: dict[str, Any]) -> str:
    if "sets" not in found:
        return few(found["files"])
    sign = " ~ " if found["kind"].startswith("near") else " = "
    return few([sign.join([*names[:3], *(["…"] if len(names) > 3 else [])]) for names in found["sets"]], 3)


def _advice_lines(advice: list[dict[str, Any]]) -> list[str]:
    lines = ["Training by class size:"]
    for _, level, message in _LEVELS:
        names = [
            f"{row['class']} ({count(row['images'], 'image')}"
            + (f", {row['to_level']:,} synthetic ones would level it)" if row["to_level"] else ")")
            for row in advice
            if row["level"] == level
        ]
        if names:
            lines.append(f"  - {few(names)}: {message}")
    return lines


def _short(text: str, width: int = _CELL_WIDTH) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _kinds(found: dict[str, int]) -> str:
    return _short("/".join(printable(kind) for kind in found)) or "-"


def _sides(*spreads: list[float] | None) -> str:
    return "×".join(_range(spread) for spread in spreads if spread) or "-"


def _range(values: list[float] | None) -> str:
    if not values:
        return "-"
    low, high = (f"{value:.6g}" for value in (values[0], values[-1]))
    return low if low == high else f"{low}-{high}"
