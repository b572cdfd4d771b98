import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ganaug.data.parallel import CHUNK, WORTH_FORKING, available_cpus, parallel_map
from ganaug.errors import DataError


def test_results_come_in_order_and_none_is_lost_over_many_chunks() -> None:
    items = range(3 * CHUNK + 7)
    assert list(parallel_map(lambda n: n * n, items, label="squares")) == [n * n for n in items]
    assert list(parallel_map(str, [], label="nothing")) == []


def test_an_error_comes_through_and_ends_the_work() -> None:
    started: list[int] = []

    def work(n: int) -> int:
        started.append(n)
        if n == 3:
            raise DataError("number 3 is broken")
        time.sleep(0.001)
        return n

    before = threading.active_count()
    with pytest.raises(DataError, match="number 3"):
        list(parallel_map(work, range(WORTH_FORKING - 1), label="work"))
    assert len(started) < WORTH_FORKING - 1
    with pytest.raises(DataError, match="number 3"):
        list(parallel_map(work, range(20 * CHUNK), label="work"))
    assert threading.active_count() == before


@pytest.mark.skipif(sys.platform != "linux" or available_cpus() < 2, reason="workers are forked on Linux")
def test_many_items_go_to_processes_unless_other_threads_run() -> None:
    def work(_: int) -> int:
        time.sleep(0.0005)  # on a busy machine the first worker would else be done before the second is there
        return os.getpid()

    pids = set(parallel_map(work, range(20 * CHUNK), label="work"))
    assert os.getpid() not in pids
    assert len(pids) > 1
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    assert set(parallel_map(lambda _: os.getpid(), range(20 * CHUNK), label="work")) == {os.getpid()}
    done.set()
    other.join()


@pytest.mark.skipif(sys.platform != "linux" or available_cpus() < 2, reason="workers are forked on Linux")
def test_a_worker_that_is_killed_is_an_error_that_says_so() -> None:
    def work(n: int) -> None:
        if n == 300:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(DataError, match="killed by the system, most likely because memory ran out"):
        list(parallel_map(work, range(20 * CHUNK), label="work"))


@pytest.mark.skipif(sys.platform != "linux" or available_cpus() < 2, reason="workers are forked on Linux")
def test_workers_do_not_outlive_a_parent_that_was_killed() -> None:
    code = (
        "import os, time\n"
        "from ganaug.data.parallel import parallel_map\n"
        "for pid in parallel_map(lambda _: time.sleep(0.01) or os.getpid(), range(100_000), label='work'):\n"
        "    print(pid, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = {int(parent.stdout.readline()) for _ in range(200)}
        parent.kill()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "a worker lives on"
        time.sleep(0.05)


def test_progress_is_shown_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    list(parallel_map(str, range(10), label="reading", show_progress=True))
    captured = capsys.readouterr()
    assert "reading: 10/10 images" in captured.err
    assert captured.out == ""
