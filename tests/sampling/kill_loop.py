"""Export again and again, killed with no warning at random moments, until it is complete; prints the number of kills.

Run as ``python -m tests.sampling.kill_loop FORMAT FOLDER``, in a process of its own since it forks.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ganaug.sampling import request
from ganaug.sampling.export import export_folder
from tests.killing import killed_after
from tests.sampling.fake_sampler import FakeSampler

BATCH_S = 0.01
IMAGES = {"a": 200, "c": 200}
OLD = {"b": 3}
LEAST = 20
"""Kills that there must be: so many times the longest first attempts are not enough to finish."""


class Slow(FakeSampler):
    """Takes its time for each batch."""

    def sample(self, labels: Sequence[int], **options: Any) -> torch.Tensor:
        time.sleep(BATCH_S)
        return super().sample(labels, **options)


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder, the hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def main(name: str, root: Path) -> None:
    """Kill until it is complete; each time look at what is there."""
    request.BATCH = 4
    order: dict[str, Any] = {"counts": IMAGES, "format": name, "overwrite": True}
    export_folder(FakeSampler(), root / "whole", **order)  # type: ignore[arg-type]
    out, retired = root / "out", root / ".out.retired"
    export_folder(FakeSampler(), out, counts=OLD, format=name)  # type: ignore[arg-type]
    old, new = contents(out), contents(root / "whole")
    source, kills = random.Random(name), 0
    limit = sum(IMAGES.values()) / request.BATCH * BATCH_S / LEAST
    while not out.exists() or contents(out) != new:
        if not killed_after(source.uniform(0, limit), lambda: export_folder(Slow(), out, **order)):  # type: ignore[arg-type]
            break
        kills += 1
        limit *= 1.05 if kills > LEAST else 1
        assert contents(out if out.exists() else retired) in (old, new)
    export_folder(FakeSampler(), out, counts=IMAGES, format=name)  # type: ignore[arg-type]
    assert contents(out) == new
    print(kills)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
