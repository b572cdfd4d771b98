import json

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
