import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganaug.errors import ConfigError, DataError, ModelFileError
from ganaug.evaluation.cas import cas
from ganaug.evaluation.classifier import train_classifier
from ganaug.evaluation.results import StudyResult
from ganaug.evaluation.study import run_study
from ganaug.sampling.bank import SyntheticBank
from tests.evaluation.banks import bank_of, digits

CLASSES = ("three", "five", "eight")
Parts = dict[str, tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def parts() -> Parts:
    """Digits 3, 5 and 8: a training set with 2 images of 8 beside 60, more of the same as truth, and a test
    set."""
    images, labels = digits(3, 5, 8)
    order = [np.flatnonzero(labels == k) for k in range(3)]
    pick = {
        "train": [order[0][:60], order[1][:60], order[2][:2]],
        "more": [indices[60:120] for indices in order],
        "test": [indices[120:] for indices in order],
    }
    return {name: (images[np.concatenate(chosen)], labels[np.concatenate(chosen)]) for name, chosen in pick.items()}


def study(parts: Parts, bank: SyntheticBank, **options: Any) -> StudyResult:
    settings: dict[str, Any] = {"classes": CLASSES, "arms": ("classical", "synthetic"), "seeds": range(5)}
    settings |= {"steps": 60, "batch": 24} | options
    return run_study(*parts["train"], *parts["test"], bank, **settings)


def test_true_images_of_a_starved_class_are_found_to_help(parts: Parts, tmp_path: Path) -> None:
    bank = bank_of(tmp_path / "bank", *parts["more"], CLASSES)
    found = study(parts, bank, arms=("as-is", "classical", "synthetic"))
    assert found.verdict is not None
    assert found.verdict.word == "helps"
    assert found.rare == (2,)
    assert found.synthetic_counts == (0, 0, 58)
    assert found.recalls("synthetic")[:, 2].mean() > found.recalls("classical")[:, 2].mean() + 0.05

    stored = json.loads(json.dumps(found.to_dict()))
    diff = stored["differences"]["classical"]["synthetic"]
    balanced = {arm: np.array(stored["arms"][arm]["balanced_accuracy"]) for arm in found.correct}
    np.testing.assert_allclose(diff["per_seed"], 100 * (balanced["synthetic"] - balanced["classical"]))
    assert set(stored["differences"]["as-is"]) == {"classical", "synthetic"}
    hits = np.array([[int(c) for c in row] for row in stored["arms"]["as-is"]["correct"]])
    np.testing.assert_allclose(hits.mean(axis=1), stored["arms"]["as-is"]["accuracy"])

    lines = found.table().splitlines()
    assert lines[0].split("  ")[0] == "arm"
    assert len([line for line in lines if line.startswith(("as it is", "oversampled", "the same"))]) == 3
    assert str(found.differences["classical"]["synthetic"]) in lines[4]
    assert "Rare: eight (2)" in lines[-1]


def test_noise_is_not_found_to_help(parts: Parts, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, parts["more"][0].shape, dtype=np.uint8)
    # Drawn as often as they come, noise takes 29 of 30 draws of the starved class.
    bank = bank_of(tmp_path / "bank", noise, parts["more"][1], CLASSES)
    found = study(parts, bank, synthetic_share=1.0)
    assert found.verdict is not None
    assert found.verdict.word == "does not help"


def test_arms_share_weights_and_draws_so_that_only_the_images_differ(parts: Parts, tmp_path: Path) -> None:
    bank = bank_of(tmp_path / "bank", *parts["more"], CLASSES)
    options: dict[str, Any] = {
        "arms": ("classical", "synthetic", "synthetic-early", "synthetic-batch"),
        "seeds": (0, 1),
        "steps": 6,
    }
    without = study(parts, bank, synthetic_share=0.0, **options)
    for arm in ("synthetic", "synthetic-early"):
        np.testing.assert_array_equal(without.correct[arm], without.correct["classical"])
    again = study(parts, bank, synthetic_share=0.5, **options)
    assert (again.correct["synthetic"] != again.correct["classical"]).any()
    assert (again.correct["synthetic-batch"] != again.correct["classical"]).any()
    assert (again.correct["synthetic"] != again.correct["synthetic-early"]).any()
    repeated = study(parts, bank, synthetic_share=0.5, **options)
    for arm in options["arms"]:
        np.testing.assert_array_equal(again.correct[arm], repeated.correct[arm])


def test_a_study_without_the_primary_arms_gives_no_verdict(parts: Parts, tmp_path: Path) -> None:
    bank = bank_of(tmp_path / "bank", *parts["more"], CLASSES)
    found = study(parts, bank, arms=("as-is",), seeds=(0, 1), steps=2)
    assert found.verdict is None
    assert "difference" not in found.table().splitlines()[0]


def test_what_cannot_be_studied_is_refused_before_training(parts: Parts, tmp_path: Path) -> None:
    bank = bank_of(tmp_path / "bank", *parts["more"], CLASSES)
    with pytest.raises(ConfigError, match="as-is, classical"):
        study(parts, bank, arms=("classical", "magic"))
    with pytest.raises(ConfigError, match="different ones"):
        study(parts, bank, seeds=(1, 1))
    with pytest.raises(ModelFileError, match="classes"):
        study(parts, bank, classes=("x", "y", "z"))
    images, labels = parts["test"]
    with pytest.raises(DataError, match=r"test images of 'eight' \(0\)"):
        study(parts | {"test": (images[labels < 2], labels[labels < 2])}, bank)
    with pytest.raises(DataError, match="one shape"):
        study(parts | {"test": (images[..., :6], labels)}, bank)
    with pytest.raises(DataError, match="uint8"):
        study(parts | {"test": (images / 255, labels)}, bank)
    with pytest.raises(DataError, match="labels go from 1 to 3"):
        study(parts | {"test": (images, labels + 1)}, bank)


def test_cas_ranks_true_images_over_repeated_ones_over_mislabeled_ones(parts: Parts) -> None:
    images, labels = parts["more"]
    train = np.concatenate([np.flatnonzero(labels == k)[:40] for k in range(3)])
    real = images[train], labels[train]
    rest = np.setdiff1d(np.arange(len(labels)), train)
    one_of_each = np.concatenate([np.resize(rest[labels[rest] == k][:1], 40) for k in range(3)])
    banks = {
        "true": (images[rest], labels[rest]),
        "repeated": (images[one_of_each], labels[one_of_each]),
        "mislabeled": (images[rest], np.random.default_rng(0).permutation(labels[rest])),
    }
    options: dict[str, Any] = {"classes": CLASSES, "steps": 60, "batch": 24, "seeds": (0,)}
    scores = {name: cas(*real, *bank, *parts["test"], **options) for name, bank in banks.items()}
    ratios = {name: score["ratio"] for name, score in scores.items()}
    assert ratios["true"] > ratios["repeated"] + 0.05 > ratios["mislabeled"] + 0.1
    assert ratios["true"] > 0.9
    assert ratios["mislabeled"] < 0.75

    score = json.loads(json.dumps(scores["true"]))
    assert score["images_per_class"] == dict.fromkeys(CLASSES, 20)  # as many real ones as the bank has
    assert score["ratio"] == pytest.approx(score["synthetic_accuracy"] / score["real_accuracy"])
    assert score["real_accuracy"] == pytest.approx(np.mean(score["real_accuracy_per_seed"]))
    assert set(score["synthetic_recall"]) == set(CLASSES)


def test_cas_of_the_real_images_themselves_is_one(parts: Parts) -> None:
    images, labels = parts["more"]
    options: dict[str, Any] = {"classes": CLASSES, "steps": 10, "batch": 16, "seeds": (0, 1)}
    assert cas(images, labels, images, labels, *parts["test"], **options)["ratio"] == 1.0


def test_cas_refuses_a_bank_that_lacks_a_class(parts: Parts) -> None:
    images, labels = parts["more"]
    with pytest.raises(DataError, match=r"synthetic images of 'three' \(0\)"):
        cas(images, labels, images[labels > 0], labels[labels > 0], *parts["test"], classes=CLASSES)


def test_cas_trains_both_sides_on_the_same_number_of_images(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def recorded(dataset: Any, **options: Any) -> Any:
        sizes.append(np.bincount(dataset.targets).tolist())
        return train_classifier(dataset, **options)

    # By its module: in the package the name "cas" is the function.
    monkeypatch.setattr(sys.modules["ganaug.evaluation.cas"], "train_classifier", recorded)
    images, labels = parts["more"]
    few = np.concatenate([np.flatnonzero(labels == k)[:n] for k, n in enumerate((50, 7, 20))])
    options: dict[str, Any] = {"classes": CLASSES, "steps": 2, "batch": 8, "seeds": (0,)}
    cas(*parts["train"], images[few], labels[few], *parts["test"], **options)
    assert sizes == [[50, 7, 2]] * 2
