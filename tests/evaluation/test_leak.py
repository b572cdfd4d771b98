import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ganaug.data.manifest import Item, Manifest
from ganaug.data.reading import scan
from ganaug.errors import LeakError, ModelFileError
from ganaug.evaluation.leak import refuse_leak
from tests import dicoms


def item(path: str, group: str, sha256: str) -> Item:
    return Item(path=path, label=0, group=group, sha256=sha256, shape=(8, 8), channels=1, dtype="uint8")


TRAIN = Manifest(Path("train"), ("a", "b"), (item("a/1.png", "patient 1", "11" * 32), item("a/2.png", "", "22" * 32)))


def trained_on() -> dict[str, object]:
    return json.loads(json.dumps(TRAIN.to_json()))


def held_out(*items: Item) -> Manifest:
    return replace(TRAIN, root=Path("test"), items=items)


def test_unseen_files_and_groups_pass() -> None:
    refuse_leak(trained_on(), held_out(item("a/1.png", "patient 9", "99" * 32)))


def test_a_renamed_copy_of_a_training_file_is_named() -> None:
    test = held_out(item("b/new.png", "patient 8", "11" * 32), item("b/fine.png", "patient 9", "99" * 32))
    with pytest.raises(LeakError, match=r"1 of 2 held-out.*b/new\.png \(a training file\)") as caught:
        refuse_leak(trained_on(), test)
    assert "fine" not in str(caught.value)


def test_another_image_of_a_training_patient_is_named() -> None:
    with pytest.raises(LeakError, match=r"a/7\.png \(of a training group\)"):
        refuse_leak(trained_on(), held_out(item("a/7.png", "patient 1", "77" * 32)))


def test_many_leaks_are_counted_and_a_few_named() -> None:
    test = held_out(*(item(f"a/{i}.png", "patient 1", f"{i:064x}") for i in range(30)))
    with pytest.raises(LeakError, match=r"30 of 30 .* and 25 more") as caught:
        refuse_leak(trained_on(), test)
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize("damaged", [{}, {"files": [{"path": "a"}]}, {"files": 3}, {"files": ["a"]}])
def test_a_damaged_train_manifest_is_refused_and_not_passed(damaged: dict[str, object]) -> None:
    with pytest.raises(ModelFileError, match=r"train_manifest\.json"):
        refuse_leak(damaged, held_out(item("a/1.png", "", "11" * 32)))


def write_slices(folder: Path, patient: str, seed: int, **tags: str) -> None:
    volume = np.random.default_rng(seed).integers(0, 1000, (6, 12, 10)).astype(np.int16)
    dicoms.write_series(folder, volume, (2.0, 1.0, 1.0), PatientID=patient, **tags)


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    for number in range(4):
        write_slices(tmp_path / "train" / "ab"[number % 2] / f"s{number}", f"MRN{number}", number)
    return tmp_path


@pytest.mark.parametrize("slices", [None, "axial"])
def test_a_new_examination_of_one_training_patient_is_found(hospital: Path, slices: str | None) -> None:
    trained = scan(hospital / "train", slices=slices).to_json()
    for number in range(4):  # one patient in all, whom the test set by itself would take for "anonymous"
        write_slices(hospital / "test" / "ab"[number % 2] / f"n{number}", "MRN2", 100 + number)
    with pytest.raises(LeakError, match="of a training group"):
        refuse_leak(trained, scan(hospital / "test", slices=slices))


def test_an_anonymous_training_set_leaves_the_patient_out_of_it(tmp_path: Path) -> None:
    for number in range(4):
        write_slices(tmp_path / "train" / "ab"[number % 2] / f"s{number}", "ANON", number)
        write_slices(tmp_path / "test" / "ab"[number % 2] / f"s{number}", "ANON", 100 + number)
    refuse_leak(scan(tmp_path / "train").to_json(), scan(tmp_path / "test"))


def test_a_slice_file_of_a_training_series_is_found(tmp_path: Path) -> None:
    for number in range(4):
        write_slices(tmp_path / "train" / "ab"[number % 2] / f"s{number}", "ANON", number)
        write_slices(tmp_path / "other" / f"s{number}", "ANON", 100 + number)
    for number in range(4):
        target = tmp_path / "test" / "ab"[number % 2]
        target.mkdir(parents=True, exist_ok=True)
        source = "train/a/s0" if number == 0 else f"other/s{number}"
        shutil.copy(sorted((tmp_path / source).iterdir())[2], target / f"{number}.dcm")
    with pytest.raises(LeakError, match=r"^1 of 4 held-out.*a/0\.dcm \(a training file\)"):
        refuse_leak(scan(tmp_path / "train").to_json(), scan(tmp_path / "test"))


def test_a_training_volume_cut_another_way_is_found_also_under_other_groups(hospital: Path) -> None:
    trained = scan(hospital / "train", group_regex=r"(s\d)").to_json()
    for slices in (None, "axial", "coronal"):
        with pytest.raises(LeakError, match="a training file"):
            refuse_leak(trained, scan(hospital / "train", slices=slices, group_regex="(/.+)"))
    trained = scan(hospital / "train", slices="axial", group_regex=r"(s\d)").to_json()
    with pytest.raises(LeakError, match="a training file"):
        refuse_leak(trained, scan(hospital / "train", slices="coronal", group_regex="(/.+)"))


def test_the_manifest_names_no_patient(hospital: Path) -> None:
    assert "MRN" not in json.dumps(scan(hospital / "train").to_json())
