"""The page of an evaluation: the pictures and the findings first, then all figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ganaug.data.pictures import picture_grid
from ganaug.evaluation.evaluate import Evaluation
from ganaug.files import write_atomic
from ganaug.pages import inline_png, inline_svg, render
from ganaug.sampling.latent_tools import interpolate

REPORT = "report.html"
COLUMNS = 8
FRAMES = 13
_MOST_CLASSES = 12
_CLOSEST = 10


def write_evaluation_report(found: Evaluation, out: Path) -> None:
    """Write ``report.html`` into `out`."""
    metrics, parts = found.metrics, found.parts
    network = metrics["network"]
    images = {side: sum(counts.values()) for side, counts in metrics["images"].items()}
    page = render(
        "evaluation.html.j2",
        title="How good are the synthetic images?",
        about=f"{images['synthetic']:,} synthetic images of {len(parts.classes)} classes, {images['training']:,} real "
        f"ones that the generator was trained on, {images['held_out']:,} held out. Generator "
        f"{metrics['model_sha256'][:12]}, ganaug {metrics['ganaug']}.",
        boxes=_boxes(metrics),
        beside=_beside(found),
        walk=_walk(found),
        walked=", ".join(parts.classes[:_MOST_CLASSES]),
        network=f"Features of {network['name']} {network['sha256'][:12]}, {network['dim']} numbers an image.",
        fidelity=[
            _fidelity_row(row, control)
            for row, control in zip(metrics["fidelity"], metrics["fidelity_of_training"], strict=True)
        ],
        labels=_label_rows(metrics, parts.classes),
        judge=f"The judge is right on {100 * metrics['judge']['balanced_accuracy_on_real']:.0f} % of real images that "
        "it has not seen (mean over the classes). It accepts what reaches the probability that 80 % of the real images "
        "of the class reach.",
        copies=metrics["memorization"]["sentence"],
        closest=_closest(found),
        spaces=[_space_row(space) for space in metrics["memorization"]["spaces"]],
        duplicates=_duplicates(metrics["memorization"]["duplicates"]),
        membership=metrics["membership"]["sentence"],
        attacks=[_attack_row(attack) for attack in metrics["membership"]["attacks"]],
        shortcut=metrics["detector"]["sentence"],
        waves=_waves(metrics["spectrum"]),
        wave_text=metrics["spectrum"]["sentence"],
        metrics=json.dumps(_short(metrics), indent=1),
    )  # fmt: skip
    write_atomic(out / REPORT, page)


def _boxes(metrics: dict[str, Any]) -> list[dict[str, str]]:
    whole, labels = metrics["fidelity"][-1], metrics["labels"]
    fidelity = whole["reason"]
    if fidelity is None:
        kid, coverage = whole["kid"], 100 * whole["prdc"]["coverage"]
        fidelity = (
            f"KID {kid['value']:.4f} [{kid['low']:.4f}, {kid['high']:.4f}]; {coverage:.0f} % of the held-out images "
            "have a synthetic one near."
        )
    classes = (
        f"A classifier trained on synthetic images alone reaches {100 * labels['synthetic_on_real']:.1f} % on real "
        f"ones; trained on as many real images {100 * labels['real_on_real']:.1f} %."
    )
    boxes = [
        {"kind": "", "title": "Fidelity.", "text": fidelity},
        {"kind": "", "title": "Classes.", "text": classes},
    ]
    kinds = {"alarm": "bad", "no alarm": "good"}
    for key, title in (("memorization", "Copies."), ("membership", "Membership.")):
        word = metrics[key]["word"]
        boxes.append({"kind": kinds.get(word, "open"), "title": title, "text": f"{word.capitalize()}."})
    boxes.append({"kind": "", "title": "", "text": metrics["detector"]["sentence"]})
    return boxes


def _beside(found: Evaluation) -> dict[str, str]:
    parts, rows, names = found.parts, [], []
    for label, name in enumerate(parts.classes[:_MOST_CLASSES]):
        sides = [parts.images[side][parts.labels[side] == label][:COLUMNS] for side in ("training", "synthetic")]
        width = min(len(side) for side in sides)
        rows.append(np.concatenate([side[:width] for side in sides]))
        names.append(name)
    columns = max(len(row) for row in rows) // 2
    picture = picture_grid(rows, names, split=columns, headings=("real", "synthetic"))
    return {
        "uri": inline_png(picture),
        "alt": "Real training images of each class to the left, synthetic images of it to the right",
        "caption": "The first images of each class, not the best.",
    }


def _walk(found: Evaluation) -> list[dict[str, str]]:
    shown = range(min(len(found.parts.classes), _MOST_CLASSES))
    walks = [interpolate(found.gan, label, count=FRAMES).numpy() for label in shown]
    frames = []
    for number in range(FRAMES):
        picture = picture_grid([np.stack([walk[number] for walk in walks])], cell=96)
        alt = f"Synthetic images of each class, {100 * number // (FRAMES - 1)} % of the way"
        frames.append({"uri": inline_png(picture), "alt": alt})
    return frames


def _closest(found: Evaluation) -> dict[str, str]:
    parts = found.parts
    pairs = found.metrics["memorization"]["spaces"][0]["closest"][:_CLOSEST]
    rows = [
        np.stack([parts.images["synthetic"][pair["synthetic"]] for pair in pairs]),
        np.stack([parts.images["training"][pair["training"]] for pair in pairs]),
    ]
    ratios = ", ".join(f"{pair['percentile']:.0f}" for pair in pairs)
    return {
        "uri": inline_png(picture_grid(rows, ["synthetic", "training"])),
        "alt": "The synthetic images that are closest to a training image, above the training image",
        "caption": f"The {len(pairs)} closest pairs. Percent of held-out images that are as close to a training image: "
        f"{ratios}.",
    }


def _fidelity_row(row: dict[str, Any], control: dict[str, Any]) -> list[str]:
    """Return the cells of a class; behind each figure, in brackets, that of the training images."""
    start = [row["name"], str(row["n_fake"]), str(row["n_real"])]
    if row["reason"]:
        return [*start, "insufficient", "", "", "", "", ""]

    def beside(text: str, other: str | None) -> str:
        return text if other is None else f"{text} ({other})"

    kid, real_kid = row["kid"], control["kid"]
    prdc, real_prdc = row["prdc"] or {}, control["prdc"] or {}
    fid = row["fid"] or {"value": None}
    distance = "too few images" if fid["value"] is None else f"{fid['value']:.3g} ({fid['floor']:.3g})"
    return [
        *start,
        beside(f"{kid['value']:.4f} [{kid['low']:.4f}, {kid['high']:.4f}]", real_kid and f"{real_kid['value']:.4f}"),
        *(
            beside(f"{prdc[name]:.2f}", f"{real_prdc[name]:.2f}" if real_prdc else None) if prdc else ""
            for name in ("precision", "recall", "density", "coverage")
        ),
        distance,
    ]


def _label_rows(metrics: dict[str, Any], classes: Sequence[str]) -> list[list[str]]:
    labels, judge = metrics["labels"], metrics["judge"]
    names = ("synthetic_on_real", "real_on_real", "real_on_synthetic", "real_on_held_out")

    def percent(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.1f}"

    rows = [
        [
            name,
            *(percent(labels[f"{key}_recall"].get(name)) for key in names),
            percent(judge["agreement"][name]),
            percent(judge["accepted"][name]),
        ]
        for name in classes
    ]
    return [*rows, ["mean", *(percent(labels[key]) for key in names), "", ""]]


def _space_row(space: dict[str, Any]) -> list[str]:
    return [
        space["space"],
        f"{space['auc']:.3f}",
        f"{space['auth_pct']:.0f}",
        f"{space['auth_pct_held_out']:.0f}",
        "" if space["c_t"] is None else f"{space['c_t']:.1f}",
        f"{len(space['near_copies'])}",
        f"{space['between']} ({space['between_by_chance']:.1f} by chance)",
    ]


def _duplicates(found: dict[str, Any]) -> str:
    return (
        f"Exact copies of training images: {len(found['exact'])} (held-out images: {found['exact_held_out']}). Near "
        f"duplicates by perceptual hash: {found['near']} (held-out images: {found['near_held_out']}). Sets of "
        f"synthetic images that repeat each other: {len(found['within']) + len(found['within_near'])}."
    )


def _attack_row(attack: dict[str, Any]) -> list[str]:
    hits = "; ".join(f"{100 * hit['tpr']['value']:.1f} % at {100 * hit['rate']:.0f} %" for hit in attack["hits"])
    auc, control = attack["auc"], attack["control"]
    return [
        f"{attack['attack']}, {attack['space']}",
        f"{auc['value']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}]",
        f"{control['value']:.3f}",
        hits,
    ]


def _waves(spectrum: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.8), layout="constrained")
    axes = figure.subplots()
    for side, color, width in (("real", "#57606a", 3), ("synthetic", "#a11d1d", 1.2)):
        axes.plot(spectrum["frequencies"], spectrum[side], color=color, linewidth=width, label=side)
    axes.set(xlabel="spatial frequency, cycles per pixel", ylabel="log power")
    axes.legend(frameon=False)
    return inline_svg(figure, f"Power spectra of real and of synthetic images. {spectrum['sentence']}")


def _short(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the metrics without the long lists, which are in the file beside."""
    found = json.loads(json.dumps(metrics))
    for space in found["memorization"]["spaces"]:
        space["closest"] = space["closest"][:3]
    return dict(found)
