"""The generators of a study: one that is of no use is trained again, once, and that is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ganaug.errors import DataError, DivergedError
from ganaug.evaluation import generators
from ganaug.evaluation.generators import GeneratorJob, make_generator
from tests.data.items import make_item, make_manifest


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the seeds of the trainings; the banks are to be filled by the test."""
    seeds: list[int] = []

    def train(job: GeneratorJob) -> Path:
        seeds.append(job.seed)
        return job.folder / "run"

    monkeypatch.setattr(generators, "_trained", train)
    monkeypatch.setattr(generators, "load", lambda _run, device: SimpleNamespace(model_sha256=f"model {seeds[-1]}"))
    return seeds


def _job(folder: Path, kind: str = "class", sources: tuple[str, ...] = ("translated",)) -> GeneratorJob:
    train = make_manifest(*(make_item(f"{c}/{i}.png", label=c) for c in range(2) for i in range(3)))
    return GeneratorJob(kind, 3, folder, train, sources, {"a": 1, "b": 1})


def _accepts(monkeypatch: pytest.MonkeyPatch, good: Any) -> None:
    def fill(job: GeneratorJob, _gan: Any, source: str) -> dict[str, Any]:
        if not good(job, source):
            raise DataError(f"nothing of seed {job.seed} was accepted for {source}")
        return {"counts": {"a": 1, "b": 1}}

    monkeypatch.setattr(generators, "_filled", fill)


def test_a_generator_of_which_nothing_is_accepted_is_trained_again_with_another_seed(
    tmp_path: Path, trained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    _accepts(monkeypatch, lambda job, _source: job.attempt == 1)
    facts = make_generator(_job(tmp_path))
    assert trained == [3, 1003]
    assert (facts["sources"], facts["model_sha256"]) == (["translated"], "model 1003")
    assert facts["tried_before"] == ["nothing of seed 3 was accepted for translated"]
    assert make_generator(_job(tmp_path)) == facts
    assert len(trained) == 2


def test_after_two_trainings_in_vain_there_is_no_bank_and_the_reason_stands_there(
    tmp_path: Path, trained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    _accepts(monkeypatch, lambda _job, _source: False)
    facts = make_generator(_job(tmp_path))
    assert len(trained) == 2
    assert facts["sources"] == []
    assert facts["translated"] == {"failed": "nothing of seed 1003 was accepted for translated"}


def test_a_generator_that_diverges_is_trained_again(
    tmp_path: Path, trained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = generators._trained

    def train(job: GeneratorJob) -> Path:
        run = original(job)
        if not job.attempt:
            raise DivergedError("not finite")
        return run

    monkeypatch.setattr(generators, "_trained", train)
    _accepts(monkeypatch, lambda _job, _source: True)
    facts = make_generator(_job(tmp_path))
    assert (trained, facts["tried_before"]) == ([3, 1003], ["not finite"])
    assert "failed" not in facts


def test_a_generator_that_is_of_use_for_one_bank_is_kept(
    tmp_path: Path, trained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    _accepts(monkeypatch, lambda _job, source: source == "synthetic")
    facts = make_generator(_job(tmp_path, "conditional", ("synthetic", "filtered")))
    assert (trained, facts["sources"]) == ([3], ["synthetic"])
    assert "failed" in facts["filtered"]
    assert "tried_before" not in facts


def test_a_run_that_was_given_is_never_trained(
    tmp_path: Path, trained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generators, "load", lambda _run, device: SimpleNamespace(model_sha256="theirs"))
    _accepts(monkeypatch, lambda _job, _source: False)
    facts = make_generator(replace(_job(tmp_path, "conditional", ("synthetic",)), run=tmp_path / "run"))
    assert trained == []
    assert facts["sources"] == []
