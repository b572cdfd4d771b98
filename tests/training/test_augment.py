"""Discriminator augmentation: what it changes, what it never changes."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ganaug.config import FitConfig
from ganaug.errors import ConfigError
from ganaug.training.augment import PROFILES, Profile, along_depth, augment, profile
from ganaug.training.gans.conditional import GAN
from tests.tiny import NETWORK

NONE = PROFILES["none"]
SHIFT_ONLY = replace(NONE, shift=0.125)
HALF_TURN = replace(NONE, rotate_deg=180)
QUARTER_TURNS = replace(NONE, quarter_turns=True)
FLIP_ONLY = replace(NONE, x_flip=True)
COLOR_ONLY = replace(NONE, saturation=0.3, hue_deg=20)
VALUES_ONLY = Profile(shift=0, scale=0)


def _random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _dot(n: int, side: int = 16) -> Tensor:
    images = torch.full((n, 1, side, side), -1.0)
    images[:, :, side // 2, side // 2] = 1
    return images


def _f_shape(n: int, side: int = 32) -> Tensor:
    """A letter F: as far from its mirror image as from noise."""
    images = torch.full((n, 1, side, side), -1.0)
    images[:, :, 6:26, 10:14] = 1
    images[:, :, 6:10, 10:24] = 1
    images[:, :, 14:18, 10:20] = 1
    return images


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("size", [(9, 7), (5, 9, 7)])
def test_with_p_zero_nothing_changes(name: str, size: tuple[int, ...]) -> None:
    images = torch.randn(8, 3, *size)
    assert torch.equal(augment(images, 0.0, profile(name), _random()), images)


def test_the_profile_none_changes_nothing() -> None:
    images = torch.randn(8, 3, 9, 7)
    assert torch.equal(augment(images, 1.0, profile("none"), _random()), images)


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("size", [(16, 16), (17, 9), (8, 16, 16), (7, 17, 9)])
def test_an_image_for_which_no_change_was_drawn_stays_as_it_is(name: str, size: tuple[int, ...]) -> None:
    images = torch.randn(8, 2, *size)
    assert torch.allclose(augment(images, 1e-12, profile(name), _random()), images, atol=1e-4)


@pytest.mark.parametrize("name", sorted(set(PROFILES) - {"none"}))
def test_with_p_one_every_image_changes_and_each_one_differently(name: str) -> None:
    images = _f_shape(16)
    changed = augment(images, 1.0, profile(name), _random())
    assert ((changed - images).abs().flatten(1).mean(1) > 0.01).all()
    assert torch.pdist(changed.flatten(1)).min() > 0.1


def _unchanged_share(strength: Profile, p: float, count: int = 1500) -> float:
    images = torch.rand(1, 3, 16, 16, generator=_random(9)).expand(count, -1, -1, -1)
    changed = augment(images, p, strength, _random())
    return float(((changed - images).abs().flatten(1).amax(1) < 1e-4).float().mean())


def _expected_unchanged(strength: Profile, p: float) -> float:
    share = 1.0
    for name in (field.name for field in fields(Profile) if getattr(strength, field.name)):
        if name == "shift":  # chosen for each of two axes, and rounded to no shift where it is below half a pixel
            share *= (1 - p * (1 - 0.5 / (16 * strength.shift))) ** 2
        else:  # half of the flips and a quarter of the turns are none
            share *= 1 - p * {"x_flip": 0.5, "quarter_turns": 0.75}.get(name, 1.0)
    return share


@pytest.mark.parametrize("name", [field.name for field in fields(Profile)])
def test_p_is_the_probability_of_each_kind_of_change(name: str) -> None:
    value = True if isinstance(getattr(NONE, name), bool) else 15 if name.endswith("_deg") else 0.125
    strength = replace(NONE, **{name: value})
    for p in (0.1, 0.3, 1.0):
        assert _unchanged_share(strength, p) == pytest.approx(_expected_unchanged(strength, p), abs=0.05)


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_the_share_of_untouched_images_follows_from_p_and_the_profile(name: str) -> None:
    for p in (0.1, 0.3):
        expected = _expected_unchanged(profile(name), p)
        assert _unchanged_share(profile(name), p) == pytest.approx(expected, abs=0.05)


def test_a_shift_is_by_whole_pixels_without_blur_up_to_the_limit_and_zero_on_average() -> None:
    changed = augment(_dot(4000), 1.0, SHIFT_ONLY, _random())
    brightest, place = changed.flatten(1).max(1)
    assert torch.allclose(brightest, torch.ones(4000), atol=1e-4)
    moved = torch.stack([place // 16, place % 16], dim=1) - 8
    assert moved.abs().amax(0).tolist() == [2, 2]
    assert (moved.float().mean(0).abs() < 0.08).all()
    assert abs(float(torch.corrcoef(moved.T.float())[0, 1])) < 0.06


def test_shift_is_a_fraction_of_each_side() -> None:
    images = torch.full((2000, 1, 16, 40), -1.0)
    images[:, :, 8, 20] = 1
    place = augment(images, 1.0, SHIFT_ONLY, _random()).flatten(1).argmax(1)
    assert (place // 40 - 8).abs().max() == 2
    assert (place % 40 - 20).abs().max() == 5


def test_small_images_move_by_a_pixel_at_least() -> None:
    place = augment(_dot(500, side=4), 1.0, Profile(shift=0.01, scale=0, brightness=0, contrast=0), _random())
    assert set((place.flatten(1).argmax(1) % 4 - 2).tolist()) == {-1, 0, 1}


def test_brightness_and_contrast_have_the_strength_that_is_said() -> None:
    images = torch.zeros(4000, 1, 2, 2)
    images[:, :, 0] = 1
    changed = augment(images, 1.0, VALUES_ONLY, _random())
    offset = changed[:, 0, 1, 0]
    factor = changed[:, 0, 0, 0] - offset
    assert abs(float(offset.mean())) < 0.02
    assert float(offset.std()) == pytest.approx(VALUES_ONLY.brightness, rel=0.1)
    assert abs(float(factor.log().mean())) < 0.02
    assert float(factor.log().std()) == pytest.approx(VALUES_ONLY.contrast, rel=0.1)


def _mirrored(images: Tensor, name: str, *, seed: int) -> Tensor:
    """Return, for each augmented image, whether it looks more like the mirror image of its source."""

    def best(template: Tensor) -> Tensor:
        """Correlation at the best shift of up to 5 pixels."""
        shifts = [torch.roll(template, (y, x), (-2, -1)) for y in range(-5, 6) for x in range(-5, 6)]
        known = torch.stack([s[0, 0].flatten() for s in shifts])
        known = torch.nn.functional.normalize(known - known.mean(1, keepdim=True), dim=1)
        seen = changed.flatten(1)
        seen = torch.nn.functional.normalize(seen - seen.mean(1, keepdim=True), dim=1)
        return (seen @ known.T).amax(1)

    changed = augment(images, 1.0, profile(name), _random(seed))
    return best(images.flip(-1)) > best(images)


@pytest.mark.parametrize("name", sorted(set(PROFILES) - {"microscopy"}))
def test_images_are_mirrored_where_the_profile_says_so_and_nowhere_else(name: str) -> None:
    mirrored = _mirrored(_f_shape(200), name, seed=0).float().mean()
    if name in ("ultrasound", "natural"):
        assert 0.35 < mirrored < 0.65
    else:
        assert mirrored == 0


def test_each_profile_turns_and_colors_as_its_anatomy_allows() -> None:
    """The heart is on the left and a probe on top; only a slide may be turned, and only stains and light have hues."""
    assert {name: strength.rotate_deg for name, strength in PROFILES.items() if strength.rotate_deg} == {
        "chest": 5,
        "axial": 10,
        "microscopy": 180,
        "natural": 5,
    }
    assert {name for name, strength in PROFILES.items() if strength.quarter_turns} == {"microscopy"}
    assert {name for name, strength in PROFILES.items() if strength.x_flip} == {"ultrasound", "microscopy", "natural"}
    assert {name for name, strength in PROFILES.items() if strength.hue_deg} == {"microscopy", "natural"}
    assert PROFILES["axial"].brightness < PROFILES["chest"].brightness < PROFILES["ultrasound"].brightness


def test_a_rotation_keeps_distances_also_where_sides_differ() -> None:
    dot = torch.full((500, 1, 33, 17), -1.0)
    dot[:, :, 16, 14] = 1  # 6 pixels to the right of the center
    turned = augment(dot, 1.0, HALF_TURN, _random())
    rows, columns = torch.meshgrid(torch.arange(33) - 16, torch.arange(17) - 8, indexing="ij")
    turned[:, :, torch.hypot(rows.float(), columns.float()) > 8.5] = -1  # the mirrored world beyond the border
    place = turned.flatten(1).argmax(1)
    y, x = (place // 17 - 16).float(), (place % 17 - 8).float()
    assert ((torch.hypot(y, x) - 6).abs() < 1.5).all()
    assert x.min() < -4
    assert y.min() < -4
    assert y.max() > 4


def _shares_of(changed: Tensor, poses: list[Tensor]) -> list[float]:
    """Return the share of images that are each of `poses`, up to rounding; together they must be all."""
    hits = [((changed - pose).abs().flatten(1).amax(1) < 1e-3).float().mean() for pose in poses]
    assert float(sum(hits)) == pytest.approx(1)
    return [float(hit) for hit in hits]


@pytest.mark.parametrize("depth", [(), (5,)])
def test_quarter_turns_move_whole_pixels_and_all_four_are_as_frequent(depth: tuple[int, ...]) -> None:
    image = torch.rand(1, 2, *depth, 13, 13, generator=_random())
    changed = augment(image.repeat(800, *[1] * (image.ndim - 1)), 1.0, QUARTER_TURNS, _random())
    shares = _shares_of(changed, [torch.rot90(image, k, (-2, -1)) for k in range(4)])
    assert shares == pytest.approx([0.25] * 4, abs=0.06)


def test_images_that_are_not_square_make_half_turns_only() -> None:
    image = torch.rand(1, 2, 9, 14, generator=_random())
    changed = augment(image.repeat(800, 1, 1, 1), 1.0, QUARTER_TURNS, _random())
    assert _shares_of(changed, [image, image.flip(-1, -2)]) == pytest.approx([0.5, 0.5], abs=0.06)


def test_quarter_turns_and_flips_give_all_eight_poses() -> None:
    image = torch.rand(1, 1, 8, 8, generator=_random())
    changed = augment(image.repeat(800, 1, 1, 1), 1.0, replace(QUARTER_TURNS, x_flip=True), _random())
    poses = [torch.rot90(side, k, (-2, -1)) for side in (image, image.flip(-1)) for k in range(4)]
    assert _shares_of(changed, poses) == pytest.approx([0.125] * 8, abs=0.05)


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_color_changes_only_images_of_three_channels(channels: int) -> None:
    images = torch.rand(8, channels, 6, 5)
    assert torch.equal(augment(images, 1.0, COLOR_ONLY, _random()), images)


@pytest.mark.parametrize("size", [(6, 5), (4, 6, 5)])
def test_color_leaves_gray_and_brightness_alone(size: tuple[int, ...]) -> None:
    gray = torch.rand(8, 1, *size).expand(-1, 3, *[-1] * len(size))
    assert torch.allclose(augment(gray, 1.0, COLOR_ONLY, _random()), gray, atol=1e-5)
    colored = torch.rand(8, 3, *size)
    changed = augment(colored, 1.0, COLOR_ONLY, _random())
    assert torch.allclose(changed.mean(1), colored.mean(1), atol=1e-5)
    assert ((changed - colored).abs().flatten(1).amax(1) > 0.01).all()


def test_saturation_and_hue_have_the_strength_that_is_said() -> None:
    color = torch.tensor([0.6, -0.3, 0.1]).view(1, 3, 1, 1).expand(3000, 3, 2, 2)
    source = (color - color.mean(1, keepdim=True))[:, :, 0, 0]
    changed = augment(color, 1.0, COLOR_ONLY, _random())[:, :, 0, 0]
    found = changed - changed.mean(1, keepdim=True)
    factor = (found.norm(dim=1) / source.norm(dim=1)).log()
    assert abs(float(factor.mean())) < 0.03
    assert float(factor.std()) == pytest.approx(COLOR_ONLY.saturation, rel=0.1)
    turn = torch.linalg.cross(source, found).sum(1) / math.sqrt(3)  # about the gray axis, with its sign
    angle = torch.rad2deg(torch.atan2(turn, (source * found).sum(1)))
    assert COLOR_ONLY.hue_deg * 0.98 < angle.abs().max() <= COLOR_ONLY.hue_deg + 0.01
    assert abs(float(angle.mean())) < 1
    assert float(angle.std()) == pytest.approx(COLOR_ONLY.hue_deg / math.sqrt(3), rel=0.1)


@pytest.mark.parametrize("size", [(9, 4), (3, 9, 4)])
def test_depth_gain_is_a_ramp_down_the_rows_of_the_strength_that_is_said(size: tuple[int, ...]) -> None:
    images = torch.zeros(2000, 1, *size)
    gain = augment(images, 1.0, replace(NONE, depth_gain=0.3), _random()).flatten(1, -3)[:, 0]
    assert torch.allclose(gain, gain[:, :, :1].expand_as(gain)), "alike in all columns"
    assert torch.allclose(gain, gain[:, -1:] * torch.linspace(-1, 1, 9)[:, None], atol=1e-6)
    assert abs(float(gain[:, -1].mean())) < 0.03
    assert float(gain[:, -1].std()) == pytest.approx(0.3, rel=0.1)


@pytest.mark.parametrize("size", [(6, 5), (4, 6, 5)])
def test_a_profile_that_moves_nothing_resamples_nothing(size: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("grid_sample was called")

    monkeypatch.setattr(F, "grid_sample", refuse)
    images = torch.rand(8, 3, *size)
    assert not torch.equal(augment(images, 1.0, replace(VALUES_ONLY, saturation=0.2), _random()), images)
    with pytest.raises(AssertionError, match="grid_sample"):
        augment(images, 1.0, SHIFT_ONLY, _random())


AS_EVER = {
    "safe": [
        [-0.7718, -0.6870, -0.7312, -0.6412, -0.5423],
        [-0.0884, -0.0334, 0.0570, 0.1297, 0.2024],
        [-0.1983, -0.1169, -0.0355, 0.0460, 0.1274],
        [0.4986, 0.5745, 0.7115, 0.8165, 0.7786],
    ],
    "natural": [
        [-1.1848, -1.0427, -1.1422, -1.0096, -0.8492],
        [-0.5642, -0.4494, -0.3346, -0.2197, -0.2463],
        [0.2366, 0.1698, 0.2890, 0.4081, 0.5273],
        [0.4347, 0.5321, 0.6949, 0.8342, 0.9578],
    ],
}


@pytest.mark.parametrize("name", AS_EVER)
def test_a_seed_changes_an_image_as_it_always_did(name: str) -> None:
    """A run that is resumed by a later version goes on with the same changes."""
    images = torch.linspace(-1, 1, 80).view(4, 1, 4, 5)
    changed = augment(images, 0.7, profile(name), _random())
    assert torch.allclose(changed.flatten(1)[:, ::4], torch.tensor(AS_EVER[name]), atol=1e-4)


def _dot_volume(n: int) -> Tensor:
    volumes = torch.full((n, 1, 24, 16, 33), -1.0)
    volumes[:, :, 12, 8, 16] = 1
    return volumes


def _place(volumes: Tensor) -> Tensor:
    """Return N×3: the voxel of the highest value."""
    depth, height, width = volumes.shape[2:]
    place = volumes.flatten(1).argmax(1)
    assert depth * height * width == volumes[0].numel()
    return torch.stack([place // (height * width), place // width % height, place % width], dim=1)


def test_volumes_shift_by_whole_voxels_along_every_axis_each_up_to_its_limit() -> None:
    changed = augment(_dot_volume(1500), 1.0, SHIFT_ONLY, _random())
    assert torch.allclose(changed.flatten(1).amax(1), torch.ones(1500), atol=1e-4)
    moved = (_place(changed) - torch.tensor([12, 8, 16])).float()
    assert moved.abs().amax(0).tolist() == [3, 2, 4]
    assert (moved.mean(0).abs() < 0.25).all()
    apart = torch.corrcoef(moved.T) - torch.eye(3)
    assert apart.abs().max() < 0.1


def test_volumes_turn_in_the_axial_plane_only() -> None:
    volumes = torch.full((200, 1, 9, 33, 33), -1.0)
    volumes[:, :, 2, 16, 26] = 1  # off the center in depth, and 10 voxels to the side
    changed = augment(volumes, 1.0, HALF_TURN, _random())
    # The reflected world beyond the border, where two mirror images may meet.
    y, x = torch.meshgrid(torch.arange(33) - 16, torch.arange(33) - 16, indexing="ij")
    changed[..., torch.hypot(y.float(), x.float()) > 13] = -1
    d, h, w = (_place(changed) - torch.tensor([0, 16, 16])).float().T
    assert (d == 2).all()
    assert ((torch.hypot(h, w) - 10).abs() < 1.5).all()
    assert w.min() < -8
    assert h.max() > 8


def test_volumes_zoom_alike_along_all_axes() -> None:
    z, y, x = torch.meshgrid(*[torch.arange(-12.0, 13.0)] * 3, indexing="ij")
    ball = torch.exp(-(z**2 + y**2 + x**2) / 18).expand(60, 1, 25, 25, 25)
    changed = augment(ball, 1.0, Profile(shift=0, scale=0.3, brightness=0, contrast=0), _random())
    total = changed.flatten(1).sum(1)
    widths = torch.stack([(changed[:, 0] * axis**2).flatten(1).sum(1) / total for axis in (z, y, x)])
    assert torch.allclose(widths[0], widths[1], rtol=1e-3)
    assert torch.allclose(widths[0], widths[2], rtol=1e-3)
    assert widths[0].max() > 1.5 * widths[0].min()


@pytest.mark.parametrize("size", [(7, 4, 3), (8, 3, 5)])
def test_along_the_depth_it_is_what_grid_sample_does(size: tuple[int, ...]) -> None:
    source = _random()
    volumes = torch.randn(6, 2, *size, generator=source, dtype=torch.float64)
    zoom = torch.exp(torch.randn(6, generator=source) * 0.5).double()
    shift = torch.tensor([0.0, 3, -2, 9, -11, 1.5], dtype=torch.float64)
    theta = torch.zeros(6, 3, 4, dtype=torch.float64)
    theta[:, 0, 0] = theta[:, 1, 1] = 1
    theta[:, 2, 2], theta[:, 2, 3] = zoom, shift * 2 / size[0]
    grid = F.affine_grid(theta, list(volumes.shape), align_corners=False)
    wanted = F.grid_sample(volumes, grid, padding_mode="reflection", align_corners=False)
    assert torch.allclose(along_depth(volumes, zoom, shift), wanted, atol=1e-10)


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("size", [(8, 8), (6, 9, 7)])
def test_gradients_are_those_of_the_change_that_was_made(name: str, size: tuple[int, ...]) -> None:
    images = torch.randn(6, 3, *size, requires_grad=True)
    step, weight = torch.randn(2, 6, 3, *size)
    (augment(images, 0.7, profile(name), _random()) * weight).flatten(1).sum(1).sum().backward()
    assert images.grad is not None
    # For the same draws an image is changed linearly but for a constant, so that the slope is a difference.
    moved, still = (augment(x, 0.7, profile(name), _random()) for x in (images.detach() + step, images.detach()))
    wanted = ((moved - still) * weight).flatten(1).sum(1)
    assert torch.allclose((images.grad * step).flatten(1).sum(1), wanted, atol=1e-3)
    assert (wanted.abs() > 1e-3).all()


@pytest.mark.parametrize("name", sorted(set(PROFILES) - {"none"}))
def test_the_generator_determines_everything(name: str) -> None:
    images = torch.randn(8, 3, 8, 8)
    before = torch.get_rng_state()
    first, again, other = (augment(images, 0.5, profile(name), _random(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before), "the user's own random state stays as it was"


def test_both_halves_of_a_batch_go_through_the_same_distribution() -> None:
    """Real images are the first half of a batch and fakes the second; a difference would be all D has to see."""
    images = _dot(6000)
    real, fake = augment(images, 0.5, profile("safe"), _random()).chunk(2)
    assert not torch.equal(real, fake), "each image has draws of its own"
    for statistic in (
        lambda x: x.flatten(1).mean(1),
        lambda x: x.flatten(1).amax(1),
        lambda x: (x.flatten(1).argmax(1) % 16).float(),
        lambda x: (x.flatten(1).argmax(1) // 16).float(),
    ):
        one, other = statistic(real), statistic(fake)
        error = (one.var() / len(one) + other.var() / len(other)).sqrt()
        assert (one.mean() - other.mean()).abs() < 4 * error
        assert one.std() == pytest.approx(float(other.std()), rel=0.1)


@pytest.mark.parametrize("name", PROFILES)
def test_parts_of_a_batch_are_changed_as_in_the_whole(name: str) -> None:
    images = torch.randn(8, 3, 8, 8)
    whole = augment(images, 0.6, profile(name), _random())
    for rows in (torch.arange(3), torch.tensor([7, 2, 5])):
        part = augment(images[rows], 0.6, profile(name), _random(), rows=rows, of=8)
        assert torch.allclose(part, whole[rows], atol=1e-6)


def test_each_image_may_have_a_probability_of_its_own() -> None:
    images = _dot(900)
    p = torch.tensor([0.0, 0.3, 1.0]).repeat(300)
    changed = augment(images, p, replace(NONE, brightness=0.2), _random())
    shares = ((changed - images).abs().flatten(1).amax(1) > 1e-4).float().view(300, 3).mean(0)
    assert shares.tolist() == pytest.approx([0, 0.3, 1.0], abs=0.06)


def test_bf16_images_come_back_as_float32() -> None:
    for p in (0.0, 0.5):
        assert (
            augment(torch.zeros(2, 1, 8, 8, dtype=torch.bfloat16), p, profile("safe"), _random()).dtype == torch.float32
        )


def test_an_unknown_profile_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="none, safe, chest, axial, ultrasound, microscopy, natural"):
        profile("wild")


LEAK_CLASSES = 4
"""Each class could leak on its own, so that one that lies right by chance does not hide the others."""


def _trained_samples(images: Tensor, strength: Profile, p: float, *, steps: int, **settings: object) -> Tensor:
    """Train the real GAN with a constant `p` and return 400 samples, the classes in turns."""
    config = FitConfig(
        **{
            **NETWORK,
            "label_dim": 8,
            "batch": 32,
            "lr": (8e-3, 8e-3),
            "gamma": (1.0, 1.0),
            "ema_half_life_kimg": (0.2, 0.2),
            "augment_p": (p, p),
            **settings,
        }
    )
    size, channels = images.shape[2:], images.shape[1]
    gan = GAN(config, size=size, channels=channels, classes=LEAK_CLASSES, device=torch.device("cpu"), bf16=False)
    gan.strength = strength
    for step in range(steps):
        positions = torch.arange(step * 32, step * 32 + 32) % len(images)
        gan.step(images[positions], positions % LEAK_CLASSES, step, step / steps)
    return gan.sample(torch.randn(400, config.latent_dim, generator=_random(3)), torch.arange(400) % LEAK_CLASSES)


def _marks_on_the_left(count: int) -> Tensor:
    """Return noisy dark images of 4×4 pixels with a bright one at the left, class by class further down."""
    images = torch.full((count, 1, 4, 4), -0.5)
    images[torch.arange(count), 0, torch.arange(count) % LEAK_CLASSES, 0] = 0.5
    return images + 0.05 * torch.randn(images.shape, generator=_random())


def _share_on_the_right(images: Tensor) -> float:
    return float((images[..., 2:].mean((1, 2, 3)) > images[..., :2].mean((1, 2, 3))).float().mean())


def _share_on_the_right_after_training(p: float) -> float:
    samples = _trained_samples(_marks_on_the_left(64), FLIP_ONLY, p, steps=80, widths=(32,), base=4)
    assert samples.std() == pytest.approx(float(_marks_on_the_left(64).std()), rel=0.2), "it has not learned the marks"
    return _share_on_the_right(samples)


def test_flips_at_p_well_below_1_do_not_leak() -> None:
    shown = augment(_marks_on_the_left(2000), 0.3, FLIP_ONLY, _random())
    assert _share_on_the_right(shown) == pytest.approx(0.15, abs=0.03)
    assert _share_on_the_right_after_training(0.3) < 0.03


def test_flips_at_p_1_do_leak_and_the_measure_sees_it() -> None:
    """The discriminator cannot know which side is right, and so each class takes one by chance."""
    assert _share_on_the_right_after_training(1.0) > 0.15


TINT = torch.tensor([0.15, -0.2, 0.05])


def _figures() -> Tensor:
    """Return one chiral figure for each class, in the top left corner: 4×8×8, 1 on 0."""
    figures = torch.zeros(LEAK_CLASSES, 8, 8)
    figures[:, 1:3, 1] = 1
    figures[:, 1, 1:3] = 1
    figures[0, 1:5, 1] = 1
    figures[1, 1, 1:5] = figures[1, 2, 4] = 1
    figures[2, 1:4, 1] = figures[2, 3, 1:4] = 1
    figures[3, 1, 1:4] = figures[3, 2:5, 3] = 1
    return figures


def _slides(count: int, seed: int = 0) -> Tensor:
    """Return noisy color images of 8×8 pixels, the classes in turns, that vary a little in brightness and stain."""
    source = _random(seed)
    contrast, tint, brightness = torch.randn(3, count, 1, 1, 1, generator=source)
    figures = _figures()[torch.arange(count) % LEAK_CLASSES][:, None]
    images = -0.5 + figures * (1 + 0.1 * contrast) + 0.03 * brightness + TINT[:, None, None] * (1 + 0.05 * tint)
    return images + 0.05 * torch.randn(images.shape, generator=source)


def _shares_changed(images: Tensor) -> dict[str, float]:
    """Return which shares of `images`, the classes in turns, are mirrored, turned, shifted, brightened or recolored.

    Pose: the best of the class's figure mirrored or not, at angles 15° apart and shifts of a pixel.
    """
    poses, kinds = [], []
    for mirror in (1.0, -1.0):
        for angle in torch.arange(24) * 15:
            cos, sin = torch.cos(torch.deg2rad(angle)), torch.sin(torch.deg2rad(angle))
            for y, x in ((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)):
                row_x, row_y = [cos * mirror, -sin, x / 4], [sin * mirror, cos, y / 4]
                grid = F.affine_grid(torch.tensor([[row_x, row_y]]), [1, LEAK_CLASSES, 8, 8], align_corners=False)
                posed = F.grid_sample(_figures()[None], grid, padding_mode="reflection", align_corners=False)
                poses.append(_normalized(posed[0].flatten(1)))
                kinds.append([mirror < 0, 15 < angle < 345, (y, x) != (0, 0)])
    by_class = _normalized(images.mean(1).flatten(1)).view(-1, LEAK_CLASSES, 64)
    best = torch.einsum("ncd,pcd->ncp", by_class, torch.stack(poses)).argmax(2).flatten()
    mirrored, turned, shifted = torch.tensor(kinds)[best].T

    ground = images.flatten(2).median(2).values
    color, stain = ground - ground.mean(1, keepdim=True), TINT - TINT.mean()
    hue = torch.rad2deg(torch.acos((F.normalize(color, dim=1) @ F.normalize(stain, dim=0)).clamp(-1, 1)))
    saturation = (color.norm(dim=1) / stain.norm()).log()
    found = {
        "mirrored": mirrored,
        "turned": turned,
        "shifted": shifted,
        "brightened": (ground.mean(1) + 0.5).abs() > 0.15,
        "recolored": (hue > 7) | (saturation.abs() > 0.2),
    }
    return {name: float(which.float().mean()) for name, which in found.items()}


def _normalized(values: Tensor) -> Tensor:
    return F.normalize(values - values.mean(1, keepdim=True), dim=1)


LEAK_SETTINGS = {"widths": (32, 16), "lr": (4e-3, 1e-3), "gamma": (3.0, 0.3)}


KINDS = {
    "safe": {"shifted", "brightened"},
    "natural": {"mirrored", "shifted", "brightened", "recolored"},
    "microscopy": {"mirrored", "turned", "shifted", "brightened", "recolored"},
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "p"), [("microscopy", 0.3), ("microscopy", 0.5), ("natural", 0.3), ("safe", 1.0)])
def test_no_change_of_a_profile_leaks_into_the_samples(name: str, p: float) -> None:
    real = _shares_changed(_slides(1000, seed=5))
    assert max(real.values()) < 0.01
    shown = _shares_changed(augment(_slides(1000, seed=5), p, profile(name), _random()))
    found = _shares_changed(_trained_samples(_slides(128), profile(name), p, steps=400, **LEAK_SETTINGS))
    print(name, p, "shown", shown, "found", found)
    for kind in KINDS[name]:
        assert shown[kind] > 0.1, kind
        assert found[kind] < 0.2 * shown[kind], kind


@pytest.mark.slow
@pytest.mark.parametrize("p", [0.8, 1.0])
def test_with_a_high_p_poses_do_leak_and_the_measure_sees_it(p: float) -> None:
    found = _shares_changed(_trained_samples(_slides(128), profile("microscopy"), p, steps=400, **LEAK_SETTINGS))
    print(p, found)
    assert found["mirrored"] > 0.2
    assert found["turned"] > 0.2
