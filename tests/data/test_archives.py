import hashlib
import io
import os
import struct
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from ganaug.data import archives
from ganaug.data.archives import decode_part, member_names, open_member, part_sha256, tables
from ganaug.data.layouts import npz as npz_layout
from ganaug.errors import DataError


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    """Forget the arrays of other tests, so that each test unpacks its own."""
    yield
    archives._member.cache_clear()
    archives._names.cache_clear()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def header(shape: str, descr: str = "'|u1'", version: bytes = b"\x01\x00") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H" if version == b"\x01\x00" else "<I", len(text)) + text


def pack(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def forge(path: Path, *, size: int | None = None, crc: int | None = None, name: bytes = b"x.npy") -> Path:
    """Overwrite what the zip's directory (and the member itself) says of the member's unpacked size or checksum."""
    raw = bytearray(path.read_bytes())
    for mark, crc_at in ((b"PK\x03\x04", 14), (b"PK\x01\x02", 16)):
        at = raw.find(mark)
        assert at >= 0
        if size is not None:
            raw[at + crc_at + 8 : at + crc_at + 12] = struct.pack("<I", size)
        if crc is not None:
            raw[at + crc_at : at + crc_at + 4] = struct.pack("<I", crc)
    path.write_bytes(raw)
    return path


# --- arrays ---


ARRAYS = {
    "gray": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "big endian": np.arange(24, dtype=">i2").reshape(2, 3, 4),
    "fortran": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "names": np.array(["a", "bc"]),
    "bytes": np.array([b"a", b"bc"]),
    "truth": np.array([True, False]),
    "scalar": np.array(7),
    "empty": np.zeros((0, 5)),
    "long header": np.zeros((1,) * 30),
}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("in_memory", [True, False])
def test_arrays_come_as_they_were_saved(
    tmp_path: Path, method: int, in_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not in_memory:
        monkeypatch.setattr(archives, "IN_MEMORY", 0)
    path = pack(tmp_path / "x.npz", {name: npy(array) for name, array in ARRAYS.items()}, method)
    assert member_names(path) == tuple(sorted(ARRAYS))
    for name, array in ARRAYS.items():
        found = open_member(path, name)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
        assert not found.flags.writeable


def test_large_arrays_are_mapped_from_a_file_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "IN_MEMORY", 1000)
    monkeypatch.setattr(archives, "_BLOCK", 4096)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    values = np.random.default_rng(0).integers(0, 256, (50, 33, 21), dtype=np.uint8)
    path = pack(tmp_path / "x.npz", {"x": npy(values)})
    found = open_member(path, "x")
    np.testing.assert_array_equal(found, values)
    assert [file.name for file in tmp_path.iterdir()] == ["x.npz"]
    base: Any = found
    while base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)


def test_an_array_is_unpacked_once_until_the_file_changes(tmp_path: Path) -> None:
    path = pack(tmp_path / "x.npz", {"x": npy(np.arange(5))})
    first = open_member(path, "x")
    assert open_member(path, "x") is first
    pack(path, {"x": npy(np.arange(7))})
    os.utime(path, ns=(time.time_ns() + 10**9,) * 2)
    assert len(open_member(path, "x")) == 7


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_processes_forked_later_share_the_array(tmp_path: Path) -> None:
    path = pack(tmp_path / "x.npz", {"x": npy(np.arange(5))})
    first = open_member(path, "x")
    child = os.fork()
    if child == 0:
        os._exit(0 if open_member(path, "x") is first else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_too_little_room_to_unpack_is_said_before_it_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "IN_MEMORY", 10)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 99})())
    with pytest.raises(DataError, match=r"no room to unpack it in .*TMPDIR"):
        open_member(pack(tmp_path / "x.npz", {"x": npy(np.arange(50))}), "x")


# --- archives that are damaged, or mean harm ---


def no_zip(path: Path) -> None:
    path.write_bytes(b"no zip at all")


def absent(path: Path) -> None: ...


def a_folder(path: Path) -> None:
    path.mkdir()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def no_member(path: Path) -> None:
    pack(path, {"y": npy(np.arange(3))})


def no_array(path: Path) -> None:
    pack(path, {"x": b"just text"})


def empty_member(path: Path) -> None:
    pack(path, {"x": b""})


def pickled(path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    pack(path, {"x": stream.getvalue()})


def structured(path: Path) -> None:
    pack(path, {"x": npy(np.zeros(3, dtype=[("a", "u1"), ("b", "f4")]))})


def dates(path: Path) -> None:
    pack(path, {"x": npy(np.array(["2020-01-01"], dtype="M8[D]"))})


def complex_numbers(path: Path) -> None:
    pack(path, {"x": npy(np.zeros(3, dtype=complex))})


def fewer_values_than_claimed(path: Path) -> None:
    pack(path, {"x": header("(100, 100)") + bytes(5000)})


def more_values_than_claimed(path: Path) -> None:
    pack(path, {"x": header("(100,)") + bytes(5000)})


def a_negative_side(path: Path) -> None:
    pack(path, {"x": header("(-10, -10)") + bytes(100)})


def terabytes(path: Path) -> None:
    pack(path, {"x": header("(10000000, 1000, 1000)") + bytes(100)})


def a_header_of_gigabytes(path: Path) -> None:
    pack(path, {"x": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + bytes(2**20)})


def a_nested_header(path: Path) -> None:
    text = b"(" * 50_000
    pack(path, {"x": b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text})


def an_unknown_version(path: Path) -> None:
    pack(path, {"x": header("(3,)", version=b"\x09\x00") + bytes(3)})


def a_bomb_that_claims_little(path: Path) -> None:
    # The header and the directory agree on 1,000 bytes; the stream goes on for 64 MB of zeros.
    start = header("(1000,)")
    forge(pack(path, {"x": start + bytes(64 * 2**20)}), size=len(start) + 1000)


def a_bomb_with_a_fitting_checksum(path: Path) -> None:
    start = header("(1000,)")
    forge(pack(path, {"x": start + bytes(2**20)}), size=len(start) + 2000, crc=zlib.crc32(start + bytes(2000)))


def a_claim_that_no_stream_can_hold(path: Path) -> None:
    start = header("(3000000000,)")
    forge(pack(path, {"x": start + bytes(1000)}), size=len(start) + 3_000_000_000)


def a_stream_that_ends_early(path: Path) -> None:
    start = header("(100000,)")
    forge(pack(path, {"x": start + bytes(90_000)}), size=len(start) + 100_000)


def cut_in_the_middle(path: Path) -> None:
    pack(path, {"x": npy(np.random.default_rng(0).integers(0, 256, 9000, dtype=np.uint8))})
    path.write_bytes(path.read_bytes()[:4000])


def a_flipped_byte(path: Path) -> None:
    pack(path, {"x": npy(np.random.default_rng(0).integers(0, 256, 9000, dtype=np.uint8))}, zipfile.ZIP_STORED)
    raw = bytearray(path.read_bytes())
    raw[5000] ^= 255
    path.write_bytes(raw)


def a_password(path: Path) -> None:
    pack(path, {"x": npy(np.arange(9))})
    raw = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.find(mark) + at] |= 1
    path.write_bytes(raw)


def another_way_of_packing(path: Path) -> None:
    pack(path, {"x": npy(np.arange(9))}, zipfile.ZIP_LZMA)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_zip, "not an .npz archive, or damaged"),
        (absent, "cannot be opened"),
        (a_folder, "not a regular file"),
        (a_pipe, "not a regular file"),
        (no_member, "has no array x"),
        (no_array, "x.npy is no array of NumPy"),
        (empty_member, "x.npy is no array of NumPy"),
        (pickled, "holds Python objects, which are not read"),
        (structured, "real numbers or text were wanted"),
        (dates, "real numbers or text were wanted"),
        (complex_numbers, "real numbers or text were wanted"),
        (fewer_values_than_claimed, "claims 100×100 of uint8, and the archive 5,"),
        (more_values_than_claimed, "claims 100 of uint8, and the archive 5,"),
        (a_negative_side, "claims -10×-10"),
        (terabytes, "claims 10000000×1000×1000"),
        (a_header_of_gigabytes, "no array of NumPy"),
        (a_nested_header, "no array of NumPy"),
        (an_unknown_version, "no array of NumPy"),
        (a_bomb_that_claims_little, "damaged"),
        (a_bomb_with_a_fitting_checksum, "and the archive 2,0"),
        (a_claim_that_no_stream_can_hold, "claims 3,000,000,"),
        (a_stream_that_ends_early, "ends too early|damaged"),
        (cut_in_the_middle, "damaged"),
        (a_flipped_byte, "damaged"),
        (a_password, "password"),
        (another_way_of_packing, "packed in an unknown way"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_hostile_archives_are_refused_by_path_without_taking_memory(
    tmp_path: Path, make: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = np.empty
    monkeypatch.setattr(
        np, "empty", lambda shape, *args, **kwargs: made(shape, *args, **kwargs) if np.prod(shape) < 10**8 else 1 / 0
    )
    path = tmp_path / "x.npz"
    make(path)
    with pytest.raises(DataError, match=message) as caught:
        open_member(path, "x")
    assert str(caught.value).startswith(f"{path}: ")


def test_the_cap_is_on_what_an_array_claims(tmp_path: Path) -> None:
    path = pack(tmp_path / "x.npz", {"x": npy(np.zeros(1000, np.uint8))})
    assert len(open_member(path, "x", limit=1000)) == 1000
    with pytest.raises(DataError, match=r"too large \(1,000 bytes claimed, at most 999 are read\)"):
        open_member(path, "x", limit=999)


def test_names_that_would_lead_out_of_a_folder_are_only_names(tmp_path: Path) -> None:
    path = pack(tmp_path / "x.npz", {"../../evil\x1b[31m": npy(np.arange(3)), "/etc/passwd": npy(np.arange(3))})
    assert len(open_member(path, "../../evil\x1b[31m")) == 3
    with pytest.raises(DataError, match="holds") as caught:
        tables(path)
    assert "\x1b" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["x.npz"]


def mutated(raw: bytes, random: Random) -> bytes:
    """Return `raw` cut off, overwritten in places, or with a piece taken out."""
    changed = bytearray(raw)
    kind = random.randrange(3)
    if kind == 0:
        del changed[random.randrange(len(raw)) :]
    elif kind == 1:
        for _ in range(random.randint(1, 20)):
            changed[random.randrange(len(raw))] = random.randrange(256)
    else:
        start = random.randrange(len(raw))
        del changed[start : start + random.randint(1, 40)]
    return bytes(changed)


def test_damaged_archives_are_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "train_images": npy(rng.integers(0, 256, (4, 5, 6), dtype=np.uint8)),
        "train_labels": npy(np.array([[0], [1], [0], [1]])),
        "classes": npy(np.array(["a", "b"])),
    }
    originals = [
        pack(tmp_path / f"{method}.npz", arrays, method).read_bytes()
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    ]
    read, refused = 0, []
    for seed in range(400):
        random = Random(seed)
        path = tmp_path / "mutated" / f"{seed}.npz"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(mutated(originals[seed % 2], random))
        try:
            for entry in npz_layout.listing(path).entries:
                decode_part(path.parent, entry.path, entry.part)
            read += 1
        except DataError as problem:
            refused.append((path, str(problem)))
    assert read > 0
    assert len(refused) > 200
    assert all(message.startswith(f"{path}: ") for path, message in refused)


# --- images of an archive ---


@pytest.mark.parametrize(
    ("shape", "dtype", "wanted"),
    [
        ((6, 5), "uint8", ((6, 5, 1), "uint8")),
        ((6, 5, 1), "uint16", ((6, 5, 1), "uint16")),
        ((6, 5, 3), "uint8", ((6, 5, 3), "uint8")),
        ((8, 6, 5), ">i2", ((8, 6, 5, 1), "int16")),
        ((8, 6, 5, 3), "float64", ((8, 6, 5, 3), "float32")),
        ((6, 5), "int64", ((6, 5, 1), "int32")),
        ((6, 5), "bool", ((6, 5, 1), "uint8")),
    ],
    ids=str,
)
def test_a_part_is_one_image_in_a_stored_type(tmp_path: Path, shape: Any, dtype: str, wanted: Any) -> None:
    images = (np.random.default_rng(0).random((3, *shape)) * 2).astype(dtype)
    np.savez(tmp_path / "set.npz", images=images, labels=np.zeros(3))
    decoded = decode_part(tmp_path, "set.npz", "images[2]")
    assert (decoded.pixels.shape, decoded.pixels.dtype.name) == wanted
    assert decoded.pixels.dtype.isnative
    np.testing.assert_array_equal(decoded.pixels.reshape(shape), images[2].astype(wanted[1]))
    assert (decoded.format, decoded.mode) == ("npz", np.dtype(dtype).name)
    assert (decoded.spacing, decoded.group, decoded.hints) == (None, "", ())


def test_an_image_with_nan_is_refused_alone(tmp_path: Path) -> None:
    images = np.zeros((3, 4, 4))
    images[1, 2, 2] = np.nan
    np.savez(tmp_path / "set.npz", train_images=images, train_labels=np.zeros(3))
    decode_part(tmp_path, "set.npz", "train[0]")
    with pytest.raises(DataError, match="1 of 16 values are not finite"):
        decode_part(tmp_path, "set.npz", "train[1]")


@pytest.mark.parametrize("part", ["", "train", "train[3]", "train[-1]", "test[0]", "images[0]", "train[99999999999]"])
def test_a_part_that_is_not_there_says_that_the_archive_changed(tmp_path: Path, part: str) -> None:
    np.savez(tmp_path / "set.npz", train_images=np.zeros((3, 4, 4)), train_labels=np.zeros(3))
    with pytest.raises(DataError, match=r"has no part .*the archive has changed") as caught:
        decode_part(tmp_path, "set.npz", part)
    assert str(caught.value).startswith(f"{tmp_path / 'set.npz'}: ")


def test_the_hash_is_of_type_shape_and_values_and_of_nothing_else() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6, 1)
    digest = part_sha256(pixels)
    assert digest == hashlib.sha256(b"uint8 4x6x1\n" + bytes(range(24))).hexdigest()
    assert digest == part_sha256(np.asfortranarray(pixels))
    assert digest == part_sha256(np.repeat(pixels, 2, axis=0)[::2])
    others = [pixels.reshape(6, 4, 1), pixels.astype(np.int16), pixels + np.uint8(1), pixels.reshape(4, 6, 1, 1)]
    assert len({digest, *map(part_sha256, others)}) == 5
    deep = pixels.astype(np.uint16)
    assert part_sha256(deep) == part_sha256(deep.astype(">u2"))


def test_copies_across_the_splits_of_medmnist_are_found() -> None:
    if "GANAUG_DATA" not in os.environ:
        pytest.skip("GANAUG_DATA is not set")
    folder = Path(os.environ["GANAUG_DATA"]) / "pneumoniamnist"
    digests: dict[str, set[str]] = {"train": set(), "val": set()}
    for entry in npz_layout.listing(folder).entries:
        if entry.split in digests:
            digests[entry.split].add(part_sha256(decode_part(folder, entry.path, entry.part).pixels))
    assert len(digests["train"] & digests["val"]) == 8
