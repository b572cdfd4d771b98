"""The generators of a study: each is trained on the study's training part alone, and fills a bank for the arms."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ganaug.data.manifest import Manifest
from ganaug.errors import DataError, DivergedError, ModelFileError
from ganaug.evaluation.arms import FOLDER_ARMS
from ganaug.evaluation.judging import ClassJudge
from ganaug.evaluation.twin_judge import train_twin_judge
from ganaug.files import read_json, write_json
from ganaug.sampling.bank import SyntheticBank
from ganaug.sampling.sampler import load
from ganaug.training.fit import fit
from ganaug.training.plan import Plan, make_plan
from ganaug.training.probe import probe

TRIES = 2
"""Trainings of a generator until it is of use; each takes a whole training's time."""

DONE = "made.json"
"""Written into a generator's folder when its banks are complete."""

KINDS = {
    "conditional": ("synthetic", "filtered"),
    "class": ("translated",),
    "site": ("site",),
}
"""What is trained, and the sources of images (`ganaug.evaluation.arms.Arm.source`) that come of it."""


@dataclass(frozen=True)
class GeneratorJob:
    """One generator to train, and the banks to fill."""

    kind: str
    """Of `KINDS`."""
    number: int
    """Which of its kind."""
    folder: Path
    """Where its run and banks go."""
    train: Manifest
    sources: tuple[str, ...]
    """Which banks, of those of its kind."""
    counts: dict[str, int]
    """Images of each class in a bank of images from noise."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of `ganaug.fit`: minutes or kimg, size, threads, device."""
    target: Manifest | None = None
    """The other site's images."""
    run: Path | None = None
    """A run that is there already; nothing is trained."""
    attempt: int = 0
    """How often it was trained in vain."""

    @property
    def seed(self) -> int:
        """The seed of its training."""
        return self.number + 1000 * self.attempt

    @property
    def is_done(self) -> bool:
        """Whether it was trained before."""
        return (self.folder / DONE).exists()


def bank_folder(job_folder: Path, source: str) -> Path:
    """Return where a generator's bank of a source is."""
    return job_folder / f"bank-{source}"


def make_generator(job: GeneratorJob) -> dict[str, Any]:
    """Train a generator, fill its banks, and return facts as JSON values. What is complete is not made again.

    A generator that diverges or collapses, or of which no image is accepted for any bank, is trained again with another
    seed, as its user would; ``tried_before`` tells what went wrong. After `TRIES` it is reported in ``failed``, and has
    no banks; so is a bank for which nothing was accepted, in the ``failed`` of its source.
    """
    done = job.folder / DONE
    facts: dict[str, Any] = {"kind": job.kind, "number": job.number, "sources": []}
    if job.is_done:
        facts = read_json(done, ModelFileError, "Delete the study's folder and start again.")
    if "failed" in facts or not [source for source in job.sources if source not in facts]:
        return facts
    # Arms that were added later find the generator trained.
    given = job.run or (job.folder / "run" if "model_sha256" in facts else None)
    before: list[str] = []
    for attempt in range(1 if given else TRIES):
        found = _made(replace(job, attempt=attempt), facts, given)
        if found["sources"]:
            break
        before.append(found.get("failed") or next(found[source]["failed"] for source in job.sources))
    if len(before) and not given:
        found["tried_before"] = before
    write_json(done, found)
    return found


def _made(job: GeneratorJob, facts: Mapping[str, Any], run: Path | None) -> dict[str, Any]:
    """Return the facts with those of a generator, new unless there is its run, and of its missing banks."""
    found = dict(facts)
    try:
        run = run or _trained(job)
    except DivergedError as problem:
        return {**found, "failed": str(problem)}
    gan = load(run, device=job.settings.get("device", "auto"))
    found["model_sha256"] = gan.model_sha256
    for source in job.sources:
        try:
            found[source] = found.get(source) or _filled(job, gan, source)
        except DataError as problem:
            found[source] = {"failed": str(problem)}
    found["sources"] = [source for source in KINDS[job.kind] if source in found and "failed" not in found[source]]
    return found


def minutes_of(job: GeneratorJob) -> float:
    """Return how long a generator trains: what was asked for, or what some timed steps let expect."""
    minutes = job.settings.get("minutes")
    return probe(_plan(job)[0])["expected_minutes"] if minutes is None else float(minutes)


def _trained(job: GeneratorJob) -> Path:
    planned, settings = _plan(job)
    target = None if job.target is None else job.target.root
    return fit(job.train.root, job.folder / "run", planned=planned, target=target, overwrite=True, **settings).path


def _plan(job: GeneratorJob) -> tuple[Plan, dict[str, Any]]:
    settings = {**job.settings, "seed": job.seed}
    if job.kind != "conditional":
        settings |= {"model": "cyclegan", "rule": "class" if job.kind == "class" else "style"}
    domains = len(job.train.classes)
    if job.kind == "class" and domains > 2:
        # All domains share a batch in equal parts; the recipes' own batches are 8 images and 4 volumes.
        settings["batch"] = domains * -(-(8 if len(job.settings["size"]) == 2 else 4) // domains)
    return make_plan(job.train, settings=settings, target=job.target), settings


def _filled(job: GeneratorJob, gan: Any, source: str) -> dict[str, Any]:
    folder = bank_folder(job.folder, source)
    facts: dict[str, Any] = {}
    # Seed 1: the run's own pictures and a user's first samples are those of seed 0.
    options: dict[str, Any] = {"seed": 1, "overwrite": True}
    if source == "synthetic":
        bank = SyntheticBank.generate(gan, folder, counts=job.counts, **options)
    elif source == "filtered":
        judge = ClassJudge.train(gan, job.train, seed=job.number)
        facts["judge"] = judge.to_dict()
        bank = SyntheticBank.generate(gan, folder, counts=job.counts, accept=judge, **options)
    elif source == "translated":
        rare = min(job.train.counts, key=lambda name: job.train.counts[name])
        common = max(job.train.counts, key=lambda name: job.train.counts[name])
        judge_of_twins = train_twin_judge(gan, job.train, to=rare, source=common, seed=job.number)
        facts |= {"from": common, "to": rare, "judge": judge_of_twins.to_dict(), "says": judge_of_twins.sentence}
        if judge_of_twins.problem:
            raise DataError(judge_of_twins.problem)
        bank = SyntheticBank.translate(gan, folder, job.train, to=rare, source=common, accept=judge_of_twins, **options)
    else:
        to = gan.targets[-1]
        bank = SyntheticBank.translate(gan, folder, job.train, to=to, source=gan.classes[0], **options)
    tried = {name: dict(numbers) for name, numbers in bank.acceptance.items()}
    return {**facts, "counts": dict(bank.counts), "acceptance": tried, "sha256": bank_sha256(bank)}


def bank_sha256(bank: SyntheticBank) -> str:
    """Return a hash that tells which images a bank holds: of its model, and of what was asked of it."""
    parts = (bank.model_sha256, str(bank.seed), *sorted(bank.column_sha256.values()))
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def bank_counts(real: dict[str, int]) -> dict[str, int]:
    """Return how many images of each class a bank is to have: four epochs' worth of the arm that adds most.

    At least 100, so that a class of few images sees many. Whatever arms are asked for now: others may be added later.

    Args:
        real: training images by class.
    """
    ratio = max(arm.ratio for arm in FOLDER_ARMS.values())
    most = max(real.values())
    wanted = {}
    for name, n in real.items():
        everywhere = 0.25 * n
        wanted[name] = int(np.ceil(max(100, 4 * min(ratio * n, everywhere + (most - n)))))
    return wanted
