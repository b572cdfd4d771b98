"""The one place that knows about ranks. A single process is rank 0 of 1.

Several processes are started by ``torchrun --nproc-per-node N -m ganaug fit …``. They do not wrap their networks: after
the backward passes the gradients are summed in one flat vector, which is also right for the gradient of a gradient.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
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
