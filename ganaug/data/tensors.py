"""Images of a manifest as one training tensor: mapped from the cache, or decoded now."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from ganaug.data.cache import TensorWriter, cache_folder, open_tensor, tensor_key
from ganaug.data.examine import read_images
from ganaug.data.geometry import PLANES
from ganaug.data.grid import Grid, to_grid
from ganaug.data.layouts import Entry
from ganaug.data.manifest import Item, Manifest
from ganaug.data.names import count
from ganaug.data.parallel import chunked_map
from ganaug.errors import DataError

_FILES = 16
"""Files whose images travel from a worker at a time; of a volume they may be all its slices."""


def load_tensor(manifest: Manifest, grid: Grid, *, show_progress: bool = False) -> np.ndarray:
    """Return all images on a grid, N×C×size in the grid's type, in the order of the manifest.

    The result is a read-only memory map of a file in the cache, which may be larger than memory. What is not there
    yet is decoded and written first; without a cache, or where its disk is full, the images are held in memory.

    Raises:
        DataError: a file changed or vanished since the scan, or memory does not suffice.
    """
    folder = cache_folder()
    if folder is None:
        return load_images(manifest, grid, show_progress=show_progress)
    key = key_of(manifest.items, grid)
    found = open_tensor(key)
    if found is not None:
        return found
    try:
        writer = TensorWriter(folder, grid)
        try:
            for images in _blocks(manifest, grid, show_progress):
                writer.append(images)
            writer.commit(key)
        except BaseException:
            writer.discard()
            raise
    except OSError as problem:
        print(
            f"The cache {folder} cannot be written ({problem.strerror}); the images are held in memory instead.",
            file=sys.stderr,
        )
        return load_images(manifest, grid, show_progress=show_progress)
    found = open_tensor(key)
    return load_images(manifest, grid, show_progress=show_progress) if found is None else found


def load_images(manifest: Manifest, grid: Grid, *, show_progress: bool = False) -> np.ndarray:
    """Return what `load_tensor` returns, as an array in memory, without the cache."""
    shape = (len(manifest), grid.channels, *grid.size)
    try:
        images = np.empty(shape, dtype=grid.dtype)
        filled = 0
        for block in _blocks(manifest, grid, show_progress):
            images[filled : filled + len(block)] = block
            filled += len(block)
    except (MemoryError, ValueError) as problem:
        raise DataError(
            f"{count(len(manifest), 'image')} of {'x'.join(map(str, grid.size))} do not fit into memory ({problem}). "
            "Choose a smaller size, for example --size 64x64."
        ) from problem
    return images


def key_of(items: Sequence[Item], grid: Grid) -> str:
    """Return the cache's name for the tensor of these items."""
    return tensor_key(grid, [(item.sha256, item.part) for item in items])


def read_item(root: Path, item: Item) -> np.ndarray:
    """Return the pixels of one item, H×W×C or D×H×W×C, in the stored type. Raises `DataError`."""
    return _read(root, [item])[0][0]


def _blocks(manifest: Manifest, grid: Grid, show_progress: bool) -> Iterator[np.ndarray]:
    # The slices of a volume stand side by side in a manifest: its file is decoded once for all of them.
    files = [list(items) for _, items in groupby(manifest.items, key=_file)]
    loader = _Loader(manifest.root, grid)
    yield from chunked_map(loader, files, label="loading", unit="files", show_progress=show_progress, chunk=_FILES)


def _file(item: Item) -> tuple[str, str]:
    return item.path, _member_and_plane(item)[0]


@dataclass(frozen=True)
class _Loader:
    root: Path
    grid: Grid

    def __call__(self, files: Sequence[list[Item]]) -> np.ndarray:
        images = []
        for items in files:
            try:
                images += [to_grid(pixels, self.grid, spacing=spacing) for pixels, spacing in _read(self.root, items)]
            except DataError as problem:
                path = self.root / items[0].path
                raise DataError(f"{path}: {str(problem).removeprefix(f'{path}: ')}") from None
        return np.stack(images)


def _read(root: Path, items: Sequence[Item]) -> list[tuple[np.ndarray, tuple[float, ...] | None]]:
    """Return the pixels and spacing of items that come from one file, after checking that it is still the same."""
    first = items[0]
    member, plane = _member_and_plane(first)
    found = read_images(root, Entry(first.path, label="", files=first.files, part=member), plane)
    for item in items:
        pixels = found.get(item.part, (None,))[0]
        if pixels is None or (pixels.shape[:-1], pixels.shape[-1], pixels.dtype.name) != (
            item.shape,
            item.channels,
            item.dtype,
        ):
            raise DataError(f"{root / item.path}: changed since it was scanned. Run the command again.")
    return [found[item.part] for item in items]


def _member_and_plane(item: Item) -> tuple[str, str | None]:
    """Take the part of an item apart: "train[12]axial[17]" is slice 17 of a member of an archive."""
    for plane in PLANES:
        member, found, _ = item.part.rpartition(f"{plane}[")
        if found:
            return member, plane
    return item.part, None
