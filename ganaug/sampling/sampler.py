"""Images from a model file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ganaug.data.intensity import IntensityMap
from ganaug.errors import ConfigError
from ganaug.models.device import choose_device
from ganaug.models.grids import images_in_a_pass
from ganaug.models.latents import latents_for
from ganaug.models.modelfile import ModelHeader, find_model, load_model

CHUNK = 64
"""Most images in a forward pass. Their number depends on the shape alone: the same sums in the same order, whatever
batch the caller asks for."""


class Sampler:
    """A generator that is ready to make images; get one from `load`.

    Image i of class c under seed s is a function of (model file, c, s, i) alone: the same in any batch and any order.
    """

    def __init__(
        self,
        generator: torch.nn.Module,
        header: ModelHeader,
        sha256: str,
        *,
        path: Path,
        device: torch.device,
    ) -> None:
        self._generator = generator
        self.header = header
        self.model_sha256 = sha256
        """SHA-256 of the model file."""
        self.path = path
        """The model file."""
        self.device = device

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.shape))
        return f"Sampler({str(self.path)!r}, classes={list(self.classes)}, shape={shape}, device={str(self.device)!r})"

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is an index into them."""
        return self.header.classes

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image, channels first: (C, H, W) or (C, D, H, W)."""
        return (self.header.channels, *self.header.size)

    @property
    def intensity(self) -> IntensityMap:
        """The way from [-1, 1] back to the stored values of the user's files."""
        return self.header.intensity

    @property
    def latent_dim(self) -> int:
        """Dimension of the latent vectors."""
        return int(self.header.settings["latent_dim"])

    def sample(
        self,
        labels: Sequence[int] | Tensor,
        *,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        truncation: float = 1.0,
    ) -> Tensor:
        """Make one image for each label.

        Args:
            labels: N class indices.
            seed: an integer of 0 or more, below 2⁶⁴.
            indices: the number of each image within its class; by default they count up from 0 in each class.
            truncation: factor on the latents, in (0, 1]; below 1 the images are more typical and less diverse, which
                makes worse training data.

        Returns:
            N×C×H×W or N×C×D×H×W float32 on the CPU, in [-1, 1].

        Raises:
            ConfigError: a label is out of range, the numbers of labels and indices differ, or truncation does not fit.
        """
        names = [int(label) for label in labels]
        wrong = sorted({label for label in names if not 0 <= label < len(self.classes)})
        if wrong:
            raise ConfigError(
                f"Labels {wrong[:5]} were given; this model has {len(self.classes)} classes, 0 to "
                f"{len(self.classes) - 1}: {', '.join(self.classes[:20])}."
            )
        if not 0 < truncation <= 1:
            raise ConfigError(f"truncation = {truncation} was given; it must be above 0 and at most 1 (1 is none).")
        if not 0 <= seed < 2**64:
            raise ConfigError(f"seed = {seed} was given; it must be an integer of 0 or more, below 2^64.")
        if indices is None:
            seen: Counter[int] = Counter()
            numbers = []
            for label in names:
                numbers.append(seen[label])
                seen[label] += 1
        else:
            numbers = [int(index) for index in indices]
        if len(numbers) != len(names):
            raise ConfigError(f"{len(names)} labels and {len(numbers)} indices were given; as many were wanted.")
        if numbers and not 0 <= min(numbers) <= max(numbers) < 2**63:
            raise ConfigError(
                f"Indices from {min(numbers)} to {max(numbers)} were given; integers of 0 to 2^63 - 1 were wanted."
            )
        latents = latents_for(names, numbers, seed=seed, dim=self.latent_dim)
        return self.decode(latents * truncation, torch.tensor(names, dtype=torch.int64))

    @torch.no_grad()  # not inference mode: its tensors cannot take part in a training
    def decode(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Turn latents (N×Z) of classes `labels` (N) into N images, float32 on the CPU in [-1, 1]."""
        images = torch.empty(len(latents), *self.shape)
        chunk = images_in_a_pass(self.shape, most=CHUNK)
        for start in range(0, len(latents), chunk):
            z, c = latents[start : start + chunk], labels[start : start + chunk]
            filled = len(z)
            if filled < chunk:
                z = torch.cat([z, z.new_zeros(chunk - filled, z.shape[1])])
                c = torch.cat([c, c.new_zeros(chunk - filled)])
            made = self._generator(z.to(self.device), c.to(self.device))
            images[start : start + filled] = made[:filled].float().clamp(-1, 1).cpu()
        return images

    def stored(self, images: Tensor) -> Tensor:
        """Return images of `sample` in the stored dtype and units of the user's files."""
        return torch.from_numpy(self.intensity.inverse(images.numpy(), tails=False))


def load(path: str | Path, *, device: str = "auto") -> Sampler:
    """Load the generator of a run folder, or of a model file.

    Raises:
        ModelFileError: there is none, or it is damaged.
        ConfigError: there is no such device.
    """
    place = choose_device(device)
    file = find_model(path)
    generator, header, sha256 = load_model(file, place)
    return Sampler(generator, header, sha256, path=file, device=place)
