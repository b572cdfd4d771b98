import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ganaug.config import FitConfig
from ganaug.models.translation import TranslationNet
from ganaug.sampling.tiles import WORK, in_tiles, plan_tiles
from tests.sampling.translation_models import unit_images
from tests.tiny import randomize


def network(dims: int, *, residual: bool = True, **changes: object) -> TranslationNet:
    config = FitConfig(**{"widths": (8, 6, 4), "group_width": 4, "blocks": 2, **changes})  # type: ignore[arg-type]
    net = TranslationNet(
        "resnet",
        vars(config),
        size=(16,) * dims,
        channels=2,
        domains=2,
        targets=(0, 1),
        residual=residual,
        masked=False,
    )
    randomize(net, 0, scale=0.2)
    return net.eval()


@pytest.mark.parametrize(
    ("dims", "side", "changes"),
    [
        (2, (161, 90), {}),
        (2, (97, 150), {"widths": (8, 4), "residual": False}),
        (2, (131, 77), {"widths": (8, 4), "stem": 2, "blocks": 1}),
        (3, (37, 41, 70), {"widths": (8, 4), "blocks": 1}),
        (3, (50, 23, 44), {"widths": (8, 4), "blocks": 1, "residual": False}),
    ],
)
@torch.no_grad()
def test_tiles_give_what_the_whole_image_gives(dims: int, side: tuple[int, ...], changes: dict[str, object]) -> None:
    net = network(dims, **changes)  # type: ignore[arg-type]
    images, calls = unit_images(1, 2, *side), []

    def run(tile: torch.Tensor) -> torch.Tensor:
        calls.append(tile.shape)
        return net(tile, torch.ones(len(tile), dtype=torch.int64))

    whole = run(images)
    assert whole.std() > 0.05, "a constant would prove nothing"
    made = in_tiles(run, images, stride=net.stride, reach=net.reach, values=images.numel() // 3)
    assert len(calls) > 2
    assert made.shape == whole.shape
    assert (made - whole).abs().max() < 1e-5


@torch.no_grad()
def test_a_margin_below_the_reach_or_off_the_stride_shows() -> None:
    net = network(2)
    images = unit_images(1, 2, 161, 90)

    def run(tile: torch.Tensor) -> torch.Tensor:
        return net(tile, torch.zeros(len(tile), dtype=torch.int64))

    values = images.numel() // 3
    assert (in_tiles(run, images, stride=4, reach=4, values=values) - run(images)).abs().max() > 1e-3
    assert (in_tiles(run, images, stride=1, reach=net.reach + 1, values=values) - run(images)).abs().max() > 1e-3


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_tiles_cover_every_pixel_once_and_have_their_margins(data: st.DataObject) -> None:
    stride = data.draw(st.sampled_from([1, 2, 4, 8]))
    sides = [stride * data.draw(st.integers(1, 60)) for _ in range(data.draw(st.sampled_from([2, 3])))]
    reach = data.draw(st.integers(0, 100))
    axes = plan_tiles(sides, stride=stride, reach=reach, pixels=data.draw(st.integers(1, math.prod(sides))))
    for side, axis in zip(sides, axes, strict=True):
        assert [first for *_, first, _ in axis] == [0, *[last for *_, last in axis[:-1]]]
        assert axis[-1][3] == side
        for begin, end, first, last in axis:
            assert begin % stride == end % stride == 0
            assert first < last
            assert begin == 0 or first - begin >= reach
            assert end == side or end - last >= reach
    computed = math.prod(sum(end - begin for begin, end, _, _ in axis) for axis in axes)
    assert computed <= WORK ** len(sides) * math.prod(sides)


def test_a_tile_fits_where_its_margins_leave_room_and_is_larger_where_they_do_not() -> None:
    def largest(axes: list[list[tuple[int, int, int, int]]]) -> int:
        return math.prod(max(end - begin for begin, end, _, _ in axis) for axis in axes)

    roomy = plan_tiles([4096, 4096], stride=4, reach=48, pixels=1 << 20)
    assert largest(roomy) <= 1 << 20
    tight = plan_tiles([256, 256, 256], stride=4, reach=60, pixels=1 << 20)
    assert 1 << 20 < largest(tight) < 256**3
    assert plan_tiles([64, 64], stride=4, reach=60, pixels=100) == [[(0, 64, 0, 64)]] * 2
