"""Site transfer: a classifier for images of a second site, of which there are images but no labels.

    export GANAUG_DATA=…                    # the folder of the image sets
    python -m benchmarks.transfer --minutes 10 --seeds 10 --jobs 2
    python -m benchmarks.transfer --sets pneumoniamnist --scanners bias --minutes 5 ""
    python -m benchmarks.transfer --only-gans --jobs 2; python -m benchmarks.transfer --reuse

The sites are those of benchmarks/sites.py. All arms have the same classifier, optimizer steps, seeds, plan of draws and
balance of the classes, and are tested on site B's test images:

``plain``       labelled A, small shifts, rotations and intensity changes
``strong``      labelled A, strong augmentation: these, gamma, a bias field, blur and noise
``matched``     the same, with every other draw of A's images through one intensity curve that makes the pooled
                histogram of A that of unlabelled B: the baseline of histogram matching. A to B is better a priori than
                B to A: a site may compress what no curve can stretch again, and the classifier learns both forms
``translated``  as `matched`, with a CycleGAN in the place of the curve (`ganaug.fit(A, …, target=B)`)
``oracle``      labelled B, strong augmentation: what could be reached

Three more change the test images or the network of ``strong``, so that they cost no training: ``matched back`` (B's
test images through the pooled curve from B to A), ``matched each`` (each test image by itself matched to pooled A) and
``norm`` (BatchNorm statistics of unlabelled B: Li et al. 2018, "Adaptive batch normalization").

``home`` is ``strong`` on A's test images. Seed s uses the translation of seed s modulo --gans. Each translation is
trained in a process of its own for --minutes of its CPU clock. Results are added to JSON-lines in --scratch, a line for
each set, scanner, seed and arm, with what it got right; --table prints the table again.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from benchmarks.arms import StrongAugment, common_seeds, gain, head, row, scored, trained
from benchmarks.fidelity import matched_each, pooled_curve
from benchmarks.jobs import Job, answer, read_results, run_jobs, safe_name, timed_fit, write_folder
from benchmarks.sets import load_set
from benchmarks.sites import SCANNERS, Sites, two_sites
from ganaug.evaluation.classifier import ClassicalAugment, to_unit

TRAINED = ("plain", "strong", "matched", "translated", "oracle")
ARMS = (*TRAINED[:3], "matched back", "matched each", "norm", *TRAINED[3:], "home")
SHOWN = 12
"""Images of each row of a picture: A, A as it would be at B, and others of B."""


def main() -> None:
    """Run what is asked and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sets = ("mednist64", "pneumoniamnist")
    parser.add_argument("settings", nargs="?", default="", help="settings of the translation, separated by spaces")
    parser.add_argument("--sets", nargs="+", default=list(sets), choices=sets)
    parser.add_argument("--scanners", nargs="+", default=list(SCANNERS), choices=SCANNERS)
    parser.add_argument("--skew", type=float, default=1.0, help="share of B's images kept in every second class")
    parser.add_argument("--recipe", default="auto")
    parser.add_argument("--minutes", type=float, default=10.0, help="CPU minutes of each translation's training")
    parser.add_argument("--gans", type=int, default=2, help="translations of each pair of sites; 0: the others")
    parser.add_argument("--seeds", type=int, default=8, help="classifiers of each arm")
    parser.add_argument("--steps", type=int, default=600, help="optimizer steps of each classifier")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--scratch", type=Path, default=Path("scratch/transfer"), help="runs, pictures and results")
    parser.add_argument("--only-gans", action="store_true", help="train the translations alone")
    parser.add_argument("--reuse", action="store_true", help="take the translations that are there")
    parser.add_argument("--table", action="store_true", help="only print the results that are there")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        job = json.loads(options.worker)
        answer([_translate(job)] if job["kind"] == "gan" else list(_classify(job)))
        return
    results = options.scratch / "results.jsonl"
    if not options.table:
        options.scratch.mkdir(parents=True, exist_ok=True)
        for jobs, file in _jobs(options, results):
            for result in run_jobs("benchmarks.transfer", jobs, side_by_side=options.jobs, results=file):
                print(_line(result), flush=True)
    if results.exists():
        print()
        print(table(read_results(results)))


def _jobs(options: argparse.Namespace, results: Path) -> Iterator[tuple[list[Job], Path]]:
    """Yield the jobs of a stage and where their results go: the translations, then what needs them."""
    shared = {
        "settings": options.settings, "recipe": options.recipe, "minutes": options.minutes, "skew": options.skew,
        "steps": options.steps, "gans": options.gans, "model": "cyclegan", "scratch": str(options.scratch),
    }  # fmt: skip
    if not options.reuse and options.gans:
        yield [
            {**shared, "kind": "gan", "set": name, "scanner": scanner, "seed": seed}
            for name in options.sets for scanner in options.scanners for seed in range(options.gans)
        ], options.scratch / "gans.jsonl"  # fmt: skip
    if not options.only_gans:
        yield [
            {**shared, "kind": "classifiers", "set": name, "scanners": options.scanners, "seed": seed}
            for name in options.sets for seed in range(options.seeds)
        ], results  # fmt: skip


def _translate(job: Job) -> dict[str, Any]:
    """Train a translation of A to B, and keep A's images as they are at B."""
    sites = two_sites(load_set(job["set"]), SCANNERS[job["scanner"]], skew=job["skew"])
    made = _kept(job, job["scanner"], job["seed"])
    folder = made.with_suffix("")
    a = write_folder(sites.a, [sites.classes[label] for label in sites.a_labels], folder / "A")
    b = write_folder(sites.b, ["."] * len(sites.b), folder / "B")
    translator, facts = timed_fit(a, folder / "run", job, target=b, size=sites.a.shape[2:])
    images = translator.translate_stored(sites.a, to=1, source=0).numpy()
    np.save(made, images)
    rows = [np.concatenate([*part[:: len(part) // SHOWN, 0][:SHOWN]], axis=1) for part in (sites.a, images, sites.b)]
    Image.fromarray(np.concatenate(rows)).save(made.with_suffix(".png"))
    return {**facts, "made": made.name}


def _kept(job: Job, scanner: str, seed: int) -> Path:
    name = safe_name(job["set"], scanner, job["skew"], job["settings"] or "default", f"{job['minutes']:g}min", seed)
    return Path(job["scratch"]) / f"{name}.npy"


def _classify(job: Job) -> Iterator[dict[str, Any]]:
    """Train the arms of one set and seed; `plain` and `strong` do not see site B and serve every scanner."""
    torch.set_num_threads(1)
    images = load_set(job["set"])
    shared: dict[str, nn.Module] = {}
    for scanner in job["scanners"]:
        sites = two_sites(images, SCANNERS[scanner], skew=job["skew"])
        translated = np.load(_kept(job, scanner, job["seed"] % job["gans"])) if job["gans"] else None
        for arm, model, test in _arms(sites, translated, job["steps"], job["seed"], shared):
            yield {"scanner": scanner, "arm": arm, **scored(model, test, sites.test_labels)}


def _arms(
    sites: Sites, translated: np.ndarray | None, steps: int, seed: int, shared: dict[str, nn.Module]
) -> Iterator[tuple[str, nn.Module, np.ndarray]]:
    """Yield each arm's name, trained classifier, and the test images that it gets."""
    to_b, to_a = pooled_curve(sites.a, sites.b), pooled_curve(sites.b, sites.a)
    a, b = (sites.a, sites.a_labels, sites.classes), (sites.b, sites.b_labels, sites.classes)
    same: dict[str, Any] = {"steps": steps, "seed": seed, "augment": StrongAugment()}
    if not shared:
        shared["plain"] = trained(*a, **same | {"augment": ClassicalAugment()})
        shared["strong"] = trained(*a, **same)
    yield "plain", shared["plain"], sites.test_b
    yield "strong", shared["strong"], sites.test_b
    yield "home", shared["strong"], sites.test_a
    yield "matched back", shared["strong"], to_a[sites.test_b]
    yield "matched each", shared["strong"], matched_each(sites.test_b, sites.a)
    yield "norm", with_statistics_of(shared["strong"], sites.b), sites.test_b
    for arm, images in (("matched", to_b[sites.a]), ("translated", translated)):
        if images is None:
            continue
        yield arm, trained(*a, **same, added=(images, sites.a_labels)), sites.test_b
    yield "oracle", trained(*b, **same), sites.test_b


@torch.no_grad()
def with_statistics_of(model: nn.Module, images: np.ndarray) -> nn.Module:
    """Return a copy of a trained classifier with the BatchNorm statistics of `images` (N×C×H×W uint8)."""
    model = copy.deepcopy(model)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # the mean over all batches
    model.train()
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(images)))
    for part in order.split(256):
        model(to_unit(torch.from_numpy(images)[part]))
    return model.eval()


def _line(result: Job) -> str:
    if "failed" in result:
        return f"{result['kind']} {result['set']} {result.get('scanner', '')} {result['seed']}: {result['failed']}"
    place = f"{result['set']} {result['scanner']} seed {result['seed']}"
    if result["kind"] == "gan":
        return f"{place}: {result['kimg']:.1f} kimg in {result['seconds']:.0f} s, {result['made']}"
    return f"{place}, {result['arm']}: balanced accuracy {result['accuracy']:.3f}"


def table(results: list[Job]) -> str:
    """Return Markdown tables: balanced accuracy at site B, and what the translation adds to each other arm."""
    groups: dict[tuple[Any, ...], dict[str, dict[int, Job]]] = {}
    for result in results:
        if "failed" not in result:
            asked = (result[key] for key in ("settings", "recipe", "minutes", "gans", "steps", "skew", "commit"))
            group = groups.setdefault((result["set"], result["scanner"], *asked), {})
            group.setdefault(result["arm"], {})[result["seed"]] = result
    what = ["set", "scanner", "settings", "minutes", "n"]
    lines = head([*what, *ARMS])
    gains = head([*what, *(f"− {arm}" for arm in ARMS if arm not in ("translated", "home"))])
    for (name, scanner, settings, _, minutes, *_), arms in groups.items():
        seeds = common_seeds(arms)
        start = [name, scanner, settings, f"{minutes:g}", str(len(seeds))]
        found = {arm: float(np.mean([arms[arm][seed]["accuracy"] for seed in seeds])) for arm in ARMS if arm in arms}
        lines.append(row([*start, *(f"{100 * found[arm]:.1f}" if arm in found else "" for arm in ARMS)]))
        gains.append(row([*start, *(_gain(arms, arm, seeds) for arm in ARMS if arm not in ("translated", "home"))]))
    return "\n".join(
        ["Balanced accuracy, percent:", "", *lines, "", "Translated minus another arm, points [95 %]:", "", *gains]
    )


def _gain(arms: dict[str, dict[int, Job]], other: str, seeds: list[int]) -> str:
    found = gain(arms["translated"], arms[other], seeds) if {"translated", other} <= arms.keys() else None
    return "" if found is None else str(found)


if __name__ == "__main__":
    main()
