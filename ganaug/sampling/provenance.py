"""Where a synthetic image comes from: the same keys in memory, in `metadata.csv` and inside the files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def provenance(
    *,
    label: Any,
    seed: int,
    index: int,
    model_sha256: str,
    truncation: float,
    source: str = "noise",
    scores: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return the provenance of image `index` of a class under `seed`.

    All values are of kinds that a batch collate function can stack, so that none is None. `source` is "noise", or the
    real image that a translation started from. `scores` (JSON) has what was measured of the image, "{}" for nothing.
    `accepted` is False for an image that a filter rejected, and true for all others: also where no filter was asked. Of
    a bank, `SyntheticBank.acceptance` says whether one was, and how many of how many it accepted.
    """
    return {
        "synthetic": True,
        "label": label,
        "source": source,
        "seed": seed,
        "index": index,
        "model_sha256": model_sha256,
        "truncation": truncation,
        "accepted": True,
        "scores": json.dumps(dict(scores or {})),
    }


def source_of(sha256: str, index: int) -> str:
    """Return how a translated image names the real one that it was made from: never by a file's name.

    Args:
        sha256: hex SHA-256 of the real file, or of the pixels where there is no file.
        index: its place among the images that were translated.
    """
    return f"{sha256}#{index}"


def similarity_score(value: float) -> dict[str, float]:
    """Return the score of an image whose similarity to the training images is known; see `NearCopies`."""
    return {"similarity": round(float(value), 4)}
