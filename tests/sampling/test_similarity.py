"""Near copies of training images: what counts as one, which are left out, and that nothing else changes."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional as F

from ganaug.cli import main
from ganaug.data import scan
from ganaug.errors import ConfigError, DataError, ModelFileError
from ganaug.sampling import Sampler, SyntheticBank, export, similarity
from ganaug.sampling.similarity import NearCopies, near_copies
from ganaug.training.run import Run
from tests.sampling.fake_sampler import FakeSampler
from tests.tiny import shape_image, write_shapes


def pictures(n: int, side: int = 32, seed: int = 0) -> torch.Tensor:
    """Smooth random images in [-1, 1], none like another."""
    source = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, 1, 7, 7, generator=source)
    return (0.4 * F.interpolate(coarse, size=side, mode="bicubic")).clamp(-1, 1)


def compared(images: torch.Tensor, limit: float = 0.5, groups: Sequence[str] | None = None) -> NearCopies:
    names = groups or [str(i) for i in range(len(images))]
    return NearCopies.of(images, np.zeros(len(images), np.int64), names, limit=limit, classes=1)


@pytest.fixture(scope="module")
def known() -> torch.Tensor:
    return pictures(200)


def test_a_copy_has_similarity_one_and_a_new_image_about_zero(known: torch.Tensor) -> None:
    copies = compared(known)
    assert (copies.similarity(known[:20], [0] * 20) == 1).all()
    new = copies.similarity(pictures(200, seed=1), [0] * 200)
    assert abs(np.median(new)) < 0.1
    assert (new <= 0.5).all()


@pytest.mark.parametrize(
    ("name", "least"),
    [("mirror", 1.0), ("brighter", 0.99), ("noise", 0.7), ("shift", 0.7), ("turn", 0.7), ("zoom", 0.7)],
)
def test_a_disguised_copy_is_one(known: torch.Tensor, name: str, least: float) -> None:
    images = known[:20]
    angle = torch.tensor(0.07 if name == "turn" else 0.0)
    scale = 1.05 if name == "zoom" else 1.0
    row = [torch.cos(angle) * scale, -torch.sin(angle), 2 / 32 if name == "shift" else 0.0]
    matrix = torch.tensor([row, [torch.sin(angle), torch.cos(angle) * scale, 0.0]]).expand(20, 2, 3)
    moved = F.grid_sample(
        images,
        F.affine_grid(matrix, list(images.shape), align_corners=False),
        padding_mode="border",
        align_corners=False,
    )
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    changed = {"mirror": images.flip(-1), "brighter": 0.7 * images + 0.2, "noise": images + 0.1 * noise}
    found = compared(known).similarity(changed.get(name, moved), [0] * 20)
    assert np.quantile(found, 0.1) >= least


def test_images_of_one_patient_are_no_yardstick(known: torch.Tensor) -> None:
    twice = torch.cat([known, known + 0.01])
    alone = compared(known).scales
    together = compared(twice, groups=[str(i % 200) for i in range(400)]).scales
    assert together == pytest.approx(alone, rel=0.01)
    with pytest.raises(DataError, match="exactly like one of another group"):
        compared(torch.cat([known, known]))


def test_a_similarity_does_not_depend_on_the_batch(known: torch.Tensor) -> None:
    copies, new = compared(known), pictures(40, seed=2)
    one_by_one = np.concatenate([copies.similarity(image[None], [0]) for image in new])
    assert np.array_equal(copies.similarity(new, [0] * 40), one_by_one)


def test_volumes_are_compared_too() -> None:
    source = torch.Generator().manual_seed(0)
    volumes = F.interpolate(torch.randn(30, 1, 5, 5, 5, generator=source), size=16, mode="trilinear").clamp(-1, 1)
    copies = compared(volumes[:20])
    assert (copies.similarity(volumes[:20].flip(-1), [0] * 20) == 1).all()
    assert (copies.similarity(volumes[20:], [0] * 10) < 0.5).all()


class Copycat(FakeSampler):
    """Every third image is a training image, all others are new."""

    def __init__(self, known: torch.Tensor, classes: Sequence[str] = ("a", "b"), every: int = 3) -> None:
        super().__init__(classes, shape=tuple(known.shape[1:]))
        self.known, self.every = known, every
        self.asked: list[int] = []

    def sample(self, labels: Sequence[int], *, indices: Sequence[int] | None = None, **options: Any) -> torch.Tensor:
        assert indices is not None
        self.asked += indices
        rows = [
            self.known[i % len(self.known)] if i % self.every == 0 else pictures(1, seed=1000 + 500 * label + i)[0]
            for label, i in zip(labels, indices, strict=True)
        ]
        return torch.stack(rows)


@pytest.fixture
def against(known: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let any folder be the training images."""
    labels = np.arange(len(known)) % 2
    monkeypatch.setattr(
        similarity,
        "near_copies",
        lambda gan, against, limit: NearCopies.of(
            known, labels, [str(i) for i in range(len(known))], limit=limit, classes=2
        ),
    )
    return "anything"


def test_a_blocked_index_is_skipped_and_all_others_stay(known: torch.Tensor, against: str, tmp_path: Path) -> None:
    gan = Copycat(known)
    counts = {"a": 10, "b": 4}
    plain = SyntheticBank.generate(gan, tmp_path / "plain", counts={"a": 15, "b": 6})
    bank = SyntheticBank.generate(gan, tmp_path / "bank", counts=counts, max_similarity=0.5, against=against)
    wanted = [i for i in range(15) if i % 3], [i for i in range(6) if i % 3]
    assert bank.indices.tolist() == [*wanted[0], *wanted[1]]
    assert bank.counts == counts
    rows = [*wanted[0], *(15 + i for i in wanted[1])]
    assert np.array_equal(bank.images, plain.images[rows])
    assert bank.acceptance == {"a": {"tried": 15, "accepted": 10}, "b": {"tried": 6, "accepted": 4}}
    scores = [json.loads(bank.provenance(i)["scores"])["similarity"] for i in range(len(bank))]
    assert all(score <= 0.5 for score in scores)
    assert plain.provenance(0)["scores"] == "{}"
    assert {path.name for path in bank.path.iterdir()} - {path.name for path in plain.path.iterdir()} == {
        "similarity.npy"
    }


@pytest.mark.parametrize("call", [2, 3], ids=["while comparing", "while filling"])
def test_a_bank_that_broke_off_goes_on_to_the_same_bytes(
    known: torch.Tensor, against: str, tmp_path: Path, call: int
) -> None:
    class Breaks(Copycat):
        calls = 0

        def sample(self, labels: Sequence[int], **options: Any) -> torch.Tensor:
            Breaks.calls += 1
            if Breaks.calls == call:
                raise RuntimeError
            return super().sample(labels, **options)

    options: dict[str, Any] = {"counts": {"a": 10, "b": 4}, "max_similarity": 0.5, "against": against}
    with pytest.raises(RuntimeError):
        SyntheticBank.generate(Breaks(known), tmp_path / "bank", **options)
    gan = Copycat(known)
    SyntheticBank.generate(gan, tmp_path / "bank", **options)
    SyntheticBank.generate(Copycat(known), tmp_path / "again", **options)
    for path in (tmp_path / "again").iterdir():
        assert path.read_bytes() == (tmp_path / "bank" / path.name).read_bytes()
    assert not list((tmp_path / "bank").glob("similarity.json"))


@pytest.mark.parametrize("format_", ["png", "npz", "bank"])
def test_an_export_tells_what_was_blocked(known: torch.Tensor, against: str, tmp_path: Path, format_: str) -> None:
    gan: Any = Copycat(known)
    summary = export.export_folder(
        gan, tmp_path / "out", counts={"a": 10}, format=format_, max_similarity=0.5, against=against
    )
    assert summary["acceptance"]["a"] == {"tried": 15, "accepted": 10}
    assert summary["notes"][0].startswith("5 of 15 images were left out")
    assert "More than a quarter of a" in summary["notes"][1]
    if format_ == "png":
        with (tmp_path / "out" / "metadata.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        assert [int(row["index"]) for row in rows] == [i for i in range(15) if i % 3]
        assert all(json.loads(row["scores"])["similarity"] <= 0.5 for row in rows)
        assert (
            "near copies of training images were left out: similarity at most 0.5"
            in (tmp_path / "out" / "README.md").read_text()
        )
    assert not list((tmp_path / "out").glob("similarity.json"))


def test_a_model_that_only_copies_ends_in_a_clear_error(known: torch.Tensor, against: str, tmp_path: Path) -> None:
    gan = Copycat(known, every=1)
    with pytest.raises(DataError, match=r"Of the first 110 images of class 'b' only 0 have .* 2 were wanted"):
        SyntheticBank.generate(gan, tmp_path / "bank", counts={"b": 2}, max_similarity=0.5, against=against)
    assert not list(tmp_path.iterdir())
    assert len(gan.asked) == 110


def test_nan_is_no_near_copy(known: torch.Tensor, against: str, tmp_path: Path) -> None:
    class Broken(Copycat):
        def sample(self, labels: Sequence[int], **options: Any) -> torch.Tensor:
            return super().sample(labels, **options) * float("nan")

    with pytest.raises(ModelFileError, match="NaN"):
        SyntheticBank.generate(Broken(known), tmp_path / "bank", counts={"b": 2}, max_similarity=0.5, against=against)


def test_limit_and_folder_belong_together(gan: Sampler, shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="both were wanted"):
        SyntheticBank.generate(gan, tmp_path / "bank", per_class=1, max_similarity=0.5)
    with pytest.raises(ConfigError, match="below 1 was wanted"):
        SyntheticBank.generate(gan, tmp_path / "bank", per_class=1, max_similarity=1.0, against=shapes)
    other = write_shapes(tmp_path / "other", {"disk": 3, "ring": 3})
    with pytest.raises(ModelFileError, match="Give the folder that the model was trained on"):
        near_copies(gan, other, limit=0.5)


def test_a_folder_that_was_not_trained_on_is_called_so(gan: Sampler, shapes: Path, tmp_path: Path) -> None:
    assert near_copies(gan, shapes, limit=0.5).notes == ()
    other = write_shapes(tmp_path / "other", {"cross": 3, "disk": 3, "ring": 3}, seed=5)
    assert "24 of the 24 images that the model was trained on are not in" in near_copies(gan, other, limit=0.5).notes[0]


def test_the_training_images_are_found_on_the_models_grid(gan: Sampler, shapes: Path) -> None:
    copies = near_copies(gan, shapes, limit=0.5)
    manifest = scan(shapes)
    item = next(i for i, item in enumerate(manifest.items) if item.path == "disk/003.png")
    rng = np.random.default_rng(0)
    drawn = [shape_image(kind, rng) for kind, n in (("cross", 12), ("disk", 4)) for _ in range(n)][-1]
    unit = torch.from_numpy((drawn * 255).astype(np.uint8).astype(np.float32) / 127.5 - 1)[None, None]
    assert copies.similarity(unit, [manifest.items[item].label]) == pytest.approx(1, abs=1e-3)


def test_the_command_line_knows_both_options(tiny_run: Run, shapes: Path, tmp_path: Path) -> None:
    words = [
        "sample",
        str(tiny_run.path),
        "--out",
        str(tmp_path / "out"),
        "--per-class",
        "2",
        "--max-similarity",
        "0.9",
    ]
    assert "together" in CliRunner().invoke(main, words).output
    done = CliRunner().invoke(main, [*words, "--against", str(shapes)])
    assert done.exit_code == 0, done.output
    assert "images were left out as near copies" in done.output
