"""Arrays that grow by whole rows, whatever a kill or a power cut left of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganaug.progress import Silent
from ganaug.sampling.growing import grow_npy

SHAPE = (7, 2, 3)
WHOLE = np.arange(42, dtype=np.int32).reshape(SHAPE)


def _grow(path: Path, batch: int = 2, dtype: str = "int32") -> tuple[int, list[tuple[int, int]]]:
    asked: list[tuple[int, int]] = []

    def rows(part: slice) -> np.ndarray:
        asked.append((part.start, part.stop))
        return WHOLE[part]

    return grow_npy(path, SHAPE, dtype, rows, batch=batch, progress=Silent()), asked


def test_a_new_file_is_asked_for_batch_by_batch(tmp_path: Path) -> None:
    assert _grow(tmp_path / "a.npy", batch=3) == (0, [(0, 3), (3, 6), (6, 7)])
    assert np.array_equal(np.load(tmp_path / "a.npy"), WHOLE)


def test_a_whole_file_is_left_as_it_is(tmp_path: Path) -> None:
    _grow(tmp_path / "a.npy")
    data = (tmp_path / "a.npy").read_bytes()
    assert _grow(tmp_path / "a.npy") == (7, [])
    assert (tmp_path / "a.npy").read_bytes() == data


@settings(deadline=None)
@given(st.data())
def test_a_file_cut_anywhere_grows_to_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.npy"
    _grow(path)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    kept, _ = _grow(path, batch=data.draw(st.integers(1, 9)))
    assert kept == max(0, cut - (len(whole) - WHOLE.nbytes)) // 24
    assert path.read_bytes() == whole


@pytest.mark.parametrize("damage", [b"", b"not an array at all, but long enough to hide one" * 9])
def test_anything_else_is_begun_anew(tmp_path: Path, damage: bytes) -> None:
    _grow(tmp_path / "good.npy")
    (tmp_path / "a.npy").write_bytes(damage)
    assert _grow(tmp_path / "a.npy")[0] == 0
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "good.npy").read_bytes()


def test_an_array_of_another_type_is_begun_anew(tmp_path: Path) -> None:
    _grow(tmp_path / "a.npy", dtype="float32")
    assert _grow(tmp_path / "a.npy")[0] == 0
    assert np.load(tmp_path / "a.npy").dtype == np.int32


def test_what_stands_behind_the_last_row_is_cut_off(tmp_path: Path) -> None:
    _grow(tmp_path / "a.npy")
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(whole + b"more")
    assert _grow(tmp_path / "a.npy")[0] == 7
    assert (tmp_path / "a.npy").read_bytes() == whole
