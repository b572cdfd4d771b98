"""A data set of real items followed by synthetic ones, for any loop that takes a map-style Dataset."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ganaug.data.leak import LeakReport
from ganaug.errors import ConfigError, DataError, ModelFileError
from ganaug.mixing.balance import Balance, Ratio, plan_mixture
from ganaug.mixing.draws import EpochItems, Schedule, check_schedule, draw_epoch, schedule_factor
from ganaug.mixing.forms import ImageForm, is_monai
from ganaug.mixing.real import ItemLayout, like_label, own_attribute, read_labels
from ganaug.mixing.strategy import SamplingStrategy
from ganaug.mixing.verdict import read_verdict
from ganaug.sampling.bank import SyntheticBank
from ganaug.sampling.leak import Validation, validate_against


class SyntheticMixDataset(Dataset[Any]):
    """The items of `real`, unchanged, and after them images of `bank` with their labels.

    `real` is any map-style data set of (image, label) pairs or of dictionaries with `image_key` and
    `label_key`; its labels are integers, positions in the bank's class list. Each epoch draws its own images
    of the bank, none twice, as a function of (`seed`, epoch) alone: call ``set_epoch`` before iterating;
    persistent DataLoader workers see it. Item i of an epoch is the same for any number of workers, apart from
    randomness in your own transform. Ranks of a DistributedSampler need the same `seed` and epoch.

    Args:
        real: the data set to add to.
        bank: the synthetic images: a bank, or its folder.
        sampling_strategy: how many each class lacks (see `resolve_sampling_strategy`).
        ratio: at most so many synthetic images for each real one of a class; None is no limit. Published gains
            came with few (BRISC 2025: filtered, one for each real one), and high ratios hurt (Pink & Sykes 2026):
            0.5 to 1 is where to start. A mapping class name or label → ratio adds to the classes that it names alone.
            Not imbalanced-learn's ratio of two classes, a float `sampling_strategy`.
        symmetric: at least so many synthetic images for each real one in every class, for example 0.25, so
            that a classifier cannot learn "synthetic" for "sick". True is the same synthetic share in every
            class, and needs ``balance="both"``.
        balance: ``"synthesize"`` fills with synthetic images, and `sample_weights` are 1; ``"resample"`` adds
            none and `sample_weights` level the classes; ``"both"`` fills half of what a class lacks and leaves
            the rest to `sample_weights`. The imbalance is corrected once: use the weights, in a
            ``WeightedRandomSampler(mixed.sample_weights, len(mixed))``, under "resample" and "both" only.
            `plan_mixture` has the arithmetic of this and the three arguments before.
        schedule: which share of the synthetic images an epoch uses: a function epoch → factor in [0, 1], or
            a pair (last epoch with all of them, first with none) with a straight line between, such as (10, 20):
            "synthetic first, real last". The others' places are taken by real items of the same class, none
            twice before all were there once, so that the length and the number of optimizer steps stay.
        transform: applied to synthetic images: a PIL image where PIL has a form for them (uint8, gray or RGB),
            else an array H×W (D×H×W for volumes) if there is one channel, else H×W×C. Without it, the
            ``transform`` of `real` is used, also MONAI's; without that either, the form of the real items is
            imitated. See `ImageForm`, also for the axes of volumes and what MONAI's transforms get.
        targets: the real labels, by default ``real.targets`` or ``real.labels`` (also through a `Subset`), else
            those of every item of `real`, each read once.
        classes: names of the classes of `real` in the order of its labels, by default ``real.classes``, where
            there is one.
        image_key, label_key: of dictionary items. These, real and synthetic, also carry the provenance keys
            ``synthetic, source, seed, index, model_sha256, truncation, accepted, scores`` (and ``label``, the class
            name, where `label_key` is another). ``accepted`` is True unless a filter rejected the image: for real
            images too, and where nothing was judged.
        seed: an integer of 0 or more.

    Raises:
        ConfigError: a setting or the form of the images does not fit, or the bank has too few images.
        DataError: `real` or a class of it is empty, or its labels do not fit the classes.
        ModelFileError: the bank has other classes than `real`.
    """

    def __init__(
        self,
        real: Any,
        bank: SyntheticBank | str | Path,
        *,
        sampling_strategy: SamplingStrategy = "auto",
        ratio: Ratio | None = None,
        symmetric: float | bool = False,
        balance: Balance = "synthesize",
        schedule: Schedule | None = None,
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
        check_schedule(schedule)
        bank = _opened(real, bank)
        _check_classes(own_attribute(real, "classes")[0], classes, bank)
        self.real = real
        self.bank = bank
        self.seed = seed
        self.schedule = schedule
        self.classes = bank.classes
        first = real[0]
        self._layout = ItemLayout.of(first, image_key, label_key, bank.classes)
        image, self._label = self._layout.split(first)
        labels = read_labels(real, targets, self._layout, self._label)
        self._real_labels = labels.astype(np.min_scalar_type(len(bank.classes)))
        counts = np.bincount(labels, minlength=len(bank.classes)).tolist()
        mixture = plan_mixture(
            sampling_strategy,
            dict(enumerate(counts)),
            bank.classes,
            balance=balance,
            ratio=ratio,
            symmetric=symmetric,
        )
        self._added = mixture.synthetic
        self._weights = [mixture.weights[label] for label in range(len(bank.classes))]
        _check_supply(self._added, bank)
        _check_schedulable(schedule, self._added, counts, bank.classes)
        self.sampling_strategy_ = {bank.classes[label]: count for label, count in self._added.items()}
        """Class name → number of synthetic images, as resolved; under a schedule, when all of them are used."""
        self._ends = list(accumulate(self._added.values(), initial=len(labels)))[1:]
        self._form = self._image_form(image, transform) if len(self) > len(labels) else None
        # Epoch and factor of the schedule in shared memory: workers that live through several epochs see set_epoch.
        self._now = torch.zeros(2, dtype=torch.float64).share_memory_()
        self._drawn: tuple[tuple[float, float], EpochItems] | None = None
        self.set_epoch(0)

    @classmethod
    def from_verdict(cls, real: Any, verdict: str | Path, **options: Any) -> SyntheticMixDataset:
        """Wrap `real` in the way that ``ganaug study`` recommends for it.

        Where the verdict is not to use generated images none are added, a warning says so, and `sample_weights` level
        the classes, if that was the better way. Either way train with
        ``WeightedRandomSampler(mixed.sample_weights, len(mixed))``, as the study did.

        Args:
            real: the data set to add to.
            verdict: the ``verdict.json`` of a study, or its folder.
            options: other arguments of the class, such as `transform` and `seed`; those that the study has found may be
                overridden.

        Raises:
            ModelFileError: there is no such file, or it is damaged, or the study made no bank.
        """
        return cls(real, **(read_verdict(Path(verdict)) | options))

    @property
    def class_to_idx(self) -> dict[str, int]:
        """Class name → label, as torchvision's folder data sets have it."""
        return {name: label for label, name in enumerate(self.classes)}

    @cached_property
    def targets(self) -> np.ndarray:
        """The label of every item, int64, real ones first; the same in every epoch."""
        added = [np.full(count, label) for label, count in self._added.items()]
        return np.concatenate([self._real_labels.astype(np.int64), *added])

    @property
    def is_synthetic(self) -> np.ndarray:
        """Whether each item is synthetic in the current epoch, bool."""
        return np.concatenate([np.zeros(len(self._real_labels), bool), self._items().is_synthetic])

    @property
    def sample_weights(self) -> np.ndarray:
        """How often each item is to be drawn in an epoch, float64: weights for a ``WeightedRandomSampler``.

        All 1 under ``balance="synthesize"``, where the synthetic images have leveled the classes already.
        """
        return np.asarray(self._weights)[self.targets]

    def __repr__(self) -> str:
        real = len(self._real_labels)
        return f"SyntheticMixDataset({real} real, {len(self) - real} added: {self.sampling_strategy_})"

    def set_epoch(self, epoch: int) -> None:
        """Choose the images of the bank that this epoch uses. Call it before iterating over a DataLoader.

        Raises:
            ConfigError: the epoch is negative, or the schedule's factor is not in [0, 1].
        """
        if epoch < 0:
            raise ConfigError(f"The epoch is {epoch}; 0 or more was wanted.")
        self._now.copy_(torch.tensor([epoch, schedule_factor(self.schedule, epoch)], dtype=torch.float64))

    def validate_against(
        self, val: Validation, *, groups: Sequence[str] | None = None, group_regex: str | None = None
    ) -> LeakReport:
        """Raise a `LeakError` if the generator of the bank has seen validation data `val`, a folder or a data set.

        See `ganaug.sampling.leak.validate_against`, also for what is returned and the other errors.
        """
        key = self._layout.image_key
        return validate_against(self.bank, val, image_key=key, groups=groups, group_regex=group_regex)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else len(self._real_labels)

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(f"Item {index} was asked for; there are {len(self)}.")
        index = int(index) % len(self)
        slot = index - len(self._real_labels)
        if slot < 0:
            return self._layout.with_provenance(self.real[index], int(self._real_labels[index]))
        label = list(self._added)[bisect_right(self._ends, index)]
        items = self._items()
        source = int(items.sources[slot])
        if not items.is_synthetic[slot]:
            return self._layout.with_provenance(self.real[source], label)
        assert self._form is not None
        image = self._form(self.bank.image(source))
        provenance = self.bank.provenance(source) if self._layout.container is dict else {}
        return self._layout.join(image, like_label(self._label, label), provenance)

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what each process can work out, so that workers get neither images nor long arrays."""
        return {**{name: value for name, value in self.__dict__.items() if name != "targets"}, "_drawn": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not self._now.is_shared():  # a copy that came through a file
            self._now.share_memory_()

    def _image_form(self, example: Any, transform: Callable[[Any], Any] | None) -> ImageForm:
        found = False
        if transform is None:
            own = own_attribute(self.real, "transform")[0]
            # A dictionary data set's transform takes the whole item, which only MONAI's say how to make.
            if callable(own) and (self._layout.container is not dict or is_monai(own)):
                transform, found = own, True
        keys = (self._layout.image_key, self._layout.label_key) if self._layout.container is dict else None
        return ImageForm(example, self.bank.image(0), transform=transform, found=found, keys=keys)

    def _items(self) -> EpochItems:
        """Return what the items behind the real ones show in the current epoch."""
        epoch, factor = self._now.tolist()
        if self._drawn is None or self._drawn[0] != (epoch, factor):
            drawn = draw_epoch(
                self._added, self.bank, self._real_labels, seed=self.seed, epoch=int(epoch), factor=factor
            )
            self._drawn = ((epoch, factor), drawn)
        return self._drawn[1]


def _opened(real: Any, bank: Any) -> SyntheticBank:
    if isinstance(real, DataLoader):
        raise ConfigError("A DataLoader was given; a data set was wanted: wrap its data set, then make the DataLoader.")
    if isinstance(bank, str | Path):
        return SyntheticBank.open(bank)
    if not isinstance(bank, SyntheticBank):
        raise ConfigError(
            f"The bank is a {type(bank).__name__}; a SyntheticBank or its folder was wanted. Make one of a sampler: "
            "SyntheticBank.generate(gan, folder, per_class=500)."
        )
    return bank


def _check_classes(own: Sequence[str] | None, given: Sequence[str] | None, bank: SyntheticBank) -> None:
    names = None if own is None else tuple(map(str, own))
    if names is not None and names != bank.classes and sorted(names) == sorted(bank.classes):
        raise ModelFileError(
            f"The real data set has the classes {', '.join(names)}, the bank {', '.join(bank.classes)}: the "
            "same names in another order, so that its labels stand for other classes there. Number the real labels "
            f"in the bank's order, {dict(zip(bank.classes, range(len(names)), strict=True))}, and its `classes` too."
        )
    classes = own if given is None else given
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
            f"The bank {bank.path} has too few images: {lacks} were wanted. Make a larger one, ganaug sample RUN --out "
            f"DIR --format bank --counts {counts}, or ask for fewer (sampling_strategy=, ratio=)."
        )


def _check_schedulable(
    schedule: Schedule | None, added: Mapping[int, int], counts: Sequence[int], classes: Sequence[str]
) -> None:
    empty = [classes[label] for label, count in added.items() if count and not counts[label]]
    if schedule is not None and empty:
        raise DataError(
            f"The real data set has no image of {', '.join(map(repr, empty))} to take the place of the synthetic ones "
            "that the schedule leaves out. Add real images, or leave schedule= out."
        )
