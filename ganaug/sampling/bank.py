"""A bank of synthetic images on disk: made once, memory-mapped, read by workers without a model."""

from __future__ import annotations

import hashlib
import io
import json
import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ganaug.data.intensity import IntensityMap
from ganaug.distributed import team
from ganaug.errors import ConfigError, GanaugError, ModelFileError
from ganaug.files import disk_errors, read_json
from ganaug.progress import Progress, progress_bar
from ganaug.sampling.counts import requested_counts, slices_of
from ganaug.sampling.folder import continued, write_file
from ganaug.sampling.growing import grow_npy
from ganaug.sampling.leak import MANIFEST, manifest_in
from ganaug.sampling.provenance import provenance, similarity_score, source_of
from ganaug.sampling.request import TRIED, BankRequest, ImageSource, Request

if TYPE_CHECKING:
    from ganaug.data.manifest import Manifest
    from ganaug.sampling.selecting import Accept, Selection
    from ganaug.sampling.similarity import NearCopies
    from ganaug.sampling.translated import Accept as AcceptTranslated
    from ganaug.sampling.translated import TranslationRequest
    from ganaug.sampling.translator import Translator

FORMAT = "ganaug-bank"
VERSION = 1
OPTIONAL = ("sources", "similarity")
"""Columns that some banks have."""
MOST = 2**40
"""Images that a bank may claim to have."""
DECISIONS = "decisions.npy"
"""In an unfinished bank: which translations are accepted."""
PURGED = "purged.json"
"""In a bank or folder from which a patient's images were removed: the record of that."""
MAKE = "Make one: ganaug sample RUN --out DIR --format bank --per-class 500."
REGENERATE = "Make the bank again: ganaug sample RUN --out DIR --format bank --overwrite."


@dataclass(frozen=True, eq=False, kw_only=True)
class SyntheticBank:
    """Synthetic images with their classes and origin, in a folder of ``.npy`` files and a JSON header.

    Open one with `SyntheticBank.open`, make one with `SyntheticBank.generate` or `SyntheticBank.translate`. Opening
    reads the headers alone, however many images there are; arrays are mapped on first use and never pickled, so that an
    instance is safe and cheap to send to data-loading workers.
    """

    path: Path
    """The bank's folder, absolute."""
    classes: tuple[str, ...]
    """Class names; a label is an index into them."""
    shape: tuple[int, ...]
    """Shape of one image, channels first: (C, H, W) or (C, D, H, W)."""
    intensity: IntensityMap
    """The way from the stored numbers to [-1, 1] and back."""
    counts: dict[str, int]
    """How many images of each class the bank holds."""
    seed: int
    truncation: float
    model_sha256: str
    """SHA-256 of the model file that made the images."""
    column_sha256: dict[str, str]
    """SHA-256 of the label and index columns, and of the sources of translated images and the similarities where near
    copies were left out, checked when each is first used."""
    train_manifest_sha256: str = ""
    """SHA-256 of the bank's copy of the run's ``train_manifest.json``, to which those of translated images add the
    hashes of their sources; empty if it has none."""
    acceptance: dict[str, dict[str, int]] = field(default_factory=dict)
    """Of images that were selected: their class, of translated ones that of the source → how many were ``tried`` and
    how many ``accepted``."""

    @classmethod
    def open(cls, path: str | Path) -> SyntheticBank:
        """Open the bank in folder `path`.

        Raises:
            ModelFileError: no bank there, or one that is damaged or of another format version.
        """
        folder = Path(path).resolve()
        if not (folder / "bank.json").is_file():
            found = "is no bank (it has no bank.json)" if folder.is_dir() else "does not exist"
            remedy = REGENERATE if (folder / "images.npy").exists() else MAKE
            if (folder / PURGED).exists():
                found = f"has no image left: all were removed with a patient who withdrew (see {PURGED})"
            raise ModelFileError(f"{folder} {found}; the folder of a bank was wanted. {remedy}")
        header = read_json(folder / "bank.json", ModelFileError, REGENERATE)
        kind = (header.get("format"), header.get("version")) if isinstance(header, dict) else (None, None)
        if kind != (FORMAT, VERSION):
            raise ModelFileError(
                f"{folder} has the format {kind[0]!r:.80}, version {kind[1]!r:.80}; this ganaug reads {FORMAT!r}, "
                f"version {VERSION}. {REGENERATE}"
            )
        try:
            classes = tuple(str(name) for name in header["classes"])
            bank = cls(
                path=folder,
                classes=classes,
                shape=tuple(int(size) for size in header["shape"]),
                intensity=IntensityMap.from_dict(header["intensity"]),
                counts={name: int(header["counts"][name]) for name in classes},
                seed=int(header["seed"]),
                truncation=float(header["truncation"]),
                model_sha256=str(header["model_sha256"]),
                column_sha256={
                    name: str(header["sha256"][name])
                    for name in ("labels", "indices", *(name for name in OPTIONAL if name in header["sha256"]))
                },
                # A model away from its run folder, and ganaug before it kept this, leave a bank without.
                train_manifest_sha256=str(header.get("train_manifest_sha256", "")),
                acceptance={
                    str(name): {key: int(found[key]) for key in ("tried", "accepted")}
                    for name, found in header.get("acceptance", {}).items()
                },
            )
            counts = [*bank.counts.values(), *bank.shape]
            if len({*classes}) < len(classes) or not 0 <= min(counts) <= sum(counts) < MOST or min(bank.shape) < 1:
                raise ValueError("classes that are alike, or numbers that no bank can have")
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, GanaugError) as problem:
            raise ModelFileError(
                f"{folder / 'bank.json'} lacks or garbles a field ({type(problem).__name__}: {problem!s:.500}). "
                f"{REGENERATE}"
            ) from None
        for name in ("images", *bank.column_sha256):
            bank._map(name)
        return bank

    @classmethod
    def generate(
        cls,
        gan: ImageSource,
        path: str | Path,
        *,
        counts: Mapping[str, int] | None = None,
        per_class: int | None = None,
        balance: str | Path | Mapping[str, int] | None = None,
        seed: int = 0,
        truncation: float = 1.0,
        max_similarity: float | None = None,
        against: str | Path | Manifest | None = None,
        accept: Accept | None = None,
        batch: int | None = None,
        overwrite: bool = False,
        show_progress: bool = False,
    ) -> SyntheticBank:
        """Make the images with `gan`, write them to folder `path`, and return the opened bank.

        The number of images comes from exactly one of `counts` (class → images), `per_class` (the same for
        all) and `balance` (a labelled folder, or its class → images: each class is filled up to the
        largest). Nothing appears at `path` before the bank is complete, and a bank that `overwrite`
        replaces stays until then. After a kill the same call goes on where it stopped; when the bank is complete it
        only opens it. `batch` images are made at a time: by default 256, fewer of large volumes.

        With `max_similarity` near copies of the images of `against`, the folder that the model was trained on, are
        skipped: 1 is the same picture, 0 as near as real images of different patients (see
        `ganaug.sampling.similarity`). `acceptance` then says how many of each class were tried, and the provenance of
        an image has its ``similarity`` among the scores. The training images are looked at each time, also when the
        bank is complete.

        With `accept`, such as a `ganaug.evaluation.judging.ClassJudge`, images that it does not accept are skipped in
        the same way.

        Raises:
            ConfigError: no or several counts, both `accept` and `max_similarity`, `path` holds something else and may
                not be replaced, or another process is writing it.
            DataError: too few images stay, or `against` cannot be used.
            ModelFileError: the folder to balance has other classes than the model, or its images are not finite.
            GanaugError: the disk is full or cannot be written.
        """
        numbers = requested_counts(
            gan.classes, counts=counts, per_class=per_class, balance=balance, slices=slices_of(gan)
        )
        if batch is not None and batch < 1:
            raise ConfigError(f"batch is {batch}; an integer of 1 or more was wanted.")
        folder = Path(path).resolve()
        if accept is not None and max_similarity is not None:
            raise ConfigError("accept and max_similarity were both given; one of them was wanted.")
        selection: Selection | None = copies_of(gan, max_similarity, against)
        if accept is not None:
            from ganaug.sampling.selecting import Accepted

            selection = Accepted(accept)
        blocks = None if selection is None else selection.settings
        request = Request.of(gan, numbers, format="bank", seed=seed, truncation=truncation, blocks=blocks)
        with disk_errors(folder), continued(folder, request.to_dict(), overwrite=overwrite) as place:
            if place is not None:
                facts: dict[str, Any] = {}
                if selection is not None:
                    request, facts["acceptance"] = selected(place, gan, request, selection, show=show_progress)
                with progress_bar("sampling", len(request), unit="images", show=show_progress) as progress:
                    fill_bank(place, gan, request, batch=batch or request.batch, progress=progress, facts=facts)
                if selection is not None and team().leads:
                    (place / TRIED).unlink()
        return cls.open(folder)

    @classmethod
    def translate(
        cls,
        gan: Translator,
        path: str | Path,
        real: Any,
        *,
        to: str,
        source: str | Sequence[str] | None = None,
        counts: int | None = None,
        seed: int = 0,
        group_regex: str | None = None,
        accept: AcceptTranslated | None = None,
        batch: int | None = None,
        overwrite: bool = False,
        show_progress: bool = False,
    ) -> SyntheticBank:
        """Turn real images into the domain `to`, write them to folder `path`, and return the opened bank.

        Fills a rare class from a plentiful one, or carries labelled images to another site or contrast. Under the
        model's rule "class" the label becomes `to`, and the bank's classes are the model's; under "style" labels stay,
        and the classes are those of the training set that hold all of the images' (else the images' own); images whose
        classes are the model's domains get the label `to`. Items of `to` itself are left out. An item's
        `source` is the SHA-256 of the file that it was made from (of the pixels, where there is no file) and its place
        among `real`, which is also its `index`; no file name gets into the bank.

        The bank's ``train_manifest.json`` has the hashes of the sources beside those of the training images, so that
        `validate_against` refuses both. After a kill the same call goes on where it stopped.

        Args:
            gan: a translation model, `ganaug.load`.
            path: the bank's folder.
            real: a labelled folder, table or archive that ganaug reads (its training part); its `Manifest`; a map-style
                data set of pairs (image, label), or a pair of arrays (images, labels). Images of the last two are
                stored values, so that a data set has no transform that scales; labels are positions in its ``classes``,
                or in the model's.
            to: a class or domain that the model translates to.
            source: the class, or classes, to translate from; under "style" the one domain that the images are of, by
                default the other of two.
            counts: how many images to make, drawn from the sources by `seed`; all by default.
            group_regex: finds the patient in each file's path, as for ``ganaug fit``.
            accept: keeps some of the translations only, such as those that a judge of the classes believes:
                `ganaug.evaluation.twin_judge.train_twin_judge`. Then `counts` says how many are tried, `acceptance` how
                many were kept of each class, and `validate_against` also refuses the images that `accept` learned from.
                Every image is translated twice: all are judged first, so that the bank's size is known.
            batch: images made at a time.

        Raises:
            ConfigError: a name that the model does not know, more images than there are sources, or `path` holds
                something else and may not be replaced.
            DataError: the folder cannot be used, holds no image to translate, or no translation is accepted.
            ModelFileError: the model's images are not finite.
        """
        from ganaug.sampling.translated import TranslationRequest

        if batch is not None and batch < 1:
            raise ConfigError(f"batch is {batch}; an integer of 1 or more was wanted.")
        folder = Path(path).resolve()
        request = TranslationRequest.of(
            gan,
            real,
            to=to,
            source=source,
            counts=counts,
            seed=seed,
            group_regex=group_regex,
            accept=accept,
            show_progress=show_progress,
        )
        with disk_errors(folder), continued(folder, request.to_dict(), overwrite=overwrite) as place:
            if place is not None:
                step, facts = batch or request.batch, {}
                if accept is not None:
                    kept = _decisions(place / DECISIONS, gan, request, batch=step, show_progress=show_progress)
                    request, facts["acceptance"] = request.accepted(kept)
                with progress_bar("translating", len(request), unit="images", show=show_progress) as progress:
                    fill_bank(place, gan, request, batch=step, progress=progress, facts=facts)
                if team().leads:
                    (place / DECISIONS).unlink(missing_ok=True)
        return cls.open(folder)

    @cached_property
    def images(self) -> np.memmap:
        """All images, N×C×H×W in the stored dtype: a read-only memory map."""
        return self._map("images")

    @cached_property
    def labels(self) -> np.ndarray:
        """The label of each image, N int64, read-only."""
        labels = self._column("labels")
        if labels.min() < 0 or labels.max() >= len(self.classes):
            raise ModelFileError(
                f"{self.path / 'labels.npy'} holds labels from {labels.min()} to {labels.max()}, but the "
                f"bank has {len(self.classes)} classes. {REGENERATE}"
            )
        found = np.bincount(labels, minlength=len(self.classes)).tolist()
        if found != list(self.counts.values()):
            raise ModelFileError(
                f"{self.path / 'labels.npy'} holds {found} images by class, but bank.json says "
                f"{list(self.counts.values())}. {REGENERATE}"
            )
        return labels

    @cached_property
    def indices(self) -> np.ndarray:
        """The index of each image within its class and seed, N int64: the i that makes it again.

        Of translated images it is the place of the source among the real images.
        """
        return self._column("indices")

    @cached_property
    def sources(self) -> np.ndarray | None:
        """SHA-256 of the real image behind each translated one, N×32 uint8, read-only; None for images from noise."""
        return self._column("sources") if "sources" in self.column_sha256 else None

    @cached_property
    def similarity(self) -> np.ndarray | None:
        """Similarity of each image to the training images, N float32, read-only; None where it was not asked for."""
        return self._column("similarity") if "similarity" in self.column_sha256 else None

    def __len__(self) -> int:
        return sum(self.counts.values())

    def image(self, i: int) -> np.ndarray:
        """Return a copy of image `i`, C×H×W in the stored dtype."""
        images = self.images
        if not hasattr(os, "preadv") or not images.flags.c_contiguous:
            return np.array(images[i])
        # Read, not mapped: a worker that walks through a mapped bank ends with all of it in its resident memory.
        image = np.empty(self.shape, images.dtype)
        start = images.offset + range(len(self))[i] * image.nbytes
        if os.preadv(self._file, [image.data.cast("B")], start) != image.nbytes:
            raise ModelFileError(f"{self.path / 'images.npy'} was cut short while it was read. {REGENERATE}")
        return image

    def positions(self, label: int, ranks: np.ndarray | None = None) -> np.ndarray:
        """Return the positions in the bank of the images with `label`, ascending, or of number `ranks` among them."""
        if not self._is_sorted:
            found = np.flatnonzero(self.labels == label)
            return found if ranks is None else found[ranks]
        counts = list(self.counts.values())
        return sum(counts[:label]) + (np.arange(counts[label]) if ranks is None else ranks)

    def provenance(self, i: int) -> dict[str, Any]:
        """Return where image `i` comes from, as values that a batch collate function can stack."""
        index = int(self.indices[i])
        return provenance(
            label=self.classes[int(self.labels[i])],
            seed=self.seed,
            index=index,
            model_sha256=self.model_sha256,
            truncation=self.truncation,
            source="noise" if self.sources is None else source_of(self.sources[i].tobytes().hex(), index),
            scores=None if self.similarity is None else similarity_score(self.similarity[i]),
        )

    def manifest_bytes(self) -> bytes | None:
        """Return the ``train_manifest.json`` of the run whose generator made the bank; None if it has none.

        Raises:
            ModelFileError: it is missing or was changed.
        """
        return manifest_in(self.path, self.train_manifest_sha256, REGENERATE)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the memory maps behind: a pickled map would carry every image along."""
        return {field.name: self.__dict__[field.name] for field in fields(self)}

    @cached_property
    def _is_sorted(self) -> bool:
        """Whether the bank lies class by class, as `generate` writes it: then no list of positions is needed."""
        labels = self.labels
        return bool((labels[1:] >= labels[:-1]).all())

    @cached_property
    def _file(self) -> int:
        """The images' file, open for reading at any place; processes that share it do not disturb each other."""
        descriptor = os.open(self.path / "images.npy", os.O_RDONLY)
        weakref.finalize(self, os.close, descriptor)
        return descriptor

    def _map(self, name: str) -> np.memmap:
        """Map one array and check its header against ``bank.json``, without reading its values."""
        path = self.path / f"{name}.npy"
        shape = (len(self), *{"images": self.shape, "sources": (32,)}.get(name, ()))
        dtype = np.dtype(
            {"images": self.intensity.dtype, "sources": "uint8", "similarity": "float32"}.get(name, "int64")
        )
        try:
            array = np.lib.format.open_memmap(path, mode="r")  # np.load would take a zip, or pickle, for an array too
        # The header is a Python literal, and its parser has no closed list of what it raises.
        except Exception as problem:
            raise ModelFileError(f"{path} is missing, cut short or damaged ({problem}). {REGENERATE}") from None
        if array.shape != shape or array.dtype != dtype:
            raise ModelFileError(
                f"{path} holds {array.dtype} of shape {array.shape}, but bank.json says {dtype} of shape "
                f"{shape}. {REGENERATE}"
            )
        return array

    def _column(self, name: str) -> np.ndarray:
        column = self._map(name)
        if hashlib.sha256(column.data).hexdigest() != self.column_sha256[name]:
            raise ModelFileError(f"{self.path / name}.npy was changed since it was written. {REGENERATE}")
        return column


def copies_of(gan: Any, max_similarity: float | None, against: str | Path | Manifest | None) -> NearCopies | None:
    """Return what finds near copies of the training images; None if none are to be left out.

    Raises:
        ConfigError: only one of `max_similarity` and `against` is given.
    """
    if max_similarity is None and against is None:
        return None
    if max_similarity is None or against is None:
        raise ConfigError(
            f"max_similarity = {max_similarity} and against = {against} were given; both were wanted: the limit, and "
            "the folder that the model was trained on."
        )
    from ganaug.sampling.similarity import near_copies

    return near_copies(gan, against, limit=max_similarity)


def selected(
    place: Path, gan: ImageSource, request: Request, selection: Selection, *, show: bool
) -> tuple[Request, dict[str, dict[str, int]]]:
    """Return the request for what stays, and by class how many were tried and accepted; see `leave_out`.

    Of a team rank 0 looks at the images, and the others read what it found.
    """
    from ganaug.sampling.selecting import leave_out

    with team().lead_first(), progress_bar("comparing", len(request), unit="images", show=show) as progress:
        return leave_out(gan, request, selection, place, progress=progress)


def _decisions(
    path: Path, gan: Translator, request: TranslationRequest, *, batch: int, show_progress: bool
) -> np.ndarray:
    """Return which translations are accepted, N bool; what was decided before a kill stays decided."""
    with progress_bar("judging", len(request), unit="images", show=show_progress) as progress:
        grow_npy(path, (len(request),), "bool", lambda part: request.decide(gan, part), batch=batch, progress=progress)
    kept: np.ndarray = np.load(path, allow_pickle=False)
    return kept


def fill_bank(
    place: Path,
    gan: Any,
    request: BankRequest,
    *,
    batch: int,
    progress: Progress,
    facts: Mapping[str, Any] | None = None,
) -> int:
    """Write what is missing of a bank into the unfinished folder `place`; return how many images were there.

    Of a team each process makes its part of the images, and rank 0 writes the rest. `facts` are further fields of
    ``bank.json``.
    """
    columns, leads = request.columns, team().leads
    for name, column in columns.items() if leads else ():
        stream = io.BytesIO()
        np.lib.format.write_array(stream, column, allow_pickle=False)
        write_file(place / f"{name}.npy", stream.getvalue())
    kept = grow_npy(
        place / "images.npy",
        (len(request), *request.shape),
        request.dtype,
        lambda part: request.make(gan, part),
        batch=batch,
        progress=progress,
    )
    if not leads:
        return kept
    # The bank may go where the run folder does not, and is to know by itself what its generator has seen.
    manifest = request.manifest(gan)
    if manifest is not None:
        write_file(place / MANIFEST, manifest)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "classes": list(request.classes),
        "counts": request.counts,
        "shape": list(request.shape),
        "dtype": request.dtype,
        "intensity": request.intensity.to_dict(),
        "seed": request.seed,
        "truncation": request.truncation,
        "model_sha256": request.model_sha256,
        "sha256": {name: hashlib.sha256(column.tobytes()).hexdigest() for name, column in columns.items()},
        "train_manifest_sha256": "" if manifest is None else hashlib.sha256(manifest).hexdigest(),
        **(facts or {}),
    }
    write_file(place / "bank.json", (json.dumps(header, indent=2) + "\n").encode())
    return kept
