"""A batch transform that replaces some items by synthetic ones, in the idiom of torchvision's CutMix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.data import get_worker_info

from ganaug.errors import ConfigError
from ganaug.sampling.bank import SyntheticBank


class SyntheticMix(nn.Module):
    """Replaces items of a batch by images of the bank: ``images, labels = mix(images, labels)``.

    Each item is replaced with probability `p`. Images are B×C×H×W, uint8, or float in [0, 1] (0 and 1 are
    the ends of the bank's stored range, as ``to_tensor`` has it for uint8), or float after
    ``Normalize(mean, std)`` if `normalize` is that (mean, std). Labels are B integers, or B×`num_classes`
    one-hot. A gray bank also serves RGB batches. Both may be on any device; they are not changed, new
    tensors come back. Put it before CutMix or MixUp, or use it as ``collate_fn=lambda items:
    mix(default_collate(items))``.

    `classes`: ``"balanced"`` draws the class evenly from those that the bank has images of and replaces the
    label with the image; ``"same"`` keeps the item's class, and the item itself if the bank has no image of
    that class.

    `labels_getter` finds the labels in another structure than a pair (images, labels); the images are then
    its one other tensor of as many dimensions as a batch of images. `num_classes` is the number of the
    classifier's classes, by default the bank's; the bank's come first.

    The draws follow torch's global generator, or, with `seed`, a stream of its own that every instance
    starts anew. In a DataLoader worker that stream also depends on the worker's seed, so that neither
    workers nor epochs repeat each other; it is then reproducible through ``torch.manual_seed`` or the
    DataLoader's generator.

    Raises:
        ConfigError: a setting does not fit, or the batch does not fit the bank.
    """

    def __init__(
        self,
        bank: SyntheticBank,
        *,
        p: float = 0.25,
        classes: Literal["balanced", "same"] = "balanced",
        normalize: tuple[Sequence[float], Sequence[float]] | None = None,
        labels_getter: Callable[[Any], Tensor] | None = None,
        num_classes: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ConfigError(f"p is {p}; a probability from 0 to 1 was wanted.")
        if classes not in ("balanced", "same"):
            raise ConfigError(f"classes is {classes!r}; 'balanced' or 'same' was wanted.")
        if num_classes is not None and num_classes < len(bank.classes):
            raise ConfigError(f"num_classes is {num_classes}, but the bank has {len(bank.classes)} classes.")
        self.bank = bank
        self.p = p
        self.classes = classes
        self.normalize = None if normalize is None else _check_normalize(normalize)
        self.labels_getter = labels_getter
        self.num_classes = len(bank.classes) if num_classes is None else num_classes
        self.seed = seed
        self._stream: tuple[int | None, torch.Generator] | None = None
        self._order: np.ndarray | None = None
        self._looked = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stream": None, "_order": None}

    def extra_repr(self) -> str:
        return f"bank={str(self.bank.path)!r}, p={self.p}, classes={self.classes!r}"

    def forward(self, *inputs: Any) -> Any:
        """Return the batch in the structure that it came in, some of its items replaced."""
        batch = inputs if len(inputs) > 1 else inputs[0]
        images, labels = self._find(batch)
        self._check(images, labels)
        mixed_images, mixed_labels = self._mix(images, labels)
        self._looked = True
        leaves, structure = tree_flatten(batch)
        swap = {id(images): mixed_images, id(labels): mixed_labels}
        return tree_unflatten([swap.get(id(leaf), leaf) for leaf in leaves], structure)

    def _find(self, batch: Any) -> tuple[Tensor, Tensor]:
        if self.labels_getter is None:
            if not (isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(x, Tensor) for x in batch)):
                raise ConfigError(
                    f"The batch is a {type(batch).__name__}; a pair of tensors (images, labels) was wanted. "
                    "For another structure pass labels_getter=, a function that returns its labels."
                )
            return batch[0], batch[1]
        labels = self.labels_getter(batch)
        dims = 1 + len(self.bank.shape)
        leaves = tree_flatten(batch)[0]
        images = [x for x in leaves if isinstance(x, Tensor) and x.ndim == dims and x is not labels]
        if len(images) != 1 or not any(x is labels for x in leaves):
            raise ConfigError(
                f"The batch holds {len(images)} tensors of {dims} dimensions besides its labels; one, of "
                "images, was wanted, and labels_getter= must return the batch's own tensor of labels."
            )
        return images[0], labels

    def _check(self, images: Tensor, labels: Tensor) -> None:
        if images.shape[2:] != self.bank.shape[1:] or images.shape[1] not in self._channels():
            raise ConfigError(
                f"The batch's images have the shape {tuple(images.shape[1:])}, the bank's {self.bank.shape}. "
                f"Add torchvision.transforms.v2.Resize({list(self.bank.shape[1:])}) (and Grayscale, if the "
                "channels differ) to your images, or make a model of their size (ganaug fit --size)."
            )
        if labels.shape not in ((len(images),), (len(images), self.num_classes)):
            raise ConfigError(
                f"The labels have the shape {tuple(labels.shape)}; ({len(images)},), or ({len(images)}, "
                f"{self.num_classes}) for one-hot, was wanted. Use labels.squeeze(1), or pass num_classes=."
            )
        if labels.ndim == 1 and (labels.is_floating_point() or labels.dtype == torch.bool):
            raise ConfigError(f"The labels are {labels.dtype}; integers or one-hot vectors were wanted.")
        if self.normalize is not None and {len(x) for x in self.normalize} - {1, images.shape[1]}:
            raise ConfigError(
                f"normalize has {len(self.normalize[0])} means and {len(self.normalize[1])} deviations; one "
                f"or {images.shape[1]} of each were wanted, as the images have channels."
            )
        if images.is_floating_point():
            if self._worth_a_look(images):
                self._check_range(images)
        elif images.dtype != torch.uint8 or self.bank.images.dtype != np.uint8 or self.normalize is not None:
            raise ConfigError(
                f"The batch's images are {images.dtype}, the bank's {self.bank.images.dtype}"
                f"{', and normalize= was given' if self.normalize is not None else ''}. Give float images, "
                "or uint8 ones for a uint8 bank without normalize=."
            )

    def _channels(self) -> tuple[int, ...]:
        """Return the numbers of channels that fit: a gray bank also serves RGB batches."""
        return (1, 3) if self.bank.shape[0] == 1 else (self.bank.shape[0],)

    def _worth_a_look(self, tensor: Tensor) -> bool:
        """Whether to look at values: an accelerator must be waited for, so there only in the first batch."""
        return tensor.device.type == "cpu" or not self._looked

    def _check_range(self, images: Tensor) -> None:
        if self.normalize is not None or not images.numel():
            return
        low, high = (float(value) for value in images.aminmax())
        # A bicubic resize overshoots by some hundredths; every usual normalization leaves by more.
        if low < -0.1 or high > 1.1:
            raise ConfigError(
                f"The batch's images go from {low:.3g} to {high:.3g}; [0, 1] was wanted. If your transform "
                "normalizes, pass the same figures as normalize=(mean, std); if they go to 255, divide them."
            )

    def _mix(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        generator = self._generator()
        rows = (torch.rand(len(images), generator=generator) < self.p).nonzero()[:, 0]
        held = torch.tensor([self.bank.counts[name] for name in self.bank.classes])
        if self.classes == "balanced":
            if self._worth_a_look(labels):
                self._check_labels(labels)
            available = held.nonzero()[:, 0]
            drawn = available[torch.randint(len(available), (len(rows),), generator=generator)]
        else:
            drawn = self._check_labels(labels)[rows]
            supplied = (drawn < len(held)) & (held[drawn.clamp(max=len(held) - 1)] > 0)
            rows, drawn = rows[supplied], drawn[supplied]
        where = torch.rand(len(rows), generator=generator, dtype=torch.float64)
        if not len(rows):
            return images, labels
        starts = held.cumsum(0) - held
        positions = self._by_class()[(starts[drawn] + (where * held[drawn]).long()).numpy()]
        rows = rows.to(images.device)
        mixed_images, mixed_labels = images.clone(), labels.clone()
        mixed_images[rows] = self._load(positions, images)
        drawn = drawn.to(labels.device)
        new = drawn if labels.ndim == 1 else nn.functional.one_hot(drawn, self.num_classes)
        mixed_labels[rows.to(labels.device)] = new.to(labels.dtype)
        return mixed_images, mixed_labels

    def _check_labels(self, labels: Tensor) -> Tensor:
        """Return the class of each item on the CPU."""
        classes = (labels if labels.ndim == 1 else labels.argmax(1)).cpu().long()
        if len(classes) and (classes.min() < 0 or classes.max() >= self.num_classes):
            raise ConfigError(
                f"The labels go from {classes.min()} to {classes.max()}; 0 to {self.num_classes - 1} was "
                f"wanted, for the bank's classes {', '.join(self.bank.classes)}. Pass num_classes= if the "
                "classifier has more."
            )
        return classes

    def _load(self, positions: np.ndarray, like: Tensor) -> Tensor:
        """Return images of the bank in the device, dtype and scale of `like`."""
        stored = self.bank.images[positions]
        if stored.shape[1] != like.shape[1]:
            stored = stored.repeat(like.shape[1], axis=1)
        if stored.dtype == np.uint8:
            images = torch.from_numpy(stored).to(like.device)
            if not like.is_floating_point():
                return images
            images = images.float() / 255
        else:
            images = (torch.from_numpy(self.bank.intensity.forward(stored)).to(like.device) + 1) / 2
        if self.normalize is not None:
            mean, std = (
                torch.tensor(values, device=like.device).view(-1, *[1] * (like.ndim - 2)) for values in self.normalize
            )
            images = (images - mean) / std
        return images.to(like.dtype)

    def _by_class(self) -> np.ndarray:
        """Return the bank's positions, those of class 0 first, then class 1, and so on."""
        if self._order is None:
            self._order = np.argsort(self.bank.labels, kind="stable")
        return self._order

    def _generator(self) -> torch.Generator | None:
        if self.seed is None:
            return None
        worker = get_worker_info()
        key = None if worker is None else worker.seed
        if self._stream is None or self._stream[0] != key:
            words = (self.seed,) if key is None else (self.seed, key)
            state = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)
            self._stream = (key, torch.Generator().manual_seed(state))
        return self._stream[1]


def _check_normalize(
    normalize: tuple[Sequence[float], Sequence[float]],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    try:
        mean, std = (tuple(float(value) for value in values) for values in normalize)
    except (TypeError, ValueError):
        raise ConfigError(f"normalize is {normalize!r}; a pair of sequences (mean, std) was wanted.") from None
    if not mean or not std or min(std) <= 0:
        raise ConfigError(f"normalize is {normalize!r}; a mean and a deviation above 0 for each channel were wanted.")
    return mean, std
