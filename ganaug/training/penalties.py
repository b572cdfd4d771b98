"""Zero-centered gradient penalties.

Source: Mescheder et al., "Which training methods for GANs do actually converge?" (2018), equations 9 and 10.
"""

from __future__ import annotations

import torch
from torch import Tensor


def squared_gradient_norms(logits: Tensor, images: Tensor) -> Tensor:
    """Return ‖∇ₓ D(x)‖² of each image: N floats, differentiable with respect to the discriminator's parameters.

    `images` (float32, N×…) must require gradients, and `logits` (N) must come from them, each from its own image. On
    real images the mean is R1, on fake ones R2. The sum runs in float32 whatever precision the network ran in.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.float().square().flatten(1).sum(1)
