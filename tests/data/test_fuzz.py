"""Damaged files: whatever bytes come, readers and tables give a result or a `DataError`, soon and in little room."""

import gzip
import io
import random
import struct
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from ganaug.data import Manifest, scan
from ganaug.data.readers import DTYPES, decode, readers_by_suffix, supported_suffixes
from ganaug.errors import DataError
from tests.data.folders import make_folder, pixels

SECONDS = 2  # of CPU for a file
MEGABYTES = 512  # of memory for a file

Mutation = Callable[[bytes, random.Random], bytes]

TABLE = b'file_name,label,group\na/000.png,a,p1\na/001.png,a,p2\nb/000.png,b,p3\n"b/001.png",b,p4\n'


# --- small valid files of every kind ---


def picture(form: str, mode: str = "RGB", pages: int = 1, **options: object) -> bytes:
    array = pixels(1, 16, 12, dtype="uint16") if mode == "I;16" else pixels(1, 16, 12, 3)
    image = Image.fromarray(array) if mode == "I;16" else Image.fromarray(array).convert(mode)
    if pages > 1:
        options |= {"save_all": True, "append_images": [image] * (pages - 1)}
    stream = io.BytesIO()
    image.save(stream, format=form, **options)
    return stream.getvalue()


def turned_photo() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture("JPEG", exif=exif.tobytes())


def nifti(dtype: str, kind: type = nib.Nifti1Image, shape: tuple[int, ...] = (6, 5, 4)) -> bytes:
    array = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    image = kind(array, np.diag([-2.0, 2.0, 3.0, 1]), dtype=array.dtype)
    image.header.set_slope_inter(1, -1024) if dtype == "int16" else None
    return image.to_bytes()


def numpy_file(shape: tuple[int, ...], dtype: str, order: str = "C") -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.asarray(np.random.default_rng(0).integers(0, 200, shape), dtype, order=order))
    return stream.getvalue()


def dicom(syntax: str, frames: int = 1, samples: int = 1, preamble: bool = True) -> bytes:
    pydicom = pytest.importorskip("pydicom")
    array = pixels(1, 8 * frames, 8, samples, "uint8" if samples == 3 else "uint16")
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = pydicom.uid.CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3.4"
    dataset.PatientID, dataset.Modality, dataset.SeriesInstanceUID = "p1", "CT", "1.2.3"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 8, 8, samples
    dataset.PhotometricInterpretation = "RGB" if samples == 3 else "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * array.itemsize
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, 0
    if samples == 3:
        dataset.PlanarConfiguration = 0
    if frames > 1:
        dataset.NumberOfFrames = frames
    dataset.PixelSpacing, dataset.SliceThickness = [0.5, 0.5], 2
    dataset.ImageOrientationPatient, dataset.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 0]
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.PixelData = array.tobytes()
    dataset["PixelData"].VR = "OB" if samples == 3 else "OW"
    if syntax == "RLELossless":
        dataset.compress(pydicom.uid.RLELossless)
    elif syntax == "JPEGBaseline8Bit":
        dataset.PixelData = pydicom.encaps.encapsulate([picture("JPEG")])
        dataset.Rows, dataset.Columns, dataset.PhotometricInterpretation = 16, 12, "YBR_FULL_422"
    dataset.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
    stream = io.BytesIO()
    if preamble:
        dataset.save_as(stream, enforce_file_format=True)
    else:
        del dataset.file_meta
        dataset.save_as(stream, implicit_vr=True, little_endian=True)
    return stream.getvalue()


def archive() -> bytes:
    """Return a data set in the form of MedMNIST."""
    stream = io.BytesIO()
    images, labels = pixels(1, 4 * 8, 6).reshape(4, 8, 6), np.array([[0], [1], [0], [1]], np.uint8)
    np.savez_compressed(stream, train_images=images, train_labels=labels, val_images=images[:2], val_labels=labels[:2])
    return stream.getvalue()


SEEDS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "png": (".png", lambda: picture("PNG")),
    "png of 16 bit": (".png", lambda: picture("PNG", "I;16")),
    "png with palette": (".png", lambda: picture("PNG", "P")),
    "png of 1 bit": (".png", lambda: picture("PNG", "1")),
    "animated png": (".png", lambda: picture("PNG", pages=2)),
    "jpeg": (".jpg", lambda: picture("JPEG")),
    "progressive jpeg": (".jpg", lambda: picture("JPEG", progressive=True)),
    "cmyk jpeg": (".jpg", lambda: picture("JPEG", "CMYK")),
    "turned jpeg": (".jpeg", turned_photo),
    "tiff": (".tif", lambda: picture("TIFF")),
    "tiff of 16 bit": (".tif", lambda: picture("TIFF", "I;16")),
    "real tiff": (".tif", lambda: picture("TIFF", "F")),
    "integer tiff": (".tif", lambda: picture("TIFF", "I")),
    "tiff with pages": (".tif", lambda: picture("TIFF", "L", pages=3)),
    "lzw tiff": (".tif", lambda: picture("TIFF", compression="tiff_lzw")),
    "deflate tiff": (".tif", lambda: picture("TIFF", pages=2, compression="tiff_adobe_deflate")),
    "jpeg tiff": (".tif", lambda: picture("TIFF", compression="jpeg")),
    "fax tiff": (".tif", lambda: picture("TIFF", "1", compression="group4")),
    "big tiff": (".tif", lambda: picture("TIFF", big_tiff=True)),
    "bmp": (".bmp", lambda: picture("BMP")),
    "bmp with palette": (".bmp", lambda: picture("BMP", "P")),
    "dib": (".dib", lambda: picture("DIB")),
    "webp": (".webp", lambda: picture("WEBP")),
    "lossless webp": (".webp", lambda: picture("WEBP", "RGBA", lossless=True)),
    "nifti": (".nii", lambda: nifti("int16")),
    "nifti of bytes": (".nii", lambda: nifti("uint8", shape=(6, 5, 4, 3))),
    "real nifti": (".nii", lambda: nifti("float32")),
    "nifti-2": (".nii", lambda: nifti("float64", nib.Nifti2Image)),
    "flat nifti": (".nii", lambda: nifti("uint8", shape=(6, 5))),
    "packed nifti": (".nii.gz", lambda: gzip.compress(nifti("int16"))),
    "packed nifti-2": (".nii.gz", lambda: gzip.compress(nifti("uint16", nib.Nifti2Image))),
    "npy": (".npy", lambda: numpy_file((8, 6), "uint16")),
    "npy in color": (".npy", lambda: numpy_file((8, 6, 3), "uint8")),
    "npy volume": (".npy", lambda: numpy_file((5, 4, 3, 2), "float64", "F")),
    "dicom": (".dcm", lambda: dicom("ExplicitVRLittleEndian")),
    "implicit dicom": ("", lambda: dicom("ImplicitVRLittleEndian")),
    "bare dicom": (".dcm", lambda: dicom("ImplicitVRLittleEndian", preamble=False)),
    "dicom in color": (".dcm", lambda: dicom("ExplicitVRLittleEndian", samples=3)),
    "dicom with frames": (".dcm", lambda: dicom("ExplicitVRLittleEndian", frames=3)),
    "run-length dicom": (".dcm", lambda: dicom("RLELossless")),
    "jpeg dicom": (".dcm", lambda: dicom("JPEGBaseline8Bit", samples=3)),
    "deflated dicom": (".dcm", lambda: dicom("DeflatedExplicitVRLittleEndian")),
}

SOUND_BUT_REFUSED = {"animated png": "2 frames", "deflated dicom": "deflated"}


# --- ways to damage them ---


def bytes_changed(data: bytes, rng: random.Random) -> bytes:
    """Change, cut, double or insert a few bytes; the header is hit more often."""
    result = bytearray(data)
    for _ in range(rng.choice([1, 2, 4, 16])):
        end = len(result) if rng.random() < 0.5 else min(len(result), rng.choice([80, 400]))
        at = rng.randrange(max(1, end))
        match rng.randrange(5):
            case 0:
                result[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                if result:
                    result[at % len(result)] ^= 1 << rng.randrange(8)
            case 2:
                del result[at : at + rng.randrange(1, 40)]
            case 3:
                result[at:at] = rng.randbytes(rng.randrange(1, 20))
            case 4:
                result[at:at] = result[at : at + rng.randrange(1, 40)]
    return bytes(result)


def cut_off(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def numbers_changed(data: bytes, rng: random.Random) -> bytes:
    """Write large, small and senseless numbers over fields of the header: sizes, counts, offsets, scales."""
    result = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 3])):
        layout = rng.choice(["<H", ">H", "<h", "<I", ">I", "<i", "<f", "<d", "<q"])
        number = rng.choice(
            [rng.choice([0.0, -1.0, 1e30, float("nan"), float("inf"), 3.5])]
            if layout[1] in "fd"
            else [0, 1, 2, 16, 255, 1000, 4000, 8000, 9000, 16383, 32767, 65535, 10**6, 2**31 - 1, 2**32 - 1, -1]
        )
        size = struct.calcsize(layout)
        at = rng.randrange(max(1, min(len(result), 600) - size))
        if layout[1] not in "fd":
            number = int(number) % 2 ** (8 * size - (layout[1] in "hiq"))
        with suppress(struct.error):  # the file is shorter than the number
            struct.pack_into(layout, result, at, number)
    return bytes(result)


def digits_changed(data: bytes, rng: random.Random) -> bytes:
    """Change the numbers that stand in a header as text: shapes of .npy, decimals of DICOM."""
    places = [at for at, value in enumerate(data[:2000]) if chr(value) in "0123456789"]
    if not places:
        return bytes_changed(data, rng)
    at = rng.choice(places)
    text = rng.choice([b"0", b"9", b"-", b"e9", b"99999", b"99999999", b"1" * 30, b"nan", b".", b"(", b"\\"])
    return data[:at] + text + data[at + rng.choice([1, len(text)]) :]


PLAIN = (bytes_changed, cut_off, numbers_changed, digits_changed)


def resealed(data: bytes, rng: random.Random) -> bytes:
    """Damage what lies below a checksum or a compression, and pack it again so that the damage is reached."""
    change = rng.choice(PLAIN)
    if data[:2] == b"\x1f\x8b":
        inner = change(gzip.decompress(data), rng)
        tail = bytes(rng.choice([0, 0, 100, 3_000_000]))  # more behind the pixels than the header announces
        return gzip.compress(inner + tail, 1)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return data[:8] + b"".join(png_chunk(name, body, change, rng) for name, body in png_chunks(data))
    if b"1.2.840.10008.1.2.1.99" in data[:400]:  # DICOM: all behind the first group is deflated
        start = 132 + 12 + struct.unpack_from("<I", data, 140)[0]
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        inner = change(zlib.decompress(data[start:], -zlib.MAX_WBITS), rng)
        return data[:start] + packer.compress(inner) + packer.flush()
    return change(data, rng)


def zip_resealed(data: bytes, rng: random.Random) -> bytes:
    """Damage the members of a zip archive, so that their checksums hold; sometimes leave one out or rename it."""
    change = rng.choice(PLAIN)
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if rng.random() < 0.9:
                body = old.read(name)
                shown = name if rng.random() < 0.9 else rng.choice(["../" + name, "x.npy", name.upper(), name[:-4]])
                new.writestr(shown, change(body, rng) if rng.random() < 0.5 else body)
    return stream.getvalue()


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at + 12 <= len(data):
        length = struct.unpack_from(">I", data, at)[0]
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length


def png_chunk(name: bytes, body: bytes, change: Mutation, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        body = zlib.compress(change(zlib.decompress(body), rng)) if name == b"IDAT" else change(body, rng)
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


# --- what must hold ---


@contextmanager
def within_bounds() -> Iterator[None]:
    """Fail if what is done inside takes too much of the processor or of memory."""
    with suppress(OSError):  # on Linux, the peak of this process's memory begins anew
        Path("/proc/self/clear_refs").write_text("5")
    before, start = memory("VmRSS"), time.process_time()
    yield
    assert time.process_time() - start < SECONDS
    assert memory("VmHWM") - before < MEGABYTES


def memory(field: str) -> float:
    """Return VmRSS or VmHWM, the memory now or at its peak, in MB; 0 where the system does not tell."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    return 0


def survives(data: bytes, path: Path) -> bool:
    """Decode `data`; return whether it was refused. Anything but pixels or a `DataError`, soon, is a failure."""
    found, message = None, ""
    with within_bounds():
        try:
            found = decode(data, path)
        except DataError as problem:
            message = str(problem)
    if found is None:
        assert message.startswith(f"{path}: ")
        return True
    assert found.pixels.dtype.name in DTYPES
    assert found.pixels.ndim in (3, 4)
    assert min(found.pixels.shape) > 0
    assert np.isfinite(found.pixels).all()
    assert found.spacing is None or len(found.spacing) == found.pixels.ndim - 1
    return False


def files_survive(kind: str, seed: int, times: int) -> int:
    """Decode `times` damaged files of a kind; return how many were refused."""
    suffix, make = SEEDS[kind]
    rng = random.Random(f"{kind} {seed}")
    valid = make()
    refused = 0
    for number in range(times):
        name = f"scan{suffix if rng.random() < 0.9 else rng.choice(['', '.17', *supported_suffixes()])}"
        change = rng.choice([*PLAIN, resealed, resealed])
        data = change(valid, rng)
        try:
            refused += survives(data, Path(name))
        except BaseException as problem:
            problem.add_note(f"{kind} {seed}, file {number} as {name}, {change.__name__}: {data[:2000].hex()}")
            raise
    return refused


def tables_survive(folder: Path, seed: int, times: int) -> int:
    """Scan a folder with `times` damaged tables; return how many were refused."""
    rng = random.Random(seed)
    make_folder(folder, {"a": 2, "b": 2})
    refused = 0
    for _ in range(times):
        (folder / "metadata.csv").write_bytes(rng.choice([bytes_changed, cut_off])(TABLE, rng))
        manifest = scanned(folder)
        refused += manifest is None
        if manifest:
            assert {item.path for item in manifest.items} <= {"a/000.png", "a/001.png", "b/000.png", "b/001.png"}
    return refused


def archives_survive(folder: Path, seed: int, times: int) -> int:
    """Scan `times` damaged archives; return how many were refused."""
    rng = random.Random(seed)
    valid = archive()
    (folder / "set.npz").write_bytes(valid)
    assert len(scan(folder / "set.npz").items) == 6
    refused = 0
    for _ in range(times):
        change = rng.choice([*PLAIN, zip_resealed, zip_resealed, zip_resealed])
        (folder / "set.npz").write_bytes(change(valid, rng))
        refused += scanned(folder / "set.npz") is None
    return refused


def scanned(root: Path) -> Manifest | None:
    """Return what `scan` finds, None if it refuses."""
    with within_bounds():
        try:
            return scan(root)
        except DataError:
            return None


@pytest.fixture(autouse=True)
def _quiet() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("kind", SEEDS)
def test_the_files_to_damage_are_valid(kind: str) -> None:
    suffix, make = SEEDS[kind]
    path = Path(f"scan{suffix}")
    if kind in SOUND_BUT_REFUSED:
        with pytest.raises(DataError, match=SOUND_BUT_REFUSED[kind]):
            decode(make(), path)
    else:
        assert decode(make(), path).hints == ()


def test_every_reader_has_files_to_damage() -> None:
    known = readers_by_suffix()
    reached = {known[suffix].__name__ for suffix, _ in SEEDS.values() if suffix}
    assert reached == {reader.__name__ for reader in known.values()}


@pytest.mark.parametrize("kind", SEEDS)
def test_damaged_files_give_pixels_or_a_data_error(kind: str) -> None:
    assert 0 < files_survive(kind, seed=0, times=10) <= 10


def test_damaged_tables_give_a_manifest_or_a_data_error(tmp_path: Path) -> None:
    assert 10 < tables_survive(tmp_path, seed=0, times=50) < 50


def test_damaged_archives_give_a_manifest_or_a_data_error(tmp_path: Path) -> None:
    assert 10 < archives_survive(tmp_path, seed=0, times=40) < 40


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", SEEDS)
def test_many_damaged_files(kind: str) -> None:
    assert files_survive(kind, seed=1, times=220)


@pytest.mark.fuzz
def test_many_damaged_tables(tmp_path: Path) -> None:
    assert tables_survive(tmp_path, seed=1, times=500)


@pytest.mark.fuzz
def test_many_damaged_archives(tmp_path: Path) -> None:
    assert archives_survive(tmp_path, seed=1, times=500)
