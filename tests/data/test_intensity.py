import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganaug.data.intensity import IntensityMap
from ganaug.errors import ConfigError, DataError, ModelFileError

LIMITS = {"uint8": (0, 255), "uint16": (0, 65535), "int16": (-32768, 32767)}


@st.composite
def windows(draw: st.DrawFn) -> IntensityMap:
    dtype = draw(st.sampled_from(sorted(LIMITS)))
    lowest, highest = LIMITS[dtype]
    low = draw(st.floats(lowest, highest - 1))
    high = draw(st.floats(low + 1, highest))
    return IntensityMap("window", low, high, dtype)


@settings(deadline=None, derandomize=True)
@given(windows(), st.data())
def test_values_inside_the_window_come_back_within_one_level(window: IntensityMap, data: st.DataObject) -> None:
    inside = st.integers(int(np.ceil(window.low)), int(np.floor(window.high)))
    stored = np.array(data.draw(st.lists(inside, min_size=1, max_size=20)), dtype=window.dtype)
    unit = window.forward(stored)
    assert unit.dtype == np.float32
    assert np.abs(unit).max() <= 1
    back = window.inverse(unit)
    assert back.dtype == stored.dtype
    assert np.abs(back.astype(int) - stored.astype(int)).max() <= 1


@settings(deadline=None, derandomize=True)
@given(windows(), st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_inverse_never_leaves_the_window(window: IntensityMap, values: list[float]) -> None:
    stored = window.inverse(np.array(values)).astype(float)
    assert (stored >= window.low).all()
    assert (stored <= window.high).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_the_full_range_comes_back_exactly(dtype: str) -> None:
    levels = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
    kind = "uint8" if dtype == "uint8" else "window"
    full = IntensityMap(kind, 0, int(levels[-1]), dtype)
    unit = full.forward(levels)
    assert (unit[0], unit[-1]) == (-1, 1)
    np.testing.assert_array_equal(full.inverse(unit), levels)


def test_values_outside_the_window_are_clipped() -> None:
    window = IntensityMap("window", 100, 200, "uint16")
    np.testing.assert_array_equal(window.forward(np.array([0, 100, 150, 200, 60000])), [-1, -1, 0, 1, 1])


def test_fit_keeps_the_range_of_uint8() -> None:
    assert IntensityMap.fit(np.full((2, 1, 4, 4), 7, np.uint8)) == IntensityMap("uint8", 0, 255, "uint8")


@pytest.mark.parametrize("dtype", ["uint16", "int16"])
def test_fit_takes_the_percentiles_of_16_bit(dtype: str) -> None:
    values = np.random.default_rng(0).normal(5000, 400, (4, 1, 50, 50)).astype(dtype)
    values[0, 0, 0, 0] = 30000
    fitted = IntensityMap.fit(values)
    assert (fitted.kind, fitted.dtype) == ("window", dtype)
    for found, percentile in ((fitted.low, 0.1), (fitted.high, 99.9)):
        below, above = (np.percentile(values, percentile, method=method) for method in ("lower", "higher"))
        assert below <= found <= above
    assert IntensityMap.fit(iter(values[::-1])) == fitted


def test_fit_falls_back_to_the_extremes_where_the_percentiles_coincide() -> None:
    values = np.zeros((100, 1, 100, 1), np.uint16)
    values[3, 0, 3, 0] = 900
    assert (IntensityMap.fit(values).low, IntensityMap.fit(values).high) == (0, 900)


@pytest.mark.parametrize("level", [0, 700, 65535])
def test_fit_of_a_single_level_still_gives_a_window(level: int) -> None:
    values = np.full((3, 1, 4, 4), level, np.uint16)
    fitted = IntensityMap.fit(values)
    np.testing.assert_array_equal(fitted.inverse(fitted.forward(values)), values)


@pytest.mark.parametrize(
    "images",
    [
        [],
        np.zeros((0, 1, 4, 4), np.uint16),
        np.zeros((2, 1, 4, 4), np.float32),
        [np.zeros((1, 2, 2), np.uint16), np.zeros((1, 2, 2), np.uint8)],
    ],
    ids=["none", "empty", "float", "mixed"],
)
def test_fit_refuses_what_it_has_no_map_for(images: list[np.ndarray]) -> None:
    with pytest.raises(DataError, match="wanted"):
        IntensityMap.fit(images)


@settings(deadline=None, derandomize=True)
@given(windows())
def test_the_dictionary_gives_the_map_back(window: IntensityMap) -> None:
    assert IntensityMap.from_dict(window.to_dict()) == window


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "log"},
        {"dtype": "float32"},
        {"dtype": ["uint16"]},
        {"low": None},
        {"low": "0"},
        {"low": True},
        {"low": float("nan")},
        {"high": float("inf")},
        {"high": 100},
        {"high": 70000},
        {"low": -1},
        {"kind": "uint8"},
        {"extra": 1},
    ],
    ids=str,
)
def test_a_nonsensical_dictionary_is_a_model_file_error(change: dict[str, object]) -> None:
    fields = IntensityMap("window", 100, 200, "uint16").to_dict()
    with pytest.raises(ModelFileError):
        IntensityMap.from_dict({**fields, **change})


@pytest.mark.parametrize("fields", [None, [], "uint8", {}, {"kind": "uint8"}], ids=str)
def test_a_dictionary_of_another_shape_is_a_model_file_error(fields: object) -> None:
    with pytest.raises(ModelFileError, match="wanted"):
        IntensityMap.from_dict(fields)


def test_a_window_upside_down_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="low < high"):
        IntensityMap("window", 200, 100, "uint8")
