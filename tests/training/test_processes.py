"""One training over several processes, as torchrun starts them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ganaug.distributed import from_main, main_first, of_any, of_main, processes, sum_over_processes
from tests.tiny import SETTINGS, write_shapes
from tests.training import ranks

ARGUMENTS = [
    "--recipe", "smoke", "--kimg", "0.16", "--device", "cpu", "--set", "batch=8", "--set", "precision=fp32",
    "--set", "snapshots=2", "--set", f"widths={list(SETTINGS['widths'])}", "--set", "latent_dim=8",
    "--set", "group_width=8", "--set", "threads=1",
]  # fmt: skip


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
CORES = ["conditional", "cyclegan", "pix2pix"]


@pytest.fixture(scope="module")
def twenty_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the states of two processes after 20 steps of each core, see `tests.training.ranks`."""
    folder = tmp_path_factory.mktemp("ranks")
    orders = [*CORES, *(f"{core}:wide" for core in CORES), "dcgan"]
    command = [sys.executable, *TORCHRUN, "2", "-m", "tests.training.ranks", str(folder), *orders]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


def _distance(one: torch.Tensor, two: torch.Tensor) -> float:
    """Return how far two tensors are apart, relative to their length."""
    return float((one.double() - two.double()).norm() / one.double().norm().clamp(min=1e-30))


@pytest.mark.parametrize("core", CORES)
def test_two_processes_compute_what_one_computes(twenty_steps: Path, core: str) -> None:
    """In float64, so that no difference hides behind the order of sums: weights, averages, pool and Adam's moments."""
    one, two = ranks.run(f"{core}:wide"), load_file(twenty_steps / f"{core}:wide.safetensors")
    assert one.keys() == two.keys()
    for name in one:
        # The constant of a discriminator that judges differences has no gradient but what is left by rounding.
        assert _distance(one[name], two[name]) < 1e-9 or (one[name] - two[name]).abs().max() < 1e-11, name
    assert sum(value.dtype == torch.float64 for value in two.values()) > 50


def test_in_float32_two_processes_are_bitwise_one_that_takes_its_batch_in_two_pieces(twenty_steps: Path) -> None:
    one, two = ranks.run("conditional:pieces=2"), load_file(twenty_steps / "conditional.safetensors")
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


@pytest.mark.parametrize("core", CORES)
def test_in_float32_the_generators_differ_by_the_order_of_sums_alone(twenty_steps: Path, core: str) -> None:
    one, two = ranks.run(core), load_file(twenty_steps / f"{core}.safetensors")
    names = [name for name in one if name.startswith(("generator/", "average/"))]
    assert max(_distance(one[name], two[name]) for name in names) < 1e-5
    assert any(not torch.equal(one[name], two[name]) for name in names)


def test_a_rank_whose_weights_differ_in_one_bit_is_named_in_all(twenty_steps: Path) -> None:
    for rank in range(2):
        said = (twenty_steps / f"differs-{rank}.txt").read_text()
        assert said.startswith("The weights after step 3 of rank 1 differ from rank 0's (of 2 processes).")


def _fit(data: Path, out: Path, *options: str, processes: int) -> subprocess.CompletedProcess[str]:
    start = [*TORCHRUN, str(processes)] if processes > 1 else []
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
        assert _distance(one[name], two[name]) < 1e-5, name
    assert any(not torch.equal(one[name], two[name]) for name in one)  # the sums did run in another order


def test_two_processes_write_each_file_once(trained: tuple[Path, Path]) -> None:
    rows = [[json.loads(line)["kimg"] for line in (run / "metrics.jsonl").read_text().splitlines()] for run in trained]
    assert rows[0] == rows[1]
    names = [sorted(str(path.relative_to(run)) for path in run.rglob("*")) for run in trained]
    assert names[0] == names[1]


def test_a_run_of_two_processes_is_resumed_by_one(trained: tuple[Path, Path]) -> None:
    run = trained[1]
    data = run.parent / "data"
    done = _fit(data, run, "--resume", "--kimg", "0.2", processes=1)
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["kimg"] == pytest.approx(0.2)


def test_two_processes_train_the_translation_that_one_trains(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", {"disk": 9, "ring": 7})
    options = [
        "--model", "cyclegan", "--rule", "class", "--recipe", "translate64", "--kimg", "0.16", "--device", "cpu",
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
        if name.startswith(("generator/", "average/", "pool/")):
            assert _distance(one[name], two[name]) < 1e-5, name


@pytest.mark.faults
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc to find a process to kill")
def test_after_kill_9_of_one_process_torchrun_starts_all_again_and_they_end_as_undisturbed(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", {"disk": 12, "ring": 5})
    options = [*ARGUMENTS, "--resume", "--kimg", "1.2", "--set", "snapshots=6", "--set", "monitor=false"]
    done = _fit(data, tmp_path / "whole", *options, processes=2)
    assert done.returncode == 0, done.stderr

    out = tmp_path / "killed"
    start = [sys.executable, *TORCHRUN, "2", "--max-restarts", "1", "-m", "ganaug", "fit", str(data), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GANAUG_CACHE": str(tmp_path / "cache")}
    with (tmp_path / "log.txt").open("w") as log:
        job = subprocess.Popen([*start, *options], stdout=log, stderr=log, env=environment)
        children = Path(f"/proc/{job.pid}/task/{job.pid}/children")
        victim = 0
        while job.poll() is None and not victim:
            if any(path.name > "step-000000000" for path in (out / "checkpoints").glob("step-*")):
                victim = int(children.read_text().split()[-1])
                os.kill(victim, signal.SIGKILL)
            time.sleep(0.02)
        code = job.wait(timeout=300)
    assert victim
    assert code == 0, (tmp_path / "log.txt").read_text()
    whole, killed = (load_file(run / "generator.safetensors") for run in (tmp_path / "whole", out))
    assert [name for name in whole if not torch.equal(whole[name], killed[name])] == []
    rows = [(run / "metrics.jsonl").read_text().splitlines() for run in (tmp_path / "whole", out)]
    assert [json.loads(row)["kimg"] for row in rows[0]] == [json.loads(row)["kimg"] for row in rows[1]]


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
