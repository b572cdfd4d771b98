"""Killed with no warning, out of disk for real: what comes out is what one undisturbed go makes."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from ganaug.errors import GanaugError
from ganaug.sampling.export import export_folder
from tests.sampling import kill_loop
from tests.sampling.fake_sampler import FakeSampler

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.faults, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]


@pytest.mark.parametrize("format_", ["png", "bank", "npz"])
def test_killed_many_times_it_ends_as_if_it_never_was(tmp_path: Path, format_: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.sampling.kill_loop", format_, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) >= kill_loop.LEAST
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "out"}


@pytest.mark.parametrize("format_", ["npy", "bank", "npz"])
def test_a_write_that_the_system_cuts_off_leaves_no_partial_file(tmp_path: Path, format_: str) -> None:
    order = {"counts": {"a": 40}, "format": format_}
    export_folder(FakeSampler(shape=(1, 64, 64)), tmp_path / "whole", **order)  # type: ignore[arg-type]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000 if format_ == "npy" else 100_000, hard))
    try:
        with pytest.raises(GanaugError, match="cannot be read or written"):
            export_folder(FakeSampler(shape=(1, 64, 64)), tmp_path / "out", **order)  # type: ignore[arg-type]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name for path in tmp_path.iterdir()} == {"whole", ".out.unfinished"}
    assert not list(tmp_path.rglob("*.part"))
    export_folder(FakeSampler(shape=(1, 64, 64)), tmp_path / "out", **order)  # type: ignore[arg-type]
    assert kill_loop.contents(tmp_path / "out") == kill_loop.contents(tmp_path / "whole")
