"""`fit` with translation models: from a folder to a run that `load` opens; domains, rules, pairs and sites."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import ganaug
from ganaug.errors import ConfigError, DataError, Interrupted
from ganaug.models.modelfile import load_model
from ganaug.training import fit as fit_module
from ganaug.training.checkpoint import checkpoints
from tests.tiny import write_shapes

SHORT: dict[str, Any] = {
    "recipe": "translate64",
    "widths": (8, 4),
    "group_width": 4,
    "label_dim": 4,
    "kimg": 0.08,
    "batch": 8,
    "pool": 3,
    "snapshots": 2,
    "device": "cpu",
    "precision": "fp32",
    "threads": 1,
}
"""10 steps of 8 images, and a snapshot after every fifth."""


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    return write_shapes(tmp_path / "data", {"disk": 9, "ring": 7})


def _two_contrasts(root: Path, count: int = 6) -> Path:
    """Write the same shapes in folder `one`, and as negatives in folder `two`."""
    write_shapes(root, {"disk": count})
    (root / "disk").rename(root / "one")
    (root / "two").mkdir()
    for path in (root / "one").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path))).save(root / "two" / path.name)
    return root


def test_a_cyclegan_leaves_a_run_whose_model_has_both_directions(shapes: Path, tmp_path: Path) -> None:
    run = ganaug.fit(shapes, tmp_path / "run", model="cyclegan", rule="class", **SHORT)
    network, header, _ = load_model(run.path)
    assert header.translation is not None
    assert (header.translation.rule, header.translation.targets) == ("class", ("disk", "ring"))
    assert header.classes == ("disk", "ring")
    images = torch.rand(3, 1, 16, 16) * 2 - 1
    made = [network(images, torch.full((3,), to)) for to in (0, 1)]
    assert made[0].shape == images.shape
    assert not torch.equal(made[0], made[1])
    assert max(float(part.abs().max()) for part in made) <= 1
    last = run.metrics()[-1]
    assert last["kimg"] == pytest.approx(0.08)
    assert {"cycle", "changed", "loss_cycle", "loss_identity", "loss_gradient", "loss_mask"} <= last.keys()
    assert set(last["diversity_by_class"]) == {"disk", "ring"}
    assert run.report_path.is_file()
    assert len(list(run.images.glob("*.png"))) == 2
    assert len(run.train_manifest()["files"]) == 16


def test_an_interrupted_translation_goes_on_bitwise_equal(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"model": "cyclegan", "rule": "class", **SHORT}
    whole = ganaug.fit(shapes, tmp_path / "whole", **options)

    class Stop:
        after = 7

        def update(self, *_: Any) -> None:
            self.after -= 1
            if self.after == 0:
                os.kill(os.getpid(), signal.SIGINT)

    @contextmanager
    def bar(*_args: Any, **_kwargs: Any) -> Iterator[Stop]:
        yield Stop()

    with monkeypatch.context() as patched:
        patched.setattr(fit_module, "progress_bar", bar)
        with pytest.raises(Interrupted):
            ganaug.fit(shapes, tmp_path / "part", **options)
    part = ganaug.fit(shapes, tmp_path / "part", resume=True)
    states = [load_file(checkpoints(run.checkpoints)[-1] / "state.safetensors") for run in (whole, part)]
    assert states[0].keys() == states[1].keys()
    assert any(name.startswith("pool/") for name in states[0])
    assert [name for name in states[0] if not torch.equal(states[0][name], states[1][name])] == []


def test_three_classes_share_one_generator(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", {"disk": 5, "ring": 5, "cross": 5})
    run = ganaug.fit(data, tmp_path / "run", model="cyclegan", rule="class", **(SHORT | {"batch": 9, "kimg": 0.09}))
    network, header, _ = load_model(run.path)
    assert header.classes == ("cross", "disk", "ring")
    assert {name.split(".")[1] for name in network.state_dict()} == {"all"}


def test_the_rule_is_asked_for_where_nothing_tells_it(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--rule was not given"):
        ganaug.fit(shapes, tmp_path / "run", model="cyclegan", **SHORT)
    assert not (tmp_path / "run").exists()


def test_under_rule_style_batches_hold_the_same_classes_of_either_domain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a table that names domains the rule is known. One site has few disks, the other many."""
    data = write_shapes(tmp_path / "data", {"disk": 12, "ring": 12})
    with (data / "metadata.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file_name", "label", "domain"])
        for kind, few in (("disk", "a"), ("ring", "b")):
            for number in range(12):
                other = "b" if few == "a" else "a"
                rows.writerow([f"{kind}/{number:03d}.png", kind, few if number < 2 else other])
    seen: list[tuple[list[int], list[int]]] = []
    step = fit_module.load_plugin("ganaug.training.gans", "cyclegan").GAN.step

    def spy(gan: Any, images: Any, domains: Any, labels: Any, *rest: Any) -> Any:
        seen.append((domains.tolist(), labels.tolist()))
        return step(gan, images, domains, labels, *rest)

    monkeypatch.setattr("ganaug.training.gans.cyclegan.GAN.step", spy)
    run = ganaug.fit(data, tmp_path / "run", model="cyclegan", **SHORT)
    for domains, labels in seen:
        of = [sorted(label for domain, label in zip(domains, labels, strict=True) if domain == d) for d in (0, 1)]
        assert of[0] == of[1]
    assert {label for _, labels in seen for label in labels} == {0, 1}
    header = load_model(run.path)[1]
    assert header.translation is not None
    assert (header.translation.rule, header.translation.labels) == ("style", ("disk", "ring"))


def test_pix2pix_pairs_files_of_one_name_and_says_what_has_no_partner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = _two_contrasts(tmp_path / "data")
    (data / "two" / "003.png").unlink()
    run = ganaug.fit(data, tmp_path / "run", model="pix2pix", rule="style", **SHORT)
    reasons = " ".join(run.config_file()["reasons"])
    assert "5 pairs" in reasons
    assert "003.png" in reasons
    assert {"error", "loss_paired"} <= run.metrics()[-1].keys()


def test_degraded_copies_make_pairs_of_a_folder_without_classes(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", {"disk": 8}, side=32)
    run = ganaug.fit(data / "disk", tmp_path / "run", model="pix2pix", degrade="downsample=4", **SHORT)
    header = load_model(run.path)[1]
    assert header.translation is not None
    assert header.translation.targets == ("original",)
    assert header.translation.degrade == "downsample=4"


@pytest.mark.parametrize("labelled", [False, True])
def test_another_site_is_a_target_with_or_without_labels(labelled: bool, tmp_path: Path) -> None:
    source = write_shapes(tmp_path / "a", {"disk": 6, "ring": 6})
    target = write_shapes(tmp_path / "b", {"disk": 5, "ring": 5}, seed=9)
    if not labelled:
        for path in list(target.rglob("*.png")):
            path.rename(target / f"{path.parent.name[:1]}{path.name}")
        for kind in ("disk", "ring"):
            (target / kind).rmdir()
    run = ganaug.fit(source, tmp_path / "run", model="cyclegan", target=target, **SHORT)
    header = load_model(run.path)[1]
    assert header.translation is not None
    assert header.translation.rule == "style"
    assert header.translation.labels == ("disk", "ring")
    assert header.translation.domains == ("a", "b")
    manifest = json.loads(run.manifest_path.read_text())
    assert len(manifest["files"]) == 22
    reasons = " ".join(run.config_file()["reasons"])
    assert ("without labels" in reasons) is not labelled
    resumed = ganaug.fit(source, run.path, target=target, resume=True, kimg=0.096)
    assert resumed.metrics()[-1]["kimg"] == pytest.approx(0.096)


def test_settings_of_translation_are_refused_elsewhere(shapes: Path, tmp_path: Path) -> None:
    for given in ({"domains": ("disk", "ring")}, {"rule": "class"}, {"degrade": "downsample=4"}):
        with pytest.raises(ConfigError, match="--model cyclegan"):
            ganaug.fit(shapes, tmp_path / "run", recipe="smoke", **given)
    with pytest.raises(ConfigError, match="--target"):
        ganaug.fit(shapes, tmp_path / "run", recipe="smoke", target=shapes)
    with pytest.raises(ConfigError, match="needs pairs"):
        ganaug.fit(shapes, tmp_path / "run", model="pix2pix", target=shapes, **SHORT)
    with pytest.raises(ConfigError, match="multiple of 2"):
        ganaug.fit(shapes, tmp_path / "run", model="cyclegan", rule="class", **(SHORT | {"batch": 7}))
    with pytest.raises(ConfigError, match="one for translation: translate128"):
        ganaug.fit(shapes, tmp_path / "run", model="cyclegan", rule="class", **(SHORT | {"recipe": "smoke"}))
    with pytest.raises((ConfigError, DataError), match="cone"):
        ganaug.fit(shapes, tmp_path / "run", model="cyclegan", rule="class", domains=("disk", "cone"), **SHORT)
