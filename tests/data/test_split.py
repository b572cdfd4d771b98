from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganaug.data.split import split_by_group
from ganaug.errors import ConfigError

# Items as (label, group); groups may hold several classes, as patients do.
mixed_items = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([f"p{i}" for i in range(12)])), min_size=1
)  # Items whose groups hold one class each.
pure_items = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 8)).map(lambda pair: (pair[0], f"class{pair[0]}-{pair[1]}")),
    min_size=1,
    max_size=120,
)
fractions = st.floats(0.05, 0.95)


def sides(items: list[tuple[int, str]], fraction: float, seed: int) -> dict[str, bool]:
    """Return whether each group is on the test side."""
    labels, groups = zip(*items, strict=True)
    train, test = split_by_group(labels, groups, test_fraction=fraction, seed=seed)
    assert sorted([*train, *test]) == list(range(len(items)))
    assert {groups[i] for i in train}.isdisjoint({groups[i] for i in test})
    return {group: group in {groups[i] for i in test} for group in groups}


@settings(deadline=None, derandomize=True)
@given(mixed_items, fractions, st.integers(0, 2**31), st.randoms())
def test_no_group_is_cut_and_the_order_of_files_does_not_matter(
    items: list[tuple[int, str]], fraction: float, seed: int, random: Random
) -> None:
    shuffled = list(items)
    random.shuffle(shuffled)
    assert sides(items, fraction, seed) == sides(shuffled, fraction, seed)


@settings(deadline=None, derandomize=True)
@given(pure_items, fractions, st.integers(0, 2**31))
def test_a_class_of_two_groups_is_on_both_sides_and_one_group_is_trained_on(
    items: list[tuple[int, str]], fraction: float, seed: int
) -> None:
    found = sides(items, fraction, seed)
    for label in {label for label, _ in items}:
        of_class = [found[group] for group in {group for other, group in items if other == label}]
        if len(of_class) > 1:
            assert set(of_class) == {True, False}
        else:
            assert of_class == [False]


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(2, 60), min_size=1, max_size=4), fractions, st.integers(0, 2**31))
def test_single_images_are_split_by_the_exact_fraction_in_each_class(
    counts: list[int], fraction: float, seed: int
) -> None:
    items = [(label, f"{label}-{i}") for label, n in enumerate(counts) for i in range(n)]
    found = sides(items, fraction, seed)
    held_out = Counter(label for label, group in items if found[group])
    for label, n in enumerate(counts):
        wanted = min(max(fraction * n, 1), n - 1)
        assert abs(held_out[label] - wanted) <= 0.5 + 1e-9


def test_patients_with_two_classes_are_stratified_for_the_rare_one() -> None:
    items = [(0, f"p{i}") for i in range(100) for _ in range(3)] + [(1, f"p{i}") for i in range(20)]
    found = sides(items, 0.2, seed=0)
    assert sum(found[f"p{i}"] for i in range(20)) == 4
    assert sum(found.values()) == 20


def test_big_groups_do_not_overshoot() -> None:
    items = [(0, "big")] * 90 + [(0, f"small{i}") for i in range(30)]
    found = sides(items, 0.2, seed=0)
    assert not found["big"]
    assert sum(found.values()) == 24


def test_the_seed_chooses_the_split() -> None:
    items = [(0, f"p{i}") for i in range(40)]
    assert sides(items, 0.5, seed=0) == sides(items, 0.5, seed=0)
    assert sides(items, 0.5, seed=0) != sides(items, 0.5, seed=1)


def test_a_new_class_does_not_move_the_groups_of_another() -> None:
    items = [(0, f"p{i}") for i in range(40)]
    grown = sides(items + [(1, f"q{i}") for i in range(10)], 0.3, seed=3)
    before = sides(items, 0.3, seed=3)
    assert {group: grown[group] for group in before} == before


def test_undecodable_file_names_can_be_groups() -> None:
    assert sum(sides([(0, f"\udcff{i}") for i in range(10)], 0.5, seed=0).values()) == 5


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_a_fraction_out_of_range_is_a_config_error(fraction: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        split_by_group([0, 1], ["a", "b"], test_fraction=fraction, seed=0)


def test_labels_without_groups_are_a_config_error() -> None:
    with pytest.raises(ConfigError, match="2 labels and 1 groups"):
        split_by_group(np.array([0, 1]), ["a"], test_fraction=0.5, seed=0)
