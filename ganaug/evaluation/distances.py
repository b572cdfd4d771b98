"""How far synthetic images are from real ones in one feature space: KID, FID, precision, recall, density, coverage.

Features come from `ganaug.evaluation.features`. A figure of one feature network says nothing beside one of another, so
that each row of `per_class` carries the network's name and SHA-256. These are not the figures of the literature, whose
network is Inception.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganaug.data.names import count
from ganaug.errors import ConfigError, DataError

MIN_IMAGES = 30
"""Images on either side below which a class gets no figure."""
NEIGHBORS = 5
"""k of the neighborhoods of `prdc` (Naeem et al. 2020, section 4)."""
BOOTSTRAP = 399
"""Resamples of `kid`: (B + 1) times 2.5 % is a whole number, so that the ends of the interval are resamples' own."""
FLOOR_SPLITS = 5
"""Random halvings of the real images that give the floor of `fid`."""

_LEAST_KID = 4
"""Images of each class on either side that the variance of `kid` needs."""
_LEAST_TOGETHER = 10
"""Images on either side below which a class is not part of 'all': its variance would be a guess."""
_ROWS = 512
"""Rows of a matrix of pairs that are held at a time."""

Features = NDArray[np.floating[Any]]
"""N×d."""


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """Return JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.value:.4g} (95 % interval {self.low:.4g} to {self.high:.4g})"


@dataclass(frozen=True)
class FID:
    """A Fréchet distance, beside what two halves of the real images give."""

    value: float | None
    """None where there are too few images for it."""
    floor: float | None
    """Mean over random halvings of the real images. A half has fewer images than the whole, so this is somewhat more
    than equal distributions would give at n_real and n_fake."""
    floor_low: float | None
    """The smallest of the halvings."""
    floor_high: float | None
    """The largest of the halvings."""
    floor_images: int
    """Images in each half."""
    reason: str | None = None
    """Why there is no value."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        if self.value is None:
            return f"no FID: {self.reason}"
        return (
            f"{self.value:.4g}; halves of the real images, {self.floor_images} each, differ by {self.floor:.4g} "
            f"({self.floor_low:.4g} to {self.floor_high:.4g})"
        )


@dataclass(frozen=True)
class PRDC:
    """Whether synthetic images lie where real ones do (precision, density), and the other way (recall, coverage)."""

    precision: float
    """Share of the synthetic images within the neighborhood of some real one, in [0, 1]."""
    recall: float
    """Share of the real images within the neighborhood of some synthetic one, in [0, 1]."""
    density: float
    """Mean number of real neighborhoods that a synthetic image lies in, over k; about 1 for equal distributions."""
    coverage: float
    """Share of the real images whose neighborhood holds a synthetic one, in [0, 1]."""

    def to_dict(self) -> dict[str, float]:
        """Return JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"precision {self.precision:.2f}, recall {self.recall:.2f}, density {self.density:.2f}, "
            f"coverage {self.coverage:.2f}"
        )


@dataclass(frozen=True)
class Fidelity:
    """The figures of one class, or of all together."""

    name: str
    """The class, or 'all'."""
    n_fake: int
    n_fake_in_shares: int
    """Those that FID and PRDC are of: of 'all' classes together as many as have the shares of the real images."""
    n_real: int
    network: str
    """Name of the feature network."""
    network_sha256: str
    kid: Interval | None = None
    fid: FID | None = None
    prdc: PRDC | None = None
    reason: str | None = None
    """Why there are no figures: 'insufficient: …'."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        if self.reason is not None:
            return f"{self.name}: {self.reason}"
        return (
            f"{self.name}, {self.n_fake} synthetic and {self.n_real} real images: KID {self.kid}; {self.prdc}; "
            f"FID {self.fid} [{self.network} {self.network_sha256[:12]}]"
        )


def kid(
    fake: Features,
    real: Features,
    *,
    fake_labels: NDArray[np.integer[Any]] | None = None,
    real_labels: NDArray[np.integer[Any]] | None = None,
    bootstrap: int = BOOTSTRAP,
    seed: int = 0,
) -> Interval:
    """Return the kernel distance of two sets of features with its 95 % interval.

    The unbiased squared maximum mean discrepancy with the kernel (x·y/d + 1)³ over all pairs (Bińkowski et al. 2018,
    "Demystifying MMD GANs", section 4; Gretton et al. 2012, equation 3); not multiplied by 1,000. Of equal
    distributions it is 0 on average, and often a little below.

    Where somebody chose how many images of each class there are, labels are needed: pairs of different images are then
    of one class less often than independent draws would be, which pulls the plain estimate below 0. With labels the
    two mixtures of classes are compared, each with the shares of the real images, class by class without bias.

    The interval is that of a studentized bootstrap over images, within classes. Two things make it hold for this
    statistic:

    - Resampling images draws some twice, and pairs of an image with itself, which the statistic leaves out, would bias
      every resample upward. Near equal distributions it would be wrong without them too, because there the statistic
      is degenerate (Arcones & Giné 1992; Hušková & Janssen 1993). So what is resampled are the terms of its Hoeffding
      decomposition: each image's own part, and the doubly centered rest of each pair of different images.
    - The estimate and its standard error go together where features are skewed: an estimate that is too small also
      believes too much in itself. Each resample is therefore divided by its own standard error. Its square is an
      unbiased variance with first and second-order parts (Sutherland & Deka 2019, "Unbiased estimators for the variance
      of MMD estimators"; U-centering of Székely & Rizzo 2014).

    Images are taken as independent; several of one patient make the truth wider than the interval.

    Args:
        fake: features of synthetic images, N×d; N ≥ 4.
        real: features of real images, M×d; M ≥ 4.
        fake_labels: class index of each synthetic image, N.
        real_labels: class index of each real image, M; the same classes, each with 4 images or more on either side.
        bootstrap: resamples.
        seed: of the resampling; no global random state is touched.

    Raises:
        DataError: too few images, features that do not fit each other, or that are not finite.
    """
    x, y = _checked(fake, real, least=_LEAST_KID)
    if fake_labels is None or real_labels is None:
        strata, weights = [x, y], np.array([1.0, -1.0])
    else:
        strata, weights = _by_class(x, y, np.asarray(fake_labels), np.asarray(real_labels))
    # Divided by its largest value, the kernel fits in single precision, whatever the features' scale.
    scale = float(max(_kernel_of_itself(part).max() for part in strata))
    pairs = [(s, t) for s in range(len(strata)) for t in range(s, len(strata))]
    sizes = [len(part) for part in strata]

    # The squared distance is the sum over all (s, t) of weights[s] · weights[t] · (mean kernel between s and t).
    value = 0.0
    slopes: list[Features] = [np.zeros(n) for n in sizes]
    centers = {}
    for s, t in pairs:
        mean, own_s, own_t = centers[s, t] = _projection(strata[s], strata[t], s == t, scale)
        value += (1 if s == t else 2) * weights[s] * weights[t] * mean
        slopes[s] += weights[t] * own_s
        if s != t:
            slopes[t] += weights[s] * own_t

    # The first column is the sample itself: each image once.
    rng = np.random.default_rng(seed)
    counts = [
        np.column_stack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), bootstrap).T]).astype(np.float32)
        for n in sizes
    ]
    # What the second-order terms add under each resample: to each image's slope, to the variance of a stratum's
    # estimated slopes, and to that of the statistic.
    inner = [np.zeros(c.shape) for c in counts]
    noise = [np.zeros(bootstrap + 1) for _ in strata]
    second = np.zeros(bootstrap + 1)
    for s, t in pairs:
        n, m = sizes[s], sizes[t]
        sums_s, sums_t, squares = _rest(strata[s], strata[t], s == t, centers[s, t], counts[s], counts[t], scale)
        power = weights[s] ** 2 * weights[t] ** 2 * squares
        if s == t:
            inner[s] += weights[s] / (n - 1) * sums_s
            noise[s] += weights[s] ** 2 * squares / (n - 2)
            second += 2 * power / (n * (n - 1))
        else:
            inner[s] += weights[t] / m * sums_s
            inner[t] += weights[s] / n * sums_t
            noise[s] += weights[t] ** 2 * squares / m
            noise[t] += weights[s] ** 2 * squares / n
            second += 4 * power / (n * m)

    first, moved, resampled_first = 0.0, np.zeros(bootstrap + 1), np.zeros(bootstrap + 1)
    for weight, n, slope, count_, inside, extra_noise in zip(weights, sizes, slopes, counts, inner, noise, strict=True):
        variance = slope.var(ddof=1)
        first += 4 * weight**2 / n * (variance - extra_noise[0])
        # The population of the resamples has slopes of the size that was estimated, without their noise.
        slope = slope * np.sqrt(max(variance - extra_noise[0], 0.0) / variance) if variance > 0 else slope
        extra = count_ - 1
        moved += weight / n * (2 * (slope @ extra) + (extra * inside).sum(0))
        resampled_first += 4 * weight**2 / n * (_weighted_variance(slope[:, None] + inside, count_) - extra_noise)
    error = float(np.sqrt(max(first, 0.0) + second[0]))
    errors = np.sqrt(np.maximum(resampled_first, 0) + second)
    ratios = np.divide(moved, errors, out=np.zeros_like(moved), where=errors > 0)[1:]
    low, high = np.quantile(ratios, [0.025, 0.975], method="weibull")
    return Interval(*(float(end) * scale for end in (value, value - high * error, value - low * error)))


def _by_class(
    x: Features, y: Features, fake_labels: NDArray[np.integer[Any]], real_labels: NDArray[np.integer[Any]]
) -> tuple[list[Features], Features]:
    """Return the features of each class on either side, and their weights: real shares, negative for real images."""
    classes, counts = np.unique(real_labels, return_counts=True)
    shares = counts / counts.sum()
    strata = [x[fake_labels == c] for c in classes] + [y[real_labels == c] for c in classes]
    fewest = min(map(len, strata))
    if fewest < _LEAST_KID or not np.isin(fake_labels, classes).all():
        raise DataError(
            f"A class has {count(fewest, 'image')} on one side, or no real ones; {_LEAST_KID} of each class on either "
            "side are wanted. Leave this class out."
        )
    return strata, np.concatenate([shares, -shares])


def _kernel(a: Features, b: Features, scale: float) -> Features:
    return (a @ b.T / a.shape[1] + 1) ** 3 / scale


def _kernel_of_itself(a: Features) -> Features:
    return ((a**2).sum(1) / a.shape[1] + 1) ** 3


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(start, min(start + _ROWS, rows)) for start in range(0, rows, _ROWS))


def _projection(x: Features, y: Features, same: bool, scale: float) -> tuple[float, Features, Features]:
    """Return the mean kernel over pairs of different images, and what each image of either adds to it (centered).

    N×d and M×d (twice the same where `same`) to a number, N and M.
    """
    n, sums, columns = len(x), np.empty(len(x)), np.zeros(len(y))
    for rows in _blocks(n):
        kernel = _kernel(x[rows], y, scale)
        sums[rows] = kernel.sum(1)
        columns += kernel.sum(0)
    if same:
        means = (sums - _kernel_of_itself(x) / scale) / (n - 1)
        own = (n - 1) / (n - 2) * (means - means.mean())
        return float(means.mean()), own, own
    mean = float(sums.mean()) / len(y)
    return mean, sums / len(y) - mean, columns / n - mean


def _rest(
    x: Features,
    y: Features,
    same: bool,
    center: tuple[float, Features, Features],
    counts_x: NDArray[np.float32],
    counts_y: NDArray[np.float32],
    scale: float,
) -> tuple[Features, Features, Features]:
    """Return what pairs add beyond their images' own parts, summed under the extra counts of each resample.

    For each image of `x` over those of `y`, N×B; the other way round, M×B; and the mean square of all, B.
    """
    (mean, own_x, own_y), n, m = center, len(x), len(y)
    sums_x, sums_y = np.empty_like(counts_x), np.zeros_like(counts_y)
    squares = np.zeros(counts_x.shape[1])
    for rows in _blocks(n):
        rest = (_kernel(x[rows], y, scale) - mean - own_x[rows, None] - own_y).astype(np.float32)
        if same:
            rest[np.arange(len(rest)), np.arange(rows.start, rows.stop)] = 0
        else:
            sums_y += rest.T @ (counts_x[rows] - 1)
        sums_x[rows] = rest @ (counts_y - 1)
        squares += (counts_x[rows] * (rest**2 @ counts_y)).sum(0)
    return sums_x, sums_y, squares / (n * (n - 3) if same else (n - 1) * (m - 1))


def _weighted_variance(values: Features, counts: NDArray[np.float32]) -> Features:
    """Return the sample variance of each column, each value as often as `counts` says."""
    total = len(values)
    centered = values - (counts * values).sum(0) / total
    return (counts * centered**2).sum(0) / (total - 1)


def fid(
    fake: Features,
    real: Features,
    *,
    real_labels: NDArray[np.integer[Any]] | None = None,
    splits: int = FLOOR_SPLITS,
    seed: int = 0,
) -> FID:
    """Return the Fréchet distance of two sets of features (Heusel et al. 2017), by torchmetrics in float64.

    It is biased upward by about the number of features over the number of images: with fewer than 2·d images on
    either side it tells the size of the sample, and there is no value but a reason.

    Args:
        fake: features of synthetic images, N×d.
        real: features of real images, M×d.
        real_labels: class index of each real image, M: both halves get as many of a class.
        splits: random halvings of `real` for the floor.
        seed: of the halvings.

    Raises:
        DataError: features that do not fit each other, or that are not finite.
    """
    x, y = _checked(fake, real, least=1)
    dim, fewest, half = x.shape[1], min(len(x), len(y)), len(y) // 2
    if fewest < 2 * dim:
        reason = f"{fewest} images on one side; {dim} features want at least {2 * dim} on both"
        return FID(None, None, None, None, half, reason)
    rng = np.random.default_rng(seed)
    floors = []
    for _ in range(splits):
        order = rng.permutation(len(y))
        if real_labels is not None:
            order = order[np.argsort(real_labels[order], kind="stable")]
        floors.append(_frechet(y[order[::2]], y[order[1::2]]))
    return FID(_frechet(x, y), float(np.mean(floors)), min(floors), max(floors), half)


def _frechet(x: Features, y: Features) -> float:
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Given(torch.nn.Identity):
        """Features that are there already."""

        num_features = x.shape[1]

    metric = FrechetInceptionDistance(feature=Given())
    # The metric subtracts squared means from mean squares, so that a common shift is taken off first.
    center = y.mean(0)
    metric.update(torch.from_numpy(x - center), real=False)
    metric.update(torch.from_numpy(y - center), real=True)
    return float(metric.compute())


def prdc(fake: Features, real: Features, *, k: int = NEIGHBORS) -> PRDC:
    """Return improved precision and recall (Kynkäänniemi et al. 2019) with density and coverage (Naeem et al. 2020).

    An image's neighborhood reaches to its k-th nearest other image of its own side; its edge does not belong to it.
    Recall and coverage grow with the number of synthetic images: compare them at equal numbers only.

    Args:
        fake: features of synthetic images, N×d; N > k.
        real: features of real images, M×d; M > k.
        k: which neighbor.

    Raises:
        DataError: too few images, features that do not fit each other, or that are not finite.
    """
    x, y = _checked(fake, real, least=k + 1)
    center = y.mean(0)  # differences of large squares lose digits
    x, y = x - center, y - center
    radii_x, radii_y = _radii(x, k), _radii(y, k)
    inside_real = np.zeros(len(x), dtype=np.int64)
    recalled, covered = np.empty(len(y), dtype=bool), np.empty(len(y), dtype=bool)
    for rows in _blocks(len(y)):
        squares = _squared_distances(y[rows], x)
        within = squares < radii_y[rows, None]
        inside_real += within.sum(0)
        covered[rows] = within.any(1)
        recalled[rows] = (squares < radii_x).any(1)
    return PRDC(
        precision=float((inside_real > 0).mean()),
        recall=float(recalled.mean()),
        density=float(inside_real.mean() / k),
        coverage=float(covered.mean()),
    )


def _radii(x: Features, k: int) -> Features:
    """Return the squared distance of each row to its k-th nearest other row, N."""
    found = np.empty(len(x))
    for rows in _blocks(len(x)):
        squares = _squared_distances(x[rows], x)
        squares[np.arange(len(squares)), np.arange(rows.start, rows.stop)] = np.inf
        found[rows] = np.partition(squares, k - 1, axis=1)[:, k - 1]
    return found


def _squared_distances(a: Features, b: Features) -> Features:
    norms = (a**2).sum(1)[:, None] + (b**2).sum(1)
    squares = norms - 2 * (a @ b.T)
    # Equal rows are at distance 0, not at that of rounding, which may fall below it on either side.
    squares[squares < 1e-14 * norms] = 0
    return squares


def per_class(
    fake: Features,
    real: Features,
    fake_labels: NDArray[np.integer[Any]],
    real_labels: NDArray[np.integer[Any]],
    *,
    classes: Sequence[str],
    network: str,
    sha256: str,
    seed: int = 0,
) -> tuple[Fidelity, ...]:
    """Return the figures of each class, in order, and then of all classes together ('all').

    Below `MIN_IMAGES` on either side there is a reason ('insufficient: …') instead. 'all' compares images, and not how
    often each class is there: classes enter with the shares that the real images have. For KID they are weighted; for
    the others synthetic images are left out (`Fidelity.n_fake_in_shares` are left). Classes with fewer than 10 images
    on either side are not part of it.

    Args:
        fake: features of synthetic images, N×d, of the network that made `real`.
        real: features of real images, M×d; held out from the generator's training.
        fake_labels: class index of each synthetic image, N.
        real_labels: class index of each real image, M; others than 0 to len(classes) - 1 are left out.
        classes: names of the classes.
        network: name of the feature network.
        sha256: of the feature network.
        seed: of bootstrap, halvings and of what is left out.

    Raises:
        ConfigError: as many labels as images were wanted.
        DataError: features that do not fit each other, or that are not finite.
    """
    for side, features, labels in (("synthetic", fake, fake_labels), ("real", real, real_labels)):
        if len(features) != len(labels):
            raise ConfigError(
                f"{len(labels)} labels were given for {count(len(features), f'{side} image')}; one for each is wanted."
            )
    fakes = [np.flatnonzero(fake_labels == c) for c in range(len(classes))]
    reals = [np.flatnonzero(real_labels == c) for c in range(len(classes))]
    rows = []
    for name, mine, theirs in zip(classes, fakes, reals, strict=True):
        row = Fidelity(name, len(mine), len(mine), len(theirs), network, sha256)
        if min(len(mine), len(theirs)) < MIN_IMAGES:
            rows.append(replace(row, reason=_insufficient(row)))
            continue
        x, y = fake[mine], real[theirs]
        rows.append(replace(row, kid=kid(x, y, seed=seed), fid=fid(x, y, seed=seed), prdc=prdc(x, y)))

    common = [c for c in range(len(classes)) if min(len(fakes[c]), len(reals[c])) >= _LEAST_TOGETHER]
    nothing = [np.empty(0, dtype=np.intp)]
    mine, theirs = (np.concatenate(nothing + [side[c] for c in common]) for side in (fakes, reals))
    # The class that has the fewest synthetic images for its real ones decides how many of the others stay.
    factor = min((len(fakes[c]) / len(reals[c]) for c in common), default=0.0)
    rng = np.random.default_rng(seed)
    kept = np.concatenate(nothing + [rng.permutation(fakes[c])[: round(factor * len(reals[c]))] for c in common])
    row = Fidelity("all", len(mine), len(kept), len(theirs), network, sha256)
    if min(len(mine), len(theirs)) < MIN_IMAGES:
        return (*rows, replace(row, reason=_insufficient(row)))
    distance = kid(fake[mine], real[theirs], fake_labels=fake_labels[mine], real_labels=real_labels[theirs], seed=seed)
    row = replace(row, kid=distance)
    if len(kept) >= MIN_IMAGES:
        x, y = fake[kept], real[theirs]
        row = replace(row, fid=fid(x, y, real_labels=real_labels[theirs], seed=seed), prdc=prdc(x, y))
    return (*rows, row)


def _insufficient(row: Fidelity) -> str:
    return f"insufficient: {row.n_fake} synthetic and {row.n_real} real images; {MIN_IMAGES} of each are wanted"


def _checked(fake: Features, real: Features, *, least: int) -> tuple[Features, Features]:
    """Return both in float64."""
    x, y = np.asarray(fake, dtype=np.float64), np.asarray(real, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise DataError(
            f"Features of shapes {x.shape} (synthetic) and {y.shape} (real) were given; N×d and M×d of one network "
            "are wanted."
        )
    if min(len(x), len(y)) < least:
        raise DataError(
            f"{len(x)} synthetic and {count(len(y), 'real image')} were given; at least {least} of each are wanted. "
            "Make or collect more."
        )
    for side, values in (("synthetic", x), ("real", y)):
        wrong = int((~np.isfinite(values).all(axis=1)).sum())
        if wrong:
            raise DataError(
                f"The features of {count(wrong, f'{side} image')} are not finite. Look for infinite pixels in these "
                "images, or for a feature network that overflows on them."
            )
    return x, y
