"""Settings: the shipped recipes, and what a wrong setting answers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ganaug.config import FitConfig, load_recipe, parse_assignments, recipe_folder, recipe_names
from ganaug.errors import ConfigError
from ganaug.models import build_network
from ganaug.models.translation import Translation, build_translation
from ganaug.plugins import load_plugin
from ganaug.training.augment import profile
from ganaug.training.translating import TRANSLATION_MODELS
from tests.tiny import UINT8

SIZES = {"px16": (16, 16), "px32": (32, 32), "px64": (64, 64), "px128": (128, 128), "vol32": (24, 32, 32)}


def test_there_are_recipes() -> None:
    assert {*SIZES, "smoke"} <= set(recipe_names())
    assert all((recipe_folder() / f"{name}.yaml").is_file() for name in recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_valid_and_its_networks_can_be_built(name: str) -> None:
    config = FitConfig().updated(load_recipe(name), source=name)
    assert config != FitConfig()
    load_plugin("ganaug.training.gans", config.model)
    load_plugin("ganaug.training.losses", config.loss)
    profile(config.augment)
    size = SIZES.get(name, (32, 32))
    if config.model in TRANSLATION_MODELS:
        translation = Translation("class", ("a", "b", "c"), ("a", "b"), (UINT8,) * 3, (), True, "")
        with torch.device("meta"):
            network = build_translation(vars(config), translation, size=size, channels=3)
        assert sum(p.numel() for p in network.parameters()) > 1000
        return
    for part in ("Generator", "Discriminator"):
        with torch.device("meta"):
            network = build_network(config.arch, part, vars(config), size=size, channels=3, classes=5)
        assert sum(p.numel() for p in network.parameters()) > 1000


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_says_in_its_first_line_what_it_is_for(name: str) -> None:
    first = (recipe_folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert len(first) > 20


def test_every_setting_has_its_explanation() -> None:
    """A docstring under each attribute: what `FitConfig` holds is the reference of the settings."""
    import ast
    import inspect

    (body,) = ast.parse(inspect.getsource(FitConfig)).body
    assert isinstance(body, ast.ClassDef)
    explained = {
        item.target.id
        for item, after in zip(body.body, body.body[1:], strict=False)
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and isinstance(after, ast.Expr)
    }
    assert explained == {field.name for field in dataclasses.fields(FitConfig)}


def test_settings_survive_json() -> None:
    config = FitConfig(size=(28, 30, 9), minutes=3.5, widths=(8, 4), lr=(1e-3, 1e-4), window=(-1000.0, 400.0))
    assert FitConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("key", "near"), [("bacth", "batch"), ("learning_rate", None), ("kimgs", "kimg"), ("gama", "gamma")]
)
def test_an_unknown_setting_is_an_error_with_the_nearest_one(key: str, near: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        FitConfig().updated({key: 1}, source="my.yaml")
    assert "my.yaml" in str(caught.value)
    assert repr(key) in str(caught.value)
    assert (f"Did you mean {near!r}?" if near else "Known keys: ") in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch", "many"),
        ("batch", 1.5),
        ("batch", True),
        ("batch", None),
        ("batch", [4]),
        ("batch", float("nan")),
        ("batch", float("inf")),
        ("kimg", "long"),
        ("kimg", {}),
        ("lr", [1e-3, 1e-4, 1e-5]),
        ("lr", "fast"),
        ("lr", [None, 1e-4]),
        ("widths", ["wide"]),
        ("widths", "wide"),
        ("size", [28.5, 28]),
        ("loss", 3),
        ("loss", None),
        ("augment", ["safe"]),
        ("slices", 3),
        ("window", [1, 2, 3]),
        ("window", ["low", "high"]),
        ("largest_volume", None),
    ],
)
def test_a_value_of_the_wrong_type_is_an_error_that_names_it(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{key} = .* was given; .* was wanted"):
        FitConfig().updated({key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kimg", 0),
        ("kimg", float("nan")),
        ("minutes", -1),
        ("batch", 1),
        ("channels", 0),
        ("channels", 65),
        ("largest", 7),
        ("largest_volume", 7),
        ("largest_volume", 257),
        ("slices", "oblique"),
        ("intensity", "zscore"),
        ("window", [400, -1000]),
        ("window", 40),
        ("resize", "squash"),
        ("latent_dim", 0),
        ("label_dim", 5000),
        ("widths", []),
        ("widths", [16, 0]),
        ("blocks", 0),
        ("stem", 3),
        ("base", 1),
        ("burn_in", 0),
        ("burn_in", 1.1),
        ("penalty_every", 0),
        ("class_power", 1.5),
        ("gamma", [-1, 1]),
        ("lr", [1e-3, 0]),
        ("beta2", [0.9, 1]),
        ("augment_p", [0, 1.2]),
        ("precision", "fp16"),
        ("snapshots", 0),
        ("size", [7, 28]),
        ("size", [28, 2000]),
        ("size", [28]),
        ("size", [28, 28, 7]),
        ("size", [28, 28, 257]),
        ("size", [28, 28, 28, 28]),
    ],
)
def test_a_value_out_of_range_is_an_error_that_says_the_range(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{key} = .* was given; it must be "):
        FitConfig().updated({key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("group_width", 0),
        ("group_width", -8),
        ("expansion", 0),
        ("expansion", float("inf")),
        ("blocks", 10**9),
        ("lr", [2e-4, float("nan")]),
        ("gamma", [1, float("inf")]),
        ("ema_half_life_kimg", [0, float("nan")]),
        ("kimg", float("inf")),
        ("minutes", float("inf")),
    ],
)
def test_a_value_that_no_network_or_clock_can_take_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError):
        FitConfig().updated({key: value})


def test_values_are_read_as_yaml_and_the_shell_write_them() -> None:
    config = FitConfig().updated({"lr": "2e-4", "batch": 16.0, "widths": 8, "gamma": [10, "1"], "size": (28, 30)})
    assert config.lr == (2e-4, 2e-4)
    assert config.batch == 16
    assert isinstance(config.batch, int)
    assert config.widths == (8,)
    assert config.gamma == (10.0, 1.0)
    assert config.size == (28, 30)


def test_sizes_of_images_and_volumes_up_to_their_limits() -> None:
    for size in ((8, 1024), (8, 8, 256), (23, 28, 31)):
        assert FitConfig().updated({"size": list(size)}).size == size


def test_a_window_means_intensity_window_unless_another_one_was_asked_for() -> None:
    assert FitConfig().intensity == "auto"
    config = FitConfig().updated({"window": [-1000, 400]})
    assert (config.intensity, config.window) == ("window", (-1000.0, 400.0))
    for values in ({"window": [0, 1], "intensity": "percentiles"}, {"intensity": "window"}):
        with pytest.raises(ConfigError, match="intensity 'window' must have a window"):
            FitConfig().updated(values)


def test_settings_of_a_run_from_before_volumes_are_still_read() -> None:
    new = {"slices", "intensity", "window", "largest_volume"}
    old = {key: value for key, value in FitConfig().to_dict().items() if key not in new} | {"resize": "stretch"}
    config = FitConfig.from_dict(old)
    assert (config.slices, config.intensity, config.window, config.resize) == (None, "auto", None, "stretch")


def test_none_switches_off_what_may_be_off() -> None:
    config = FitConfig(minutes=3, size=(16, 16), channels=3).updated({"minutes": None, "size": None, "channels": None})
    assert (config.minutes, config.size, config.channels) == (None, None, None)


@given(st.integers(0, 2**63))
def test_a_whole_number_stays_what_it_is(seed: int) -> None:
    assert FitConfig().updated({"seed": seed % 2**53}).seed == seed % 2**53


def test_a_large_seed_stays_what_it_is() -> None:
    assert FitConfig().updated({"seed": 2**53 + 1}).seed == 2**53 + 1


def test_updated_leaves_the_original_alone() -> None:
    config = FitConfig()
    assert config.updated({"batch": 8}).batch == 8
    assert config.batch == FitConfig().batch


def test_assignments_are_yaml() -> None:
    texts = ("batch=32", "lr=[1e-3, 2e-4]", "loss=nonsaturating", "size=null", " kimg = 2.5", "resize=a=b")
    assert parse_assignments(texts) == {
        "batch": 32,
        "lr": ["1e-3", "2e-4"],
        "loss": "nonsaturating",
        "size": None,
        "kimg": 2.5,
        "resize": "a=b",
    }
    assert FitConfig().updated(parse_assignments(texts[:2])).lr == (1e-3, 2e-4)


@pytest.mark.parametrize("text", ["batch", "=3", "", "widths=[1, 2", "loss=!!python/object/apply:os.system [echo]"])
def test_a_bad_assignment_is_an_error_that_shows_it(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--set "):
        parse_assignments((text,))


def test_a_recipe_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("# mine\nbatch: 12\n")
    assert load_recipe(str(path)) == {"batch": 12}
    path.write_text("# nothing but a comment\n")
    assert load_recipe(str(path)) == {}


def test_an_unknown_recipe_lists_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match=r"px13.*px128.*smoke"):
        load_recipe("px13")


@pytest.mark.parametrize("content", [b"batch: [", b"- a\n- b\n", b"just words", b"\xff\xfe\xfa", b"!!python/name:os.a"])
def test_a_recipe_that_is_no_mapping_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_recipe(str(path))
