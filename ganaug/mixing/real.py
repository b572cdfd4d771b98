"""The user's own data set: how its items are built, their labels, and whether a synthetic image fits to theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Subset

from ganaug.errors import ConfigError, DataError

NOT_SYNTHETIC: Mapping[str, Any] = {
    "synthetic": False,
    "source": "real",
    "seed": -1,
    "index": -1,
    "model_sha256": "",
    "truncation": 1.0,
    "accepted": True,
    "scores": "{}",
}
"""Provenance of a real item: the keys and types of a synthetic one, as collate functions want them."""


@dataclass(frozen=True)
class ItemLayout:
    """How an item holds its image and its label: a pair (tuple or list), or a dictionary with two keys."""

    container: type
    image_key: str
    label_key: str
    classes: tuple[str, ...]

    @classmethod
    def of(cls, item: Any, image_key: str, label_key: str, classes: tuple[str, ...]) -> ItemLayout:
        """Find the layout of `item`.

        Raises:
            ConfigError: it is neither a pair nor a dictionary with the two keys and no others.
        """
        if isinstance(item, Mapping):
            missing = [key for key in (image_key, label_key) if key not in item]
            if missing:
                raise ConfigError(
                    f"The real items have the keys {sorted(item)}; {' and '.join(map(repr, missing))} was "
                    "wanted. Pass image_key= and label_key=."
                )
            others = sorted(map(str, set(item) - {image_key, label_key}))
            if others:
                raise ConfigError(
                    f"The real items also have the keys {others}, which synthetic items cannot have, so that "
                    "the two cannot share a batch. Drop them in your transform "
                    "(monai.transforms.SelectItemsd)."
                )
            return cls(dict, image_key, label_key, classes)
        if type(item) in (tuple, list) and len(item) == 2:
            return cls(type(item), image_key, label_key, classes)
        size, remedy = "", ""
        if isinstance(item, tuple | list):
            size = f" of {len(item)}"
            remedy = (
                " Synthetic items have nothing else: wrap yours in a data set whose __getitem__ returns the two as a "
                "plain tuple, such as item[:2]."
            )
        raise ConfigError(
            f"The real data set yields a {type(item).__name__}{size}; a pair (image, label) or a dictionary was "
            f"wanted.{remedy}"
        )

    def split(self, item: Any) -> tuple[Any, Any]:
        """Return the image and the label of a real item."""
        return (item[self.image_key], item[self.label_key]) if self.container is dict else (item[0], item[1])

    def join(self, image: Any, label: Any, provenance: Mapping[str, Any]) -> Any:
        """Build an item; only a dictionary has room for the provenance, and its own two keys come first."""
        if self.container is dict:
            return {self.image_key: image, self.label_key: label, **self._free(provenance)}
        return self.container((image, label))

    def with_provenance(self, item: Any, label: int) -> Any:
        """Return a real item as it is, a dictionary with the keys that synthetic ones have too."""
        if self.container is not dict:
            return item
        return {**item, **self._free({"label": self.classes[label], **NOT_SYNTHETIC})}

    def _free(self, provenance: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in provenance.items() if key not in (self.image_key, self.label_key)}


def own_attribute(dataset: Any, name: str) -> tuple[Any, np.ndarray | None]:
    """Return an attribute of a data set, looked for through `Subset`, and the items that these select."""
    selected: np.ndarray | None = None
    while not hasattr(dataset, name) and isinstance(dataset, Subset):
        inner = np.asarray(dataset.indices)
        selected = inner if selected is None else inner[selected]
        dataset = dataset.dataset
    return getattr(dataset, name, None), selected


def read_labels(
    real: Any, targets: Sequence[int] | np.ndarray | torch.Tensor | None, layout: ItemLayout, first: Any
) -> np.ndarray:
    """Return the labels of `real`, int64: `targets`, else the data set's own, else those of its items.

    `first` is the label of item 0, held against the others' first.

    Raises:
        ConfigError: `targets` are not as many integers as there are items.
        DataError: labels that are not positions in the class list.
    """
    labels: np.ndarray | None
    if targets is not None:
        labels = _integers(targets)
        if labels is None or len(labels) != len(real):
            raise ConfigError(
                f"targets= holds {len(targets)} values; one integer label for each of the {len(real)} items was wanted."
            )
    else:
        labels = _own_labels(real)
    if labels is None:
        labels = np.array([label_value(layout.split(real[i])[1]) for i in range(len(real))], dtype=np.int64)
    if labels.min() < 0 or labels.max() >= len(layout.classes):
        raise DataError(
            f"The real labels go from {labels.min()} to {labels.max()}; 0 to {len(layout.classes) - 1} was "
            f"wanted, for the bank's classes {', '.join(layout.classes)}."
        )
    if label_value(first) != labels[0]:
        raise DataError(
            f"Item 0 of the real data set has the label {label_value(first)}, but its list of labels says "
            f"{labels[0]}. Pass the labels that the items really have as targets=."
        )
    return labels


def label_value(label: Any) -> int:
    """Return a single integer label, of any type that data sets use for one, as an int.

    Raises:
        ConfigError: it is something else.
    """
    values = _integers(label)
    if values is None or len(values) != 1:
        raise ConfigError(
            f"The real labels look like {label!r} ({type(label).__name__}); an integer, the position of the "
            "class in the bank's class list, was wanted. Turn labels into one-hot vectors after collating."
        )
    return int(values[0])


def like_label(example: Any, label: int) -> Any:
    """Return `label` in the type of the real label `example`."""
    if isinstance(example, torch.Tensor):
        return torch.full_like(example, label)
    if isinstance(example, np.ndarray):
        return np.full_like(example, label)
    return type(example)(label) if isinstance(example, np.integer) else label


def _own_labels(real: Any) -> np.ndarray | None:
    for name in ("targets", "labels"):
        values, selected = own_attribute(real, name)
        labels = None if values is None else _integers(values)
        if labels is not None and selected is not None:
            labels = labels[selected]
        if labels is not None and len(labels) == len(real):
            return labels
    return None


def _integers(values: Any) -> np.ndarray | None:
    """Return `values` as a flat int64 array; None if they are not integers, or are vectors."""
    if isinstance(values, torch.Tensor):
        values = values.cpu().numpy()
    try:
        array = np.asarray(values)
    except ValueError:
        return None
    if array.dtype.kind not in "iu" or array.ndim > 2 or (array.ndim == 2 and array.shape[1] != 1):
        return None
    return array.reshape(-1).astype(np.int64)


def check_fits(example: Any, made: Any) -> None:
    """Raise unless a default collate function can put the two into one batch."""
    if isinstance(example, Image.Image) and isinstance(made, Image.Image):
        # Sizes may differ: whatever turns the pictures into tensors comes later, and takes any size.
        if example.mode != made.mode:
            raise ConfigError(
                f"The real images are PIL images of mode {example.mode!r}, the synthetic ones of "
                f"{made.mode!r}. {_remedy_of_modes(example.mode, made.mode)}"
            )
        return
    if type(example) is not type(made):
        raise ConfigError(
            f"The real images are {_name(example)}, but transform= makes {_name(made)} of the synthetic "
            "ones, and the two cannot share a batch. Pass the transform that your real images go through."
        )
    if not hasattr(example, "shape"):
        return
    if tuple(example.shape) != tuple(made.shape):
        raise ConfigError(
            f"The real images have the shape {tuple(example.shape)}, the synthetic ones {tuple(made.shape)}. "
            f"{_remedy(example, made)}"
        )
    if example.dtype != made.dtype:
        raise ConfigError(
            f"The real images are {example.dtype}, but transform= makes {made.dtype} of the synthetic ones, "
            "which would be scaled differently. Pass the transform that your real images go through."
        )


def _remedy_of_modes(real: str, made: str) -> str:
    if {real, made} <= {"L", "RGB"}:
        return f"Convert one of them: transform=lambda image: image.convert({real!r})."
    # A deep image beside an 8-bit one would give the synthetic ones away by their scale alone.
    return "Use a bank of a model that was trained on these very files, or read both as 8 bit."


def _remedy(example: Any, made: Any) -> str:
    shape = tuple(example.shape)
    if len(shape) != len(made.shape):
        return "Pass the transform= that your real images go through."
    if channels_of(example) != channels_of(made):
        return (
            f"Add torchvision.transforms.v2.Grayscale(num_output_channels={channels_of(example)}) to "
            "transform=, or read the real images with the bank's number of channels."
        )
    size = list(made.shape[:2] if isinstance(made, np.ndarray) else made.shape[-2:])
    return (
        f"Bring both to one size: torchvision.transforms.v2.Resize({size}), or the size that your classifier wants, in "
        "the transform of your real images (and in transform=, if you pass one, for the synthetic ones)."
    )


def channels_of(image: Any) -> int:
    """Return how many channels an image has: PIL, array with channels last, or tensor with channels first."""
    if isinstance(image, Image.Image):
        return len(image.getbands())
    if not hasattr(image, "shape") or len(image.shape) < 3:
        return 1
    return int(image.shape[-1] if isinstance(image, np.ndarray) else image.shape[0])


def _name(image: Any) -> str:
    return f"{type(image).__module__}.{type(image).__qualname__}"
