import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import CacheDataset
from monai.data import Dataset as MonaiDataset
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from torchvision.transforms.functional import to_tensor

from ganaug.data import scan
from ganaug.errors import ConfigError, DataError, LeakError, ModelFileError
from ganaug.evaluation.study import run_study
from ganaug.mixing import SyntheticMix, SyntheticMixDataset
from ganaug.mixing.monai import SyntheticMix as MonaiMix
from ganaug.mixing.monai import SyntheticMixd
from ganaug.sampling import SyntheticBank, load
from ganaug.sampling.export import export_folder
from ganaug.sampling.leak import validate_against
from ganaug.sampling.sampler import Sampler
from ganaug.training.run import Run
from tests.sampling.fake_sampler import FakeSampler
from tests.tiny import write_shapes


@pytest.fixture(scope="module")
def bank(gan: Sampler, tmp_path_factory: pytest.TempPathFactory) -> SyntheticBank:
    return SyntheticBank.generate(gan, tmp_path_factory.mktemp("banks") / "bank", per_class=20)


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine images of the same classes that `gan` was not trained on."""
    return write_shapes(tmp_path_factory.mktemp("unseen") / "val", {"cross": 3, "disk": 3, "ring": 3}, seed=9)


@pytest.fixture
def leaky(unseen: Path, shapes: Path, tmp_path: Path) -> Path:
    """The unseen images, and among them one of the training under another name and in another format."""
    folder = Path(shutil.copytree(unseen, tmp_path / "val"))
    Image.open(shapes / "disk" / "003.png").save(folder / "ring" / "new.tif")
    return folder


def pixels(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.*"))])


def test_unseen_images_pass_and_the_report_says_what_was_compared(bank: SyntheticBank, unseen: Path) -> None:
    report = validate_against(bank, unseen)
    assert (report.images, report.compared, report.by_file, report.by_content, report.by_group) == (9, 9, 9, 9, 0)
    assert "9 held-out images: 9 compared by file, 9 by content, 0 by group" in str(report)
    assert "name no patients" in str(report)


VIEWS: dict[str, Callable[[Path], Any]] = {
    "folder": lambda folder: folder,
    "name": str,
    "manifest": scan,
    "ImageFolder": ImageFolder,
    "Subset": lambda folder: Subset(ImageFolder(folder), list(range(10))[::-1]),
    "ConcatDataset": lambda folder: ConcatDataset([ImageFolder(folder), ImageFolder(folder)]),
    "DataLoader": lambda folder: DataLoader(ImageFolder(folder), batch_size=2),
    "list of files": lambda folder: sorted(folder.rglob("*.*")),
    "list of dictionaries": lambda folder: [{"image": str(path), "label": 0} for path in folder.rglob("*.*")],
    "MONAI": lambda folder: MonaiDataset([{"image": str(path)} for path in folder.rglob("*.*")], LoadImaged("image")),
    "array N×H×W": pixels,
    "array N×H×W×3": lambda folder: np.repeat(pixels(folder)[..., None], 3, axis=3),
    "tensor in [0, 1]": lambda folder: torch.from_numpy(pixels(folder))[:, None] / 255,
    "16 bit": lambda folder: pixels(folder).astype(np.uint16),
    "TensorDataset": lambda folder: TensorDataset(torch.from_numpy(pixels(folder))[:, None], torch.zeros(10)),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_a_training_image_saved_anew_is_found_in_every_kind_of_data_set(
    bank: SyntheticBank, leaky: Path, unseen: Path, view: Callable[[Path], Any]
) -> None:
    with pytest.raises(LeakError, match=r"of (10|20) held-out images are known.*\(the same pixels as a training image"):
        validate_against(bank, view(leaky))
    (leaky / "ring" / "new.tif").unlink()
    Image.open(leaky / "ring" / "000.png").rotate(90).save(leaky / "ring" / "new.png")
    report = validate_against(bank, view(leaky))
    assert report.compared == report.images >= 10


def test_of_a_subset_only_its_own_items_are_compared_and_of_joined_sets_all(
    bank: SyntheticBank, shapes: Path, unseen: Path
) -> None:
    joined = ConcatDataset([ImageFolder(unseen), ImageFolder(shapes)])
    assert validate_against(bank, Subset(joined, range(9))).images == 9
    with pytest.raises(LeakError, match=r"^1 of 3 .*cross/000\.png"):
        validate_against(bank, Subset(Subset(joined, range(12)), [3, 9, 1]))


class Items(Dataset):
    """Images that only `__getitem__` gives, as `form` makes them of a picture."""

    def __init__(self, folder: Path, form: Callable[[Image.Image], Any]) -> None:
        self.files, self.form = sorted(folder.rglob("*.*")), form

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.form(Image.open(self.files[index])), 0


FORMS: dict[str, Callable[[Image.Image], Any]] = {
    "PIL": lambda image: image,
    "PIL RGB": lambda image: image.convert("RGB"),
    "ToTensor": to_tensor,
    "ToTensor and Normalize": lambda image: v2.functional.normalize(to_tensor(image), [0.5], [0.5]),
    "W×H": lambda image: np.asarray(image).T.copy(),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_pixels_are_recognized_in_the_forms_that_loaders_give_them(
    bank: SyntheticBank, leaky: Path, form: Callable[[Image.Image], Any]
) -> None:
    with pytest.raises(LeakError, match=r"1 of 10 .*item 9 \(the same pixels"):
        validate_against(bank, Items(leaky, form))


def test_monai_items_are_known_by_their_file_after_any_transform(
    bank: SyntheticBank, shapes: Path, unseen: Path
) -> None:
    def changed(folder: Path) -> CacheDataset:
        items = [{"image": str(path)} for path in sorted(folder.rglob("*.png"))]
        data = CacheDataset(items, Compose([LoadImaged("image"), EnsureChannelFirstd("image")]), progress=False)
        data.data = list(range(len(items)))  # so that only what the items carry is left
        return data

    assert validate_against(bank, changed(unseen)).by_file == 9
    with pytest.raises(LeakError, match=r"24 of 24 .*cross/000\.png \(a training file\)"):
        validate_against(bank, changed(shapes))


def test_images_that_cannot_be_compared_are_said_to_be_so(bank: SyntheticBank, unseen: Path, shapes: Path) -> None:
    resized = Items(shapes, lambda image: to_tensor(image.resize((20, 20))))
    with pytest.warns(UserWarning, match=r"compared nothing.*24 of 24 have no file and no pixels.*int 16x16x1"):
        report = validate_against(bank, resized)
    assert (report.images, report.compared, report.by_content) == (24, 0, 0)
    standardized = Items(unseen, lambda image: v2.functional.normalize(to_tensor(image), [0.3], [0.2]))
    with pytest.warns(UserWarning, match="compared nothing"):
        validate_against(bank, standardized)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "Pixels tell exact copies only" in str(validate_against(bank, pixels(unseen)))


def test_patients_are_compared_where_both_sides_name_them(tmp_path: Path, unseen: Path) -> None:
    data = write_shapes(tmp_path / "train", {"disk": 2, "ring": 2}, seed=3)
    trained = json.dumps(scan(data, group_regex=r"/(\d+)").to_json()).encode()  # patients 000 and 001
    source = SimpleNamespace(path=tmp_path, manifest_bytes=lambda: trained)
    with pytest.raises(LeakError, match=r"6 of 9 .*000\.png \(of a training group\)"):
        validate_against(source, unseen, group_regex=r"/(\d+)")
    with pytest.raises(LeakError, match=r"6 of 9"):
        validate_against(source, ImageFolder(unseen), group_regex=r"/(\d+)\.png")
    with pytest.raises(LeakError, match=r"1 of 9 .*cross/002"):
        validate_against(source, ImageFolder(unseen), groups=["7", "8", "001", *"345678"])
    assert validate_against(source, ImageFolder(unseen), groups=list("345678abc")).by_group == 9
    report = validate_against(source, unseen)
    assert (report.by_file, report.by_group) == (9, 0)
    assert "9 of 9 name no patient" in str(report)
    with pytest.raises(ConfigError, match="2 groups were given for 9"):
        validate_against(source, unseen, groups=["a", "b"])


def test_of_a_table_with_splits_the_part_that_is_not_for_training_is_compared(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 6, 6), dtype=np.uint8)
    labels = {"train_labels": [0, 0, 1, 1], "val_labels": [0, 1, 0, 1]}
    arrays = {"train_images": images[:4], "val_images": images[4:], **labels}
    np.savez(tmp_path / "data.npz", **arrays)
    trained = json.dumps(scan(tmp_path / "data.npz").training_part().to_json()).encode()
    source = SimpleNamespace(path=tmp_path, manifest_bytes=lambda: trained)
    assert validate_against(source, tmp_path / "data.npz").images == 4
    np.savez(tmp_path / "data.npz", **{**arrays, "val_images": images[3:7]})
    with pytest.raises(LeakError, match=r"1 of 4 .*val\[0\]"):
        validate_against(source, tmp_path / "data.npz")


def test_slices_of_a_training_volume_are_known_by_their_pixels(tmp_path: Path) -> None:
    volumes = np.random.default_rng(0).integers(0, 99, (4, 7, 6, 5), dtype=np.int16)
    for number, volume in enumerate(volumes):
        place = tmp_path / "train" / "ab"[number % 2] / f"{number}.nii.gz"
        place.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(volume, np.diag([-1.0, -1, 1, 1])), place)
    manifest = scan(tmp_path / "train", slices="axial")
    trained = json.dumps(manifest.to_json()).encode()
    assert len(json.loads(trained)["content_hashes"]) == 20
    source = SimpleNamespace(path=tmp_path, manifest_bytes=lambda: trained)
    with pytest.raises(LeakError, match=r"1 of 2 .*item 1"):
        validate_against(source, np.stack([volumes[0, :, :, 0] + 1, volumes[2, :, :, 3]]).astype(np.float32))


def test_a_bank_carries_the_hashes_of_its_run_and_no_names(bank: SyntheticBank, tiny_run: Run, shapes: Path) -> None:
    assert bank.manifest_bytes() == tiny_run.manifest_path.read_bytes()
    assert SyntheticBank.open(bank.path).train_manifest_sha256 == bank.train_manifest_sha256 != ""
    text = tiny_run.manifest_path.read_text()
    assert not any(path.name in text for path in shapes.rglob("*.png"))


def test_a_bank_written_by_export_carries_them_too(gan: Sampler, tmp_path: Path) -> None:
    export_folder(gan, tmp_path / "bank", counts={"disk": 2}, format="bank")
    assert SyntheticBank.open(tmp_path / "bank").manifest_bytes() == gan.manifest_bytes() is not None


def test_a_bank_that_does_not_know_its_training_says_so_and_still_opens(
    tiny_run: Run, tmp_path: Path, unseen: Path, bank: SyntheticBank
) -> None:
    shutil.copy(tiny_run.model_path, tmp_path / "model.safetensors")
    alone = SyntheticBank.generate(load(tmp_path / "model.safetensors", device="cpu"), tmp_path / "bank", per_class=1)
    old = Path(shutil.copytree(bank.path, tmp_path / "old"))
    header = json.loads((old / "bank.json").read_text())
    del header["train_manifest_sha256"]
    (old / "bank.json").write_text(json.dumps(header))
    for one in (alone, SyntheticBank.open(old), SyntheticBank.generate(FakeSampler(), tmp_path / "fake", per_class=1)):
        with pytest.warns(UserWarning, match=r"compared nothing.*does not know what its gen.*again"):
            assert validate_against(one, unseen).compared == 0


def test_a_changed_or_foreign_manifest_is_refused(
    bank: SyntheticBank, tiny_run: Run, tmp_path: Path, unseen: Path
) -> None:
    changed = Path(shutil.copytree(bank.path, tmp_path / "bank"))
    (changed / "train_manifest.json").write_text("{}")
    with pytest.raises(ModelFileError, match="was changed since it was written"):
        validate_against(SyntheticBank.open(changed), unseen)
    (changed / "train_manifest.json").unlink()
    with pytest.raises(ModelFileError, match=r"is missing, which bank\.json names"):
        validate_against(SyntheticBank.open(changed), unseen)
    shutil.copy(tiny_run.model_path, tmp_path / "generator.safetensors")
    (tmp_path / "train_manifest.json").write_text('{"files": []}')
    with pytest.raises(ModelFileError, match=r"is of another run\. Restore the run folder"):
        SyntheticBank.generate(load(tmp_path, device="cpu"), tmp_path / "new", per_class=1)


def test_every_way_in_refuses_a_leak(bank: SyntheticBank, gan: Sampler, shapes: Path, unseen: Path) -> None:
    ways = [
        SyntheticMixDataset(ImageFolder(shapes), bank),
        SyntheticMix(bank),
        MonaiMix(bank),
        SyntheticMixd("image", bank=bank),
    ]
    for way in ways:
        assert way.validate_against(unseen).compared == 9
        with pytest.raises(LeakError):
            way.validate_against(ImageFolder(shapes))
    with pytest.raises(LeakError):
        validate_against(gan, shapes)


def test_the_study_refuses_test_images_of_the_training(bank: SyntheticBank, shapes: Path, unseen: Path) -> None:
    def arrays(folder: Path) -> tuple[np.ndarray, np.ndarray]:
        return pixels(folder)[:, None], scan(folder).labels

    with pytest.raises(LeakError, match="24 of 24"):
        run_study(*arrays(unseen), *arrays(shapes), bank, classes=bank.classes, seeds=range(2), steps=1)
    found = run_study(
        *arrays(shapes), *arrays(unseen), bank, classes=bank.classes, arms=("as-is",), seeds=range(2), steps=1
    )
    assert "9 held-out images: 0 compared by file, 9 by content" in found.settings["leak_guard"]


def test_validation_data_that_hold_synthetic_images_are_refused(bank: SyntheticBank, shapes: Path) -> None:
    mixed = SyntheticMixDataset(ImageFolder(shapes), bank)
    for val in (mixed, Subset(mixed, [0, 1])):
        with pytest.raises(ConfigError, match="hold synthetic images"):
            mixed.validate_against(val)


def test_what_cannot_be_validation_data_is_named(bank: SyntheticBank, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="of type int"):
        validate_against(bank, 3)
    with pytest.raises(ConfigError, match=r"keys \['scan'\]; 'image' was wanted"):
        validate_against(bank, [{"scan": "a.png"}])
    with pytest.raises(ConfigError, match=r"Item 0 .*holds a int"):
        validate_against(bank, [1, 2])
    with pytest.raises(DataError, match="does not exist"):
        validate_against(bank, [tmp_path / "missing.png"])
