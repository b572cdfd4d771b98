"""Forms beyond plain pictures: MONAI's MetaTensors, volumes, 16 bit."""

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import monai.transforms as mt
import numpy as np
import pytest
import torch
from monai.data import ArrayDataset, CacheDataset, MetaTensor
from monai.data import DataLoader as MonaiLoader
from monai.data import Dataset as MonaiDataset
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms.functional import to_tensor

from ganaug.data.geometry import Geometry
from ganaug.data.intensity import IntensityMap
from ganaug.errors import ConfigError
from ganaug.mixing import SyntheticMixDataset
from ganaug.sampling.bank import SyntheticBank
from ganaug.sampling.writers import nifti
from tests.sampling.fake_sampler import UINT8, FakeSampler

HU = IntensityMap("window", -1000, 3000, "int16")
UINT16 = IntensityMap("window", 0, 4000, "uint16")
LABELS = (0, 0, 0, 1)


class NoiseSampler(FakeSampler):
    """Images in which no two axes or directions look alike."""

    def sample(
        self, labels: Sequence[int], *, indices: Any = None, seed: int = 0, truncation: float = 1
    ) -> torch.Tensor:
        keys = zip(labels, indices, strict=True)
        noise = [np.random.default_rng((seed, *key)).uniform(-1, 1, self.shape) for key in keys]
        return torch.from_numpy(np.stack(noise).astype(np.float32))


def make_bank(path: Path, shape: tuple[int, ...], intensity: IntensityMap = UINT8) -> SyntheticBank:
    return SyntheticBank.generate(NoiseSampler(("a", "b"), shape, intensity), path / "bank", per_class=4)


def save_nifti(path: Path, orientation: str, spacing: tuple[float, float, float] = (3.0, 2.0, 1.0)) -> Callable:
    def save(name: str, stored: np.ndarray) -> str:
        geometry = Geometry(spacing, orientation, (10.0, -5.0, 7.0))
        (path / f"{name}.nii.gz").write_bytes(nifti.encode(stored, geometry=geometry, origin={}))
        return str(path / f"{name}.nii.gz")

    return save


def save_png(path: Path) -> Callable:
    def save(name: str, stored: np.ndarray) -> str:
        Image.fromarray(np.moveaxis(stored, 0, -1).squeeze()).save(path / f"{name}.png")
        return str(path / f"{name}.png")

    return save


def save_npy(path: Path) -> Callable:
    def save(name: str, stored: np.ndarray) -> str:
        np.save(path / f"{name}.npy", stored[0])
        return str(path / f"{name}.npy")

    return save


def check_like_its_own_file(
    bank: SyntheticBank, save: Callable, steps: Sequence[Any], dataset: Any = MonaiDataset
) -> None:
    """A synthetic item must be what the pipeline makes of a file that holds the same image."""
    compose = mt.Compose([mt.LoadImaged("image"), mt.EnsureChannelFirstd("image"), *steps])
    records = [{"image": save(f"real{i}", bank.image(i)), "label": label} for i, label in enumerate(LABELS)]
    mixed = SyntheticMixDataset(dataset(records, compose), bank, targets=LABELS)
    assert mixed.sampling_strategy_ == {"b": 2}
    for item in (mixed[4], mixed[5]):
        wanted = compose({"image": save("twin", bank.image(4 + item["index"])), "label": 1})["image"]
        assert isinstance(item["image"], MetaTensor)
        assert item["image"].dtype == wanted.dtype
        assert torch.allclose(item["image"].as_tensor(), wanted.as_tensor(), atol=1e-4)
        assert torch.allclose(item["image"].affine, wanted.affine)
    (batch,) = MonaiLoader(mixed, batch_size=6)
    assert isinstance(batch["image"], MetaTensor)
    assert batch["synthetic"].tolist() == [False] * 4 + [True] * 2
    assert len(batch["image"].meta["affine"]) == 6
    assert torch.equal(pickle.loads(pickle.dumps(mixed))[4]["image"], mixed[4]["image"])  # workers may be spawned


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "PIR"])
def test_a_volume_enters_a_monai_pipeline_as_its_exported_file_would(tmp_path: Path, orientation: str) -> None:
    bank = make_bank(tmp_path, (1, 3, 4, 5), HU)
    steps = [mt.Orientationd("image", axcodes="RAS", labels=None), mt.ScaleIntensityRanged("image", -1000, 3000, -1, 1)]
    check_like_its_own_file(bank, save_nifti(tmp_path, orientation), steps)
    check_like_its_own_file(bank, save_nifti(tmp_path, orientation), [])


def test_a_cached_data_set_with_resampling_and_two_channels(tmp_path: Path) -> None:
    bank = make_bank(tmp_path, (2, 3, 4, 5), HU)
    steps = [mt.Spacingd("image", pixdim=(1.0, 1.0, 1.5)), mt.Resized("image", spatial_size=(6, 6, 6))]
    check_like_its_own_file(bank, save_nifti(tmp_path, "LAS"), steps, lambda *a: CacheDataset(*a, progress=False))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_has_its_rows_and_columns_swapped_as_monai_reads_it(tmp_path: Path, channels: int) -> None:
    bank = make_bank(tmp_path, (channels, 5, 5))
    check_like_its_own_file(bank, save_png(tmp_path), [mt.ScaleIntensityRanged("image", 0, 255, 0, 1)])
    check_like_its_own_file(bank, save_png(tmp_path), [mt.Resized("image", spatial_size=(4, 7))])


def test_a_slice_lies_as_its_file_does(tmp_path: Path) -> None:
    bank = make_bank(tmp_path, (1, 4, 5), HU)
    check_like_its_own_file(bank, save_nifti(tmp_path, "LPS"), [])
    check_like_its_own_file(bank, save_nifti(tmp_path, "LPS"), [mt.SqueezeDimd("image", dim=-1)])


@pytest.mark.parametrize("orientation", ["LPS", "RSA"])
def test_a_smaller_synthetic_volume_takes_the_field_of_view_of_the_files(tmp_path: Path, orientation: str) -> None:
    bank = make_bank(tmp_path, (1, 3, 4, 5), HU)
    large = np.zeros((1, 6, 12, 10), np.int16)
    path = save_nifti(tmp_path, orientation)("real", large)
    resize = mt.Resized("image", spatial_size=(6, 6, 6))
    compose = mt.Compose([mt.LoadImaged("image", ensure_channel_first=True), resize])
    records = [{"image": path, "label": label} for label in LABELS]
    mixed = SyntheticMixDataset(MonaiDataset(records, compose), bank, targets=LABELS)
    assert torch.allclose(mixed[4]["image"].affine, mixed[0]["image"].affine)


def test_a_numpy_file_keeps_its_axes(tmp_path: Path) -> None:
    check_like_its_own_file(make_bank(tmp_path, (1, 3, 4, 5), HU), save_npy(tmp_path), [])


def test_arrays_in_memory_keep_their_axes(tmp_path: Path) -> None:
    bank = make_bank(tmp_path, (1, 4, 6))
    records = [{"image": bank.image(i), "label": label} for i, label in enumerate(LABELS)]
    steps = mt.Compose([mt.EnsureTyped("image", track_meta=True), mt.ScaleIntensityRanged("image", 0, 255, 0, 1)])
    mixed = SyntheticMixDataset(MonaiDataset(records, steps), bank)
    for i in range(4, 6):
        assert torch.allclose(mixed[i]["image"] * 255, torch.from_numpy(bank.image(4 + mixed[i]["index"])).float())


class Items(Dataset):
    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make = make

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, i: int) -> Any:
        return self.make(i)


@pytest.mark.parametrize("codes", ["SPL", "RAS", "ILA"])
def test_meta_tensors_without_a_transform_are_imitated_in_their_place(tmp_path: Path, codes: str) -> None:
    bank = make_bank(tmp_path, (1, 3, 4, 5), HU)
    load = mt.Compose([mt.LoadImage(dtype=np.int16), mt.EnsureChannelFirst(), mt.Orientation(codes, labels=None)])
    save = save_nifti(tmp_path, "LPS")
    files = [save(f"{i}", bank.image(i)) for i in range(8)]
    mixed = SyntheticMixDataset(Items(lambda i: {"image": load(files[i]), "label": LABELS[i]}), bank)
    for i in (4, 5):
        wanted = load(files[4 + mixed[i]["index"]])
        assert torch.equal(mixed[i]["image"].as_tensor(), wanted.as_tensor())
        assert torch.allclose(mixed[i]["image"].affine, wanted.affine)


def test_a_transform_of_monai_given_for_pairs_gets_the_image(tmp_path: Path) -> None:
    bank = make_bank(tmp_path, (1, 5, 5))
    files = [save_png(tmp_path)(f"{i}", bank.image(i)) for i in range(4)]
    steps = mt.Compose([mt.LoadImage(ensure_channel_first=True), mt.ScaleIntensity()])
    mixed = SyntheticMixDataset(ArrayDataset(files, steps, labels=LABELS), bank, transform=steps, targets=LABELS)
    image, label = mixed[4]
    assert (type(image), tuple(image.shape), label) == (MetaTensor, (1, 5, 5), 1)
    assert float(image.max()) == 1


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda i: (MetaTensor(torch.zeros(1, 4, 6)), LABELS[i]), {"transform": to_tensor}, "MetaTensor.*cannot share"),
        (lambda i: (torch.zeros(1, 4, 6), LABELS[i]), {"transform": mt.ScaleIntensity()}, "track_meta=True"),
        (
            lambda i: (MetaTensor(torch.zeros(1, 4, 6)), LABELS[i]),
            {"transform": mt.Lambda(lambda x: x.no_such_thing)},
            "got a MetaTensor",
        ),
        (lambda i: (MetaTensor(torch.zeros(1, 4, 6)), LABELS[i]), {}, "cannot be known"),
    ],
)
def test_what_cannot_share_a_batch_is_refused(tmp_path: Path, make: Callable, options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SyntheticMixDataset(Items(make), make_bank(tmp_path, (1, 4, 6)), targets=LABELS, **options)


@pytest.mark.parametrize(
    ("form", "shape"),
    [(lambda x: x[0], (3, 4, 5)), (lambda x: x[0, ..., None], (3, 4, 5, 1)), (torch.from_numpy, (1, 3, 4, 5))],
    ids=["array DHW", "array DHWC", "tensor CDHW"],
)
def test_plain_volumes_have_the_axes_of_the_bank(tmp_path: Path, form: Callable, shape: tuple[int, ...]) -> None:
    bank = make_bank(tmp_path, (1, 3, 4, 5), HU)
    mixed = SyntheticMixDataset(Items(lambda i: {"image": form(bank.image(i)), "label": LABELS[i]}), bank)
    assert mixed[5]["image"].shape == shape
    assert np.array_equal(mixed[5]["image"], form(bank.image(4 + mixed[5]["index"])))


@pytest.mark.parametrize(
    ("stored", "given"),
    [((1, 4, 6), (4, 6)), ((2, 4, 6), (4, 6, 2)), ((1, 3, 4, 6), (3, 4, 6)), ((2, 3, 4, 6), (3, 4, 6, 2))],
)
def test_a_transform_gets_deep_images_as_numpy_users_have_them(
    tmp_path: Path, stored: tuple[int, ...], given: tuple[int, ...]
) -> None:
    bank = make_bank(tmp_path, stored, UINT16)
    got: list[np.ndarray] = []

    def transform(array: np.ndarray) -> torch.Tensor:
        got.append(array)
        return torch.zeros(1)

    SyntheticMixDataset(Items(lambda i: (torch.zeros(1), LABELS[i])), bank, transform=transform)
    assert (got[-1].shape, got[-1].dtype) == (given, np.uint16)
