"""Parts that are found by their file name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ganaug.errors import ConfigError
from ganaug.plugins import load_plugin, plugin_names

PACKAGES = ["ganaug.training.losses", "ganaug.training.gans", "ganaug.models.archs"]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_plugin_loads_by_its_name(package: str) -> None:
    names = plugin_names(package)
    assert names == sorted(names)
    assert names
    for name in names:
        assert load_plugin(package, name).__name__ == f"{package}.{name}"


def test_the_defaults_are_among_the_plugins() -> None:
    assert "relativistic" in plugin_names("ganaug.training.losses")
    assert "conditional" in plugin_names("ganaug.training.gans")
    assert "modern" in plugin_names("ganaug.models.archs")


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("name", ["no-such", "", "os", "../modern", "__init__", "..plugins"])
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(package: str, name: str) -> None:
    with pytest.raises(ConfigError, match="Known: ") as caught:
        load_plugin(package, name)
    for known in plugin_names(package):
        assert known in str(caught.value)


def test_a_new_file_is_a_new_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ganaug.training.losses as losses

    (tmp_path / "brand_new.py").write_text("NAME = 'new'\n")
    (tmp_path / "_private.py").write_text("")
    monkeypatch.setattr(losses, "__path__", [*losses.__path__, str(tmp_path)])
    assert "brand_new" in plugin_names("ganaug.training.losses")
    assert "_private" not in plugin_names("ganaug.training.losses")
    assert load_plugin("ganaug.training.losses", "brand-new").NAME == "new"
    monkeypatch.delitem(sys.modules, "ganaug.training.losses.brand_new")
