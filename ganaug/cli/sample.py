"""`ganaug sample`."""

from __future__ import annotations

from pathlib import Path

import click

from ganaug.cli.options import FOLDER, as_json, on_device, overwriting, show


@click.command(short_help="Make synthetic images: files or a bank.")
@click.argument("run", type=FOLDER)
@click.option("--out", required=True, type=FOLDER, help="The folder to create.")
@click.option("--per-class", type=click.IntRange(min=1), default=None, help="This many images of each class.")
@click.option(
    "--balance",
    type=FOLDER,
    default=None,
    metavar="DATA",
    help="Fill each class of DATA (its training part) up to its largest.",
)
@click.option("--counts", default=None, metavar="A=10,B=20", help="This many of each named class.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Another seed, other images.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["auto", "png", "tiff", "nifti", "dicom", "npy", "npz", "bank"]),
    default="auto",
    show_default=True,
    help="auto: as the training files; npz: one archive; bank: memory-mapped arrays for SyntheticBank.open.",
)
@click.option(
    "--truncation",
    type=float,
    default=1.0,
    show_default=True,
    help="Above 0 to 1; below 1: more typical, less diverse.",
)
@click.option(
    "--max-similarity",
    type=float,
    default=None,
    metavar="S",
    help="Skip near copies of training images: 1 is the same picture, 0 as near as real images of different "
    "patients are; 0.5 is a good start. Needs --against.",
)
@click.option("--against", type=FOLDER, default=None, metavar="DATA", help="The folder that RUN was trained on.")
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
    max_similarity: float | None,
    against: Path | None,
    device: str,
    overwrite: bool,
    json_: bool,
) -> None:
    """Make synthetic images with the generator of RUN: a labelled folder with metadata.csv, or a bank.

    A sample that was stopped goes on where it was when the same command is given again; when it was complete, nothing
    is done. 'torchrun --nproc-per-node N -m ganaug sample …' shares the work among N processes or GPUs.
    """
    if sum(value is not None for value in (per_class, balance, counts)) != 1:
        raise click.UsageError("Give exactly one of --per-class, --balance and --counts.")
    if (max_similarity is None) != (against is None):
        raise click.UsageError("Give --max-similarity and --against DATA (what RUN was trained on) together.")
    wanted = _parse_counts(counts)
    from ganaug.distributed import is_main, processes, together
    from ganaug.files import keep_apart
    from ganaug.sampling.counts import requested_counts, slices_of
    from ganaug.sampling.export import export_folder
    from ganaug.sampling.sampler import load_sampler

    with processes(), together() as members:
        for source in (run, *(folder for folder in (balance, against) if folder)):
            keep_apart(out, source)
        gan = load_sampler(run, device=device)
        with members.lead_first():  # the others find what it read of a folder to balance in the cache
            numbers = requested_counts(
                gan.classes, counts=wanted, per_class=per_class, balance=balance, slices=slices_of(gan)
            )
        summary = export_folder(
            gan,
            out,
            counts=numbers,
            format=format_,
            seed=seed,
            truncation=truncation,
            max_similarity=max_similarity,
            against=against,
            overwrite=overwrite,
            show_progress=not json_,
        )
    if not is_main():
        return
    made = ", ".join(f"{name}: {count}" for name, count in summary["counts"].items())
    text = f"{summary['images']} synthetic images ({summary['format']}) in {out}: {made}"
    if summary["kept"]:
        text += f"\n{summary['kept']} of them were there already."
    show(summary, json_, "\n".join([text, *summary.get("notes", [])]))


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
