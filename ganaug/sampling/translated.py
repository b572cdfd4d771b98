"""What is asked for when translated images are to fill a bank: all that determines it, and the images in batches."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ganaug.data.intensity import IntensityMap
from ganaug.data.names import count
from ganaug.distributed import team
from ganaug.errors import ConfigError, DataError
from ganaug.sampling.request import images_at_a_time
from ganaug.sampling.sources import Sources, open_sources, with_sources
from ganaug.sampling.translator import Translator

_VERSION = 1
"""Raised when the same request gives other images, so that a bank of an older version is not taken for complete."""


class SourceBatch(NamedTuple):
    """The real images behind a batch of translated ones."""

    images: Tensor
    """N×C×spatial float32 in [-1, 1], as the model was given them."""
    sha256: tuple[str, ...]
    """Of each one's file, or of its pixels where it comes from no file."""


class Accept(Protocol):
    """Says which translations a bank may hold, such as `ganaug.evaluation.twin_judge.TwinJudge`."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """All that determines the decisions, as JSON values: a bank that was begun goes on under the same alone."""

    @property
    def hashes(self) -> Mapping[str, Sequence[str]]:
        """The leak guard's hashes of the images that it has learned from; see `with_sources`."""

    def __call__(self, images: Tensor, sources: SourceBatch, to: int) -> np.ndarray:
        """Return for each of N×C×spatial translations in [-1, 1] whether it is kept, N bool.

        The answer depends on the item alone, not on its neighbors in the batch.
        """


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
    accept: Accept | None = None
    """What is to select among the translations; see `accepted`."""

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
        accept: Accept | None = None,
        show_progress: bool = False,
    ) -> TranslationRequest:
        """Return the request for `counts` of the images of `real`; see `SyntheticBank.translate`."""
        if not isinstance(gan, Translator):
            raise ConfigError(
                f"A {type(gan).__name__} was given; a translation model was wanted: ganaug.load(RUN) of a run that was "
                "trained with --model cyclegan or pix2pix."
            )
        target = gan.target(to)
        if accept is not None and not (hasattr(accept, "settings") and hasattr(accept, "hashes")):
            raise ConfigError(
                f"accept is {accept!r}; a callable with `settings` and `hashes` was wanted, such as "
                "ganaug.evaluation.twin_judge.train_twin_judge returns (see ganaug.sampling.translated.Accept)."
            )
        if seed < 0:
            raise ConfigError(f"seed is {seed}; an integer of 0 or more was wanted.")
        with team().lead_first():  # the others find what it kept in the cache
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
        return cls(gan, sources, target, domain, seed, classes, members[order], labels[order], accept)

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
        made = gan.translate(self._unit(gan, positions), to=self.to)
        return self.intensity.inverse(made.cpu().numpy(), tails=False)

    def decide(self, gan: Translator, positions: slice) -> np.ndarray:
        """Return which of the images at `positions` are accepted, N bool.

        Raises:
            ConfigError: `accept` answered something else.
        """
        assert self.accept is not None
        real = self._unit(gan, positions)
        sources = SourceBatch(real, tuple(self.sources.sha256[i] for i in self.chosen[positions].tolist()))
        found = np.asarray(self.accept(gan.translate(real, to=self.to), sources, self.to))
        if found.shape != (len(real),) or found.dtype != bool:
            raise ConfigError(
                f"accept returned {found.dtype} of shape {found.shape} for {count(len(real), 'image')}; as many bool "
                "were wanted."
            )
        return found

    def accepted(self, kept: np.ndarray) -> tuple[TranslationRequest, dict[str, dict[str, int]]]:
        """Return the request for the accepted images alone; and, by class of the source, how many of how many they are.

        Args:
            kept: which images are accepted, N bool.

        Raises:
            DataError: none is.
        """
        names = [self.sources.class_of(i) for i in self.chosen.tolist()]
        tried, accepted = Counter(names), Counter(itertools.compress(names, kept))
        rates = {name: {"tried": tried[name], "accepted": accepted[name]} for name in tried}
        if not kept.any():
            raise DataError(
                f"None of the {count(len(self), 'translation')} to {self.gan.classes[self.to]!r} was accepted, so that "
                "there is nothing to fill a bank with. Look at the reasons (ganaug twins), and train the model longer."
            )
        return replace(self, chosen=self.chosen[kept], labels=self.labels[kept]), rates

    def manifest(self, gan: Translator) -> bytes:
        """Return the run's ``train_manifest.json`` with the hashes of the sources in it, and of what `accept` saw."""
        manifest = with_sources(gan.manifest_bytes(), self._real[2])
        return manifest if self.accept is None else with_sources(manifest, self.accept.hashes)

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
            **({} if self.accept is None else {"accept": dict(self.accept.settings)}),
        }

    def _unit(self, gan: Translator, positions: slice) -> Tensor:
        """Return the sources at `positions`, N×C×spatial in [-1, 1]."""
        images, knots, _ = self._real
        there = gan.intensities[self.source]
        unit = there.forward(images[positions], knots[positions] if there.kind == "per-file" else None)
        return torch.from_numpy(np.ascontiguousarray(unit))

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
