"""Convolution with an efficient second derivative.

A gradient penalty differentiates a gradient. PyTorch's own second derivative of a convolution finds the weight's part
as a convolution whose kernel is as large as the image, and copies both operands to do so; on a CPU this dominates the
step. Here the first derivatives are functions of their own, so that every derivative, of any order, is one of three
fast kernels: the convolution, its input gradient, its weight gradient. The same idea as in the training of
StyleGAN2-ADA (Karras et al. 2020).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

Geometry = tuple[tuple[int, ...], tuple[int, ...], int]
"""Stride, padding, groups."""


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, mask: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    stride, padding, groups = geometry
    ones, zeros = [1] * len(stride), [0] * len(stride)
    layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    grad, x = grad.contiguous(memory_format=layout), x.contiguous(memory_format=layout)
    found = torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, ones, False, zeros, groups, [*mask, False]
    )
    return found[0], found[1]


class _Convolution(torch.autograd.Function):
    """y(x, w, b)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        stride, padding, groups = geometry
        ones, zeros = [1] * len(stride), [0] * len(stride)
        return torch.ops.aten.convolution(x, weight, bias, stride, padding, ones, False, zeros, groups)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        for_x = _InputGradient.apply(grad, x, weight, ctx.geometry) if wanted[0] else None
        for_weight = _WeightGradient.apply(grad, x, weight, ctx.geometry) if wanted[1] else None
        for_bias = grad.sum([0, *range(2, grad.ndim)]) if wanted[2] else None
        return for_x, for_weight, for_bias, None


class _InputGradient(torch.autograd.Function):
    """∂⟨g, y⟩/∂x: linear in g and in w; `x` gives only its shape."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(grad, weight)
        ctx.geometry = geometry
        return _gradients(grad, x, weight, geometry, (True, False))[0]

    @staticmethod
    def backward(ctx: Any, grad2: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        grad, weight = ctx.saved_tensors
        for_grad = _Convolution.apply(grad2, weight, None, ctx.geometry) if ctx.needs_input_grad[0] else None
        for_weight = _WeightGradient.apply(grad, grad2, weight, ctx.geometry) if ctx.needs_input_grad[2] else None
        return for_grad, None, for_weight, None


class _WeightGradient(torch.autograd.Function):
    """∂⟨g, y⟩/∂w: linear in g and in x; `weight` gives only its shape."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(grad, x)
        ctx.geometry = geometry
        return _gradients(grad, x, weight, geometry, (False, True))[1]

    @staticmethod
    def backward(ctx: Any, grad2: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        grad, x = ctx.saved_tensors
        for_grad = _Convolution.apply(x, grad2, None, ctx.geometry) if ctx.needs_input_grad[0] else None
        for_x = _InputGradient.apply(grad, x, grad2, ctx.geometry) if ctx.needs_input_grad[1] else None
        return for_grad, for_x, None, None


class Conv(nn.Module):
    """A 2D or 3D convolution, N×C×spatial to N×C'×spatial', that is cheap to differentiate twice.

    Under autocast it runs in the autocast type, as `torch.nn.Conv2d` does. An odd `kernel` is padded by half, an even
    one not at all.
    """

    def __init__(
        self,
        dims: int,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, *[kernel] * dims))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.geometry: Geometry = ((stride,) * dims, (kernel // 2 if kernel % 2 else 0,) * dims, groups)
        nn.init.kaiming_normal_(self.weight, a=0.2)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if torch.is_autocast_enabled(x.device.type):
            kind = torch.get_autocast_dtype(x.device.type)
            x, weight = x.to(kind), weight.to(kind)
            bias = bias if bias is None else bias.to(kind)
        return _Convolution.apply(x, weight, bias, self.geometry)
