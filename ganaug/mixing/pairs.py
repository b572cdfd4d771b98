"""The images and labels of a batch: found in its structure, put back into it, and the classes that labels stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten
from torchvision import tv_tensors

from ganaug.errors import ConfigError

LabelsGetter = Callable[[Any], Any] | Literal["default"]

_TIED_TO_IMAGES = (Image.Image, tv_tensors.BoundingBoxes, tv_tensors.Mask, tv_tensors.KeyPoints)


@dataclass(frozen=True)
class Pair:
    """The images and the labels of a batch, and the structure around them."""

    images: Tensor
    labels: Tensor
    leaves: list[Any]
    structure: TreeSpec

    def replaced(self, images: Tensor, labels: Tensor) -> Any:
        """Return the batch's structure with other images and labels in it."""
        swap = {id(self.images): images, id(self.labels): labels}
        return tree_unflatten([swap.get(id(leaf), leaf) for leaf in self.leaves], self.structure)


def find_pair(batch: Any, labels_getter: LabelsGetter, *, dims: int) -> Pair:
    """Find the labels with `labels_getter` and, besides them, the one tensor of images, of `dims` dimensions.

    Where tensors of torchvision's type Image are in the batch, only they can be the images.

    Raises:
        ConfigError: there are no such labels, no or several such tensors, or boxes or masks, which belong to the real
            images.
    """
    labels = _labels_by_default(batch) if labels_getter == "default" else labels_getter(batch)
    leaves, structure = tree_flatten(batch)
    if not isinstance(labels, Tensor) or not any(labels is leaf for leaf in leaves):
        raise ConfigError(
            f"The batch is a {type(batch).__name__} in which labels_getter= found a {type(labels).__name__}; the "
            "batch's own tensor of labels was wanted."
        )
    tied = sorted({type(leaf).__name__ for leaf in leaves if isinstance(leaf, _TIED_TO_IMAGES)})
    if tied:
        raise ConfigError(
            f"The batch holds {', '.join(tied)}; tensors of images and their labels alone were wanted. Put the "
            "transform after collating, in the training of a classifier."
        )
    images = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim == dims and leaf is not labels]
    images = [leaf for leaf in images if isinstance(leaf, tv_tensors.Image)] or images
    if len(images) != 1:
        raise ConfigError(
            f"The batch holds {len(images)} tensors of {dims} dimensions besides its labels; one, of images, was "
            "wanted. Give the transform the images and the labels alone: images, labels = mix(images, labels)."
        )
    return Pair(images[0], labels, leaves, structure)


def check_labels_getter(labels_getter: Any) -> LabelsGetter:
    """Return `labels_getter`. Raises ConfigError unless it is "default" or a function."""
    if labels_getter != "default" and not callable(labels_getter):
        raise ConfigError(
            f"labels_getter is {labels_getter!r}; 'default', or a function that takes the batch and returns its tensor "
            "of labels, was wanted."
        )
    return labels_getter


def _labels_by_default(batch: Any) -> Any:
    """Return what torchvision's CutMix takes for labels: the second of several inputs, or a key named like labels."""
    inner = batch[1] if isinstance(batch, tuple | list) and len(batch) > 1 else batch
    if isinstance(inner, Mapping):
        names = [key for key in inner if isinstance(key, str)]
        found = [key for key in names if key.lower() == "labels"] or [key for key in names if "label" in key.lower()]
        if found:
            return inner[found[0]]
    elif isinstance(inner, Tensor) and inner is not batch:
        return inner
    raise ConfigError(
        f"The batch is a {type(batch).__name__} without labels that are known as such; (images, labels), or a "
        "dictionary with a key named like 'labels', was wanted. For another structure pass labels_getter=, a function "
        "that returns its tensor of labels."
    )


class LabelMap:
    """Which label of the classifier stands for each class of a bank or model, and back.

    `class_names` are the classifier's classes in the order of its labels. Without them its labels are the positions in
    `classes`, and if `num_classes` is larger, the others come behind.

    Raises:
        ConfigError: a class has no label, or the arguments contradict each other.
    """

    def __init__(
        self, classes: Sequence[str], *, num_classes: int | None = None, class_names: Sequence[str] | None = None
    ) -> None:
        self.classes = tuple(classes)
        names = list(classes if class_names is None else map(str, class_names))
        lacking = [name for name in classes if name not in names]
        if lacking or len(set(names)) < len(names):
            raise ConfigError(
                f"class_names are {', '.join(names)}; each once, and among them the classes of the synthetic images, "
                f"{', '.join(classes)}, were wanted. Use a model trained on your classes."
            )
        if num_classes is not None and (
            num_classes < len(classes) or (class_names is not None and num_classes != len(names))
        ):
            what = "class_names names" if class_names is not None else "the synthetic images have"
            raise ConfigError(f"num_classes is {num_classes}, but {what} {len(names)} classes.")
        self.num_classes = len(names) if num_classes is None else num_classes
        self.label_of = torch.tensor([names.index(name) for name in classes])
        """The label of each class, K int64."""
        self.class_of = torch.full((self.num_classes,), -1)
        """The class that each label stands for, int64; -1 for none."""
        self.class_of[self.label_of] = torch.arange(len(classes))

    def check(self, labels: Tensor, items: int) -> None:
        """Raise ConfigError unless `labels` are `items` integers or vectors of probabilities."""
        if tuple(labels.shape) not in ((items,), (items, self.num_classes)):
            raise ConfigError(
                f"The labels have the shape {tuple(labels.shape)}; ({items},), or ({items}, {self.num_classes}) for "
                "one-hot, was wanted. Use labels.squeeze(1), or pass num_classes=."
            )
        if labels.ndim == 1 and (labels.is_floating_point() or labels.dtype == torch.bool):
            raise ConfigError(f"The labels are {labels.dtype}; integers or one-hot vectors were wanted.")

    def classes_in(self, labels: Tensor) -> Tensor:
        """Return the class that each item's label stands for, on the CPU; -1 for none. Raises ConfigError."""
        if labels.ndim == 2 and len(labels):
            most = labels.detach().float().amax(1)
            # Smoothed labels all have the same maximum; those of mixed images differ by the class of their partner.
            if float(most.max() - most.min()) > 1e-3:
                raise ConfigError(
                    "The labels are of images that were mixed already (MixUp, CutMix): a synthetic image would get a "
                    "mixture's place. Put this transform before those."
                )
        values = (labels if labels.ndim == 1 else labels.argmax(1)).cpu().long()
        if len(values) and (values.min() < 0 or values.max() >= self.num_classes):
            raise ConfigError(
                f"The labels go from {values.min()} to {values.max()}; 0 to {self.num_classes - 1} was wanted, for the "
                f"classes {', '.join(self.classes)}. Pass num_classes= or class_names= if the classifier has more."
            )
        return self.class_of[values]

    def labels_like(self, labels: Tensor, classes: Tensor) -> Tensor:
        """Return the labels of `classes` (n int64) in the form, type and device of a batch's `labels`."""
        new = self.label_of[classes]
        if labels.ndim == 2:
            new = torch.nn.functional.one_hot(new, self.num_classes)
        return new.to(labels.device, labels.dtype)
