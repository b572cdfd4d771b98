"""Does a translation add or remove lesions? Measured on procedural heads, whose truth is known.

    python -m benchmarks.hallucination --minutes 15 --repeats 3 --jobs 2 "" "pairing=none"
    python -m benchmarks.hallucination --target-labels unknown --minutes 15 ""
    python -m benchmarks.hallucination --minutes 30 --size3d 32 --tests 60 "" "pairing=none"
    python -m benchmarks.hallucination --between a@old a@harsh --minutes 15 "" "pairing=none"

One domain has lesions in few of its images, the other in many: a translation that makes its images look like all of the
target's has to add or remove some (Cohen et al. 2018, "Distribution matching losses can hallucinate features in medical
image translation"). The domains are contrasts of `tests/phantom.py`, or contrasts at one of its sites, such as a@old,
and no head is in both. With --target-labels known the table names everybody's label, and batches hold the same classes
of either domain (`pairing=none` turns that off); with unknown the second domain has no labels, as in
`ganaug.fit(A, …, target=B)`, and gets those that a judge trained on the first one believes.

Held-out heads are translated in both directions, each one with and without its lesion, and compared with the truth: the
same head in the other contrast (at a site: through its intensity curve and blur, without the random bias field and
noise). The mean absolute error, in percent of the range, stands beside that of the untouched source and of the best
table: for every intensity the median of the truth over the test images themselves, which no map of the intensity alone
can beat. A lesion is created where a detector finds one in the translation of a healthy head, and lost where it finds
none in that of a head with a lesion; its own errors, on the truth, are given too.

Each quoted argument is a row: settings on top of what --recipe auto chooses, separated by spaces. Every training is a
process of its own with one thread, and its minutes are those of its own CPU clock; with --device cuda they are minutes
of the wall clock. Every repeat has another seed and other heads, for training and for test. Results are added to a
JSON-lines file in --scratch, one line for each direction; --table prints them again. Intervals are Wilson's at 95 %,
over the images of all repeats: they say what other heads would do to these networks, and the range over the repeats
says what other trainings do.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.stats import binomtest

from benchmarks.fidelity import intensity_baselines
from benchmarks.jobs import Job, answer, read_results, run_jobs, safe_name, timed_fit
from benchmarks.translation import SHOWN, picture
from tests.phantom import (
    AIR,
    CONTRASTS,
    SITES,
    Domain,
    Scan,
    at_site,
    cohort,
    draw_anatomy,
    lesion_found,
    scan,
    truth,
    write_phantoms,
)

DOMAINS = (*CONTRASTS, *(f"{contrast}@{site}" for contrast in CONTRASTS for site in SITES))
TABLE = "table, median"
"""The table among the baselines that has the smallest absolute error."""


def main() -> None:
    """Run what is asked and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", default=[], help="settings of each row, separated by spaces")
    parser.add_argument(
        "--between", nargs=2, default=["a", "b"], choices=DOMAINS, metavar="DOMAIN", help="such as a@old"
    )
    parser.add_argument("--lesions", nargs=2, type=float, default=[0.1, 0.5], help="share of images with a lesion")
    parser.add_argument("--count", type=int, default=300, help="training images of each domain")
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--size3d", type=int, help="voxels a side, for volumes")
    parser.add_argument("--tests", type=int, default=200, help="held-out heads, each with and without its lesion")
    parser.add_argument("--target-labels", nargs="+", default=["known"], choices=("known", "unknown"))
    parser.add_argument("--recipe", default="auto")
    parser.add_argument("--minutes", type=float, default=10.0, help="CPU minutes of each training")
    parser.add_argument("--device", default="cpu", help="'cpu', or 'cuda' for minutes of the wall clock")
    parser.add_argument("--repeats", type=int, default=1, help="trainings of each row, seeds 0, 1, …")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side")
    parser.add_argument(
        "--scratch", type=Path, default=Path("scratch/hallucination"), help="runs, pictures and results"
    )
    parser.add_argument("--table", action="store_true", help="only print the results that are there")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        answer(list(_train_and_measure(json.loads(options.worker))))
        return
    if len({*options.between}) < 2:
        parser.error("--between names one domain twice; two different ones are wanted")
    results = options.scratch / "results.jsonl"
    if not options.table:
        options.scratch.mkdir(parents=True, exist_ok=True)
        shared = {
            name: getattr(options, name) for name in ("between", "lesions", "count", "tests", "recipe", "minutes")
        }
        size = [options.size3d] * 3 if options.size3d else [options.size] * 2
        shared |= {"size": size, "device": options.device, "model": "cyclegan", "scratch": str(options.scratch)}
        jobs: list[Job] = [
            {**shared, "target_labels": labels, "settings": row, "seed": seed}
            for seed in range(options.repeats)
            for labels in options.target_labels
            for row in options.rows
        ]
        for job in jobs:
            prepare(job)
        for result in run_jobs("benchmarks.hallucination", jobs, side_by_side=options.jobs, results=results):
            print(_line(result), flush=True)
    print()
    print(table(read_results(results)))


def domains_of(job: Job) -> dict[str, Domain]:
    """Return the two domains by their names."""
    found = {}
    for name, lesions in zip(job["between"], job["lesions"], strict=True):
        contrast, _, site = name.partition("@")
        found[name] = Domain(contrast, SITES[site] if site else None, lesions)
    return found


def prepare(job: Job) -> Path:
    """Write the training images of a job, if they are not there, and return their folder.

    With known labels it is a folder with a table of both domains; else it holds a folder for each domain, with a table
    and, in a folder of the domain's name, its images, which have no label by themselves.
    """
    cohort_name = (*job["between"], *job["size"], job["count"], *job["lesions"], job["target_labels"], job["seed"])
    root = Path(job["scratch"]) / safe_name("cohort", *cohort_name)
    if root.exists():
        return root
    unfinished = root.with_name(f"{root.name}-{os.getpid()}")
    # Test heads have the odd seeds.
    cases = cohort(domains_of(job), job["count"], tuple(job["size"]), seed=2 * job["seed"])
    if job["target_labels"] == "known":
        write_phantoms(unfinished, cases)
    else:
        for name, part in itertools.groupby(cases, key=lambda case: case.domain):
            write_phantoms(unfinished / name, part)
    unfinished.rename(root)
    return root


def _train_and_measure(job: Job) -> Iterator[dict[str, Any]]:
    root, out = prepare(job), Path(job["scratch"]) / _name(job)
    first, second = job["between"]
    domains = domains_of(job)
    other_contrast = domains[first].contrast != domains[second].contrast
    # `target` takes the second folder for another site of one contrast; a row may say otherwise.
    settings: dict[str, Any] = {"size": tuple(job["size"]), "output": "direct" if other_contrast else "residual"}
    settings |= {"domains": (first, second), "device": job["device"]}
    if job["target_labels"] == "known":
        translator, facts = timed_fit(root, out, job, **settings)
    else:
        translator, facts = timed_fit(root / first, out, job, target=root / second / second, **settings)
        facts |= judged(out, root / second, translator.labels)
    results, pictures = [], []
    for source, target in ((first, second), (second, first)):
        scans = held_out(job, domains[source])
        given, wanted = (stored(part) for part in ([of.image for of in scans], expected(scans, domains[target])))
        made = translator.translate_stored(given[:, None], to=target, source=source).numpy()[:, 0]
        found = compared(scans, given, made, wanted, domains[target].contrast)
        results.append({"direction": f"{source} to {target}", **found, **facts})
        pictures.append(picture(*(shown(part, scans) for part in (given, made, wanted))))
    path = out.with_name(f"{out.name}.png")  # a fraction of a minute has a point of its own
    Image.fromarray(np.concatenate(pictures, axis=1)).save(path)
    for result in results:
        yield {**result, "picture": path.name}


def _name(job: Job) -> str:
    what = (*job["between"], *job["size"], job["count"], *job["lesions"], job["target_labels"])
    return safe_name(*what, job["settings"] or "default", f"{job['minutes']:g}min", job["device"], job["seed"])


def held_out(job: Job, domain: Domain) -> list[Scan]:
    """Return scans of the test heads in a domain, each one without and then with its lesion; never a training head."""
    seed = 2 * job["seed"] + 1
    scans = []
    for head in range(job["tests"]):
        anatomy = draw_anatomy(np.random.default_rng([seed, head]), tuple(job["size"]))
        for lesion in (False, True):
            rng = np.random.default_rng([seed, head, lesion])
            scans.append(scan(anatomy, contrast=domain.contrast, lesion=lesion, site=domain.site, rng=rng))
    return scans


def expected(scans: Sequence[Scan], domain: Domain) -> list[np.ndarray]:
    """Return what perfect translations to a domain would be; without its bias field and noise, which are random."""
    images = [truth(of, domain.contrast) for of in scans]
    if domain.site is None:
        return images
    curve = replace(domain.site, bias=0.0, noise=0.0)
    return [at_site(image, curve, np.random.default_rng(0)) for image in images]


def stored(images: Sequence[np.ndarray]) -> np.ndarray:
    """Return images of [0, 1] as the files store them, N×spatial uint8."""
    return np.rint(np.stack(images) * 255).astype(np.uint8)


def compared(
    scans: Sequence[Scan], given: np.ndarray, made: np.ndarray, wanted: np.ndarray, contrast: str
) -> dict[str, Any]:
    """Compare translations with the truth.

    Args:
        scans: of what `given` (N×spatial uint8) is the image.
        made: their translations to `contrast`.
        wanted: the true ones.

    Returns:
        ``healthy`` and ``lesion``: images without and with a lesion. ``created`` and ``lost``: those of them with one,
        and without one, in the translation; ``created_in_truth`` and ``lost_in_truth`` likewise. ``mae`` and
        ``mae_head``: mean absolute errors over everything and over the head, in percent of the range, of the
        translation (``made``), the source (``identity``) and the best table (``table``).
    """
    baselines = intensity_baselines(given, wanted)
    systems = {"made": made, "identity": given, "table": baselines[TABLE](given)}
    head = np.stack([of.anatomy.shares[AIR] < 0.5 for of in scans])
    errors = {name: np.abs(images.astype(np.int16) - wanted) / 2.55 for name, images in systems.items()}
    ill = np.array([of.has_lesion for of in scans])
    facts: dict[str, Any] = {"healthy": int((~ill).sum()), "lesion": int(ill.sum())}
    for part, images in (("", made), ("_in_truth", wanted)):
        found = np.array([lesion_found(image / 255, of, contrast) for image, of in zip(images, scans, strict=True)])
        facts |= {f"created{part}": int((found & ~ill).sum()), f"lost{part}": int((~found & ill).sum())}
    facts["mae"] = {name: float(error.mean()) for name, error in errors.items()}
    facts["mae_head"] = {name: float(error[head].mean()) for name, error in errors.items()}
    return facts


def judged(run: Path, target: Path, classes: Sequence[str]) -> dict[str, Any]:
    """Return what the training made of the target's images, whose labels are in a table that it did not see.

    ``judged`` has the share that got a label, and the share of right ones among these; without `pairing` there is none.
    """
    path = run / "target_labels.json"
    if not path.exists():
        return {}
    values = json.loads(path.read_text(encoding="utf-8"))
    with (target / "metadata.csv").open(newline="", encoding="utf-8") as stream:
        wanted = {
            hashlib.sha256((target / row["file_name"]).read_bytes()).hexdigest(): row["label"]
            for row in csv.DictReader(stream)
        }
    right = [classes[label] == wanted[image] for image, label in values["labels"].items() if label >= 0]
    facts = {"given": len(right) / len(wanted), "right": sum(right) / len(right) if right else None}
    return {"judged": {**facts, "believed": values["believed"], "sentence": values["sentence"]}}


def shown(images: np.ndarray, scans: Sequence[Scan]) -> np.ndarray:
    """Return the first few images; of volumes the plane that the lesion, planned or there, fills most."""
    chosen = []
    for image, of in list(zip(images, scans, strict=True))[:SHOWN]:
        chosen.append(image if image.ndim == 2 else image[int(of.anatomy.lesion.sum(axis=(1, 2)).argmax())])
    return np.stack(chosen)


def _line(result: Job) -> str:
    start = f"{result['settings']!r} labels {result['target_labels']} seed {result['seed']}"
    if "failed" in result:
        return f"{start}: failed: {result['failed']}"
    error = ", ".join(f"{name} {value:.2f} %" for name, value in result["mae"].items())
    return (
        f"{result['direction']}, {start}: {result['kimg']:.2f} kimg, MAE {error}, created {result['created']} of "
        f"{result['healthy']}, lost {result['lost']} of {result['lesion']}"
    )


def table(results: list[Job]) -> str:
    """Return a Markdown table: mean errors over the repeats (n), and shares of the images of all repeats."""
    groups: dict[tuple[str, ...], list[Job]] = {}
    asked = ("size", "between", "count", "lesions", "tests", "target_labels", "settings", "recipe", "minutes", "device")
    for result in results:
        if "failed" not in result:
            key = tuple(json.dumps(result.get(name)) for name in (*asked, "commit", "direction"))
            groups.setdefault(key, []).append(result)
    errors = [f"{name}{part}" for part in ("", ", head") for name in ("MAE %", "identity", "table")]
    shares = ["created % [95 %]", "lost % [95 %]", "either % [95 %]"]
    head = [
        "size",
        "lesions",
        "settings",
        "labels of the target",
        "minutes",
        "direction",
        "n",
        "kimg",
        *errors,
        *shares,
    ]
    lines = [_row([*head, "detector: created, lost in the truth"]), "|" + "---|" * (len(head) + 1)]
    for group in groups.values():
        one = group[0]
        cells = ["×".join(map(str, one["size"])), " / ".join(f"{100 * share:g} %" for share in one["lesions"])]
        cells += [one["settings"] or "default", _labels(group), f"{one['minutes']:g}", one["direction"]]
        cells += [str(len(group)), f"{np.mean([result['kimg'] for result in group]):.1f}"]
        for kind in ("mae", "mae_head"):
            for system in ("made", "identity", "table"):
                cells.append(f"{np.mean([result[kind][system] for result in group]):.2f}")
        cells += [
            share_cell([(result["created"], result["healthy"]) for result in group]),
            share_cell([(result["lost"], result["lesion"]) for result in group]),
            share_cell([(r["created"] + r["lost"], r["healthy"] + r["lesion"]) for r in group]),
        ]
        own = [sum(result[f"{name}_in_truth"] for result in group) for name in ("created", "lost")]
        lines.append(_row([*cells, f"{own[0]}, {own[1]}"]))
    return "\n".join(lines)


def _labels(group: list[Job]) -> str:
    """Say whether the target's labels were known, or what the judge made of it in each repeat."""
    if "judged" not in group[0]:
        return str(group[0]["target_labels"])
    found = [result["judged"] for result in group]
    return "judged: " + "; ".join(
        f"{100 * one['given']:.0f} %, right {100 * one['right']:.0f} %" if one["believed"] else "not believed"
        for one in found
    )


def share_cell(counts: Sequence[tuple[int, int]]) -> str:
    """Return the share of all images in percent with Wilson's interval; of several repeats also the range."""
    some, of = (sum(column) for column in zip(*counts, strict=True))
    low, high = binomtest(some, of).proportion_ci(0.95, method="wilson")
    cell = f"{100 * some / of:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    each = [100 * part / whole for part, whole in counts]
    return cell if len(each) == 1 else f"{cell} ({min(each):.1f} to {max(each):.1f})"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
