"""Compare the conditional core with other settings of itself and with other GANs, at equal CPU time.

    export GANAUG_DATA=…                    # the folder of the image sets, see benchmarks/sets.py
    python -m benchmarks.core --sets mnist_t10k --minutes 5 "" "embedding_noise=0" "lr=[2e-4,5e-5]"
    python -m benchmarks.core --minutes 5 --repeats 3 "" --peers lightweight_gan stylegan2 mimicry

Each quoted argument is a row: settings on top of what --recipe auto chooses, separated by spaces. Every training is a
process of its own with one thread, and its minutes are those of its own CPU clock, so that rows may run side by side
and beside other work (--jobs) and still have the same budget. A peer runs on its own default settings, see
benchmarks/peers. Results are added to a JSON-lines file in --scratch, one line a training; --table prints them again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.sets import SETS, ImageSet, cut, load_set

PEERS = tuple(f"{name}{size}" for name in ("lightweight_gan", "stylegan2", "mimicry") for size in ("", "-small"))
"""Other GANs; `-small` has about 0.3 million parameters in each network, as ours do."""


def main() -> None:
    """Run what is asked and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", default=[], help="settings of each row, separated by spaces")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--cut", type=int, help="cut some classes to this many training images")
    parser.add_argument("--peers", nargs="*", default=[], choices=PEERS)
    parser.add_argument("--recipe", default="auto")
    parser.add_argument("--minutes", type=float, default=5.0, help="CPU minutes of each training")
    parser.add_argument("--kimg", type=float, help="length of our trainings instead of --minutes")
    parser.add_argument("--repeats", type=int, default=1, help="trainings of each row, seeds 0, 1, …")
    parser.add_argument("--classifiers", type=int, default=3, help="classifiers trained on each side for the CAS")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side")
    parser.add_argument("--scratch", type=Path, default=Path("scratch/core"), help="runs, samples and results")
    parser.add_argument("--table", action="store_true", help="only print the results that are there")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print("RESULT " + json.dumps(_train_and_score(json.loads(options.worker))))
        return
    results = options.scratch / "results.jsonl"
    if not options.table:
        options.scratch.mkdir(parents=True, exist_ok=True)
        jobs = [
            {
                "set": name, "system": system, "settings": row, "seed": seed, "minutes": options.minutes,
                "kimg": options.kimg, "cut": options.cut, "recipe": options.recipe,
                "classifiers": options.classifiers, "scratch": str(options.scratch),
            }
            for name in options.sets
            for seed in range(options.repeats)
            for system, row in [("ganaug", row) for row in options.rows] + [(peer, "") for peer in options.peers]
        ]  # fmt: skip
        with ThreadPoolExecutor(options.jobs) as pool:
            for result in pool.map(_in_a_process, jobs):
                with results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(result) + "\n")
                print(_line(result), flush=True)
    print()
    print(table([json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]))


def _in_a_process(job: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.core", "--worker", json.dumps(job)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        return {**job, "failed": (done.stderr.strip().splitlines() or ["no output"])[-1]}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {**job, **json.loads(line.removeprefix("RESULT ")), "commit": commit, "machine": _machine()}


def _machine() -> str:
    return f"{os.cpu_count()} x {platform.machine()}"


def _train_and_score(job: dict[str, Any]) -> dict[str, Any]:
    from benchmarks.scores import score

    whole = load_set(job["set"])
    shown = whole if job["cut"] is None else cut(whole, job["cut"])
    scratch = Path(job["scratch"])
    name = f"{job['set']}-{job['cut'] or 'whole'}-{job['system']}-{job['settings'] or 'default'}-{job['seed']}"
    name = "".join(letter if letter.isalnum() or letter in "-_=.," else "_" for letter in name)
    counts = np.bincount(whole.train_labels)
    if job["system"] == "ganaug":
        fakes, facts = _ours(job, shown, counts, scratch / name)
    else:
        fakes, facts = _peer(job, shown, counts, scratch / name)
    labels = np.repeat(np.arange(len(counts)), counts)
    _picture(whole, fakes, labels, scratch / f"{name}.png")
    return {
        **facts,
        **score(whole, shown, fakes, labels, seeds=job["classifiers"], kept=scratch / "features"),
        "picture": f"{name}.png",
    }


def _ours(job: dict[str, Any], shown: ImageSet, counts: np.ndarray, out: Path) -> tuple[np.ndarray, dict[str, Any]]:
    import torch

    import ganaug
    from ganaug.config import parse_assignments
    from ganaug.sampling import load
    from ganaug.training import loop

    # The training's clock is this process's CPU time: the budget does not depend on what else the machine does.
    loop.time = SimpleNamespace(monotonic=time.process_time)  # type: ignore[assignment]
    torch.set_num_threads(1)
    data = out.with_suffix(".npz")
    classes = np.array(shown.classes)
    np.savez(data, images=np.moveaxis(shown.train, 1, -1).squeeze(), labels=classes[shown.train_labels])
    settings: dict[str, Any] = {"seed": job["seed"], "threads": 1, "size": shown.train.shape[2:]}
    settings |= parse_assignments(tuple(job["settings"].split()))
    settings |= {"kimg": job["kimg"]} if job["kimg"] else {"minutes": job["minutes"]}
    started = time.process_time()
    run = ganaug.fit(data, out, recipe=job["recipe"], overwrite=True, **settings)
    seconds = time.process_time() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    gan = load(run.path, device="cpu")
    order = [gan.classes.index(name) for name in shown.classes]
    fakes = np.concatenate([gan.stored(gan.sample([order[c]] * int(n), seed=1)).numpy() for c, n in enumerate(counts)])
    last = run.metrics()[-1]
    parameters = {
        name: sum(p.numel() for p in part.parameters()) for name, part in _networks(run.config(), shown).items()
    }
    return fakes, {
        "kimg": last["kimg"], "cpu_seconds": seconds, "images_per_second": 1000 * last["kimg"] / seconds,
        "peak_memory_mb": memory, "parameters": parameters, "recipe_used": run.config_file()["recipe"],
    }  # fmt: skip


def _networks(config: Any, shown: ImageSet) -> dict[str, Any]:
    from ganaug.models import build_network

    shape = {"size": config.size, "channels": shown.train.shape[1], "classes": len(shown.classes)}
    return {
        part.lower(): build_network(config.arch, part, vars(config), **shape) for part in ("Generator", "Discriminator")
    }


def _peer(job: dict[str, Any], shown: ImageSet, counts: np.ndarray, out: Path) -> tuple[np.ndarray, dict[str, Any]]:
    from benchmarks.peers import run_peer

    name, small, _ = job["system"].partition("-small")
    arguments = ["--small"] if small else []
    if name == "mimicry":  # it has 32 and 128 pixels, and 128 takes minutes a step on a CPU
        arguments += ["--size", "32"]
    fakes, facts = run_peer(
        name, np.moveaxis(shown.train, 1, -1), shown.train_labels, counts,
        cpu_seconds=60 * job["minutes"], seed=job["seed"], out=out, arguments=arguments,
    )  # fmt: skip
    return np.moveaxis(fakes.reshape(len(fakes), *shown.train.shape[2:], -1), -1, 1), facts


def _picture(whole: ImageSet, fakes: np.ndarray, labels: np.ndarray, path: Path) -> None:
    """Save ten fakes and four real images of each class, a row a class."""
    from PIL import Image

    rows = []
    for c in range(len(whole.classes)):
        tiles = [*fakes[labels == c][:10], *whole.test[whole.test_labels == c][:4]]
        rows.append(np.concatenate(tiles, axis=2))
    picture = np.moveaxis(np.concatenate(rows, axis=1), 0, -1)
    Image.fromarray(picture.squeeze()).resize((picture.shape[1] * 2, picture.shape[0] * 2)).save(path)


def _line(result: dict[str, Any]) -> str:
    if "failed" in result:
        return f"{result['set']} {result['system']} {result['settings']!r}: failed: {result['failed']}"
    rare = [result["per_class"][name]["recall"] for name in result["rare"]]
    return (
        f"{result['set']} {result['system']} {result['settings']!r} seed {result['seed']}: {result['kimg']:.0f} kimg, "
        f"{result['images_per_second']:.0f}/s, KID {result['kid']:.1f} ({result['kid_floor']:.1f}), "
        f"CAS {result['cas']:.3f}/{result['cas_real']:.3f} = {result['cas_ratio']:.3f}, "
        f"spread {result['spread_least']:.2f}, rare {[round(r, 2) for r in rare]}"
    )


def table(results: list[dict[str, Any]]) -> str:
    """Return a Markdown table: one row for each set, system and settings, medians over seeds."""
    lines = [
        "| set | rare | system | n | kimg | images/s | MB | KID ×1000 (real) | CAS ratio | recall rare (least) "
        "| spread (least) | coverage | judge (least) | nearest (least) |",
        "|" + "---|" * 14,
    ]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for result in results:
        if "failed" not in result:
            length = f"{result['kimg']:g} kimg" if result["settings"] is None else f"{result['minutes']:g}"
            key = (result["set"], result["cut"], result["system"], result["settings"], length, result["commit"])
            groups.setdefault(key, []).append(result)
    for (name, keep, system, settings, _, _), group in groups.items():

        def median(value: Any, group: list[dict[str, Any]] = group) -> float:
            return statistics.median(value(result) for result in group)

        def over(key: str, how: Any, only: bool = False) -> Any:
            return lambda result: how(
                [row[key] for name, row in result["per_class"].items() if not only or name in result["rare"]]
            )

        rare = f"{median(over('recall', np.mean, True)):.2f} ({median(over('recall', min, True)):.2f})" if keep else ""
        lines.append(
            f"| {name} | {keep or ''} | {system} {settings} | {len(group)} | {median(lambda r: r['kimg']):.0f} | "
            f"{median(lambda r: r['images_per_second']):.0f} | {median(lambda r: r['peak_memory_mb']):.0f} | "
            f"{median(lambda r: r['kid']):.1f} ({median(lambda r: r['kid_floor']):.1f}) | "
            f"{median(lambda r: r['cas_ratio']):.3f} | {rare} | "
            f"{median(over('spread', np.mean)):.2f} ({median(over('spread', min)):.2f}) | "
            f"{median(over('coverage', np.mean)):.2f} | {median(over('judge', np.mean)):.2f} "
            f"({median(over('judge', min)):.2f}) | {median(over('nearest', np.mean)):.2f} "
            f"({median(over('nearest', min)):.2f}) |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
