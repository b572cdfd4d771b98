"""Where a synthetic image comes from: the same keys in memory, in `metadata.csv` and inside the files."""

from __future__ import annotations

from typing import Any


def provenance(*, label: Any, seed: int, index: int, model_sha256: str, truncation: float) -> dict[str, Any]:
    """Return the provenance of image `index` of a class under `seed`.

    `source` names the real image that a translation started from (none here); `accepted` and `scores` are what a
    filter said (everything is accepted while there is none).
    """
    return {
        "synthetic": True,
        "label": label,
        "source": "",
        "seed": seed,
        "index": index,
        "model_sha256": model_sha256,
        "truncation": truncation,
        "accepted": True,
        "scores": {},
    }
