"""The leak guard: held-out images share neither file, nor pixels, nor group (patient) with a generator's data.

A run's ``train_manifest.json`` says what a generator was trained on, in hashes. Copies are found whatever their name
(hash of the file), in another format (hash of the pixels), and so are other images of a training patient (hash of the
patient's name). Pixels must be the same to the last bit: an image that was resized or saved with loss is another one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ganaug.data.geometry import PLANES
from ganaug.data.grid import Grid
from ganaug.data.manifest import Manifest, hash_content, hash_group
from ganaug.data.names import count
from ganaug.errors import LeakError, ModelFileError

_PART = re.compile(rf"(.*?)(?:({'|'.join(PLANES)})\[\d+\])?")


@dataclass(frozen=True)
class Trained:
    """What a generator was trained on, in hashes."""

    files: frozenset[str]
    groups: frozenset[str]
    contents: frozenset[str]
    forms: frozenset[str] = field(init=False)
    """Kinds and shapes of the contents, such as ``int 28x28x1``: an image of another one cannot be compared."""
    names_groups: bool
    """Whether any group is a patient, and not only the file itself."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "forms", frozenset(map(_form, self.contents)))

    @classmethod
    def of(cls, manifest: Mapping[str, Any] | bytes) -> Trained:
        """Read the content of a ``train_manifest.json``, parsed or not. Raises `ModelFileError` if it is none."""
        try:
            values = json.loads(manifest) if isinstance(manifest, bytes) else manifest
            files = _texts(entry["sha256"] for entry in values["files"])
            files |= _texts(values.get("source_hashes", ()))
            groups = _texts(entry["group_hash"] for entry in values["files"])
            groups |= _texts(values.get("patient_hashes", ()))
            contents = frozenset(_texts(values.get("content_hashes", ())))
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as problem:
            raise ModelFileError(
                f"The train_manifest.json of the run lacks or garbles a field ({type(problem).__name__}: "
                f"{problem!s:.500}); without it nobody can say that the test images are unseen. Restore the run "
                "folder, or train again."
            ) from None
        unnamed = {hash_group(sha256) for sha256 in files}
        return cls(frozenset(files), frozenset(groups), contents, names_groups=not groups <= unnamed)


def _texts(values: Iterable[Any]) -> set[str]:
    """Return texts as a set. Raises TypeError if there is anything else among them."""
    found = set()
    for value in values:
        if not isinstance(value, str):
            raise TypeError(f"a text was wanted, and {value!r:.80} is there")
        found.add(value)
    return found


@dataclass(frozen=True)
class HeldOut:
    """What is known of one held-out image."""

    name: str
    files: tuple[str, ...] = ()
    """SHA-256 of its file, or files, or the volume that it was cut from."""
    groups: tuple[str, ...] = ()
    """Patients that it may be from, in clear."""
    contents: tuple[str, ...] = ()
    """Content hashes, one for each way in which its pixels may be meant."""


@dataclass(frozen=True)
class LeakReport:
    """What the leak guard compared and found clean; `str` says it in words."""

    images: int
    """Held-out images that were looked at."""
    compared: int = 0
    """Of these, how many could be compared by file or by content."""
    by_file: int = 0
    by_content: int = 0
    by_group: int = 0
    notes: tuple[str, ...] = ()
    """What could not be compared, and why."""

    def __str__(self) -> str:
        if not self.compared and not self.by_group:
            found = "The leak guard compared nothing: nobody can say that the held-out images are unseen."
        else:
            found = (
                f"{count(self.images, 'held-out image')}: {self.by_file:,} compared by file, {self.by_content:,} by "
                f"content, {self.by_group:,} by group (patient). None of what was compared is known to the generator."
            )
        return " ".join([found, *self.notes])


def refuse_leak(train_manifest: Mapping[str, Any] | bytes, held_out: Manifest) -> LeakReport:
    """Raise if a held-out image is one that the generator was trained on, or belongs to one of its groups.

    `train_manifest` is the content of a run's ``train_manifest.json``: files are compared by the SHA-256 of
    their bytes, so that a renamed or moved copy is found too, also one that is part of a volume or is cut into
    slices; images by their pixels, so that a copy in another format is found; groups, and the patients that DICOM
    files name, by the SHA-256 of their names.

    Raises:
        LeakError: naming the held-out files.
        ModelFileError: `train_manifest` is not such a manifest.
    """
    trained = Trained.of(train_manifest)
    return compare(trained, held_out_items(held_out))


def compare(trained: Trained, held_out: Sequence[HeldOut]) -> LeakReport:
    """Return what could be compared. Raises `LeakError` if anything is known to the generator, naming it."""
    found = []
    for image in held_out:
        if not trained.files.isdisjoint(image.files):
            found.append((0, f"{image.name} (a training file)"))
        elif not trained.contents.isdisjoint(image.contents):
            found.append((1, f"{image.name} (the same pixels as a training image)"))
        elif not trained.groups.isdisjoint(map(hash_group, image.groups)):
            found.append((2, f"{image.name} (of a training group)"))
    if found:
        names = [name for _, name in sorted(found, key=lambda one: one[0])]
        shown = "; ".join(names[:5]) + (f"; and {len(names) - 5} more" if len(names) > 5 else "")
        raise LeakError(
            f"{len(names)} of {len(held_out)} held-out images are known to the generator: {shown}. "
            "Images of no training file and no training group (patient) are wanted, or any score would be "
            "flattered. Hold them out before ganaug fit, and train again."
        )
    by_file = [bool(image.files) for image in held_out]
    by_content = [not trained.forms.isdisjoint(map(_form, image.contents)) for image in held_out]
    by_group = sum(bool(image.groups) for image in held_out) if trained.names_groups else 0
    compared = sum(map(any, zip(by_file, by_content, strict=True)))
    notes = tuple(_notes(trained, len(held_out), compared, sum(by_file), by_group))
    return LeakReport(len(held_out), compared, sum(by_file), sum(by_content), by_group, notes)


def _notes(trained: Trained, images: int, compared: int, by_file: int, by_group: int) -> Iterator[str]:
    if compared < images:
        forms = ", ".join(sorted(trained.forms)[:3]) + (", …" if len(trained.forms) > 3 else "")
        missing = f"the training images are {forms}" if forms else "the run is older than content hashes"
        yield (
            f"{images - compared:,} of {images:,} have no file and no pixels that could be compared ({missing}): give "
            "the folder of the held-out images, or a data set whose items are files, or unchanged images."
        )
    if by_file < compared:
        yield "Pixels tell exact copies only; images that were resized or saved with loss differ."
    if not trained.names_groups:
        yield "Groups were not compared: the training images name no patients (ganaug fit --group-regex)."
    elif by_group < images:
        yield (
            f"{images - by_group:,} of {images:,} name no patient and were not compared by group: pass groups= or "
            "group_regex=."
        )


def held_out_items(manifest: Manifest) -> list[HeldOut]:
    """Return what is to be compared of a scanned folder."""
    return [
        HeldOut(
            item.name,
            (item.sha256, *item.sources),
            tuple({item.group, item.patient} - {"", item.sha256, *item.sources}),
            (item.content,) if item.content else (),
        )
        for item in manifest.items
    ]


def training_contents(manifest: Manifest, grid: Grid, images: np.ndarray) -> Iterator[str]:
    """Yield the content hashes of training images as they are trained on, where that is not as their files hold them.

    Args:
        manifest: the set.
        grid: the training grid.
        images: all of its images on `grid`, N×C×size.
    """
    form = (grid.size, grid.channels, grid.dtype)
    for index, item in enumerate(manifest.items):
        if grid.spacing is not None or (item.shape, item.channels, item.dtype) != form:
            yield hash_content(np.moveaxis(images[index], 0, -1))


def _form(content: str) -> str:
    return content.rpartition(" ")[0]
