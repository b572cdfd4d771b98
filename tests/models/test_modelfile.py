"""The model file: what goes in comes out, and a damaged or foreign file is a sentence."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ganaug.data.geometry import Geometry
from ganaug.errors import ModelFileError
from ganaug.files import sha256_file
from ganaug.models.modelfile import FILE_NAME, ModelHeader, find_model, load_model, read_header, save_model
from ganaug.models.translation import Translation
from tests.tiny import UINT8, UINT16, make_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / FILE_NAME, intensity=UINT16, classes=("a b", "ä", "c"))


def _header(path: Path) -> dict[str, Any]:
    return json.loads(read_header(path).to_json())


def _rewrite(source: Path, target: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Write the model of `source` with a header that `change` has edited in place."""
    header = _header(source)
    change(header)
    save_file(load_file(source), target, metadata={"ganaug": json.dumps(header)})
    return target


def test_a_model_comes_back_as_it_was(model: Path, tmp_path: Path) -> None:
    generator, header, sha256 = load_model(model)
    assert sha256 == sha256_file(model)
    assert (header.classes, header.size, header.channels) == (("a b", "ä", "c"), (16, 12), 1)
    assert header.intensity == UINT16
    assert not generator.training
    assert not any(parameter.requires_grad for parameter in generator.parameters())

    save_model(tmp_path / "again.safetensors", generator, header)
    again, header_again, _ = load_model(tmp_path / "again.safetensors")
    assert header_again == header
    for (name, one), (_, other) in zip(generator.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(one, other), name
    inputs = torch.randn(3, 8), torch.arange(3)
    assert torch.equal(generator(*inputs), again(*inputs))


def test_header_text_round_trips(model: Path) -> None:
    header = read_header(model)
    assert ModelHeader.from_json(header.to_json()) == header


GEOMETRY = Geometry(spacing=(7.5, 4.0, 4.0), orientation="PSR", center=(1.5, -20.0, 0.25))


def test_a_model_of_volumes_says_where_they_lie_and_what_they_came_from(tmp_path: Path) -> None:
    generator, header, _ = load_model(make_model(tmp_path / "flat.safetensors", size=(9, 16, 12), channels=5))
    assert (header.geometry, header.source_format) == (None, "")
    located = replace(header, geometry=GEOMETRY, source_format="NIfTI")
    save_model(tmp_path / FILE_NAME, generator, located)
    again, found, _ = load_model(tmp_path / FILE_NAME)
    assert found == located
    assert again(torch.randn(2, 8), torch.arange(2)).shape == (2, 5, 9, 16, 12)


def test_a_model_from_before_volumes_is_still_read(model: Path, tmp_path: Path) -> None:
    def age(header: dict[str, Any]) -> None:
        del header["geometry"], header["source_format"]
        for key in ("slices", "intensity", "window", "largest_volume"):
            del header["settings"][key]
        header["settings"]["resize"] = "stretch"

    generator, header, _ = load_model(_rewrite(model, tmp_path / "old.safetensors", age))
    assert (header.geometry, header.source_format) == (None, "")
    inputs = torch.randn(3, 8), torch.arange(3)
    assert torch.equal(generator(*inputs), load_model(model)[0](*inputs))


def test_a_run_folder_stands_for_its_model_file(model: Path) -> None:
    assert find_model(model.parent) == model
    assert find_model(str(model)) == model


@pytest.mark.parametrize("what", ["nowhere", "empty folder"])
def test_no_model_is_an_error_that_says_how_to_make_one(tmp_path: Path, what: str) -> None:
    with pytest.raises(ModelFileError, match="ganaug fit DATA --out RUN") as caught:
        load_model(tmp_path if what == "empty folder" else tmp_path / "nowhere")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG\r\n\x1a\n" + bytes(100), b"\x80\x04cposix\nsystem\n.", bytes(64), b"\xff" * 64]
)
def test_a_file_of_another_kind_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(content)
    with pytest.raises(ModelFileError):
        load_model(path)


def test_a_safetensors_file_of_somebody_else_is_an_error(model: Path, tmp_path: Path) -> None:
    save_file(load_file(model), tmp_path / "x.safetensors", metadata={"made by": "somebody else"})
    with pytest.raises(ModelFileError, match="without ganaug's header"):
        load_model(tmp_path / "x.safetensors")
    save_file(load_file(model), tmp_path / "y.safetensors")
    with pytest.raises(ModelFileError, match="without ganaug's header"):
        load_model(tmp_path / "y.safetensors")


HEADER_CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "another format": lambda h: h.update(format=2),
    "no format": lambda h: h.pop("format"),
    "no classes": lambda h: h.update(classes=[]),
    "one class more": lambda h: h["classes"].append("d"),
    "classes of another kind": lambda h: h.update(classes=3),
    "another size": lambda h: h.update(size=[32, 32]),
    "a huge size": lambda h: h.update(size=[10**9, 8]),
    "a size of one side": lambda h: h.update(size=[16]),
    "a size of no side": lambda h: h.update(size=[]),
    "a size of four sides": lambda h: h.update(size=[16, 12, 8, 8]),
    "a volume larger than memory": lambda h: h.update(size=[4096, 4096, 4096]),
    "a size of words": lambda h: h.update(size=["wide", "high"]),
    "a negative size": lambda h: h.update(size=[-16, 12]),
    "another number of channels": lambda h: h.update(channels=3),
    "no channels": lambda h: h.update(channels=0),
    "an impossible number of channels": lambda h: h.update(channels=65),
    "a geometry that is no object": lambda h: h.update(geometry="here"),
    "a geometry without a center": lambda h: h.update(geometry={"spacing": [1, 1, 1], "orientation": "LPS"}),
    "a geometry without spacing": lambda h: h.update(geometry=GEOMETRY.to_dict() | {"spacing": [0, 1, 1]}),
    "no intensity": lambda h: h.pop("intensity"),
    "an empty window": lambda h: h["intensity"].update(low=5.0, high=5.0),
    "a window that is no number": lambda h: h["intensity"].update(low=float("nan")),
    "no settings": lambda h: h.pop("settings"),
    "settings of another kind": lambda h: h.update(settings=[1, 2]),
    "no architecture": lambda h: h["settings"].pop("arch"),
    "an unknown architecture": lambda h: h["settings"].update(arch="os"),
    "an architecture with a path": lambda h: h["settings"].update(arch="../../evil"),
    "an architecture that is no word": lambda h: h["settings"].update(arch=["modern"]),
    "an unknown setting": lambda h: h["settings"].update(sneaky=1),
    "a setting of the wrong type": lambda h: h["settings"].update(latent_dim="many"),
    "wider networks": lambda h: h["settings"].update(widths=[32, 16]),
    "networks wider than memory": lambda h: h["settings"].update(widths=[10**7, 10**7]),
    "networks wider than numbers": lambda h: h["settings"].update(widths=[10**15, 10**15]),
    "more blocks": lambda h: h["settings"].update(blocks=3),
    "no training": lambda h: h.pop("training"),
}


@pytest.mark.parametrize("change", HEADER_CHANGES.values(), ids=HEADER_CHANGES)
def test_a_header_that_does_not_fit_is_an_error(
    model: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    with pytest.raises(ModelFileError):
        load_model(_rewrite(model, tmp_path / "x.safetensors", change))


UNCAUGHT: dict[str, Callable[[dict[str, Any]], object]] = {
    "an infinite side": lambda h: h.update(size=[float("inf"), 12]),
    "infinite channels": lambda h: h.update(channels=float("inf")),
    "groups of no channels": lambda h: h["settings"].update(group_width=0),
    "an infinite expansion": lambda h: h["settings"].update(expansion=float("inf")),
}


@pytest.mark.parametrize("change", UNCAUGHT.values(), ids=UNCAUGHT)
def test_numbers_that_cannot_be_computed_with_are_an_error(
    model: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    with pytest.raises(ModelFileError):
        load_model(_rewrite(model, tmp_path / "x.safetensors", change))


def test_a_deeply_nested_header_is_an_error(model: Path, tmp_path: Path) -> None:
    save_file(load_file(model), tmp_path / "x.safetensors", metadata={"ganaug": "[" * 200_000})
    with pytest.raises(ModelFileError):
        load_model(tmp_path / "x.safetensors")


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '"words"', "{}", "3"])
def test_a_header_that_is_no_object_is_an_error(model: Path, tmp_path: Path, text: str) -> None:
    save_file(load_file(model), tmp_path / "x.safetensors", metadata={"ganaug": text})
    with pytest.raises(ModelFileError):
        load_model(tmp_path / "x.safetensors")


def _half(weights: dict[str, torch.Tensor]) -> None:
    weights.update({key: value.half() for key, value in weights.items()})


def _one_half(weights: dict[str, torch.Tensor]) -> None:
    weights["output.bias"] = weights["output.bias"].half()


def _missing(weights: dict[str, torch.Tensor]) -> None:
    del weights["output.bias"]


def _extra(weights: dict[str, torch.Tensor]) -> None:
    weights["sneaky"] = torch.zeros(1)


def _reshaped(weights: dict[str, torch.Tensor]) -> None:
    weights["output.bias"] = torch.zeros(2)


@pytest.mark.parametrize("change", [_half, _one_half, _missing, _extra, _reshaped])
def test_weights_that_do_not_fit_the_header_are_an_error(
    model: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None]
) -> None:
    weights = load_file(model)
    change(weights)
    save_file(weights, tmp_path / "x.safetensors", metadata={"ganaug": read_header(model).to_json()})
    with pytest.raises(ModelFileError, match="do not fit the network"):
        load_model(tmp_path / "x.safetensors")


def test_a_file_cut_short_is_an_error_wherever_it_is_cut(model: Path, tmp_path: Path) -> None:
    whole, path = model.read_bytes(), tmp_path / FILE_NAME
    (header_length,) = struct.unpack("<Q", whole[:8])
    for length in [*range(12), header_length // 2, header_length + 8, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFileError):
            load_model(path)
    path.write_bytes(whole + b"tail")
    with pytest.raises(ModelFileError):
        load_model(path)


def test_any_flipped_byte_is_an_error(model: Path, tmp_path: Path) -> None:
    """Nothing but a ModelFileError comes out of a damaged file, wherever the damage is."""
    whole, path = model.read_bytes(), tmp_path / FILE_NAME
    (header_length,) = struct.unpack("<Q", whole[:8])
    random = np.random.default_rng(0)
    # The name of the sum alone says whether there is one: files of before have none.
    name = whole.index(b'"sha256":"')
    for trial in range(200):
        data = bytearray(whole)
        in_header = trial % 4 > 0
        place = int(
            random.integers(0, header_length + 8) if in_header else random.integers(header_length + 8, len(data))
        )
        if name <= place < name + len('"sha256"'):
            continue
        data[place] ^= int(random.integers(1, 256))
        path.write_bytes(data)
        with pytest.raises(ModelFileError):
            load_model(path)


def test_domains_that_are_not_the_classes_are_refused() -> None:
    domains = Translation("class", ("a", "b"), ("a", "b"), (UINT8, UINT8), (), True, "")
    good = ModelHeader("cyclegan", ("a", "b"), (16, 16), 1, UINT8, {}, {}, translation=domains)
    assert ModelHeader.from_json(good.to_json()) == good
    with pytest.raises(ModelFileError, match="names the classes"):
        ModelHeader.from_json(replace(good, classes=("a", "c")).to_json())
