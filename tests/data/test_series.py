import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganaug.data.layouts import Entry, folders
from ganaug.data.readers import Decoded
from ganaug.data.series import decode_series, join_series, leftovers
from ganaug.errors import DataError
from tests.dicoms import SAGITTAL, uid, write_hospital, write_image, write_series

CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


def volume(depth: int = 5, height: int = 8, width: int = 6, seed: int = 0) -> np.ndarray:
    """Return random values D×H×W, uint16."""
    return np.random.default_rng(seed).integers(0, 4000, (depth, height, width), dtype=np.uint16)


def entries(root: Path, label: str = "a") -> list[Entry]:
    """Return an entry for every file under `root`, in a random order."""
    found = [Entry(path.relative_to(root).as_posix(), label) for path in sorted(root.rglob("*")) if path.is_file()]
    random.Random(0).shuffle(found)
    return found


def decode(paths: Sequence[Path]) -> Decoded:
    return decode_series([path.read_bytes() for path in paths], paths)


def read(root: Path, entry: Entry) -> Decoded:
    return decode([root / name for name in entry.files])


# --- joining ---


@pytest.mark.parametrize("names", ["{:03d}.dcm", "IM{:04d}", "1.2.840.113.{}", "{:03d}.IMA"])
def test_a_series_with_shuffled_numbers_becomes_one_entry_in_the_order_of_position(tmp_path: Path, names: str) -> None:
    paths = write_series(tmp_path / "p", volume(), (2.0, 1.0, 1.0), names=names, seed=3)
    (joined,) = join_series(tmp_path, entries(tmp_path))
    assert [tmp_path / name for name in joined.files] == paths
    assert joined == Entry(joined.files[0], "a", files=joined.files)


def test_series_of_one_folder_are_told_apart_and_entries_stay_sorted(tmp_path: Path) -> None:
    write_series(tmp_path, volume(), (2.0, 1.0, 1.0), name="one", names="z{}.dcm")
    write_series(tmp_path, volume(3), (2.0, 1.0, 1.0), name="two", names="b{}.dcm")
    write_image(tmp_path / "m.dcm", volume()[0])
    found = join_series(tmp_path, entries(tmp_path))
    assert [(entry.path, len(entry.files)) for entry in found] == [("b0.dcm", 3), ("m.dcm", 0), ("z0.dcm", 5)]


def test_files_of_another_size_folder_or_patient_are_not_of_the_volume(tmp_path: Path) -> None:
    write_series(tmp_path / "x", volume(), (2.0, 1.0, 1.0))
    write_series(tmp_path / "x", volume(3, 9, 9), (2.0, 1.0, 1.0), names="l{}.dcm")
    write_series(tmp_path / "y", volume(4), (2.0, 1.0, 1.0))
    # Anonymizers give all patients the same series.
    same = uid("anonymous")
    write_series(tmp_path / "z", volume(2), (2.0, 1.0, 1.0), patient="p1", SeriesInstanceUID=same)
    write_series(tmp_path / "z", volume(7), (2.0, 1.0, 1.0), patient="p2", SeriesInstanceUID=same, names="q{}.dcm")
    found = join_series(tmp_path, entries(tmp_path))
    assert [(entry.path, len(entry.files)) for entry in found] == [
        ("x/000.dcm", 5), ("x/l0.dcm", 3), ("y/000.dcm", 4), ("z/000.dcm", 2), ("z/q0.dcm", 7),
    ]  # fmt: skip


def test_a_localizer_is_not_mixed_in_and_can_be_told(tmp_path: Path) -> None:
    write_series(tmp_path, volume(), (2.0, 1.0, 1.0))
    scout = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    write_series(tmp_path, volume(1), (2.0, 1.0, 1.0), names="s{}.dcm", orientation=SAGITTAL, ImageType=scout)
    write_series(tmp_path, volume(1), (2.0, 1.0, 1.0), names="t{}.dcm", name="scout", ImageType=scout)
    shutil.copy(tmp_path / "002.dcm", tmp_path / "copy of 002.dcm")
    write_image(tmp_path / "other.dcm", volume()[0], SeriesInstanceUID=uid("other"))
    found = join_series(tmp_path, entries(tmp_path))
    assert [len(entry.files) for entry in found] == [5, 0, 0, 0, 0]
    assert found[0].files == tuple(f"00{number}.dcm" for number in range(5))
    assert leftovers(tmp_path, found) == ("copy of 002.dcm", "s0.dcm", "t0.dcm")


def test_single_images_are_never_left_over_without_a_volume(tmp_path: Path) -> None:
    write_series(tmp_path, volume(1), (2.0, 1.0, 1.0), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_image(tmp_path / "m.dcm", volume()[0])
    assert leftovers(tmp_path, join_series(tmp_path, entries(tmp_path))) == ()


@pytest.mark.parametrize(
    ("keyword", "values"),
    [("EchoTime", [8, 90]), ("TemporalPositionIdentifier", [1, 2]), ("AcquisitionNumber", [1, 2])],
)
def test_echoes_and_time_points_become_volumes_of_their_own(tmp_path: Path, keyword: str, values: list[int]) -> None:
    for value in values:
        write_series(tmp_path, volume(seed=value), (2.0, 1.0, 1.0), names=f"{value}-{{}}.dcm", **{keyword: value})
    found = join_series(tmp_path, entries(tmp_path))
    assert [entry.files for entry in found] == [tuple(f"{v}-{n}.dcm" for n in range(5)) for v in sorted(values)]


def test_repeats_that_nothing_tells_apart_stay_single_images(tmp_path: Path) -> None:
    for time in range(2):
        write_series(tmp_path, volume(), (2.0, 1.0, 1.0), names=f"{time}-{{}}.dcm", SeriesTime=f"10000{time}")
    found = join_series(tmp_path, entries(tmp_path))
    assert [entry.files for entry in found] == [()] * 10


def test_files_without_a_position_stay_single_images(tmp_path: Path) -> None:
    write_series(tmp_path, volume(), (2.0, 1.0, 1.0), ImagePositionPatient=None)
    assert [entry.files for entry in join_series(tmp_path, entries(tmp_path))] == [()] * 5


def test_slice_locations_serve_where_positions_are_absent(tmp_path: Path) -> None:
    for number, location in enumerate([4.0, -2.0, 1.0]):
        tags = {"SeriesInstanceUID": uid("s"), "SliceLocation": location, "PixelSpacing": [0.5, 0.4]}
        write_image(tmp_path / f"{number}.dcm", volume()[number], **tags)
    (joined,) = join_series(tmp_path, entries(tmp_path))
    assert joined.files == ("1.dcm", "2.dcm", "0.dcm")
    found = read(tmp_path, joined)
    np.testing.assert_array_equal(found.pixels[..., 0], volume()[[1, 2, 0]])
    assert (found.spacing, found.orientation, found.center) == ((3.0, 0.5, 0.4), "", None)


def test_a_series_that_is_labelled_slice_by_slice_stays_single_images(tmp_path: Path) -> None:
    write_series(tmp_path, volume(), (2.0, 1.0, 1.0))
    labelled = [Entry(entry.path, "sick" if entry.path < "003" else "well") for entry in entries(tmp_path)]
    assert all(not entry.files for entry in join_series(tmp_path, labelled))
    scanned = [Entry(entry.path, "a", domain=entry.path[:3]) for entry in entries(tmp_path)]
    assert all(not entry.files for entry in join_series(tmp_path, scanned))
    grouped = [Entry(entry.path, "a", group=entry.path) for entry in entries(tmp_path)]
    assert all(not entry.files for entry in join_series(tmp_path, grouped))


def test_slices_sorted_into_folders_by_class_stay_single_images(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "well", volume(), (2.0, 1.0, 1.0))
    (tmp_path / "sick").mkdir()
    for path in paths[1:3]:
        path.rename(tmp_path / "sick" / path.name)
    listed = folders.listing(tmp_path).entries
    assert [entry.label for entry in listed] == ["sick", "sick", "well", "well", "well"]
    assert join_series(tmp_path, listed) == listed


def test_a_volume_copied_into_another_class_is_still_a_volume(tmp_path: Path) -> None:
    write_series(tmp_path / "well", volume(), (2.0, 1.0, 1.0))
    shutil.copytree(tmp_path / "well", tmp_path / "sick")
    found = join_series(tmp_path, folders.listing(tmp_path).entries)
    assert [(entry.label, len(entry.files)) for entry in found] == [("sick", 5), ("well", 5)]


def test_files_of_many_frames_and_members_of_archives_are_left_alone(tmp_path: Path) -> None:
    for number in range(2):
        tags = {"SeriesInstanceUID": uid("s"), "ImagePositionPatient": [0, 0, number], "SliceLocation": number}
        write_image(tmp_path / f"{number}.dcm", volume(), **tags)
    found = entries(tmp_path)
    assert join_series(tmp_path, found) == tuple(sorted(found, key=lambda entry: entry.path))
    archived = [Entry("a.dcm", "a", part=f"train[{number}]") for number in range(3)]
    assert join_series(tmp_path, archived) == tuple(archived)


def test_files_that_cannot_be_read_stay_single_entries(tmp_path: Path) -> None:
    paths = write_series(tmp_path, volume(), (2.0, 1.0, 1.0))
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "text.dcm").write_text("no image" * 99)
    (tmp_path / "short.dcm").write_bytes(paths[0].read_bytes()[:200])
    (tmp_path / "folder.dcm").mkdir()
    (tmp_path / "gone.dcm").symlink_to("nowhere")
    listed = [*entries(tmp_path), Entry("folder.dcm", "a"), Entry("gone.dcm", "a")]
    found = join_series(tmp_path, listed)
    assert [entry.path for entry in found if entry.files] == ["000.dcm"]
    assert len(found) == 1 + 5


def test_a_header_longer_than_what_is_looked_at_first_is_read_on(tmp_path: Path) -> None:
    write_series(tmp_path, volume(), (2.0, 1.0, 1.0), PixelPaddingRangeLimit=None, ReferencedImageSequence=None)
    import pydicom

    for path in tmp_path.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.private_block(0x0019, "TEST", create=True).add_new(1, "OB", bytes(500_000))
        dataset.save_as(path)
    (joined,) = join_series(tmp_path, entries(tmp_path))
    assert len(joined.files) == 5


def test_a_folder_with_one_file_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "x" / "a.dcm", volume()[0])
    write_image(tmp_path / "y" / "a.dcm", volume()[0])
    monkeypatch.setattr("ganaug.data.series.parse", lambda *_, **__: pytest.fail("it was read"))
    assert len(join_series(tmp_path, entries(tmp_path))) == 2


# --- decoding ---


def test_a_volume_runs_toward_head_back_and_left_in_hounsfield_units(tmp_path: Path) -> None:
    stored = volume()
    scale = {"RescaleSlope": 1, "RescaleIntercept": -1024}
    paths = write_series(tmp_path, stored, (2.0, 0.5, 0.4), origin=(10, 20, -30), patient="p1", seed=1, **scale)
    found = decode(paths)
    assert (found.pixels.dtype, found.mode, found.format) == (np.int16, "series of 5, int16", "DICOM")
    np.testing.assert_array_equal(found.pixels[..., 0], stored.astype(int) - 1024)
    assert (found.spacing, found.orientation, found.group) == ((2.0, 0.5, 0.4), "LPS", "p1")
    assert found.center == pytest.approx((-(10 + 2.5 * 0.4), -(20 + 3.5 * 0.5), -30 + 2 * 2.0))


def test_series_of_all_planes_give_the_same_volume(tmp_path: Path) -> None:
    inside = volume()  # toward Superior, Posterior, Left
    depth, height, width = 2.0, 0.5, 0.4
    axial = write_series(tmp_path / "a", inside, (depth, height, width))
    # Rows run toward the back and columns toward the feet; the normal of both points to the patient's right.
    sagittal = write_series(
        tmp_path / "s", inside.transpose(2, 0, 1)[::-1, ::-1], (width, depth, height), orientation=SAGITTAL,
        origin=((inside.shape[2] - 1) * width, 0, (len(inside) - 1) * depth),
    )  # fmt: skip
    # Rows run toward the left and columns toward the feet; the normal of both points to the back.
    coronal = write_series(
        tmp_path / "c", inside.transpose(1, 0, 2)[:, ::-1], (height, depth, width), orientation=CORONAL,
        origin=(0, 0, (len(inside) - 1) * depth),
    )  # fmt: skip
    for paths, orientation in ((axial, "LPS"), (sagittal, "PIR"), (coronal, "LIP")):
        found = decode(paths)
        np.testing.assert_array_equal(found.pixels[..., 0], inside)
        assert (found.spacing, found.orientation) == ((depth, height, width), orientation)
        assert found.center == pytest.approx(decode(axial).center)


@settings(deadline=None, max_examples=15)
@given(
    sides=st.tuples(st.integers(2, 5), st.integers(1, 4), st.integers(1, 4)),
    step=st.floats(0.05, 12),
    start=st.floats(-500, 500),
    order=st.randoms(use_true_random=False),
)
def test_the_order_of_the_files_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory,
    sides: tuple[int, int, int],
    step: float,
    start: float,
    order: random.Random,
) -> None:
    folder = tmp_path_factory.mktemp("series")
    stored = volume(*sides)
    steps = (round(step, 3), 1.0, 1.0)
    paths = write_series(folder, stored, steps, origin=(0, 0, round(start, 3)))
    order.shuffle(paths)
    found = decode(paths)
    np.testing.assert_array_equal(found.pixels[..., 0], stored)
    assert found.spacing == pytest.approx(steps)


def test_without_pixel_spacing_the_volume_has_an_orientation_and_no_spacing(tmp_path: Path) -> None:
    found = decode(write_series(tmp_path, volume()[::-1], (2.0, 1.0, 1.0), PixelSpacing=None))
    assert (found.spacing, found.orientation, found.center) == (None, "LPS", None)


def test_a_missing_slice_is_an_error_that_names_the_gap(tmp_path: Path) -> None:
    write_series(tmp_path, volume(9), (2.0, 1.0, 1.0), leave_out=(4,))
    (joined,) = join_series(tmp_path, entries(tmp_path))
    assert len(joined.files) == 8
    with pytest.raises(DataError, match=r"2 mm apart, but 003\.dcm and 005\.dcm 4 mm; copy what is missing") as caught:
        read(tmp_path, joined)
    assert str(caught.value).startswith(f"{tmp_path / joined.path}: ")


def test_small_differences_between_steps_are_accepted(tmp_path: Path) -> None:
    paths = []
    for number, height in enumerate([0.0, 2.05, 3.95, 6.0]):
        paths += write_series(
            tmp_path, volume(1, seed=number), (1.0, 1.0, 1.0), names=f"{number}.dcm", origin=(0, 0, height)
        )
    assert decode(paths).spacing == pytest.approx((2.0, 1.0, 1.0))


def test_a_tilted_gantry_keeps_the_distance_between_slices(tmp_path: Path) -> None:
    tilted = (1.0, 0.0, 0.0, 0.0, float(np.cos(0.3)), float(np.sin(0.3)))
    paths = []
    for number in range(4):  # the table moves along the body, not along the normal
        paths += write_series(
            tmp_path, volume(1, seed=number), (1.0, 1.0, 1.0), names=f"{number}.dcm", orientation=tilted,
            origin=(0, 0, number * 5.0),
        )  # fmt: skip
    found = decode(paths)
    assert found.orientation == "LPS"
    assert found.spacing == pytest.approx((5 * np.cos(0.3), 1.0, 1.0))


def test_slices_scaled_differently_are_brought_to_one_type(tmp_path: Path) -> None:
    stored = volume(3)
    paths = []
    for number, slope in enumerate([1, 0.5, 2]):
        paths += write_series(
            tmp_path, stored[number : number + 1], (1.0, 1.0, 1.0), names=f"{number}.dcm", origin=(0, 0, number),
            RescaleSlope=slope, RescaleIntercept=0,
        )  # fmt: skip
    found = decode(paths)
    assert found.pixels.dtype == np.float32
    np.testing.assert_allclose(found.pixels[..., 0], stored * np.array([1, 0.5, 2])[:, None, None])


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    paths = write_series(tmp_path, volume(), (2.0, 1.0, 1.0))
    larger = write_series(tmp_path / "l", volume(1, 9, 9), (2.0, 1.0, 1.0), origin=(0, 0, 99))
    turned = write_series(tmp_path / "t", volume(1), (2.0, 1.0, 1.0), orientation=CORONAL)
    with pytest.raises(DataError, match="another shape"):
        decode([*paths, *larger])
    for several in ([*paths, *turned], [paths[0], paths[0]], paths[:1]):
        with pytest.raises(DataError, match="no stack of slices"):
            decode(several)


def test_a_damaged_slice_is_an_error_that_names_it(tmp_path: Path) -> None:
    paths = write_series(tmp_path, volume(), (2.0, 1.0, 1.0))
    paths[2].write_bytes(paths[2].read_bytes()[:-10])
    with pytest.raises(DataError, match=r"002\.dcm: cannot be decoded"):
        decode(paths)


# --- a hospital's export ---


def test_a_hospitals_folder_without_suffixes_becomes_volumes(tmp_path: Path) -> None:
    root = write_hospital(tmp_path / "data")
    found = join_series(root, folders.listing(root).entries)
    volumes = [entry for entry in found if entry.files]
    assert [entry.label for entry in volumes] == ["sick"] * 4 + ["well"] * 4
    assert all(len(entry.files) == 6 for entry in volumes)
    scouts = leftovers(root, found)
    assert len(scouts) == 8
    assert {entry.path for entry in found} == {entry.path for entry in volumes} | set(scouts)
    for entry in volumes:
        decoded = read(root, entry)
        assert (decoded.pixels.shape, decoded.pixels.dtype) == ((6, 16, 12, 1), np.int16)
        assert decoded.pixels.min() < -900
        assert (decoded.spacing, decoded.group) == ((5.0, 0.7, 0.7), entry.path.split("/")[1])
