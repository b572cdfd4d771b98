import json
from dataclasses import replace
from pathlib import Path

import pytest

from ganaug.data.manifest import Item, Manifest
from ganaug.errors import LeakError, ModelFileError
from ganaug.evaluation.leak import refuse_leak


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
