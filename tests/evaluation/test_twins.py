"""Counterfactual twins: what changed, whom it convinces, and what is said of it."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ganaug.data import scan
from ganaug.errors import ConfigError, DataError, LeakError
from ganaug.evaluation import twin_judge
from ganaug.evaluation.change import CHANGED, LEAST_SPOT, MOST_CHANGED, foreground, measure
from ganaug.evaluation.twin_judge import TwinJudge, train_twin_judge
from ganaug.evaluation.twin_picture import colored
from ganaug.evaluation.twins import Twin, make_twins, shown
from ganaug.sampling import SyntheticBank, Translator, load
from ganaug.sampling.leak import validate_against
from ganaug.training.judge import Judge
from tests.phantom import phantom
from tests.sampling.translation_models import make_translator
from tests.tiny import make_model, write_shapes

STEPS = 40
"""Of each member of a judge that tells crosses from disks."""
PATIENT = r"\d+"
"""Number 7 of either class is patient 7."""


def draw_a_disk(image: torch.Tensor) -> torch.Tensor:
    """Return the image (1×16×16) with a disk where its cross was."""
    bright = image[0] > 0
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    disk = torch.hypot(y - y[bright].mean(), x - x[bright].mean()) < 4.5
    return torch.where(disk, 0.6, torch.where(image > -0.3, -0.6, image))


def dim_the_cross(image: torch.Tensor) -> torch.Tensor:
    return torch.where(image > 0, image - 0.5, image)


def brighten_the_background(image: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.from_numpy(foreground(image.numpy())), image, image + 0.5)


KINDS = (draw_a_disk, lambda image: image, torch.neg, brighten_the_background, dim_the_cross)
EXPECTED = ("", "unchanged", "everything", "outside", "unconvinced")


def in_five_ways(images: torch.Tensor, *, to: Any) -> torch.Tensor:
    """Translate each image in the way that its corner says."""
    return torch.stack([KINDS[round((float(image[0, 0, 0]) + 1) * 127.5) % 5](image) for image in images])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 crosses and 20 disks of as many patients; the corner of image n is 40 + n modulo 5."""
    root = write_shapes(tmp_path_factory.mktemp("twins") / "data", {"cross": 20, "disk": 20})
    for path in root.rglob("*.png"):
        pixels = np.asarray(Image.open(path)).copy()
        pixels[0, 0] = 40 + int(path.stem) % 5
        Image.fromarray(pixels).save(path)
    return root


@pytest.fixture(scope="module")
def gan(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Translator:
    """A model that translates `in_five_ways`, whose training knew patient 3 and the image 5 of the crosses."""
    run = tmp_path_factory.mktemp("run")
    known = [("aa" * 32, hashlib.sha256(b"003").hexdigest()), (sha256_of(data / "cross" / "005.png"), "bb" * 32)]
    files = [{"label": 0, "sha256": sha256, "group_hash": group} for sha256, group in known]
    text = json.dumps({"classes": [], "files": files})
    (run / "train_manifest.json").write_text(text)
    training = {"train_manifest_sha256": hashlib.sha256(text.encode()).hexdigest()}
    made = make_translator(run / "generator.safetensors", domains=("cross", "disk"), training=training)
    made.translate = in_five_ways  # type: ignore[method-assign]
    return made


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def made(gan: Translator, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("made") / "out"
    return out, make_twins(gan, data, out, to="disk", group_regex=PATIENT, steps=STEPS)


@pytest.fixture(scope="module")
def judge(gan: Translator, data: Path) -> TwinJudge:
    return train_twin_judge(gan, data, to="disk", group_regex=PATIENT, steps=STEPS)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "twins.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_drawn_disk_is_told_from_what_is_no_twin(made: tuple[Path, dict[str, Any]]) -> None:
    out, summary = made
    rows, threshold = rows_of(out), summary["judge"]["threshold"]
    assert summary["judge"]["balanced_accuracy"] > 0.9
    for n, row in enumerate(rows):
        if n % 5 == 0:  # a fifth of the real disks would not pass either
            passes = float(row["p_target_after"]) >= threshold
            assert row["reason"] == ("" if passes else "unconvinced"), row
            assert float(row["p_target_after"]) > float(row["p_target_before"]) + 0.3
        else:
            assert row["reason"] == EXPECTED[n % 5], (n, row)
        assert row["accepted"] == ("no" if row["reason"] else "yes")
    accepted = sum(row["accepted"] == "yes" for row in rows)
    assert accepted >= 2
    assert summary["by_class"] == {"cross": {"tried": 20, "accepted": accepted}}
    assert summary["rejected"] == {**dict.fromkeys(EXPECTED[1:], 4), "unconvinced": 8 - accepted}


def test_the_table_names_the_sources_by_hash_and_marks_those_of_the_training(
    made: tuple[Path, dict[str, Any]], data: Path
) -> None:
    out, summary = made
    rows = rows_of(out)
    assert tuple(rows[0]) == tuple(Twin.__dataclass_fields__)
    for n, row in enumerate(rows):
        assert row["source"] == sha256_of(data / "cross" / f"{n:03d}.png")
        assert (row["position"], row["source_class"], row["target_class"]) == (str(n), "cross", "disk")
        assert row["in_training"] == ("yes" if n in (3, 5) else "no")
        for when in ("before", "after"):
            assert abs(float(row[f"p_target_{when}"]) + float(row[f"p_source_{when}"]) - 1) < 2e-4
    assert rows[1]["p_target_before"] == rows[1]["p_target_after"], "it changes nothing"
    assert summary["in_training"] == {"no": 18, "yes": 2}
    text = "".join((out / name).read_text() for name in ("twins.csv", "twins.json", "request.json"))
    assert ".png" not in text
    assert str(data) not in text


def test_the_difference_maps_make_the_translations_of_the_sources(
    made: tuple[Path, dict[str, Any]], data: Path
) -> None:
    differences = np.load(made[0] / "differences.npy")
    pixels = np.stack([np.asarray(Image.open(data / "cross" / f"{n:03d}.png")) for n in range(20)])[:, None]
    unit = torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1)
    assert np.allclose(unit.numpy() + differences, in_five_ways(unit, to="disk").numpy(), atol=1e-6)
    picture = Image.open(made[0] / "twins.png")
    assert picture.mode == "RGB"
    # Two or more accepted ones, and two for each of four reasons.
    assert picture.height > 10 * 128


def test_the_same_call_finds_its_work_done_and_another_is_refused(
    made: tuple[Path, dict[str, Any]], gan: Translator, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, summary = made
    monkeypatch.setattr(twin_judge, "train_judge", lambda *_, **__: pytest.fail("no judge is to be trained"))
    options: dict[str, Any] = {"to": "disk", "group_regex": PATIENT, "steps": STEPS}
    assert make_twins(gan, data, out, **options) == summary
    with pytest.raises(ConfigError, match="--overwrite"):
        make_twins(gan, data, out, **options, count=3)


def test_a_twin_is_judged_by_the_member_that_has_not_seen_its_patient(
    judge: TwinJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert judge.judge is not None
    groups, folds = judge.data.groups, judge.judge.folds
    assert len({*zip(groups, folds.tolist(), strict=True)}) == 20, "a patient's cross and disk are in one fold"
    asked: list[int | None] = []
    whole = Judge.probabilities

    def watched(self: Judge, images: torch.Tensor, *, without: int | None = None) -> np.ndarray:
        asked.append(without)
        return whole(self, images, without=without)

    monkeypatch.setattr(Judge, "probabilities", watched)
    for position in range(20):
        real = judge.data.read(np.array([position]))
        found, before = judge.after(position, real[0]), judge.before(position)
        assert found is not None
        assert before is not None
        assert np.allclose(found, before, atol=1e-6)
    assert asked == folds[:20].tolist()


def noise_judge(*_: Any, classes: int, **__: Any) -> Judge:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(classes), size=40)
    return Judge((), np.zeros(40, int), probabilities)


def test_a_judge_that_cannot_tell_the_classes_makes_no_verdict(
    gan: Translator, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(twin_judge, "train_judge", noise_judge)
    summary = make_twins(gan, data, tmp_path / "out", to="disk", group_regex=PATIENT)
    assert 0.3 < summary["judge"]["balanced_accuracy"] < 0.7
    assert summary["accepted"] == 0
    assert summary["rejected"] == {"unchanged": 4, "everything": 4, "outside": 4, "no verdict": 8}
    assert summary["verdict"].startswith("The judge cannot tell the classes")
    assert {row["p_target_after"] for row in rows_of(tmp_path / "out")} == {""}
    judge = train_twin_judge(gan, data, to="disk", group_regex=PATIENT)
    with pytest.raises(ConfigError, match="cannot tell the classes"):
        SyntheticBank.translate(gan, tmp_path / "bank", data, to="disk", accept=judge)


def test_a_judge_is_not_believed_where_real_sources_pass_as_they_are(
    gan: Translator, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lenient(*_: Any, **__: Any) -> Judge:
        of_disk = np.where(np.arange(40) < 20, 0.49, 0.9)  # right on all of them
        of_disk[20:26] = 0.4  # but for six of the disks
        return Judge((), np.zeros(40, int), np.stack([1 - of_disk, of_disk], axis=1))

    monkeypatch.setattr(twin_judge, "train_judge", lenient)
    judge = train_twin_judge(gan, data, to="disk", group_regex=PATIENT)
    assert judge.accuracy == pytest.approx(0.85)
    assert judge.untouched == 1
    assert "takes 100% of the real sources for 'disk'" in judge.problem


def test_too_few_images_or_patients_make_no_judge(gan: Translator, data: Path, tmp_path: Path) -> None:
    small = write_shapes(tmp_path / "small", {"cross": 12, "disk": 9})
    assert "'disk' has 9 images of 9 patients" in train_twin_judge(gan, small, to="disk").problem
    one = train_twin_judge(gan, data, to="disk", group_regex=r"\d\d(?=\d)")
    assert "'cross' has 20 images of 2 patients" in one.problem
    assert one.judge is None


def test_a_small_class_that_nobody_asks_for_does_not_stop_the_judge(tmp_path: Path) -> None:
    three = make_translator(tmp_path / "generator.safetensors")
    data = write_shapes(tmp_path / "data", {"cross": 10, "disk": 10, "ring": 2})
    assert "'ring' has 2 images" in train_twin_judge(three, data, to="disk", steps=1).problem
    asked = train_twin_judge(three, data, to="disk", source="cross", steps=1)
    assert [three.classes[c] for c in asked.classes] == ["cross", "disk"]
    assert asked.judge is not None
    assert asked.judge.folds[20:].tolist() == [-1, -1]


def test_what_makes_no_twins_is_refused(gan: Translator, data: Path, tmp_path: Path) -> None:
    style = make_translator(tmp_path / "style" / "generator.safetensors", domains=("cross", "disk"), rule="style")
    noise: Any = load(make_model(tmp_path / "noise.safetensors"), device="cpu")
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"rule style\); twins need one that turns one class into another"):
        make_twins(style, data, out, to="disk")
    with pytest.raises(ConfigError, match="translates nothing; twins need"):
        make_twins(noise, data, out, to="disk")
    with pytest.raises(ConfigError, match="count is 21, and there are 20 images"):
        make_twins(gan, data, out, to="disk", count=21)
    with pytest.raises(ConfigError, match="'ring'"):
        make_twins(gan, data, out, to="ring")
    with pytest.raises(ConfigError, match="seed is -1"):
        make_twins(gan, data, out, to="disk", seed=-1)
    unlabelled = scan(data).subset([0, 21])
    unlabelled = replace(unlabelled, items=tuple(replace(item, label=-1) for item in unlabelled.items))
    with pytest.raises(DataError, match="without a label"):
        make_twins(gan, unlabelled, out, to="disk")
    assert not out.exists()


def test_a_bank_holds_what_the_judge_accepts(
    made: tuple[Path, dict[str, Any]], gan: Translator, judge: TwinJudge, data: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"to": "disk", "group_regex": PATIENT, "accept": judge}
    bank = SyntheticBank.translate(gan, tmp_path / "bank", data, **options)
    accepted = [int(row["position"]) for row in rows_of(made[0]) if row["accepted"] == "yes"]
    assert bank.indices.tolist() == accepted
    assert bank.acceptance == {"cross": {"tried": 20, "accepted": len(accepted)}}
    one_by_one = SyntheticBank.translate(gan, tmp_path / "one", data, **options, batch=1)
    assert one_by_one.indices.tolist() == accepted
    with pytest.raises(LeakError, match=r"^40 of 40 "):
        validate_against(bank, data, group_regex=PATIENT)
    others = write_shapes(tmp_path / "others", {"cross": 12, "disk": 12}, seed=5)
    with pytest.raises(ConfigError, match="has not seen a source image"):
        SyntheticBank.translate(gan, tmp_path / "others-bank", others, **options)


def test_the_picture_shows_the_clearest_of_each_reason() -> None:
    def twin(reason: str, **values: Any) -> Twin:
        defaults: dict[str, Any] = dict.fromkeys(Twin.__dataclass_fields__, 0.5)
        return Twin(**{**defaults, "reason": reason, "accepted": not reason, **values})

    accepted = [twin("", p_target_after=p) for p in (0.9, 0.5, 0.6, 0.7, 0.8, 0.55, 0.65)]
    rejected = [twin("outside", outside=share) for share in (0.2, 0.9, 0.5)]
    doubted = [twin("unconvinced", p_target_after=p) for p in (0.3, 0.1, 0.2)]
    # Of seven by their probability the first, third, fifth and last.
    assert shown([*accepted, *rejected, *doubted]) == [1, 2, 3, 0, 8, 9, 11, 12]
    assert shown([]) == []


def test_a_difference_is_white_at_zero_red_where_brighter_and_blue_where_darker() -> None:
    color = colored(np.array([[[0.0, 0.5, -0.5, 2.0]], [[0.0, 0.1, 0.1, -0.1]]], np.float32))
    assert color[:, 0, 0].tolist() == [1, 1, 1]
    red, blue, most = color[:, 0, 1], color[:, 0, 2], color[:, 0, 3]
    assert red[0] > red[2]
    assert blue[2] > blue[0]
    assert most[0] - most[2] > red[0] - red[2]


def body(side: int = 32, dims: int = 2, channels: int = 1, dark: float = -1.0) -> np.ndarray:
    """A body of half the image's side in noisy air."""
    axes = np.meshgrid(*[np.linspace(-1, 1, side)] * dims, indexing="ij")
    inside = np.sum(np.square(axes), axis=0) < 0.25
    noise = np.random.default_rng(0).normal(0, 0.03, (channels, *inside.shape))
    return (np.where(inside, 0.3, dark) + noise).astype(np.float32)


@pytest.mark.parametrize(("dims", "channels", "dark"), [(2, 1, -1.0), (2, 3, 0.9), (3, 1, -0.4)])
def test_the_foreground_is_the_body_with_a_margin(dims: int, channels: int, dark: float) -> None:
    image = body(dims=dims, channels=channels, dark=dark)
    found = foreground(image)
    assert found.shape == image.shape[1:]
    axes = np.meshgrid(*[np.linspace(-1, 1, 32)] * dims, indexing="ij")
    distance = np.sqrt(np.sum(np.square(axes), axis=0))
    assert found[distance < 0.5].all()
    assert not found[distance > 0.8].any()


def test_cavities_and_gaps_of_a_body_are_foreground() -> None:
    image = body()
    image[:, 14:18, 14:18] = -1  # an airway
    image[:, 14:18, 20:] = -1  # a bay that is open to the air
    assert foreground(image)[14:18, 14:22].all()


def test_an_image_that_fills_its_frame_is_all_foreground() -> None:
    ramp = np.linspace(-1, 1, 32, dtype=np.float32)
    assert foreground(np.tile(ramp, (1, 32, 1))).all()
    assert foreground(np.zeros((1, 32, 32), np.float32)).all(), "one gray throughout"
    framed = body()
    framed[:, :, :2], framed[:, :, -2:], framed[:, :2] = 1, 0, 0.5
    assert foreground(framed).all(), "no level goes round it"


def test_heads_of_the_phantom_have_air_around_them() -> None:
    for seed in range(3):
        scan_ = phantom(np.random.default_rng(seed), (64, 64), lesion=True)
        found = foreground(scan_.image[None] * 2 - 1)
        assert found[scan_.tissues > 0].all()
        assert 0.1 < 1 - found.mean() < 0.4


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (0.0, "unchanged"),
        (CHANGED * 0.9, "unchanged"),
        (CHANGED * 1.1, "everything"),
    ],
)
def test_a_change_counts_from_a_visible_step_on(change: float, reason: str) -> None:
    image = body()
    inside = foreground(image)
    assert measure(image, image + change * inside).problem == reason


def test_a_small_spot_is_a_change_and_a_smaller_one_is_none() -> None:
    image = body(side=64)
    for side, problem in ((2, "unchanged"), (4, "")):
        spotted = image.copy()
        spotted[:, 30 : 30 + side, 30 : 30 + side] += 0.5
        found = measure(image, spotted)
        assert found.share == pytest.approx(side**2 / 64**2)
        assert (found.share < LEAST_SPOT**2) == bool(problem)
        assert found.problem == problem
        assert found.outside == 0


def test_half_a_body_may_change_and_hardly_any_of_the_air() -> None:
    image = body(side=64)
    inside = foreground(image)
    rows = np.arange(64)[:, None]
    half = measure(image, image + 0.5 * (inside & (rows < 32)))
    assert (half.problem, half.outside) == ("", 0)
    assert 0.4 < half.foreground < 0.6
    most = measure(image, image + 0.5 * (inside & (rows < 46)))
    assert most.foreground > MOST_CHANGED
    assert most.problem == "everything"
    beside = measure(image, image + 0.5 * (inside & (rows < 32)) + 0.5 * (~inside & (rows < 8)))
    assert beside.problem == "outside"
