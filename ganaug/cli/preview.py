"""`ganaug preview`."""

from __future__ import annotations

from pathlib import Path

import click

from ganaug.cli.options import FOLDER, as_json, check_picture, on_device, show


@click.command(short_help="Draw a picture of what a generator makes.")
@click.argument("run", type=FOLDER)
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The PNG file to write.")
@click.option("--columns", type=click.IntRange(1, 100), default=10, show_default=True, help="Images of each class.")
@click.option("--classes", default=None, metavar="A,B", show_default="all", help="Only these classes.")
@click.option("--real", type=FOLDER, default=None, metavar="DATA", help="Show real images of DATA beside them.")
@click.option("--interpolate", is_flag=True, help="Walk between two latents in each row.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Another seed, other images.")
@on_device
@click.option("--overwrite", is_flag=True, help="Replace the file --out.")
@as_json
def preview(
    run: Path,
    out: Path,
    columns: int,
    classes: str | None,
    real: Path | None,
    interpolate: bool,
    seed: int,
    device: str,
    overwrite: bool,
    json_: bool,
) -> None:
    """Draw a picture of what the generator of RUN makes: one row for each class."""
    check_picture(out, overwrite)
    from ganaug.data import scan
    from ganaug.data.pictures import save_picture
    from ganaug.files import disk_errors
    from ganaug.sampling import load
    from ganaug.sampling.preview import preview as draw

    gan = load(run, device=device)
    picture = draw(
        gan,
        columns=columns,
        seed=seed,
        classes=[name.strip() for name in classes.split(",")] if classes else (),
        interpolate=interpolate,
        real=scan(real, slices=gan.header.settings.get("slices")) if real else None,
    )
    with disk_errors(out.parent):
        save_picture(picture, out)
    show({"out": str(out), "width": picture.width, "height": picture.height}, json_, f"The picture is {out}.")
