"""Files through a translation model: each at its own size, under its own name, in its own format and place in space."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from ganaug.data.degrade import Downsample
from ganaug.data.geometry import PLANES, cut
from ganaug.data.manifest import Item, Manifest, left_out
from ganaug.data.parallel import available_cpus
from ganaug.data.readers import readers_by_suffix, suffix_of
from ganaug.data.tensors import read_item
from ganaug.distributed import team
from ganaug.errors import ConfigError, DataError
from ganaug.files import disk_errors
from ganaug.progress import Progress, progress_bar
from ganaug.sampling.counts import slices_of
from ganaug.sampling.export import COLUMNS
from ganaug.sampling.folder import continued, is_whole, write_file
from ganaug.sampling.inputs import open_inputs
from ganaug.sampling.own_place import place_of
from ganaug.sampling.own_size import Prepared, finish, prepare
from ganaug.sampling.provenance import provenance, source_of
from ganaug.sampling.request import BATCH_BYTES
from ganaug.sampling.sources import Sources, open_sources
from ganaug.sampling.translated import choose, domains_of
from ganaug.sampling.translator import Translator
from ganaug.sampling.writers import default_format, load_writer, writer_names

_VERSION = 1
"""Raised when the same request gives other files."""
_BLOCK = 32
"""Files that are held in memory at a time, at most."""


def translate_files(
    gan: Translator,
    given: str | Path,
    out: str | Path,
    *,
    to: str,
    source: str | None = None,
    format: str = "auto",
    native: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Write every image of `given` as it would be in `to` to the folder `out`, with a `metadata.csv`.

    Names and sub-folders stay, except that the folder of a class or domain is put into one of the target: an image of
    ``normal/`` that now shows a lesion is ``lesion/normal/…``. Images keep their size, place in space and format, as
    far as it can be written (JPEG becomes PNG), and have the type and units of the target's files. The folder appears
    when it is complete; after a kill the same call goes on.

    Args:
        given: an image or volume; a labelled folder, table or archive; a folder of images in any nesting.
        to: a target of the model.
        source: the class or domain to translate from; needed where the images do not tell and it matters.
        format: a writer, or 'auto' for each file's own format.
        native: translate at the files' own resolution, not at that of the training images.
        seed: only written down: a translation has nothing random.

    Returns:
        A summary: the folder, formats, source and target, the number of images, how many of them were there already
        (`kept`), and in sentences what was left out.

    Raises:
        ConfigError: a name that the model does not know, a format that cannot hold the images, or `out` holds something
            else and may not be replaced.
        DataError: there is nothing to translate, or an image does not fit the model.
        ModelFileError: the model's images are not finite.
        GanaugError: the disk is full or cannot be written.
    """
    folder = Path(out).resolve()
    with team().lead_first():  # the others find what it kept in the cache
        manifest = open_inputs(gan, Path(given), show_progress=show_progress)
    order = _Order.of(gan, manifest, to=to, source=source, format=format, native=native, seed=seed)
    with disk_errors(folder), continued(folder, order.to_dict(), overwrite=overwrite) as place:
        kept = len(order)
        if place is not None:
            with progress_bar("translate", len(order), unit="images", show=show_progress) as progress:
                kept = _fill(place, order, progress)
    skipped = len(manifest) - len(order)
    notes = [f"{skipped:,} of {len(manifest):,} images are not of the source and were left out."] if skipped else []
    return {
        "out": str(out),
        "formats": sorted({*order.formats}),
        "from": gan.classes[order.source],
        "to": gan.classes[order.to],
        "images": len(order),
        "kept": kept,
        "left_out": [*notes, *left_out(manifest)],
        "model_sha256": gan.model_sha256,
    }


@dataclass(frozen=True, eq=False)
class _Order:
    """Which images become which files."""

    gan: Translator
    manifest: Manifest
    positions: np.ndarray
    """Of the images to translate, in the manifest."""
    labels: tuple[str, ...]
    """Of the translated images; empty where unknown."""
    formats: tuple[str, ...]
    names: tuple[str, ...]
    """Of the files to write, relative to the folder."""
    to: int
    source: int
    native: bool
    seed: int

    @classmethod
    def of(
        cls, gan: Translator, manifest: Manifest, *, to: str, source: str | None, format: str, native: bool, seed: int
    ) -> _Order:
        target = gan.target(to)
        if format not in ("auto", *writer_names()):
            raise ConfigError(f"--format {format} was given; one of auto, {', '.join(writer_names())} was wanted.")
        sources = open_sources(gan, manifest, group_regex=None, show_progress=False)
        domains = domains_of(gan, sources)
        domain, positions = choose(gan, sources, domains, target, source)
        items = [manifest.items[i] for i in positions.tolist()]
        formats = [_format(gan, item, format, domain, target) for item in items]
        labels = [_label(gan, sources, int(i), target) for i in positions]
        names = _names(items, formats, gan, sources, positions, target)
        return cls(gan, manifest, positions, tuple(labels), tuple(formats), tuple(names), target, domain, native, seed)

    def __len__(self) -> int:
        return len(self.positions)

    def item(self, row: int) -> Item:
        return self.manifest.items[int(self.positions[row])]

    def origin(self, row: int) -> dict[str, Any]:
        """Return the provenance of an image."""
        index = int(self.positions[row])
        return provenance(
            label=self.labels[row],
            seed=self.seed,
            index=index,
            model_sha256=self.gan.model_sha256,
            truncation=1.0,
            source=source_of(self.item(row).sha256, index),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all that determines the files, as JSON values; no names, which are the user's own."""
        digest = hashlib.sha256()
        for row, name in enumerate(self.names):
            digest.update(f"{self.item(row).sha256} {self.positions[row]} {self.labels[row]!r} {name!r}\n".encode())
        return {
            "translate": _VERSION,
            "model_sha256": self.gan.model_sha256,
            "to": self.gan.classes[self.to],
            "source": self.gan.classes[self.source],
            "native": self.native,
            "seed": self.seed,
            "images_sha256": digest.hexdigest(),
        }


def _label(gan: Translator, sources: Sources, i: int, target: int) -> str:
    name = sources.class_of(i)
    return gan.classes[target] if gan.rule == "class" or name in gan.classes else name


def _dtype(gan: Translator, item: Item, source: int, to: int) -> str:
    """Return the stored type of a translated image: the file's own where the units stay."""
    alike = gan.intensities[source] == gan.intensities[to]
    return item.dtype if alike else gan.intensities[to].dtype


def _format(gan: Translator, item: Item, wanted: str, source: int, to: int) -> str:
    shape, dtype = (gan.header.channels, *item.shape), _dtype(gan, item, source, to)
    if wanted == "auto":
        return default_format("" if item.part else item.format, shape, dtype)
    if problem := load_writer(wanted).problem(shape, dtype):
        raise ConfigError(f"--format {wanted} does not fit {item.name}. {problem} Leave --format out.")
    return wanted


def _names(
    items: list[Item],
    formats: list[str],
    gan: Translator,
    sources: Sources,
    positions: np.ndarray,
    target: int,
) -> Iterator[str]:
    """Yield the name of each file: the image's own, with another ending where the format is another."""
    stems = [_stem(item) for item in items]
    shared = Counter(stem.casefold() for stem in stems)
    into = re.sub(r"[^\w .+()-]", "_", gan.classes[target]).strip(" .") or "target"
    for item, format, stem, i in zip(items, formats, stems, positions.tolist(), strict=True):
        name = sources.class_of(i)
        moved = name in gan.classes and item.path.startswith(f"{name}/")
        ending = load_writer(format).SUFFIX
        own = suffix_of(PurePosixPath(item.path).name)
        if not item.part:
            kind = readers_by_suffix()[own].SUFFIXES[own] if own else "DICOM"
            same = kind == readers_by_suffix()[ending].SUFFIXES[ending]
            # Files that differ in their ending alone keep it, before the new one.
            ending = item.path[len(stem) :] + ("" if same else ending if shared[stem.casefold()] > 1 else "")
            ending = ending if same or shared[stem.casefold()] > 1 else load_writer(format).SUFFIX
        yield f"{into}/{stem}{ending}" if moved else f"{stem}{ending}"


def _stem(item: Item) -> str:
    if item.part:
        member, _, number = item.part.rstrip("]").partition("[")
        return f"{PurePosixPath(item.path).stem}-{member}-{int(number):06d}"
    own = suffix_of(PurePosixPath(item.path).name)
    return item.path[: -len(own)] if own else item.path


def _fill(place: Path, order: _Order, progress: Progress) -> int:
    """Write what is missing in an unfinished folder; return how many images were there."""
    for parent in {PurePosixPath(name).parent for name in order.names}:
        (place / parent).mkdir(parents=True, exist_ok=True)
    members = team()
    mine = members.part(len(order))
    missing = [row for row in mine if not is_whole(place / order.names[row])]
    done = len(mine) - len(missing)
    kept = members.total(done)
    progress.update(done * members.size)
    with ThreadPoolExecutor(available_cpus()) as pool:
        for block in _blocks(order, missing):
            images = list(pool.map(lambda row: _Image(order, row), block))
            for image, made in zip(images, _translated(order, images), strict=True):
                image.made = made
            list(pool.map(lambda image: image.write(place), images))
            done += len(block)
            progress.update(done * members.size)
    members.tell()
    if not members.leads:
        return kept
    stream = io.StringIO()
    table = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    table.writeheader()
    for row, name in enumerate(order.names):
        table.writerow({"file_name": name, **order.origin(row)})
    write_file(place / "metadata.csv", stream.getvalue().encode(errors="backslashreplace"))
    return kept


def _blocks(order: _Order, rows: list[int]) -> Iterator[list[int]]:
    """Yield so many rows at a time that their images fit into memory."""
    block: list[int] = []
    values = 0
    for row in rows:
        size = 4 * int(np.prod(order.item(row).shape)) * order.gan.header.channels
        if block and (len(block) == _BLOCK or values + size > BATCH_BYTES):
            yield block
            block, values = [], 0
        block.append(row)
        values += size
    if block:
        yield block


def _translated(order: _Order, images: list[_Image]) -> list[list[np.ndarray]]:
    """Return what the model makes of the parts of each image; parts of one shape go through it together."""
    parts = [part for image in images for part in image.parts]
    made: list[np.ndarray] = [np.empty(0)] * len(parts)
    for shape in dict.fromkeys(part.unit.shape for part in parts):
        rows = [row for row, part in enumerate(parts) if part.unit.shape == shape]
        batch = torch.from_numpy(np.stack([parts[row].unit for row in rows]))
        for row, result in zip(rows, order.gan.translate(batch, to=order.to).numpy(), strict=True):
            made[row] = result
    found = iter(made)
    return [[next(found) for _ in image.parts] for image in images]


class _Image:
    """An image or volume on its way through the model, cut into slices if the model is one of slices."""

    made: list[np.ndarray]

    def __init__(self, order: _Order, row: int) -> None:
        self.order, self.row, self.item = order, row, order.item(row)
        gan = order.gan
        try:
            pixels = read_item(order.manifest.root, self.item)
            self.plane = slices_of(gan) if pixels.ndim == 4 and len(gan.header.size) == 2 else None
            slices = [(0, pixels, self.item.spacing)] if self.plane is None else cut(pixels, None, self.plane)
            self.parts: list[Prepared] = [
                prepare(gan, part, source=order.source, spacing=spacing, native=order.native, knots=self._knots)
                for _, part, spacing in slices
            ]
        except DataError as problem:
            path = str(order.manifest.root / self.item.name)
            raise DataError(f"{path}: {str(problem).removeprefix(f'{path}: ').rstrip('.')}.") from None

    @property
    def _knots(self) -> tuple[float, float, float, float]:
        return self.item.minimum, self.item.low, self.item.high, self.item.maximum

    @cached_property
    def pixels(self) -> np.ndarray:
        """The translated image as its file holds it, C×H×W or C×D×H×W."""
        gan, to = self.order.gan, self.order.to
        done = [finish(gan, part, made, to=to) for part, made in zip(self.parts, self.made, strict=True)]
        pixels = done[0]
        if self.plane is not None:
            pixels = np.stack(done, axis=PLANES.index(self.plane))
            pixels = pixels if self.plane == "axial" else pixels[::-1]
        dtype = np.dtype(_dtype(gan, self.item, self.order.source, to))
        if pixels.dtype != dtype:
            limits = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
            pixels = np.clip(pixels, limits.min, limits.max).astype(dtype)
        return np.moveaxis(pixels, -1, 0)

    def write(self, place: Path) -> None:
        """Write the file into the unfinished folder."""
        order, name = self.order, self.order.names[self.row]
        writer, pixels = load_writer(order.formats[self.row]), self.pixels
        geometry = place_of(order.manifest.root, self.item)
        if geometry is not None and pixels.shape[1:] != self.item.shape:
            assert isinstance(order.gan.degrade, Downsample)
            geometry = geometry.finer(order.gan.degrade.factor)
        if geometry is not None and pixels.ndim == 3:
            # Only NIfTI says of a single slice where it lies.
            is_nifti = order.formats[self.row] == "nifti"
            pixels, geometry = (geometry.as_volume(pixels), geometry) if is_nifti else (pixels, None)
        data = writer.encode(pixels, geometry=geometry, origin=order.origin(self.row))
        if name.lower().endswith(".nii"):
            data = gzip.decompress(data)
        write_file(place / name, data)
