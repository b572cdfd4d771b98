"""The parts of the peers' runners that need no peer: arguments, images in and out, the budget."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

peers = pytest.importorskip("benchmarks.peers", reason="benchmarks are not part of the source distribution")
harness = pytest.importorskip("benchmarks.peers.harness")
environments = pytest.importorskip("benchmarks.peers.environments")


def write_images(path: Path, shape: tuple[int, ...], labels: list[int] | None = None) -> Path:
    rng = np.random.default_rng(0)
    labels = labels if labels is not None else [i % 2 for i in range(shape[0])]
    np.savez(path, images=rng.integers(0, 256, shape, dtype=np.uint8), labels=np.array(labels))
    return path


def mean_of_class(options: Namespace, data: harness.Data) -> harness.Trained:
    """A peer that learns the mean image of each class, at 16×16 in color."""
    images = harness.resize_uint8(data.images, options.size).expand(-1, 3, -1, -1).float() / 255
    pairs = list(zip(data.classes, options.per_class, strict=True))
    return harness.Trained(
        images=torch.cat([images[data.labels == c].mean(0, keepdim=True).expand(n, -1, -1, -1) for c, n in pairs]),
        labels=torch.cat([torch.full((n,), c) for c, n in pairs]),
        images_shown=3000,
        cpu_seconds=2.0,
        generator=[torch.nn.Linear(2, 3), torch.nn.Linear(3, 1)],
        discriminator=torch.nn.Linear(1, 1),
        settings={"lr": 0.5},
    )


def run(given: Path, out: Path, *more: str) -> None:
    argv = ["--images", str(given), "--out", str(out), *more]
    harness.main("numpy", mean_of_class, description=None, sizes=(16, 32), argv=argv)


@pytest.fixture(autouse=True)
def same_threads_and_path_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_samples_have_the_size_channels_and_labels_of_the_images(tmp_path: Path) -> None:
    given = write_images(tmp_path / "gray.npz", (6, 12, 10), [3, 3, 3, 8, 8, 8])
    run(given, tmp_path / "deep" / "samples.npz", "--per-class", "2,1")
    with np.load(tmp_path / "deep" / "samples.npz") as made:
        assert made["images"].shape == (3, 12, 10)
        assert made["images"].dtype == np.uint8
        assert made["labels"].tolist() == [3, 3, 8]
        facts = json.loads(str(made["facts"]))
    assert facts["kimg"] == 3.0
    assert facts["images_per_second"] == 1500.0
    assert (facts["parameters_generator"], facts["parameters_discriminator"]) == (13, 2)
    assert facts["settings"] == {"image_size": 16, "small": False, "seed": 0, "lr": 0.5}


def test_color_comes_back_as_it_went_in(tmp_path: Path) -> None:
    pixels = np.full((2, 16, 16, 3), (250, 128, 5), dtype=np.uint8)
    np.savez(tmp_path / "color.npz", images=pixels, labels=np.array([0, 1]))
    run(tmp_path / "color.npz", tmp_path / "samples.npz", "--per-class", "1")
    with np.load(tmp_path / "samples.npz") as made:
        np.testing.assert_array_equal(made["images"], pixels)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": np.zeros((2, 8, 8), np.uint8)}, "no array labels"),
        ({"images": np.zeros((2, 8, 8), np.float32), "labels": np.zeros(2, int)}, "wanted uint8"),
        ({"images": np.zeros((2, 8, 8, 4), np.uint8), "labels": np.zeros(2, int)}, "wanted uint8"),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": np.zeros(3, int)}, "wanted 2 integers"),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": np.zeros(2)}, "wanted 2 integers"),
    ],
)
def test_images_that_cannot_be_used_are_a_usage_error(
    arrays: dict[str, np.ndarray], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "bad.npz", tmp_path / "samples.npz")
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "more", [("--cpu-seconds", "0"), ("--per-class", "0"), ("--per-class", "1,2,3"), ("--per-class", "x")]
)
def test_arguments_that_make_no_sense_are_a_usage_error(more: tuple[str, ...], tmp_path: Path) -> None:
    given = write_images(tmp_path / "gray.npz", (4, 8, 8))
    with pytest.raises(SystemExit) as stop:
        run(given, tmp_path / "samples.npz", *more)
    assert stop.value.code == 2


def test_a_missing_file_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path / "none.npz", tmp_path / "samples.npz")
    assert "cannot be read" in capsys.readouterr().err


def test_the_size_is_the_next_one_up() -> None:
    assert harness.next_size(28, 20, (32, 64, 128)) == 32
    assert harness.next_size(64, 64, (32, 128)) == 128
    assert harness.next_size(300, 20, (32, 128)) == 128


def test_models_share_one_budget_and_an_overrun_comes_off_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 103.0, 106.0, 106.0, 200.0, 203.0, 204.0, 205.0])
    monkeypatch.setattr(harness.time, "process_time", lambda: next(clock))
    budget = harness.Budget(10.0, models=2)
    budget.start()
    assert not budget.over(0)  # 3 of 5 seconds
    assert budget.over(0)  # 6 of 5
    budget.stop()
    budget.start()  # what passed between the models is not counted
    assert not budget.over(1)  # 9 of 10
    assert budget.over(1)  # 10 of 10
    budget.stop()
    assert budget.spent == 11.0


def test_each_peer_has_a_runner_and_a_pinned_version() -> None:
    for peer, requirements in environments.REQUIREMENTS.items():
        assert environments.script(peer).is_file()
        assert "==" in requirements[0]


FAKE_PEER = """
import json, sys
import numpy as np
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if given["--seed"] == "13":
    sys.exit("no luck with 13")
with np.load(given["--images"]) as arrays:
    images = arrays["images"]
facts = {"version": "1", "parameters_generator": 2, "parameters_discriminator": 3, "settings": given}
counts = [int(n) for n in given["--per-class"].split(",")]
np.savez(given["--out"], images=images[: sum(counts)], labels=np.repeat([0, 1], counts), facts=json.dumps(facts))
"""


@pytest.fixture
def fake_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fake.py").write_text(FAKE_PEER)
    monkeypatch.setattr(peers, "interpreter", lambda peer: Path(sys.executable))
    monkeypatch.setattr(peers, "script", lambda peer: tmp_path / f"{peer}.py")


@pytest.mark.usefixtures("fake_peer")
def test_a_peer_gets_gray_images_without_their_channel_and_returns_what_was_asked(tmp_path: Path) -> None:
    images = np.arange(4 * 8 * 8, dtype=np.uint8).reshape(4, 8, 8, 1)
    fakes, facts = peers.run_peer(
        "fake",
        images,
        np.array([0, 0, 1, 1]),
        np.array([2, 1]),
        cpu_seconds=90.0,
        seed=7,
        out=tmp_path / "deep" / "a=0.5",
    )
    np.testing.assert_array_equal(fakes, images[:3, :, :, 0])
    assert facts["parameters"] == {"generator": 2, "discriminator": 3}
    assert facts["peer_settings"]["--cpu-seconds"] == "90.0"
    assert "settings" not in facts


@pytest.mark.usefixtures("fake_peer")
def test_a_peer_that_fails_says_its_last_line_and_where_its_log_is(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"fake ended with 1; see .*run\.log: no luck with 13"):
        peers.run_peer(
            "fake",
            np.zeros((2, 8, 8), np.uint8),
            np.array([0, 1]),
            [1, 1],
            cpu_seconds=1,
            seed=13,
            out=tmp_path / "run",
        )
