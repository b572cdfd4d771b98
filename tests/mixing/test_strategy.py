from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganaug.errors import ConfigError, DataError
from ganaug.mixing import resolve_sampling_strategy
from ganaug.mixing.balance import BALANCES, plan_mixture

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


def test_agrees_with_imbalanced_learn() -> None:
    utils = pytest.importorskip("imblearn.utils")
    random = np.random.default_rng(0)
    for size in (2, 2, 3, 5):
        for ties in (False, True):
            counts = random.integers(2, 40, size)
            counts[-1] = counts[0] if ties else counts[-1]
            y = random.permutation(np.repeat(np.arange(size), counts))
            strategies: list[Any] = ["auto", "minority", "not minority", "not majority", "all"]
            strategies += [{1: int(counts[1]) + 3, 0: int(counts[0])}, lambda y: {0: int((y == 0).sum()) + 2}]
            strategies += [1.0, (counts.min() / counts.max() + 1) / 2] if size == 2 and len(set(counts)) == 2 else []
            for strategy in strategies:
                theirs = utils.check_sampling_strategy(strategy, y, "over-sampling")
                ours = resolve_sampling_strategy(
                    strategy, dict(enumerate(counts.tolist())), [f"c{i}" for i in range(size)]
                )
                assert ours == dict(theirs), (strategy, counts)


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


UNEQUAL = {0: 100, 1: 10, 2: 40}


@pytest.mark.parametrize(
    ("options", "synthetic", "weights"),
    [
        ({}, {1: 90, 2: 60}, [1, 1, 1]),
        ({"ratio": 0.5}, {1: 5, 2: 20}, [1, 1, 1]),
        ({"ratio": 0}, {1: 0, 2: 0}, [1, 1, 1]),
        ({"balance": "resample"}, {1: 0, 2: 0}, [1, 10, 2.5]),
        ({"balance": "both"}, {1: 45, 2: 30}, [1, 100 / 55, 100 / 70]),
        ({"balance": "both", "ratio": 0.5}, {1: 5, 2: 20}, [1, 100 / 15, 100 / 60]),
        ({"ratio": {"b": 0.5}}, {1: 5, 2: 0}, [1, 1, 1]),
        ({"balance": "both", "ratio": {1: 0.5}}, {1: 5, 2: 0}, [1, 100 / 15, 2.5]),
        ({"symmetric": 0.25}, {0: 25, 1: 115, 2: 85}, [1, 1, 1]),
        ({"symmetric": 0.25, "ratio": 0.25}, {0: 25, 1: 2, 2: 10}, [1, 1, 1]),
        ({"symmetric": 0.25, "strategy": {"b": 30}}, {0: 25, 1: 20, 2: 10}, [1, 1, 1]),
        ({"symmetric": 0.5, "strategy": {}}, {0: 50, 1: 5, 2: 20}, [1, 1, 1]),
        ({"symmetric": True, "balance": "both"}, {0: 450, 1: 45, 2: 180}, [100 / 550, 100 / 55, 100 / 220]),
        ({"symmetric": True, "balance": "both", "ratio": 1}, {0: 100, 1: 10, 2: 40}, [0.5, 5, 1.25]),
    ],
)
def test_mixtures_by_hand(options: dict[str, Any], synthetic: dict[int, int], weights: list[float]) -> None:
    found = plan_mixture(**{"strategy": "auto", **options}, counts=UNEQUAL, classes=CLASSES)
    assert found.synthetic == synthetic
    assert list(found.weights.values()) == pytest.approx(weights)


@given(
    counts=st.lists(st.integers(1, 1000), min_size=2, max_size=6),
    balance=st.sampled_from(BALANCES),
    ratio=st.none() | st.floats(0, 4),
    symmetric=st.floats(0, 1) | st.booleans(),
)
def test_the_imbalance_is_corrected_once_and_within_the_bounds(
    counts: list[int], balance: Any, ratio: float | None, symmetric: Any
) -> None:
    real = dict(enumerate(counts))
    if balance == "resample" or (symmetric is True and balance == "synthesize"):
        symmetric = False
    if ratio is not None and symmetric is not True:
        symmetric = min(symmetric, ratio)
    found = plan_mixture("auto", real, [f"c{i}" for i in real], balance=balance, ratio=ratio, symmetric=symmetric)
    items = {label: count + found.synthetic.get(label, 0) for label, count in real.items()}
    mass = {label: found.weights[label] * count for label, count in items.items()}
    for label, count in real.items():
        made = found.synthetic.get(label, 0)
        if ratio is not None:
            assert made <= ratio * count + 1e-6
            if symmetric is not True:
                assert made >= int(symmetric * count) - 1e-6
        elif symmetric is not True:
            assert made >= symmetric * count - 1e-6
    if balance == "synthesize":
        assert set(found.weights.values()) == {1.0}
    if balance != "synthesize" or ratio is None:
        assert max(mass.values()) == pytest.approx(min(mass.values()))
    if balance == "resample":
        assert not any(found.synthetic.values())
    if symmetric is True:
        rates = [found.synthetic.get(label, 0) / count for label, count in real.items()]
        assert max(rates) - min(rates) <= 1 / min(counts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"balance": "weights"}, "'weights'.*'synthesize'"),
        ({"ratio": -0.5}, "ratio is -0.5"),
        ({"ratio": True}, "ratio is True"),
        ({"ratio": float("nan")}, "ratio is nan"),
        ({"ratio": "half"}, "ratio is 'half'"),
        ({"ratio": {"b": -1}}, "ratio is {'b': -1}"),
        ({"ratio": {"z": 1}}, "ratio names the class 'z'; one of 'a', 'b', 'c'"),
        ({"ratio": {"b": 1, 1: 2}}, "ratio names the class 'b' twice"),
        ({"ratio": {"b": 1}, "symmetric": 0.25}, "more synthetic images for each real one than ratio="),
        ({"ratio": {"b": 1}, "symmetric": True, "balance": "both"}, "symmetric is True.*Give one number"),
        ({"symmetric": -1}, "symmetric is -1"),
        ({"symmetric": "yes"}, "symmetric is 'yes'"),
        ({"symmetric": 0.5, "ratio": 0.25}, "0.5.*ratio=0.25"),
        ({"symmetric": True}, "balance='both'"),
        ({"symmetric": 0.1, "balance": "resample"}, "'resample'.*balance='both'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_mixture("auto", UNEQUAL, CLASSES, **options)


def test_a_class_without_real_images_needs_an_explicit_number() -> None:
    counts = {0: 10, 1: 0, 2: 5}
    with pytest.raises(DataError, match=r"no image of 'b'.*sampling_strategy=\{'b': 100\}"):
        plan_mixture("auto", counts, CLASSES)
    assert plan_mixture({"b": 8}, counts, CLASSES).synthetic == {1: 8}
    assert plan_mixture("minority", {0: 5, 1: 5, 2: 5}, CLASSES).synthetic == {0: 0}
    for options in ({"ratio": 0.5}, {"balance": "resample"}, {"symmetric": True, "balance": "both"}):
        with pytest.raises(DataError, match="no image of 'b'"):
            plan_mixture({"b": 8}, counts, CLASSES, **options)  # type: ignore[arg-type]
