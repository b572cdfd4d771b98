from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ganaug.data.planes import Plane, numbers, ordered, plane_of, same_direction, stack, uneven_step
from ganaug.errors import DataError
from tests.dicoms import AXIAL, SAGITTAL


def axial(*heights: float, spacing: tuple[float, ...] | None = (1.0, 1.0)) -> list[Plane]:
    return [Plane((0.0, 0.0, height), AXIAL, None, spacing) for height in heights]


def dataset(**elements: Any) -> SimpleNamespace:
    return SimpleNamespace(get=elements.get)


@pytest.mark.parametrize("value", [None, "", "x", [1.0, 2.0], ["a", "b", "c"], [1, 2, float("nan")], [1, 2, 1e300]])
def test_numbers_that_make_no_sense_count_as_absent(value: Any) -> None:
    assert numbers(dataset(Name=value), "Name", 3) is None


def test_each_element_is_taken_from_the_first_that_has_it() -> None:
    own, shared = dataset(ImagePositionPatient=[1, 2, 3]), dataset(ImagePositionPatient=[9, 9, 9], PixelSpacing=[1, 2])
    assert plane_of(own, shared) == Plane((1, 2, 3), None, None, (1, 2))


@pytest.mark.parametrize("values", [[0] * 6, [1, 0, 0, 1, 0, 0], [2, 0, 0, 0, 1, 0]])
def test_directions_that_are_no_right_angle_count_as_absent(values: list[float]) -> None:
    assert plane_of(dataset(ImageOrientationPatient=values)).orientation is None


def test_the_order_is_along_the_normal() -> None:
    assert ordered(axial(4, -1, 2)) == [1, 2, 0]
    # The normal of sagittal slices points to the patient's right; positions count toward the left.
    assert ordered([Plane((x, 0.0, 0.0), SAGITTAL) for x in (0.0, 5.0, 2.0)]) == [1, 2, 0]
    assert ordered([Plane(location=x) for x in (3.0, 1.0)]) == [1, 0]


def test_there_is_no_order_without_positions_of_their_own() -> None:
    assert ordered(axial(1, 2, 1)) is None
    assert ordered([Plane(), Plane()]) is None
    assert ordered([*axial(1), Plane(orientation=AXIAL)]) is None


def test_the_worst_step_is_found_and_rounding_is_not_one() -> None:
    assert uneven_step(axial(0, 2, 4, 9, 11)) == (2, 5, 2)
    assert uneven_step(axial(0, 0.7, 1.3, 2)) == (1, pytest.approx(0.6), pytest.approx(0.7))
    assert uneven_step(axial(0, 0.62, 1.25, 1.88)) is None


def test_directions_are_alike_within_rounding() -> None:
    turned = tuple(np.array(AXIAL) + 1e-5)
    assert same_direction(Plane(orientation=AXIAL), Plane(orientation=turned))
    assert not same_direction(Plane(orientation=AXIAL), Plane(orientation=SAGITTAL))
    assert not same_direction(Plane(orientation=AXIAL), Plane())


def test_a_stack_without_any_place_is_refused() -> None:
    with pytest.raises(DataError, match="ImagePositionPatient or SliceLocation was wanted"):
        stack(np.zeros((2, 3, 3, 1)), [Plane(), Plane()])
