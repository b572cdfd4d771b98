"""A TorchIO transform that puts an image of a bank in the place of a subject's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

try:
    from torchio import Subject
    from torchio.transforms.augmentation import RandomTransform
except ImportError as problem:
    raise ImportError("This transform needs TorchIO: pip install 'torchio<2'.") from problem

from ganaug.errors import ConfigError
from ganaug.mixing.real import NOT_SYNTHETIC, label_value
from ganaug.mixing.stored import in_world, same_units, turned
from ganaug.sampling.bank import SyntheticBank

_REMEDY = "Put the transform before those that scale values."


class SyntheticMix(RandomTransform):
    """With probability `p` replaces a subject's images by one of the bank, of the class that ``subject[label_key]`` is.

    It stands first, in stored units, behind a ``Resize`` where sizes differ; affines and label maps stay. Subjects of
    classes that the bank has none of stay too; all get provenance, see ``ganaug.mixing.monai.SyntheticMixd``. `kwargs`
    are TorchIO's own, such as ``include=["t1"]``. Raises ConfigError if p, the label or an image does not fit.
    """

    def __init__(self, bank: SyntheticBank | str | Path, p: float = 0.25, *, label_key: str = "label", **kwargs: Any):
        if not 0 <= p <= 1:
            raise ConfigError(f"p is {p}; a probability from 0 to 1 was wanted.")
        super().__init__(**kwargs)  # with p = 1: real subjects need their provenance too
        self.bank = bank if isinstance(bank, SyntheticBank) else SyntheticBank.open(bank)
        self.share, self.label_key, self._looked = p, label_key, False

    def apply_transform(self, subject: Subject) -> Subject:
        """Replace the images, or not, and add the provenance."""
        label = label_value(subject[self.label_key])
        if not 0 <= label < len(self.bank.classes):
            raise ConfigError(f"The label is {label}; 0 to {len(self.bank.classes) - 1} was wanted.")
        held = self.bank.counts[self.bank.classes[label]]
        if torch.rand(()) >= self.share or not held:
            subject.update({key: subject.get(key, value) for key, value in NOT_SYNTHETIC.items()})
            return subject
        position = int(self.bank.positions(label, torch.randint(held, (1,)).numpy())[0])
        for image in subject.get_images(intensity_only=True, include=self.include, exclude=self.exclude):
            frame = in_world(len(self.bank.shape) - 1, image.affine, image.spatial_shape)
            new = turned(self.bank.image(position), *frame, image.affine)
            if new.shape != tuple(image.data.shape):
                raise ConfigError(f"The image is {tuple(image.data.shape)}; add Resize({new.shape[1:]}) before this.")
            ends = float(image.data.min()), float(image.data.max())
            self._looked = self._looked or same_units(*ends, new, self.bank.intensity, remedy=_REMEDY)
            image.set_data(torch.from_numpy(new.astype("float32")).to(image.data.dtype))
        subject.update({key: value for key, value in self.bank.provenance(position).items() if key in NOT_SYNTHETIC})
        return subject
