"""Teams of processes, here threads: what fails in one fails in all, and what differs is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import ganaug.__main__ as start
from ganaug import distributed
from ganaug.cli import SHARED, main
from ganaug.distributed import ElsewhereError, ProcessesError, Team, digest_of, require_same, team, together
from ganaug.errors import DataError
from tests.teams import run_team


@given(st.integers(0, 1000), st.integers(1, 70))
def test_the_parts_of_a_team_are_all_rows_once_and_even(count: int, size: int) -> None:
    parts = [Team(rank, size).part(count) for rank in range(size)]
    assert [row for part in parts for row in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_outside_of_together_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training script under torchrun may make a bank in one of its processes."""
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("RANK", "3")
    assert team() == Team(0, 1)
    assert team().leads
    assert team().tell("a") == ["a"]


def test_a_team_tells_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    told = run_team(3, lambda: (team().tell(f"von {team().rank} é"), team().total(team().rank)))
    assert told == [(["von 0 é", "von 1 é", "von 2 é"], 3)] * 3


def test_the_lead_goes_first() -> None:
    order: list[int] = []

    def work() -> None:
        with team().lead_first():
            order.append(team().rank)

    run_team(3, work)
    assert order[0] == 0
    assert sorted(order) == [0, 1, 2]


@pytest.mark.parametrize("late", [False, True])
def test_what_fails_in_one_process_fails_in_all_and_is_told_by_that_one(late: bool) -> None:
    def work() -> None:
        if late:
            team().tell()
        if team().rank == 1:
            raise DataError("no such folder")
        if not late:
            team().tell()

    found = run_team(3, work, catch=True)
    assert isinstance(found[1], DataError)
    for other in (found[0], found[2]):
        assert isinstance(other, ElsewhereError)
        assert (str(other), other.exit_code) == ("Process 1 of 3 failed: no such folder", 3)


def test_what_fails_in_all_is_told_by_the_first() -> None:
    def work() -> None:
        raise DataError("none")

    assert [type(problem) for problem in run_team(3, work, catch=True)] == [DataError, ElsewhereError, ElsewhereError]


def test_after_a_failure_a_process_is_alone_again() -> None:
    with pytest.raises(ValueError, match="no"), together(Team()):
        raise ValueError("no")
    assert team() == Team()


def _with_texts(monkeypatch: pytest.MonkeyPatch, texts: list[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(len(texts)))
    monkeypatch.setattr(distributed, "texts_of_all", lambda _text: texts)


def test_ranks_that_differ_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_texts(monkeypatch, ["a", "a", "b", "a", "c"])
    with pytest.raises(ProcessesError, match=r"^The weights after step 40 of ranks 2, 4 differ from rank 0's \(of 5"):
        require_same("a", "the weights after step 40")
    _with_texts(monkeypatch, ["a", "b"])
    with pytest.raises(ProcessesError, match=r"^The weights of rank 1 differ"):
        require_same("b", "the weights")
    _with_texts(monkeypatch, ["a", "a"])
    require_same("a", "the weights")


def test_a_digest_sees_names_types_shapes_and_each_bit_but_not_the_layout() -> None:
    values = torch.arange(24.0).view(1, 2, 3, 4)
    digest = digest_of({"a": values})
    assert digest_of({"a": values.to(memory_format=torch.channels_last)}) == digest
    assert digest_of({"a": values.clone()}) == digest
    other = values.clone()
    other[0, 1, 2, 3] = torch.nextafter(other[0, 1, 2, 3], torch.tensor(torch.inf))
    variants: list[dict[str, Any]] = [
        {"b": values}, {"a": values.view(2, 12)}, {"a": other}, {"a": values.double()}, {"a": values, "b": values[:0]},
        {"a": values.bfloat16()}, {"a": -values * -1 * 0},
    ]  # fmt: skip
    assert len({digest, *map(digest_of, variants)}) == 1 + len(variants)


def test_alone_nothing_is_exchanged() -> None:
    assert distributed.texts_of_all("a") == ["a"]
    values = torch.ones(2)
    distributed.copy_from_main([values])
    distributed.sum_over_processes([values])
    require_same("a", "it")
    assert values.tolist() == [1, 1]


def test_a_restart_by_torchrun_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for count, restarted in ((None, False), ("0", False), ("2", True)):
        monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
        if count is not None:
            monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        assert distributed.was_restarted() is restarted


@pytest.mark.parametrize("name", sorted(set(main.commands) - set(SHARED)))
def test_a_command_that_several_processes_cannot_share_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        done = CliRunner().invoke(main, [name, "x"])
        assert done.exit_code == 2
        said.append(done.output)
    assert f"'ganaug {name}' was started 2 times by torchrun; it runs in one process" in said[0].replace("\n", " ")
    assert said[1] == ""


@pytest.mark.parametrize(("leaves", "code"), [(0, 0), (None, 0), (3, 3), ("a message", 1)])
def test_one_of_several_processes_leaves_with_the_commands_exit_code(
    monkeypatch: pytest.MonkeyPatch, leaves: int | str | None, code: int
) -> None:
    def main() -> None:
        raise SystemExit(leaves)

    left: list[int] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(start, "main", main)
    monkeypatch.setattr(start.os, "_exit", left.append)
    start.run()
    assert left == [code]
