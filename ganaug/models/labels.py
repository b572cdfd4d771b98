"""The class embedding of generators and discriminators."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ClassEmbedding(nn.Embedding):
    """A vector for each class, all multiplied by one number: the share that the class has in the network's work.

    ``forward(labels: N int64, noise: N×dim or None) -> N×dim``. At share 0 the network is unconditional; a training may
    start there and let the classes in later (Shahbazi et al. 2022, "Collapse by conditioning").
    """

    share: Tensor

    def __init__(self, classes: int, dim: int) -> None:
        super().__init__(classes, dim)
        self.register_buffer("share", torch.ones(()))

    def forward(self, labels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the labels' vectors, with noise added where it is given."""
        rows = super().forward(labels)
        return (rows if noise is None else rows + noise) * self.share


@torch.no_grad()
def set_class_share(network: nn.Module, share: float) -> None:
    """Set the share, in [0, 1], of all class embeddings of a network."""
    for module in network.modules():
        if isinstance(module, ClassEmbedding):
            module.share.fill_(share)
