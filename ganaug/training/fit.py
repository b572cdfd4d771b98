"""`fit`: a labelled folder in, a run folder out."""

from __future__ import annotations

import datetime
import json
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ganaug
from ganaug.config import FitConfig
from ganaug.data import Manifest, load_tensor, scan, scan_unlabelled
from ganaug.data.leak import training_contents
from ganaug.distributed import from_main, is_main, main_first, processes, wait, world_size
from ganaug.errors import ConfigError, DataError
from ganaug.files import (
    MARKER,
    check_output,
    disk_errors,
    drop_temporaries,
    keep_apart,
    only_writer,
    prepare_output,
    sha256_file,
    write_atomic,
    write_json,
)
from ganaug.models.device import (
    choose_device,
    deterministic_kernels,
    is_out_of_memory,
    keep_freed_memory,
    use_bf16,
)
from ganaug.models.modelfile import ModelHeader
from ganaug.plugins import load_plugin
from ganaug.progress import progress_bar
from ganaug.training.batches import DeviceImages
from ganaug.training.checkpoint import checkpoints, tidy
from ganaug.training.feeds import Feed
from ganaug.training.feeds.classes import ClassFeed
from ganaug.training.feeds.domains import DegradedFeed, DomainFeed, DomainImages, PairFeed
from ganaug.training.loop import Trainer
from ganaug.training.plan import (
    AUTO,
    Plan,
    asked_settings,
    format_of,
    geometry_of,
    make_plan,
    plan_from,
    predict_grid,
    training_side,
    with_length,
)
from ganaug.training.probe import choose_threads, cpu_threads
from ganaug.training.pseudo_labels import with_target_labels
from ganaug.training.report import write_report
from ganaug.training.room import out_of_memory, with_fitting_batch
from ganaug.training.run import Run
from ganaug.training.translating import check_translation, find_domains, scan_target, translates

_OPTIONS = "--resume or --overwrite"
"""What a folder that is not empty may be given."""

MAY_CHANGE = {"minutes", "kimg", "snapshots", "device", "monitor"}
"""Settings that a resumed run may be given anew."""


def fit(
    data: str | Path,
    out: str | Path,
    *,
    recipe: str = "auto",
    group_regex: str | None = None,
    target: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    show_progress: bool = False,
    planned: Plan | None = None,
    **settings: Any,
) -> Run:
    """Train a generator on a labelled folder, or with ``model="cyclegan"`` or ``"pix2pix"`` a translation.

    Args:
        data: ``DATA/<class>/**/<file>``, or a folder with ``metadata.csv``.
        out: the run folder to create.
        recipe: 'auto', the name of a shipped recipe, or the path of a YAML file.
        group_regex: extracts the patient (group) from each file's path; its hash goes into the training manifest.
        target: images of another site, with or without labels, that a CycleGAN learns to translate `data` to.
        resume: go on with the run in `out` from its newest checkpoint.
        overwrite: replace the run in `out`.
        planned: what `ganaug.training.plan.make_plan` made of the same folder, to save reading it twice.
        settings: any field of `FitConfig`, such as ``minutes=10`` or ``size=(64, 64)``; ``batch="auto"`` halves the
            recipe's batch until it fits into memory.

    Returns:
        The run; `Run.model_path` is the generator.

    Raises:
        DataError, ConfigError: see `make_plan`, or the folder is not the one that the run was started with.
        DivergedError: the training diverged or collapsed.
        Interrupted: stopped by the user; the state is saved.
    """
    with processes():
        run = Run(Path(out))
        return _fit(data, run, recipe, group_regex, target, resume, overwrite, show_progress, planned, settings)


def _fit(
    data: str | Path,
    run: Run,
    recipe: str,
    group_regex: str | None,
    target: str | Path | None,
    resume: bool,
    overwrite: bool,
    show_progress: bool,
    planned: Plan | None,
    settings: Mapping[str, Any],
) -> Run:
    fresh = not (resume and run.config_path.exists())
    # A marker without a config.json is left by a run that was stopped before it began.
    if resume and fresh and run.path.is_dir() and any(run.path.iterdir()) and not (run.path / MARKER).is_file():
        raise ConfigError(f"{run.path} is not a run that can be resumed: it has no config.json. Choose another folder.")
    with ExitStack() as held:
        if not fresh:
            if is_main():
                held.enter_context(_alone(run))
            planned = _stored_plan(run, data, recipe, group_regex, target, settings, show_progress)
            group_regex = run.config_file().get("group_regex")
        elif planned is None:
            planned, _ = plan_for(data, recipe, settings, group_regex, target=target, show_progress=show_progress)
        assert planned is not None
        # Kept in config.json: another number of threads sums in another order, and a resumed run is to be the same run.
        planned = _agreed(replace(planned, config=replace(planned.config, threads=choose_threads(planned))))
        if fresh and is_main():
            keep_apart(run.path, Path(data))
            if target is not None:
                keep_apart(run.path, Path(target))
            check_output(run.path, overwrite=overwrite or resume, options=_OPTIONS)
            held.enter_context(_alone(run))
        return _train(
            planned, run, data, target, group_regex, fresh=fresh, overwrite=overwrite or resume, show=show_progress
        )


@contextmanager
def _alone(run: Run) -> Iterator[None]:
    """Keep other processes away from the run folder, and remove what a killed one has left half written."""
    with disk_errors(run.path), only_writer(run.path):
        drop_temporaries(run.path)
        tidy(run.checkpoints)
        yield


def _train(
    planned: Plan,
    run: Run,
    data: str | Path,
    target: str | Path | None,
    group_regex: str | None,
    *,
    fresh: bool,
    overwrite: bool,
    show: bool,
) -> Run:
    threads = planned.config.threads or 1
    with disk_errors(run.path), cpu_threads(threads), deterministic_kernels(planned.config.deterministic):
        if is_main() and fresh:
            prepare_output(run.path, overwrite=overwrite, options=_OPTIONS)
        wait()
        images = load_tensor(planned.manifest, planned.grid, show_progress=show)
        planned = with_target_labels(planned, images, run, show_progress=show)
        if is_main():
            if fresh:
                contents = training_contents(planned.manifest, planned.grid, images)
                write_json(run.manifest_path, planned.manifest.to_json(contents))
            write_json(run.config_path, _config_file(planned, group_regex))
        wait()
        starved = False
        try:
            _to_the_end(planned, images, run, data, target, fresh=fresh, show=show)
        except Exception as problem:
            if not (starved := is_out_of_memory(problem)):
                raise
        if starved:  # out here nothing holds the networks any more
            raise out_of_memory(planned)
    return run


def _to_the_end(
    planned: Plan,
    images: np.ndarray,
    run: Run,
    data: str | Path,
    target: str | Path | None,
    *,
    fresh: bool,
    show: bool,
) -> None:
    trainer = _trainer(planned, images, run, data, target)
    if not fresh and checkpoints(run.checkpoints):
        damage = trainer.resume()
        wait()  # until all have read what rank 0 is about to change
        _report_damage(damage)
        _drop_later_metrics(run, trainer.state.step * planned.config.batch / 1000, trainer.gan.attempt)
    with progress_bar("fit", 100.0, unit="%", show=show) as progress:
        try:
            trainer.train(progress)
        finally:
            if is_main() and run.model_path.exists():
                _report(run)


def _report(run: Run) -> None:
    """Write the page; a disk that is full for it must not hide how the training ended."""
    try:
        write_report(run)
    except OSError as problem:
        print(f"{run.report_path} could not be written ({problem.strerror or problem}).", file=sys.stderr)


def _agreed(planned: Plan) -> Plan:
    """Return rank 0's plan: what was timed may have come out differently in each process."""
    size = world_size()
    # Each process has as many images of every domain as any other.
    parts = size * (len(planned.domains.names) if planned.domains is not None else 1)
    if size > 1 and planned.config.batch % parts:
        raise ConfigError(
            f"batch = {planned.config.batch} was given for {size} processes, which share it; a multiple of {parts} was "
            "wanted."
        )
    agreed = json.loads(from_main(json.dumps([planned.config.to_dict(), planned.recipe, list(planned.reasons)])))
    return replace(planned, config=FitConfig.from_dict(agreed[0]), recipe=agreed[1], reasons=tuple(agreed[2]))


def scan_for(
    data: str | Path,
    recipe: str,
    settings: Mapping[str, Any],
    *,
    group_regex: str | None = None,
    show_progress: bool = False,
) -> Manifest:
    """Read a folder for a training with these settings: its tensor is put into the cache in the same pass."""
    with processes(), main_first():
        return scan(
            data,
            group_regex=group_regex,
            slices=asked_settings(recipe, settings).slices,
            show_progress=show_progress,
            grid_of=partial(predict_grid, recipe=recipe, settings=settings),
        )


def plan_for(
    data: str | Path,
    recipe: str,
    settings: Mapping[str, Any],
    group_regex: str | None = None,
    *,
    target: str | Path | None = None,
    show_progress: bool = False,
) -> tuple[Plan, Manifest]:
    """Read the folders of a training; return its plan, and what was found in `data`."""
    asked = asked_settings(recipe, settings)
    check_translation(asked, target=target is not None)
    sentence: tuple[str, ...] = ()
    if translates(asked):
        manifest, other, sentence = _scan_domains(data, asked, group_regex, target, show_progress)
        planned = make_plan(manifest, recipe=recipe, settings=settings, target=other)
    else:
        manifest = scan_for(data, recipe, settings, group_regex=group_regex, show_progress=show_progress)
        planned = make_plan(manifest, recipe=recipe, settings=settings)
    if settings.get("batch") == AUTO:
        planned = with_fitting_batch(planned)
    return replace(planned, reasons=(*sentence, *planned.reasons)), manifest


def _scan_domains(
    data: str | Path, config: FitConfig, group_regex: str | None, target: str | Path | None, show_progress: bool
) -> tuple[Manifest, Manifest | None, tuple[str, ...]]:
    """Read the folder of a translation, and that of the other site, if there is one."""
    options: dict[str, Any] = {"group_regex": group_regex, "slices": config.slices, "show_progress": show_progress}
    with processes(), main_first():
        # Pairs that are made by degrading have no use for labels.
        manifest = (scan if config.degrade is None else scan_unlabelled)(data, **options)
        if target is None:
            return manifest, None, ()
        other, sentence = scan_target(target, manifest, **options)
        return manifest, other, (sentence,)


def _trainer(
    planned: Plan, pixels: np.ndarray, run: Run, data: str | Path, target: str | Path | None = None
) -> Trainer:
    manifest, config = planned.manifest, planned.config
    intensity = planned.intensity
    device = choose_device(config.device)
    if device.type == "cpu":
        keep_freed_memory()
    more: dict[str, Any] = {"classes": len(manifest.classes), "counts": [*manifest.counts.values()]}
    if planned.translation is not None:
        more = {"translation": planned.translation}
    gan = load_plugin("ganaug.training.gans", config.model).GAN(
        config,
        size=planned.size,
        channels=planned.channels,
        device=device,
        bf16=use_bf16(config.precision, device),
        **more,
    )
    header = ModelHeader(
        model=config.model,
        classes=manifest.classes if planned.translation is None else planned.translation.domains,
        size=planned.size,
        channels=planned.channels,
        intensity=intensity,
        settings=config.to_dict(),
        geometry=geometry_of(manifest, planned.grid),
        source_format=format_of(manifest),
        training={
            "images": manifest.counts or {"": len(manifest)},
            "ganaug": ganaug.__version__,
            # A bank copies the manifest, and is to know that it is the one of this model.
            "train_manifest_sha256": sha256_file(run.manifest_path),
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
        translation=planned.translation,
    )
    more_command = [] if target is None else ["--target", str(target)]
    return Trainer(
        gan,
        _feed(planned, pixels, device),
        config=config,
        header=header,
        run=run,
        resume_command=shlex.join(
            [*_started_by(), "ganaug", "fit", str(data), *more_command, "--out", str(run.path), "--resume"]
        ),
    )


def _started_by() -> list[str]:
    """Return what stands before ganaug where torchrun started several processes, as on one machine."""
    return [] if world_size() == 1 else ["torchrun", "--standalone", "--nproc-per-node", str(world_size()), "-m"]


def _feed(planned: Plan, pixels: np.ndarray, device: torch.device) -> Feed:
    manifest, config = planned.manifest, planned.config
    domains, translation = planned.domains, planned.translation
    if domains is None or translation is None:
        knots = manifest.knots if planned.intensity.kind == "per-file" else None
        images = DeviceImages(pixels, manifest.labels, planned.intensity, device, knots=knots)
        return ClassFeed(images, manifest.labels, config=config, classes=manifest.classes)
    kind = DegradedFeed if translation.degrade else DomainFeed if domains.pairs is None else PairFeed
    many = DomainImages(pixels, domains.of, translation, device, knots=manifest.knots)
    return kind(many, domains, translation, config=config)


def _config_file(planned: Plan, group_regex: str | None) -> dict[str, Any]:
    return {
        "ganaug": ganaug.__version__,
        "recipe": planned.recipe,
        "reasons": list(planned.reasons),
        # Numbers, not names: file names may name patients, and a run folder may be passed on.
        "left_out": {"unreadable": len(planned.manifest.skipped), "no_images": len(planned.manifest.ignored)},
        "group_regex": group_regex,
        "images": planned.counts,
        "settings": planned.config.to_dict(),
    }


def _stored_plan(
    run: Run,
    data: str | Path,
    recipe: str,
    group_regex: str | None,
    target: str | Path | None,
    settings: Mapping[str, Any],
    show_progress: bool,
) -> Plan:
    """Return the plan of a run that is resumed, after checking that the folder is still the same."""
    stored = run.config_file()
    before = {"recipe": stored.get("recipe"), "group_regex": stored.get("group_regex")}
    now = {
        "recipe": before["recipe"] if recipe == "auto" else recipe,
        "group_regex": group_regex or before["group_regex"],
    }
    old_config = run.config()
    config = old_config.updated(with_length(settings))
    changed = {key for key in settings if key in vars(config) and vars(config)[key] != vars(old_config)[key]}
    fixed = sorted(changed - MAY_CHANGE) + [key for key in before if before[key] != now[key]]
    if fixed:
        has = {**vars(old_config), **before}
        raise ConfigError(
            f"A resumed run keeps its settings, but another {', '.join(fixed)} was given (the run has "
            f"{', '.join(f'{key}={has[key]}' for key in fixed)}). Leave it out, or start a new run; only "
            f"{', '.join(sorted(MAY_CHANGE))} may change."
        )
    domains = None
    if translates(config):
        manifest, other, _ = _scan_domains(data, config, before["group_regex"], target, show_progress)
        other = None if other is None else other.training_part()
        manifest, domains, _ = find_domains(training_side(manifest, config)[0], other, config)
    else:
        manifest = scan(data, group_regex=before["group_regex"], slices=config.slices, show_progress=show_progress)
        manifest, _ = training_side(manifest, config)
    old = Counter((entry["label"], entry["sha256"]) for entry in run.train_manifest()["files"])
    new = Counter((item.label, item.sha256) for item in manifest.items)
    if old != new:
        raise DataError(
            f"{data} is not the folder that {run.path} was started with: {(old - new).total()} files are missing or "
            f"changed and {(new - old).total()} are new. Give the same folder, or start a new run."
        )
    again = plan_from(
        manifest,
        config,
        recipe=str(stored.get("recipe")),
        reasons=(),
        domains=domains,
        sites=target is not None,
    )
    return replace(again, reasons=tuple(stored.get("reasons", ())))


def _report_damage(lines: list[str]) -> None:
    for line in lines if is_main() else ():
        print(line, file=sys.stderr)


def _drop_later_metrics(run: Run, kimg: float, attempt: int) -> None:
    """Forget snapshots that were written after the checkpoint which the run resumes from.

    Those of earlier attempts stay, also where the run went back behind them.
    """
    if not is_main():
        return
    lines = run.metrics_path.read_text(encoding="utf-8").splitlines() if run.metrics_path.exists() else []
    kept = [
        line
        for line, row in zip(lines, run.metrics(), strict=False)
        if row["kimg"] <= kimg + 1e-6 or row.get("attempt", attempt) < attempt
    ]
    write_atomic(run.metrics_path, "".join(f"{line}\n" for line in kept).encode())
