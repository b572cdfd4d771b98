"""What is wrong with a labelled folder: its files, classes, patients, and what its readers noticed."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ganaug.data.manifest import TRAINED, Item, Manifest
from ganaug.data.names import count, few, printable
from ganaug.data.readers import is_image

Problem = dict[str, Any]
"""Plain JSON values: ``kind``; ``level``, "problem" (to be repaired or decided) or "note" (good to know); ``message``;
``files``, the names of all images or files concerned; and for some kinds more."""

SIDES_SHARE = 0.2
"""The share of names that tell a body side from which this is no chance."""

# "left", "Right_3" and "handL-1/R_2" but not "bright" and "lung".
_SIDE = re.compile(r"(?<![A-Za-z])(?i:(left|right))(?![a-z])|(?:^|(?<=[_\-. /]))([LRlr])(?=[_\-. /]|$)")


def problem(kind: str, message: str, files: Iterable[str] = (), *, level: str = "problem", **more: Any) -> Problem:
    """Return one problem."""
    return {"kind": kind, "level": level, "message": message, "files": list(files), **more}


def split_of(item: Item) -> str:
    """Return the split that an image takes part in: what no table assigns is trained on."""
    return "train" if item.split in TRAINED else item.split


def file_problems(manifest: Manifest) -> Iterator[Problem]:
    """Yield what is wrong with single files: those that take no part, and images that hold or hide something odd."""
    if manifest.skipped:
        reasons = Counter(reason for _, reason in manifest.skipped).most_common(3)
        listed = "; ".join(f"{printable(reason)} ({n:,})" for reason, n in reasons)
        message = f"{count(len(manifest.skipped), 'file')} cannot be read and will be skipped: {listed}"
        files = [path for path, _ in manifest.skipped]
        yield problem("unreadable", message, files, reasons=dict(manifest.skipped))
    images = {path: is_image(manifest.root / path) for path in manifest.ignored}
    others = [path for path, image in images.items() if not image]
    if others:
        message = f"{count(len(others), 'file')} ignored, not in an image format we read"
        yield problem("not_images", message, others, level="note")
    unlabelled = [path for path, image in images.items() if image]
    if unlabelled:
        message = f"{count(len(unlabelled), 'image')} ignored, outside the class folders or the table"
        yield problem("unlabelled_images", message, unlabelled)
    constant = [item.name for item in manifest.items if item.minimum == item.maximum]
    if constant:
        message = f"{count(len(constant), 'image')} with all pixels alike; remove them unless that is meant"
        yield problem("constant_images", message, constant)
    yield from _noticed(
        manifest.items,
        "suffix_lies",
        "{} a name that tells another format than the content; the content is believed here, but other programs may "
        "fail: rename",
    )
    yield from _noticed(
        manifest.items,
        "reduced_depth",
        "{} more gray levels than can be read; the finest are lost: convert to a format that keeps them, such as "
        "16-bit TIFF with one channel",
    )
    yield from _noticed(
        manifest.items,
        "burned_in",
        "{} text burned into the pixels, as it seems; it may name patients, and a generator learns to draw it: look, "
        "and cut or blacken the margin",
    )


def class_problems(manifest: Manifest) -> Iterator[Problem]:
    """Yield the classes that are too small to train."""
    counts = list(manifest.counts.values())
    for kind, n in (("empty_class", 0), ("one_image_class", 1)):
        small = {label: f"'{manifest.classes[label]}'" for label, found in enumerate(counts) if found == n}
        if small:
            message = (
                f"{count(len(small), 'class', 'classes')} with {'1 image' if n else 'no image'} "
                f"({few([*small.values()])}); at least 2 are needed to train: add images, or move the class out"
            )
            yield problem(kind, message, (item.name for item in manifest.items if item.label in small))


def group_problems(items: Sequence[Item]) -> Iterator[Problem]:
    """Yield what is wrong with the groups, which stand for patients."""
    patients = defaultdict(list)
    for item in items:
        if not _group_is_content(item):
            patients[item.group].append(item)
    if not patients and len(items) > 1:
        message = (
            "no patient is known: each file counts as its own group; if several come from one patient, give "
            "--group-regex or a group column, or a split may put one patient on both sides"
        )
        yield problem("no_groups", message, level="note")
    if len({item.group for item in items}) == 1 and len(items) > 1:
        message = (
            "all images are of one group, so that no test or validation part can be split off; check --group-regex or "
            "the group column"
        )
        yield problem("one_group", message)
    torn = [members for members in patients.values() if len({split_of(item) for item in members}) > 1]
    if torn:
        message = (
            f"{count(len(torn), 'group')} with images in more than one split; what is measured on a patient who was "
            "trained on means nothing: move each group into one split"
        )
        yield problem("groups_across_splits", message, _names(torn))
    shared = [members for members in patients.values() if len({item.label for item in members}) > 1]
    if shared:
        message = (
            f"{count(len(shared), 'group')} with images in more than one class; splits keep them whole, so that class "
            "shares differ a little between the parts"
        )
        yield problem("groups_across_classes", message, _names(shared), level="note")


def side_problems(items: Sequence[Item]) -> Iterator[Problem]:
    """Yield a note where files tell which side of the body they show, and a problem where they hide which is which."""
    told: dict[str, str] = {}
    named: dict[str, str] = {}
    unsure: dict[str, str] = {}
    for item in items:
        for detail in _details(item, "laterality"):
            (told if detail in ("L", "R") else unsure)[item.path] = detail
        if match := _SIDE.search(item.path):
            named[item.path] = (match[1] or match[2])[0].upper()
    if len(set(named.values())) == 2 and len(named) >= SIDES_SHARE * len({item.path for item in items}):
        told = {**named, **told}
    if told:
        sides = ", ".join(f"{side}: {n:,}" for side, n in sorted(Counter(told.values()).items()))
        message = (
            f"{count(len(told), 'file tells', 'files tell')} the side of the body ({sides}); a mirrored image would "
            "show the other side: keep an augmentation without flips, such as 'safe', the default"
        )
        yield problem("laterality", message, told, level="note")
    if unsure:
        reasons = "; ".join(f"{printable(detail)} ({n:,})" for detail, n in Counter(unsure.values()).most_common(3))
        message = (
            f"{count(len(unsure), 'file')} in which left and right may be exchanged: {reasons}; save with a header "
            "that says so, or make sure that all lie alike"
        )
        yield problem("unknown_sides", message, unsure)


def _noticed(items: Sequence[Item], kind: str, message: str) -> Iterator[Problem]:
    """Yield the files in which a reader noticed something; the slices of a volume count once, unless they differ."""
    found = [(item, detail) for item in items for detail in _details(item, kind)]
    names = list(dict.fromkeys(item.name if kind == "burned_in" else item.path for item, _ in found))
    if names:
        text = message.format(f"{count(len(names), 'file has', 'files have')}")
        if kind != "burned_in":
            details = Counter(dict.fromkeys((item.path, detail) for item, detail in found))
            common = Counter(detail for _, detail in details).most_common(3)
            text += f" ({'; '.join(f'{printable(detail)}: {n:,}' for detail, n in common)})"
        yield problem(kind, text, names)


def _details(item: Item, kind: str) -> list[str]:
    return [hint.partition(":")[2].strip() for hint in item.hints if hint.partition(":")[0] == kind]


def _group_is_content(item: Item) -> bool:
    """Return whether an image's group is nothing but its content, or that of its volume: no patient is known."""
    if item.group == item.sha256 or not item.part:
        return item.group == item.sha256
    slice_of_group = f"{item.group}#{item.part}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(slice_of_group).hexdigest() == item.sha256


def _names(sets: Iterable[Sequence[Item]]) -> list[str]:
    return [item.name for members in sets for item in members]
