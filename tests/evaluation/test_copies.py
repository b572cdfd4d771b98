import numpy as np
from scipy.stats import fisher_exact

from ganaug.evaluation.copies import exact_copies_p, find_duplicates, without_repeats
from ganaug.evaluation.three_sets import image_sets
from tests.evaluation.drawn import three_sets


def test_duplicates_are_counted_against_held_out_images_within_the_sample_and_across_classes() -> None:
    _, (synthetic, training, held_out) = three_sets("blobs", 2, 100, 100, 60)
    synthetic[0], synthetic[1] = training[4], training[5]
    synthetic[11] = synthetic[10]
    synthetic[21] = 0.9 * synthetic[20]
    held_out[3] = training[6]
    synthetic[50] = training[50] = held_out[50] = 0.25
    labels = [0] * 100
    labels[1] = labels[21] = 1
    found = find_duplicates(
        image_sets(synthetic, training, held_out), (np.array(labels), np.zeros(100, np.int64), np.zeros(60, np.int64))
    )
    assert set(found.exact) == {(0, 4), (1, 5)}
    assert found.exact_held_out == 1
    assert found.within == ((10, 11),)
    assert {10, 11} < {at for places in found.within_near for at in places}
    assert any({20, 21} <= set(places) for places in found.within_near)
    assert found.near >= 2
    assert found.near_held_out >= 1
    assert found.near_across_classes is not None
    assert found.near_across_classes >= 1
    assert found.within_across_classes is not None
    assert found.within_across_classes >= 1


def test_images_that_real_ones_repeat_are_left_out_and_others_stay() -> None:
    _, given = three_sets("blobs", 0, 10, 20, 12)
    assert [rows.tolist() for rows in without_repeats(image_sets(*given))] == [[*range(n)] for n in (10, 20, 12)]
    synthetic, training, held_out = given
    training[3] = held_out[5]  # twins across the split
    synthetic[1], synthetic[2] = training[3], training[7]
    kept = without_repeats(image_sets(synthetic, training, held_out))
    assert [sorted({*range(n)} - {*rows.tolist()}) for n, rows in zip((10, 20, 12), kept, strict=True)] == [
        [1, 2], [3], [5]
    ]  # fmt: skip


def test_one_training_image_copied_again_and_again_is_one_event() -> None:
    _, (synthetic, training, held_out) = three_sets("blobs", 0, 40, 30, 40)
    synthetic[:8] = training[0]
    once = image_sets(synthetic, training, held_out)
    assert exact_copies_p(find_duplicates(once, None), once) == fisher_exact([[1, 39], [0, 40]], "greater").pvalue
    synthetic[:8] = training[:8]
    eight = image_sets(synthetic, training, held_out)
    assert exact_copies_p(find_duplicates(eight, None), eight) < 0.01
