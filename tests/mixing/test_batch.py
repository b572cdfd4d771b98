import copy
import doctest
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2

from ganaug.data.intensity import IntensityMap
from ganaug.errors import ConfigError
from ganaug.mixing import SyntheticMix, SyntheticMixDataset
from ganaug.mixing import batch as module
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


def test_mixed_labels_are_refused_and_smoothed_ones_are_not(bank: SyntheticBank) -> None:
    images = torch.rand(6, *bank.shape)
    one_hot = torch.nn.functional.one_hot(torch.arange(6) % 3, 3).float()
    mix = SyntheticMix(bank, p=1, seed=0)
    mix(images, one_hot * 0.9 + 0.1 / 3)
    with pytest.raises(ConfigError, match="Put this transform before those"):
        mix(images, one_hot * 0.7 + 0.3 * one_hot[[0, 2, 1, 4, 5, 3]])


def test_a_bank_that_lacks_classes_is_warned_of_where_it_would_teach_a_shortcut(tmp_path: Path) -> None:
    bank = SyntheticBank.generate(FakeSampler(), tmp_path / "bank", counts={"b": 4})
    with pytest.warns(UserWarning, match=r"no image of a, c, so that every synthetic item will be b"):
        SyntheticMix(bank)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SyntheticMix(bank, classes="same")


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


@pytest.fixture(scope="module")
def deep_bank(tmp_path_factory: pytest.TempPathFactory) -> SyntheticBank:
    """A bank of 16-bit images, whose values go from 0 to 20."""
    gan = FakeSampler(intensity=IntensityMap("window", 0, 4000, "uint16"))
    return SyntheticBank.generate(gan, tmp_path_factory.mktemp("deep"), per_class=5)


def ramp(low: float, high: float, n: int = 64) -> torch.Tensor:
    """Real images whose values go from `low` to `high`."""
    return torch.linspace(low, high, 24).view(1, 1, 4, 6).repeat(n, 1, 1, 1)


def test_sixteen_bit_batches_hold_stored_values_unless_a_scale_is_given(deep_bank: SyntheticBank) -> None:
    labels = torch.zeros(64, dtype=torch.int64)
    mixed, new = SyntheticMix(deep_bank, p=1, seed=0)(ramp(0, 30), labels)
    assert torch.equal(mixed[:, 0, 0, 0], 10.0 * new)
    mixed, new = SyntheticMix(deep_bank, p=1, scale=(0, 65535), seed=0)(ramp(0, 30 / 65535), labels)
    assert torch.allclose(mixed[:, 0, 0, 0], 10 * new / 65535)
    mixed, new = SyntheticMix(deep_bank, p=1, scale=(5, 15), normalize=([0.5], [0.25]), seed=0)(ramp(-2, 2), labels)
    assert torch.allclose(mixed[:, 0, 0, 0], 2 * new.float() - 2)  # 0, 10 and 20, cut to 0, 0.5 and 1, normalized


def test_a_transform_goes_all_the_way_from_stored_values(deep_bank: SyntheticBank) -> None:
    def standardize(images: torch.Tensor) -> torch.Tensor:
        assert images.dtype == torch.float32
        return images.sub_(10).div_(5)

    mix = SyntheticMix(deep_bank, p=1, transform=standardize, seed=0)
    mixed, new = mix(ramp(-2, 2).expand(-1, 3, -1, -1), torch.zeros(64, dtype=torch.int64))
    assert mixed.shape == (64, 3, 4, 6)
    assert torch.equal(mixed[:, 2, 0, 0], 2 * new.float() - 2)


@pytest.mark.parametrize(
    ("options", "images", "message"),
    [
        ({}, ramp(0, 1e-3), r"0 to 0.001.*scales differ.*scale=\(0, 4000\)"),
        ({"scale": (0, 4000)}, ramp(0, 4000), r"4e\+03; \[0, 1\] was wanted"),
        ({"transform": lambda x: x * 0}, ramp(0, 1), None),
        ({"transform": lambda x: x * 1000}, ramp(0, 1), "0 to 1, but transform= makes.*2e"),
        ({"transform": lambda x: x[:, 0]}, ramp(0, 1), r"returned \(64, 4, 6\).*\(64, 1, 4, 6\)"),
        ({}, ramp(0, 250).to(torch.uint8), "uint8.*uint16"),
    ],
)
def test_values_of_another_scale_are_refused(
    deep_bank: SyntheticBank, options: dict[str, Any], images: torch.Tensor, message: str | None
) -> None:
    mix = SyntheticMix(deep_bank, p=1, seed=0, **options)
    if message is None:  # all synthetic values are the same, which proves nothing
        mix(images, torch.zeros(64, dtype=torch.int64))
        return
    with pytest.raises(ConfigError, match=message):
        mix(images, torch.zeros(64, dtype=torch.int64))


def test_a_constant_first_batch_does_not_end_the_look_at_values(bank: SyntheticBank) -> None:
    mix = SyntheticMix(bank, p=1, normalize=([0.5], [0.5]), seed=0)
    labels = torch.zeros(64, dtype=torch.int64)
    mix(ramp(0.5, 0.5), labels)
    with pytest.raises(ConfigError, match="0 to 1, as they do before normalization"):
        mix(ramp(0, 1), labels)


def test_half_precision_and_channels_last_are_kept(bank: SyntheticBank) -> None:
    images = torch.full((16, 3, 4, 6), REAL, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    mixed, _ = SyntheticMix(bank, p=0.5, seed=0)(images, torch.zeros(16, dtype=torch.int64))
    assert mixed.dtype == torch.bfloat16
    assert mixed.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.filterwarnings("ignore:The bank has no image of b")
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
    either = v2.RandomChoice([SyntheticMix(bank, p=1, seed=0), v2.MixUp(num_classes=3)])
    torch.manual_seed(0)
    assert {either(images, labels)[1].ndim for _ in range(9)} == {1, 2}
    assert isinstance(SyntheticMix(bank)([images, labels]), list)
    mix = SyntheticMix(bank, p=1, labels_getter=lambda x: x["meta"]["kind"])
    given = {"image": images, "meta": {"kind": labels, "name": ["x"] * 64}}
    got = mix(given)
    assert torch.equal(class_of(got["image"]), got["meta"]["kind"])
    assert got["meta"]["name"] == given["meta"]["name"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("build", "labels_of"),
    [
        (lambda x, y: {"image": x, "label": y}, lambda b: b["label"]),
        (lambda x, y: {"x": x, "label_index": y * 0, "Labels": y}, lambda b: b["Labels"]),
        (lambda x, y: (x, {"labels": y, "weight": torch.ones(64)}), lambda b: b[1]["labels"]),
        (lambda x, y: [x, y, ["name"] * 64], lambda b: b[1]),
    ],
)
def test_labels_are_found_as_torchvision_s_mixers_find_them(bank: SyntheticBank, build: Any, labels_of: Any) -> None:
    given = build(*batch())
    got = SyntheticMix(bank, p=1, seed=0)(given)
    images = got["image" if "image" in got else "x"] if isinstance(got, dict) else got[0]
    assert type(got) is type(given)
    assert torch.equal(class_of(images), labels_of(got))
    assert not torch.equal(labels_of(got), labels_of(given))


def test_images_of_torchvision_s_type_keep_it(bank: SyntheticBank) -> None:
    images, labels = batch()
    mixed, new, other = SyntheticMix(bank, p=0.5, seed=0)(tv_tensors.Image(images), labels, torch.zeros(64, 3, 4, 6))
    assert type(mixed) is tv_tensors.Image
    expected = SyntheticMix(bank, p=0.5, seed=0)(images, labels)
    assert torch.equal(mixed, expected[0])
    assert torch.equal(new, expected[1])
    assert not other.any()


def test_classes_are_matched_by_name(bank: SyntheticBank) -> None:
    names = ["c", "none", "a", "b"]
    images, labels = batch(300, 4)
    mixed, new = SyntheticMix(bank, p=1, class_names=names, seed=0)(images, labels)
    assert [names[label] for label in new] == ["abc"[i] for i in class_of(mixed)]
    assert set(new.tolist()) == {0, 2, 3}
    mixed, new = SyntheticMix(bank, p=1, classes="same", class_names=names)(images, labels)
    assert torch.equal(new, labels)
    assert torch.equal(replaced(mixed), labels != 1)
    assert ["abc"[i] for i in class_of(mixed[labels != 1])] == [names[label] for label in labels[labels != 1]]


def test_provenance_tells_where_each_item_comes_from(bank: SyntheticBank) -> None:
    mix = SyntheticMix(bank, p=0.5, seed=0)
    with pytest.raises(ConfigError, match="no batch yet"):
        mix.provenance  # noqa: B018
    mixed, _ = mix(*batch())
    told = mix.provenance
    assert torch.equal(told["synthetic"], replaced(mixed))
    assert torch.equal(told["index"][told["synthetic"]], (mixed[told["synthetic"], 0, 1, 0] * 255).round().long())
    assert {told["index"][i].item() for i in range(64) if not told["synthetic"][i]} == {-1}
    assert set(told["source"]) == {"noise", "real"}
    assert set(told["model_sha256"]) == {"", "ab" * 32}


def test_batches_that_carry_provenance_have_it_brought_up_to_date(bank: SyntheticBank) -> None:
    real = [{"image": np.full((4, 6), 230, np.uint8), "y": i % 2} for i in range(16)]
    data = SyntheticMixDataset(real, bank, sampling_strategy={0: 12}, label_key="y", classes=bank.classes)
    given = default_collate([data[i] for i in range(len(data))])
    given["image"] = given["image"][:, None].float() / 255
    mix = SyntheticMix(bank, p=0.5, seed=1, labels_getter=lambda x: x["y"])
    before = {key: value.clone() if isinstance(value, torch.Tensor) else list(value) for key, value in given.items()}
    got = mix(given)
    new = mix.provenance["synthetic"]
    assert new.any()
    assert torch.equal(got["synthetic"], given["synthetic"] | new)
    assert torch.equal(got["index"][new], mix.provenance["index"][new])
    assert torch.equal(got["index"][~new], given["index"][~new])
    assert got["label"] == ["abc"[i] for i in got["y"]]
    assert all(torch.equal(v, given[k]) if isinstance(v, torch.Tensor) else v == given[k] for k, v in before.items())
    assert set(mix({"image": got["image"], "y": got["y"]})) == {"image", "y"}


def test_a_step_alone_decides_the_draws_under_a_seed(bank: SyntheticBank, monkeypatch: pytest.MonkeyPatch) -> None:
    first = SyntheticMix(bank, seed=7)
    batches = [first(*batch())[0] for _ in range(4)]
    assert first.step == 4
    later = SyntheticMix(bank, seed=7)
    later.step = 2
    assert torch.equal(later(*batch())[0], batches[2])
    monkeypatch.setenv("RANK", "1")
    assert not torch.equal(SyntheticMix(bank, seed=7)(*batch())[0], batches[0])


def test_in_evaluation_mode_nothing_is_replaced(bank: SyntheticBank) -> None:
    model = nn.ModuleDict({"mix": SyntheticMix(bank, p=1)}).eval()
    images, labels = batch()
    assert model["mix"](images, labels) == (images, labels)
    assert model["mix"].step == 0


def test_the_bank_is_in_no_state_dict_and_no_pickle(bank: SyntheticBank) -> None:
    mix = SyntheticMix(bank, normalize=([0.5], [0.5]), seed=0)
    unused = len(pickle.dumps(mix))
    mix(*batch())
    classifier = nn.Sequential(mix, nn.Linear(2, 2))
    assert set(classifier.state_dict()) == {"1.weight", "1.bias"}
    assert copy.deepcopy(classifier)[0](*batch())[0].shape == (64, 1, 4, 6)
    data = pickle.dumps(mix)
    assert len(data) == unused < 4_000
    expected = mix(*batch())
    assert all(torch.equal(x, y) for x, y in zip(pickle.loads(data)(*batch()), expected, strict=True))


def test_validation_data_are_held_against_the_source(bank: SyntheticBank, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(module, "validate_against", lambda *args, **options: asked.extend([args, options]))
    SyntheticMix(bank).validate_against("val", group_regex="(p.)")
    assert asked == [(bank, "val"), {"image_key": "image", "groups": None, "group_regex": "(p.)"}]


def test_a_folder_of_a_bank_is_a_bank_and_other_things_are_no_source(bank: SyntheticBank) -> None:
    assert torch.equal(SyntheticMix(str(bank.path), seed=0)(*batch())[0], SyntheticMix(bank, seed=0)(*batch())[0])
    with pytest.raises(ConfigError, match=r"a dict; a SyntheticBank.*ganaug\.load"):
        SyntheticMix({})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": -0.1}, "p is -0.1"),
        ({"p": 1.5}, "p is 1.5"),
        ({"p": float("nan")}, "p is nan"),
        ({"classes": "minority"}, "'minority'.*'balanced' or 'same'"),
        ({"num_classes": 2}, "num_classes is 2.*3 classes"),
        ({"num_classes": 5, "class_names": ["a", "b", "c", "d"]}, "num_classes is 5.*4 classes"),
        ({"class_names": ["a", "b"]}, "class_names are a, b;.*a, b, c"),
        ({"class_names": ["a", "b", "c", "a"]}, "each once"),
        ({"labels_getter": None}, "labels_getter is None"),
        ({"seed": -1}, "seed is -1"),
        ({"scale": 255}, "scale is 255"),
        ({"scale": (1, 1)}, r"scale is \(1, 1\)"),
        ({"scale": (0, 1), "transform": abs}, "one of them"),
        ({"pool": 64}, "for a sampler"),
        ({"refresh": 4}, "for a sampler"),
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
        ({"normalize": ([0.5], [0.5])}, (IMAGES.to(torch.uint8), LABELS), "uint8.*normalize=.*was given"),
        ({"normalize": ([0.5], [0.5])}, (IMAGES * 255, LABELS), "before normalize= was wanted"),
        ({}, (ramp(0, 1 / 255, 6), LABELS), "scales differ"),
        ({}, (IMAGES,), "a Tensor without labels"),
        ({}, (IMAGES, ["a"] * 6), "list without labels|tuple without labels"),
        ({}, ({"image": IMAGES, "mask": IMAGES * 1, "label": LABELS},), "holds 2 tensors of 4 dimensions"),
        ({}, (IMAGES, LABELS, tv_tensors.Mask(IMAGES)), "holds Mask"),
        ({}, ([v2.functional.to_pil_image(x) for x in IMAGES], LABELS), "holds Image.*after collating"),
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
    _, labels = batch()
    SyntheticMix(bank, p=1)(ramp(-0.05, 1.05), labels)


def test_metatensors_are_refused_because_their_axes_may_be_swapped(bank: SyntheticBank) -> None:
    class MetaTensor(torch.Tensor):  # importing MONAI's takes seconds
        affine = torch.eye(4)

    images, labels = batch()
    with pytest.raises(ConfigError, match=r"MetaTensors.*SyntheticMixd"):
        SyntheticMix(bank)(images.as_subclass(MetaTensor), labels)


def test_the_example_in_the_documentation_runs(bank: SyntheticBank) -> None:
    assert doctest.testmod(module, extraglobs={"bank": bank, "torch": torch}) == (0, 4)


@pytest.mark.gpu
def test_batches_on_a_gpu_stay_there_and_draw_the_same(bank: SyntheticBank) -> None:
    images, labels = batch()
    expected = SyntheticMix(bank, p=0.5, seed=0)(images, labels)
    got = SyntheticMix(bank, p=0.5, seed=0)(images.cuda(), labels.cuda())
    assert all(x.is_cuda and torch.equal(x.cpu(), y) for x, y in zip(got, expected, strict=True))
