import hashlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ganaug.data.intensity import IntensityMap
from ganaug.errors import ConfigError, ModelFileError
from ganaug.sampling.bank import SyntheticBank
from ganaug.sampling.counts import balancing_counts, check_counts, requested_counts, slices_of
from tests.sampling.fake_sampler import FakeSampler, read_back


@pytest.fixture
def bank(tmp_path: Path) -> SyntheticBank:
    return SyntheticBank.generate(FakeSampler(), tmp_path / "bank", counts={"a": 3, "c": 5}, batch=4)


def test_holds_the_counts_asked_for_and_numbers_images_within_each_class(bank: SyntheticBank) -> None:
    assert len(bank) == 8
    assert bank.counts == {"a": 3, "b": 0, "c": 5}
    assert bank.images.shape == (8, 1, 4, 6)
    assert bank.images.dtype == np.uint8
    for i in range(len(bank)):
        assert read_back(bank.image(i)) == (bank.labels[i], bank.indices[i])
    assert bank.positions(1).size == 0
    assert bank.indices[bank.positions(2)].tolist() == [0, 1, 2, 3, 4]


def test_batch_size_does_not_change_the_bank(tmp_path: Path) -> None:
    banks = [SyntheticBank.generate(FakeSampler(), tmp_path / str(n), per_class=5, batch=n) for n in (1, 7, 256)]
    for other in banks[1:]:
        assert np.array_equal(banks[0].images, other.images)
        assert np.array_equal(banks[0].labels, other.labels)


def test_asks_the_sampler_for_batches_of_the_size_wanted(tmp_path: Path) -> None:
    gan = FakeSampler()
    SyntheticBank.generate(gan, tmp_path / "bank", per_class=5, batch=6)
    assert gan.calls == [6, 6, 3]


def test_header_survives_reopening(tmp_path: Path) -> None:
    made = SyntheticBank.generate(FakeSampler(), tmp_path / "bank", per_class=2, seed=3, truncation=0.8)
    again = SyntheticBank.open(tmp_path / "bank")
    for name in ("path", "classes", "shape", "intensity", "counts", "seed", "truncation", "model_sha256"):
        assert getattr(again, name) == getattr(made, name), name
    assert (again.seed, again.truncation, again.model_sha256) == (3, 0.8, "ab" * 32)
    assert np.array_equal(again.images, made.images)


def test_sixteen_bit_volumes_keep_their_stored_values(tmp_path: Path) -> None:
    window = IntensityMap(kind="window", low=0.0, high=4000.0, dtype="uint16")
    gan = FakeSampler(shape=(1, 2, 3, 5), intensity=window)
    bank = SyntheticBank.generate(gan, tmp_path / "bank", per_class=3)
    assert bank.images.dtype == np.uint16
    assert bank.image(8).shape == (1, 2, 3, 5)
    assert set(np.unique(bank.image(8)[..., 0, :])) == {20}
    assert set(np.unique(bank.image(8)[..., 2, :])) == {7}


def test_provenance_names_class_index_seed_and_model(tmp_path: Path) -> None:
    bank = SyntheticBank.generate(FakeSampler(), tmp_path / "bank", per_class=2, seed=4, truncation=0.9)
    assert bank.provenance(3) == {
        "synthetic": True,
        "label": "b",
        "source": "noise",
        "seed": 4,
        "index": 1,
        "model_sha256": "ab" * 32,
        "truncation": 0.9,
        "accepted": True,
        "scores": "{}",
    }


def test_balance_fills_every_class_up_to_the_largest(tmp_path: Path) -> None:
    for name, count in {"a": 4, "b": 1, "c": 6}.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(count):
            Image.new("L", (6, 4), 10 * i).save(tmp_path / "data" / name / f"{i}.png")
    bank = SyntheticBank.generate(FakeSampler(), tmp_path / "from_folder", balance=tmp_path / "data")
    assert bank.counts == {"a": 2, "b": 5, "c": 0}
    bank = SyntheticBank.generate(FakeSampler(), tmp_path / "from_counts", balance={"a": 4, "c": 6})
    assert bank.counts == {"a": 2, "b": 6, "c": 0}


def test_balance_counts_the_training_part_of_a_table(tmp_path: Path) -> None:
    rows = ["file_name,label,split"]
    for i, (label, split) in enumerate([("a", "train"), ("a", "train"), ("a", "test"), ("b", "train"), ("b", "test")]):
        Image.new("L", (6, 4), 10 * i).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{label},{split}")
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    assert requested_counts(["a", "b"], balance=tmp_path) == {"a": 0, "b": 1}


def test_a_model_of_slices_balances_volumes_by_their_slices(tmp_path: Path) -> None:
    import nibabel as nib

    for name, slices in {"a": [4, 3], "b": [5]}.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for i, depth in enumerate(slices):
            volume = np.random.default_rng(i).integers(0, 200, (6, 4, depth), dtype=np.uint8)
            nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "data" / name / f"{i}.nii.gz")
    gan = FakeSampler(classes=("a", "b"), settings={"slices": "axial"})
    assert slices_of(gan) == "axial"
    assert slices_of(object()) is None
    assert SyntheticBank.generate(gan, tmp_path / "bank", balance=tmp_path / "data").counts == {"a": 0, "b": 2}


def test_balance_refuses_a_folder_of_other_classes(tmp_path: Path) -> None:
    for name in ("a", "b", "other"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(2):
            Image.new("L", (6, 4), 10 * i).save(tmp_path / "data" / name / f"{i}.png")
    with pytest.raises(ModelFileError, match=r"a, b, other.*a, b, c"):
        SyntheticBank.generate(FakeSampler(), tmp_path / "bank", balance=tmp_path / "data")
    assert not (tmp_path / "bank").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of"),
        ({"per_class": 2, "counts": {"a": 1}}, "counts and per_class"),
        ({"counts": {"a": 1, "z": 2}}, "'z'.*a, b, c"),
        ({"counts": {"a": -1}}, "'a' is -1"),
        ({"counts": {"a": 1.5}}, "1.5"),
        ({"counts": {"a": 0}}, "no images"),
        ({"per_class": 0}, "no images"),
        ({"balance": {"a": 2, "b": 2, "c": 2}}, "nothing to balance"),
        ({"per_class": 2, "batch": 0}, "batch is 0"),
    ],
)
def test_bad_counts_are_refused_before_anything_is_written(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SyntheticBank.generate(FakeSampler(), tmp_path / "bank", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_counts_come_back_in_class_order() -> None:
    assert list(check_counts({"c": 1, "a": 2}, ["a", "b", "c"]).items()) == [("a", 2), ("b", 0), ("c", 1)]
    assert balancing_counts({"a": 4, "b": 1}) == {"a": 0, "b": 3}


def test_only_a_folder_of_ours_is_replaced(tmp_path: Path, bank: SyntheticBank) -> None:
    with pytest.raises(ConfigError, match="not empty"):
        SyntheticBank.generate(FakeSampler(), bank.path, per_class=1)
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="not made by ganaug"):
        SyntheticBank.generate(FakeSampler(), foreign, per_class=1, overwrite=True)
    assert (foreign / "chapter.txt").read_text() == "years of work"
    assert len(SyntheticBank.generate(FakeSampler(), bank.path, per_class=1, overwrite=True)) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"bank", "thesis"}


class BreaksOff(FakeSampler):
    def __init__(self, problem: BaseException) -> None:
        super().__init__()
        self.problem = problem

    def sample(self, labels: Sequence[int], **options: Any) -> torch.Tensor:
        if self.calls:
            raise self.problem
        return super().sample(labels, **options)


@pytest.mark.parametrize("problem", [KeyboardInterrupt(), RuntimeError("broken")])
def test_a_writer_that_breaks_off_leaves_the_old_bank_until_the_new_one_is_complete(
    tmp_path: Path, bank: SyntheticBank, problem: BaseException
) -> None:
    with pytest.raises(type(problem)):
        SyntheticBank.generate(BreaksOff(problem), bank.path, per_class=9, batch=4, overwrite=True)
    assert len(SyntheticBank.open(bank.path)) == 8
    gan = FakeSampler()
    assert len(SyntheticBank.generate(gan, bank.path, per_class=9, batch=4, overwrite=True)) == 27
    assert sum(gan.calls) == 27 - 4, "the first four were there"
    assert {path.name for path in tmp_path.iterdir()} == {"bank"}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_bank_that_broke_off_is_gone_on_with_to_the_same_bytes(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        SyntheticBank.generate(BreaksOff(RuntimeError()), tmp_path / "bank", per_class=9, batch=4)
    begun = tmp_path / ".bank.unfinished" / "images.npy"
    begun.write_bytes(begun.read_bytes()[:-5])  # cut within the fourth image
    gan = FakeSampler()
    SyntheticBank.generate(gan, tmp_path / "bank", per_class=9, batch=10)
    assert gan.calls == [10, 10, 4]
    SyntheticBank.generate(FakeSampler(), tmp_path / "again", per_class=9)
    assert contents(tmp_path / "bank") == contents(tmp_path / "again")


def test_a_complete_bank_is_only_opened(tmp_path: Path) -> None:
    SyntheticBank.generate(FakeSampler(), tmp_path / "bank", per_class=3)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "bank", *(tmp_path / "bank").iterdir())}
    gan = FakeSampler()
    bank = SyntheticBank.generate(gan, tmp_path / "bank", counts=dict.fromkeys("abc", 3), batch=1)
    assert len(bank) == 9
    assert gan.calls == []
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_complete_bank_that_was_damaged_says_how_to_make_it_again(tmp_path: Path) -> None:
    bank = SyntheticBank.generate(FakeSampler(), tmp_path / "bank", per_class=3)
    (bank.path / "images.npy").write_bytes(b"")
    with pytest.raises(ModelFileError, match="--overwrite"):
        SyntheticBank.generate(FakeSampler(), tmp_path / "bank", per_class=3)
    assert len(SyntheticBank.generate(FakeSampler(), tmp_path / "bank", per_class=3, overwrite=True).images) == 9


@pytest.mark.parametrize(
    "intensity",
    [
        IntensityMap(kind="window", low=-1000.0, high=3000.0, dtype="int16"),
        IntensityMap(kind="window", low=-5.0, high=2.0**24, dtype="int32"),
        IntensityMap(kind="percentiles", minimum=-2.5, low=0.0, high=100.0, maximum=1e6, dtype="float32"),
        IntensityMap(kind="per-file", minimum=0.0, low=0.0, high=139.0, maximum=200.0, dtype="uint16"),
    ],
    ids=lambda map_: f"{map_.kind} {map_.dtype}",
)
@pytest.mark.parametrize("shape", [(1, 4, 6), (2, 3, 4, 6)])
def test_any_stored_type_map_and_shape_comes_back(
    tmp_path: Path, intensity: IntensityMap, shape: tuple[int, ...]
) -> None:
    made = SyntheticBank.generate(FakeSampler(shape=shape, intensity=intensity), tmp_path / "bank", per_class=2)
    bank = SyntheticBank.open(tmp_path / "bank")
    assert bank.intensity == made.intensity == intensity
    assert bank.images.dtype == intensity.dtype
    assert bank.images.shape == (6, *shape)
    for i in range(6):
        assert np.allclose(bank.image(i)[..., 0, :], 10 * bank.labels[i], atol=1)
        assert np.allclose(bank.image(i)[..., 1, :], bank.indices[i], atol=1)


def test_a_killed_writer_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from ganaug.sampling.bank import SyntheticBank
from tests.sampling.fake_sampler import FakeSampler
class Killed(FakeSampler):
    def sample(self, labels, **options):
        if self.calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().sample(labels, **options)
SyntheticBank.generate(Killed(), sys.argv[1], per_class=9, batch=4)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "bank")], cwd=root, check=False)
    assert done.returncode == -9
    assert not (tmp_path / "bank").exists()
    assert len(SyntheticBank.generate(FakeSampler(), tmp_path / "bank", per_class=1)) == 3


def test_a_model_that_makes_nan_is_refused(tmp_path: Path) -> None:
    class MakesNan(FakeSampler):
        def sample(self, labels: Sequence[int], **options: Any) -> torch.Tensor:
            return super().sample(labels, **options) * float("nan")

    with pytest.raises(ModelFileError, match="NaN"):
        SyntheticBank.generate(MakesNan(), tmp_path / "bank", per_class=1)


def edit_header(path: Path, **changes: object) -> None:
    header = json.loads((path / "bank.json").read_text())
    (path / "bank.json").write_text(json.dumps({**header, **changes}))


DAMAGE = {
    "no header": lambda p: (p / "bank.json").unlink(),
    "header is no JSON": lambda p: (p / "bank.json").write_text("{"),
    "header is a list": lambda p: (p / "bank.json").write_text("[]"),
    "other version": lambda p: edit_header(p, version=99),
    "other format": lambda p: edit_header(p, format="zip"),
    "shape does not fit": lambda p: edit_header(p, shape=[1, 6, 4]),
    "shape is a word": lambda p: edit_header(p, shape="wide"),
    "counts do not fit": lambda p: edit_header(p, counts={"a": 3, "b": 0, "c": 4}),
    "no counts": lambda p: edit_header(p, counts=None),
    "no intensity": lambda p: edit_header(p, intensity={}),
    "no images": lambda p: (p / "images.npy").unlink(),
    "no labels": lambda p: (p / "labels.npy").unlink(),
    "images cut short": lambda p: (p / "images.npy").write_bytes((p / "images.npy").read_bytes()[:-1]),
    "images empty": lambda p: (p / "images.npy").write_bytes(b""),
    "labels cut short": lambda p: (p / "labels.npy").write_bytes((p / "labels.npy").read_bytes()[:-8]),
    "too few indices": lambda p: np.save(p / "indices.npy", np.arange(3)),
    "images of another dtype": lambda p: np.save(p / "images.npy", np.zeros((8, 1, 4, 6), np.float32)),
    "pickled images": lambda p: np.save(p / "images.npy", np.full(8, None, object), allow_pickle=True),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_found_on_opening_and_says_to_make_the_bank_again(
    bank: SyntheticBank, damage: Callable[[Path], object]
) -> None:
    damage(bank.path)
    with pytest.raises(ModelFileError, match="Make the bank again"):
        SyntheticBank.open(bank.path)


def test_missing_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="nowhere"):
        SyntheticBank.open(tmp_path / "nowhere")


@pytest.mark.parametrize("labels", [[0, 0, 0, 2, 2, 2, 2, 3], [-1, 0, 0, 2, 2, 2, 2, 2], [0, 0, 2, 2, 2, 2, 2, 2]])
@pytest.mark.parametrize("resigned", [False, True])
def test_wrong_labels_are_found_on_first_use(bank: SyntheticBank, labels: list[int], resigned: bool) -> None:
    column = np.array(labels, dtype=np.int64)
    np.save(bank.path / "labels.npy", column)
    if resigned:
        sums = {**bank.column_sha256, "labels": hashlib.sha256(column.tobytes()).hexdigest()}
        edit_header(bank.path, sha256=sums)
    damaged = SyntheticBank.open(bank.path)
    with pytest.raises(ModelFileError, match="Make the bank again"):
        damaged.positions(0)


class Images(Dataset):
    def __init__(self, bank: SyntheticBank) -> None:
        self.bank = bank

    def __len__(self) -> int:
        return len(self.bank)

    def __getitem__(self, i: int) -> torch.Tensor:
        return torch.from_numpy(self.bank.image(i))


def test_worker_processes_read_the_same_images(bank: SyntheticBank) -> None:
    assert bank.images[0, 0, 0, 0] == 0  # opens the map before the workers start
    loader = DataLoader(Images(bank), batch_size=3, num_workers=2)
    assert np.array_equal(torch.cat(list(loader)).numpy(), bank.images)


def test_pickle_carries_no_image(tmp_path: Path) -> None:
    bank = SyntheticBank.generate(FakeSampler(), tmp_path / "bank", per_class=200)
    assert bank.images.nbytes > 10_000
    assert bank.labels.nbytes > 4_000
    assert bank.indices.nbytes > 4_000
    data = pickle.dumps(bank)
    assert len(data) < 2_000
    assert np.array_equal(pickle.loads(data).images, bank.images)


def test_stored_images_cannot_be_changed_through_the_bank(bank: SyntheticBank) -> None:
    with pytest.raises(ValueError, match="read-only"):
        bank.images[0] = 0
    copy = bank.image(0)
    copy[:] = 99
    assert read_back(bank.image(0)) == (0, 0)
