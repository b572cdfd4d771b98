"""Networks and the model file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ganaug.plugins import load_plugin


@runtime_checkable
class StyleGenerator(Protocol):
    """A generator that makes its images from styles w, one for each of its layers, which it maps its latents to."""

    layers: int
    """How many styles an image takes, from the coarsest layer to the finest."""
    style_dim: int
    """W, the length of a style."""

    def map(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Return the styles (N×W) of latents (N×Z) of classes `labels` (N)."""

    def synthesize(self, styles: Tensor) -> Tensor:
        """Return the images (N×C×spatial) of styles, N×layers×W."""


def build_network(
    arch: str, part: str, settings: Mapping[str, Any], *, size: Sequence[int], channels: int, classes: int
) -> nn.Module:
    """Build the 'Generator' or 'Discriminator' of an architecture.

    `settings` may hold more than the network needs (all of a `FitConfig`): the network's signature picks its own.
    """
    kind = getattr(load_plugin("ganaug.models.archs", arch), part)
    return kind(**network_arguments(kind, settings, {"size": tuple(size), "channels": channels, "classes": classes}))


def network_arguments(
    kind: Callable[..., nn.Module], settings: Mapping[str, Any], fixed: Mapping[str, Any]
) -> dict[str, Any]:
    """Return those of `settings` that the network `kind` takes, and `fixed` over them."""
    wanted = inspect.signature(kind).parameters
    return {**{key: value for key, value in settings.items() if key in wanted}, **fixed}


def channels_last(x: Tensor) -> Tensor:
    """Return a tensor of 4 or 5 dimensions with its channels innermost in memory, the layout of fast convolutions."""
    layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    if x.shape[1] > 1:
        return x.contiguous(memory_format=layout)
    # With one channel both layouts are the same memory, and only the stride tells a convolution which one is meant.
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=layout).copy_(x)


def place(network: nn.Module, device: torch.device | str) -> nn.Module:
    """Move a network to `device` with its convolution weights channels-last, the layout that is fastest everywhere."""
    for parameter in network.parameters():
        if parameter.ndim in (4, 5):
            parameter.data = channels_last(parameter.data)
    return network.to(device)
