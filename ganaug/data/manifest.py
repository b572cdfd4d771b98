"""A labelled folder as a list of images and volumes, each with its class, its group and the hash of its content."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ganaug.data.names import count, few, printable
from ganaug.errors import ConfigError, DataError

MAX_UNREADABLE = 0.10
"""The share of unreadable files up to which they are skipped; more of them is an error."""

UNKNOWN = -1
"""Label of an image whose class is not known."""

TRAINED = ("", "train", "training")
"""Names of the splits that a generator may be trained on; without a name everything is."""


@dataclass(frozen=True)
class Item:
    """One readable image or volume."""

    path: str
    """POSIX path relative to the manifest's root: the file, the archive, or the first file of a DICOM series."""
    label: int
    """Index into the manifest's classes; `UNKNOWN` where no class is known."""
    group: str
    """What a split must not cut: the patient where that is known, otherwise the file's content."""
    sha256: str
    """Hex SHA-256 of the content: of the file's bytes, or of what stands for them (see `ganaug.data.examine`)."""
    shape: tuple[int, ...]
    """Height and width, or depth, height and width, in pixels."""
    channels: int
    dtype: str
    """Stored type, such as ``uint8`` or ``int16``."""
    split: str = ""
    """The split that the user's table names for it, in lower case; empty where none is named."""
    domain: str = ""
    """The site, scanner or contrast that the user's table names for it; empty where none is named."""
    minimum: float = 0.0
    """Smallest value of the file, in stored units."""
    maximum: float = 255.0
    """Largest value of the file, in stored units."""
    low: float = 0.0
    """0.1 percentile of the file (its minimum for 8-bit images), in stored units."""
    high: float = 255.0
    """99.9 percentile of the file (its maximum for 8-bit images), in stored units."""
    gray: bool = False
    """A color image whose channels are all alike."""
    format: str = ""
    """File format, such as ``PNG``."""
    mode: str = ""
    """What the format calls the kind of pixels, such as ``RGBA``."""
    spacing: tuple[float, ...] | None = None
    """Millimetres between pixels along `shape`; None where the file does not say."""
    orientation: str = ""
    """Axis codes of a volume in its file, such as ``RAS``; empty where the file does not say."""
    center: tuple[float, float, float] | None = None
    """World coordinates of a volume's center (RAS+, mm)."""
    part: str = ""
    """``axial[17]`` for a slice, ``train[12]`` for an image of an archive; empty for a whole file."""
    files: tuple[str, ...] = ()
    """All files of a DICOM series in order; empty otherwise."""
    sources: tuple[str, ...] = ()
    """Hashes of the volume that a slice is from, and of the files of a series; empty for a plain file."""
    patient: str = ""
    """The patient that a DICOM file names, whether or not it is the group."""
    hints: tuple[str, ...] = ()
    """What the reader noticed, each "kind: detail"."""
    phash: int | None = None
    """Perceptual hash, where the scan was asked for it."""
    content: str = ""
    """Hash of the pixels, see `hash_content`."""

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return self.shape[-2]

    @property
    def width(self) -> int:
        """Pixels from left to right."""
        return self.shape[-1]

    @property
    def dims(self) -> int:
        """2 for an image, 3 for a volume."""
        return len(self.shape)

    @property
    def name(self) -> str:
        """The path, and the part of it where it is not a whole file."""
        return f"{self.path}#{self.part}" if self.part else self.path


@dataclass(frozen=True)
class Manifest:
    """The images of a folder, labelled or not."""

    root: Path
    classes: tuple[str, ...]
    """Class names, sorted unless somebody chose an order; a class may have no image. Empty where none is known."""
    items: tuple[Item, ...]
    """Readable images, sorted by path; those of two joined sites one site after the other."""
    skipped: tuple[tuple[str, str], ...] = ()
    """Path and reason of every image that could not be read."""
    ignored: tuple[str, ...] = ()
    """Paths of files that take no part: not images, or images without a label."""

    def __len__(self) -> int:
        return len(self.items)

    @property
    def labels(self) -> np.ndarray:
        """Class indices of the items, int64; `UNKNOWN` where no class is known."""
        return np.array([item.label for item in self.items], dtype=np.int64)

    @property
    def knots(self) -> np.ndarray:
        """Intensity range of each item's file, N×4 float64: minimum, low, high and maximum, in stored units."""
        ranges = [(item.minimum, item.low, item.high, item.maximum) for item in self.items]
        return np.array(ranges, dtype=np.float64).reshape(-1, 4)

    @property
    def counts(self) -> dict[str, int]:
        """Number of images by class name, in the order of the classes; images of unknown class are not among them."""
        found = Counter(item.label for item in self.items)
        return {name: found[label] for label, name in enumerate(self.classes)}

    @property
    def domains(self) -> dict[str, int]:
        """Number of images by domain, sorted by name; images without a domain are not among them."""
        found = Counter(item.domain for item in self.items)
        return {name: found[name] for name in sorted(found) if name}

    def subset(self, indices: Sequence[int] | np.ndarray) -> Manifest:
        """Return a manifest of the items at `indices`, in that order, with the same root and classes."""
        return replace(self, items=tuple(self.items[int(i)] for i in indices), skipped=(), ignored=())

    def training_part(self) -> Manifest:
        """Return the items that may be trained on: not those whose table row names another split."""
        return replace(self, items=tuple(item for item in self.items if item.split in TRAINED))

    def to_json(self, contents: Iterable[str] = ()) -> dict[str, Any]:
        """Return what ``train_manifest.json`` stores: classes; label, hash and hashed group of each image; more hashes.

        No paths, and groups only as hashes: both often name patients, and a run folder may be passed on. `contents`
        are further content hashes, see `hash_content`, such as those of images brought to the training grid.
        """
        files = [
            {
                "label": item.label,
                "sha256": item.sha256,
                "group_hash": hash_group(item.group),
            }
            for item in self.items
        ]
        patients = {item.patient for item in self.items} - {""}
        return {
            "classes": list(self.classes),
            "files": files,
            "source_hashes": sorted({source for item in self.items for source in item.sources}),
            # One name for all is what anonymized sets have, and says nothing.
            "patient_hashes": sorted(map(hash_group, patients)) if len(patients) > 1 else [],
            "content_hashes": sorted({*contents, *(item.content for item in self.items)} - {""}),
        }


def hash_group(group: str) -> str:
    """Return the hex SHA-256 of a group's name."""
    return hashlib.sha256(group.encode("utf-8", "surrogatepass")).hexdigest()


def hash_content(pixels: np.ndarray) -> str:
    """Return a hash of what an image shows, the same in whatever format, number type or color mode it is saved.

    Args:
        pixels: H×W×C or D×H×W×C, any real type. Three channels that are all alike count as one.

    Returns:
        Kind of numbers, shape and SHA-256 of the values, such as ``int 28x28x1 9f86…``; empty for an image of one value
        throughout, which says nothing.
    """
    if pixels.shape[-1] == 3 and (pixels[..., 1:] == pixels[..., :1]).all():
        pixels = pixels[..., :1]
    low, high = pixels.min(), pixels.max()
    if low == high:
        return ""
    kind, dtype = "float", "<f4"
    if pixels.dtype.kind in "biu" or (abs(low) < 2**31 > abs(high) and (np.rint(pixels) == pixels).all()):
        # Whole numbers in the smallest type that holds them: another type of the file does not change them.
        kind = "int"
        dtype = next((name for name in ("u1", "<u2", "<i2", "<i4") if _holds(name, int(low), int(high))), "<i8")
    values = np.ascontiguousarray(pixels, dtype=dtype)
    return f"{kind} {'x'.join(map(str, pixels.shape))} {hashlib.sha256(values.data).hexdigest()}"


def _holds(dtype: str, low: int, high: int) -> bool:
    limits = np.iinfo(dtype)
    return int(limits.min) <= low and high <= int(limits.max)


def require_readable(manifest: Manifest, max_unreadable: float = MAX_UNREADABLE) -> None:
    """Raise a DataError if a larger share than `max_unreadable` of the files could not be read."""
    skipped, files = manifest.skipped, len(manifest.items) + len(manifest.skipped)
    if len(skipped) > max_unreadable * files:
        raise DataError(
            f"{len(skipped):,} of {count(files, 'file')} in {manifest.root} cannot be read, more than the "
            f"{max_unreadable:.0%} that are skipped: {_named(skipped)}. Repair or remove them, or copy them again from "
            "their source."
        )


def left_out(manifest: Manifest) -> tuple[str, ...]:
    """Return a sentence for people about the files that were skipped, and one about those that are no images."""
    sentences = []
    if manifest.skipped:
        total = len(manifest.items) + len(manifest.skipped)
        sentences.append(
            f"Skipped: {len(manifest.skipped):,} of {count(total, 'file')} cannot be read: {_named(manifest.skipped)}."
        )
    if manifest.ignored:
        sentences.append(
            f"Ignored: {count(len(manifest.ignored), 'file')} without an image or a label: {few(manifest.ignored)}."
        )
    return tuple(sentences)


def _named(skipped: tuple[tuple[str, str], ...]) -> str:
    named = "; ".join(f"{printable(path)} ({printable(reason)})" for path, reason in skipped[:3])
    return named + ("; …" if len(skipped) > 3 else "")


def require_trainable(manifest: Manifest) -> None:
    """Raise `DataError` unless there are at least two classes, each with at least two images."""
    if len(manifest.classes) < 2:
        raise DataError(
            f"{manifest.root} has {count(len(manifest.classes), 'class', 'classes')} "
            f"({few(manifest.classes)}). At least two were wanted: add a sub-folder (or a label in "
            "metadata.csv) for each class to tell apart."
        )
    small = [f"{printable(name)} ({count(n, 'image')})" for name, n in manifest.counts.items() if n < 2]
    if small:
        raise DataError(
            f"Too few readable images to learn from in {manifest.root}: {few(small, 10)}. At least 2 in each "
            "class were wanted, and some tens are wise: add images, or move the class out of the folder."
        )


def resolve_channels(manifest: Manifest, channels: int | None) -> int:
    """Return the number of channels to train with: the given one, or the one that all images share.

    Gray images that were saved as color count as gray where gray ones stand beside them.

    Raises:
        DataError: gray and color images are mixed and `channels` is None, or channels differ in another way.
    """
    found = Counter(item.channels for item in manifest.items)
    if channels is not None and {channels, *found} <= {1, 3}:
        return channels
    if set(found) == {1, 3} and all(item.gray for item in manifest.items if item.channels == 3):
        return 1
    if len(found) > 1:
        parts = ", ".join(f"{count(n, 'image')} with {count(c, 'channel')}" for c, n in found.most_common())
        rare = found.most_common()[-1][0]
        files = [item.name for item in manifest.items if item.channels == rare]
        raise DataError(
            f"Gray and color images are mixed in {manifest.root}: {parts}, such as {few(files)}. Choose what "
            "to train with: --channels 1 turns all into gray, --channels 3 turns all into RGB; images with another "
            "number of channels have to be moved out."
        )
    shared = next(iter(found), 1)
    if channels not in (None, shared):
        raise ConfigError(
            f"--channels {channels} was given, but the images in {manifest.root} have {count(shared, 'channel')}. Only "
            "gray (1) and color (3) can be turned into each other."
        )
    return shared
