"""Images of one domain as they would be in another: a translation model, ready to use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, cast

import numpy as np
import torch
from torch import Tensor

from ganaug.data.degrade import Degrade, parse_degrade
from ganaug.data.grid import Grid
from ganaug.data.intensity import IntensityMap
from ganaug.data.scales import file_knots
from ganaug.errors import ConfigError, ModelFileError
from ganaug.models.modelfile import ModelHeader
from ganaug.models.translation import Translation, TranslationNet
from ganaug.sampling.leak import manifest_beside
from ganaug.sampling.tiles import in_tiles

CHUNK = 8
"""Most images in a forward pass."""
VALUES_IN_A_CHUNK = 1 << 15
"""Values of all images of a pass together: translation networks compute hundreds of numbers for each, and larger images
gain nothing from company. The number of images depends on their shape alone: the same sums in the same order, whatever
batch the caller asks for."""


class Translator:
    """A translation model that is ready to use; get one from `ganaug.load`.

    A translated image is a function of (model file, image, target) alone: the same in any batch and any order. The
    network is convolutional and takes images of any size.
    """

    def __init__(
        self, network: TranslationNet, header: ModelHeader, sha256: str, *, path: Path, device: torch.device
    ) -> None:
        if header.translation is None:
            raise ModelFileError(f"{path} does not translate images; use ganaug.load, which knows what it is.")
        self._network = network
        self.header = header
        self.translation: Translation = header.translation
        """What the model file says of its domains."""
        self.model_sha256 = sha256
        """SHA-256 of the model file."""
        self.path = path
        """The model file."""
        self.device = device
        self.degrade: Degrade | None = parse_degrade(self.translation.degrade) if self.translation.degrade else None
        """What the model undoes: a loss of resolution, or of lines of k-space."""

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.shape))
        return (
            f"Translator({str(self.path)!r}, classes={list(self.classes)}, rule={self.rule!r}, shape={shape}, "
            f"device={str(self.device)!r})"
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """The domains: classes, or under the rule "style" sites or contrasts; an index stands for one of them."""
        return self.translation.domains

    @property
    def targets(self) -> tuple[str, ...]:
        """The domains that images can be turned into."""
        return self.translation.targets

    @property
    def rule(self) -> Literal["style", "class"]:
        """Whether a translated image keeps its label, or takes that of the target."""
        return cast(Literal["style", "class"], self.translation.rule)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names under the rule "style", where the training knew them."""
        return self.translation.labels

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one training image, channels first: (C, H, W) or (C, D, H, W). Others are translated too."""
        return (self.header.channels, *self.header.size)

    @property
    def intensity(self) -> IntensityMap:
        """The way between the stored values of the first domain and [-1, 1]."""
        return self.translation.intensities[0]

    @property
    def intensities(self) -> tuple[IntensityMap, ...]:
        """The same for each domain; under the rule "class" all are alike."""
        return self.translation.intensities

    def domain(self, name: str | int) -> int:
        """Return the index of a domain. Raises ConfigError if there is none of this name or index."""
        known = name in self.classes if isinstance(name, str) else 0 <= name < len(self.classes)
        if not known or isinstance(name, bool):
            raise ConfigError(f"The domain {name!r} was given; this model knows {', '.join(self.classes)}.")
        return self.classes.index(name) if isinstance(name, str) else int(name)

    def target(self, name: str | int) -> int:
        """Return the index of a domain that images can be turned into. Raises ConfigError for any other."""
        index = self.domain(name)
        if self.classes[index] not in self.targets:
            raise ConfigError(
                f"The target {self.classes[index]!r} was given; this model translates to {', '.join(self.targets)} "
                "alone."
            )
        return index

    def source(self, name: str | int | None, *, to: int) -> int:
        """Return the index of the domain that images for target `to` come from, which may not need to be named.

        Of two domains it is the other one; of more any will do while their intensity maps are alike.

        Raises:
            ConfigError: it has to be named, or is none of the model's.
        """
        if name is not None:
            return self.domain(name)
        others = [index for index in range(len(self.classes)) if index != to]
        if len({self.intensities[index] for index in others}) > 1:
            raise ConfigError(
                f"The model's domains {', '.join(self.classes)} have intensities of their own, so that it must be "
                "known where an image comes from. Name it: source=, or --from."
            )
        return others[0]

    def grid(self, source: int) -> Grid:
        """Return the grid that the training images of a domain were brought to."""
        resize = str(self.header.settings["resize"])
        spacing = self.header.geometry.spacing if self.header.geometry and resize == "spacing" else None
        return Grid(self.header.size, self.header.channels, resize, self.intensities[source].dtype, spacing)

    @torch.no_grad()
    def translate(self, images: Tensor, *, to: str | int | Sequence[int] | Tensor) -> Tensor:
        """Return images as they would be in `to`.

        Args:
            images: N×C×H×W or N×C×D×H×W float in [-1, 1], in the intensity map of the domain that they come from, on
                any device, of any size. What has more values than fit into a pass is translated in tiles (see
                `ganaug.sampling.tiles`).
            to: a target's name or index, or N of these indices.

        Returns:
            The same shape on the same device, float32 in [-1, 1], in the intensity map of `to`. A model that undoes a
            degradation returns what degrades to the images that were given (see `ganaug.data.degrade`).

        Raises:
            ConfigError: the images have other dimensions or channels than the training's, are empty or too small for
                what the model undoes, or a target is none.
            ModelFileError: the network makes NaN or infinity of finite images.
        """
        dims, channels = len(self.header.size), self.header.channels
        if images.ndim != dims + 2 or images.shape[1] != channels or not images.is_floating_point():
            raise ConfigError(
                f"Images of shape {tuple(images.shape)} and type {images.dtype} were given; N×{channels}×"
                f"{'H×W' if dims == 2 else 'D×H×W'} of floating point in [-1, 1] was wanted."
            )
        if 0 in images.shape[2:]:
            raise ConfigError(f"Images of shape {tuple(images.shape)} were given; each side needs a pixel or more.")
        targets = self._targets(to, len(images))
        made = torch.empty(images.shape, dtype=torch.float32, device=images.device)
        for target in sorted(set(targets)):
            rows = [row for row, wanted in enumerate(targets) if wanted == target]
            self._in_passes(images, made, rows, target)
        if not bool(made.isfinite().all()):
            if not bool(images.isfinite().all()):
                raise ConfigError("The images hold NaN or infinity; values in [-1, 1] were wanted.")
            raise ModelFileError("The model makes images with NaN or infinity: train it again.")
        return made

    def _in_passes(self, images: Tensor, made: Tensor, rows: list[int], target: int) -> None:
        """Fill `rows` of `made`: always as many images in a pass, the last pass filled up."""
        fitting = max(1, min(CHUNK, VALUES_IN_A_CHUNK // math.prod(images.shape[1:])))
        chunk = 1 << (fitting.bit_length() - 1)
        to = torch.full((chunk,), target, device=self.device)
        for start in range(0, len(rows), chunk):
            some = rows[start : start + chunk]
            given = images[some].to(self.device, torch.float32)
            if len(some) < chunk:
                given = torch.cat([given, given.new_zeros(chunk - len(some), *given.shape[1:])])
            done = in_tiles(
                lambda tile: self._network(tile, to), given, stride=self._network.stride, reach=self._network.reach
            )
            if self.degrade is not None:
                done = self.degrade.consistent(done, given).clamp_(-1, 1)
            made[some] = done[: len(some)].to(made.device)

    def _targets(self, to: str | int | Sequence[int] | Tensor, images: int) -> list[int]:
        if isinstance(to, str | int):
            return [self.target(to)] * images
        found = [self.target(int(index)) for index in (to.tolist() if isinstance(to, Tensor) else to)]
        if len(found) != images:
            raise ConfigError(f"{images} images and {len(found)} targets were given; as many were wanted.")
        return found

    def translate_stored(
        self,
        images: Tensor | np.ndarray,
        *,
        to: str | int | Sequence[int] | Tensor,
        source: str | int | None = None,
    ) -> Tensor:
        """Return stored values of images as those of the target domain.

        Args:
            images: N×C×H×W or N×C×D×H×W of any real type, as the files of the source domain store them.
            to: as for `translate`.
            source: the domain that the images come from; see `source`.

        Returns:
            The same shape, in the type and units of the target's files, on the CPU. Where source and target have one
            map of the kind ``per-file``, each image keeps its own window.

        Raises:
            ConfigError: as `translate` does; the source must be named; the targets' types differ.
        """
        stored = images.detach().cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)
        targets = self._targets(to, len(stored))
        if len({self.intensities[target].dtype for target in targets}) > 1:
            raise ConfigError("The files of these targets have different types. Translate to one at a time.")
        maps = [(self.intensities[self.source(source, to=target)], self.intensities[target]) for target in targets]
        own = [
            there.for_file(file_knots(image)) if there.kind == "per-file" and image.size else there
            for image, (there, _) in zip(stored, maps, strict=True)
        ]
        unit = np.empty(stored.shape, dtype=np.float32)
        for row, there in enumerate(own):
            unit[row] = there.forward(stored[row])
        made = self.translate(torch.from_numpy(unit), to=targets).numpy()
        out = np.empty(stored.shape, dtype=self.intensities[targets[0] if targets else 0].dtype)
        for row, (there, back) in enumerate(maps):
            out[row] = (own[row] if there == back else back).inverse(made[row], tails=False)
        return torch.from_numpy(out)

    def sample(self, *_: Any, **__: Any) -> NoReturn:
        """Raise ConfigError: a translation model makes nothing out of nothing."""
        raise ConfigError(
            f"{self.path} translates images between {', '.join(self.classes)} and makes none from noise: give it "
            "images, ganaug translate RUN INPUT --to CLASS --out DIR (SyntheticBank.translate, TranslateMix)."
        )

    def manifest_bytes(self) -> bytes | None:
        """Return the run's ``train_manifest.json``, which lies beside the model file; None if it does not.

        Raises:
            ModelFileError: it is of another run, or was changed.
        """
        return manifest_beside(self.path, self.header.training)
