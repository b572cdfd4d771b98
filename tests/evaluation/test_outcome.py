"""The procedure as a whole, on simulated predictions: choice on validation images, verdict on test images."""

import json
from typing import Any

import numpy as np
import pytest

from ganaug.evaluation.arms import FOLDER_ARMS
from ganaug.evaluation.outcome import Part, StudyOutcome
from ganaug.evaluation.scores import MEASURES

BASELINES = ("as-is", "weights", "augmented", "logit", "mixup")
GENERATED = ("synthetic", "synthetic-third", "translated")


def simulated(
    rng: np.random.Generator,
    *,
    arms: tuple[str, ...] = (*BASELINES, *GENERATED),
    seeds: int = 10,
    generators: int = 5,
    val: int = 20,
    test: int = 75,
    gains: dict[str, float] | None = None,
    seed_sd: float = 0.2,
    class_sd: float = 0.3,
    generator_sd: float = 0.1,
    image_arm_sd: float = 0.3,
) -> StudyOutcome:
    """Draw the predictions of a study of two classes, with `val` and `test` images of each.

    Every arm has the same chance with every image but for its `gains`. What is luck: the image (the same for all arms),
    the image to the arm, the classifier's seed (the same on all parts: a lucky training is lucky on validation and on
    test images), its leaning to a class, and the generator, which arms of one source share.
    """
    numbers = np.arange(seeds) % generators
    luck = {arm: seed_sd * rng.normal(size=(seeds, 1)) for arm in arms}
    leaning = {arm: class_sd * rng.normal(size=(seeds, 1)) for arm in arms}
    by_source = {arm.source: generator_sd * rng.normal(size=(generators, 1)) for arm in FOLDER_ARMS.values()}
    parts = {}
    for name, each in (("val", val), ("test", test)):
        labels = np.repeat([0, 1], each)
        difficulty = 0.8 * rng.normal(size=len(labels))
        rows = {}
        for arm in arms:
            margin = 1.2 + (gains or {}).get(arm, 0.0) + difficulty + image_arm_sd * rng.normal(size=len(labels))
            margin = margin + luck[arm] + leaning[arm] * (2 * labels - 1) + rng.normal(size=(seeds, len(labels)))
            if FOLDER_ARMS[arm].generated:
                margin = margin + by_source[FOLDER_ARMS[arm].source][numbers]
            right = 1 / (1 + np.exp(-2 * margin))
            rows[arm] = np.where(np.arange(2) == labels[:, None], right[..., None], 1 - right[..., None])
        parts[name] = Part(labels, None, rows)
    return StudyOutcome(("rare", "common"), (20, 200), tuple(range(seeds)), tuple(numbers.tolist()), parts, {}, 0.5)


def words(repeats: int, *, seed: int, **model: Any) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(repeats):
        said = simulated(rng, **model).verdict()
        assert said is not None
        found.append(said["word"])
    return {word: found.count(word) / repeats for word in sorted(set(found))}


NO_EFFECT = [
    pytest.param({}, id="as-by-default"),
    pytest.param({"seed_sd": 0.5, "class_sd": 0.1, "image_arm_sd": 0.1, "generator_sd": 0.0}, id="luck-of-the-seed"),
    pytest.param({"seed_sd": 0.1, "generator_sd": 0.4, "image_arm_sd": 0.1}, id="luck-of-the-generator"),
    pytest.param({"seed_sd": 0.02, "class_sd": 0.02, "image_arm_sd": 0.8}, id="luck-of-the-images"),
]


@pytest.mark.parametrize("model", NO_EFFECT)
def test_images_without_information_are_rarely_said_to_be_of_use(model: dict[str, float]) -> None:
    assert words(60, seed=0, **model).get("use", 0.0) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("model", NO_EFFECT)
def test_images_without_information_are_said_to_be_of_use_in_5_percent_at_most(model: dict[str, float]) -> None:
    found = words(300, seed=1, **model)
    print(found)
    assert found.get("use", 0.0) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("model", NO_EFFECT)
def test_many_arms_with_generators_against_a_single_baseline_say_use_a_little_too_often(
    model: dict[str, float],
) -> None:
    # The classifiers that were lucky on validation images are lucky on test images too, and the best of five arms is
    # more lucky than the only baseline. With several baselines that could win, the luck of theirs weighs against it.
    arms = ("augmented", "synthetic", "synthetic-third", "filtered", "filtered-third", "translated")
    found = words(600, seed=2, arms=arms, **model)
    print(found)
    assert found.get("use", 0.0) <= 0.1


def test_a_gain_is_found() -> None:
    assert words(30, seed=0, gains={"translated": 0.7})["use"] >= 0.7


def test_harm_is_never_said_to_be_of_use() -> None:
    harm = dict.fromkeys(GENERATED, -0.7)
    found = words(30, seed=0, gains=harm)
    assert found.get("use", 0.0) == 0.0
    assert found["do not use"] >= 0.7


def test_a_gain_too_small_to_matter_is_not_called_use() -> None:
    outcome = simulated(np.random.default_rng(0), arms=("augmented", "synthetic"), gains={"synthetic": 1.5})
    said = outcome.verdict()
    assert said is not None
    assert said["word"] == "use"
    large = StudyOutcome(**{**vars_of(outcome), "smallest_gain": 60.0}).verdict()
    assert large is not None
    assert large["word"] == "do not use"


def test_it_is_not_called_use_where_another_way_without_generated_images_is_clearly_better() -> None:
    """Validation images that mislead: there the second best of the ways without generated images looks best."""
    outcome = simulated(
        np.random.default_rng(0),
        arms=("augmented", "logit", "synthetic"),
        gains={"logit": 2.5, "synthetic": 0.9},
        test=300,
    )
    val = outcome.parts["val"]
    misled = {**val.probabilities, "logit": 1 - val.probabilities["logit"]}
    parts = {**outcome.parts, "val": Part(val.labels, None, misled)}
    said = StudyOutcome(**{**vars_of(outcome), "parts": parts}).verdict()
    assert said is not None
    assert (said["treatment"], said["baseline"], said["word"]) == ("synthetic", "augmented", "cannot tell")
    assert said["difference"]["low"] > 0
    assert said["sentence"].startswith("Cannot tell. Training with '+ synthetic' helps here")
    assert "But 'logit adjustment', without generated images, had" in said["sentence"]
    # No more than the chosen baseline: nothing to hold against it.
    parts["test"] = Part(
        outcome.parts["test"].labels,
        None,
        {**outcome.parts["test"].probabilities, "logit": outcome.parts["test"].probabilities["augmented"]},
    )
    said = StudyOutcome(**{**vars_of(outcome), "parts": parts}).verdict()
    assert said is not None
    assert said["word"] == "use"


def vars_of(outcome: StudyOutcome) -> dict[str, object]:
    return {name: getattr(outcome, name) for name in StudyOutcome.__dataclass_fields__}


def test_the_choice_is_made_on_validation_images_alone() -> None:
    outcome = simulated(np.random.default_rng(1), arms=("as-is", "augmented", "duplicates", "synthetic", "translated"))
    val, test = outcome.parts["val"], outcome.parts["test"]

    def rated(part: Part, order: tuple[str, ...]) -> Part:
        """Return the part with predictions that are right as often as the arm's place in `order` says."""
        rows = {}
        for arm in part.probabilities:
            right = np.arange(len(part.labels)) % len(order) <= order.index(arm)
            guess = np.where(right, part.labels, 1 - part.labels)
            rows[arm] = np.repeat(np.eye(2)[guess][None], 10, axis=0)
        return Part(part.labels, None, rows)

    order = ("augmented", "translated", "as-is", "synthetic", "duplicates")
    fields = vars_of(outcome) | {"parts": {"val": rated(val, order), "test": rated(test, order[::-1])}}
    found = StudyOutcome(**fields)
    # Duplicates, the best on validation, are a control; and what is best on test images does not matter.
    assert found.chosen == ("synthetic", "as-is")
    said = found.verdict()
    assert said is not None
    assert (said["treatment"], said["baseline"]) == ("synthetic", "as-is")


def test_p_values_are_of_generators_where_several_take_part_and_of_seeds_elsewhere() -> None:
    outcome = simulated(
        np.random.default_rng(2), arms=("augmented", "duplicates", "synthetic"), val=8, test=6,
        gains={"synthetic": 3.0, "duplicates": 3.0},
    )  # fmt: skip
    rows = outcome.comparisons("test")
    assert rows["duplicates"]["p"] == pytest.approx(2 / 2**10)
    # Of five generators no two-sided p is smaller.
    assert rows["synthetic"]["p"] == pytest.approx(2 / 2**5)
    assert rows["duplicates"]["p_holm"] == pytest.approx(2 * rows["duplicates"]["p"])
    for row in rows.values():
        for name in MEASURES:
            value, low, high = row["points"][name]
            assert low <= value <= high


def test_measures_without_an_interval_are_no_nan_in_the_file_and_the_table_names_every_arm() -> None:
    outcome = simulated(np.random.default_rng(3), arms=("augmented", "synthetic"), val=4, test=4)
    stored = json.loads(json.dumps(outcome.to_dict(), allow_nan=False))
    mean, low, high = stored["parts"]["test"]["against_reference"]["synthetic"]["points"]["auroc"]
    assert (low, high) == (None, None)
    assert isinstance(mean, float)
    assert stored["rare_classes"] == ["rare"]
    table = outcome.table()
    assert all(FOLDER_ARMS[arm].title in table for arm in outcome.arms)
    assert "reference" in table
