"""What holds a discriminator down: gradient penalties, and the clipping of weights.

Sources: Mescheder et al., "Which training methods for GANs do actually converge?" (2018), equations 9 and 10 (R1, R2);
Gulrajani et al., "Improved training of Wasserstein GANs" (2017), equation 3; Arjovsky et al., "Wasserstein GAN" (2017),
algorithm 1 (clipping).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def squared_gradient_norms(logits: Tensor, images: Tensor) -> Tensor:
    """Return ‖∇ₓ D(x)‖² of each image: N floats, differentiable with respect to the discriminator's parameters.

    `images` (float32, N×…) must require gradients, and `logits` (N) must come from them, each from its own image. On
    real images the mean is R1, on fake ones R2. The sum runs in float32 whatever precision the network ran in.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.float().square().flatten(1).sum(1)


def unit_gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Return (‖∇ₓ D(x)‖ - 1)² of each image, for the same arguments as `squared_gradient_norms`; see `between`."""
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    # Not the root of the squared norm, whose derivative at a slope of 0 is not finite.
    return (torch.linalg.vector_norm(gradient.float().flatten(1), dim=1) - 1).square()


def between(real: Tensor, fake: Tensor, at: Tensor) -> Tensor:
    """Return a point of the straight line between each real image and the fake beside it, N×…; `at`: N in [0, 1]."""
    return fake + at.view(-1, *[1] * (real.ndim - 1)) * (real - fake)


@torch.no_grad()
def clip_weights(network: nn.Module, bound: float) -> None:
    """Clip every parameter to [-bound, bound]."""
    parameters: list[Tensor] = list(network.parameters())
    torch._foreach_clamp_min_(parameters, -bound)
    torch._foreach_clamp_max_(parameters, bound)
