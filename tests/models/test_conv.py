"""The convolution with a cheap second derivative is the ordinary convolution, derivatives included."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ganaug.models import channels_last
from ganaug.models.conv import Conv

CASES = [
    # dims, kernel, stride, groups, bias
    (2, 3, 1, 1, True),
    (2, 3, 1, 2, True),
    (2, 3, 2, 2, False),
    (2, 1, 1, 1, False),
    (2, 2, 2, 1, True),
    (2, 7, 4, 1, True),
    (3, 3, 1, 2, True),
    (3, 3, 2, 1, False),
    (3, 1, 1, 4, True),
    (3, 2, 2, 1, True),
]


def _conv(dims: int, kernel: int, stride: int, groups: int, bias: bool) -> Conv:
    torch.manual_seed(0)
    conv = Conv(dims, 4, 4, kernel, stride=stride, groups=groups, bias=bias).double()
    if conv.bias is not None:
        torch.nn.init.normal_(conv.bias)
    return conv


def _input(dims: int) -> Tensor:
    return torch.randn(2, 4, *((5, 6) if dims == 2 else (3, 4, 3)), dtype=torch.float64, requires_grad=True)


def _reference(conv: Conv, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    stride, padding, groups = conv.geometry
    if x.ndim == 4:
        return F.conv2d(x, weight, bias, stride, padding, groups=groups)
    return F.conv3d(x, weight, bias, stride, padding, groups=groups)


@pytest.mark.parametrize("case", CASES)
def test_it_computes_what_torch_computes(case: tuple[int, int, int, int, bool]) -> None:
    conv, x = _conv(*case), _input(case[0])
    assert torch.allclose(conv(x), _reference(conv, x, conv.weight, conv.bias), atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_first_and_second_derivatives_match_finite_differences(case: tuple[int, int, int, int, bool]) -> None:
    conv, x = _conv(*case), _input(case[0])
    parameters = [conv.weight] + ([conv.bias] if conv.bias is not None else [])

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        # A square, so that the second derivative with respect to the input alone is not zero.
        return torch.func.functional_call(conv, dict(zip(("weight", "bias"), parameters, strict=False)), (x,)).square()

    assert torch.autograd.gradcheck(function, (x, *parameters), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, (x, *parameters), fast_mode=True)


@pytest.mark.parametrize("case", CASES)
def test_a_gradient_penalty_has_the_gradient_that_torch_finds(case: tuple[int, int, int, int, bool]) -> None:
    conv, x = _conv(*case), _input(case[0])
    found = []
    for ours in (True, False):
        y = conv(x) if ours else _reference(conv, x, conv.weight, conv.bias)
        (slope,) = torch.autograd.grad(y.tanh().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), [conv.weight, x]))
    for mine, theirs in zip(*found, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-10)


def test_under_autocast_it_runs_in_the_autocast_type_and_its_gradients_stay_float32() -> None:
    conv = Conv(2, 4, 8, 3)
    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = conv(x)
    assert y.dtype == torch.bfloat16
    assert torch.allclose(y.float(), conv(x), atol=0.1)
    y.float().sum().backward()
    assert conv.bias is not None
    assert {g.dtype for g in (conv.weight.grad, conv.bias.grad, x.grad) if g is not None} == {torch.float32}


def test_an_input_without_gradients_costs_no_input_gradient() -> None:
    conv = Conv(2, 1, 2, 3)
    conv(torch.randn(1, 1, 4, 4)).sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("case", CASES)
def test_bent_or_added_to_it_is_the_same_in_one_pass_derivatives_included(
    case: tuple[int, int, int, int, bool],
) -> None:
    conv, x = _conv(*case), _input(case[0])
    assert torch.equal(conv(x, bend=True), F.leaky_relu(conv(x), 0.2))
    plus = torch.randn_like(conv(x)).requires_grad_()
    assert torch.allclose(conv(x, plus=plus), conv(x) + plus, atol=1e-12)
    parameters = tuple(conv.parameters())

    def bent(x: Tensor, *_: Tensor) -> Tensor:
        return conv(x, bend=True)

    def added(x: Tensor, plus: Tensor, *_: Tensor) -> Tensor:
        return conv(x, plus=plus)

    assert torch.autograd.gradcheck(bent, (x, *parameters), fast_mode=True)
    assert torch.autograd.gradgradcheck(bent, (x, *parameters), fast_mode=True)
    assert torch.autograd.gradcheck(added, (x, plus, *parameters), fast_mode=True)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_the_kernel_that_bends_or_adds_agrees_with_separate_passes(
    case: tuple[int, int, int, int, bool], kind: torch.dtype
) -> None:
    conv = _conv(*case).to(kind)
    x = channels_last(_input(case[0]).detach().to(kind))
    y = conv(x)
    plus = torch.randn_like(y)
    close = {"rtol": 0.0, "atol": 1e-5 if kind == torch.float32 else 0.1}
    assert torch.allclose(conv(x, bend=True), F.leaky_relu(y, 0.2), **close)
    before = plus.clone()
    assert torch.allclose(conv(x, plus=plus), y + plus, **close)
    assert torch.equal(plus, before)
