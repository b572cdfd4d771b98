"""Where an image comes from: what it says of itself, what lies beside it, and what runs and banks know of it."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ganaug.data.archives import member_names, open_member
from ganaug.data.leak import Trained
from ganaug.data.manifest import hash_content
from ganaug.data.names import count, printable
from ganaug.data.readers import decode, is_image, read_bytes
from ganaug.errors import DataError, GanaugError, ModelFileError
from ganaug.sampling.bank import SyntheticBank
from ganaug.sampling.embedded import origin_in, origin_of, source_sha256
from ganaug.sampling.sampler import Sampler, load

SYNTHETIC, TRAINING, UNKNOWN = "synthetic", "training image", "unknown"
TABLE = "metadata.csv"

_UP = 8
"""Folders above a file in which its table is looked for."""
_ROWS = 1024
_MEMBER = re.compile(r"(.+?)#(?:train)?\[?(\d+)\]?")
_MOST_FIELD = 2**20
_ORIGIN_KEYS = ("class_names", "model_sha256", "seed", "truncation", "train_labels", "index")
_ALIKE = 0.95
"""Correlation above which two pictures are one that was saved with loss, say."""


@dataclass
class Subject:
    """An image that is asked about."""

    name: str
    sha256: str = ""
    """Of the file; empty for a row of a bank or an archive."""
    pixels: np.ndarray | None = None
    """C×spatial, the stored values; None where they cannot be read."""
    origin: dict[str, Any] | None = None
    found_in: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Trace:
    """What is known of an image; `str` says it in plain words."""

    file: str
    verdict: str
    """``synthetic``, ``training image`` (a run knows it as one that it was trained on) or ``unknown``."""
    origin: dict[str, Any] | None
    """The provenance, with ``source_sha256`` where it was translated from a real image; None without one."""
    found_in: tuple[str, ...]
    """Where the provenance stands."""
    runs: tuple[dict[str, Any], ...] = ()
    """For each run: ``run``, ``model_sha256``, ``made_it`` (or None if nobody knows), ``trained_on_it``, ``pixels``
    (``same``, ``rounding``, ``altered``, ``different`` or ``not compared``) and ``why``, a sentence."""
    banks: tuple[dict[str, Any], ...] = ()
    """For each bank or folder: ``bank``, ``found`` (the row or file with the same pixels, or None) and ``why``."""
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return {
            "file": self.file,
            "verdict": self.verdict,
            "origin": self.origin,
            "found_in": list(self.found_in),
            "runs": list(self.runs),
            "banks": list(self.banks),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        return "\n".join([*self._headline(), *(one["why"] for one in (*self.runs, *self.banks)), *self.notes])

    def _headline(self) -> Iterator[str]:
        name = printable(self.file)
        origin = self.origin
        if origin is None:
            yield {
                SYNTHETIC: f"{name} is marked as synthetic; by which model is not known.",
                TRAINING: f"{name} is an image that a model was trained on, and none that a model made.",
                UNKNOWN: f"Nothing is known of {name}; that does not mean that it is real.",
            }[self.verdict]
            return
        made = f"translated from the image with SHA-256 {origin['source_sha256']}" if origin["source_sha256"] else ""
        index = "" if origin["index"] is None else f", index {origin['index']}"
        label = "unknown class" if origin["label"] in ("", None) else f"class {printable(str(origin['label']))!r}"
        yield f"{name} is synthetic: {label}{', ' + made if made else ''}, as {' and '.join(self.found_in)} says."
        made_by = f"Model SHA-256 {origin['model_sha256']}, seed {origin['seed']}"
        yield f"{made_by}{index}, truncation {origin['truncation']:g}."
        told = json.loads(origin["scores"]).items()
        scores = printable(", ".join(f"{key} {value}" for key, value in told))
        # True also where nothing was judged.
        judged = "No filter rejected it" if origin["accepted"] else "A filter rejected it"
        yield f"{judged}{f'; its scores: {scores}' if scores else ', and it has no scores'}."


def trace(
    path: str | Path,
    *,
    runs: Sequence[str | Path] = (),
    banks: Sequence[str | Path] = (),
    device: str = "auto",
) -> Trace:
    """Say where an image comes from.

    Its provenance is read from the file itself, from a ``metadata.csv`` beside or above it, or from the row of a bank
    or archive. An image without any is compared with what runs were trained on and what banks hold, by content.

    Args:
        path: an image or volume; ``BANK#12`` or ``synthetic.npz#train[12]`` for one of a bank or archive; a bank or
            archive for what its images have in common.
        runs: run folders or model files. Says of each whether the image is its model's, and makes the image again to
            see whether the pixels are the same; a translated one would need its source.
        banks: banks, exported folders and archives to look for the same pixels in.
        device: see `load`.

    Raises:
        DataError: there is no such file, or no such row.
        ModelFileError: a run, bank or archive cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other libraries have to say of a damaged file
        subject = _subject(Path(path))
    for bank in banks:
        if not Path(bank).exists():
            raise DataError(f"{bank} does not exist; a bank, a folder of synthetic images or an archive was wanted.")
    looked = [_in_bank(subject, Path(bank)) for bank in banks]
    asked = [_by_run(subject, Path(run), device) for run in runs]
    verdict = UNKNOWN
    if subject.origin is not None or any("says that it is synthetic" in note for note in subject.notes):
        verdict = SYNTHETIC
    elif any(one["trained_on_it"] for one in asked):
        verdict = TRAINING
    origin = subject.origin
    if origin is not None:
        origin = {**origin, "source_sha256": source_sha256(origin)}
        if not asked:
            subject.notes.append(
                "Whoever changes an image can keep these words: --run RUN makes it again and compares the pixels."
            )
    return Trace(str(path), verdict, origin, tuple(subject.found_in), tuple(asked), tuple(looked), tuple(subject.notes))


def _subject(path: Path) -> Subject:
    member = None if path.exists() else _MEMBER.fullmatch(str(path))
    place, row = (Path(member[1]), int(member[2])) if member else (path, None)
    if place.is_dir():
        if not (place / "bank.json").is_file():
            raise DataError(f"{place} is a folder and no bank; an image was wanted. Give one of its files.")
        return _of_bank(place, row)
    if place.suffix.lower() == ".npz" and place.is_file():
        return _of_archive(place, row)
    return _of_file(path)


def _of_file(path: Path) -> Subject:
    raw = read_bytes(path)
    subject = Subject(str(path), hashlib.sha256(raw).hexdigest())
    try:
        subject.pixels = np.moveaxis(decode(raw, path).pixels, -1, 0)
    except DataError as problem:
        subject.notes.append(f"It cannot be read as an image ({str(problem).removeprefix(f'{path}: ')}).")
    origin, where = origin_in(raw)
    if origin is not None:
        subject.origin = origin
        subject.found_in.append(where)
    elif where:
        subject.notes.append(f"{where[0].upper()}{where[1:]}.")
    _beside(subject, path)
    return subject


def _beside(subject: Subject, path: Path) -> None:
    """Look the file up in the table that describes its folder."""
    try:
        path = path.resolve()
        folders = [folder for folder in list(path.parents)[:_UP] if (folder / TABLE).is_file()]
    except OSError:
        return
    for folder in folders:
        name = path.relative_to(folder).as_posix()
        row = next((row for row in table_rows(folder / TABLE) if row.get("file_name") == name), None)
        if row is None or (origin := origin_of(row)) is None:
            continue
        if subject.origin is None:
            subject.origin = origin
            subject.notes.append(
                f"The file itself says nothing: that it is the image of this row is told by its name {name!r} alone."
            )
        elif origin != subject.origin:
            differing = ", ".join(key for key in origin if origin[key] != subject.origin[key])
            subject.notes.append(
                f"{TABLE} says otherwise ({differing}) than the file itself: one of the two was changed or replaced."
            )
            return
        subject.found_in.append(f"{TABLE} in {folder}")
        return


def table_rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a ``metadata.csv`` up to the first that cannot be read."""
    csv.field_size_limit(_MOST_FIELD)
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            for row in csv.DictReader(stream):
                yield {str(key): value for key, value in row.items() if isinstance(value, str)}
    except (OSError, csv.Error, ValueError):
        return


def _of_bank(place: Path, row: int | None) -> Subject:
    bank = SyntheticBank.open(place)
    subject = Subject(str(place) if row is None else f"{place}#{row}")
    subject.found_in.append("the bank")
    if row is None:
        subject.origin = _common(bank.seed, bank.truncation, bank.model_sha256)
        subject.notes.append(_of_counts(bank.counts))
        return subject
    if row >= len(bank):
        raise DataError(f"{place} has {count(len(bank), 'image')}, 0 to {len(bank) - 1}; image {row} was asked for.")
    subject.origin = origin_of(bank.provenance(row))
    subject.pixels = bank.image(row)
    return subject


def _of_archive(place: Path, row: int | None) -> Subject:
    images, origins = read_archive(place)
    subject = Subject(str(place) if row is None else f"{place}#train[{row}]")
    if origins is None:
        subject.notes.append("The archive holds no provenance.")
        if row is None:
            return subject
    else:
        subject.found_in.append("the archive")
    if row is None:
        assert origins is not None
        names = [str(origin["label"]) for origin in origins]
        subject.origin = _common(origins[0]["seed"], origins[0]["truncation"], origins[0]["model_sha256"])
        subject.notes.append(_of_counts({name: names.count(name) for name in dict.fromkeys(names)}))
        return subject
    if row >= len(images):
        raise DataError(f"{place} has {count(len(images), 'image')}; image {row} was asked for (they count from 0).")
    subject.origin = None if origins is None else origins[row]
    subject.pixels = images[row]
    return subject


def _common(seed: int, truncation: float, model_sha256: str) -> dict[str, Any]:
    return {
        "synthetic": True,
        "label": "",
        "source": "",
        "seed": seed,
        "index": None,
        "model_sha256": model_sha256,
        "truncation": truncation,
        "accepted": True,
        "scores": "{}",
    }


def _of_counts(counts: dict[str, int]) -> str:
    held = ", ".join(f"{printable(name)} {n}" for name, n in counts.items() if n)
    return f"This is what its {count(sum(counts.values()), 'image')} have in common ({held}); ask for one with #NUMBER."


def read_archive(place: Path) -> tuple[np.ndarray, list[dict[str, Any]] | None]:
    """Return the images (N×C×spatial) of a ``.npz`` archive and the provenance of each; None if it has none.

    Raises:
        ModelFileError: it cannot be read.
    """
    try:
        images = open_member(place, "train_images")
        if images.ndim < 3 or not len(images) or images.dtype.kind not in "biuf":
            raise ValueError(f"train_images is {images.dtype} of the shape {images.shape}")
        known = "model_sha256" in member_names(place)
        origins = _origins({name: open_member(place, name) for name in _ORIGIN_KEYS}) if known else []
    except (DataError, ValueError, TypeError, IndexError, OverflowError) as problem:
        raise ModelFileError(
            f"{place} cannot be read as an archive of images ({type(problem).__name__}: {problem}). Restore it."
        ) from None
    is_color = images.ndim > 3 and images.shape[-1] == 3
    images = np.moveaxis(images, -1, 1) if is_color else images[:, np.newaxis]
    return images, origins if len(origins) == len(images) else None


def _origins(archive: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    names = archive["class_names"]
    common = {key: archive[key].item() for key in ("model_sha256", "seed", "truncation")}
    rows = zip(archive["train_labels"].ravel().tolist(), archive["index"].ravel().tolist(), strict=True)
    found = [
        origin_of({"synthetic": True, "source": "noise", "label": names[label], "index": index, **common})
        for label, index in rows
    ]
    return [origin for origin in found if origin is not None]


def _in_bank(subject: Subject, place: Path) -> dict[str, Any]:
    """Look for an image with the same pixels; it gives its provenance to one that has none."""
    found, origin = None, None
    if place.is_dir() and not (place / "bank.json").is_file():
        found, origin = _in_folder(subject, place)
    elif subject.pixels is not None:
        if place.is_dir():
            bank = SyntheticBank.open(place)
            row = _same_row(bank.images, subject.pixels)
            origin = None if row is None else origin_of(bank.provenance(row))
        else:
            images, origins = read_archive(place)
            row = _same_row(images, subject.pixels)
            origin = None if row is None or origins is None else origins[row]
        found = None if row is None else f"#{row}"
    if found is None:
        return {"bank": str(place), "found": None, "why": f"{place} holds no image with the same pixels."}
    why = f"{place} holds the same pixels: {printable(found)}."
    if subject.origin is None and origin is not None:
        subject.origin = origin
        subject.found_in.append(f"{printable(found)} of {place}, which has the same pixels,")
    elif origin is not None and subject.origin not in (None, origin):
        why += " It has another provenance there."
    return {"bank": str(place), "found": found, "why": why}


def _same_row(images: np.ndarray, pixels: np.ndarray) -> int | None:
    wanted = _shape_as(pixels, images.shape[1:])
    if wanted is None:
        return None
    for start in range(0, len(images), _ROWS):
        part = np.asarray(images[start : start + _ROWS]).reshape(len(images[start : start + _ROWS]), -1)
        same = np.flatnonzero((part == wanted.reshape(1, -1)).all(1))
        if len(same):
            return start + int(same[0])
    return None


def _in_folder(subject: Subject, folder: Path) -> tuple[str | None, dict[str, Any] | None]:
    rows = {row.get("file_name", ""): row for row in table_rows(folder / TABLE)}
    content = "" if subject.pixels is None else hash_content(np.moveaxis(subject.pixels, 0, -1))
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and is_image(path)):
        try:
            raw = read_bytes(path)
            same = hashlib.sha256(raw).hexdigest() == subject.sha256
            same = same or (bool(content) and hash_content(decode(raw, path).pixels) == content)
        except DataError:
            continue
        name = path.relative_to(folder).as_posix()
        if same:
            return name, origin_in(raw)[0] or origin_of(rows.get(name))
    return None, None


def _by_run(subject: Subject, run: Path, device: str) -> dict[str, Any]:
    gan = load(run, device=device)
    answer: dict[str, Any] = {
        "run": str(run),
        "model_sha256": gan.model_sha256,
        "made_it": None,
        "trained_on_it": _is_trained_on(subject, gan.manifest_bytes()),
        "pixels": "not compared",
    }
    origin, why = subject.origin, ""
    if origin is None:
        why = f"Whether {run} made it cannot be told without a provenance."
        if answer["trained_on_it"]:
            answer["made_it"] = False
            why = f"{run} was trained on this image."
    elif origin["model_sha256"] != gan.model_sha256:
        answer["made_it"] = False
        why = f"It is not of the model of {run} (SHA-256 {gan.model_sha256})."
    else:
        answer["made_it"] = True
        why = f"It is of the model of {run}"
        if origin["index"] is None:
            why += "; ask for one image to compare the pixels."
        elif source_sha256(origin):
            why += "; to make it again and compare the pixels, the image that it was translated from is needed."
        elif not isinstance(gan, Sampler):
            why += ", which only translates; its provenance names no source, which cannot be."
        else:
            answer["pixels"], said = _again(subject, gan)
            is_its = answer["pixels"] in ("same", "rounding", "altered")
            answer["made_it"] = is_its or None
            why = f"{why}: {said}" if is_its else said
        if answer["trained_on_it"]:
            why += f" {run} was also trained on it."
    return {**answer, "why": why}


def _is_trained_on(subject: Subject, manifest: bytes | None) -> bool | None:
    """Return whether a run's training holds the file or the same pixels; None if nobody knows."""
    if manifest is None:
        return None
    trained = Trained.of(manifest)
    content = "" if subject.pixels is None else hash_content(np.moveaxis(subject.pixels, 0, -1))
    is_file = bool(subject.sha256) and subject.sha256 in trained.files
    return is_file or (bool(content) and content in trained.contents)


def _again(subject: Subject, gan: Sampler) -> tuple[str, str]:
    """Make an image again; return how its pixels compare, in a word and a sentence."""
    origin = subject.origin
    assert origin is not None
    if subject.pixels is None:
        return "not compared", "its own pixels cannot be read, so that they cannot be compared."
    if origin["label"] not in gan.classes:
        return "different", f"The model has no class {origin['label']!r}, so that the provenance was changed."
    label = gan.classes.index(origin["label"])
    try:
        made = gan.sample([label], seed=origin["seed"], indices=[origin["index"]], truncation=origin["truncation"])
    except GanaugError as problem:
        return "different", f"The provenance cannot be right: {problem}"
    stored = gan.stored(made).numpy()[0]
    own = _shape_as(subject.pixels, stored.shape)
    if own is None:
        shapes = "×".join(map(str, subject.pixels.shape)), "×".join(map(str, stored.shape))
        return "different", f"The model would make an image of {shapes[1]} and not of {shapes[0]}: it was resized."
    if np.array_equal(own, stored):
        return "same", "made again, it has the same pixels."
    apart = np.abs(own.astype(np.float64) - stored)
    step = 1.0 if stored.dtype.kind in "iu" else 1e-4 * float(np.ptp(stored))
    if apart.max() <= step:
        return "rounding", "made again, its pixels are the same but for rounding (another processor or version)."
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        alike = float(np.corrcoef(own.ravel(), stored.ravel())[0, 1])
    if alike > _ALIKE:
        return "altered", (
            f"made again, it looks the same but differs by up to {apart.max():g}: it was changed since, "
            "such as saved with loss."
        )
    return "different", (
        f"It names the model of this run, which makes another picture, though (correlation {alike:.2f}): the picture "
        "or its provenance was replaced."
    )


def _shape_as(pixels: np.ndarray, shape: Sequence[int]) -> np.ndarray | None:
    """Return pixels C×spatial as `shape`, which may count sides of 1 and gray as color otherwise; None if it cannot."""
    if pixels.shape == tuple(shape):
        return pixels
    if pixels.shape[0] == 3 and shape[0] == 1 and (pixels[1:] == pixels[:1]).all():
        pixels = pixels[:1]
    # NIfTI knows volumes only: an image is one of a single slice.
    plain = [side for side in pixels.shape if side > 1], [side for side in shape if side > 1]
    return pixels.reshape(tuple(shape)) if plain[0] == plain[1] else None
