"""A training that is killed with no warning, over and over, ends as if it never was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.faults)])
def test_killed_many_times_a_training_ends_as_if_it_never_was(tmp_path: Path, kills: int) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.training.kill_loop", str(kills), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GANAUG_CACHE": str(tmp_path / "cache")},
    )
    assert ran.returncode == 0, ran.stderr
    print(ran.stdout)
    assert json.loads(ran.stdout)["kills"] >= kills
