"""What stands for a trial in processes of their own: no more imports than it needs, so that they start at once."""

import time
from pathlib import Path

from ganaug.errors import ConfigError


def leave_mark(folder: Path, number: int) -> int:
    """Note that number `number` ran, and fail if it is number 1."""
    (folder / str(number)).touch()
    if number == 1:
        raise ConfigError("the second fails")
    time.sleep(0.05)
    return number


def sleep_long(folder: Path, number: int) -> None:
    """Note that number `number` began, and take longer than any test."""
    (folder / str(number)).touch()
    time.sleep(3600)
