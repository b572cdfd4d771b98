import doctest
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, Dataset, MetaTensor, PersistentDataset, SmartCacheDataset
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Flip,
    Identity,
    LoadImage,
    LoadImaged,
    NormalizeIntensity,
    Rotate90,
    ScaleIntensityRange,
    SqueezeDim,
)
from monai.utils import set_determinism
from PIL import Image
from torch.utils.data import DataLoader as TorchDataLoader

from ganaug.data.geometry import PLANES, cut
from ganaug.data.readers import read
from ganaug.errors import ConfigError, GanaugError
from ganaug.mixing import monai
from ganaug.mixing.monai import SyntheticMix, SyntheticMixD, SyntheticMixd, SyntheticMixDict
from ganaug.mixing.real import NOT_SYNTHETIC
from ganaug.sampling.bank import SyntheticBank
from tests.dicoms import AXIAL, SAGITTAL, write_image
from tests.mixing.copies import bank_of

pytestmark = pytest.mark.filterwarnings("ignore:.*nvImageCodec:UserWarning")

REAL = 200.0  # of every pixel of a real image but its first, which is 0; no synthetic image has it


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> SyntheticBank:
    """Class a, b, c: 20, 20 and 0 images 1×4×6; the first pixel is 10 × label, the second the index, the third 250."""
    images = np.full((2, 20, 1, 4, 6), 7, np.uint8)
    images[:, :, 0, 0, 0] = [[0], [10]]
    images[:, :, 0, 0, 1] = np.arange(20)
    images[:, :, 0, 0, 2] = 250
    images = {"a": images[0], "b": images[1], "c": np.empty((0, 1, 4, 6), np.uint8)}
    return bank_of(tmp_path_factory.mktemp("bank") / "bank", images)


def real_item(label: Any = 0, shape: tuple[int, ...] = (1, 4, 6)) -> dict[str, Any]:
    image = torch.full(shape, REAL)
    image.view(-1)[0] = 0
    return {"image": MetaTensor(image), "label": label}


def drawn(image: Any) -> tuple[int, int] | None:
    """The class and index that an image spells out; None of a real one."""
    return None if image[0, 2, 2] == REAL else (int(image[0, 0, 0]) // 10, int(image[0, 0, 1]))


def random_image(*shape: int, dtype: str = "uint8") -> np.ndarray:
    top = {"uint8": 256, "uint16": 50_000, "int16": 3000, "float32": 256}[dtype]
    return np.random.default_rng(0).integers(-900 if dtype == "int16" else 0, top, shape).astype(dtype)


def write_nifti(path: Path, array: np.ndarray, codes: str, *, tilt: float = 0.0) -> Path:
    """Write a file whose axes run toward `codes`, turned in the axial plane by `tilt`."""
    directions = {"R": (0, 1), "A": (1, 1), "S": (2, 1), "L": (0, -1), "P": (1, -1), "I": (2, -1)}
    affine = np.zeros((4, 4))
    for axis, code in enumerate(codes):
        row, sign = directions[code]
        affine[row, axis] = sign * (2 + axis)
    affine[:, 3] = (5, 6, 7, 1)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]
    nib.save(nib.Nifti1Image(array, turn @ affine), path)
    return path


def write_png(path: Path, array: np.ndarray) -> Path:
    Image.fromarray(array).save(path)
    return path


def write_npy(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def dicom_tags(directions: tuple[float, ...]) -> dict[str, Any]:
    return {"ImageOrientationPatient": list(directions), "ImagePositionPatient": [0, 0, 0], "PixelSpacing": [2, 3]}


FILES: dict[str, Callable[[Path], Path]] = {
    "png": lambda at: write_png(at / "x.png", random_image(4, 6)),
    "square png": lambda at: write_png(at / "x.png", random_image(5, 5)),
    "color png": lambda at: write_png(at / "x.png", random_image(4, 6, 3)),
    "16-bit png": lambda at: write_png(at / "x.png", random_image(4, 6, dtype="uint16")),
    "npy image": lambda at: write_npy(at / "x.npy", random_image(5, 5, dtype="float32")),
    "npy volume": lambda at: write_npy(at / "x.npy", random_image(5, 5, 5)),
    "nifti RAS": lambda at: write_nifti(at / "x.nii.gz", random_image(4, 6, 5, dtype="int16"), "RAS"),
    "nifti LPS": lambda at: write_nifti(at / "x.nii.gz", random_image(5, 5, 5, dtype="int16"), "LPS"),
    "nifti PIR": lambda at: write_nifti(at / "x.nii.gz", random_image(4, 6, 5, dtype="uint16"), "PIR"),
    "nifti ASL, tilted": lambda at: write_nifti(at / "x.nii.gz", random_image(5, 5, 5), "ASL", tilt=0.4),
    "one axial slice": lambda at: write_nifti(at / "x.nii.gz", random_image(5, 5, 1), "RAS"),
    "one coronal slice": lambda at: write_nifti(at / "x.nii.gz", random_image(5, 5, 1), "RSA"),
    "one sagittal slice": lambda at: write_nifti(at / "x.nii.gz", random_image(4, 6, 1), "PSR"),
    "axial dicom": lambda at: write_image(at / "x.dcm", random_image(5, 5, dtype="uint16"), **dicom_tags(AXIAL)),
    "sagittal dicom": lambda at: write_image(at / "x.dcm", random_image(5, 5, dtype="uint16"), **dicom_tags(SAGITTAL)),
}


def bank_of_file(path: Path) -> SyntheticBank:
    """A bank that holds one image: what ganaug reads from the file."""
    pixels = np.moveaxis(read(path).pixels, -1, 0)[None]
    return bank_of(path.parent / "bank", {"a": pixels, "b": pixels})


@pytest.mark.parametrize("kind", FILES)
def test_the_image_that_ganaug_read_from_a_file_comes_back_as_monai_reads_it(kind: str, tmp_path: Path) -> None:
    path = FILES[kind](tmp_path)
    mix = SyntheticMix(bank_of_file(path), prob=1)
    item = LoadImage(ensure_channel_first=True)(path)
    flipped = Rotate90()(Flip(1)(Flip(0)(item)))
    for real in (item, flipped):
        new, _ = mix(real, 0)
        assert isinstance(new, MetaTensor)
        assert torch.equal(new.as_tensor(), real.as_tensor())
        assert torch.equal(new.affine, real.affine)
        assert new.meta["filename_or_obj"].endswith("images.npy[0]")
        assert real.meta["filename_or_obj"] == str(path)
        assert new.applied_operations == real.applied_operations


def test_a_slice_without_its_third_axis_is_turned_by_its_affine(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "x.nii.gz", random_image(5, 5, 1), "LAS")
    item = SqueezeDim(-1)(LoadImage(ensure_channel_first=True)(path))
    assert item.shape == (1, 5, 5)
    assert torch.equal(SyntheticMix(bank_of_file(path), prob=1)(item, 0)[0].as_tensor(), item.as_tensor())


@pytest.mark.parametrize("plane", PLANES)
def test_slices_of_a_volume_are_turned_as_they_were_cut(plane: str, tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "x.nii.gz", random_image(5, 5, 5), "PRI")
    volume = LoadImage(ensure_channel_first=True)(path)
    across = {"coronal": 1, "sagittal": 2, "axial": 3}[plane]  # the axes run toward P, R and I
    item = volume.narrow(across, 2, 1)  # the middle, from either end
    found = {index: image for index, image, _ in cut(read(path).pixels, None, plane)}
    bank = bank_of(tmp_path / "bank", {"a": np.moveaxis(found[2], -1, 0)[None], "b": np.empty((0, 1, 5, 5), np.uint8)})
    assert torch.equal(SyntheticMix(bank, prob=1)(item, 0)[0].as_tensor(), item.as_tensor())


def test_axes_say_what_cannot_be_known(tmp_path: Path) -> None:
    path = write_png(tmp_path / "x.png", random_image(5, 5))
    bank = bank_of_file(path)
    array = np.asarray(Image.open(path), np.float32)[None]
    with pytest.raises(ConfigError, match="axes='hw'"):
        SyntheticMix(bank, prob=1)(array, 0)
    assert np.array_equal(SyntheticMix(bank, prob=1, axes="hw")(array, 0)[0], array)
    assert np.array_equal(SyntheticMix(bank, prob=1, axes="wh")(array, 0)[0], array.transpose(0, 2, 1))
    rows_first = LoadImage("PILReader", ensure_channel_first=True, reverse_indexing=False)(path)
    new, _ = SyntheticMix(bank, prob=1, axes="hw")(rows_first, 0)
    assert torch.equal(new.as_tensor(), rows_first.as_tensor())
    volume = random_image(4, 5, 6)
    bank = bank_of(tmp_path / "volumes", {"a": volume[None, None], "b": volume[None, None]})
    new, _ = SyntheticMix(bank, prob=1, axes="whd")(np.zeros((1, 6, 5, 4), np.uint8), 0)
    assert np.array_equal(new[0], volume.transpose(2, 1, 0))
    with pytest.raises(ConfigError, match="'dhw'"):
        SyntheticMix(bank, axes="hw")


@pytest.mark.parametrize(
    "image",
    [
        np.linspace(0, 200, 24).reshape(1, 4, 6),
        np.linspace(0, 200, 72).reshape(3, 4, 6).astype(np.uint8),
        torch.linspace(0, 200, 24).view(1, 4, 6).bfloat16(),
        MetaTensor(torch.linspace(0, 200, 24).view(1, 4, 6).int()),
    ],
    ids=lambda image: f"{type(image).__name__} {image.dtype}",
)
def test_the_form_of_the_item_is_kept(bank: SyntheticBank, image: Any) -> None:
    mix = SyntheticMix(bank, prob=1, axes="hw").set_random_state(0)
    new, _ = mix(image, 1)
    assert type(new) is type(image)
    assert (new.dtype, new.shape) == (image.dtype, image.shape)
    assert (new[0, 0, 0], new[-1, 0, 2]) == (10, 250)


def test_other_scales_are_found_and_a_transform_brings_them_together(bank: SyntheticBank) -> None:
    image = real_item()["image"]
    normalized, unit = NormalizeIntensity()(image), ScaleIntensityRange(0, 255, 0, 1)
    for scaled in (normalized, unit(image), image * 257):
        with pytest.raises(ConfigError, match="ScaleIntensityRange"):
            SyntheticMix(bank, prob=1)(scaled, 0)
    new, _ = SyntheticMix(bank, prob=1, transform=unit)(unit(image), 0)
    assert isinstance(new, MetaTensor)
    assert new[0, 0, 2] == pytest.approx(250 / 255)
    stored, _ = SyntheticMix(bank, prob=1, transform=Identity())(unit(image), 0)
    assert stored[0, 0, 2] == 250
    mix = SyntheticMix(bank, prob=1)
    mix(torch.zeros_like(image), 0)  # tells nothing
    with pytest.raises(ConfigError, match=r"go from 0 to 0\.78"):
        mix(unit(image), 0)


def test_scales_of_16_bits_and_hounsfield_units(tmp_path: Path) -> None:
    for dtype in ("uint16", "int16"):
        held = random_image(2, 1, 6, 6, dtype=dtype)
        bank = bank_of(tmp_path / dtype, {"a": held, "b": held})
        image = torch.from_numpy(held[0].astype(np.float32))
        new, _ = SyntheticMix(bank, prob=1, axes="hw").set_random_state(0)(image + 1, 0)
        assert any(torch.equal(new, torch.from_numpy(one.astype(np.float32))) for one in held)
        for scaled in (image / 255, (image - image.mean()) / image.std()):
            with pytest.raises(ConfigError, match="scales differ"):
                SyntheticMix(bank, prob=1, axes="hw")(scaled, 0)


def test_same_keeps_labels_and_what_the_bank_has_none_of(bank: SyntheticBank) -> None:
    mix = SyntheticMixd("image", bank=bank, prob=1).set_random_state(0)
    for label in (0, np.int64(1), torch.tensor(0), torch.tensor([1]), "b"):
        item = mix(real_item(label))
        assert type(item["label"]) is type(label)
        assert item["label"] == label
        found = drawn(item["image"])
        assert found is not None
        assert found[0] == (1 if label == "b" else int(label))
        assert item["synthetic"] is True
    item = mix(real_item("c"))
    assert drawn(item["image"]) is None
    assert item["synthetic"] is False


def test_balanced_draws_all_images_evenly_and_brings_their_labels(bank: SyntheticBank) -> None:
    mix = SyntheticMix(bank, prob=0.5, classes="balanced").set_random_state(0)
    counts = np.zeros((2, 20))
    for _ in range(4000):
        mix.randomize("c")
        if mix.position is not None:
            counts[mix.bank.labels[mix.position], mix.position % 20] += 1
    assert counts.sum() == pytest.approx(2000, abs=130)  # four standard deviations
    assert counts.sum(1) == pytest.approx([1000, 1000], abs=130)
    assert counts.min() > 20
    item = SyntheticMixd("image", bank=bank, prob=1, classes="balanced")(real_item(torch.tensor(2)))
    found = drawn(item["image"])
    assert found is not None
    assert torch.equal(item["label"], torch.tensor(found[0]))


def test_provenance_is_on_every_item_and_survives_collating(bank: SyntheticBank) -> None:
    mix = SyntheticMixd("image", bank=bank, prob=0.5)
    data = Dataset([real_item(i % 2) for i in range(16)], Compose([mix]).set_random_state(1))
    batch = next(iter(DataLoader(data, batch_size=16)))
    assert NOT_SYNTHETIC.keys() <= batch.keys()
    for i, image in enumerate(batch["image"]):
        found = drawn(image)
        assert bool(batch["synthetic"][i]) == (found is not None)
        assert batch["index"][i] == (-1 if found is None else found[1])
        assert batch["model_sha256"][i] == ("" if found is None else bank.model_sha256)
        assert batch["source"][i] == ("real" if found is None else "noise")
    assert 0 < batch["synthetic"].sum() < 16
    again = SyntheticMixd("image", bank=bank, prob=0)(mix.__class__("image", bank=bank, prob=1)(real_item()))
    assert again["synthetic"] is True
    with pytest.raises(ConfigError, match="source"):
        mix({**real_item(), "source": "hospital A"})


@pytest.fixture
def determinism() -> Iterator[Callable[[int], None]]:
    """MONAI's set_determinism, undone afterwards."""
    yield set_determinism
    set_determinism(None)


def epoch(loader: Any) -> list[Any]:
    """What each item of an epoch spells out; images lie as MONAI's reader has them, W×H."""
    return [drawn(image.transpose(1, 2)) for batch in loader for image in batch["image"]]


def cached(kind: str, folder: Path, bank: SyntheticBank) -> Any:
    """A caching data set of eight PNG files, with the transform behind their loading."""
    array = np.full((4, 6), REAL, np.uint8)
    array[0, 0] = 0
    files = [{"image": str(write_png(folder / f"{i}.png", array)), "label": i % 2} for i in range(8)]
    # By default a PersistentDataset drops metadata.
    mix = SyntheticMixd("image", bank=bank, prob=0.7, axes="wh" if kind == "persistent" else None)
    transform = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), mix])
    if kind == "cache":
        return CacheDataset(files, transform, progress=False, num_workers=0)
    if kind == "persistent":
        return PersistentDataset(files, transform, cache_dir=folder / "cache")
    return SmartCacheDataset(files, transform, 0.5, 6, progress=False, num_init_workers=1, num_replace_workers=1)


@pytest.mark.parametrize("kind", ["cache", "persistent", "smart"])
def test_caches_keep_what_comes_before_and_each_epoch_draws_anew(
    bank: SyntheticBank, tmp_path: Path, determinism: Callable[[int], None], kind: str
) -> None:
    data = cached(kind, tmp_path, bank)
    determinism(5)
    first, second = epoch(DataLoader(data, batch_size=4)), epoch(DataLoader(data, batch_size=4))
    assert first != second
    assert {None} < {*first, *second}
    for file in tmp_path.glob("*.png"):
        file.unlink()
    determinism(5)
    again = epoch(DataLoader(data, batch_size=4))
    assert again == first or kind == "smart", "MONAI's loader seeds that data set, but not its transforms"


@pytest.mark.parametrize("loader", [DataLoader, TorchDataLoader])
def test_workers_and_epochs_do_not_repeat_each_other_and_a_seed_does(bank: SyntheticBank, loader: Any) -> None:
    items = [{"image": real_item()["image"].as_tensor(), "label": 0} for _ in range(24)]
    data = Dataset(items, SyntheticMixd("image", bank=bank, prob=0.8, axes="hw"))

    def epochs(seed: int, persistent: bool) -> list[list[Any]]:
        torch.manual_seed(seed)
        loaded = loader(data, batch_size=12, num_workers=2, persistent_workers=persistent)
        return [[drawn(image) for batch in loaded for image in batch["image"]] for _ in range(2)]

    for persistent in (True, False):
        first, second = epochs(0, persistent)
        assert first[:12] != first[12:], "the two workers"
        assert first != second
    assert epochs(0, False) == [first, second]


def test_a_seed_reproduces_the_draws(bank: SyntheticBank) -> None:
    compose = Compose([SyntheticMixd("image", bank=bank, prob=0.5)])

    def draws() -> list[Any]:
        return [drawn(compose(real_item(i % 2))["image"]) for i in range(20)]

    compose.set_random_state(3)
    first = draws()
    assert first != draws()
    compose.set_random_state(3)
    assert first == draws()


def test_pickles_are_small_and_a_folder_names_a_bank(bank: SyntheticBank) -> None:
    mix = SyntheticMixd("image", bank=bank.path, prob=1)
    mix(real_item())
    data = pickle.dumps(mix.set_random_state(0))
    assert len(data) < 8000
    assert drawn(pickle.loads(data)(real_item(1))["image"])[0] == 1  # type: ignore[index]
    assert SyntheticMixD is SyntheticMixDict is SyntheticMixd


def test_missing_keys(bank: SyntheticBank) -> None:
    item = real_item()
    with pytest.raises(KeyError, match="t2"):
        SyntheticMixd(["image", "t2"], bank=bank)(item)
    allowed = SyntheticMixd(["image", "t2"], bank=bank, prob=1, allow_missing_keys=True)
    assert allowed(item)["synthetic"] is True
    assert allowed({"label": 0})["synthetic"] is False
    with pytest.raises(ConfigError, match="label_key="):
        SyntheticMixd("image", bank=bank)({"image": item["image"]})
    assert allowed({"image": item["image"]})["synthetic"] is False
    both = allowed({**item, "t2": item["image"].clone()})
    assert torch.equal(both["image"], both["t2"])
    assert drawn(item["image"]) is None, "the item that was given stays as it is"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prob": 1.2}, "prob is 1.2"),
        ({"prob": float("nan")}, "prob is nan"),
        ({"classes": "all"}, "'balanced'"),
        ({"axes": "xy"}, "'hw'"),
        ({"bank": "/no/such/bank"}, "bank"),
    ],
)
def test_bad_settings(bank: SyntheticBank, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(GanaugError, match=words):
        SyntheticMixd("image", **{"bank": bank, **settings})


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (real_item(label=3), "0 to 2"),
        (real_item(label=-1), "0 to 2"),
        (real_item(label="d"), "a, b, c"),
        (real_item(label=torch.eye(3)[0]), "integer"),
        (real_item(shape=(1, 8, 8)), r"Resized\(keys, spatial_size=\[4, 6\]\)"),
        (real_item(shape=(2, 4, 6)), "channels"),
        (real_item(shape=(1, 6, 4)), "axes="),
        (real_item(shape=(1, 4, 6, 1, 1)), "shape"),
        ({"image": "scan.png", "label": 0}, "LoadImaged"),
        ({"image": MetaTensor(torch.ones(1, 4, 6).char()), "label": 0}, "int8"),
    ],
)
def test_items_that_do_not_fit(bank: SyntheticBank, item: dict[str, Any], words: str) -> None:
    mix = SyntheticMixd("image", bank=bank, prob=1)
    with pytest.raises(ConfigError, match=words):
        mix(item)
    with pytest.raises(RuntimeError, match="applying transform") as caught:
        Compose([mix])(item)
    assert isinstance(caught.value.__cause__, ConfigError)


def test_the_examples_run(bank: SyntheticBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_png(tmp_path / "scan.png", random_image(4, 6))
    failed, tried = doctest.testmod(monai, extraglobs={"bank": bank})
    assert (failed, tried) == (0, 7)
