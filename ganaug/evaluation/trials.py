"""The trainings of a study: one classifier each, by several processes, kept on disk so that a study can go on."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import io
import json
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from ganaug.data.intensity import IntensityMap
from ganaug.errors import ConfigError, GanaugError
from ganaug.evaluation.arms import FOLDER_ARMS, train_arm
from ganaug.evaluation.classifier import probabilities
from ganaug.evaluation.trivial import augmentation
from ganaug.files import sha256_file, write_atomic
from ganaug.mixing import SyntheticMixDataset

SCORED = ("val", "test", "site")
"""The parts that a trained classifier is scored on; `site` is another site's, where there is one."""

_NOTHING: dict[str, Any] = {"sampling_strategy": {}}
"""Arguments of `SyntheticMixDataset` that add nothing, and draw every item as often as any other."""


class Images(Dataset[tuple[torch.Tensor, int]]):
    """Labelled images in memory: N×C×spatial, uint8 or float32 in [-1, 1], as `SyntheticMixDataset` takes them."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> None:
        self.images, self.targets, self.classes = images, np.asarray(labels, dtype=np.int64), tuple(classes)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(np.array(self.images[index])), int(self.targets[index])


@dataclass(frozen=True)
class Trial:
    """One training and what it needs; two with the same fields give the same probabilities."""

    arm: str
    """Of `FOLDER_ARMS`."""
    seed: int
    steps: int
    batch: int
    augment: str
    """Of `ganaug.evaluation.trivial.AUGMENTATIONS`."""
    bank: str = ""
    """Folder of the bank whose images are added; empty for none."""
    bank_sha256: str = ""
    mixture: dict[str, Any] = field(default_factory=dict)
    """Arguments of `SyntheticMixDataset` for it."""
    model: str = ""
    """``module:callable`` of the user's own network; empty for the small classifier."""
    model_sha256: str = ""
    """Of the source file of the user's network."""
    lr: float | None = None
    device: str = "cpu"
    data_sha256: str = ""
    """Of all images and labels."""

    @property
    def key(self) -> str:
        """What its file is called by: the arm, the seed, and a hash of everything that determines the result."""
        facts = {name: value for name, value in asdict(self).items() if name not in ("bank", "device")}
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return f"{self.arm}-{self.augment}-{self.seed:03d}-{digest[:12]}"


def mixture_of(arm: str, counts: Mapping[str, int], supply: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Return the arguments of `SyntheticMixDataset` for an arm, the ones that a user is to take over.

    With them, items drawn by `SyntheticMixDataset.sample_weights` have the shares of the classes, and of synthetic
    images within each, that they have in the arm's plan of draws (`ganaug.evaluation.draws.balanced_batches`).

    Images from noise are added to every class, a quarter as many as real ones where none are lacking, so that looking
    synthetic is no sign of a class; so are images translated to another site, one for each real image. Images
    translated from one class to another are there for the rare class alone, and no more of them than were accepted.
    The other classes are leveled without.

    Args:
        arm: of `FOLDER_ARMS`.
        counts: training images by class.
        supply: of translated images, by class.
    """
    source, ratio = FOLDER_ARMS[arm].source, round(FOLDER_ARMS[arm].ratio, 4)
    if not source:
        return {"sampling_strategy": "auto", "balance": "resample"} if FOLDER_ARMS[arm].balanced else _NOTHING
    common: dict[str, Any] = {"sampling_strategy": "auto", "balance": "both", "ratio": ratio}
    if source == "site":
        return {**common, "symmetric": 1.0}
    if source != "translated":
        return {**common, "symmetric": round(0.25 * FOLDER_ARMS[arm].ratio, 4)}
    rare = min(counts, key=lambda name: counts[name])
    if supply is not None:
        ratio = min(ratio, supply[rare] / counts[rare])
    # Of two classes only the rare one lacks any.
    return {**common, "ratio": ratio if len(counts) == 2 else {rare: ratio}, "symmetric": 0.0}


def load_model(spec: str) -> Callable[[tuple[int, ...], int], nn.Module] | None:
    """Return the user's ``module:callable``, which maps the shape (C, H, W) and the number of classes to a network.

    Raises:
        ConfigError: no such module or callable. The current folder is searched too.
    """
    if not spec:
        return None
    name, _, attribute = spec.partition(":")
    wanted = "MODULE:CALLABLE was wanted, a function (shape, classes) -> torch.nn.Module such as mynet:build."
    if not name or not attribute:
        raise ConfigError(f"--model {spec} was given; {wanted}")
    try:
        found = importlib.import_module(name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as problem:  # the user's module may raise anything
        raise ConfigError(f"--model {spec} was given: {type(problem).__name__}: {problem}. {wanted}") from None
    if not callable(found):
        raise ConfigError(f"--model {spec} is a {type(found).__name__}; {wanted}")
    return found


def source_sha256(spec: str) -> str:
    """Return the SHA-256 of the file that a user's network is defined in; empty without one."""
    build = load_model(spec)
    try:
        file = None if build is None else inspect.getsourcefile(build)
    except TypeError:  # an instance, or made in C
        file = inspect.getsourcefile(type(build))
    return "" if file is None else sha256_file(Path(file))


def check_model(spec: str, shape: tuple[int, ...], classes: int) -> None:
    """Try the user's network on two images before anything long begins. Raises `ConfigError` with what is wrong."""
    build = load_model(spec)
    if build is None:
        return
    try:
        with torch.random.fork_rng(devices=[]):
            network = build(shape, classes)
            network.train()
            made = network(torch.zeros(2, *shape))
    except GanaugError:
        raise
    except Exception as problem:
        raise ConfigError(
            f"--model {spec} was tried on 2 images of shape {shape} with {classes} classes: "
            f"{type(problem).__name__}: {problem}. A network that takes N×C×spatial in [-1, 1] was wanted."
        ) from None
    if not isinstance(made, torch.Tensor) or made.shape != (2, classes):
        got = tuple(made.shape) if isinstance(made, torch.Tensor) else type(made).__name__
        raise ConfigError(f"--model {spec} answers {got} for 2 images; logits of shape (2, {classes}) were wanted.")


def save_parts(
    folder: Path,
    parts: Mapping[str, tuple[np.ndarray, np.ndarray]],
    classes: Sequence[str],
    intensity: IntensityMap | None = None,
) -> str:
    """Write the images and labels of each part for the workers, and return the SHA-256 of all.

    `intensity` is the way in which float images came from stored values; banks go the same.
    """
    digest = hashlib.sha256(json.dumps(list(classes)).encode())
    for part, (images, labels) in parts.items():
        for name, array in ((f"{part}_images", images), (f"{part}_labels", np.asarray(labels, dtype=np.int64))):
            array = np.ascontiguousarray(array)
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.data)
            np.save(folder / f"{name}.npy", array, allow_pickle=False)
    (folder / "classes.json").write_text(json.dumps(list(classes)))
    (folder / "intensity.json").write_text(json.dumps(intensity and intensity.to_dict()))
    return digest.hexdigest()


def run_trial(trial: Trial, data: Path, results: Path) -> str:
    """Train, score on every part in `data`, and keep the probabilities; return the key. Nothing is done twice."""
    file = results / f"{trial.key}.npz"
    if read_trial(results, trial) is not None:
        return trial.key
    classes = json.loads((data / "classes.json").read_text())
    real = _images(data, "train", tuple(classes))
    arm = FOLDER_ARMS[trial.arm]
    mixed = None
    if trial.bank:
        form = None if real.images.dtype == np.uint8 else _float_form(data)
        mixed = SyntheticMixDataset(real, trial.bank, seed=trial.seed, transform=form, **trial.mixture)
    network = train_arm(
        arm,
        real,
        mixed=mixed,
        classes=len(classes),
        steps=trial.steps,
        batch=trial.batch,
        seed=trial.seed,
        augment=augmentation(trial.augment),
        model=load_model(trial.model),
        lr=trial.lr,
        device=trial.device,
    )
    found: dict[str, Any] = {}
    for part in SCORED:
        if (data / f"{part}_images.npy").exists():
            found[part] = probabilities(network, _images(data, part, tuple(classes)).images)
    buffer = io.BytesIO()
    np.savez(buffer, **found)
    write_atomic(file, buffer.getvalue())
    return trial.key


def _float_form(data: Path) -> Callable[[Any], torch.Tensor]:
    """Return the way of a bank's stored image, without channels or with them last, to that of the study's images."""
    intensity = IntensityMap.from_dict(json.loads((data / "intensity.json").read_text()))
    dims = np.load(data / "train_images.npy", mmap_mode="r", allow_pickle=False).ndim - 2

    def form(stored: Any) -> torch.Tensor:
        array = np.asarray(stored)
        channels_first = array[None] if array.ndim == dims else np.moveaxis(array, -1, 0)
        return torch.from_numpy(np.ascontiguousarray(intensity.forward(channels_first)))

    return form


@lru_cache(maxsize=4)
def _images(data: Path, part: str, classes: tuple[str, ...]) -> Images:
    images, labels = (np.load(data / f"{part}_{name}.npy", allow_pickle=False) for name in ("images", "labels"))
    return Images(images, labels, classes)


def read_trial(results: Path, trial: Trial) -> dict[str, np.ndarray] | None:
    """Return the probabilities of each part, N×K float32; None if the trial is not there, or its file is damaged."""
    try:
        with np.load(results / f"{trial.key}.npz", allow_pickle=False) as kept:
            return {part: kept[part] for part in kept.files}
    except (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError):
        return None
    except Exception as problem:  # zipfile's and zlib's own errors share no base class
        if type(problem).__module__ in ("zipfile", "zlib"):
            return None
        raise


def run_trials(trials: Iterable[Trial], data: Path, results: Path, *, jobs: int) -> Iterator[str]:
    """Run trials, `jobs` side by side, and yield the key of each that is done, in the order in which they finish."""
    results.mkdir(parents=True, exist_ok=True)
    yield from side_by_side([(run_trial, (trial, data, results)) for trial in trials], jobs=jobs)


def side_by_side(calls: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]], *, jobs: int) -> Iterator[Any]:
    """Yield the results of module-level functions, `jobs` of them in processes of their own; 1 uses this process.

    After an error nothing new is begun; after Ctrl-C, or when the caller stops, what was begun is given up too.
    """
    if jobs == 1 or len(calls) < 2:
        for function, arguments in calls:
            yield function(*arguments)
        return
    others = multiprocessing.active_children()
    # "spawn": forked processes deadlock in OpenMP, and cannot use a GPU.
    with ProcessPoolExecutor(min(jobs, len(calls)), mp_context=multiprocessing.get_context("spawn")) as pool:
        with _deaf_to_ctrl_c():
            waiting: set[Future[Any]] = {pool.submit(function, *arguments) for function, arguments in calls}
        try:
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except (KeyboardInterrupt, GeneratorExit):
            pool.shutdown(wait=False, cancel_futures=True)
            # Otherwise they would finish what they are at, and what is handed to them already: hours, it may be. All
            # that they write appears whole or not at all.
            for process in multiprocessing.active_children():
                if process not in others:
                    process.kill()
                    process.join()
            raise
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Let processes that are started meanwhile ignore Ctrl-C, which reaches them too; their starter deals with it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
