import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import list_data_collate
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset, WeightedRandomSampler, default_collate
from torchvision import tv_tensors
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from torchvision.transforms.functional import to_tensor

from ganaug.data.intensity import IntensityMap
from ganaug.errors import ConfigError, DataError, ModelFileError
from ganaug.mixing import SyntheticMixDataset
from ganaug.mixing.draws import draw_evenly, schedule_factor
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


@pytest.mark.parametrize("collate", [default_collate, list_data_collate])
@pytest.mark.parametrize("keys", [("image", "label"), ("img", "target")])
def test_dictionary_items_carry_provenance_through_collating(
    bank: SyntheticBank, keys: tuple[str, str], collate: Callable
) -> None:
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
    loader = DataLoader(mixed, batch_size=15, collate_fn=collate)
    (batch,) = loader
    assert provenance <= set(batch)
    assert batch["source"] == ["real"] * 8 + ["noise"] * 7
    assert batch["synthetic"].tolist() == mixed.is_synthetic.tolist()
    assert batch[keys[1]].tolist() == mixed.targets.tolist()
    assert batch["model_sha256"][0] == ""
    assert batch["model_sha256"][14] == bank.model_sha256
    # Nobody judged: nothing was rejected or measured, and the bank says that no filter was asked.
    assert batch["accepted"].tolist() == [True] * 15
    assert batch["scores"] == ["{}"] * 15
    assert bank.acceptance == {}
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
    assert (got[-1].shape, got[-1].dtype) == ((4, 6), np.uint16)


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
        (FORMS["tensor"], {"balance": "most"}, "'most'"),
        (FORMS["tensor"], {"ratio": -1}, "ratio is -1"),
        (FORMS["tensor"], {"symmetric": 2, "ratio": 1}, "symmetric is 2"),
        (FORMS["tensor"], {"schedule": 3}, "schedule is 3; a pair"),
        (FORMS["tensor"], {"schedule": (5, 2)}, r"schedule is \(5, 2\)"),
        (FORMS["tensor"], {"schedule": (0, 1, 2)}, "a pair"),
        (FORMS["tensor"], {"schedule": lambda epoch: 1.5}, "returned 1.5 for epoch 0"),
        (FORMS["tensor"], {"schedule": lambda epoch: None}, "returned None"),
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
        (lambda image, x: (image, x, "name"), r"tuple of 3; a pair.*wrap.*item\[:2\]"),
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
    with pytest.raises(ModelFileError, match=r"same names in another order.*'a': 0, 'b': 1, 'c': 2"):
        SyntheticMixDataset(real, bank, classes=bank.classes)  # would give labels to the wrong images
    real.classes = ["A", "B", "C"]  # type: ignore[attr-defined]
    with pytest.raises(ModelFileError, match=r"pass classes=bank\.classes"):
        SyntheticMixDataset(real, bank)
    assert len(SyntheticMixDataset(real, bank, classes=bank.classes)) == 15


def test_a_bank_may_be_a_folder_and_what_is_none_says_so(bank: SyntheticBank, tmp_path: Path) -> None:
    real = Real(FORMS["tensor"])
    assert len(SyntheticMixDataset(real, bank.path)) == 15
    with pytest.raises(ModelFileError, match="nope does not exist; the folder of a bank was wanted"):
        SyntheticMixDataset(real, tmp_path / "nope")
    with pytest.raises(ModelFileError, match="is no bank"):
        SyntheticMixDataset(real, tmp_path)
    with pytest.raises(ConfigError, match="The bank is a FakeSampler; a SyntheticBank"):
        SyntheticMixDataset(real, FakeSampler())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="wrap its data set"):
        SyntheticMixDataset(DataLoader(real), bank)


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


def test_a_class_without_real_images_is_refused_unless_its_number_is_given(bank: SyntheticBank) -> None:
    real = Subset(Real(FORMS["tensor"]), [0, 1, 2, 6])
    with pytest.raises(DataError, match="no image of 'b'"):
        SyntheticMixDataset(real, bank, targets=[0, 0, 0, 2])
    assert len(SyntheticMixDataset(real, bank, targets=[0, 0, 0, 2], sampling_strategy={"b": 3})) == 7
    with pytest.raises(DataError, match="leave schedule= out"):
        SyntheticMixDataset(real, bank, targets=[0, 0, 0, 2], sampling_strategy={"b": 3}, schedule=(1, 2))


def test_ratio_and_symmetric_bound_the_synthetic_images_of_each_class(bank: SyntheticBank) -> None:
    mixed = SyntheticMixDataset(Real(FORMS["tensor"]), bank, ratio=2, symmetric=0.5)
    assert mixed.sampling_strategy_ == {"a": 3, "b": 2, "c": 4}
    assert mixed.targets[8:].tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert [read_back(stored(mixed[i][0]))[0] for i in range(8, 17)] == mixed.targets[8:].tolist()
    assert mixed.sample_weights.tolist() == [1.0] * 17


def test_sample_weights_level_the_classes_where_synthetic_images_did_not(bank: SyntheticBank) -> None:
    none = SyntheticMixDataset(Real(FORMS["tensor"]), bank, balance="resample")
    assert len(none) == 8
    assert not none.is_synthetic.any()
    assert none.sample_weights.tolist() == [1, 1, 1, 1, 1, 5, 2.5, 2.5]
    both = SyntheticMixDataset(Real(FORMS["tensor"]), bank, balance="both")
    assert both.sampling_strategy_ == {"b": 2, "c": 2}
    assert np.bincount(both.targets, both.sample_weights).tolist() == pytest.approx([5, 5, 5])
    drawn = list(WeightedRandomSampler(both.sample_weights, 3000, generator=torch.Generator().manual_seed(0)))
    assert np.bincount(both.targets[drawn]) == pytest.approx([1000] * 3, rel=0.1)


class Numbered(Dataset):
    """Eight real images, each filled with 100 + its number."""

    targets = (0, 0, 0, 0, 0, 1, 2, 2)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> Any:
        return torch.full((1, 4, 6), 100 + i, dtype=torch.uint8), self.targets[i]


def test_a_schedule_puts_real_items_of_the_class_in_the_place_of_synthetic_ones(bank: SyntheticBank) -> None:
    mixed = SyntheticMixDataset(Numbered(), bank, sampling_strategy={"b": 8, "c": 10}, schedule=(2, 4), seed=1)
    targets = mixed.targets.tolist()
    shown = []
    for epoch in range(6):
        mixed.set_epoch(epoch)
        shown.append(int(mixed.is_synthetic.sum()))
        assert len(mixed) == 8 + 7 + 8
        items = [(int(image[0, 0, 0]), label) for image, label in (mixed[i] for i in range(len(mixed)))]
        assert [label for _, label in items] == mixed.targets.tolist() == targets
        assert [value < 100 for value, _ in items] == mixed.is_synthetic.tolist()
        filled = Counter(value - 100 for value, _ in items[8:] if value >= 100)
        assert set(filled) <= {5, 6, 7}
        assert abs(filled[6] - filled[7]) <= 1, "real ones of a class take turns"
    assert shown == [15, 15, 15, 8, 0, 0]


def test_a_schedule_may_be_a_function_of_the_epoch(bank: SyntheticBank) -> None:
    mixed = SyntheticMixDataset(Numbered(), bank, sampling_strategy={"a": 15}, schedule=lambda epoch: 1 - epoch / 5)
    assert mixed.is_synthetic.sum() == 10
    mixed.set_epoch(2)
    assert mixed.is_synthetic.sum() == 6
    with pytest.raises(ConfigError, match="for epoch 6"):
        mixed.set_epoch(6)
    with pytest.raises(ConfigError, match="epoch is -1"):
        mixed.set_epoch(-1)


def test_a_pair_of_epochs_is_a_straight_way_down() -> None:
    assert [schedule_factor((2, 6), epoch) for epoch in range(8)] == [1, 1, 1, 0.75, 0.5, 0.25, 0, 0]
    assert [schedule_factor((3, 3), epoch) for epoch in range(5)] == [1, 1, 1, 0, 0]


@given(st.integers(0, 200), st.integers(1, 60), st.tuples(st.integers(0, 2**63), st.integers(0, 10**6)))
def test_draws_repeat_only_after_all_were_drawn(count: int, available: int, key: tuple[int, int]) -> None:
    drawn = draw_evenly(count, available, key)
    assert len(drawn) == count
    times = np.bincount(drawn, minlength=available)
    assert len(times) == available
    assert times.max() - times.min() <= 1
    assert len(set(drawn[:available].tolist())) == min(count, available)
    assert draw_evenly(count, available, key).tolist() == drawn.tolist()


@given(
    wanted=st.lists(st.integers(0, 15), min_size=3, max_size=3),
    factor=st.floats(0, 1),
    epoch=st.integers(0, 1000),
    seed=st.integers(0, 2**32),
)
def test_every_epoch_has_the_counts_of_the_strategy_and_no_image_twice(
    bank: SyntheticBank, wanted: list[int], factor: float, epoch: int, seed: int
) -> None:
    strategy = {label: have + more for label, (have, more) in enumerate(zip((5, 1, 2), wanted, strict=True))}
    mixed = SyntheticMixDataset(Numbered(), bank, sampling_strategy=strategy, schedule=lambda epoch: factor, seed=seed)
    mixed.set_epoch(epoch)
    assert np.bincount(mixed.targets, minlength=3).tolist() == list(strategy.values())
    synthetic = mixed.targets[mixed.is_synthetic]
    assert np.abs(np.bincount(synthetic, minlength=3) - factor * np.array(wanted)).max() <= 0.5 + 1e-9
    seen = synthetic_indices(mixed)
    assert len(set(seen)) == len(seen)
    assert [label for label, _ in seen] == synthetic.tolist()


def test_a_bank_of_another_version_says_to_make_it_again(tmp_path: Path) -> None:
    path = SyntheticBank.generate(FakeSampler(), tmp_path / "bank", per_class=2).path / "bank.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(ModelFileError, match=r"version 2.*reads.*version 1.*Make the bank again"):
        SyntheticBank.open(path.parent)


def test_a_bank_that_does_not_lie_class_by_class_is_read_too(tmp_path: Path) -> None:
    path = SyntheticBank.generate(FakeSampler(), tmp_path / "bank", per_class=20).path
    order = np.random.default_rng(0).permutation(60)
    header = json.loads((path / "bank.json").read_text())
    for name in ("images", "labels", "indices"):
        np.save(path / f"{name}.npy", np.load(path / f"{name}.npy")[order])
    for name in ("labels", "indices"):
        header["sha256"][name] = hashlib.sha256(np.load(path / f"{name}.npy").tobytes()).hexdigest()
    (path / "bank.json").write_text(json.dumps(header))
    mixed = SyntheticMixDataset(Numbered(), SyntheticBank.open(path))
    assert [label for label, _ in synthetic_indices(mixed)] == mixed.targets[8:].tolist()
