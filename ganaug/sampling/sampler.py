"""Images from a model file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ganaug.data.intensity import IntensityMap
from ganaug.errors import ConfigError
from ganaug.models import StyleGenerator
from ganaug.models.device import choose_device
from ganaug.models.grids import images_in_a_pass
from ganaug.models.latents import latents_for
from ganaug.models.modelfile import ModelHeader, find_model, load_model
from ganaug.models.translation import TranslationNet
from ganaug.sampling.leak import manifest_beside
from ganaug.sampling.translator import Translator

CHUNK = 64
"""Most images in a forward pass. Their number depends on the shape alone: the same sums in the same order, whatever
batch the caller asks for."""
MEAN_OF = 1024
"""Latents whose styles make a class's mean style."""


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
        self._mean_styles: dict[int, Tensor] = {}

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
            truncation: in (0, 1]; below 1 the images are more typical and less diverse, which makes worse training
                data. See `decode`.

        Returns:
            N×C×H×W or N×C×D×H×W float32 on the CPU, in [-1, 1].

        Raises:
            ConfigError: a label is out of range, the numbers of labels and indices differ, or truncation does not fit.
        """
        names = [int(label) for label in labels]
        latents = self.latents(names, seed=seed, indices=indices)
        return self.decode(latents, torch.tensor(names, dtype=torch.int64), truncation=truncation)

    def latents(self, labels: Sequence[int] | Tensor, *, seed: int = 0, indices: Sequence[int] | None = None) -> Tensor:
        """Return the latents (N×Z float32) of the images that `sample` makes from the same arguments.

        Raises:
            ConfigError: as `sample` does.
        """
        names = [int(label) for label in labels]
        wrong = sorted({label for label in names if not 0 <= label < len(self.classes)})
        if wrong:
            raise ConfigError(
                f"Labels {wrong[:5]} were given; this model has {len(self.classes)} classes, 0 to "
                f"{len(self.classes) - 1}: {', '.join(self.classes[:20])}."
            )
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
        return latents_for(names, numbers, seed=seed, dim=self.latent_dim)

    @torch.no_grad()  # not inference mode: its tensors cannot take part in a training
    def decode(self, latents: Tensor, labels: Tensor, *, truncation: float = 1.0) -> Tensor:
        """Turn latents (N×Z) of classes `labels` (N) into N images, float32 on the CPU in [-1, 1].

        Truncation ψ moves the styles of a model that has them towards their class's mean style, w̄ + ψ(w - w̄) (Karras
        et al. 2019, appendix B); the latents of all others are multiplied by ψ.
        """
        _require_truncation(truncation)
        if truncation < 1 and self.has_styles:
            return self.draw(self.styles(latents, labels, truncation=truncation))
        images = torch.empty(len(latents), *self.shape)
        return self._in_passes(self._generator, images, latents * truncation, labels).clamp_(-1, 1)

    @property
    def generator(self) -> torch.nn.Module:
        """The network, in evaluation mode, on `device`; its weights do not require gradients."""
        return self._generator

    @property
    def has_styles(self) -> bool:
        """Whether the model makes its images from styles, as ``arch: style`` does."""
        return isinstance(self._generator, StyleGenerator)

    @property
    def style_generator(self) -> StyleGenerator:
        """The network of a model that has styles. Raises ConfigError for any other."""
        if not isinstance(self._generator, StyleGenerator):
            arch = self.header.settings["arch"]
            raise ConfigError(
                f"{self.path} has arch {arch!r}, which has no styles; arch 'style' was wanted. "
                "Train one with 'ganaug fit … --set arch=style'."
            )
        return self._generator

    @torch.no_grad()
    def styles(self, latents: Tensor, labels: Tensor, *, truncation: float = 1.0) -> Tensor:
        """Return the styles w, N×W float32 on the CPU, of latents (N×Z) of classes `labels` (N).

        Raises:
            ConfigError: the model has no styles, or truncation does not fit.
        """
        _require_truncation(truncation)
        generator = self.style_generator
        styles = self._in_passes(generator.map, torch.empty(len(latents), generator.style_dim), latents, labels)
        if truncation == 1 or not len(styles):
            return styles
        means = torch.stack([self.mean_style(int(label)) for label in labels])
        return means + truncation * (styles - means)

    def mean_style(self, label: int) -> Tensor:
        """Return the mean of the styles of a class: W float32, over `MEAN_OF` latents that are always the same."""
        if label not in self._mean_styles:
            latents = latents_for([label] * MEAN_OF, range(MEAN_OF), seed=0, dim=self.latent_dim)
            self._mean_styles[label] = self.styles(latents, torch.full((MEAN_OF,), label)).mean(0)
        return self._mean_styles[label]

    @torch.no_grad()
    def draw(self, styles: Tensor) -> Tensor:
        """Turn styles into N images, float32 on the CPU in [-1, 1]; a class is in its styles already.

        Args:
            styles: N×W, or N×layers×W with a style for each layer, from the coarsest to the finest.

        Raises:
            ConfigError: the model has no styles.
        """
        generator = self.style_generator
        rows = styles[:, None].expand(-1, generator.layers, -1) if styles.ndim == 2 else styles
        images = torch.empty(len(rows), *self.shape)
        return self._in_passes(generator.synthesize, images, rows).clamp_(-1, 1)

    def _in_passes(self, make: Callable[..., Tensor], out: Tensor, *inputs: Tensor) -> Tensor:
        """Fill `out` with what `make` turns the inputs into: always as many rows in a pass, the last filled up."""
        chunk = images_in_a_pass(self.shape, most=CHUNK)
        for start in range(0, len(out), chunk):
            rows = [values[start : start + chunk] for values in inputs]
            filled = len(rows[0])
            if filled < chunk:
                rows = [torch.cat([values, values.new_zeros(chunk - filled, *values.shape[1:])]) for values in rows]
            out[start : start + filled] = make(*(values.to(self.device) for values in rows))[:filled]
        return out

    def manifest_bytes(self) -> bytes | None:
        """Return the run's ``train_manifest.json``, which lies beside the model file; None if it does not.

        Raises:
            ModelFileError: it is of another run, or was changed.
        """
        return manifest_beside(self.path, self.header.training)

    def stored(self, images: Tensor) -> Tensor:
        """Return images of `sample` in the stored dtype and units of the user's files."""
        return torch.from_numpy(self.intensity.inverse(images.numpy(), tails=False))


def _require_truncation(truncation: float) -> None:
    if not 0 < truncation <= 1:
        raise ConfigError(f"truncation = {truncation} was given; it must be above 0 and at most 1 (1 is none).")


def load(path: str | Path, *, device: str = "auto") -> Sampler | Translator:
    """Load the model of a run folder, or of a model file.

    Returns:
        A `Sampler`; a `Translator` for a model that translates images.

    Raises:
        ModelFileError: there is none, or it is damaged.
        ConfigError: there is no such device.
    """
    place = choose_device(device)
    file = find_model(path)
    network, header, sha256 = load_model(file, place)
    if header.translation is not None:
        assert isinstance(network, TranslationNet)
        return Translator(network, header, sha256, path=file, device=place)
    return Sampler(network, header, sha256, path=file, device=place)


def load_sampler(path: str | Path, *, device: str = "auto") -> Sampler:
    """Load a model that makes images from latents.

    Raises:
        ModelFileError: there is none, or it is damaged.
        ConfigError: there is no such device, or the model translates images.
    """
    gan = load(path, device=device)
    return gan.sample() if isinstance(gan, Translator) else gan
