import numpy as np
import pytest

from ganaug.evaluation.scores import MEASURES, calibration_error, score, sensitivity_at


def two_columns(second: list[float]) -> np.ndarray:
    """Return the N×2 probabilities of a classifier that gives class 1 those of `second`."""
    return np.stack([1 - np.array(second), np.array(second)], axis=1)


def test_hand_computed_measures_of_two_classes() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1])
    found = score(two_columns([0.1, 0.2, 0.3, 0.6, 0.4, 0.9]), labels, specificity=0.75)
    assert list(found) == list(MEASURES)
    assert found["balanced_accuracy"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    # Of the 8 pairs of a positive and a negative one, .4 against .6, is the wrong way round.
    assert found["auroc"] == pytest.approx(7 / 8)
    # Class 1 by falling score is + - + - - -; class 0 by its own is + + + - + -.
    precision = [(1 / 1 + 2 / 3) / 2, (1 + 1 + 1 + 4 / 5) / 4]
    assert found["auprc"] == pytest.approx(np.mean(precision))
    # Class 1 may have one false positive of 4 (threshold .4: both found); class 0 none of 2 (threshold .7: 3 of 4).
    assert found["sensitivity"] == pytest.approx((1.0 + 3 / 4) / 2)


def test_only_the_rare_classes_count_where_some_are_named() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1])
    probabilities = two_columns([0.1, 0.2, 0.3, 0.6, 0.4, 0.9])
    everything, rare = (score(probabilities, labels, rare=rare, specificity=0.75) for rare in ([], [1]))
    assert rare["sensitivity"] == 1.0
    assert rare["auprc"] == pytest.approx((1 + 2 / 3) / 2)
    for name in ("balanced_accuracy", "auroc", "ece"):
        assert rare[name] == everything[name]


def test_three_classes_are_each_held_against_all_others() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    probabilities = np.eye(3)[[0, 1, 1, 1, 2, 0]] * 0.7 + 0.1
    found = score(probabilities, labels)
    assert found["balanced_accuracy"] == pytest.approx((1 / 2 + 1 + 1 / 2) / 3)
    # Of the 8 pairs of each class: 0 wins 3 + 3 (one half for each tie) and loses 1; and so on.
    assert found["auroc"] == pytest.approx(np.mean([(3 + 1 / 2 + 3 / 2) / 8, (6 + 2 / 2) / 8, (4 + 4 / 2) / 8]))


@pytest.mark.parametrize(
    ("specificity", "wanted"),
    [(0.0, 1.0), (0.5, 0.75), (0.6, 0.25), (0.75, 0.25), (0.9, 0.0)],
)
def test_tied_scores_are_accepted_together_or_not_at_all(specificity: float, wanted: float) -> None:
    # The threshold .5 takes 2 positives and a negative at once: specificity .5 after it, .75 before.
    scores = np.array([0.9, 0.5, 0.5, 0.1, 0.95, 0.5, 0.2, 0.02])
    positive = np.array([1, 1, 1, 1, 0, 0, 0, 0], dtype=bool)
    assert sensitivity_at(scores, positive, specificity) == wanted


def test_a_specificity_that_is_met_exactly_is_met() -> None:
    # 1 - .9 is .09999999999999998, a little less than the 1 false positive of 10.
    scores = np.concatenate([[0.8], np.linspace(0, 0.1, 9), [0.7, 0.6]])
    positive = np.arange(12) >= 10
    assert sensitivity_at(scores, positive, 0.9) == 1.0


def drawn(confidence: np.ndarray, accuracy: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities of the given confidences, and labels by which they are right with the given chances."""
    labels = (np.random.default_rng(seed).random(len(confidence)) >= accuracy).astype(np.int64)
    return np.stack([confidence, 1 - confidence], axis=1), labels


def test_calibration_error_is_nearly_0_for_a_calibrated_classifier_and_the_gap_for_an_overconfident_one() -> None:
    confidence = np.random.default_rng(1).uniform(0.5, 1, 40_000)
    assert calibration_error(*drawn(confidence, confidence)) < 0.012
    assert calibration_error(*drawn(confidence, confidence - 0.2)) == pytest.approx(0.2, abs=0.012)
    sure = np.full(1000, 1.0)
    assert calibration_error(*drawn(sure, sure)) == 0.0


def test_calibration_error_by_hand() -> None:
    # Bins of 1/15: .62 and .65 share one (mean .635, half are right), 1.0 is in the last.
    probabilities = two_columns([0.62, 0.65, 1.0])
    assert calibration_error(probabilities, np.array([1, 0, 1])) == pytest.approx(2 / 3 * abs(0.5 - 0.635))
