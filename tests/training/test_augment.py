"""Discriminator augmentation: what it changes, what it never changes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ganaug.errors import ConfigError
from ganaug.training.augment import PROFILES, Profile, along_depth, augment, profile

SHIFT_ONLY = Profile(shift=0.125, scale=0, brightness=0, contrast=0)
HALF_TURN = Profile(shift=0, scale=0, rotate_deg=180, brightness=0, contrast=0)
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


def test_p_is_the_share_of_images_that_change() -> None:
    images = _dot(2000)
    strength = Profile(shift=0, scale=0, brightness=0.2, contrast=0)
    changed = augment(images, 0.3, strength, _random())
    share = ((changed - images).abs().flatten(1).amax(1) > 1e-3).float().mean()
    assert 0.26 < share < 0.34


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


def test_safe_never_mirrors_and_natural_does() -> None:
    images = _f_shape(400)
    assert not _mirrored(images, "safe", seed=0).any()
    assert 0.35 < _mirrored(images, "natural", seed=0).float().mean() < 0.65


def test_only_microscopy_turns_images_around() -> None:
    for name, strength in PROFILES.items():
        assert (strength.rotate_deg > 10) == (name == "microscopy")
        assert strength.flip == (name in ("natural", "microscopy"))
    dot = torch.full((500, 1, 33, 17), -1.0)
    dot[:, :, 16, 14] = 1  # 6 pixels to the right of the center
    turned = augment(dot, 1.0, HALF_TURN, _random())
    rows, columns = torch.meshgrid(torch.arange(33) - 16, torch.arange(17) - 8, indexing="ij")
    turned[:, :, torch.hypot(rows.float(), columns.float()) > 8.5] = -1  # the mirrored world beyond the border
    place = turned.flatten(1).argmax(1)
    y, x = (place // 17 - 16).float(), (place % 17 - 8).float()
    assert ((torch.hypot(y, x) - 6).abs() < 1.5).all(), "a rotation keeps the distance, also where sides differ"
    assert x.min() < -4
    assert y.min() < -4
    assert y.max() > 4


def test_a_seed_changes_an_image_as_it_always_did() -> None:
    """A run that is resumed by a later version goes on with the same changes."""
    images = torch.linspace(-1, 1, 80).view(4, 1, 4, 5)
    changed = augment(images, 0.7, profile("natural"), _random())
    wanted = [
        [-1.1848, -1.0427, -1.1422, -1.0096, -0.8492],
        [-0.5642, -0.4494, -0.3346, -0.2197, -0.2463],
        [0.2366, 0.1698, 0.289, 0.4081, 0.5273],
        [0.4347, 0.5321, 0.6949, 0.8342, 0.9578],
    ]
    assert torch.allclose(changed.flatten(1)[:, ::4], torch.tensor(wanted), atol=1e-4)


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


@pytest.mark.parametrize("size", [(8, 8), (6, 8, 8)])
def test_gradients_flow_through(size: tuple[int, ...]) -> None:
    images = torch.randn(4, 1, *size, requires_grad=True)
    augment(images, 1.0, profile("natural"), _random()).square().sum().backward()
    assert images.grad is not None
    assert (images.grad.abs().flatten(1).sum(1) > 0).all()


def test_the_generator_determines_everything() -> None:
    images = torch.randn(8, 1, 8, 8)
    before = torch.get_rng_state()
    first, again, other = (augment(images, 0.5, profile("safe"), _random(seed)) for seed in (3, 3, 4))
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


def test_bf16_images_come_back_as_float32() -> None:
    for p in (0.0, 0.5):
        assert (
            augment(torch.zeros(2, 1, 8, 8, dtype=torch.bfloat16), p, profile("safe"), _random()).dtype == torch.float32
        )


def test_an_unknown_profile_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="none, safe, natural, microscopy"):
        profile("wild")
