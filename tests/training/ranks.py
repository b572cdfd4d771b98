"""Twenty steps of a GAN from the same global batches, in one process or in several, without reading or writing data.

Run as ``python -m tests.training.ranks OUT CORE[:wide][:pieces=N] …``, alone or under torchrun: rank 0 writes the full
state after the steps to ``OUT/<CORE…>.safetensors``. With ``wide`` everything is computed in float64, which tells a
difference in the mathematics from one in the order of sums.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ganaug.config import FitConfig
from ganaug.distributed import (
    ProcessesError,
    copy_from_main,
    digest_of,
    is_main,
    processes,
    rank,
    require_same,
    world_size,
)
from ganaug.models.translation import Translation
from ganaug.plugins import load_plugin
from tests.tiny import NETWORK, UINT8

STEPS, BATCH, SHAPE = 20, 8, (1, 16, 12)
CORES: dict[str, dict[str, Any]] = {
    "conditional": {**NETWORK, "confidence": (0.56, 0.61), "embedding_noise": 0.3, "augment_p": (0.5, 0.5)},
    "cyclegan": {
        "model": "cyclegan", "arch": "resnet", "widths": (8, 4), "group_width": 4, "pool": 2, "augment_p": (0.5, 0.5),
    },
    "pix2pix": {
        "model": "pix2pix", "arch": "resnet", "widths": (8, 4), "group_width": 4, "augment_p": (0.5, 0.5),
    },
    "dcgan": {**NETWORK, "arch": "dcgan"},
}  # fmt: skip


def trained(core: str, *, pieces: int = 1) -> dict[str, Tensor]:
    """Return the full state after `STEPS` steps, of which this process took its part."""
    config = FitConfig(**{"batch": BATCH, "pieces": pieces, **CORES[core]})
    more: dict[str, Any] = {"translation": Translation("class", ("a", "b"), ("a", "b"), (UINT8, UINT8), (), True, "")}
    if config.model == "conditional":
        more = {"classes": 2, "counts": (12, 5)}
    gan = load_plugin("ganaug.training.gans", config.model).GAN(
        config, size=SHAPE[1:], channels=SHAPE[0], device=torch.device("cpu"), bf16=False, **more
    )
    for network in (gan.generator, gan.discriminator, gan.average):
        network.to(torch.get_default_dtype())
    for step in range(STEPS):
        batch = gan.random_batch(BATCH, torch.Generator().manual_seed(step), shape=SHAPE)
        gan.step(*(part.chunk(world_size())[rank()] for part in batch), step, step / STEPS)
    state: dict[str, Tensor] = gan.tensors()
    return {name: value.detach().clone().contiguous() for name, value in state.items()}


@contextmanager
def float64() -> Iterator[None]:
    """Compute in float64 what asks for float32."""
    narrow = Tensor.float

    def wide(tensor: Tensor) -> Tensor:
        # A flag that Adam's kernel is given stays what the kernel wants.
        return narrow(tensor) if tensor.dtype == torch.bool and tensor.ndim == 0 else tensor.double()

    torch.set_default_dtype(torch.float64)
    Tensor.float = wide  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        Tensor.float = narrow  # type: ignore[method-assign]


def run(order: str) -> dict[str, Tensor]:
    """Return the state of one order, such as ``conditional:wide``."""
    core, *options = order.split(":")
    pieces = next((int(option.partition("=")[2]) for option in options if option.startswith("pieces=")), 1)
    if "wide" not in options:
        return trained(core, pieces=pieces)
    with float64():
        return trained(core, pieces=pieces)


if __name__ == "__main__":
    with processes():
        for order in sys.argv[2:]:
            state = run(order)
            require_same(digest_of(state), f"the state of {order}")
            if is_main():
                save_file(state, Path(sys.argv[1]) / f"{order}.safetensors")
        # Each has its own numbers until they are told those of rank 0; and then a rank that is off by one bit is named.
        state = {"a": torch.full((2, 3, 4, 5), float(rank())).to(memory_format=torch.channels_last)}
        copy_from_main(state.values())
        assert bool((state["a"] == 0).all())
        require_same(digest_of(state), "the weights")
        state["a"][1, 2, 3, 4] = torch.nextafter(torch.zeros(()), torch.tensor(rank())) if rank() else 0.0
        try:
            require_same(digest_of(state), "the weights after step 3")
        except ProcessesError as problem:
            (Path(sys.argv[1]) / f"differs-{rank()}.txt").write_text(str(problem))
    if world_size() > 1:
        os._exit(0)  # see ganaug/__main__.py
