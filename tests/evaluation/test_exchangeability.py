import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import hypergeom

from ganaug.evaluation.compared import Compared
from ganaug.evaluation.exchangeability import Nearness, outliers_p, runs_p, split_p
from tests.evaluation.drawn import three_sets


def test_runs_p_is_exact() -> None:
    rng = np.random.default_rng(0)
    ps = np.array([runs_p(*np.split(rng.normal(size=60), [40])) for _ in range(400)])
    for level in (0.01, 0.05, 0.2):
        assert (ps <= level).mean() <= level + 3 * np.sqrt(level / 400)
    assert (ps <= 0.2).mean() > 0.1
    top = np.concatenate([np.full(40, 5.0), np.zeros(260)])
    p = runs_p(top, np.zeros(100) + 1)
    assert hypergeom.sf(39, 400, 300, 40) <= p < 10 * hypergeom.sf(39, 400, 300, 40)


def test_outliers_p_is_calibrated_on_an_exponential_tail_and_sees_a_single_outlier() -> None:
    rng = np.random.default_rng(0)
    ps = np.array([outliers_p(*np.split(rng.exponential(0.2, size=600), [500])) for _ in range(150)])
    for level in (0.01, 0.05):
        assert (ps <= level).mean() <= level + 3 * np.sqrt(level / 150)
    training, held_out = np.split(rng.exponential(0.2, size=600), [500])
    training[3] = 6.0
    assert outliers_p(training, held_out) < 0.01


@pytest.mark.parametrize("elsewhere", [False, True])
def test_split_p_sees_held_out_images_of_another_kind_and_nothing_in_a_random_split(elsewhere: bool) -> None:
    _, (fresh, training, held_out) = three_sets("blobs", 0, 30, 150, 80)
    if elsewhere:
        held_out = 0.8 * gaussian_filter(held_out, (0, 0, 1, 1))
    compared = Compared.of(fresh, training, held_out)
    p = split_p(Nearness(compared.spaces[0], compared.codes, None), None, seed=0)
    assert p < 0.001 if elsewhere else p > 0.01


def test_scores_do_not_know_the_side_of_the_split() -> None:
    _, (fresh, training, held_out) = three_sets("blobs", 1, 40, 60, 50)
    one, other = Compared.of(fresh, training, held_out), Compared.of(fresh, held_out, training)
    scores = [Nearness(each.spaces[0], each.codes, None).scores for each in (one, other)]
    np.testing.assert_allclose(scores[0], np.roll(scores[1], 60), rtol=1e-4, atol=1e-5)
