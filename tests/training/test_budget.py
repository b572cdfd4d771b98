"""The network that a time budget allows, by speeds that nothing measures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ganaug.config import FitConfig
from ganaug.training.budget import Sizing, scaled_widths, size_network

CONFIG = FitConfig(size=(64, 64), widths=(128, 96, 64, 32), stem=2, kimg=100, minutes=10)
"""Ten minutes show 100 kimg at 167 images/s."""
ENOUGH = 100_000 / 600


def _speed(share: float, *, seen: list[FitConfig] | None = None) -> Callable[[FitConfig], float]:
    """Return speeds at which CONFIG sees `share` of its images; a step costs as the square of the first width."""

    def speed(config: FitConfig) -> float:
        if seen is not None:
            seen.append(config)
        return share * ENOUGH * (CONFIG.widths[0] / config.widths[0]) ** 2 * (config.stem / CONFIG.stem) ** 2

    return speed


def _size(share: float, config: FitConfig = CONFIG, *, widest: float = 2.0, **options: Any) -> Sizing:
    return size_network(config, _speed(share), widest=widest, **options)


@pytest.mark.parametrize("share", [0.5, 1.0, 2.9])
def test_a_budget_that_fits_keeps_the_recipe_and_asks_for_no_other_speed(share: float) -> None:
    seen: list[FitConfig] = []
    sizing = size_network(CONFIG, _speed(share, seen=seen), widest=4.0)
    assert sizing.chosen == CONFIG
    assert seen == [CONFIG]


@pytest.mark.parametrize(
    ("share", "widths"),
    [(0.45, (96, 64, 48, 16)), (0.3, (96, 64, 48, 16)), (0.2, (64, 48, 32, 16)), (0.001, (64, 48, 32, 16))],
)
def test_a_short_budget_narrows_the_network_down_to_half(share: float, widths: tuple[int, ...]) -> None:
    assert _size(share).chosen.widths == widths


def test_a_network_that_is_narrow_already_keeps_its_widest_stage_at_48_channels() -> None:
    few = FitConfig(**{**vars(CONFIG), "widths": (64, 48, 32, 16)})
    assert _size(0.001, few).chosen.widths == (48, 32, 16, 16)
    tiny = FitConfig(**{**vars(CONFIG), "widths": (32, 16)})
    assert _size(0.001, tiny).chosen == tiny


def test_a_network_that_cannot_do_is_not_timed_on_the_way_to_the_next() -> None:
    seen: list[FitConfig] = []
    size_network(CONFIG, _speed(0.05, seen=seen), widest=2.0)
    assert [config.widths[0] for config in seen] == [128, 64]


@pytest.mark.parametrize(
    ("share", "widest", "widths"),
    [
        (3.1, 2.0, (176, 128, 96, 48)),
        (7.0, 2.0, (256, 192, 128, 64)),
        (1000.0, 2.0, (256, 192, 128, 64)),
        (1000.0, 4.0, (512, 384, 256, 128)),
        (1000.0, 1.0, (128, 96, 64, 32)),
    ],
)
def test_a_long_budget_widens_the_network_up_to_what_is_allowed(
    share: float, widest: float, widths: tuple[int, ...]
) -> None:
    assert _size(share, widest=widest).chosen.widths == widths


def test_a_speed_that_is_off_by_two_never_makes_a_network_both_narrower_and_wider() -> None:
    for share in (0.1, 0.4, 0.7, 1.0, 1.5, 2.5, 5.0):
        factors = {_size(share * error).chosen.widths[0] / CONFIG.widths[0] for error in (0.71, 1.0, 1.41)}
        assert not (min(factors) < 1 < max(factors)), share
        assert max(factors) / min(factors) < 1.6, share


def test_a_narrower_network_that_is_hardly_faster_is_not_taken() -> None:
    sizing = size_network(CONFIG, lambda config: 0.2 * ENOUGH * (1.15 if config != CONFIG else 1), widest=2.0)
    assert sizing.chosen == CONFIG
    assert "hardly faster" in sizing.reason


def test_a_wider_network_that_would_see_too_few_images_is_not_taken() -> None:
    sizing = size_network(CONFIG, lambda config: ENOUGH * (4 if config == CONFIG else 0.9), widest=2.0)
    assert sizing.chosen == CONFIG


def test_without_room_in_memory_the_network_stays() -> None:
    assert _size(1000, has_room=lambda: False).chosen == CONFIG
    answers = iter([True, False])
    assert _size(1000, has_room=lambda: next(answers)).chosen.widths[0] == 176


def test_a_wider_network_that_does_not_fit_into_memory_is_not_taken() -> None:
    sizing = size_network(CONFIG, lambda config: 1000 * ENOUGH * (config.widths[0] < 200), widest=4.0)
    assert sizing.chosen.widths[0] == 176
    assert sizing.speed > 0


LARGE = FitConfig(**{**vars(CONFIG), "size": (96, 128)})


@pytest.mark.parametrize(
    ("config", "stem"),
    [
        (LARGE, 4),
        (CONFIG, 2),  # 64 pixels
        (FitConfig(**{**vars(LARGE), "size": (64, 80, 80)}), 2),  # where a kernel of 7x7x7 costs more than it saves
        (FitConfig(**{**vars(LARGE), "arch": "dcgan"}), 2),
        (FitConfig(**{**vars(LARGE), "stem": 1}), 1),
    ],
)
def test_at_larger_sizes_the_finest_stage_may_be_coarser(config: FitConfig, stem: int) -> None:
    assert _size(0.01, config).chosen.stem == stem
    assert _size(0.01, config, fixed={"stem"}).chosen.stem == config.stem
    assert _size(0.3, config).chosen.stem == config.stem  # where narrower networks suffice


def test_widths_are_whole_groups_and_at_least_one() -> None:
    assert scaled_widths(CONFIG, 0.5) == (64, 48, 32, 16)
    assert scaled_widths(FitConfig(widths=(16, 8), group_width=8), 0.1) == (8, 8)
    assert scaled_widths(FitConfig(widths=(40, 8)), 0.71) == (32, 8)  # never wider than before
    assert scaled_widths(FitConfig(widths=(40, 8)), 1.41) == (64, 16)  # 56 lies between 48 and 64


def test_the_reason_says_what_was_measured_what_is_wanted_and_what_follows() -> None:
    assert _size(0.7).reason == (
        "Budget: 10 minutes show about 70 thousand images (117/s), the recipe wants 100: widths 128-96-64-32 are kept."
    )
    assert _size(0.2).reason == (
        "Budget: 10 minutes show about 20 thousand images (33/s), the recipe wants 100: widths 128-96-64-32 become "
        "64-48-32-16, which show about 80 (133/s)."
    )
    assert "become 64-48-32-16 and stem 4, which" in _size(0.01, LARGE).reason  # of 64-48-32-16-16


def test_with_a_coarser_stem_all_stages_but_the_finest_keep_their_grid_and_width() -> None:
    recipe = FitConfig(size=(128, 128), widths=(128, 96, 80, 64, 32), stem=2, kimg=100, minutes=10)
    speeds = {(128, 2): 0.01, (64, 2): 0.01, (128, 4): 0.1}
    sizing = size_network(recipe, lambda config: speeds[config.widths[0], config.stem] * ENOUGH, widest=2.0)
    assert (sizing.chosen.stem, sizing.chosen.widths) == (4, (128, 96, 80, 32))


def test_the_sizing_as_json_values() -> None:
    found = _size(0.2).to_dict()
    assert found == {
        "minutes": 10,
        "recipe_kimg": 100,
        "recipe_widths": [128, 96, 64, 32],
        "recipe_images_per_second": pytest.approx(0.2 * ENOUGH),
        "widths": [64, 48, 32, 16],
        "stem": 2,
        "images_per_second": pytest.approx(0.8 * ENOUGH),
    }
