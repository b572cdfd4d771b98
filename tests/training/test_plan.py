"""What a training of a folder would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ganaug.config import load_recipe
from ganaug.data.geometry import Geometry
from ganaug.data.manifest import Item, Manifest
from ganaug.errors import ConfigError, DataError
from ganaug.training.plan import choose_recipe, format_of, geometry_of, make_plan, plan_from, predict_grid
from ganaug.training.probe import probe
from tests.tiny import SETTINGS


def _manifest(
    counts: tuple[int, ...] = (5, 3), *, sizes: tuple[tuple[int, int], ...] = ((28, 30),), **values: Any
) -> Manifest:
    """Return a manifest of files that do not exist; a plan looks at none."""
    items: list[Item] = []
    for label, count in enumerate(counts):
        for _ in range(count):
            number = len(items)
            fields = {"shape": sizes[number % len(sizes)], "channels": 1, "dtype": "uint8"}
            fields |= {key: value[number] for key, value in values.items()}
            items.append(Item(f"{number}.png", label, f"g{number}", f"{number:064x}", **fields))
    return Manifest(Path("data"), tuple("abcdef"[: len(counts)]), tuple(items))


def test_images_of_one_size_are_trained_at_that_size() -> None:
    plan = make_plan(_manifest())
    assert (plan.size, plan.channels) == ((28, 30), 1)
    assert plan.recipe == "px32"
    assert [reason.split()[0] for reason in plan.reasons] == ["Size", "Recipe", "Intensity"]
    assert "28x30" in plan.reasons[0]


def test_images_of_many_sizes_are_trained_at_a_middle_one_that_keeps_the_proportions() -> None:
    plan = make_plan(_manifest(sizes=((300, 200), (330, 210), (240, 180))))
    height, width = plan.size
    assert max(height, width) == plan.config.largest == 64
    assert height / width == pytest.approx(1.5, rel=0.1)


@pytest.mark.parametrize(
    ("size", "recipe"),
    [
        ((8, 8), "px16"),
        ((16, 12), "px16"),
        ((17, 8), "px32"),
        ((64, 64), "px64"),
        ((28, 65), "px128"),
        ((300, 300), "px128"),
    ],
)
def test_the_longest_side_chooses_the_recipe(size: tuple[int, int], recipe: str) -> None:
    assert choose_recipe(size)[0] == recipe


def test_what_is_given_counts_over_the_recipe_and_the_recipe_over_the_defaults() -> None:
    plan = make_plan(_manifest(), recipe="smoke", settings={"batch": 9, "size": (32, 24), "channels": 3})
    assert plan.config.batch == 9
    assert plan.config.kimg == load_recipe("smoke")["kimg"]
    assert plan.config.loss == "relativistic"
    assert (plan.size, plan.channels) == ((32, 24), 3)
    assert "as asked for" in plan.reasons[0]


def test_a_recipe_file_may_set_the_size(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("size: [20, 24]\nbatch: 4\n")
    plan = make_plan(_manifest(), recipe=str(tmp_path / "mine.yaml"))
    assert (plan.size, plan.config.batch) == ((20, 24), 4)


def test_test_and_validation_images_do_not_train() -> None:
    splits = ["train", "", "test", "val", "train", "train", "", "TEST".lower()]
    plan = make_plan(_manifest(split=splits))
    assert [item.path for item in plan.manifest.items] == ["0.png", "1.png", "4.png", "5.png", "6.png"]
    assert plan.to_dict()["classes"] == {"a": 3, "b": 2}
    assert plan.to_dict()["images"] == 5


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (_manifest((5, 1)), "at least 2|At least 2"),
        (_manifest((5,)), "At least two"),
        (_manifest((3, 3), split=["", "", "", "", "test", "test"]), "At least 2"),
        (_manifest((2, 2), channels=[1, 3, 1, 1]), "mixed.*--channels"),
        (_manifest((2, 2), shape=[(8, 8), (8, 8), (8, 8, 8), (8, 8)]), "--slices"),
    ],
)
def test_images_that_cannot_be_trained_on_are_a_data_error(manifest: Manifest, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        make_plan(manifest)
    assert caught.value.exit_code == 3


def _volumes(**values: Any) -> Manifest:
    """Return four volumes of differing shape and spacing: 40 mm × 80 mm × 80 mm each."""
    fields = {"shape": [(20, 40, 40), (10, 80, 80)] * 2, "spacing": [(2.0, 2.0, 2.0), (4.0, 1.0, 1.0)] * 2}
    return _manifest((2, 2), **{**fields, **values})


def test_volumes_are_brought_to_one_grid_of_millimeters() -> None:
    plan = make_plan(
        _volumes(orientation=["RAS", "RAS", "LPS", "RAS"], center=[(0, 0, float(z)) for z in (1, 2, 4, 9)])
    )
    assert plan.recipe == "vol32"
    assert (plan.size, plan.config.resize, plan.grid.spacing) == ((16, 32, 32), "spacing", (2.5, 2.5, 2.5))
    geometry = geometry_of(plan.manifest, plan.grid)
    assert geometry == Geometry((2.5, 2.5, 2.5), "RAS", (0, 0, 3))


def test_volumes_without_spacing_are_stretched() -> None:
    plan = make_plan(_volumes(spacing=[None] * 4, shape=[(20, 40, 40)] * 4))
    assert (plan.size, plan.config.resize, plan.grid.spacing) == ((16, 32, 32), "stretch", None)
    assert geometry_of(plan.manifest, plan.grid) == Geometry((1.0, 1.0, 1.0), "LPS", (0, 0, 0))


def test_stretched_volumes_have_the_spacing_of_the_middle_one() -> None:
    plan = make_plan(_volumes(), settings={"resize": "stretch", "size": (10, 20, 20)})
    geometry = geometry_of(plan.manifest, plan.grid)
    assert geometry is not None
    assert geometry.spacing == (4, 4, 4)


def test_images_have_no_geometry() -> None:
    plan = make_plan(_manifest())
    assert geometry_of(plan.manifest, plan.grid) is None


def test_a_plan_is_the_same_again_from_its_own_config() -> None:
    for manifest in (_manifest(sizes=((300, 200), (330, 210))), _volumes(), _volumes(spacing=[None] * 4)):
        plan = make_plan(manifest)
        again = plan_from(plan.manifest, plan.config, recipe=plan.recipe, reasons=())
        assert (again.grid, again.intensity, again.config) == (plan.grid, plan.intensity, plan.config)


def test_the_grid_can_be_told_beforehand() -> None:
    for manifest in (_manifest(sizes=((300, 200), (330, 210))), _volumes()):
        for settings in ({}, {"largest": 32, "largest_volume": 16, "channels": 3}):
            assert predict_grid(manifest, settings=settings) == make_plan(manifest, settings=settings).grid


@pytest.mark.parametrize(
    ("highs", "settings", "kind"),
    [
        ([139, 3800, 139, 3800], {}, "per-file"),
        ([3000, 3800, 2900, 3500], {}, "percentiles"),
        ([139, 3800, 139, 3800], {"intensity": "percentiles"}, "percentiles"),
        ([139, 3800, 139, 3800], {"window": (-160, 240)}, "window"),
    ],
)
def test_the_intensity_follows_from_the_scales_of_the_files(highs: list, settings: dict[str, Any], kind: str) -> None:
    manifest = _volumes(dtype=["int16"] * 4, high=highs, maximum=[high + 100 for high in highs])
    assert make_plan(manifest, settings=settings).intensity.kind == kind


def test_the_format_is_that_of_most_files_and_none_for_slices() -> None:
    assert format_of(_manifest((2, 2), format=["PNG", "JPEG", "PNG", "PNG"])) == "PNG"
    assert format_of(_manifest((2, 2), format=["NIfTI"] * 4, part=[f"axial[{i}]" for i in range(4)])) == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "nope"}, "Known: .*relativistic"),
        ({"arch": "nope"}, "Known: .*modern"),
        ({"model": "nope"}, "Known: .*conditional"),
        ({"augment": "nope"}, "safe"),
        ({"device": "nope"}, "auto, cpu, cuda"),
        ({"size": (4, 4)}, "8 to 1024"),
        ({"largest": 4}, "at least 8"),
        ({"bacth": 4}, "Did you mean 'batch'"),
    ],
)
def test_settings_that_do_not_fit_are_a_config_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_plan(_manifest(), settings=settings)


def test_an_unknown_recipe_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="no recipe 'px1'"):
        make_plan(_manifest(), recipe="px1")


def test_the_probe_times_real_steps_and_counts_the_minutes() -> None:
    settings = {key: value for key, value in SETTINGS.items() if key != "recipe"}
    timing = probe(make_plan(_manifest(), settings={**settings, "size": (8, 8), "kimg": 3.0}))
    rate = timing["images_per_second"]
    assert rate > 0
    assert timing["expected_kimg"] == pytest.approx(3.0)
    assert timing["expected_minutes"] == pytest.approx(3000 / rate / 60)
    timing = probe(make_plan(_manifest(), settings={**settings, "size": (8, 8), "minutes": 2.0}))
    assert timing["expected_minutes"] == 2
    assert timing["expected_kimg"] == pytest.approx(timing["images_per_second"] * 120 / 1000)
