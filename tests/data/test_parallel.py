import threading
import time

import pytest

from ganaug.data.parallel import CHUNK, parallel_map
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
        list(parallel_map(work, range(CHUNK), label="work"))
    assert len(started) < CHUNK
    assert threading.active_count() == before


def test_progress_is_shown_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    list(parallel_map(str, range(10), label="reading", show_progress=True))
    captured = capsys.readouterr()
    assert "reading: 10/10 images" in captured.err
    assert captured.out == ""
