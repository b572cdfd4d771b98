"""Where to train and in what precision."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ganaug.distributed import local_rank, world_size
from ganaug.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """Return the device for 'auto' (CUDA where there is one), 'cpu', 'cuda' or 'cuda:N'.

    Of several processes on one machine each one gets its own GPU, unless a number is given.
    """
    if world_size() > 1 and (name == "cuda" or (name == "auto" and torch.cuda.is_available())):
        name = f"cuda:{local_rank()}"
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--device {name} was given; auto, cpu, cuda or cuda:N was wanted.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"--device {name} was given, but this machine has no such GPU. Use --device auto or cpu.")
    return device


def use_bf16(precision: str, device: torch.device) -> bool:
    """Return whether to run under bfloat16 autocast: asked for, or 'auto' and the hardware multiplies bfloat16."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and _cpu_multiplies_bf16()


def _cpu_multiplies_bf16() -> bool:
    """AVX-512 BF16 or AMX: elsewhere bfloat16 is emulated and slower than float32."""
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check is not None and check() for check in checks)


def is_out_of_memory(problem: BaseException) -> bool:
    """Return whether an error says that memory is used up: PyTorch has a class of its own for that on GPUs alone."""
    if isinstance(problem, MemoryError | torch.OutOfMemoryError):
        return True
    told = str(problem).lower()
    return isinstance(problem, RuntimeError) and any(
        words in told for words in ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
    )


@contextmanager
def deterministic_kernels(wanted: bool) -> Iterator[None]:
    """Let PyTorch choose kernels that give the same bits again, and warn where it has none, for as long as this lasts.

    https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    if not wanted:
        yield
        return
    # Read when cuBLAS is first used; without it its kernels count as not deterministic.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def keep_freed_memory() -> None:
    """Let the C library keep what tensors give back, where it is glibc (for the whole process, from now on).

    By default glibc returns blocks of some MB to the system, which clears every page when a step asks for them again: a
    fifth to a third of a training step on a CPU.
    """
    try:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    except (OSError, TypeError):  # Windows has no such handle
        return
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3
        mallopt(mmap_threshold, 1 << 30) or mallopt(mmap_threshold, 1 << 25)  # the most that older versions take
        mallopt(trim_threshold, (1 << 31) - 1)
