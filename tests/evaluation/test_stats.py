import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr

from ganaug.errors import ConfigError, DataError
from ganaug.evaluation.stats import PairedDifference, class_recalls, paired_difference, verdict


def simulate(
    rng: np.random.Generator,
    seeds: int,
    sizes: list[int],
    *,
    level: float = 1.5,
    gain: float = 0.0,
    seed_sd: float = 0.15,
    class_sd: float = 0.3,
    image_sd: float = 0.8,
    image_arm_sd: float = 0.3,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Draw two arms' correctness from a crossed probit model; return them, the labels and the true
    difference.

    Difficulty of an image is shared by the arms; each arm also has its own seed, seed × class, image and
    residual effects. The truth is the difference over all seeds and all images, in points.
    """
    labels = np.repeat(np.arange(len(sizes)), sizes)
    difficulty = image_sd * rng.normal(size=len(labels))
    arms, truths = [], []
    for mean in (level + gain, level):
        by_seed = seed_sd * rng.normal(size=(seeds, 1))
        by_class = class_sd * rng.normal(size=(seeds, len(sizes)))[:, labels]
        by_image = image_arm_sd * rng.normal(size=len(labels))
        noise = rng.normal(size=(seeds, len(labels)))
        arms.append(mean + by_seed + by_class + difficulty + by_image + noise > 0)
        total = 1 + seed_sd**2 + class_sd**2 + image_sd**2 + image_arm_sd**2
        truths.append(ndtr(mean / np.sqrt(total)))
    return arms[0], arms[1], labels, float(100 * (truths[0] - truths[1]))


def coverage(seed: int, repeats: int, seeds: int, sizes: list[int], **model: float) -> tuple[float, float]:
    """Return the shares of intervals that hold the truth, and that lie wholly above it."""
    rng = np.random.default_rng(seed)
    held = above = 0
    for _ in range(repeats):
        treatment, baseline, labels, truth = simulate(rng, seeds, sizes, **model)
        diff = paired_difference(treatment, baseline, labels)
        held += diff.low <= truth <= diff.high
        above += diff.low > truth
    return held / repeats, above / repeats


SCENARIOS = [
    pytest.param([30] * 10, {"level": 2.2}, id="ten-classes"),
    pytest.param([150] * 2, {"level": 1.2, "gain": 0.1}, id="two-classes-with-a-gain"),
    pytest.param([200, 70, 20, 10], {"level": 1.5, "gain": 0.15}, id="rare-test-classes"),
    pytest.param([150] * 2, {"level": 0.8, "seed_sd": 0.6}, id="luck-of-the-seed"),
    pytest.param(
        [150] * 2,
        {"level": 0.8, "seed_sd": 0.02, "class_sd": 0.02, "image_arm_sd": 1.2},
        id="luck-of-the-images",
    ),
]


@pytest.mark.parametrize(("sizes", "model"), SCENARIOS[-2:])
def test_interval_covers_the_truth_when_either_source_of_luck_dominates(
    sizes: list[int], model: dict[str, float]
) -> None:
    # 500 repeats: the standard error is 1 point, so an interval of seeds or of images alone fails by far.
    held, above = coverage(0, 500, 6, sizes, **model)
    assert 0.93 <= held <= 0.985
    assert above <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [5, 6, 10])
@pytest.mark.parametrize(("sizes", "model"), SCENARIOS)
def test_interval_covers_the_truth_in_93_percent_or_more(sizes: list[int], model: dict[str, float], seeds: int) -> None:
    held, above = coverage(1, 3000, seeds, sizes, **model)
    assert held >= 0.93
    assert above <= 0.035


def test_no_effect_is_rarely_called_a_help() -> None:
    rng = np.random.default_rng(3)
    words = []
    for _ in range(300):
        treatment, baseline, labels, _ = simulate(rng, 6, [30] * 5)
        words.append(verdict(paired_difference(treatment, baseline, labels)).word)
    assert words.count("helps") <= 0.05 * len(words)


def clustered(
    rng: np.random.Generator,
    *,
    seeds: int = 6,
    patients: int = 40,
    images: int = 5,
    mixed: bool = False,
    generators: int | None = None,
    gain: float = 0.0,
    patient_arm_sd: float = 0.5,
    generator_sd: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str], list[int], float]:
    """Draw two arms' correctness on `images` of each of `patients`; return them, labels, groups, generators, truth.

    As `simulate`, with two classes; patients (the half of them in each class, or with `mixed` images in both) are of
    their own difficulty to each arm, and the first arm has the luck of its generator, seed s that of s modulo their
    number.
    """
    owner = np.repeat(np.arange(patients), images)
    labels = np.tile(np.arange(images) % 2, patients) if mixed else (owner >= patients // 2).astype(np.int64)
    numbers = [seed % (generators or seeds) for seed in range(seeds)]
    luck = generator_sd * rng.normal(size=generators or seeds)[numbers]
    shared = 0.6 * rng.normal(size=patients)[owner] + 0.5 * rng.normal(size=len(owner))
    arms, truths = [], []
    for mean, drawn in ((1.0 + gain, luck), (1.0, 0 * luck)):
        by_patient = patient_arm_sd * rng.normal(size=patients)[owner]
        by_seed = (drawn + 0.1 * rng.normal(size=seeds))[:, None]
        noise = rng.normal(size=(seeds, len(owner)))
        arms.append(mean + shared + by_patient + by_seed + noise > 0)
        total = 0.6**2 + 0.5**2 + patient_arm_sd**2 + 0.1**2 + 1 + (generator_sd**2 if drawn is luck else 0)
        truths.append(ndtr(mean / np.sqrt(total)))
    return arms[0], arms[1], labels, [f"p{k}" for k in owner], numbers, float(100 * (truths[0] - truths[1]))


def clustered_coverage(repeats: int, *, seed: int, **model: Any) -> tuple[float, float, float]:
    """Return the shares of intervals that hold the truth: with what is known of groups and generators, and without;
    and the share of the first that lie wholly above it."""
    rng = np.random.default_rng(seed)
    held = naive = above = 0
    for _ in range(repeats):
        treatment, baseline, labels, groups, numbers, truth = clustered(rng, **model)
        known = numbers if model.get("generators") else None
        diff = paired_difference(treatment, baseline, labels, groups=groups, generators=known)
        held += diff.low <= truth <= diff.high
        above += diff.low > truth
        other = paired_difference(
            treatment, baseline, labels, groups=groups if known else None
        )  # without the one thing that matters in this model
        naive += other.low <= truth <= other.high
    return held / repeats, naive / repeats, above / repeats


CLUSTERED = [
    pytest.param({}, id="patients"),
    pytest.param({"mixed": True, "images": 6}, id="patients-with-images-of-two-classes"),
    pytest.param({"patients": 24, "images": 8, "gain": 0.2}, id="few-patients-and-a-gain"),
    pytest.param(
        {"seeds": 10, "generators": 5, "generator_sd": 0.3, "patient_arm_sd": 0.2, "patients": 200, "images": 2},
        id="generators",
    ),
]


@pytest.mark.parametrize("model", CLUSTERED)
def test_interval_covers_the_truth_with_groups_and_generators_and_not_without(model: dict[str, Any]) -> None:
    held, naive, above = clustered_coverage(400, seed=0, **model)
    assert 0.925 <= held <= 0.99
    assert naive <= 0.88
    assert above <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("model", CLUSTERED)
def test_interval_with_groups_and_generators_covers_93_to_98_percent(model: dict[str, Any]) -> None:
    held, naive, above = clustered_coverage(3000, seed=1, **model)
    print(f"held {held:.3f}, without {naive:.3f}, above {above:.3f}")
    assert 0.93 <= held <= 0.985
    assert naive <= 0.88
    assert above <= 0.035


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"seeds": 10, "generators": 5, "generator_sd": 0.3},
        {"seeds": 10, "generators": 5, "patients": 12, "images": 3},
    ],
)
def test_no_effect_on_patients_and_generators_is_rarely_called_a_help(model: dict[str, Any]) -> None:
    rng = np.random.default_rng(4)
    helps = 0
    for _ in range(300):
        treatment, baseline, labels, groups, numbers, _ = clustered(rng, **model)
        known = numbers if "generators" in model else None
        found = paired_difference(treatment, baseline, labels, groups=groups, generators=known)
        helps += verdict(found).word == "helps"
    assert helps <= 0.05 * 300


def test_groups_of_one_image_and_a_generator_for_each_seed_change_nothing() -> None:
    treatment, baseline, labels, _ = simulate(np.random.default_rng(2), 6, [30, 50])
    plain = paired_difference(treatment, baseline, labels)
    names = [f"image {i}" for i in range(80)]
    named = paired_difference(treatment, baseline, labels, groups=names, generators=[3, 1, 2, 0, 5, 4])
    assert (named.mean, named.low, named.high) == pytest.approx((plain.mean, plain.low, plain.high))
    assert (plain.generators, named.generators) == (0, 6)
    assert plain.test_groups == named.test_groups == 80


def test_repeated_images_of_a_patient_add_no_certainty() -> None:
    treatment, baseline, labels, _ = simulate(np.random.default_rng(3), 6, [30, 30], image_arm_sd=1.0)
    names = [str(i) for i in range(60)]
    once = paired_difference(treatment, baseline, labels, groups=names)
    again = [np.repeat(array, 4, axis=-1) for array in (treatment, baseline, labels)]
    four = paired_difference(*again, groups=[name for name in names for _ in range(4)])
    assert (four.mean, four.low, four.high) == pytest.approx((once.mean, once.low, once.high))
    naive = paired_difference(*again)
    assert naive.high - naive.low < 0.9 * (four.high - four.low)


def test_a_generator_counts_once_however_many_seeds_it_has() -> None:
    rng = np.random.default_rng(5)
    treatment, baseline, labels, _ = simulate(rng, 6, [40, 40])
    each = paired_difference(treatment, baseline, labels, generators=range(6))
    rows = np.repeat(np.arange(6), [3, 1, 1, 1, 1, 1])
    again = paired_difference(treatment[rows], baseline[rows], labels, generators=rows.tolist())
    assert (again.mean, again.low, again.high) == pytest.approx((each.mean, each.low, each.high))


def test_groups_and_generators_that_do_not_fit_are_refused() -> None:
    hits, labels = np.ones((4, 4), dtype=bool), np.array([0, 0, 1, 1])
    with pytest.raises(ConfigError, match="3 groups were given for 4"):
        paired_difference(hits, hits, labels, groups=["a", "b", "c"])
    with pytest.raises(DataError, match=r"Class 1 has 1 test group \(patient\)"):
        paired_difference(hits, hits, labels, groups=["a", "b", "c", "c"])
    with pytest.raises(ConfigError, match="4 seeds of 1 generators"):
        paired_difference(hits, hits, labels, generators=[0, 0, 0, 0])
    with pytest.raises(ConfigError, match="one for each seed"):
        paired_difference(hits, hits, labels, generators=[0, 1])


def test_fewer_than_five_generators_give_no_verdict_and_the_sentence_names_them() -> None:
    few = replace(difference(9.0, 1.0, seeds=10), generators=4)
    assert verdict(few).word == "cannot tell"
    assert "4 generators are too few" in verdict(few).sentence
    enough = verdict(replace(few, generators=5))
    assert enough.word == "helps"
    assert "the luck of the generator (5 trained)" in enough.sentence
    assert "another generator" not in enough.sentence


def test_difference_is_the_difference_of_mean_recalls_in_points() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1])
    baseline = np.array([[1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 1]], dtype=bool)
    treatment = np.array([[1, 1, 1, 1, 0, 1], [1, 1, 1, 0, 1, 1]], dtype=bool)
    np.testing.assert_allclose(class_recalls(baseline, labels), [[0.75, 0.0], [0.5, 0.5]])
    diff = paired_difference(treatment, baseline, labels)
    np.testing.assert_allclose(diff.per_seed, [75 - 37.5, 87.5 - 50])
    assert diff.mean == pytest.approx(37.5)
    assert diff.low < diff.mean < diff.high
    assert diff.test_images == 6


def test_pairing_makes_the_interval_narrower_than_shuffled_pairs() -> None:
    rng = np.random.default_rng(0)
    treatment, baseline, labels, _ = simulate(rng, 6, [150, 150], image_sd=3.0, seed_sd=0.05, class_sd=0.05)
    shuffled = np.concatenate([rng.permutation(150), 150 + rng.permutation(150)])
    paired = paired_difference(treatment, baseline, labels)
    broken = paired_difference(treatment[:, shuffled], baseline, labels)
    assert broken.mean == pytest.approx(paired.mean)
    assert paired.high - paired.low < 0.7 * (broken.high - broken.low)


def test_order_of_seeds_images_and_arms_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    treatment, baseline, labels, _ = simulate(rng, 5, [40, 60])
    diff = paired_difference(treatment, baseline, labels)
    rows, columns = rng.permutation(5), rng.permutation(100)
    moved = paired_difference(treatment[rows][:, columns], baseline[rows][:, columns], labels[columns])
    assert (moved.mean, moved.low, moved.high) == pytest.approx((diff.mean, diff.low, diff.high))
    swapped = paired_difference(baseline, treatment, labels)
    assert (swapped.mean, swapped.low, swapped.high) == pytest.approx((-diff.mean, -diff.high, -diff.low))


def test_too_little_to_compare_is_refused() -> None:
    hits = np.ones((3, 4), dtype=bool)
    with pytest.raises(ConfigError, match="at least 2"):
        paired_difference(hits[:1], hits[:1], np.array([0, 0, 1, 1]))
    with pytest.raises(ConfigError, match="same seeds"):
        paired_difference(hits, hits[:2], np.array([0, 0, 1, 1]))
    with pytest.raises(DataError, match="Class 1 has 1 test image"):
        paired_difference(hits, hits, np.array([0, 0, 0, 1]))


def difference(mean: float, half: float, seeds: int = 6) -> PairedDifference:
    return PairedDifference(mean, mean - half, mean + half, (mean,) * seeds, 300)


@pytest.mark.parametrize(
    ("diff", "word", "says"),
    [
        (difference(2.0, 1.5), "helps", "+2.0 points"),
        (difference(0.2, 0.1), "helps", "below the 0.5 points"),
        (difference(-0.5, 0.8), "does not help", "0.5 points or more"),
        (difference(-3.0, 1.0), "does not help", "does harm"),
        (difference(2.0, 2.5), "cannot tell", "-0.5 to +4.5"),
        (difference(0.0, 0.0), "cannot tell", "never differed"),
        (difference(9.0, 1.0, seeds=4), "cannot tell", "4 seeds are too few"),
        (difference(9.0, 1.0, seeds=5), "helps", "5 seeds"),
    ],
)
def test_verdict_words(diff: PairedDifference, word: str, says: str) -> None:
    found = verdict(diff)
    assert found.word == word
    assert says in found.sentence


def test_smallest_gain_decides_between_no_help_and_no_knowledge() -> None:
    diff = difference(0.2, 1.0)
    assert verdict(diff, smallest_gain=0.5).word == "cannot tell"
    assert verdict(diff, smallest_gain=2.0).word == "does not help"


def test_sentence_says_what_the_interval_leaves_out() -> None:
    sentence = verdict(difference(2.0, 1.5)).sentence
    assert "300 test images" in sentence
    assert "does not cover another generator" in sentence


def test_difference_and_verdict_are_json_ready() -> None:
    diff = difference(2.0, 1.5)
    assert json.loads(json.dumps(diff.to_dict()))["per_seed"] == [2.0] * 6
    assert json.loads(json.dumps(verdict(diff).to_dict()))["word"] == "helps"
