"""The one place that knows about ranks. A single process is rank 0 of 1.

Several processes are started by ``torchrun --nproc-per-node N -m ganaug fit …``. They do not wrap their networks: after
the backward passes the gradients are summed in one flat vector, which is also right for the gradient of a gradient.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def rank() -> int:
    """Return this process's rank, 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes, 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Return whether this process writes files and talks to the user."""
    return rank() == 0


def local_rank() -> int:
    """Return this process's number on its machine, which is also that of its GPU; 0 without torchrun."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def processes() -> Iterator[None]:
    """Connect the processes that torchrun started for as long as this lasts (one process has nothing to connect)."""
    if world_size() == 1:
        yield
        return
    import torch
    from torch import distributed

    if distributed.is_initialized():
        yield
        return
    cuda = torch.cuda.is_available() and distributed.is_nccl_available()
    distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


@contextmanager
def main_first() -> Iterator[None]:
    """Let rank 0 do the work inside first, and then the others, who find what it kept."""
    if not is_main():
        wait()
    yield
    if is_main():
        wait()


def wait() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        from torch import distributed

        distributed.barrier()


def from_main(text: str) -> str:
    """Return rank 0's text in every process."""
    if world_size() == 1:
        return text
    import torch
    from torch import distributed

    data = torch.tensor(list(text.encode()), dtype=torch.uint8)
    length = torch.tensor([len(data)])
    distributed.broadcast(length, 0)
    if not is_main():
        data = torch.zeros(int(length), dtype=torch.uint8)
    distributed.broadcast(data, 0)
    return bytes(data.numpy()).decode()


def of_main(number: float) -> float:
    """Return rank 0's number in every process."""
    if world_size() == 1:
        return number
    import torch
    from torch import distributed

    value = torch.tensor(number, dtype=torch.float64)
    distributed.broadcast(value, 0)
    return float(value)


def of_any(flag: bool) -> bool:
    """Return whether the flag is set in any process."""
    if world_size() == 1:
        return flag
    import torch
    from torch import distributed

    value = torch.tensor(float(flag))
    distributed.all_reduce(value)
    return bool(value)


def from_all(tensor: Tensor) -> Tensor:
    """Return the rows of all processes (equally many of each, N×…), in the order of their ranks."""
    if world_size() == 1:
        return tensor
    import torch
    from torch import distributed

    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def sum_over_processes(tensors: Sequence[Tensor]) -> None:
    """Replace each float tensor by its sum over all processes, in one transfer; nothing to do for one process."""
    if world_size() == 1:
        return
    import torch
    from torch import distributed

    flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
    distributed.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view(tensor.shape))
