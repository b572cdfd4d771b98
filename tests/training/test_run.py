"""The run folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from ganaug.errors import ConfigError
from ganaug.training.run import Run


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.metrics() == []
    run.metrics_path.write_text('{"kimg": 1}\n{"kimg": 2}\n{"kim')
    assert run.metrics() == [{"kimg": 1}, {"kimg": 2}]


def test_a_folder_that_is_no_run_says_so(tmp_path: Path) -> None:
    for read in (Run(tmp_path).config, Run(tmp_path).train_manifest):
        with pytest.raises(ConfigError, match="Is this a run folder"):
            read()
