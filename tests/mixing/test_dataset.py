import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import list_data_collate
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torchvision import tv_tensors
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from torchvision.transforms.functional import to_tensor

from ganaug.data.intensity import IntensityMap
from ganaug.errors import ConfigError, DataError, ModelFileError
from ganaug.mixing import SyntheticMixDataset
from ganaug.sampling.bank import SyntheticBank
from tests.sampling.fake_sampler import FakeSampler, read_back

LABELS = [0, 0, 0, 0, 0, 1, 2, 2]
AUTO = {"b": 4, "c": 3}


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> SyntheticBank:
    return SyntheticBank.generate(FakeSampler(), tmp_path_factory.mktemp("bank"), per_class=20)


class Real(Dataset):
    """Items of one form: `image` of an all-200 picture, with its label."""

    def __init__(self, image: Callable[[np.ndarray], Any], item: Callable[[Any, int], Any] | None = None) -> None:
        self.image = image
        self.item = item or (lambda image, label: (image, label))
        self.reads = 0

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, i: int) -> Any:
        self.reads += 1
        return self.item(self.image(np.full((4, 6), 200, np.uint8)), LABELS[i])


def stored(image: Any) -> np.ndarray:
    """Any of the forms below as the C×H×W uint8 array of the bank."""
    if isinstance(image, torch.Tensor):
        return image.numpy() if image.dtype == torch.uint8 else (image * 255).round().byte().numpy()
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)


FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "PIL gray": Image.fromarray,
    "PIL RGB": lambda x: Image.fromarray(x).convert("RGB"),
    "array HW": lambda x: x,
    "array HWC": lambda x: x[..., None],
    "array HWC RGB": lambda x: np.repeat(x[..., None], 3, axis=2),
    "tensor": lambda x: torch.from_numpy(x[None]),
    "tensor RGB": lambda x: torch.from_numpy(np.repeat(x[None], 3, axis=0)),
    "tv_tensor": lambda x: tv_tensors.Image(torch.from_numpy(x[None])),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_synthetic_items_take_the_form_of_the_real_ones(bank: SyntheticBank, form: Callable) -> None:
    mixed = SyntheticMixDataset(Real(form), bank)
    real, synthetic = mixed[0], mixed[len(mixed) - 1]
    assert type(synthetic) is type(real) is tuple
    assert type(synthetic[0]) is type(real[0])
    assert type(synthetic[1]) is int
    if isinstance(real[0], Image.Image):
        assert (synthetic[0].mode, synthetic[0].size) == (real[0].mode, real[0].size)
    else:
        assert (synthetic[0].shape, synthetic[0].dtype) == (real[0].shape, real[0].dtype)
    assert read_back(stored(synthetic[0]))[0] == synthetic[1] == 2


def test_real_items_come_first_and_unchanged_then_the_classes_that_lack_images(bank: SyntheticBank) -> None:
    real = Real(FORMS["tensor"])
    mixed = SyntheticMixDataset(real, bank)
    assert mixed.sampling_strategy_ == AUTO
    assert len(mixed) == 15
    assert mixed.targets.tolist() == [*LABELS, 1, 1, 1, 1, 2, 2, 2]
    assert mixed.is_synthetic.tolist() == [False] * 8 + [True] * 7
    assert [label for _, label in (mixed[i] for i in range(15))] == mixed.targets.tolist()
    assert all(torch.equal(mixed[i][0], real[i][0]) for i in range(8))
    for i in range(8, 15):
        assert read_back(stored(mixed[i][0]))[0] == mixed[i][1]
    assert mixed[-1][1] == 2
    with pytest.raises(IndexError):
        mixed[15]


def synthetic_indices(mixed: SyntheticMixDataset) -> list[tuple[int, int]]:
    return [read_back(stored(mixed[int(i)][0])) for i in np.flatnonzero(mixed.is_synthetic)]


def test_an_epoch_draws_no_image_twice_and_epochs_differ(bank: SyntheticBank) -> None:
    mixed = SyntheticMixDataset(Real(FORMS["tensor"]), bank, sampling_strategy={"b": 16, "c": 22}, seed=5)
    seen: Counter[tuple[int, int]] = Counter()
    epochs = []
    for epoch in range(6):
        mixed.set_epoch(epoch)
        epochs.append(synthetic_indices(mixed))
        assert len(set(epochs[-1])) == len(epochs[-1]) == 35
        seen.update(epochs[-1])
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert {key for key in seen if key[0] == 1} == {(1, i) for i in range(20)}
    mixed.set_epoch(2)
    assert synthetic_indices(mixed) == epochs[2]
    again = SyntheticMixDataset(Real(FORMS["tensor"]), bank, sampling_strategy={"b": 16, "c": 22}, seed=5)
    assert synthetic_indices(again) == epochs[0]
    other = SyntheticMixDataset(Real(FORMS["tensor"]), bank, sampling_strategy={"b": 16, "c": 22}, seed=6)
    assert synthetic_indices(other) != epochs[0]


def epoch_of(loader: DataLoader) -> torch.Tensor:
    return torch.cat([images for images, _ in loader])


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_persistent_workers_follow_set_epoch_and_see_the_items_of_the_main_process(
    bank: SyntheticBank, context: str
) -> None:
    mixed = SyntheticMixDataset(
        TensorDataset(torch.full((8, 1, 4, 6), 200, dtype=torch.uint8), torch.tensor(LABELS)), bank
    )
    single = DataLoader(mixed, batch_size=4)
    several = DataLoader(mixed, batch_size=4, num_workers=2, persistent_workers=True, multiprocessing_context=context)
    epochs = []
    for epoch in (0, 1, 4):
        mixed.set_epoch(epoch)
        epochs.append(epoch_of(several))
        assert torch.equal(epochs[-1], epoch_of(single))
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])


def test_pickle_is_small_and_keeps_the_items(bank: SyntheticBank) -> None:
    real = TensorDataset(torch.full((8, 1, 4, 6), 200, dtype=torch.uint8), torch.tensor(LABELS))
    mixed = SyntheticMixDataset(real, bank)
    before = synthetic_indices(mixed)
    data = pickle.dumps(mixed)
    assert len(data) < 5_000
    assert synthetic_indices(pickle.loads(data)) == before


def image_folder(root: Path, transform: Callable | None) -> ImageFolder:
    for name, count in {"a": 5, "b": 1, "c": 2}.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("L", (6, 4), 200).save(root / name / f"{i}.png")
    return ImageFolder(str(root), transform=transform)


def test_the_transform_of_an_image_folder_is_used_for_synthetic_images(tmp_path: Path, bank: SyntheticBank) -> None:
    normalize = v2.Normalize([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
    steps = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), normalize])
    mixed = SyntheticMixDataset(image_folder(tmp_path / "data", steps), bank)
    assert mixed.sampling_strategy_ == AUTO
    image, label = mixed[8]
    back = image * torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1) + torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)
    assert torch.allclose(back[0], back[2], atol=1e-6)
    assert read_back((back * 255).round().numpy())[0] == label == 1
    assert len(list(DataLoader(mixed, batch_size=15))) == 1


def test_a_subset_lends_the_labels_classes_and_transform_of_its_data_set(tmp_path: Path, bank: SyntheticBank) -> None:
    folder = image_folder(tmp_path / "data", to_tensor)
    subset = Subset(Subset(folder, [7, 5, 4, 3]), [1, 2, 3, 0])
    mixed = SyntheticMixDataset(subset, bank)
    assert mixed.targets.tolist()[:4] == [1, 0, 0, 2]
    assert mixed.sampling_strategy_ == {"b": 1, "c": 1}
    assert mixed[-1][0].shape == (3, 4, 6)


def test_labels_are_found_without_reading_images_where_that_can_be(bank: SyntheticBank) -> None:
    real = Real(FORMS["tensor"])
    assert SyntheticMixDataset(real, bank, targets=torch.tensor(LABELS)).sampling_strategy_ == AUTO
    assert real.reads == 1
    real.labels = np.array(LABELS)[:, None]  # type: ignore[attr-defined]
    assert SyntheticMixDataset(real, bank).sampling_strategy_ == AUTO
    assert real.reads == 2


@pytest.mark.parametrize(
    "label",
    [
        np.int64,
        np.uint8,
        lambda x: torch.tensor(x),
        lambda x: np.array([x]),
        lambda x: torch.tensor([x], dtype=torch.int32),
    ],
)
def test_synthetic_labels_take_the_type_of_real_ones(bank: SyntheticBank, label: Callable[[int], Any]) -> None:
    mixed = SyntheticMixDataset(Real(FORMS["tensor"], lambda image, x: (image, label(x))), bank)
    real, synthetic = mixed[7][1], mixed[14][1]
    assert type(synthetic) is type(real)
    assert synthetic.dtype == real.dtype
    assert np.shape(synthetic) == np.shape(real)
    assert synthetic == real == 2


def test_lists_stay_lists(bank: SyntheticBank) -> None:
    mixed = SyntheticMixDataset(Real(FORMS["tensor"], lambda image, x: [image, x]), bank)
    assert [type(mixed[0]), type(mixed[14])] == [list, list]


@pytest.mark.parametrize("keys", [("image", "label"), ("img", "target")])
def test_dictionary_items_carry_provenance_through_monai_collate(bank: SyntheticBank, keys: tuple[str, str]) -> None:
    real = Real(FORMS["tensor"], lambda image, x: {keys[0]: image, keys[1]: x})
    mixed = SyntheticMixDataset(real, bank, image_key=keys[0], label_key=keys[1])
    provenance = {
        "synthetic",
        "label",
        "source",
        "seed",
        "index",
        "model_sha256",
        "truncation",
        "accepted",
        "scores",
    }
    assert set(mixed[0]) == set(mixed[14]) == {*keys, *provenance}
    loader = DataLoader(mixed, batch_size=15, collate_fn=list_data_collate)
    (batch,) = loader
    assert batch["synthetic"].tolist() == mixed.is_synthetic.tolist()
    assert batch[keys[1]].tolist() == mixed.targets.tolist()
    assert batch["model_sha256"][0] == ""
    assert batch["model_sha256"][14] == bank.model_sha256
    for image, label, index in zip(batch[keys[0]][8:], batch[keys[1]][8:], batch["index"][8:], strict=True):
        assert read_back(image.numpy()) == (label, index)
    if keys[1] != "label":
        assert batch["label"][0] == "a"
        assert batch["label"][14] == "c"


def test_a_given_transform_gets_pil_or_an_array_where_pil_has_no_form(tmp_path: Path, bank: SyntheticBank) -> None:
    got: list[Any] = []

    def keep(image: Any) -> torch.Tensor:
        got.append(image)
        return torch.zeros(1, 4, 6)

    SyntheticMixDataset(Real(lambda x: torch.zeros(1, 4, 6)), bank, transform=keep)
    assert (got[-1].mode, got[-1].size) == ("L", (6, 4))
    sixteen = FakeSampler(intensity=IntensityMap("window", 0, 4000, "uint16"))
    wide = SyntheticBank.generate(sixteen, tmp_path / "bank", per_class=9)
    SyntheticMixDataset(Real(lambda x: torch.zeros(1, 4, 6)), wide, transform=keep)
    assert (got[-1].shape, got[-1].dtype) == ((4, 6, 1), np.uint16)


def fail(image: Any) -> Any:
    raise ValueError("odd")


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (lambda x: torch.zeros(1, 4, 6), {}, "cannot be known.*transform=torchvision"),
        (lambda x: np.zeros((4, 6), np.float32), {}, "cannot be known.*transform=torchvision"),
        (
            lambda x: torch.zeros(1, 8, 6),
            {"transform": to_tensor},
            r"\(1, 8, 6\).*\(1, 4, 6\).*Resize\(\[4, 6\]\)",
        ),
        (lambda x: torch.zeros(2, 4, 6), {"transform": to_tensor}, r"\(2, 4, 6\).*Grayscale"),
        (lambda x: torch.zeros(1, 4, 6), {"transform": lambda image: image}, "PIL"),
        (lambda x: torch.zeros(1, 4, 6), {"transform": v2.PILToTensor()}, "torch.float32.*torch.uint8"),
        (lambda x: torch.zeros(1, 4, 6), {"transform": fail}, "ValueError: odd.*PIL image"),
        (lambda x: Image.fromarray(x).convert("RGBA"), {}, "'RGBA'"),
        (lambda x: "file.png", {}, "str"),
        (
            FORMS["tensor"],
            {"sampling_strategy": {"a": 40}},
            r"35 of 'a' \(it has 20\).*--counts a=35,b=20,c=20",
        ),
        (FORMS["tensor"], {"targets": [0, 1]}, "2 values.*8 items"),
        (FORMS["tensor"], {"targets": [0.5] * 8}, "8 items"),
        (FORMS["tensor"], {"seed": -1}, "seed is -1"),
        (FORMS["tensor"], {"sampling_strategy": "majority"}, "'majority'"),
    ],
)
def test_what_does_not_fit_is_refused_on_construction(
    bank: SyntheticBank, image: Callable, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        SyntheticMixDataset(Real(image), bank, **options)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (lambda image, x: image, "Tensor.*a pair"),
        (lambda image, x: (image, x, "name"), "tuple of 3.*a pair"),
        (lambda image, x: {"image": image}, "'label' was wanted"),
        (lambda image, x: {"image": image, "label": x, "patient": "p1"}, "'patient'.*Drop"),
        (lambda image, x: (image, "benign"), "'benign'.*integer"),
        (lambda image, x: (image, torch.eye(3)[x]), "one-hot"),
    ],
)
def test_items_of_another_layout_are_refused(bank: SyntheticBank, item: Callable, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SyntheticMixDataset(Real(FORMS["tensor"], item), bank)


def test_other_classes_are_refused_and_renaming_is_possible(bank: SyntheticBank) -> None:
    real = Real(FORMS["tensor"])
    real.classes = ["a", "c", "b"]  # type: ignore[attr-defined]
    with pytest.raises(ModelFileError, match=r"a, c, b.*a, b, c"):
        SyntheticMixDataset(real, bank)
    assert len(SyntheticMixDataset(real, bank, classes=bank.classes)) == 15


def test_labels_that_do_not_fit_are_refused(bank: SyntheticBank) -> None:
    with pytest.raises(DataError, match="0 to 2 was wanted"):
        SyntheticMixDataset(Real(FORMS["tensor"], lambda image, x: (image, x + 1)), bank)
    with pytest.raises(DataError, match=r"has the label 0, but its list of labels says 1"):
        SyntheticMixDataset(Real(FORMS["tensor"]), bank, targets=[1] * 8)
    with pytest.raises(DataError, match="empty"):
        SyntheticMixDataset(Subset(Real(FORMS["tensor"]), []), bank)


def test_nothing_to_add_needs_no_known_form(bank: SyntheticBank) -> None:
    mixed = SyntheticMixDataset(Real(lambda x: torch.zeros(9)), bank, sampling_strategy={})
    assert len(mixed) == 8
    assert not mixed.is_synthetic.any()
