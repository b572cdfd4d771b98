"""Withdrawal of a patient: what goes back to them is listed and removed as one, and their ID is written nowhere."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from ganaug.cli import main
from ganaug.data import Manifest, scan
from ganaug.data.manifest import hash_group
from ganaug.errors import ConfigError, DataError, ModelFileError
from ganaug.sampling import SyntheticBank, Translator, load
from ganaug.sampling.export import export_folder
from ganaug.sampling.purge import purge
from ganaug.sampling.translated_files import translate_files
from tests.sampling.translation_models import make_translator
from tests.tiny import make_model, write_shapes

ID = "MRN-000123"
CROSSES, DISKS = (0, 1, 2), (0, 1)
"""Numbers of the patient's images."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 crosses, 8 disks, 4 rings; 3 and 2 of one patient, the others of a patient each."""
    root = write_shapes(tmp_path_factory.mktemp("purge") / "data", {"cross": 12, "disk": 8, "ring": 4})
    with (root / "metadata.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("file_name", "label", "group"))
        for path in sorted(root.rglob("*.png")):
            kind, number = path.parent.name, int(path.stem)
            own = (kind, number) in {("cross", n) for n in CROSSES} | {("disk", n) for n in DISKS}
            writer.writerow((path.relative_to(root).as_posix(), kind, ID if own else f"{kind}-{number}"))
    return root


@pytest.fixture(scope="module")
def manifest(data: Path) -> Manifest:
    return scan(data)


def trained_on(run: Path, manifest: Manifest) -> Path:
    (run / "train_manifest.json").write_text(json.dumps(manifest.to_json()))
    return run


def without(manifest: Manifest) -> Manifest:
    return manifest.subset([i for i, item in enumerate(manifest.items) if item.group != ID])


@pytest.fixture
def run(manifest: Manifest, tmp_path: Path) -> Path:
    """A translation model that was trained on all."""
    make_translator(tmp_path / "run" / "generator.safetensors")
    return trained_on(tmp_path / "run", manifest)


def open_translator(run: Path) -> Translator:
    gan = load(run, device="cpu")
    assert isinstance(gan, Translator)
    return gan


def everything(folder: Path) -> bytes:
    return b"\n".join(path.name.encode() + path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_was_translated_from_the_patient_goes_and_the_rest_stays(run: Path, data: Path, tmp_path: Path) -> None:
    bank = SyntheticBank.translate(open_translator(run), tmp_path / "bank", data, to="ring")
    images, sources, indices = np.array(bank.images), np.array(bank.sources), np.array(bank.indices)
    found = purge(tmp_path / "bank", ID, reason="withdrew consent")
    assert (len(found.direct), len(found.by_model), found.unknown) == (5, 15, ())
    assert found.removed == {"ring": 5}
    assert found.left == 15
    rest = SyntheticBank.open(tmp_path / "bank")
    assert rest.counts == {"cross": 0, "disk": 0, "ring": 15}
    kept = [i for i in range(20) if f"#{i}" not in found.direct]
    assert np.array_equal(rest.images, images[kept])
    assert np.array_equal(rest.sources, sources[kept])
    assert np.array_equal(rest.indices, indices[kept])
    assert len(rest.labels) == 15
    (record,) = json.loads((tmp_path / "bank" / "purged.json").read_text())
    assert record["group_hash"] == hash_group(ID)
    assert (record["removed"], record["reason"], record["reach"]) == ({"ring": 5}, "withdrew consent", "direct")
    assert record["left"] == {"of_models_trained_on_the_patient": 15, "of_models_unknown": 0}
    assert "cannot be taken out" in str(found)
    again = purge(tmp_path / "bank", ID)
    assert (again.direct, again.removed) == ((), {})


def test_the_id_is_written_nowhere(run: Path, data: Path, tmp_path: Path) -> None:
    SyntheticBank.translate(open_translator(run), tmp_path / "bank", data, to="ring")
    done = CliRunner().invoke(main, ["purge", str(tmp_path / "bank"), "--group", "-", "--json"], input=f"{ID}\n")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["removed"] == {"ring": 5}
    assert ID not in done.output
    assert ID.encode() not in everything(tmp_path)
    with pytest.raises(ConfigError, match="holds the patient's ID"):
        purge(tmp_path / "bank", ID, reason=f"{ID.lower()} withdrew")


def test_a_dry_run_changes_nothing(run: Path, data: Path, tmp_path: Path) -> None:
    SyntheticBank.translate(open_translator(run), tmp_path / "bank", data, to="ring")
    before = contents(tmp_path)
    found = purge(tmp_path / "bank", ID, dry_run=True)
    assert (found.removed, found.dry_run) == ({"ring": 5}, True)
    assert "would be removed" in str(found)
    assert contents(tmp_path) == before


def test_the_request_that_made_it_does_not_bring_the_images_back(run: Path, data: Path, tmp_path: Path) -> None:
    gan = open_translator(run)
    SyntheticBank.translate(gan, tmp_path / "bank", data, to="ring")
    purge(tmp_path / "bank", ID)
    with pytest.raises(ConfigError, match="--overwrite"):
        SyntheticBank.translate(gan, tmp_path / "bank", data, to="ring")


def test_images_of_a_trained_model_all_go_with_reach_model(manifest: Manifest, tmp_path: Path) -> None:
    make_model(
        (tmp_path / "run").joinpath("generator.safetensors").parent.mkdir() or tmp_path / "run/generator.safetensors"
    )
    gan: Any = load(trained_on(tmp_path / "run", manifest), device="cpu")
    bank = SyntheticBank.generate(gan, tmp_path / "bank", per_class=2)
    found = purge(bank.path, ID)
    assert (found.direct, len(found.by_model), found.removed) == ((), 6, {})
    assert "these stay" in str(found)
    found = purge(bank.path, ID, reach="model")
    assert found.removed == {"cross": 2, "disk": 2, "ring": 2}
    assert {path.name for path in bank.path.iterdir()} == {".ganaug", "purged.json", "request.json"}
    with pytest.raises(ModelFileError, match="no image left: all were removed with a patient"):
        SyntheticBank.open(bank.path)


def test_a_model_that_never_saw_the_patient_is_not_blamed(manifest: Manifest, data: Path, tmp_path: Path) -> None:
    make_translator(tmp_path / "run" / "generator.safetensors")
    gan = open_translator(trained_on(tmp_path / "run", without(manifest)))
    SyntheticBank.translate(gan, tmp_path / "bank", data, to="ring")
    unaided = purge(tmp_path / "bank", ID, dry_run=True)
    assert (unaided.direct, len(unaided.unknown)) == ((), 20)
    found = purge(tmp_path / "bank", ID, data=manifest, runs=[tmp_path / "run"], reach="model")
    assert (len(found.direct), found.by_model, found.unknown) == (5, (), ())
    assert SyntheticBank.open(tmp_path / "bank").counts["ring"] == 15
    assert "other image" not in str(found)


def test_a_patient_nobody_can_know_is_an_error_and_one_nobody_has_is_none(
    run: Path, manifest: Manifest, data: Path, tmp_path: Path
) -> None:
    make_translator(tmp_path / "lone" / "generator.safetensors")
    SyntheticBank.translate(open_translator(tmp_path / "lone"), tmp_path / "bank", np_pair(manifest, data), to="ring")
    with pytest.raises(DataError, match="--data DATA"):
        purge(tmp_path / "bank", ID)
    SyntheticBank.translate(open_translator(run), tmp_path / "other", data, to="ring")
    assert "No image here goes back to a patient of this ID" in str(purge(tmp_path / "other", "somebody else"))


def np_pair(manifest: Manifest, data: Path) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    return np.stack([np.asarray(Image.open(data / item.path)) for item in manifest.items]), manifest.labels


def test_a_folder_of_translated_files_stays_consistent(
    run: Path, data: Path, manifest: Manifest, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    translate_files(open_translator(run), data, out, to="ring")
    (out / "notes").mkdir()
    (out / "notes" / "mine.txt").write_text("keep")
    before = contents(out)
    found = purge(out, ID, runs=[run])
    assert len(found.direct) == 5
    after = contents(out)
    assert set(before) - set(after) == set(found.direct)
    same = set(after) - {"metadata.csv", "request.json", "purged.json"}
    assert all(after[name] == before[name] for name in same)
    with (out / "metadata.csv").open() as stream:
        rows = [row["file_name"] for row in csv.DictReader(stream)]
    assert set(rows) == {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    assert ID.encode() not in everything(out)


def test_a_mixed_folder_keeps_card_and_table_in_step(run: Path, data: Path, manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "noise").mkdir()
    make_model(tmp_path / "noise" / "generator.safetensors", size=(16, 16))
    gan: Any = load(trained_on(tmp_path / "noise", without(manifest)), device="cpu")
    out = tmp_path / "out"
    export_folder(gan, out, counts={"cross": 2, "ring": 3})
    translate_files(open_translator(run), data, tmp_path / "more", to="ring", source="disk")
    for path in (tmp_path / "more").rglob("*.png"):
        shutil.copy(path, out / "ring" / path.name)
    card = out / "README.md"
    card.write_text(card.read_text().replace("ring: 3", "ring: 11").replace("| ring | 3 |", "| ring | 11 |"))
    found = purge(out, ID, runs=[run, tmp_path / "noise"], reach="model")
    assert (len(found.direct), len(found.by_model), found.removed) == (2, 6, {"ring": 8})
    assert found.notes == ()
    assert len(list(out.rglob("*.png"))) == 5
    front = yaml.safe_load(card.read_text().split("---\n")[1])
    assert front["ganaug"]["counts"] == {"cross": 2, "disk": 0, "ring": 3}
    assert "| ring | 3 |" in card.read_text()


def test_an_archive_goes_as_a_whole(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    make_model(tmp_path / "run" / "generator.safetensors")
    gan: Any = load(trained_on(tmp_path / "run", manifest), device="cpu")
    export_folder(gan, tmp_path / "out", counts={"ring": 3}, format="npz")
    found = purge(tmp_path / "out", ID, runs=[tmp_path / "run"], reach="model")
    assert found.removed == {"ring": 3}
    assert not (tmp_path / "out" / "synthetic.npz").exists()


def test_what_ganaug_did_not_make_is_left_alone(run: Path, data: Path, tmp_path: Path) -> None:
    SyntheticBank.translate(open_translator(run), tmp_path / "bank", data, to="ring")
    (tmp_path / "bank" / ".ganaug").unlink()
    before = contents(tmp_path / "bank")
    with pytest.raises(ConfigError, match=r"nothing was removed"):
        purge(tmp_path / "bank", ID)
    assert contents(tmp_path / "bank") == before
    (tmp_path / "empty").mkdir()
    for place in ("empty", "nowhere"):
        with pytest.raises(DataError):
            purge(tmp_path / place, ID)


def test_a_stopped_exchange_is_put_right(run: Path, data: Path, tmp_path: Path) -> None:
    SyntheticBank.translate(open_translator(run), tmp_path / "bank", data, to="ring")
    (tmp_path / "bank").rename(tmp_path / ".bank.retired")  # killed between two renames
    assert purge(tmp_path / "bank", ID).removed == {"ring": 5}
    assert not list(tmp_path.glob(".bank.*"))


@pytest.mark.faults
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_moment_the_old_or_the_new_one_is_whole(run: Path, data: Path, tmp_path: Path) -> None:
    SyntheticBank.translate(open_translator(run), tmp_path / "bank", data, to="ring")
    shutil.copytree(tmp_path / "bank", tmp_path / "model")
    old = contents(tmp_path / "bank")
    start = time.monotonic()
    purge(tmp_path / "model", ID)
    took, new = time.monotonic() - start, contents(tmp_path / "model")
    rng, kills = np.random.default_rng(0), 0
    for _ in range(60):
        child = os.fork()
        if child == 0:
            try:
                purge(tmp_path / "bank", ID)
            except BaseException:
                os._exit(1)
            os._exit(0)
        time.sleep(rng.uniform(0, took))
        os.kill(child, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        place = tmp_path / "bank"
        found = contents(place if place.exists() else tmp_path / ".bank.retired")
        assert found == old or {**found, "purged.json": b""} == {**new, "purged.json": b""}
        if found != old:
            shutil.rmtree(place)
            for name, raw in old.items():
                place.mkdir(exist_ok=True)
                (place / name).write_bytes(raw)
    assert kills > 10
