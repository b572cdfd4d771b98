"""Several processes share the images of one command, and leave what one process leaves, byte for byte."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ganaug.distributed import ElsewhereError, team
from ganaug.errors import ConfigError, ModelFileError
from ganaug.progress import Silent
from ganaug.sampling import request
from ganaug.sampling.bank import SyntheticBank
from ganaug.sampling.export import export_folder
from ganaug.sampling.growing import grow_npy
from ganaug.sampling.sampler import load
from ganaug.sampling.translated_files import translate_files
from tests.sampling.fake_sampler import FakeSampler
from tests.sampling.kill_loop import contents
from tests.sampling.translation_models import make_translator
from tests.teams import run_team
from tests.tiny import make_model

FORMATS = ["png", "npy", "npz", "bank"]
COUNTS = {"a": 11, "c": 8}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "BATCH", 2)


def _export(out: Path, format_: str, gan: FakeSampler | None = None, **options: Any) -> dict[str, Any]:
    source = FakeSampler() if gan is None else gan
    return export_folder(source, out, **{"counts": COUNTS, "format": format_, **options})  # type: ignore[arg-type]


class Killed(FakeSampler):
    """Is gone after so many batches, in one process of the team."""

    def __init__(self, rank: int, batches: int) -> None:
        super().__init__()
        self.rank, self.batches = rank, batches

    def sample(self, labels: Sequence[int], **options: Any) -> torch.Tensor:
        if team().rank == self.rank:
            if not self.batches:
                raise SystemExit
            self.batches -= 1
        return super().sample(labels, **options)


class NotFinite(FakeSampler):
    """Fails in the last process of the team."""

    def sample(self, labels: Sequence[int], **options: Any) -> torch.Tensor:
        images = super().sample(labels, **options)
        return images * torch.nan if team().rank == team().size - 1 else images


@pytest.mark.parametrize("size", [2, 3, 25])
@pytest.mark.parametrize("format_", FORMATS)
def test_a_team_of_any_size_leaves_the_bytes_of_one_process(tmp_path: Path, format_: str, size: int) -> None:
    alone = _export(tmp_path / "one", format_)
    gans: list[FakeSampler] = []

    def work() -> dict[str, Any]:
        gans.append(FakeSampler())
        return _export(tmp_path / "many", format_, gans[-1])

    summaries = run_team(size, work)
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    assert all({**found, "out": ""} == {**alone, "out": ""} for found in summaries)
    assert sum(sum(gan.calls) for gan in gans) == sum(COUNTS.values())  # none was made twice
    assert max(sum(gan.calls) for gan in gans) <= -(-sum(COUNTS.values()) // size)
    assert {path.name for path in tmp_path.iterdir()} == {"one", "many"}
    assert {found["kept"] for found in run_team(size, work)} == {sum(COUNTS.values())}  # it is complete


@pytest.mark.parametrize("again", [1, 2, 3])
@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.parametrize("format_", FORMATS)
def test_when_one_process_was_killed_a_team_of_any_size_goes_on(
    tmp_path: Path, format_: str, killed: int, again: int
) -> None:
    _export(tmp_path / "one", format_)
    found = run_team(2, lambda: _export(tmp_path / "many", format_, Killed(killed, 3)), catch=True)
    assert isinstance(found[killed], SystemExit)
    assert {path.name for path in tmp_path.iterdir()} == {"one", ".many.unfinished"}
    kept = {summary["kept"] for summary in run_team(again, lambda: _export(tmp_path / "many", format_))}
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    # A file of rows that stands behind a gap serves a team of the same size alone.
    assert min(kept) >= (6 if format_ in ("png", "npy") or again == 2 else 0)
    assert {path.name for path in tmp_path.iterdir()} == {"one", "many"}


def test_one_process_begins_and_a_team_goes_on(tmp_path: Path) -> None:
    _export(tmp_path / "one", "bank")
    with pytest.raises(SystemExit):
        _export(tmp_path / "many", "bank", Killed(0, 4))
    assert {found["kept"] for found in run_team(3, lambda: _export(tmp_path / "many", "bank"))} == {8}
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


@pytest.mark.parametrize("format_", FORMATS)
def test_a_model_that_fails_in_one_process_fails_in_all(tmp_path: Path, format_: str) -> None:
    first, second = run_team(2, lambda: _export(tmp_path / "out", format_, NotFinite()), catch=True)
    assert isinstance(second, ModelFileError)
    assert isinstance(first, ElsewhereError)
    assert first.exit_code == second.exit_code
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_ours_is_refused_once(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").touch()
    found = run_team(3, lambda: _export(tmp_path / "out", "png"), catch=True)
    assert [type(problem) for problem in found] == [ConfigError, ElsewhereError, ElsewhereError]
    assert contents(tmp_path) == {"out/precious.txt": b""}


class Even:
    """Accepts the images of even index."""

    settings = {"even": True}  # noqa: RUF012

    def __call__(self, images: torch.Tensor, labels: np.ndarray) -> np.ndarray:
        index = (images[:, 0, 1, 0] + 1) * 127.5
        found: np.ndarray = (index.round() % 2 == 0).numpy()
        return found


def test_what_is_selected_is_the_same(tmp_path: Path) -> None:
    def work(name: str) -> Callable[[], SyntheticBank]:
        return lambda: SyntheticBank.generate(
            FakeSampler(),  # type: ignore[arg-type]
            tmp_path / name,
            counts=COUNTS,
            accept=Even(),
        )

    work("one")()
    banks = run_team(3, work("many"))
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    assert banks[2].indices[:3].tolist() == [0, 2, 4]


SHAPE = (23, 2)
WHOLE = np.arange(46, dtype=np.int32).reshape(SHAPE)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 99)), max_size=3), st.integers(1, 4))
def test_rows_in_parts_that_were_cut_anywhere_come_together_to_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, killed: list[tuple[int, int]], last: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.npy"

    def grow(batches: list[int]) -> None:
        left = list(batches)

        def rows(part: slice) -> np.ndarray:
            left[team().rank] -= 1
            if left[team().rank] < 0:
                raise SystemExit
            return WHOLE[part]

        grow_npy(path, SHAPE, "int32", rows, batch=3, progress=Silent())

    for size, seed in killed:
        source = random.Random(seed)
        batches = [source.randint(0, 4) for _ in range(size)]
        run_team(size, lambda batches=batches: grow(batches), catch=True)  # type: ignore[misc]
        for file in sorted(path.parent.iterdir()):
            if source.random() < 0.5:
                os.truncate(file, source.randint(0, file.stat().st_size))
    run_team(last, lambda: grow([99] * last))
    assert np.array_equal(np.load(path), WHOLE)
    assert [file.name for file in path.parent.iterdir()] == ["a.npy"]


@pytest.mark.parametrize("bank", [False, True])
def test_a_team_translates_what_one_process_translates(tmp_path: Path, shapes: Path, bank: bool) -> None:
    gan = make_translator(tmp_path / "model.safetensors")

    def work(name: str) -> Any:
        if bank:
            return SyntheticBank.translate(gan, tmp_path / name, shapes, to="ring", batch=3)
        return translate_files(gan, shapes, tmp_path / name, to="ring")

    work("one")
    run_team(3, lambda: work("many"))
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    assert len(contents(tmp_path / "one")) > (4 if bank else 20)


def test_torchrun_samples_what_one_process_samples(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    make_model(tmp_path / "run" / "generator.safetensors")
    gan = load(tmp_path / "run", device="cpu")
    export_folder(gan, tmp_path / "one", counts=dict.fromkeys(gan.classes, 5))
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ganaug"]
    order = ["sample", str(tmp_path / "run"), "--per-class", "5", "--device", "cpu", "--out", str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*start, *order], capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("15 synthetic images (png)") == 1
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
