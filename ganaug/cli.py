"""The command line: click only. A room is imported inside the command that needs it, so that --help answers at once."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ganaug import __version__
from ganaug.errors import ConfigError, GanaugError, Interrupted

if TYPE_CHECKING:
    from ganaug.config import FitConfig

F = TypeVar("F", bound=Callable[..., Any])

FOLDER = click.Path(path_type=Path)


class Commands(click.Group):
    """A group whose errors are sentences: exit code 1 failure, 2 usage, 3 bad data, 4 diverged; no tracebacks."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of this file, which is the order in which they are used."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command and turn errors into messages and exit codes."""
        try:
            return super().invoke(ctx)
        except GanaugError as problem:
            click.echo(str(problem) if isinstance(problem, Interrupted) else f"Error: {problem}", err=True)
            ctx.exit(problem.exit_code)
        except KeyboardInterrupt:
            click.echo(
                "Stopped. Nothing that was complete is lost. Run the same command again; add --resume if it was a "
                "'fit' whose folder exists already.",
                err=True,
            )
            ctx.exit(1)
        except (click.exceptions.Exit, click.ClickException, click.Abort, BrokenPipeError):
            raise
        except MemoryError:
            click.echo("Error: not enough memory. Use a smaller --size or --set batch=…, or fewer images.", err=True)
            ctx.exit(1)
        except Exception as problem:
            _report_bug(problem)
            ctx.exit(1)


def _report_bug(problem: Exception) -> None:
    import tempfile
    import traceback

    first = (str(problem).splitlines() or ["no message"])[0]
    if "out of memory" in first.lower() or "can't allocate memory" in first.lower():
        click.echo("Error: not enough memory. Use a smaller --size or --set batch=….", err=True)
        return
    with tempfile.NamedTemporaryFile("w", prefix="ganaug-error-", suffix=".txt", delete=False) as stream:
        stream.write(traceback.format_exc())
    click.echo(
        f"Error: {type(problem).__name__}: {first}\nThis is a fault in ganaug, not in your data. The details are in "
        f"{stream.name}; please report them.",
        err=True,
    )


def as_json(command: F) -> F:
    """Add --json."""
    return click.option("--json", "json_", is_flag=True, help="Print JSON for machines, and no progress.")(command)


def on_device(command: F) -> F:
    """Add --device."""
    return click.option(
        "--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu, cuda or cuda:N."
    )(command)


def grouped(command: F) -> F:
    """Add --group-regex."""
    return click.option(
        "--group-regex",
        metavar="REGEX",
        default=None,
        show_default="metadata.csv's group column, else each image alone",
        help="Finds the patient (group) in each file's path: the first (…) or the whole match.",
    )(command)


def overwriting(command: F) -> F:
    """Add --overwrite."""
    return click.option("--overwrite", is_flag=True, help="Replace the output folder, if ganaug made it.")(command)


def _show(value: Mapping[str, Any], json_: bool, text: str) -> None:
    click.echo(json.dumps(value, indent=2) if json_ else text)


@click.group(cls=Commands, context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ganaug")
def main() -> None:
    """Synthetic images for your rare classes: fit a GAN to a labelled folder, sample, mix, and see if it helps.

    DATA is a folder with one sub-folder of images for each class, or with a metadata.csv
    (file_name,label[,group,split]). Start with 'ganaug demo'.
    """


@main.command(short_help="What is in a folder, and what would be trained.")
@click.argument("data", type=FOLDER)
@grouped
@click.option(
    "--channels",
    type=click.Choice(["1", "3"]),
    default=None,
    show_default="as in the files",
    help="Train on grey (1) or color (3) images.",
)
@as_json
def inspect(data: Path, group_regex: str | None, channels: str | None, json_: bool) -> None:
    """Say what is in DATA, what is wrong with it, and what 'fit' would train."""
    from ganaug.data import format_report, inspect_manifest, require_readable, scan

    manifest = scan(data, group_regex=group_regex, max_unreadable=1.0, show_progress=not json_)
    report = inspect_manifest(manifest)
    try:
        from ganaug.training.plan import make_plan

        require_readable(manifest)
        settings = {} if channels is None else {"channels": int(channels)}
        plan = make_plan(manifest, settings=settings)
        report["plan"] = plan.to_dict()
        wording = "\n".join(["'fit' would train:", *(f"  {reason}" for reason in plan.reasons)])
    except GanaugError as problem:
        report["plan"] = {"error": str(problem)}
        wording = f"'fit' would refuse it: {problem}"
    _show(report, json_, f"{format_report(report)}\n\n{wording}")


@main.command(short_help="Train a generator on a labelled folder.")
@click.argument("data", type=FOLDER)
@click.option("--out", required=True, type=FOLDER, help="The run folder to create.")
@click.option(
    "--model",
    default="conditional",
    show_default=True,
    metavar="NAME",
    help="The kind of GAN: conditional (class-conditional images from noise).",
)
@click.option(
    "--recipe",
    default="auto",
    show_default=True,
    metavar="NAME|FILE",
    help="Settings: auto (by size), px16, px32, px64, px128, smoke, or a YAML file.",
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
    "--size",
    metavar="HxW",
    default=None,
    show_default="from the folder",
    help="Size of the images, such as 64x48; 64 is 64x64.",
)
@click.option(
    "--channels",
    type=click.Choice(["1", "3"]),
    default=None,
    show_default="as in the files",
    help="Grey (1) or color (3).",
)
@on_device
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of weights and draws.")
@grouped
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@overwriting
@click.option("--dry-run", is_flag=True, help="Say what would be trained and how long it would take; write nothing.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Change one setting of the recipe; repeatable.")
@as_json
def fit(
    data: Path,
    out: Path,
    model: str,
    recipe: str,
    minutes: float | None,
    kimg: float | None,
    size: str | None,
    channels: str | None,
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
    --kimg for a run that can be repeated exactly.
    """
    from ganaug.config import FitConfig, parse_assignments

    if minutes is not None and kimg is not None:
        raise click.UsageError("--minutes and --kimg were both given; give one.")
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite were both given; give one.")
    settings = parse_assignments(sets)
    given = {
        "minutes": minutes,
        "kimg": kimg,
        "size": _parse_size(size),
        "channels": channels and int(channels),
    }
    settings |= {key: value for key, value in given.items() if value is not None}
    context = click.get_current_context()
    for key, value in {"model": model, "device": device, "seed": seed}.items():
        if context.get_parameter_source(key) is not click.core.ParameterSource.DEFAULT:
            settings[key] = value

    FitConfig().updated(settings)  # a wrong setting is said before the folder is read
    from ganaug.data import left_out, scan
    from ganaug.files import check_output
    from ganaug.training.fit import fit as run_fit
    from ganaug.training.plan import make_plan
    from ganaug.training.run import Run

    plan = None
    if not resume:
        if not dry_run:
            check_output(out, overwrite=overwrite, options="--resume or --overwrite")
        manifest = scan(data, group_regex=group_regex, show_progress=not json_)
        plan = make_plan(manifest, recipe=recipe, settings=settings)
        if not json_:
            counts = ", ".join(f"{name}: {count}" for name, count in plan.manifest.counts.items())
            click.echo(f"{len(plan.manifest)} images: {counts}")
            for sentence in (*left_out(manifest), *plan.reasons):
                click.echo(sentence)
    if dry_run:
        if plan is None:
            raise click.UsageError("--dry-run and --resume were both given; give one.")
        from ganaug.training.probe import probe

        timing = probe(plan)
        _show({**plan.to_dict(), **timing}, json_, _timing_text(timing))
        return
    before = (Run(out).metrics() or [{}])[-1] if resume else {}
    run = run_fit(
        data,
        out,
        recipe=recipe,
        group_regex=group_regex,
        resume=resume,
        overwrite=overwrite,
        show_progress=not json_,
        planned=plan,
        **(settings if resume else {}),
    )
    last, config = (run.metrics() or [{}])[-1], run.config()
    done = "It was complete already; give --minutes or --kimg to go on.\n" if before and last == before else ""
    text = (
        f"{done}"
        f"The generator is {run.model_path}; pictures and curves are in {run.report_path}.\n"
        f"{last.get('kimg', 0):.1f} thousand images were shown{_of_the_recipe(last, config)}.\n"
        f"Diversity within classes {last.get('diversity', 0):.2f} of the real images' (1 is as diverse, more is noise; "
        f"least: {last.get('diversity_least_class')!r} {last.get('diversity_least', 0):.2f}).\n"
        f"Next: ganaug preview {run.path} --real {data} --out LOOK.png, then ganaug sample {run.path} --balance {data} "
        "--out DIR"
    )
    _show({"run": str(run.path), "model": str(run.model_path), "metrics": last}, json_, text)


def _of_the_recipe(last: Mapping[str, Any], config: FitConfig) -> str:
    """Say how far a training by the clock got, and whether that is too little to expect images."""
    if config.minutes is None:
        return ""
    short = last.get("kimg", 0) < 0.1 * config.kimg
    advice = ": very little, expect noise" if short else ""
    return f" of the {config.kimg:g} that the recipe has for a full training{advice}"


def _timing_text(timing: Mapping[str, float]) -> str:
    return (
        f"Expected on this machine: {timing['images_per_second']:.0f} images/s, "
        f"{timing['expected_minutes']:.1f} minutes for {timing['expected_kimg']:.0f} thousand images. "
        "Nothing was written."
    )


def _parse_size(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        sides = tuple(int(side) for side in text.lower().split("x"))
    except ValueError:
        sides = ()
    if len(sides) == 1:
        sides = (sides[0], sides[0])
    if len(sides) != 2:
        raise click.UsageError(f"--size {text} was given; HxW in pixels was wanted, such as 64x64.")
    return sides


@main.command(short_help="Make synthetic images: files or a bank.")
@click.argument("run", type=FOLDER)
@click.option("--out", required=True, type=FOLDER, help="The folder to create.")
@click.option("--per-class", type=click.IntRange(min=1), default=None, help="This many images of each class.")
@click.option("--balance", type=FOLDER, default=None, metavar="DATA", help="Fill each class of DATA up to its largest.")
@click.option("--counts", default=None, metavar="A=10,B=20", help="This many of each named class.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Another seed, other images.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["png", "bank"]),
    default="png",
    show_default=True,
    help="png: a labelled folder; bank: memory-mapped arrays for SyntheticBank.open.",
)
@click.option(
    "--truncation",
    type=float,
    default=1.0,
    show_default=True,
    help="Above 0 to 1; below 1: more typical, less diverse.",
)
@on_device
@overwriting
@as_json
def sample(
    run: Path,
    out: Path,
    per_class: int | None,
    balance: Path | None,
    counts: str | None,
    seed: int,
    format_: str,
    truncation: float,
    device: str,
    overwrite: bool,
    json_: bool,
) -> None:
    """Make synthetic images with the generator of RUN: a labelled folder with metadata.csv, or a bank."""
    if sum(value is not None for value in (per_class, balance, counts)) != 1:
        raise click.UsageError("Give exactly one of --per-class, --balance and --counts.")
    wanted = _parse_counts(counts)
    from ganaug.files import keep_apart
    from ganaug.sampling import SyntheticBank, load
    from ganaug.sampling.counts import requested_counts
    from ganaug.sampling.export import export_folder

    for source in (run, *([balance] if balance else [])):
        keep_apart(out, source)
    gan = load(run, device=device)
    numbers = requested_counts(gan.classes, counts=wanted, per_class=per_class, balance=balance)
    common: dict[str, Any] = {
        "counts": numbers,
        "seed": seed,
        "truncation": truncation,
        "overwrite": overwrite,
        "show_progress": not json_,
    }
    if format_ == "bank":
        bank = SyntheticBank.generate(gan, out, **common)
        summary = {
            "out": str(out),
            "images": len(bank),
            "counts": bank.counts,
            "model_sha256": bank.model_sha256,
        }
    else:
        summary = export_folder(gan, out, **common)
    made = ", ".join(f"{name}: {count}" for name, count in numbers.items())
    _show(summary, json_, f"{summary['images']} synthetic images in {out}: {made}")


def _parse_counts(text: str | None) -> dict[str, int] | None:
    if text is None:
        return None
    counts = {}
    for part in text.split(","):
        name, equals, number = part.rpartition("=")
        if not equals or not name.strip() or not number.strip().isdigit():
            raise click.UsageError(f"--counts {text} was given; CLASS=NUMBER,… was wanted, such as a=10,b=20.")
        if name.strip() in counts:
            raise click.UsageError(f"--counts names {name.strip()!r} twice. Give each class once.")
        counts[name.strip()] = int(number)
    return counts


@main.command(short_help="Draw a picture of what a generator makes.")
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
    if out.suffix.lower() != ".png":
        raise click.UsageError(f"--out {out} was given; a name that ends in .png was wanted.")
    if out.exists() and not overwrite:
        raise ConfigError(f"The file {out} exists. Choose another name, or add --overwrite.")
    from ganaug.data import scan
    from ganaug.data.pictures import save_picture
    from ganaug.files import disk_errors
    from ganaug.sampling import load
    from ganaug.sampling.preview import preview as draw

    picture = draw(
        load(run, device=device),
        columns=columns,
        seed=seed,
        classes=[name.strip() for name in classes.split(",")] if classes else (),
        interpolate=interpolate,
        real=scan(real) if real else None,
    )
    with disk_errors(out.parent):
        save_picture(picture, out)
    _show({"out": str(out), "width": picture.width, "height": picture.height}, json_, f"The picture is {out}.")


@main.command(short_help="The whole story on real data, with a verdict.")
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


if __name__ == "__main__":
    sys.exit(main())
