import copy
import pickle
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from ganaug.data.intensity import IntensityMap
from ganaug.errors import ConfigError, ModelFileError
from ganaug.mixing.translate import TranslateMix
from tests.tiny import UINT8, UINT16


class Inversion(nn.Module):
    """Turns bright into dark; the first pixel says the target: -1 + target / 10."""

    model_sha256 = "cd" * 32

    def __init__(
        self,
        rule: str = "class",
        classes: Sequence[str] = ("a", "b", "c"),
        intensity: IntensityMap = UINT8,
    ) -> None:
        super().__init__()
        self.rule: Any = rule
        self.classes, self.intensity, self.shape = tuple(classes), intensity, (1, 4, 6)
        self.sign = nn.Parameter(-torch.ones(()))

    def translate(self, images: torch.Tensor, *, to: torch.Tensor) -> torch.Tensor:
        assert images.dtype == torch.float32
        assert -1 <= images.min() <= images.max() <= 1
        assert not torch.is_autocast_enabled("cpu")
        out = images * self.sign
        out[:, 0, 0, 0] = to / 10 - 1
        return out


def batch(n: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of random values, levels of 8 bits in [0, 1]."""
    images = torch.randint(0, 256, (n, 1, 4, 6), generator=torch.Generator().manual_seed(0))
    return images / 255, torch.arange(n) % 3


def told(images: torch.Tensor) -> torch.Tensor:
    """The target that an image in [0, 1] says."""
    return (images[:, 0, 0, 0] * 20).round().long()


def test_translated_items_take_another_class_and_the_others_stay() -> None:
    images, labels = batch()
    mix = TranslateMix(Inversion(), p=0.4, seed=0)
    mixed, new = mix(images, labels)
    changed = mix.provenance["synthetic"]
    assert changed.float().mean().item() == pytest.approx(0.4, abs=0.12)
    assert torch.allclose(mixed[changed, :, 1:], 1 - images[changed, :, 1:], atol=1e-6)
    assert torch.equal(mixed[~changed], images[~changed])
    assert torch.equal(new[~changed], labels[~changed])
    assert torch.equal(told(mixed[changed]), new[changed])
    assert (new != labels)[changed].all()
    pairs = (3 * labels + new)[changed].bincount(minlength=9).view(3, 3)
    assert (pairs.fill_diagonal_(99) >= 8).all()  # every class goes to every other


def test_targets_can_be_chosen_and_classes_matched_by_name() -> None:
    images, labels = batch()
    names = ["unknown", "c", "b"]
    mix = TranslateMix(Inversion(classes=("b", "c")), p=1, to=["c"], class_names=names)
    mixed, new = mix(images, labels)
    changed = mix.provenance["synthetic"]
    assert torch.equal(changed, labels == 2)
    assert new[changed].unique().tolist() == [1]
    assert told(mixed[changed]).unique().tolist() == [1]
    one_hot = nn.functional.one_hot(labels, 3).float()
    assert torch.equal(TranslateMix(Inversion(), p=1, to=["a"])(images, one_hot)[1].argmax(1), torch.zeros(300).long())


def test_style_keeps_labels_whatever_they_are() -> None:
    images, _ = batch()
    labels = torch.rand(300, 7)
    mix = TranslateMix(Inversion("style", classes=("site 1", "site 2")), p=1, seed=0)
    mixed, new = mix(images, labels)
    assert new is labels
    assert told(mixed).bincount().min() > 100
    assert torch.allclose(mixed[:, :, 1:], 1 - images[:, :, 1:], atol=1e-6)


@pytest.mark.parametrize(
    ("intensity", "options", "there", "back"),
    [
        (UINT8, {}, lambda x: (x * 255).to(torch.uint8), lambda x: x / 255),
        (UINT8, {"normalize": ([0.4], [0.2])}, lambda x: (x - 0.4) / 0.2, lambda x: x * 0.2 + 0.4),
        (UINT16, {}, lambda x: 1000 + x * 49_000, lambda x: (x - 1000) / 49_000),
        (UINT16, {"scale": (1000, 50_000)}, lambda x: x, lambda x: x),
    ],
)
def test_values_go_to_the_translator_and_back(intensity: Any, options: Any, there: Any, back: Any) -> None:
    images, labels = batch()
    given = there(images)
    mixed, _ = TranslateMix(Inversion(intensity=intensity), p=1, seed=0, **options)(given, labels)
    assert mixed.dtype == given.dtype
    assert torch.allclose(back(mixed)[:, :, 1:], 1 - images[:, :, 1:], atol=2e-5)


def test_provenance_names_the_real_item() -> None:
    mix = TranslateMix(Inversion(), p=0.5, seed=0)
    mix(*batch(8))
    mix(*batch(8))
    origin = mix.provenance
    synthetic = origin["synthetic"].tolist()
    assert {True, False} == set(synthetic)
    assert origin["source"] == [f"real item {i} of batch 1" if x else "real" for i, x in enumerate(synthetic)]
    assert set(origin["index"].tolist()) == {-1}


def test_it_composes_under_autocast_and_is_reproducible() -> None:
    images, labels = batch()
    both = v2.Compose([TranslateMix(Inversion(), p=0.5, seed=0), v2.MixUp(num_classes=3)])
    with torch.autocast("cpu", torch.bfloat16):
        mixed = both({"image": images, "label": labels})
    assert mixed["label"].shape == (300, 3)
    one, two = (TranslateMix(Inversion(), p=0.5, seed=4)(images, labels) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(one, two, strict=True))
    conv = nn.Conv2d(1, 1, 3)
    conv(one[0]).sum().backward()


def test_a_classifier_that_holds_it_has_no_translator() -> None:
    mix = TranslateMix(Inversion(), p=0.5, seed=0)
    classifier = nn.Sequential(mix, nn.Linear(2, 2))
    assert set(classifier.state_dict()) == {"1.weight", "1.bias"}
    expected = mix(*batch())
    twin = copy.deepcopy(classifier)[0]
    twin.step = 0
    assert torch.equal(twin(*batch())[0], expected[0])
    with pytest.raises(ConfigError, match="cannot be pickled"):
        pickle.dumps(classifier)


def test_it_does_not_work_in_a_dataloader_s_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ganaug.mixing.replacing.get_worker_info", lambda: SimpleNamespace(seed=0))
    with pytest.raises(ConfigError, match="DataLoader's worker"):
        TranslateMix(Inversion(), p=0.5)(*batch())


@pytest.mark.parametrize(
    ("translator", "options", "message"),
    [
        (Inversion("both"), {}, "rule is 'both'"),
        (Inversion(), {"p": 2}, "p is 2"),
        (Inversion(), {"to": "a"}, "to is 'a'; a list"),
        (Inversion(), {"to": ["d"]}, r"to is \['d'\].*a, b, c"),
        (Inversion(), {"to": []}, r"to is \[\]"),
        (Inversion(), {"num_classes": 2}, "num_classes is 2"),
        (Inversion("style"), {"num_classes": 3}, "labels stay"),
    ],
)
def test_bad_settings_are_refused(translator: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TranslateMix(translator, **options)


def test_batches_and_translators_that_do_not_fit_are_refused() -> None:
    images, labels = batch()
    with pytest.raises(ConfigError, match=r"\(3, 4, 6\).*\(1, 4, 6\)"):
        TranslateMix(Inversion())(images.expand(-1, 3, -1, -1), labels)
    with pytest.raises(ConfigError, match="255; \\[0, 1\\] was wanted"):
        TranslateMix(Inversion(), p=1)(images * 255, labels)
    with pytest.raises(ConfigError, match="1 to 3; 0 to 2 was wanted"):
        TranslateMix(Inversion(), p=1)(images, labels + 1)
    broken: Any = Inversion()
    broken.translate = lambda images, *, to: images[..., :2]
    with pytest.raises(ModelFileError, match=r"\(300, 1, 4, 2\)"):
        TranslateMix(broken, p=1)(images, labels)
    broken.translate = lambda images, *, to: images / 0
    with pytest.raises(ModelFileError, match="NaN"):
        TranslateMix(broken, p=1)(images, labels)
