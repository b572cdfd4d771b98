"""Classes of a site without labels: found where the sites are alike enough, refused where they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import ganaug
from ganaug.training import judge as judge_module
from ganaug.training import pseudo_labels
from ganaug.training.judge import Judge, restyled, train_judge
from ganaug.training.pseudo_labels import label_target, with_grays_of
from tests.tiny import shape_image, write_shapes

KINDS = ("disk", "cross")


def _shapes(counts: tuple[int, int], seed: int) -> tuple[Tensor, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], counts)
    images = np.stack([shape_image(KINDS[label], rng) for label in labels])[:, None]
    return torch.from_numpy(images * 2 - 1).float(), labels


@pytest.fixture(scope="module")
def trained() -> tuple[Judge, Tensor, np.ndarray]:
    images, labels = _shapes((40, 20), 0)
    judge = train_judge(
        lambda rows: images[torch.from_numpy(rows)],
        labels,
        [f"patient {i // 2}" for i in range(60)],
        classes=2,
        device=torch.device("cpu"),
        seed=0,
        steps=60,
    )
    return judge, images, labels


def test_a_judge_is_right_on_images_that_its_member_has_not_seen(trained: tuple[Judge, Tensor, np.ndarray]) -> None:
    judge, _, labels = trained
    assert (judge.held_out.argmax(1) == labels).mean() > 0.9
    assert np.allclose(judge.held_out.sum(1), 1, atol=1e-5)


def test_a_fold_never_cuts_a_patient_and_has_every_class(trained: tuple[Judge, Tensor, np.ndarray]) -> None:
    judge, _, labels = trained
    assert (judge.folds[0::2] == judge.folds[1::2]).all()
    for fold in range(3):
        assert set(labels[judge.folds == fold]) == {0, 1}


def test_few_patients_with_images_of_both_classes_are_dealt_out_evenly() -> None:
    labels = np.tile([0, 1], 9)
    folds = judge_module._folds(labels, [f"patient {i // 6}" for i in range(18)], 3, 0)
    assert np.bincount(folds).tolist() == [6, 6, 6]


def test_an_image_of_a_fold_can_be_judged_by_the_member_that_has_not_seen_it(
    trained: tuple[Judge, Tensor, np.ndarray],
) -> None:
    judge, images, _ = trained
    i = int(np.flatnonzero(judge.folds == 1)[0])
    assert np.allclose(judge.probabilities(images[i : i + 1], without=1)[0], judge.held_out[i], atol=1e-5)


def _label(trained: tuple[Judge, Tensor, np.ndarray], target: Tensor) -> pseudo_labels.PseudoLabels:
    judge, images, labels = trained
    everything = torch.cat([images, target])
    read = lambda rows: everything[torch.from_numpy(rows)]  # noqa: E731
    return label_target(judge, read, np.arange(60), labels, 60 + np.arange(len(target)))


def test_a_darker_site_with_another_class_mix_is_labelled_and_its_mix_estimated(
    trained: tuple[Judge, Tensor, np.ndarray],
) -> None:
    target, truth = _shapes((10, 40), 7)
    found = _label(trained, ((target + 1) / 2) ** 1.5 * 1.2 - 1)
    given = found.labels >= 0
    assert found.believed
    assert given.mean() > 0.7
    assert (found.labels[given] == truth[given]).mean() > 0.9
    assert found.mix[1] == pytest.approx(0.8, abs=0.12)


def test_images_of_something_else_are_not_believed(trained: tuple[Judge, Tensor, np.ndarray]) -> None:
    noise = torch.rand(40, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = _label(trained, noise)
    assert not found.believed
    assert "counts as unknown" in found.sentence(KINDS)


def test_gray_values_take_the_distribution_of_others() -> None:
    images, _ = _shapes((6, 6), 1)
    changed = ((images + 1) / 2) ** 2 - 0.9
    matched = with_grays_of(changed, images)
    assert float((matched - images).abs().mean()) < 0.05
    assert float((changed - images).abs().mean()) > 0.15


def test_restyling_changes_values_and_no_places() -> None:
    images, _ = _shapes((8, 8), 2)
    styled = restyled(images, torch.Generator().manual_seed(0))
    assert styled.shape == images.shape
    assert float(styled.min()) >= -1
    assert float(styled.max()) <= 1
    assert float((styled - images).abs().mean()) > 0.02
    flat = [part.flatten(1) - part.flatten(1).mean(1, keepdim=True) for part in (images, styled)]
    alike = (flat[0] * flat[1]).sum(1) / (flat[0].norm(dim=1) * flat[1].norm(dim=1))
    assert float(alike.median()) > 0.9
    volumes = torch.rand(2, 1, 6, 7, 8) * 2 - 1
    assert restyled(volumes, torch.Generator().manual_seed(0)).shape == volumes.shape


SHORT: dict[str, Any] = {
    "recipe": "translate64",
    "widths": (12, 8, 4),
    "group_width": 4,
    "label_dim": 4,
    "kimg": 0.032,
    "batch": 8,
    "snapshots": 1,
    "device": "cpu",
    "precision": "fp32",
    "threads": 1,
}


@pytest.mark.parametrize("alike", [True, False])
def test_a_transfer_matches_classes_where_it_knows_them_and_else_sees_a_neighborhood_only(
    alike: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(train_judge.__kwdefaults__, "steps", 60)  # type: ignore[arg-type]
    source = write_shapes(tmp_path / "a", {"disk": 20, "cross": 20})
    target = tmp_path / "b"
    target.mkdir()
    rng = np.random.default_rng(3)
    for number in range(30):
        image = shape_image(KINDS[number % 2], rng) ** 1.3 if alike else rng.random((16, 16))
        Image.fromarray((image * 255).astype(np.uint8)).save(target / f"{number}.png")
    run = ganaug.fit(source, tmp_path / "run", model="cyclegan", target=target, **SHORT)
    reasons = " ".join(run.config_file()["reasons"])
    assert ("Batches have the same classes" in reasons) is alike
    assert run.config().widths == ((12, 8, 4) if alike else (8, 4))
    before = (run.path / pseudo_labels.FILE_NAME).read_text()
    ganaug.fit(source, run.path, target=target, resume=True, kimg=0.04)
    assert (run.path / pseudo_labels.FILE_NAME).read_text() == before
    assert str(tmp_path) not in before
