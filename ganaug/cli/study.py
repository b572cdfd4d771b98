"""`ganaug study`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ganaug.cli.options import FOLDER, as_json, grouped, on_device, overwriting, parse_size, show


@click.command(short_help="Does it help my classifier? A paired study with a verdict.")
@click.argument("data", type=FOLDER)
@click.option("--out", required=True, type=FOLDER, help="The folder to create.")
@click.option(
    "--run", "run_", type=FOLDER, default=None, metavar="RUN", help="Examine this generator, and train no others."
)
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=5.0, show_default=True,
              help="Training time of each generator.")  # fmt: skip
@click.option("--kimg", type=click.FloatRange(min=0, min_open=True), default=None, metavar="N",
              help="Instead of --minutes: show each generator so many thousand images.")  # fmt: skip
@click.option("--generators", type=click.IntRange(min=1), default=5, show_default=True,
              help="Generators of each kind; with 2 to 4 there is no verdict.")  # fmt: skip
@click.option("--seeds", type=click.IntRange(min=2), default=10, show_default=True, help="Classifiers of each arm.")
@click.option("--arms", default=None, metavar="A,B,…", show_default="all", help="Ways to train.")
@click.option("--steps", type=click.IntRange(min=1), default=600, show_default=True,
              help="Optimizer steps of each classifier.")  # fmt: skip
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True, help="Images a step.")
@click.option("--model", default="", metavar="MODULE:CALLABLE", show_default="a small network",
              help="Your own network: a function (shape, classes) -> torch.nn.Module.")  # fmt: skip
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), default=None, metavar="RATE",
              show_default="0.01, or 0.001 with --model", help="Learning rate of AdamW.")  # fmt: skip
@click.option("--size", default=None, metavar="HxW|DxHxW", show_default="as ganaug fit", help="Size of the images.")
@click.option("--test", type=FOLDER, default=None, metavar="B", help="Score on another site's labelled folder too.")
@click.option("--target", type=FOLDER, default=None, metavar="B",
              help="Another site's images, labelled or not, for the arm 'site'.")  # fmt: skip
@click.option("--smallest-gain", type=click.FloatRange(min=0), default=0.5, show_default=True, metavar="POINTS",
              help="The gain in balanced accuracy that would be worth the trouble.")  # fmt: skip
@click.option(
    "--split-seed", type=click.IntRange(min=0), default=0, show_default=True, help="Another split of patients."
)
@click.option("--jobs", type=click.IntRange(min=1), default=None, show_default="CPU cores; 1 on a GPU",
              help="Processes side by side.")  # fmt: skip
@grouped
@on_device
@overwriting
@as_json
def study(
    data: Path,
    out: Path,
    run_: Path | None,
    minutes: float,
    kimg: float | None,
    generators: int,
    seeds: int,
    arms: str | None,
    steps: int,
    batch: int,
    model: str,
    lr: float | None,
    size: str | None,
    test: Path | None,
    target: Path | None,
    smallest_gain: float,
    split_seed: int,
    jobs: int | None,
    group_regex: str | None,
    device: str,
    overwrite: bool,
    json_: bool,
) -> None:
    """Train the same classifier on DATA in many ways, with and without generated images, and compare them in pairs.

    Writes verdict.json (use, do not use, or cannot tell; all figures; the setting to take over) and report.html. The
    same command goes on where it was stopped; more --seeds or --arms add to what is there.
    """
    import sys

    from ganaug.errors import Interrupted, ModelFileError
    from ganaug.evaluation.folder_study import VERDICT, StudySettings
    from ganaug.evaluation.folder_study import study as run_study
    from ganaug.files import read_json

    if model and "" not in sys.path:
        sys.path.insert(0, "")  # a module in the current folder, as `python -m` finds it
    given: dict[str, Any] = {} if arms is None else {"arms": tuple(name.strip() for name in arms.split(","))}
    settings = StudySettings(
        seeds=seeds, generators=generators, minutes=None if kimg else minutes, kimg=kimg, steps=steps, batch=batch,
        lr=lr, model=model, size=parse_size(size), split_seed=split_seed, smallest_gain=smallest_gain,
        group_regex=group_regex, **given,
    )  # fmt: skip
    try:
        outcome = run_study(
            data, out, settings, run=run_, test=test, target=target, device=device, jobs=jobs, overwrite=overwrite,
            show_progress=not json_, say=(lambda _: None) if json_ else click.echo,
        )  # fmt: skip
    except KeyboardInterrupt:
        without = ", without --overwrite, which would begin anew" if overwrite else ""
        raise Interrupted(
            f"Stopped. Every generator and classifier that was complete is kept in {out}. The same command goes on "
            f"with them{without}."
        ) from None
    found = read_json(out / VERDICT, ModelFileError, "Give the same command again.")
    lines = []
    for part, title in (("test", "Held-out images"), ("site", "The other site")):
        if part in outcome.parts:
            said = outcome.verdict(part)
            lines += ["", f"== {title}", outcome.table(part)]
            lines += [] if said is None else ["", f"Verdict: {said['word']}.", said["sentence"]]
    show(
        found, json_, "\n".join([*lines, "", f"Everything is in {out}: verdict.json, report.html, generators, trials."])
    )
