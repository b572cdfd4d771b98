"""Images whose classes are not known, in any nesting. Never found by itself: who has no labels says so."""

from __future__ import annotations

from pathlib import Path

from ganaug.data.layouts import Entry, Listing, metadata_csv, npz
from ganaug.data.layouts.folders import are_splits
from ganaug.data.names import count, few
from ganaug.data.readers import is_image, suffix_of, supported_suffixes
from ganaug.data.tree import walk
from ganaug.errors import DataError

WANTED = "A folder of images, flat or nested, or one .npz archive with images was wanted."


def matches(root: Path) -> bool:
    """Return whether `root` is a folder or an archive."""
    return root.is_dir() or npz.matches(root)


def listing(root: Path) -> Listing:
    """Return every image below `root`, without labels: those of its table if it has one, or of its archive.

    Raises:
        DataError: there are no images, its sub-folders are splits, or the table or the archive cannot be used.
    """
    if metadata_csv.matches(root):
        # A patient or a split that the table names counts, labels or not: a test image must not be trained on.
        return metadata_csv.listing(root, labelled=False)
    if not root.is_dir():
        return npz.listing(root, labelled=False)
    tree = walk(root)
    if not tree.files:
        raise DataError(f"The folder {root} holds no files. {WANTED}")
    if are_splits(tree.folders):
        raise DataError(
            f"The sub-folders of {root} ({few(tree.folders)}) look like splits. Point to the one whose images may be "
            "trained on."
        )
    entries = tuple(Entry(path, label="") for path in tree.files if suffix_of(path) or is_image(root / path))
    if not entries and npz.matches(root):
        return npz.listing(root, labelled=False)
    if not entries:
        raise DataError(
            f"No images were found in {root}, among {count(len(tree.files), 'file')} such as {few(tree.files, 3)}. "
            f"Files that end in {', '.join(supported_suffixes())} are read. {WANTED}"
        )
    used = {entry.path for entry in entries}
    return Listing((), entries, tuple(path for path in tree.files if path not in used))
