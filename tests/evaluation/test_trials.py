import json
import multiprocessing
import os
import signal
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ganaug.data.intensity import IntensityMap
from ganaug.errors import ConfigError
from ganaug.evaluation import trials
from ganaug.evaluation.trials import (
    Trial,
    check_model,
    load_model,
    mixture_of,
    read_trial,
    run_trial,
    run_trials,
    save_parts,
    side_by_side,
)
from tests.evaluation.banks import bank_of, digits
from tests.evaluation.marks import leave_mark, sleep_long

CLASSES = ("three", "eight")
TRIAL = Trial("augmented", seed=1, steps=6, batch=16, augment="trivial")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits 3 and 8 as a study writes them for its workers."""
    folder = tmp_path_factory.mktemp("parts")
    images, labels = digits(3, 8)
    rows = {"train": slice(0, 60), "val": slice(60, 90), "test": slice(90, 140)}
    save_parts(folder, {part: (images[one], labels[one]) for part, one in rows.items()}, CLASSES)
    return folder


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images, labels = digits(3, 8)
    return bank_of(tmp_path_factory.mktemp("bank") / "bank", images[150:], labels[150:], CLASSES).path


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])  # a process takes 10 s to import
def test_a_trial_gives_the_same_probabilities_again_here_and_in_processes_of_their_own(
    jobs: int, data: Path, bank: Path, tmp_path: Path
) -> None:
    mixture = mixture_of("synthetic", {"three": 30, "eight": 30})
    asked = [TRIAL, Trial("synthetic", 2, 6, 16, "classical", str(bank), "abc", mixture)]
    torch.manual_seed(5)
    here = [key for one in asked for key in run_trials([one], data, tmp_path / "here", jobs=1)]
    torch.manual_seed(6)
    assert set(run_trials(asked, data, tmp_path / "there", jobs=jobs)) == set(here)
    for trial in asked:
        first, second = (read_trial(tmp_path / name, trial) for name in ("here", "there"))
        assert first is not None
        assert second is not None
        assert list(first) == list(second) == ["val", "test"]
        for part, count in (("val", 30), ("test", 50)):
            assert first[part].shape == (count, 2)
            assert first[part].dtype == np.float32
            np.testing.assert_allclose(first[part].sum(axis=1), 1, rtol=1e-5)
            np.testing.assert_array_equal(first[part], second[part])


def test_a_key_tells_all_that_matters_and_neither_the_banks_place_nor_the_device() -> None:
    same = replace(TRIAL, bank="/elsewhere", device="cuda")
    assert same.key == TRIAL.key
    changes: list[dict[str, Any]] = [
        {"arm": "logit"}, {"seed": 2}, {"steps": 7}, {"batch": 8}, {"augment": "both"}, {"bank_sha256": "a"},
        {"mixture": {"ratio": 1.0}}, {"model": "net:build"}, {"lr": 0.1}, {"data_sha256": "b"},
    ]  # fmt: skip
    keys = {replace(TRIAL, **change).key for change in changes}
    assert len(keys | {TRIAL.key}) == len(changes) + 1
    assert all(key.replace("-", "").isalnum() for key in keys)


def test_a_finished_trial_is_not_trained_again(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_trial(TRIAL, data, tmp_path)
    monkeypatch.setattr(trials, "train_arm", None)
    assert run_trial(TRIAL, data, tmp_path) == TRIAL.key


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 255
    file.write_bytes(content)


def pickled(file: Path) -> None:
    with file.open("wb") as stream:
        np.savez(stream, val=np.array([{}], dtype=object), test=np.zeros((1, 2)))


def another_array(file: Path) -> None:
    with file.open("wb") as stream:
        np.save(stream, np.zeros(3))


@pytest.mark.parametrize("damage", [cut, flipped, pickled, another_array, lambda file: file.write_bytes(b"")])
def test_a_damaged_result_is_made_again(damage: Any, data: Path, tmp_path: Path) -> None:
    run_trial(TRIAL, data, tmp_path)
    file = tmp_path / f"{TRIAL.key}.npz"
    before = read_trial(tmp_path, TRIAL)
    damage(file)
    assert read_trial(tmp_path, TRIAL) is None
    run_trial(TRIAL, data, tmp_path)
    after = read_trial(tmp_path, TRIAL)
    assert before is not None
    assert after is not None
    np.testing.assert_array_equal(before["test"], after["test"])
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_volumes_are_trained_on_and_scored(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = {}
    for part, count in (("train", 16), ("val", 6), ("test", 8)):
        labels = np.arange(count) % 2
        volumes = rng.integers(0, 100, (count, 1, 8, 8, 8)) + 100 * labels[:, None, None, None, None]
        parts[part] = (volumes.astype(np.uint8), labels)
    save_parts(tmp_path, parts, CLASSES)
    trial = Trial("augmented", 0, 30, 8, "classical")
    run_trial(trial, tmp_path, tmp_path)
    found = read_trial(tmp_path, trial)
    assert found is not None
    np.testing.assert_array_equal(found["test"].argmax(axis=1), parts["test"][1])


@pytest.mark.parametrize("spatial", [(8, 8), (4, 8, 8)])
def test_images_of_16_bits_and_those_of_a_bank_go_the_same_way_to_floats(
    spatial: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    intensity = IntensityMap(kind="window", low=1000.0, high=5000.0, dtype="uint16")
    stored = np.random.default_rng(0).integers(1000, 5000, (12, 1, *spatial)).astype(np.uint16)
    labels = np.arange(12) % 2
    images = intensity.forward(stored)
    save_parts(tmp_path, dict.fromkeys(("train", "val", "test"), (images, labels)), CLASSES, intensity)
    monkeypatch.setattr("tests.evaluation.banks._Arrays.intensity", intensity)
    folder = bank_of(tmp_path / "bank", stored, labels, CLASSES).path
    rows = []

    def noted(arm: Any, real: Any, *, mixed: Any, **options: Any) -> Any:  # stands for a training
        rows.extend(np.asarray(mixed[i][0]) for i in np.flatnonzero(mixed.is_synthetic))
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(int(np.prod(spatial)), 2))

    monkeypatch.setattr(trials, "train_arm", noted)
    mixture = {"sampling_strategy": {"three": 9, "eight": 9}}
    run_trial(Trial("synthetic", 0, 1, 4, "classical", str(folder), "x", mixture), tmp_path, tmp_path)
    mixed = np.stack(rows)
    assert mixed.shape == (6, 1, *spatial)
    assert mixed.dtype == np.float32
    gaps = np.abs(mixed[:, None] - images[None]).reshape(6, 12, -1).max(axis=2)
    # Each is one of the images but for the rounding to whole numbers.
    assert (gaps.min(axis=1) < 1e-3).all()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of a user's own, in a folder that Python searches."""
    name = f"users_net_{os.getpid()}"
    (tmp_path / f"{name}.py").write_text(
        textwrap.dedent(
            """
            import torch
            number = 3
            def build(shape, classes):
                return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(shape[0] * shape[1] * shape[2], classes))
            class Nets:
                build = staticmethod(build)
            def fails(shape, classes):
                raise RuntimeError("no such width")
            def no_network(shape, classes):
                return None
            def one_logit(shape, classes):
                return build(shape, 1)
            def two_answers(shape, classes):
                class Both(torch.nn.Module):
                    def forward(self, images):
                        return images, images
                return Both()
            """
        )
    )
    (tmp_path / f"{name}_broken.py").write_text("def build(:\n")
    (tmp_path / f"{name}_raising.py").write_text("raise ValueError('bad day')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    for loaded in [key for key in sys.modules if key.startswith(name)]:
        del sys.modules[loaded]


def test_the_users_network_is_found_and_trained(module: str, data: Path, tmp_path: Path) -> None:
    assert load_model("") is None
    for spec in (f"{module}:build", f"{module}:Nets.build"):
        before = torch.get_rng_state()
        check_model(spec, (1, 8, 8), 2)
        assert torch.equal(torch.get_rng_state(), before)
    trial = replace(TRIAL, model=f"{module}:build", lr=0.01)
    run_trial(trial, data, tmp_path)
    assert read_trial(tmp_path, trial) is not None


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("build", "MODULE:CALLABLE was wanted"),
        (":build", "MODULE:CALLABLE was wanted"),
        ("no_such_module_at_all:build", "No module named"),
        (".relative:build", "MODULE:CALLABLE was wanted"),
        ("{}:missing", "has no attribute 'missing'"),
        ("{}:number", "is a int"),
        ("{}_broken:build", "SyntaxError"),
        ("{}_raising:build", "bad day"),
        ("{}:fails", "no such width"),
        ("{}:no_network", "network that takes"),
        ("{}:one_logit", r"\(2, 1\) for 2 images"),
        ("{}:two_answers", "answers tuple"),
    ],
)
def test_a_model_that_does_not_do_is_named_before_anything_is_trained(spec: str, says: str, module: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_model(spec.format(module), (1, 8, 8), 2)


@pytest.mark.parametrize("jobs", [1, 2])
def test_nothing_new_is_begun_after_an_error(jobs: int, tmp_path: Path) -> None:
    calls = [(leave_mark, (tmp_path, number)) for number in range(40)]
    with pytest.raises(ConfigError, match="the second fails"):
        list(side_by_side(calls, jobs=jobs))
    # With two processes a few are on their way already.
    assert len(list(tmp_path.iterdir())) <= (2 if jobs == 1 else 8)


def test_side_by_side_stops_when_its_caller_stops(tmp_path: Path) -> None:
    calls = [(leave_mark, (tmp_path, number)) for number in range(2, 40)]
    for _ in side_by_side(calls, jobs=2):
        break
    assert len(list(tmp_path.iterdir())) <= 8


def test_ctrl_c_gives_up_what_was_begun_in_other_processes(tmp_path: Path) -> None:
    calls = [(sleep_long, (tmp_path, number)) for number in range(6)]
    before = multiprocessing.active_children()

    def press_when_all_are_busy() -> None:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background may ignore it
    try:
        threading.Thread(target=press_when_all_are_busy, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            list(side_by_side(calls, jobs=2))
    finally:
        signal.signal(signal.SIGINT, handler)
    assert not [process for process in multiprocessing.active_children() if process not in before]
    assert len(list(tmp_path.iterdir())) == 2


def test_parts_have_one_hash_that_tells_them_apart(tmp_path: Path) -> None:
    images, labels = digits(3, 8)

    def hashed(images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...] = CLASSES) -> str:
        return save_parts(tmp_path, {"train": (images[:20], labels[:20])}, classes)

    same = hashed(images, labels)
    assert hashed(images.copy(), labels) == same
    others = {hashed(images[1:], labels), hashed(images, 1 - labels), hashed(images, labels, ("a", "b"))}
    assert len(others | {same}) == 4
    assert json.loads((tmp_path / "classes.json").read_text()) == ["a", "b"]
