"""What is known of files that were read before: facts about images, and which files form a DICOM series."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ganaug.data.cache import cache_folder, replace_text
from ganaug.data.examine import OWN, VERSION, Facts
from ganaug.data.layouts import Entry


class Memory:
    """The facts of a folder's files, remembered while the files stay as they are.

    A file counts as unchanged while its size, its inode and the times of its last change do.
    """

    def __init__(self, root: Path, entries: Sequence[Entry], *, slices: str | None, detail: bool) -> None:
        self.root = root
        folder = cache_folder()
        self._prefix = f"{root}{os.sep}"
        name = hashlib.sha256(json.dumps([str(root), slices, detail, VERSION]).encode("utf-8", "surrogatepass"))
        self.path = folder / "facts" / f"{name.hexdigest()}.json" if folder else None
        self._signatures = self._all_signatures(entries) if folder else {}
        self._stored = self._load()
        self._new: dict[str, list] = {}
        self._kinds: dict[tuple, int] = {}

    def recall(self, entry: Entry) -> list[Facts] | None:
        """Return the facts of an entry's images, if they are known and its files are as they were."""
        try:
            signature, images = self._stored["entries"][_key(entry)]
            if signature != self._signature(entry):
                return None
            return [_unpacked(values, self._stored["kinds"]) for values in images]
        except (KeyError, TypeError, ValueError, IndexError):
            return None

    def add(self, entry: Entry, facts: list[Facts] | str) -> None:
        """Take note of the facts of an entry's images; a reason why there are none is not remembered."""
        signature = self._signature(entry)
        if signature is not None and not isinstance(facts, str):
            self._new[_key(entry)] = [signature, [_packed(image, self._kinds) for image in facts]]

    def write(self) -> None:
        """Remember what was noted, and nothing else of the folder."""
        if self.path is None:
            return
        text = json.dumps({"kinds": list(self._kinds), "entries": self._new}, separators=(",", ":"))
        try:
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
            replace_text(self.path, text)
        except OSError:  # a cache that cannot be written is no reason to stop
            return

    def _load(self) -> dict[str, Any]:
        if self.path is None:
            return {}
        try:
            values = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}

    def _signature(self, entry: Entry) -> list | None:
        if not entry.files:
            return self._signatures.get(entry.path)
        signatures = [self._signatures.get(name) for name in entry.files]
        return None if None in signatures else signatures

    def _all_signatures(self, entries: Sequence[Entry]) -> dict[str, list[int] | None]:
        names = dict.fromkeys(name for entry in entries for name in entry.files or (entry.path,))
        return {name: _signature(self._prefix + name) for name in names}


class JoinedSeries:
    """Which files of a folder form a DICOM series, remembered while all of them stay as they are."""

    def __init__(self, root: Path, entries: Sequence[Entry]) -> None:
        folder = cache_folder()
        self._entries = entries
        self.path: Path | None = None
        if folder is not None:
            known = [[entry.path, _signature(f"{root}{os.sep}{entry.path}")] for entry in entries]
            labels = [[entry.label, entry.group, entry.split, entry.domain] for entry in entries]
            text = json.dumps([VERSION, str(root), known, labels])
            self.path = folder / "series" / f"{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}.json"

    def recall(self) -> tuple[tuple[Entry, ...], tuple[str, ...]] | None:
        """Return the joined entries and the paths of what was left over, or None if they are not known."""
        if self.path is None:
            return None
        by_path = {entry.path: entry for entry in self._entries}
        try:
            stored = json.loads(self.path.read_bytes())
            entries = [replace(by_path[files[0]], files=tuple(files) if len(files) > 1 else ()) for files in stored[0]]
            return tuple(entries), tuple(map(str, stored[1]))
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return None

    def store(self, entries: Sequence[Entry], beside: Sequence[str]) -> None:
        """Remember joined entries, and the paths of what was left over."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
            replace_text(self.path, json.dumps([[entry.files or (entry.path,) for entry in entries], list(beside)]))
        except OSError:
            return


def _key(entry: Entry) -> str:
    return f"{entry.path}#{entry.part}#{len(entry.files)}"


def _signature(path: str) -> list[int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - half the time of Path.stat, and there may be a million files
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _packed(facts: Facts, kinds: dict[tuple, int]) -> list:
    """Return facts as JSON values; what many images share is written once, in `kinds`."""
    own = facts[:OWN]
    # Most images are whole files: their source is themselves, and their percentiles their extremes.
    is_plain = facts.source == facts.sha256 and not facts.files
    if is_plain and facts.low == facts.minimum and facts.high == facts.maximum:
        own = (facts.part, facts.sha256, facts.minimum, facts.maximum, facts.phash, facts.content)
    return [*own, kinds.setdefault(facts[OWN:], len(kinds))]


def _unpacked(values: list, kinds: list) -> Facts:
    *own, kind = values
    if len(own) < OWN:
        part, sha256, minimum, maximum, phash, content = own
        own = [part, sha256, sha256, (), minimum, maximum, minimum, maximum, phash, content]
    return Facts._make(tuple(value) if isinstance(value, list) else value for value in (*own, *kinds[kind]))
