"""Teams of threads in the place of processes: the same lines, without starting anything."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ganaug.distributed import Team, together


@dataclass
class Table:
    """Where the threads of a team meet."""

    size: int
    texts: list[str] = field(init=False)
    barrier: threading.Barrier = field(init=False)

    def __post_init__(self) -> None:
        self.texts = [""] * self.size
        self.barrier = threading.Barrier(self.size, timeout=20)


@dataclass(frozen=True)
class ThreadTeam(Team):
    """A team of threads."""

    table: Table = field(default_factory=lambda: Table(1))

    def _exchange(self, text: str) -> list[str]:
        self.table.texts[self.rank] = text
        self.table.barrier.wait()
        found = list(self.table.texts)
        self.table.barrier.wait()
        return found


def run_team(size: int, work: Callable[[], Any], *, catch: bool = False) -> list[Any]:
    """Run `work` in each of `size` threads, as a team; return what they return, or with `catch` what they raise."""
    table = Table(size)
    results: list[Any] = [None] * size

    def member(rank: int) -> None:
        try:
            with together(ThreadTeam(rank, size, table)):
                results[rank] = work()
        except BaseException as problem:
            results[rank] = problem
            if isinstance(problem, SystemExit):  # as if it were killed: the others wait in vain
                table.barrier.abort()

    threads = [threading.Thread(target=member, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    problems = [result for result in results if isinstance(result, BaseException)]
    if problems and not catch:
        raise problems[0]
    return results
