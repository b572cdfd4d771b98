"""What a benchmark on a device needs: Markdown as it goes, times, the work that shapes tell, a profile of kernels."""

from __future__ import annotations

import gc
import math
import re
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.utils._python_dispatch import TorchDispatchMode

T = TypeVar("T")


class OutOfTimeError(Exception):
    """A section used up its seconds."""


class Report:
    """Markdown that goes to the terminal and to a file line by line: what is there stays when a later part fails."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", encoding="utf-8")

    def line(self, text: str = "") -> None:
        """Write a line."""
        print(text, flush=True)
        self._file.write(f"{text}\n")
        self._file.flush()

    def head(self, *columns: str) -> None:
        """Begin a table."""
        self.line()
        self.row(*columns)
        self.line("|" + "---|" * len(columns))

    def row(self, *cells: object) -> None:
        """Write a row of the table that was begun last; None is a dash."""
        self.line("| " + " | ".join(cell_text(cell) for cell in cells) + " |")


def cell_text(value: object) -> str:
    """Return a table cell: floats with three digits that count, None as a dash.

    >>> cell_text(1234.5), cell_text(0.04567), cell_text(None), cell_text("a|b")
    ('1,234', '0.0457', '—', 'a/b')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "—"
    if isinstance(value, float):
        if value == 0 or not math.isfinite(value):
            return f"{value:g}"
        digits = 2 - math.floor(math.log10(abs(value)))
        return f"{value:.{digits}f}" if 0 < digits <= 5 else f"{value:,.0f}" if digits <= 0 else f"{value:.1e}"
    return str(value).replace("|", "/")


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise OutOfTimeError in the block when it takes longer; a call into a library is let finish. Main thread only."""

    def stop(_number: int, _frame: object) -> None:
        raise OutOfTimeError(f"more than {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(
    work: Callable[[], object], device: torch.device, *, seconds: float = 0.5, groups: int = 5, warm_up: int = 3
) -> float:
    """Return the time of one call: the median over `groups` of calls, which together take about `seconds`.

    The calls of a group follow each other as they would in a loop, and the clock stops when the device has done all.
    """
    for _ in range(warm_up):
        work()
    once = _group(work, device, 1)
    calls = max(1, int(seconds / groups / max(once, 1e-7)))
    return statistics.median(_group(work, device, calls) for _ in range(groups))


def _group(work: Callable[[], object], device: torch.device, calls: int) -> float:
    synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        work()
    synchronize(device)
    return (time.perf_counter() - start) / calls


def with_batch_that_fits(batch: int, measure: Callable[[int], T]) -> T:
    """Return ``measure(batch)``, with half the batch as often as the device's memory does not hold it."""
    while True:
        try:
            return measure(batch)
        except torch.OutOfMemoryError:
            if batch < 4:
                raise
        batch //= 2  # after the except clause, whose exception holds the tensors of all its frames
        gc.collect()
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class Work:
    """A convolution, a part of its gradient, or a matrix product, as its shapes tell it."""

    kind: str
    """'convolution', 'gradient' (of a convolution) or 'product'."""
    flops: int
    """Two for each multiplication with an addition."""
    moved: int
    """Bytes of its operands and its result, each once."""
    x: tuple[int, ...]
    """Shape of the input, or of the left matrix."""
    weight: tuple[int, ...]
    """Shape of the weight, or of the right matrix."""
    groups: int = 1

    def least_seconds(self, flops_per_second: float, bytes_per_second: float) -> float:
        """Return the time that it takes at least where these are the most that a device does."""
        return max(self.flops / flops_per_second, self.moved / bytes_per_second)


class WorkCounter(TorchDispatchMode):
    """Notes the convolutions and matrix products that run in its block, second derivatives and fused ones included.

    PyTorch's own `FlopCounterMode` takes the weight gradient of a grouped convolution for that of a dense one, and does
    not know the fused convolutions of the CPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.done: list[Work] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        work = _work_of(func, args, out)
        if work is not None:
            self.done.append(work)
        return out

    @property
    def flops(self) -> int:
        """Operations of all that was done."""
        return sum(work.flops for work in self.done)


_PRODUCTS = {torch.ops.aten.mm: 0, torch.ops.aten.bmm: 0, torch.ops.aten.addmm: 1, torch.ops.aten.baddbmm: 1}
"""Matrix products, and the position of their left matrix."""


def _work_of(func: Any, args: Any, out: Any) -> Work | None:
    packet = func.overloadpacket
    if packet in _PRODUCTS:
        left, right = args[_PRODUCTS[packet] :][:2]
        flops = 2 * left.numel() * right.shape[-1]
        return Work("product", flops, _bytes(*args, out), tuple(left.shape), tuple(right.shape))
    if packet is torch.ops.aten.convolution:
        x, weight, transposed, groups = args[0], args[1], args[6], args[8]
        flops = 2 * (x if transposed else out).numel() * weight[0].numel()
        return Work("convolution", flops, _bytes(*args, out), tuple(x.shape), tuple(weight.shape), groups)
    if packet is torch.ops.aten.convolution_backward:
        grad, x, weight, groups, mask = args[0], args[1], args[2], args[9], args[10]
        flops = 2 * grad.numel() * weight[0].numel() * (mask[0] + mask[1])
        return Work("gradient", flops, _bytes(grad, x, weight, *out), tuple(x.shape), tuple(weight.shape), groups)
    if str(packet) == "mkldnn._convolution_pointwise":
        fused = args if func._overloadname == "default" else (args[0], *args[2:])
        flops = 2 * out.numel() * fused[1][0].numel()
        return Work("convolution", flops, _bytes(*args, out), tuple(args[0].shape), tuple(fused[1].shape), fused[6])
    return None


def _bytes(*values: Any) -> int:
    return sum(value.numel() * value.element_size() for value in values if isinstance(value, Tensor))


@dataclass(frozen=True)
class Cost:
    """What one kernel (on a CPU: operation) or one kind of operation takes."""

    name: str
    seconds: float
    """In one call of the work, all its runs together."""
    runs: float


@dataclass(frozen=True)
class Profile:
    """Where the device's time goes in one call of some work."""

    kernels: list[Cost]
    """The most expensive first."""
    operations: list[Cost]
    """The same time by the PyTorch operation that launched the kernels."""

    @property
    def seconds(self) -> float:
        """Time of all kernels."""
        return sum(kernel.seconds for kernel in self.kernels)

    def within(self, pattern: str) -> float:
        """Return the time of the operations whose name matches."""
        return sum(operation.seconds for operation in self.operations if re.search(pattern, operation.name))


CONVOLUTIONS = r"^(aten|mkldnn)::.*conv"
"""Names of the operations that convolve, and of their gradients."""


def profile_of(work: Callable[[], object], device: torch.device, *, calls: int = 1) -> Profile:
    """Return the profile of one call of `work`, the mean of `calls`."""
    on_cpu = device.type == "cpu"
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [] if on_cpu else [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(calls):
            work()
        synchronize(device)
    rows = profiler.key_averages()
    on_host = [row for row in rows if row.device_type == DeviceType.CPU]
    # A range that the host draws around its kernels is on the device too, by the same name.
    names = {row.key for row in on_host}
    launched = [row for row in rows if row.device_type != DeviceType.CPU and row.key not in names]
    operations = [_cost(row, on_cpu, calls) for row in on_host if not row.is_user_annotation]
    kernels = operations if on_cpu else [_cost(row, on_cpu, calls) for row in launched]

    def dearest(costs: list[Cost]) -> list[Cost]:
        return sorted(costs, key=lambda cost: -cost.seconds)

    return Profile(dearest(kernels), dearest(operations))


def _cost(row: Any, on_cpu: bool, calls: int) -> Cost:
    microseconds = row.self_cpu_time_total if on_cpu else row.self_device_time_total
    return Cost(str(row.key), microseconds / 1e6 / calls, row.count / calls)
