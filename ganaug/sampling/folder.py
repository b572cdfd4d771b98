"""Output folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ganaug.files import fsync_dir, prepare_output

OVERWRITE = "--overwrite (overwrite=True)"
"""What to add, on the command line or in Python, to replace a folder."""


@contextmanager
def complete_or_absent(folder: Path) -> Iterator[Path]:
    """Yield a neighbor of `folder` to write to; if the body succeeds it takes that name in one rename."""
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    retired = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        prepare_output(unfinished, overwrite=True)  # one left by a killed process of the same id
        yield unfinished
        fsync_dir(unfinished)
        if folder.exists():
            folder.replace(retired)
        unfinished.replace(folder)
    except BaseException:
        if retired.exists() and not folder.exists():
            retired.replace(folder)
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    shutil.rmtree(retired, ignore_errors=True)
    fsync_dir(folder.parent)
