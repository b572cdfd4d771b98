import json
from collections.abc import Callable

import numpy as np
import pytest
import torch

from ganaug.errors import ConfigError, DataError
from ganaug.evaluation.distances import FID, Interval, fid, kid, per_class, prdc

Draw = Callable[[np.random.Generator, int, int, float], np.ndarray]


def mean_kernel(a: tuple[float, float, float], b: tuple[float, float, float], d: int) -> float:
    """Return E (x·y/d + 1)³ for independent coordinates with the raw moments 1 to 3 `a` and `b`."""
    first = d * a[0] * b[0]
    second = d * a[1] * b[1] + d * (d - 1) * (a[0] * b[0]) ** 2
    third = d * a[2] * b[2] + 3 * d * (d - 1) * a[1] * a[0] * b[1] * b[0]
    third += d * (d - 1) * (d - 2) * (a[0] * b[0]) ** 3
    return 1 + 3 * first / d + 3 * second / d**2 + third / d**3


def gaussian(rng: np.random.Generator, n: int, d: int, change: float) -> np.ndarray:
    return rng.normal(size=(n, d)) + change


def skewed(rng: np.random.Generator, n: int, d: int, change: float) -> np.ndarray:
    return rng.exponential(size=(n, d)) * (1 + change)


MOMENTS = {
    gaussian: lambda s: (s, 1 + s * s, s**3 + 3 * s),
    skewed: lambda s: (1 + s, 2 * (1 + s) ** 2, 6 * (1 + s) ** 3),
}


def coverage(draw: Draw, change: float, n: int, m: int, repeats: int, d: int = 96) -> float:
    """Return how often the interval of `kid` holds the true distance of samples of n and m."""
    a, b = MOMENTS[draw](change), MOMENTS[draw](0.0)
    truth = mean_kernel(a, a, d) + mean_kernel(b, b, d) - 2 * mean_kernel(a, b, d)
    rng = np.random.default_rng(11)
    held = 0
    for i in range(repeats):
        found = kid(draw(rng, n, d, change), draw(rng, m, d, 0.0), seed=i)
        held += found.low <= truth <= found.high
    return held / repeats


@pytest.mark.parametrize("change", [0.0, 0.3])
def test_kid_interval_covers_the_truth(change: float) -> None:
    # 100 repeats: the standard error is 2.2 points. A plain bootstrap covers less than 5 % without a difference.
    assert 0.90 <= coverage(skewed, change, 50, 50, 100) <= 0.995


@pytest.mark.slow
@pytest.mark.parametrize(("n", "m", "repeats"), [(50, 50, 1000), (50, 300, 600), (500, 500, 300)])
@pytest.mark.parametrize("change", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("draw", [gaussian, skewed])
def test_kid_interval_covers_the_truth_at_its_nominal_rate(
    draw: Draw, change: float, n: int, m: int, repeats: int
) -> None:
    # 93 to 97 %, and two standard errors of the simulation itself.
    slack = 2 * np.sqrt(0.05 * 0.95 / repeats)
    assert 0.93 - slack <= coverage(draw, change, n, m, repeats) <= 0.97 + slack


def test_kid_is_that_of_torchmetrics_on_the_full_sample() -> None:
    metric = pytest.importorskip("torchmetrics.image.kid").KernelInceptionDistance
    rng = np.random.default_rng(0)
    fake, real = skewed(rng, 70, 24, 0.1), skewed(rng, 70, 24, 0.0)
    theirs = metric(feature=torch.nn.Identity(), subsets=1, subset_size=70)
    theirs.update(torch.from_numpy(fake), real=False)
    theirs.update(torch.from_numpy(real), real=True)
    assert kid(fake, real, bootstrap=39).value == pytest.approx(float(theirs.compute()[0]), abs=1e-6)


def test_kid_of_chosen_class_counts_is_unbiased_and_covers_zero() -> None:
    # Well separated classes in fixed, unlike numbers; the same distribution within each.
    rng = np.random.default_rng(1)
    centers = rng.normal(size=(2, 16)) * 1.5
    fake_labels, real_labels = np.repeat([0, 1], [40, 40]), np.repeat([0, 1], [60, 20])
    found = []
    for i in range(100):
        fake = centers[fake_labels] + rng.normal(size=(80, 16))
        real = centers[real_labels] + rng.normal(size=(80, 16))
        found.append(kid(fake, real, fake_labels=fake_labels, real_labels=real_labels, seed=i, bootstrap=199))
    values = np.array([each.value for each in found])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
    assert np.mean([each.low <= 0 <= each.high for each in found]) > 0.9


def test_kid_with_one_class_is_kid_without_labels() -> None:
    rng = np.random.default_rng(2)
    fake, real = gaussian(rng, 30, 8, 0.2), gaussian(rng, 40, 8, 0.0)
    labels = np.zeros(40, dtype=int)
    assert kid(fake, real, fake_labels=labels[:30], real_labels=labels) == kid(fake, real)


def test_kid_sees_a_difference_and_does_not_depend_on_the_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    fake, real = gaussian(rng, 90, 16, 0.5), gaussian(rng, 110, 16, 0.0)
    whole, neighbors = kid(fake, real), prdc(fake, real)
    assert whole.low > 0
    monkeypatch.setattr("ganaug.evaluation.distances._ROWS", 17)
    parts = kid(fake, real)
    assert [parts.value, parts.low, parts.high] == pytest.approx([whole.value, whole.low, whole.high], rel=1e-4)
    assert prdc(fake, real) == neighbors


def test_collapsed_features_give_a_finite_interval() -> None:
    one, many = np.ones((40, 8)), np.random.default_rng(0).normal(size=(40, 8)) * 1e4
    assert kid(one, one) == Interval(0.0, 0.0, 0.0)
    found = kid(one, many)
    assert np.isfinite([found.low, found.value, found.high]).all()
    assert found.low < found.high


def test_same_seed_gives_the_same_and_global_random_states_stay() -> None:
    rng = np.random.default_rng(4)
    fake, real = gaussian(rng, 60, 6, 0.0), gaussian(rng, 60, 6, 0.0)
    torch.manual_seed(5)
    before, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = kid(fake, real, seed=1), fid(fake, real, seed=1)
    assert (kid(fake, real, seed=1), fid(fake, real, seed=1)) == first
    assert kid(fake, real, seed=2) != first[0]
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numbers)


@pytest.mark.parametrize(("n", "m", "k"), [(60, 60, 5), (40, 90, 3)])
def test_precision_recall_density_coverage_are_those_of_prdc(n: int, m: int, k: int) -> None:
    reference = pytest.importorskip("prdc", reason="the package prdc is not installed")
    rng = np.random.default_rng(5)
    fake, real = skewed(rng, n, 6, 0.2), skewed(rng, m, 6, 0.0)
    theirs = reference.compute_prdc(real_features=real, fake_features=fake, nearest_k=k)
    assert prdc(fake, real, k=k).to_dict() == pytest.approx(theirs, abs=1e-9)


def test_mode_collapse_costs_coverage_and_noise_costs_precision() -> None:
    rng = np.random.default_rng(6)
    real = gaussian(rng, 300, 8, 0.0)
    equal = prdc(gaussian(rng, 300, 8, 0.0), real)
    collapsed = prdc(real[:1] + 0.05 * gaussian(rng, 300, 8, 0.0), real)
    noisy = prdc(4 * gaussian(rng, 300, 8, 0.0), real)
    assert equal.coverage > 0.9
    assert collapsed.precision == 1
    assert collapsed.coverage < 0.2
    assert noisy.precision < 0.3 < equal.precision


def test_copies_are_inside_and_rounding_moves_no_equal_image() -> None:
    # Far from the origin, where squares of features are a million times the distances.
    real = np.random.default_rng(7).normal(size=(50, 4)) + 1000
    real[:10] = real[0]  # ten equal images: their neighborhood is a point without an inside
    found = prdc(real, real)
    assert found.precision == found.recall == found.coverage == 40 / 50


def test_fid_of_gaussians_is_that_of_their_moments() -> None:
    rng = np.random.default_rng(8)
    fake, real = 2 * gaussian(rng, 20_000, 3, 0.0) + 1, gaussian(rng, 20_000, 3, 0.0)
    found = fid(fake, real)
    assert found.value == pytest.approx(3 * (1 + 1), rel=0.03)
    assert 0 < found.floor_low <= found.floor <= found.floor_high < 0.01
    assert found.floor_images == 10_000
    assert fid(fake + 1e4, real + 1e4).value == pytest.approx(found.value, rel=1e-6)


def test_fid_floor_of_labeled_images_is_not_one_of_class_frequencies() -> None:
    rng = np.random.default_rng(13)
    real, labels = labelled(rng, [100, 100])
    real[labels == 1] += 20
    shuffled = rng.permutation(200)
    real, labels = real[shuffled], labels[shuffled]
    with_labels, without = fid(real, real, real_labels=labels), fid(real, real)
    assert with_labels.floor_high < 0.2 * without.floor_high


def test_fid_is_refused_below_two_images_a_feature() -> None:
    rng = np.random.default_rng(9)
    enough, few = rng.normal(size=(20, 10)), rng.normal(size=(19, 10))
    assert fid(enough, enough).value == pytest.approx(0, abs=1e-6)
    for refused in (fid(few, enough), fid(enough, few)):
        assert refused.value is None
        assert "20" in refused.reason
        assert "19" in refused.reason


def labelled(rng: np.random.Generator, counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(len(counts)), counts)
    return gaussian(rng, len(labels), 6, 0.0) + 3 * labels[:, None], labels


def test_each_class_and_all_together_have_figures_with_a_passport() -> None:
    rng = np.random.default_rng(10)
    fake, fake_labels = labelled(rng, [60, 60, 60])
    real, real_labels = labelled(rng, [90, 40, 29])
    rows = per_class(fake, real, fake_labels, real_labels, classes=["a", "b", "c"], network="net", sha256="f" * 64)
    assert [(row.name, row.n_fake, row.n_real) for row in rows] == [
        ("a", 60, 90), ("b", 60, 40), ("c", 60, 29), ("all", 180, 159),
    ]  # fmt: skip
    assert {(row.network, row.network_sha256) for row in rows} == {("net", "f" * 64)}
    rare = rows[2]
    assert rare.kid is rare.fid is rare.prdc is None
    assert rare.reason.startswith("insufficient")
    # All together: the classes are far apart, and their other frequencies alone must not look like a difference.
    together = rows[-1]
    assert together.kid.low <= 0 <= together.kid.high
    assert together.n_fake_in_shares == 60 + round(60 / 90 * 40) + round(60 / 90 * 29)
    assert isinstance(together.fid, FID)
    written = json.loads(json.dumps([row.to_dict() for row in rows]))
    assert written[0]["kid"].keys() == {"value", "low", "high"}
    assert "insufficient" in str(rare)
    assert "KID" in str(together)


def test_nothing_in_common_is_insufficient_and_no_error() -> None:
    rng = np.random.default_rng(11)
    fake, real = gaussian(rng, 50, 6, 0.0), gaussian(rng, 50, 6, 0.0)
    zeros = np.zeros(50, dtype=int)
    rows = per_class(fake, real, zeros, zeros + 1, classes=["a", "b"], network="net", sha256="")
    assert all(row.reason.startswith("insufficient") for row in rows)


def test_features_that_cannot_be_compared_are_named() -> None:
    good = np.random.default_rng(12).normal(size=(40, 6))
    bad = good.copy()
    bad[3, 2] = np.nan
    for measure in (kid, fid, prdc):
        with pytest.raises(DataError, match=r"\(40, 5\)"):
            measure(good, good[:, :5])
        with pytest.raises(DataError, match="1 synthetic image are not finite"):
            measure(bad, good)
    with pytest.raises(DataError, match="at least 6"):
        prdc(good[:5], good)
    with pytest.raises(DataError, match="at least 4"):
        kid(good[:3], good)
    with pytest.raises(DataError, match="Leave this class out"):
        kid(good, good, fake_labels=np.arange(40) // 38, real_labels=np.arange(40) // 20)
    with pytest.raises(ConfigError, match="39 labels"):
        per_class(good, good, np.zeros(39, int), np.zeros(40, int), classes=["a"], network="", sha256="")
