"""The files under a data folder: hidden ones left out, links that lead out of it refused."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ganaug.data.names import printable
from ganaug.errors import DataError

_SYSTEM_FILES = {"__macosx", "thumbs.db", "desktop.ini", "dicomdir"}


@dataclass(frozen=True)
class Tree:
    """What lies under a root."""

    files: tuple[str, ...]
    """POSIX paths relative to the root, sorted, whatever the order of the file system."""
    folders: tuple[str, ...]
    """Names of the folders directly in the root, sorted."""


def walk(root: Path) -> Tree:
    """List all files under `root`.

    Names that begin with a dot and what systems leave behind (``__MACOSX``, ``Thumbs.db``, the index
    ``DICOMDIR``) are passed over. A link to a folder inside `root` is listed as a file, not followed: its
    content is reached by its own path.

    Raises:
        DataError: a link leads out of `root`, or a folder cannot be listed.
    """
    files: list[str] = []
    folders: list[str] = []
    pending = [""]
    while pending:
        prefix = pending.pop()
        try:
            with os.scandir(root / prefix) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name.lower() in _SYSTEM_FILES:
                        continue
                    relative = prefix + entry.name
                    if entry.is_symlink():
                        require_inside(root, relative)
                        files.append(relative)
                    elif entry.is_dir():
                        pending.append(relative + "/")
                        if not prefix:
                            folders.append(entry.name)
                    elif entry.is_file():
                        files.append(relative)
        except OSError as problem:
            raise DataError(
                f"The folder {printable(str(root / prefix))} cannot be listed ({problem.strerror}). "
                "Give yourself the right to read it, or choose another folder."
            ) from problem
    return Tree(tuple(sorted(files)), tuple(sorted(folders)))


def require_inside(root: Path, relative: str) -> None:
    """Raise `DataError` if `relative`, with all links resolved, lies outside `root`."""
    target = Path(os.path.realpath(root / relative))
    if not target.is_relative_to(os.path.realpath(root)):
        raise DataError(
            f"{printable(relative)} in {root} is a link that leads out of the folder, to "
            f"{printable(str(target))}. Such links are not followed: copy the files into the folder, or name "
            "the folder they really lie in."
        )
