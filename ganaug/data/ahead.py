"""The pass over the files: workers examine them, and write the training tensor ahead of the decision on its grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from ganaug.data.cache import TensorWriter, cache_folder, write_rows
from ganaug.data.examine import Examined, Examiner, Facts
from ganaug.data.grid import Grid, to_grid
from ganaug.data.layouts import Entry
from ganaug.data.manifest import TRAINED, Manifest
from ganaug.data.parallel import CHUNK, chunked_map
from ganaug.data.tensors import key_of
from ganaug.errors import GanaugError

SAMPLED = 32
"""Entries that are looked at first, to guess the training grid."""

_HELD_BYTES = 16 << 20
"""Images that a worker holds before it writes them."""
_SLICED_CHUNK = 8
"""Volumes to be cut that a worker is given at a time: each gives hundreds of images."""

Found = list[Facts] | str
"""Facts of the images of an entry, or in a few words why there are none."""
GridOf = Callable[[Manifest], Grid]
"""The training grid that a manifest leads to."""
ManifestOf = Callable[[Sequence[Entry], Sequence[Found]], Manifest]


def examine_all(
    examiner: Examiner, entries: Sequence[Entry], ahead: Ahead | None, *, show_progress: bool
) -> Iterator[Found]:
    """Yield what is found of each entry, in their order, while workers go on; `ahead` gets the images on its grid."""
    examine = _Examine(examiner)
    if ahead is not None:
        # How many slices a volume has is not known before it is read; anything else has its row.
        examine = _Examine(examiner, ahead.grid, None if examiner.slices else ahead.file)
    chunk = _SLICED_CHUNK if examiner.slices else CHUNK
    rows = accumulate((entry.split in TRAINED for entry in entries), initial=0)
    numbered = list(zip(rows, entries, strict=False))
    try:
        for part in chunked_map(
            examine, numbered, label="reading", unit="files", show_progress=show_progress, chunk=chunk
        ):
            if ahead is not None:
                ahead.take(part)
            yield from part.facts
    except BaseException:
        if ahead is not None:
            ahead.give_up()
        raise


class Ahead:
    """A tensor that is written ahead of the decision which grid it should have."""

    @classmethod
    def guess(
        cls, examiner: Examiner, entries: Sequence[Entry], manifest_of: ManifestOf, grid_of: GridOf
    ) -> Ahead | None:
        """Begin a tensor on the grid that some of the entries lead to; None if there is no cache, or no such grid."""
        folder = cache_folder()
        trained = [entry for entry in entries if entry.split in TRAINED]
        if folder is None or not trained:
            return None
        sample = trained[:: max(1, len(trained) // SAMPLED)]
        found = _Examine(examiner)([(0, entry) for entry in sample]).facts
        try:
            return cls(folder, grid_of(manifest_of(sample, found)), grid_of)
        except (GanaugError, OSError):
            return None

    def __init__(self, folder: Path, grid: Grid, grid_of: GridOf) -> None:
        self.grid, self.grid_of = grid, grid_of
        self._tensor: TensorWriter | None = TensorWriter(folder, grid)

    @property
    def file(self) -> Path | None:
        """The file that workers write to."""
        return self._tensor.file if self._tensor else None

    def take(self, part: _Part) -> None:
        """Add the images of a part, or take note that they are written."""
        if self._tensor is None:
            return
        try:
            if part.images is not None:
                self._tensor.append(part.images)
            elif part.count:
                self._tensor.wrote(part.row, part.count)
        except OSError:
            self.give_up()
        if part.failed:
            self.give_up()

    def flush(self) -> None:
        """All is written: let it go to the disk meanwhile."""
        if self._tensor is not None:
            self._tensor.flush()

    def finish(self, manifest: Manifest) -> None:
        """Keep the tensor if it is the one that will be asked for."""
        if self._tensor is None:
            return
        trained = manifest.training_part()
        try:
            if self._tensor.count == len(trained) and self.grid_of(trained) == self.grid:
                self._tensor.commit(key_of(trained.items, self.grid))
        except (GanaugError, OSError):
            pass  # it is only an advance; what is wrong is said when the tensor is really asked for
        self.give_up()

    def give_up(self) -> None:
        """Forget what was written."""
        if self._tensor is not None:
            self._tensor.discard()
        self._tensor = None


@dataclass(frozen=True)
class _Examine:
    """Examines a part of the entries in a worker, and writes their images on the grid where there is one."""

    examiner: Examiner
    grid: Grid | None = None
    file: Path | None = None
    """The tensor's file, if the rows of the images are known; otherwise the images come back."""

    def __call__(self, numbered: Sequence[tuple[int, Entry]]) -> _Part:
        facts: list[list[Facts] | str] = []
        images: list[np.ndarray] = []
        first = next((row for row, entry in numbered if entry.split in TRAINED), 0)
        written = 0
        try:
            for _, entry in numbered:
                examined: Examined = self.examiner(entry)
                if isinstance(examined, str):
                    facts.append(examined)
                    continue
                facts.append(examined[0])
                if self.grid is not None and entry.split in TRAINED:
                    images += _on_grid(*examined, self.grid)
                    if self.file is not None and images and len(images) * images[0].nbytes > _HELD_BYTES:
                        write_rows(self.file, first + written, np.stack(images))
                        written, images = written + len(images), []
            if images and self.file is not None:
                write_rows(self.file, first + written, np.stack(images))
                written, images = written + len(images), []
        except OSError:
            facts += [self._facts(entry) for _, entry in numbered[len(facts) :]]
            return _Part(facts, failed=True)
        return _Part(facts, np.stack(images) if images else None, first, written)

    def _facts(self, entry: Entry) -> list[Facts] | str:
        examined = self.examiner(entry)
        return examined if isinstance(examined, str) else examined[0]


@dataclass(frozen=True)
class _Part:
    """What comes back of a part of the entries."""

    facts: list[list[Facts] | str]
    images: np.ndarray | None = None
    row: int = 0
    count: int = 0
    failed: bool = False


def _on_grid(facts: list[Facts], pixels: list[np.ndarray], grid: Grid) -> list[np.ndarray]:
    try:
        return [to_grid(image, grid, spacing=fact.spacing) for fact, image in zip(facts, pixels, strict=True)]
    except GanaugError:
        # It does not fit the guess, so the guess was wrong and the tensor will not be used.
        return []
