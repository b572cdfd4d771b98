"""Decode many files at once. Pillow releases the GIL while it decodes, so threads are enough."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ganaug.progress import progress_bar

T = TypeVar("T")
R = TypeVar("R")

CHUNK = 512
"""Files handed to the pool at a time: bounds the results held in memory and the wait after Ctrl-C."""


def available_cpus() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def parallel_map(
    function: Callable[[T], R], items: Sequence[T], *, label: str, show_progress: bool = False
) -> Iterator[R]:
    """Yield `function(item)` for every item, in the order of `items`, computed by a thread for each core.

    The first exception of `function` is raised here, and what has not started is canceled.
    """
    pool = ThreadPoolExecutor(max_workers=available_cpus())
    try:
        with progress_bar(label, len(items), unit="images", show=show_progress) as progress:
            for start in range(0, len(items), CHUNK):
                chunk = items[start : start + CHUNK]
                for done, result in enumerate(pool.map(function, chunk), start=start + 1):
                    yield result
                    progress.update(done)
    finally:
        pool.shutdown(cancel_futures=True)
