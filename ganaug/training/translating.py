"""What a translation is trained on: its domains, the rule for labels, and how each domain's values become [-1, 1]."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ganaug.config import FitConfig
from ganaug.data import Grid, Manifest, choose_map, scan, scan_unlabelled
from ganaug.data.degrade import parse_degrade
from ganaug.data.domains import Domains, by_class, by_column, joined, resolve_rule
from ganaug.data.names import count, few
from ganaug.data.pairs import misaligned, pair_by_stem
from ganaug.errors import ConfigError, DataError
from ganaug.models.translation import Translation

TRANSLATION_MODELS = ("cyclegan", "pix2pix")

DEGRADED = ("degraded", "original")
"""The domains of a training on degraded copies."""


def translates(config: FitConfig) -> bool:
    """Return whether the model turns images into others."""
    return config.model in TRANSLATION_MODELS


def check_translation(config: FitConfig, *, target: bool) -> None:
    """Raise a ConfigError for settings that do not go together, before any folder is read."""
    if not translates(config):
        named = {"--target": target, "--domains": config.domains, "--degrade": config.degrade}
        given = [name for name, value in named.items() if value]
        if given or config.rule != "auto":
            raise ConfigError(
                f"{', '.join(given) or '--rule'} was given for --model {config.model}, which makes images from noise. "
                "Add --model cyclegan (or pix2pix, for pairs), or leave it out."
            )
        return
    if config.degrade is not None:
        parse_degrade(config.degrade)
        if config.model != "pix2pix" or target or config.domains:
            raise ConfigError(
                f"--degrade {config.degrade} was given; it makes pairs of a folder's own images, and goes with --model "
                "pix2pix, without --target and --domains."
            )
    if target and config.model == "pix2pix":
        raise ConfigError("--target was given for --model pix2pix, which needs pairs. Add --model cyclegan.")
    if target or config.degrade:
        resolve_rule(config.rule, target=True)


def scan_target(path: str | Path, source: Manifest, **options: Any) -> tuple[Manifest, str]:
    """Read another site's folder; return it, and a sentence on its labels.

    The labels are used if all of the folder's classes are among the source's, and there are several; otherwise the
    sub-folders say nothing.
    """
    try:
        found = scan(path, **options)
    except DataError:
        found = None
    if found is not None and len(found.classes) > 1 and {*found.classes} <= {*source.classes}:
        return found, f"Target {path}: {count(len(found), 'image')}, labelled as the source is ({few(found.classes)})."
    found = scan_unlabelled(path, **options)
    return found, f"Target {path}: {count(len(found), 'image')} without labels."


def find_domains(manifest: Manifest, target: Manifest | None, config: FitConfig) -> tuple[Manifest, Domains, list[str]]:
    """Return the images that take part, their domains, and sentences on how they were found.

    Raises:
        ConfigError, DataError: see `ganaug.data.domains` and `ganaug.data.pairs`.
    """
    reasons: list[str] = []
    if config.degrade is not None:
        of = np.ones(len(manifest), dtype=np.int64)
        return manifest, Domains(DEGRADED, of, np.full_like(of, -1), (), "style"), [f"Pairs: {config.degrade}."]
    if target is not None:
        manifest, domains = joined(manifest, target, config.domains)
    elif manifest.domains and {*(config.domains or ())} <= {*manifest.domains}:
        manifest, domains = by_column(manifest, config.domains, config.rule)
    else:
        manifest, domains = by_class(manifest, config.domains, config.rule)
    numbers = [f"{name}: {int((domains.of == d).sum())}" for d, name in enumerate(domains.names)]
    keep = "keep their label" if domains.rule == "style" else "take the label of the target"
    reasons.append(f"Domains: {', '.join(numbers)}; translated images {keep}.")
    if config.model == "pix2pix":
        pairs, sentences = pair_by_stem(manifest, domains.names)
        reasons += [f"{count(len(pairs), 'pair')} with the same name.", *sentences, *misaligned(manifest, pairs)]
        domains = Domains(domains.names, domains.of, domains.labels, domains.classes, domains.rule, pairs)
    return manifest, domains, reasons


def translation_of(
    manifest: Manifest, domains: Domains, grid: Grid, config: FitConfig, *, sites: bool
) -> tuple[Translation, list[str]]:
    """Return what the model file will say, and a sentence on each domain's intensity map.

    `sites` tells that the domains are sites of one kind of image, and not contrasts.
    """
    knots, dtypes = manifest.knots, [item.dtype for item in manifest.items]
    maps, reasons = [], []
    for d, name in enumerate(domains.names):
        # Brightness may be what tells classes apart: they share one map. Contrasts may share no scale at all.
        alike = domains.rule == "class" or config.degrade is not None
        rows = np.arange(len(dtypes)) if alike else np.flatnonzero(domains.of == d)
        intensity, why = choose_map(
            config.intensity, knots[rows], [dtypes[i] for i in rows], dims=len(grid.size), window=config.window
        )
        maps.append(intensity)
        if not alike or d == 0:
            reasons.append(f"Intensity{'' if alike else f' of {name}'} {intensity.kind}: {why}")
    residual = config.output == "residual"
    if config.output == "auto":
        residual = domains.rule == "class" or sites or config.degrade is not None
    translation = Translation(
        rule=domains.rule,
        domains=domains.names,
        targets=DEGRADED[1:] if config.degrade else domains.names,
        intensities=tuple(maps),
        labels=domains.classes if domains.rule == "style" else (),
        residual=residual,
        degrade=config.degrade or "",
    )
    return translation, reasons


def settled(config: FitConfig, translation: Translation, given: Mapping[str, Any]) -> FitConfig:
    """Return the config with what follows from the domains.

    Raises:
        ConfigError: the batch cannot be divided among the domains.
    """
    domains = len(translation.domains)
    if config.batch % domains:
        raise ConfigError(
            f"batch = {config.batch} was given for {domains} domains, which share it; a multiple of {domains} was "
            "wanted."
        )
    if not translation.residual and "identity_weight" not in given:
        # Another contrast turns dark into bright: that a generator leaves its own target alone says nothing there.
        config = config.updated({"identity_weight": 0})
    return config
