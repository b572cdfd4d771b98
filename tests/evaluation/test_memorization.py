import json
from collections.abc import Callable

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import hypergeom
from sklearn.datasets import load_digits

from ganaug.errors import ConfigError, DataError, LeakError
from ganaug.evaluation.copy_figures import SpaceResult
from ganaug.evaluation.exchangeability import outliers_p, runs_p
from ganaug.evaluation.memorization import MIN_HELD_OUT, Memorization, memorization
from ganaug.evaluation.spaces import image_spaces
from ganaug.evaluation.three_sets import SYNTHETIC, TRAINING, image_sets

DIGITS = load_digits()


def blobs(rng: np.random.Generator, n: int, size: int = 20) -> np.ndarray:
    """Draw n images of two ellipses each, of random place, size, turn and brightness, with a little noise."""
    y, x = np.mgrid[:size, :size] / (size - 1) * 2 - 1
    images = np.full((n, size, size), -0.8)
    for side, radius in ((-0.3, 1.0), (0.4, 0.7)):
        across, down = rng.uniform(-0.35, 0.35, (2, n, 1, 1))
        a = radius * rng.uniform(0.15, 0.5, (n, 1, 1))
        b = a * rng.uniform(0.5, 1, (n, 1, 1))
        turn = rng.uniform(0, np.pi, (n, 1, 1))
        u = (x - across - side) * np.cos(turn) + (y - down) * np.sin(turn)
        v = (y - down) * np.cos(turn) - (x - across - side) * np.sin(turn)
        edge = np.minimum(8 * ((u / a) ** 2 + (v / b) ** 2 - 1), 50)
        images += rng.uniform(0.4, 1.2, (n, 1, 1)) / (1 + np.exp(edge))
    images += 0.02 * rng.normal(size=images.shape)
    return images.clip(-1, 1)[:, None].astype(np.float32)


def digits(rng: np.random.Generator, n: int) -> np.ndarray:
    """Draw n different real digits of 8×8 pixels; some of them nearly coincide."""
    return (DIGITS.images[rng.permutation(len(DIGITS.images))[:n]] / 8 - 1)[:, None].astype(np.float32)


SOURCES = {"blobs": blobs, "digits": digits}


def three_sets(source: str, seed: int, *counts: int) -> tuple[np.random.Generator, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    return rng, np.split(SOURCES[source](rng, sum(counts)), np.cumsum(counts)[:-1])


def noisy(rng: np.random.Generator, images: np.ndarray, sd: float = 0.05) -> np.ndarray:
    return (images + sd * rng.normal(size=images.shape)).clip(-1, 1).astype(np.float32)


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


def test_duplicates_are_counted_against_held_out_images_within_the_sample_and_across_classes() -> None:
    _, (synthetic, training, held_out) = three_sets("blobs", 2, 100, 100, 60)
    synthetic[0], synthetic[1] = training[4], training[5]
    synthetic[11] = synthetic[10]
    synthetic[21] = 0.9 * synthetic[20]
    held_out[3] = training[6]
    synthetic[50] = training[50] = held_out[50] = 0.25
    labels = [0] * 100
    labels[1] = labels[21] = 1
    found = memorization(synthetic, training, held_out, labels=(labels, [0] * 100, [0] * 60)).duplicates
    assert set(found.exact) == {(0, 4), (1, 5)}
    assert found.exact_held_out == 1
    assert found.within == ((10, 11),)
    assert {10, 11} < {at for places in found.within_near for at in places}
    assert any({20, 21} <= set(places) for places in found.within_near)
    assert found.near >= 2
    assert found.near_held_out >= 1
    assert found.near_across_classes is not None
    assert found.near_across_classes >= 1
    assert found.within_across_classes is not None
    assert found.within_across_classes >= 1


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


def test_the_aligned_distance_is_that_of_the_best_mirroring_and_shift() -> None:
    _, (fresh, training, held_out) = three_sets("blobs", 0, 60, 60, 10)
    fresh[:30] = np.roll(training[:30], 1, axis=2)[..., ::-1]
    space = image_spaces(image_sets(fresh, training, held_out))[1]
    nearest, distance = space.nearest(SYNTHETIC, TRAINING)
    assert nearest[:30, 0].tolist() == list(range(30))
    assert distance[:30].max() < 1e-3 < distance[30:].min()


def test_nearest_is_that_of_all_pairs_without_those_of_one_patient() -> None:
    _, sets = three_sets("digits", 0, 20, 50, 15)
    space = image_spaces(image_sets(*sets))[0]
    codes = np.arange(50) // 5
    nearest, distance = space.nearest(TRAINING, TRAINING, k=3, codes=(codes, codes))
    flat = sets[TRAINING].reshape(50, -1)
    pairs = np.linalg.norm(flat[:, None] - flat, axis=2)
    pairs[codes[:, None] == codes] = np.inf
    assert np.allclose(distance, np.sort(pairs, axis=1)[:, :3], atol=1e-5)
    assert np.allclose(np.take_along_axis(pairs, nearest, axis=1), distance, atol=1e-5)


def test_runs_p_is_exact() -> None:
    rng = np.random.default_rng(0)
    ps = np.array([runs_p(*np.split(rng.normal(size=60), [40])) for _ in range(400)])
    for level in (0.01, 0.05, 0.2):
        assert (ps <= level).mean() <= level + 3 * np.sqrt(level / 400)
    assert (ps <= 0.2).mean() > 0.1
    top = np.concatenate([np.full(40, 5.0), np.zeros(260)])
    p = runs_p(top, np.zeros(100) + 1)
    assert hypergeom.sf(39, 400, 300, 40) <= p < 10 * hypergeom.sf(39, 400, 300, 40)


def test_outliers_p_is_calibrated_on_an_exponential_tail_and_sees_a_single_outlier() -> None:
    rng = np.random.default_rng(0)
    ps = np.array([outliers_p(*np.split(rng.exponential(0.2, size=600), [500])) for _ in range(150)])
    for level in (0.01, 0.05):
        assert (ps <= level).mean() <= level + 3 * np.sqrt(level / 150)
    training, held_out = np.split(rng.exponential(0.2, size=600), [500])
    training[3] = 6.0
    assert outliers_p(training, held_out) < 0.01


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
