"""Site transfer: a classifier for images of a second site, of which there are images but no labels.

    export GANAUG_DATA=…                    # the folder of the image sets
    python -m benchmarks.transfer --minutes 10 --seeds 10 --jobs 2
    python -m benchmarks.transfer --sets pneumoniamnist --scanners bias --minutes 5 ""
    python -m benchmarks.transfer --only-gans --jobs 2; python -m benchmarks.transfer --reuse

The sites are those of benchmarks/sites.py. All arms have the same classifier, optimizer steps, seeds, plan of draws and
balance of the classes, and are tested on site B's test images:

``plain``       labelled A, small shifts, rotations and intensity changes
``strong``      labelled A, strong augmentation: these, gamma, a bias field, blur and noise
``matched``     the same, with every other draw of A's images through one intensity curve that gives the pooled
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from benchmarks.fidelity import matched_each, pooled_curve
from benchmarks.jobs import Job, answer, read_results, run_jobs, safe_name, timed_fit, write_folder
from benchmarks.sets import load_set
from benchmarks.sites import SCANNERS, Sites, two_sites
from ganaug.evaluation.classifier import ClassicalAugment, predict, to_unit, train_classifier
from ganaug.evaluation.draws import balanced_batches
from ganaug.evaluation.stats import class_recalls, paired_difference
from ganaug.evaluation.study import ImageSet as Labelled

TRAINED = ("plain", "strong", "matched", "translated", "oracle")
ARMS = (*TRAINED[:3], "matched back", "matched each", "norm", *TRAINED[3:], "home")
SHARE = 0.5
"""Share of the draws that go to matched or translated images."""


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
    parser.add_argument("--gans", type=int, default=2, help="translations of each pair of sites")
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
    if not options.reuse:
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
    rows = [np.concatenate([*part[:: len(part) // 12, 0]], axis=1) for part in (sites.a, images, sites.b)]
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
        translated = np.load(_kept(job, scanner, job["seed"] % job["gans"]))
        for arm, model, test in _arms(sites, translated, job["steps"], job["seed"], shared):
            hits = predict(model, test) == sites.test_labels
            yield {
                "scanner": scanner,
                "arm": arm,
                "accuracy": float(class_recalls(hits, sites.test_labels).mean()),
                "hits": "".join("01"[hit] for hit in hits.tolist()),
                "labels": "".join(map(str, sites.test_labels.tolist())),
            }


def _arms(
    sites: Sites, translated: np.ndarray, steps: int, seed: int, shared: dict[str, nn.Module]
) -> Iterator[tuple[str, nn.Module, np.ndarray]]:
    """Yield each arm's name, trained classifier, and the test images that it gets."""
    to_b, to_a = pooled_curve(sites.a, sites.b), pooled_curve(sites.b, sites.a)
    strong = StrongAugment()
    if not shared:
        shared["plain"] = _trained(sites, sites.a, sites.a_labels, steps, seed, ClassicalAugment())
        shared["strong"] = _trained(sites, sites.a, sites.a_labels, steps, seed, strong)
    yield "plain", shared["plain"], sites.test_b
    yield "strong", shared["strong"], sites.test_b
    yield "home", shared["strong"], sites.test_a
    yield "matched back", shared["strong"], to_a[sites.test_b]
    yield "matched each", shared["strong"], matched_each(sites.test_b, sites.a)
    yield "norm", with_statistics_of(shared["strong"], sites.b), sites.test_b
    for arm, added in (("matched", to_b[sites.a]), ("translated", translated)):
        yield arm, _trained(sites, sites.a, sites.a_labels, steps, seed, strong, added), sites.test_b
    yield "oracle", _trained(sites, sites.b, sites.b_labels, steps, seed, strong), sites.test_b


def _trained(
    sites: Sites,
    images: np.ndarray,
    labels: np.ndarray,
    steps: int,
    seed: int,
    augment: ClassicalAugment,
    added: np.ndarray | None = None,
) -> nn.Module:
    """Train the classifier; `added` are the same images in another form, which get `SHARE` of the draws."""
    is_added = np.repeat([False, True], len(images))[: len(images) * (1 if added is None else 2)]
    if added is not None:
        images, labels = np.concatenate([images, added]), np.concatenate([labels, labels])
    plan = balanced_batches(
        labels, steps=steps, batch=64, seed=seed, is_synthetic=is_added, synthetic_share=SHARE
    )  # fmt: skip
    data = Labelled(images, labels, sites.classes)
    return train_classifier(
        data, classes=len(sites.classes), steps=steps, batch=64, seed=seed, batches=plan, augment=augment
    )


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


@dataclass(frozen=True)
class StrongAugment(ClassicalAugment):
    """The classical augmentation, and of four changes of intensity each with probability `p` and random strength.

    The strengths are of the order of nnU-Net's (Isensee et al. 2021) and BigAug's (Zhang et al. 2020), wider than the
    first; they were not tuned on any second site. Contrast and brightness are the base class's, at twice its strength.
    """

    contrast: float = 0.4
    brightness: float = 0.2
    p: float = 0.5
    """Probability of each change, for each image."""
    gamma: float = 2.0
    """Exponents from 1 / gamma to gamma, evenly in the logarithm."""
    field: float = 0.5
    """Largest coefficient of the logarithm of a bias field, a polynomial of second order over [-1, 1]²."""
    blur: float = 1.5 / 64
    """Largest standard deviation of the blur, as a fraction of the longest side."""
    noise: float = 0.1
    """Largest standard deviation of white noise, as a fraction of the intensity range."""

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return a changed copy of `images`: float in [-1, 1], N×C×H×W. `generator` lives on the CPU."""
        n, _, height, width = images.shape
        x = (super().__call__(images, generator) + 1) / 2
        on = (torch.rand(4, n, 1, 1, 1, generator=generator) < self.p).float()
        u = torch.rand(3, n, 1, 1, 1, generator=generator)
        x = x.clamp(min=1e-6) ** (self.gamma ** (on[0] * (2 * u[0] - 1)))
        y, z = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
        terms = torch.stack([part.expand(height, width) for part in (y, z, y * z, y * y, z * z)])
        weights = self.field * (2 * torch.rand(n, 5, generator=generator) - 1)
        x = x * torch.einsum("nk,khw->nhw", weights, terms)[:, None].mul(on[1]).exp()
        x = _blurred(x, self.blur * max(height, width) * on[2] * u[1])
        x = x + self.noise * on[3] * u[2] * torch.randn(x.shape, generator=generator)
        return (2 * x - 1).clamp(-1, 1)


def _blurred(images: Tensor, sigma: Tensor) -> Tensor:
    """Return each image blurred by a Gaussian of its own standard deviation (N×1×1×1, in pixels; 0 leaves it)."""
    n, channels, height, width = images.shape
    reach = max(1, int(3 * float(sigma.max())))
    offsets = torch.arange(-reach, reach + 1).float()
    kernel = torch.exp(-0.5 * (offsets / sigma.clamp(min=1e-3)) ** 2)
    kernel = (kernel / kernel.sum(-1, keepdim=True)).expand(n, channels, 1, -1).reshape(n * channels, 1, 1, -1)
    flat = F.pad(images.reshape(1, n * channels, height, width), [reach] * 4, mode="replicate")
    flat = F.conv2d(F.conv2d(flat, kernel, groups=n * channels), kernel.transpose(2, 3), groups=n * channels)
    return flat.reshape(images.shape)


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
    head = ["set", "scanner", "settings", "minutes", "n"]
    lines = _head([*head, *ARMS])
    gains = _head([*head, *(f"− {arm}" for arm in ARMS if arm not in ("translated", "home"))])
    for (name, scanner, settings, _, minutes, *_), arms in groups.items():
        seeds = sorted(set.intersection(*(set(found) for found in arms.values())))
        start = [name, scanner, settings, f"{minutes:g}", str(len(seeds))]
        found = {arm: float(np.mean([arms[arm][seed]["accuracy"] for seed in seeds])) for arm in ARMS if arm in arms}
        lines.append(_row([*start, *(f"{100 * found[arm]:.1f}" if arm in found else "" for arm in ARMS)]))
        gains.append(_row([*start, *(_gain(arms, arm, seeds) for arm in ARMS if arm not in ("translated", "home"))]))
    return "\n".join(
        ["Balanced accuracy, percent:", "", *lines, "", "Translated minus another arm, points [95 %]:", "", *gains]
    )


def _gain(arms: dict[str, dict[int, Job]], other: str, seeds: list[int]) -> str:
    if len(seeds) < 2 or not {"translated", other} <= arms.keys():
        return ""
    labels = np.array(list(arms[other][seeds[0]]["labels"]), dtype=np.int64)
    treatment, baseline = (
        np.array([list(arms[arm][seed]["hits"]) for seed in seeds]) == "1" for arm in ("translated", other)
    )
    return str(paired_difference(treatment, baseline, labels))


def _head(names: list[str]) -> list[str]:
    return [_row(names), "|" + "---|" * len(names)]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
