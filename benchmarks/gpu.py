"""What a GPU makes of the conditional core: ceilings, speed, a profile, checks and a short training, in one call.

    export GANAUG_DATA=…                                    # the folder of the image sets, see benchmarks/sets.py
    python -m benchmarks.gpu --out scratch/gpu              # under nine minutes on an H100
    python -m benchmarks.gpu --tiny --device cpu            # all of it, small, in under two minutes on a CPU

It prints Markdown as it goes and leaves it in OUT/gpu.md, with a picture of the trained generator's samples beside it.
Each section has a limit in seconds and is caught on its own: one that fails or takes too long costs the others nothing.
The exit code is 1 when a section or a check failed.
"""

from __future__ import annotations

import argparse
import gc
import io
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ganaug
from benchmarks.device_checks import device_checks
from benchmarks.measure import (
    CONVOLUTIONS,
    OutOfTimeError,
    Profile,
    Report,
    Work,
    WorkCounter,
    cell_text,
    limited,
    profile_of,
    seconds_of,
    with_batch_that_fits,
)
from benchmarks.sets import SETS, ImageSet, load_set
from ganaug.config import FitConfig, load_recipe, parse_assignments
from ganaug.data.intensity import IntensityMap
from ganaug.errors import DivergedError
from ganaug.models import build_network, place
from ganaug.models.device import choose_device, use_bf16
from ganaug.sampling.preview import preview
from ganaug.training.batches import DeviceImages
from ganaug.training.gans.conditional import GAN
from ganaug.training.plan import choose_recipe
from ganaug.training.run import Run

CHANNELS, CLASSES = 3, 10
"""Of the random images that speed is measured on."""
WIDE = (768, 768, 768, 768, 384, 192, 96)
"""Widths for a GPU, from 4 to 256 pixels: those of the largest R3GAN for 256 pixels, with one block in each stage."""
STYLE = (512, 512, 512, 512, 256, 128, 64)
"""Widths from 4 to 256 pixels of StyleGAN2-ADA's settings for 256 pixels."""
SHAPES = 4
"""Convolutions of each size, the most expensive ones, whose rate is measured alone."""
ROWS = 15
"""Kernels in a profile's table."""
ALL_SECONDS = 525.0
"""The training is shortened where it would not end by then."""
AFTER_TRAINING = 25.0
"""Seconds of the training's section that are left for sampling and scores."""
PATIENCE = 10
"""Factor on the limits with --tiny, for machines that are busy."""


@dataclass
class Bench:
    """What the sections share."""

    report: Report
    out: Path
    device: torch.device
    sizes: Sequence[int]
    tiny: bool = False
    minutes: float = 5.0
    data: str | None = None
    """The image set of the training."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Settings on top of all that are measured."""
    extra_training: dict[str, Any] = field(default_factory=dict)
    flops_per_second: float | None = None
    """Measured: a large bfloat16 matrix product."""
    bytes_per_second: float | None = None
    """Measured: a large copy, reading and writing."""
    failures: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    stops: float = 0.0
    """When the section in work is stopped, on the same clock."""

    def timed(self, work: Callable[[], object], *, seconds: float = 0.6, groups: int = 5, warm_up: int = 3) -> float:
        """Return the time of one call (see `seconds_of`); with --tiny, of a single one."""
        if self.tiny:
            seconds, groups, warm_up = 0.0, 1, 1
        return seconds_of(work, self.device, seconds=seconds, groups=groups, warm_up=warm_up)

    @property
    def bf16(self) -> bool:
        return use_bf16("auto", self.device)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def share(self, flops: float, seconds: float) -> str | None:
        """Return the rate as a share of the measured ceiling."""
        return None if self.flops_per_second is None else f"{flops / seconds / self.flops_per_second:.1%}"

    def least_seconds(self, done: Sequence[Work]) -> float | None:
        """Return the least time of some work, each part of it at the measured ceilings."""
        if self.flops_per_second is None or self.bytes_per_second is None:
            return None
        return sum(work.least_seconds(self.flops_per_second, self.bytes_per_second) for work in done)

    def settings(self, sizes: Sequence[int]) -> list[tuple[int, str, FitConfig]]:
        """Return what is measured of the modern networks: size, name, settings; the wide ones first."""
        rows = [(size, "wide", self.wide(size)) for size in sizes]
        for size in sizes:
            recipe, _ = choose_recipe((size, size))
            shipped = FitConfig().updated(load_recipe(recipe), source=recipe)
            rows.append((size, f"recipe {recipe}", shipped.updated(self.extra)))
        return rows

    def wide(self, size: int) -> FitConfig:
        """Return settings that give a GPU enough to do."""
        return self.adapted(FitConfig(widths=WIDE), size)

    def style(self, size: int) -> FitConfig:
        """Return settings like those of StyleGAN2, with γ and the learning rate of StyleGAN2-ADA."""
        config = self.adapted(
            FitConfig(
                arch="style", loss="nonsaturating", penalty="r1", penalty_every=16, widths=STYLE, latent_dim=512,
                label_dim=512, lr=(2.5e-3, 2.5e-3), beta2=(0.99, 0.99),
            ),
            size,
        )  # fmt: skip
        return config.updated({"gamma": 2e-4 * size**2 / config.batch})

    def adapted(self, config: FitConfig, size: int) -> FitConfig:
        """Return settings with a batch that fills the device, and small networks where all is to be small."""
        batch = 8 if self.tiny else max(8, 128 * 64 // size)
        narrow = {"widths": [16, 8], "group_width": 8, "latent_dim": 16, "label_dim": 8} if self.tiny else {}
        return config.updated({"batch": batch, **narrow, **self.extra})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sections that are asked for; return 1 when one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--tiny", action="store_true", help="small sizes, small networks, a few steps")
    parser.add_argument("--sizes", nargs="+", type=int, help="sides in pixels (default 64 128 256)")
    parser.add_argument("--out", type=Path, default=Path("scratch/gpu"))
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections to run")
    parser.add_argument("--seconds", nargs="+", default=[], metavar="SECTION=LIMIT", help="other limits of sections")
    parser.add_argument("--data", choices=SETS, default="mednist64", help="image set of the training")
    parser.add_argument("--minutes", type=float, default=5.0, help="of the training")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings on top of those measured")
    parser.add_argument("--train-set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of the training")
    parser.add_argument("--autotune", action="store_true", help="let cuDNN try its algorithms for each shape")
    options = parser.parse_args(argv)
    limits = {name: seconds * (PATIENCE if options.tiny else 1) for name, (_, seconds, _) in SECTIONS.items()}
    for text in options.seconds:
        name, _, value = text.partition("=")
        if name not in limits:
            parser.error(f"--seconds {text}: the sections are {', '.join(limits)}")
        limits[name] = float(value)
    torch.backends.cudnn.benchmark = options.autotune
    bench = Bench(
        report=Report(options.out / "gpu.md"), out=options.out, device=choose_device(options.device),
        sizes=options.sizes or ([16, 32] if options.tiny else [64, 128, 256]), tiny=options.tiny,
        minutes=0.05 if options.tiny else options.minutes,
        data=None if options.tiny else options.data, extra=parse_assignments(tuple(options.set)),
        extra_training=parse_assignments(tuple(options.train_set)),
    )  # fmt: skip
    _title(bench, sys.argv[1:] if argv is None else argv)
    for name in options.only:
        title, _, section = SECTIONS[name]
        bench.report.line(f"\n## {title}")
        _run(bench, name, section, limits[name])
    bench.report.line(f"\nAll of it: {time.monotonic() - bench.started:.0f} s.")
    if bench.failures:
        bench.report.line(f"\n**Failed: {'; '.join(bench.failures)}.**")
    return 1 if bench.failures else 0


def _run(bench: Bench, name: str, section: Callable[[Bench], None], limit: float) -> None:
    start = time.monotonic()
    bench.stops = start + limit
    try:
        with limited(limit):
            section(bench)
    except OutOfTimeError as problem:
        bench.failures.append(f"{name} ({problem})")
        bench.report.line(f"\n**Stopped: {problem}.**")
    except Exception as problem:
        traceback.print_exc()
        first = str(problem).strip().partition("\n")[0]
        bench.failures.append(f"{name} ({type(problem).__name__})")
        bench.report.line(f"\n**Failed: {type(problem).__name__}: {first}**")
    if bench.device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
    bench.report.line(f"\n({time.monotonic() - start:.1f} s of {limit:g})")


def _title(bench: Bench, arguments: Sequence[str]) -> None:
    on_gpu = bench.device.type == "cuda"
    found = ""
    with suppress(OSError):  # a copy of the tree may be without its history, a machine without git
        done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        found = done.stdout.strip()
    bench.report.line("# The conditional core on a GPU" if on_gpu else "# The conditional core on a device")
    bench.report.head("what", "value")
    bench.report.row("device", torch.cuda.get_device_name(bench.device) if on_gpu else f"CPU, {platform.machine()}")
    bench.report.row("CPU cores", os.cpu_count())
    cuda = f", CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}" if on_gpu else ""
    bench.report.row("torch", f"{torch.__version__}{cuda}, Python {platform.python_version()}")
    bench.report.row("commit", found or "unknown")
    bench.report.row("command", " ".join(["python -m benchmarks.gpu", *arguments]))


def ceilings(bench: Bench) -> None:
    """Measure what the device does at most, and what its library makes of our convolutions' shapes."""
    side, length = (256, 1 << 20) if bench.tiny else (8192, 1 << 30)
    device, kind = bench.device, torch.bfloat16
    a, b = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    seconds = bench.timed(lambda: a @ b)
    bench.flops_per_second = 2 * side**3 / seconds
    source = torch.randn(length, device=device, dtype=kind)
    seconds = bench.timed(partial(torch.empty_like(source).copy_, source))
    bench.bytes_per_second = 2 * source.numel() * source.element_size() / seconds
    del source
    bench.report.head("ceiling", "measured on", "rate")
    bench.report.row("matrix product", f"bfloat16, {side} × {side} × {side}", _tera(bench.flops_per_second))
    bench.report.row(
        "copy", f"{4 * length / 2**20:,.0f} MiB read and written", f"{bench.bytes_per_second / 1e9:,.0f} GB/s"
    )
    bench.report.line("\nThe most expensive convolutions of the generator with wide settings, channels-last bfloat16:")
    bench.report.head(
        "input", "weight", "groups", "GFLOP", "as a convolution", "as a matrix product", "the two ceilings allow"
    )
    for size in bench.sizes:
        config = bench.wide(size)
        _, forward = _generator(bench, config, size, config.batch)
        with WorkCounter() as counter:
            forward()
        unique = {(work.x, work.weight): work for work in counter.done if work.kind == "convolution"}
        for work in sorted(unique.values(), key=lambda work: -work.flops)[:SHAPES]:
            _shape_row(bench, work)


def _shape_row(bench: Bench, work: Work) -> None:
    x = torch.randn(work.x, device=bench.device, dtype=torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(work.weight, device=bench.device, dtype=torch.bfloat16)
    weight = weight.contiguous(memory_format=torch.channels_last)
    padding = work.weight[-1] // 2
    convolved = bench.timed(lambda: F.conv2d(x, weight, padding=padding, groups=work.groups), seconds=0.1)
    product = None
    if work.weight[2:] == (1, 1):
        rows, columns = x.movedim(1, -1).reshape(-1, work.x[1]), weight.flatten(1).t()
        product = _tera(work.flops / bench.timed(lambda: rows @ columns, seconds=0.1))
    least = bench.least_seconds([work])
    bench.report.row(
        "×".join(map(str, work.x)), "×".join(map(str, work.weight)), work.groups, work.flops / 1e9,
        _tera(work.flops / convolved), product, None if least is None else _tera(work.flops / least),
    )  # fmt: skip


def _tera(rate: float) -> str:
    return f"{rate / 1e12:,.1f} TFLOP/s"


def _generator(bench: Bench, config: FitConfig, size: int, batch: int) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Return a generator, and its forward pass as a training runs it."""
    network = build_network(
        config.arch, "Generator", vars(config), size=(size, size), channels=CHANNELS, classes=CLASSES
    )
    network = place(network, bench.device).eval()
    latents = torch.randn(batch, config.latent_dim, device=bench.device)
    labels = torch.arange(batch, device=bench.device) % CLASSES

    def forward() -> Tensor:
        with torch.no_grad(), bench.autocast():
            return network(latents, labels)

    return network, forward


def generator(bench: Bench) -> None:
    """Time the generator's forward pass."""
    bench.report.line("\nForward passes alone. The last column: the least time of its convolutions and products, each")
    bench.report.line("at the nearer one of the two ceilings, over the time that the pass took.")
    bench.report.head(
        "px", "settings", "batch", "parameters (M)", "GFLOP an image", "images/s", "TFLOP/s",
        "of the ceiling", "of what both ceilings allow",
    )  # fmt: skip
    styles = [(size, "StyleGAN2-like", bench.style(size)) for size in bench.sizes]
    for size, name, config in [*bench.settings(bench.sizes), *styles]:
        with_batch_that_fits(config.batch, partial(_generator_row, bench, size, name, config))


def _generator_row(bench: Bench, size: int, name: str, config: FitConfig, batch: int) -> None:
    network, forward = _generator(bench, config, size, batch)
    with WorkCounter() as counter:
        forward()
    seconds = bench.timed(forward)
    least = bench.least_seconds(counter.done)
    bench.report.row(
        size, name, batch, _millions(network), counter.flops / batch / 1e9, batch / seconds,
        counter.flops / seconds / 1e12, bench.share(counter.flops, seconds),
        None if least is None else f"{least / seconds:.1%}",
    )  # fmt: skip


def _millions(network: nn.Module) -> float:
    return sum(parameter.numel() for parameter in network.parameters()) / 1e6


_STEP_COLUMNS = (
    "px", "settings", "batch", "parameters G + D (M)", "step (ms)", "images/s", "TFLOP/s", "of the ceiling",
    "convolutions (ms)", "step over convolutions", "device busy", "kernels a step", "peak (GiB)", "MiB an image",
)  # fmt: skip


def steps(bench: Bench) -> None:
    """Time whole training steps of the modern networks."""
    bench.report.line("\nWhole steps on random images, at the end of the schedules. Peak: of all tensors.")
    bench.report.head(*_STEP_COLUMNS)
    for size, name, config in bench.settings(bench.sizes):
        with_batch_that_fits(config.batch, partial(_step_row, bench, size, name, config))


def style(bench: Bench) -> None:
    """Time whole training steps of settings like StyleGAN2's."""
    bench.report.line("\n`arch: style`, `loss: nonsaturating`, `penalty: r1` in every 16th step; means over 16 steps.")
    bench.report.head(*_STEP_COLUMNS)
    for size in bench.sizes:
        config = bench.style(size)
        with_batch_that_fits(config.batch, partial(_step_row, bench, size, "StyleGAN2-like", config))


def _step_row(bench: Bench, size: int, name: str, config: FitConfig, batch: int) -> None:
    on_gpu = bench.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(bench.device)
    gan, step = _training(bench, config, size, batch)
    # With a lazy penalty most steps have none: what a step takes is the mean of both kinds.
    weights = {0: 1 / config.penalty_every, 1: 1 - 1 / config.penalty_every}
    seconds = flops = convolving = busy = kernels = 0.0
    for number, weight in weights.items():
        if not weight:
            continue
        with WorkCounter() as counter:
            losses = step(number)
        flops += weight * counter.flops
        seconds += weight * bench.timed(partial(step, number), groups=3, warm_up=1)
        found = profile_of(partial(step, number), bench.device)
        convolving += weight * found.within(CONVOLUTIONS)
        busy += weight * found.seconds
        kernels += weight * sum(kernel.runs for kernel in found.kernels)
        if not all(bool(torch.isfinite(value)) for value in losses.values()):
            name = f"{name} (not finite)"
    peak = torch.cuda.max_memory_allocated(bench.device) if on_gpu else None
    bench.report.row(
        size, name, batch, " + ".join(cell_text(_millions(part)) for part in (gan.generator, gan.discriminator)),
        1000 * seconds,
        batch / seconds, flops / seconds / 1e12, bench.share(flops, seconds), 1000 * convolving,
        seconds / convolving if convolving else None, f"{min(busy / seconds, 1):.0%}", round(kernels),
        None if peak is None else peak / 2**30, None if peak is None else peak / 2**20 / batch,
    )  # fmt: skip


def _training(bench: Bench, config: FitConfig, size: int, batch: int) -> tuple[GAN, Callable[[int], dict[str, Tensor]]]:
    """Return a GAN, and its step on random images, by the step's number."""
    gan = GAN(
        config, size=(size, size), channels=CHANNELS, classes=CLASSES, device=bench.device, bf16=bench.bf16,
        counts=[100] * CLASSES,
    )  # fmt: skip
    images = torch.rand(batch, CHANNELS, size, size, device=bench.device) * 2 - 1
    labels = torch.arange(batch, device=bench.device) % CLASSES
    return gan, lambda number: gan.step(images, labels, number, 1.0)


def kernels(bench: Bench) -> None:
    """Show where the time of one step goes, as the training loop runs it."""
    size = bench.sizes[0]
    for _, name, config in bench.settings([size]):
        gan, _ = _training(bench, config, size, config.batch)
        pixels = np.random.default_rng(0).integers(0, 256, (256, CHANNELS, size, size), dtype=np.uint8)
        known = IntensityMap(kind="uint8", low=0.0, high=255.0, dtype="uint8")
        images = DeviceImages(pixels, np.arange(256) % CLASSES, known, bench.device)
        positions = np.arange(config.batch) % 256

        def step(gan: GAN = gan, images: DeviceImages = images, positions: np.ndarray = positions) -> None:
            gan.step(*images.batch(positions), 0, 1.0)

        for _ in range(1 if bench.tiny else 3):
            step()
        found = profile_of(step, bench.device, calls=1 if bench.tiny else 3)
        bench.report.line(f"\n### {size} px, {name}, batch {config.batch}: {1000 * found.seconds:.3g} ms in kernels")
        _cost_table(bench, found, "kernel" if bench.device.type == "cuda" else "operation")
        if bench.device.type == "cuda":
            bench.report.line("\nThe same by the operation that launched them:")
            _cost_table(bench, Profile(found.operations, []), "operation")
            bench.report.line("\nWhere the step waits for the device:")
            bench.report.head("line", "times a step")
            for line, times in host_waits(step).most_common():
                bench.report.row(line, times)


def _cost_table(bench: Bench, found: Profile, what: str) -> None:
    bench.report.head(what, "share", "ms a step", "runs a step")
    for cost in found.kernels[:ROWS]:
        short = cost.name if len(cost.name) <= 100 else f"{cost.name[:97]}…"
        share = cost.seconds / found.seconds if found.seconds else 0.0
        bench.report.row(f"`{short}`", f"{share:.1%}", 1000 * cost.seconds, cost.runs)


def host_waits(work: Callable[[], object]) -> Counter[str]:
    """Return the lines of Python in which `work` waits for the CUDA device, and how often."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    here = Path.cwd()
    found = [Path(one.filename) for one in caught]
    return Counter(
        f"{path.relative_to(here) if path.is_relative_to(here) else path}:{one.lineno}"
        for path, one in zip(found, caught, strict=True)
        if "synchronizing CUDA operation" in str(one.message)
    )


def checks(bench: Bench) -> None:
    """Check on the device what the tests check on a CPU."""
    bench.report.head("check", "found", "at most", "")
    for check in device_checks(bench.device, side=min(bench.sizes[0], 32), tiny=bench.tiny):
        if not check.good:
            bench.failures.append(check.name)
        verdict = "" if check.most is None else "ok" if check.good else "**failed**"
        bench.report.row(check.name, check.found, check.most, verdict)


def training(bench: Bench) -> None:
    """Train for minutes through `ganaug.fit`, draw samples and score them."""
    images = _digits() if bench.data is None else _image_set(bench)
    if images is None:
        return
    size = images.train.shape[2:]
    left = min(bench.stops, bench.started + ALL_SECONDS) - AFTER_TRAINING - time.monotonic()
    minutes = bench.minutes if bench.tiny else max(0.1, min(bench.minutes, left / 60))
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "train.npz")
        pixels = images.train[:, 0] if images.train.shape[1] == 1 else np.moveaxis(images.train, 1, -1)
        np.savez(data, images=pixels, labels=np.array(images.classes)[images.train_labels])
        if bench.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(bench.device)
        run = Run(Path(folder, "run"))
        try:
            ganaug.fit(
                data, run.path, size=size, minutes=minutes, device=str(bench.device), show_progress=True,
                **bench.extra_training,
            )  # fmt: skip
        except DivergedError as problem:  # what was trained is there to be looked at
            bench.failures.append("training (diverged)")
            bench.report.line(f"\n**{problem}**")
        last, stored = run.metrics()[-1], run.config_file()
        gan = ganaug.load(run.path, device=str(bench.device))
        bench.report.head("of the training", "")
        shape = "×".join(map(str, size))
        bench.report.row("images", f"{images.name}: {len(images.train):,} of {shape}, {len(images.classes)} classes")
        on_top = [f"{key}={value}" for key, value in bench.extra_training.items()]
        bench.report.row("recipe, settings on top", " ".join([stored["recipe"], *on_top]))
        bench.report.row("minutes", last["seconds"] / 60)
        bench.report.row("kimg", last["kimg"])
        bench.report.row("images/s, snapshots included", last["images_per_second"])
        bench.report.row("diversity (least class)", f"{last['diversity']:.2f} ({last['diversity_least']:.2f})")
        bench.report.row("skipped steps", last["skipped_steps"])
        if bench.device.type == "cuda":
            bench.report.row("peak (GiB)", torch.cuda.max_memory_allocated(bench.device) / 2**30)
        preview(gan, columns=10, seed=1).save(bench.out / "samples.png")
        bench.report.row("picture", "samples.png")
        order = np.array([gan.classes.index(name) for name in images.classes])
        labels = order[images.test_labels]
        start = time.monotonic()
        fakes = gan.stored(gan.sample(labels, seed=2)).numpy()
        bench.report.row("samples/s, latents and copies included", len(fakes) / (time.monotonic() - start))
    _distance_rows(bench, images, fakes)


def _distance_rows(bench: Bench, images: ImageSet, fakes: np.ndarray) -> None:
    """Report the kernel distance of fakes, as many of each class as there are test images, to those test images."""
    try:
        from benchmarks.scores import SIDE, feature_network, features, kid

        with redirect_stdout(io.StringIO()):  # the package talks as it loads
            digest = feature_network()[1]
    except ImportError as problem:
        bench.report.row("KID", f"not measured: the feature network is not installed ({problem.name})")
        return
    counts = np.bincount(images.test_labels, minlength=len(images.classes))
    real = np.concatenate([images.train[images.train_labels == c][:count] for c, count in enumerate(counts)])
    test, fake, floor = (features(pixels) for pixels in (images.test, fakes, real))
    bench.report.row("KID ×1000 of samples to test images", kid(fake, test))
    bench.report.row("KID ×1000 of training to test images", kid(floor, test))
    counted = f"{len(fake)} and {len(test)} images"
    bench.report.row("features of the KID", f"EfficientNet-Lite0 at {SIDE} px, weights {digest}; {counted}")


def _image_set(bench: Bench) -> ImageSet | None:
    if "GANAUG_DATA" not in os.environ or bench.data is None:
        bench.report.line("\nSkipped: $GANAUG_DATA names no folder of image sets (see `benchmarks/sets.py`).")
        return None
    return load_set(bench.data)


def _digits() -> ImageSet:
    """Return handwritten digits of 16×16 pixels: a stand-in that needs no folder."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)[:, None].repeat(2, 2).repeat(2, 3)
    labels = digits.target.astype(np.int64)
    return ImageSet("digits", tuple("0123456789"), pixels[64:], labels[64:], pixels[:64], labels[:64])


SECTIONS: dict[str, tuple[str, float, Callable[[Bench], None]]] = {
    "ceilings": ("Ceilings", 25, ceilings),
    "checks": ("Checks on the device", 45, checks),
    "generator": ("The generator's forward pass", 20, generator),
    "steps": ("The training step", 70, steps),
    "style": ("Settings like StyleGAN2's beside", 35, style),
    "kernels": ("One step's kernels", 15, kernels),
    "training": ("A training of minutes", 300 + AFTER_TRAINING, training),
}
"""Title, limit in seconds and function of each section."""


if __name__ == "__main__":
    sys.exit(main())
