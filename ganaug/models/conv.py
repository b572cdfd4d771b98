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

SLOPE = 0.2
"""Slope of the leaky ReLU below 0."""


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    *,
    bend: bool = False,
    plus: Tensor | None = None,
) -> Tensor:
    """Return y = w * x + b, or with `bend` its leaky ReLU, or y + `plus`. Not differentiable: see `Conv`.

    On a CPU, where an elementwise pass costs half of a 1×1 convolution, one kernel does both.
    """
    stride, padding, groups = geometry
    ones, zeros = [1] * len(stride), [0] * len(stride)
    if not ((bend or plus is not None) and _can_fuse(x)):
        y = torch.ops.aten.convolution(x, weight, bias, stride, padding, ones, False, zeros, groups)
        if bend:
            torch.ops.aten.leaky_relu_(y, SLOPE)
        return y if plus is None else y.add_(plus)
    shared = (weight, bias, padding, stride, ones, groups)
    if plus is None:
        return torch.ops.mkldnn._convolution_pointwise(x, *shared, "leaky_relu", [SLOPE], "")
    return torch.ops.mkldnn._convolution_pointwise.binary(x, plus, *shared, "add", None, None, [], "")


def _can_fuse(x: Tensor) -> bool:
    if x.device.type != "cpu" or not x.numel() or not torch.backends.mkldnn.is_available():
        return False
    return x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def bent(grad: Tensor, y: Tensor) -> Tensor:
    """Return the gradient before a leaky ReLU from the one after it, and from its output y, which has the same sign."""
    return torch.ops.aten.leaky_relu_backward(grad, y, SLOPE, True)


def convolution_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, mask: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """Return ∂⟨g, y⟩/∂x and ∂⟨g, y⟩/∂w, where `mask` asks for them."""
    stride, padding, groups = geometry
    ones, zeros = [1] * len(stride), [0] * len(stride)
    layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    grad, x = grad.contiguous(memory_format=layout), x.contiguous(memory_format=layout)
    found = torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, ones, False, zeros, groups, [*mask, False]
    )
    return found[0], found[1]


class _Convolution(torch.autograd.Function):
    """y(x, w, b), bent, or with another tensor added."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        plus: Tensor | None,
        geometry: Geometry,
        bend: bool,
    ) -> Tensor:
        y = convolve(x, weight, bias, geometry, bend=bend, plus=plus)
        ctx.save_for_backward(x, weight, y if bend else None)
        ctx.geometry = geometry
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        if y is not None:
            # The slopes are constant almost everywhere: detached, they cost the second derivative nothing.
            grad = bent(grad, y.detach())
        for_x = _InputGradient.apply(grad, x, weight, ctx.geometry) if wanted[0] else None
        for_weight = _WeightGradient.apply(grad, x, weight, ctx.geometry) if wanted[1] else None
        for_bias = grad.sum([0, *range(2, grad.ndim)]) if wanted[2] else None
        return for_x, for_weight, for_bias, grad if wanted[3] else None, None, None


class _InputGradient(torch.autograd.Function):
    """∂⟨g, y⟩/∂x: linear in g and in w; `x` gives only its shape."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(grad, weight)
        ctx.geometry = geometry
        return convolution_gradients(grad, x, weight, geometry, (True, False))[0]

    @staticmethod
    def backward(ctx: Any, grad2: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        grad, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        for_grad = _Convolution.apply(grad2, weight, None, None, ctx.geometry, False) if wanted[0] else None
        for_weight = _WeightGradient.apply(grad, grad2, weight, ctx.geometry) if wanted[2] else None
        return for_grad, None, for_weight, None


class _WeightGradient(torch.autograd.Function):
    """∂⟨g, y⟩/∂w: linear in g and in x; `weight` gives only its shape."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(grad, x)
        ctx.geometry = geometry
        return convolution_gradients(grad, x, weight, geometry, (False, True))[1]

    @staticmethod
    def backward(ctx: Any, grad2: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        grad, x = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        for_grad = _Convolution.apply(x, grad2, None, None, ctx.geometry, False) if wanted[0] else None
        for_x = _InputGradient.apply(grad, x, grad2, ctx.geometry) if wanted[1] else None
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
        nn.init.kaiming_normal_(self.weight, a=SLOPE)

    def forward(self, x: Tensor, *, bend: bool = False, plus: Tensor | None = None) -> Tensor:
        """Convolve; then apply a leaky ReLU (`bend`), or add `plus`, not both."""
        x, weight, bias, plus = autocast(x, self.weight, self.bias, plus)
        return _Convolution.apply(x, weight, bias, plus, self.geometry, bend)


def autocast(x: Tensor, *others: Tensor | None) -> tuple[Any, ...]:
    """Return the tensors in the autocast type, if autocast is on."""
    if not torch.is_autocast_enabled(x.device.type):
        return x, *others
    kind = torch.get_autocast_dtype(x.device.type)
    return x.to(kind), *(other if other is None else other.to(kind) for other in others)
