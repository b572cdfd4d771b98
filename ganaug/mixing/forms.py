"""Bank images in the form that the user's data set has: PIL, array or tensor, transformed or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors

from ganaug.errors import ConfigError

ADD_TRANSFORM = (
    "Pass the transform that your real images go through, for example SyntheticMixDataset(real, bank, "
    "transform=torchvision.transforms.functional.to_tensor)."
)


class ImageForm:
    """Turns a bank image (C×H×W, stored dtype) into the form that the real items have.

    With a transform (given, or found as the ``transform`` of a torchvision data set) the result is whatever
    it makes of a PIL image; bank images that PIL has no form for (not uint8, or neither 1 nor 3 channels)
    reach a given transform as an H×W×C array. Without one, the real items must be PIL images, or arrays or
    tensors in the bank's own integer dtype, and are imitated. Gray bank images become RGB where the real
    items have three channels.

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
    ) -> None:
        self.transform = transform
        self.to_rgb = stored.shape[0] == 1 and _channels(example) == 3
        self.make: Callable[[np.ndarray], Any]
        if transform is not None and found and not _has_picture(stored):
            raise ConfigError(
                f"The bank's images are {stored.dtype} of shape {stored.shape}, which the data set's own "
                "transform cannot take as a PIL image. Pass transform=, a function of an H×W×C array."
            )
        if transform is not None:
            self.make = _to_pil if _has_picture(stored) else _to_array
        else:
            self.make = _imitation(example, stored)
        try:
            made = self(stored)
        except Exception as problem:
            got = "a PIL image" if _has_picture(stored) else "an H×W×C array"
            raise ConfigError(
                f"The transform failed on a synthetic image ({type(problem).__name__}: {problem}). It got "
                f"{got}; pass transform=, a function that takes one."
            ) from problem
        _check_fits(example, made)

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
        raise ConfigError(
            f"The real images are {type(example).__name__}s of {dtype}, the bank's are {stored.dtype}: how "
            f"your data set scales images cannot be known. {ADD_TRANSFORM}"
        )
    if isinstance(example, np.ndarray):
        return _to_flat_array if example.ndim == stored.ndim - 1 and stored.shape[0] == 1 else _to_array
    return _to_tv_image if isinstance(example, tv_tensors.Image) else torch.from_numpy


def _check_fits(example: Any, made: Any) -> None:
    """Raise unless a default collate function can put the two into one batch."""
    if isinstance(example, Image.Image) and isinstance(made, Image.Image):
        # Sizes may differ: whatever turns the pictures into tensors comes later, and takes any size.
        if example.mode != made.mode:
            raise ConfigError(
                f"The real images are PIL images of mode {example.mode!r}, the synthetic ones of "
                f"{made.mode!r}. Convert one of them: transform=lambda image: "
                f"image.convert({example.mode!r})."
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


def _remedy(example: Any, made: Any) -> str:
    shape = tuple(example.shape)
    if len(shape) != len(made.shape):
        return "Pass the transform= that your real images go through."
    if _channels(example) != _channels(made):
        return (
            f"Add torchvision.transforms.v2.Grayscale(num_output_channels={_channels(example)}) to "
            "transform=, or read the real images with the bank's number of channels."
        )
    size = list(made.shape[:2] if isinstance(made, np.ndarray) else made.shape[-2:])
    return (
        f"Bring both to one size: torchvision.transforms.v2.Resize({size}), or the size that your classifier wants, in "
        "the transform of your real images (and in transform=, if you pass one, for the synthetic ones)."
    )


def _has_picture(stored: np.ndarray) -> bool:
    return stored.dtype == np.uint8 and stored.ndim == 3 and stored.shape[0] in (1, 3)


def _channels(image: Any) -> int:
    if isinstance(image, Image.Image):
        return len(image.getbands())
    if not hasattr(image, "shape") or len(image.shape) < 3:
        return 1
    return int(image.shape[-1] if isinstance(image, np.ndarray) else image.shape[0])


def _name(image: Any) -> str:
    return f"{type(image).__module__}.{type(image).__qualname__}"


def _to_array(stored: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(stored, 0, -1))


def _to_flat_array(stored: np.ndarray) -> np.ndarray:
    return stored[0]


def _to_pil(stored: np.ndarray) -> Image.Image:
    return Image.fromarray(stored[0] if stored.shape[0] == 1 else _to_array(stored))


def _to_tv_image(stored: np.ndarray) -> tv_tensors.Image:
    return tv_tensors.Image(torch.from_numpy(stored))
