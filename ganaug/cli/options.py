"""Options that several commands share, and what they do with results."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from ganaug.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])

FOLDER = click.Path(path_type=Path)


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
        show_default="metadata.csv's group column, a DICOM file's patient, else each image alone",
        help="Finds the patient (group) in each file's path: the first (…) or the whole match.",
    )(command)


def sliced(command: F) -> F:
    """Add --slices."""
    return click.option(
        "--slices",
        type=click.Choice(["axial", "coronal", "sagittal"]),
        default=None,
        show_default="volumes stay volumes",
        help="Cut volumes into 2D images along this plane; the volume is then the group.",
    )(command)


def cached(command: F) -> F:
    """Add --no-cache."""
    return click.option(
        "--no-cache",
        is_flag=True,
        expose_value=False,
        callback=_switch_off_cache,
        help="Neither read nor write decoded images in the cache folder ($GANAUG_CACHE, else ~/.cache/ganaug).",
    )(command)


def _switch_off_cache(_context: click.Context, _parameter: click.Parameter, off: bool) -> None:
    if off:
        os.environ["GANAUG_CACHE"] = "off"


def overwriting(command: F) -> F:
    """Add --overwrite."""
    return click.option("--overwrite", is_flag=True, help="Replace the output folder, if ganaug made it.")(command)


def show(value: Mapping[str, Any], json_: bool, text: str) -> None:
    click.echo(json.dumps(value, indent=2) if json_ else text)


def check_picture(out: Path, overwrite: bool) -> None:
    if out.suffix.lower() != ".png":
        raise click.UsageError(f"--out {out} was given; a name that ends in .png was wanted.")
    if out.exists() and not overwrite:
        raise ConfigError(f"The file {out} exists. Choose another name, or add --overwrite.")


def timing_text(timing: Mapping[str, float]) -> str:
    return (
        f"{timing['images_per_second']:.0f} images/s on this machine now, "
        f"about {timing['expected_minutes']:.0f} minutes for {timing['expected_kimg']:.0f} thousand images."
    )


def parse_size(text: str | None) -> tuple[int, ...] | None:
    """Return the sides in ``HxW`` or ``DxHxW``; one number is both sides of an image."""
    if text is None:
        return None
    try:
        sides = tuple(int(side) for side in text.lower().split("x"))
    except ValueError:
        sides = ()
    if len(sides) == 1:
        sides = (sides[0], sides[0])
    if len(sides) not in (2, 3):
        raise click.UsageError(
            f"--size {text} was given; HxW in pixels was wanted, such as 64x64, or DxHxW for volumes, such as 24x32x32."
        )
    return sides
