"""The translators' difference and mask can always be learned, however far a step has taken them."""

from __future__ import annotations

import pytest
import torch

from ganaug.models.translators.resnet import Generator, within


def test_what_lies_outside_is_clamped_and_moves_back_but_not_further_out() -> None:
    x = torch.tensor([-9.0, -9.0, -1.0, 1.0, 9.0, 9.0], requires_grad=True)
    made = within(x, 6.0)
    assert made.tolist() == [-6, -6, -1, 1, 6, 6]
    # A step goes against the gradient: 1 wants less, -1 wants more.
    made.backward(torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0]))
    assert x.grad is not None
    assert x.grad.tolist() == [0, -1, 1, -1, 1, 0]


@pytest.mark.parametrize("shut", [2.0, -40.0])
def test_a_mask_that_was_shut_opens_again(shut: float) -> None:
    """With sigmoid alone a mask of e⁻⁴⁰ has no gradient, and neither has what it hides."""
    torch.manual_seed(0)
    net = Generator(
        size=(8, 8), channels=1, targets=1, widths=(8,), blocks=1, group_width=8, expansion=1.0, label_dim=4,
        stem=1, residual=True, mask=True,
    )  # fmt: skip
    assert net.output.bias is not None
    with torch.no_grad():
        net.output.bias[-1] = shut
    optimizer = torch.optim.Adam(net.parameters(), lr=0.03, betas=(0.0, 0.9))
    images, to = torch.full((2, 1, 8, 8), -1.0), torch.zeros(2, dtype=torch.int64)
    for _ in range(500):
        made, _ = net(images, to)
        optimizer.zero_grad()
        (made - 1.0).square().mean().backward()
        optimizer.step()
    made, mask = net(images, to)
    assert mask is not None
    assert float(mask.mean().detach()) > 0.9
    assert float((made - 1.0).abs().mean().detach()) < 0.2
