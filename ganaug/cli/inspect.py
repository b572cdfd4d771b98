"""`ganaug inspect`."""

from __future__ import annotations

from pathlib import Path

import click

from ganaug.cli.options import FOLDER, as_json, cached, check_picture, grouped, show, sliced, timing_text
from ganaug.errors import GanaugError


@click.command(short_help="What is in a folder, and what would be trained.")
@click.argument("data", type=FOLDER)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    metavar="FILE.png",
    help="Also draw some images of each class and their histograms.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file --out.")
@grouped
@sliced
@click.option(
    "--channels",
    type=click.Choice(["1", "3"]),
    default=None,
    show_default="as in the files",
    help="Train on gray (1) or color (3) images.",
)
@cached
@as_json
def inspect(
    data: Path,
    out: Path | None,
    overwrite: bool,
    group_regex: str | None,
    slices: str | None,
    channels: str | None,
    json_: bool,
) -> None:
    """Say what is in DATA, what is wrong with it, and what 'fit' would train."""
    if out is not None:
        check_picture(out, overwrite)
    from ganaug.data import format_report, inspect_manifest, require_readable, scan

    manifest = scan(
        data, group_regex=group_regex, slices=slices, detail=True, max_unreadable=1.0, show_progress=not json_
    )
    report = inspect_manifest(manifest)
    try:
        from ganaug.training.plan import make_plan
        from ganaug.training.probe import probe

        require_readable(manifest)
        given = {"channels": channels and int(channels), "slices": slices}
        settings = {key: value for key, value in given.items() if value is not None}
        plan = make_plan(manifest, settings=settings)
        report["plan"] = {**plan.to_dict(), **probe(plan)}
        reasons = [*plan.reasons, f"Full training: {timing_text(report['plan'])}"]
        wording = "\n".join(["'fit' would train:", *(f"  {reason}" for reason in reasons)])
    except GanaugError as problem:
        report["plan"] = {"error": str(problem)}
        wording = f"'fit' would refuse it: {problem}"
    if out is not None:
        from functools import partial

        from ganaug.data.pictures import inspect_picture, save_picture
        from ganaug.data.tensors import read_item
        from ganaug.files import disk_errors

        with disk_errors(out.parent):
            save_picture(inspect_picture(manifest, partial(read_item, manifest.root)), out)
        report["picture"] = str(out)
        wording += f"\nThe picture is {out}."
    show(report, json_, f"{format_report(report)}\n\n{wording}")
