"""The model file: `generator.safetensors`, averaged weights and a JSON header with everything that sampling needs.

Nothing in it can run: no pickle, no class names to import but the architecture's, which must be one of ours. A file
from a stranger is checked before memory is given to it: the length of its header, then every field of it, then the
shapes of the weights.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import nn

from ganaug.config import FitConfig
from ganaug.data.degrade import parse_degrade
from ganaug.data.geometry import Geometry
from ganaug.data.intensity import IntensityMap
from ganaug.data.names import MAX_NAME
from ganaug.distributed import digest_of
from ganaug.errors import ConfigError, GanaugError, ModelFileError
from ganaug.files import sha256_file, write_atomic
from ganaug.models import build_network, place
from ganaug.models.translation import Translation, build_translation

FORMAT = 1
FILE_NAME = "generator.safetensors"
MAX_HEADER_BYTES = 8 * 2**20
"""Longer headers are not read; that of 1,000 classes has a hundredth of it."""
MAX_CLASSES = 100_000
_MAX_IMAGES = 2**62
_WORD = re.compile(r"[\w .+()-]{0,40}")
_SHA256 = re.compile(r"([0-9a-f]{64})?")
_HEADER_KEY = "ganaug"
_SUM_KEY = "sha256"
_AGAIN = "Train it again with 'ganaug fit', or restore the file from where it came."


@dataclass(frozen=True)
class ModelHeader:
    """What the model file says about its generator."""

    model: str
    """The kind of GAN, such as 'conditional'."""
    classes: tuple[str, ...]
    """Class names in the order of the label index."""
    size: tuple[int, ...]
    """Height and width in pixels, or depth, height and width in voxels."""
    channels: int
    """1 for gray, 3 for color, up to 64."""
    intensity: IntensityMap
    """How [-1, 1] goes back to the values of the user's files."""
    settings: dict[str, Any]
    """The resolved `FitConfig` of the run; the network settings rebuild the generator."""
    training: dict[str, Any]
    """What the training saw: images per class, kimg, when, the version of ganaug."""
    geometry: Geometry | None = None
    """Where the voxels of a volume lie; None for images, and where the training files do not tell."""
    source_format: str = ""
    """The most frequent format of the training files, such as 'PNG' or 'NIfTI'; '' unknown."""
    translation: Translation | None = None
    """What a translation model translates between; None for a model that makes images from latents."""

    def to_json(self) -> str:
        """Return the header as a JSON text."""
        values = {
            **vars(self),
            "format": FORMAT,
            "intensity": self.intensity.to_dict(),
            "geometry": None if self.geometry is None else self.geometry.to_dict(),
            "translation": None if self.translation is None else self.translation.to_dict(),
        }
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelHeader:
        """Read a header; anything that does not fit is a ModelFileError."""
        try:
            values = json.loads(text)
            version = values.pop("format")
            if version != FORMAT:
                raise ModelFileError(
                    f"The model file has format {version!r:.80}; this version of ganaug reads format {FORMAT}. "
                    "Use the version that wrote it, or train again."
                )
            header = cls(
                model=_word("model", values["model"]),
                classes=_class_names(values["classes"]),
                size=tuple(map(int, values["size"])),
                channels=int(values["channels"]),
                intensity=IntensityMap.from_dict(values["intensity"]),
                settings=_settings(values["settings"]),
                training=_training(values["training"]),
                # Files of the first version of this format have neither.
                geometry=None if values.get("geometry") is None else Geometry.from_dict(values["geometry"]),
                source_format=_word("source_format", values.get("source_format", "")),
                translation=None if not values.get("translation") else Translation.from_dict(values["translation"]),
            )
            if header.translation is not None:
                _class_names([*header.translation.labels])
                if header.translation.degrade:
                    parse_degrade(header.translation.degrade)
        except ConfigError as problem:
            raise ModelFileError(f"{problem} {_AGAIN}") from None
        except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as problem:
            raise ModelFileError(f"The header of the model file is damaged ({problem!r:.500}). {_AGAIN}") from None
        if header.translation is not None and header.translation.domains != header.classes:
            raise ModelFileError(
                f"The header of the model file names the classes {header.classes!r:.200} and the domains "
                f"{header.translation.domains!r:.200}, which are alike in a run of ours. {_AGAIN}"
            )
        longest = {2: 4096, 3: 512}.get(len(header.size), 0)
        good = 2 <= min(header.size, default=0) <= max(header.size, default=0) <= longest
        if not good or not 1 <= header.channels <= 64 or not 1 <= len(header.classes) <= MAX_CLASSES:
            raise ModelFileError(
                f"The header of the model file describes {header.channels} channels of {header.size} pixels and "
                f"{len(header.classes)} classes, which no run can have. {_AGAIN}"
            )
        return header


def _word(field: str, value: Any) -> str:
    """Return a text of letters, digits and a few signs: it is written into pages and cards."""
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise ValueError(f"{field} {value!r:.80}")
    return value


def _class_names(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(name, str) and name for name in values):
        raise TypeError(f"classes {values!r:.80}")
    if len(set(values)) < len(values) or max(map(len, values), default=0) > MAX_NAME:
        raise ValueError(f"classes that are alike, or have more than {MAX_NAME} letters")
    return tuple(values)


def _settings(values: Any) -> dict[str, Any]:
    """Return the settings with values of the right kinds; no others, and none that a file does not have."""
    checked = FitConfig().updated({**values, "device": "auto"}, source="settings of the model file").to_dict()
    return {key: values[key] if key == "device" else checked[key] for key in values}


def _training(values: Any) -> dict[str, Any]:
    """Return what the training saw after a look at the fields that are read again."""
    images = values.get("images", {})
    if not isinstance(images, dict) or not all(
        isinstance(n, int) and not isinstance(n, bool) and 0 <= n < _MAX_IMAGES for n in images.values()
    ):
        raise TypeError(f"images {images!r:.80}")
    for field in ("ganaug", "started"):
        _word(field, str(values.get(field, "")).replace(":", "-"))
    if not _SHA256.fullmatch(values.get("train_manifest_sha256", "")):
        raise ValueError("train_manifest_sha256")
    return dict(values)


def save_model(path: Path, generator: nn.Module, header: ModelHeader) -> None:
    """Write a generator's weights and header to `path`, atomically."""
    weights = {key: value.detach().cpu().contiguous() for key, value in generator.state_dict().items()}
    text = header.to_json()
    data = save(weights, metadata={_HEADER_KEY: text, _SUM_KEY: _sum(text, weights)})
    if (length := int.from_bytes(data[:8], "little")) > MAX_HEADER_BYTES:
        raise ModelFileError(
            f"The header of the model file {path} would have {length:,} bytes, and at most {MAX_HEADER_BYTES:,} are "
            f"read: the names of {len(header.classes):,} classes are too long. Give them shorter ones."
        )
    write_atomic(path, data)


def find_model(path: str | Path) -> Path:
    """Return the model file of a run folder, or `path` itself when it is a file."""
    path = Path(path)
    found = path / FILE_NAME if path.is_dir() else path
    if not found.is_file():
        raise ModelFileError(
            f"There is no model at {path}: a run folder with {FILE_NAME}, or such a file, was wanted. "
            "Train one with 'ganaug fit DATA --out RUN'."
        )
    return found


def load_model(path: str | Path, device: torch.device | str = "cpu") -> tuple[nn.Module, ModelHeader, str]:
    """Load a model file.

    Returns:
        The generator in evaluation mode on `device`, the header, and the file's SHA-256.

    Raises:
        ModelFileError: the file is missing, damaged, of another format, or its weights do not fit its header.
    """
    path = find_model(path)
    header = read_header(path)
    try:
        settings = vars(FitConfig().updated({**header.settings, "device": "auto"}))
        with torch.device("meta"):  # no memory until the shapes are known to agree
            generator = _build(header, settings)
        expected = {key: tuple(value.shape) for key, value in generator.state_dict().items()}
        _check_shapes(path, expected)
        weights = load_file(path)
        metadata = _metadata(path)
        # The first files of this format have no sum.
        if _SUM_KEY in metadata and metadata[_SUM_KEY] != _sum(metadata[_HEADER_KEY], weights):
            raise ModelFileError(f"The model file {path} is damaged: it is not what was written (SHA-256). {_AGAIN}")
        generator.load_state_dict(weights, assign=True)
    except GanaugError as problem:
        if isinstance(problem, ConfigError):
            raise ModelFileError(f"The model file {path} has settings that do not fit: {problem}") from None
        raise
    except (
        OSError,
        KeyError,
        RuntimeError,
        ValueError,
        TypeError,
        ArithmeticError,
        safetensors.SafetensorError,
    ) as problem:
        raise ModelFileError(f"The model file {path} cannot be loaded ({problem!s:.500}). {_AGAIN}") from None
    generator = place(generator, device).requires_grad_(False).eval()
    return generator, header, sha256_file(path)


def _build(header: ModelHeader, settings: Mapping[str, Any]) -> nn.Module:
    if header.translation is not None:
        return build_translation(settings, header.translation, size=header.size, channels=header.channels)
    return build_network(
        header.settings["arch"],
        "Generator",
        settings,
        size=header.size,
        channels=header.channels,
        classes=len(header.classes),
    )


def read_header(path: Path) -> ModelHeader:
    """Read only the header of a model file. Raises ModelFileError, which names the file, for one that does not fit."""
    metadata = _metadata(path)
    if _HEADER_KEY not in metadata:
        raise ModelFileError(f"{path} is a safetensors file without ganaug's header. Give one that 'fit' wrote.")
    try:
        return ModelHeader.from_json(metadata[_HEADER_KEY])
    except GanaugError as problem:
        raise ModelFileError(f"{path}: {problem}") from None


def _metadata(path: Path) -> dict[str, str]:
    """Return the texts beside the weights.

    Raises:
        ModelFileError: the file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise ModelFileError(
                f"{path} is no model file, or damaged: its first bytes announce a header of {length:,} bytes, and at "
                f"most {MAX_HEADER_BYTES:,} are read. {_AGAIN}"
            )
        with safetensors.safe_open(path, "pt") as stream:
            return stream.metadata() or {}
    except (OSError, safetensors.SafetensorError) as problem:
        raise ModelFileError(f"The model file {path} cannot be read ({problem!s:.500}). {_AGAIN}") from None


def _sum(header: str, weights: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of all that a model file says."""
    return hashlib.sha256(f"{header} {digest_of(weights)}".encode()).hexdigest()


def _check_shapes(path: Path, expected: dict[str, tuple[int, ...]]) -> None:
    with safetensors.safe_open(path, "pt") as stream:
        found = {key: tuple(stream.get_slice(key).get_shape()) for key in stream.keys()}  # noqa: SIM118
        kinds = {stream.get_slice(key).get_dtype() for key in stream.keys()}  # noqa: SIM118
    if found != expected or kinds != {"F32"}:
        wrong = sorted(key for key in {*found, *expected} if found.get(key) != expected.get(key))[:3]
        total = sum(math.prod(shape) for shape in found.values())
        raise ModelFileError(
            f"The weights in {path} ({total:,} numbers, {', '.join(sorted(kinds))}) do not fit the network that its "
            f"header describes (first differences: {', '.join(wrong) or 'the number type'}). {_AGAIN}"
        )
