"""A bank that holds accepted translations only."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ganaug.errors import ConfigError, DataError, LeakError, ModelFileError
from ganaug.sampling import SyntheticBank, Translator
from ganaug.sampling.leak import validate_against
from ganaug.sampling.translated import SourceBatch
from tests.sampling.translation_models import make_translator
from tests.tiny import write_shapes


class EveryNth:
    """Accepts about every n-th image, by the sum of the source's levels; remembers what it was asked."""

    def __init__(self, n: int = 2, hashes: dict[str, list[str]] | None = None) -> None:
        self.settings = {"n": n}
        self.hashes = hashes or {}
        self.asked: list[str] = []

    def __call__(self, images: torch.Tensor, sources: SourceBatch, to: int) -> np.ndarray:
        self.asked += sources.sha256
        assert images.shape == sources.images.shape
        assert to == 2
        levels = ((sources.images + 1) * 127.5).round().to(torch.int64).sum((1, 2, 3))
        return (levels % self.settings["n"] == 0).numpy()


@pytest.fixture(scope="module")
def gan(tmp_path_factory: pytest.TempPathFactory) -> Translator:
    return make_translator(tmp_path_factory.mktemp("run") / "generator.safetensors")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_bank_is_the_accepted_part_of_the_whole_one(gan: Translator, shapes: Path, tmp_path: Path) -> None:
    whole = SyntheticBank.translate(gan, tmp_path / "whole", shapes, to="ring")
    accept = EveryNth()
    bank = SyntheticBank.translate(gan, tmp_path / "bank", shapes, to="ring", accept=accept)
    assert whole.sources is not None
    assert accept.asked == [row.tobytes().hex() for row in whole.sources]
    kept = bank.indices
    assert 0 < len(kept) < 20
    assert np.array_equal(bank.images, whole.images[kept])
    assert bank.counts == {"cross": 0, "disk": 0, "ring": len(kept)}
    crosses = int((kept < 12).sum())
    assert bank.acceptance == {
        "cross": {"tried": 12, "accepted": crosses},
        "disk": {"tried": 8, "accepted": len(kept) - crosses},
    }
    assert json.loads((bank.path / "bank.json").read_text())["acceptance"] == bank.acceptance
    assert {path.name for path in bank.path.iterdir()} == {path.name for path in whole.path.iterdir()}
    assert whole.acceptance == {}


def test_counts_says_how_many_are_tried(gan: Translator, shapes: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"to": "ring", "counts": 9, "seed": 3}
    tried = SyntheticBank.translate(gan, tmp_path / "tried", shapes, **options)
    accept = EveryNth()
    bank = SyntheticBank.translate(gan, tmp_path / "bank", shapes, **options, accept=accept)
    assert len(accept.asked) == 9
    assert {*bank.indices} < {*tried.indices}


def break_off(monkeypatch: pytest.MonkeyPatch, call: int) -> Callable[[], None]:
    """Let a call of the translator fail; return what lets all succeed again."""
    whole, calls = Translator.translate, []

    def breaks(self: Translator, images: torch.Tensor, **options: Any) -> torch.Tensor:
        calls.append(len(images))
        if len(calls) == call:
            raise RuntimeError
        return whole(self, images, **options)

    monkeypatch.setattr(Translator, "translate", breaks)
    return lambda: monkeypatch.setattr(Translator, "translate", whole)


@pytest.mark.parametrize(("call", "decided"), [(3, 8), (7, 20)], ids=["while judging", "while filling"])
def test_a_bank_that_broke_off_goes_on_to_the_same_bytes(
    gan: Translator, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, decided: int
) -> None:
    mend = break_off(monkeypatch, call)
    with pytest.raises(RuntimeError):
        SyntheticBank.translate(gan, tmp_path / "bank", shapes, to="ring", accept=EveryNth(), batch=4)
    assert not (tmp_path / "bank").exists()
    mend()
    accept = EveryNth()
    SyntheticBank.translate(gan, tmp_path / "bank", shapes, to="ring", accept=accept, batch=6)
    assert len(accept.asked) == 20 - decided
    SyntheticBank.translate(gan, tmp_path / "again", shapes, to="ring", accept=EveryNth())
    assert contents(tmp_path / "bank") == contents(tmp_path / "again")


def test_what_other_settings_began_is_not_gone_on_with(
    gan: Translator, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mend = break_off(monkeypatch, 3)
    with pytest.raises(RuntimeError):
        SyntheticBank.translate(gan, tmp_path / "bank", shapes, to="ring", accept=EveryNth(), batch=4)
    mend()
    other = EveryNth(3)
    SyntheticBank.translate(gan, tmp_path / "bank", shapes, to="ring", accept=other)
    assert len(other.asked) == 20
    with pytest.raises(ConfigError, match="--overwrite"):
        SyntheticBank.translate(gan, tmp_path / "bank", shapes, to="ring")


def test_the_guard_refuses_what_the_judge_has_learned_from(gan: Translator, shapes: Path, tmp_path: Path) -> None:
    seen = write_shapes(tmp_path / "seen", {"cross": 3, "ring": 3}, seed=9)
    plain = SyntheticBank.translate(gan, tmp_path / "plain", shapes, to="ring", accept=EveryNth())
    with pytest.warns(UserWarning, match="does not know"):
        validate_against(plain, seen)
    from ganaug.data import scan

    hashes = {"source_hashes": [item.sha256 for item in scan(seen).items]}
    bank = SyntheticBank.translate(gan, tmp_path / "bank", shapes, to="ring", accept=EveryNth(hashes=hashes))
    with pytest.raises(LeakError, match=r"^6 of 6 .*a training file"):
        validate_against(bank, seen)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda images: np.zeros(len(images), bool), DataError, "None of the 20 translations to 'ring' was accepted"),
        (lambda images: np.ones(len(images)), ConfigError, "accept returned float64"),
        (lambda images: np.ones(2, bool), ConfigError, r"bool of shape \(2,\) for 20 images"),
    ],
)
def test_answers_that_fill_no_bank_are_refused(
    gan: Translator,
    shapes: Path,
    tmp_path: Path,
    answer: Callable[[torch.Tensor], np.ndarray],
    error: type[Exception],
    message: str,
) -> None:
    class Accept(EveryNth):
        def __call__(self, images: torch.Tensor, sources: SourceBatch, to: int) -> np.ndarray:
            return answer(images)

    with pytest.raises(error, match=message):
        SyntheticBank.translate(gan, tmp_path / "bank", shapes, to="ring", accept=Accept())
    assert not (tmp_path / "bank").exists()


def test_a_plain_function_is_refused_and_a_garbled_acceptance_too(
    gan: Translator, shapes: Path, tmp_path: Path
) -> None:
    anything: Any = lambda images, sources, to: np.ones(len(images), bool)  # noqa: E731
    with pytest.raises(ConfigError, match="a callable with `settings` and `hashes` was wanted"):
        SyntheticBank.translate(gan, tmp_path / "bank", shapes, to="ring", accept=anything)
    bank = SyntheticBank.translate(gan, tmp_path / "bank", shapes, to="ring", accept=EveryNth())
    header = json.loads((bank.path / "bank.json").read_text())
    (bank.path / "bank.json").write_text(json.dumps({**header, "acceptance": {"cross": 3}}))
    with pytest.raises(ModelFileError, match="lacks or garbles"):
        SyntheticBank.open(bank.path)
