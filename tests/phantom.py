"""A procedural head whose every truth is known: anatomy, both contrasts, the scanner's part, and the lesion.

One code path draws slices and volumes. A head is a stack of soft-edged ellipsoids: skin, skull, fluid, gray matter with
folds, white matter, ventricles, deep nuclei; a slice is the cut of such a head at some height. An anatomy is a function
of its random generator alone, so the same one can be rendered in the other contrast (the truth for a translation), at
another site, or with and without its lesion (the truth for a counterfactual).

Neither contrast follows from the other by intensity alone. In "a" (T1-like) fluid and skull are equally dark, and in
"b" (T2-like) the brightest and the darkest tissue; in "b" skin and gray matter are equally bright, and far apart in
"a".
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

TISSUES = ("air", "skin", "skull", "fluid", "gray", "white", "lesion")
AIR, SKIN, SKULL, FLUID, GRAY, WHITE, LESION = range(len(TISSUES))

CONTRASTS = {
    #     air skin skull fluid gray white lesion
    "a": (0.0, 0.86, 0.12, 0.12, 0.46, 0.72, 0.28),
    "b": (0.0, 0.56, 0.08, 0.95, 0.56, 0.38, 0.78),
}
"""Intensity of each tissue, for a clean scan in [0, 1]."""

LESION_RADII = (0.12, 0.18)
"""Smallest and largest radius of a lesion along each axis, for a head that fills -1 to 1."""

_TEXTURE = 0.06
"""Size of the tissue's own smooth relative variation, twice its standard deviation; the same in both contrasts."""

Grid = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Coordinates along D, H and W that broadcast against each other; along D a number if there is one slice."""


@dataclass(frozen=True)
class Site:
    """What a scanner does to a clean image: image ↦ gain · image^gamma · bias field + Rician noise, blurred before."""

    gain: float = 1.0
    gamma: float = 1.0
    bias: float = 0.0
    """The bias field goes from about 1 - bias to 1 + bias; its shape is random for each scan."""
    blur: float = 0.0
    """Part of each pixel's intensity that goes to its neighbors, 0 to 1, along each axis."""
    noise: float = 0.0
    """Standard deviation of the noise of each of the two receiver channels."""


SITES = {
    "clean": Site(),
    "old": Site(gain=0.95, gamma=1.0, bias=0.1, noise=0.02),
    "soft": Site(gain=0.9, gamma=0.7, bias=0.2, blur=0.4, noise=0.01),
    "harsh": Site(gain=1.0, gamma=1.5, bias=0.25, noise=0.04),
}


@dataclass(frozen=True)
class Anatomy:
    """One head, in one slice or as a volume. The lesion is planned for every head, whether or not a scan shows it."""

    shares: np.ndarray
    """Share of each healthy tissue in each pixel, 6×size, float32; they add up to 1."""
    lesion: np.ndarray
    """Share that the lesion would have in each pixel, float32; it takes the place of gray and white matter."""
    texture: np.ndarray
    """Factor around 1, float32, that multiplies the intensities of either contrast."""

    @property
    def tissues(self) -> np.ndarray:
        """The tissue with the largest share, without the lesion: positions in `TISSUES`, int64."""
        return self.shares.argmax(axis=0)


@dataclass(frozen=True)
class Scan:
    """An image of an anatomy."""

    image: np.ndarray
    """float32 in [0, 1], of the asked size."""
    tissues: np.ndarray
    """Positions in `TISSUES`, int64; the lesion is one of them."""
    lesion: np.ndarray
    """Where the lesion is, bool; nowhere in a healthy scan."""
    anatomy: Anatomy
    contrast: str
    site: Site | None

    @property
    def has_lesion(self) -> bool:
        return bool(self.lesion.any())


def phantom(
    rng: np.random.Generator,
    size: tuple[int, ...],
    *,
    contrast: str = "a",
    lesion: bool = False,
    site: Site | None = None,
) -> Scan:
    """Return a scan of a random head, H×W or D×H×W.

    Generators in the same state give the same head whatever the contrast, lesion and site.
    """
    return scan(draw_anatomy(rng, size), contrast=contrast, lesion=lesion, site=site, rng=rng)


def scan(
    anatomy: Anatomy,
    *,
    contrast: str,
    lesion: bool = False,
    site: Site | None = None,
    rng: np.random.Generator | None = None,
) -> Scan:
    """Return a scan of this anatomy; `rng` draws the site's bias field and noise and may lack without a site."""
    image = render(anatomy, contrast, lesion=lesion)
    if site is not None:
        assert rng is not None, "a site is random"
        image = at_site(image, site, rng)
    mask = anatomy.lesion > 0.5 if lesion else np.zeros(image.shape, bool)
    tissues = np.where(mask, LESION, anatomy.tissues)
    return Scan(image, tissues, mask, anatomy, contrast, site)


def render(anatomy: Anatomy, contrast: str, *, lesion: bool = False) -> np.ndarray:
    """Return the clean image of an anatomy: what a perfect translation to `contrast` gives."""
    *healthy, damaged = CONTRASTS[contrast]
    image = np.tensordot(np.array(healthy, np.float32), anatomy.shares, axes=1)
    if lesion:
        image = image + anatomy.lesion * (damaged - image)
    return np.clip(image * anatomy.texture, 0, 1)


def truth(source: Scan, contrast: str) -> np.ndarray:
    """Return the clean image of the same head in another contrast, with the same lesion if the scan has one."""
    return render(source.anatomy, contrast, lesion=source.has_lesion)


def at_site(image: np.ndarray, site: Site, rng: np.random.Generator) -> np.ndarray:
    """Return a clean image as the site would have taken it."""
    for axis in range(image.ndim) if site.blur else ():
        edged = np.pad(image, [(1, 1) if axis == other else (0, 0) for other in range(image.ndim)], mode="edge")
        before, after = (np.take(edged, range(start, start + image.shape[axis]), axis) for start in (0, 2))
        image = (1 - site.blur) * image + site.blur / 2 * (before + after)
    field = 1 + site.bias * _waves(_grid(image.shape), rng, count=3, frequency=(0.7, 1.8))
    image = site.gain * image**site.gamma * field
    if site.noise:
        real, imaginary = site.noise * rng.standard_normal((2, *image.shape), np.float32)
        image = np.hypot(image + real, imaginary)
    return np.clip(image, 0, 1).astype(np.float32)


def lesion_score(image: np.ndarray, of: Scan, contrast: str) -> float:
    """Return how much of a lesion there is at the place in the brain that looks most like one: about 0 or about 1.

    The anatomy says what a healthy brain would look like, the image itself how bright and how sharp it is: the clean
    image is fitted to it by a smooth gain, a shift of white matter and a blur. What remains is compared, in every
    window that fits into the smallest lesion, to what a lesion would leave; the score is the least-squares amplitude.
    """
    healthy = render(of.anatomy, contrast)
    brain = of.anatomy.shares[GRAY] + of.anatomy.shares[WHITE] > 0.95
    remains = np.zeros_like(image)
    remains[brain] = _unexplained(image, healthy, of.anatomy, brain)
    step = np.where(brain, CONTRASTS[contrast][LESION] * of.anatomy.texture - healthy, 0)
    window = _window(image.shape)
    power, match, room = (_boxed(values, window) for values in (step * step, step * remains, brain))
    # In a window with little brain noise alone could make a high score.
    enough = room > 0.7 * room.max()
    return float((match[enough] / power[enough]).max())


def lesion_found(image: np.ndarray, of: Scan, contrast: str, *, threshold: float = 0.35) -> bool:
    """Return whether an image of the head of `of`, in `contrast`, shows a lesion anywhere in the brain.

    Whether and where `of` has a lesion makes no difference, so created and lost lesions are found alike.
    """
    return lesion_score(image, of, contrast) > threshold


def _unexplained(image: np.ndarray, healthy: np.ndarray, anatomy: Anatomy, brain: np.ndarray) -> np.ndarray:
    """Return what a fit of the healthy rendering to the image leaves, in the pixels of the brain."""
    values, base = image[brain], healthy[brain]
    axes = [np.broadcast_to(axis, image.shape)[brain] for axis in _grid(image.shape)[-image.ndim :]]
    smooth = [np.ones_like(base), *axes, *(first * second for first, second in _pairs(axes))]
    blurred = _boxed(healthy, [3] * image.ndim)[brain] / 3**image.ndim
    terms = np.stack([*(base * field for field in smooth), anatomy.shares[WHITE][brain], blurred], axis=1)
    kept = np.ones(len(values), bool)
    for _ in range(3):
        remains = values - terms @ np.linalg.lstsq(terms[kept], values[kept])[0]
        # A lesion must not pull the fit towards itself.
        kept = abs(remains) <= np.quantile(abs(remains), 0.9)
    return remains


def draw_anatomy(rng: np.random.Generator, size: tuple[int, ...]) -> Anatomy:
    """Return a random head. Along H it goes from the front to the back, along W from side to side, along D upwards."""
    grid = _grid(size, height=rng.uniform(-0.15, 0.25))
    head = _Head(grid, center=rng.normal(0, 0.02, 3), tilt=rng.normal(0, 0.08), pixel=2 / min(size[-2:]))
    folds = _waves(grid, rng, count=12, frequency=(10, 24))
    radii = np.array([0.93, 0.92, 0.77]) * rng.normal(1, 0.025, 3)
    skull = radii - 0.05
    dura = skull - rng.uniform(0.045, 0.065)
    brain = dura - rng.uniform(0.03, 0.06)
    head.paint(SKIN, radii)
    head.paint(SKULL, skull)
    head.paint(FLUID, dura)
    head.paint(GRAY, brain, waves=0.04 * folds)
    head.paint(WHITE, brain - rng.uniform(0.09, 0.12), waves=0.14 * folds)
    wide, stout = rng.uniform(0.75, 1.35), rng.normal(1, 0.1)
    for side in (-1, 1):
        # The fissure between the hemispheres, in front and behind; thalamus and putamen; the horns of the ventricles.
        head.paint(FLUID, np.array([0.6, 0.22, 0.02]), at=(0.25, side * brain[1] * 0.95, 0), brain_only=True)
        head.paint(GRAY, np.array([0.2, 0.17, 0.1]) * stout, at=(0, 0.1, side * 0.13))
        head.paint(GRAY, np.array([0.2, 0.21, 0.07]) * stout, at=(0, -0.06, side * 0.33), turn=-side * 0.25)
        head.paint(FLUID, np.array([0.32, 0.2, 0.06 * wide]), at=(0.08, -0.22, side * 0.09 * wide), turn=-side * 0.3)
        head.paint(FLUID, np.array([0.3, 0.24, 0.05 * wide]), at=(0.08, 0.3, side * 0.17 * wide), turn=side * 0.35)
    head.paint(FLUID, np.array([0.18, 0.14, 0.022 * wide]), at=(0, 0.1, 0))
    texture = 1 + _TEXTURE * _waves(grid, rng, count=6, frequency=(3, 8))
    return Anatomy(head.shares, _draw_lesion(rng, head, folds), texture.astype(np.float32))


def _draw_lesion(rng: np.random.Generator, head: _Head, folds: np.ndarray) -> np.ndarray:
    """Return a lesion's share of each pixel: a small ellipsoid somewhere within gray and white matter."""
    tissue = head.shares[GRAY] + head.shares[WHITE]
    radii = rng.uniform(*LESION_RADII, 3)
    # Where its window is brain throughout; else, in a tiny image, where there is brain at all.
    room = _boxed(tissue, _window(tissue.shape))
    places = np.flatnonzero(room > 0.9 * room.max())
    where = np.unravel_index(places[int(rng.random() * len(places))], tissue.shape)
    place = [np.broadcast_to(axis, tissue.shape)[where] for axis in head.grid]
    distance = np.sqrt(
        sum(((axis - at) / radius) ** 2 for axis, at, radius in zip(head.grid, place, radii, strict=True))
    )
    return tissue * _soft(distance + 0.1 * folds, min(radii[1:]), head.pixel)


class _Head:
    """Soft-edged ellipsoids painted over each other, in coordinates of a head that is shifted and turned."""

    def __init__(self, grid: Grid, *, center: np.ndarray, tilt: float, pixel: float) -> None:
        self.grid = grid
        self.pixel = pixel
        z, y, x = (axis - middle for axis, middle in zip(grid, center.astype(np.float32), strict=True))
        self._own = (z, *_turned(y, x, tilt))
        size = np.broadcast_shapes(*(axis.shape for axis in grid))
        self.shares = np.zeros((LESION, *size), np.float32)
        self.shares[AIR] = 1

    def paint(
        self,
        tissue: int,
        radii: np.ndarray,
        *,
        at: tuple[float, float, float] = (0, 0, 0),
        turn: float = 0.0,
        waves: np.ndarray | float = 0.0,
        brain_only: bool = False,
    ) -> None:
        """Let a tissue take the place of what is inside an ellipsoid (radii and center along D, H, W)."""
        # NumPy's own float64 numbers would turn all that follows into float64.
        radii = radii.astype(np.float32)
        z, y, x = (axis - np.float32(middle) for axis, middle in zip(self._own, at, strict=True))
        y, x = _turned(y, x, turn)
        distance = np.sqrt(((y / radii[1]) ** 2 + (x / radii[2]) ** 2) + (z / radii[0]) ** 2) + waves
        share = _soft(distance, min(radii[1:]), self.pixel)
        if brain_only:
            share = share * (self.shares[GRAY] + self.shares[WHITE])
        self.shares *= 1 - share
        self.shares[tissue] += share


def _soft(distance: np.ndarray, radius: float, pixel: float) -> np.ndarray:
    """Return the share of each pixel inside of distance 1 from the center, in units of `radius`."""
    return np.clip(0.5 + (1 - distance) * (radius / pixel), 0, 1).astype(np.float32)


def _turned(y: np.ndarray, x: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cosine * y + sine * x, cosine * x - sine * y


def _grid(size: tuple[int, ...], *, height: float = 0.0) -> Grid:
    """Return coordinates along D, H and W that broadcast to `size`; H and W alike, with the shorter from -1 to 1."""
    half = min(size[-2:]) / 2
    halves = [*(side / 2 for side in size[:-2]), half, half]
    axes = [
        ((np.arange(side) - (side - 1) / 2) / half).astype(np.float32) for side, half in zip(size, halves, strict=True)
    ]
    y, x = axes[-2][:, None], axes[-1]
    return (axes[0][:, None, None] if len(size) == 3 else np.array(height, np.float32), y, x)


def _waves(grid: Grid, rng: np.random.Generator, *, count: int, frequency: tuple[float, float]) -> np.ndarray:
    """Return a random smooth field, of standard deviation about 1/2: `count` plane waves of random directions.

    `frequency` is in radians per unit of the grid.
    """
    directions = rng.standard_normal((count, 3))
    directions *= (rng.uniform(*frequency, count) / np.linalg.norm(directions, axis=1))[:, None]
    phases = np.exp(1j * rng.uniform(0, 2 * np.pi, count))
    # A plane wave is a product over the axes, so the sum over waves is one product of matrices.
    z, y, x = (
        np.exp(1j * np.outer(along, axis)).astype(np.complex64) for along, axis in zip(directions.T, grid, strict=True)
    )
    plane = (y[:, :, None] * x[:, None, :]).reshape(count, -1)
    field = ((z * phases[:, None].astype(np.complex64)).T @ plane).real
    return field.reshape(np.broadcast_shapes(*(axis.shape for axis in grid))) / np.sqrt(count / 2, dtype=np.float32) / 2


@dataclass(frozen=True)
class Domain:
    """A side of a translation: what its scans are like."""

    contrast: str = "a"
    site: Site | None = None
    lesions: float = 0.0
    """Share of its scans that show a lesion; exactly so, to rounding."""


@dataclass(frozen=True)
class Case:
    """A scan of a cohort. `name` is that of its head and of its file, without a suffix."""

    name: str
    domain: str
    scan: Scan


def cohort(
    domains: Mapping[str, Domain], count: int, size: tuple[int, ...], *, seed: int = 0, paired: bool = False
) -> Iterator[Case]:
    """Yield `count` scans of each domain, the same ones each time.

    The heads of the domains are all different, or with `paired` the same ones; those with a lesion are then the same
    ones too, as far as the domains' shares allow.
    """
    for position, (name, domain) in enumerate(domains.items()):
        for number in range(count):
            head = number if paired else position * count + number
            # Evenly spread over the numbers, so that every beginning of a cohort has about its share.
            lesion = int((number + 1) * domain.lesions + 1e-9) > int(number * domain.lesions + 1e-9)
            anatomy = draw_anatomy(np.random.default_rng([seed, head]), size)
            rng = np.random.default_rng([seed, head, position])
            yield Case(
                f"head{head:05d}",
                name,
                scan(anatomy, contrast=domain.contrast, lesion=lesion, site=domain.site, rng=rng),
            )


def write_phantoms(root: Path, cases: Iterable[Case], *, dtype: str = "uint8", nifti: bool = False) -> Path:
    """Write ``ROOT/<domain>/<name>.png`` (or .nii.gz; volumes always) and ``ROOT/metadata.csv``; return `root`.

    The table has the columns file_name, label (healthy or lesion), domain and group (the head). Intensities 0 to 1
    become the whole range of `dtype`, uint8 or uint16.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / "metadata.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(("file_name", "label", "domain", "group"))
        for case in cases:
            image = np.rint(case.scan.image * np.iinfo(dtype).max).astype(dtype)
            volume = nifti or image.ndim == 3
            path = Path(case.domain) / f"{case.name}{'.nii.gz' if volume else '.png'}"
            (root / path).parent.mkdir(exist_ok=True)
            if volume:
                # The file's axes are W, H, D; towards the left, the back and up, as the head lies in the array.
                stored = image.T if image.ndim == 3 else image.T[:, :, None]
                nibabel.save(nibabel.Nifti1Image(stored, np.diag([-1.0, -1.0, 1.0, 1.0])), root / path)
            else:
                Image.fromarray(image).save(root / path)
            label = "lesion" if case.scan.has_lesion else "healthy"
            table.writerow((path.as_posix(), label, case.domain, case.name))
    return root


def _window(size: tuple[int, ...]) -> list[int]:
    """Return the odd sides of a window about as large as the smallest lesion."""
    halves = [*(side / 2 for side in size[:-2]), *[min(size[-2:]) / 2] * 2]
    return [2 * int(LESION_RADII[0] * half * 0.75) + 1 for half in halves]


def _boxed(values: np.ndarray, window: list[int]) -> np.ndarray:
    """Return the sum over a window around each pixel; beyond the edges lies 0."""
    for axis, side in enumerate(window):
        padded = np.pad(
            values, [(side // 2 + 1, side // 2) if axis == other else (0, 0) for other in range(values.ndim)]
        )
        sums = padded.cumsum(axis, dtype=np.float64)
        length = values.shape[axis]
        values = np.take(sums, range(side, side + length), axis) - np.take(sums, range(length), axis)
    return values


def _pairs(axes: list[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return itertools.combinations_with_replacement(axes, 2)
