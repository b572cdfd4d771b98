import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ganaug.errors import ConfigError, DataError, LeakError
from ganaug.evaluation import memorization as room
from ganaug.evaluation.compared import Compared
from ganaug.evaluation.copy_figures import SpaceResult
from ganaug.evaluation.memorization import MIN_HELD_OUT, Memorization
from ganaug.evaluation.three_sets import FALSE_ALARM_RATE, SYNTHETIC, TRAINING
from tests.evaluation.drawn import DIGITS, SOURCES, blobs, noisy, three_sets


def memorization(*sets: np.ndarray, false_alarm_rate: float = FALSE_ALARM_RATE, **options: Any) -> Memorization:
    return room.memorization(Compared.of(*sets, **options), false_alarm_rate=false_alarm_rate)


def shifted(rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    return np.stack([np.roll(image, steps[rng.integers(4)], (1, 2)) for image in images])


def mirrored(rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
    return images[..., ::-1].copy()


def brighter(rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
    gain, offset = rng.uniform(0.7, 0.9, (len(images), 1, 1, 1)), rng.uniform(-0.05, 0.1, (len(images), 1, 1, 1))
    return (gain * images + offset).clip(-1, 1).astype(np.float32)


def exact(rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
    return images.copy()


Change = Callable[[np.random.Generator, np.ndarray], np.ndarray]
CHANGES = [exact, noisy, shifted, mirrored, brighter]


def aligned(found: Memorization) -> SpaceResult:
    return next(result for result in found.spaces if result.space == "aligned")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("source", SOURCES)
def test_a_copied_training_set_is_called_so_and_a_held_out_real_set_is_not(source: str, seed: int) -> None:
    rng, (fresh, training, held_out) = three_sets(source, seed, 150, 200, 80)
    copies = CHANGES[seed % len(CHANGES)](rng, training[rng.integers(0, 200, 150)])
    assert memorization(copies, training, held_out).word == "alarm"
    assert memorization(fresh, training, held_out).word == "no alarm"


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("source", SOURCES)
def test_copies_among_a_few_percent_of_the_sample_are_found_and_listed(source: str, change: Change) -> None:
    rng, (synthetic, training, held_out) = three_sets(source, 3, 500, 500, 200)
    synthetic[40:65] = change(rng, training[:25])
    found = memorization(synthetic, training, held_out)
    assert found.word == "alarm"
    listed = set(aligned(found).near_copies)
    assert len(listed & set(range(40, 65))) >= 20
    assert len(listed - set(range(40, 65))) <= 3


@pytest.mark.parametrize("seed", range(6))
def test_images_that_occur_twice_in_the_data_are_no_sign_of_copying(seed: int) -> None:
    """Twins land on the training side by chance, and none by chance on the held-out side."""
    rng = np.random.default_rng(seed)
    drawn = blobs(rng, 900)
    drawn[rng.permutation(900)[:36]] = drawn[rng.permutation(900)[:36]]
    synthetic, training, held_out = np.split(drawn, (300, 750))
    found = memorization(synthetic, training, held_out)
    assert found.word == "no alarm", found.sentence
    copied = memorization(exact(rng, training[:60]), training, held_out)
    assert copied.word == "alarm"


@pytest.mark.parametrize("seed", range(3))
def test_a_generator_that_copies_nothing_is_not_blamed_for_being_blurred_or_collapsed(seed: int) -> None:
    rng, (fresh, training, held_out) = three_sets("blobs", seed, 200, 300, 100)
    blurred = memorization(gaussian_filter(fresh, (0, 0, 1.5, 1.5)), training, held_out)
    assert blurred.word == "no alarm"
    # The usual figure falls for it: everything is nearer to a blurred image.
    assert blurred.spaces[0].c_t is not None
    assert blurred.spaces[0].c_t < -2
    collapsed = noisy(rng, fresh[rng.integers(0, 3, 200)])
    assert memorization(collapsed, training, held_out).word == "no alarm"


def test_the_figures_of_papers_stand_beside_their_control() -> None:
    rng, (fresh, training, held_out) = three_sets("blobs", 0, 200, 200, 200)
    honest, copied = memorization(fresh, training, held_out), memorization(noisy(rng, training), training, held_out)
    for result in honest.spaces:
        assert result.c_t is not None
        assert abs(result.c_t) < 3
        assert abs(result.auth_pct - result.auth_pct_held_out) < 20
        assert 0.4 < result.auc < 0.6
    for result in copied.spaces:
        assert result.c_t is not None
        assert result.c_t < -5
        assert result.auth_pct < 5 < 30 < result.auth_pct_held_out
        assert result.auc > 0.95


def test_images_between_two_training_images_are_reported() -> None:
    rng, (fresh, training, held_out) = three_sets("digits", 1, 200, 500, 200)
    first, second = rng.permutation(500)[:400].reshape(2, 200)
    weight = rng.uniform(0.3, 0.7, (200, 1, 1, 1)).astype(np.float32)
    mixed = memorization(weight * training[first] + (1 - weight) * training[second], training, held_out).spaces[0]
    honest = memorization(fresh, training, held_out).spaces[0]
    assert mixed.between > 30
    assert honest.between < 10


def test_the_closest_pairs_name_both_images_and_whether_their_labels_agree() -> None:
    rng, (synthetic, training, held_out) = three_sets("blobs", 5, 100, 200, 100)
    synthetic[[7, 30]] = noisy(rng, training[[150, 9]], 0.01)
    labels = (np.zeros(100, int), np.arange(200) % 2, np.arange(100) % 2)
    found = memorization(synthetic, training, held_out, labels=(list(labels[0]), list(labels[1]), list(labels[2])))
    for result in found.spaces:
        assert {(pair.synthetic, pair.training) for pair in result.closest[:2]} == {(7, 150), (30, 9)}
        assert {pair.training: pair.same_label for pair in result.closest[:2]} == {150: True, 9: False}
        assert result.closest[0].percentile == 0
        assert len(result.closest) == 20
        ratios = [pair.ratio for pair in result.closest]
        assert ratios == sorted(ratios)


def test_with_few_held_out_images_nothing_is_said_but_how_many_are_wanted() -> None:
    _, (_, training, held_out) = three_sets("blobs", 0, 10, 100, 20)
    found = memorization(training, training, held_out)
    assert found.word == "cannot tell"
    assert not found.evidence
    assert "20 held-out images" in str(found)
    assert f"at least {MIN_HELD_OUT}" in str(found)
    assert "100 synthetic images are exact copies" in str(found)


def test_patients_count_and_not_their_images() -> None:
    _, (_, training, held_out) = three_sets("blobs", 0, 10, 100, 100)
    patients = [f"a{i}" for i in range(100)], [f"b{i % 10}" for i in range(100)]
    found = memorization(training, training, held_out, groups=patients)
    assert found.word == "cannot tell"
    assert "10 held-out patients" in found.sentence


def test_images_of_one_patient_are_no_measure_of_how_near_a_copy_is() -> None:
    rng = np.random.default_rng(0)
    people, fresh = np.split(blobs(rng, 210), [180])
    visits = noisy(rng, np.repeat(people, 3, axis=0), 0.03)
    names = [f"p{i // 3}" for i in range(540)]
    training, held_out = visits[:360], visits[360:]
    groups = names[:360], names[360:]
    assert memorization(fresh, training, held_out, groups=groups).word == "no alarm"
    copies = np.concatenate([fresh, noisy(rng, training[::36], 0.06)])  # farther than the visits of one patient
    found = memorization(copies, training, held_out, groups=groups)
    assert found.word == "alarm"
    assert found.units == (120, 60)
    assert len(set(aligned(found).near_copies) & set(range(30, 40))) >= 8
    assert aligned(found).closest[0].ratio < 0.7


def test_held_out_images_of_another_kind_prove_nothing() -> None:
    _, (fresh, training, held_out) = three_sets("blobs", 0, 150, 200, 100)
    elsewhere = gaussian_filter(held_out, (0, 0, 1, 1)) * 0.8
    found = memorization(fresh, training, elsewhere)
    assert found.word == "cannot tell"
    assert "differ" in found.sentence
    assert memorization(training, training, elsewhere).word == "alarm"  # equal pixel by pixel


def test_other_shares_of_the_classes_raise_no_alarm() -> None:
    rng = np.random.default_rng(0)
    order = rng.permutation(len(DIGITS.target))[:900]
    labels = DIGITS.target[order]
    images = (DIGITS.images[order] / 8 - 1)[:, None].astype(np.float32)
    held = rng.random(900) < np.where(labels % 2 == 1, 0.12, 0.5)
    fresh, real = np.flatnonzero(~held)[:200], np.flatnonzero(~held)[200:]
    found = memorization(images[fresh], images[real], images[held], labels=(labels[fresh], labels[real], labels[held]))
    assert found.word == "no alarm"


def test_features_are_a_space_of_their_own() -> None:
    _, (fresh, training, held_out) = three_sets("digits", 0, 150, 200, 100)
    turn = np.random.default_rng(1).normal(size=(64, 150))
    given = [np.maximum(images.reshape(len(images), -1) @ turn, 0) for images in (fresh, training, held_out)]
    given[SYNTHETIC][:40] = given[TRAINING][:40]  # copies that only the features show
    found = memorization(fresh, training, held_out, features=given)
    assert [result.space for result in found.spaces] == ["pixels", "aligned", "features"]
    assert found.word == "alarm"
    assert {one.space for one in found.evidence if one.alarms} == {"features"}


def test_a_feature_network_is_called_with_tensors() -> None:
    _, sets = three_sets("digits", 0, 60, 60, 60)
    found = memorization(*sets, features=lambda images: images.flatten(1).numpy())
    assert found.spaces[-1].space == "features"


def test_volumes_are_compared_too() -> None:
    rng = np.random.default_rng(0)
    volumes = gaussian_filter(rng.normal(size=(220, 1, 10, 12, 14)), (0, 0, 2, 2, 2)).astype(np.float32) * 5
    fresh, training, held_out = np.split(volumes, [60, 160])
    assert memorization(fresh, training, held_out).word == "no alarm"
    assert memorization(np.roll(training, 1, axis=3), training, held_out).word == "alarm"


def test_the_result_is_json_and_the_same_again() -> None:
    _, sets = three_sets("blobs", 0, 80, 100, 60)
    sets[SYNTHETIC][:10] = sets[TRAINING][:10]
    found = memorization(*sets).to_dict()
    assert json.loads(json.dumps(found)) == found
    assert memorization(*sets).to_dict() == found


def test_what_does_not_fit_is_refused_with_advice() -> None:
    _, (fresh, training, held_out) = three_sets("blobs", 0, 60, 60, 60)
    names = [f"p{i}" for i in range(60)]
    with pytest.raises(LeakError, match="60 patients stand among both"):
        memorization(fresh, training, held_out, groups=(names, names))
    with pytest.raises(DataError, match="one size"):
        memorization(fresh[..., :-1], training, held_out)
    with pytest.raises(DataError, match="No held-out images"):
        memorization(fresh, training, held_out[:0])
    with pytest.raises(DataError, match="not finite"):
        memorization(fresh * np.nan, training, held_out)
    with pytest.raises(DataError, match="Labels of 60, 60, 3"):
        memorization(fresh, training, held_out, labels=([0] * 60, [0] * 60, [0] * 3))
    with pytest.raises(DataError, match="Groups of 60 training and 2 held-out"):
        memorization(fresh, training, held_out, groups=(names, ["a", "b"]))
    with pytest.raises(ConfigError, match="false-alarm rate of 0"):
        memorization(fresh, training, held_out, false_alarm_rate=0)
    with pytest.raises(ConfigError, match="Features of shape"):
        memorization(fresh, training, held_out, features=[np.zeros((60, 3))] * 2)


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_real_images_as_synthetic_ones_alarm_no_more_often_than_stated(source: str) -> None:
    words = []
    for seed in range(100):
        _, sets = three_sets(source, 1000 + seed, 200, 250, 80)
        words.append(memorization(*sets, false_alarm_rate=0.05).word)
    # 5 % of 100 and three standard deviations; "cannot tell" stands for a split found uneven by chance.
    assert words.count("alarm") <= 11
    assert words.count("cannot tell") <= 2
