import doctest
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from imblearn.pipeline import make_pipeline
from imblearn.utils.estimator_checks import estimator_checks_generator
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from ganaug.data.intensity import IntensityMap
from ganaug.errors import ConfigError, DataError
from ganaug.mixing import imblearn
from ganaug.mixing.imblearn import GANOverSampler
from ganaug.sampling.bank import SyntheticBank
from ganaug.training.run import Run
from tests.mixing.copies import bank_of
from tests.sampling.fake_sampler import FakeSampler, read_back
from tests.tiny import SETTINGS, make_model, shape_image

QUICK = {**SETTINGS, "kimg": 0.05, "threads": 1}


class Noise(FakeSampler):
    """Random images 1×6×6 of any number of classes, as a function of the class, seed and index."""

    def __init__(self, classes: int) -> None:
        super().__init__(
            [str(i) for i in range(classes)], (1, 6, 6), IntensityMap("window", low=-5.0, high=5.0, dtype="float32")
        )

    def sample(self, labels: Any, *, seed: int = 0, indices: Any = None, truncation: float = 1.0) -> torch.Tensor:
        rows = [
            np.random.default_rng((label, seed, index)).uniform(-1, 1, self.shape)
            for label, index in zip(labels, indices, strict=True)
        ]
        return torch.from_numpy(np.stack(rows).astype(np.float32))


class AnyTable(GANOverSampler):
    """For imbalanced-learn's checks, whose tables of 2, 3 and 20 columns are no images and which fit 35 times.

    Each row is filled up to an image of 6×6, and instead of a trained GAN there is noise. All else is the class's own.
    """

    def _fit_resample(self, X: Any, y: np.ndarray, **params: Any) -> Any:  # noqa: N803
        columns = X.shape[1]
        dense = X.toarray() if sparse.issparse(X) else X
        filled = np.pad(dense, [(0, 0), (0, 36 - columns)])
        made, labels = super()._fit_resample(type(X)(filled) if sparse.issparse(X) else filled, y)
        return made[:, :columns], labels

    def _trained(self, images: np.ndarray, y: np.ndarray, seed: int) -> Any:
        assert images.shape[1:] == (1, 6, 6)
        return Noise(len(self.classes_))


CHECKS = [check for _, check in estimator_checks_generator(AnyTable(random_state=0))]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.func.__name__)
def test_the_checks_of_imbalanced_learn(check: Any) -> None:
    check(AnyTable(random_state=0))


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> SyntheticBank:
    """The images 1×4×6 of FakeSampler: 20 of each of a, b, c, and an end of the range in each."""

    class Contrast(FakeSampler):
        def sample(self, labels: Any, **settings: Any) -> torch.Tensor:
            images = super().sample(labels, **settings)
            images[..., 3, 5] = 1
            return images

    return SyntheticBank.generate(Contrast(), tmp_path_factory.mktemp("bank") / "bank", per_class=20)


def images(*counts: int, dtype: str = "uint8") -> tuple[np.ndarray, np.ndarray]:
    """Images N×1×4×6 of so many of each class, shuffled, and their labels."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    return np.random.default_rng(1).integers(0, 200, (len(labels), 1, 4, 6)).astype(dtype), labels


LAYOUTS = {
    "channels first": ((1, 4, 6), None),
    "channels last": ((4, 6, 1), None),
    "without channels": ((4, 6), None),
    "flat": ((24,), (4, 6)),
    "flat, channels last": ((24,), (4, 6, 1)),
    "flat, channels first": ((24,), (1, 4, 6)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float64"])
def test_real_rows_come_first_untouched_and_synthetic_ones_in_their_form(
    bank: SyntheticBank, layout: str, dtype: str
) -> None:
    shape, asked = LAYOUTS[layout]
    real, labels = images(12, 9, 5, dtype=dtype)
    real = real.reshape(-1, *shape)
    sampler = GANOverSampler(bank, shape=asked, random_state=0)
    mixed, mixed_labels = sampler.fit_resample(real, labels)
    assert np.array_equal(mixed[:26], real)
    assert np.array_equal(mixed_labels[:26], labels)
    assert (mixed.dtype, mixed.shape) == (real.dtype, (36, *shape))
    assert np.bincount(mixed_labels).tolist() == [12, 12, 12]
    spelled = [read_back(image) for image in mixed[26:].reshape(-1, 1, 4, 6)]
    assert [label for label, _ in spelled] == mixed_labels[26:].tolist()
    assert len(set(spelled)) == 10, "no image twice"
    assert [row["index"] for row in sampler.provenance_] == [index for _, index in spelled]
    assert [row["label"] for row in sampler.provenance_] == mixed_labels[26:].tolist()
    assert sampler.sampling_strategy_ == {1: 3, 2: 7}
    assert sampler.source_ is bank


@pytest.mark.parametrize("shape", [(3, 4, 6), (4, 6, 3), (72,)])
def test_color_images_keep_their_axes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    held = np.random.default_rng(0).integers(0, 256, (1, 3, 4, 6)).astype(np.uint8)
    bank = bank_of(tmp_path / "bank", {"a": held, "b": held})
    asked = (4, 6, 3) if len(shape) == 1 else None
    wanted = held[0] if shape[0] == 3 else np.moveaxis(held[0], 0, -1)
    real = np.random.default_rng(1).integers(0, 256, (5, *shape)).astype(np.uint8)
    mixed, _ = GANOverSampler(bank, shape=asked).fit_resample(real, [0, 0, 0, 1, 1])
    assert np.array_equal(mixed[5], wanted.reshape(shape))


@pytest.mark.parametrize(
    ("strategy", "added"),
    [
        ("minority", {"c": 7}),
        ("not minority", {"a": 0, "b": 3}),
        ("all", {"a": 0, "b": 3, "c": 7}),
        ({"a": 15}, {"a": 3}),
        (lambda y: {"b": 10}, {"b": 1}),
    ],
)
def test_strategies_and_labels_that_are_names(bank: SyntheticBank, strategy: Any, added: dict[str, int]) -> None:
    real, labels = images(12, 9, 5)
    names = np.array(["a", "b", "c"])[labels]
    sampler = GANOverSampler(bank.path, sampling_strategy=strategy, random_state=1)
    mixed, mixed_names = sampler.fit_resample(real, names)
    assert sampler.sampling_strategy_ == added
    assert mixed_names.dtype == names.dtype
    found = dict(zip(*np.unique(mixed_names[26:], return_counts=True), strict=True))
    assert found == {name: count for name, count in added.items() if count}
    assert all("abc"[read_back(image)[0]] == name for image, name in zip(mixed[26:], mixed_names[26:], strict=True))


def test_a_ratio_a_seed_and_a_model(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model.safetensors", classes=("a", "b"), size=(16, 12))
    real = np.random.default_rng(0).integers(0, 256, (13, 16 * 12)).astype(np.uint8)
    labels = [0] * 10 + [1] * 3
    settings: dict[str, Any] = {"sampling_strategy": 0.5, "shape": (16, 12)}
    first, mixed_labels = GANOverSampler(model, random_state=3, **settings).fit_resample(real, labels)
    again, _ = GANOverSampler(model, random_state=3, **settings).fit_resample(real, labels)
    other, _ = GANOverSampler(model, random_state=4, **settings).fit_resample(real, labels)
    assert mixed_labels == [*labels, 1, 1]
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def learn() -> tuple[np.ndarray, np.ndarray, GANOverSampler, np.ndarray, np.ndarray]:
    """Train on 8 rings and 12 disks of 8×8 pixels, flat, in [0, 1]: images, labels, sampler, and what it returns."""
    kinds = np.array(["ring"] * 8 + ["disk"] * 12)
    rng = np.random.default_rng(0)
    real = np.stack([shape_image(kind, rng, side=8).ravel() for kind in kinds])
    sampler = GANOverSampler(random_state=0, settings=QUICK)
    return real, kinds, sampler, *sampler.fit_resample(real, kinds)


@pytest.fixture(scope="module")
def learned() -> Any:
    return learn()


def test_without_a_source_it_learns_from_x_and_y(learned: Any) -> None:
    real, _, sampler, mixed, labels = learned
    assert np.array_equal(mixed[:20], real)
    assert labels[20:].tolist() == ["ring"] * 4
    assert mixed.dtype == np.float64
    assert real.min() - 0.1 <= mixed[20:].min() < mixed[20:].max() <= real.max() + 0.1
    assert {row["label"] for row in sampler.provenance_} == {"ring"}
    assert len(pickle.dumps(sampler)) < 10_000, "the generator is not pickled"


def test_the_same_seed_trains_the_same(learned: Any) -> None:
    assert np.array_equal(learned[3], learn()[3])


def test_a_run_and_a_pipeline(tiny_run: Run) -> None:
    rng = np.random.default_rng(0)
    kinds = np.repeat(["cross", "disk", "ring"], [9, 6, 4])
    real = (np.stack([shape_image(kind, rng).ravel() for kind in kinds]) * 255).astype(np.uint8)
    model = make_pipeline(GANOverSampler(tiny_run.path, random_state=0), StandardScaler(), LogisticRegression())
    model.fit(real, kinds)
    assert model.named_steps["standardscaler"].n_samples_seen_ == 27
    assert model.score(real, kinds) > 0.9
    assert pickle.loads(pickle.dumps(model)).predict(real[:1]).tolist() == ["cross"]


@pytest.mark.parametrize(
    ("settings", "real", "words"),
    [
        ({}, images(6, 3, 3)[0][..., :5], "the same shape"),
        ({}, images(6, 3, 3)[0].reshape(12, 24), r"shape=, such as \(28, 28\)"),
        ({"shape": (5, 5)}, images(6, 3, 3)[0].reshape(12, 24), r"shape= is \(5, 5\)"),
        ({"shape": (24,)}, images(6, 3, 3)[0].reshape(12, 24), "images were wanted"),
        ({"sampling_strategy": {2: 40}}, images(6, 3, 3)[0], "c=37"),
        ({}, images(6, 3, 3)[0] / 255, "scales differ"),
        ({"source": None}, np.zeros((12, 2, 2, 8, 8)), "1 or 3 channels|images were wanted"),
    ],
)
def test_bad_use(bank: SyntheticBank, settings: dict[str, Any], real: np.ndarray, words: str) -> None:
    labels = [0] * 6 + [1] * 3 + [2] * 3
    with pytest.raises(ConfigError, match=words):
        GANOverSampler(**{"source": bank, **settings}).fit_resample(real, labels)


def test_rows_of_integers_stay_integers_whatever_the_source_has(tmp_path: Path) -> None:
    held = np.full((1, 1, 4, 6), 7.6, np.float32)
    held[0, 0, 0] = 200
    mixed, _ = GANOverSampler(bank_of(tmp_path / "bank", {"a": held, "b": held})).fit_resample(
        images(3, 2)[0], [0, 0, 0, 1, 1]
    )
    assert mixed.dtype == np.uint8
    assert np.unique(mixed[5]).tolist() == [8, 200]


def test_the_example_runs() -> None:
    assert doctest.testmod(imblearn) == (0, 6)


def test_labels_that_the_source_does_not_have(bank: SyntheticBank) -> None:
    real, labels = images(6, 3, 3)
    for wrong in (labels + 1, np.array(["a", "b", "d"])[labels], labels + 0.0 - 1):
        with pytest.raises(ConfigError, match="a, b, c"):
            GANOverSampler(bank).fit_resample(real, wrong)


def test_bad_settings_are_scikit_learn_s_errors() -> None:
    real, labels = images(6, 3)
    for settings in ({"source": 3}, {"minutes": 0}, {"sampling_strategy": "most"}, {"settings": 3}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            GANOverSampler(**settings).fit_resample(real, labels)
    with pytest.raises(DataError, match="At least 2"):
        GANOverSampler(settings=QUICK).fit_resample(np.zeros((4, 64), np.uint8), [0, 0, 0, 1])
