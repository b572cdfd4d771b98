"""What holds a discriminator down: gradient penalties, and the clipping of weights.

Sources: Mescheder et al., "Which training methods for GANs do actually converge?" (2018), equations 9 and 10 (R1, R2);
Gulrajani et al., "Improved training of Wasserstein GANs" (2017), equation 3; Arjovsky et al., "Wasserstein GAN" (2017),
algorithm 1 (clipping).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ganaug.models.piecewise import Tape

LEAST_SLOPE = 1e-12
"""Slope that `backward_penalized` takes a loss to have at least."""


def squared_gradient_norms(logits: Tensor, images: Tensor) -> Tensor:
    """Return ‖∇ₓ D(x)‖² of each image: N floats, differentiable with respect to the discriminator's parameters.

    `images` (float32, N×…) must require gradients, and `logits` (N) must come from them, each from its own image. On
    real images the mean is R1, on fake ones R2. The sum runs in float32 whatever precision the network ran in.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.float().square().flatten(1).sum(1)


def backward_penalized(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    objective: Callable[[Tensor], Tensor],
    weights: Tensor,
) -> tuple[Tensor, Tensor]:
    """Add the gradient of L(D(x)) + Σᵢ γᵢ ‖∇ₓ D(xᵢ)‖² to the parameters' `.grad`, without a second derivative.

    For a network that is linear in pieces, each logit from its own image. Let cᵢ = ∂L/∂D(xᵢ). With the kinks held where
    xᵢ puts them D is affine, and the penalty's gradient is that of 2γᵢ⟨∇ₓ D(xᵢ), vᵢ⟩ for vᵢ = ∇ₓ D(xᵢ) held fixed: of
    what D gains where its image moves by 2γᵢvᵢ. So loss and penalty together have the weight gradients of the loss
    alone, with the layers' inputs taken at the moved image xᵢ + (2γᵢ/cᵢ) vᵢ: two passes forward, one backward, one
    product for each weight, where differentiating twice takes two of each.

    Args:
        network: called as ``network(images, labels, run)``, see `ganaug.models.piecewise`.
        images: N×….
        labels: N.
        objective: the loss L of N logits, a scalar.
        weights: γ, N floats.

    Returns:
        The logits and the squared gradient norms ‖∇ₓ D(xᵢ)‖², N float32 each, without gradients.
    """
    images = images.detach().requires_grad_()
    tape = Tape()
    recorded = network(images, labels, tape.record).float()
    logits = recorded.detach().requires_grad_()
    (slopes,) = torch.autograd.grad(objective(logits), logits)
    # The slope divides: an image that the loss has no use for still has its penalty.
    slopes = torch.where(slopes.abs() < LEAST_SLOPE, LEAST_SLOPE, slopes)
    each = (-1, *[1] * (images.ndim - 1))
    (gradient,) = torch.autograd.grad(recorded, images, slopes)
    gradient = gradient.float() / slopes.view(each)
    moved = images.detach() + (2 * weights / slopes).view(each) * gradient
    network(moved, labels, tape.replay).float().backward(slopes)
    return logits.detach(), gradient.square().flatten(1).sum(1)


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
