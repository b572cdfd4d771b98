import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, default_collate
from torchvision.transforms import v2

from ganaug.data.intensity import IntensityMap
from ganaug.errors import ConfigError
from ganaug.mixing import SyntheticMix
from ganaug.sampling.bank import SyntheticBank
from tests.sampling.fake_sampler import FakeSampler

REAL = 0.9  # of every pixel of a real image; no synthetic one has it


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> SyntheticBank:
    return SyntheticBank.generate(FakeSampler(), tmp_path_factory.mktemp("bank"), per_class=20)


def batch(n: int = 64, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((n, 1, 4, 6), REAL), torch.arange(n) % classes


def replaced(images: torch.Tensor) -> torch.Tensor:
    return images[:, 0, 2, 0] != images.new_tensor(REAL)


def class_of(images: torch.Tensor) -> torch.Tensor:
    """The class that float images in [0, 1] spell out."""
    return (images[:, 0, 0, 0] * 255).round().long() // 10


@pytest.mark.parametrize("classes", ["balanced", "same"])
def test_replaced_images_bring_their_labels_and_others_stay(bank: SyntheticBank, classes: Any) -> None:
    images, labels = batch()
    mixed, mixed_labels = SyntheticMix(bank, p=0.5, classes=classes, seed=0)(images, labels)
    new = replaced(mixed)
    assert 10 < new.sum() < 54
    assert torch.equal(class_of(mixed[new]), mixed_labels[new])
    assert torch.equal(mixed_labels[~new], labels[~new])
    assert torch.equal(mixed[~new], images[~new])
    assert torch.equal(mixed_labels, labels) == (classes == "same")
    assert (images == REAL).all()
    assert torch.equal(labels, torch.arange(64) % 3)


def test_shares_follow_p_and_the_classes_are_drawn_evenly(bank: SyntheticBank) -> None:
    images, _ = batch(20_000)
    mixed, labels = SyntheticMix(bank, p=0.3, seed=1)(images, torch.zeros(20_000, dtype=torch.int64))
    new = replaced(mixed)
    assert new.float().mean().item() == pytest.approx(0.3, abs=0.015)  # over four standard deviations
    shares = labels[new].bincount(minlength=3) / new.sum()
    assert shares.tolist() == pytest.approx([1 / 3] * 3, abs=0.03)
    drawn = (mixed[new][:, 0, 1, 0] * 255).round().long().bincount(minlength=20) / new.sum()
    assert drawn.tolist() == pytest.approx([1 / 20] * 20, abs=0.015)


@pytest.mark.parametrize(("p", "share"), [(0, 0.0), (1, 1.0)])
def test_the_ends_of_p_are_exact(bank: SyntheticBank, p: float, share: float) -> None:
    mixed, _ = SyntheticMix(bank, p=p)(*batch())
    assert replaced(mixed).float().mean() == share


def test_one_hot_labels_stay_one_hot_of_their_type(bank: SyntheticBank) -> None:
    images, labels = batch()
    one_hot = torch.nn.functional.one_hot(labels, 5).to(torch.float64)
    mixed, new_labels = SyntheticMix(bank, p=1, num_classes=5, seed=0)(images, one_hot)
    assert new_labels.dtype == torch.float64
    assert torch.equal(new_labels, torch.nn.functional.one_hot(class_of(mixed), 5).double())


def test_float_images_are_what_to_tensor_makes_of_the_stored_ones(bank: SyntheticBank) -> None:
    mixed, _ = SyntheticMix(bank, p=1, seed=0)(*batch())
    rest = mixed[:, 0, 2:]
    assert torch.equal(rest, torch.full_like(rest, 7) / 255)


def test_normalized_batches_get_normalized_images(tmp_path: Path) -> None:
    bank = SyntheticBank.generate(FakeSampler(shape=(3, 4, 6)), tmp_path / "bank", per_class=5)
    normalize = v2.Normalize(mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4])
    images, labels = torch.full((32, 3, 4, 6), REAL), torch.zeros(32, dtype=torch.int64)
    plain, _ = SyntheticMix(bank, p=0.5, seed=3)(images, labels)
    mix = SyntheticMix(bank, p=0.5, seed=3, normalize=([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))
    mixed, _ = mix(normalize(images), labels)
    assert torch.allclose(mixed, normalize(plain), atol=1e-6)


def test_uint8_batches_get_the_stored_values(bank: SyntheticBank) -> None:
    images = torch.full((32, 1, 4, 6), 200, dtype=torch.uint8)
    mixed, labels = SyntheticMix(bank, p=1, seed=0)(images, torch.zeros(32, dtype=torch.int64))
    assert mixed.dtype == torch.uint8
    assert torch.equal(mixed[:, 0, 0, 0].long(), 10 * labels)


def test_a_gray_bank_serves_rgb_batches(bank: SyntheticBank) -> None:
    images, labels = batch()
    mixed, new_labels = SyntheticMix(bank, p=1, seed=0)(images.expand(-1, 3, -1, -1), labels)
    assert mixed.shape == (64, 3, 4, 6)
    assert torch.equal(mixed[:, 0], mixed[:, 2])
    assert torch.equal(class_of(mixed), new_labels)


def test_sixteen_bit_banks_fill_zero_to_one(tmp_path: Path) -> None:
    window = IntensityMap("window", 0, 4000, "uint16")
    bank = SyntheticBank.generate(FakeSampler(intensity=window), tmp_path / "bank", per_class=5)
    mixed, labels = SyntheticMix(bank, p=1, seed=0)(*batch())
    assert torch.allclose(mixed[:, 0, 0, 0], 10 * labels / 4000, atol=1e-6)


def test_half_precision_and_channels_last_are_kept(bank: SyntheticBank) -> None:
    images = torch.full((16, 3, 4, 6), REAL, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    mixed, _ = SyntheticMix(bank, p=0.5, seed=0)(images, torch.zeros(16, dtype=torch.int64))
    assert mixed.dtype == torch.bfloat16
    assert mixed.is_contiguous(memory_format=torch.channels_last)


def test_classes_that_the_bank_lacks_are_never_drawn_and_their_items_stay(tmp_path: Path) -> None:
    bank = SyntheticBank.generate(FakeSampler(), tmp_path / "bank", counts={"a": 2, "c": 9})
    images, labels = batch(300)
    mixed, new_labels = SyntheticMix(bank, p=1, seed=0)(images, labels)
    assert set(new_labels.tolist()) == {0, 2}
    assert torch.equal(class_of(mixed), new_labels)
    mixed, new_labels = SyntheticMix(bank, p=1, classes="same", num_classes=4)(images, torch.arange(300) % 4)
    assert torch.equal(new_labels, torch.arange(300) % 4)
    assert torch.equal(replaced(mixed), (new_labels == 0) | (new_labels == 2))


def test_a_seed_reproduces_the_draws_and_so_does_the_global_generator(bank: SyntheticBank) -> None:
    def twice(mix: SyntheticMix) -> torch.Tensor:
        return torch.cat([mix(*batch())[0], mix(*batch())[0]])

    first = twice(SyntheticMix(bank, seed=7))
    assert torch.equal(first, twice(SyntheticMix(bank, seed=7)))
    assert not torch.equal(first, twice(SyntheticMix(bank, seed=8)))
    assert not torch.equal(first[:64], first[64:])
    torch.manual_seed(3)
    first = twice(SyntheticMix(bank))
    torch.manual_seed(3)
    assert torch.equal(first, twice(SyntheticMix(bank)))
    state = torch.get_rng_state()
    SyntheticMix(bank, seed=7)(*batch())
    assert torch.equal(state, torch.get_rng_state())


class Collate:
    def __init__(self, mix: SyntheticMix) -> None:
        self.mix = mix

    def __call__(self, items: list) -> Any:
        return self.mix(*default_collate(items))


def test_as_collate_function_neither_workers_nor_epochs_repeat_their_draws(bank: SyntheticBank) -> None:
    data = TensorDataset(*batch(128))

    def epochs() -> list[torch.Tensor]:
        loader = DataLoader(
            data,
            batch_size=64,
            num_workers=2,
            collate_fn=Collate(SyntheticMix(bank, p=0.5, seed=0)),
            generator=torch.Generator().manual_seed(1),
        )
        return [images for _ in range(2) for images, _ in loader]

    batches = epochs()
    assert all(not torch.equal(batches[i], batches[j]) for i in range(4) for j in range(i))
    assert all(torch.equal(one, other) for one, other in zip(batches, epochs(), strict=True))


def test_composes_with_cutmix_and_other_structures(bank: SyntheticBank) -> None:
    images, labels = batch()
    both = v2.Compose([SyntheticMix(bank, p=0.5, seed=0), v2.CutMix(num_classes=3)])
    assert [tuple(x.shape) for x in both(images, labels)] == [(64, 1, 4, 6), (64, 3)]
    assert isinstance(SyntheticMix(bank)([images, labels]), list)
    mix = SyntheticMix(bank, p=1, labels_getter=lambda x: x["meta"]["label"])
    given = {"image": images, "meta": {"label": labels, "name": ["x"] * 64}}
    got = mix(given)
    assert torch.equal(class_of(got["image"]), got["meta"]["label"])
    assert got["meta"]["name"] == given["meta"]["name"]  # type: ignore[index]


def test_the_bank_is_in_no_state_dict_and_no_pickle(bank: SyntheticBank) -> None:
    mix = SyntheticMix(bank, normalize=([0.5], [0.5]), seed=0)
    unused = len(pickle.dumps(mix))
    mix(*batch())
    classifier = nn.Sequential(mix, nn.Linear(2, 2))
    assert set(classifier.state_dict()) == {"1.weight", "1.bias"}
    data = pickle.dumps(mix)
    assert len(data) == unused < 3_000
    expected = SyntheticMix(bank, normalize=([0.5], [0.5]), seed=0)(*batch())
    assert all(torch.equal(x, y) for x, y in zip(pickle.loads(data)(*batch()), expected, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": -0.1}, "p is -0.1"),
        ({"p": 1.5}, "p is 1.5"),
        ({"p": float("nan")}, "p is nan"),
        ({"classes": "minority"}, "'minority'.*'balanced' or 'same'"),
        ({"num_classes": 2}, "num_classes is 2"),
        ({"normalize": 0.5}, "0.5"),
        ({"normalize": ([0.5], [0.0])}, "above 0"),
    ],
)
def test_bad_settings_are_refused(bank: SyntheticBank, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SyntheticMix(bank, **options)


IMAGES, LABELS = batch(6)


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        ({}, (IMAGES * 255, LABELS), r"230; \[0, 1\] was wanted.*normalize=\(mean, std\)"),
        ({}, ((IMAGES - 0.95) / 0.1, LABELS), r"-0.5.*normalize=\(mean, std\)"),
        ({}, (IMAGES[..., :3], LABELS), r"\(1, 4, 3\).*\(1, 4, 6\).*Resize\(\[4, 6\]\)"),
        ({}, (IMAGES.expand(-1, 2, -1, -1), LABELS), r"\(2, 4, 6\).*Grayscale"),
        ({}, (IMAGES, LABELS + 1), "1 to 3; 0 to 2 was wanted"),
        ({}, (IMAGES, LABELS - 1), "-1 to 1; 0 to 2 was wanted"),
        ({"classes": "same"}, (IMAGES, LABELS + 1), "1 to 3; 0 to 2 was wanted"),
        ({}, (IMAGES, LABELS.float()), "float32"),
        ({}, (IMAGES, LABELS[:, None]), r"\(6, 1\).*squeeze"),
        ({}, (IMAGES, torch.zeros(6, 4)), r"\(6, 4\).*num_classes"),
        ({}, (IMAGES.to(torch.int32), LABELS), "int32"),
        ({"normalize": ([0.5], [0.5])}, (IMAGES.to(torch.uint8), LABELS), "uint8.*normalize= was given"),
        ({"normalize": ([0.5] * 3, [0.5] * 3)}, (IMAGES, LABELS), "3 means.*1 of each"),
        ({}, ({"image": IMAGES},), "dict.*labels_getter"),
        ({"labels_getter": lambda x: LABELS.clone()}, (IMAGES, LABELS), "own tensor of labels"),
    ],
)
def test_batches_that_do_not_fit_are_refused(
    bank: SyntheticBank, options: dict[str, Any], given: tuple, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        SyntheticMix(bank, **options)(*given)


def test_a_bicubic_overshoot_is_no_normalization(bank: SyntheticBank) -> None:
    images, labels = batch()
    SyntheticMix(bank)(images * 0 + 1.05, labels)


@pytest.mark.gpu
def test_batches_on_a_gpu_stay_there_and_draw_the_same(bank: SyntheticBank) -> None:
    images, labels = batch()
    expected = SyntheticMix(bank, p=0.5, seed=0)(images, labels)
    got = SyntheticMix(bank, p=0.5, seed=0)(images.cuda(), labels.cuda())
    assert all(x.is_cuda and torch.equal(x.cpu(), y) for x, y in zip(got, expected, strict=True))
