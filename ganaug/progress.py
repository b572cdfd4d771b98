"""Progress of long work: a live bar on a terminal, plain lines elsewhere. Everything goes to standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from ganaug.distributed import is_main


class Progress(Protocol):
    """What long work calls as it goes."""

    def update(self, done: float, note: str = "") -> None:
        """Report that `done` of the total is finished; `note` shows the metric that matters."""


class Silent:
    """A progress that shows nothing (libraries, tests, ranks other than 0)."""

    def update(self, done: float, note: str = "") -> None:
        """Do nothing."""


class _Lines:
    """One line at most every few seconds: readable in a log file."""

    def __init__(self, label: str, total: float, unit: str, every_s: float = 15.0) -> None:
        self.label, self.total, self.unit, self.every_s = label, total, unit, every_s
        self.start = self.last = time.monotonic()
        self.finished = False

    def update(self, done: float, note: str = "") -> None:
        now = time.monotonic()
        complete = done >= self.total and not self.finished
        if now - self.last < self.every_s and not complete:
            return
        self.last, self.finished = now, self.finished or complete
        elapsed = now - self.start
        rate = done / elapsed if elapsed > 0 else 0.0
        left = f", {_clock((self.total - done) / rate)} left" if 0 < done < self.total else ""
        text = f"{self.label}: {done:.4g}/{self.total:.4g} {self.unit}, {rate:.3g} {self.unit}/s{left}"
        print(f"{text}  {note}".rstrip(), file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


@contextmanager
def progress_bar(label: str, total: float, *, unit: str = "it", show: bool = True) -> Iterator[Progress]:
    """Yield a `Progress` for work of `total` units.

    On a terminal it is a live bar with rate and remaining time; otherwise a line at most every 15 seconds.
    """
    if not show or not is_main():
        yield Silent()
    elif not sys.stderr.isatty():
        yield _Lines(label, total, unit)
    else:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            TextColumn("{task.completed:.4g}/{task.total:.4g} " + unit),
            TimeElapsedColumn(),
            TextColumn("<"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with RichProgress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(label, total=total, note="")

            class _Bar:
                def update(self, done: float, note: str = "") -> None:
                    bar.update(task, completed=done, note=note)

            yield _Bar()
