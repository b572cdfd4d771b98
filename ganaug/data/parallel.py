"""Work on many files at once: by forked processes where that is safe, otherwise by threads."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from typing import Any, TypeVar

from ganaug.errors import DataError
from ganaug.progress import progress_bar

T = TypeVar("T")
R = TypeVar("R")

CHUNK = 256
"""Items handed to a worker at a time: few enough to bound memory and the wait after Ctrl-C."""
WORTH_FORKING = 48
"""Below this many items threads are quicker than starting processes."""
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def available_cpus() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def parallel_map(
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    label: str,
    unit: str = "images",
    show_progress: bool = False,
    chunk: int = CHUNK,
) -> Iterator[R]:
    """Yield `function(item)` for every item, in the order of `items`, computed on all cores.

    The first exception of `function` is raised here, and what has not started is canceled. Results must be picklable,
    since they may come from another process.

    Raises:
        DataError: a worker process was killed, as the system does when memory runs out.
    """
    each = partial(_each, function)
    for results in chunked_map(each, items, label=label, unit=unit, show_progress=show_progress, chunk=chunk):
        yield from results


def chunked_map(
    function: Callable[[Sequence[T]], R],
    items: Sequence[T],
    *,
    label: str,
    unit: str = "images",
    show_progress: bool = False,
    chunk: int = CHUNK,
) -> Iterator[R]:
    """Yield `function(part)` for consecutive parts of `items`, in order; otherwise as `parallel_map`."""
    workers = available_cpus()
    # Small parts at the end of a short list would leave workers idle; long ones keep the transfers few.
    size = max(1, min(chunk, -(-len(items) // (4 * workers))))
    starts = iter(range(0, len(items), size))
    forks = workers > 1 and len(items) >= WORTH_FORKING and _can_fork()
    pool: Executor = _Forks(workers, function, items) if forks else ThreadPoolExecutor(workers)
    pending: deque[Future[R]] = deque()

    def submit(number: int) -> None:
        for _, start in zip(range(number), starts, strict=False):
            if forks:
                pending.append(pool.submit(_inherited, start, start + size))
            else:
                pending.append(pool.submit(function, items[start : start + size]))

    try:
        # Before the progress bar: its thread must not run when the processes are forked.
        submit(3 * workers)
        done = 0
        with progress_bar(label, len(items), unit=unit, show=show_progress) as progress:
            while pending:
                result = pending.popleft().result()
                submit(1)
                yield result
                done = min(done + size, len(items))
                progress.update(done)
    except BrokenProcessPool:
        raise DataError(
            "A process that read files was killed by the system, most likely because memory ran out. Close other "
            "programs, or read fewer or smaller files at a time."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _each(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    return [function(item) for item in items]


def _can_fork() -> bool:
    """Return whether forking is safe: on Linux, while no other Python thread may hold a lock."""
    return sys.platform == "linux" and threading.active_count() == 1


_work: tuple[Callable[[Sequence[Any]], Any], Sequence[Any]] | None = None
"""In a worker: the function and the items that it was forked for, inherited and so never pickled."""


def _inherited(start: int, stop: int) -> Any:
    assert _work is not None
    function, items = _work
    return function(items[start:stop])


class _Forks(ProcessPoolExecutor):
    """Forked workers: they start in milliseconds and do not import the user's script a second time."""

    def __init__(self, workers: int, function: Callable[[Sequence[Any]], Any], items: Sequence[Any]) -> None:
        super().__init__(workers, get_context("fork"), initializer=_settle, initargs=(os.getpid(), (function, items)))

    def submit(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        """Submit; Python warns of native threads that idle in other libraries, which these workers never use."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return super().submit(*args, **kwargs)


def _settle(parent: int, work: tuple[Callable[[Sequence[Any]], Any], Sequence[Any]]) -> None:
    """Leave Ctrl-C to the parent, do not outlive it, and remember what to do."""
    global _work
    _work = work
    gc.freeze()  # what came with the fork is never garbage here, and looking at it would copy its pages
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
