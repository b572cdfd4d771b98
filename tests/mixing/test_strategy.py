from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganaug.errors import ConfigError
from ganaug.mixing import resolve_sampling_strategy

CLASSES = ("a", "b", "c")
COUNTS = {0: 10, 1: 4, 2: 7}


@pytest.mark.parametrize(
    ("strategy", "added"),
    [
        ("auto", {1: 6, 2: 3}),
        ("not majority", {1: 6, 2: 3}),
        ("minority", {1: 6}),
        ("not minority", {0: 0, 2: 3}),
        ("all", {0: 0, 1: 6, 2: 3}),
        ({"b": 9, "a": 12}, {0: 2, 1: 5}),
        ({1: 9}, {1: 5}),
        ({np.int64(2): 7}, {2: 0}),
        (lambda labels: {int(label): 20 for label in set(labels)}, {0: 10, 1: 16, 2: 13}),
        (lambda labels: {"b": int((labels == 0).sum())}, {1: 6}),
    ],
)
def test_speaks_the_over_sampling_vocabulary(strategy: Any, added: dict[int, int]) -> None:
    assert resolve_sampling_strategy(strategy, COUNTS, CLASSES) == added


def test_a_float_is_the_wanted_ratio_of_minority_to_majority() -> None:
    assert resolve_sampling_strategy(0.5, {0: 3, 1: 20}, ("sick", "well")) == {0: 7}
    assert resolve_sampling_strategy(1, {0: 20, 1: 3}, ("well", "sick")) == {1: 17}
    assert resolve_sampling_strategy(0.25, {0: 20, 1: 5}, ("well", "sick")) == {1: 0}


def test_a_class_without_real_images_is_the_minority() -> None:
    assert resolve_sampling_strategy("minority", {0: 5, 2: 1}, CLASSES) == {1: 5}


def test_ties_leave_out_the_first_class_only() -> None:
    assert resolve_sampling_strategy("auto", {0: 2, 1: 5, 2: 5}, CLASSES) == {0: 3, 2: 0}


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=6))
def test_all_and_auto_level_every_class(counts: list[int]) -> None:
    classes = [f"class {i}" for i in range(len(counts))]
    for strategy in ("all", "auto"):
        added = resolve_sampling_strategy(strategy, dict(enumerate(counts)), classes)
        assert {n + added.get(i, 0) for i, n in enumerate(counts)} == {max(counts)}


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("majority", "'majority'.*'not minority'"),
        (0.5, "two classes; there are 3"),
        (True, "True"),
        (None, "None"),
        (["a"], r"\['a'\]"),
        ({"z": 3}, "'z'.*'a', 'b', 'c'"),
        ({3: 3}, "3.*0 to 2"),
        ({"b": 3}, "3 images of 'b'.*4 real"),
        ({"b": 5.5}, "5.5"),
        ({"b": 5, 1: 6}, "'b' twice"),
        (lambda labels: 3, "returned 3"),
    ],
)
def test_bad_strategies_get_a_clear_error(strategy: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_sampling_strategy(strategy, COUNTS, CLASSES)


@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.5, 0.1])
def test_ratios_out_of_reach_are_refused(ratio: float) -> None:
    with pytest.raises(ConfigError, match=str(ratio)):
        resolve_sampling_strategy(ratio, {0: 20, 1: 5}, ("well", "sick"))
