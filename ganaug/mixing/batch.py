"""A batch transform that replaces some items by synthetic ones, in the idiom of torchvision's CutMix."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ganaug.data.leak import LeakReport
from ganaug.errors import ConfigError
from ganaug.mixing.pairs import LabelMap, LabelsGetter, Pair
from ganaug.mixing.pool import Origin, SamplerSource
from ganaug.mixing.replacing import NewItems, ReplaceItems
from ganaug.mixing.values import BatchValues, Normalize
from ganaug.sampling.bank import SyntheticBank
from ganaug.sampling.leak import Validation, validate_against
from ganaug.sampling.sampler import Sampler


class SyntheticMix(ReplaceItems):
    """Replaces items of a batch by synthetic images: ``images, labels = mix(images, labels)``.

    Each item is replaced with probability `p`. Images are B×C×H×W or B×C×D×H×W, labels B integers or B×`num_classes`
    one-hot, both on any device; new tensors of the same types come back. A gray source also serves RGB batches. Put the
    transform behind collating and before CutMix or MixUp, alone or in a ``v2.Compose``; in evaluation mode
    (``mix.eval()``, as part of a model) it does nothing. With a bank it may also be a ``collate_fn``: ``lambda items:
    mix(*default_collate(items))``. Items that augmentation has changed one by one stand beside synthetic images that it
    has not: do strong augmentation, noise above all, behind this transform.

    A sampler makes its images in the training process, on its own device, which needs no bank but costs time. They come
    from a pool of which a few are made anew for each batch (see `SamplerSource`); ``pool=0`` makes new ones for each
    batch. A transform with a sampler cannot be pickled; ``copy.deepcopy`` shares the network. Neither it nor anything
    else of the transform gets into a ``state_dict``.

    Values. uint8 batches take the images of an 8-bit source as they are. Float batches must be in [0, 1], as
    ``to_tensor`` has it for uint8, or normalized from there by `normalize` = (mean, std). For a source of another type
    (16 bit, HU) batches hold stored values, unless `scale` = (low, high) says which of these are 0 and 1 (values beyond
    are clipped: clip the real ones too), or `transform` does the whole way. The first batches are looked at, and what
    does not fit is refused.

    Draws. With `seed` they, and a sampler's images, are a function of (`seed`, ``mix.step``), the number of batches so
    far: set ``mix.step`` to go on with a training. In a DataLoader's worker they also depend on the worker's seed, so
    that neither workers nor epochs repeat each other, and ``torch.manual_seed`` or the DataLoader's generator makes
    them the same again. Ranks of torchrun differ. Without `seed` the draws follow torch's global generator, and a
    sampler's images have seed 0.

    Provenance. ``mix.provenance`` tells of the last batch which items are synthetic and where they come from. A batch
    that is a dictionary with a key ``synthetic``, as `SyntheticMixDataset` and MONAI's transforms make them, has its
    provenance keys brought up to date; nothing is added to others.

    Args:
        source: a bank or its folder, or a sampler (`ganaug.load`).
        p: probability of each item, 0 to 1.
        classes: ``"balanced"`` draws the class evenly from those that the source has images of, and replaces the label
            with the image; ``"same"`` keeps the item's class, and the item itself if the source has no image of it.
        num_classes: of the classifier, by default those of the source, which come first.
        class_names: the classifier's classes in the order of its labels, such as ``dataset.classes``; the source's are
            found among them by name. Without them labels are positions in the source's class list.
        labels_getter: how labels are found, as in ``v2.CutMix``: ``"default"`` takes the second of several inputs, or a
            dictionary's key named like "labels"; otherwise a function that returns the batch's own tensor of labels.
            The images are the one other tensor of as many dimensions as a batch of images.
        normalize: (mean, std), each a sequence of one figure or one for each channel, as ``v2.Normalize`` has them.
        scale: (low, high), the stored values that are 0 and 1 in the batch before `normalize`.
        transform: what real images went through since they were stored: it gets n×C×H×W float32 stored values on the
            batch's device and returns the same shape.
        seed: 0 or more.
        pool: of a sampler: images that are held, by default 1024 or as many as fit into 256 MiB.
        refresh: of a sampler: images of the pool made anew for each batch, on average; by default 4.

    Raises:
        ConfigError: a setting does not fit, or the batch does not fit the source.

    Example:
        >>> from torchvision.transforms import v2
        >>> mix = v2.Compose([SyntheticMix(bank, p=0.25), v2.CutMix(num_classes=3)])
        >>> images, labels = mix(torch.rand(8, 1, 4, 6), torch.arange(8) % 3)
        >>> labels.shape
        torch.Size([8, 3])
    """

    def __init__(
        self,
        source: SyntheticBank | Sampler | str | Path,
        *,
        p: float = 0.25,
        classes: Literal["balanced", "same"] = "balanced",
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        labels_getter: LabelsGetter = "default",
        normalize: Normalize | None = None,
        scale: tuple[float, float] | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        seed: int | None = None,
        pool: int | None = None,
        refresh: int | None = None,
    ) -> None:
        if isinstance(source, str | Path):
            source = SyntheticBank.open(source)
        if not isinstance(source, SyntheticBank | Sampler):
            raise ConfigError(
                f"The source is a {type(source).__name__}; a SyntheticBank, its folder, or a sampler (ganaug.load) was "
                "wanted."
            )
        if classes not in ("balanced", "same"):
            raise ConfigError(f"classes is {classes!r}; 'balanced' or 'same' was wanted.")
        if isinstance(source, SyntheticBank) and (pool is not None or refresh is not None):
            raise ConfigError("pool= or refresh= was given with a bank; they are for a sampler (ganaug.load).")
        super().__init__(
            source,
            p=p,
            labels=LabelMap(source.classes, num_classes=num_classes, class_names=class_names),
            values=BatchValues(source.intensity, normalize=normalize, scale=scale, transform=transform),
            labels_getter=labels_getter,
            seed=seed,
        )
        self.classes = classes
        self._source: _BankSource | SamplerSource
        if isinstance(source, SyntheticBank):
            self._source = _BankSource(source)
        else:
            self._source = SamplerSource(source, pool=pool, refresh=refresh, seed=seed or 0)
        if not self._source.held.any():
            raise ConfigError(f"{source!r} holds no images at all; make a bank of at least one class that has some.")
        empty = [name for name, count in zip(source.classes, self._source.held.tolist(), strict=True) if not count]
        if empty and classes == "balanced":
            others = ", ".join(name for name in source.classes if name not in empty)
            warnings.warn(
                f"The bank has no image of {', '.join(empty)}, so that every synthetic item will be {others}, and a "
                "classifier may learn that synthetic means that. Make a bank of all classes (--per-class), or pass "
                "classes='same'.",
                stacklevel=2,
            )

    def extra_repr(self) -> str:
        return f"{self._source!r}, p={self.p}, classes={self.classes!r}"

    @property
    def source(self) -> SyntheticBank | Sampler:
        """The bank or the sampler."""
        return self._source.model

    def validate_against(
        self,
        val: Validation,
        *,
        image_key: str = "image",
        groups: Sequence[str] | None = None,
        group_regex: str | None = None,
    ) -> LeakReport:
        """Raise a `LeakError` if the generator of the source has seen validation data `val`, a folder or a data set.

        See `ganaug.sampling.leak.validate_against`, also for what is returned and the other errors.
        """
        return validate_against(self.source, val, image_key=image_key, groups=groups, group_regex=group_regex)

    def _channels(self) -> tuple[int, ...]:
        return (1, 3) if self._shape[0] == 1 else (self._shape[0],)

    def _new_items(self, rows: Tensor, pair: Pair, generator: torch.Generator | None) -> NewItems | None:
        held = self._source.held
        if self.classes == "balanced":
            self._check_labels(pair.labels)
            available = held.nonzero()[:, 0]
            drawn = available[torch.randint(len(available), (len(rows),), generator=generator)]
        else:
            drawn = self._classes_in(pair.labels)[rows]
            supplied = (drawn >= 0) & (held[drawn.clamp(min=0)] > 0)
            rows, drawn = rows[supplied], drawn[supplied]
        where = torch.rand(len(rows), generator=generator, dtype=torch.float64)
        if not len(rows):
            return None
        stored, origin = self._source.take(drawn, where, self.step)
        return NewItems(rows, stored, drawn, origin)


class _BankSource:
    """Images of a bank."""

    def __init__(self, bank: SyntheticBank) -> None:
        self.model = bank
        self.held = torch.tensor([bank.counts[name] for name in bank.classes])
        """How many images of each class there are."""

    def __repr__(self) -> str:
        return f"bank={str(self.model.path)!r}"

    def take(self, classes: Tensor, where: Tensor, step: int) -> tuple[Tensor, Origin]:
        """Return images of `classes` (n), n×C×… as stored; `where` (n, in [0, 1)) chooses among those of a class."""
        labels, ranks = classes.numpy(), (where * self.held[classes]).long().numpy()
        positions = np.empty(len(labels), np.int64)
        for label in np.unique(labels):
            positions[labels == label] = self.model.positions(int(label), ranks[labels == label])
        stored = np.empty((len(labels), *self.model.shape), self.model.images.dtype)
        for row in np.argsort(positions):  # in the order of the file
            stored[row] = self.model.image(int(positions[row]))
        # Older operators do not know torch's unsigned types above 8 bit; float32 holds all of their values.
        images = torch.from_numpy(stored.astype(np.float32) if stored.dtype == np.uint16 else stored)
        return images, lambda i: self.model.provenance(int(positions[i]))
