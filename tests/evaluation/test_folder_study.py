"""The study of a folder from end to end, on digits of 8×8 pixels and with trainings of a second."""

import json
import math
import os
import shutil
import sys
import textwrap
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ganaug.cli import main
from ganaug.errors import ConfigError, DataError, LeakError, ModelFileError
from ganaug.evaluation import folder_study, generators
from ganaug.evaluation.folder_study import VERDICT, StudySettings, study
from ganaug.evaluation.outcome import StudyOutcome
from ganaug.evaluation.scores import MEASURES
from ganaug.evaluation.study_parts import read_parts
from ganaug.evaluation.trials import Images, Trial
from ganaug.files import only_writer
from ganaug.mixing import SyntheticMixDataset
from ganaug.training.fit import fit
from ganaug.training.run import Run
from tests.browser import check_page, opened
from tests.evaluation.banks import digits
from tests.tiny import SETTINGS

ARMS = ("as-is", "augmented", "duplicates", "synthetic")
SMALL = StudySettings(
    arms=ARMS, seeds=2, generators=2, minutes=None, kimg=0.2, steps=6, batch=16, group_regex=r"(p\d+)_"
)
COUNTS = {"three": 48, "eight": 24}
ITEMS = [(np.zeros((1, 8, 8), dtype=np.uint8), 0)]
"""A data set of one image, where it does not get as far as that."""


def write_digits(root: Path, counts: dict[str, int], *, first: int = 0, dtype: Any = np.uint8) -> Path:
    """Write digits as PNG, two images of each patient; return `root`."""
    images, labels = digits(3, 8)
    for label, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        chosen = images[labels == label][first : first + count, 0].astype(dtype)
        for number, image in enumerate(chosen * (1 if dtype is np.uint8 else 200)):
            patient = f"p{label}{(first + number) // 2:03d}"
            Image.fromarray(image).save(root / name / f"{patient}_{number}.png")
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits") / "data", COUNTS)


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study. Do not write to it."""
    out = tmp_path_factory.mktemp("studies") / "study"
    study(data, out, SMALL, device="cpu", jobs=1)
    return out


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A study that may be gone on with."""
    return Path(shutil.copytree(finished, tmp_path / "study"))


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the trainings of generators, and those of classifiers by arm, but for the one that measures the time."""
    counted: Counter[str] = Counter()
    train, trial = generators.fit, folder_study.run_trial

    def counting_fit(*given: Any, **options: Any) -> Any:
        counted["generators"] += 1
        return train(*given, **options)

    def counting_trial(asked: Any, *given: Any) -> Any:
        if asked.data_sha256:
            counted[asked.arm] += 1
        return trial(asked, *given)

    monkeypatch.setattr(generators, "fit", counting_fit)
    monkeypatch.setattr(folder_study, "run_trial", counting_trial)
    return counted


def again(data: Path, out: Path, settings: StudySettings = SMALL, **options: Any) -> StudyOutcome:
    return study(data, out, settings, device="cpu", jobs=1, **options)


def strict(text: str) -> Any:
    """Parse JSON that has no NaN and no infinity, which other readers refuse."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_verdict_file_holds_all_that_was_found(finished: Path, data: Path) -> None:
    found = strict((finished / VERDICT).read_text())
    assert (found["format"], found["version"], found["classes"]) == ("ganaug-verdict", 1, ["eight", "three"])
    assert list(found["arms"]) == list(ARMS)
    said = found["verdict"]
    # Two seeds and two generators never suffice.
    assert said["word"] == "cannot tell"
    assert "generators are too few" in said["sentence"]
    assert said["treatment"] == "synthetic"
    assert said["baseline"] in ("as-is", "augmented")
    assert found["chosen_on_validation"] == {"with_generator": said["treatment"], "without": said["baseline"]}
    assert said["smallest_gain"] == SMALL.smallest_gain
    assert said["difference"]["low"] <= said["difference"]["mean"] <= said["difference"]["high"]
    assert len(said["difference"]["per_seed"]) == SMALL.seeds
    assert 0 < said["sign_flip_p"] <= 1
    assert found["rare_classes"] == []
    assert found["seeds"] == [0, 1]
    assert found["generators"] == [0, 1]
    assert set(found["parts"]) == {"val", "test"}
    for arm in ARMS:
        scores = found["parts"]["test"]["scores"][arm]
        assert list(scores) == list(MEASURES)
        assert all(len(values) == 2 and all(0 <= value <= 1 for value in values) for values in scores.values())
    rows = found["parts"]["test"]["against_reference"]
    assert set(rows) == set(ARMS) - {"augmented"}
    for row in rows.values():
        assert row["reference"] == "augmented"
        assert set(row["points"]) == set(MEASURES)
        assert row["p"] <= row["p_holm"] <= 1
    assert found["settings"]["augmentation"] in found["settings"]["tuning"]
    images = {part: found["parts"][part]["images"] for part in ("val", "test")}
    assert {name: found["train_images"][name] + images["val"][name] + images["test"][name] for name in COUNTS} == COUNTS
    assert found["parts"]["test"]["groups"] == sum(images["test"].values()) // 2


def test_the_page_renders_says_the_verdict_first_and_fits_a_phone(finished: Path, tmp_path: Path) -> None:
    page = finished / "report.html"
    check_page(page.read_text())
    measure = "document.title = `wide ${document.documentElement.scrollWidth - innerWidth}`;"
    found = opened(page, tmp_path, script=measure, width=500)
    assert "<title>wide 0</title>" in found or "<title>wide -" in found
    assert found.index("Verdict:") < found.index("<h2>")


def test_a_generator_knows_the_training_part_alone_and_no_patient_is_on_two_sides(finished: Path, data: Path) -> None:
    parts = read_parts(data, SMALL, None, None, None, False)
    groups = {name: {item.group for item in manifest.items} for name, manifest in parts.manifests.items()}
    assert all(groups.values())
    assert sum(map(len, groups.values())) == len(set().union(*groups.values())) == sum(COUNTS.values()) / 2
    training = {item.sha256 for item in parts.manifests["train"].items}
    for number in (0, 1):
        known = Run(finished / "generators" / f"conditional-{number}" / "run").train_manifest()
        assert {entry["sha256"] for entry in known["files"]} == training
    models = [(finished / "generators" / f"conditional-{n}" / "run" / "generator.safetensors") for n in (0, 1)]
    assert models[0].read_bytes() != models[1].read_bytes()


def test_the_same_call_goes_on_and_does_nothing_twice(data: Path, copy: Path, done: Counter[str]) -> None:
    before = (copy / VERDICT).read_bytes()
    again(data, copy)
    assert not done
    assert (copy / VERDICT).read_bytes() == before
    lost = [next(copy.glob(f"trials/{arm}-*-001-*.npz")) for arm in ("as-is", "synthetic")]
    lost[0].unlink()
    lost[1].write_bytes(lost[1].read_bytes()[:100])
    again(data, copy)
    assert done == {"as-is": 1, "synthetic": 1}
    assert (copy / VERDICT).read_bytes() == before


def test_where_no_class_is_rarer_nothing_is_translated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(folder_study._Study, "run", lambda self: seen.append(self.asked.arms))
    said: list[str] = []
    for name, counts in (("balanced", {"three": 24, "eight": 24}), ("rare", {"three": 48, "eight": 24})):
        folder = write_digits(tmp_path / name, counts)
        asked = replace(SMALL, arms=("augmented", "synthetic", "translated"))
        folder_study.study(folder, tmp_path / f"{name}-out", asked, say=said.append)
    assert seen == [("augmented", "synthetic"), ("augmented", "synthetic", "translated")]
    assert [line for line in said if "translated" in line] == [
        "The arm translated is left out: no class is rarer than another that it could be filled from."
    ]


def test_two_processes_do_not_study_into_one_folder(data: Path, copy: Path, done: Counter[str]) -> None:
    with only_writer(copy), pytest.raises(ConfigError, match="Another process is writing to"):
        again(data, copy)
    assert not done


def test_more_seeds_and_arms_are_added_to_what_is_there(data: Path, copy: Path, done: Counter[str]) -> None:
    outcome = again(data, copy, replace(SMALL, seeds=3, arms=(*ARMS, "mixup", "synthetic-third")))
    # The third seed; of "augmented" with each augmentation that is tuned over.
    assert done == {"as-is": 1, "augmented": 3, "duplicates": 1, "synthetic": 1, "mixup": 3, "synthetic-third": 3}
    assert outcome.generators == (0, 1, 0)
    assert outcome.arms == (*ARMS, "mixup", "synthetic-third")


def test_a_source_that_is_added_later_finds_its_generators_trained(
    data: Path, copy: Path, done: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = generators._filled
    monkeypatch.setattr(generators, "_filled", lambda job, gan, source: fill(job, gan, "synthetic") | {"as": source})
    monkeypatch.setattr(generators, "bank_folder", lambda folder, source: folder / "bank-synthetic")
    monkeypatch.setattr(folder_study, "bank_folder", lambda folder, source: folder / "bank-synthetic")
    monkeypatch.setattr(folder_study, "write_study_report", lambda *given: None)
    outcome = again(data, copy, replace(SMALL, arms=(*ARMS, "filtered")))
    assert "filtered" in outcome.arms
    assert done == {"filtered": 2}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": 7}, "differs in steps"),
        ({"smallest_gain": 0.1}, "differs in smallest_gain"),
        ({"split_seed": 1}, "differs in split_seed"),
        ({"kimg": 0.4, "seeds": 5}, "differs in kimg[.]"),
    ],
)
def test_another_setting_is_refused_in_a_folder_that_holds_a_study(
    change: dict[str, Any], named: str, data: Path, copy: Path, done: Counter[str]
) -> None:
    before = {file: file.stat().st_mtime_ns for file in copy.rglob("*") if file.is_file()}
    with pytest.raises(ConfigError, match=named):
        again(data, copy, replace(SMALL, **change))
    assert not done
    assert {file: file.stat().st_mtime_ns for file in copy.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("kept", [{"thesis.txt": "x"}, {"study.json": "{"}, {"study.json": '{"settings": {}}'}])
def test_a_folder_that_cannot_take_the_study_is_refused_before_any_image_is_read(
    kept: dict[str, str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_study, "read_parts", lambda *given: pytest.fail("images were read"))
    for name, text in kept.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=r"(Choose another folder|another --out), or (add )?--overwrite"):
        again(data, tmp_path)
    with pytest.raises(ConfigError, match="not made by ganaug"):
        again(data, tmp_path, overwrite=True)


def fake_training(clock: list[float], *, first: float, scoring: float, step: float) -> Any:
    """Return a stand-in for `run_trial` that takes time on `clock` alone."""

    def run(trial: Trial, *_: Any) -> str:
        clock[0] += (first if clock[0] == 0 else 0.0) + scoring + step * trial.steps
        return trial.key

    return run


@pytest.mark.parametrize(
    ("length", "minutes"), [({"minutes": 3.0, "kimg": None}, 3), ({"minutes": 5.0, "kimg": 0.2}, 7)]
)
def test_the_estimate_counts_the_first_step_and_the_scoring_once_and_minutes_only_where_they_are_asked_for(
    length: dict[str, Any], minutes: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(folder_study, "run_trial", fake_training(clock, first=30.0, scoring=2.0, step=0.04))
    monkeypatch.setattr(folder_study.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(generators, "probe", lambda plan: {"expected_minutes": 7.0})
    lines: list[str] = []

    def stop(line: str) -> None:
        lines.append(line)
        if line.startswith("Estimate"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        again(data, tmp_path / "out", replace(SMALL, steps=600, seeds=10, **length), say=stop)
    # 4 arms of 10 seeds, and 3 seeds of the two other augmentations.
    total, trainings = 2 * minutes + 46 * 26 / 60, 46
    assert lines[-1] == (
        f"Estimate: {math.ceil(total)} minutes, {2 * minutes} for 2 generators and 20 for {trainings} trainings of "
        "26 s, 1 side by side. Stopped, it goes on with the same command."
    )


def test_the_estimate_of_a_study_that_goes_on_is_of_what_is_left(
    data: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    again(data, copy, say=lines.append)
    assert not [line for line in lines if "Estimate" in line]
    next(copy.glob("trials/synthetic-*-001-*.npz")).unlink()
    again(data, copy, say=lines.append)
    (estimate,) = [line for line in lines if "Estimate" in line]
    assert " 0 for 0 generators and 1 for 1 training of " in estimate


@pytest.mark.parametrize("overwrite", [False, True])
def test_ctrl_c_says_how_to_go_on(overwrite: bool, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(folder_study, "read_parts", stopped)
    result = CliRunner().invoke(
        main, ["study", str(data), "--out", str(tmp_path / "out"), *(["--overwrite"] if overwrite else [])]
    )
    assert result.exit_code == 1
    assert "Stopped." in result.output
    assert "same command goes on" in result.output
    assert ("without --overwrite" in result.output) == overwrite
    assert "--resume" not in result.output


def test_other_folders_and_images_that_cannot_be_studied_are_refused_before_anything_is_trained(
    data: Path, copy: Path, tmp_path: Path, done: Counter[str]
) -> None:
    other = write_digits(tmp_path / "other", COUNTS, first=60)
    with pytest.raises(ConfigError, match="differs in the images"):
        again(other, copy)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(ConfigError, match="not empty"):
        again(data, tmp_path / "mine")
    small = write_digits(tmp_path / "small", {"three": 40, "eight": 8})
    with pytest.raises(DataError, match=r"test has 2 of 'eight' \(5 wanted\)"):
        again(small, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not done


def test_test_images_of_a_class_that_are_all_of_one_patient_are_refused_before_anything_is_trained(
    tmp_path: Path, done: Counter[str]
) -> None:
    root = write_digits(tmp_path / "data", {"three": 40, "eight": 30})
    rows = ["file_name,label,group,split"]
    for name, count in (("three", 40), ("eight", 30)):
        for number, file in enumerate(sorted((root / name).iterdir())):
            split = "train" if number < count / 2 else "val" if number < count / 2 + 6 else "test"
            group = "one" if (name, split) == ("eight", "test") else file.stem
            rows.append(f"{name}/{file.name},{name},{group},{split}")
    (root / "metadata.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(DataError, match=r"test has 'eight' of 1 patient"):
        again(root, tmp_path / "out", replace(SMALL, group_regex=None))
    assert not done


def test_a_column_of_splits_is_taken(tmp_path: Path) -> None:
    root = write_digits(tmp_path / "data", COUNTS)
    files = sorted(root.rglob("*.png"))
    patients = sorted({file.name.split("_")[0] for file in files})
    split = {patient: ("train", "test", "train", "val", "test")[n % 5] for n, patient in enumerate(patients)}
    rows = [f"{file.parent.name}/{file.name},{file.parent.name},{split[file.name.split('_')[0]]}" for file in files]
    (root / "metadata.csv").write_text("\n".join(["file_name,label,split", *rows]) + "\n")
    parts = read_parts(root, replace(SMALL, group_regex=None), None, None, None, False)
    assert parts.notes == ("Split as metadata.csv says.",)
    for part, manifest in parts.manifests.items():
        wanted = sorted(row.split(",")[0] for row in rows if row.endswith(part))
        assert sorted(item.path for item in manifest.items) == wanted
    without = [row.replace(",val", ",train") for row in rows]
    (root / "metadata.csv").write_text("\n".join(["file_name,label,split", *without]) + "\n")
    with pytest.raises(DataError, match="names no image for val"):
        read_parts(root, SMALL, None, None, None, False)
    mixed = [rows[0].replace(",test", ",train"), *rows[1:]]
    assert mixed != rows
    (root / "metadata.csv").write_text("\n".join(["file_name,label,split", *mixed]) + "\n")
    with pytest.raises(LeakError, match="of a training group"):
        read_parts(root, SMALL, None, None, None, False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of digits, and a run that knows the first 24 and 12 of them. Do not write to them."""
    folder = tmp_path_factory.mktemp("run")
    known = write_digits(folder / "known", {"three": 24, "eight": 12})
    run = fit(known, folder / "run", **SETTINGS, kimg=0.1, group_regex=SMALL.group_regex).path
    whole = write_digits(folder / "whole", COUNTS)
    return whole, run


def test_the_training_images_of_a_given_run_are_the_training_part(trained: tuple[Path, Path]) -> None:
    whole, run = trained
    parts = read_parts(whole, SMALL, run, None, None, False)
    assert parts.manifests["train"].counts == {"eight": 12, "three": 24}
    held_out = [parts.manifests[part].counts for part in ("val", "test")]
    assert sum(sum(counts.values()) for counts in held_out) == 36
    assert sum(held_out[0].values()) < sum(held_out[1].values())


def test_test_patients_that_a_given_run_knows_are_refused(
    trained: tuple[Path, Path], tmp_path: Path, done: Counter[str]
) -> None:
    whole, run = trained
    root = Path(shutil.copytree(whole, tmp_path / "more"))
    image = np.random.default_rng(0).integers(0, 255, (8, 8)).astype(np.uint8)
    Image.fromarray(image).save(root / "three" / "p0000_another.png")
    with pytest.raises(LeakError, match=r"p0000_another\.png \(of a training group\)"):
        study(root, tmp_path / "out", SMALL, run=run, device="cpu", jobs=1)
    # Also where this folder lacks the images by which the run knows them.
    for file in root.glob("three/p0000_[01].png"):
        file.unlink()
    with pytest.raises(LeakError, match=r"p0000_another\.png"):
        study(root, tmp_path / "out", SMALL, run=run, device="cpu", jobs=1)
    assert not done
    assert not (tmp_path / "out").exists()


def test_a_run_of_other_images_or_classes_is_refused(trained: tuple[Path, Path], tmp_path: Path) -> None:
    whole, run = trained
    other = write_digits(tmp_path / "other", COUNTS, first=100)
    with pytest.raises(DataError, match="None of the 72 images"):
        read_parts(other, SMALL, run, None, None, False)
    known = run.parent / "known"
    with pytest.raises(DataError, match="All of the 36 images"):
        read_parts(known, SMALL, run, None, None, False)
    renamed = Path(shutil.copytree(whole, tmp_path / "renamed"))
    (renamed / "eight").rename(renamed / "acht")
    with pytest.raises(DataError, match=r"has the classes acht, three, the run .* eight, three"):
        read_parts(renamed, SMALL, run, None, None, False)


def test_a_given_run_is_examined_and_no_other_is_trained(
    trained: tuple[Path, Path], tmp_path: Path, done: Counter[str]
) -> None:
    whole, run = trained
    outcome = again(whole, tmp_path / "out", replace(SMALL, arms=(*ARMS, "translated")), run=run)
    assert done["generators"] == 0
    assert outcome.arms == ARMS
    assert outcome.generators == (0, 0)
    found = outcome.verdict()
    assert found is not None
    # One generator: the seeds are what was drawn, and the sentence says what that leaves out.
    assert found["difference"]["generators"] == 0


def test_another_site_and_a_target_are_checked(data: Path, tmp_path: Path) -> None:
    site = write_digits(tmp_path / "site", {"three": 30, "eight": 14}, first=100)
    unlabelled = write_digits(tmp_path / "target", {"x": 30}, first=140)
    parts = read_parts(data, SMALL, None, site, unlabelled / "x", False)
    assert set(parts.manifests) == {"train", "val", "test", "site"}
    assert parts.target is not None
    assert len(parts.target) == 30
    with pytest.raises(LeakError, match=r"are both .*: what a generator learns from is not tested on"):
        read_parts(data, SMALL, None, site, site, False)
    copy = Path(shutil.copytree(site, tmp_path / "copy"))
    with pytest.raises(LeakError, match="44 of 44 held-out images"):
        # What a generator learns from is not tested on, with labels or without.
        read_parts(data, SMALL, None, site, copy, False)
    few = write_digits(tmp_path / "few", {"three": 30, "eight": 3}, first=100)
    with pytest.raises(DataError, match=r"site has 3 of 'eight'"):
        read_parts(data, SMALL, None, few, None, False)
    with pytest.raises(ConfigError, match="needs --target"):
        study(data, tmp_path / "out", replace(SMALL, arms=("augmented", "site")))


def test_a_test_folder_that_is_the_studys_own_is_called_so(data: Path, tmp_path: Path) -> None:
    with pytest.raises(LeakError, match=r"is the folder of the study itself.*leave --test out"):
        read_parts(data, SMALL, None, data.parent / "." / data.name, None, False)
    site = write_digits(tmp_path / "site", {"three": 30, "eight": 14}, first=100)
    # One of the study's own images, whichever part it is in, under another name and as another patient.
    own = Image.open(sorted((data / "three").iterdir())[0])
    own.save(site / "three" / "p9999_0.tif")
    with pytest.raises(LeakError, match=r"1 of the 45 images of --test .* are images of .*data too: three.p9999_0.tif"):
        read_parts(data, SMALL, None, site, None, False)
    (site / "three" / "p9999_0.tif").rename(tmp_path / "away.tif")
    next((site / "three").iterdir()).rename(site / "three" / "p0000_7.png")
    with pytest.raises(LeakError, match=r"has 1 patient of .*data too: p0000.*other names"):
        read_parts(data, SMALL, None, site, None, False)


@pytest.mark.slow
def test_the_other_site_is_scored_beside_and_its_images_are_translated_to(data: Path, tmp_path: Path) -> None:
    site = write_digits(tmp_path / "site", {"three": 30, "eight": 14}, first=100)
    target = write_digits(tmp_path / "target", {"x": 30}, first=140) / "x"
    settings = replace(SMALL, arms=("augmented", "site"), kimg=0.05)
    outcome = again(data, tmp_path / "out", settings, test=site, target=target)
    assert outcome.arms == ("augmented", "site")
    found = strict((tmp_path / "out" / VERDICT).read_text())
    assert set(found["parts"]) == {"val", "test", "site"}
    assert found["other_site"]["treatment"] == found["verdict"]["treatment"] == "site"
    assert found["parts"]["site"]["images"] == {"eight": 14, "three": 30}
    other = write_digits(tmp_path / "another", {"x": 30}, first=150) / "x"
    with pytest.raises(ConfigError, match="the other site's images"):
        again(data, tmp_path / "out", settings, test=site, target=other)


@pytest.mark.slow
def test_three_classes_and_translations_that_no_judge_accepts_are_no_obstacle(tmp_path: Path) -> None:
    root = write_digits(tmp_path / "data", {"three": 40, "eight": 24})
    shutil.copytree(root / "three", root / "five")
    for number, file in enumerate(sorted((root / "five").iterdir())):
        Image.open(file).rotate(90).save(root / "five" / f"q{number // 2:03d}_{number}.png")
        file.unlink()
    settings = replace(SMALL, arms=("augmented", "translated"), kimg=0.05, group_regex=r"([pq]\d+)_")
    lines: list[str] = []
    outcome = again(root, tmp_path / "out", settings, say=lines.append)
    assert outcome.arms in (("augmented", "translated"), ("augmented",))
    found = strict((tmp_path / "out" / VERDICT).read_text())
    assert ("translated" in found["arms"]) != any("translated is left out" in line for line in lines)


def test_images_of_16_bits_are_studied(tmp_path: Path) -> None:
    root = write_digits(tmp_path / "data", {"three": 40, "eight": 24}, dtype=np.uint16)
    outcome = again(root, tmp_path / "out", replace(SMALL, arms=("augmented", "synthetic")))
    assert outcome.arms == ("augmented", "synthetic")


def test_the_users_own_network_is_what_is_trained(
    data: Path, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"own_{os.getpid()}"
    (tmp_path / f"{name}.py").write_text(
        textwrap.dedent(
            """
            import torch
            built = []
            def linear(shape, classes):
                built.append((shape, classes))
                size = shape[0] * shape[1] * shape[2]
                return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(size, classes))
            """
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = replace(SMALL, arms=("as-is", "augmented"), model=f"{name}:linear")
    outcome = again(data, tmp_path / "out", settings)
    assert set(sys.modules.pop(name).built) == {((1, 8, 8), 2)}
    # Without a generator there is nothing to say of one.
    assert outcome.verdict() is None
    found = strict((tmp_path / "out" / VERDICT).read_text())
    assert found["verdict"] is None
    with pytest.raises(ModelFileError, match="recommends nothing to add"):
        SyntheticMixDataset.from_verdict(ITEMS, tmp_path / "out")
    with pytest.raises(ConfigError, match="no_such_network"):
        again(data, tmp_path / "other", replace(SMALL, model="no_such_network:build"))
    assert not (tmp_path / "other").exists()


def training_set(data: Path) -> Images:
    parts = read_parts(data, SMALL, None, None, None, False)
    return Images(parts.images["train"], parts.manifests["train"].labels, parts.classes)


def decide(monkeypatch: pytest.MonkeyPatch, word: str, baseline: str = "augmented") -> None:
    """Let the studies that follow come to a verdict."""
    said = {"word": word, "sentence": "", "treatment": "synthetic", "baseline": baseline}
    monkeypatch.setattr(StudyOutcome, "chosen", ("synthetic", baseline))
    monkeypatch.setattr(StudyOutcome, "verdict", lambda self, part="test": said)
    # The page tells of differences, of which there are none here.
    monkeypatch.setattr(folder_study, "write_study_report", lambda *given: None)


def test_the_setting_of_a_study_that_says_use_is_that_of_its_winner(
    data: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    decide(monkeypatch, "use")
    again(data, copy)
    found = strict((copy / VERDICT).read_text())["recommended"]
    assert (found["arm"], found["bank"]) == ("synthetic", "generators/conditional-0/bank-synthetic")
    real = training_set(data)
    moved = copy.rename(copy.parent / "moved")  # a study may be passed on
    mixed = SyntheticMixDataset.from_verdict(real, moved, seed=3)
    assert not [warning for warning in recwarn if "verdict" in str(warning.message)]
    assert mixed.is_synthetic.any()
    assert {name: mixed.sampling_strategy_[name] > 0 for name in mixed.classes} == {"eight": True, "three": True}
    totals = [mixed.sample_weights[mixed.targets == k].sum() for k in (0, 1)]
    assert totals[0] == pytest.approx(totals[1])
    also = SyntheticMixDataset.from_verdict(real, moved / VERDICT, ratio=0.1, symmetric=0.0)
    assert 0 < also.is_synthetic.sum() < mixed.is_synthetic.sum()


@pytest.mark.parametrize("baseline", ["augmented", "as-is"])
@pytest.mark.parametrize("word", ["do not use", "cannot tell"])
def test_the_setting_of_a_study_that_does_not_say_use_adds_nothing_and_warns(
    word: str, baseline: str, data: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide(monkeypatch, word, baseline)
    again(data, copy)
    real = training_set(data)
    with pytest.warns(UserWarning, match=f"'{word}': no synthetic images are added") as caught:
        mixed = SyntheticMixDataset.from_verdict(real, copy)
    assert caught[0].filename == __file__
    assert len(mixed) == len(real)
    assert not mixed.is_synthetic.any()
    totals = [mixed.sample_weights[mixed.targets == k].sum() for k in (0, 1)]
    assert (totals[0] == pytest.approx(totals[1])) == (baseline == "augmented")


def with_recommended(**changes: Any) -> Any:
    return lambda found: found | {"recommended": found["recommended"] | changes}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (with_recommended(bank="../outside"), "outside of the study's folder"),
        (with_recommended(bank="/etc"), "outside of the study's folder"),
        (with_recommended(bank="generators/../../outside"), "outside of the study's folder"),
        (with_recommended(bank="link"), "outside of the study's folder"),
        (with_recommended(bank=None), "recommends nothing to add"),
        (with_recommended(bank=7), "recommends nothing to add"),
        (with_recommended(bank="generators"), "is no bank"),
        (with_recommended(mixture=None), "no verdict that this ganaug reads"),
        (lambda found: found | {"version": 2}, "no verdict that this ganaug reads"),
        (lambda found: found | {"format": "other"}, "no verdict that this ganaug reads"),
        (lambda found: {"format": found["format"], "version": 1}, "no verdict that this ganaug reads"),
        (lambda found: found | {"verdict": "use"}, "no verdict that this ganaug reads"),
        (lambda found: [found], "no verdict that this ganaug reads"),
    ],
)
@pytest.mark.filterwarnings("ignore:The verdict of")
def test_a_garbled_or_hostile_verdict_is_refused(change: Any, says: str, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "generators" / "conditional-0" / "bank-synthetic", tmp_path / "outside")
    folder = tmp_path / "study"
    (folder / "generators").mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path / "outside")
    (folder / VERDICT).write_text(json.dumps(change(json.loads((finished / VERDICT).read_text()))))
    with pytest.raises(ModelFileError, match=says):
        SyntheticMixDataset.from_verdict(ITEMS, folder)


def test_no_verdict_and_no_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="does not exist"):
        SyntheticMixDataset.from_verdict(ITEMS, tmp_path)
    (tmp_path / VERDICT).write_text('{"format": ')
    with pytest.raises(ModelFileError, match="cannot be read as JSON"):
        SyntheticMixDataset.from_verdict(ITEMS, tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"arms": ("augmented", "sinthetic")}, r"names 'sinthetic', .* Did you mean 'synthetic'\? There are: as-is,"),
        ({"arms": ("augmented", "x\x1b[2J")}, r"names 'x\\\\x1b\[2J', which is no arm. There are"),
        ({"arms": ("augmented", "mixup", "augmented")}, "names 'augmented' twice"),
        ({"arms": ("synthetic", "duplicates")}, "one without is wanted too"),
        ({"arms": ()}, "names nothing"),
        ({"seeds": 1}, "--seeds 1"),
        ({"generators": 0}, "--generators 0"),
        ({"steps": 0}, "--steps 0"),
    ],
)
def test_settings_without_sense_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        replace(SMALL, **change)
