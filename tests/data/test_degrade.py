import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ganaug.data.degrade import Downsample, Undersample, parse_degrade
from ganaug.errors import ConfigError
from tests.phantom import phantom

KINDS = ["downsample=2", "downsample=4", "kspace=2", "kspace=4"]
SIZES = [(48, 40), (33, 29), (16, 20, 24)]
"""Even and odd sides, which have different k-spaces, and sides that the factor does not divide; and a volume."""

every_kind = pytest.mark.parametrize("text", KINDS)
every_size = pytest.mark.parametrize("size", SIZES, ids=str)


def heads(size: tuple[int, ...], *, count: int = 3, channels: int = 1) -> Tensor:
    """Return phantoms, N×C×size in [-1, 1]; each channel is another head."""
    images = [phantom(np.random.default_rng(seed), size, contrast="b").image for seed in range(count * channels)]
    return torch.from_numpy(np.stack(images)).reshape(count, channels, *size) * 2 - 1


def error(images: Tensor, truth: Tensor) -> Tensor:
    """Return the squared error of each image."""
    return (images - truth).double().square().flatten(1).sum(dim=1)


def guesses(truth: Tensor) -> list[Tensor]:
    """Return what networks of all qualities could answer."""
    source = torch.Generator().manual_seed(0)
    noise = torch.randn(truth.shape, generator=source)
    return [noise.clamp(-1, 1), 5 * noise, truth + 0.01 * noise, -truth, torch.ones_like(truth), truth]


@every_kind
def test_what_is_parsed_is_written_again(text: str) -> None:
    assert str(parse_degrade(text)) == text
    assert parse_degrade(f" {text.replace('=', ' = ')} ") == parse_degrade(text)


@pytest.mark.parametrize(
    "text", ["", "downsample", "kspace=", "kspace=4x", "kspace=-4", "blur=4", "downsample=2.5", "4", "Downsample=4"]
)
def test_what_is_no_degradation_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match=r"was given; downsample=4 or kspace=4 was wanted.*2 to 16") as found:
        parse_degrade(text)
    assert repr(text) in str(found.value)


@pytest.mark.parametrize("text", ["downsample=1", "kspace=17", "kspace=0"])
def test_a_factor_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"{text} was given; a whole factor from 2 to 16"):
        parse_degrade(text)


def test_images_too_small_for_the_factor_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"downsample=8 wants images of 16 pixels or more.*these are 32x12"):
        Downsample(8)(torch.zeros(1, 1, 32, 12), [0])
    with pytest.raises(ConfigError, match=r"kspace=8 wants images of 16 pixels"):
        Undersample(8)(torch.zeros(1, 1, 32, 12), [0])
    Undersample(8)(torch.zeros(1, 1, 12, 32), [0])  # the phase-encoding axis is the last


@every_kind
def test_one_key_is_wanted_for_each_image(text: str) -> None:
    with pytest.raises(ConfigError, match="2 keys were given for 3 images"):
        parse_degrade(text)(heads((32, 32)), [1, 2])


@every_size
@pytest.mark.parametrize("name", ["downsample", "kspace"])
def test_a_larger_factor_leaves_less(name: str, size: tuple[int, ...]) -> None:
    images = heads(size)
    errors = [error(parse_degrade(f"{name}={factor}")(images, range(3)), images) for factor in (2, 4, 8)]
    assert (errors[0] > 1e-3 * images[0].numel()).all()
    assert (errors[1] > errors[0]).all()
    assert (errors[2] > errors[1]).all()


@every_kind
@every_size
def test_shape_and_constants_stay(text: str, size: tuple[int, ...]) -> None:
    images = heads(size, channels=2)
    degrade = parse_degrade(text)
    result = degrade(images, [4, 5, 6])
    assert result.shape == images.shape
    assert result.dtype == torch.float32
    torch.testing.assert_close(degrade(images * 0.5 - 0.25, [4, 5, 6]), result * 0.5 - 0.25)


@every_kind
@every_size
def test_a_result_depends_on_its_image_and_key_alone(text: str, size: tuple[int, ...]) -> None:
    images, keys, degrade = heads(size), [7, 2**40, -3], parse_degrade(text)
    together = degrade(images, keys)
    for index in (2, 0, 1):
        alone = degrade(images[index : index + 1], torch.tensor(keys[index : index + 1]))
        torch.testing.assert_close(alone[0], together[index], atol=1e-6, rtol=0)
    torch.testing.assert_close(degrade(images.flip(0), keys[::-1]).flip(0), together, atol=1e-6, rtol=0)


@every_size
@pytest.mark.parametrize("factor", [2, 4])
def test_the_zero_filled_image_has_the_measured_lines_and_no_others(size: tuple[int, ...], factor: int) -> None:
    images, degrade = heads(size, channels=2), Undersample(factor)
    result = degrade(images, range(3))
    axes = tuple(range(2, images.ndim))
    whole, zero_filled = (np.fft.fftn((each.double().numpy() + 1) / 2, axes=axes) for each in (images, result))
    for index, half in enumerate(degrade.masks(size[-1], range(3))):
        # Frequency -k is sampled as k is.
        mask = half[abs(np.rint(np.fft.fftfreq(size[-1]) * size[-1]).astype(int))]
        np.testing.assert_allclose(zero_filled[index], whole[index] * mask, atol=1e-3)
        assert abs(whole[index][..., ~mask]).max() > 1


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
@pytest.mark.parametrize("width", [64, 65, 256])
def test_the_masks_sample_the_center_and_one_line_in_a_factor(width: int, factor: int) -> None:
    masks = np.unique(Undersample(factor).masks(width, range(500)), axis=0)
    assert len(masks) > 1
    lines = 2 * masks[:, 1:].sum(axis=1) + 1 - (masks[:, -1] if width % 2 == 0 else 0)
    np.testing.assert_allclose(lines, width / factor, atol=2)
    assert masks[:, : round(0.32 * width / factor / 2)].all(), "the center"
    assert masks.any(axis=0).mean() > 0.75, "the masks differ in their offset"


def test_the_masks_are_monais_for_the_frequencies_from_0_up() -> None:
    from monai.apps.reconstruction.transforms.array import EquispacedKspaceMask

    theirs = EquispacedKspaceMask([5 / 64], [4], spatial_dims=2)
    theirs.set_random_state(3)
    theirs(torch.zeros(1, 64, 64, 2))
    line = theirs.mask.numpy().ravel() > 0
    expected = np.append(line[32:], line[0])  # the lowest of their frequencies, -32, is 32 as well
    assert any((mask == expected).all() for mask in Undersample(4).masks(64, range(50)))


def test_near_keys_get_all_masks_alike() -> None:
    masks, times = np.unique(Undersample(4).masks(64, range(1000)), axis=0, return_counts=True)
    assert len(masks) == 5
    assert times.min() > 0.8 * 1000 / 5
    assert (Undersample(4).masks(64, [3]) == Undersample(4).masks(64, [2**64 + 3])).all(), "64 bits count"


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_down_and_up_are_those_of_pillow(factor: int) -> None:
    images = heads((40, 48), count=1)
    sides = (round(48 / factor), round(40 / factor))
    small = Image.fromarray(images[0, 0].numpy()).resize(sides, Image.Resampling.BICUBIC)
    expected = np.asarray(small.resize((48, 40), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(Downsample(factor)(images, [0])[0, 0], expected, atol=1e-5)


@every_kind
@every_size
@pytest.mark.parametrize("known", [True, False], ids=["keys", "no keys"])
def test_what_was_measured_is_put_back_exactly(text: str, size: tuple[int, ...], known: bool) -> None:
    images, keys, degrade = heads(size, channels=2), [5, 6, 7], parse_degrade(text)
    degraded = degrade(images, keys)
    for guess in guesses(images):
        result = degrade.consistent(guess, degraded, keys if known else None)
        torch.testing.assert_close(degrade(result, keys), degraded, atol=1e-5, rtol=0)
        torch.testing.assert_close(degrade.consistent(result, degraded, keys), result, atol=1e-5, rtol=0)


@every_kind
@every_size
def test_putting_back_brings_every_guess_nearer_to_the_truth(text: str, size: tuple[int, ...]) -> None:
    images, keys, degrade = heads(size), [5, 6, 7], parse_degrade(text)
    degraded = degrade(images, keys)
    for guess in guesses(images):
        result = degrade.consistent(guess, degraded, keys)
        before, after = error(guess, images), error(result, images)
        # An orthogonal projection: Pythagoras holds, so the error falls by exactly what was changed.
        torch.testing.assert_close(after + error(result, guess), before, rtol=1e-4, atol=1e-6 * images[0].numel())
        assert (error(result.clamp(-1, 1), images) <= after + 1e-9).all()


@every_kind
def test_the_network_may_leave_all_that_is_known_to_the_projection(text: str) -> None:
    images, degrade = heads((48, 40)), parse_degrade(text)
    degraded = degrade(images, range(3))
    torch.testing.assert_close(degrade.consistent(images, degraded), images, atol=1e-5, rtol=0)
    wrong = images + 0.5 * (degraded - degrade(images.flip(-2), range(3)))
    assert (error(degrade.consistent(wrong, degraded), images) < 0.6 * error(wrong, images)).all()


@pytest.mark.parametrize("factor", [2, 4, 8, 16])
def test_the_mask_is_recognized_in_an_image_that_was_stored_in_8_bit(factor: int) -> None:
    images, degrade, keys = heads((64, 64), count=12), Undersample(factor), list(range(12))
    stored = ((degrade(images, keys).clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    guess = guesses(images)[2]
    torch.testing.assert_close(degrade.consistent(guess, stored), degrade.consistent(guess, stored, keys))


@every_kind
def test_gradients_are_those_of_a_linear_map(text: str) -> None:
    degrade = parse_degrade(text)
    images, output = (
        heads((8, 10), count=2).double().requires_grad_(),
        heads((8, 10), count=2).double().requires_grad_(),
    )
    assert torch.autograd.gradcheck(lambda x: degrade(x, [1, 2]), (images,))
    assert torch.autograd.gradcheck(lambda y, x: degrade.consistent(y, x, [1, 2]), (output, images))


@every_kind
def test_what_inference_has_cached_can_be_trained_with(text: str) -> None:
    degrade, images = parse_degrade(text), heads((22, 26), count=1)
    with torch.inference_mode():
        degrade.consistent(images, degrade(images, [1]))
    images.requires_grad_()
    degrade.consistent(images, degrade(images, [1])).sum().backward()
    assert images.grad is not None


@every_kind
def test_half_precision_comes_back_as_it_came_and_autocast_costs_none(text: str) -> None:
    degrade, images = parse_degrade(text), heads((32, 32))
    expected = degrade(images, range(3))
    assert degrade(images.bfloat16(), range(3)).dtype == torch.bfloat16
    result = degrade.consistent(torch.zeros_like(images).bfloat16(), expected)
    torch.testing.assert_close(degrade(result, range(3)), expected, atol=1e-5, rtol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(degrade(images, range(3)), expected)
        torch.testing.assert_close(degrade.consistent(images, expected), images, atol=1e-5, rtol=0)


def test_downsampling_needs_no_monai(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("monai", "monai.apps.reconstruction.transforms.array"):
        monkeypatch.setitem(sys.modules, name, None)
    images = heads((34, 38))
    Downsample(4).consistent(images, Downsample(4)(images, range(3)))
    with pytest.raises(ModuleNotFoundError):
        Undersample(4).masks(38, [0])


def test_parsing_loads_neither_torch_nor_monai() -> None:
    code = (
        "import sys; from ganaug.data.degrade import parse_degrade; parse_degrade('kspace=4')\n"
        "assert not {'torch', 'monai'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
