"""What a training of a folder would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ganaug.config import load_recipe
from ganaug.data.manifest import Item, Manifest
from ganaug.errors import ConfigError, DataError
from ganaug.training.plan import choose_recipe, make_plan
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
            height, width = sizes[number % len(sizes)]
            fields = {"channels": 1, "dtype": "uint8", "split": "", **{k: v[number] for k, v in values.items()}}
            items.append(Item(f"{number}.png", label, f"g{number}", f"{number:064x}", height, width, **fields))
    return Manifest(Path("data"), tuple("abcdef"[: len(counts)]), tuple(items))


def test_images_of_one_size_are_trained_at_that_size() -> None:
    plan = make_plan(_manifest())
    assert (plan.size, plan.channels) == ((28, 30), 1)
    assert plan.recipe == "px32"
    assert len(plan.reasons) == 2
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
        (_manifest((2, 2), dtype=["uint8", "uint16", "uint8", "uint8"]), "Bit depths are mixed"),
    ],
)
def test_images_that_cannot_be_trained_on_are_a_data_error(manifest: Manifest, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        make_plan(manifest)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "nope"}, "Known: .*relativistic"),
        ({"arch": "nope"}, "Known: .*modern"),
        ({"model": "nope"}, "Known: .*conditional"),
        ({"augment": "nope"}, "safe"),
        ({"device": "nope"}, "auto, cpu, cuda"),
        ({"size": (4, 4)}, "8 and 1024"),
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
