"""Near copies of training images: how like one an image is, and which images are then left out.

The similarity of an image to the training images is ``1 - d / d0``. Here d is its distance to the nearest of them, of
any class, and d0 is the median of the same distance from a real image of its class to the nearest one of another group
(patient). So 1 is the same picture, 0 is as near as real images of different patients typically are, and below 0 is
farther. As real images are the yardstick, a limit means much the same in a set whose images all look alike (chest
X-rays) and in one where they do not.

Distances are Euclidean, between pictures shrunk to `CELLS` a side (without their rim) whose brightness and contrast are
evened out. Small shifts, turns and changes of scale do not count: they are taken off as the directions in which the
picture moves (tangent distance: Simard, LeCun and Denker 1993, NIPS 5), nor does mirroring. Moves of more than about a
cell, copies of a part of an image and heavy noise do hide a copy.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ganaug.data.manifest import Manifest, hash_group
from ganaug.data.names import count
from ganaug.data.reading import scan
from ganaug.data.tensors import load_tensor
from ganaug.errors import ConfigError, DataError, ModelFileError
from ganaug.sampling.counts import slices_of
from ganaug.sampling.preview import training_grid

if TYPE_CHECKING:
    from ganaug.sampling.sampler import Sampler

CELLS = {2: 12, 3: 8}
"""Dimensions of an image → cells a side of the small pictures that are compared."""
MANY = 0.25
"""Above this share of blocked images there is something to be said about the model."""

_VERSION = 1
"""Raised when the same images get another similarity."""
_DIGITS = 4
_LEAST_STD = 0.02
"""Of an image in [-1, 1]: below it the contrast is not evened out, or the noise of an empty picture would count."""
_CONTROLS = 500
"""Real images of a class whose neighbors make d0, at most."""
_BLOCK = 256
_LEAST_CHANGE = 1e-3
_REFERENCES = 4096
"""Training images in a product, at most."""


@dataclass(frozen=True, eq=False)
class NearCopies:
    """Training images, and from which similarity on an image counts as a near copy of one."""

    limit: float
    """The highest similarity that is no copy yet."""
    references: np.ndarray
    """The training images as small pictures, M×cells float32."""
    scales: np.ndarray
    """d0 of each class, K float64."""
    sha256: str
    """Of what the training images come from."""
    notes: tuple[str, ...] = ()
    """What the user should know of the comparison, in sentences."""
    scores = "similarity"

    @classmethod
    def of(
        cls,
        images: Tensor | Iterator[Tensor],
        labels: np.ndarray,
        groups: Sequence[str],
        *,
        limit: float,
        classes: int,
        sha256: str = "",
        notes: tuple[str, ...] = (),
    ) -> NearCopies:
        """Return what compares images with these training images.

        Args:
            images: M×C×H×W or M×C×D×H×W in [-1, 1], whole or in blocks.
            labels: M class indices.
            groups: the patient of each image; images of one are no measure of how alike two patients are.
            limit: see `limit`; below 1.
            classes: number of classes.
            sha256: of what the images come from; by default that of their pixels.
            notes: see `notes`.

        Raises:
            ConfigError: `limit` is not below 1.
            DataError: the images are too few, or copies of each other.
        """
        if not limit < 1:
            raise ConfigError(
                f"max_similarity is {limit:g}; a number below 1 was wanted, such as 0.5 (1 is the same picture, 0 as "
                "near as real images of different patients)."
            )
        controls = [_controls(labels, label) for label in range(classes)]
        blocks = images.split(_BLOCK) if isinstance(images, Tensor) else images
        references, real = _gather(blocks, np.unique(np.concatenate(controls)))
        codes = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)[1]
        if len(set(codes.tolist())) < 2:
            codes = np.arange(len(codes))
            notes = (*notes, "All training images are of one group: d0 is taken between images of that one.")
        if len(codes) < 2:
            raise DataError(f"{count(len(codes), 'training image')} to compare with; at least 2 were wanted.")
        scales = np.array([_scale(rows, real, codes, references) for rows in controls])
        sha256 = sha256 or hashlib.sha256(references.tobytes()).hexdigest()
        return cls(float(limit), references, scales, sha256, notes)

    @property
    def settings(self) -> dict[str, Any]:
        """All that determines which images are blocked, as JSON values."""
        return {"max_similarity": self.limit, "version": _VERSION, "against_sha256": self.sha256}

    def doubts(self, images: Tensor, labels: Sequence[int]) -> np.ndarray:
        """Return the similarity of each image: what is above `limit` is left out. See `Selection`."""
        return self.similarity(images, labels)

    def too_few(self, name: str, *, wanted: int, found: int, tried: int) -> str:
        """Return what to say where too many images are near copies."""
        return (
            f"Of the first {tried:,} images of class {name!r} only {found:,} have a similarity of at most "
            f"{self.limit:g} to the training images; {wanted:,} were wanted. The model repeats its training images: "
            "train it for a shorter time or on more images, ask for fewer, or allow more with a higher "
            "--max-similarity."
        )

    def similarity(self, images: Tensor, labels: Sequence[int]) -> np.ndarray:
        """Return the similarity of each of N×C×spatial images in [-1, 1] of these classes, N float64 of 4 decimals."""
        found = np.concatenate([_nearest(block, self.references) for block in images.split(_BLOCK)])
        return np.round(1 - found / self.scales[np.asarray(labels)], _DIGITS)


def near_copies(gan: Sampler, against: str | Path | Manifest, *, limit: float) -> NearCopies:
    """Return what finds near copies of the images of `against` (its training part) among those of `gan`.

    Raises:
        ConfigError: `limit` is not below 1.
        DataError: the images cannot be used.
        ModelFileError: they are of other classes than the model's.
    """
    manifest = against if isinstance(against, Manifest) else scan(Path(against), slices=slices_of(gan))
    manifest = manifest.training_part()
    if tuple(manifest.classes) != tuple(gan.classes):
        raise ModelFileError(
            f"{manifest.root} has the classes {', '.join(manifest.classes)}, but the model makes "
            f"{', '.join(gan.classes)}. Give the folder that the model was trained on."
        )
    grid = training_grid(gan, (item.dtype for item in manifest.items))
    stored = load_tensor(manifest, grid)

    def unit() -> Iterator[Tensor]:
        for start in range(0, len(stored), _BLOCK):
            part = slice(start, start + _BLOCK)
            knots = manifest.knots[part] if gan.intensity.kind == "per-file" else None
            yield torch.from_numpy(np.ascontiguousarray(gan.intensity.forward(stored[part], knots)))

    seen = hashlib.sha256()
    for item in manifest.items:
        seen.update(f"{item.sha256} {item.label} {hash_group(item.group)}\n".encode())
    return NearCopies.of(
        unit(),
        manifest.labels,
        [item.group for item in manifest.items],
        limit=limit,
        classes=len(manifest.classes),
        sha256=seen.hexdigest(),
        notes=_coverage(gan.manifest_bytes(), manifest),
    )


def advice(rates: Mapping[str, Mapping[str, int]], limit: float) -> list[str]:
    """Return sentences for people about the images that were blocked."""
    blocked = {name: found["tried"] - found["accepted"] for name, found in rates.items() if found["tried"]}
    tried = sum(found["tried"] for found in rates.values())
    lines = [
        f"{sum(blocked.values())} of {count(tried, 'image')} were left out as near copies of training images "
        f"(similarity above {limit:g})"
        + (": " + ", ".join(f"{name} {n}" for name, n in blocked.items() if n) if any(blocked.values()) else "")
        + "."
    ]
    much = [name for name, n in blocked.items() if n > MANY * rates[name]["tried"]]
    if much:
        lines.append(
            f"More than a quarter of {', '.join(much)}: the model repeats what it was trained on there, and what is "
            "left may be close to it too. Take an earlier snapshot or train for a shorter time, with a narrower "
            "network, or with more images; do not share these without looking at them."
        )
    return lines


def _coverage(manifest: bytes | None, against: Manifest) -> tuple[str, ...]:
    """Return what is to be said if `against` is not what the model was trained on."""
    if manifest is None:
        return ("Nobody knows whether these are the images that the model was trained on: it lies in no run folder.",)
    trained = {str(entry["sha256"]) for entry in json.loads(manifest)["files"]}
    given = {item.sha256 for item in against.items}
    missing = len(trained - given)
    if not missing:
        return ()
    return (
        f"{missing:,} of the {len(trained):,} images that the model was trained on are not in {against.root}: copies "
        "of these are not found.",
    )


def _small(images: Tensor) -> Tensor:
    """Return images without their rim as small pictures, N×cells, not yet evened."""
    sides = images.shape[2:]
    cells = CELLS[len(sides)]
    for axis, side in enumerate(sides):
        # What is shifted in at the edges is no part of the picture.
        margin = min(round(side / cells), (side - 1) // 2)
        images = images.narrow(axis + 2, margin, side - 2 * margin)
    pool: Any = F.adaptive_avg_pool2d if len(sides) == 2 else F.adaptive_avg_pool3d
    small: Tensor = pool(images, [min(side, cells) for side in images.shape[2:]])
    return small.flatten(1)


def _even(flat: Tensor) -> Tensor:
    """Return small pictures of mean 0 and length 1; those of hardly any contrast stay shorter."""
    flat = flat - flat.mean(1, keepdim=True)
    return flat / flat.norm(dim=1, keepdim=True).clamp_min(_LEAST_STD * flat.shape[1] ** 0.5)


def _tangents(images: Tensor, small: Tensor) -> list[Tensor]:
    """Return how small pictures change as their images are shifted, turned and scaled a little.

    Args:
        images: N×C×spatial.
        small: their evened small pictures, N×cells.

    Returns:
        Directions of N×cells, of length 1 (or 0 where there is no change), orthogonal to each other and to `small`.
    """
    sides = images.shape[2:]
    slopes = list(torch.gradient(images, dim=[axis + 2 for axis in range(len(sides))]))
    places = torch.meshgrid(*(torch.linspace(-1, 1, side) * side / 2 for side in sides), indexing="ij")
    moves = list(slopes)
    moves += [places[a] * slopes[b] - places[b] * slopes[a] for a, b in itertools.combinations(range(len(sides)), 2)]
    moves.append(sum((place * slope for place, slope in zip(places, slopes, strict=True)), torch.zeros(())))
    found = [F.normalize(small)]
    for move in moves:
        change = _small(move)
        change = F.normalize(change - change.mean(1, keepdim=True))
        for _ in range(2):  # once more, for what rounding left
            for other in found:
                change = change - (change * other).sum(1, keepdim=True) * other
        length = change.norm(dim=1, keepdim=True)
        found.append(torch.where(length > _LEAST_CHANGE, change / length, 0.0))
    return found[1:]


def _nearest(images: Tensor, references: np.ndarray, own: np.ndarray | None = None, codes: Any = None) -> np.ndarray:
    """Return the distance of each image to the nearest training image, N float64.

    Args:
        images: N×C×spatial.
        references: see `NearCopies`.
        own: the group of each image, whose training images do not count.
        codes: the group of each training image.
    """
    best = np.full(len(images), np.inf)
    for seen in (images, images.flip(-1)):
        small = _even(_small(seen))
        tangents = [tangent.numpy() for tangent in _tangents(seen, small)]
        pictures = small.numpy()
        at = np.zeros(len(pictures), np.int64)
        least = np.full(len(pictures), np.inf, np.float32)
        for start in range(0, len(references), _REFERENCES):
            part = references[start : start + _REFERENCES]
            squares = (part**2).sum(1) - 2 * (pictures @ part.T)
            for tangent in tangents:
                squares -= (tangent @ part.T) ** 2
            if own is not None:
                squares[own[:, None] == codes[None, start : start + _REFERENCES]] = np.inf
            found = squares.argmin(1)
            values = squares[np.arange(len(squares)), found]
            better = values < least
            at[better], least[better] = found[better] + start, values[better]
        # Anew in double precision: the sums of a product depend on how many images are in it.
        apart = references[at].astype(np.float64) - pictures
        exact = (apart**2).sum(1) - sum((apart * tangent).sum(1) ** 2 for tangent in tangents)
        best = np.where(np.isfinite(least), np.minimum(best, np.sqrt(exact.clip(0))), best)
    return best


def _controls(labels: np.ndarray, label: int) -> np.ndarray:
    """Return the training images of a class whose neighbors make d0; of all where it has none."""
    members = np.flatnonzero(labels == label)
    members = members if len(members) else np.arange(len(labels))
    return np.sort(np.random.default_rng(0).permutation(members)[:_CONTROLS])


def _gather(blocks: Iterable[Tensor], wanted: np.ndarray) -> tuple[np.ndarray, dict[int, Tensor]]:
    """Return all images as small pictures, and those of the places `wanted` as they are."""
    smalls: list[np.ndarray] = []
    real: dict[int, Tensor] = {}
    start = 0
    for block in blocks:
        smalls.append(_even(_small(block)).numpy())
        inside = wanted[(wanted >= start) & (wanted < start + len(block))].tolist()
        real |= {place: block[place - start].clone() for place in inside}
        start += len(block)
    return np.concatenate(smalls), real


def _scale(rows: np.ndarray, real: Mapping[int, Tensor], codes: np.ndarray, references: np.ndarray) -> float:
    """Return d0 by these training images."""
    parts = np.array_split(rows, -(-len(rows) // _BLOCK))
    found = np.concatenate(
        [_nearest(torch.stack([real[row] for row in part.tolist()]), references, codes[part], codes) for part in parts]
    )
    scale = float(np.median(found[np.isfinite(found)]))
    if scale < 1e-3:
        raise DataError(
            "Most training images of a class look exactly like one of another group, so that a near copy cannot be "
            "told from a new image. Remove the copies (ganaug inspect DATA), or give copies one group."
        )
    return scale
