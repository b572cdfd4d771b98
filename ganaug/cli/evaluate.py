"""`ganaug evaluate`."""

from __future__ import annotations

from pathlib import Path

import click

from ganaug.cli.options import FOLDER, as_json, grouped, on_device, overwriting, show


@click.command(short_help="Fidelity, coverage, copies, privacy, fingerprint: with controls.")
@click.argument("run", type=FOLDER)
@click.option("--real", required=True, type=FOLDER, metavar="DATA",
              help="Held-out images; those that RUN was trained on are recognized among them.")  # fmt: skip
@click.option("--train", type=FOLDER, default=None, metavar="DATA",
              help="The training images, where --real has none of them.")  # fmt: skip
@click.option("--out", type=FOLDER, default=None, help="The folder to create: metrics.json and report.html.")
@click.option("--per-class", type=click.IntRange(min=1), default=None, show_default="as training images, 100 to 1000",
              help="Synthetic images of each class.")  # fmt: skip
@click.option("--features", default="classifier", show_default=True, metavar="NAME|MODULE:ATTR",
              help="classifier (trained on the training images), imagenet, or your own network.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all that is drawn.")
@grouped
@on_device
@overwriting
@as_json
def evaluate(
    run: Path,
    real: Path,
    train: Path | None,
    out: Path | None,
    per_class: int | None,
    features: str,
    seed: int,
    group_regex: str | None,
    device: str,
    overwrite: bool,
    json_: bool,
) -> None:
    """Hold the images that RUN makes against real ones that it has not seen, and against those that it has.

    Every figure stands beside its control: what real images give in the place of the synthetic ones.
    """
    from ganaug.errors import Interrupted
    from ganaug.evaluation.evaluate import evaluate as run_evaluation

    try:
        found = run_evaluation(
            run, real, out, train=train, per_class_count=per_class, features=features, seed=seed,
            group_regex=group_regex, device=device, overwrite=overwrite, show_progress=not json_,
        )  # fmt: skip
    except KeyboardInterrupt:
        raise Interrupted("Stopped. An evaluation is not kept in parts: the same command begins anew.") from None
    more = "" if out is None else f"\nEverything is in {out}: metrics.json, report.html."
    show(found.metrics, json_, found.summary() + more)
