"""`ganaug evaluate`, from a run and a folder to metrics and a page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ganaug.cli import main
from ganaug.data import scan
from ganaug.errors import ConfigError, DataError, LeakError, ModelFileError
from ganaug.evaluation import evaluate as module
from ganaug.evaluation.evaluate import evaluate
from ganaug.training.fit import fit
from ganaug.training.run import Run
from tests.browser import check_page, opened
from tests.tiny import SETTINGS, write_shapes

COUNTS = {"cross": 60, "disk": 130, "ring": 100}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes") / "data", COUNTS)


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fit(folder, tmp_path_factory.mktemp("runs") / "run", hold_out=0.4, kimg=0.2, size=(16, 16), **SETTINGS)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STEPS", 20)
        yield


@pytest.fixture(scope="module")
def evaluated(folder: Path, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluated") / "out"
    result = CliRunner().invoke(main, ["evaluate", str(run.path), "--real", str(folder), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "KID" in result.stdout
    assert "report.html" in result.stdout
    return out


def test_metrics_are_of_held_out_images_and_carry_their_passport(evaluated: Path, folder: Path, run: Run) -> None:
    metrics = json.loads((evaluated / "metrics.json").read_text())
    held_out = {name: COUNTS[name] - run.config_file()["images"][name] for name in COUNTS}
    assert metrics["images"]["held_out"] == held_out
    assert metrics["images"]["training"] == run.config_file()["images"]
    assert [row["name"] for row in metrics["fidelity"]] == [*COUNTS, "all"]
    assert [row["name"] for row in metrics["fidelity_of_training"]] == [*COUNTS, "all"]
    assert [row["n_fake"] for row in metrics["fidelity_of_training"][:-1]] == [*metrics["images"]["training"].values()]
    for row in metrics["fidelity"]:
        assert row["network_sha256"] == metrics["network"]["sha256"]
        assert row["n_real"] == (sum(held_out.values()) if row["name"] == "all" else held_out[row["name"]])
    assert metrics["fidelity"][0]["reason"].startswith("insufficient"), "24 crosses are held out"
    assert metrics["fidelity"][1]["kid"]["low"] < metrics["fidelity"][1]["kid"]["high"]
    assert metrics["memorization"]["word"] in ("alarm", "no alarm", "cannot tell")
    assert metrics["membership"]["attacks"]
    assert 0 <= metrics["labels"]["synthetic_on_real"] <= 1
    assert set(metrics["judge"]["agreement"]) == set(COUNTS)
    assert metrics["detector"]["auc"]["value"] > 0.8, "0.2 kimg make no disks"
    assert metrics["model_sha256"]


def test_the_page_renders_and_its_slider_slides(evaluated: Path, tmp_path: Path) -> None:
    page = evaluated / "report.html"
    check_page(page.read_text())
    move = """
        walk.value = 5; walk.dispatchEvent(new Event("input"));
        const shown = [...frames].map((frame, i) => frame.hidden ? -1 : i).filter((i) => i >= 0);
        document.title = `shown ${shown} wide ${document.documentElement.scrollWidth - innerWidth}`;
    """
    found = opened(page, tmp_path, script=move, width=500)
    assert "<title>shown 5 wide 0</title>" in found or "<title>shown 5 wide -" in found


def test_an_evaluation_without_training_or_without_held_out_images_is_refused(
    folder: Path, run: Run, tmp_path: Path
) -> None:
    trained = {entry["sha256"] for entry in run.train_manifest()["files"]}
    sides: dict[bool, Path] = {}
    for item in scan(folder).items:
        known = item.sha256 in trained
        sides[known] = tmp_path / ("training" if known else "held-out")
        target = sides[known] / Path(item.name).parent.name / Path(item.name).name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((folder / item.name).read_bytes())
    with pytest.raises(DataError, match="trained on all"):
        evaluate(run.path, sides[True])
    with pytest.raises(DataError, match="--train"):
        evaluate(run.path, sides[False])
    with pytest.raises(LeakError):
        evaluate(run.path, folder, train=sides[True])
    other = write_shapes(tmp_path / "other", {"disk": 3, "ring": 3})
    with pytest.raises(ModelFileError, match="classes"):
        evaluate(run.path, other)


def test_an_output_that_cannot_be_written_and_a_network_that_is_not_there_are_refused_before_any_image_is_read(
    folder: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "scan", lambda *given, **options: pytest.fail("images were read"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(ConfigError, match="not empty"):
        evaluate(run.path, folder, tmp_path / "mine")
    with pytest.raises(ConfigError, match="not made by ganaug"):
        evaluate(run.path, folder, tmp_path / "mine", overwrite=True)
    with pytest.raises(ConfigError, match="one inside the other"):
        evaluate(run.path, folder, folder / "out")
    with pytest.raises(ConfigError, match="no_such_module"):
        evaluate(run.path, folder, tmp_path / "out", features="no_such_module:net")
    assert not (tmp_path / "out").exists()


def test_ctrl_c_says_that_nothing_is_kept(
    folder: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "scan", stopped)
    result = CliRunner().invoke(main, ["evaluate", str(run.path), "--real", str(folder), "--out", str(tmp_path / "o")])
    assert result.exit_code == 1
    assert "the same command begins anew" in result.output
    assert "--resume" not in result.output
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_figures_and_nothing_is_written_without_out(
    folder: Path, run: Run, evaluated: Path, tmp_path: Path
) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    found = evaluate(run.path, folder).metrics
    stored: dict[str, Any] = json.loads((evaluated / "metrics.json").read_text())
    for key in ("fidelity", "labels", "judge", "memorization", "membership", "spectrum", "detector"):
        np.testing.assert_equal(json.loads(json.dumps(found[key])), stored[key])
    assert sorted(path.name for path in tmp_path.iterdir()) == before
