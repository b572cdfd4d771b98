import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from ganaug.data.fingerprint import CONSTANT, burned_in, near_duplicates, phash
from ganaug.errors import ConfigError


def picture(seed: int, height: int = 90, width: int = 110) -> np.ndarray:
    """Return smooth random structure, H×W uint8."""
    noise = gaussian_filter(np.random.default_rng(seed).random((height, width)), 6)
    return (255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)


def apart(one: int, other: int) -> int:
    return (one ^ other).bit_count()


def jpeg(image: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=75)
    return np.asarray(Image.open(stream))


def enlarged(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((220, 180), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    "change",
    [
        jpeg,
        enlarged,
        lambda image: (image * 0.7 + 20).astype(np.uint8),
        lambda image: image.astype(np.uint16) * 250,
        lambda image: image.astype(np.float32) / 255 - 3,
        lambda image: np.stack([image] * 3, axis=-1),
    ],
    ids=["jpeg", "enlarged", "darker", "16 bit", "float", "color"],
)
def test_the_hash_survives_what_leaves_the_content(change) -> None:
    for seed in range(5):
        image = picture(seed)
        other = change(image)
        other = other if other.ndim == 3 else other[..., None]
        assert apart(phash(image[..., None]), phash(other)) <= 3


def test_hashes_of_other_images_are_far() -> None:
    hashes = [phash(picture(seed)[..., None]) for seed in range(40)]
    assert min(apart(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) > 8
    assert 0 < min(hashes) <= max(hashes) < 2**64


def test_the_hash_of_a_volume_is_that_of_its_central_slice() -> None:
    volume = np.stack([picture(seed) for seed in range(5)])[..., None]
    assert phash(volume) == phash(volume[2])


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((20, 20, 1), np.uint8),
        np.full((9, 30, 3), 77, np.uint16),
        np.full((4, 9, 9, 1), -1.5, np.float32),
        np.ones((1, 1, 1), np.uint8),
    ],
)
def test_constant_images_are_near_to_nothing(pixels: np.ndarray) -> None:
    assert phash(pixels) == CONSTANT
    assert near_duplicates([CONSTANT, CONSTANT, 1, 2**40 - 1]) == [], "not even to a hash that is one bit apart"


def test_extreme_values_do_not_fail() -> None:
    pixels = np.full((64, 64, 3), 3e38, np.float32)
    pixels[:, ::3] = -3e38
    phash(pixels)
    burned_in(pixels)


@given(
    hashes=st.lists(st.none() | st.integers(0, 15) | st.sampled_from([2**60, 2**60 + 7, 2**60 + 31]), max_size=14),
    distance=st.integers(0, 3),
    patients=st.integers(1, 14),
    spread=st.permutations(range(64)),
    data=st.data(),
)
@settings(deadline=None, max_examples=300)
def test_sets_are_those_of_all_pairs(
    hashes: list[int | None], distance: int, patients: int, spread: list[int], data: st.DataObject
) -> None:
    # The bits that differ lie anywhere in the hash.
    hashes = [None if h is None else sum(1 << spread[bit] for bit in range(64) if h >> bit & 1) for h in hashes]
    groups = [str(data.draw(st.integers(1, patients))) for _ in hashes]
    for given_groups in (None, groups):
        linked = {
            (i, j)
            for i, one in enumerate(hashes)
            for j, other in enumerate(hashes[:i])
            if one and other and apart(one, other) <= distance
            if given_groups is None or groups[i] != groups[j]
        }
        expected = {index: {index} for index in range(len(hashes))}
        for i, j in linked:
            union = expected[i] | expected[j]
            for index in union:
                expected[index] = union
        sets = sorted({tuple(sorted(members)) for members in expected.values() if len(members) > 1})
        assert near_duplicates(hashes, distance, groups=given_groups) == [list(members) for members in sets]


def test_images_of_one_patient_are_not_linked_to_each_other() -> None:
    assert near_duplicates([5, 5, 4, 7], groups=["p"] * 4) == []
    assert near_duplicates([5, 5, 4 | 2**50, 2**40 - 1], groups=["p", "p", "q", "q"]) == [[0, 1, 2]]


def test_larger_distances_are_refused() -> None:
    with pytest.raises(ConfigError, match="0 to 3"):
        near_duplicates([1, 2], 4)


def test_pairs_are_found_among_many_hashes() -> None:
    hashes = [int(value) for value in np.random.default_rng(0).integers(1, 2**64, 20_000, dtype=np.uint64)]
    hashes[19_000] = hashes[17] ^ (1 | 1 << 31 | 1 << 63)
    hashes[3] = hashes[18_000]
    assert near_duplicates(hashes) == [[3, 18_000], [17, 19_000]]


@pytest.mark.slow
def test_a_hundred_thousand_hashes_take_little_memory() -> None:
    rng = np.random.default_rng(0)
    wide = [int(value) for value in rng.integers(1, 2**64, 100_000, dtype=np.uint64)]
    # All within six bits of one another, which is closer than the most aligned of real scans.
    dense = [wide[0] ^ sum(1 << int(bit) for bit in rng.choice(64, 3, replace=False)) for _ in range(100_000)]
    tracemalloc.start()
    try:
        assert near_duplicates(wide) == []
        assert len(near_duplicates(dense)) == 1
        assert tracemalloc.get_traced_memory()[1] < 300e6
    finally:
        tracemalloc.stop()


def scan(seed: int, size: int = 256) -> np.ndarray:
    """Return an anatomy-like blob with bright details on a dark, slightly noisy margin."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    body = (x / 0.36) ** 2 + (y / 0.42) ** 2 < 1
    inside = np.asarray(Image.fromarray(picture(seed, size, size)))
    noise = np.random.default_rng(seed).integers(0, 12, (size, size))
    return np.where(body, inside // 2 + 100, noise).astype(np.uint8)


@pytest.mark.parametrize("corner", [(4, 4), (150, 4), (4, 236), (150, 236)])
@pytest.mark.parametrize("text", ["DOE^JANE", "ID 4711", "12.03.1998 F"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_text_in_a_corner_is_seen(corner: tuple[int, int], text: str, dtype: str) -> None:
    image = Image.fromarray(scan(1))
    ImageDraw.Draw(image).text(corner, text, fill=230, font=ImageFont.load_default(size=14))
    pixels = np.asarray(image).astype(dtype)[..., None]
    assert burned_in(pixels * np.array(257 if dtype == "uint16" else 1, dtype))
    assert burned_in(np.stack([pixels] * 3))


@pytest.mark.parametrize(
    "pixels",
    [
        *(scan(seed)[..., None] for seed in range(5)),
        *(picture(seed)[..., None] for seed in range(5)),
        np.zeros((100, 100, 1), np.uint8),
        (np.random.default_rng(0).random((200, 200, 1)) > 0.97).astype(np.uint8),
        np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8),
        np.full((30, 30, 1), 7, np.uint8),
    ],
)
def test_images_without_text_give_no_hint(pixels: np.ndarray) -> None:
    assert not burned_in(pixels)


def test_a_texture_of_marks_is_no_text_and_takes_no_time() -> None:
    pixels = np.zeros((1024, 1024, 1), np.uint8)
    for row in range(0, 1016, 9):
        for column in range(0, 1020, 7):
            pixels[row : row + 6, column : column + 3] = 255
            pixels[row + 2 : row + 4, column + 1] = 0
    assert not burned_in(pixels)
