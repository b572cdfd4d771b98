"""The sizes of a network's stages."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from ganaug.models.grids import VALUES_IN_A_PASS, coarser, images_in_a_pass, stage_grids, stage_widths

SIZES = st.lists(st.integers(2, 300), min_size=2, max_size=3)


@given(SIZES, st.integers(2, 16))
def test_grids_end_at_the_image_and_halve_downwards(size: list[int], base: int) -> None:
    grids = stage_grids(size, base)
    assert grids[-1] == tuple(size)
    for depth, grid in enumerate(reversed(grids)):
        for side, whole in zip(grid, size, strict=True):
            assert abs(side - whole / 2**depth) <= 0.5
            assert side >= 1


@given(SIZES, st.integers(2, 16))
def test_the_base_grid_is_as_coarse_as_allowed_and_no_coarser(size: list[int], base: int) -> None:
    grids = stage_grids(size, base)
    sides = [side / 2 ** (len(grids) - 1) for side in size]
    if len(grids) > 1:
        assert max(sides) >= base
        assert min(sides) >= 2
    assert max(sides) / 2 < base or min(sides) / 2 < 2


def test_known_grids() -> None:
    assert stage_grids((28, 28), 4) == [(7, 7), (14, 14), (28, 28)]
    assert stage_grids((8, 8), 4) == [(4, 4), (8, 8)]
    assert stage_grids((45, 37), 4) == [(6, 5), (11, 9), (23, 19), (45, 37)]
    assert stage_grids((9, 16, 12), 4) == [(2, 4, 3), (5, 8, 6), (9, 16, 12)]


@given(st.integers(1, 64), SIZES, st.sampled_from([1, 16, 24, 64]))
def test_a_pass_makes_as_many_images_as_fit_and_one_at_least(channels: int, size: list[int], most: int) -> None:
    count = images_in_a_pass((channels, *size), most=most)
    values = channels * math.prod(size)
    assert 1 <= count <= most
    assert count.bit_count() == 1
    assert count == 1 or count * values <= VALUES_IN_A_PASS
    assert 2 * count > most or 2 * count * values > VALUES_IN_A_PASS


def test_images_up_to_128_pixels_pass_in_64s_and_large_volumes_alone() -> None:
    assert images_in_a_pass((3, 128, 128), most=64) == 64
    assert images_in_a_pass((1, 32, 32, 32), most=64) == 64
    assert images_in_a_pass((1, 64, 64, 64), most=64) == 16
    assert images_in_a_pass((1, 256, 256, 256), most=64) == 1


def test_coarser_rounds_up() -> None:
    assert coarser((9, 8), 2) == (5, 4)
    assert coarser((9, 8), 1) == (9, 8)


def test_widths_repeat_their_last_entry() -> None:
    assert stage_widths((96, 64), 4) == [96, 64, 64, 64]
    assert stage_widths((96, 64, 32), 2) == [96, 64]
