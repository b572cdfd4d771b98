"""Uses of a generator's latents: walks between images, mixed styles, the image that is closest to a given one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ganaug.errors import ConfigError
from ganaug.progress import progress_bar
from ganaug.sampling.sampler import Sampler

CANDIDATES = 64
"""Samples of each class among which a projection looks for its starts."""
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


def interpolate(gan: Sampler, label: int, *, count: int, seed: int = 0, truncation: float = 1.0) -> Tensor:
    """Return `count` images on the way from image 0 to image 1 of a class, N×C×H×W or N×C×D×H×W in [-1, 1]."""
    start, end = gan.latents([label, label], seed=seed)
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
    if coarse.shape != fine.shape:
        raise ConfigError(
            f"Coarse styles of shape {tuple(coarse.shape)} and fine ones of {tuple(fine.shape)} were given; as many "
            "were wanted."
        )
    first = torch.arange(total) < layers
    return gan.draw(torch.where(first[:, None], coarse[:, None], fine[:, None]))


def project(
    gan: Sampler,
    image: Tensor,
    *,
    label: int | None = None,
    steps: int = 300,
    lr: float = 0.1,
    seed: int = 0,
    show_progress: bool = False,
) -> Projection:
    """Find the latent whose image is closest to a given one, by gradient descent (Adam) from the closest samples.

    The search is over styles w for a model that has them, and over z otherwise; it compares pixels, and the images
    made `COARSE` times coarser. It draws no random numbers but the samples of `seed`.

    Args:
        gan: any model.
        image: C×H×W or C×D×H×W, as `Sampler.shape`, in [-1, 1].
        label: the class; without one, the class whose image comes closest.
        steps: gradient steps; 0 returns the closest sample.
        lr: the first step size, in standard deviations of the latents; it falls to 0 along a cosine.
        seed: of the samples to start from.
        show_progress: draw a progress bar.

    Raises:
        ConfigError: the image has another shape, there is no such class, or steps are negative.
    """
    if tuple(image.shape) != gan.shape:
        raise ConfigError(f"An image of shape {tuple(image.shape)} was given; {gan.shape} was wanted.")
    if steps < 0:
        raise ConfigError(f"steps = {steps} was given; 0 or more was wanted.")
    classes = range(len(gan.classes)) if label is None else [label]
    latents, labels, start_distance = _closest_samples(gan, image, classes, seed)
    target = image.to(gan.device)[None]
    center, scale = (latents.mean(0), latents.std()) if gan.has_styles else (torch.zeros(1), torch.ones(()))
    moves = ((latents - center) / scale).to(gan.device).requires_grad_()
    center, scale, on_device = center.to(gan.device), scale.to(gan.device), labels.to(gan.device)
    optimizer = torch.optim.Adam([moves], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    with progress_bar("projecting", steps, unit="steps", show=show_progress) as progress:
        for step in range(steps):
            made = _made(gan, center + scale * moves, on_device)
            losses = _difference(made, target)
            optimizer.zero_grad()
            losses.sum().backward()
            optimizer.step()
            schedule.step()
            progress.update(step + 1, f"distance {float(_distances(made.detach(), target).min()):.4f}")
    found = torch.cat([(center + scale * moves.detach()).cpu(), latents[:1]])  # never worse than the closest sample
    labels = torch.cat([labels, labels[:1]])
    images = gan.draw(found) if gan.has_styles else gan.decode(found, labels)
    distances = _distances(images, image[None])
    best = int(distances.argmin())
    return Projection(int(labels[best]), found[best], images[best], float(distances[best]), start_distance)


def _closest_samples(
    gan: Sampler, image: Tensor, classes: range | list[int], seed: int
) -> tuple[Tensor, Tensor, float]:
    """Return latents (styles or z) and labels of the `STARTS` closest samples, closest first, and its distance."""
    latents, labels, distances = [], [], []
    for label in classes:
        z = gan.latents([label] * CANDIDATES, seed=seed)
        names = torch.full((CANDIDATES,), label)
        latents.append(gan.styles(z, names) if gan.has_styles else z)
        labels.append(names)
        distances.append(_distances(gan.decode(z, names), image[None]))
    order = torch.cat(distances).argsort(stable=True)[:STARTS]
    return torch.cat(latents)[order], torch.cat(labels)[order], float(torch.cat(distances)[order[0]])


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
