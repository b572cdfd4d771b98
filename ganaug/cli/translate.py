"""`ganaug translate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ganaug.cli.options import FOLDER, as_json, grouped, on_device, overwriting, show

if TYPE_CHECKING:
    from ganaug.sampling.translator import Translator


@click.command(short_help="Turn real images into another class, site or contrast.")
@click.argument("run", type=FOLDER)
@click.argument("images", metavar="INPUT", type=FOLDER)
@click.option("--to", required=True, metavar="CLASS", help="The class or domain to translate to.")
@click.option("--out", required=True, type=FOLDER, help="The folder to create.")
@click.option(
    "--from",
    "source",
    metavar="DOMAIN",
    default=None,
    show_default="what INPUT tells, or the other of two",
    help="The class or domain to translate from.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["auto", "png", "tiff", "nifti", "dicom", "npy", "bank"]),
    default="auto",
    show_default=True,
    help="auto: as each file; bank: memory-mapped arrays for SyntheticBank.open.",
)
@click.option("--native", is_flag=True, help="Translate at the files' own resolution, not at that of the training.")
@click.option(
    "--count",
    type=click.IntRange(min=1),
    default=None,
    help="Of a bank: so many of the images, drawn by --seed.",
    show_default="all",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the draw for --count.")
@grouped
@on_device
@overwriting
@as_json
def translate(
    run: Path,
    images: Path,
    to: str,
    out: Path,
    source: str | None,
    format_: str,
    native: bool,
    count: int | None,
    seed: int,
    group_regex: str | None,
    device: str,
    overwrite: bool,
    json_: bool,
) -> None:
    """Turn the images of INPUT into class or domain --to, with the translation model of RUN.

    INPUT is an image or volume, a labelled folder, or a folder of images. Files keep name, size, format and place in
    space; a metadata.csv says of each where it comes from. A translation that was stopped goes on where it was when the
    same command is given again. 'torchrun --nproc-per-node N -m ganaug translate …' shares the work.
    """
    if format_ == "bank" and native:
        raise click.UsageError("--native was given with --format bank; all images of a bank have the training's size.")
    if (count is not None or group_regex is not None) and format_ != "bank":
        raise click.UsageError("--count and --group-regex are for --format bank.")
    from ganaug.distributed import is_main, processes, together
    from ganaug.errors import ConfigError
    from ganaug.files import keep_apart
    from ganaug.sampling import SyntheticBank, Translator, load
    from ganaug.sampling.translated_files import translate_files

    with processes(), together():
        for path in (run, images):
            keep_apart(out, path)
        gan = load(run, device=device)
        if not isinstance(gan, Translator):
            raise ConfigError(
                f"{run} makes {', '.join(gan.classes)} from noise and translates nothing: ganaug sample {run} --out "
                f"{out} makes images of it, ganaug fit DATA --out RUN --model cyclegan trains a model that translates."
            )
        if format_ == "bank":
            bank = SyntheticBank.translate(
                gan,
                out,
                images,
                to=to,
                source=source,
                counts=count,
                seed=seed,
                group_regex=group_regex,
                overwrite=overwrite,
                show_progress=not json_,
            )
            summary: dict[str, Any] = {
                "out": str(out),
                "formats": ["bank"],
                "to": to,
                "images": len(bank),
                "counts": bank.counts,
                "seed": seed,
                "model_sha256": gan.model_sha256,
            }
            text = f"{len(bank)} images translated to {to} (bank) in {out}{_unjudged(gan, run, to)}"
        else:
            summary = translate_files(
                gan,
                images,
                out,
                to=to,
                source=source,
                format=format_,
                native=native,
                seed=seed,
                overwrite=overwrite,
                show_progress=not json_,
            )
            text = f"{summary['images']} images translated to {to} ({', '.join(summary['formats'])}) in {out}"
            if summary["kept"]:
                text += f"\n{summary['kept']} of them were there already."
            text += _unjudged(gan, run, to)
            text = "\n".join([text, *summary["left_out"]])
    if is_main():
        show(summary, json_, text)


def _unjudged(gan: Translator, run: Path, to: str) -> str:
    """Return what is to be said of images that were given another label."""
    if gan.rule != "class":
        return ""
    return f"\nNobody has judged whether they show {to}: ganaug twins {run} DATA --to {to} --out DIR."
