"""What a labelled folder holds and what is wrong with it, for people and for machines."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from ganaug.data.manifest import Item, Manifest
from ganaug.data.names import count, few, printable
from ganaug.data.readers import is_image


def inspect_manifest(manifest: Manifest) -> dict[str, Any]:
    """Return a report of plain JSON values.

    Keys: ``root``; ``classes``, a list with ``name, images, groups, height, width`` (smallest, median,
    largest pixels), ``channels, dtypes`` (images of each) and ``intensity`` (smallest, largest stored
    value); ``images``, ``groups``, ``unreadable`` and ``ignored``, totals; ``imbalance``, the largest class
    over the smallest one that has images; and ``problems``, a list with ``kind, message, files``.
    """
    by_class: list[list[Item]] = [[] for _ in manifest.classes]
    for item in manifest.items:
        by_class[item.label].append(item)
    sizes = [len(items) for items in by_class if items]
    return {
        "root": str(manifest.root),
        "classes": [{"name": name, **_summary(items)} for name, items in zip(manifest.classes, by_class, strict=True)],
        "images": len(manifest),
        "groups": len({item.group for item in manifest.items}),
        "unreadable": len(manifest.skipped),
        "ignored": len(manifest.ignored),
        "imbalance": round(max(sizes) / min(sizes), 2) if sizes else None,
        "problems": [
            *_file_problems(manifest),
            *_class_problems(manifest),
            *_duplicates(manifest),
            *_mixtures(manifest),
        ],
    }


def _summary(items: list[Item]) -> dict[str, Any]:
    lows = [item.minimum for item in items if item.minimum is not None]
    highs = [item.maximum for item in items if item.maximum is not None]
    return {
        "images": len(items),
        "groups": len({item.group for item in items}),
        "height": _spread([item.height for item in items]),
        "width": _spread([item.width for item in items]),
        "channels": {str(key): n for key, n in sorted(Counter(item.channels for item in items).items())},
        "dtypes": dict(sorted(Counter(item.dtype for item in items).items())),
        "intensity": [min(lows), max(highs)] if lows and highs else None,
    }


def _spread(values: list[int]) -> list[int] | None:
    """Return the smallest, the (lower) median and the largest value."""
    ordered = sorted(values)
    return [ordered[0], ordered[(len(ordered) - 1) // 2], ordered[-1]] if ordered else None


def _problem(kind: str, message: str, files: Iterable[str] = ()) -> dict[str, Any]:
    return {"kind": kind, "message": message, "files": list(files)}


def _file_problems(manifest: Manifest) -> Iterable[dict[str, Any]]:
    if manifest.skipped:
        reasons = Counter(reason for _, reason in manifest.skipped).most_common(3)
        listed = "; ".join(f"{printable(reason)} ({n:,})" for reason, n in reasons)
        message = f"{count(len(manifest.skipped), 'file')} cannot be read and will be skipped: {listed}"
        yield {
            **_problem("unreadable", message, (path for path, _ in manifest.skipped)),
            "reasons": dict(manifest.skipped),
        }
    others = [path for path in manifest.ignored if not is_image(path)]
    if others:
        yield _problem("not_images", f"{count(len(others), 'file')} ignored, not in an image format we read", others)
    unlabelled = [path for path in manifest.ignored if is_image(path)]
    if unlabelled:
        message = f"{count(len(unlabelled), 'image')} ignored, outside the class folders or the table"
        yield _problem("unlabelled_images", message, unlabelled)
    constant = [item.path for item in manifest.items if item.minimum is not None and item.minimum == item.maximum]
    if constant:
        message = f"{count(len(constant), 'image')} with all pixels alike; remove them unless that is meant"
        yield _problem("constant_images", message, constant)


def _class_problems(manifest: Manifest) -> Iterable[dict[str, Any]]:
    for label, (name, n) in enumerate(manifest.counts.items()):
        if n < 2:
            message = f"class '{printable(name)}' has {count(n, 'image')}; at least 2 are needed to train"
            kind = "one_image_class" if n else "empty_class"
            yield _problem(kind, message, (item.path for item in manifest.items if item.label == label))


def _duplicates(manifest: Manifest) -> Iterable[dict[str, Any]]:
    copies: dict[str, list[Item]] = defaultdict(list)
    for item in manifest.items:
        copies[item.sha256].append(item)
    sets = [items for items in copies.values() if len(items) > 1]
    within = [items for items in sets if len({item.label for item in items}) == 1]
    across = [items for items in sets if len({item.label for item in items}) > 1]
    if within:
        extra = sum(len(items) - 1 for items in within)
        copies_text = count(extra, "exact copy", "exact copies")
        message = f"{copies_text} of other images in the same class; remove the copies"
        yield _problem("duplicates", message, (item.path for items in within for item in items))
    if across:
        message = f"{count(len(across), 'image')} with exact copies in another class; only one label can be right"
        yield _problem("duplicates_across_classes", message, (item.path for items in across for item in items))


def _mixtures(manifest: Manifest) -> Iterable[dict[str, Any]]:
    items = manifest.items
    sizes = Counter((item.height, item.width) for item in items)
    if len(sizes) > 1:
        (height, width), n = sizes.most_common(1)[0]
        message = (
            f"{len(sizes):,} image sizes (most often {height}×{width}, {count(n, 'image')}); fit brings them "
            "to one, --size chooses which"
        )
        yield _problem("mixed_sizes", message)
    yield from _mixed(
        "mixed_channels",
        [(item, str(item.channels)) for item in items],
        "channels",
        "choose --channels 1 or --channels 3",
    )
    yield from _mixed(
        "mixed_dtypes", [(item, item.dtype) for item in items], "bit depths", "save all with one bit depth"
    )


def _mixed(kind: str, values: Sequence[tuple[Item, str]], what: str, advice: str) -> Iterable[dict[str, Any]]:
    """Report images that differ in something that all must share; the rarer ones are named."""
    found = Counter(value for _, value in values)
    if len(found) > 1:
        listed = ", ".join(f"{value}: {count(n, 'image')}" for value, n in found.most_common())
        usual = found.most_common(1)[0][0]
        yield _problem(kind, f"mixed {what} ({listed}); {advice}", (item.path for item, v in values if v != usual))


def format_report(report: dict[str, Any]) -> str:
    """Return the report of `inspect_manifest` as text with aligned columns; at most 5 names a problem."""
    classes = report["classes"]
    totals = f"{count(report['images'], 'image')} in {count(len(classes), 'class', 'classes')}"
    lines = [f"{report['root']}: {totals}, {count(report['groups'], 'group')}"]
    if report["imbalance"]:
        lines.append(f"largest class : smallest class = {report['imbalance']:g} : 1")
    rows = [("class", "images", "groups", "height", "width", "channels", "type", "intensity")]
    rows += [
        (
            printable(row["name"]),
            f"{row['images']:,}",
            f"{row['groups']:,}",
            _range(row["height"]),
            _range(row["width"]),
            "/".join(row["channels"]) or "-",
            "/".join(row["dtypes"]) or "-",
            _range(row["intensity"]),
        )
        for row in classes
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines.append("")
    for row in rows:
        # Names to the left, figures to the right.
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)),
        ]
        lines.append("  ".join(cells).rstrip())
    lines.append("")
    problems = report["problems"]
    lines.append(f"{count(len(problems), 'problem')}:" if problems else "No problems were found.")
    for problem in problems:
        lines.append(f"  - {problem['message']}")
        if problem["files"]:
            lines.append(f"      {few(problem['files'])}")
    return "\n".join(lines)


def _range(values: list[float] | None) -> str:
    if not values:
        return "-"
    low, high = values[0], values[-1]
    return f"{low:g}" if low == high else f"{low:g}-{high:g}"
