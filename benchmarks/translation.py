"""Measure translated images against hidden true ones: MR contrasts, super-resolution, undersampled k-space.

    export GANAUG_DATA=…                    # the folder of the image sets
    python -m benchmarks.translation --size 64 --minutes 10 "" "identity_weight=0"
    python -m benchmarks.translation --model pix2pix cyclegan --size 128 --minutes 30 --repeats 3 --jobs 2 ""
    python -m benchmarks.translation --degrade downsample=4 --data mednist64 --minutes 10 ""
    python -m benchmarks.translation --model pix2pix --size 256 --device cuda ""

Without --degrade: `brain_t1_t2_flair_pgbm`, T2 to FLAIR and back. Two patients train; the third one's slices, of which
both contrasts are known, are translated and compared with the truth, beside maps of the intensity alone
(benchmarks/fidelity.py), which are fitted on the same training slices. `cyclegan` does not see which of them are pairs.

With --degrade: a `pix2pix` that undoes the degradation of held-out images, beside the bicubic or zero-filled image. The
bicubic one is also made consistent with its few pixels, as the output of the model is (`ganaug.data.degrade`).

Each quoted argument is a row: settings on top of what --recipe auto chooses, separated by spaces. Every training is a
process of its own with one thread, and its minutes are those of its own CPU clock; with --device cuda they are minutes
of the wall clock. Results are added to a JSON-lines file in --scratch, one line for each direction; --table prints them
again. The spread after ± is the standard deviation over the test slices, which are of one patient in the brain set: it
says nothing about other patients.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.fidelity import fidelity, head_of, intensity_baselines
from benchmarks.jobs import Job, answer, read_results, run_jobs, safe_name, timed_fit, write_folder
from benchmarks.sets import load_set

CONTRASTS = ("t2", "flair")
TESTED = "PGBM-003"
"""The patient who is held out."""
PATIENT = r"(PGBM-\d+)"
UNTREATED = {"downsample": "bicubic", "kspace": "zero-filled"}
"""What the degraded image itself is called in the field."""
SHOWN = 6
"""Slices in a picture."""


def main() -> None:
    """Run what is asked and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", default=[], help="settings of each row, separated by spaces")
    parser.add_argument("--model", nargs="+", default=["cyclegan"], choices=("cyclegan", "pix2pix"))
    parser.add_argument("--degrade", help="downsample=4 or kspace=4; the model is pix2pix")
    parser.add_argument("--data", default="brain", choices=("brain", "mednist64"), help="mednist64: with --degrade")
    parser.add_argument("--size", type=int, default=64, choices=(64, 128, 256), help="pixels a side")
    parser.add_argument("--recipe", default="auto")
    parser.add_argument("--minutes", type=float, default=10.0, help="CPU minutes of each training")
    parser.add_argument("--device", default="cpu", help="'cpu', or 'cuda' for minutes of the wall clock")
    parser.add_argument("--repeats", type=int, default=1, help="trainings of each row, seeds 0, 1, …")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side")
    parser.add_argument("--scratch", type=Path, default=Path("scratch/translation"), help="runs, pictures and results")
    parser.add_argument("--table", action="store_true", help="only print the results that are there")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        answer(list(_measure(json.loads(options.worker))))
        return
    if options.data == "mednist64" and (options.degrade is None or options.size != 64):
        parser.error("mednist64 has 64 pixels and no pairs: give --degrade and --size 64")
    results = options.scratch / "results.jsonl"
    if not options.table:
        prepare(options.data, options.scratch)
        task = {"data": options.data, "size": options.size, "degrade": options.degrade}
        jobs = [] if _is_there(read_results(results), task) else [{**task, "model": None}]
        jobs += [
            {**task, "model": model, "settings": row, "seed": seed}
            for seed in range(options.repeats)
            for model in (["pix2pix"] if options.degrade else options.model)
            for row in options.rows
        ]
        shared = {name: getattr(options, name) for name in ("recipe", "minutes", "device")}
        jobs = [{**job, **shared, "scratch": str(options.scratch)} for job in jobs]
        for result in run_jobs("benchmarks.translation", jobs, side_by_side=options.jobs, results=results):
            print(_line(result), flush=True)
    print()
    print(table(read_results(results)))


def _is_there(results: list[Job], task: Job) -> bool:
    """Return whether the baselines of a task were measured before."""
    return any(
        result["model"] is None and "failed" not in result and task.items() <= result.items() for result in results
    )


def prepare(data: str, scratch: Path) -> None:
    """Write the labelled folders `train` and, of the brain set, `test` into a folder of `scratch`, if they are not."""
    root = scratch / data
    if root.exists():
        return
    unfinished = scratch / f"{data}-{os.getpid()}"
    if data == "mednist64":
        images = load_set(data)
        write_folder(images.train, [images.classes[label] for label in images.train_labels], unfinished / "train")
    else:
        for contrast in CONTRASTS:
            for path in (Path(os.environ["GANAUG_DATA"]) / "brain_t1_t2_flair_pgbm" / contrast).glob("*.png"):
                folder = unfinished / ("test" if path.name.startswith(TESTED) else "train") / contrast
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, folder / path.name)
    unfinished.rename(root)


def on_grid(folder: Path, size: int) -> dict[str, np.ndarray]:
    """Return the images of each sub-folder, N×H×W uint8 in the order of their names, as a training sees them."""
    from ganaug.data import Grid, load_images, scan

    manifest = scan(folder)
    images = load_images(manifest, Grid((size, size), 1, "stretch", "uint8"))[:, 0]
    return {name: images[manifest.labels == label] for label, name in enumerate(manifest.classes)}


def _measure(job: Job) -> Iterator[dict[str, Any]]:
    return _contrasts(job) if job["degrade"] is None else _degraded(job)


def _contrasts(job: Job) -> Iterator[dict[str, Any]]:
    root = Path(job["scratch"]) / job["data"]
    train, test = (on_grid(root / part, job["size"]) for part in ("train", "test"))
    head = head_of(*test.values())
    directions = (CONTRASTS, CONTRASTS[::-1])
    if job["model"] is None:
        for source, target in directions:
            for name, baseline in intensity_baselines(train[source], train[target]).items():
                measured = fidelity(baseline(test[source]), test[target], head)
                yield {"direction": f"{source} to {target}", "system": name, "slices": measured}
        return
    translator, facts = _trained(job, domains=CONTRASTS, rule="style", group_regex=PATIENT)
    shown, results = [], []
    for source, target in directions:
        made = translator.translate_stored(test[source][:, None], to=target, source=source).numpy()[:, 0]
        measured = fidelity(made, test[target], head)
        results.append({"direction": f"{source} to {target}", "system": job["model"], "slices": measured, **facts})
        shown.append((test[source], made, test[target]))
    yield from _with_picture(job, results, shown)


def _degraded(job: Job) -> Iterator[dict[str, Any]]:
    import torch

    from ganaug.data.degrade import parse_degrade

    if job["data"] == "brain":
        test = np.concatenate([*on_grid(Path(job["scratch"]) / "brain" / "test", job["size"]).values()])
    else:
        test = load_set(job["data"]).test[:, 0]
    degrade = parse_degrade(job["degrade"])
    degraded = degrade(torch.from_numpy(test)[:, None] / 127.5 - 1, range(len(test)))
    name = UNTREATED[degrade.name]
    direction = f"{job['data']}, {degrade}"
    if job["model"] is None:
        baselines = {name: degraded}
        if degrade.name == "downsample":  # the zero-filled image is consistent as it is
            baselines[f"{name}, made consistent"] = degrade.consistent(degraded, degraded)
        for system, images in baselines.items():
            yield {"direction": direction, "system": system, "slices": fidelity(_stored(images), test)}
        return
    translator, facts = _trained(job, degrade=job["degrade"])
    made = _stored(translator.translate(degraded, to="original"))
    result = {"direction": direction, "system": job["model"], "slices": fidelity(made, test), **facts}
    yield from _with_picture(job, [result], [(_stored(degraded), made, test)])


def _trained(job: Job, **settings: Any) -> tuple[Any, dict[str, Any]]:
    data = Path(job["scratch"]) / job["data"] / "train"
    return timed_fit(data, Path(job["scratch"]) / _name(job), job, size=(job["size"], job["size"]), **settings)


def _name(job: Job) -> str:
    what = [job["data"], job["degrade"] or "contrasts", job["size"], job["model"], job["settings"] or "default"]
    return safe_name(*what, f"{job['minutes']:g}min", job["device"], job["seed"])


def _stored(images: Any) -> np.ndarray:
    """Return a N×1×H×W tensor in [-1, 1] as N×H×W uint8."""
    return np.rint((images[:, 0].clamp(-1, 1).cpu().numpy() + 1) * 127.5).astype(np.uint8)


def _with_picture(
    job: Job, results: list[dict[str, Any]], shown: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> Iterator[dict[str, Any]]:
    path = Path(job["scratch"]) / f"{_name(job)}.png"
    Image.fromarray(np.concatenate([picture(*columns) for columns in shown], axis=1)).save(path)
    for result in results:
        yield {**result, "picture": path.name}


def picture(source: np.ndarray, made: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return a picture with a row for each of some slices: source, translated, truth, absolute error."""
    error = np.abs(made.astype(np.int16) - truth).astype(np.uint8)
    chosen = np.unique(np.linspace(0, len(truth) - 1, SHOWN).round().astype(int))
    rows = [np.concatenate([column[i] for column in (source, made, truth, error)], axis=1) for i in chosen]
    return np.concatenate(rows)


def _line(result: Job) -> str:
    if "failed" in result:
        return f"{result['model']} {result.get('settings', '')!r}: failed: {result['failed']}"
    values = ", ".join(f"{name} {np.mean(found):.4g}" for name, found in result["slices"].items())
    return f"{result['direction']}, {result['system']} {result.get('settings', '')!r}: {values}"


COLUMNS = {
    "MAE": ("mae", 4), "PSNR": ("psnr", 2), "SSIM": ("ssim", 3),
    "head: MAE": ("mae_head", 4), "PSNR (head)": ("psnr_head", 2), "SSIM (head)": ("ssim_head", 3),
}  # fmt: skip


def table(results: list[Job]) -> str:
    """Return a Markdown table: means over test slices ± their standard deviation, of the mean over seeds (n)."""
    groups: dict[tuple[Any, ...], list[Job]] = {}
    for result in results:
        if "failed" not in result:
            asked = tuple(result.get(key) for key in ("settings", "recipe", "minutes", "device", "commit"))
            of = asked if result["model"] else ()
            groups.setdefault((result["size"], result["direction"], result["system"], of), []).append(result)
    head = ["px", "direction", "system", "n", "minutes", "kimg", *COLUMNS]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for (size, direction, system, _), group in sorted(groups.items(), key=lambda item: item[0][:2]):
        cells = [size, direction, " ".join([system, group[0].get("settings") or ""]).strip()]
        if group[0]["model"]:
            cells += [len(group), f"{group[0]['minutes']:g}", f"{np.mean([result['kimg'] for result in group]):.1f}"]
        else:
            group, cells = group[-1:], [*cells, "", "", ""]
        for key, digits in COLUMNS.values():
            found = [result["slices"][key] for result in group if key in result["slices"]]
            slices = np.mean(found, axis=0) if found else np.zeros(0)
            cells.append(f"{slices.mean():.{digits}f} ± {slices.std(ddof=1):.{digits}f}" if found else "")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
