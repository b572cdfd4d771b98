"""File names in messages: a few of them, made safe for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

MAX_NAME = 1000
"""Letters of the name of a class or domain, at most."""


def printable(name: str) -> str:
    """Return `name` with control characters and undecodable bytes escaped, safe to print."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)


def few(names: Sequence[str], limit: int = 5) -> str:
    """Return the first `limit` names in one line, and how many more there are."""
    shown = ", ".join(printable(name) for name in names[:limit])
    more = len(names) - limit
    return f"{shown} and {more} more" if more > 0 else shown


def count(n: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: '1 image', '1,200 images', '2 classes'."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"
