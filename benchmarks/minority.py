"""A rare class filled from a plentiful one: 60 normal chest radiographs, 600 with pneumonia, and what helps.

    export GANAUG_DATA=…                    # the folder of the image sets
    python -m benchmarks.minority --minutes 10 --jobs 2
    python -m benchmarks.minority --minutes 10 --jobs 2 --reuse --augment small    # with weaker augmentation

The set is `pneumoniamnist`. For each GAN seed, --keep images of the classes are drawn from its training images; all
that is trained and judged below sees these alone, and is tested on the whole official test split. All arms have the
same classifier, optimizer steps and seeds:

``plain``        the images as they are, rare class and all, with small shifts, rotations and intensity changes
``oversampled``  the classes drawn alike, with the augmentation that --augment says: the honest baseline
``duplicates``   this, with as many images of the rare class added as ``translated`` has: real ones, repeated
``translated``   this, with each image of the plentiful class made one of the rare by a CycleGAN of the rule "class"
``filtered``     this, with those of them alone that counterfactual twins accept (`ganaug.evaluation.twins`)
``conditional``  this, with as many samples of the rare class from a conditional GAN of as many minutes, unfiltered
``oracle``       all training images of the set, the classes drawn alike, with that augmentation: what could be reached

Added images get half of their class's draws. Another balance of the classes moves the threshold of a classifier, and
with it the balanced accuracy; the AUC stands beside it because it does not depend on the threshold.

Each translation is judged by the member of the judge that has not seen its source. Samples of the conditional GAN come
from all images, and are judged by all members: that share is flattering. Each GAN is trained for --minutes of its CPU
clock. Seed s has the images and GANs of seed s modulo --gans, so that the interval covers the luck of the draw only as
far as so few draws can show it; the gain of each stands in the last column. Results are added to two JSON-lines files
in --scratch, and --table prints the tables again. The pictures are `twins.png`, in the folder of each GAN seed there:
source, translation, difference, and the judge's probability of the target before and after.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from benchmarks.arms import StrongAugment, common_seeds, gain, head, hits_of, row, scored, trained
from benchmarks.jobs import Job, answer, read_results, run_jobs, safe_name, timed_fit, write_folder
from benchmarks.sets import ImageSet, load_set
from ganaug.evaluation.classifier import ClassicalAugment, to_unit
from ganaug.evaluation.stats import class_recalls
from ganaug.evaluation.twin_judge import TwinJudge, train_twin_judge
from ganaug.evaluation.twins import TABLE, make_twins
from ganaug.training.judge import STEPS

SET = "pneumoniamnist"
ARMS = ("plain", "oversampled", "duplicates", "translated", "filtered", "conditional", "oracle")
BASELINES = ("oversampled", "duplicates")
AUGMENT = {"small": ClassicalAugment(), "strong": StrongAugment()}


def main() -> None:
    """Run what is asked and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="?", default="", help="settings of the translation, separated by spaces")
    parser.add_argument("--keep", nargs=2, type=int, default=[60, 600], help="images of the classes: normal, pneumonia")
    parser.add_argument("--recipe", default="auto", help="of the translation")
    parser.add_argument("--minutes", type=float, default=10.0, help="CPU minutes of each GAN's training")
    parser.add_argument("--gans", type=int, default=2, help="draws of the images, each with GANs of its own")
    parser.add_argument("--seeds", type=int, default=8, help="classifiers of each arm")
    parser.add_argument("--steps", type=int, default=600, help="optimizer steps of each classifier")
    parser.add_argument("--judge-steps", type=int, default=STEPS, help="optimizer steps of each member of the judge")
    parser.add_argument("--augment", default="strong", choices=AUGMENT, help="augmentation of all arms but plain")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--scratch", type=Path, default=Path("scratch/minority"), help="runs, pictures and results")
    parser.add_argument("--only-gans", action="store_true", help="train and judge the GANs alone")
    parser.add_argument("--reuse", action="store_true", help="take the GANs' images that are there")
    parser.add_argument("--table", action="store_true", help="only print the results that are there")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        job = json.loads(options.worker)
        answer(list(_generate(job) if job["kind"] == "gans" else _classify(job)))
        return
    made, results = options.scratch / "gans.jsonl", options.scratch / "results.jsonl"
    if not options.table:
        options.scratch.mkdir(parents=True, exist_ok=True)
        names = ("settings", "keep", "recipe", "minutes", "gans", "steps", "judge_steps", "augment")
        shared = {name: getattr(options, name) for name in names} | {"scratch": str(options.scratch)}
        stages = [
            ("gans", 0 if options.reuse else options.gans, made),
            ("classifiers", 0 if options.only_gans else options.seeds, results),
        ]
        for kind, count, file in stages:
            jobs = [{**shared, "kind": kind, "seed": seed} for seed in range(count)]
            for result in run_jobs("benchmarks.minority", jobs, side_by_side=options.jobs, results=file):
                print(_line(result), flush=True)
    print()
    print(judge_table(read_results(made)))
    print()
    print(table(read_results(results)))


def imbalanced(images: ImageSet, keep: Sequence[int], seed: int) -> ImageSet:
    """Return the set with `keep` training images of each class, drawn at random; the test images stay.

    Raises:
        ValueError: a class has fewer.
    """
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(images.train_labels == c) for c in range(len(images.classes))]
    kept = np.sort(np.concatenate([generator.choice(m, n, replace=False) for m, n in zip(members, keep, strict=True)]))
    return replace(images, train=images.train[kept], train_labels=images.train_labels[kept])


def _generate(job: Job) -> Iterator[dict[str, Any]]:
    """Train both GANs on one draw, judge what they make, and keep it for the classifiers."""
    images = imbalanced(load_set(SET), job["keep"], job["seed"])
    kept, rare = _kept(job, job["seed"]), int(np.argmin(job["keep"]))
    folder, size = kept.with_suffix(""), images.train.shape[2:]
    data = write_folder(images.train, [images.classes[label] for label in images.train_labels], folder / "data")
    conditional = {**job, "model": "conditional", "settings": "", "recipe": "auto"}
    sampler, sampled = timed_fit(data, folder / "conditional", conditional, size=size)
    gan, translated = timed_fit(
        data, folder / "cyclegan", {**job, "model": "cyclegan"}, size=size, domains=images.classes, rule="class"
    )
    judging = {"seed": job["seed"], "steps": job["judge_steps"]}
    for name in images.classes:
        made = make_twins(gan, data, folder / f"to_{name}", to=name, overwrite=True, **judging)
        yield {"what": f"CycleGAN, to {name}", **translated, **judged(folder / f"to_{name}", made)}
    others = images.train[images.train_labels != rare]
    samples = sampler.sample([rare] * len(others), seed=job["seed"])
    judge = train_twin_judge(gan, data, to=images.classes[rare], **judging)
    yield {"what": f"conditional GAN, {images.classes[rare]}", **sampled, **judged_samples(judge, samples)}
    files = sorted(path for path in data.rglob("*.png") if path.parent.name != images.classes[rare])
    np.savez(
        kept,
        translated=gan.translate_stored(others, to=rare).numpy(),
        accepted=accepted_of(folder / f"to_{images.classes[rare]}", files),
        conditional=sampler.stored(samples).numpy(),
    )


def _kept(job: Job, seed: int) -> Path:
    keep = "_".join(map(str, job["keep"]))
    name = safe_name(SET, keep, job["settings"] or "default", job["recipe"], f"{job['minutes']:g}min", seed)
    return Path(job["scratch"]) / f"{name}.npz"


def judged(folder: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the folder and the summary of `make_twins` say; the probability of the target and the changed share
    are medians over all translations."""
    twins, judge = _twins(folder), summary["judge"]
    sure = [float(twin["p_target_after"]) for twin in twins if twin["p_target_after"]]
    return {
        "images": summary["twins"],
        "accepted": summary["accepted"],
        "rejected": summary["rejected"],
        "verdict": summary["verdict"],
        "judge_accuracy": judge["balanced_accuracy"],
        "threshold": judge["threshold"],
        "untouched": judge["sources_accepted_as_they_are"],
        "probability": statistics.median(sure) if sure else None,
        "changed": statistics.median(float(twin["changed"]) for twin in twins),
    }


def judged_samples(judge: TwinJudge, samples: Tensor) -> dict[str, Any]:
    """Return the same of samples of the judge's target, by all its members: they come from no source."""
    facts = judge.to_dict()
    found, accepted = np.full(len(samples), np.nan), np.zeros(len(samples), bool)
    if judge.judge is not None and not judge.problem:
        found = judge.judge.probabilities(samples)[:, judge.classes.index(judge.to)]
        accepted = found >= judge.threshold
    rejected = int((~accepted).sum())
    return {
        "images": len(samples),
        "accepted": int(accepted.sum()),
        "rejected": {"no verdict" if judge.problem else "unconvinced": rejected} if rejected else {},
        "verdict": judge.sentence,
        "judge_accuracy": facts["balanced_accuracy"],
        "threshold": facts["threshold"],
        "untouched": facts["sources_accepted_as_they_are"],
        "probability": None if judge.problem else float(np.median(found)),
        "changed": None,
    }


def accepted_of(folder: Path, files: Sequence[Path]) -> np.ndarray:
    """Return which files' translations were accepted, N bool, by the table that `make_twins` wrote into a folder."""
    accepted = {twin["source"]: twin["accepted"] == "yes" for twin in _twins(folder)}
    return np.array([accepted[hashlib.sha256(file.read_bytes()).hexdigest()] for file in files])


def _twins(folder: Path) -> list[dict[str, str]]:
    with (folder / TABLE).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _classify(job: Job) -> Iterator[dict[str, Any]]:
    """Train every arm with one seed."""
    torch.set_num_threads(1)
    full, draw, rare = load_set(SET), job["seed"] % job["gans"], int(np.argmin(job["keep"]))
    few = imbalanced(full, job["keep"], draw)
    with np.load(_kept(job, draw)) as file:
        added = added_images(few.train[few.train_labels == rare], **file)
    strong = {"steps": job["steps"], "seed": job["seed"], "augment": AUGMENT[job["augment"]]}
    for arm in ARMS:
        images, changes = few, dict[str, Any]()
        if arm == "plain":
            changes = {"balanced": False, "augment": AUGMENT["small"]}
        elif arm == "oracle":
            images = full
        elif arm in added:
            changes = {"added": (added[arm], np.full(len(added[arm]), rare))}
        model = trained(images.train, images.train_labels, images.classes, **strong | changes)
        yield {
            "arm": arm,
            "draw": draw,
            "added": len(added.get(arm, ())),
            "auc": auc(model, full.test, full.test_labels),
            **scored(model, full.test, full.test_labels),
        }


def added_images(
    real: np.ndarray, *, translated: np.ndarray, accepted: np.ndarray, conditional: np.ndarray
) -> dict[str, np.ndarray]:
    """Return what each arm adds to the rare class, whose images are `real`; the duplicates are of all in turn."""
    return {
        "duplicates": real[np.arange(len(translated)) % len(real)],
        "translated": translated,
        "filtered": translated[accepted],
        "conditional": conditional,
    }


@torch.inference_mode()
def auc(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the area under the ROC curve of a classifier of two classes."""
    scores = torch.cat([model(to_unit(part)) for part in torch.from_numpy(images).split(256)])
    return float(roc_auc_score(labels == 1, (scores[:, 1] - scores[:, 0]).numpy()))


def _line(result: Job) -> str:
    start = f"{result['kind']} {result['seed']}"
    if "failed" in result:
        return f"{start}: failed: {result['failed']}"
    if result["kind"] == "gans":
        return f"{start}, {result['what']}: accepted {result['accepted']} of {result['images']}. {result['verdict']}"
    return f"{start}, {result['arm']}: balanced accuracy {result['accuracy']:.3f}, AUC {result['auc']:.3f}"


def _asked(result: Job, *more: str) -> tuple[Any, ...]:
    keep = " / ".join(map(str, result["keep"]))
    return (keep, *(result[key] for key in ("settings", "recipe", "minutes", "judge_steps", *more)))


def _commits(results: Iterable[Job]) -> str:
    return ", ".join(sorted({result["commit"] for result in results}))


def judge_table(results: list[Job]) -> str:
    """Return a Markdown table of what the judge accepts: for each GAN, and the rest as means over them.

    Of a training that was repeated, the newest result counts.
    """
    groups: dict[tuple[Any, ...], dict[int, Job]] = {}
    for result in results:
        if "failed" not in result:
            groups.setdefault((*_asked(result), result["what"]), {})[result["seed"]] = result
    lines = head([
        "kept", "settings", "minutes", "images", "kimg", "judge right on real", "real sources accepted as they are",
        "accepted", "rejected", "median probability", "changed pixels", "commit",
    ])  # fmt: skip
    for (keep, settings, _, minutes, *_, what), group in groups.items():
        found = [group[seed] for seed in sorted(group)]
        rejected: Counter[str] = Counter()
        for result in found:
            rejected.update(result["rejected"])
        total = sum(result["images"] for result in found)
        cells = [keep, settings, f"{minutes:g}", what, f"{_mean(found, 'kimg'):.1f}"]
        cells += [_share(found, "judge_accuracy"), _share(found, "untouched")]
        cells += [", ".join(f"{result['accepted'] / result['images']:.0%}" for result in found)]
        cells += [", ".join(f"{reason} {count / total:.0%}" for reason, count in rejected.most_common())]
        cells += [_share(found, "probability"), _share(found, "changed"), _commits(found)]
        lines.append(row(cells))
    return "\n".join(["What the judge accepts:", "", *lines])


def _share(results: Sequence[Job], key: str) -> str:
    known = [result for result in results if result[key] is not None]
    return f"{_mean(known, key):.0%}" if known else ""


def _mean(results: Sequence[Job], key: str) -> float:
    return float(np.mean([result[key] for result in results]))


def table(results: list[Job]) -> str:
    """Return a Markdown table of the arms over the seeds that all have: percent, and points with 95 % intervals.

    Of a seed that was repeated, the newest results count.
    """
    groups: dict[tuple[Any, ...], dict[str, dict[int, Job]]] = {}
    for result in results:
        if "failed" not in result:
            asked = _asked(result, "gans", "steps", "augment")
            groups.setdefault(asked, {}).setdefault(result["arm"], {})[result["seed"]] = result
    lines = head([
        "kept", "settings", "minutes", "augment", "n", "arm", "added", "balanced accuracy", "recall normal",
        "recall pneumonia", "AUC", *(f"− {arm}" for arm in BASELINES), f"− {BASELINES[0]}, each draw",
        "commit",
    ])  # fmt: skip
    for (keep, settings, _, minutes, *_, augment), arms in groups.items():
        seeds = common_seeds(arms)
        for arm in (name for name in ARMS if name in arms and seeds):
            found = [arms[arm][seed] for seed in seeds]
            recalls = class_recalls(*hits_of(arms[arm], seeds)).mean(0)
            cells = [keep, settings, f"{minutes:g}", augment, str(len(seeds)), arm, f"{_mean(found, 'added'):.0f}"]
            values = (_mean(found, "accuracy"), *recalls.tolist(), _mean(found, "auc"))
            cells += [f"{100 * value:.1f}" for value in values]
            lines.append(row([*cells, *_gains(arms, arm, seeds), _commits(found)]))
    return "\n".join(["Official test images:", "", *lines])


def _gains(arms: dict[str, dict[int, Job]], arm: str, seeds: list[int]) -> list[str]:
    """Return the gain over each baseline, and over the first for each draw of the images."""
    cells, draws = [], ""
    for baseline in BASELINES:
        found = gain(arms[arm], arms[baseline], seeds) if baseline in arms and baseline != arm else None
        cells.append("" if found is None else str(found))
        if found is not None and baseline == BASELINES[0]:
            of = np.array([arms[arm][seed]["draw"] for seed in seeds])
            each = np.array(found.per_seed)
            draws = ", ".join(f"{each[of == draw].mean():+.1f}" for draw in np.unique(of))
    return [*cells, draws]


if __name__ == "__main__":
    main()
