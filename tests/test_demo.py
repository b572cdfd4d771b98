"""The demo, in a short form: the same story with less training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import ganaug
from ganaug.cli import main
from ganaug.data import scan
from ganaug.demo import RARE, write_digits
from ganaug.errors import LeakError
from ganaug.evaluation.arms import ARMS
from ganaug.evaluation.leak import refuse_leak


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished demo of some seconds: its folder and what it printed."""
    out = tmp_path_factory.mktemp("demo") / "out"
    words = ["demo", "--out", str(out), "--minutes", "0.15", "--seeds", "5", "--steps", "40"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    return out, result.stdout


@pytest.fixture(scope="module")
def result(demo: tuple[Path, str]) -> dict[str, Any]:
    """What the demo wrote to result.json."""
    return json.loads((demo[0] / "result.json").read_text())


def test_the_digits_are_cut_after_the_test_set_was_held_out(tmp_path: Path) -> None:
    write_digits(tmp_path / "train", tmp_path / "test")
    train, test = scan(tmp_path / "train"), scan(tmp_path / "test")
    assert {name: train.counts[name] for name in RARE} == RARE
    assert min(count for name, count in train.counts.items() if name not in RARE) > 100
    assert min(test.counts.values()) > 40  # the rare classes too
    assert {item.sha256 for item in train.items}.isdisjoint(item.sha256 for item in test.items)
    first = Image.open(tmp_path / "train" / train.items[0].path)
    assert (first.size, first.mode) == ((8, 8), "L")
    assert np.asarray(first).max() > 127


def test_the_demo_says_the_verdict_that_its_interval_supports(demo: tuple[Path, str], result: dict[str, Any]) -> None:
    difference = result["study"]["differences"]["classical"]["synthetic"]
    word = result["verdict"]["word"]
    assert f"Verdict: {word}." in demo[1]
    if difference["low"] > 0:
        assert word == "helps"
    elif difference["high"] < result["study"]["settings"]["smallest_gain"]:
        assert word == "does not help"
    else:
        assert word == "cannot tell"


def test_all_arms_are_trained_with_paired_seeds(demo: tuple[Path, str], result: dict[str, Any]) -> None:
    study = result["study"]
    assert list(study["arms"]) == ["as-is", "classical", "synthetic", "synthetic-batch"]
    assert len(study["seeds"]) == 5
    for name, arm in study["arms"].items():
        assert len(arm["balanced_accuracy"]) == 5
        assert ARMS[name].title in demo[1]


def test_the_generator_learned_something_even_in_seconds(result: dict[str, Any]) -> None:
    score = result["classification_accuracy_score"]
    assert score["synthetic_accuracy"] > 0.2  # chance is 0.1
    assert score["ratio"] == pytest.approx(score["synthetic_accuracy"] / score["real_accuracy"])


def test_the_synthetic_folder_fills_every_class_up_to_the_largest(demo: tuple[Path, str]) -> None:
    real = scan(demo[0] / "data" / "train").counts
    made = {p.name: len(list(p.iterdir())) for p in (demo[0] / "synthetic").iterdir() if p.is_dir()}
    assert {name: real[name] + made.get(name, 0) for name in real} == dict.fromkeys(real, max(real.values()))


def test_the_test_set_of_the_demo_passes_the_leak_guard_and_the_training_set_does_not(demo: tuple[Path, str]) -> None:
    manifest = ganaug.Run(demo[0] / "run").train_manifest()
    refuse_leak(manifest, scan(demo[0] / "data" / "test"))
    with pytest.raises(LeakError):
        refuse_leak(manifest, scan(demo[0] / "data" / "train"))


def test_the_four_lines_work_on_a_plain_training_loop(demo: tuple[Path, str]) -> None:
    assert "SyntheticMixDataset(train_set, bank" in demo[1]
    to_tensor = v2.Compose([v2.Grayscale(), v2.PILToTensor()])
    train_set: Any = ImageFolder(demo[0] / "data" / "train", transform=to_tensor)
    bank = ganaug.SyntheticBank.open(demo[0] / "bank")
    train_set = ganaug.SyntheticMixDataset(train_set, bank, sampling_strategy="auto", seed=0)
    labels = np.concatenate([batch[1].numpy() for batch in DataLoader(train_set, batch_size=64, shuffle=True)])
    assert len(set(np.bincount(labels).tolist())) == 1  # every class as often as the largest


def test_the_picture_shows_every_class(demo: tuple[Path, str]) -> None:
    picture = np.asarray(Image.open(demo[0] / "real-and-synthetic.png"))
    assert picture.shape[0] > 10 * 56
    assert picture.std() > 20
