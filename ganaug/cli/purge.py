"""`ganaug purge`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ganaug.cli.options import FOLDER, as_json, grouped, show, sliced

if TYPE_CHECKING:
    from ganaug.data.manifest import Manifest


@click.command(short_help="List and remove what a withdrawn patient contributed to.")
@click.argument("bank", type=FOLDER)
@click.option(
    "--group", required=True, metavar="ID", help="The patient, as the training data named them; - reads it from stdin."
)
@click.option("--data", type=FOLDER, default=None, metavar="DATA", help="The real images, to know which are theirs.")
@grouped
@sliced
@click.option(
    "--run", "runs", type=FOLDER, multiple=True, metavar="RUN", help="A run whose model made the images. Repeatable."
)
@click.option(
    "--reach",
    type=click.Choice(["direct", "model"]),
    default="direct",
    show_default=True,
    help="direct: remove what was translated from the patient's images; model: also all images of models that were "
    "trained on the patient.",
)
@click.option("--reason", default="", metavar="TEXT", help="For the record; without the ID.")
@click.option("--dry-run", is_flag=True, help="List only.")
@as_json
def purge(
    bank: Path,
    group: str,
    data: Path | None,
    group_regex: str | None,
    slices: str | None,
    runs: tuple[Path, ...],
    reach: str,
    reason: str,
    dry_run: bool,
    json_: bool,
) -> None:
    """Find what goes back to a patient in BANK, a bank or a folder of synthetic images, and remove it.

    Both what was translated from the patient's images and what models made that were trained on them is listed; only
    the former is removed by default. The ID is never written anywhere: files hold its hash.
    """
    if data is None and (group_regex is not None or slices is not None):
        raise click.UsageError("--group-regex and --slices say how to read --data DATA: give it as well.")
    from ganaug.sampling.purge import purge as purge_place

    wanted = sys.stdin.readline().strip() if group == "-" else group
    found = purge_place(
        bank,
        wanted,
        data=None if data is None else _scan(data, group_regex, slices, show_progress=not json_),
        runs=runs,
        reach=reach,
        reason=reason,
        dry_run=dry_run,
    )
    show(found.to_dict(), json_, str(found))


def _scan(data: Path, group_regex: str | None, slices: str | None, *, show_progress: bool) -> Manifest:
    """Read the real images without the cache, which would keep what their files say of the patient."""
    from ganaug.data.reading import scan

    before = os.environ.get("GANAUG_CACHE")
    os.environ["GANAUG_CACHE"] = "off"
    try:
        return scan(data, group_regex=group_regex, slices=slices, show_progress=show_progress)
    finally:
        if before is None:
            del os.environ["GANAUG_CACHE"]
        else:
            os.environ["GANAUG_CACHE"] = before
