"""Counterfactual twins: real scans beside what a translation makes of them, with what changed and whom it convinces."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ganaug.data.leak import Trained, held_out_items
from ganaug.data.manifest import Manifest, hash_group
from ganaug.data.names import printable
from ganaug.data.pictures import save_picture
from ganaug.errors import ConfigError
from ganaug.evaluation.change import measure
from ganaug.evaluation.twin_judge import LabelledImages, TwinJudge
from ganaug.evaluation.twin_picture import Row, twins_picture
from ganaug.files import check_output, disk_errors
from ganaug.progress import progress_bar
from ganaug.sampling.folder import OVERWRITE, REQUEST, continued, write_file
from ganaug.sampling.growing import grow_npy
from ganaug.sampling.request import images_at_a_time
from ganaug.sampling.translator import Translator
from ganaug.training.judge import STEPS

TABLE, PICTURE, DIFFERENCES, SUMMARY = "twins.csv", "twins.png", "differences.npy", "twins.json"

REASONS = {
    "unchanged": "changes nothing that can be seen",
    "everything": "changes everything",
    "outside": "changes the background",
    "unconvinced": "does not convince the judge",
    "no verdict": "no judge to convince",
}
"""Why a translation is rejected, in the order in which it is asked."""

SHOWN_ACCEPTED = 4
SHOWN_REJECTED = 2
"""Rows of the picture: accepted twins, and rejected ones for each reason."""


@dataclass(frozen=True)
class Twin:
    """One source and its translation: a row of the table. Probabilities are None without a verdict."""

    source: str
    """SHA-256 of the source's file."""
    position: int
    """Place of the source among the images of the data."""
    source_class: str
    target_class: str
    changed: float
    """Share of the image's pixels that changed."""
    changed_foreground: float
    """Share of the foreground's pixels that changed."""
    outside: float
    """Share of the changed pixels that lie outside the foreground."""
    p_target_before: float | None
    p_target_after: float | None
    p_source_before: float | None
    p_source_after: float | None
    in_training: str
    """Whether the translation was trained on this file, these pixels or this patient: yes, no, unknown."""
    accepted: bool
    reason: str
    """One of `REASONS`; empty if accepted."""

    def cells(self) -> dict[str, str]:
        """Return the row's texts."""
        return {key: _text(value) for key, value in asdict(self).items()}


def make_twins(
    gan: Translator,
    data: str | Path | Manifest,
    out: str | Path,
    *,
    to: str,
    source: str | Sequence[str] | None = None,
    count: int | None = None,
    seed: int = 0,
    group_regex: str | None = None,
    steps: int = STEPS,
    overwrite: bool = False,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Translate real scans to another class, and say of each one what changed and whether a judge believes it.

    The folder `out` gets `twins.csv` with a row for each twin (see `Twin`), `twins.png` with accepted and rejected
    ones, `differences.npy` (translation minus source, N×C×spatial float32 in units of [-1, 1], in the table's order)
    and `twins.json` with the summary. It appears when it is complete; after a kill the same call goes on, and when all
    is done it changes nothing. No file name gets into it, but the picture shows real images.

    The judge is trained on `data` and checked on real images that it has not seen; one that cannot tell the classes
    makes no verdict. What it accepts must not be used to test anything on the same patients.

    Args:
        gan: a translation model of the rule "class".
        data: a labelled folder, table or archive that ganaug reads, or its `Manifest`; of it the training part.
        out: the folder to create.
        to: the class to translate to; images of it are no sources, but the judge learns from them.
        source: the class, or classes, to translate from; all others by default.
        count: how many sources, drawn by `seed`; all by default.
        seed: of the draw and of the judge.
        group_regex: finds the patient in each file's path, as for ``ganaug fit``.
        steps: optimizer steps of each of the judge's members.
        overwrite: replace `out` if ganaug made it.

    Returns:
        The summary: numbers of twins, accepted, rejected by reason, by class of the source; what the judge can.

    Raises:
        ConfigError: the model does not translate between classes or does not know a name, `count` does not fit, or
            `out` holds something else and may not be replaced.
        DataError: the folder cannot be used, or holds no image to translate.
        ModelFileError: the model's images are not finite.
        GanaugError: the disk is full or cannot be written.
    """
    folder = Path(out).resolve()
    if seed < 0:
        raise ConfigError(f"seed is {seed}; an integer of 0 or more was wanted.")
    asked = {"model_sha256": gan.model_sha256, "to": to, "count": count}
    with disk_errors(folder):
        _check_place(folder, {**asked, "seed": seed, "steps": steps}, overwrite)
    images = LabelledImages.open(gan, data, to=to, source=source, group_regex=group_regex, show_progress=show_progress)
    positions = _drawn(images.members, count, seed)
    request = {**asked, **images.settings(seed, steps)}
    with disk_errors(folder), continued(folder, request, overwrite=overwrite) as place:
        if place is not None:
            judge = TwinJudge(images, gan.target(to), seed=seed, steps=steps, show_progress=show_progress)
            differences = _differences(place / DIFFERENCES, judge, positions, show_progress=show_progress)
            known = known_to_training(gan, images.manifest)
            twins = [_twin(judge, i, one, known[i]) for i, one in zip(positions.tolist(), differences, strict=True)]
            _write_table(place / TABLE, twins)
            save_picture(_picture(judge, twins, differences), place / PICTURE)
            summary = _summary(judge, twins, seed)
            write_file(place / SUMMARY, (json.dumps(summary, indent=2) + "\n").encode())
    found: dict[str, Any] = {"out": str(out), **json.loads((folder / SUMMARY).read_text(encoding="utf-8"))}
    return found


def _check_place(folder: Path, asked: Mapping[str, Any], overwrite: bool) -> None:
    """Refuse a folder that cannot take these twins, as far as can be told before the images are read."""
    try:
        before = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
        same = all(before.get(key) == value for key, value in asked.items())
    except (OSError, ValueError, AttributeError):
        same = False
    if overwrite or not same:
        check_output(folder, overwrite=overwrite, options=OVERWRITE)


def _drawn(members: np.ndarray, count: int | None, seed: int) -> np.ndarray:
    if count is None:
        return members
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= len(members):
        raise ConfigError(
            f"count is {count!r}, and there are {len(members):,} images to translate; a number from 1 to that was "
            "wanted."
        )
    return np.sort(np.random.default_rng(seed).permutation(members)[:count])


def _differences(path: Path, judge: TwinJudge, positions: np.ndarray, *, show_progress: bool) -> np.ndarray:
    """Return the translations minus their sources, a memory map of `path`, which is filled where it is not yet."""
    gan = judge.data.gan

    def rows(part: slice) -> np.ndarray:
        real = judge.data.read(positions[part])
        difference: np.ndarray = (gan.translate(real, to=judge.to) - real).cpu().numpy()
        return difference

    with progress_bar("translating", len(positions), unit="images", show=show_progress) as progress:
        batch = images_at_a_time(gan.shape)
        grow_npy(path, (len(positions), *gan.shape), "float32", rows, batch=batch, progress=progress)
    made: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return made


def _twin(judge: TwinJudge, position: int, difference: np.ndarray, in_training: str) -> Twin:
    data = judge.data
    names, label = data.gan.classes, int(data.labels[position])
    real = data.read(np.array([position]))[0].cpu().numpy()
    translated = real + difference
    change = measure(real, translated)
    before, after = judge.before(position), judge.after(position, torch.from_numpy(translated))

    def probability(of: np.ndarray | None, c: int) -> float | None:
        return None if of is None else float(of[judge.classes.index(c)])

    reason = judge.reason(change, after)
    return Twin(
        source=data.sources.sha256[position],
        position=position,
        source_class=names[label],
        target_class=names[judge.to],
        changed=change.share,
        changed_foreground=change.foreground,
        outside=change.outside,
        p_target_before=probability(before, judge.to),
        p_target_after=probability(after, judge.to),
        p_source_before=probability(before, label),
        p_source_after=probability(after, label),
        in_training=in_training,
        accepted=not reason,
        reason=reason,
    )


def known_to_training(gan: Translator, manifest: Manifest) -> list[str]:
    """Return of each image whether the model was trained on its file, its pixels or its patient: yes, no, unknown."""
    raw = gan.manifest_bytes()
    if raw is None:
        return ["unknown"] * len(manifest)
    trained = Trained.of(raw)
    return [
        "yes"
        if not trained.files.isdisjoint(image.files)
        or not trained.contents.isdisjoint(image.contents)
        or not trained.groups.isdisjoint(map(hash_group, image.groups))
        else "no"
        for image in held_out_items(manifest)
    ]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _write_table(path: Path, twins: Sequence[Twin]) -> None:
    stream = io.StringIO()
    table = csv.DictWriter(stream, list(Twin.__dataclass_fields__), lineterminator="\n")
    table.writeheader()
    table.writerows(twin.cells() for twin in twins)
    write_file(path, stream.getvalue().encode(errors="backslashreplace"))


def _picture(judge: TwinJudge, twins: Sequence[Twin], differences: np.ndarray) -> Any:
    rows = []
    for i in shown(twins):
        real = judge.data.read(np.array([twins[i].position]))[0].cpu().numpy()
        rows.append(Row(_lines(twins[i]), real, np.asarray(differences[i])))
    return twins_picture(rows)


def shown(twins: Sequence[Twin]) -> list[int]:
    """Return which twins to draw: accepted ones, from the least to the most convincing, then the clearest of each
    reason for rejection."""
    accepted = sorted(
        (i for i, twin in enumerate(twins) if twin.accepted), key=lambda i: (twins[i].p_target_after or 0, i)
    )
    spread = np.linspace(0, len(accepted) - 1, min(SHOWN_ACCEPTED, len(accepted))).round().astype(int)
    clearest = {
        "unchanged": lambda twin: twin.changed,
        "everything": lambda twin: -twin.changed_foreground,
        "outside": lambda twin: -twin.outside,
        "unconvinced": lambda twin: twin.p_target_after,
        "no verdict": lambda twin: -twin.changed,
    }
    rejected = [
        sorted((i for i, twin in enumerate(twins) if twin.reason == reason), key=lambda i: (rank(twins[i]), i))
        for reason, rank in clearest.items()
    ]
    return [accepted[i] for i in spread] + [i for some in rejected for i in some[:SHOWN_REJECTED]]


def _lines(twin: Twin) -> tuple[str, ...]:
    names = f"#{twin.position} {_short(twin.source_class)} to {_short(twin.target_class)}"
    verdict = "accepted" if twin.accepted else f"rejected: {REASONS[twin.reason]}"
    changed = f"{twin.changed:.1%} of the image changed"
    if twin.p_target_before is None:
        return names, verdict, changed
    judged = f"p({_short(twin.target_class)}) {twin.p_target_before:.2f} to {twin.p_target_after:.2f}"
    return names, verdict, changed, judged


def _short(name: str, most: int = 16) -> str:
    name = printable(name)
    return name if len(name) <= most else f"{name[: most - 3]}..."


def _summary(judge: TwinJudge, twins: Sequence[Twin], seed: int) -> dict[str, Any]:
    tried = Counter(twin.source_class for twin in twins)
    accepted = Counter(twin.source_class for twin in twins if twin.accepted)
    reasons = Counter(twin.reason for twin in twins if twin.reason)
    return {
        "to": judge.data.gan.classes[judge.to],
        "twins": len(twins),
        "accepted": accepted.total(),
        "by_class": {name: {"tried": tried[name], "accepted": accepted[name]} for name in sorted(tried)},
        "rejected": {reason: reasons[reason] for reason in REASONS if reasons[reason]},
        "in_training": dict(sorted(Counter(twin.in_training for twin in twins).items())),
        "judge": judge.to_dict(),
        "verdict": judge.sentence,
        "seed": seed,
        "model_sha256": judge.data.gan.model_sha256,
    }
