"""Checkpoints: the full state of a run, written so that a crash at any moment leaves a good one.

A checkpoint is a folder of safetensors and JSON. It is written under a temporary name, flushed, sealed with a manifest
of SHA-256 sums, and renamed; the newest two are kept, and the best one. When the newest one is damaged, the one before
it serves.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ganaug.errors import GanaugError
from ganaug.files import fsync_dir, sha256_file, write_json

KEEP = 2
_SEAL = "SHA256.json"


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, best: int | None = None
) -> Path:
    """Write a checkpoint of `step` into `folder` and drop all but the newest `KEEP` and the one of step `best`."""
    final = _path(folder, step)
    partial = folder / f".partial-{step:09d}"
    for left in folder.glob(".partial-*"):  # of a run that was killed while it saved
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        # Clones: the averaged and the trained network may share memory. Bytes through Python's own files: safetensors'
        # writer would hide the reason when the disk is full.
        copies = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
        (partial / "state.safetensors").write_bytes(save(copies))
        write_json(partial / "state.json", dict(state))
        for path in partial.iterdir():
            _fsync_file(path)
        write_json(partial / _SEAL, {path.name: sha256_file(path) for path in sorted(partial.iterdir())})
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    fsync_dir(folder)
    write_json(folder / "latest.json", {"checkpoint": final.name})
    for old in checkpoints(folder)[:-KEEP]:
        if best is None or old != _path(folder, best):
            shutil.rmtree(old, ignore_errors=True)
    return final


def drop_later(folder: Path, step: int) -> None:
    """Remove the checkpoints after `step`: the run went back to it, and on another way."""
    for path in checkpoints(folder):
        if path.name > _path(folder, step).name:
            shutil.rmtree(path, ignore_errors=True)
    fsync_dir(folder)


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:09d}"


def checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def load_checkpoint(folder: Path, step: int | None = None) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    """Load the newest good checkpoint, or that of `step` if it is good.

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
        try:
            seal = json.loads((path / _SEAL).read_text())
            bad = [name for name, wanted in seal.items() if sha256_file(path / name) != wanted]
            if bad:
                raise ValueError(f"{', '.join(bad)} does not match its SHA-256")
            return (
                load_file(path / "state.safetensors"),
                json.loads((path / "state.json").read_text()),
                damaged,
            )
        except (OSError, ValueError, AttributeError, SafetensorError) as problem:
            damaged.append(f"The checkpoint {path} is damaged ({problem}).")
    found = " ".join([f"There is no good checkpoint in {folder}.", *damaged])
    raise GanaugError(f"{found} Restore the folder from a copy, or start anew with --overwrite.")


def _fsync_file(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
