"""The leak guard: held-out images share neither a file nor a group (patient) with a generator's data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ganaug.data.manifest import Manifest, hash_group
from ganaug.errors import LeakError, ModelFileError


def refuse_leak(train_manifest: Mapping[str, Any], held_out: Manifest) -> None:
    """Raise if a held-out file is one that the generator was trained on, or belongs to one of its groups.

    `train_manifest` is the content of a run's ``train_manifest.json``: files are compared by the SHA-256 of
    their bytes, so that a renamed or moved copy is found too, and groups by the SHA-256 of their names.

    Raises:
        LeakError: naming the held-out files, and the training files that they meet.
        ModelFileError: `train_manifest` is not such a manifest.
    """
    try:
        by_file = {str(entry["sha256"]): str(entry["path"]) for entry in train_manifest["files"]}
        by_group = {str(entry["group_hash"]): str(entry["path"]) for entry in train_manifest["files"]}
    except (KeyError, TypeError) as problem:
        raise ModelFileError(
            f"The train_manifest.json of the run lacks or garbles a field ({type(problem).__name__}: "
            f"{problem}); without it nobody can say that the test images are unseen. Restore the run folder, "
            "or train again."
        ) from None
    copies, relatives = [], []
    for item in held_out.items:
        if item.sha256 in by_file:
            copies.append(f"{item.path} (the same file as {by_file[item.sha256]})")
        elif (group := hash_group(item.group)) in by_group:
            relatives.append(f"{item.path} (of the same group as {by_group[group]})")
    found = copies + relatives
    if found:
        shown = "; ".join(found[:5]) + (f"; and {len(found) - 5} more" if len(found) > 5 else "")
        raise LeakError(
            f"{len(found)} of {len(held_out.items)} held-out images are known to the generator: {shown}. "
            "Images of no training file and no training group (patient) are wanted, or any score would be "
            "flattered. Hold them out before ganaug fit, and train again."
        )
