"""What a training of a folder would be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ganaug.config import FitConfig, load_recipe, recipe_names, refinement_names
from ganaug.data.geometry import Geometry
from ganaug.data.manifest import Item, Manifest
from ganaug.errors import ConfigError, DataError
from ganaug.models.translation import Translation
from ganaug.plugins import load_plugin
from ganaug.training import plan as plan_module
from ganaug.training.plan import Plan, choose_recipe, format_of, geometry_of, make_plan, plan_from, predict_grid
from ganaug.training.probe import probe
from ganaug.training.translating import TRANSLATION_MODELS
from tests.tiny import UINT8


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
    assert plan.recipe == "px32+few"
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
        ((128, 128), "px128"),
        ((300, 300), "px256"),
        ((24, 32, 32), "vol32"),
        ((24, 33, 32), "vol64"),
    ],
)
def test_the_longest_side_chooses_the_recipe(size: tuple[int, ...], recipe: str) -> None:
    name, reason = choose_recipe(size)
    assert name == recipe
    assert f" {max(size)} " in reason


@pytest.mark.parametrize(
    ("size", "channels", "images", "recipe"),
    [
        ((64, 64), 3, 500, "px64+color"),
        ((64, 64), 1, 499, "px64+few"),
        ((28, 28), 3, 80, "px32+color+few"),
        ((64, 64), 4, 500, "px64"),
        ((32, 32, 32), 1, 80, "vol32"),  # which was chosen on a hundred volumes
    ],
)
def test_color_and_few_images_refine_the_recipe(size: tuple[int, ...], channels: int, images: int, recipe: str) -> None:
    name, reason = choose_recipe(size, channels=channels, images=images)
    assert name == recipe
    assert ("in color" in reason, "fewer than 500" in reason) == ("+color" in name, "+few" in name)


def test_a_plan_refines_its_recipe_and_says_so() -> None:
    plan = make_plan(_manifest((300, 199), channels=[3] * 499))
    assert plan.recipe == "px32+color+few"
    wanted = load_recipe("px32") | load_recipe("px32+color+few")
    assert plan.config == plan.config.updated({key: wanted[key] for key in wanted.keys() - {"channels"}})
    assert plan.config.augment_p == (0.0, 0.6)
    assert any(reason.startswith("Recipe px32+color+few: for") for reason in plan.reasons)
    assert make_plan(_manifest((300, 200))).recipe == "px32"
    plan = make_plan(_manifest((300, 300), split=["train"] * 400 + ["test"] * 200))
    assert plan.recipe == "px32+few"  # what trains counts


def test_of_joined_recipes_the_later_ones_win(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("batch: 12\naugment_p: [0, 0.5]\n")
    few, both = load_recipe("px64+few"), load_recipe(f"px64+few+{tmp_path / 'mine.yaml'}")
    assert few["augment_p"] == [0, 0.6]
    assert few["lr"] == load_recipe("px64")["lr"]
    assert both == few | {"batch": 12, "augment_p": [0, 0.5]}
    assert load_recipe(f"{tmp_path / 'mine.yaml'}+few")["augment_p"] == [0, 0.6]


def test_a_file_may_have_a_plus_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "a+b.yaml").write_text("batch: 12\n")
    assert load_recipe(str(tmp_path / "a+b.yaml")) == {"batch": 12}


@pytest.mark.parametrize(
    "name", ["few", "+few", "auto+few", "px64+", "px64+fewer", "px64+px32", "px64+few+no.yaml", ""]
)
def test_a_recipe_that_cannot_be_joined_is_an_error_that_says_how_it_is_done(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan(_manifest(), recipe=name)
    assert all(word in str(caught.value) for word in (repr(name), "px128", "+color, +few", "px64+few"))


SIZES = {
    "smoke": (16, 16),
    "px16": (16, 16),
    "px32": (32, 32),
    "px64": (64, 64),
    "px128": (128, 128),
    "px256": (256, 256),
    "vol32": (32, 32, 32),
    "vol64": (64, 64, 64),
}
LARGE = {"px256", "vol64"}
TRANSLATING = {"translate64": (64, 64), "translate128": (128, 128), "translate3d": (16, 32, 32)}


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(f"{name}{refined}", marks=[pytest.mark.slow] if name in LARGE else [])
        for name in recipe_names()
        if name in SIZES
        for refined in ("", "+color+few")
        if len(SIZES[name]) == 2 or not refined
    ],
)
def test_a_recipe_trains_at_its_size(recipe: str) -> None:
    size = SIZES[recipe.partition("+")[0]]
    config = FitConfig().updated(load_recipe(recipe)).updated({"batch": 2})
    channels = config.channels or 1
    gan = load_plugin("ganaug.training.gans", config.model).GAN(
        config, size=size, channels=channels, classes=2, device=torch.device("cpu"), bf16=False
    )
    source = torch.Generator().manual_seed(0)
    images = torch.rand(2, channels, *size, generator=source) * 2 - 1
    for step in range(2):
        metrics = gan.step(images, torch.tensor([0, 1]), step, 1.0)
    assert all(torch.isfinite(value) for value in metrics.values())
    assert all(torch.isfinite(value).all() for value in gan.tensors().values())
    assert gan.sample(torch.zeros(1, config.latent_dim), torch.tensor([1])).shape == (1, channels, *size)


@pytest.mark.parametrize("model", TRANSLATION_MODELS)
@pytest.mark.parametrize("recipe", TRANSLATING)
def test_a_recipe_translates_at_its_size(recipe: str, model: str) -> None:
    size = TRANSLATING[recipe]
    config = FitConfig().updated(load_recipe(recipe)).updated({"batch": 2, "model": model})
    translation = Translation("style", ("a", "b"), ("a", "b"), (UINT8, UINT8), (), True, "")
    gan = load_plugin("ganaug.training.gans", config.model).GAN(
        config, size=size, channels=1, translation=translation, device=torch.device("cpu"), bf16=False
    )
    batch = gan.random_batch(2, torch.Generator().manual_seed(0), shape=(1, *size))
    metrics = gan.step(*batch, 0, 1.0)
    assert all(torch.isfinite(value) for value in metrics.values())
    assert gan.translate(batch[0], torch.zeros(len(batch[0]), dtype=torch.int64)).shape == batch[0].shape


def test_every_recipe_is_tried_and_every_refinement() -> None:
    assert {*recipe_names()} == {*SIZES, *TRANSLATING}
    assert refinement_names() == ["+color", "+few"]


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "channels", "gigabytes"), [("px256", 3, 6), ("vol64", 1, 6)])
def test_a_step_of_a_large_recipe_fits_into_a_laptop(recipe: str, channels: int, gigabytes: float) -> None:
    """Resident memory of a fresh process after two steps with the recipe's own batch."""
    script = f"""
import resource, sys, torch
from ganaug.config import FitConfig, load_recipe
from ganaug.training.gans.conditional import GAN
config, size = FitConfig().updated(load_recipe({recipe!r})), {SIZES[recipe]}
gan = GAN(config, size=size, channels={channels}, classes=3, device=torch.device("cpu"), bf16=False)
images, labels = torch.rand(config.batch, {channels}, *size) * 2 - 1, torch.arange(config.batch) % 3
for step in range(2):
    gan.step(images, labels, step, 1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""
    pytest.importorskip("resource")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=600)
    assert int(done.stdout) < gigabytes * 2**30


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


def _speeds(monkeypatch: pytest.MonkeyPatch, speed: float) -> list[Plan]:
    """Let a step of px32's widths show `speed` images/s, others by their first width; return what is asked for."""
    seen: list[Plan] = []

    def images_per_second(plan: Plan) -> float:
        seen.append(plan)
        return speed * (128 / plan.config.widths[0]) ** 2

    monkeypatch.setattr(plan_module, "images_per_second", images_per_second)
    return seen


MANY = _manifest((300, 300))
"""600 images of 28×30 pixels: recipe px32, which wants `WANTED` of them in a second to see its kimg in an hour."""
WANTED = load_recipe("px32")["kimg"] * 1000 / 3600


def test_auto_fits_the_network_to_the_minutes_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for share, widths in ((0.1, [64, 48, 32, 16]), (1.0, [128, 96, 64, 32]), (30.0, [256, 192, 128, 64])):
        _speeds(monkeypatch, share * WANTED)
        plan = make_plan(MANY, settings={"minutes": 60, "device": "cpu"})
        found = plan.to_dict()
        assert found["settings"]["widths"] == found["sizing"]["widths"] == widths
        assert found["sizing"]["recipe_widths"] == [128, 96, 64, 32]
        assert plan.reasons[-1].startswith("Budget: 60 minutes show about ")
        assert "-".join(map(str, widths)) in plan.reasons[-1]


def test_the_chosen_network_and_threads_are_settings_like_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stored is what trains: resuming such a run asks for no speed again."""
    seen = _speeds(monkeypatch, 0.1 * WANTED)
    plan = make_plan(MANY, settings={"minutes": 60, "device": "cpu"})
    assert plan.config.threads == seen[-1].config.threads
    asked = len(seen)
    stored = FitConfig.from_dict(plan.to_dict()["settings"])
    again = plan_from(plan.manifest, stored, recipe=plan.recipe, reasons=())
    assert again.config == plan.config
    assert len(seen) == asked


def test_what_was_measured_is_not_measured_again_for_the_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    _speeds(monkeypatch, WANTED)
    plan = make_plan(MANY, settings={"minutes": 60, "device": "cpu"})
    assert probe(plan) == {
        "images_per_second": WANTED,
        "expected_minutes": 60,
        "expected_kimg": pytest.approx(load_recipe("px32")["kimg"]),
    }


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("auto", {}),
        ("auto", {"kimg": 10}),
        ("auto", {"minutes": 60, "widths": [48, 32]}),
        ("auto", {"minutes": 60, "threads": 1}),
        ("px32", {"minutes": 60}),
        ("px32+few", {"minutes": 60}),
    ],
)
def test_without_a_budget_or_with_a_network_that_was_named_nothing_is_timed(
    monkeypatch: pytest.MonkeyPatch, recipe: str, settings: dict[str, Any]
) -> None:
    seen = _speeds(monkeypatch, 0.1 * WANTED)
    plan = make_plan(MANY, recipe=recipe, settings={**settings, "device": "cpu"})
    assert seen == []
    assert plan.sizing is None
    assert list(plan.config.widths) == settings.get("widths", load_recipe(plan.recipe)["widths"])
    assert plan.config.threads == settings.get("threads")


def test_a_few_images_do_not_get_a_wider_network(monkeypatch: pytest.MonkeyPatch) -> None:
    _speeds(monkeypatch, 100 * WANTED)
    plan = make_plan(_manifest((40, 40)), settings={"minutes": 60, "device": "cpu"})
    assert list(plan.config.widths) == load_recipe("px32+few")["widths"]


def test_a_network_that_does_not_fit_into_memory_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def images_per_second(plan: Plan) -> float:
        if plan.config.widths[0] > 128:
            raise torch.OutOfMemoryError
        return 100 * WANTED

    monkeypatch.setattr(plan_module, "images_per_second", images_per_second)
    plan = make_plan(MANY, settings={"minutes": 60, "device": "cpu"})
    assert plan.config.widths == (128, 96, 64, 32)
