"""`ganaug preview`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ganaug.cli.options import FOLDER, as_json, check_picture, on_device, show

if TYPE_CHECKING:
    from PIL import Image

    from ganaug.sampling import Sampler


_FOR_ROWS = ("columns", "classes", "real", "truncations")
"""Parameters that say what stands in the rows of a picture: a projection has none."""


def _truncations(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} was given; a number or several were wanted, such as 0.3,0.7,1.") from None


@click.command(short_help="Draw a picture of what a generator makes.")
@click.argument("run", type=FOLDER)
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The PNG file to write.")
@click.option("--columns", type=click.IntRange(1, 100), default=10, show_default=True, help="Images of each class.")
@click.option("--classes", default=None, metavar="A,B", show_default="all", help="Only these classes.")
@click.option("--real", type=FOLDER, default=None, metavar="DATA", help="Show real images of DATA beside them.")
@click.option("--interpolate", is_flag=True, help="In each row, walk from one sample to another.")
@click.option(
    "--mix-styles", is_flag=True, help="Coarse styles of each row's first image, fine styles of the class's top row."
)
@click.option(
    "--truncation",
    "truncations",
    default="1",
    show_default=True,
    metavar="PSI[,PSI…]",
    callback=_truncations,
    help="Above 0 to 1; several: a row for each.",
)
@click.option(
    "--project",
    type=FOLDER,
    default=None,
    metavar="IMAGE",
    help="Find the closest image that the generator can make: draws the given one, the closest, and their difference. "
    "Any file that 'fit' reads; a part of one is FILE#PART as 'inspect' names it, such as set.npz#test[3].",
)
@click.option("--to-class", default=None, metavar="NAME", show_default="the closest", help="Class for --project.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Another seed, other images.")
@on_device
@click.option("--overwrite", is_flag=True, help="Replace the file --out.")
@as_json
@click.pass_context
def preview(
    context: click.Context,
    run: Path,
    out: Path,
    columns: int,
    classes: str | None,
    real: Path | None,
    interpolate: bool,
    mix_styles: bool,
    truncations: tuple[float, ...],
    project: Path | None,
    to_class: str | None,
    seed: int,
    device: str,
    overwrite: bool,
    json_: bool,
) -> None:
    """Draw a picture of what the generator of RUN makes: one row for each class."""
    if sum((interpolate, mix_styles, project is not None)) > 1:
        raise click.UsageError("Give at most one of --interpolate, --mix-styles and --project.")
    if project is not None:
        given = [name for name in _FOR_ROWS if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
        if given:
            hint = " Name the class with --to-class." if "classes" in given else ""
            raise click.UsageError(f"--project goes without {_options(context, given)}.{hint}")
    elif to_class is not None:
        raise click.UsageError("--to-class was given without --project IMAGE.")
    if real is not None and mix_styles:
        raise click.UsageError("--mix-styles goes without --real.")
    if len(truncations) > 1 and mix_styles:
        raise click.UsageError("--mix-styles takes one --truncation.")
    if interpolate and columns < 2:
        raise click.UsageError("--interpolate needs at least --columns 2: a way has two ends.")
    check_picture(out, overwrite)
    from ganaug.data import scan
    from ganaug.data.pictures import save_picture
    from ganaug.files import disk_errors
    from ganaug.sampling.preview import mixing_picture
    from ganaug.sampling.preview import preview as draw
    from ganaug.sampling.sampler import load_sampler

    gan = load_sampler(run, device=device)
    names = [name.strip() for name in classes.split(",")] if classes else ()
    facts: dict[str, Any] = {}
    text = ""
    if project is not None:
        picture, facts = _project(gan, project, to_class, seed, show_progress=not json_)
        text = (
            f"The closest image is of class {facts['class']!r}, {facts['distance']:.4f} away; the closest of "
            f"{facts['samples']:,} samples was {facts['start_distance']:.4f} away (root mean square, values from -1 to "
            "1).\n"
        )
    elif mix_styles:
        picture = mixing_picture(gan, columns=columns, seed=seed, classes=names, truncation=truncations[0])
    else:
        picture = draw(
            gan,
            columns=columns,
            seed=seed,
            classes=names,
            interpolate=interpolate,
            truncations=truncations,
            real=scan(real, slices=gan.header.settings.get("slices")) if real else None,
        )
    with disk_errors(out.parent):
        save_picture(picture, out)
    size = {"width": picture.width, "height": picture.height}
    show({"out": str(out), **size, **facts}, json_, f"{text}The picture is {out}.")


def _options(context: click.Context, parameters: Sequence[str]) -> str:
    """Return the option names of parameters, as the user types them."""
    return " and ".join(option.opts[0] for option in context.command.params if option.name in parameters)


def _project(
    gan: Sampler, path: Path, name: str | None, seed: int, *, show_progress: bool
) -> tuple[Image.Image, dict[str, Any]]:
    """Return the picture of a projection, and what there is to say of it."""
    from ganaug.sampling.latent_tools import project
    from ganaug.sampling.preview import labels_of, projection_picture, read_image

    image = read_image(gan, path)
    label = None if name is None else labels_of(gan, [name])[0]
    found = project(gan, image, label=label, seed=seed, show_progress=show_progress)
    facts = {
        "class": gan.classes[found.label],
        "distance": found.distance,
        "start_distance": found.start_distance,
        "samples": found.samples,
    }
    return projection_picture(gan, image, found), facts
