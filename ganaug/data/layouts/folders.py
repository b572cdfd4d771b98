"""``ROOT/<class>/**/<file>``: the label is the name of the sub-folder."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ganaug.data.layouts import Entry, Listing
from ganaug.data.names import count, few
from ganaug.data.readers import is_image, suffix_of, supported_suffixes
from ganaug.data.tree import walk
from ganaug.errors import DataError

PRIORITY = 0

WANTED = (
    "One sub-folder for each class was wanted (ROOT/<class>/<image>), or ROOT/metadata.csv with the columns "
    "file_name,label, or one .npz archive as MedMNIST has them."
)

_SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing"}


def matches(root: Path) -> bool:
    """Return True for any folder; layouts that ask for more come first."""
    return root.is_dir()


def listing(root: Path) -> Listing:
    """Return every image below the sub-folders of `root`, labelled with the sub-folder's name.

    Raises:
        DataError: `root` is empty, has no sub-folders or no images, or its sub-folders are splits and not
            classes.
    """
    tree = walk(root)
    if not tree.files:
        raise DataError(f"The folder {root} holds no files. {WANTED}")
    if not tree.folders:
        images = [path for path in tree.files if is_image(root / path)]
        if images:
            raise DataError(f"Images lie directly in {root} ({few(images)}), so their classes are not known. {WANTED}")
    if are_splits(tree.folders):
        raise DataError(
            f"The sub-folders of {root} ({few(tree.folders)}) look like splits, not classes. Point to the "
            f"one that you train on. {WANTED}"
        )
    entries = tuple(
        Entry(path, label=path.split("/", 1)[0])
        for path in tree.files
        # A known suffix is enough, and a path object for each of a million files is not free.
        if "/" in path and (suffix_of(path) or is_image(root / path))
    )
    if not entries:
        raise DataError(
            f"No images were found in the sub-folders of {root}, among {count(len(tree.files), 'file')} such "
            f"as {few(tree.files, 3)}. Files that end in {', '.join(supported_suffixes())} are read. {WANTED}"
        )
    used = {entry.path for entry in entries}
    return Listing(tree.folders, entries, tuple(path for path in tree.files if path not in used))


def are_splits(folders: Collection[str]) -> bool:
    """Return whether sub-folders have the names of splits, such as train and test, and no other names."""
    return len(folders) > 1 and {name.lower() for name in folders} <= _SPLIT_NAMES
