"""The how-to pages: every Python block runs, top to bottom, on a small data set and an untrained or tiny model."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import ganaug
from ganaug.data import Grid, load_images, scan
from ganaug.data.intensity import IntensityMap
from ganaug.data.leak import training_contents
from ganaug.sampling import Sampler, SyntheticBank, load
from ganaug.training.run import Run
from tests.dicoms import AXIAL, write_image
from tests.sampling.translation_models import make_translator
from tests.tiny import make_model, write_shapes

PAGES = Path(__file__).parents[1] / "docs" / "how-to"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS = {"lightning": "lightning", "imbalanced-learn": "imblearn", "monai": "pydicom"}
"""Page → what it needs besides ganaug."""


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory, shapes: Path, tiny_run: Run, gan: Sampler) -> Path:
    """A folder with ``scans/train``, ``scans/val``, ``runs/scans`` and ``banks/scans``."""
    root = tmp_path_factory.mktemp("docs")
    shutil.copytree(shapes, root / "scans" / "train")
    write_shapes(root / "scans" / "val", {"cross": 3, "disk": 3, "ring": 3}, seed=9)
    shutil.copytree(tiny_run.path, root / "runs" / "scans")
    SyntheticBank.generate(gan, root / "banks" / "scans", per_class=60)
    return root


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``ct/train``, ``ct/val`` (DICOM slices in HU, a patient each) and ``banks/ct``."""
    root = tmp_path_factory.mktemp("ct")
    rng = np.random.default_rng(0)
    for number in range(24):
        part, label = ("train", "val")[number % 4 == 3], ("lesion", "normal")[number % 3 > 0]
        path = root / "ct" / part / label / f"{number}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 2000, (16, 12), dtype=np.uint16)
        place = {
            "ImageOrientationPatient": list(AXIAL),
            "ImagePositionPatient": [0, 0, number],
            "PixelSpacing": [0.7, 0.7],
        }
        write_image(path, pixels, PatientID=f"MRN{number}", RescaleSlope=1, RescaleIntercept=-1024, **place)
    window = IntensityMap(kind="window", low=-1024.0, high=976.0, dtype="int16")
    run = root / "runs" / "ct"
    run.mkdir(parents=True)
    make_model(run / "generator.safetensors", classes=("lesion", "normal"), size=(16, 12), intensity=window)
    manifest, grid = scan(root / "ct" / "train"), Grid((16, 12), 1, "stretch", "int16")
    contents = training_contents(manifest, grid, load_images(manifest, grid))
    (run / "train_manifest.json").write_text(json.dumps(manifest.to_json(contents)))
    SyntheticBank.generate(load(run, device="cpu"), root / "banks" / "ct", per_class=20)
    return root


def run_page(name: str, namespace: dict[str, object], change: Callable[[str], str] = str) -> None:
    """Run a page's Python blocks in one namespace; a failure points at the line of the page."""
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    assert blocks
    namespace["__name__"] = name
    for block in blocks:
        lines = "\n" * text[: block.start(1)].count("\n")
        exec(compile(lines + change(block[1]), f"docs/how-to/{name}.md", "exec"), namespace)


def test_plain_pytorch(scans: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(scans)
    monkeypatch.setattr(ganaug, "fit", lambda data, out, **settings: Run(Path(out)), raising=False)
    run_page("plain-pytorch", {}, lambda code: code.replace("per_class=1000", "per_class=60"))
    printed = capsys.readouterr().out
    assert "24 real, 12 synthetic: {'disk': 4, 'ring': 8}" in printed
    assert "9 held-out images: 9 compared by file, 9 by content" in printed
    assert "0 12 synthetic of 36\n15 6 synthetic of 36\n20 0 synthetic of 36" in printed


@pytest.mark.parametrize("name", ["torchvision", "lightning", "imbalanced-learn"])
def test_pages_that_start_from_a_bank(
    scans: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"the page needs {NEEDS[name]}, which is not installed")
    monkeypatch.chdir(scans)
    torch.manual_seed(0)
    seen: dict[str, object] = {}
    run_page(name, seen)
    if name == "lightning":
        data, model = seen["data"], seen["model"]
        assert model.mix.step > 0  # type: ignore[attr-defined]
        assert data.synthetic is False  # type: ignore[attr-defined]
    else:
        assert "9 held-out images: 9 compared by file, 9 by content" in capsys.readouterr().out


def test_lightning_tells_the_data_set_the_epoch(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lightning")
    monkeypatch.chdir(scans)
    epochs: list[int] = []
    whole = ganaug.SyntheticMixDataset.__getitem__

    def watched(self: ganaug.SyntheticMixDataset, index: int) -> object:
        epochs.append(int(self._now[0]))
        return whole(self, index)

    monkeypatch.setattr(ganaug.SyntheticMixDataset, "__getitem__", watched)
    run_page("lightning", {})
    assert sorted(epochs) == epochs
    assert epochs.count(0) == epochs.count(1) > 24


def test_monai(ct: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pydicom")
    monkeypatch.chdir(ct)
    from monai.utils import set_determinism

    try:
        run_page("monai", {})
    finally:
        set_determinism(None)
    printed = capsys.readouterr().out
    assert "('lesion', 'normal') (1, 16, 12) int16 -1024.0 976.0" in printed
    assert "6 held-out images: 6 compared by file, 6 by content, 6 by group" in printed
    assert re.search(r"\d synthetic of \d \{'(real|noise)'", printed)


def test_translate(scans: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(scans)
    make_translator(scans / "runs" / "lesions" / "generator.safetensors")
    with pytest.warns(UserWarning, match="does not know what its generator was trained on"):
        run_page("translate", {})
    printed = capsys.readouterr().out
    assert "class ('cross', 'disk', 'ring') ('cross', 'disk', 'ring')" in printed
    assert "{'cross': 0, 'disk': 0, 'ring': 8}" in printed
    assert "refused: 6 of 9 held-out images are known" in printed
    assert "torch.Size([2, 1, 100, 75]) torch.uint8" in printed


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.stem)
def test_links_of_the_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
