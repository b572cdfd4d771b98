"""The one place that knows about ranks. A single process is rank 0 of 1."""

from __future__ import annotations

import os


def rank() -> int:
    """Return this process's rank, 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes, 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Return whether this process writes files and talks to the user."""
    return rank() == 0
