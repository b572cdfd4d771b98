import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganaug.data.intensity import TAIL, IntensityMap
from ganaug.data.scales import choose_map, file_knots
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


real_numbers = st.floats(-(2.0**100), 2.0**100, width=32)


@st.composite
def bent_maps(draw: st.DrawFn, dtypes: tuple[str, ...] = ("uint8", "uint16", "int16")) -> IntensityMap:
    dtype = draw(st.sampled_from(dtypes))
    if dtype == "float32":
        minimum, low, high, maximum = sorted(draw(st.lists(real_numbers, min_size=4, max_size=4, unique=True)))
    else:
        lowest, highest = LIMITS[dtype]
        minimum, low, high, maximum = sorted(draw(st.lists(st.integers(lowest, highest), min_size=4, max_size=4)))
        if low == high:
            low, high = (minimum, maximum) if minimum < maximum else (lowest, highest)
            minimum, maximum = min(minimum, low), max(maximum, high)
    return IntensityMap(draw(st.sampled_from(["percentiles", "per-file"])), low, high, dtype, minimum, maximum)


@settings(deadline=None, derandomize=True)
@given(bent_maps(), st.data())
def test_percentile_maps_lose_no_level_inside_or_beyond_the_window(bent: IntensityMap, data: st.DataObject) -> None:
    inside = st.integers(int(bent.knots[0]), int(bent.knots[3]))
    stored = np.array(data.draw(st.lists(inside, min_size=1, max_size=20)), dtype=bent.dtype)
    unit = bent.forward(stored)
    assert unit.dtype == np.float32
    assert np.abs(unit).max() <= 1
    np.testing.assert_array_equal(bent.inverse(unit), stored)


@settings(deadline=None, derandomize=True)
@given(bent_maps(("float32",)), st.data())
def test_percentile_maps_of_real_numbers_come_back_within_their_range(bent: IntensityMap, data: st.DataObject) -> None:
    minimum, _, _, maximum = bent.knots
    inside = st.floats(minimum, maximum, width=32)
    stored = np.array(data.draw(st.lists(inside, min_size=1, max_size=20)), dtype=np.float32)
    back = bent.inverse(bent.forward(stored))
    assert back.dtype == np.float32
    assert np.abs(back.astype(float) - stored.astype(float)).max() <= 1e-5 * (maximum - minimum)


@settings(deadline=None, derandomize=True)
@given(st.one_of(windows(), bent_maps(("uint8", "uint16", "int16", "float32"))), st.data())
def test_brighter_never_becomes_darker(intensity: IntensityMap, data: st.DataObject) -> None:
    values = real_numbers if intensity.dtype == "float32" else st.integers(*LIMITS[intensity.dtype])
    stored = np.sort(np.array(data.draw(st.lists(values, min_size=2, max_size=30)), dtype=intensity.dtype))
    unit = intensity.forward(stored)
    assert (np.diff(unit) >= 0).all()
    assert np.abs(unit).max() <= 1


def test_the_tails_keep_all_16_bit_levels_apart_even_beside_a_window_of_two() -> None:
    for low, high in ((0, 1), (65534, 65535), (30000, 30001)):
        bent = IntensityMap("percentiles", low, high, "uint16", 0, 65535)
        levels = np.arange(65536, dtype=np.uint16)
        unit = bent.forward(levels)
        assert (np.diff(unit) > 0).all()
        np.testing.assert_array_equal(bent.inverse(unit), levels)


def test_the_knots_lie_where_they_should_and_a_tail_without_values_has_no_length() -> None:
    bent = IntensityMap("percentiles", 100, 900, "int16", -50, 3000)
    np.testing.assert_array_equal(
        bent.forward(np.array([-50, 100, 500, 900, 3000])), np.float32([-1, -1 + TAIL, 0, 1 - TAIL, 1])
    )
    np.testing.assert_array_equal(bent.forward(np.array([-9999, 9999])), [-1, 1])
    one_sided = IntensityMap("percentiles", 0, 900, "int16", 0, 3000)
    np.testing.assert_array_equal(one_sided.forward(np.array([0, 900])), np.float32([-1, 1 - TAIL]))
    plain = IntensityMap("percentiles", 0, 1000, "int16", 0, 1000)
    np.testing.assert_array_equal(plain.forward(np.array([0, 250, 1000])), [-1, -0.5, 1])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32"])
def test_large_batches_become_what_small_ones_do(dtype: str) -> None:
    bent = IntensityMap("percentiles", 20, 90, dtype, 3, 120)
    batch = np.random.default_rng(0).integers(0, 128, (3, 1, 160, 160)).astype(dtype)
    small = np.stack([bent.forward(row) for row in batch.reshape(-1, 16)]).reshape(batch.shape)
    np.testing.assert_array_equal(bent.forward(batch), small)
    np.testing.assert_array_equal(bent.forward(batch[..., ::2]), small[..., ::2])


def test_a_window_of_large_integers_is_not_blurred() -> None:
    window = IntensityMap("window", 2**30, 2**30 + 100, "int32")
    stored = np.arange(2**30, 2**30 + 101, dtype=np.int32)
    np.testing.assert_array_equal(window.inverse(window.forward(stored)), stored)


# --- each file its own window ---


def test_files_of_two_scales_become_alike_with_their_own_knots() -> None:
    rng = np.random.default_rng(0)
    images = np.stack([rng.integers(0, 140, (1, 20, 20)), rng.integers(0, 3800, (1, 20, 20))]).astype(np.int16)
    knots = np.array([file_knots(image) for image in images])
    intensity, _ = choose_map("per-file", knots, ["int16", "int16"], dims=3)
    unit = intensity.forward(images, knots)
    assert unit.shape == images.shape
    for image, row, mapped in zip(images, knots, unit, strict=True):
        assert (mapped.min(), mapped.max()) == (-1, 1)
        np.testing.assert_array_equal(mapped, intensity.forward(image, row))
        np.testing.assert_array_equal(intensity.for_file(row).inverse(mapped), image)


def test_the_other_kinds_do_not_look_at_a_files_knots() -> None:
    image = np.arange(100, dtype=np.uint8)
    for intensity in (
        IntensityMap("uint8", 0, 255, "uint8"),
        IntensityMap("window", 10, 50, "uint8"),
        IntensityMap("percentiles", 10, 50, "uint8", 0, 90),
    ):
        np.testing.assert_array_equal(intensity.forward(image, file_knots(image)), intensity.forward(image))
        assert intensity.for_file((1, 2, 3, 4)) is intensity


@pytest.mark.parametrize(
    "knots", [(7, 7, 7, 7), (0, 0, 0, 0), (255, 255, 255, 255), (0, 3, 3, 255), (0, 0, 0, 9), (4, 9, 9, 9)], ids=str
)
def test_files_with_hardly_any_contrast_still_have_a_map(knots: tuple[int, ...]) -> None:
    own = IntensityMap("per-file", 0, 200, "uint8", 0, 255).for_file(knots)
    stored = np.array(knots, dtype=np.uint8)
    np.testing.assert_array_equal(own.inverse(own.forward(stored)), stored)


def test_knots_that_do_not_fit_are_named() -> None:
    intensity = IntensityMap("per-file", 0, 200, "uint8", 0, 255)
    with pytest.raises(ConfigError, match=r"shape \(3, 4\) were given for 2 images"):
        intensity.forward(np.zeros((2, 1, 4, 4), np.uint8), np.zeros((3, 4)))
    with pytest.raises(ConfigError, match="maximum <= 255 was wanted"):
        intensity.for_file((0, 0, 300, 300))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 9, 1), (40, 50, 3), (8, 300, 400, 1)])
def test_the_knots_of_a_file_are_its_percentiles(dtype: str, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(1).normal(100, 30, shape).clip(0, 255) - (40 if dtype == "int16" else 0)
    pixels = values.astype(dtype)
    found = file_knots(pixels.swapaxes(0, 1))
    assert all(isinstance(value, float) for value in found)
    assert (found[0], found[3]) == (pixels.min(), pixels.max())
    for value, share in ((found[1], 1), (found[2], 999)):
        assert (pixels < value).sum() * 1000 < share * pixels.size <= (pixels <= value).sum() * 1000


# --- choosing ---


def rows(*knots: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(knots, dtype=np.float64)


SAME = rows(*[(0, 5, 900, 1000)] * 20)
APART = rows(*[(0, 0, 139, 139)] * 6, *[(0, 0, 3800, 4000)] * 6)


@pytest.mark.parametrize(
    ("knots", "dtypes", "dims", "kind", "dtype", "words"),
    [
        (rows((0, 0, 10, 10), (0, 0, 255, 255)), ["uint8"] * 2, 2, "uint8", "uint8", "all images are 8 bit"),
        (rows((0, 0, 200, 200), (0, 0, 255, 255)), ["uint8"] * 2, 3, "uint8", "uint8", "of one scale"),
        (rows((0, 0, 20, 20), (0, 0, 255, 255)), ["uint8"] * 2, 3, "per-file", "uint8", "from 0–20 to 0–255"),
        (SAME, ["int16"] * 20, 3, "percentiles", "int16", "5–900; what lies beyond it, from 0 up to 1000, is kept"),
        (SAME, ["uint16"] * 20, 2, "percentiles", "uint16", "one window for all files"),
        (APART, ["uint16"] * 12, 2, "per-file", "uint16", "files run from 0–139 to 0–3800, so each file gets its own"),
        (APART, ["float32"] * 12, 3, "per-file", "float32", "own window"),
        (SAME[:2], ["uint8", "uint16"], 2, "per-file", "uint16", "stored as uint16 and uint8"),
        (SAME[:2], ["uint8", "int16"], 3, "per-file", "int16", "each file gets its own window"),
        (SAME[:2], ["uint16", "int16"], 3, "per-file", "int32", "each file gets its own window"),
        (SAME[:3], ["uint16", "int16", "float32"], 3, "per-file", "float32", "float32, int16 and uint16"),
    ],
)
def test_the_chosen_map(knots: np.ndarray, dtypes: list[str], dims: int, kind: str, dtype: str, words: str) -> None:
    intensity, reason = choose_map("auto", knots, dtypes, dims=dims)
    assert (intensity.kind, intensity.dtype) == (kind, dtype)
    assert words in reason
    assert reason.endswith(".")


def test_one_odd_file_among_many_does_not_decide() -> None:
    knots = np.concatenate([np.tile(SAME, (3, 1)), rows((0, 0, 3, 3)), rows((0, 0, 30000, 65535)), rows((9, 9, 9, 9))])
    intensity, _ = choose_map("auto", knots, ["uint16"] * len(knots), dims=2)
    assert intensity == IntensityMap("percentiles", 5, 900, "uint16", 0, 65535)


def test_each_file_its_own_window_is_written_with_the_middle_one() -> None:
    knots = rows((0, 10, 100, 110), (0, 20, 1000, 1100), (4, 30, 5000, 6000))
    intensity, reason = choose_map("per-file", knots, ["int16"] * 3, dims=3)
    assert intensity.knots == (0, 20, 1000, 1100)
    assert "written with the middle one, 20–1000" in reason


def test_the_middle_window_is_that_of_a_file() -> None:
    knots = rows(*[(0, 1, 139, 139)] * 10, *[(0, 9, 3800, 4000)] * 10)
    assert choose_map("per-file", knots, ["int16"] * 20, dims=3)[0].knots == (0, 1, 139, 139)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "float32"])
def test_a_burned_in_marker_does_not_take_the_window(dtype: str) -> None:
    image = np.random.default_rng(0).integers(0, 4096, (200, 200)).astype(dtype)
    plain = file_knots(image)
    image[:12, :40] = 32767
    assert file_knots(image) == pytest.approx((plain[0], plain[1], plain[2], 32767), abs=8)
    image[:100] = 32767
    assert file_knots(image)[2] == 32767, "half the image is no marker"


def test_saturation_is_no_marker() -> None:
    image = np.random.default_rng(0).integers(0, 4096, (200, 200)).astype(np.uint16)
    image[:12, :40] = 4095
    assert file_knots(image)[2] == 4095


def test_padding_around_the_field_of_view_does_not_take_the_window() -> None:
    image = np.random.default_rng(0).integers(-1024, 3072, (200, 200)).astype(np.int16)
    plain = file_knots(image)
    image[:100] = -3024
    assert file_knots(image) == pytest.approx((-3024, *plain[1:]), abs=16)
    brain = np.random.default_rng(0).integers(200, 3800, (200, 200)).astype(np.int16)
    brain[:100] = 0
    assert file_knots(brain)[1] == 0, "a dark background is part of the picture"


@settings(deadline=None)
@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=60))
def test_knots_are_in_order_and_the_ends_are_the_extremes(values: list[int]) -> None:
    minimum, low, high, maximum = file_knots(np.array(values, dtype=np.int16))
    assert (minimum, maximum) == (min(values), max(values))
    assert minimum <= low <= high <= maximum


def test_generated_values_stay_in_the_window() -> None:
    intensity = IntensityMap("percentiles", -1024, 2000, "int16", -3024, 3071)
    generated = np.array([-1, -1 + TAIL / 2, -1 + TAIL, 0, 1 - TAIL, 1], dtype=np.float32)
    values = intensity.inverse(generated, tails=False)
    assert (values.min(), values.max()) == (-1024, 2000)
    assert (intensity.inverse(generated).min(), intensity.inverse(generated).max()) == (-3024, 3071)
    inside = np.linspace(-1 + TAIL, 1 - TAIL, 50)
    np.testing.assert_array_equal(intensity.inverse(inside, tails=False), intensity.inverse(inside))


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.lists(st.integers(0, 65535), min_size=4, max_size=4).map(sorted), min_size=1, max_size=12),
    st.sampled_from(["auto", "percentiles", "per-file"]),
    st.sampled_from(["uint16", "int32", "float32"]),
)
def test_any_files_get_a_map_that_holds_all_their_values(knots: list[list[int]], setting: str, dtype: str) -> None:
    intensity, _ = choose_map(setting, np.array(knots), [dtype] * len(knots), dims=2)
    for row in knots:
        own = intensity.for_file(row)
        assert own.knots[0] <= row[0]
        assert own.knots[3] >= row[3]


@pytest.mark.parametrize("level", [0, 700, 65535])
def test_a_set_of_a_single_level_still_has_a_map(level: int) -> None:
    values = np.full((3, 1, 4, 4), level, np.uint16)
    intensity, _ = choose_map("percentiles", np.array([file_knots(image) for image in values]), ["uint16"] * 3, dims=2)
    np.testing.assert_array_equal(intensity.inverse(intensity.forward(values)), values)


def test_a_given_window_clips() -> None:
    intensity, reason = choose_map("window", rows((-1024, -1000, 900, 3000)), ["int16"], dims=3, window=(-160, 240))
    assert intensity == IntensityMap("window", -160, 240, "int16")
    assert "-160–240 are clipped" in reason


@pytest.mark.parametrize(
    ("setting", "dtypes", "window", "message"),
    [
        ("log", ["uint8"], None, "one of auto, uint8"),
        ("uint8", ["uint16"], None, "stored as uint16; 8-bit files were wanted. Use auto"),
        ("uint8", ["uint8", "uint16"], None, "8-bit files were wanted"),
        ("window", ["uint16"], None, "must have a window"),
        ("auto", ["uint16"], (0, 10), "no other may"),
        ("window", ["uint16"], (-10, 10), "0 <= low < high"),
        ("window", ["uint16"], (10, 5), "low < high"),
        ("window", ["uint16"], (2000, 3000), "values run from 0 to 1000"),
    ],
)
def test_settings_that_do_not_fit_are_config_errors(
    setting: str, dtypes: list[str], window: tuple[float, float] | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_map(setting, SAME, dtypes, dims=2, window=window)


def test_no_files_no_map() -> None:
    with pytest.raises(DataError, match="at least one was wanted"):
        choose_map("auto", np.empty((0, 4)), [], dims=2)


# --- stored maps ---


@settings(deadline=None, derandomize=True)
@given(st.one_of(windows(), bent_maps()))
def test_the_dictionary_gives_the_map_back(window: IntensityMap) -> None:
    assert IntensityMap.from_dict(window.to_dict()) == window


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "log"},
        {"dtype": "float64"},
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


@pytest.mark.parametrize(
    "change",
    [
        {"minimum": None},
        {"maximum": None},
        {"minimum": 150},
        {"maximum": 150},
        {"minimum": -1},
        {"maximum": 10**400},
        {"low": 10**400},
        {"kind": "window"},
    ],
    ids=lambda change: str(change)[:30],
)
def test_nonsensical_knots_are_a_model_file_error(change: dict[str, object]) -> None:
    fields = IntensityMap("percentiles", 100, 200, "uint16", 50, 300).to_dict()
    with pytest.raises(ModelFileError):
        IntensityMap.from_dict({**fields, **change})


def test_a_map_stored_before_there_were_percentiles_is_read() -> None:
    fields = {"kind": "window", "low": 3.0, "high": 9.0, "dtype": "uint16"}
    assert IntensityMap.from_dict(fields) == IntensityMap("window", 3, 9, "uint16")
    assert IntensityMap.from_dict({**fields, "kind": "uint8", "low": 0, "high": 255, "dtype": "uint8"}).kind == "uint8"


def test_a_window_between_two_levels_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="whole number"):
        IntensityMap("window", 0.2, 0.8, "uint8")
    assert IntensityMap("window", 0.2, 0.8, "float32").inverse(np.array([0.0])) == np.float32(0.5)


def test_a_window_upside_down_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="low < high"):
        IntensityMap("window", 200, 100, "uint8")
