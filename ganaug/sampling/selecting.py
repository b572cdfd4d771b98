"""Leaving samples out: near copies of training images, or what a judge does not accept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from ganaug.errors import DataError, ModelFileError
from ganaug.progress import Progress
from ganaug.sampling.folder import write_file
from ganaug.sampling.request import TRIED, ImageSource, Request


class Selection(Protocol):
    """Decides which samples stay: those whose doubt is `limit` or less."""

    @property
    def limit(self) -> float:
        """The highest doubt of an image that stays."""

    @property
    def settings(self) -> dict[str, Any]:
        """What determines the decisions, as JSON values."""

    @property
    def scores(self) -> str:
        """What the doubts are called in the provenance of an image; empty where they are not kept."""

    def doubts(self, images: Tensor, labels: Sequence[int]) -> np.ndarray:
        """Return the doubt about each of N×C×spatial images in [-1, 1] of these classes, N float64."""

    def too_few(self, name: str, *, wanted: int, found: int, tried: int) -> str:
        """Return what to say where of the first `tried` images of class `name` only `found` stay."""


class Accept(Protocol):
    """Accepts samples: called with N×C×spatial images in [-1, 1] and N labels, it returns N bool."""

    @property
    def settings(self) -> dict[str, Any]:
        """What determines the decisions, as JSON values."""

    def __call__(self, images: Tensor, labels: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Accepted:
    """The selection of what an `Accept` accepts."""

    accept: Accept
    limit = 0.5
    scores = ""

    @property
    def settings(self) -> dict[str, Any]:
        return {"accept": self.accept.settings}

    def doubts(self, images: Tensor, labels: Sequence[int]) -> np.ndarray:
        return 1.0 - np.asarray(self.accept(images, np.asarray(labels)), dtype=np.float64)

    def too_few(self, name: str, *, wanted: int, found: int, tried: int) -> str:
        return (
            f"Of the first {tried:,} images of class {name!r} only {found:,} were accepted; {wanted:,} were wanted. "
            "Train the generator for longer or on more images, or ask for fewer."
        )


def leave_out(
    gan: ImageSource, request: Request, selection: Selection, place: Path, *, progress: Progress
) -> tuple[Request, dict[str, dict[str, int]]]:
    """Return `request` for the first images of each class that `selection` keeps; and, by class, of how many.

    An image keeps its index: one that is left out is skipped and the next takes its place. All are made once to be
    looked at, and those that stay a second time to be written, as for ``accept`` of `SyntheticBank.translate`. What was
    found before a kill is remembered in `place`.

    Returns:
        The request, and class → how many images were ``tried`` and how many ``accepted``.

    Raises:
        DataError: of ten times as many images as are wanted too few are left.
        ModelFileError: the images are not finite.
    """
    known = _read(place / TRIED)
    numbers: list[np.ndarray] = []
    similarities: list[np.ndarray] = []
    rates = {}
    done = 0
    for label, (name, wanted) in enumerate(request.counts.items()):
        tried = np.array(known.get(name, []), dtype=np.float64)
        most = 10 * wanted + 90
        while (missing := wanted - int((tried <= selection.limit).sum())) > 0:
            if len(tried) >= most:
                found = wanted - missing
                raise DataError(selection.too_few(name, wanted=wanted, found=found, tried=len(tried)))
            indices = np.arange(len(tried), min(len(tried) + min(request.batch, max(missing, 16)), most))
            made = gan.sample(
                [label] * len(indices), seed=request.seed, indices=indices.tolist(), truncation=request.truncation
            )
            if not bool(made.isfinite().all()):
                raise ModelFileError(
                    "The model makes images with NaN or infinity: train it again, or take an older snapshot."
                )
            tried = np.concatenate([tried, selection.doubts(made.detach().cpu().float(), [label] * len(made))])
            known[name] = tried.tolist()
            write_file(place / TRIED, json.dumps(known).encode())
            progress.update(done + min(wanted, int((tried <= selection.limit).sum())))
        done += wanted
        kept = np.flatnonzero(tried <= selection.limit)[:wanted]
        numbers.append(kept)
        similarities.append(tried[kept])
        # Not how many were looked at, which depends on the batch.
        rates[name] = {"tried": int(kept[-1]) + 1 if wanted else 0, "accepted": wanted}
    chosen = replace(
        request,
        numbers=np.concatenate(numbers).astype(np.int64),
        similarity=np.concatenate(similarities).astype(np.float32) if selection.scores == "similarity" else None,
    )
    return chosen, rates


def _read(path: Path) -> dict[str, list[float]]:
    try:
        found: dict[str, list[float]] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # after a power cut a small file may be empty
        return {}
    return found
