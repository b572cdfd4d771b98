"""What a study works on: its settings, and the images of its parts, split by patient."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ganaug.data.grid import Grid
from ganaug.data.intensity import IntensityMap
from ganaug.data.leak import Trained, held_out_items, refuse_leak
from ganaug.data.manifest import Manifest, hash_group
from ganaug.data.names import count, few, printable
from ganaug.data.reading import scan
from ganaug.data.split import split_three
from ganaug.data.tensors import load_images
from ganaug.errors import ConfigError, DataError, LeakError
from ganaug.evaluation.arms import FOLDER_ARMS
from ganaug.evaluation.trials import SCORED
from ganaug.sampling.sampler import load_sampler
from ganaug.training.plan import make_plan
from ganaug.training.run import Run
from ganaug.training.translating import scan_target

LEAST = {"train": 4, "val": 2, "test": 5, "site": 5}
"""Images of a class that each part needs."""
LEAST_GROUPS = 2
"""Patients of a class that parts with intervals, test and site, need."""
_WANTED = "For --test another site's labelled folder is wanted, with other patients."


@dataclass(frozen=True)
class StudySettings:
    """What a study is to do; everything in it goes into ``study.json``."""

    arms: tuple[str, ...] = tuple(arm for arm in FOLDER_ARMS if arm != "site")
    seeds: int = 10
    """Classifiers of each arm."""
    generators: int = 5
    """Generators of each kind; seed s has generator s modulo this."""
    minutes: float | None = 5.0
    """Training time of each generator."""
    kimg: float | None = None
    """In the place of `minutes`: thousands of images shown."""
    steps: int = 600
    batch: int = 64
    lr: float | None = None
    model: str = ""
    """``module:callable`` of the user's own network."""
    size: tuple[int, ...] | None = None
    fractions: tuple[float, float, float] = (0.6, 0.15, 0.25)
    """Of patients: train, val and test, where the folder names no splits."""
    split_seed: int = 0
    smallest_gain: float = 0.5
    """In points of balanced accuracy: what would be worth the trouble."""
    group_regex: str | None = None

    def __post_init__(self) -> None:
        _check_arms(self.arms)
        if not any(not FOLDER_ARMS[arm].source for arm in self.arms):
            raise ConfigError("Only arms with added images were given; one without is wanted too, such as augmented.")
        for name, least in (("seeds", 2), ("generators", 1), ("steps", 1), ("batch", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"--{name} {getattr(self, name)} was given; {least} or more was wanted.")


def _check_arms(arms: Sequence[str]) -> None:
    known = ", ".join(FOLDER_ARMS)
    for arm in arms:
        if arm not in FOLDER_ARMS:
            near = difflib.get_close_matches(arm[:100], FOLDER_ARMS, n=1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise ConfigError(f"--arms names {printable(arm[:100])!r}, which is no arm. {hint}There are: {known}.")
    twice = next((arm for arm in arms if arms.count(arm) > 1), None)
    if twice is not None:
        raise ConfigError(f"--arms names {twice!r} twice. Name it once.")
    if not arms:
        raise ConfigError(f"--arms names nothing; some of these were wanted: {known}.")


@dataclass(frozen=True, eq=False)
class StudyParts:
    """The manifests of a study, and their images on one grid."""

    manifests: dict[str, Manifest]
    images: dict[str, np.ndarray]
    grid: Grid
    intensity: IntensityMap
    target: Manifest | None
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        return self.manifests["train"].classes

    @cached_property
    def target_sha256(self) -> str | None:
        """Of the other site's files that a generator learns from; None without them."""
        if self.target is None:
            return None
        return hashlib.sha256("\n".join(sorted(item.sha256 for item in self.target.items)).encode()).hexdigest()

    @cached_property
    def sha256(self) -> str:
        """Of all images as they are trained on, and their labels."""
        digest = hashlib.sha256(json.dumps(list(self.classes)).encode())
        for part, images in self.images.items():
            digest.update(f"{part} {images.dtype} {images.shape}".encode())
            digest.update(np.ascontiguousarray(images).data)
            digest.update(self.manifests[part].labels.tobytes())
        return digest.hexdigest()


def read_parts(
    data: str | Path,
    asked: StudySettings,
    run: str | Path | None,
    test: str | Path | None,
    target: str | Path | None,
    show: bool,
) -> StudyParts:
    """Read and split everything, and refuse what cannot be studied; see `ganaug.evaluation.folder_study.study`."""
    _refuse_same_folder(data, test, target)
    options: dict[str, Any] = {"group_regex": asked.group_regex, "show_progress": show}
    manifest = scan(data, **options)
    notes = []
    if run is not None:
        trained = Trained.of(Run(Path(run)).train_manifest())
        known = np.array([not trained.files.isdisjoint((item.sha256, *item.sources)) for item in manifest.items])
        if not known.any() or known.all():
            raise DataError(
                f"{'None' if not known.any() else 'All'} of the {len(manifest)} images of {data} are training images "
                f"of the run {run}; some of both kinds are wanted. Give the folder that the run was trained on a part "
                "of: hold patients out before ganaug fit."
            )
        held_out = _two(manifest.subset(np.flatnonzero(~known)), asked)
        manifests = {"train": manifest.subset(np.flatnonzero(known)), **held_out}
        notes.append(f"Split by the run {run}: what it was trained on is the training part.")
    elif any(item.split for item in manifest.items):
        manifests = _by_column(manifest)
        notes.append("Split as metadata.csv says.")
    else:
        groups = [item.group for item in manifest.items]
        sides = split_three(manifest.labels, groups, fractions=asked.fractions, seed=asked.split_seed)
        manifests = {part: manifest.subset(rows) for part, rows in sides.items()}
        named = len(set(groups)) < len(groups)
        notes.append("Split by patient." if named else "Split by image: no patients are known (--group-regex).")
    if test is not None:
        manifests["site"] = _ordered(scan(test, **options), manifest.classes, test)
        _refuse_shared(manifest, data, manifests["site"], test)
    other = None if target is None else scan_target(target, manifest, **options)[0]
    _check(manifests)
    known_to = [manifests["train"].to_json()]
    if run is not None:
        # It may know more than what is in this folder.
        known_to.append(Run(Path(run)).train_manifest())
    if other is not None:
        # Without its labels, but a generator learns from it.
        known_to.append(other.training_part().to_json())
    for part in SCORED:
        if part in manifests:
            for knows in known_to:
                refuse_leak(knows, manifests[part])
    sized = {} if asked.size is None else {"size": asked.size}
    if run is None:
        planned = make_plan(manifests["train"], settings={**sized, "kimg": 1})
        grid, intensity = planned.grid, planned.intensity
    else:
        gan = load_sampler(run, device="cpu")
        if tuple(gan.classes) != tuple(manifest.classes):
            raise DataError(
                f"{data} has the classes {', '.join(manifest.classes)}, the run {run} {', '.join(gan.classes)}; the "
                "same ones were wanted. Give the folder that the run was trained on a part of."
            )
        planned = make_plan(
            manifests["train"], settings={"size": gan.header.size, "channels": gan.header.channels, "kimg": 1}
        )
        grid, intensity = planned.grid, gan.intensity
    images = {}
    for part, one in manifests.items():
        stored = load_images(one, grid, show_progress=show)
        knots = one.knots if intensity.kind == "per-file" else None
        images[part] = stored if intensity.kind == "uint8" else intensity.forward(stored, knots=knots)
    return StudyParts(manifests, images, grid, intensity, other, tuple(notes))


def _refuse_same_folder(data: str | Path, test: str | Path | None, target: str | Path | None) -> None:
    if test is None:
        return
    place = Path(test).resolve()
    if place == Path(data).resolve():
        raise LeakError(
            f"--test {test} is the folder of the study itself. {_WANTED} Of {data} the study holds patients out as its "
            "own test part: leave --test out."
        )
    if target is not None and place == Path(target).resolve():
        raise LeakError(
            f"--test and --target are both {test}: what a generator learns from is not tested on. Put the site's "
            "patients into two folders, one for each."
        )


def _refuse_shared(manifest: Manifest, data: str | Path, site: Manifest, test: str | Path) -> None:
    """Refuse a site that shares images or patients with any part of the study."""
    known = Trained.of(manifest.to_json())
    items = held_out_items(site)
    same = [one.name for one in items if known.files & {*one.files} or known.contents & {*one.contents}]
    if same:
        raise LeakError(
            f"{len(same)} of the {count(len(items), 'image')} of --test {test} are images of {data} too: {few(same)}. "
            f"{_WANTED}"
        )
    patients = {name for one in items for name in one.groups if hash_group(name) in known.groups}
    if patients:
        raise LeakError(
            f"--test {test} has {count(len(patients), 'patient')} of {data} too: {few(sorted(patients))}. {_WANTED} If "
            "they are other people, give them other names: a group column in metadata.csv, or another --group-regex."
        )


def _two(rest: Manifest, asked: StudySettings) -> dict[str, Manifest]:
    """Split what a run does not know into validation and test."""
    _, val, test = asked.fractions
    groups = [item.group for item in rest.items]
    sides = split_three(
        rest.labels, groups, fractions=(test / (val + test), 0.0, val / (val + test)), seed=asked.split_seed
    )
    return {"val": rest.subset(sides["test"]), "test": rest.subset(sides["train"])}


def _by_column(manifest: Manifest) -> dict[str, Manifest]:
    splits = np.array([item.split for item in manifest.items])
    found = {part: manifest.subset(np.flatnonzero(splits == part)) for part in ("train", "val", "test")}
    empty = [part for part, one in found.items() if not len(one)]
    if empty:
        raise DataError(
            f"The column split names no image for {', '.join(empty)}; train, val and test are wanted, or no column at "
            "all, and patients are dealt out."
        )
    return found


def _ordered(manifest: Manifest, classes: Sequence[str], name: object) -> Manifest:
    if tuple(manifest.classes) != tuple(classes):
        raise DataError(
            f"{name} has the classes {', '.join(manifest.classes)}; those of the study were wanted: "
            f"{', '.join(classes)}."
        )
    return manifest


def _check(manifests: Mapping[str, Manifest]) -> None:
    short = []
    for part, manifest in manifests.items():
        for label, (name, images) in enumerate(manifest.counts.items()):
            groups = {item.group for item in manifest.items if item.label == label}
            if images < LEAST[part]:
                short.append(f"{part} has {images} of {name!r} ({LEAST[part]} wanted)")
            elif part in ("test", "site") and len(groups) < LEAST_GROUPS:
                short.append(f"{part} has {name!r} of {len(groups)} patient ({LEAST_GROUPS} wanted)")
    if short:
        raise DataError(
            f"There are too few images for a study: {'; '.join(short)}. Add images, leave the class out, or give each "
            "part its patients in a column split of metadata.csv."
        )
