"""Synthetic images for MONAI: random transforms that put an image of a bank in the place of an item's own."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import TransformBackends, convert_to_dst_type
from torch.utils.data import get_worker_info

from ganaug.data.geometry import is_valid_affine
from ganaug.data.leak import LeakReport
from ganaug.errors import ConfigError
from ganaug.mixing.real import NOT_SYNTHETIC, label_value, like_label
from ganaug.mixing.stored import in_world, same_units, turned
from ganaug.sampling.bank import SyntheticBank
from ganaug.sampling.leak import Validation, validate_against

_PIL_META = {"format", "mode", "width", "height"}  # the keys of MONAI's PILReader, which swaps rows and columns
_REMEDY = (
    "Put the transform before those that scale, or pass as transform= what the real images went through, for example "
    "ScaleIntensityRange(0, 255, 0, 1); if they are in stored units all the same, transform=Identity()."
)


class SyntheticMix(RandomizableTransform):
    """With probability `prob` returns an image of the bank for the given one: ``image, label = mix(image, label)``.

    It belongs behind `LoadImage` and `EnsureChannelFirst` (and `Resize`, where sizes differ) and before all that
    changes values, so that synthetic images go through the rest as real ones do. The bank's images come in stored
    units: 0 to 255 of an 8-bit file, HU of a CT. Behind a transform that scales, pass as `transform` what the real
    images went through, for example ``ScaleIntensityRange(0, 255, 0, 1)``: it gets the synthetic image as float32 in
    stored units, in the form of the real one. Values beyond the window that the bank was made with
    (``bank.intensity.low`` to ``.high``) are clipped in synthetic images only: clip both behind this transform, as
    ``ScaleIntensityRange(..., clip=True)`` does, or a classifier can tell them apart.

    The image that comes back has the form of the given one: array, tensor or MetaTensor, dtype, device, shape. A gray
    bank also serves images of three channels. The metadata stay, with the affine, as the synthetic image takes the
    place of the real one in space; only the file name becomes ``BANK/images.npy[position]``. The bank's image is
    turned to the axes of the item: by the affine if the file had one (NIfTI, DICOM), rows and columns swapped as MONAI
    does for PNG and JPEG, as stored for ``.npy``. For arrays and tensors without metadata, and files read with
    ``reverse_indexing=False``, say which side of an image as it is looked at lies along each of the axes: `axes` is
    "hw" or "wh"; for volumes, with d for depth (toward the head), a permutation of "dhw".

    `classes`: ``"same"`` keeps the label, and the image itself if the bank has none of its class; ``"balanced"`` draws
    the class evenly from those that the bank has and changes the label. The first is the default here, because the rest
    of an item, such as a second sequence or a report, is left as it is. Labels are integers, positions in the bank's
    class list, or class names.

    The draws come from ``self.R`` alone. In a worker of a DataLoader that does not seed it there (any but MONAI's, and
    MONAI's over a SmartCacheDataset), the first draw does, from torch's generator in that worker: neither workers nor
    epochs repeat each other, and ``torch.manual_seed`` makes them the same again.

    Args:
        bank: a bank, or its folder.

    Raises:
        ConfigError: a setting does not fit, or an image or label does not fit the bank.

    Example:
        >>> from monai.transforms import LoadImage
        >>> mix = SyntheticMix(bank, prob=0.25).set_random_state(0)
        >>> image, label = mix(LoadImage(ensure_channel_first=True)("scan.png"), 1)
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012 - MONAI's own declaration

    def __init__(
        self,
        bank: SyntheticBank | str | Path,
        prob: float = 0.25,
        *,
        classes: Literal["same", "balanced"] = "same",
        transform: Callable[[Any], Any] | None = None,
        axes: str | None = None,
    ) -> None:
        if not 0 <= prob <= 1:
            raise ConfigError(f"prob is {prob}; a probability from 0 to 1 was wanted.")
        if classes not in ("same", "balanced"):
            raise ConfigError(f"classes is {classes!r}; 'same' or 'balanced' was wanted.")
        self.bank = bank if isinstance(bank, SyntheticBank) else SyntheticBank.open(bank)
        sides = "dhw"[-len(self.bank.shape[1:]) :]
        if axes is not None and sorted(axes) != sorted(sides):
            raise ConfigError(
                f"axes is {axes!r}; the letters of {sides!r} in the order of the item's axes were wanted."
            )
        RandomizableTransform.__init__(self, prob)
        self.classes = classes
        self.transform = transform
        self.axes = axes
        self.position: int | None = None
        """Where in the bank the image of the last draw stands; None if that item stays as it is."""
        self._worker: int | None = None
        self._looked = False

    @property
    def provenance(self) -> dict[str, Any]:
        """The provenance of the last item, without its label; the same keys for a real one."""
        if self.position is None:
            return dict(NOT_SYNTHETIC)
        return {key: value for key, value in self.bank.provenance(self.position).items() if key in NOT_SYNTHETIC}

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> SyntheticMix:  # as in MONAI, for chaining
        """Seed the draws; see MONAI's `Randomizable`."""
        super().set_random_state(seed, state)
        self._worker = _worker_seed()
        return self

    def randomize(self, data: Any) -> None:
        """Draw for an item whose label is `data`."""
        index = self._index(data)
        if _worker_seed() not in (None, self._worker):
            words = np.random.SeedSequence(int(torch.randint(2**62, ()))).generate_state(4)
            self.set_random_state(state=np.random.RandomState(words))
        super().randomize(None)
        self.position = None
        if not self._do_transform:
            return
        held = list(self.bank.counts.values())
        if self.classes == "balanced":
            index = int(self.R.choice(np.flatnonzero(held)))
        if held[index]:
            self.position = int(self.bank.positions(index, np.array([self.R.randint(held[index])]))[0])

    def __call__(self, img: Any, label: Any = None, randomize: bool = True) -> tuple[Any, Any]:
        """Return the image (channels first) and its label, or those that take their place."""
        if randomize:
            self.randomize(label)
        return (img, label) if self.position is None else (self.image_like(img), self.label_like(label))

    def validate_against(
        self,
        val: Validation,
        *,
        image_key: str = "image",
        groups: Sequence[str] | None = None,
        group_regex: str | None = None,
    ) -> LeakReport:
        """Raise a `LeakError` if the generator of the bank has seen validation data `val`, a folder or a data set.

        See `ganaug.sampling.leak.validate_against`, also for what is returned and the other errors.
        """
        return validate_against(self.bank, val, image_key=image_key, groups=groups, group_regex=group_regex)

    def label_like(self, label: Any) -> Any:
        """Return the label of the drawn image in the type of `label`."""
        assert self.position is not None
        index = int(self.bank.labels[self.position])
        return self.bank.classes[index] if isinstance(label, str) else like_label(label, index)

    def image_like(self, img: Any) -> Any:
        """Return the drawn image in the form of `img`."""
        assert self.position is not None
        if not isinstance(img, np.ndarray | torch.Tensor):
            raise ConfigError(
                f"The item's image is a {type(img).__name__}; an array or tensor was wanted. Put the transform behind "
                "LoadImaged and EnsureChannelFirstd."
            )
        image = turned(self.bank.image(self.position), *self._frame(img))
        if image.shape[-1] == 1 and image.ndim > img.ndim:
            image = image[..., 0]
        if image.shape[0] == 1 and img.shape[0] == 3:
            image = image.repeat(3, axis=0)
        if self.transform is None:
            # The first items tell; all of them would cost time.
            self._looked = self._looked or same_units(
                float(img.min()), float(img.max()), image, self.bank.intensity, remedy=_REMEDY
            )
        else:
            as_real = convert_to_dst_type(image.astype(np.float32), img, dtype=np.float32)[0]
            image = self.transform(as_real)
        self._check_form(img, image)
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        new = convert_to_dst_type(plain if isinstance(plain, torch.Tensor) else _tensor(plain), img)[0]
        if isinstance(new, MetaTensor) and "filename_or_obj" in new.meta:
            new.meta["filename_or_obj"] = f"{self.bank.path / 'images.npy'}[{self.position}]"
        return new

    def _index(self, label: Any) -> int:
        known = self.bank.classes
        index = (known.index(label) if label in known else -1) if isinstance(label, str) else label_value(label)
        if not 0 <= index < len(known):
            raise ConfigError(
                f"The label is {label!r}; 0 to {len(known) - 1}, or one of the bank's classes {', '.join(known)}, was "
                "wanted. Use the bank of a model trained on your classes."
            )
        return index

    def _frame(self, img: Any) -> tuple[str, str, np.ndarray]:
        """Return how a bank image lies in the space of the item's affine, and that affine; see `turned`."""
        flat = "1" * (4 - len(self.bank.shape))
        if self.axes is not None:
            return self.axes + flat, "RAS", np.eye(4)
        if not isinstance(img, MetaTensor):
            raise ConfigError(
                f"The item's image is a {type(img).__name__} without metadata, which does not say what its axes are. "
                f"Pass axes={'dhw' if not flat else 'hw'!r} for arrays as NumPy and torchvision have them, or "
                f"{'whd' if not flat else 'wh'!r} for PNG files that MONAI read, or keep their metadata."
            )
        affine = np.array(to_affine_nd(3, img.affine.cpu().numpy()), np.float64)
        if img.shape[3:] in ((), (1,)):  # one slice: what the third axis means is made up by some readers
            affine[:3, 2] = np.cross(affine[:3, 0], affine[:3, 1])
        if not is_valid_affine(affine):
            raise ConfigError(f"The item's affine {affine.tolist()} gives its axes no directions. Pass axes=.")
        if img.meta.get("space") == "LPS":
            affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
        # Readers of files that lie somewhere keep the affine they found; others leave an identity that means nothing.
        if "original_affine" in img.meta:
            return (*in_world(len(self.bank.shape) - 1, affine, tuple(img.shape[1:])), affine)
        if flat:
            return ("wh1" if img.meta.keys() >= _PIL_META else "hw1"), "RAS", affine
        return "dhw", "RAS", affine

    def _check_form(self, img: Any, image: Any) -> None:
        if tuple(image.shape) != tuple(img.shape):
            swapped = sorted(image.shape[1:]) == sorted(img.shape[1:]) and self.axes is None
            raise ConfigError(
                f"The item's image has the shape {tuple(img.shape)}, the synthetic one {tuple(image.shape)}, in the "
                f"item's axes. Add Resized(keys, spatial_size={list(image.shape[1:])}) before this transform, or make "
                "a model of your size (ganaug fit --size); channels must agree too."
                + (" If rows and columns are swapped (reverse_indexing=False), pass axes=." if swapped else "")
            )
        name, stored = str(img.dtype).removeprefix("torch."), self.bank.images.dtype
        fits = name in ("float32", "float64") or (stored == np.uint8 and name in ("float16", "bfloat16"))
        if self.transform is None and not fits and not np.can_cast(stored, "float16" if "float" in name else name):
            raise ConfigError(
                f"The item's image is {name}, which cannot hold the bank's {stored}. Load it as float32 (LoadImaged "
                "does), or convert it behind this transform."
            )


class SyntheticMixd(RandomizableTransform, MapTransform):
    """The dictionary version of `SyntheticMix`: replaces ``item[key]``, and its label where the class is drawn.

    Each item, replaced or not, gets the provenance keys ``synthetic, source, seed, index, model_sha256, truncation,
    accepted, scores``, so that collating keeps them. All `keys` get the same bank image. Other images of the item,
    such as a mask, stay those of the real one: this is for classifiers.

    Args:
        keys: of the images.
        label_key: of the label.
        bank, prob, classes, transform, axes: see `SyntheticMix`.
        allow_missing_keys: whether items without a label, or without some of the keys, are left as they are there.

    Raises:
        ConfigError: as `SyntheticMix` does, or a provenance key is taken. Inside a `Compose` it is the cause of
            MONAI's RuntimeError.

    Example:
        >>> from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Resized, ScaleIntensityd
        >>> train = Compose([
        ...     LoadImaged("image"),
        ...     EnsureChannelFirstd("image"),
        ...     Resized("image", spatial_size=(6, 4)),
        ...     SyntheticMixd("image", "label", bank=bank, prob=0.25),
        ...     ScaleIntensityd("image"),
        ... ])
        >>> item = train({"image": "scan.png", "label": 1})
        >>> sorted(item)
        ['accepted', 'image', 'index', 'label', 'model_sha256', 'scores', 'seed', 'source', 'synthetic', 'truncation']
    """

    backend = SyntheticMix.backend

    def __init__(
        self,
        keys: KeysCollection,
        label_key: Hashable = "label",
        *,
        bank: SyntheticBank | str | Path,
        prob: float = 0.25,
        classes: Literal["same", "balanced"] = "same",
        transform: Callable[[Any], Any] | None = None,
        axes: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.mix = SyntheticMix(bank, prob, classes=classes, transform=transform, axes=axes)
        RandomizableTransform.__init__(self, prob)
        self.label_key = label_key

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> SyntheticMixd:  # as in MONAI, for chaining
        """Seed the draws; see MONAI's `Randomizable`."""
        self.mix.set_random_state(seed, state)
        super().set_random_state(state=self.mix.R)
        return self

    def randomize(self, data: Any) -> None:
        """Draw for an item whose label is `data`."""
        self.mix.randomize(data)
        self._do_transform = self.mix.position is not None

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item, its images replaced or not, with its provenance."""
        item = dict(data)
        keys = list(self.key_iterator(item))
        self._check(item)
        self._do_transform = False
        if keys and self.label_key in item:
            self.randomize(item[self.label_key])
        if not self._do_transform:
            # Another transform of this kind, with its own bank, may have been here before.
            for name, value in NOT_SYNTHETIC.items():
                item.setdefault(name, value)
            return item
        for key in keys:
            item[key] = self.mix.image_like(item[key])
        item[self.label_key] = self.mix.label_like(item[self.label_key])
        item.update(self.mix.provenance)
        return item

    def validate_against(
        self, val: Validation, *, groups: Sequence[str] | None = None, group_regex: str | None = None
    ) -> LeakReport:
        """Raise a `LeakError` if the generator of the bank has seen validation data `val`, looking at the first key.

        See `ganaug.sampling.leak.validate_against`, also for what is returned and the other errors.
        """
        bank, key = self.mix.bank, str(self.keys[0])
        return validate_against(bank, val, image_key=key, groups=groups, group_regex=group_regex)

    def _check(self, item: Mapping[Hashable, Any]) -> None:
        if self.label_key not in item and not self.allow_missing_keys:
            raise ConfigError(
                f"The item has the keys {sorted(map(str, item))}; the label {self.label_key!r} was wanted. Pass "
                "label_key=, or allow_missing_keys=True to leave items without a label as they are."
            )
        taken = [key for key in NOT_SYNTHETIC if key in item]
        if taken and "synthetic" not in item:
            raise ConfigError(
                f"The item already has the keys {', '.join(taken)}, which the provenance needs. Rename yours, for "
                "example with CopyItemsd and DeleteItemsd."
            )


def _tensor(image: np.ndarray) -> torch.Tensor:
    # Older operators do not know torch's unsigned types above 8 bit; int32 holds all that a bank has.
    return torch.from_numpy(image.astype(np.int32) if image.dtype == np.uint16 else image)


def _worker_seed() -> int | None:
    worker = get_worker_info()
    return None if worker is None else int(worker.seed)


SyntheticMixD = SyntheticMixDict = SyntheticMixd
