import math

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from ganaug.errors import ConfigError, DivergedError
from ganaug.evaluation.classifier import ClassicalAugment, predict, small_classifier, train_classifier


def stripes(n: int, seed: int, shape: tuple[int, int, int] = (1, 8, 8)) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noisy images of two classes: horizontal and vertical stripes of random phase."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    channels, height, width = shape
    rows = np.arange(height)[None, :] + rng.integers(0, 4, (n, 1))
    columns = np.arange(width)[None, :] + rng.integers(0, 4, (n, 1))
    horizontal = np.broadcast_to((rows // 2 % 2)[:, :, None], (n, height, width))
    vertical = np.broadcast_to((columns // 2 % 2)[:, None, :], (n, height, width))
    clean = np.where(labels[:, None, None] == 0, horizontal, vertical) * 90.0 + 80.0
    noisy = clean[:, None] + rng.normal(0, 40, (n, channels, height, width))
    return torch.from_numpy(noisy.clip(0, 255).astype(np.uint8)), torch.from_numpy(labels)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 20, 12)])
def test_learns_a_separable_problem(shape: tuple[int, int, int]) -> None:
    model = train_classifier(TensorDataset(*stripes(200, 0, shape)), classes=2, steps=60, batch=32)
    images, labels = stripes(300, 1, shape)
    assert (predict(model, images) == labels.numpy()).mean() > 0.95


def test_overfits_a_tiny_set_with_random_labels() -> None:
    images = torch.randint(0, 256, (12, 1, 8, 8), dtype=torch.uint8, generator=torch.manual_seed(0))
    labels = torch.arange(12) % 3
    model = train_classifier(TensorDataset(images, labels), classes=3, steps=80, batch=12)
    np.testing.assert_array_equal(predict(model, images), labels.numpy())


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 31, 17), (2, 64, 48), (1, 128, 128)])
def test_network_fits_any_size_and_channel_count(shape: tuple[int, int, int]) -> None:
    model = small_classifier(shape, classes=5).eval()
    assert model(torch.zeros(2, *shape)).shape == (2, 5)
    assert sum(p.numel() for p in model.parameters()) < 200_000


class Counting(TensorDataset):
    """Counts the items that are read, and notes the epochs it is told of."""

    def __init__(self, *tensors: torch.Tensor) -> None:
        super().__init__(*tensors)
        self.read = 0
        self.epochs: list[int] = []

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        self.read += 1
        return super().__getitem__(index)

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)


@pytest.mark.parametrize("items", [5, 64, 500])
def test_takes_the_same_number_of_steps_whatever_the_size_of_the_set(
    items: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    original = torch.optim.AdamW.step

    def counted(self: torch.optim.AdamW) -> None:
        steps.append(1)
        original(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", counted)
    data = Counting(*stripes(items, 0))
    train_classifier(data, classes=2, steps=10, batch=16)
    assert len(steps) == 10
    assert data.read == 10 * 16 + 1  # one more to learn the shape
    assert data.epochs == [step * 16 // items for step in range(10)]


def test_same_seed_gives_the_same_weights_and_leaves_the_callers_random_state() -> None:
    data = TensorDataset(*stripes(50, 0))
    torch.manual_seed(11)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    first = train_classifier(data, classes=2, steps=8, batch=8, seed=3, augment=ClassicalAugment())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    torch.manual_seed(12)
    second = train_classifier(data, classes=2, steps=8, batch=8, seed=3, augment=ClassicalAugment())
    other = train_classifier(data, classes=2, steps=8, batch=8, seed=4, augment=ClassicalAugment())
    pairs = zip(first.parameters(), second.parameters(), other.parameters(), strict=True)
    same, different = zip(*((torch.equal(a, b), not torch.equal(a, c)) for a, b, c in pairs), strict=True)
    assert all(same)
    assert any(different)


def test_bad_settings_and_infinite_images_are_named() -> None:
    data = TensorDataset(*stripes(10, 0))
    with pytest.raises(ConfigError, match="at least 1"):
        train_classifier(data, classes=2, steps=0)
    with pytest.raises(ConfigError, match="3 batches"):
        train_classifier(data, classes=2, steps=5, batches=torch.zeros(3, 4, dtype=torch.int64))
    infinite = TensorDataset(torch.full((4, 1, 8, 8), math.inf), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(DivergedError, match="infinite values"):
        train_classifier(infinite, classes=2, steps=1, batch=4)


def test_prediction_does_not_depend_on_the_batch_and_takes_uint8_and_float() -> None:
    images, _ = stripes(30, 0)
    model = train_classifier(TensorDataset(*stripes(50, 0)), classes=2, steps=10, batch=16)
    wanted = predict(model, images)
    np.testing.assert_array_equal(predict(model, images.numpy(), batch=7), wanted)
    np.testing.assert_array_equal(predict(model, images.float() / 127.5 - 1), wanted)
    assert predict(model, images[:0]).shape == (0,)


STILL = {"shift": 0.0, "rotate_deg": 0.0, "scale": 0.0, "contrast": 0.0, "brightness": 0.0}


def spot(height: int, width: int, row: int, column: int) -> torch.Tensor:
    images = torch.full((200, 1, height, width), -1.0)
    images[:, :, row, column] = 1.0
    return images


def centers(images: torch.Tensor) -> torch.Tensor:
    """Return each image's center of mass above black, (N, 2) as row and column."""
    mass = (images[:, 0] + 1.0) / (images[:, 0] + 1.0).sum(dim=(1, 2), keepdim=True)
    rows, columns = torch.meshgrid(
        torch.arange(mass.shape[1]).float(), torch.arange(mass.shape[2]).float(), indexing="ij"
    )
    return torch.stack([(mass * rows).sum((1, 2)), (mass * columns).sum((1, 2))], dim=1)


def test_augmentation_of_zero_strength_changes_nothing() -> None:
    images = torch.rand(4, 3, 9, 14) * 2 - 1
    torch.testing.assert_close(ClassicalAugment(**STILL)(images, torch.Generator()), images, atol=1e-5, rtol=0)


def test_augmentation_shifts_by_at_most_its_fraction_of_each_side() -> None:
    augment = ClassicalAugment(**(STILL | {"shift": 0.1}))
    moved = centers(augment(spot(21, 41, 10, 20), torch.Generator().manual_seed(0))) - torch.tensor([10.0, 20.0])
    assert moved[:, 0].abs().max() <= 2.11
    assert moved[:, 1].abs().max() <= 4.11
    assert moved.std(dim=0).tolist() == pytest.approx([2.1 / 3**0.5, 4.1 / 3**0.5], rel=0.15)


def test_augmentation_rotates_without_shear_on_a_wide_image() -> None:
    # A spot 10 pixels above the center of an image three times as wide as high keeps its distance.
    augment = ClassicalAugment(**(STILL | {"rotate_deg": 40.0}))
    moved = centers(augment(spot(33, 99, 6, 49), torch.Generator().manual_seed(0))) - torch.tensor([16.0, 49.0])
    assert moved.norm(dim=1).tolist() == pytest.approx([10.0] * 200, abs=0.6)
    assert moved[:, 1].abs().max() == pytest.approx(10 * math.sin(math.radians(40)), abs=0.5)


def test_augmentation_changes_contrast_and_brightness_within_its_bounds() -> None:
    images = torch.zeros(300, 1, 4, 4)
    images[:, :, :2] = 0.4
    changed = ClassicalAugment(**(STILL | {"contrast": 0.2, "brightness": 0.1}))(
        images, torch.Generator().manual_seed(0)
    )
    gain = (changed[:, 0, 0, 0] - changed[:, 0, 3, 0]) / 0.4
    bias = changed.mean((1, 2, 3)) - 0.2
    assert 0.8 <= gain.min() < 0.83
    assert 1.17 < gain.max() <= 1.2001
    assert -0.2001 <= bias.min() < -0.17
    assert 0.17 < bias.max() <= 0.2001
