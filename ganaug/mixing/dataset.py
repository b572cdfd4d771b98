"""A data set of real items followed by synthetic ones, for any loop that takes a map-style Dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ganaug.errors import ConfigError, DataError, ModelFileError
from ganaug.mixing.forms import ImageForm
from ganaug.mixing.real import ItemLayout, like_label, own_attribute, read_labels
from ganaug.mixing.strategy import SamplingStrategy, resolve_sampling_strategy
from ganaug.sampling.bank import SyntheticBank


class SyntheticMixDataset(Dataset[Any]):
    """The items of `real`, unchanged, and after them images of `bank` with their labels.

    `real` is any map-style data set of (image, label) pairs or of dictionaries with `image_key` and
    `label_key`; its labels are integers, positions in the bank's class list. `sampling_strategy` says how
    many images each class gets (see `resolve_sampling_strategy`).

    Each epoch draws its own images of the bank, none twice, as a function of (`seed`, epoch) alone: call
    ``set_epoch`` before iterating; persistent DataLoader workers see it. Item i of an epoch is the same for
    any number of workers, apart from randomness in your own transform.

    `transform` is applied to synthetic images: a PIL image where PIL has a form for them (uint8, gray or
    RGB), else an H×W×C array. Without it, the ``transform`` of a torchvision-like data set is used; without
    that either, the form of the real items is imitated (see `ImageForm`).

    Real labels come from `targets`, else from ``real.targets`` or ``real.labels`` (also through a
    `Subset`), else from reading every item of `real` once. `classes` names the classes of `real` in the
    order of its labels; by default ``real.classes``, where there is one.

    Dictionary items, real and synthetic, also carry the provenance keys ``synthetic, source, seed, index,
    model_sha256, truncation, accepted, scores`` (and ``label``, the class name, where `label_key` is
    another).

    Raises:
        ConfigError: a setting or the form of the images does not fit, or the bank has too few images.
        DataError: `real` is empty, or its labels do not fit the classes.
        ModelFileError: the bank has other classes than `real`.
    """

    def __init__(
        self,
        real: Any,
        bank: SyntheticBank,
        *,
        sampling_strategy: SamplingStrategy = "auto",
        transform: Callable[[Any], Any] | None = None,
        targets: Sequence[int] | np.ndarray | torch.Tensor | None = None,
        classes: Sequence[str] | None = None,
        image_key: str = "image",
        label_key: str = "label",
        seed: int = 0,
    ) -> None:
        if not len(real):
            raise DataError("The real data set is empty; at least one item was wanted.")
        if seed < 0:
            raise ConfigError(f"The seed is {seed}; an integer of 0 or more was wanted.")
        _check_classes(own_attribute(real, "classes")[0] if classes is None else classes, bank)
        self.real = real
        self.bank = bank
        self.seed = seed
        self.classes = bank.classes
        first = real[0]
        self._layout = ItemLayout.of(first, image_key, label_key, bank.classes)
        image, self._label = self._layout.split(first)
        labels = read_labels(real, targets, self._layout, self._label)
        counts = dict(enumerate(np.bincount(labels, minlength=len(bank.classes)).tolist()))
        self._added = resolve_sampling_strategy(sampling_strategy, counts, bank.classes)
        _check_supply(self._added, bank)
        self.sampling_strategy_ = {bank.classes[label]: count for label, count in self._added.items()}
        """Class name → number of synthetic images, as resolved."""
        self.targets = np.concatenate([labels, *(np.full(count, label) for label, count in self._added.items())])
        """The label of every item, real ones first."""
        self.is_synthetic = np.arange(len(self.targets)) >= len(labels)
        """Whether each item is synthetic."""
        self._form = self._image_form(image, transform) if self.is_synthetic.any() else None
        # Shared memory, so that workers that live through several epochs see set_epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._drawn: tuple[int, np.ndarray] | None = None

    @property
    def class_to_idx(self) -> dict[str, int]:
        """Class name → label, as torchvision's folder data sets have it."""
        return {name: label for label, name in enumerate(self.classes)}

    def __repr__(self) -> str:
        synthetic = int(self.is_synthetic.sum())
        return (
            f"SyntheticMixDataset({len(self) - synthetic} real, {synthetic} synthetic; added {self.sampling_strategy_})"
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose the images of the bank that this epoch uses. Call it before iterating over a DataLoader."""
        if epoch < 0:
            raise ConfigError(f"The epoch is {epoch}; 0 or more was wanted.")
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(f"Item {index} was asked for; there are {len(self)}.")
        index = int(index) % len(self)
        label = int(self.targets[index])
        if not self.is_synthetic[index]:
            return self._layout.with_provenance(self.real[index], label)
        assert self._form is not None
        position = int(self._positions()[index - len(self)])
        image = self._form(self.bank.image(position))
        provenance = self.bank.provenance(position) if self._layout.container is dict else {}
        return self._layout.join(image, like_label(self._label, label), provenance)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_drawn": None}

    def _image_form(self, example: Any, transform: Callable[[Any], Any] | None) -> ImageForm:
        found = False
        # A dictionary data set's transform takes the whole item, not an image.
        if transform is None and self._layout.container is not dict:
            own = own_attribute(self.real, "transform")[0]
            transform, found = (own, True) if callable(own) else (None, False)
        return ImageForm(example, self.bank.image(0), transform=transform, found=found)

    def _positions(self) -> np.ndarray:
        """Return the bank positions of this epoch's synthetic items, in the order of the items."""
        epoch = int(self._epoch)
        if self._drawn is None or self._drawn[0] != epoch:
            drawn = [
                np.random.default_rng((self.seed, epoch, label)).choice(
                    self.bank.positions(label), count, replace=False
                )
                for label, count in self._added.items()
            ]
            self._drawn = (epoch, np.concatenate(drawn))
        return self._drawn[1]


def _check_classes(classes: Sequence[str] | None, bank: SyntheticBank) -> None:
    if classes is not None and tuple(map(str, classes)) != bank.classes:
        raise ModelFileError(
            f"The real data set has the classes {', '.join(map(str, classes))}, the bank "
            f"{', '.join(bank.classes)}; the same names in the same order were wanted. Use the bank of a "
            "model trained on these classes, or, if only the names differ, pass classes=bank.classes."
        )


def _check_supply(added: Mapping[int, int], bank: SyntheticBank) -> None:
    short = {
        name: count for name, count in ((bank.classes[i], n) for i, n in added.items()) if count > bank.counts[name]
    }
    if short:
        lacks = ", ".join(f"{count} of {name!r} (it has {bank.counts[name]})" for name, count in short.items())
        wanted = {name: max(bank.counts[name], short.get(name, 0)) for name in bank.classes}
        counts = ",".join(f"{name}={count}" for name, count in wanted.items() if count)
        raise ConfigError(
            f"The bank {bank.path} has too few images: the sampling_strategy wants {lacks}. Make a larger "
            f"one, ganaug sample RUN --out DIR --format bank --counts {counts}, or ask for fewer."
        )
