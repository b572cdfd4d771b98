"""`ganaug twins`: what it prints and leaves behind. What it finds is tested with `ganaug.evaluation.twins`."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from ganaug.cli import main
from ganaug.evaluation import twin_judge
from ganaug.models.classifier import Classifier
from ganaug.sampling import Translator
from ganaug.training.judge import Judge
from tests.sampling.translation_models import make_translator
from tests.tiny import make_model, write_shapes


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["twins", *map(str, arguments), "--device", "cpu"])


@pytest.fixture(scope="module")
def gan(tmp_path_factory: pytest.TempPathFactory) -> Translator:
    return make_translator(tmp_path_factory.mktemp("run") / "generator.safetensors", domains=("cross", "disk"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "data", {"cross": 10, "disk": 10})


def known_judge(*_: Any, classes: int, **__: Any) -> Judge:
    """A judge that knows the real images, and finds the same in every translation."""
    of_disk = np.repeat([0.2, 0.8], 10)
    member = Classifier(size=(16, 16), channels=1, classes=classes).eval()
    member.head.weight.data.zero_()
    member.head.bias.data[:] = 0
    return Judge((member,), np.zeros(20, int), np.stack([1 - of_disk, of_disk], axis=1))


def test_it_prints_the_judge_and_the_counts_and_leaves_the_files(
    gan: Translator, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(twin_judge, "train_judge", known_judge)
    out = tmp_path / "out"
    result = run(gan.path, data, "--to", "disk", "--out", out, "--from", "cross", "--count", 7)
    assert result.exit_code == 0, result.output
    assert "The judge is right on 100% of the real held-out images" in result.output
    assert "Accepted as disk: 0 of 7 (cross 0 of 7)." in result.output
    assert "Nobody knows which scans were in the translation's training" in result.output
    assert {path.name for path in out.iterdir()} == {
        *("twins.csv", "twins.png", "twins.json", "differences.npy", "request.json", ".ganaug")
    }
    with (out / "twins.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert len(table) == 7
    assert table[0]["p_target_before"] == "0.2000"
    assert table[0]["p_target_after"] == "0.5000"
    with Image.open(out / "twins.png") as picture:
        picture.load()
    again = run(gan.path, data, "--to", "disk", "--out", out, "--json")
    assert again.exit_code == 2
    assert "--overwrite" in again.output
    replaced = run(gan.path, data, "--to", "disk", "--out", out, "--json", "--overwrite")
    assert replaced.exit_code == 0, replaced.output
    summary = json.loads(replaced.stdout)
    assert summary["twins"] == 10
    assert summary["judge"]["balanced_accuracy"] == 1


def test_too_few_images_give_no_verdict_and_no_failure(gan: Translator, shapes: Path, tmp_path: Path) -> None:
    result = run(gan.path, shapes, "--to", "cross", "--from", "disk", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "'disk' has 8 images of 8 patients" in result.output
    assert "There is no verdict, and nothing is accepted." in result.output
    assert "Accepted as cross: 0 of 8" in result.output


def test_a_folder_that_cannot_take_the_twins_is_refused_before_any_image_is_read(
    gan: Translator, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(twin_judge, "scan", lambda *_, **__: pytest.fail("images were read"))
    (tmp_path / "thesis.txt").write_text("x")
    asked: tuple[object, ...] = (gan.path, data, "--to", "disk", "--out", tmp_path)
    for file, text in (("thesis.txt", "x"), ("request.json", '{"to": "cross"}'), ("request.json", "[]")):
        (tmp_path / file).write_text(text)
        refused = run(*asked)
        assert refused.exit_code == 2, refused.output
        assert "not empty" in refused.output
    assert "not made by ganaug" in run(*asked, "--overwrite").output


def test_ctrl_c_says_that_the_same_command_goes_on(
    gan: Translator, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(twin_judge, "train_judge", stopped)
    result = run(gan.path, data, "--to", "disk", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "the same command goes on" in result.output
    assert "--resume" not in result.output


def test_wrong_runs_and_names_say_what_to_do(gan: Translator, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    style = make_translator(tmp_path / "style" / "generator.safetensors", domains=("cross", "disk"), rule="style")
    for model, message in ((style.path, "rule style"), (make_model(tmp_path / "m.safetensors"), "translates nothing")):
        refused = run(model, data, "--to", "disk", "--out", out)
        assert refused.exit_code == 2, refused.output
        assert message in refused.output
        assert "ganaug fit DATA --model cyclegan --rule class" in refused.output
    for options, message in (
        (["--to", "star"], "'star'"),
        (["--to", "disk", "--from", "disk"], "both 'disk'"),
        (["--to", "disk", "--from", "cross,star"], "'star'"),
        (["--to", "disk", "--count", "11"], "count is 11, and there are 10 images"),
        (["--to", "disk", "--group-regex", "("], "not a regular expression"),
    ):
        result = run(gan.path, data, *options, "--out", out)
        assert result.exit_code == 2, result.output
        assert message in result.output
    assert run(gan.path, data, "--to", "disk", "--out", data / "cross" / "o").exit_code == 2
    assert run(gan.path, tmp_path / "nothing", "--to", "disk", "--out", out).exit_code == 3
    assert not out.exists()
