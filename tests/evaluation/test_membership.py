import json
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ganaug.errors import ConfigError, LeakError
from ganaug.evaluation import membership as room
from ganaug.evaluation.compared import Compared
from ganaug.evaluation.membership import Membership
from ganaug.evaluation.memorization import MIN_HELD_OUT
from ganaug.evaluation.three_sets import FALSE_ALARM_RATE


def waves(rng: np.random.Generator, n: int, size: int = 12) -> np.ndarray:
    """Draw n images of three plane waves each, of random direction, length and phase, with a little noise."""
    y, x = np.mgrid[:size, :size] / size
    images = 0.02 * rng.normal(size=(n, size, size))
    for _ in range(3):
        across, down = rng.uniform(-1.5, 1.5, (2, n, 1, 1))
        images += 0.3 * np.sin(2 * np.pi * (across * x + down * y + rng.uniform(size=(n, 1, 1))))
    return images[:, None].astype(np.float32)


def three_sets(seed: int, *counts: int) -> list[np.ndarray]:
    return np.split(waves(np.random.default_rng(seed), sum(counts)), np.cumsum(counts)[:-1])


def membership(*sets: np.ndarray, false_alarm_rate: float = FALSE_ALARM_RATE, **options: Any) -> Membership:
    return room.membership(Compared.of(*sets, **options), false_alarm_rate=false_alarm_rate)


def attack(found: Membership, space: str, name: str) -> room.Attack:
    return next(one for one in found.attacks if (one.space, one.attack) == (space, name))


@pytest.mark.parametrize("seed", range(5))
def test_copies_give_the_members_away_and_images_of_others_do_not(seed: int) -> None:
    fresh, training, held_out = three_sets(seed, 150, 200, 120)
    noise = 0.05 * np.random.default_rng(seed).normal(size=training.shape)
    copied, honest = membership(training + noise, training, held_out), membership(fresh, training, held_out)
    assert copied.word == "alarm"
    assert honest.word == "no alarm"
    for one in copied.attacks:
        assert one.auc.low > 0.8
        assert one.control.low < 0.5 < one.control.high or one.control_p > 0.001
    for one in honest.attacks:
        assert abs(one.auc.value - 0.5) < 0.12
        assert one.auc.low < one.auc.value < one.auc.high


def test_a_few_members_that_are_surely_told_raise_the_alarm() -> None:
    fresh, training, held_out = three_sets(7, 200, 300, 200)
    fresh[:30] = training[:30]
    found = membership(fresh, training, held_out)
    assert found.word == "alarm"
    nearest = attack(found, "pixels", "nearest")
    assert nearest.auc.value < 0.65
    at_one, at_five = nearest.hits
    assert at_one.tpr.low < 0.1 <= at_one.tpr.value < 0.15
    assert (at_one.rate, at_one.false_positives, at_one.non_members) == (0.01, 2, 200)
    assert at_one.fpr.low < 0.01 < at_one.fpr.high
    assert at_five.tpr.value >= at_one.tpr.value
    assert "at 1 % false positives it finds" in str(found)


def test_the_auc_is_that_of_all_pairs_and_its_interval_that_of_delong() -> None:
    rng = np.random.default_rng(0)
    members, others = rng.normal(0.5, 1, 80).round(1), rng.normal(0, 1, 50).round(1)
    codes = np.arange(80), 80 + np.arange(50)
    interval, p = room._auc([room._Fold(members, others, np.arange(50))], codes)
    expected = roc_auc_score(np.repeat([1, 0], [80, 50]), np.concatenate([members, others]))
    assert interval.value == pytest.approx(expected)
    wins = (members[:, None] > others) + 0.5 * (members[:, None] == others)
    variance = wins.mean(axis=1).var(ddof=1) / 80 + wins.mean(axis=0).var(ddof=1) / 50
    logit = np.log(expected / (1 - expected)) - 1.96 * np.sqrt(variance) / (expected * (1 - expected))
    assert interval.low == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-4)
    assert 0 < p < 0.01


def test_the_interval_holds_the_auc_as_often_as_stated_also_when_images_of_a_patient_are_alike() -> None:
    rng = np.random.default_rng(1)
    held = {"alone": 0, "grouped": 0}
    truth = 0.714  # of two normal scores that lie 0.8 standard deviations apart
    for _ in range(300):
        for kind, per in (("alone", 1), ("grouped", 4)):
            sides = [np.repeat(rng.normal(mean, 0.8, 50), per) + rng.normal(0, 0.6, 50 * per) for mean in (0.8, 0.0)]
            codes = np.arange(50).repeat(per), 50 + np.arange(50).repeat(per)
            fold = room._Fold(sides[0], sides[1], np.arange(len(sides[1])))
            interval, _ = room._auc([fold], codes)
            held[kind] += interval.low <= truth <= interval.high
    assert all(0.92 <= hits / 300 <= 0.985 for hits in held.values()), held


def test_patients_who_look_alike_widen_the_intervals() -> None:
    fresh, people, others = three_sets(3, 150, 60, 60)
    noise = np.random.default_rng(0).normal(size=(480, 1, 12, 12)).astype(np.float32) * 0.05
    training, held_out = np.repeat(people, 4, axis=0) + noise[:240], np.repeat(others, 4, axis=0) + noise[240:]
    groups = [f"a{i // 4}" for i in range(240)], [f"b{i // 4}" for i in range(240)]
    alone, grouped = membership(fresh, training, held_out), membership(fresh, training, held_out, groups=groups)
    widths = [found.attacks[0].auc.high - found.attacks[0].auc.low for found in (alone, grouped)]
    assert widths[1] > 1.5 * widths[0]
    assert grouped.units == (60, 60)
    assert grouped.word == "no alarm"
    tprs = [found.attacks[0].hits[1].tpr for found in (alone, grouped)]
    assert tprs[1].high - tprs[1].low > tprs[0].high - tprs[0].low


def test_held_out_images_of_another_kind_are_seen_by_the_control() -> None:
    fresh, training, held_out = three_sets(4, 150, 200, 120)
    found = membership(fresh, training, 0.5 * held_out)
    assert found.word == "cannot tell"
    assert "differ" in found.sentence
    assert min(one.control_p for one in found.attacks) < 1e-6


def test_other_shares_of_the_classes_are_no_sign_of_membership() -> None:
    rng = np.random.default_rng(0)
    images = waves(rng, 700)
    labels = rng.integers(0, 2, 700)
    images[labels == 1] *= 0.4  # the classes differ in how near their images come to anything
    held = rng.random(700) < np.where(labels == 1, 0.5, 0.15)
    fresh, real = np.flatnonzero(~held)[:200], np.flatnonzero(~held)[200:]
    sets = images[fresh], images[real], images[held]
    blind = membership(*sets)
    told = membership(*sets, labels=(labels[fresh], labels[real], labels[held]))
    assert abs(attack(blind, "pixels", "nearest").auc.value - 0.5) > 0.1
    assert abs(attack(told, "pixels", "nearest").auc.value - 0.5) < 0.08
    assert told.word == "no alarm"


def test_features_are_a_space_of_their_own() -> None:
    fresh, training, held_out = three_sets(5, 100, 150, 100)
    features = [images.reshape(len(images), -1) for images in (fresh, training, held_out)]
    features[0] = features[1][:100]
    found = membership(fresh, training, held_out, features=features)
    assert {one.space for one in found.attacks} == {"pixels", "aligned", "features"}
    assert attack(found, "features", "nearest").auc.low > 0.6 > attack(found, "pixels", "nearest").auc.value


def test_with_few_held_out_images_nothing_is_said_and_low_rates_want_enough_of_them() -> None:
    fresh, training, held_out = three_sets(6, 100, 100, 80)
    few = membership(fresh, training, held_out[:20])
    assert few.word == "cannot tell"
    assert not few.attacks
    assert f"20 held-out images were given, at least {MIN_HELD_OUT}" in str(few)
    enough = membership(fresh, training, held_out)
    assert [hit.rate for hit in attack(enough, "pixels", "nearest").hits] == [0.05]


def test_no_image_stands_in_reference_bank_and_non_members_at_once() -> None:
    codes = np.arange(103) // 3
    quarters = room._quarters(codes, np.random.default_rng(0))
    assert sorted(np.concatenate(quarters).tolist()) == list(range(103))
    patients = [set(codes[part]) for part in quarters]
    assert sum(map(len, patients)) == len(set.union(*patients))


def test_the_result_is_json_and_the_same_again() -> None:
    sets = three_sets(8, 80, 100, 100)
    found = membership(*sets).to_dict()
    assert json.loads(json.dumps(found)) == found
    assert membership(*sets).to_dict() == found


def test_what_does_not_fit_is_refused() -> None:
    fresh, training, held_out = three_sets(9, 60, 60, 60)
    names = [f"p{i}" for i in range(60)]
    with pytest.raises(LeakError, match="Hold out whole patients"):
        membership(fresh, training, held_out, groups=(names, names))
    with pytest.raises(ConfigError, match="false-alarm rate"):
        membership(fresh, training, held_out, false_alarm_rate=1)


@pytest.mark.slow
def test_real_images_as_synthetic_ones_alarm_no_more_often_than_stated() -> None:
    words = [membership(*three_sets(100 + seed, 150, 200, 80), false_alarm_rate=0.05).word for seed in range(150)]
    assert words.count("alarm") <= 15
    assert words.count("cannot tell") <= 2
