"""Does a device compute what a CPU does? One step of the conditional GAN in several ways, and a training of seconds."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import ganaug
from ganaug.config import FitConfig
from ganaug.errors import DivergedError, GanaugError
from ganaug.models.device import deterministic_kernels
from ganaug.training.gans.conditional import GAN
from ganaug.training.run import Run

CPU = torch.device("cpu")
CHANNELS = 3


@dataclass(frozen=True)
class Check:
    """A number that was found, and the largest that is good; None where it only informs."""

    name: str
    found: float
    most: float | None = None

    @property
    def good(self) -> bool:
        """Whether the number is good; NaN never is."""
        return self.most is None or self.found <= self.most


def device_checks(device: torch.device, *, side: int, tiny: bool = False) -> Iterator[Check]:
    """Yield what is found on `device`, with images of `side` pixels."""
    narrow: dict[str, Any] = {"widths": (16, 8), "group_width": 8} if tiny else {"widths": (96, 64, 32)}
    common = {"batch": 8, "augment_p": (0.3, 0.3), "embedding_noise": 0.5, "latent_dim": 32, **narrow}
    modern = FitConfig(**common, augment="natural")
    style = FitConfig(**common, arch="style", loss="nonsaturating", penalty="r1")
    volumes = FitConfig(**common, augment="axial")
    yield from _step_checks("modern, r1r2", modern, (side, side), device)
    yield from _step_checks("style, r1", style, (side, side), device)
    yield from _step_checks("modern, 16³ voxels", volumes, (16, 16, 16), device)
    with exact_float32():
        once, twice = (one_step(modern, (side, side), device) for _ in range(2))
        # Above 0 where kernels sum in no fixed order; then no run on this device can be repeated bit by bit.
        yield Check("the same step twice, gradients of D", distance(once[0], twice[0]))
        yield Check("the same step twice, gradients of G", distance(once[1], twice[1]))
        with deterministic_kernels(True):
            once, twice = (one_step(modern, (side, side), device) for _ in range(2))
        # Above 0 where PyTorch has no such kernel; it warns of those.
        yield Check(
            "the same with deterministic kernels, gradients of D and G",
            distance([*once[0], *once[1]], [*twice[0], *twice[1]]),
        )
        yield Check("a step after saving and loading, over its length", _resumed(modern, (side, side), device), 1e-2)
    yield from _training_checks(device)
    if device.type == "cuda":
        yield from _memory_checks(device)


def _step_checks(label: str, config: FitConfig, size: tuple[int, ...], device: torch.device) -> Iterator[Check]:
    with exact_float32():
        here, there = (one_step(config, size, where, shared=True) for where in (CPU, device))
        whole, pieces = (one_step(config.updated({"pieces": n}), size, device) for n in (1, 4))
    as_set = one_step(config, size, device, shared=True)
    half = one_step(config, size, device, bf16=True, shared=True)
    yield Check(f"{label}: gradients of D, float32, CPU and {device}", distance(here[0], there[0]), 1e-3)
    # G's gradients come after D's Adam step, which makes a full step of a gradient that is hardly more than rounding.
    yield Check(f"{label}: gradients of G, float32, CPU and {device}", distance(here[1], there[1]), 2e-2)
    yield Check(f"{label}: gradients of D, float32, 1 and 4 pieces", distance(whole[0], pieces[0]), 1e-3)
    yield Check(f"{label}: gradients of D, float32 as PyTorch is set (TF32)", distance(here[0], as_set[0]), 5e-2)
    yield Check(f"{label}: gradients of D, float32 and bfloat16", distance(here[0], half[0]), 0.3)
    infinite = sum(int((~torch.isfinite(part)).sum()) for part in (*half[0], *half[1]))
    yield Check(f"{label}: gradients in bfloat16 that are not finite", infinite, 0)


class NumbersOfTheCPU(TorchFunctionMode):
    """Draws the numbers of seeded generators on the CPU, whatever their device: in its block all devices see the same.

    Each seed is one stream, which begins once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._streams: dict[int, torch.Generator] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = kwargs.get("generator")
        if func not in (torch.rand, torch.randn) or given is None:
            return func(*args, **kwargs)
        seed = given.initial_seed()
        stream = self._streams.setdefault(seed, torch.Generator().manual_seed(seed))
        return func(*args, **{**kwargs, "generator": stream, "device": CPU}).to(given.device)


@contextmanager
def exact_float32() -> Iterator[None]:
    """Keep CUDA from multiplying float32 with the ten bits of TF32, as cuDNN does unless it is told not to."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products


def one_step(
    config: FitConfig, size: tuple[int, ...], device: torch.device, *, bf16: bool = False, shared: bool = False
) -> list[list[Tensor]]:
    """Return the gradients (float64, on the CPU) of the discriminator and of the generator in a first step.

    With `shared` the step's random numbers are those that it would draw on a CPU.
    """
    gan = _stirred(config, size, device, bf16=bf16)
    taken: list[list[Tensor]] = []

    def take(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        taken.append([p.grad.detach().cpu().double() for p in parameters if p.grad is not None])

    for optimizer in gan.optimizers:
        optimizer.register_step_pre_hook(take)
    with NumbersOfTheCPU() if shared else nullcontext():
        gan.step(*_batch(config, size, device), 0, 1.0)
    return taken


def distance(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Return ‖one - other‖ / ‖one‖ over all tensors together."""
    apart = sum(float((a - b).square().sum()) for a, b in zip(one, other, strict=True))
    return (apart / sum(float(a.square().sum()) for a in one)) ** 0.5


def _stirred(config: FitConfig, size: tuple[int, ...], device: torch.device, *, bf16: bool = False) -> GAN:
    """Return a GAN none of whose layers is zero: one that is would hide those before it."""
    gan = GAN(config, size=size, channels=CHANNELS, classes=2, device=device, bf16=bf16, counts=[20, 200])
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for network in (gan.generator, gan.discriminator):
            for parameter in network.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=source).to(device), alpha=0.05)
    return gan


def _batch(config: FitConfig, size: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(1)
    images = torch.rand(config.batch, CHANNELS, *size, generator=source) * 2 - 1
    return images.to(device), (torch.arange(config.batch) % 2).to(device)


def _resumed(config: FitConfig, size: tuple[int, ...], device: torch.device) -> float:
    """Return how far a step that follows saving and loading is from the step without, over the step's length."""
    straight, loaded = (_stirred(config, size, device) for _ in range(2))
    batch = _batch(config, size, device)
    for number in range(2):
        straight.step(*batch, number, 1.0)
    saved = {name: value.detach().cpu().clone() for name, value in straight.tensors().items()}
    loaded.load_tensors(saved)
    trained = [name for name in saved if name.startswith(("generator/", "discriminator/"))]
    moved = []
    for gan in (straight, loaded):
        gan.step(*batch, 2, 1.0)
        now = gan.tensors()
        moved.append([now[name].detach().cpu().double() - saved[name].double() for name in trained])
    return distance(*moved)


def _memory_checks(device: torch.device) -> Iterator[Check]:
    """Check what `fit` says of a batch that is too large for the GPU, and what it takes in its place."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "noise.npz")
        pixels = np.random.default_rng(0).integers(0, 256, (32, 256, 256), dtype=np.uint8)
        np.savez(data, images=pixels, labels=np.array(["a", "b"] * 16))
        settings: dict[str, Any] = {"recipe": "px256", "kimg": 0.001, "size": (256, 256), "device": str(device)}
        said = ""
        try:
            ganaug.fit(data, Path(folder, "large"), batch=65_536, **settings)
        except GanaugError as problem:
            said = str(problem)
        named = "does not fit into the memory of" in said and "--batch" in said
        yield Check(f"a batch of 65,536 is refused with one that fits: {said[:200]}", float(not named), 0)


def _training_checks(device: torch.device) -> Iterator[Check]:
    """Check `fit`, its resumption and the samples, on a training of a few steps on noise."""
    with tempfile.TemporaryDirectory() as folder:
        data, run = Path(folder, "noise.npz"), Run(Path(folder, "run"))
        pixels = np.random.default_rng(0).integers(0, 256, (32, 16, 16), dtype=np.uint8)
        np.savez(data, images=pixels, labels=np.array(["a", "b"] * 16))
        small: dict[str, Any] = {"recipe": "smoke", "batch": 8, "widths": (16, 8), "group_width": 8, "threads": 1}
        for settings in ({**small, "kimg": 0.16}, {"resume": True, "kimg": 0.32}):
            with suppress(DivergedError):  # so short a training may well end with images that are all alike
                ganaug.fit(data, run.path, device=str(device), snapshots=1, **settings)
        kimg = [row["kimg"] for row in run.metrics()]
        yield Check(f"fit to 0.16 kimg, resume to 0.32, snapshots at {kimg}: what is missing", abs(kimg[-1] - 0.32), 0)
        gan, on_cpu = (ganaug.load(run.path, device=str(where)) for where in (device, CPU))
        labels, indices = [0, 1] * 75, [position // 2 for position in range(150)]
        whole = gan.sample(labels, seed=1)
        parts = torch.cat(
            [gan.sample(labels[at : at + 7], seed=1, indices=indices[at : at + 7]) for at in range(0, 150, 7)]
        )
        yield Check("samples, all at once and 7 at a time, largest difference", _furthest(whole, parts), 1e-5)
        there = on_cpu.sample(labels, seed=1)
        yield Check(f"samples, {device} and CPU, largest difference (TF32 allowed)", _furthest(whole, there), 2e-2)


def _furthest(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())
