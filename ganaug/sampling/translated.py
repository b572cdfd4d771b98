"""What is asked for when translated images are to fill a bank: all that determines it, and the images in batches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ganaug.data.intensity import IntensityMap
from ganaug.data.names import count
from ganaug.errors import ConfigError, DataError
from ganaug.sampling.request import images_at_a_time
from ganaug.sampling.sources import Sources, open_sources, with_sources
from ganaug.sampling.translator import Translator

_VERSION = 1
"""Raised when the same request gives other images, so that a bank of an older version is not taken for complete."""


@dataclass(frozen=True, eq=False)
class TranslationRequest:
    """Real images to be turned into one domain by one model; they lie class by class, and in their own order there."""

    gan: Translator
    sources: Sources
    to: int
    """The target domain."""
    source: int
    """The domain whose intensity map the images have."""
    seed: int
    classes: tuple[str, ...]
    """Of the bank."""
    chosen: np.ndarray
    """Positions of the sources among the real images, N int64."""
    labels: np.ndarray
    """Of the bank's images, N int64, ascending."""

    @classmethod
    def of(
        cls,
        gan: Translator,
        real: Any,
        *,
        to: str,
        source: str | Sequence[str] | None,
        counts: int | None,
        seed: int,
        group_regex: str | None = None,
        show_progress: bool = False,
    ) -> TranslationRequest:
        """Return the request for `counts` of the images of `real`; see `SyntheticBank.translate`."""
        if not isinstance(gan, Translator):
            raise ConfigError(
                f"A {type(gan).__name__} was given; a translation model was wanted: ganaug.load(RUN) of a run that was "
                "trained with --model cyclegan or pix2pix."
            )
        target = gan.target(to)
        if seed < 0:
            raise ConfigError(f"seed is {seed}; an integer of 0 or more was wanted.")
        sources = open_sources(gan, real, group_regex=group_regex, show_progress=show_progress)
        domains = domains_of(gan, sources)
        domain, members = choose(gan, sources, domains, target, source)
        if counts is not None:
            if isinstance(counts, bool) or not isinstance(counts, int) or not 1 <= counts <= len(members):
                raise ConfigError(
                    f"counts is {counts!r}, and there are {len(members)} images to translate; a number from 1 to that "
                    "was wanted. The same image gives the same translation, so that more would be copies."
                )
            members = np.sort(np.random.default_rng(seed).permutation(members)[:counts])
        if gan.rule == "class" or any(domains[i] is not None and sources.class_of(i) in gan.classes for i in members):
            classes = gan.classes
            labels = np.full(len(members), target)
        else:
            classes = _label_classes(gan, sources)
            labels = np.array([classes.index(sources.class_of(i)) for i in members.tolist()], np.int64)
        order = np.argsort(labels, kind="stable")
        return cls(gan, sources, target, domain, seed, classes, members[order], labels[order])

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def model_sha256(self) -> str:
        return self.gan.model_sha256

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image, channels first."""
        return self.gan.shape

    @property
    def intensity(self) -> IntensityMap:
        """The map of the target."""
        return self.gan.intensities[self.to]

    @property
    def dtype(self) -> str:
        return self.intensity.dtype

    @property
    def truncation(self) -> float:
        return 1.0

    @property
    def counts(self) -> dict[str, int]:
        """Class → images, all classes in their order."""
        return dict(zip(self.classes, np.bincount(self.labels, minlength=len(self.classes)).tolist(), strict=True))

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """Label, place of the source and its SHA-256, for each image."""
        digests = b"".join(bytes.fromhex(self.sources.sha256[i]) for i in self.chosen.tolist())
        return {
            "labels": self.labels,
            "indices": self.chosen,
            "sources": np.frombuffer(digests, np.uint8).reshape(-1, 32),
        }

    @property
    def batch(self) -> int:
        """How many images to make at a time."""
        return images_at_a_time(self.shape)

    def make(self, gan: Translator, positions: slice) -> np.ndarray:
        """Make the images at `positions`, N×C×… in the stored type of the target.

        Raises:
            ModelFileError: the model's images are not finite.
        """
        images, knots, _ = self._real
        there = gan.intensities[self.source]
        unit = there.forward(images[positions], knots[positions] if there.kind == "per-file" else None)
        made = gan.translate(torch.from_numpy(np.ascontiguousarray(unit)), to=self.to)
        return self.intensity.inverse(made.cpu().numpy(), tails=False)

    def manifest(self, gan: Translator) -> bytes:
        """Return the run's ``train_manifest.json`` with the hashes of the sources in it."""
        return with_sources(gan.manifest_bytes(), self._real[2])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; of the sources their hashes in one."""
        images = hashlib.sha256()
        for i in self.chosen.tolist():
            images.update(f"{self.sources.sha256[i]} {i}\n".encode())
        return {
            "format": "bank",
            "translation": _VERSION,
            "model_sha256": self.model_sha256,
            "to": self.gan.classes[self.to],
            "source": self.gan.classes[self.source],
            "classes": list(self.classes),
            "labels_sha256": hashlib.sha256(self.labels.tobytes()).hexdigest(),
            "seed": self.seed,
            "sources_sha256": images.hexdigest(),
        }

    @cached_property
    def _real(self) -> tuple[np.ndarray, np.ndarray, dict[str, list[str]]]:
        return self.sources.on_grid(self.chosen, self.gan.grid(self.source))


def domains_of(gan: Translator, sources: Sources) -> list[int | None]:
    """Return the domain of each image: what a table says, else its class if that is one; None if neither tells."""
    found: list[int | None] = []
    for i in range(len(sources)):
        name = sources.domains[i] if gan.rule == "style" and sources.domains[i] in gan.classes else sources.class_of(i)
        found.append(gan.classes.index(name) if name in gan.classes else None)
    return found


def choose(
    gan: Translator,
    sources: Sources,
    domains: list[int | None],
    target: int,
    source: str | Sequence[str] | None,
) -> tuple[int, np.ndarray]:
    """Return the source domain and the positions of the images to translate.

    Args:
        domains: of each image, see `domains_of`.
        target: what to translate to; images of it are left out.
        source: see `SyntheticBank.translate`.

    Raises:
        ConfigError: `source` does not fit.
        DataError: no image is left.
    """
    names = [source] if isinstance(source, str) else list(source or ())
    wanted = [gan.domain(name) for name in names]
    if target in wanted:
        raise ConfigError(f"source and to are both {gan.classes[target]!r}; two different ones were wanted.")
    of = np.array([-1 if domain is None else domain for domain in domains], np.int64)
    if gan.rule == "class":
        # An image without a label may be of any class; one with a label that the model does not know is of none.
        others = (of != target) & ((of >= 0) | (sources.labels < 0))
        members = np.flatnonzero(np.isin(of, wanted) if wanted else others)
        domain = wanted[0] if wanted else gan.source(None, to=target)
    else:
        if len(wanted) > 1:
            raise ConfigError(f"source is {source!r}; under the rule 'style' images are translated from one domain.")
        seen = sorted({*of.tolist()} - {-1, target})
        # A folder or table that names the domains tells by itself which one its images are of.
        domain = wanted[0] if wanted else seen[0] if len(seen) == 1 else gan.source(None, to=target)
        members = np.flatnonzero(of == domain if (of >= 0).any() else of == -1)
    if not len(members):
        held = ", ".join(dict.fromkeys(sources.class_of(i) or "unlabelled" for i in range(len(sources)))) or "nothing"
        raise DataError(
            f"There is no image to translate to {gan.classes[target]!r} among the "
            f"{count(len(sources), 'image')} of {sources.name} ({held}); the model knows {', '.join(gan.classes)}. "
            "Give images of another class or domain than the target's."
        )
    return domain, members


def _label_classes(gan: Translator, sources: Sources) -> tuple[str, ...]:
    """Return the classes of a bank whose images keep their labels."""
    if (sources.labels < 0).any():
        raise DataError(
            f"{sources.name} has images without a label, which a bank cannot hold; give a labelled folder, or "
            "translate the files: ganaug translate RUN INPUT --to DOMAIN --out DIR."
        )
    return gan.labels if set(sources.classes) <= set(gan.labels) else sources.classes
