"""The error types of ganaug. Every message says what was given, what was wanted, and what to do next."""

from __future__ import annotations


class GanaugError(Exception):
    """Base of all errors that a user can cause or mend; the command line prints it without a traceback."""

    exit_code = 1


class ConfigError(GanaugError):
    """A setting, an option or an argument does not fit."""

    exit_code = 2


class DataError(GanaugError):
    """The user's images, labels or folders cannot be used as they are."""

    exit_code = 3


class LeakError(DataError):
    """A validation or test set shares files or groups (patients) with the data a generator was trained on."""


class ModelFileError(GanaugError):
    """A model file or bank is damaged, of another version, or does not fit the data it meets."""

    exit_code = 3


class DivergedError(GanaugError):
    """Training left the finite numbers or collapsed, and rolling back did not help."""

    exit_code = 4


class Interrupted(GanaugError):  # noqa: N818 - not a fault of anybody's
    """The user stopped a long run; its state is saved and the message says how to go on."""
