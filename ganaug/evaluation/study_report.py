"""The page of a study: the verdict first, then what it rests on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ganaug.data.pictures import picture_grid
from ganaug.evaluation.arms import FOLDER_ARMS
from ganaug.evaluation.generators import KINDS
from ganaug.evaluation.outcome import StudyOutcome
from ganaug.evaluation.scores import SPECIFICITY
from ganaug.evaluation.study_parts import StudyParts
from ganaug.files import write_atomic
from ganaug.pages import inline_png, inline_svg, render
from ganaug.sampling.bank import SyntheticBank

REPORT = "report.html"
SHOWN = 8
"""Images of each class in a picture."""
_PARTS = {"test": "held-out images", "site": "the other site"}


def write_study_report(
    outcome: StudyOutcome, parts: StudyParts, made: Mapping[str, Mapping[str, Any]], out: Path
) -> None:
    """Write ``report.html`` into the study's folder."""
    treatment, baseline = outcome.chosen
    chosen = f"Without generated images, '{FOLDER_ARMS[baseline].title}' was best on the validation images"
    chosen += "." if treatment is None else f"; with them, '{FOLDER_ARMS[treatment].title}'."
    chosen += " These two were compared, once, on the test images, which had no part in the choice."
    rare = ", ".join(f"{outcome.classes[k]} ({outcome.train_counts[k]})" for k in outcome.rare)
    model = outcome.settings["model"]
    page = render(
        "study.html.j2",
        title="Does it help? A paired study",
        about=f"{sum(outcome.train_counts)} training images of {len(outcome.classes)} classes; {len(outcome.seeds)} "
        f"classifiers of each of {len(outcome.arms)} arms, {outcome.settings['steps']} steps of "
        f"{outcome.settings['batch']} images each.",
        said=outcome.verdict(),
        site_said=outcome.verdict("site") if "site" in outcome.parts else None,
        forest=_forest(outcome),
        tables=[_table(outcome, part) for part in _PARTS if part in outcome.parts],
        note=f"Means over the seeds in %. Sensitivity at {SPECIFICITY:.0%} specificity and AUPRC are those of "
        + (f"the rare classes: {rare}" if rare else "all classes")
        + ". ECE: less is better. Difference in points of balanced accuracy, paired by seed and image; p from sign "
        "flips, corrected for the number of arms (Holm). " + " ".join(outcome.limit_of_p()),
        chosen=chosen,
        tuning=[[name, f"{100 * mean:.1f}"] for name, mean in outcome.settings["tuning"].items()],
        pictures=_pictures(parts, made, out),
        banks=_banks(made),
        network=f"the network {model}" if model else "a small convolutional network",
        size="×".join(map(str, parts.grid.size)),
        settings=json.dumps({k: v for k, v in outcome.settings.items() if k != "generators_made"}, indent=2),
    )  # fmt: skip
    write_atomic(out / REPORT, page)


def _table(outcome: StudyOutcome, part: str) -> dict[str, Any]:
    head, *rows = outcome.rows(part)
    there = outcome.parts[part]
    patients = "" if there.groups is None else f" of {len(set(there.groups))} patients"
    return {
        "caption": f"{_PARTS[part].capitalize()}: {len(there.labels)}{patients}",
        "head": head,
        "rows": rows,
    }


def _forest(outcome: StudyOutcome) -> Any:
    from matplotlib.figure import Figure

    shown = [part for part in _PARTS if part in outcome.parts]
    found = {part: outcome.comparisons(part) for part in shown}
    arms = list(found[shown[0]])
    figure = Figure(figsize=(8, 0.8 + 0.34 * len(arms)), layout="constrained")
    axes = figure.subplots()
    told = []
    for number, part in enumerate(shown):
        values = np.array([found[part][arm]["points"]["balanced_accuracy"] for arm in arms]).reshape(-1, 3)
        places = np.arange(len(arms)) + 0.18 * (number - (len(shown) - 1) / 2)
        errors = np.abs(values[:, 1:] - values[:, :1]).T
        style: dict[str, Any] = {
            "fmt": "os"[number],
            "color": ("#1d2329", "#0a5bd3")[number],
            "capsize": 3,
            "label": _PARTS[part],
        }
        axes.errorbar(values[:, 0], places, xerr=errors, **style)
        told += [f"{FOLDER_ARMS[arm].title} {mean:+.1f}" for arm, mean in zip(arms, values[:, 0], strict=True)]
    axes.axvline(0, color="#57606a", linewidth=1)
    axes.set_yticks(range(len(arms)), [FOLDER_ARMS[arm].title for arm in arms])
    axes.invert_yaxis()
    axes.set_xlabel("points of balanced accuracy")
    if len(shown) > 1:
        axes.legend(frameon=False)
    return inline_svg(figure, f"Differences in balanced accuracy, in points: {'; '.join(told)}.")


def _pictures(parts: StudyParts, made: Mapping[str, Mapping[str, Any]], out: Path) -> list[dict[str, Any]]:
    """Return a picture for each source of generator 0: real images of each class, and beside them the added ones."""
    train = parts.manifests["train"]
    real = parts.images["train"]
    pictures = []
    for facts in made.values():
        if facts["number"] or facts.get("failed"):
            continue
        for source in facts["sources"]:
            if facts[source].get("failed"):
                continue
            bank = SyntheticBank.open(out / "generators" / f"{facts['kind']}-0" / f"bank-{source}")
            rows, titles = [], []
            for label, name in enumerate(parts.classes):
                own = np.flatnonzero(np.asarray(bank.labels) == label)[:SHOWN]
                if not len(own):
                    continue
                there = real[np.flatnonzero(train.labels == label)[:SHOWN]]
                rows.append(_unit(there))
                rows.append(np.stack([bank.intensity.forward(bank.image(int(i))) for i in own]))
                titles += [f"{name}, real", f"{name}, {source}"]
            if rows:
                pictures.append(
                    {
                        "uri": inline_png(picture_grid(rows, titles)),
                        "alt": f"Real training images and {source} images of each class",
                        "caption": f"Generator 0, {source}: real images of a class, and below them what was added. The "
                        "first of each, not the best.",
                    }
                )
    return pictures


def _unit(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32) / 127.5 - 1 if images.dtype == np.uint8 else images


def _banks(made: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    rows = []
    for name, facts in made.items():
        if facts.get("failed"):
            rows.append([name, "failed", facts["failed"], "", ""])
            continue
        rows += [[name, "trained again", why, "", ""] for why in facts.get("tried_before", ())]
        for source in (source for source in KINDS[facts["kind"]] if source in facts):
            bank = facts[source]
            if bank.get("failed"):
                rows.append([name, "failed", source, bank["failed"], ""])
                continue
            tried = sum(one["tried"] for one in bank["acceptance"].values())
            accepted = sum(one["accepted"] for one in bank["acceptance"].values())
            judge = bank.get("judge") or {}
            accuracy = judge.get("balanced_accuracy")
            counts = ", ".join(f"{label} {count}" for label, count in bank["counts"].items() if count)
            rows.append(
                [
                    name, counts, source, f"{accepted} of {tried}" if tried else "all",
                    "" if accuracy is None else f"{100 * accuracy:.0f} %",
                ]
            )  # fmt: skip
    return rows
