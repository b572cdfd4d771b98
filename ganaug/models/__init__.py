"""Networks and the model file."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ganaug.plugins import load_plugin


def build_network(
    arch: str, part: str, settings: Mapping[str, Any], *, size: Sequence[int], channels: int, classes: int
) -> nn.Module:
    """Build the 'Generator' or 'Discriminator' of an architecture.

    `settings` may hold more than the network needs (all of a `FitConfig`): the network's signature picks its own.
    """
    kind = getattr(load_plugin("ganaug.models.archs", arch), part)
    wanted = inspect.signature(kind).parameters
    chosen = {key: value for key, value in settings.items() if key in wanted}
    return kind(**{**chosen, "size": tuple(size), "channels": channels, "classes": classes})


def place(network: nn.Module, device: torch.device | str) -> nn.Module:
    """Move a network to `device` with its convolution weights channels-last, the layout that is fastest everywhere."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network.to(device)
