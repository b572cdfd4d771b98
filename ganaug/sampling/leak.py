"""The leak guard for a user's own validation data: a folder, a data set or arrays against a generator's training.

A bank carries its run's ``train_manifest.json``, so that it can answer without the run folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Subset

from ganaug.data.leak import HeldOut, LeakReport, Trained, compare, held_out_items
from ganaug.data.manifest import TRAINED, Manifest, hash_content
from ganaug.data.parallel import parallel_map
from ganaug.data.readers import decode, read_bytes
from ganaug.data.reading import scan
from ganaug.errors import ConfigError, DataError, ModelFileError

MANIFEST = "train_manifest.json"
"""The file of hashes, in a run folder and in a bank. That of a bank of translated images also has the hashes of the
real images that they were made from: a translated test image is a test image."""

TRAINING_KNOWN = "training_known"
"""Key of such a file that is False where it knows the sources of a bank's images alone, and not the training."""

Validation = Any
"""A folder, table or archive that ganaug reads; its `Manifest`; a map-style data set, or a list of files; arrays."""

# A float image may be what ToTensor made of 8 or 16 bits, or Normalize([0.5], [0.5]) after it.
_SCALES = ((1.0, 0.0), (255.0, 0.0), (65535.0, 0.0), (127.5, 127.5))
_ROUNDING = 0.01
_PIXELS = (np.ndarray, torch.Tensor, Image.Image)


class Source(Protocol):
    """A bank or a sampler."""

    @property
    def path(self) -> Path: ...
    def manifest_bytes(self) -> bytes | None:
        """Return the run's ``train_manifest.json``; None if it is not known."""


def validate_against(
    source: Source,
    val: Validation,
    *,
    image_key: str = "image",
    groups: Sequence[str] | None = None,
    group_regex: str | None = None,
) -> LeakReport:
    """Raise if validation or test data are known to the generator of a bank or sampler: hold them against its training.

    The real images that a bank's were translated from count as known too. Files are compared by their bytes, images by
    their pixels, patients by their names; see `ganaug.data.leak`.

    Args:
        source: the bank, or the sampler of a run folder.
        val: a folder, ``metadata.csv`` folder or ``.npz`` that ganaug reads (if it names splits, those that are not for
            training); a data set whose items are files (``.samples``, ``.imgs``, or ``.data`` as MONAI's have it), also
            in a `Subset`, `ConcatDataset` or DataLoader; any other map-style data set, whose items are then loaded: a
            MetaTensor is known by its file, and everything else by its pixels; a list of files; an array or tensor of
            images. Pixels that a transform has changed cannot be recognized, apart from a division by 255 or 65535 and
            ``Normalize([0.5], [0.5])``.
        image_key: of items that are dictionaries.
        groups: the patient of each item, as the training data named them.
        group_regex: searched in each path, as in `ganaug.data.scan`, if `groups` are not given.

    Returns:
        What was compared. A warning says so if some, or all, could not be.

    Raises:
        LeakError: naming the images that are known.
        ConfigError: `val` is nothing of the above, or holds synthetic items.
        DataError: a file cannot be read.
        ModelFileError: what the source says of its training is damaged.
    """
    raw = source.manifest_bytes()
    report = LeakReport(0)
    if raw is not None:
        trained = Trained.of(raw)
        report = compare(trained, _held_out(trained, val, image_key, groups, group_regex))
    known = raw is not None and json.loads(raw).get(TRAINING_KNOWN, True)
    if not known:
        report = replace(report, notes=(*report.notes, _cannot_vouch(source)))
    if report.compared < report.images or not known:
        warnings.warn(str(report), stacklevel=3)
    return report


def manifest_beside(model: Path, training: Mapping[str, Any]) -> bytes | None:
    """Return the ``train_manifest.json`` beside a model file; None if there is none.

    Raises:
        ModelFileError: it is not the one that the model's header names by its hash.
    """
    return _read_manifest(
        model.with_name(MANIFEST), str(training.get("train_manifest_sha256", "")), "Restore the run folder."
    )


def manifest_in(bank: Path, sha256: str, remedy: str) -> bytes | None:
    """Return the ``train_manifest.json`` of a bank's folder; None if `sha256` is empty: then it has none.

    Raises:
        ModelFileError: it is missing or was changed.
    """
    if not sha256:
        return None
    raw = _read_manifest(bank / MANIFEST, sha256, remedy)
    if raw is None:
        raise ModelFileError(f"{bank / MANIFEST} is missing, which bank.json names. {remedy}")
    return raw


def _read_manifest(path: Path, sha256: str, remedy: str) -> bytes | None:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise ModelFileError(f"{path} cannot be read ({problem.strerror}). {remedy}") from None
    if sha256 and hashlib.sha256(raw).hexdigest() != sha256:
        raise ModelFileError(f"{path} was changed since it was written, or is of another run. {remedy}")
    try:
        Trained.of(raw)
    except ModelFileError as problem:
        raise ModelFileError(f"{path}: {problem}") from None
    return raw


def _cannot_vouch(source: Source) -> str:
    return (
        f"{source.path} does not know what its generator was trained on: its model stood beside no {MANIFEST}, or it "
        "was made before ganaug kept that. Load the model from its run folder and make the bank again with overwrite, "
        "or compare with ganaug.data.leak.refuse_leak(run.train_manifest(), scan(folder))."
    )


def _held_out(
    trained: Trained, val: Validation, image_key: str, groups: Sequence[str] | None, group_regex: str | None
) -> list[HeldOut]:
    if isinstance(val, str | Path):
        val = scan(val, group_regex=group_regex)
        named = [index for index, item in enumerate(val.items) if item.split not in TRAINED]
        val = val.subset(named) if named else val
    found = held_out_items(val) if isinstance(val, Manifest) else _of_data_set(trained, val, image_key, group_regex)
    if groups is None:
        return found
    if len(groups) != len(found):
        raise ConfigError(f"{len(groups)} groups were given for {len(found)} validation items; as many were wanted.")
    return [
        HeldOut(image.name, image.files, (*image.groups, str(group)), image.contents)
        for image, group in zip(found, groups, strict=True)
    ]


def _of_data_set(trained: Trained, val: Any, image_key: str, group_regex: str | None) -> list[HeldOut]:
    if isinstance(val, DataLoader):
        val = val.dataset
    if not hasattr(val, "__getitem__") or not hasattr(val, "__len__"):
        raise ConfigError(
            f"Validation data of type {type(val).__name__} were given; a folder, a map-style data set (with a length "
            "and items), a list of files, or an array of images was wanted."
        )
    read = _reader(val, image_key)
    found: list[HeldOut] = []
    files: dict[int, tuple[Path, ...]] = {}
    for index in range(len(val)):
        image = read(index)
        paths = _paths(image)
        if paths is None:
            found.append(HeldOut(f"item {index}", contents=tuple(_contents(image, trained.forms, index))))
        else:
            files[index] = paths
            found.append(HeldOut(""))
    examine = partial(_of_files, bool(trained.contents), group_regex)
    for index, image in zip(files, parallel_map(examine, list(files.values()), label="hashing"), strict=True):
        found[index] = image
    return found


def _reader(val: Any, image_key: str) -> Callable[[int], Any]:
    """Return what gives the image of an item: its files where the data set knows them, otherwise what it yields."""
    if isinstance(synthetic := getattr(val, "is_synthetic", None), np.ndarray) and synthetic.any():
        raise ConfigError(
            "The validation data hold synthetic images. Only training data get them: validate on the real data set."
        )
    if isinstance(val, Subset):
        inner, indices = _reader(val.dataset, image_key), val.indices
        return lambda index: inner(int(indices[index]))
    if isinstance(val, ConcatDataset):
        parts, ends = [_reader(part, image_key) for part in val.datasets], [0, *val.cumulative_sizes]

        def of_part(index: int) -> Any:
            part = bisect_right(ends, index) - 1
            return parts[part](index - ends[part])

        return of_part
    rows = val
    # As torchvision's folders, MedMNIST's archives, MONAI's and torchvision's other data sets, and ganaug's keep them.
    for name in ("samples", "imgs", "data", "images"):
        kept = getattr(val, name, None)
        listed = isinstance(kept, list | tuple | np.ndarray | torch.Tensor)
        if kept is not None and listed and len(kept) == len(val) > 0 and _holds_images(kept[0], image_key):
            rows = kept
            break
    return lambda index: _image_of(rows[index], image_key)


def _holds_images(row: Any, image_key: str) -> bool:
    try:
        image = _image_of(row, image_key)
        paths = _paths(image)
    except (ConfigError, OSError):
        return False
    return isinstance(image, _PIXELS) if paths is None else all(path.is_file() for path in paths)


def _image_of(item: Any, image_key: str) -> Any:
    if isinstance(item, Mapping):
        if image_key not in item:
            raise ConfigError(
                f"The validation items have the keys {sorted(map(str, item))}; {image_key!r} was wanted. Pass "
                "image_key=."
            )
        return item[image_key]
    return item[0] if isinstance(item, tuple | list) else item


def _paths(image: Any) -> tuple[Path, ...] | None:
    """Return the files that an image is read from; None for pixels."""
    meta = getattr(image, "meta", None)
    if isinstance(meta, Mapping) and Path(str(meta.get("filename_or_obj", ""))).is_file():
        image = meta["filename_or_obj"]
    if isinstance(image, str | os.PathLike):
        path = Path(image)
        # A folder is a DICOM series.
        return tuple(sorted(inner for inner in path.iterdir() if inner.is_file())) if path.is_dir() else (path,)
    if isinstance(image, list | tuple) and image and all(isinstance(one, str | os.PathLike) for one in image):
        return tuple(map(Path, image))
    return None


def _of_files(with_content: bool, group_regex: str | None, paths: tuple[Path, ...]) -> HeldOut:
    """Examine the file or files of one image. Raises `DataError` if one cannot be read."""
    raws = [read_bytes(path) for path in paths]
    name = paths[0].as_posix()
    group, contents = "", set[str]()
    try:
        decoded = decode(raws[0], paths[0])
    except DataError:
        decoded = None  # a format that another library reads: the bytes are compared all the same
    if decoded is not None:
        group = decoded.group
        if with_content and len(paths) == 1:
            contents = {hash_content(decoded.pixels)} - {""}
    if group_regex is not None and (match := re.search(group_regex, name)):
        group = match[1] if match.lastindex else match[0]
    hashes = tuple(hashlib.sha256(raw).hexdigest() for raw in raws)
    return HeldOut(name, hashes, (group,) if group else (), tuple(contents))


def _contents(image: Any, forms: frozenset[str], index: int) -> Iterator[str]:
    """Yield content hashes for each way in which the pixels of an image may lie and be scaled, as far as `forms` go."""
    shapes = {form.partition(" ")[2] for form in forms}
    if isinstance(image, torch.Tensor):
        plain = image.detach().cpu()
        array = (plain.float() if plain.is_floating_point() else plain).numpy()
    elif isinstance(image, _PIXELS):
        array = np.asarray(image)
    else:
        raise ConfigError(
            f"Item {index} of the validation data holds a {type(image).__name__}; the path of a file, an array, a "
            "tensor or a PIL image was wanted. Pass image_key= for items that are dictionaries."
        )
    for values in _values(array):
        for pixels in _layouts(values):
            # A color image may be a gray one that was saved as color.
            known = any("x".join(map(str, (*pixels.shape[:-1], c))) in shapes for c in (1, pixels.shape[-1]))
            if known and (content := hash_content(pixels)):
                yield content


def _layouts(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield an array as H×W×C or D×H×W×C: its channels may be first, last or none; images also with W and H swapped."""
    found = [array[..., None]] if array.ndim in (2, 3) else []
    found += [array, np.moveaxis(array, 0, -1)] if array.ndim in (3, 4) else []
    for pixels in found:
        yield pixels
        if pixels.ndim == 3:
            yield pixels.swapaxes(0, 1)


def _values(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the stored values that an array may stand for."""
    yield array
    if array.dtype.kind != "f" or not array.size or not np.isfinite(array).all():
        return
    for scale, shift in _SCALES[1:]:
        scaled = array.astype(np.float64) * scale + shift
        whole = np.rint(scaled)
        if np.abs(scaled - whole).max() < _ROUNDING and whole.min() >= 0:
            yield whole
