"""A judge that says of translated images whether they show the class that they are meant to show, and nothing odd."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganaug.data.manifest import UNKNOWN, Manifest
from ganaug.data.names import count
from ganaug.data.reading import scan
from ganaug.errors import ConfigError, DataError
from ganaug.evaluation.change import Change, measure
from ganaug.progress import progress_bar
from ganaug.sampling.counts import slices_of
from ganaug.sampling.sources import Sources, open_sources
from ganaug.sampling.translated import SourceBatch, choose, domains_of
from ganaug.sampling.translator import Translator
from ganaug.training.judge import FOLDS, STEPS, Judge, train_judge

PERCENTILE = 20
"""A translation must reach the probability of the target that all but this many percent of the real held-out images of
that class reach: what is rarer among real ones is no convincing example."""

LEAST_IMAGES = 10
"""Real images of a class below which there is no verdict: the percentile would rest on a single one of them."""
LEAST_PATIENTS = 2 * FOLDS
"""Patients (groups) of a class below which there is no verdict: two in each fold, so that every member of the judge has
learned a class from several."""

LEAST_TOLD = 0.5
"""How far a judge must come from chance (0) to no error (1), in balanced accuracy, to be believed: .75 of two classes.
A worse one errs so often that what it accepts says little."""
MOST_UNTOUCHED = 0.4
"""Share of the real sources that may pass for the target as they are. Of the real target images 80 % pass; where half
as many of the sources do without any translation, passing shows nothing."""

_VERSION = 1
"""Raised when the same judge decides otherwise."""


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """The images that a judge learns from and whose translations it judges, on the grid of a translation model."""

    manifest: Manifest
    sources: Sources
    labels: np.ndarray
    """The model's class of each image, N int64; -1 where the model does not know the class."""
    members: np.ndarray
    """Positions of the images that may be translated, ascending."""
    stored: np.ndarray
    knots: np.ndarray
    hashes: dict[str, list[str]]
    """By which the leak guard knows the images."""
    gan: Translator

    @classmethod
    def open(
        cls,
        gan: Translator,
        data: str | Path | Manifest,
        *,
        to: str,
        source: str | Sequence[str] | None,
        group_regex: str | None,
        show_progress: bool,
    ) -> LabelledImages:
        """Read the training part of a labelled folder.

        Raises:
            ConfigError: the model does not translate between classes, or does not know a name.
            DataError: the folder cannot be used, or holds no image to translate.
        """
        if not isinstance(gan, Translator) or gan.rule != "class":
            what = "keeps the class of an image (rule style)" if isinstance(gan, Translator) else "translates nothing"
            raise ConfigError(
                f"The model {gan.path} {what}; twins need one that turns one class into another: ganaug fit DATA "
                "--model cyclegan --rule class --domains A,B --out RUN."
            )
        if not isinstance(data, Manifest):
            data = scan(data, group_regex=group_regex, slices=slices_of(gan), show_progress=show_progress)
        manifest = data.training_part()
        if UNKNOWN in manifest.labels:
            raise DataError(f"{manifest.root} has images without a label; a judge of classes learns from labels.")
        sources = open_sources(gan, manifest, group_regex=None, show_progress=show_progress)
        domains = domains_of(gan, sources)
        domain, members = choose(gan, sources, domains, gan.target(to), source)
        stored, knots, hashes = sources.on_grid(np.arange(len(sources)), gan.grid(domain))
        labels = np.array([-1 if domain is None else domain for domain in domains], np.int64)
        return cls(manifest, sources, labels, members, stored, knots, hashes, gan)

    @property
    def groups(self) -> list[str]:
        """Patient of each image."""
        return [item.group for item in self.manifest.items]

    def settings(self, seed: int, steps: int) -> dict[str, Any]:
        """Return what determines the decisions of a judge of these images."""
        seen = hashlib.sha256(self.members.tobytes())
        for sha256, label, group in zip(self.sources.sha256, self.labels.tolist(), self.groups, strict=True):
            seen.update(f"{sha256} {label} {group!r}\n".encode(errors="backslashreplace"))
        return {"twin_judge": _VERSION, "images_sha256": seen.hexdigest(), "seed": seed, "steps": steps}

    def read(self, positions: np.ndarray) -> Tensor:
        """Return images N×C×spatial float32 in [-1, 1] on the model's device."""
        there = self.gan.intensity
        knots = self.knots[positions] if there.kind == "per-file" else None
        return torch.from_numpy(there.forward(self.stored[positions], knots=knots)).to(self.gan.device)


class TwinJudge:
    """Judges translations of the images of one labelled set to one class; get one from `train_twin_judge`.

    Give it to `SyntheticBank.translate` as `accept`, with the same set: the bank then holds accepted images only. Every
    image is judged by the member that has seen no image of its source's patient.
    """

    def __init__(self, data: LabelledImages, to: int, *, seed: int, steps: int, show_progress: bool) -> None:
        self.data, self.to = data, to
        self.classes, self.problem = _classes(data, to)
        """Positions, among the model's classes, of those that the judge tells apart; and why it makes no verdict, in
        a sentence, or nothing."""
        self.judge: Judge | None = None
        self.accuracy = self.threshold = self.untouched = float("nan")
        self.hashes = data.hashes
        self._position = {sha256: i for i, sha256 in enumerate(data.sources.sha256)}
        self.settings = data.settings(seed, steps)
        if not self.problem:
            self._train(seed, steps, show_progress)

    def _train(self, seed: int, steps: int, show_progress: bool) -> None:
        data = self.data
        labels = np.array([self.classes.index(c) if c in self.classes else -1 for c in data.labels.tolist()])
        with progress_bar("training the judge", 100.0, unit="%", show=show_progress) as progress:
            self.judge = train_judge(
                data.read,
                labels,
                data.groups,
                classes=len(self.classes),
                device=data.gan.device,
                seed=seed,
                steps=steps,
                report=lambda share: progress.update(100 * share),
            )
        held_out, target = self.judge.held_out, self.classes.index(self.to)
        guess = held_out.argmax(1)
        self.accuracy = float(np.mean([(guess[labels == c] == c).mean() for c in range(len(self.classes))]))
        self.threshold = float(np.percentile(held_out[labels == target, target], PERCENTILE))
        self.untouched = float((held_out[data.members, target] >= self.threshold).mean())
        self.problem = self._doubt()

    def _doubt(self) -> str:
        """Return why a trained judge is not believed; empty if it is."""
        chance = 1 / len(self.classes)
        told = (self.accuracy - chance) / (1 - chance)
        if told >= LEAST_TOLD and self.untouched <= MOST_UNTOUCHED:
            return ""
        least = chance + LEAST_TOLD * (1 - chance)
        return (
            f"The judge cannot tell the classes: it is right on {self.accuracy:.0%} of the real held-out images (mean "
            f"over the classes; {least:.0%} or more is wanted) and takes {self.untouched:.0%} of the real sources for "
            f"{self._name(self.to)!r} as they are ({MOST_UNTOUCHED:.0%} at most). It makes no verdict, and nothing is "
            "accepted. More labelled images would help, or larger ones."
        )

    @property
    def sentence(self) -> str:
        """What it can, or why it makes no verdict."""
        if self.problem:
            return self.problem
        return (
            f"The judge is right on {self.accuracy:.0%} of the real held-out images (mean over the classes). It "
            f"accepts a probability of {self.threshold:.2f} or more, which {100 - PERCENTILE}% of the real images of "
            f"{self._name(self.to)!r} reach, and {self.untouched:.0%} of the real sources as they are."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what it can as JSON values."""
        trained = self.judge is not None
        return {
            "classes": [self._name(c) for c in self.classes],
            "balanced_accuracy": self.accuracy if trained else None,
            "threshold": self.threshold if trained else None,
            "sources_accepted_as_they_are": self.untouched if trained else None,
            "verdict": not self.problem,
        }

    def before(self, position: int) -> np.ndarray | None:
        """Return the probabilities of a real image, one of each of `classes`; None without a verdict."""
        return None if self.problem or self.judge is None else self.judge.held_out[position]

    def after(self, position: int, translated: Tensor) -> np.ndarray | None:
        """Return the probabilities of a translation (C×spatial in [-1, 1]) of the real image at `position`.

        Alone, since in a batch the last digits would depend on its neighbors.
        """
        if self.problem or self.judge is None:
            return None
        unit = translated[None].to(self.data.gan.device)
        return self.judge.probabilities(unit, without=int(self.judge.folds[position]))[0]

    def reason(self, change: Change, after: np.ndarray | None) -> str:
        """Return why a translation is rejected: "unchanged", "everything", "outside", "no verdict", "unconvinced"; or
        nothing."""
        if change.problem:
            return change.problem
        if after is None:
            return "no verdict"
        return "" if after[self.classes.index(self.to)] >= self.threshold else "unconvinced"

    def __call__(self, images: Tensor, sources: SourceBatch, to: int) -> np.ndarray:
        """Return which translations are accepted, N bool; see `ganaug.sampling.translated.Accept`.

        Raises:
            ConfigError: the judge makes no verdict, is for another target, or does not know a source.
        """
        if self.problem:
            raise ConfigError(self.problem)
        if to != self.to:
            raise ConfigError(f"A judge for {self._name(self.to)!r} was given for images of {self._name(to)!r}.")
        accepted = np.empty(len(images), bool)
        for row, (image, real, sha256) in enumerate(zip(images, sources.images, sources.sha256, strict=True)):
            position = self._position.get(sha256)
            if position is None:
                raise ConfigError(
                    "The judge has not seen a source image and does not know whether it has seen its patient. Train "
                    "it on the set that is translated."
                )
            change = measure(real.cpu().numpy(), image.cpu().numpy())
            accepted[row] = not (change.problem or self.reason(change, self.after(position, image)))
        return accepted

    def _name(self, index: int) -> str:
        return self.data.gan.classes[index]


def train_twin_judge(
    gan: Translator,
    data: str | Path | Manifest,
    *,
    to: str,
    source: str | Sequence[str] | None = None,
    seed: int = 0,
    group_regex: str | None = None,
    steps: int = STEPS,
    show_progress: bool = False,
) -> TwinJudge:
    """Train a judge of the translations of a labelled set; say whether it can be believed in `TwinJudge.problem`.

    The judge has learned from `data`: what it accepts must not be used to test anything on the same patients.

    Args:
        gan: a translation model of the rule "class".
        data: a labelled folder, table or archive that ganaug reads, or its `Manifest`; of it the training part.
        to: the class to translate to.
        source: the class, or classes, to translate from; all others by default.
        seed: of the judge.
        group_regex: finds the patient in each file's path, as for ``ganaug fit``.
        steps: optimizer steps of each of the judge's members.

    Raises:
        ConfigError: the model does not translate between classes, or does not know a name.
        DataError: the folder cannot be used, or holds no image to translate.
    """
    images = LabelledImages.open(gan, data, to=to, source=source, group_regex=group_regex, show_progress=show_progress)
    return TwinJudge(images, gan.target(to), seed=seed, steps=steps, show_progress=show_progress)


def _classes(data: LabelledImages, to: int) -> tuple[list[int], str]:
    """Return the classes that a judge can learn, and the sentence that says if one that it needs is too small."""
    groups = data.groups
    found = {}
    for c in range(len(data.gan.classes)):
        members = np.flatnonzero(data.labels == c)
        found[c] = (len(members), len({groups[i] for i in members.tolist()}))
    enough = [c for c, (n, patients) in found.items() if n >= LEAST_IMAGES and patients >= LEAST_PATIENTS]
    needed = sorted({to, *data.labels[data.members].tolist()})
    small = [c for c in needed if c not in enough]
    if not small:
        return enough, ""
    named = ", ".join(
        f"{data.gan.classes[c]!r} has {count(found[c][0], 'image')} of {count(found[c][1], 'patient')}" for c in small
    )
    return enough, (
        f"There are too few images to train a judge: {named}; {LEAST_IMAGES} of {LEAST_PATIENTS} or more are wanted of "
        "the target and of every class that is translated. There is no verdict, and nothing is accepted. Give more "
        "labelled images, or name the classes to translate from (--from)."
    )
