"""What a user may give to translate: an image, a folder with or without labels, an archive."""

from __future__ import annotations

from pathlib import Path

from ganaug.data.examine import Examiner
from ganaug.data.layouts import Entry, metadata_csv, npz
from ganaug.data.manifest import UNKNOWN, Item, Manifest
from ganaug.data.reading import scan, scan_unlabelled
from ganaug.data.tree import walk
from ganaug.errors import DataError
from ganaug.sampling.translator import Translator


def open_inputs(gan: Translator, path: Path, *, show_progress: bool) -> Manifest:
    """Return the images of a file or folder, with labels where these can be meant.

    Sub-folders are classes if the model knows at least one of their names; otherwise they say nothing, and nothing is
    done with them: they may well be names of patients.

    Raises:
        DataError: there is no image, or too many cannot be read.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist. An image, or a folder of images, was wanted.")
    if path.is_file() and not npz.matches(path):
        return _of_file(path)
    if metadata_csv.matches(path) or npz.matches(path):
        try:
            return scan(path, show_progress=show_progress)
        except DataError as problem:
            try:
                return scan_unlabelled(path, show_progress=show_progress)
            except DataError:
                raise problem from None
    labelled = {*walk(path).folders} & {*gan.classes, *gan.labels}
    return (scan if labelled else scan_unlabelled)(path, show_progress=show_progress)


def _of_file(path: Path) -> Manifest:
    path = path.resolve()
    examined = Examiner(path.parent)(Entry(path.name, ""))
    if isinstance(examined, str):
        raise DataError(f"{path}: {examined.rstrip('.')}.")
    facts = examined[0][0]
    item = Item(
        path=path.name,
        label=UNKNOWN,
        group=facts.patient or facts.source,
        sha256=facts.sha256,
        shape=facts.shape,
        channels=facts.channels,
        dtype=facts.dtype,
        minimum=facts.minimum,
        maximum=facts.maximum,
        low=facts.low,
        high=facts.high,
        format=facts.format,
        mode=facts.mode,
        spacing=facts.spacing,
        orientation=facts.orientation,
        center=facts.center,
    )
    return Manifest(path.parent, (), (item,))
