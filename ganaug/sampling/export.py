"""A labelled folder of synthetic images: files by class or one archive, `metadata.csv`, a data set card."""

from __future__ import annotations

import csv
import io
import re
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ganaug.data.parallel import available_cpus
from ganaug.distributed import team
from ganaug.errors import ConfigError
from ganaug.files import disk_errors
from ganaug.progress import Progress, progress_bar
from ganaug.sampling.archive import write_archive
from ganaug.sampling.bank import copies_of, fill_bank, selected
from ganaug.sampling.card import data_card
from ganaug.sampling.folder import REQUEST, continued, is_whole, whole_files, write_file
from ganaug.sampling.request import TRIED, Request
from ganaug.sampling.similarity import advice
from ganaug.sampling.writers import Writer, default_format, load_writer, writer_names

if TYPE_CHECKING:
    from ganaug.data.manifest import Manifest
    from ganaug.sampling.sampler import Sampler

COLUMNS = (
    "file_name", "label", "synthetic", "source", "seed", "index", "model_sha256", "truncation", "accepted", "scores",
)  # fmt: skip

ARCHIVE = "synthetic.npz"

_PENDING = 2
"""Batches that wait to be encoded, at most, while another one is made."""


def export_formats() -> list[str]:
    """Return what `export_folder` may be asked for."""
    return ["auto", *writer_names(), "npz", "bank"]


def export_folder(
    gan: Sampler,
    out: str | Path,
    *,
    counts: Mapping[str, int],
    format: str = "auto",
    seed: int = 0,
    truncation: float = 1.0,
    max_similarity: float | None = None,
    against: str | Path | Manifest | None = None,
    overwrite: bool = False,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Write synthetic images in the stored type and units of the training files, with `metadata.csv` and `README.md`.

    A writer's format gives ``OUT/<class>/<file>``, with its provenance in each file where the format has a place for
    it. 'npz' gives ``OUT/synthetic.npz``, MedMNIST's way. 'bank' is what `SyntheticBank.generate` makes, without table
    and card.

    The folder appears under its name when it is complete. Until then it grows as ``.<name>.unfinished`` beside it, and
    the same call goes on with it after a kill; when it is complete the same call does nothing. Every byte is a
    function of model file and arguments.

    A team (`ganaug.distributed.together`) shares the images; the bytes are the same.

    Args:
        counts: how many images of each class.
        format: one of `export_formats`; 'auto' is the training files' own where that can hold the images.
        seed: image i of a class is always the same under a seed.
        max_similarity: leave out near copies of the images of `against`, see `SyntheticBank.generate`.
        against: the folder that the model was trained on.

    Returns:
        A summary: the folder, the format, the number of images in all, for each class, and how many of them were there
        already (`kept`: all, if the folder was complete). With `max_similarity` also, by class, how many images were
        ``tried`` and ``accepted`` (`acceptance`), and what is to be said of that (`notes`).

    Raises:
        ConfigError: the counts or the format do not fit the model, `out` holds something else and may not be replaced,
            or another process is writing it.
        DataError: too few images are no near copies, or `against` cannot be used.
        ModelFileError: the model's images are not finite.
        GanaugError: the disk is full or cannot be written.
    """
    folder = Path(out).resolve()
    name = _choose(gan, format)
    copies = copies_of(gan, max_similarity, against)
    blocks = None if copies is None else copies.settings
    request = Request.of(gan, counts, format=name, seed=seed, truncation=truncation, blocks=blocks)
    compared: dict[str, Any] = {}
    with disk_errors(folder), continued(folder, request.to_dict(), overwrite=overwrite) as place:
        kept = len(request)
        if place is not None:
            if copies is not None:
                request, rates = selected(place, gan, request, copies, show=show_progress)
                compared = {"acceptance": rates, "notes": [*advice(rates, copies.limit), *copies.notes]}
            with progress_bar("sample", len(request), unit="images", show=show_progress) as progress:
                kept = _fill(place, gan, request, compared.get("acceptance"), progress)
            if copies is not None and team().leads:
                (place / TRIED).unlink()
    return {
        "out": str(out),
        "format": name,
        "images": len(request),
        "kept": kept,
        "counts": request.counts,
        "seed": request.seed,
        "model_sha256": request.model_sha256,
        **compared,
    }


def _choose(gan: Sampler, name: str) -> str:
    if name == "auto":
        return default_format(gan.header.source_format, gan.shape, gan.intensity.dtype)
    if name not in export_formats():
        raise ConfigError(f"--format {name} was given; one of {', '.join(export_formats())} was wanted.")
    if name in writer_names() and (problem := load_writer(name).problem(gan.shape, gan.intensity.dtype)):
        raise ConfigError(f"--format {name} does not fit this model. {problem} Leave --format out, or choose another.")
    return name


def _fill(place: Path, gan: Sampler, request: Request, acceptance: dict[str, Any] | None, progress: Progress) -> int:
    """Write what is missing in an unfinished folder; return how many images were there."""
    if request.format == "bank":
        facts = {} if acceptance is None else {"acceptance": acceptance}
        return fill_bank(place, gan, request, batch=request.batch, progress=progress, facts=facts)
    if request.format == "npz":
        kept = write_archive(place / ARCHIVE, gan, request, progress=progress)
        names = [f"{ARCHIVE}#train[{i}]" for i in range(len(request))]
        writer = None
    else:
        writer = load_writer(request.format)
        names = _file_names(request, writer.SUFFIX)
        kept = _write_files(place, gan, request, writer, names, progress)
    if not team().leads:
        return kept
    texts = {"metadata.csv": _table(names, request), "README.md": data_card(gan.header, request, writer)}
    for name, text in texts.items():
        write_file(place / name, text.encode(errors="backslashreplace"))  # a folder's name may be no valid text
    return kept


def _file_names(request: Request, suffix: str) -> list[str]:
    folders = list(_folder_names(request.classes))
    return [
        f"{folders[label]}/synthetic-{request.seed}-{index:06d}{suffix}"
        for label, index in zip(request.labels.tolist(), request.indices.tolist(), strict=True)
    ]


def _folder_names(classes: tuple[str, ...]) -> Iterator[str]:
    """Yield a safe and unique folder name for each class; labels from a CSV may hold any character."""
    used = {"metadata.csv", "readme.md", REQUEST}
    for label, name in enumerate(classes):
        safe = re.sub(r"[^\w .+()-]", "_", name).encode()[:100].decode(errors="ignore").strip(" .") or "class"
        stem, number = safe, label
        while safe.casefold() in used:
            safe, number = f"{stem}-{number}", number + 1
        used.add(safe.casefold())
        yield safe


def _write_files(
    place: Path, gan: Sampler, request: Request, writer: Writer, names: list[str], progress: Progress
) -> int:
    members = team()
    with members.lead_first():  # which removes what a killed process left, before another one writes
        whole = _whole(place, request.classes) if members.leads else set()
    mine = members.part(len(names))
    if not members.leads:
        whole = {name for name in names[mine.start : mine.stop] if is_whole(place / name)}
    missing = np.array([i for i in mine if names[i] not in whole], dtype=np.int64)
    kept = members.total(len(mine) - len(missing))
    done = len(mine) - len(missing)
    progress.update(done * members.size)

    def encode(positions: np.ndarray, images: np.ndarray) -> None:
        for i, pixels in zip(positions.tolist(), images, strict=True):
            data = writer.encode(pixels, geometry=gan.header.geometry, origin=request.origin(i))
            write_file(place / names[i], data)

    workers = available_cpus()
    pending: deque[list[Future[None]]] = deque()

    def finish(at_most: int) -> int:
        """Wait until only so many batches are pending; return how many images were written meanwhile."""
        finished = 0
        while len(pending) > at_most:
            for future in pending.popleft():
                future.result()
            finished += request.batch
        return finished

    with ThreadPoolExecutor(workers) as pool:  # which writes what was made, also when the next batch breaks off
        for start in range(0, len(missing), request.batch):
            positions = missing[start : start + request.batch]
            images = request.make(gan, positions)
            # A task for each thread and not for each image: a small one is encoded sooner than handed over.
            parts = np.array_split(np.arange(len(positions)), min(len(positions), workers))
            pending.append([pool.submit(encode, positions[part], images[part]) for part in parts])
            done += finish(_PENDING)
            progress.update(done * members.size)
        finish(0)
    members.tell()
    progress.update(len(names))
    return kept


def _whole(place: Path, classes: tuple[str, ...]) -> set[str]:
    """Return the files that are there whole; make the folders, also of a class with no image: labels stay the same."""
    whole = set()
    for name in _folder_names(classes):
        (place / name).mkdir(exist_ok=True)
        whole |= {f"{name}/{file}" for file in whole_files(place / name)}
    return whole


def _table(names: list[str], request: Request) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for i, name in enumerate(names):
        writer.writerow({"file_name": name, **request.origin(i)})
    return stream.getvalue()
