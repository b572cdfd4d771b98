"""Discriminator augmentation: real and fake images are changed at random in the same way, so that a few images suffice.

Source: Karras et al., "Training generative adversarial networks with limited data" (2020), appendix B: changes applied
with a probability well below 1 do not leak into the generated images. Profiles hold what a kind of picture allows, in
case one leaks after all; the default does not flip, because left and right matter in most scans. There is no cutout,
which has leaked in published models.

Volumes are treated as images whose planes are channels, and then along their depth: shifts in all directions, one zoom
for all axes, rotation in the axial plane only, since scanners and bodies agree on what is up.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ganaug.errors import ConfigError


@dataclass(frozen=True)
class Profile:
    """The strength of each change; 0 or False switches it off.

    What leaves the picture is filled by reflection at its border.
    """

    shift: float = 0.125
    """Largest translation, as a fraction of the side (whole pixels)."""
    scale: float = 0.1
    """Standard deviation of the logarithm of the zoom."""
    rotate_deg: float = 0.0
    """Largest rotation to either side."""
    quarter_turns: bool = False
    """Turn by 0, 90, 180 or 270 degrees, whole pixels onto whole pixels; images that are not square by 0 or 180. With
    `x_flip` this includes mirroring top to bottom."""
    x_flip: bool = False
    """Mirror left to right half of the images for which this is chosen."""
    brightness: float = 0.2
    """Standard deviation of the value added, in units of the [-1, 1] range."""
    contrast: float = 0.2
    """Standard deviation of the logarithm of the factor."""
    depth_gain: float = 0.0
    """Standard deviation of the value added to the last row; it falls evenly to its negative in the first row. After an
    ultrasound scanner's logarithm, attenuation and its compensation are linear in depth (Østvik et al. 2021)."""
    saturation: float = 0.0
    """Standard deviation of the logarithm of the factor on color, for images of 3 channels."""
    hue_deg: float = 0.0
    """Largest rotation of color about the gray axis to either side, for images of 3 channels."""

    @property
    def moves(self) -> bool:
        """Whether pixels change place."""
        return any((self.shift, self.scale, self.rotate_deg, self.quarter_turns, self.x_flip))


PROFILES = {
    "none": Profile(shift=0, scale=0, brightness=0, contrast=0),
    "safe": Profile(),
    # The heart is on the left and the diaphragm below. Patients stand a little askew; exposure and processing differ.
    "chest": Profile(rotate_deg=5),
    # The liver is on the right. Heads and bodies lie a little turned. CT has an absolute scale (air is -1000 HU, water
    # 0); MR's gain is arbitrary, but its black is black: small values, most of all for what is added.
    "axial": Profile(rotate_deg=10, brightness=0.05, contrast=0.1),
    # The probe is on top, in the middle. Most sweeps may be held either way round; gain differs with every operator.
    "ultrasound": Profile(shift=0.0625, x_flip=True, brightness=0.3, depth_gain=0.3),
    # A slide has no up and no side. Stains and lamps differ (Tellez et al. 2019).
    "microscopy": Profile(rotate_deg=180, quarter_turns=True, x_flip=True, saturation=0.3, hue_deg=15),
    # Photographs: gravity, but no laterality; the color of the light differs.
    "natural": Profile(rotate_deg=5, x_flip=True, saturation=0.3, hue_deg=10),
}


def profile(name: str) -> Profile:
    """Return a profile by name; an unknown one is a ConfigError."""
    if name not in PROFILES:
        raise ConfigError(f"augment = {name!r} was given; the profiles are {', '.join(PROFILES)}.")
    return PROFILES[name]


class _Draws:
    """Random numbers, one for each image of a batch of `of`, or for those of its `rows` alone."""

    def __init__(
        self, device: torch.device, p: float | Tensor, generator: Generator, rows: Tensor | None, of: int
    ) -> None:
        self.device, self.p, self.generator, self.rows, self.of = device, p, generator, rows, of

    def _rand(self) -> Tensor:
        return self._own(torch.rand(self.of, generator=self.generator, device=self.device))

    def _own(self, drawn: Tensor) -> Tensor:
        return drawn if self.rows is None else drawn[self.rows]

    def chosen(self) -> Tensor:
        """Return 1 with probability p, else 0."""
        return (self._rand() < self.p).float()

    def normal(self) -> Tensor:
        return self._own(torch.randn(self.of, generator=self.generator, device=self.device))

    def uniform(self) -> Tensor:
        """Return values in [-1, 1)."""
        return self._rand() * 2 - 1


def augment(
    images: Tensor,
    p: float | Tensor,
    strength: Profile,
    generator: Generator,
    *,
    rows: Tensor | None = None,
    of: int | None = None,
) -> Tensor:
    """Change each image at random, each kind of change with probability `p`, and return new float32 images.

    Args:
        images: N×C×H×W or N×C×D×H×W float in [-1, 1]; gradients flow through.
        p: probability of each kind of change, in [0, 1]: one for all, or N.
        strength: what may change, and how far.
        generator: source of all randomness, on the images' device.
        rows: N positions of these images in a batch of `of` images, whose parts are changed one by one: they are
            changed as they would be in the whole batch.
    """
    images = images.float()
    if (isinstance(p, float | int) and p <= 0) or strength == PROFILES["none"]:
        return images
    draws = _Draws(images.device, p, generator, rows, len(images) if of is None else of)
    if strength.moves:
        images = _affine(images, strength, draws)
    each = (-1, *[1] * (images.ndim - 1))
    factor = torch.exp(draws.normal() * strength.contrast * draws.chosen()).view(each)
    offset = (draws.normal() * strength.brightness * draws.chosen()).view(each)
    if strength.depth_gain:
        depth = torch.linspace(-1, 1, images.shape[-2], device=images.device)[:, None]
        offset = offset + (draws.normal() * strength.depth_gain * draws.chosen()).view(each) * depth
    images = images * factor + offset
    if images.shape[1] == 3 and (strength.saturation or strength.hue_deg):
        images = _recolored(images, strength, draws)
    return images


def _affine(images: Tensor, strength: Profile, draws: _Draws) -> Tensor:
    height, width = images.shape[-2:]
    zoom = torch.exp(draws.normal() * strength.scale * draws.chosen())
    angle = draws.uniform() * torch.pi * strength.rotate_deg / 180 * draws.chosen()
    mirror = 1 - 2 * draws.chosen() * (draws.uniform() > 0) if strength.x_flip else torch.ones_like(zoom)

    def shift(side: int) -> Tensor:
        # Whole pixels: an interpolated shift would blur, and the discriminator would come to expect blur.
        return torch.round(draws.uniform() * max(1.0, strength.shift * side) * (strength.shift > 0)) * draws.chosen()

    shift_x, shift_y = shift(width) * 2 / width, shift(height) * 2 / height
    if strength.quarter_turns:
        turns = 4 if height == width else 2
        angle = angle + torch.floor((draws.uniform() + 1) / 2 * turns) * (2 * torch.pi / turns) * draws.chosen()
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    ratio = height / width  # rotate in pixels, not in the grid's unit square
    row_x = torch.stack([cos * mirror, -sin * ratio, shift_x], dim=1)
    row_y = torch.stack([sin * mirror / ratio, cos, shift_y], dim=1)
    planes = images.flatten(1, -3)
    grid = F.affine_grid(torch.stack([row_x, row_y], dim=1), list(planes.shape), align_corners=False)
    moved = F.grid_sample(planes, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return moved if images.ndim == 4 else along_depth(moved.view(images.shape), zoom, shift(images.shape[2]))


def along_depth(volumes: Tensor, zoom: Tensor, shift: Tensor) -> Tensor:
    """Zoom and shift volumes along their depth, as `F.grid_sample` would with bilinear weights and reflection.

    A product with a matrix of weights for each volume: on a CPU ten times faster than sampling in three dimensions.
    """
    depth = volumes.shape[2]
    index = torch.arange(depth, device=volumes.device)
    place = (index - (depth - 1) / 2) * zoom[:, None] + (depth - 1) / 2 + shift[:, None]
    turn = torch.remainder(place + 0.5, 2 * depth)
    place = (torch.minimum(turn, 2 * depth - turn) - 0.5).clamp(0, depth - 1)
    weights = (1 - (place[:, :, None] - index).abs()).clamp(min=0)
    return (weights[:, None] @ volumes.flatten(3)).view(volumes.shape)


def _recolored(images: Tensor, strength: Profile, draws: _Draws) -> Tensor:
    """Stretch and rotate the colors of 3-channel images about their gray axis, on which nothing changes."""
    factor = torch.exp(draws.normal() * strength.saturation * draws.chosen())[:, None, None]
    angle = (draws.uniform() * torch.pi * strength.hue_deg / 180 * draws.chosen())[:, None, None]
    channel = torch.arange(3, device=images.device)
    # Rodrigues' formula about (1, 1, 1): entry (i, j) depends on i - j alone.
    turn = angle + 2 * torch.pi / 3 * (channel[:, None] - channel)
    return ((1 + 2 * factor * torch.cos(turn)) / 3 @ images.flatten(2)).view(images.shape)
