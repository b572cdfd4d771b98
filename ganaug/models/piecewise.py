"""Networks that are linear in pieces: a pass that remembers the sides of their kinks, and a second one that keeps them.

A network of linear layers and leaky ReLUs is an affine function of its input between its kinks. It takes part here by
calling each layer through a `Run`, and by using any other parameter only for a product with the last layer's input.
`ganaug.training.penalties.backward_penalized` says what for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganaug.models.conv import SLOPE, Conv, autocast, bent, convolution_gradients, convolve

KINK = nn.Identity()
"""The layer of a leaky ReLU that follows no other layer."""


class Run(Protocol):
    """How a network's forward pass carries out a layer."""

    def __call__(self, layer: nn.Module, x: Tensor, *, bend: bool = False, plus: Tensor | None = None) -> Tensor:
        """Return layer(x) of a `Conv`, Linear or Identity: its leaky ReLU with `bend`, with `plus` added, not both."""


def plain(layer: nn.Module, x: Tensor, *, bend: bool = False, plus: Tensor | None = None) -> Tensor:
    """Carry out a layer as usual: a `Run`."""
    if isinstance(layer, Conv):
        convolved: Tensor = layer(x, bend=bend, plus=plus)
        return convolved
    return _after(layer(x), bend, plus)


def _after(y: Tensor, bend: bool, plus: Tensor | None) -> Tensor:
    y = F.leaky_relu(y, SLOPE) if bend else y
    return y if plus is None else y + plus


@dataclass(eq=False)
class _Note:
    """A layer as it was in one pass."""

    layer: nn.Module
    weight: Tensor | None
    bias: Tensor | None
    bend: bool
    y: Tensor | None = None
    """The output, which tells the sides of the kinks."""
    grad: Tensor | None = None
    """The gradient at the output, before the leaky ReLU."""

    def forward(self, x: Tensor, *, bend: bool, plus: Tensor | None) -> Tensor:
        if self.weight is None:
            return _after(x, bend, plus)
        if isinstance(self.layer, Conv):
            return convolve(x, self.weight, self.bias, self.layer.geometry, bend=bend, plus=plus)
        return _after(F.linear(x, self.weight, self.bias), bend, plus)

    def input_gradient(self, grad: Tensor, x: Tensor) -> Tensor:
        if self.weight is None:
            return grad
        if isinstance(self.layer, Conv):
            return convolution_gradients(grad, x, self.weight, self.layer.geometry, (True, False))[0]
        return grad @ self.weight

    def accumulate(self, x: Tensor) -> None:
        if self.weight is None:
            return
        if self.grad is None:
            raise RuntimeError("A pass was replayed before its backward pass.")
        if isinstance(self.layer, Conv):
            found = convolution_gradients(self.grad, x, self.weight, self.layer.geometry, (False, True))[1]
        else:
            found = self.grad.T @ x
        _add(self.layer.weight, found)
        if self.bias is not None:
            _add(self.layer.bias, self.grad.sum([0, *range(2, self.grad.ndim)]))


class _Recorded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, plus: Tensor | None, note: _Note) -> Tensor:
        y = note.forward(x, bend=note.bend, plus=plus)
        note.y = y.detach() if note.bend else None
        ctx.save_for_backward(x)
        ctx.note = note
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (x,), note = ctx.saved_tensors, ctx.note
        note.grad = grad if note.y is None else bent(grad, note.y)
        return note.input_gradient(note.grad, x), grad if ctx.needs_input_grad[1] else None, None


def _add(parameter: Any, found: Tensor) -> None:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    parameter.grad.add_(found)


class Tape:
    """What one pass through a network leaves behind, layer by layer."""

    def __init__(self) -> None:
        self._notes: list[_Note] = []
        self._replayed = 0

    def record(self, layer: nn.Module, x: Tensor, *, bend: bool = False, plus: Tensor | None = None) -> Tensor:
        """Carry out a layer: a `Run`. Its backward pass notes the gradient at its output, and makes none at weights."""
        if isinstance(layer, nn.Identity) and not bend:
            return _after(x, bend, plus)
        weight = bias = None
        if isinstance(layer, (Conv, nn.Linear)):
            weight, bias = autocast(layer.weight.detach(), None if layer.bias is None else layer.bias.detach())
        x, plus = autocast(x, plus)
        self._notes.append(_Note(layer, weight, bias, bend))
        recorded: Tensor = _Recorded.apply(x, plus, self._notes[-1])
        return recorded

    @torch.no_grad()
    def replay(self, layer: nn.Module, x: Tensor, *, bend: bool = False, plus: Tensor | None = None) -> Tensor:
        """Carry out a layer on another input, with the kinks where they were: a `Run`.

        To the gradients (`.grad`) of its weights it adds what the recorded gradient makes of the new input.
        """
        if isinstance(layer, nn.Identity) and not bend:
            return _after(x, bend, plus)
        note = self._notes[self._replayed]
        self._replayed += 1
        x, plus = autocast(x, plus)
        note.accumulate(x)
        y = note.forward(x, bend=False, plus=plus)
        return y if note.y is None else bent(y, note.y)
