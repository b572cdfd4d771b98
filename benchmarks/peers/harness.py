"""What the runners of the peers share: arguments, images in and out, the budget of CPU seconds, the facts.

A runner is a script:

    python benchmarks/peers/lightweight_gan.py --images FILE.npz --out SAMPLES.npz --cpu-seconds 120 --per-class 100

FILE.npz holds `images` (N×H×W gray or N×H×W×3 color, uint8) and `labels` (N, int64). SAMPLES.npz gets `images` of the
same height, width and channels, `labels`, and `facts`, a JSON string with the keys of `Facts`.

The budget counts CPU seconds of the whole process (`time.process_time`) between the first training step and the last,
on one thread; building the networks, writing checkpoints and previews, and sampling are left out. Training ends with
the first step after which the budget is spent, so every model gets at least one step.
"""

from __future__ import annotations

import argparse
import json
import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch

import random
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Data:
    """Labeled images: N×C×H×W uint8 with 1 or 3 channels, and N labels."""

    images: torch.Tensor
    labels: torch.Tensor

    @property
    def classes(self) -> list[int]:
        """The labels that occur, ascending."""
        return [int(label) for label in torch.unique(self.labels)]


@dataclass(frozen=True)
class Trained:
    """What a runner returns: samples in [0, 1] at the peer's own size, and what it spent on them."""

    images: torch.Tensor
    labels: torch.Tensor
    images_shown: int
    cpu_seconds: float
    generator: torch.nn.Module | Sequence[torch.nn.Module]
    discriminator: torch.nn.Module
    settings: dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """The figures of one run."""

    peer: str
    version: str
    kimg: float
    """Real images shown to the discriminators, in thousands, all models together."""
    images_per_second: float
    """Real images shown per CPU second of training."""
    parameters_generator: int
    """Of one model, mapping network included."""
    parameters_discriminator: int
    cpu_seconds: float
    peak_memory_mb: float
    """Largest resident set of the process."""
    settings: dict[str, Any]


def read(path: Path) -> Data:
    """Read the images and labels of an npz file.

    Raises:
        ValueError: not such a file; the message says what was found and what is wanted.
    """
    try:
        with np.load(path) as arrays:
            missing = {"images", "labels"} - set(arrays.files)
            if missing:
                raise ValueError(f"{path} has no array {' or '.join(sorted(missing))}; it has {arrays.files}")
            images, labels = arrays["images"], arrays["labels"]
    except (OSError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read as an npz file: {error}") from error
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
        raise ValueError(f"images are {images.dtype} of shape {images.shape}; wanted uint8, N×H×W or N×H×W×3")
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu" or not len(labels):
        raise ValueError(
            f"labels are {labels.dtype} of shape {labels.shape}; wanted {len(images)} integers, at least 1"
        )
    channels_first = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return Data(torch.from_numpy(np.ascontiguousarray(channels_first)), torch.from_numpy(labels.astype(np.int64)))


def write(path: Path, images: torch.Tensor, labels: torch.Tensor, like: Data, facts: Facts) -> None:
    """Write samples in [0, 1] as uint8 of the size and channels of `like`; gray is the mean of what the peer made."""
    if like.images.shape[1] == 1:
        images = images.mean(dim=1, keepdim=True)
    images = torch.cat([resize(part, tuple(like.images.shape[2:])) for part in images.split(64)])
    pixels = images.clamp(0, 1).mul(255).round().to(torch.uint8)
    array = pixels[:, 0] if pixels.shape[1] == 1 else pixels.permute(0, 2, 3, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path, images=array.numpy(), labels=labels.numpy().astype(np.int64), facts=np.array(json.dumps(asdict(facts)))
    )


def resize(images: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Resize float images N×C×H×W with antialiased bicubic interpolation; the same size is left untouched."""
    if tuple(images.shape[2:]) == tuple(size):
        return images
    return F.interpolate(images, size=size, mode="bicubic", antialias=True, align_corners=False)


def resize_uint8(images: torch.Tensor, size: int) -> torch.Tensor:
    """Resize uint8 images N×C×H×W to size × size, in parts, so that the float copy stays small."""
    parts = [resize(part.float(), (size, size)).clamp(0, 255).round().to(torch.uint8) for part in images.split(64)]
    return torch.cat(parts)


def next_size(height: int, width: int, sizes: Sequence[int]) -> int:
    """Return the least of the sizes that a peer has that cuts no detail off, or the greatest one."""
    return next((size for size in sorted(sizes) if size >= max(height, width)), max(sizes))


class Budget:
    """CPU seconds, of which training takes the share that it is timed for.

    With several models, `share` of the k-th is counted from the first model's start: the overrun of one model's last
    step comes off the next one's time, and the whole run is over by one step at most.
    """

    def __init__(self, cpu_seconds: float, models: int = 1) -> None:
        self.cpu_seconds = cpu_seconds
        self.models = models
        self.spent = 0.0
        self._started: float | None = None

    def start(self) -> None:
        """Start the clock."""
        self._started = time.process_time()

    def stop(self) -> None:
        """Stop the clock; what is spent is kept."""
        self.spent = self.seconds()
        self._started = None

    def seconds(self) -> float:
        """Return the CPU seconds of training so far."""
        return self.spent + (0.0 if self._started is None else time.process_time() - self._started)

    def over(self, model: int = 0) -> bool:
        """Tell whether the time of model 0 … models - 1 is spent."""
        return self.seconds() >= self.cpu_seconds * (model + 1) / self.models


def seed_all(seed: int) -> None:
    """Seed every generator of random numbers that a peer may use."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def count(modules: torch.nn.Module | Sequence[torch.nn.Module]) -> int:
    """Return the number of parameters."""
    modules = [modules] if isinstance(modules, torch.nn.Module) else modules
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def leave_script_folder() -> None:
    """Take the script's folder off the import path, where a runner has the name of the package that it drives."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]


def parse(argv: Sequence[str] | None, description: str | None, sizes: Sequence[int]) -> argparse.Namespace:
    """Read the arguments of a runner whose peer has networks of these sizes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, metavar="FILE.npz", help="images and labels to train on")
    parser.add_argument("--out", type=Path, required=True, metavar="SAMPLES.npz", help="where the samples go")
    parser.add_argument("--cpu-seconds", type=float, default=120.0, metavar="S", help="budget of training")
    parser.add_argument("--per-class", type=_counts, default=[100], metavar="N[,N...]", help="samples of each class")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training and the samples")
    parser.add_argument("--size", type=int, choices=sizes, help="the peer's image size (default: the next one up)")
    parser.add_argument("--small", action="store_true", help="about 0.3 M parameters in each network, where it can")
    parser.add_argument(
        "--defaults",
        choices=("class", "command"),
        default="class",
        help="the peer's settings: its Python class's (default), or its command's or example's",
    )
    options = parser.parse_args(argv)
    if options.cpu_seconds <= 0:
        parser.error(f"--cpu-seconds is {options.cpu_seconds:g}; wanted a positive number")
    try:
        options.data = read(options.images)
    except ValueError as error:
        parser.error(str(error))
    classes = len(options.data.classes)
    if len(options.per_class) not in (1, classes):
        parser.error(
            f"--per-class has {len(options.per_class)} numbers; wanted 1, or one for each of {classes} classes"
        )
    options.per_class = options.per_class * (classes // len(options.per_class))
    if options.size is None:
        height, width = options.data.images.shape[2:]
        options.size = next_size(height, width, sizes)
    return options


def _counts(text: str) -> list[int]:
    counts = [int(number) for number in text.split(",")]
    if min(counts) < 1:
        raise argparse.ArgumentTypeError(f"{text} has a number below 1; wanted samples of each class")
    return counts


def main(
    peer: str,
    train: Callable[[argparse.Namespace, Data], Trained],
    *,
    description: str | None,
    sizes: Sequence[int],
    argv: Sequence[str] | None = None,
) -> None:
    """Run a peer from the command line: read, train, sample, write, and print the facts.

    Args:
        peer: Name of its distribution package.
        train: Trains on the data and samples, under options of `parse`.
        description: Text for `--help`.
        sizes: Image sizes that the peer has networks for.
        argv: Arguments (default: the command line's).
    """
    options = parse(argv, description, sizes)
    torch.set_num_threads(1)
    leave_script_folder()
    seed_all(options.seed)
    trained = train(options, options.data)
    facts = Facts(
        peer=peer,
        version=version(peer),
        kimg=trained.images_shown / 1000,
        images_per_second=round(trained.images_shown / trained.cpu_seconds, 2),
        parameters_generator=count(trained.generator),
        parameters_discriminator=count(trained.discriminator),
        cpu_seconds=round(trained.cpu_seconds, 2),
        peak_memory_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / peak_unit(), 1),
        settings={"image_size": options.size, "small": options.small, "seed": options.seed, **trained.settings},
    )
    write(options.out, trained.images, trained.labels, options.data, facts)
    print(json.dumps(asdict(facts), indent=2))


def peak_unit() -> int:
    """Return how many of getrusage's units of memory make a mebibyte: it counts bytes on macOS, else kibibytes."""
    return 2**20 if sys.platform == "darwin" else 2**10
