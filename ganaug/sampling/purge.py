"""Withdrawal of a patient: which synthetic images go back to them, and the removal of these.

An image goes back to a patient in one of two ways. One that was *translated* from an image of theirs shows that image
in another guise: it is removed. One that was made by a model that was *trained* on them, among others, may hold a trace
of them that nobody can see or take out: every image of that model is concerned alike.

The patient's ID is compared as a hash and never written anywhere.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ganaug import __version__
from ganaug.data.leak import Trained
from ganaug.data.manifest import Manifest, hash_group
from ganaug.data.names import count
from ganaug.data.readers import is_image, read_bytes
from ganaug.errors import ConfigError, DataError, ModelFileError
from ganaug.files import MARKER, disk_errors, read_json, sha256_file
from ganaug.models.modelfile import find_model
from ganaug.progress import Silent
from ganaug.sampling.bank import PURGED, REGENERATE, SyntheticBank
from ganaug.sampling.card import recounted
from ganaug.sampling.embedded import origin_in, origin_of, source_sha256
from ganaug.sampling.folder import REQUEST, continued, write_file
from ganaug.sampling.growing import grow_npy
from ganaug.sampling.leak import MANIFEST, TRAINING_KNOWN
from ganaug.sampling.request import images_at_a_time

DIRECT, MODEL = "direct", "model"
"""How far a removal reaches: images translated from the patient's; also all of models that were trained on them."""
TABLE, CARD = "metadata.csv", "README.md"


@dataclass(frozen=True)
class Row:
    """A synthetic image of a bank or folder."""

    name: str
    """File, or ``#12`` in a bank."""
    label: str
    source_sha256: str
    """Of the real image that it was translated from; empty for one made from noise."""
    model_sha256: str


@dataclass(frozen=True)
class Purge:
    """What goes back to a patient, and what was done; `str` says it in words, never the patient's ID."""

    place: str
    group_hash: str
    reach: str
    dry_run: bool
    images: int
    """In the bank or folder before."""
    direct: tuple[str, ...]
    """Images translated from the patient's."""
    by_model: tuple[str, ...]
    """Other images, of models that were trained on the patient."""
    unknown: tuple[str, ...]
    """Other images, of models of which nobody knows here what they were trained on."""
    removed: dict[str, int]
    """Class → images that were removed, or would be with `dry_run`."""
    models: tuple[str, ...]
    """SHA-256 of the models that were trained on the patient."""
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        found = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {**found, "left": self.left}

    @property
    def left(self) -> int:
        """How many images stay that go back to the patient, or may."""
        gone = sum(self.removed.values())
        return len(self.direct) + len(self.by_model) + len(self.unknown) - gone

    def __str__(self) -> str:
        gone = "would be removed" if self.dry_run else "removed"
        lines = [
            f"{self.place} ({count(self.images, 'image')}), patient with the hash {self.group_hash[:16]}:",
            f"{count(len(self.direct), 'image')} translated from images of the patient"
            + (f": {gone}." if self.direct else "."),
        ]
        if self.by_model:
            done = f": {gone}." if self.reach == MODEL else ": these stay."
            lines.append(
                f"{count(len(self.by_model), 'other image')} of {count(len(self.models), 'model')} that had the "
                f"patient in the training ({', '.join(model[:16] for model in self.models)}){done}"
            )
            lines.append(
                "What a model learned from one patient cannot be taken out of it or of its images. To keep nothing, "
                + ("" if self.reach == MODEL else "remove these too (--reach model), ")
                + "delete the model, and train again without the patient."
            )
        if self.unknown:
            lines.append(
                f"{count(len(self.unknown), 'other image')} of models of which nobody knows here whether the patient "
                "was in the training: these stay. Name the run (--run RUN) to know."
            )
        if not (self.direct or self.by_model or self.unknown):
            lines.append(
                "No image here goes back to a patient of this ID. Only an ID as it was taken for the training is "
                "found: the group column of metadata.csv, what --group-regex captured (of p0001_3.png perhaps 0001 "
                "and not p0001), or a DICOM file's patient."
            )
        return "\n".join([*lines, *self.notes])


def purge(
    place: str | Path,
    group: str,
    *,
    data: Manifest | None = None,
    runs: Sequence[str | Path] = (),
    reach: str = DIRECT,
    reason: str = "",
    dry_run: bool = False,
) -> Purge:
    """List what a patient contributed to in a bank or folder of synthetic images, and remove it.

    Which images are the patient's is known by the hashed groups in the ``train_manifest.json`` of the bank and of
    `runs`, and by `data`. The new bank or folder takes the name of the old one in one step, with ``purged.json`` as a
    record: when, how many, why, and the hash of the ID. A ``sample`` by the same request is then refused.

    Args:
        place: a bank, or a folder that ``sample`` or ``translate`` wrote.
        group: the patient's ID, as the training data named it.
        data: the real images, scanned with their groups: needed for images translated from ones that the model was not
            trained on, and where the training knew no patients.
        runs: run folders of the models that made the images.
        reach: ``direct`` removes images translated from the patient's; ``model`` also all images of models that were
            trained on the patient.
        reason: for the record.
        dry_run: only list.

    Raises:
        ConfigError: an argument does not fit, or the folder is not ganaug's.
        DataError: nobody knows which images are the patient's.
        ModelFileError: the bank or a run is damaged.
        GanaugError: the disk is full or cannot be written.
    """
    _check(group, reach, reason)
    folder = Path(place).resolve()
    _restore(folder)
    holder: _Bank | _Folder = _Bank(folder) if (folder / "bank.json").is_file() else _Folder(folder)
    rows, hashed = holder.rows, hash_group(group)
    manifests = {find_model(run): _manifest_of(Path(run)) for run in runs}
    known = [manifest for manifest in (holder.manifest, *manifests.values()) if manifest]
    own = _images_of(hashed, known) | _images_in(data, group)
    _require_telling(known, data, folder, hashed)
    trained = {
        model: _trains(own, hashed, holder.manifest, is_mixed=any(row.source_sha256 for row in rows))
        for model in {row.model_sha256 for row in rows}
    }
    for model, manifest in manifests.items():
        if manifest is not None:
            trained[sha256_file(model)] = _trains(own, hashed, manifest, is_mixed=False)
    direct = [row for row in rows if row.source_sha256 in own]
    others = [row for row in rows if row.source_sha256 not in own]
    by_model = [row for row in others if trained[row.model_sha256]]
    unknown = [row for row in others if trained[row.model_sha256] is None]
    going = direct + (by_model if reach == MODEL else [])
    removed = dict(sorted(Counter(row.label for row in going).items()))
    notes: list[str] = []
    if going and not dry_run:
        record = {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "group_hash": hashed,
            "reach": reach,
            "reason": reason,
            "removed": removed,
            "left": {"of_models_trained_on_the_patient": len(by_model) - (len(going) - len(direct)),
                     "of_models_unknown": len(unknown)},
            "ganaug": __version__,
        }  # fmt: skip
        notes += _remove(folder, holder, {row.name for row in going}, record)
    return Purge(
        place=str(place),
        group_hash=hashed,
        reach=reach,
        dry_run=dry_run,
        images=len(rows),
        direct=tuple(row.name for row in direct),
        by_model=tuple(row.name for row in by_model),
        unknown=tuple(row.name for row in unknown),
        removed=removed,
        models=tuple(sorted({row.model_sha256 for row in by_model})),
        notes=tuple(notes),
    )


def _check(group: str, reach: str, reason: str) -> None:
    if not group.strip():
        raise ConfigError("An empty ID was given; the patient's, as the training data named it, was wanted.")
    if reach not in (DIRECT, MODEL):
        raise ConfigError(f"The reach {reach!r} was given; 'direct' or 'model' was wanted.")
    if group.casefold() in reason.casefold():
        raise ConfigError("The reason holds the patient's ID, which is not to be written anywhere. Say it without.")


def _restore(folder: Path) -> None:
    """Give a folder its name back if a process was killed between taking it away and giving it to the new one."""
    retired = folder.with_name(f".{folder.name}.retired")
    if not folder.exists() and (retired / MARKER).is_file():
        retired.replace(folder)


def _manifest_of(run: Path) -> dict[str, Any] | None:
    path = find_model(run).with_name(MANIFEST)
    if not path.is_file():
        return None
    found: dict[str, Any] = read_json(path, ModelFileError, "Restore the run folder.")
    Trained.of(found)  # says in a sentence what is damaged
    return found


def _images_of(hashed: str, manifests: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the SHA-256 of the patient's images that runs and banks know."""
    return {
        str(entry["sha256"]) for manifest in manifests for entry in manifest["files"] if entry["group_hash"] == hashed
    }


def _images_in(data: Manifest | None, group: str) -> set[str]:
    items = () if data is None else data.items
    own = [item for item in items if group in (item.group, item.patient)]
    return {sha256 for item in own for sha256 in (item.sha256, *item.sources)}


def _require_telling(known: Sequence[Mapping[str, Any]], data: Manifest | None, folder: Path, hashed: str) -> None:
    """Raise unless somebody knows patients: "no image is theirs" would otherwise be said of any."""
    if data is not None or any(Trained.of(manifest).names_groups for manifest in known):
        return
    if any(hashed in manifest.get("patient_hashes", ()) for manifest in known):
        return
    why = "the training named no patients" if known else f"{folder} does not know what its model was trained on"
    raise DataError(
        f"Nobody can say which images are the patient's: {why}. Give the real images, --data DATA (with --group-regex "
        "where their paths name the patient), and the run, --run RUN."
    )


def _trains(own: set[str], hashed: str, manifest: Mapping[str, Any] | None, *, is_mixed: bool) -> bool | None:
    """Return whether a model was trained on the patient; None if nobody knows.

    Args:
        own: SHA-256 of the patient's images.
        hashed: of the ID.
        manifest: of the training.
        is_mixed: the manifest also has the hashes of what was translated, which need not have been trained on.
    """
    if manifest is None:
        return None
    if any(entry["group_hash"] == hashed or entry["sha256"] in own for entry in manifest["files"]):
        return True
    if not manifest.get(TRAINING_KNOWN, True):
        return None
    hinted = hashed in manifest.get("patient_hashes", ()) or not own.isdisjoint(manifest.get("source_hashes", ()))
    if hinted:
        return None if is_mixed else True
    return False


class _Bank:
    """A bank, as what is removed from."""

    def __init__(self, folder: Path) -> None:
        self.bank = SyntheticBank.open(folder)
        raw = self.bank.manifest_bytes()
        self.manifest: dict[str, Any] | None = None if raw is None else json.loads(raw)
        sources = self.bank.sources
        self.rows = [
            Row(
                f"#{i}",
                self.bank.classes[label],
                "" if sources is None else sources[i].tobytes().hex(),
                self.bank.model_sha256,
            )
            for i, label in enumerate(self.bank.labels.tolist())
        ]

    def write(self, place: Path, removed: set[str]) -> list[str]:
        """Write what stays to the unfinished folder `place`."""
        bank = self.bank
        kept = np.array([i for i, row in enumerate(self.rows) if row.name not in removed], np.int64)
        if not len(kept):
            return ["Nothing is left of the bank but the record of the removal."]
        header = read_json(bank.path / "bank.json", ModelFileError, REGENERATE)
        for name in bank.column_sha256:
            column = np.ascontiguousarray(getattr(bank, name)[kept])
            stream = io.BytesIO()
            np.lib.format.write_array(stream, column, allow_pickle=False)
            write_file(place / f"{name}.npy", stream.getvalue())
            header["sha256"][name] = hashlib.sha256(column.tobytes()).hexdigest()
        shape, dtype = (len(kept), *bank.shape), bank.intensity.dtype
        step = images_at_a_time(bank.shape)
        grow_npy(
            place / "images.npy", shape, dtype, lambda part: bank.images[kept[part]], batch=step, progress=Silent()
        )
        # With the hashes of what was removed: an image of the patient is no unseen test image for the model either.
        if (raw := bank.manifest_bytes()) is not None:
            write_file(place / MANIFEST, raw)
        counts = np.bincount(bank.labels[kept], minlength=len(bank.classes)).tolist()
        header["counts"] = dict(zip(bank.classes, counts, strict=True))
        write_file(place / "bank.json", (json.dumps(header, indent=2) + "\n").encode())
        return []


class _Folder:
    """A folder of files with a table, as what is removed from."""

    manifest: dict[str, Any] | None = None

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError(f"{folder} does not exist; a bank or a folder of synthetic images was wanted.")
        self.folder = folder
        self.header, self.table = _read_table(folder / TABLE)
        rows = {str(row["file_name"]): origin_of(row) for row in self.table}
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and is_image(path)):
            name = path.relative_to(folder).as_posix()
            if rows.get(name) is None and path.suffix != ".npz":
                rows[name] = origin_in(read_bytes(path))[0]
        self.rows = [
            Row(name, origin["label"], source_sha256(origin), origin["model_sha256"])
            for name, origin in rows.items()
            if origin is not None
        ]
        if not self.rows:
            if (folder / PURGED).is_file():
                raise DataError(f"{folder} has no image left: see its {PURGED}.")
            raise DataError(f"{folder} holds no image with a provenance; a bank or an exported folder was wanted.")

    def write(self, place: Path, removed: set[str]) -> list[str]:
        """Write what stays to the unfinished folder `place`."""
        gone, notes = self._files(removed), []
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if name in gone or name in (MARKER, REQUEST, PURGED, TABLE, CARD):
                continue
            if path.is_dir() and not path.is_symlink():
                (place / name).mkdir(parents=True, exist_ok=True)
            elif not (place / name).exists():
                _bring(path, place / name)
        if self.header:
            stream = io.StringIO()
            writer = csv.DictWriter(stream, self.header, lineterminator="\n", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(row for row in self.table if row["file_name"] not in removed)
            write_file(place / TABLE, stream.getvalue().encode("utf-8", "surrogateescape"))
        if (self.folder / CARD).is_file():
            text = (self.folder / CARD).read_text(encoding="utf-8", errors="surrogateescape")
            going = Counter(row.label for row in self.rows if row.name in removed)
            new = recounted(text, going)
            if new is None:
                notes.append(f"{CARD} was changed by somebody, so that its counts could not be brought up to date.")
            write_file(place / CARD, (new or text).encode("utf-8", "surrogateescape"))
        return notes

    def _files(self, removed: set[str]) -> set[str]:
        """Return the files that go: the images, and archives of which all images go."""
        files = {name for name in removed if "#" not in name or (self.folder / name).exists()}
        for archive in {name.partition("#")[0] for name in removed - files}:
            members = {row.name for row in self.rows if row.name.startswith(f"{archive}#")}
            if not members <= removed:
                raise DataError(
                    f"{len(members & removed)} of the {count(len(members), 'image')} in {archive} were to be removed; "
                    "an archive can only go as a whole. Make it again, or use --reach model."
                )
            files.add(archive)
        return files


def _read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    if not path.is_file():
        return [], []
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
            reader = csv.DictReader(stream)
            rows = [dict(row) for row in reader]
            header = list(reader.fieldnames or [])
    except (OSError, csv.Error) as problem:
        raise DataError(f"{path} cannot be read as a table ({problem}). Restore it.") from None
    if "file_name" not in header:
        raise DataError(f"{path} has no column file_name, so that nothing can be removed from it. Restore it.")
    return header, rows


def _bring(source: Path, target: Path) -> None:
    """Put a file that stays into the new folder, as the same one on the disk where that can be."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _remove(folder: Path, holder: _Bank | _Folder, removed: set[str], record: Mapping[str, Any]) -> list[str]:
    if not (folder / MARKER).is_file():
        raise ConfigError(
            f"{folder} was not made by ganaug, or copied without its hidden file {MARKER}: nothing was removed. If it "
            f"is yours alone, create an empty file {MARKER} in it and run the command again."
        )
    before = _json_or_none(folder / REQUEST)
    records = _json_or_none(folder / PURGED) or []
    # Part of what the folder is asked to be: the request by which it was made would bring the images back.
    request = {
        "purged": hashlib.sha256("\n".join(sorted(removed)).encode("utf-8", "surrogateescape")).hexdigest(),
        "group_hash": record["group_hash"],
        "from": before,
    }
    with disk_errors(folder), continued(folder, request, overwrite=True) as place:
        assert place is not None
        notes = holder.write(place, removed)
        write_file(place / PURGED, (json.dumps([*records, record], indent=2) + "\n").encode())
    return notes


def _json_or_none(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
