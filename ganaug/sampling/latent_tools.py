"""Uses of a generator's latents: walks between images, mixed styles, the image that is closest to a given one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganaug.errors import ConfigError
from ganaug.models.grids import images_in_a_pass
from ganaug.progress import progress_bar
from ganaug.sampling.sampler import CHUNK, Sampler

CANDIDATES = 1000
"""Least number of samples, of all classes together, among which a projection looks for its starts."""
STARTS = 8
"""How many of them are improved; the best result counts."""
COARSE = 4
"""Factor by which the small copies of the images are coarser that a projection compares too."""


@dataclass(frozen=True, eq=False)
class Projection:
    """The image of a generator that is closest to a given one."""

    label: int
    """Its class."""
    latent: Tensor
    """What makes it: the style w (W numbers, for `Sampler.draw`) of a model that has styles, else z (for `decode`)."""
    image: Tensor
    """C×H×W or C×D×H×W float32 in [-1, 1]."""
    distance: float
    """Root of the mean squared difference to the given image, on the scale of [-1, 1]."""
    start_distance: float
    """The same for the closest of the samples that the search began with."""
    samples: int
    """How many these were."""


def slerp(start: Tensor, end: Tensor, at: Tensor) -> Tensor:
    """Interpolate along the great circle: normal latents stay at their typical length (White 2016).

    `start` and `end` have Z numbers, `at` N fractions in [0, 1]; returns N×Z.
    """
    cosine = F.cosine_similarity(start, end, dim=0).clamp(-1, 1)
    angle = torch.acos(cosine)
    if float(torch.sin(angle)) < 1e-4:
        return torch.lerp(start, end, at[:, None])
    weights = torch.stack([torch.sin((1 - at) * angle), torch.sin(at * angle)]) / torch.sin(angle)
    return weights[0][:, None] * start + weights[1][:, None] * end


def interpolate(
    gan: Sampler,
    label: int,
    *,
    count: int,
    seed: int = 0,
    indices: tuple[int, int] = (0, 1),
    truncation: float = 1.0,
) -> Tensor:
    """Draw images on the way from one sample of a class to another.

    Args:
        gan: any model.
        label: the class.
        count: how many, both ends included.
        seed: of the samples.
        indices: numbers of the first and the last one within their class.
        truncation: see `Sampler.decode`.

    Returns:
        count×C×H×W or count×C×D×H×W float32 in [-1, 1].

    Raises:
        ConfigError: a count below 2, or something that `Sampler.sample` refuses.
    """
    if count < 2:
        raise ConfigError(f"count = {count} was given; a way has two ends: 2 or more was wanted.")
    start, end = gan.latents([label, label], seed=seed, indices=indices)
    path = slerp(start, end, torch.linspace(0, 1, count))
    return gan.decode(path, torch.full((count,), label), truncation=truncation)


def mix_styles(gan: Sampler, coarse: Tensor, fine: Tensor, *, layers: int | None = None) -> Tensor:
    """Draw images that take their coarse styles from one latent and their fine ones from another.

    Source: Karras et al., "A Style-Based Generator Architecture for Generative Adversarial Networks" (2019), section
    3.1.

    Args:
        gan: a model of ``arch: style``.
        coarse: N×W styles (see `Sampler.styles`) of the first layers.
        fine: N×W styles of the others.
        layers: how many layers are coarse, from 0 (all of the image is `fine`) to all; half of them by default.

    Returns:
        N×C×H×W or N×C×D×H×W float32 in [-1, 1].

    Raises:
        ConfigError: the model has no styles, the styles are not as many, or there are not so many layers.
    """
    total = gan.style_generator.layers
    layers = max(1, total // 2) if layers is None else layers
    if not 0 <= layers <= total:
        raise ConfigError(f"layers = {layers} was given; this model has {total}: 0 to {total} was wanted.")
    if coarse.shape != fine.shape or coarse.shape[1:] != (gan.style_generator.style_dim,):
        raise ConfigError(
            f"Coarse styles of shape {tuple(coarse.shape)} and fine ones of {tuple(fine.shape)} were given; as many of "
            f"each were wanted, N×{gan.style_generator.style_dim} as from Sampler.styles."
        )
    first = torch.arange(total) < layers
    return gan.draw(torch.where(first[:, None], coarse[:, None], fine[:, None]))


@torch.enable_grad()
def project(
    gan: Sampler,
    image: Tensor | np.ndarray,
    *,
    label: int | None = None,
    steps: int = 300,
    lr: float = 0.1,
    seed: int = 0,
    show_progress: bool = False,
) -> Projection:
    """Find the latent whose image is closest to a given one, by gradient descent (Adam) from the closest samples.

    The search is over styles w for a model that has them, and over z otherwise; it compares pixels, and the images
    made `COARSE` times coarser. It stays where samples lie: no latent goes further from their mean than the furthest
    of the samples that the search began with, so that what is found is an image that the model may draw. It draws no
    random numbers but those of `seed`.

    Args:
        gan: any model.
        image: C×H×W or C×D×H×W, as `Sampler.shape`, in [-1, 1]; from a file by `ganaug.sampling.preview.read_image`.
        label: the class; without one, the class whose image comes closest.
        steps: gradient steps; 0 returns the closest sample.
        lr: the first step size, in standard deviations of the latents; it falls to 0 along a cosine.
        seed: of the samples to start from.
        show_progress: draw progress bars.

    Raises:
        ConfigError: the image has another shape or range, there is no such class, or steps or lr are out of range.
    """
    target = torch.as_tensor(image, dtype=torch.float32)
    _require_fitting(gan, target, steps, lr)
    target = target[None]
    classes = range(len(gan.classes)) if label is None else [label]
    each = -(-CANDIDATES // len(classes))
    starts = _closest_samples(gan, target, classes, each, seed, show_progress)
    improved = _improved(gan, starts, target.to(gan.device), steps=steps, lr=lr, show_progress=show_progress)
    found = torch.cat([*improved, starts.latents[:1]])  # never worse than the closest sample
    labels = torch.cat([*[starts.labels] * len(improved), starts.labels[:1]])
    images = gan.draw(found) if gan.has_styles else gan.decode(found, labels)
    distances = _distances(images, target)
    best = int(distances.argmin())
    return Projection(
        label=int(labels[best]),
        latent=found[best],
        image=images[best],
        distance=float(distances[best]),
        start_distance=float(starts.distances[0]),
        samples=each * len(classes),
    )


def _require_fitting(gan: Sampler, image: Tensor, steps: int, lr: float) -> None:
    if tuple(image.shape) != gan.shape:
        raise ConfigError(f"An image of shape {tuple(image.shape)} was given; {gan.shape} was wanted.")
    if not bool((image.abs() <= 1.001).all()):  # also refuses what is no number
        raise ConfigError(
            f"An image with values from {float(image.min()):g} to {float(image.max()):g} was given; -1 to 1 was "
            "wanted, as from ganaug.sampling.preview.read_image or Sampler.intensity.forward."
        )
    if steps < 0:
        raise ConfigError(f"steps = {steps} was given; 0 or more was wanted.")
    if not 0 < lr < float("inf"):
        raise ConfigError(f"lr = {lr} was given; a number above 0 was wanted.")


class _Samples(NamedTuple):
    """Samples to start from, and how the samples of each one's class are spread."""

    latents: Tensor
    """N×Z, or N×W styles."""
    labels: Tensor
    distances: Tensor
    """N: of their images to the target."""
    centers: Tensor
    """N×Z or N×W: the mean of the class."""
    scales: Tensor
    """N×Z or N×W: its standard deviation."""
    reaches: Tensor
    """N×1: the root mean square of what is furthest from the mean among its samples, in standard deviations."""


def _closest_samples(
    gan: Sampler, target: Tensor, classes: Sequence[int], each: int, seed: int, show_progress: bool
) -> _Samples:
    """Return, of `each` samples of these classes, the `STARTS` that are closest to the target, closest first."""
    best: _Samples | None = None
    with progress_bar("looking for starts", each * len(classes), unit="samples", show=show_progress) as progress:
        for done, label in enumerate(classes):
            samples = _samples(gan, target, torch.full((each,), label), seed)
            best = samples if best is None else _Samples(*map(torch.cat, zip(best, samples, strict=True)))
            order = best.distances.argsort(stable=True)[:STARTS]
            best = _Samples(*(values[order] for values in best))
            progress.update((done + 1) * each, f"distance {float(best.distances[0]):.4f}")
    assert best is not None
    return best


def _samples(gan: Sampler, target: Tensor, labels: Tensor, seed: int) -> _Samples:
    """Return the first samples of a class, measured."""
    latents = z = gan.latents(labels, seed=seed)
    center, scale = torch.zeros(gan.latent_dim), torch.ones(gan.latent_dim)  # of all z, not of these
    if gan.has_styles:
        latents = gan.styles(z, labels)
        center = latents.mean(0)
        scale = latents.std(0) + 1e-3 * latents.std() + 1e-8  # none is 0
    # A few at a time: a thousand large volumes would not fit into memory.
    parts = torch.arange(len(z)).split(images_in_a_pass(gan.shape, most=CHUNK))
    distances = torch.cat([_distances(gan.decode(z[part], labels[part]), target) for part in parts])
    reach = ((latents - center) / scale).square().mean(1).sqrt().max()
    centers, scales = center.expand_as(latents), scale.expand_as(latents)
    return _Samples(latents, labels, distances, centers, scales, reach.expand(len(latents), 1))


def _improved(
    gan: Sampler, starts: _Samples, target: Tensor, *, steps: int, lr: float, show_progress: bool
) -> tuple[Tensor, Tensor]:
    """Return the latents of all starts after the descent, and the best of each on its way; on the CPU."""
    labels, centers, scales, reaches = (
        values.to(gan.device) for values in (starts.labels, starts.centers, starts.scales, starts.reaches)
    )
    moves = ((starts.latents.to(gan.device) - centers) / scales).requires_grad_()
    optimizer = torch.optim.Adam([moves], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    parts = torch.arange(len(moves), device=gan.device).split(images_in_a_pass(gan.shape, most=STARTS))
    best = moves.detach().clone()
    least = torch.full((len(moves),), float("inf"), device=gan.device)
    with progress_bar("projecting", steps, unit="steps", show=show_progress and steps > 0) as progress:
        for step in range(steps):
            optimizer.zero_grad()
            for part in parts:  # few large volumes fit into memory with what their gradients need
                made = _made(gan, centers[part] + scales[part] * moves[part], labels[part])
                _difference(made, target).sum().backward()
                distances = _distances(made.detach(), target)
                better = part[distances < least[part]]
                best[better] = moves.detach()[better]
                least[part] = torch.minimum(least[part], distances)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                lengths = moves.square().mean(1, keepdim=True).sqrt()
                moves.mul_((reaches / lengths.clamp(min=1e-8)).clamp(max=1))
            progress.update(step + 1, f"distance {float(least.min()):.4f}")
    return (centers + scales * moves.detach()).cpu(), (centers + scales * best).cpu()


def _made(gan: Sampler, latents: Tensor, labels: Tensor) -> Tensor:
    """Return images that can be differentiated, clamped to [-1, 1] by value but not in their gradients."""
    if gan.has_styles:
        generator = gan.style_generator
        made = generator.synthesize(latents[:, None].expand(-1, generator.layers, -1)).float()
    else:
        made = gan.generator(latents, labels).float()
    return made + (made.clamp(-1, 1) - made).detach()


def _difference(made: Tensor, target: Tensor) -> Tensor:
    """Return N losses: mean squared differences of the pixels and of the images made coarser."""
    coarse = [max(1, side // COARSE) for side in target.shape[2:]]
    pairs = ((made, target), (F.interpolate(made, coarse, mode="area"), F.interpolate(target, coarse, mode="area")))
    losses = [(a - b).square().flatten(1).mean(1) for a, b in pairs]
    return losses[0] + losses[1]


def _distances(images: Tensor, target: Tensor) -> Tensor:
    return (images - target).square().flatten(1).mean(1).sqrt()
