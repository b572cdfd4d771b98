"""`ganaug study`: does it help? The paired study of a labelled folder, from the split to the verdict.

The order is what keeps it honest. Patients are split first. Generators, the judge and the classifiers see the training
part alone. What is to be chosen (augmentation, ratio, filter, the baseline itself) is chosen on the validation part.
The test part is scored in every trial, but looked at once, for the comparison of the two arms chosen before.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ganaug.data.names import count
from ganaug.errors import ConfigError, ModelFileError
from ganaug.evaluation.arms import FOLDER_ARMS
from ganaug.evaluation.generators import (
    KINDS,
    GeneratorJob,
    bank_counts,
    bank_folder,
    make_generator,
    minutes_of,
)
from ganaug.evaluation.outcome import Part, StudyOutcome
from ganaug.evaluation.study_parts import StudyParts, StudySettings, read_parts
from ganaug.evaluation.study_report import write_study_report
from ganaug.evaluation.trials import (
    SCORED,
    Trial,
    check_model,
    mixture_of,
    read_trial,
    run_trial,
    save_parts,
    side_by_side,
    source_sha256,
)
from ganaug.evaluation.trivial import AUGMENTATIONS
from ganaug.files import check_output, disk_errors, keep_apart, only_writer, prepare_output, read_json, write_json
from ganaug.models.device import choose_device
from ganaug.progress import progress_bar
from ganaug.sampling.sampler import load_sampler

VERDICT = "verdict.json"
PLAN = "study.json"
TUNING_SEEDS = 3
TIMED_STEPS = 2, 14
"""Optimizer steps of two short trainings: their difference is that of the steps alone, without building and scoring."""


def study(
    data: str | Path,
    out: str | Path,
    settings: StudySettings | None = None,
    *,
    run: str | Path | None = None,
    test: str | Path | None = None,
    target: str | Path | None = None,
    device: str = "auto",
    jobs: int | None = None,
    overwrite: bool = False,
    show_progress: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> StudyOutcome:
    """Find out whether adding generated images helps a classifier of the classes of a folder.

    Writes ``verdict.json`` (verdict, all figures, the recommended setting), ``report.html``, the generators and their
    banks, and every single prediction into `out`. The same call goes on where it was stopped.

    Args:
        data: a labelled folder that ganaug reads. Splits that its table names are taken (``train``, ``val``, ``test``);
            else patients are dealt out.
        out: the folder to create.
        settings: what is to be done.
        run: a finished conditional run, whose generator is examined in the place of new ones; images that it was
            trained on are the training part. The verdict then holds for this generator alone.
        test: another site's labelled folder, on which all arms are scored as well.
        target: another site's images, with or without labels, for the arm `site`.
        device: where generators and classifiers are trained.
        jobs: processes side by side; by default one for each CPU core, and 1 on a GPU.
        say: is told what is going on, a line at a time.

    Raises:
        ConfigError, DataError: the folder or the settings do not fit; before anything is trained.
        LeakError: patients of the test parts are known to the run.
    """
    asked = settings or StudySettings()
    out = Path(out)
    place = choose_device(device)
    if run is not None:
        if target is not None:
            raise ConfigError("A run and a target were given; a run is examined alone. Leave --run or --target out.")
        # Its own arms, and those without a generator: no others are trained.
        own = {"", "duplicates", *KINDS["conditional"]}
        asked = replace(asked, arms=tuple(arm for arm in asked.arms if FOLDER_ARMS[arm].source in own))
    if target is not None and "site" not in asked.arms:
        asked = replace(asked, arms=(*asked.arms, "site"))
    if "site" in asked.arms and target is None:
        raise ConfigError("The arm site was asked for; it needs --target, a folder of the other site's images.")
    for source in (data, run, test, target):
        if source is not None:
            keep_apart(out, Path(source))
    with disk_errors(out):
        _check_place(out, asked, overwrite)
    parts = read_parts(data, asked, run, test, target, show_progress)
    numbers = parts.manifests["train"].counts.values()
    if "translated" in asked.arms and min(numbers) == max(numbers):
        asked = replace(asked, arms=tuple(arm for arm in asked.arms if arm != "translated"))
        say("The arm translated is left out: no class is rarer than another that it could be filled from.")
    shape = (parts.grid.channels, *parts.grid.size)
    check_model(asked.model, shape, len(parts.classes))
    jobs = jobs or (1 if place.type != "cpu" else max(1, os.cpu_count() or 1))
    for note in parts.notes:
        say(note)
    for name, manifest in parts.manifests.items():
        counts = ", ".join(f"{label}: {count}" for label, count in manifest.counts.items())
        say(f"{name:<6} {len(manifest):>6} images ({counts})")
    with disk_errors(out), only_writer(out):
        _prepare(out, asked, parts, run, overwrite)
        with tempfile.TemporaryDirectory(prefix="ganaug-study-") as folder:
            arrays = Path(folder)
            arrays_of = {name: (parts.images[name], manifest.labels) for name, manifest in parts.manifests.items()}
            save_parts(arrays, arrays_of, parts.classes, parts.intensity)
            given = None if run is None else Path(run)
            return _Study(asked, parts, out, arrays, str(place), jobs, given, show_progress, say).run()


class _Study:
    def __init__(
        self,
        asked: StudySettings,
        parts: StudyParts,
        out: Path,
        arrays: Path,
        device: str,
        jobs: int,
        run: Path | None,
        show: bool,
        say: Callable[[str], None],
    ) -> None:
        self.asked, self.parts, self.out, self.arrays = asked, parts, out, arrays
        self.device, self.jobs, self.given_run, self.show, self.say = device, jobs, run, show, say
        self.results = out / "trials"
        self.results.mkdir(exist_ok=True)
        self.model_sha256 = source_sha256(asked.model)

    def run(self) -> StudyOutcome:
        self._estimate()
        augment, tuning = self._tuned()
        made = self._generated()
        arms = self._possible(made)
        generators = tuple(seed % self._generators for seed in range(self.asked.seeds))
        trials = {
            (arm, seed): self._trial(arm, seed, augment, made) for seed in range(self.asked.seeds) for arm in arms
        }
        self._run(list(trials.values()), "trainings")
        found: dict[str, dict[str, np.ndarray]] = {part: {} for part in SCORED if part in self.parts.manifests}
        for arm in arms:
            rows = [self._kept(trials[arm, seed]) for seed in range(self.asked.seeds)]
            for part in found:
                found[part][arm] = np.stack([row[part] for row in rows])
        outcome = StudyOutcome(
            self.parts.classes,
            tuple(self.parts.manifests["train"].counts.values()),
            tuple(range(self.asked.seeds)),
            generators,
            {part: self._part(part, rows) for part, rows in found.items()},
            {**asdict(self.asked), "augmentation": augment, "tuning": tuning, "generators_made": made},
            self.asked.smallest_gain,
        )
        write_json(self.out / VERDICT, self._verdict(outcome, made))
        write_study_report(outcome, self.parts, made, self.out)
        return outcome

    @property
    def _generators(self) -> int:
        return 1 if self.given_run else self.asked.generators

    def _part(self, name: str, probabilities: dict[str, np.ndarray]) -> Part:
        manifest = self.parts.manifests[name]
        groups = tuple(item.group for item in manifest.items)
        # A group of its own for each image is no group.
        return Part(manifest.labels, None if len(set(groups)) == len(groups) else groups, probabilities)

    def _trial(self, arm: str, seed: int, augment: str, made: Mapping[str, Mapping[str, Any]]) -> Trial:
        source = FOLDER_ARMS[arm].source
        bank, sha256 = "", ""
        if source:
            # The control has the very plan of the synthetic arm, and takes a bank for its numbers alone.
            source = "synthetic" if source == "duplicates" else source
            number = seed % self._generators
            kind = next(kind for kind, sources in KINDS.items() if source in sources)
            bank = str(bank_folder(self._folder(kind, number), source))
            sha256 = str(made[f"{kind}-{number}"][source]["sha256"])
        return Trial(
            arm=arm,
            seed=seed,
            steps=self.asked.steps,
            batch=self.asked.batch,
            augment=augment,
            bank=bank,
            bank_sha256=sha256,
            mixture=self._mixture(arm, made) if bank else {},
            model=self.asked.model,
            model_sha256=self.model_sha256,
            lr=self.asked.lr,
            device=self.device,
            data_sha256=self.parts.sha256,
        )

    def _mixture(self, arm: str, made: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        train = self.parts.manifests["train"].counts
        if FOLDER_ARMS[arm].source != "translated":
            return mixture_of(arm, train)
        # One setting for all generators, or there would be none to recommend.
        banks = [made[f"class-{number}"]["translated"]["counts"] for number in range(self._generators)]
        return mixture_of(arm, train, supply={name: min(bank[name] for bank in banks) for name in train})

    def _folder(self, kind: str, number: int) -> Path:
        return self.out / "generators" / f"{kind}-{number}"

    def _kept(self, trial: Trial) -> dict[str, np.ndarray]:
        found = read_trial(self.results, trial)
        if found is None:
            raise ModelFileError(
                f"{self.results / trial.key}.npz was written and is gone or damaged. Give the same command again: only "
                "what is missing is trained."
            )
        return found

    def _run(self, trials: Sequence[Trial], label: str) -> None:
        missing = [trial for trial in trials if read_trial(self.results, trial) is None]
        if not missing:
            return
        calls = [(run_trial, (trial, self.arrays, self.results)) for trial in missing]
        with progress_bar("study", len(trials), unit=label, show=self.show) as progress:
            for done, key in enumerate(side_by_side(calls, jobs=self.jobs), start=len(trials) - len(missing) + 1):
                progress.update(done, key.rsplit("-", 1)[0])

    def _estimate(self) -> None:
        """Time what is still to be trained, and say how long it will take."""
        trainings, jobs = self._trainings_left(), [job for job in self._jobs() if job.run is None and not job.is_done]
        if not trainings and not jobs:
            return
        # The generators of a kind take the same time, and those by the clock are not timed.
        minutes = {job.kind: minutes_of(job) for job in {job.kind: job for job in jobs}.values()}
        generators = sum(minutes[job.kind] for job in jobs) / self._generator_jobs
        seconds = self._seconds_of_training()
        classifiers = trainings * seconds / self.jobs / 60
        self.say(
            f"Estimate: {count(math.ceil(generators + classifiers), 'minute')}, {math.ceil(generators)} for "
            f"{count(len(jobs), 'generator')} and {math.ceil(classifiers)} for {count(trainings, 'training')} of "
            f"{seconds:.0f} s, {self.jobs} side by side. Stopped, it goes on with the same command."
        )

    def _trainings_left(self) -> int:
        seeds, names = self.asked.seeds, len(self._augmentations)
        tuned = 0 if names == 1 else min(TUNING_SEEDS, seeds) * (names - ("augmented" in self.asked.arms))
        kept = [file.stem.rsplit("-", 3) for file in self.results.glob("*-*-*-*.npz")]
        there = sum(arm in {*self.asked.arms, "augmented"} and int(seed) < seeds for arm, _, seed, _ in kept)
        return max(0, len(self.asked.arms) * seeds + tuned - there)

    def _seconds_of_training(self) -> float:
        """Return how long one training and the scoring of its classifier take, by two short ones."""
        # Of those that may be chosen the last one takes longest.
        short, longer = (
            Trial(
                "augmented", 0, steps, self.asked.batch, self._augmentations[-1], model=self.asked.model,
                lr=self.asked.lr, device=self.device,
            )
            for steps in TIMED_STEPS
        )  # fmt: skip
        seconds = []
        # The first one loads the images and chooses kernels, once for all that follow.
        for trial in (short, short, longer):
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                run_trial(trial, self.arrays, Path(folder))
                seconds.append(time.perf_counter() - start)
        step = max(0.0, seconds[2] - seconds[1]) / (longer.steps - short.steps)
        return seconds[1] + step * (self.asked.steps - short.steps)

    @property
    def _augmentations(self) -> list[str]:
        """What is tuned over."""
        grid = self.parts.grid
        return list(AUGMENTATIONS) if len(grid.size) == 2 and grid.channels in (1, 3) else ["classical"]

    def _tuned(self) -> tuple[str, dict[str, float]]:
        """Return the augmentation that is best on validation, and the mean balanced accuracy of each."""
        names = self._augmentations
        if len(names) == 1:
            return names[0], {}
        trials = {
            name: [self._trial("augmented", seed, name, {}) for seed in range(min(TUNING_SEEDS, self.asked.seeds))]
            for name in names
        }
        self._run([trial for row in trials.values() for trial in row], "trainings to tune the augmentation")
        labels = self.parts.manifests["val"].labels
        means = {}
        for name, row in trials.items():
            right = [self._kept(trial)["val"].argmax(axis=1) == labels for trial in row]
            means[name] = float(np.mean([[hits[labels == c].mean() for c in np.unique(labels)] for hits in right]))
        best = max(means, key=lambda name: means[name])
        self.say(
            f"Augmentation: {best}, of "
            + ", ".join(f"{name} {100 * mean:.1f}" for name, mean in means.items())
            + " % balanced accuracy on validation."
        )
        return best, means

    def _kinds(self) -> list[str]:
        sources = {FOLDER_ARMS[arm].source for arm in self.asked.arms}
        sources |= {"synthetic"} if "duplicates" in sources else set()
        return [kind for kind, makes in KINDS.items() if sources.intersection(makes)]

    @property
    def _generator_jobs(self) -> int:
        return max(1, min(self.jobs, len(self._kinds()) * self._generators))

    def _jobs(self) -> list[GeneratorJob]:
        """Return all generators that the arms need, also those that are trained already."""
        sources = {FOLDER_ARMS[arm].source for arm in self.asked.arms}
        sources |= {"synthetic"} if "duplicates" in sources else set()
        train = self.parts.manifests["train"]
        threads = max(1, (os.cpu_count() or 1) // self._generator_jobs)
        settings: dict[str, Any] = {
            "size": self.parts.grid.size,
            "channels": self.parts.grid.channels,
            "device": self.device,
        }
        settings |= {"kimg": self.asked.kimg} if self.asked.kimg is not None else {"minutes": self.asked.minutes}
        settings |= {"threads": threads} if self.device == "cpu" and self._generator_jobs > 1 else {}
        jobs = []
        for kind in self._kinds():
            given = self.given_run if kind == "conditional" else None
            for number in range(self._generators):
                jobs.append(
                    GeneratorJob(
                        kind, number, self._folder(kind, number), train,
                        tuple(source for source in KINDS[kind] if source in sources),
                        bank_counts(train.counts), settings,
                        self.parts.target if kind == "site" else None, given,
                    )
                )  # fmt: skip
        return jobs

    def _generated(self) -> dict[str, dict[str, Any]]:
        """Train what is missing; return by ``kind-number`` what `make_generator` tells."""
        jobs, made = self._jobs(), {}
        for job in jobs:
            job.folder.mkdir(parents=True, exist_ok=True)
        with progress_bar("generators", len(jobs), unit="generators", show=self.show and bool(jobs)) as progress:
            calls = [(make_generator, (job,)) for job in jobs]
            for done, facts in enumerate(side_by_side(calls, jobs=self._generator_jobs), start=1):
                name = f"{facts['kind']}-{facts['number']}"
                made[name] = facts
                progress.update(done, name)
                if "tried_before" in facts:
                    self.say(f"The generator {name} was of no use, and was trained again: {facts['tried_before'][0]}")
        return dict(sorted(made.items()))

    def _possible(self, made: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Return the arms whose banks are complete, after saying why others are left out."""
        arms = []
        for arm in self.asked.arms:
            source = FOLDER_ARMS[arm].source
            source = "synthetic" if source == "duplicates" else source
            kind = next((kind for kind, sources in KINDS.items() if source in sources), None)
            facts = [made[f"{kind}-{n}"] for n in range(self._generators)] if kind else []
            failed = [one.get("failed") or one[source].get("failed") for one in facts]
            if any(failed):
                self.say(f"The arm {arm} is left out: {next(filter(None, failed))}")
            else:
                arms.append(arm)
        return arms

    def _verdict(self, outcome: StudyOutcome, made: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Return what goes into ``verdict.json``: the verdict first, then the setting, then all figures."""
        said = outcome.verdict()
        treatment, baseline = outcome.chosen
        use = said is not None and said["word"] == "use" and treatment is not None
        arm = treatment if use and treatment is not None else baseline
        # A bank tells the classes and the form of the images also where none are to be added.
        known = [name for name in outcome.arms if FOLDER_ARMS[name].source]
        trial = self._trial(arm if use else known[0], 0, outcome.settings["augmentation"], made) if known else None
        recommended = {
            "arm": arm,
            "title": FOLDER_ARMS[arm].title,
            "augmentation": outcome.settings["augmentation"] if FOLDER_ARMS[arm].augmented else None,
            "bank": Path(os.path.relpath(trial.bank, self.out)).as_posix() if trial else None,
            "mixture": self._mixture(arm, made),
        }
        return {
            "format": "ganaug-verdict",
            "version": 1,
            "verdict": said,
            "recommended": recommended,
            "other_site": outcome.verdict("site") if "site" in outcome.parts else None,
            **outcome.to_dict(),
        }


def _check_place(out: Path, asked: StudySettings, overwrite: bool) -> None:
    """Refuse a folder that cannot take this study, as far as can be told before the images are read."""
    if overwrite or not (out / PLAN).exists():
        check_output(out, overwrite=overwrite)
        return
    _refuse(out, _changed_settings(_plan_in(out), asked))


def _plan_in(out: Path) -> dict[str, Any]:
    plan = read_json(out / PLAN, ConfigError, "Choose another folder, or --overwrite.")
    return plan if isinstance(plan, dict) else {}


def _changed_settings(before: Mapping[str, Any], asked: StudySettings) -> list[str]:
    """Name what differs; more seeds or arms than before go on with what is there."""
    old, new = before.get("settings", {}), json.loads(json.dumps(asdict(asked)))
    return [key for key in new if key not in ("seeds", "arms") and new[key] != old.get(key)]


def _refuse(out: Path, changed: Sequence[str]) -> None:
    if changed:
        raise ConfigError(
            f"{out} holds a study that differs in {', '.join(changed)}. Give the same command to go on with it, "
            "another --out, or --overwrite."
        )


def _prepare(out: Path, asked: StudySettings, parts: StudyParts, run: str | Path | None, overwrite: bool) -> None:
    """Create the folder, or go on with the same study in it."""
    plan = {
        "data_sha256": parts.sha256,
        "target_sha256": parts.target_sha256,
        "model_sha256": None if run is None else load_sampler(run, device="cpu").model_sha256,
        "settings": json.loads(json.dumps(asdict(asked))),
    }
    if (out / PLAN).exists() and not overwrite:
        before = _plan_in(out)
        # The arm of another site's images may be added later too.
        plan["target_sha256"] = plan["target_sha256"] or before.get("target_sha256")
        known = {**before, "target_sha256": before.get("target_sha256") or plan["target_sha256"]}
        titles = {"data_sha256": "the images", "target_sha256": "the other site's images", "model_sha256": "the run"}
        _refuse(out, [title for key, title in titles.items() if known.get(key) != plan[key]])
    else:
        prepare_output(out, overwrite=overwrite)
    write_json(out / PLAN, plan)
