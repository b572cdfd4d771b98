"""`ganaug fit`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ganaug.cli.options import (
    FOLDER,
    as_json,
    cached,
    grouped,
    on_device,
    overwriting,
    parse_size,
    show,
    sliced,
    timing_text,
)
from ganaug.errors import ConfigError

if TYPE_CHECKING:
    from ganaug.training.run import Run


@click.command(short_help="Train a generator on a labelled folder.")
@click.argument("data", type=FOLDER)
@click.option("--out", required=True, type=FOLDER, help="The run folder to create.")
@click.option(
    "--model",
    default="conditional",
    show_default=True,
    metavar="NAME",
    help="The kind of GAN: conditional (images of each class, from noise), cyclegan (images of one class, site or "
    "contrast turned into another; no pairs needed) or pix2pix (the same from pairs).",
)
@click.option(
    "--domains",
    metavar="A,B[,…]",
    default=None,
    show_default="all classes, or the table's domains",
    help="What to translate between: classes, or values of metadata.csv's column domain.",
)
@click.option(
    "--rule",
    type=click.Choice(["style", "class"]),
    default=None,
    show_default="as the folder tells",
    help="What becomes of the label in translation: style keeps it (scanner, contrast), class takes the target's.",
)
@click.option(
    "--target",
    type=FOLDER,
    default=None,
    help="With cyclegan: images of another site, labelled or not, that those of DATA are to look like.",
)
@click.option(
    "--degrade",
    metavar="KIND=FACTOR",
    default=None,
    help="With pix2pix: learn to restore DATA's own images from degraded copies: downsample=4 (super-resolution) or "
    "kspace=4 (accelerated MR).",
)
@click.option(
    "--recipe",
    default="auto",
    show_default=True,
    metavar="NAME|FILE",
    help="Settings: auto (by size, channels, number of images and --minutes), px16, px32, px64, px128, px256, vol32, "
    "vol64 or smoke; one of them with +color or +few laid over it, such as px64+few; or a YAML file.",
)
@click.option("--minutes", type=float, default=None, show_default="until --kimg", help="Train for this long.")
@click.option(
    "--kimg",
    type=float,
    default=None,
    show_default="the recipe's",
    help="Train on this many thousand images.",
)
@click.option(
    "--batch",
    metavar="N|auto",
    default=None,
    show_default="the recipe's",
    help="Images of a step, over all processes. auto: the recipe's, halved until it fits into memory.",
)
@click.option(
    "--size",
    metavar="HxW|DxHxW",
    default=None,
    show_default="from the folder",
    help="Size of the images, such as 64x48 (64 is 64x64), or of the volumes, such as 24x32x32.",
)
@click.option(
    "--channels",
    type=click.Choice(["1", "3"]),
    default=None,
    show_default="as in the files",
    help="Gray (1) or color (3).",
)
@click.option(
    "--hold-out",
    type=click.FloatRange(0, 1, max_open=True),
    default=None,
    metavar="FRACTION",
    show_default="none",
    help="Leave so many of the patients out, for ganaug evaluate and for testing a classifier.",
)
@sliced
@click.option(
    "--window",
    metavar="LOW,HIGH",
    default=None,
    show_default="from the files",
    help="Stored values to learn, such as -160,240 for soft tissue in HU; what lies outside is clipped.",
)
@on_device
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of weights and draws.")
@grouped
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@overwriting
@click.option("--dry-run", is_flag=True, help="Say what would be trained and how long it would take; write nothing.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Change one setting of the recipe; repeatable.")
@cached
@as_json
def fit(
    data: Path,
    out: Path,
    model: str,
    domains: str | None,
    rule: str | None,
    target: Path | None,
    degrade: str | None,
    recipe: str,
    minutes: float | None,
    kimg: float | None,
    batch: str | None,
    size: str | None,
    channels: str | None,
    hold_out: float | None,
    slices: str | None,
    window: str | None,
    device: str,
    seed: int,
    group_regex: str | None,
    resume: bool,
    overwrite: bool,
    dry_run: bool,
    sets: tuple[str, ...],
    json_: bool,
) -> None:
    """Train a generator on the labelled folder DATA.

    Ctrl-C saves the state and prints the command that goes on. With --minutes the schedules follow the clock; use
    --kimg for a run that can be repeated exactly. 'torchrun --nproc-per-node N -m ganaug fit …' trains on N GPUs, or
    in N processes, which share each batch.
    """
    from ganaug.config import FitConfig, parse_assignments
    from ganaug.distributed import was_restarted

    if minutes is not None and kimg is not None:
        raise click.UsageError("--minutes and --kimg were both given; give one.")
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite were both given; give one.")
    if was_restarted():  # the same command, by torchrun, after a process was lost
        resume, overwrite = True, False
    settings = parse_assignments(sets)
    given = {
        "minutes": minutes,
        "kimg": kimg,
        "batch": _parse_batch(batch),
        "size": parse_size(size),
        "channels": channels and int(channels),
        "hold_out": hold_out,
        "slices": slices,
        "window": _parse_window(window),
        "domains": domains and [name.strip() for name in domains.split(",")],
        "rule": rule,
        "degrade": degrade,
    }
    settings |= {key: value for key, value in given.items() if value is not None}
    context = click.get_current_context()
    for key, value in {"model": model, "device": device, "seed": seed}.items():
        if context.get_parameter_source(key) is not click.core.ParameterSource.DEFAULT:
            settings[key] = value

    FitConfig().updated(
        {**settings, **({"batch": 2} if batch == "auto" else {})}
    )  # a wrong setting is said before the folder is read
    from ganaug.data import left_out
    from ganaug.distributed import is_main, processes
    from ganaug.files import check_output
    from ganaug.training.fit import fit as run_fit
    from ganaug.training.fit import plan_for
    from ganaug.training.run import Run
    from ganaug.training.translating import translates

    context.with_resource(processes())
    plan = None
    if not resume:
        if not dry_run and is_main():
            check_output(out, overwrite=overwrite, options="--resume or --overwrite")
        plan, manifest = plan_for(data, recipe, settings, group_regex, target=target, show_progress=not json_)
        if not json_ and is_main():
            counts = ", ".join(f"{name}: {count}" for name, count in plan.manifest.counts.items())
            click.echo(f"{len(plan.manifest)} images{': ' if counts else ''}{counts}")
            for sentence in (*left_out(manifest), *plan.reasons):
                click.echo(sentence)
    if dry_run:
        if plan is None:
            raise click.UsageError("--dry-run and --resume were both given; give one.")
        from ganaug.training.probe import probe

        timing = probe(plan)
        show({**plan.to_dict(), **timing}, json_, f"{timing_text(timing)} Nothing was written.")
        return
    before = (Run(out).metrics() or [{}])[-1] if resume else {}
    run = run_fit(
        data,
        out,
        recipe=recipe,
        group_regex=group_regex,
        target=target,
        resume=resume,
        overwrite=overwrite,
        show_progress=not json_,
        planned=plan,
        **(settings if resume else {}),
    )
    if not is_main():
        return
    last = (run.metrics() or [{}])[-1]
    done = "It was complete already; give --minutes or --kimg to go on.\n" if before and last == before else ""
    text = (
        f"{done}"
        f"The generator is {run.model_path}; pictures and curves are in {run.report_path}.\n"
        f"{last.get('kimg', 0):.1f} thousand images were shown{_of_the_recipe(last, run)}.\n"
        f"Diversity within {'domains' if translates(run.config()) else 'classes'} {last.get('diversity', 0):.2f} of "
        "the real images' (1 is as diverse, more is noise; "
        f"least: {last.get('diversity_least_class')!r} {last.get('diversity_least', 0):.2f}).\n"
        f"{_changed(last)}{_unwatched(last)}"
        f"Next: {_next(run, data)}"
    )
    show({"run": str(run.path), "model": str(run.model_path), "metrics": last}, json_, text)


_LEAST_CHANGED = 1.0
"""Percent of the gray range below which a translation is taken for none."""


def _changed(last: Mapping[str, Any]) -> str:
    """Return how far translations are from their sources, and a warning where that is next to nothing."""
    if "changed_least" not in last:
        return ""
    mean, least = (100 * float(last[key]) / 2 for key in ("changed", "changed_least"))
    told = (
        f"Translations differ from their sources by {mean:.1f} % of the gray range (least direction {least:.1f} %).\n"
    )
    if least >= _LEAST_CHANGED:
        return told
    return told + (
        "Warning: that is next to nothing. Such images are their sources under another name, however good their "
        "diversity looks: train for longer, and look at them (ganaug twins, or the report).\n"
    )


def _unwatched(last: Mapping[str, Any]) -> str:
    return f"Not watched for collapse. {last['unwatched']}\n" if "unwatched" in last else ""


def _next(run: Run, data: Path) -> str:
    """Return the commands that one would want after a training."""
    from ganaug.models.modelfile import read_header

    translation = read_header(run.model_path).translation if run.model_path.exists() else None
    if translation is None:
        counts = {*run.config_file().get("images", {}).values()}
        wanted = f"--balance {data}" if len(counts) > 1 else "--per-class N"
        look = f"preview {run.path} --real {data} --out LOOK.png"
        if run.config().hold_out:
            look = f"evaluate {run.path} --real {data} --out DIR"
        return f"ganaug {look}, then ganaug sample {run.path} {wanted} --out DIR"
    source = "FILES" if translation.degrade else data
    return f"look at the report, then ganaug translate {run.path} {source} --to {translation.targets[-1]} --out DIR"


def _of_the_recipe(last: Mapping[str, Any], run: Run) -> str:
    """Say how far a training got, and whether that is too little to expect images."""
    from ganaug.config import FitConfig, load_recipe

    try:
        full = FitConfig().updated(load_recipe(str(run.config_file().get("recipe")))).kimg
    except ConfigError:  # a recipe file that is no longer there
        return ""
    shown = last.get("kimg", 0)
    if shown >= full:
        return ""
    advice = ": very little, expect noise" if shown < 0.1 * full else ""
    return f" of the {full:g} thousand that the recipe has for a full training{advice}"


def _parse_batch(text: str | None) -> int | str | None:
    if text is None or text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise click.UsageError(f"--batch {text} was given; a number or auto was wanted, such as --batch 16.") from None


def _parse_window(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise click.UsageError(
            f"--window {text} was given; LOW,HIGH in stored units was wanted, such as --window=-160,240."
        ) from None
    return low, high
