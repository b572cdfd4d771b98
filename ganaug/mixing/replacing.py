"""What batch transforms share: drawing items of a batch by seed and step, and putting other images in their place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate, get_worker_info
from torchvision import tv_tensors

from ganaug.data.intensity import IntensityMap
from ganaug.distributed import rank
from ganaug.errors import ConfigError
from ganaug.mixing.pairs import LabelMap, LabelsGetter, Pair, check_labels_getter, find_pair
from ganaug.mixing.real import NOT_SYNTHETIC
from ganaug.mixing.values import BatchValues


class Described(Protocol):
    """What is known of images to come."""

    @property
    def classes(self) -> Sequence[str]: ...
    @property
    def shape(self) -> Sequence[int]: ...
    @property
    def intensity(self) -> IntensityMap: ...


@dataclass(frozen=True)
class NewItems:
    """What takes the place of some items of a batch."""

    rows: Tensor
    """Which items, n int64 on the CPU."""
    stored: Tensor
    """Their new images as stored values, n×C×…"""
    classes: Tensor | None
    """Their new classes, n int64 on the CPU; None if the labels stay."""
    origin: Callable[[int], dict[str, Any]]
    """The provenance of the i-th."""


class Kept:
    """A model in the hands of a transform: in no state dict, shared by copies, not to be sent to another process."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __deepcopy__(self, memo: dict[int, Any]) -> Kept:
        return self

    def __reduce__(self) -> Any:
        raise ConfigError(
            "A batch transform that holds a model cannot be pickled: neither for a DataLoader's worker nor into a "
            "file. Apply it behind the DataLoader, images, labels = mix(images, labels), or make a bank "
            "(SyntheticBank.generate), which workers can read. Save a classifier by its state_dict()."
        )

    @staticmethod
    def refuse_workers() -> None:
        """Raise ConfigError in a DataLoader's worker, where a GPU cannot be used and threads would pile up."""
        if get_worker_info() is not None:
            raise ConfigError(
                "A model was to make images in a DataLoader's worker, which may not use a GPU. Apply the transform "
                "behind the DataLoader, images, labels = mix(images, labels), instead of in collate_fn, or make a "
                "bank (SyntheticBank.generate), which workers can read."
            )


class ReplaceItems(nn.Module):
    """Base of the transforms that replace each item of a batch with probability `p`; a subclass says by what."""

    def __init__(
        self,
        source: Described,
        *,
        p: float,
        labels: LabelMap | None,
        values: BatchValues,
        labels_getter: LabelsGetter,
        seed: int | None,
    ) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ConfigError(f"p is {p}; a probability from 0 to 1 was wanted.")
        if seed is not None and seed < 0:
            raise ConfigError(f"seed is {seed}; an integer of 0 or more was wanted, or None for torch's generator.")
        self.p = p
        self.seed = seed
        self.step = 0
        """How many batches there have been. With `seed` it decides all draws: set it to go on with a training."""
        self.labels_getter = check_labels_getter(labels_getter)
        self._classes, self._shape = tuple(source.classes), tuple(source.shape)
        self._labels = labels
        self._values = values
        self._looked = False
        self._fits = False
        self._last: tuple[int, NewItems | None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}

    @property
    def provenance(self) -> dict[str, Any]:
        """The provenance of the last batch's items, stacked as a collate function would: tensors and lists.

        The keys are ``synthetic, source, seed, index, model_sha256, truncation, accepted, scores``, as `NOT_SYNTHETIC`
        has them of items that stayed.
        """
        if self._last is None:
            raise ConfigError("There was no batch yet whose provenance could be told; call the transform first.")
        items, new = self._last
        rows = [dict(NOT_SYNTHETIC) for _ in range(items)]
        for i, row in enumerate([] if new is None else new.rows.tolist()):
            assert new is not None
            rows[row] = {key: value for key, value in new.origin(i).items() if key in NOT_SYNTHETIC}
        return default_collate(rows)

    def forward(self, *inputs: Any) -> Any:
        """Return the batch in the structure that it came in, some of its items replaced; as it is in evaluation mode.

        Raises:
            ConfigError: the batch has no images or labels, or they do not fit.
        """
        batch = inputs if len(inputs) > 1 else inputs[0]
        if not self.training:
            return batch
        pair = find_pair(batch, self.labels_getter, dims=1 + len(self._shape))
        self._check(pair)
        generator = self._generator()
        rows = (torch.rand(len(pair.images), generator=generator) < self.p).nonzero()[:, 0]
        new = self._new_items(rows, pair, generator)
        images, labels = self._put(pair, new)
        self.step += 1
        self._last = (len(pair.images), new)
        self._looked = True
        mixed = pair.replaced(images, labels)
        return self._with_provenance(mixed, new) if isinstance(mixed, dict) and "synthetic" in mixed else mixed

    def _new_items(self, rows: Tensor, pair: Pair, generator: torch.Generator | None) -> NewItems | None:
        """Return what takes the place of the drawn `rows` (n int64), or of some of them; None if nothing does."""
        raise NotImplementedError

    def _channels(self) -> tuple[int, ...]:
        """Return the numbers of channels that fit."""
        return (self._shape[0],)

    def _check(self, pair: Pair) -> None:
        images = pair.images
        if images.shape[2:] != self._shape[1:] or images.shape[1] not in self._channels():
            raise ConfigError(
                f"The batch's images have the shape {tuple(images.shape[1:])}, the synthetic ones {self._shape}. Add "
                f"torchvision.transforms.v2.Resize({list(self._shape[1:])}) (and Grayscale, if the channels differ) to "
                "your images, or make a model of their size (ganaug fit --size)."
            )
        if hasattr(images, "affine"):
            raise ConfigError(
                "The batch's images are MetaTensors, whose axes may be swapped or turned against those of the "
                "synthetic ones. Use ganaug.mixing.monai.SyntheticMixd for each item instead, or, if they are "
                "channels × height × width, give images.as_tensor()."
            )
        self._values.check_type(images)
        if self._labels is not None:
            self._labels.check(pair.labels, len(images))

    def _classes_in(self, labels: Tensor) -> Tensor:
        assert self._labels is not None
        return self._labels.classes_in(labels)

    def _check_labels(self, labels: Tensor) -> None:
        # An accelerator must be waited for, so there only once.
        if labels.device.type == "cpu" or not self._looked:
            self._classes_in(labels)

    def _put(self, pair: Pair, new: NewItems | None) -> tuple[Tensor, Tensor]:
        made = None if new is None else self._values.from_stored(new.stored, pair.images)
        if not self._fits:
            self._fits = self._values.check(pair.images, None if new is None else new.stored, made)
        if new is None or made is None:
            return pair.images, pair.labels
        images = pair.images.as_subclass(Tensor).clone()
        images[new.rows.to(images.device)] = made
        if isinstance(pair.images, tv_tensors.TVTensor):
            images = tv_tensors.wrap(images, like=pair.images)
        if new.classes is None or self._labels is None:
            return images, pair.labels
        labels = pair.labels.clone()
        labels[new.rows.to(labels.device)] = self._labels.labels_like(labels, new.classes)
        return images, labels

    def _with_provenance(self, batch: dict[Any, Any], new: NewItems | None) -> dict[Any, Any]:
        """Return a batch of items that carry provenance, brought up to date."""
        if new is None:
            return batch
        batch = dict(batch)
        for i, row in enumerate(new.rows.tolist()):
            for key, value in new.origin(i).items():
                if key not in batch or (key == "label" and isinstance(batch[key], Tensor)):
                    continue
                if i == 0:
                    batch[key] = batch[key].clone() if isinstance(batch[key], Tensor) else list(batch[key])
                batch[key][row] = value
        return batch

    def _generator(self) -> torch.Generator | None:
        """Return the generator of this step; torch's global one (None) without a seed."""
        if self.seed is None:
            return None
        worker = get_worker_info()
        words = (self.seed, rank(), 0 if worker is None else worker.seed, self.step)
        state = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))
        return torch.Generator().manual_seed(state)
