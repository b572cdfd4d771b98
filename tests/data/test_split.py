from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganaug.data.split import split_by_group, split_three
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


# --- three sides ---


def three(items: list[tuple[int, str]], fractions: tuple[float, float, float], seed: int) -> dict[str, str]:
    """Return the side of each group."""
    labels, groups = zip(*items, strict=True)
    found = split_three(labels, groups, fractions=fractions, seed=seed)
    assert list(found) == ["train", "val", "test"]
    assert sorted(i for side in found.values() for i in side) == list(range(len(items)))
    for indices in found.values():
        assert indices.dtype == np.int64
        assert (np.diff(indices) > 0).all()
    sides = {name: {groups[i] for i in indices} for name, indices in found.items()}
    assert len(set().union(*sides.values())) == sum(map(len, sides.values()))
    return {group: name for name, side in sides.items() for group in side}


@st.composite
def three_fractions(draw: st.DrawFn) -> tuple[float, float, float]:
    train, val, test = draw(st.tuples(st.floats(0.1, 1), st.floats(0, 1), st.floats(0, 1)))
    total = train + val + test
    return train / total, val / total, test / total


@settings(deadline=None, derandomize=True)
@given(mixed_items, three_fractions(), st.integers(0, 2**31), st.randoms())
def test_no_group_is_on_two_of_three_sides_and_the_order_of_files_does_not_matter(
    items: list[tuple[int, str]], fractions: tuple[float, float, float], seed: int, random: Random
) -> None:
    shuffled = list(items)
    random.shuffle(shuffled)
    assert three(items, fractions, seed) == three(shuffled, fractions, seed)


@settings(deadline=None, derandomize=True)
@given(mixed_items, st.floats(0.05, 0.6), st.lists(st.floats(0, 0.3), min_size=2, max_size=4), st.integers(0, 2**31))
def test_the_test_side_is_the_same_whatever_is_validated_on(
    items: list[tuple[int, str]], test: float, vals: list[float], seed: int
) -> None:
    held_out = [
        {group for group, side in three(items, (1 - val - test, val, test), seed).items() if side == "test"}
        for val in vals
    ]
    assert all(found == held_out[0] for found in held_out)
    assert held_out[0] == {group for group, tested in sides(items, test, seed).items() if tested}


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(3, 60), min_size=1, max_size=4), three_fractions(), st.integers(0, 2**31))
def test_each_class_is_shared_out_by_the_fractions(
    counts: list[int], fractions: tuple[float, float, float], seed: int
) -> None:
    items = [(label, f"{label}-{i}") for label, n in enumerate(counts) for i in range(n)]
    found = three(items, fractions, seed)
    for label, n in enumerate(counts):
        got = Counter(found[group] for other, group in items if other == label)
        for name, fraction in zip(("train", "val", "test"), fractions, strict=True):
            # A side that may not be empty takes its one image from another.
            assert abs(got[name] - fraction * n) <= 2


@pytest.mark.parametrize(
    ("groups", "wanted"),
    [(1, {"train"}), (2, {"train", "test"}), (3, {"train", "test", "val"}), (6, {"train", "test", "val"})],
)
def test_a_small_class_trains_first_is_tested_then_and_validated_last(groups: int, wanted: set[str]) -> None:
    for seed in range(20):
        items = [(0, f"a{i}") for i in range(50)] + [(1, f"b{i}") for i in range(groups)]
        found = three(items, (0.7, 0.15, 0.15), seed)
        assert {found[f"b{i}"] for i in range(groups)} == wanted


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=3),
    st.integers(1, 9),
    three_fractions(),
    st.integers(0, 2**31),
    st.integers(0, 10**6),
)
def test_one_more_patient_moves_at_most_three_others_of_its_class(
    counts: list[int], images: int, fractions: tuple[float, float, float], seed: int, name: int
) -> None:
    items = [(label, f"{label}-{i}") for label, n in enumerate(counts) for i in range(n)] * images
    before, after = three(items, fractions, seed), three(items + [(0, f"new{name}")] * images, fractions, seed)
    moved = [group for group in before if before[group] != after[group]]
    assert len(moved) <= 3
    assert all(group.startswith("0-") for group in moved)


def test_patients_of_several_classes_and_sizes_mostly_stay_where_they_were() -> None:
    rng = np.random.default_rng(0)
    moved = []
    for seed in range(30):
        items = [(int(label), f"p{i}") for i in range(120) for label in rng.integers(0, 3, rng.integers(1, 8))]
        before = three(items, (0.7, 0.15, 0.15), seed)
        after = three([*items, (0, "new"), (1, "new"), (1, "new")], (0.7, 0.15, 0.15), seed)
        moved.append(sum(before[group] != after[group] for group in before))
    assert np.mean(moved) < 8


@pytest.mark.parametrize(
    "fractions",
    [(0, 0.5, 0.5), (0.5, 0.1, 0.1), (0.7, 0.3, 0.3), (1.2, -0.1, -0.1), (float("nan"), 0.1, 0.1)],
    ids=str,
)
def test_fractions_that_are_no_shares_are_a_config_error(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError, match="sum to 1"):
        split_three([0, 1], ["a", "b"], fractions=fractions, seed=0)


def test_three_sides_need_a_group_for_each_label() -> None:
    with pytest.raises(ConfigError, match="2 labels and 1 groups"):
        split_three([0, 1], ["a"], seed=0)


def test_a_fraction_of_nothing_leaves_its_side_empty() -> None:
    found = split_three([0] * 10, [str(i) for i in range(10)], fractions=(1, 0, 0), seed=0)
    assert [len(found[name]) for name in ("train", "val", "test")] == [10, 0, 0]
