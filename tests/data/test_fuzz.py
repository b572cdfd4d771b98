"""Damaged files: whatever bytes come, a reader and the table give a result or a `DataError`, nothing else."""

import io
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganaug.data.manifest import scan
from ganaug.data.readers import probe, read
from ganaug.errors import DataError
from tests.data.folders import make_folder, pixels

FORMATS = {
    "png": ("PNG", {}),
    "png16": ("PNG", {}),
    "palette": ("PNG", {}),
    "jpg": ("JPEG", {}),
    "tif": ("TIFF", {}),
    "tif16": ("TIFF", {}),
    "lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "deflate": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "bmp": ("BMP", {}),
    "webp": ("WEBP", {}),
}

TABLE = b'file_name,label,group\na/000.png,a,p1\na/001.png,a,p2\nb/000.png,b,p3\n"b/001.png",b,p4\n'


def seeds() -> list[bytes]:
    """Return a small valid file of each kind."""
    files = []
    for kind, (name, options) in FORMATS.items():
        array = pixels(1, 16, 12, dtype="uint16") if kind.endswith("16") else pixels(1, 16, 12, 3)
        image = Image.fromarray(array)
        stream = io.BytesIO()
        (image.convert("P") if kind == "palette" else image).save(stream, format=name, **options)
        files.append(stream.getvalue())
    return files


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return `data` with a few bytes changed, cut, doubled or inserted; the header is hit more often."""
    result = bytearray(data)
    for _ in range(rng.choice([1, 2, 4, 16])):
        end = len(result) if rng.random() < 0.5 else min(len(result), 80)
        at = rng.randrange(max(1, end))
        match rng.randrange(5):
            case 0:
                result[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                result[at : at + 4] = rng.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\1\0"])
            case 2:
                del result[at : at + rng.randrange(1, 40)]
            case 3:
                result[at:at] = rng.randbytes(rng.randrange(1, 20))
            case 4:
                result[at:at] = result[at : at + rng.randrange(1, 40)]
    return bytes(result[: rng.randrange(len(result) + 1)] if rng.random() < 0.1 else result)


def images_survive(folder: Path, seed: int, times: int) -> int:
    """Read `times` mutated files; return how many were refused."""
    rng = random.Random(seed)
    valid = seeds()
    path = folder / "scan.png"
    refused = 0
    for _ in range(times):
        path.write_bytes(mutated(rng.choice(valid), rng))
        try:
            info = probe(path)
            found = read(path)
        except DataError:
            refused += 1
            continue
        assert found.shape == (info.height, info.width, info.channels)
        assert found.dtype == np.dtype(info.dtype)
    return refused


def tables_survive(folder: Path, seed: int, times: int) -> int:
    """Scan a folder with `times` mutated tables; return how many were refused."""
    rng = random.Random(seed)
    make_folder(folder, {"a": 2, "b": 2})
    refused = 0
    for _ in range(times):
        (folder / "metadata.csv").write_bytes(mutated(TABLE, rng))
        try:
            manifest = scan(folder)
        except DataError:
            refused += 1
            continue
        assert {item.path for item in manifest.items} <= {"a/000.png", "a/001.png", "b/000.png", "b/001.png"}
    return refused


@pytest.fixture(autouse=True)
def _quiet() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_mutated_images_give_pixels_or_a_data_error(tmp_path: Path) -> None:
    assert 50 < images_survive(tmp_path, seed=0, times=200) < 200


def test_mutated_tables_give_a_manifest_or_a_data_error(tmp_path: Path) -> None:
    assert 50 < tables_survive(tmp_path, seed=0, times=200) < 200


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", range(1, 11))
def test_many_mutated_files(tmp_path: Path, seed: int) -> None:
    assert images_survive(tmp_path, seed, times=900)
    assert tables_survive(tmp_path / "table", seed, times=100)
