"""The leak guard: held-out images share neither a file nor a group (patient) with a generator's data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ganaug.data.manifest import Manifest, hash_group
from ganaug.errors import LeakError, ModelFileError


def refuse_leak(train_manifest: Mapping[str, Any], held_out: Manifest) -> None:
    """Raise if a held-out file is one that the generator was trained on, or belongs to one of its groups.

    `train_manifest` is the content of a run's ``train_manifest.json``: files are compared by the SHA-256 of
    their bytes, so that a renamed or moved copy is found too, also one that is part of a volume or is cut into
    slices; groups, and the patients that DICOM files name, by the SHA-256 of their names.

    Raises:
        LeakError: naming the held-out files.
        ModelFileError: `train_manifest` is not such a manifest.
    """
    try:
        files = {str(entry["sha256"]) for entry in train_manifest["files"]}
        files |= set(map(str, train_manifest.get("source_hashes", ())))
        groups = {str(entry["group_hash"]) for entry in train_manifest["files"]}
        groups |= set(map(str, train_manifest.get("patient_hashes", ())))
    except (KeyError, TypeError, AttributeError) as problem:
        raise ModelFileError(
            f"The train_manifest.json of the run lacks or garbles a field ({type(problem).__name__}: "
            f"{problem}); without it nobody can say that the test images are unseen. Restore the run folder, "
            "or train again."
        ) from None
    copies = [item.name for item in held_out.items if not files.isdisjoint((item.sha256, *item.sources))]
    copied = set(copies)
    relatives = [
        item.name
        for item in held_out.items
        if item.name not in copied and not groups.isdisjoint(map(hash_group, {item.group, item.patient or item.group}))
    ]
    found = [f"{name} (a training file)" for name in copies] + [f"{name} (of a training group)" for name in relatives]
    if found:
        shown = "; ".join(found[:5]) + (f"; and {len(found) - 5} more" if len(found) > 5 else "")
        raise LeakError(
            f"{len(found)} of {len(held_out.items)} held-out images are known to the generator: {shown}. "
            "Images of no training file and no training group (patient) are wanted, or any score would be "
            "flattered. Hold them out before ganaug fit, and train again."
        )
