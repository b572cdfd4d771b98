"""Checkpoints: the full state of a run, written so that a crash at any moment leaves a good one.

A checkpoint is a folder of safetensors and JSON. It is written under a temporary name, flushed, sealed with a manifest
of SHA-256 sums, and renamed; the newest two are kept, and the best one. When the newest one is damaged, the one before
it serves. Where the disk is too full for that, the newest alone is kept.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ganaug.errors import GanaugError
from ganaug.files import FULL, fsync_dir, read_json, sha256_file, write_json

KEEP = 2
_FILES = "state.safetensors", "state.json"
_SEAL = "SHA256.json"
_PARTIAL, _BEFORE = ".partial-", ".before-"
"""What the names of folders begin with that are being written, and whose step is being saved again."""


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, best: int | None = None
) -> Path:
    """Write a checkpoint of `step` into `folder` and drop all but the newest `KEEP` and the one of step `best`.

    On a full disk all older ones but the newest good one and the best give way, and it is tried again.

    Raises:
        OSError: it cannot be written; nothing of it stays, and the newest good one before it does.
    """
    if not folder.is_dir():
        folder.mkdir(parents=True)
        fsync_dir(folder.parent)
    tidy(folder)
    # Clones: the averaged and the trained network may share memory. Bytes through Python's own files: safetensors'
    # writer would hide the reason when the disk is full.
    data = save({key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()})
    try:
        final = _write(folder, step, data, state)
    except OSError as problem:
        if problem.errno not in FULL or not make_room(folder, best=best):
            raise
        final = _write(folder, step, data, state)
    _keep(folder, {*checkpoints(folder)[-KEEP:], None if best is None else _path(folder, best)})
    return final


def make_room(folder: Path, *, best: int | None = None) -> bool:
    """Drop all checkpoints but the newest good one and that of step `best`; return whether there were others."""
    found = checkpoints(folder)
    good = next((path for path in found[::-1] if _damage(path) is None), None)
    if good is None:
        return False
    _keep(folder, {good, None if best is None else _path(folder, best)})
    return len(checkpoints(folder)) < len(found)


def tidy(folder: Path) -> None:
    """Bring in order what a run that was killed while it saved has left. Nobody else may read or write there."""
    for left in folder.glob(f"{_BEFORE}*"):
        final = folder / left.name.removeprefix(_BEFORE)
        if not final.exists():
            left.rename(final)
        shutil.rmtree(left, ignore_errors=True)
    for left in folder.glob(f"{_PARTIAL}*"):
        shutil.rmtree(left, ignore_errors=True)


def _write(folder: Path, step: int, data: bytes, state: Mapping[str, Any]) -> Path:
    """Write a checkpoint under a hidden name and give it its own; of one that fails nothing stays."""
    final, partial = _path(folder, step), folder / f"{_PARTIAL}{step:09d}"
    try:
        partial.mkdir()
        (partial / _FILES[0]).write_bytes(data)
        write_json(partial / _FILES[1], dict(state))
        for path in partial.iterdir():
            _fsync_file(path)
        write_json(partial / _SEAL, {path.name: sha256_file(path) for path in sorted(partial.iterdir())})
        if final.exists():
            final.rename(folder / f"{_BEFORE}{final.name}")
        partial.rename(final)
    finally:
        tidy(folder)
    fsync_dir(folder)
    write_json(folder / "latest.json", {"checkpoint": final.name})
    return final


def _keep(folder: Path, kept: Collection[Path | None]) -> None:
    for path in checkpoints(folder):
        if path not in kept:
            _drop(path)


def _drop(path: Path) -> None:
    """Delete a checkpoint, which is never seen half deleted."""
    hidden = path.with_name(f"{_PARTIAL}{path.name}")
    path.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def drop_later(folder: Path, step: int) -> None:
    """Remove the checkpoints after `step`: the run went back to it, and on another way."""
    for path in checkpoints(folder):
        if path.name > _path(folder, step).name:
            _drop(path)
    fsync_dir(folder)


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:09d}"


def checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def load_checkpoint(folder: Path, step: int | None = None) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    """Load the newest good checkpoint, or that of `step` if it is good. Nothing is changed, so that ranks may share it.

    Returns:
        Tensors, state, and a line for each damaged checkpoint that was passed over.

    Raises:
        GanaugError: there is no good checkpoint.
    """
    damaged: list[str] = []
    newest_first = checkpoints(folder)[::-1]
    if step is not None:
        newest_first.sort(key=lambda path: path != _path(folder, step))
    for path in newest_first:
        problem = _damage(path)
        try:
            if problem is None:
                state = read_json(path / _FILES[1], GanaugError, "")
                if not isinstance(state, dict):
                    raise ValueError(f"{_FILES[1]} holds no object")
                return load_file(path / _FILES[0]), state, damaged
        except (OSError, ValueError, SafetensorError, GanaugError) as unreadable:
            problem = str(unreadable)
        damaged.append(f"The checkpoint {path} is damaged ({problem}).")
    found = " ".join([f"There is no good checkpoint in {folder}.", *damaged])
    raise GanaugError(f"{found} Restore the folder from a copy, or start anew with --overwrite.")


def _damage(path: Path) -> str | None:
    """Return what is wrong with the files of a checkpoint, None if they are what was written."""
    try:
        seal = read_json(path / _SEAL, GanaugError, "")
        bad = [name for name in _FILES if not isinstance(seal, dict) or sha256_file(path / name) != seal.get(name)]
    except (OSError, GanaugError) as problem:
        return str(problem)
    return f"{', '.join(bad)} does not match its SHA-256" if bad else None


def _fsync_file(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
