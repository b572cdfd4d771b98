"""The seeds' contract: image i of class c under seed s is a function of (model file, c, s, i) alone."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ganaug.errors import ConfigError, ModelFileError
from ganaug.files import sha256_file
from ganaug.models import grids
from ganaug.sampling.sampler import CHUNK, Sampler, load
from ganaug.training.run import Run
from tests.tiny import UINT16, make_model

ROWS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 500)), min_size=1, max_size=2 * CHUNK + 5)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Sampler:
    """An untrained color generator of 16-bit images whose sides are odd."""
    path = tmp_path_factory.mktemp("odd") / "generator.safetensors"
    return load(make_model(path, size=(13, 22), channels=3, intensity=UINT16), device="cpu")


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Sampler:
    """An untrained generator of volumes of two channels whose sides are odd."""
    path = tmp_path_factory.mktemp("volumes") / "generator.safetensors"
    return load(make_model(path, size=(9, 13, 10), channels=2), device="cpu")


def _one(gan: Sampler, label: int, index: int, seed: int = 0) -> torch.Tensor:
    return gan.sample([label], indices=[index], seed=seed)[0]


@settings(deadline=None, max_examples=8)
@given(rows=ROWS, random=st.randoms(use_true_random=False), seed=st.integers(0, 2**62))
def test_an_image_is_bitwise_the_same_in_any_batch_and_order(
    gan: Sampler, odd: Sampler, volumes: Sampler, rows: list[tuple[int, int]], random: Any, seed: int
) -> None:
    for sampler in (gan, odd, volumes):
        labels, indices = zip(*rows, strict=True)
        together = sampler.sample(labels, indices=indices, seed=seed)
        order = list(range(len(rows)))
        random.shuffle(order)
        mixed = sampler.sample([labels[i] for i in order], indices=[indices[i] for i in order], seed=seed)
        assert torch.equal(mixed, together[order])
        for i in order[:3]:
            assert torch.equal(_one(sampler, labels[i], indices[i], seed), together[i])


def test_indices_count_up_within_each_class_by_default(gan: Sampler) -> None:
    labels = [2, 0, 2, 2, 0, 1]
    images = gan.sample(labels, seed=4)
    for image, label, index in zip(images, labels, [0, 0, 1, 2, 1, 0], strict=True):
        assert torch.equal(image, _one(gan, label, index, seed=4))


def test_batch_sizes_around_the_chunk_do_not_matter(gan: Sampler) -> None:
    count = 2 * CHUNK + 3
    whole = gan.sample([1] * count)
    for start, stop in ((0, 1), (0, CHUNK), (CHUNK - 1, CHUNK + 1), (5, count)):
        part = gan.sample([1] * (stop - start), indices=range(start, stop))
        assert torch.equal(part, whole[start:stop])


def test_large_volumes_pass_in_smaller_chunks_and_are_the_same_in_any_of_them(
    volumes: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grids, "VALUES_IN_A_PASS", 5 * math.prod(volumes.shape))
    passes = []
    volumes._generator.register_forward_hook(lambda _, inputs, made: passes.append(len(made)))
    whole = volumes.sample([1] * 11)
    assert passes == [4, 4, 4]
    assert torch.equal(volumes.sample([1] * 3, indices=[9, 0, 5]), whole[[9, 0, 5]])


def test_volumes_are_float32_in_range_of_their_shape(volumes: Sampler) -> None:
    images = volumes.sample([0, 1, 2, 0])
    assert volumes.shape == (2, 9, 13, 10)
    assert images.shape == (4, 2, 9, 13, 10)
    assert images.abs().max() <= 1
    assert torch.pdist(images.flatten(1)).min() > 1e-3
    assert volumes.stored(images).dtype == torch.uint8
    assert "shape=2×9×13×10" in repr(volumes)


def test_loading_again_gives_the_same_images(gan: Sampler, tiny_run: Run, tmp_path: Path) -> None:
    wanted = gan.sample([0, 1, 2, 1], seed=9)
    copied = tmp_path / "renamed.safetensors"
    shutil.copy(tiny_run.model_path, copied)
    for path in (tiny_run.path, str(tiny_run.path), tiny_run.model_path, copied):
        assert torch.equal(load(path, device="cpu").sample([0, 1, 2, 1], seed=9), wanted)


def test_seeds_classes_and_indices_give_different_images(odd: Sampler) -> None:
    rows = [(label, index, seed) for label in range(3) for index in (0, 1, 70) for seed in (0, 1, 2**32)]
    images = torch.stack([_one(odd, *row) for row in rows])
    assert torch.pdist(images.flatten(1)).min() > 1e-3


def test_a_trained_class_looks_like_itself(tiny_run: Run, gan: Sampler) -> None:
    assert gan.classes == ("cross", "disk", "ring")
    assert gan.shape == (1, 16, 16)
    assert gan.model_sha256 == sha256_file(tiny_run.model_path)
    assert gan.latent_dim == 8


def test_images_are_float32_on_the_cpu_in_range(odd: Sampler) -> None:
    images = odd.sample([0, 1, 2])
    assert images.dtype == torch.float32
    assert images.shape == (3, 3, 13, 22)
    assert images.min() >= -1
    assert images.max() <= 1


def test_images_may_be_trained_on(odd: Sampler) -> None:
    images = odd.sample([0, 1, 2])
    assert not images.is_inference()
    weight = torch.ones(1, requires_grad=True)
    (images * weight).sum().backward()
    assert weight.grad is not None


def test_stored_images_are_in_the_users_type_and_units(gan: Sampler, odd: Sampler) -> None:
    for sampler, dtype, low, high in ((gan, torch.uint8, 0, 255), (odd, torch.uint16, 1000, 50_000)):
        images = sampler.sample([0, 1, 2] * 5)
        stored = sampler.stored(images)
        assert stored.dtype == dtype
        values = stored.numpy().astype(np.float64)
        assert values.min() >= low
        assert values.max() <= high
        back = torch.from_numpy(sampler.intensity.forward(stored.numpy()))
        assert (back - images).abs().max() <= 1.01 / (high - low)


def test_labels_may_be_a_tensor_an_array_or_empty(gan: Sampler) -> None:
    wanted = gan.sample([0, 2])
    assert torch.equal(gan.sample(torch.tensor([0, 2])), wanted)
    assert torch.equal(gan.sample(np.array([0, 2])), wanted)  # type: ignore[arg-type]
    assert gan.sample([]).shape == (0, 1, 16, 16)


def test_truncation_draws_latents_and_images_to_the_middle(odd: Sampler) -> None:
    labels = [1] * 40
    spread = [float(torch.pdist(odd.sample(labels, truncation=t).flatten(1)).mean()) for t in (1.0, 0.5, 0.1)]
    assert spread[0] > spread[1] > spread[2] > 0
    assert torch.equal(odd.sample(labels), odd.sample(labels, truncation=1.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": [0, 3]}, r"Labels \[3\] were given; this model has 3 classes, 0 to 2: cross, disk, ring"),
        ({"labels": [-1]}, r"Labels \[-1\]"),
        ({"labels": [0, 1], "indices": [0]}, "2 labels and 1 indices"),
        ({"labels": [0], "indices": [0, 1]}, "1 labels and 2 indices"),
        ({"labels": [0], "truncation": 0.0}, "truncation = 0.0"),
        ({"labels": [0], "truncation": 1.5}, "truncation = 1.5"),
        ({"labels": [0], "truncation": float("nan")}, "truncation = nan"),
        ({"labels": [0], "seed": -1}, "seed = -1"),
        ({"labels": [0], "seed": 2**64}, "seed = "),
        ({"labels": [0], "indices": [-1]}, "Indices from -1"),
        ({"labels": [0], "indices": [2**64]}, "Indices from"),
    ],
)
def test_arguments_out_of_range_are_a_config_error(gan: Sampler, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gan.sample(**arguments)


def test_there_is_no_sampler_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="There is no model at"):
        load(tmp_path)
    with pytest.raises(ConfigError, match="--device nope"):
        load(tmp_path, device="nope")
