import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from ganaug.data import scan
from ganaug.errors import ConfigError, DataError, LeakError
from ganaug.mixing import SyntheticMixDataset
from ganaug.sampling import SyntheticBank, Translator
from ganaug.sampling.leak import validate_against
from tests.sampling.translation_models import make_translator
from tests.tiny import UINT8, UINT16, write_shapes


@pytest.fixture(scope="module")
def gan(tmp_path_factory: pytest.TempPathFactory) -> Translator:
    """A model in a run folder whose manifest knows one image."""
    return in_a_run(tmp_path_factory.mktemp("run"))


def in_a_run(run: Path, **options: Any) -> Translator:
    manifest = {"classes": [], "files": [{"label": 0, "sha256": "ee" * 32, "group_hash": "ff" * 32}]}
    text = json.dumps(manifest)
    (run / "train_manifest.json").write_text(text)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    return make_translator(run / "generator.safetensors", training={"train_manifest_sha256": sha256}, **options)


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_rare_class_is_filled_from_the_others(gan: Translator, shapes: Path, tmp_path: Path) -> None:
    bank = SyntheticBank.translate(gan, tmp_path / "bank", shapes, to="ring", batch=5)
    assert bank.counts == {"cross": 0, "disk": 0, "ring": 20}
    assert bank.classes == gan.classes
    files = sorted(path for kind in ("cross", "disk", "ring") for path in (shapes / kind).iterdir())
    assert bank.indices.tolist() == list(range(20))
    stored = np.stack([np.asarray(Image.open(path)) for path in files[:20]])[:, None]
    assert np.array_equal(bank.images, gan.translate_stored(stored, to="ring").numpy())
    for i in (0, 19):
        assert bank.provenance(i)["source"] == f"{sha256_of(files[i])}#{i}"
        assert bank.provenance(i)["label"] == "ring"
    text = "".join(path.read_text() for path in bank.path.glob("*.json"))
    assert ".png" not in text
    assert str(shapes) not in text


def test_so_many_are_drawn_from_one_class_by_the_seed(gan: Translator, shapes: Path, tmp_path: Path) -> None:
    banks = [
        SyntheticBank.translate(gan, tmp_path / str(n), shapes, to="ring", source="disk", counts=4, seed=seed)
        for n, seed in enumerate((0, 0, 1))
    ]
    assert all(bank.counts["ring"] == 4 and {*bank.indices} <= {*range(12, 20)} for bank in banks)
    assert banks[0].indices.tolist() == banks[1].indices.tolist() != banks[2].indices.tolist()
    with pytest.raises(ConfigError, match=r"counts is 9.*8 images.*copies"):
        SyntheticBank.translate(gan, tmp_path / "more", shapes, to="ring", source="disk", counts=9)


def test_style_keeps_labels_and_takes_the_training_s_classes(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    gan = in_a_run(
        tmp_path / "run",
        domains=("a", "b"),
        rule="style",
        labels=("box", "cross", "disk", "ring"),
        intensities=(UINT8, UINT16),
    )
    bank = SyntheticBank.translate(gan, tmp_path / "bank", shapes, to="b")
    assert bank.counts == {"box": 0, "cross": 12, "disk": 8, "ring": 4}
    assert bank.intensity == UINT16
    assert bank.images.dtype == np.uint16
    unnamed = in_a_run(tmp_path / "run", domains=("a", "b"), rule="style")
    assert SyntheticBank.translate(unnamed, tmp_path / "own", shapes, to="b").classes == ("cross", "disk", "ring")
    contrasts = in_a_run(tmp_path / "run", domains=("disk", "ring"), rule="style")
    assert SyntheticBank.translate(contrasts, tmp_path / "named", shapes, to="ring").counts == {"disk": 0, "ring": 8}


def test_the_domain_column_of_a_table_says_what_is_translated(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    gan = in_a_run(tmp_path / "run", domains=("a", "b"), rule="style")
    data = write_shapes(tmp_path / "data", {"disk": 4, "ring": 4})
    rows = [f"{k}/{n:03d}.png,{k},{'ab'[n % 2]}" for k in ("disk", "ring") for n in range(4)]
    (data / "metadata.csv").write_text("\n".join(["file_name,label,domain", *rows]))
    bank = SyntheticBank.translate(gan, tmp_path / "bank", data, to="b")
    assert bank.counts == {"disk": 2, "ring": 2}
    assert bank.indices.tolist() == [0, 2, 4, 6]


def test_data_sets_and_arrays_give_what_their_folder_gives(gan: Translator, shapes: Path, tmp_path: Path) -> None:
    folder = SyntheticBank.translate(gan, tmp_path / "folder", shapes, to="ring")
    manifest = SyntheticBank.translate(gan, tmp_path / "manifest", scan(shapes), to="ring")
    images = ImageFolder(shapes, loader=lambda path: Image.open(path).copy())
    data_set = SyntheticBank.translate(gan, tmp_path / "set", images, to="ring")
    pixels = np.stack([np.asarray(image) for image, _ in images])
    arrays = SyntheticBank.translate(gan, tmp_path / "arrays", (torch.from_numpy(pixels), images.targets), to="ring")
    for other in (manifest, data_set, arrays):
        assert np.array_equal(other.images, folder.images)
        assert other.indices.tolist() == folder.indices.tolist()
    assert data_set.provenance(3)["source"] == arrays.provenance(3)["source"] != folder.provenance(3)["source"]
    with pytest.raises(LeakError, match="same pixels"):
        validate_against(arrays, shapes)
    report = validate_against(arrays, write_shapes(tmp_path / "unseen", {"disk": 2, "ring": 2}, seed=9))
    assert report.by_content == 4


def test_the_sources_are_refused_as_validation_images(gan: Translator, tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", {"cross": 4, "ring": 2})
    for path in [*data.rglob("*.png")]:
        path.rename(path.with_name(f"patient{path.stem}.png"))
    bank = SyntheticBank.translate(gan, tmp_path / "bank", data, to="ring", group_regex=r"patient\d+")
    unseen = write_shapes(tmp_path / "unseen", {"cross": 3, "ring": 3}, seed=9)
    assert validate_against(bank, unseen).compared == 6
    with pytest.raises(LeakError, match=r"^4 of 6 .*a training file"):
        validate_against(bank, data)
    saved = tmp_path / "saved"
    saved.mkdir()
    Image.open(data / "cross" / "patient001.png").save(saved / "new.tif")
    with pytest.raises(LeakError, match="same pixels"):
        validate_against(bank, sorted(saved.iterdir()))
    other = write_shapes(tmp_path / "other", {"cross": 2, "ring": 2}, seed=5)
    (other / "cross" / "000.png").rename(other / "cross" / "patient003-b.png")
    with pytest.raises(LeakError, match=r"^1 of 4 .*training group"):
        validate_against(bank, other, group_regex=r"patient\d+|\w+/\d+")
    targets = [0] * 4 + [2] * 2
    mixed = SyntheticMixDataset(
        ImageFolder(data), bank, classes=bank.classes, targets=targets, sampling_strategy={"ring": 4}
    )
    with pytest.raises(LeakError):
        mixed.validate_against(data)


def test_the_training_images_are_refused_too_and_a_model_without_a_run_says_so(
    gan: Translator, shapes: Path, tmp_path: Path
) -> None:
    bank = SyntheticBank.translate(gan, tmp_path / "bank", shapes, to="ring")
    known = json.loads(bank.manifest_bytes() or b"")
    assert [entry["sha256"] for entry in known["files"]] == ["ee" * 32]
    alone = make_translator(tmp_path / "alone" / "generator.safetensors")
    without = SyntheticBank.translate(alone, tmp_path / "without", shapes, to="ring")
    unseen = write_shapes(tmp_path / "unseen", {"cross": 3, "ring": 3}, seed=9)
    with pytest.warns(UserWarning, match="does not know what its generator was trained on"):
        validate_against(without, unseen)
    with pytest.raises(LeakError):
        validate_against(without, shapes)


def test_a_classifier_s_data_set_takes_the_bank_like_any_other(gan: Translator, shapes: Path, tmp_path: Path) -> None:
    bank = SyntheticBank.translate(gan, tmp_path / "bank", shapes, to="ring", source="cross")
    real = ImageFolder(shapes, loader=lambda path: Image.open(path).copy())
    mixed = SyntheticMixDataset(real, bank, sampling_strategy={"ring": 12}, seed=0)
    assert len(mixed) == 24 + 8
    assert mixed[24][1] == 2


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_bank_that_broke_off_goes_on_to_the_same_bytes(
    gan: Translator, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, made = Translator.translate, []

    def breaks_off(self: Translator, images: torch.Tensor, **options: Any) -> torch.Tensor:
        made.append(len(images))
        if len(made) == 3:
            raise RuntimeError
        return whole(self, images, **options)

    monkeypatch.setattr(Translator, "translate", breaks_off)
    with pytest.raises(RuntimeError):
        SyntheticBank.translate(gan, tmp_path / "bank", shapes, to="ring", batch=4)
    assert not (tmp_path / "bank").exists()
    SyntheticBank.translate(gan, tmp_path / "bank", shapes, to="ring", batch=6)
    assert made == [4, 4, 4, 6, 6], "eight images were there"
    SyntheticBank.translate(gan, tmp_path / "again", shapes, to="ring")
    assert contents(tmp_path / "bank") == contents(tmp_path / "again")


@pytest.mark.faults
def test_a_bank_that_was_killed_goes_on_to_the_same_bytes(gan: Translator, shapes: Path, tmp_path: Path) -> None:
    script = """
import os, signal, sys
from ganaug.sampling import SyntheticBank, Translator, load
gan, made = load(sys.argv[1], device="cpu"), []
whole = gan.translate
def translate(images, *, to):
    made.append(len(images))
    if len(made) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(images, to=to)
gan.translate = translate
SyntheticBank.translate(gan, sys.argv[2], sys.argv[3], to="ring", batch=4)
"""
    arguments = [str(gan.path), str(tmp_path / "bank"), str(shapes)]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "bank").exists()
    begun = tmp_path / ".bank.unfinished" / "images.npy"
    assert 0 < begun.stat().st_size < 20 * 256
    SyntheticBank.translate(gan, tmp_path / "bank", shapes, to="ring")
    SyntheticBank.translate(gan, tmp_path / "again", shapes, to="ring")
    assert contents(tmp_path / "bank") == contents(tmp_path / "again")


def test_a_complete_bank_is_only_opened_and_another_request_is_refused(
    gan: Translator, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SyntheticBank.translate(gan, tmp_path / "bank", shapes, to="ring")
    with pytest.raises(ConfigError, match="--overwrite"):
        SyntheticBank.translate(gan, tmp_path / "bank", shapes, to="disk")
    monkeypatch.setattr(Translator, "translate", lambda *_, **__: pytest.fail("nothing is to be made"))
    assert len(SyntheticBank.translate(gan, tmp_path / "bank", shapes, to="ring")) == 20


@pytest.mark.parametrize(
    ("real", "options", "message"),
    [
        ("shapes", {"to": "star"}, "'star'"),
        ("shapes", {"to": "ring", "source": "ring"}, "both 'ring'"),
        ("shapes", {"to": "ring", "source": ["star"]}, "'star'"),
        ("shapes", {"to": "ring", "seed": -1}, "seed is -1"),
        ("shapes", {"to": "ring", "counts": 0}, "counts is 0"),
        ("number", {"to": "ring"}, "of type int were given"),
        ("labels", {"to": "ring"}, "label is 7; 0 to 2"),
        ("scaled", {"to": "ring"}, "float32 was given; uint8 was wanted"),
        ("none", {"to": "ring"}, r"no image to translate to 'ring'.*\(ring\)"),
    ],
)
def test_what_does_not_fit_is_refused(
    gan: Translator, shapes: Path, tmp_path: Path, real: str, options: dict[str, Any], message: str
) -> None:
    images = np.random.default_rng(0).random((3, 16, 16), np.float32)
    given = {
        "shapes": shapes,
        "number": 3,
        "labels": (images, [0, 1, 7]),
        "scaled": (images, [0, 1, 1]),
        "none": (images, [2, 2, 2]),
    }[real]
    with pytest.raises((ConfigError, DataError), match=message):
        SyntheticBank.translate(gan, tmp_path / "bank", given, **options)
    assert not (tmp_path / "bank").exists()
