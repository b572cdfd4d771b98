from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchio as tio
from torchio.transforms import Compose, RandomFlip

from ganaug.data.readers import read
from ganaug.errors import ConfigError
from ganaug.mixing.torchio import SyntheticMix
from ganaug.sampling.bank import SyntheticBank
from tests.mixing.copies import bank_of
from tests.mixing.test_monai import random_image, write_nifti, write_png


def bank_of_file(path: Path) -> SyntheticBank:
    """Twice what ganaug reads from a file as class a, none of class b."""
    image = np.moveaxis(read(path).pixels, -1, 0)
    return bank_of(path.parent / "bank", {"a": np.stack([image, image]), "b": image[None][:0]})


def subject(path: Path, label: Any = 0) -> tio.Subject:
    return tio.Subject(scan=tio.ScalarImage(path), mask=tio.LabelMap(path), label=label)


@pytest.mark.parametrize("kind", ["square png", "color png", "RAS", "PIR", "one coronal slice"])
def test_the_image_that_ganaug_read_from_a_file_comes_back_as_torchio_reads_it(kind: str, tmp_path: Path) -> None:
    sides = (5, 5, 1) if "slice" in kind else (4, 6, 5)
    if "png" in kind:
        path = write_png(tmp_path / "x.png", random_image(*((5, 5) if "square" in kind else (4, 6, 3))))
    else:
        codes = "RSA" if "slice" in kind else kind
        path = write_nifti(tmp_path / "x.nii.gz", random_image(*sides, dtype="int16"), codes)
    real = subject(path)
    for given in (real, tio.ToOrientation("ALI")(real)):
        new = SyntheticMix(bank_of_file(path), p=1)(given)
        assert torch.equal(new["scan"].data, given["scan"].data)
        assert np.array_equal(new["scan"].affine, given["scan"].affine)
        assert torch.equal(new["mask"].data, given["mask"].data)
        assert new["synthetic"] is True


def test_shares_classes_and_provenance(tmp_path: Path) -> None:
    path = write_png(tmp_path / "x.png", random_image(5, 5))
    transform = Compose([SyntheticMix(bank_of_file(path).path, p=0.5), RandomFlip()])
    torch.manual_seed(0)
    data = tio.SubjectsDataset([subject(path, label) for label in (0, 1) * 20], transform=transform)
    batch = next(iter(tio.SubjectsLoader(data, batch_size=40)))
    assert 4 < sum(batch["synthetic"][::2]) < 16
    assert not any(batch["synthetic"][1::2]), "the bank has none of this class"
    assert {*batch["source"]} == {"real", "noise"}
    again = SyntheticMix(bank_of_file(path), p=0)(SyntheticMix(bank_of_file(path), p=1)(subject(path)))
    assert again["synthetic"] is True


def test_what_does_not_fit(tmp_path: Path) -> None:
    path = write_png(tmp_path / "x.png", random_image(5, 5))
    bank = bank_of_file(path)
    with pytest.raises(ConfigError, match=r"p is 1\.5"):
        SyntheticMix(bank, p=1.5)
    for wrong, words in (
        (subject(path, 2), "0 to 1"),
        (tio.Resize((4, 4, 1))(subject(path)), r"Resize\(\(5, 5, 1\)\)"),
        (tio.RescaleIntensity((0, 1))(subject(path)), "scales differ"),
    ):
        with pytest.raises(ConfigError, match=words):
            SyntheticMix(bank, p=1)(wrong)
