"""The data set card: honest words for people, valid YAML for the hub."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ganaug.data.geometry import Geometry
from ganaug.sampling.card import data_card
from ganaug.sampling.request import Request
from ganaug.sampling.writers import load_writer
from tests.sampling.fake_sampler import FakeSampler

STRANGE = ["yes", "null", "- a: b", "a|b", "...\n---\n# x", '"', "'", "{}", "病変", "#1", "\\", "\x07", "&a *a", "1e3"]


def _card(writer: str | None = "png", *, counts: dict[str, int] | None = None, **options: Any) -> str:
    gan = FakeSampler(**options)
    wanted = counts or {gan.classes[0]: 3}
    request = Request.of(gan, wanted, format=writer or "npz", seed=5, truncation=0.5)
    return data_card(gan.header, request, load_writer(writer) if writer else None)  # type: ignore[arg-type]


def _front(card: str) -> dict[str, Any]:
    assert card.startswith("---\n")
    front, rest = card[4:].split("\n---\n", 1)
    assert rest.startswith("# Synthetic images\n"), "nothing ends the head early"
    return yaml.safe_load(front)


def test_the_head_has_the_keys_of_the_hub_and_our_record() -> None:
    front = _front(_card())
    assert front["license"] == "other"
    assert front["license_name"] == "same-terms-as-the-training-data"
    assert front["task_categories"] == ["image-classification"]
    assert "synthetic" in front["tags"]
    assert front["ganaug"]["model_sha256"] == "ab" * 32
    assert (front["ganaug"]["seed"], front["ganaug"]["truncation"]) == (5, 0.5)
    assert front["ganaug"]["counts"] == {"a": 3, "b": 0, "c": 0}


@pytest.mark.parametrize(
    ("writer", "files"),
    [
        ("png", ["metadata.csv", "*/*.png"]),
        ("tiff", ["metadata.csv", "*/*.tif"]),
        ("nifti", ["metadata.csv"]),
        (None, ["metadata.csv"]),
    ],
)
def test_the_hub_finds_the_files(writer: str | None, files: list[str]) -> None:
    (config,) = _front(_card(writer))["configs"]
    assert config == {"config_name": "default", "data_files": [{"split": "train", "path": files}]}


def test_of_volumes_the_hub_loads_the_table() -> None:
    (config,) = _front(_card("tiff", shape=(1, 2, 4, 6)))["configs"]
    assert config["data_files"][0]["path"] == ["metadata.csv"]


@pytest.mark.parametrize(
    ("images", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (10_000, "10K<n<100K"), (2_000_000, "n>1M")]
)
def test_the_size_is_one_of_the_hubs(images: int, size: str) -> None:
    assert _front(_card(counts={"a": images}))["size_categories"] == [size]


@settings(deadline=None)
@given(st.lists(st.sampled_from(STRANGE) | st.text(min_size=1, max_size=8), min_size=1, max_size=4, unique=True))
def test_strange_class_names_stay_names(classes: list[str]) -> None:
    card = _card(classes=classes, counts=dict.fromkeys(classes, 2))
    assert _front(card)["ganaug"]["counts"] == dict.fromkeys(classes, 2)
    table = [line for line in card.splitlines() if line.endswith("| 2 | ? |")]
    assert len(table) == len(classes), "each class has a row of its own"


def test_the_words_for_people() -> None:
    card = _card(training={"images": {"a": 12, "b": 4}, "ganaug": "0.0.9"})
    for text in (
        "never to test or to\ndiagnose",
        "| a | 3 | 12 |",
        "| b | 0 | 4 |",
        "| c | 0 | ? |",
        "4×6 pixels (H×W), 1 channel, uint8",
        'So does each file, in the text chunk "ganaug".',
        "The same terms as the training data.",
        "trained with ganaug 0.0.9",
        "## Limits",
    ):
        assert text in card, text


def test_volumes_have_their_spacing_and_orientation() -> None:
    geometry = Geometry(spacing=(4.0, 1.25, 1.25), orientation="PSR", center=(0.0, 0.0, 0.0))
    card = _card("nifti", shape=(1, 2, 4, 6), geometry=geometry)
    for text in ("2×4×6 voxels (D×H×W)", "4 × 1.25 × 1.25 mm", "PSR"):
        assert text in card, text
    assert "spacing and orientation unknown" in _card("nifti", shape=(1, 2, 4, 6))
    assert "spacing" not in _card("png")


def test_the_card_holds_no_time() -> None:
    assert _card() == _card()
