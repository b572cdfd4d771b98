"""`ganaug demo`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ganaug.cli.options import FOLDER, as_json, on_device, overwriting


@click.command(short_help="The whole story on real data, with a verdict.")
@click.option("--out", type=FOLDER, default=Path("ganaug-demo"), show_default=True, help="The folder to create.")
@click.option("--minutes", type=float, default=2.5, show_default=True, help="Time for the training of the generator.")
@click.option("--seeds", type=click.IntRange(min=2), default=8, show_default=True, help="Trainings of each arm.")
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=600,
    show_default=True,
    help="Optimizer steps of each training.",
)
@on_device
@overwriting
@as_json
def demo(out: Path, minutes: float, seeds: int, steps: int, device: str, overwrite: bool, json_: bool) -> None:
    """Tell the whole story on real data: inspect, fit, sample, train with and without, and a verdict.

    The data are scikit-learn's 1,797 handwritten digits, with three classes cut to 12 images each.
    """
    from ganaug.demo import run_demo

    result = run_demo(
        out, minutes=minutes, seeds=seeds, steps=steps, device=device, overwrite=overwrite, talk=not json_
    )
    if json_:
        click.echo(json.dumps(result, indent=2))
