"""`ganaug twins`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ganaug.cli.options import FOLDER, as_json, grouped, on_device, overwriting, show


@click.command(short_help="Show real scans beside their translations, and judge them.")
@click.argument("run", type=FOLDER)
@click.argument("data", type=FOLDER)
@click.option("--to", required=True, metavar="CLASS", help="The class to translate to.")
@click.option("--out", required=True, type=FOLDER, help="The folder to create.")
@click.option(
    "--from",
    "source",
    metavar="CLASS[,CLASS…]",
    default=None,
    show_default="all others",
    help="The class, or classes, to translate from.",
)
@click.option(
    "--count",
    type=click.IntRange(min=1),
    default=None,
    show_default="all",
    help="So many of the images, drawn by --seed.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the draw and the judge.")
@grouped
@on_device
@overwriting
@as_json
def twins(
    run: Path,
    data: Path,
    to: str,
    out: Path,
    source: str | None,
    count: int | None,
    seed: int,
    group_regex: str | None,
    device: str,
    overwrite: bool,
    json_: bool,
) -> None:
    """Turn real scans of DATA into class --to with the translation model of RUN; say what changed and who believes it.

    Writes twins.csv, a row for each scan, and twins.png, accepted and rejected translations beside their sources. A
    judge of the classes is trained on DATA and checked on images that it has not seen.
    """
    from ganaug.errors import Interrupted
    from ganaug.evaluation.twins import make_twins
    from ganaug.files import keep_apart
    from ganaug.sampling import load

    for path in (run, data):
        keep_apart(out, path)
    try:
        summary = make_twins(
            load(run, device=device),  # type: ignore[arg-type]  # make_twins says in a sentence what else it is
            data,
            out,
            to=to,
            source=None if source is None else [name.strip() for name in source.split(",")],
            count=count,
            seed=seed,
            group_regex=group_regex,
            overwrite=overwrite,
            show_progress=not json_,
        )
    except KeyboardInterrupt:
        raise Interrupted(
            "Stopped. What was translated is kept, and the same command goes on with it; the judge is trained again."
        ) from None
    show(summary, json_, _text(summary))


def _text(summary: dict[str, Any]) -> str:
    from ganaug.evaluation.twins import PICTURE, REASONS, TABLE

    of = ", ".join(f"{name} {n['accepted']} of {n['tried']}" for name, n in summary["by_class"].items())
    lines = [
        summary["verdict"],
        f"Accepted as {summary['to']}: {summary['accepted']} of {summary['twins']} ({of}).",
        *(f"  rejected, {REASONS[reason]}: {n}" for reason, n in summary["rejected"].items()),
        f"The picture and the table are {Path(summary['out']) / PICTURE} and {TABLE}.",
    ]
    known = summary["in_training"]
    if known.get("yes"):
        lines.append(f"Of the scans {known['yes']} were in the translation's own training (column in_training).")
    if known.get("unknown"):
        lines.append("Nobody knows which scans were in the translation's training: RUN has no train_manifest.json.")
    return "\n".join(lines)
