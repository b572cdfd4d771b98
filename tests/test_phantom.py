"""The phantom is what it says: its truths are true, its contrasts ambiguous, and its lesions found where they are."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ganaug.data import read_item, scan
from tests.phantom import (
    FLUID,
    GRAY,
    LESION,
    SITES,
    SKIN,
    SKULL,
    TISSUES,
    WHITE,
    Anatomy,
    Case,
    Domain,
    Scan,
    Site,
    at_site,
    cohort,
    lesion_found,
    phantom,
    render,
    truth,
    write_phantoms,
)

SIZES = [(64, 64), (40, 56), (32, 32, 32), (16, 40, 32)]


def head(seed: int, size: tuple[int, ...] = (64, 64), **kwargs: object) -> Scan:
    return phantom(np.random.default_rng(seed), size, **kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_slices_and_volumes_have_every_tissue(size: tuple[int, ...]) -> None:
    shown = head(1, size, lesion=True, site=SITES["harsh"])
    assert shown.image.shape == shown.tissues.shape == shown.lesion.shape == size
    assert shown.image.dtype == np.float32
    assert shown.image.min() >= 0
    assert shown.image.max() <= 1
    np.testing.assert_allclose(shown.anatomy.shares.sum(axis=0), 1, atol=1e-5)
    shares = np.bincount(shown.tissues.ravel(), minlength=len(TISSUES)) / shown.tissues.size
    assert (shares > [0.05, 0.02, 0.02, 0.02, 0.05, 0.05, 0.0005]).all()


def test_a_seed_is_a_head_whatever_is_made_of_it() -> None:
    usual = head(1)
    other = head(1, contrast="b", lesion=True, site=SITES["soft"])
    np.testing.assert_array_equal(usual.anatomy.shares, other.anatomy.shares)
    assert abs(head(2).image - usual.image).mean() > 0.02


@pytest.mark.parametrize("lesion", [False, True])
def test_the_truth_is_the_clean_scan_of_the_same_head(lesion: bool) -> None:
    noisy = head(1, contrast="a", lesion=lesion, site=SITES["harsh"])
    np.testing.assert_array_equal(truth(noisy, "b"), head(1, contrast="b", lesion=lesion).image)


def test_fluid_is_dark_in_one_contrast_and_bright_in_the_other() -> None:
    shown = head(1)
    means = [
        [render(shown.anatomy, contrast)[shown.tissues == tissue].mean() for tissue in range(6)] for contrast in "ab"
    ]
    assert means[0][FLUID] < means[0][GRAY] < means[0][WHITE]
    assert means[1][FLUID] > means[1][GRAY] > means[1][WHITE]
    assert abs(means[0][FLUID] - means[0][SKULL]) < 0.05 < 0.5 < means[1][FLUID] - means[1][SKULL]
    # Skin is thin, so that air and skull have a share in its pixels.
    assert abs(means[1][GRAY] - means[1][SKIN]) < 0.1 < 0.2 < means[0][SKIN] - means[0][GRAY]


@pytest.mark.parametrize(("source", "target"), [("a", "b"), ("b", "a")])
def test_no_table_from_intensity_to_intensity_is_the_truth(source: str, target: str) -> None:
    # Fitted on the very images that it is tried on: no table does better.
    pairs = [(head(seed, contrast=source).image, head(seed, contrast=target).image) for seed in range(10)]
    given, wanted = (np.stack(images).ravel() for images in zip(*pairs, strict=True))
    bins = np.minimum((given * 64).astype(int), 63)
    table = [np.median(wanted[bins == step]) if (bins == step).any() else 0.0 for step in range(64)]
    error = abs(np.take(table, bins) - wanted)[wanted > 0]
    assert error.mean() > 0.05
    assert (error > 0.2).mean() > 0.05


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("contrast", ["a", "b"])
def test_a_lesion_is_small_lies_in_the_brain_and_changes_nothing_else(size: tuple[int, ...], contrast: str) -> None:
    for seed in range(5):
        healthy, ill = (head(seed, size, contrast=contrast, lesion=lesion) for lesion in (False, True))
        assert not healthy.has_lesion
        assert 0.0005 < ill.lesion.mean() < 0.04
        assert (healthy.anatomy.shares[GRAY] + healthy.anatomy.shares[WHITE])[ill.lesion].min() > 0.5
        assert (ill.tissues == LESION)[ill.lesion].all()
        change = abs(ill.image - healthy.image)
        assert change[ill.lesion].mean() > 0.1
        assert change[healthy.anatomy.lesion == 0].max() == 0


def test_a_site_changes_what_it_says_and_the_clean_one_nothing() -> None:
    image, rng = head(1).image, np.random.default_rng(0)
    np.testing.assert_array_equal(at_site(image, SITES["clean"], rng), image)
    np.testing.assert_allclose(at_site(image, Site(gain=0.5, gamma=2), rng), image**2 / 2, atol=1e-6)
    ratio = (at_site(image, Site(gain=0.5, bias=0.3), rng) / np.maximum(image, 0.01))[image > 0.05] / 0.5
    assert 0.1 < ratio.max() - ratio.min() < 0.7
    noisy = at_site(image, Site(noise=0.02), rng)
    assert np.std((noisy - image)[image > 0.3]) == pytest.approx(0.02, rel=0.1)
    assert noisy[image == 0].mean() == pytest.approx(0.02 * np.sqrt(np.pi / 2), rel=0.1), "a magnitude image: Rayleigh"
    sharpness = [abs(np.diff(each)).mean() for each in (image, at_site(image, Site(blur=0.5), rng))]
    assert sharpness[1] < 0.8 * sharpness[0]


@pytest.mark.parametrize("contrast", ["a", "b"])
@pytest.mark.parametrize(("size", "count"), [((64, 64), 60), ((32, 32, 32), 12)], ids=["2D", "3D"])
def test_the_detector_tells_lesions_from_noise(contrast: str, size: tuple[int, ...], count: int) -> None:
    wrong = 0
    for seed in range(count):
        of, rng = head(seed, size), np.random.default_rng(seed + 1000)
        for lesion in (False, True):
            image = render(of.anatomy, contrast, lesion=lesion) + rng.normal(0, 0.03, size)
            wrong += lesion_found(image, of, contrast) != lesion
    assert wrong <= count * 2 * 0.01


def test_the_detector_bears_what_a_translation_may_get_wrong() -> None:
    for seed in range(20):
        of, rng = head(seed), np.random.default_rng(seed)
        for lesion in (False, True):
            image = render(of.anatomy, "b", lesion=lesion)
            for changed in (
                0.8 * image + 0.1,
                at_site(image, Site(blur=0.5), rng),
                at_site(image, SITES["harsh"], rng),
            ):
                assert lesion_found(changed, of, "b") == lesion


def test_the_detector_finds_a_lesion_that_was_created_elsewhere() -> None:
    for seed in range(20):
        ill = head(seed, lesion=True)
        # The same lesion in the other half of the brain, as far as there is brain.
        brain = ill.anatomy.shares[GRAY] + ill.anatomy.shares[WHITE]
        moved = np.roll(ill.anatomy.lesion, 8, axis=0)[:, ::-1] * brain
        if (moved > 0.5).sum() < 30:
            continue
        created = render(replace(ill.anatomy, lesion=moved), "b", lesion=True)
        assert lesion_found(created, ill, "b")
        assert not lesion_found(truth(replace(ill, lesion=np.zeros_like(ill.lesion)), "b"), ill, "b"), "it got lost"


def _lesions(cases: list[Case]) -> list[int]:
    return [sum(case.scan.has_lesion for case in cases if case.domain == domain) for domain in ("a", "b")]


def test_a_cohort_has_the_wanted_share_of_lesions_and_is_the_same_each_time() -> None:
    domains = {"a": Domain("a", lesions=0.1), "b": Domain("b", SITES["old"], lesions=0.5)}
    cases = list(cohort(domains, 20, (32, 32), seed=3))
    assert _lesions(cases) == [2, 10]
    assert len({case.name for case in cases}) == 40, "unpaired: no head twice"
    again = list(cohort(domains, 20, (32, 32), seed=3))
    np.testing.assert_array_equal([case.scan.image for case in cases], [case.scan.image for case in again])
    assert abs(next(cohort(domains, 1, (32, 32), seed=4)).scan.image - cases[0].scan.image).max() > 0.1


def test_a_paired_cohort_has_the_same_heads_in_each_domain() -> None:
    domains = {"a": Domain("a", lesions=0.5), "b": Domain("b", lesions=0.5)}
    cases = list(cohort(domains, 6, (32, 32), paired=True))
    assert [case.name for case in cases[:6]] == [case.name for case in cases[6:]]
    for first, second in zip(cases[:6], cases[6:], strict=True):
        np.testing.assert_array_equal(truth(first.scan, "b"), second.scan.image)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize(("size", "nifti"), [((32, 24), False), ((32, 24), True), ((16, 24, 20), True)], ids=str)
def test_what_is_written_is_read_as_it_was(tmp_path: Path, dtype: str, size: tuple[int, ...], nifti: bool) -> None:
    domains = {"t1": Domain("a", lesions=0.5), "t2": Domain("b", SITES["harsh"], lesions=0.5)}
    cases = list(cohort(domains, 2, size))
    manifest = scan(write_phantoms(tmp_path / "set", cases, dtype=dtype, nifti=nifti))
    assert manifest.classes == ("healthy", "lesion")
    assert len({item.group for item in manifest.items}) == 4
    with (tmp_path / "set" / "metadata.csv").open(newline="") as stream:
        rows = {row["file_name"]: row for row in csv.DictReader(stream)}
    for item, case in zip(manifest.items, sorted(cases, key=lambda case: (case.domain, case.name)), strict=True):
        stored = read_item(manifest.root, item)[..., 0]
        np.testing.assert_array_equal(stored, np.rint(case.scan.image * np.iinfo(dtype).max).astype(dtype))
        assert manifest.classes[item.label] == ("lesion" if case.scan.has_lesion else "healthy")
        assert (rows[item.path]["domain"], rows[item.path]["group"]) == (case.domain, case.name)


def test_the_tissues_of_an_anatomy_are_those_without_the_lesion() -> None:
    ill = head(1, lesion=True)
    assert isinstance(ill.anatomy, Anatomy)
    assert LESION not in ill.anatomy.tissues
