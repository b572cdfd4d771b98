from typing import Any

import pytest

from ganaug.data.mixtures import mixture_problems
from tests.data.items import UINT16, kinds, make_item


def volume(path: str, **fields: Any) -> Any:
    usual = {"shape": (8, 12, 10), "format": "NIfTI", "orientation": "RAS", "spacing": (2.0, 1.0, 1.0), **UINT16}
    return make_item(path, **{**usual, **fields})


def test_images_of_one_kind_are_no_mixture() -> None:
    assert list(mixture_problems([make_item("a/1.png"), make_item("a/2.png", minimum=3, high=40)])) == []
    assert list(mixture_problems([volume("a/1.nii"), volume("a/2.nii")])) == []
    assert list(mixture_problems([])) == []


@pytest.mark.parametrize(
    ("odd", "kind", "level"),
    [
        (make_item("odd", shape=(9, 10)), "mixed_sizes", "note"),
        (make_item("odd", channels=3, mode="RGB"), "mixed_channels", "problem"),
        (make_item("odd", channels=3, gray=True, mode="RGB"), "gray_saved_as_color", "note"),
        (make_item("odd", **UINT16), "mixed_dtypes", "problem"),
        (make_item("odd", spacing=(2.0, 2.0)), "mixed_spacings", "note"),
    ],
)
def test_the_odd_image_is_named(odd: Any, kind: str, level: str) -> None:
    items = [make_item(f"a/{index}", spacing=(1.0, 1.0) if odd.spacing else None) for index in range(3)]
    (found,) = mixture_problems([*items, odd])
    assert (found["kind"], found["level"], found["files"]) == (kind, level, ["odd"])


def test_odd_volumes_are_named() -> None:
    items = [volume(f"a/{index}") for index in range(5)]
    odd = [
        volume("small", shape=(9, 9, 9)),
        volume("turned", orientation="LPS"),
        volume("thick", spacing=(4.0, 1.0, 1.0)),
        volume("faint", high=300.0),
        volume("pale", high=400.0),
        volume("flat", shape=(12, 10), orientation=""),
    ]
    found = {problem["kind"]: problem for problem in mixture_problems([*items, *odd])}
    assert kinds(found.values()) == {
        "mixed_dimensions": ["flat"],
        "mixed_sizes": ["small", "flat"],
        "mixed_orientations": ["turned"],
        "mixed_spacings": ["thick"],
        "different_scales": ["faint", "pale"],
    }
    assert found["mixed_orientations"]["level"] == "note"
    assert "--window" in found["different_scales"]["message"]


def test_a_file_of_another_scale_among_many_is_named() -> None:
    items = [volume(f"a/{index}") for index in range(30)]
    (found,) = mixture_problems([*items, volume("flat", high=1.0), volume("odd", high=60_000.0, maximum=65_535.0)])
    assert (found["kind"], found["level"], found["files"]) == ("different_scales", "problem", ["odd"])


def test_an_unknown_orientation_beside_known_ones_is_a_problem() -> None:
    items = [volume("1"), volume("2"), volume("3", orientation="")]
    (found,) = mixture_problems(items)
    assert (found["kind"], found["level"], found["files"]) == ("mixed_orientations", "problem", ["3"])
    assert "unknown (1)" in found["message"]


def test_where_nothing_is_usual_nothing_is_named() -> None:
    items = [make_item(f"a/{index}", shape=(10 + index, 10)) for index in range(7)]
    (found,) = mixture_problems(items)
    assert found["files"] == []
    assert found["message"].startswith("mixed image sizes: 10×10 (1), 11×10 (1), 12×10 (1), 13×10 (1) and 3 more")


def test_gray_among_real_color_does_not_hide_the_mixture() -> None:
    items = [make_item("1"), make_item("2"), make_item("3", channels=3, gray=True), make_item("4", channels=3)]
    assert kinds(mixture_problems(items)) == {"gray_saved_as_color": ["3"], "mixed_channels": ["3", "4"]}
