"""Files from strangers: model files, recipes, tables and the JSON of banks and runs give a result or a named error.

`pytest -m fuzz -s tests/fuzz` does it 10,000 times, and prints how many files were refused.
"""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ganaug.config import FitConfig, load_recipe, recipe_folder
from ganaug.data import scan
from ganaug.data.leak import Trained
from ganaug.errors import GanaugError
from ganaug.files import write_json
from ganaug.mixing.verdict import read_verdict
from ganaug.models.modelfile import FILE_NAME, load_model
from ganaug.sampling.bank import SyntheticBank
from ganaug.sampling.card import data_card
from ganaug.sampling.leak import manifest_beside
from ganaug.sampling.request import Request
from ganaug.sampling.sampler import Sampler
from ganaug.sampling.trace import trace
from ganaug.training.checkpoint import load_checkpoint, save_checkpoint
from ganaug.training.run import Run
from tests.data.folders import make_folder
from tests.data.test_fuzz import bytes_changed, cut_off, within_bounds
from tests.fuzz.mutations import json_changed, text_changed, value_changed
from tests.sampling.fake_sampler import FakeSampler
from tests.tiny import make_model

LONGEST_MESSAGE = 3000
Case = tuple[str, Callable[[], object]]
"""The file that was damaged, and what reads it."""

TABLE = (
    b"file_name,label,group,split,domain\na/000.png,a,p1,train,x\na/001.png,a,p2,,x\nb/000.png,b,p3,val,y\n"
    b'"b/001.png","b",p4,,y\n'
)


def model_files(folder: Path, rng: random.Random) -> Iterator[Case]:
    """Damage the bytes of a model file, its header, or what the header says."""
    path = make_model(folder / FILE_NAME)
    whole = path.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    outer = json.loads(whole[8 : 8 + length])
    inner = json.loads(outer["__metadata__"]["ganaug"])

    def read() -> None:
        network, header, sha256 = load_model(path)
        gan = Sampler(network, header, sha256, path=path, device=torch.device("cpu"))
        counts = dict.fromkeys(header.classes, 1)
        data_card(header, Request.of(gan, counts, format="npz", seed=0, truncation=1.0), None)

    while True:
        kind = rng.random()
        if kind < 0.2:
            data = rng.choice([bytes_changed, cut_off])(whole, rng)
        elif kind < 0.3:
            data = _model(json_changed(outer, rng, deep=False), whole[8 + length :])
        else:
            text = json_changed(inner, rng).decode("utf-8", "replace")
            metadata = {"__metadata__": {"ganaug": text}}
            data = _model(json.dumps({**outer, **metadata}).encode(), whole[8 + length :])
        path.write_bytes(data)
        yield FILE_NAME, read


def _model(header: bytes, weights: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + weights


def recipes(folder: Path, rng: random.Random) -> Iterator[Case]:
    """Damage shipped recipes, and settings as YAML and JSON."""
    path = folder / "recipe.yaml"
    shipped = [file.read_bytes() for file in sorted(recipe_folder().glob("*.yaml"))]
    plain = FitConfig().to_dict()
    odd = (
        "&a [*a]",
        "*a",
        "!!python/name:os.system",
        "!!timestamp x",
        "2020-13-45",
        "!!int ''",
        "<<: {}",
        "? [1]",
        "~: 1",
    )

    def read() -> None:
        FitConfig.from_dict(load_recipe(str(path)), source=str(path))

    while True:
        kind = rng.random()
        text = rng.choice(shipped)
        if kind < 0.3:
            data = rng.choice([bytes_changed, cut_off])(text, rng)
        elif kind < 0.5:
            data = text_changed(text.decode(), rng).encode("utf-8", "surrogatepass")
        elif kind < 0.6:
            key = rng.choice([*plain, "?", "- "])
            data = text + f"\n{key}: {rng.choice(odd)}\n".encode()
        elif kind < 0.7:
            data = "\n".join(f"{k}: {v}" for k, v in value_changed(plain, rng).items()).encode("utf-8", "replace")
        else:
            some = dict(rng.sample(sorted(plain.items()), 6))
            data = json_changed(some, rng)
        path.write_bytes(data)
        yield path.name, read


def tables(folder: Path, rng: random.Random) -> Iterator[Case]:
    """Damage a metadata.csv: bytes, cells, columns, quotes."""
    make_folder(folder, {"a": 2, "b": 2})
    path = folder / "metadata.csv"
    cells = (
        "", '"', '""', "../x", "/etc/x", "C:\\x", "a\0b", "=cmd|' /C calc'!A0", "x" * 1100, "x" * 140_000, "a/000.png",
        "é", ".", "..", "metadata.csv", "a", "a/000.png#train[1]", "s.npz#train[99999999999]", "\x1b[31m", "con", "-1",
    )  # fmt: skip

    def read() -> None:
        manifest = scan(folder)
        assert {item.path for item in manifest.items} <= {"a/000.png", "a/001.png", "b/000.png", "b/001.png"}

    while True:
        if rng.random() < 0.5:
            data = rng.choice([bytes_changed, cut_off])(TABLE, rng)
        else:
            rows = [line.split(",") for line in TABLE.decode().splitlines()]
            for _ in range(rng.choice([1, 1, 2, 4])):
                row = rng.choice(rows)
                row[rng.randrange(len(row))] = rng.choice(cells)
                if rng.random() < 0.2:
                    row += rng.choice([["x"], ["", ""], list(row)])
                elif rng.random() < 0.2:
                    rows.append(rng.choice(rows)[: rng.randrange(1, 6)])
            data = "\n".join(map(",".join, rows)).encode()
        path.write_bytes(data)
        yield path.name, read


def json_files(folder: Path, rng: random.Random) -> Iterator[Case]:
    """Damage what banks, runs, studies and checkpoints keep as JSON, and the provenance inside a PNG."""
    bank = SyntheticBank.generate(FakeSampler(), folder / "bank", per_class=2).path
    entry = {"path": "a/0.png", "label": 0, "sha256": "0" * 64, "group_hash": "1" * 64}
    hashes = {"content_hashes": ["int 2x2x1 00"], "patient_hashes": ["2" * 64], "source_hashes": ["3" * 64]}
    config = {"settings": FitConfig().to_dict(), "recipe": "px64", "images": {"a": 1}}
    write_json(folder / "train_manifest.json", {"classes": ["a"], "files": [entry], **hashes})
    write_json(folder / "config.json", config)
    mixture = {"sampling_strategy": "auto", "ratio": 1.0, "symmetric": 0.25, "balance": "both"}
    recommended = {"bank": "bank", "mixture": mixture, "title": "GAN", "arm": "synthetic"}
    verdict = {"format": "ganaug-verdict", "version": 1, "verdict": {"word": "use"}, "recommended": recommended}
    write_json(folder / "verdict.json", verdict)
    steps = save_checkpoint(folder / "checkpoints", 1, {"w": torch.zeros(2)}, {"step": 1, "elapsed_s": 0.5})
    Run(folder).metrics_path.write_text('{"kimg": 1}\n')
    origin = SyntheticBank.open(bank).provenance(0)
    picture = folder / "picture.png"

    def open_bank() -> None:
        found = SyntheticBank.open(bank)
        assert len(found) == len(found.labels) == len(found.indices)
        found.provenance(len(found) - 1)

    def read_manifest() -> None:
        manifest_beside(folder / FILE_NAME, {})
        Trained.of(Run(folder).train_manifest())

    readers: dict[Path, Callable[[], object]] = {
        bank / "bank.json": open_bank,
        folder / "train_manifest.json": read_manifest,
        folder / "config.json": lambda: Run(folder).config(),
        folder / "verdict.json": lambda: read_verdict(folder),
        folder / "metrics.jsonl": lambda: Run(folder).metrics(),
        steps / "state.json": lambda: load_checkpoint(folder / "checkpoints"),
        steps / "SHA256.json": lambda: load_checkpoint(folder / "checkpoints"),
    }
    sound = {path: path.read_bytes() for path in readers}
    while True:
        if rng.random() < 0.2:
            text = json_changed(origin, rng).decode("utf-8", "replace").encode("latin-1", "replace")
            picture.write_bytes(_png_with(text))
            yield picture.name, lambda: str(trace(picture))
            continue
        path = rng.choice(list(readers))
        path.write_bytes(json_changed(json.loads(sound[path]), rng, deep=path.name == "metrics.jsonl"))
        # A damaged checkpoint is called by the name of its folder.
        yield "checkpoints" if path.is_relative_to(steps) else path.name, readers[path]
        path.write_bytes(sound[path])


def _png_with(text: bytes) -> bytes:
    chunks = [
        (b"IHDR", struct.pack(">2I5B", 4, 4, 8, 0, 0, 0, 0)),
        (b"tEXt", b"ganaug\0" + text),
        (b"IDAT", zlib.compress(bytes(20))),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


FAMILIES = {"model files": model_files, "recipes": recipes, "tables": tables, "JSON files": json_files}
MANY = {"model files": 4000, "recipes": 2000, "tables": 2000, "JSON files": 2000}


def survive(family: str, folder: Path, *, seed: int, times: int) -> int:
    """Read `times` damaged files; return how many were refused, each in a sentence that names the file."""
    rng = random.Random(f"{family} {seed}")
    cases = FAMILIES[family](folder, rng)
    errors: Counter[str] = Counter()
    for number in range(times):
        name, read = next(cases)
        try:
            with within_bounds():
                try:
                    read()
                except GanaugError as problem:
                    errors[type(problem).__name__] += 1
                    message = str(problem)
                    assert name in message or str(folder) in message, message[:500]
                    assert 30 < len(message) < LONGEST_MESSAGE, message[:500]
        except BaseException as problem:
            problem.add_note(f"{family} {seed}, number {number}: {name}")
            raise
    told = ", ".join(f"{n} {kind}" for kind, n in errors.most_common())
    print(f"{times:,} damaged {family}: {errors.total():,} refused ({told}), {times - errors.total():,} read")
    return errors.total()


@pytest.fixture(autouse=True)
def _quiet(recwarn: pytest.WarningsRecorder) -> None:
    """Verdicts other than 'use' warn."""


@pytest.mark.parametrize("family", FAMILIES)
def test_damaged_files_are_read_or_refused_in_a_sentence(family: str, tmp_path: Path) -> None:
    assert 50 < survive(family, tmp_path, seed=0, times=200) < 200


@pytest.mark.fuzz
@pytest.mark.parametrize("family", FAMILIES)
def test_ten_thousand_damaged_files(family: str, tmp_path: Path) -> None:
    assert survive(family, tmp_path, seed=1, times=MANY[family]) > MANY[family] // 4
