"""`ganaug trace`."""

from __future__ import annotations

from pathlib import Path

import click

from ganaug.cli.options import FOLDER, as_json, on_device, show


@click.command(short_help="Say where a synthetic image comes from.")
@click.argument("file", type=FOLDER)
@click.option(
    "--run",
    "runs",
    type=FOLDER,
    multiple=True,
    metavar="RUN",
    help="Is it this run's? Makes the image again and compares the pixels. May be repeated.",
)
@click.option(
    "--bank",
    "banks",
    type=FOLDER,
    multiple=True,
    metavar="BANK",
    help="Look for the same pixels in this bank, folder or archive. May be repeated.",
)
@on_device
@as_json
def trace(file: Path, runs: tuple[Path, ...], banks: tuple[Path, ...], device: str, json_: bool) -> None:
    """Say in plain words where the image FILE comes from: synthetic or not, by which model, of which class and seed.

    FILE is an image or volume, BANK#12 or synthetic.npz#train[12] for one of a bank or archive, or a bank.
    """
    from ganaug.sampling.trace import trace as trace_file

    found = trace_file(file, runs=runs, banks=banks, device=device)
    show(found.to_dict(), json_, str(found))
