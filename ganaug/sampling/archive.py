"""One ``.npz`` archive for all images, with MedMNIST's keys."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np

from ganaug.distributed import team
from ganaug.progress import Progress
from ganaug.sampling.folder import whole_file
from ganaug.sampling.growing import grow_npy
from ganaug.sampling.request import ImageSource, Request

_IMAGES = "train_images.npy"
_LEVEL = 1
"""Deflate's fastest: natural images shrink to 0.4 to 0.9 of their size, at higher levels hardly further."""


def write_archive(path: Path, gan: ImageSource, request: Request, *, progress: Progress) -> int:
    """Write all images of `request` to `path`, going on with what a killed process left; return how much that was.

    The archive holds ``train_images`` (N×H×W or N×D×H×W, channels last if there are several), ``train_labels`` (N×1),
    ``class_names``, ``index`` (N) and, for all alike, ``seed``, ``truncation`` and ``model_sha256``. The images
    collect in a plain file beside it first, since a compressed one cannot be continued. Of a team rank 0 writes the
    archive; the others come back before it is there.
    """
    images, members = path.with_name(_IMAGES), team()
    if members.tell("whole" if members.leads and path.is_file() and path.stat().st_size else "")[0]:
        if members.leads:
            images.unlink(missing_ok=True)
        return len(request)
    channels, *sides = request.shape
    shape = (len(request), *sides, *([channels] if channels > 1 else []))

    def rows(part: slice) -> np.ndarray:
        images = request.make(gan, part)
        return images[:, 0] if channels == 1 else np.moveaxis(images, 1, -1)

    kept = grow_npy(images, shape, request.dtype, rows, batch=request.batch, progress=progress)
    if not members.leads:
        return kept
    labels = request.labels[:, np.newaxis]
    arrays = {
        "train_labels": labels.astype(np.uint8) if len(request.classes) <= 256 else labels,
        "class_names": np.array(request.classes),
        "index": request.indices,
        "seed": np.array(request.seed, dtype=np.uint64),
        "truncation": np.array(request.truncation),
        "model_sha256": np.array(request.model_sha256),
    }
    with (
        whole_file(path) as stream,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive,
    ):
        with images.open("rb") as source, archive.open(_IMAGES, "w", force_zip64=True) as target:
            shutil.copyfileobj(source, target, 2**20)
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as target:
                np.lib.format.write_array(target, array, allow_pickle=False)
    images.unlink()
    return kept
