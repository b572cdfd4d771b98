import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import WeightedRandomSampler

from ganaug.evaluation import arms as arms_module
from ganaug.evaluation.arms import ARMS, FOLDER_ARMS, Arm, loss_of, train_arm
from ganaug.evaluation.classifier import train_classifier
from ganaug.evaluation.draws import balanced_batches, shuffled_batches
from ganaug.evaluation.generators import KINDS, bank_counts
from ganaug.evaluation.trials import Images, mixture_of
from ganaug.mixing import SyntheticMixDataset
from tests.evaluation.banks import bank_of

CLASSES = ("common", "middle", "rare")
COUNTS = (24, 10, 6)


def marked(counts: tuple[int, ...], *, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images whose first pixel tells them apart: `first`, `first` + 1, …; and their labels."""
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.random.default_rng(first).integers(0, 256, (len(labels), 1, 8, 8)).astype(np.uint8)
    images[:, 0, 0, 0] = first + np.arange(len(labels))
    return images, labels


@pytest.fixture(scope="module")
def real() -> Images:
    return Images(*marked(COUNTS, first=0), CLASSES)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bank_of(tmp_path_factory.mktemp("bank") / "bank", *marked((40, 40, 40), first=100), CLASSES).path


def run(
    name: str, real: Images, bank: Path, monkeypatch: pytest.MonkeyPatch, *, seed: int = 3, **options: Any
) -> dict[str, Any]:
    """Train an arm for a few steps; return its network's first weights, each batch's first pixels, and its options."""
    seen: dict[str, Any] = {}

    def spy(dataset: Any, **given: Any) -> nn.Module:
        plan = given["batches"]
        if plan is not None:
            seen["pixels"] = np.array([[int(dataset[i][0][0, 0, 0]) for i in row] for row in plan.tolist()])
        seen["options"], seen["dataset"] = given, dataset
        first = train_classifier(
            dataset, **{**given, "lr": 1e-12, "steps": 1, "batches": None if plan is None else plan[:1]}
        )
        seen["weights"] = next(iter(first.parameters())).detach().clone()
        return first

    monkeypatch.setattr(arms_module, "train_classifier", spy)
    arm = FOLDER_ARMS[name]
    counts = dict(zip(CLASSES, COUNTS, strict=True))
    mixed = SyntheticMixDataset(real, bank, seed=seed, **mixture_of(name, counts)) if arm.source else None
    train_arm(arm, real, mixed=mixed, classes=3, steps=20, batch=16, seed=seed, augment=None, **options)
    return seen


def test_arms_of_a_seed_start_from_the_same_weights_and_share_their_draws(
    real: Images, bank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {name: run(name, real, bank, monkeypatch) for name in FOLDER_ARMS}
    reference = found["augmented"]
    for name, seen in found.items():
        torch.testing.assert_close(seen["weights"], reference["weights"], rtol=0, atol=1e-6, msg=name)
        if FOLDER_ARMS[name].balanced:
            kept = seen["pixels"] == reference["pixels"]
            added = seen["pixels"] >= 100
            if FOLDER_ARMS[name].source == "duplicates":
                added = found["synthetic"]["pixels"] >= 100
            assert (kept | added).all(), name
            assert added.any() == bool(FOLDER_ARMS[name].source), name
    other = run("augmented", real, bank, monkeypatch, seed=4)
    assert not torch.allclose(other["weights"], reference["weights"])
    assert (other["pixels"] != reference["pixels"]).any()


def test_duplicates_are_real_images_of_the_same_class_in_the_places_of_synthetic_draws(
    real: Images, bank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    duplicates = run("duplicates", real, bank, monkeypatch)["pixels"]
    synthetic = run("synthetic", real, bank, monkeypatch)["pixels"]
    assert duplicates.max() < len(real)
    places = synthetic >= 100
    np.testing.assert_array_equal(duplicates[~places], synthetic[~places])
    labels_of_bank = np.repeat([0, 1, 2], 40)
    np.testing.assert_array_equal(real.targets[duplicates[places]], labels_of_bank[synthetic[places] - 100])
    for label in range(3):
        drawn = duplicates[places & (real.targets[duplicates] == label)]
        assert len(set(drawn.tolist())) > 0.5 * min(len(drawn), COUNTS[label])


@pytest.fixture
def logits() -> tuple[Tensor, Tensor]:
    return torch.tensor([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0], [1.0, 1.0, 0.0]]), torch.tensor([0, 2, 1])


def by_hand(logits: Tensor, labels: Tensor, weights: np.ndarray, shift: np.ndarray) -> float:
    """Return cross-entropy with 5 % label smoothing, a class at a time, in plain NumPy."""
    raised = logits.numpy().astype(np.float64) + shift
    logp = raised - np.log(np.exp(raised).sum(axis=1, keepdims=True))
    total = weight = 0.0
    for row, label in zip(logp, labels.tolist(), strict=True):
        total += -0.95 * weights[label] * row[label] - 0.05 / 3 * (weights * row).sum()
        weight += weights[label]
    return total / weight


def test_losses_are_what_their_formulas_say(logits: tuple[Tensor, Tensor]) -> None:
    counts = np.array([60, 30, 10])
    shares, ones, zeros = counts / 100, np.ones(3), np.zeros(3)
    plain, weighted, adjusted = (
        float(loss_of(Arm("", loss=kind), counts)(*logits)) for kind in ("plain", "weights", "logit")
    )
    assert plain == pytest.approx(by_hand(*logits, ones, zeros), rel=1e-5)
    assert weighted == pytest.approx(by_hand(*logits, 1 / shares, zeros), rel=1e-5)
    # Menon et al.: the logits are raised by the logarithm of the prior, so that the rare class must be more sure.
    assert adjusted == pytest.approx(by_hand(*logits, ones, np.log(shares)), rel=1e-5)
    assert len({round(value, 4) for value in (plain, weighted, adjusted)}) == 3


def test_logit_adjustment_makes_a_constant_guess_prefer_no_class() -> None:
    # The loss is smallest for equal logits if the labels come as often as the classes do: what is left is balanced.
    counts = np.array([60, 30, 10])
    logits = torch.zeros(100, 3, requires_grad=True)
    labels = torch.from_numpy(np.repeat([0, 1, 2], counts))
    smoothing_free = loss_of(replace(FOLDER_ARMS["logit"]), counts)
    smoothing_free(logits, labels).backward()
    assert logits.grad is not None
    # 5 % of smoothing shifts the wanted shares by at most .05 × (1/3 - .1).
    assert logits.grad.sum(dim=0).abs().max() <= 0.05 * 0.27


def test_equal_classes_need_no_correction(logits: tuple[Tensor, Tensor]) -> None:
    found = [float(loss_of(arm, np.array([7, 7, 7]))(*logits)) for arm in FOLDER_ARMS.values()]
    assert found == pytest.approx([found[0]] * len(found), rel=1e-6)


def test_mixup_blends_images_and_labels(real: Images, bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = arms_module.loss_of
    labels: list[Tensor] = []

    def spied(arm: Arm, counts: np.ndarray) -> Callable[[Tensor, Tensor], Tensor]:
        loss = original(arm, counts)

        def noted(logits: Tensor, wanted: Tensor) -> Tensor:
            labels.append(wanted)
            return loss(logits, wanted)

        return noted

    monkeypatch.setattr(arms_module, "loss_of", spied)
    kept = torch.get_rng_state()
    network = train_arm(FOLDER_ARMS["mixup"], real, classes=3, steps=4, batch=16, seed=0, augment=None)
    assert torch.equal(torch.get_rng_state(), kept)
    for wanted in labels:
        assert wanted.shape == (16, 3)
        torch.testing.assert_close(wanted.sum(dim=1), torch.ones(16))
    assert any(0 < float(value) < 1 for wanted in labels for value in wanted.flatten())
    again = train_arm(FOLDER_ARMS["mixup"], real, classes=3, steps=4, batch=16, seed=0, augment=None)
    for one, other in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", FOLDER_ARMS)
def test_every_arm_has_a_title_of_its_own_and_a_mixture_that_its_bank_can_fill(
    name: str, real: Images, tmp_path: Path
) -> None:
    arm = FOLDER_ARMS[name]
    titles = [other.title for other in FOLDER_ARMS.values()]
    assert arm.title
    assert titles.count(arm.title) == 1
    if not arm.source:
        assert not arm.synthetic_until
        assert not arm.generated
        return
    assert arm.generated == (arm.source != "duplicates")
    assert not arm.generated or sum(arm.source in sources for sources in KINDS.values()) == 1
    counts = dict(zip(CLASSES, COUNTS, strict=True))
    supply = {"translated": (0, 0, 5), "site": COUNTS}.get(arm.source, tuple(bank_counts(counts).values()))
    bank = bank_of(tmp_path / "bank", *marked(supply, first=0), CLASSES)
    mixed = SyntheticMixDataset(real, bank, **mixture_of(name, counts, dict(zip(CLASSES, supply, strict=True))))
    added = np.bincount(mixed.targets[mixed.is_synthetic], minlength=3)
    assert added.sum() > 0
    assert (added <= np.ceil(arm.ratio * np.array(COUNTS))).all()
    if arm.source == "translated":
        assert added.tolist() == [0, 0, 5]
    elif arm.source == "site":
        assert added.tolist() == list(COUNTS)
    else:
        # The rare get more for each real one, and no class is free of synthetic images.
        shares = added / np.array(COUNTS)
        assert (added > 0).all()
        assert shares.argmin() == 0


def shares(labels: np.ndarray, synthetic: np.ndarray) -> tuple[list[float], list[float]]:
    """Return of draws the share of each class, and in each class that of synthetic images."""
    classes = [labels == label for label in range(len(CLASSES))]
    return [float(here.mean()) for here in classes], [float(synthetic[here].mean()) for here in classes]


@pytest.mark.parametrize("name", ["synthetic", "filtered-third", "translated", "site", "augmented", "as-is"])
@pytest.mark.filterwarnings("ignore:The verdict of")
def test_a_loader_by_the_verdict_draws_classes_and_synthetic_images_as_the_study_did(
    name: str, real: Images, tmp_path: Path
) -> None:
    arm, counts = FOLDER_ARMS[name], dict(zip(CLASSES, COUNTS, strict=True))
    supply = {"translated": (0, 0, 5), "site": COUNTS}.get(arm.source, (40, 40, 40))
    bank = bank_of(tmp_path / "bank", *marked(supply, first=100), CLASSES)
    mixture = mixture_of(name, counts, dict(zip(CLASSES, supply, strict=True)))
    studied: Any = SyntheticMixDataset(real, bank, **mixture) if arm.source else real
    size = {"steps": 800, "batch": 64, "seed": 0}
    made = studied.is_synthetic if arm.source else np.zeros(len(real), bool)
    plan = (
        balanced_batches(studied.targets, is_synthetic=made, synthetic_share=1.0, **size)
        if arm.balanced
        else shuffled_batches(len(real), **size)
    ).flatten()

    recommended = {"title": arm.title, "bank": "bank", "mixture": mixture}
    word = "use" if arm.generated else "do not use"
    verdict = {"format": "ganaug-verdict", "version": 1, "recommended": recommended, "verdict": {"word": word}}
    (tmp_path / "verdict.json").write_text(json.dumps(verdict))
    mixed = SyntheticMixDataset.from_verdict(real, tmp_path)
    drawn = np.array([*WeightedRandomSampler(mixed.sample_weights.tolist(), len(plan))])

    expected = shares(studied.targets[plan], made[plan])
    found = shares(mixed.targets[drawn], mixed.is_synthetic[drawn])
    np.testing.assert_allclose(found, expected, atol=0.02)
    if arm.balanced:
        np.testing.assert_allclose(found[0], 1 / 3, atol=0.02)
    assert (max(found[1]) > 0.1) == arm.generated


def test_arms_of_the_study_of_arrays_are_kept_apart() -> None:
    assert all(not arm.source and arm.loss == "plain" and not arm.mixup for arm in ARMS.values())
