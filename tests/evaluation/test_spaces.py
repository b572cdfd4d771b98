from collections.abc import Sequence

import numpy as np
import pytest

from ganaug.errors import ConfigError
from ganaug.evaluation.spaces import Space, feature_spaces, image_spaces
from ganaug.evaluation.three_sets import HELD_OUT, SYNTHETIC, TRAINING, image_sets
from tests.evaluation.drawn import SOURCES, three_sets


def test_the_aligned_distance_is_that_of_the_best_mirroring_and_shift() -> None:
    _, (fresh, training, held_out) = three_sets("blobs", 0, 60, 60, 10)
    fresh[:30] = np.roll(training[:30], 1, axis=2)[..., ::-1]
    space = image_spaces(image_sets(fresh, training, held_out))[1]
    nearest, distance = space.nearest(SYNTHETIC, TRAINING)
    assert nearest[:30, 0].tolist() == list(range(30))
    assert distance[:30].max() < 1e-3 < distance[30:].min()


def test_nearest_is_that_of_all_pairs_without_those_of_one_patient() -> None:
    _, sets = three_sets("digits", 0, 20, 50, 15)
    space = image_spaces(image_sets(*sets))[0]
    codes = np.arange(50) // 5
    nearest, distance = space.nearest(TRAINING, TRAINING, k=3, codes=(codes, codes))
    flat = sets[TRAINING].reshape(50, -1)
    pairs = np.linalg.norm(flat[:, None] - flat, axis=2)
    pairs[codes[:, None] == codes] = np.inf
    assert np.allclose(distance, np.sort(pairs, axis=1)[:, :3], atol=1e-5)
    assert np.allclose(np.take_along_axis(pairs, nearest, axis=1), distance, atol=1e-5)


def by_hand(space: Space, query: int, reference: int) -> np.ndarray:
    """Return all distances, the smallest over the variants of the query."""
    gaps = space.points[query][:, None].astype(np.float64) - space.points[reference][None, :, :1]
    return np.asarray(np.sqrt((gaps**2).sum(axis=3)).min(axis=2))


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("source", SOURCES)
def test_nearest_of_small_images_is_that_of_all_variants_and_all_pairs(source: str, k: int) -> None:
    """Mirrored and shifted forms have other norms each, so that the likest is not the nearest."""
    _, sets = three_sets(source, 3, 60, 80, 30)
    sets = [images[..., 6:14, 6:14] if source == "blobs" else images for images in sets]
    for number, images in enumerate(sets):
        images[::3] = 0.02 * images[::3] + 0.01 * number  # faint ones, whose norm depends on the form most
    space = image_spaces(image_sets(*sets))[1]
    assert space.points[SYNTHETIC].shape[1] > 1
    for query, reference in ((SYNTHETIC, TRAINING), (HELD_OUT, TRAINING), (TRAINING, SYNTHETIC)):
        wanted = by_hand(space, query, reference)
        nearest, distance = space.nearest(query, reference, k=k)
        np.testing.assert_allclose(distance, np.sort(wanted, axis=1)[:, :k], atol=2e-4)
        np.testing.assert_allclose(np.take_along_axis(wanted, nearest, axis=1), distance, atol=1e-6)


def test_the_distances_to_the_synthetic_images_are_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _, sets = three_sets("digits", 0, 20, 30, 15)
    space = image_spaces(image_sets(*sets))[0]
    first = space.to_synthetic()
    assert first.shape == (45,)
    np.testing.assert_allclose(first[:30], by_hand(space, TRAINING, SYNTHETIC).min(axis=1), atol=1e-5)
    monkeypatch.setattr(Space, "nearest", lambda *_, **__: pytest.fail("searched again"))
    assert space.to_synthetic() is first


@pytest.mark.parametrize("given", [[np.zeros((60, 3))] * 2, [np.zeros((60, 3)), np.zeros((60, 3)), np.zeros((60, 4))]])
def test_features_that_do_not_fit_are_refused(given: Sequence[np.ndarray]) -> None:
    _, sets = three_sets("digits", 0, 60, 60, 60)
    with pytest.raises(ConfigError, match="Features of shape"):
        feature_spaces(image_sets(*sets), given)


def test_features_are_reduced_to_what_both_sides_of_the_split_vary_in() -> None:
    _, sets = three_sets("digits", 0, 150, 200, 100)
    turn = np.random.default_rng(1).normal(size=(64, 300))
    (space,) = feature_spaces(image_sets(*sets), [images.reshape(len(images), -1) @ turn for images in sets])
    assert [part.shape for part in space.points] == [(150, 1, 128), (200, 1, 128), (100, 1, 128)]
    # 64 pixels have no more than 64 directions: nothing is lost.
    flat = [images.reshape(len(images), -1) @ turn for images in sets]
    wanted = np.linalg.norm(flat[HELD_OUT][:, None] - flat[TRAINING], axis=2)
    np.testing.assert_allclose(by_hand(space, HELD_OUT, TRAINING), wanted, rtol=1e-3)
