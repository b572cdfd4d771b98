from pathlib import Path

import numpy as np
import pytest
import torch

import ganaug
from ganaug.data.intensity import IntensityMap
from ganaug.errors import ConfigError, ModelFileError
from ganaug.mixing.translate import TranslateMix
from ganaug.sampling import SyntheticBank, Translator
from ganaug.sampling.export import export_folder
from ganaug.sampling.sampler import load_sampler
from tests.sampling.translation_models import make_translator, unit_images
from tests.tiny import UINT8, UINT16

CT = IntensityMap(kind="window", low=-1000.0, high=1000.0, dtype="int16")
OWN = IntensityMap(kind="per-file", minimum=0.0, low=0.0, high=139.0, maximum=200.0, dtype="uint16")


@pytest.fixture(scope="module")
def gan(tmp_path_factory: pytest.TempPathFactory) -> Translator:
    return make_translator(tmp_path_factory.mktemp("model") / "generator.safetensors")


def test_load_returns_a_translator_that_knows_its_domains(gan: Translator) -> None:
    found = ganaug.load(gan.path.parent)
    assert isinstance(found, ganaug.Translator)
    assert (found.classes, found.targets, found.rule, found.shape) == (gan.classes, gan.classes, "class", (1, 16, 16))
    assert found.intensities == (UINT8,) * 3
    assert "Translator" in repr(found)


def test_an_image_is_the_same_in_any_batch_and_order(gan: Translator) -> None:
    images, to = unit_images(11, 1, 16, 16), torch.arange(11) % 3
    made = gan.translate(images, to=to)
    assert made.shape == images.shape
    assert made.dtype == torch.float32
    assert -1 <= made.min() < made.max() <= 1
    for i in (0, 4, 10):
        assert torch.equal(gan.translate(images[i : i + 1], to=int(to[i]))[0], made[i])
    assert torch.equal(gan.translate(images.flip(0), to=to.flip(0)).flip(0), made)
    assert torch.equal(gan.translate(images.double(), to=to), made)
    assert len({made[:1].sum().item(), *(gan.translate(images[:1], to=n).sum().item() for n in gan.classes)}) == 3


@pytest.mark.parametrize("side", [(16, 16), (17, 9), (5, 40), (1, 1)])
def test_any_size_is_translated_and_padding_repeats_the_border(gan: Translator, side: tuple[int, int]) -> None:
    images = unit_images(2, 1, *side)
    made = gan.translate(images, to="disk")
    assert made.shape == images.shape
    even = [value + value % 2 for value in side]
    padded = torch.nn.functional.pad(images, [0, even[1] - side[1], 0, even[0] - side[0]], mode="replicate")
    assert torch.allclose(gan.translate(padded, to="disk")[..., : side[0], : side[1]], made, atol=1e-6)


def test_a_large_image_is_translated_in_tiles_that_do_not_show(
    gan: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = unit_images(1, 1, 203, 101)
    whole, seen = gan.translate(image, to=1), []
    plan = ganaug.sampling.tiles.plan_tiles
    monkeypatch.setattr(
        ganaug.sampling.tiles, "plan_tiles", lambda *a, pixels, **k: seen.append(plan(*a, pixels=5000, **k)) or seen[-1]
    )
    tiled = gan.translate(image, to=1)
    assert len(seen[0][0]) > 1
    assert (tiled - whole).abs().max() < 1e-5


def test_volumes_go_through_the_same_code(tmp_path: Path) -> None:
    gan = make_translator(tmp_path / "m.safetensors", size=(8, 8, 8), domains=("a", "b"))
    images = unit_images(3, 1, 7, 9, 8)
    made = gan.translate(images, to="b")
    assert made.shape == images.shape
    assert torch.equal(gan.translate(images[1:2], to=1)[0], made[1])


def test_values_go_in_by_the_map_of_the_source_and_out_by_that_of_the_target(tmp_path: Path) -> None:
    gan = make_translator(
        tmp_path / "m.safetensors", domains=("ct", "mr"), rule="style", intensities=(CT, UINT16), scale=0
    )
    stored = np.linspace(-1000, 1000, 256).reshape(1, 1, 16, 16).astype(np.int16)
    made = gan.translate_stored(stored, to="mr")
    assert made.dtype == torch.uint16
    wanted = UINT16.inverse(CT.forward(stored))
    assert np.array_equal(made.numpy(), wanted)
    back = gan.translate_stored(made, to="ct")
    assert np.abs(back.numpy().astype(int) - stored).max() <= 1
    with pytest.raises(ConfigError, match="different types"):
        gan.translate_stored(np.concatenate([stored, stored]), to=[0, 1])


def test_of_three_domains_with_maps_of_their_own_the_source_must_be_named(tmp_path: Path) -> None:
    gan = make_translator(
        tmp_path / "m.safetensors", domains=("a", "b", "c"), rule="style", intensities=(UINT8, CT, UINT16)
    )
    stored = np.zeros((1, 1, 16, 16), np.uint8)
    with pytest.raises(ConfigError, match="--from"):
        gan.translate_stored(stored, to="c")
    assert gan.translate_stored(stored, to="c", source="a").dtype == torch.uint16


def test_each_image_keeps_its_own_window_where_files_have_windows_of_their_own(tmp_path: Path) -> None:
    gan = make_translator(tmp_path / "m.safetensors", domains=("a", "b"), intensities=OWN, scale=0)
    base = np.random.default_rng(0).integers(0, 200, (1, 1, 16, 16)).astype(np.uint16)
    stored = np.concatenate([base, base * 100])
    made = gan.translate_stored(stored, to="b").numpy().astype(int)
    assert np.abs(made[0] - base[0]).max() <= 2
    assert np.abs(made[1] - 100 * base[0].astype(int)).max() <= 200


def test_a_model_that_undoes_a_degradation_returns_what_degrades_to_its_input(tmp_path: Path) -> None:
    gan = make_translator(
        tmp_path / "m.safetensors", domains=("degraded", "original"), targets=("original",), rule="style",
        degrade="downsample=4",
    )  # fmt: skip
    assert gan.degrade is not None
    image = 0.3 * unit_images(1, 1, 32, 32)
    degraded = gan.degrade(image, [0])
    made = gan.translate(degraded, to="original")
    assert (made - degraded).abs().max() > 0.01
    assert torch.allclose(gan.degrade(made, [0]), degraded, atol=0.02)
    with pytest.raises(ConfigError, match="translates to original alone"):
        gan.translate(degraded, to="degraded")


@pytest.mark.parametrize(
    ("shape", "to", "message"),
    [
        ((2, 3, 16, 16), 0, "N×1×H×W"),
        ((2, 1, 4, 16, 16), 0, "N×1×H×W"),
        ((2, 1, 0, 16), 0, "a pixel or more"),
        ((2, 1, 16, 16), "star", "'star' was given; this model knows cross, disk, ring"),
        ((2, 1, 16, 16), 3, "3 was given"),
        ((2, 1, 16, 16), [0], "2 images and 1 targets"),
    ],
)
def test_what_does_not_fit_is_refused(gan: Translator, shape: tuple[int, ...], to: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gan.translate(torch.zeros(shape), to=to)  # type: ignore[arg-type]


def test_images_that_are_not_finite_are_told_from_a_model_that_is_not(gan: Translator, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="images hold NaN"):
        gan.translate(torch.full((1, 1, 16, 16), float("nan")), to=0)
    broken = make_translator(tmp_path / "m.safetensors", scale=float("nan"))
    with pytest.raises(ModelFileError, match="train it again"):
        broken.translate(torch.zeros(1, 1, 16, 16), to=0)


def test_what_wants_images_from_noise_names_the_way_to_translate(gan: Translator, tmp_path: Path) -> None:
    for ask in (
        lambda: gan.sample([0, 1]),
        lambda: load_sampler(gan.path),
        lambda: SyntheticBank.generate(gan, tmp_path / "bank", per_class=2),  # type: ignore[arg-type]
        lambda: export_folder(gan, tmp_path / "out", counts={"disk": 2}),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigError, match=r"ganaug translate RUN INPUT --to CLASS"):
            ask()
    assert not list(tmp_path.iterdir())


def test_a_batch_is_translated_as_the_model_does_it(gan: Translator) -> None:
    images = torch.randint(0, 256, (12, 1, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.arange(12) % 3
    mixed, new = TranslateMix(gan, p=1, to=["disk"], seed=0)(images, labels)
    assert new.tolist() == [1] * 12
    wanted = gan.translate_stored(images[labels != 1], to="disk")
    assert torch.equal(mixed[labels != 1], wanted)
    assert torch.equal(mixed[labels == 1], images[labels == 1])


def test_a_batch_of_one_site_comes_out_in_the_units_of_the_other(tmp_path: Path) -> None:
    low, high = (IntensityMap(kind="window", low=0.0, high=top, dtype="uint16") for top in (1000.0, 4000.0))
    gan = make_translator(tmp_path / "m.safetensors", domains=("a", "b"), rule="style", intensities=(low, high))
    stored = torch.randint(0, 1000, (5, 1, 16, 16), generator=torch.Generator().manual_seed(0)).float()
    for mix in (TranslateMix(gan, p=1, to=["b"], seed=0), TranslateMix(gan, p=1, source="a", seed=0)):
        mixed, labels = mix(stored, torch.arange(5))
        assert mix.to_classes == ("b",)
        assert labels.tolist() == [0, 1, 2, 3, 4]
        assert torch.equal(mixed, gan.translate_stored(stored, to="b").float())
    with pytest.raises(ConfigError, match="Pass source="):
        TranslateMix(gan, p=1)
    with pytest.raises(ConfigError, match=r"'a'.*was wanted"):
        TranslateMix(gan, p=1, to=["a"], source="a")
    mixed_types = make_translator(tmp_path / "t.safetensors", domains=("a", "b"), rule="style", intensities=(UINT8, CT))
    with pytest.raises(ConfigError, match="one batch cannot hold"):
        TranslateMix(mixed_types, to=["b"])
