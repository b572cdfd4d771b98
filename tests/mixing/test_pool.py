import copy
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

from ganaug.data.intensity import IntensityMap
from ganaug.errors import ConfigError, ModelFileError
from ganaug.mixing import SyntheticMix
from ganaug.mixing.pool import Passes, SamplerSource, to_stored
from ganaug.sampling.sampler import Sampler, load
from tests.tiny import UINT8, UINT16, make_model

BATCH = 24


@pytest.fixture(scope="module")
def gan(tmp_path_factory: pytest.TempPathFactory) -> Sampler:
    return load(make_model(tmp_path_factory.mktemp("model") / "generator.safetensors"), device="cpu")


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.linspace(0, 1, 16 * 12).view(1, 1, 16, 12).repeat(BATCH, 1, 1, 1)
    return images, torch.arange(BATCH) % 3


def told(gan: Sampler, mix: SyntheticMix, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which items of the last batch are synthetic, and all images that their provenance stands for, in [0, 1]."""
    origin = mix.provenance
    images = gan.sample(labels, seed=mix.seed or 0, indices=origin["index"].clamp(min=0).tolist())
    return origin["synthetic"], gan.stored(images) / 255


@pytest.mark.parametrize("pool", [None, 30, 2, 0])
@pytest.mark.parametrize("classes", ["balanced", "same"])
def test_images_are_those_that_the_sampler_makes_from_their_provenance(gan: Sampler, pool: Any, classes: Any) -> None:
    mix = SyntheticMix(gan, p=0.5, classes=classes, pool=pool, seed=5)
    for _ in range(2):
        images, labels = batch()
        mixed, new_labels = mix(images, labels)
        synthetic, expected = told(gan, mix, new_labels)
        assert 3 < synthetic.sum() < 21
        # Sums may go in another order where a pass has another length, and a rounding to the other side.
        assert (mixed - expected).abs()[synthetic].max() < 1.01 / 255
        assert torch.equal(mixed[~synthetic], images[~synthetic])
        assert torch.equal(new_labels[~synthetic], labels[~synthetic])
        assert torch.equal(new_labels, labels) == (classes == "same")


@pytest.mark.parametrize("pool", [90, 0])
def test_seed_and_step_decide_all_images(gan: Sampler, pool: int) -> None:
    # Passes have 64 rows: images of the pool change in steps 4 and 8 only.
    def options(seed: int = 3) -> dict[str, Any]:
        return {"pool": pool, "p": 0.5, "seed": seed, **({"refresh": 16} if pool else {})}

    mix = SyntheticMix(gan, **options())
    batches = [mix(*batch()) for _ in range(10)]
    for step in (9, 4, 0):
        later = SyntheticMix(gan, **options())
        later.step = step
        assert all(torch.equal(x, y) for x, y in zip(later(*batch()), batches[step], strict=True))
    mix.step = 5  # also backwards
    assert torch.equal(mix(*batch())[0], batches[5][0])
    assert not torch.equal(SyntheticMix(gan, **options(seed=4))(*batch())[0], batches[0][0])


def test_a_pool_holds_consecutive_images_and_renews_the_oldest(gan: Sampler) -> None:
    source = SamplerSource(gan, pool=90, refresh=16)
    assert [sorted(row) for row in source.indices_in(3).tolist()] == [list(range(30))] * 3
    windows = [sorted(row) for row in source.indices_in(4).tolist()]  # 64 renewed: 22, 21 and 21 of the classes
    assert windows == [list(range(22, 52)), list(range(21, 51)), list(range(21, 51))]
    assert (source.indices_in(4) != source.indices_in(3)).sum() == 64
    fixed = SamplerSource(gan, pool=90, refresh=0)
    assert (fixed.indices_in(10**6) == fixed.indices_in(0)).all()


def test_only_what_is_renewed_is_made(gan: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    run = Passes.__call__
    monkeypatch.setattr(Passes, "__call__", lambda self, z, labels: (made.append(len(z)), run(self, z, labels))[1])
    mix = SyntheticMix(gan, p=0.5, pool=90, refresh=16, seed=0)
    for _ in range(5):
        mix(*batch())
    assert made == [64, 26, 64]
    made.clear()
    mix = SyntheticMix(gan, p=0.5, pool=0, seed=0)
    mix(*batch())
    assert sum(made) == mix.provenance["synthetic"].sum()


def test_without_a_pool_no_image_comes_twice(gan: Sampler) -> None:
    mix = SyntheticMix(gan, p=1, pool=0, seed=0)
    seen = set()
    for _ in range(3):
        _, labels = mix(*batch())
        seen |= set(zip(labels.tolist(), mix.provenance["index"].tolist(), strict=True))
    assert len(seen) == 3 * BATCH


def test_ranks_share_no_image(gan: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    ranks = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        ranks.append(SamplerSource(gan, pool=30).indices_in(0)[0])
    assert sorted(np.concatenate(ranks)) == list(range(20))


def test_a_classifier_that_holds_it_has_no_generator(gan: Sampler) -> None:
    mix = SyntheticMix(gan, p=0.5, pool=30, seed=0)
    classifier = nn.Sequential(mix, nn.Linear(2, 2))
    expected = mix(*batch())
    weights = [parameter.clone() for parameter in gan.generator.parameters()]
    assert set(classifier.state_dict()) == {"1.weight", "1.bias"}
    assert list(mix.parameters()) == list(mix.buffers()) == []
    classifier.to(torch.float64).train()
    assert all(torch.equal(x, y) for x, y in zip(gan.generator.parameters(), weights, strict=True))
    assert not gan.generator.training
    twin = copy.deepcopy(classifier)[0]
    twin.step = 0
    assert all(torch.equal(x, y) for x, y in zip(twin(*batch()), expected, strict=True))
    assert twin.source is mix.source is gan


def test_it_does_not_go_into_workers(gan: Sampler) -> None:
    mix = SyntheticMix(gan, p=0.5, pool=30, seed=0)
    with pytest.raises(ConfigError, match=r"cannot be pickled.*make a bank.*state_dict"):
        pickle.dumps(mix)

    def collate(items: list) -> Any:
        try:
            return mix(*default_collate(items))
        except ConfigError as error:
            return str(error)

    data = TensorDataset(*batch())
    (answer,) = DataLoader(data, BATCH, num_workers=1, collate_fn=collate)  # forked, so that nothing is pickled
    assert "in a DataLoader's worker" in answer
    assert "behind the DataLoader" in answer
    ((images, _),) = DataLoader(data, BATCH, collate_fn=collate)
    assert images.shape == (BATCH, 1, 16, 12)


def test_images_do_not_depend_on_autocast_and_can_be_trained_on(gan: Sampler) -> None:
    for pool in (30, 0):
        expected, _ = SyntheticMix(gan, p=0.5, pool=pool, seed=0)(*batch())
        with torch.autocast("cpu", torch.bfloat16):
            mixed, _ = SyntheticMix(gan, p=0.5, pool=pool, seed=0)(*batch())
        assert torch.equal(mixed, expected)
        conv = nn.Conv2d(1, 1, 3)
        conv(mixed).sum().backward()
        assert conv.weight.grad is not None
        mixed.requires_grad_()


def test_a_gray_sampler_serves_rgb_and_uint8_batches(gan: Sampler) -> None:
    images, labels = batch()
    gray, _ = SyntheticMix(gan, p=1, pool=30, seed=0)(images, labels)
    rgb, _ = SyntheticMix(gan, p=1, pool=30, seed=0)((images * 255).to(torch.uint8).expand(-1, 3, -1, -1), labels)
    assert rgb.dtype == torch.uint8
    assert torch.equal(rgb[:, 2:] / 255, gray)


@pytest.mark.parametrize(
    "intensity",
    [
        UINT8,
        UINT16,
        IntensityMap("window", -0.5, 2.25, "float32"),
        IntensityMap("window", -1000, 999.5, "int16"),
        IntensityMap("percentiles", 100, 900, "uint16", 0, 4000),
        IntensityMap("percentiles", 0, 900, "int32", 0, 4000),
        IntensityMap("per-file", 100, 900, "uint16", 100, 4000),
    ],
)
def test_stored_values_are_those_of_the_intensity_map(intensity: IntensityMap) -> None:
    images = torch.linspace(-1.1, 1.1, 999)
    expected = torch.from_numpy(intensity.inverse(images.numpy(), tails=False).astype(np.float64))
    found = to_stored(images, intensity).double()
    ties = (found - expected).abs() > 1e-6
    assert ties.sum() <= (5 if intensity.dtype != "float32" else 0)  # float32 may round to the other side
    assert (found - expected).abs().max() <= 1


def test_a_model_of_sixteen_bits_is_held_against_the_batch(tmp_path: Path) -> None:
    deep = load(make_model(tmp_path / "generator.safetensors", intensity=UINT16), device="cpu")
    images, labels = batch()
    with pytest.raises(ConfigError, match="scales differ"):
        SyntheticMix(deep, p=1, pool=30)(images, labels)
    mix = SyntheticMix(deep, p=1, pool=30, scale=(1000, 50_000), seed=0)
    mixed, new_labels = mix(images, labels)
    expected = gan_unit(deep, new_labels, mix.provenance["index"].tolist())
    assert (mixed - expected).abs().max() < 2e-5


def gan_unit(gan: Sampler, labels: torch.Tensor, indices: list[int]) -> torch.Tensor:
    return (gan.sample(labels, indices=indices) + 1) / 2


def test_a_broken_model_is_refused(gan: Sampler, tmp_path: Path) -> None:
    broken = load(make_model(tmp_path / "generator.safetensors"), device="cpu")
    with torch.no_grad():
        next(broken.generator.parameters()).fill_(float("nan"))
    with pytest.raises(ModelFileError, match="NaN"):
        SyntheticMix(broken, p=1, pool=30)(*batch())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": -1}, "pool is -1"),
        ({"pool": 1.5}, "pool is 1.5"),
        ({"refresh": -1}, "refresh is -1"),
        ({"pool": 0, "refresh": 4}, "nothing to refresh"),
    ],
)
def test_bad_settings_are_refused(gan: Sampler, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SyntheticMix(gan, **options)


def test_the_default_pool_of_large_volumes_is_smaller(gan: Sampler) -> None:
    large: Any = SimpleNamespace(shape=(1, 128, 128, 128), classes=("a", "b"), intensity=UINT16, device="cpu")
    assert SamplerSource(large).size == (1 << 28) // (4 * 128**3) // 2
    assert SamplerSource(gan).size == 1024 // 3


@pytest.mark.gpu
def test_a_graph_makes_the_images_of_the_network_and_what_cannot_be_captured_runs_without(
    gan: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu = load(gan.path, device="cuda")
    images, labels = batch()
    expected = SyntheticMix(gan, p=0.5, pool=30, seed=0)(images, labels)
    for capture in (Passes._capture, lambda self: (_ for _ in ()).throw(RuntimeError)):
        monkeypatch.setattr(Passes, "_capture", capture)
        mix = SyntheticMix(on_gpu, p=0.5, pool=30, refresh=16, seed=0)
        mixed = mix(images.cuda(), labels.cuda())
        assert mixed[0].is_cuda
        assert (mix._source._passes._graph is not None) == (capture.__name__ == "_capture")
        assert torch.equal(mixed[1].cpu(), expected[1])
        assert (mixed[0].cpu() - expected[0]).abs().max() < 0.05  # TF32
        for _ in range(8):  # replays after the pool was renewed
            mixed = mix(images.cuda(), labels.cuda())
        synthetic, told_images = told(on_gpu, mix, mixed[1].cpu())
        assert (mixed[0].cpu() - told_images).abs()[synthetic].max() < 2 / 255
