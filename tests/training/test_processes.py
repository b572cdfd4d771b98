"""One training over several processes, as torchrun starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ganaug.distributed import from_main, main_first, of_any, of_main, processes, sum_over_processes
from tests.tiny import SETTINGS, write_shapes

ARGUMENTS = [
    "--recipe", "smoke", "--kimg", "0.12", "--device", "cpu", "--set", "batch=8", "--set", "precision=fp32",
    "--set", "snapshots=2", "--set", f"widths={list(SETTINGS['widths'])}", "--set", "latent_dim=8",
    "--set", "group_width=8", "--set", "threads=1",
]  # fmt: skip


def _fit(data: Path, out: Path, *options: str, processes: int) -> subprocess.CompletedProcess[str]:
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    command = [sys.executable, *start, "-m", "ganaug", "fit", str(data), "--out", str(out), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GANAUG_CACHE": str(out.parent / "cache")}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the runs of one process and of two, from the same folder."""
    root = tmp_path_factory.mktemp("processes")
    data = write_shapes(root / "data", {"disk": 12, "ring": 5})
    for count, out in ((1, root / "one"), (2, root / "two")):
        done = _fit(data, out, *ARGUMENTS, processes=count)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("The generator is") == 1
    return root / "one", root / "two"


def test_two_processes_train_the_generator_that_one_trains(trained: tuple[Path, Path]) -> None:
    one, two = (load_file(run / "generator.safetensors") for run in trained)
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name], two[name], atol=2e-3), name
    assert any(not torch.equal(one[name], two[name]) for name in one)  # the sums did run in another order


def test_two_processes_write_each_file_once(trained: tuple[Path, Path]) -> None:
    rows = [[json.loads(line)["kimg"] for line in (run / "metrics.jsonl").read_text().splitlines()] for run in trained]
    assert rows[0] == rows[1]
    names = [sorted(str(path.relative_to(run)) for path in run.rglob("*")) for run in trained]
    assert names[0] == names[1]


def test_a_run_of_two_processes_is_resumed_by_one(trained: tuple[Path, Path]) -> None:
    run = trained[1]
    data = run.parent / "data"
    done = _fit(data, run, "--resume", "--kimg", "0.16", processes=1)
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["kimg"] == pytest.approx(0.16)


def test_two_processes_train_the_translation_that_one_trains(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", {"disk": 9, "ring": 7})
    options = [
        "--model", "cyclegan", "--rule", "class", "--recipe", "translate64", "--kimg", "0.064", "--device", "cpu",
        "--set", "precision=fp32", "--set", "snapshots=2", "--set", "widths=[8,4]", "--set", "group_width=4",
        "--set", "threads=1", "--set", "pool=3",
    ]  # fmt: skip
    states = []
    for count, out in ((1, tmp_path / "one"), (2, tmp_path / "two")):
        done = _fit(data, out, *options, processes=count)
        assert done.returncode == 0, done.stderr
        states.append(load_file(max((out / "checkpoints").glob("step-*")) / "state.safetensors"))
    one, two = states
    assert one.keys() == two.keys()
    assert any(name.startswith("pool/") for name in one)
    for name in one:
        assert torch.allclose(one[name], two[name], atol=5e-3), name


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", {"disk": 6, "ring": 5})
    done = _fit(data, tmp_path / "run", *ARGUMENTS, "--set", "batch=7", processes=2)
    assert done.returncode != 0
    assert "a multiple of 2 was wanted" in done.stderr
    assert not (tmp_path / "run").exists()


def test_alone_a_process_agrees_with_itself() -> None:
    with processes(), main_first():
        assert from_main("ä") == "ä"
        assert (of_main(2.5), of_any(True), of_any(False)) == (2.5, True, False)
        values = [torch.ones(2), torch.zeros(())]
        sum_over_processes(values)
        assert values[0].tolist() == [1, 1]
