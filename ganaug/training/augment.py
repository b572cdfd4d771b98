"""Discriminator augmentation: real and fake images are changed at random in the same way, so that a few images suffice.

Source: Karras et al., "Training generative adversarial networks with limited data" (2020): changes applied with a
probability well below 1 do not leak into the generated images. Profiles hold what the anatomy allows; the default does
not flip, because left and right matter in most scans. There is no cutout, which has leaked in published models.

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
    """The strength of each change; 0 switches it off."""

    shift: float = 0.125
    """Largest translation, as a fraction of the side (whole pixels)."""
    scale: float = 0.1
    """Standard deviation of the logarithm of the zoom."""
    rotate_deg: float = 0.0
    """Largest rotation to either side."""
    brightness: float = 0.2
    """Standard deviation of the value added, in units of the [-1, 1] range."""
    contrast: float = 0.2
    """Standard deviation of the logarithm of the factor."""
    flip: bool = False
    """Mirror left to right."""


PROFILES = {
    "none": Profile(shift=0, scale=0, brightness=0, contrast=0),
    "safe": Profile(),
    "natural": Profile(flip=True, rotate_deg=5),
    "microscopy": Profile(flip=True, rotate_deg=180),
}


def profile(name: str) -> Profile:
    """Return a profile by name; an unknown one is a ConfigError."""
    if name not in PROFILES:
        raise ConfigError(f"augment = {name!r} was given; the profiles are {', '.join(PROFILES)}.")
    return PROFILES[name]


def augment(images: Tensor, p: float, strength: Profile, generator: Generator) -> Tensor:
    """Change each image at random, each kind of change with probability `p`, and return new float32 images.

    Args:
        images: N×C×H×W or N×C×D×H×W float in [-1, 1]; gradients flow through.
        p: probability of each kind of change, in [0, 1].
        strength: what may change, and how far.
        generator: source of all randomness, on the images' device.
    """
    if p <= 0 or strength == PROFILES["none"]:
        return images.float()
    n, device = len(images), images.device

    def chosen() -> Tensor:
        return (torch.rand(n, generator=generator, device=device) < p).float()

    def normal() -> Tensor:
        return torch.randn(n, generator=generator, device=device)

    def uniform() -> Tensor:
        return torch.rand(n, generator=generator, device=device) * 2 - 1

    images = _affine(images.float(), strength, chosen, normal, uniform)
    each = (-1, *[1] * (images.ndim - 1))
    factor = torch.exp(normal() * strength.contrast * chosen()).view(each)
    offset = (normal() * strength.brightness * chosen()).view(each)
    return images * factor + offset


def _affine(images: Tensor, strength: Profile, chosen, normal, uniform) -> Tensor:  # type: ignore[no-untyped-def]
    height, width = images.shape[-2:]
    zoom = torch.exp(normal() * strength.scale * chosen())
    angle = uniform() * torch.pi * strength.rotate_deg / 180 * chosen()
    mirror = 1 - 2 * chosen() * (uniform() > 0) if strength.flip else torch.ones_like(zoom)

    def shift(side: int) -> Tensor:
        # Whole pixels: an interpolated shift would blur, and the discriminator would come to expect blur.
        return torch.round(uniform() * max(1.0, strength.shift * side) * (strength.shift > 0)) * chosen()

    shift_x, shift_y = shift(width) * 2 / width, shift(height) * 2 / height
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
