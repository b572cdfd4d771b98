"""Bank images in the form that the user's data set has: PIL, array, tensor or MetaTensor, transformed or not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors

from ganaug.errors import ConfigError
from ganaug.mixing.real import channels_of, check_fits
from ganaug.mixing.stored import in_world, turned

ADD_TRANSFORM = (
    "Pass the transform that your real images go through, for example SyntheticMixDataset(real, bank, "
    "transform=torchvision.transforms.functional.to_tensor)."
)


class ImageForm:
    """Turns a bank image (C×H×W or C×D×H×W, stored dtype) into the form that the real items have.

    With a transform (given, or found as the ``transform`` of the data set) the result is what it makes of

    - a channels-first MetaTensor as MONAI's loader would have made it (see `_as_loaded`), if the transform is MONAI's
      and the real items are MetaTensors. A ``Compose`` starts behind its first steps that load and move channels, and
      dictionary transforms get a dictionary with the two `keys`;
    - otherwise a PIL image, where PIL has a form (uint8, 1 or 3 channels);
    - otherwise an array, H×W or D×H×W if there is one channel, else H×W×C or D×H×W×C: what readers of 16-bit images
      return. Only to a given transform; whether a found one takes arrays cannot be known.

    Without one, the real items must be PIL images, or arrays or tensors in the bank's own integer dtype, and are
    imitated. Gray bank images become RGB where the real items have three channels.

    A bank's volume is D×H×W: of files that say where they lie (NIfTI, DICOM) toward the patient's head, back and left;
    of others (.npy) as the file has it. Arrays and plain tensors are taken to have these axes too.

    Raises:
        ConfigError: the form cannot be known or does not fit, on construction.
    """

    def __init__(
        self,
        example: Any,
        stored: np.ndarray,
        *,
        transform: Callable[[Any], Any] | None = None,
        found: bool = False,
        keys: tuple[str, str] | None = None,
    ) -> None:
        self.to_rgb = stored.shape[0] == 1 and channels_of(example) == 3
        self.transform = transform
        self.make: Callable[[np.ndarray], Any]
        if is_monai(transform):
            if not _is_meta_tensor(example):
                raise ConfigError(
                    f"The transform is one of MONAI's, but the real images are {type(example).__name__}s, which do not "
                    "say how their axes lie; MetaTensors were wanted. End it with EnsureTyped(..., track_meta=True), "
                    "or pass transform=, a function (none of MONAI's) of one image."
                )
            self.transform, got = _AfterLoading(transform, keys), "a MetaTensor, channels first"
            self.make = _as_loaded(example, stored.ndim - 1)
        elif transform is not None and _has_picture(stored):
            self.make, got = _to_pil, "a PIL image"
        elif transform is not None and found:
            raise ConfigError(
                f"The bank's images are {stored.dtype} of shape {stored.shape}, which the data set's own transform "
                "cannot take as a PIL image. Pass transform=, a function of an array H×W (D×H×W for volumes), with "
                "the channels last if there are several."
            )
        elif transform is not None:
            self.make, got = _to_flat_array if stored.shape[0] == 1 else _to_array, "an array"
        else:
            self.make, got = _imitation(example, stored), ""
        try:
            made = self(stored)
        except Exception as problem:
            raise ConfigError(
                f"The transform failed on a synthetic image ({type(problem).__name__}: {problem}). It got "
                f"{got}; pass transform=, a function that takes one."
            ) from problem
        check_fits(example, made)

    def __call__(self, stored: np.ndarray) -> Any:
        image = self.make(np.repeat(stored, 3, axis=0) if self.to_rgb else stored)
        return image if self.transform is None else self.transform(image)


def _imitation(example: Any, stored: np.ndarray) -> Callable[[np.ndarray], Any]:
    if isinstance(example, Image.Image):
        if _has_picture(stored):
            return _to_pil
        raise ConfigError(
            f"The real items are PIL images of mode {example.mode!r}, but the bank's are {stored.dtype} of "
            f"shape {stored.shape}, for which PIL has no form. Give the real ones as arrays, or pass "
            "transform=."
        )
    if not isinstance(example, np.ndarray | torch.Tensor):
        raise ConfigError(f"The real images are {type(example).__name__}, which is not known here. {ADD_TRANSFORM}")
    dtype = str(example.dtype).removeprefix("torch.")
    if dtype != str(stored.dtype) or stored.dtype.kind not in "iu":
        what = f"The real images are {type(example).__name__}s of {dtype}, the bank's are {stored.dtype}: "
        if not dtype.startswith(("float", "bfloat")):
            raise ConfigError(
                f"{what}they hold other scales. Use a bank of a model that was trained on these very files, or pass "
                f"transform=, a function that brings a synthetic image to the {dtype} values of the real ones."
            )
        raise ConfigError(f"{what}how your data set scales images cannot be known. {ADD_TRANSFORM}")
    if isinstance(example, np.ndarray):
        return _to_flat_array if example.ndim == stored.ndim - 1 and stored.shape[0] == 1 else _to_array
    if _is_meta_tensor(example):
        return _in_place_of(example, stored.ndim - 1)
    return _to_tv_image if isinstance(example, tv_tensors.Image) else torch.from_numpy


def _has_picture(stored: np.ndarray) -> bool:
    return stored.dtype == np.uint8 and stored.ndim == 3 and stored.shape[0] in (1, 3)


def _to_array(stored: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(stored, 0, -1))


def _to_flat_array(stored: np.ndarray) -> np.ndarray:
    return stored[0]


def _to_pil(stored: np.ndarray) -> Image.Image:
    return Image.fromarray(stored[0] if stored.shape[0] == 1 else _to_array(stored))


def _to_tv_image(stored: np.ndarray) -> tv_tensors.Image:
    return tv_tensors.Image(torch.from_numpy(stored))


def _is_meta_tensor(image: Any) -> bool:
    # MONAI takes seconds to import; where nobody has imported it, nothing can be a MetaTensor.
    module = sys.modules.get("monai.data.meta_tensor")
    return module is not None and isinstance(image, module.MetaTensor)


def is_monai(transform: Any) -> bool:
    """Return whether `transform` is one of MONAI's."""
    module = sys.modules.get("monai.transforms")
    return module is not None and isinstance(transform, module.Transform)


class _AfterLoading:
    """A MONAI transform without its first steps, those that load and move channels, as a function of an image."""

    def __init__(self, transform: Any, keys: tuple[str, str] | None) -> None:
        from monai import transforms as monai

        loading = (monai.LoadImage, monai.LoadImaged, monai.EnsureChannelFirst, monai.EnsureChannelFirstd)
        self.compose = transform if type(transform) is monai.Compose else monai.Compose([transform])
        self.start = [*(isinstance(step, loading) for step in self.compose.transforms), False].index(False)
        steps = self.compose.flatten().transforms
        self.keys = keys if any(isinstance(step, monai.MapTransform) for step in steps) else None

    def __call__(self, image: Any) -> Any:
        if self.keys is None:
            return self.compose(image, start=self.start)
        # The label only completes the item: the data set has its own.
        image_key, label_key = self.keys
        return self.compose({image_key: image, label_key: 0}, start=self.start)[image_key]


def _as_loaded(example: Any, dims: int) -> _MetaTensors:
    """Return what turns a bank image into what MONAI's loader would have made of it, in stored units."""
    meta = example.meta
    dtype = "float32" if "filename_or_obj" in meta else None
    if "original_affine" not in meta:
        return _MetaTensors(dims, np.eye(len(example.affine)), tuple(example.shape[1:]), meta, dtype)
    if "spatial_shape" not in meta:
        raise ConfigError(
            "The meta of the real images has an original_affine but no spatial_shape: where their files lie cannot be "
            "known. Keep the meta that LoadImaged makes, or pass transform=, a function (none of MONAI's) of an array."
        )
    sides = tuple(int(side) for side in meta["spatial_shape"])
    return _MetaTensors(dims, np.asarray(meta["original_affine"], np.float64), sides, meta, dtype)


def _in_place_of(example: Any, dims: int) -> _MetaTensors:
    """Return what turns a bank image into a MetaTensor that lies where `example` does."""
    affine = np.asarray(example.affine, np.float64)
    return _MetaTensors(dims, affine, tuple(example.shape[1:]), example.meta, None)


class _MetaTensors:
    """Makes MetaTensors of bank images, in the axes and the place of an item with such sides, affine and meta.

    Pictures that MONAI read are C×W×H, volumes (and slices) C×X×Y×Z along the axes of their file. They take the item's
    field of view. Other arrays (.npy, or from memory) have the bank's axes.
    """

    def __init__(
        self, dims: int, affine: np.ndarray, sides: tuple[int, ...], meta: Mapping[str, Any], dtype: str | None
    ) -> None:
        self.affine, self.sides, self.dtype = affine, sides, dtype
        # Of the other keys, collating keeps those that all items have.
        self.meta = {"space": meta["space"]} if "space" in meta else {}
        if "filename_or_obj" in meta:
            self.meta["filename_or_obj"] = "synthetic"
        # MONAI's readers keep the affine that they found; without one theirs is an identity that means nothing.
        self.in_space = "original_affine" in meta
        self.world = np.diag([-1.0, -1, 1, 1]) @ affine if meta.get("space") == "LPS" and self.in_space else affine
        if self.in_space:
            self.layout, self.codes = in_world(dims, self.world, sides)
        else:
            self.world, self.codes = np.eye(4), "RAS"
            picture = {"format", "mode", "width", "height"} <= meta.keys()
            self.layout = "dhw" if dims == 3 else "wh1" if picture else "hw1"

    def __call__(self, stored: np.ndarray) -> Any:
        from monai.data import MetaTensor

        array = turned(stored, self.layout, self.codes, self.world)
        affine = self.affine.copy()
        if self.in_space:
            step = np.array((*self.sides, 1)[:3]) / array.shape[1:]
            affine[:3, :3] *= step
            affine[:3, 3] += self.affine[:3, :3] @ ((step - 1) / 2)
        if array.ndim > 1 + len(self.sides):
            array = array[..., 0]
        values = torch.from_numpy(array if self.dtype is None else array.astype(self.dtype))
        return MetaTensor(values, affine=torch.from_numpy(affine), meta=dict(self.meta))
