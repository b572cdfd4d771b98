"""What ganaug promises in SECURITY.md: no file that it reads can run code, or write outside of the output folder."""

from __future__ import annotations

import ast
import gzip
import importlib
import io
import json
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save

import ganaug
from ganaug import pages
from ganaug.cli import main
from ganaug.config import MAX_RECIPE_BYTES, FitConfig, load_recipe
from ganaug.data import scan
from ganaug.data.archives import member_names
from ganaug.data.manifest import hash_group
from ganaug.data.readers import decode
from ganaug.errors import ConfigError, DataError, GanaugError, ModelFileError
from ganaug.files import MARKER, prepare_output, write_json
from ganaug.mixing.verdict import read_verdict
from ganaug.models.modelfile import FILE_NAME, MAX_HEADER_BYTES, load_model
from ganaug.sampling.bank import SyntheticBank
from ganaug.sampling.embedded import origin_in
from ganaug.sampling.export import export_folder
from ganaug.sampling.provenance import provenance
from ganaug.sampling.purge import purge
from ganaug.sampling.trace import trace
from ganaug.sampling.translated_files import translate_files
from ganaug.sampling.writers import load_writer, writer_names
from ganaug.training.report import write_report
from ganaug.training.run import Run
from tests.data.folders import make_folder
from tests.data.test_fuzz import dicom, nifti, numpy_file, picture, within_bounds
from tests.sampling.fake_sampler import FakeSampler
from tests.sampling.translation_models import make_translator
from tests.tiny import make_model

PACKAGE = Path(ganaug.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
XSS = "<script>alert(1)</script>"
HOSTILE = (
    "../../x", "/etc/x", "..", ".", "C:\\x", "a\0b", "a\nb", "\x1b[31mred", XSS, "=cmd|' /C calc'!A0", "x" * 900, "CON",
    ".ganaug", "metadata.csv", "README.md", "request.json", "~/x", "a/../../../x", " ", "-rf", "$(id)", "%2e%2e%2fx",
)  # fmt: skip

# --- what the source may not hold ---

RUNS_CODE = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
BARE_CALLS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "torch.load", "torch.save", "torch.hub.load", "torch.jit.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
    "yaml.load_all", "os.system", "os.popen", "tempfile.mktemp", "importlib.import_module", "builtins.eval",
    "builtins.exec", "runpy.run_path", "runpy.run_module", "subprocess.run", "subprocess.Popen", "subprocess.call",
    "subprocess.check_output", "subprocess.check_call", "subprocess.getoutput", "code.interact",
}  # fmt: skip
NETWORK = {"urllib", "requests", "http", "socket", "ftplib", "httpx", "aiohttp", "huggingface_hub"}
XML = {"xml", "lxml"}
PARTS = {"extractall", "extract", "unpack_archive", "Loader", "UnsafeLoader", "FullLoader", "all_gather_object",
         "broadcast_object_list", "gather_object", "scatter_object_list"}  # fmt: skip
"""Attributes that unpack archives, read unsafe YAML, or pickle between processes."""

ALLOWED = {
    ("__init__.py", "importlib.import_module"): "a public name's own room, from a table in the source",
    ("plugins.py", "importlib.import_module"): "a module that the package itself holds; see the tests below",
    ("evaluation/trials.py", "importlib.import_module"): "study --model MODULE:CALLABLE, from the command line",
    ("evaluation/features.py", "importlib.import_module"): "evaluate --features MODULE:ATTR, from the command line",
}


def dangers(tree: ast.AST) -> Iterator[str]:
    """Yield what in a module could run code that a file brings along, or reach the network."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for module in modules:
                yield from {*module.split(".")} & RUNS_CODE
                yield from {module.split(".")[0]} & (NETWORK | XML)
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    yield from {f"{node.module}.{alias.name}"} & CALLS
                    yield from {alias.name} & (PARTS | RUNS_CODE)
        elif isinstance(node, ast.Attribute):
            yield from {ast.unparse(node)} & CALLS
            yield from {node.attr} & PARTS
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            yield from {name} & BARE_CALLS
            keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if name == "np.load" and keywords.get("allow_pickle") != "False":
                yield "np.load without allow_pickle=False"
            if keywords.get("allow_pickle", "False") != "False":
                yield "allow_pickle"
            if keywords.get("shell", "False") != "False":
                yield "shell"
            if name.endswith("Environment") and keywords.get("autoescape") != "True":
                yield "jinja2 without autoescape"


@pytest.mark.parametrize("path", MODULES, ids=[str(path.relative_to(PACKAGE)) for path in MODULES])
def test_no_module_can_run_what_a_file_brings_along(path: Path) -> None:
    name = path.relative_to(PACKAGE).as_posix()
    found = {danger for danger in dangers(ast.parse(path.read_text())) if (name, danger) not in ALLOWED}
    assert found == set()


def test_every_exception_is_still_needed() -> None:
    for (name, danger), reason in ALLOWED.items():
        assert danger in dangers(ast.parse((PACKAGE / name).read_text())), (name, reason)


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from torch import load", "from multiprocessing.reduction import pickle", "torch.load(f)",
        "eval(x)", "exec(x)", "compile(x, '', 'exec')", "yaml.load(f, yaml.Loader)", "np.load(f)",
        "np.load(f, allow_pickle=True)", "os.system('x')", "run(x, shell=True)", "importlib.import_module(x)",
        "__import__(x)", "zip.extractall(d)", "import xml.etree", "tempfile.mktemp()", "jinja2.Environment()",
        "dist.all_gather_object(a, b)", "import requests", "from yaml import unsafe_load",
    ],
)  # fmt: skip
def test_the_source_test_sees_a_danger(code: str) -> None:
    assert [*dangers(ast.parse(code))]


def test_the_source_test_lets_the_harmless_pass() -> None:
    for code in ("network.eval()", "re.compile('x')", "np.load(f, allow_pickle=False)", "yaml.safe_load(t)"):
        assert not [*dangers(ast.parse(code))], code


def test_markup_is_made_in_one_place_and_never_in_a_template() -> None:
    made = [path.name for path in MODULES if re.search(r"\bMarkup\(", path.read_text())]
    assert made == ["pages.py"]
    for template in [*PACKAGE.rglob("*.j2"), PACKAGE / "training" / "report.py"]:
        assert not re.search(r"\|\s*safe\b|autoescape\s+false", template.read_text()), template


# --- names in files are never imported ---


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """The names that are imported by a call; beside it a module `evil` that can be imported and must not be."""
    (tmp_path / "evil.py").write_text(
        "from pathlib import Path\nPath('pwned').touch()\nGenerator = build = GAN = dict\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    asked: list[str] = []
    original = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", lambda name, *rest: (asked.append(name), original(name, *rest))[1])
    yield asked
    assert "evil" not in sys.modules
    assert not Path("pwned").exists()
    assert not any("evil" in name for name in asked)


EVIL = ("evil", "evil:build", "os", "..evil", "../evil", "ganaug.plugins", "modern.os", "evil\0", "_base", "__init__")


@pytest.mark.parametrize("name", EVIL)
def test_a_model_file_cannot_name_a_module(tmp_path: Path, imports: list[str], name: str) -> None:
    path = make_model(tmp_path / FILE_NAME)
    for field in ("arch", "model", "loss", "augment"):
        header = _header(path)
        header["settings"][field] = name
        _with_header(path, tmp_path / "x.safetensors", header)
        if field == "arch":
            with pytest.raises(ModelFileError, match=r"x\.safetensors"):
                load_model(tmp_path / "x.safetensors")
        else:
            load_model(tmp_path / "x.safetensors")
    header = {**_header(path), "model": name}
    _with_header(path, tmp_path / "x.safetensors", header)
    if re.search(r"[:/\0]", name):
        with pytest.raises(ModelFileError):
            load_model(tmp_path / "x.safetensors")
    else:
        load_model(tmp_path / "x.safetensors")


def test_a_verdict_a_config_and_a_plan_cannot_name_a_module(tmp_path: Path, imports: list[str]) -> None:
    SyntheticBank.generate(FakeSampler(), tmp_path / "bank", per_class=1)
    recommended = {
        "bank": "bank",
        "mixture": {"sampling_strategy": "evil:build"},
        "title": "evil:build",
        "model": "evil",
    }
    verdict = {"format": "ganaug-verdict", "version": 1, "verdict": {"word": "use"}, "model": "evil:build"}
    write_json(tmp_path / "verdict.json", {**verdict, "recommended": recommended, "settings": {"model": "evil:build"}})
    assert read_verdict(tmp_path)["bank"] == tmp_path / "bank"
    write_json(tmp_path / "config.json", {"settings": {"model": "evil", "arch": "evil:build", "loss": "os"}})
    assert Run(tmp_path).config().model == "evil"
    # A study goes on with the settings of the command line; those of its folder are only compared with them.
    make_folder(tmp_path / "data", {"a": 8, "b": 8})
    (tmp_path / "study").mkdir()
    write_json(tmp_path / "study" / "study.json", {"settings": {"model": "evil:build"}})
    result = CliRunner().invoke(main, ["study", "data", "--out", "study"])
    assert result.exit_code == 2
    assert "study" in result.stderr


# --- nothing is written elsewhere ---


@pytest.fixture
def jail(tmp_path: Path) -> Iterator[Path]:
    """A folder inside of others with precious files, which have to stay as they are, and alone."""
    inner = tmp_path / "one" / "two" / "jail"
    inner.mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "one", tmp_path / "one" / "two"):
        (folder / "x").write_text("precious")
    before = _tree(tmp_path, inner)
    root = {*Path("/etc").glob("x*"), *Path.home().glob("x*")}
    yield inner
    assert _tree(tmp_path, inner) == before
    assert {*Path("/etc").glob("x*"), *Path.home().glob("x*")} == root


def _tree(root: Path, without: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file() and not path.is_relative_to(without))
    return {str(path): path.read_text() for path in files}


@pytest.mark.parametrize("form", ["png", "npy", "npz", "bank"])
def test_class_names_do_not_lead_out_of_an_export(jail: Path, form: str) -> None:
    gan = FakeSampler(classes=HOSTILE)
    export_folder(gan, jail / "out", counts=dict.fromkeys(HOSTILE, 1), format=form)
    found = [path.relative_to(jail) for path in jail.rglob("*")]
    assert all(path.parts[0] == "out" and len(path.parts) <= 3 for path in found)
    assert not any(set(part) & set('\\:\0\n\x1b<>|$~"') for path in found for part in path.parts)


def test_domain_names_do_not_lead_out_of_a_translation(jail: Path) -> None:
    make_folder(jail / "in", {"a": 1, "b": 1})
    for number, name in enumerate(["../../x", "/etc/x", "..", "a\0b"]):
        gan = make_translator(jail / f"m{number}" / FILE_NAME, domains=("a", name))
        translate_files(gan, jail / "in", jail / "out" / str(number), to=name)
        assert len([*(jail / "out" / str(number)).rglob("*.png")]) == 1


@pytest.mark.parametrize(
    "name", ["../x.png", "/etc/passwd", "C:\\x.png", "a/../../x.png", "..", "a/\0.png", "\\\\server\\x", "../../one/x"]
)
def test_a_table_cannot_name_files_elsewhere(jail: Path, name: str) -> None:
    make_folder(jail, {"a": 1})
    (jail / "metadata.csv").write_text(f"file_name,label\n{name},a\n")
    with pytest.raises(DataError, match="does not lie inside the folder"):
        scan(jail)


def test_archives_are_never_unpacked_to_the_names_in_them(jail: Path) -> None:
    members = {
        name: numpy_file((4, 8, 6), "uint8") for name in ("train_images.npy", "../x.npy", "/etc/x.npy", "../../x")
    }
    members["train_labels.npy"] = _npy(np.array([0, 1, 0, 1], np.uint8))
    with zipfile.ZipFile(jail / "set.npz", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    assert "../x" in member_names(jail / "set.npz")
    assert len(scan(jail / "set.npz").items) == 4
    trace(jail / "set.npz")
    assert [path.name for path in jail.iterdir()] == ["set.npz"]


def test_links_that_lead_out_of_a_data_folder_are_refused(jail: Path) -> None:
    make_folder(jail / "data", {"a": 2})
    (jail / "private.png").write_bytes(picture("PNG"))
    (jail / "data" / "a" / "link.png").symlink_to(jail / "private.png")
    with pytest.raises(DataError, match="leads out of the folder"):
        scan(jail / "data")


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_overwriting_does_not_follow_links(jail: Path, kind: str) -> None:
    out, victim = jail / "out", jail.parent.parent
    out.mkdir()
    (out / MARKER).touch()
    (out / "link").symlink_to(victim if kind == "folder" else victim / "x")
    prepare_output(out, overwrite=True)
    assert [path.name for path in out.iterdir()] == [MARKER]
    (out / "link").symlink_to(victim if kind == "folder" else victim / "x")
    SyntheticBank.generate(FakeSampler(), out, per_class=1, overwrite=True)
    assert not (out / "link").is_symlink()


def test_a_foreign_folder_behind_a_link_is_not_overwritten(jail: Path) -> None:
    (jail / "out").symlink_to(jail.parent)
    with pytest.raises(ConfigError, match="was not made by ganaug"):
        prepare_output(jail / "out", overwrite=True)
    with pytest.raises(ConfigError, match="was not made by ganaug"):
        export_folder(FakeSampler(), jail / "out", counts={"a": 1}, overwrite=True)


def test_an_unfinished_folder_with_links_is_begun_anew(jail: Path) -> None:
    """One that came out of a stranger's archive, say, and would be gone on with."""
    gan, work = FakeSampler(), jail / ".out.unfinished"
    export_folder(gan, jail / "out", counts={"a": 1}, format="png")
    work.mkdir()
    (work / MARKER).touch()
    (work / "request.json").write_bytes((jail / "out" / "request.json").read_bytes())
    (work / "a").symlink_to(jail.parent)
    (jail.parent / "empty.part").touch()
    export_folder(gan, jail / "out", counts={"a": 1}, format="png", overwrite=True)
    assert (jail / "out" / "a").is_dir()
    assert not (jail / "out" / "a").is_symlink()
    assert (jail.parent / "empty.part").exists()
    (jail.parent / "empty.part").unlink()

    (jail / ".new.unfinished").symlink_to(jail.parent)
    with pytest.raises(ConfigError, match="link"):
        export_folder(gan, jail / "new", counts={"a": 1}, format="png")


def test_a_table_cannot_make_a_purge_delete_elsewhere(jail: Path) -> None:
    source = f"{'5' * 64}#0"
    export_folder(FakeSampler(classes=("a",)), jail / "out", counts={"a": 2}, format="npy")
    table = jail / "out" / "metadata.csv"
    rows = table.read_text().replace("noise", source).splitlines()
    names = ["../../x", "/etc/passwd", str(jail.parent / "x"), "../x#1"]
    table.write_text("\n".join([*rows, *(re.sub(r"^[^,]*", name, rows[1]) for name in names)]) + "\n")
    (jail / "run").mkdir()
    run = make_model(jail / "run" / FILE_NAME)
    write_json(jail / "run" / "train_manifest.json", {"files": [{"sha256": "5" * 64, "group_hash": hash_group("p1")}]})
    assert sum(purge(jail / "out", "p1", runs=[run]).removed.values()) == 6


# --- code, bombs and impossible sizes ---

BOMB = "batch: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{key}: &{key} [{', '.join([f'*{before}'] * 10)}]\n" for before, key in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: !!python/object/apply:os.system ['touch pwned']\n", "not valid YAML"),
        ("a: !!python/object/new:subprocess.Popen [['touch', 'pwned']]\n", "not valid YAML"),
        ("!!python/name:os.system x: 1\n", "not valid YAML"),
        (BOMB, "alias"),
        ("<<: &a {batch: 4}\n", "there is no setting|batch"),
        ("kimg: 1\nbacth: 4\n", "Did you mean 'batch'"),
        ("batch: 4\nbatch: 8\n", "twice"),
        ("seed: 2020-13-45\n", "not valid YAML"),
        ("seed: !!timestamp x\n", "not valid YAML"),
        ("batch: 0x" + "f" * 5000, "whole number"),
        ("seed: -1\n", "0 to"),
        ("1: 2\n", "no setting 1"),
        ("null: 2\n", "no setting None"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("#" * (MAX_RECIPE_BYTES + 1), "bytes"),
    ],
)
def test_a_recipe_is_settings_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with within_bounds():
        if says == "there is no setting|batch":
            assert FitConfig.from_dict(load_recipe(str(path)), source=str(path)).batch == 4
        else:
            with pytest.raises(ConfigError, match=says) as caught:
                FitConfig.from_dict(load_recipe(str(path)), source=str(path))
            assert str(path) in str(caught.value)
            assert len(str(caught.value)) < 3000
    assert not Path("pwned").exists()


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _huge_npy() -> bytes:
    return numpy_file((8, 6), "uint8").replace(b"(8, 6), }         ", b"(1000000,1000000),}")


def _huge_png() -> bytes:
    size = struct.pack(">2I5B", 10**5, 10**5, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", size), (b"IDAT", zlib.compress(bytes(10**6))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def _huge_nifti() -> bytes:
    data = bytearray(nifti("int16"))
    struct.pack_into("<4h", data, 40, 3, 32767, 32767, 32767)
    return bytes(data)


def _huge_dicom() -> bytes:
    data = dicom("ExplicitVRLittleEndian")
    for tag in (b"\x28\x00\x10\x00US\x02\x00", b"\x28\x00\x11\x00US\x02\x00"):
        assert tag in data
        data = data.replace(tag + b"\x08\x00", tag + b"\xff\xff")
    return data


def _deflated_bomb() -> bytes:
    """600 MB in 3 MB: a DICOM file is unpacked before anything in it can be looked at."""
    data = dicom("DeflatedExplicitVRLittleEndian")
    start = 132 + 12 + struct.unpack_from("<I", data, 140)[0]
    packer, zeros = zlib.compressobj(1, wbits=-zlib.MAX_WBITS), bytes(10**6)
    return data[:start] + b"".join(packer.compress(zeros) for _ in range(600)) + packer.flush()


BOMBS = {
    "x.npy": _huge_npy,
    "x.png": _huge_png,
    "x.nii": _huge_nifti,
    "x.nii.gz": lambda: gzip.compress(_huge_nifti() + bytes(10**7), 1),
    "x.dcm": _huge_dicom,
    "deflated.dcm": _deflated_bomb,
}


@pytest.mark.parametrize("name", BOMBS)
def test_files_that_claim_too_much_are_refused_and_traced(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(BOMBS[name]())
    with within_bounds(), pytest.raises(DataError, match=name):
        decode(path.read_bytes(), path)
    with within_bounds():
        assert trace(path).verdict == "unknown"


def test_an_array_of_an_archive_that_claims_too_much_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train_images.npy", _huge_npy())
        archive.writestr("train_labels.npy", _npy(np.zeros(4, np.uint8)))
    for read in (scan, trace):
        with within_bounds(), pytest.raises(GanaugError, match=r"set\.npz"):
            read(tmp_path / "set.npz")


def test_a_header_longer_than_any_of_ours_is_not_read(tmp_path: Path) -> None:
    path = make_model(tmp_path / FILE_NAME)
    whole = path.read_bytes()
    for length in (100 * 2**30, MAX_HEADER_BYTES + 1, 2**64 - 1):
        path.write_bytes(struct.pack("<Q", length) + whole[8:])
        with within_bounds(), pytest.raises(ModelFileError, match="announce a header") as caught:
            load_model(path)
        assert str(path) in str(caught.value)


FALSE: dict[str, dict[str, Any]] = {
    "classes that are one text": {"classes": "abc"},
    "classes that are alike": {"classes": ["a", "a", "b"]},
    "a class without a name": {"classes": ["a", "b", ""]},
    "a class with a name of a megabyte": {"classes": ["a", "b", "x" * 2**20]},
    "a kind with markup": {"model": f"{XSS}\n# Real images"},
    "a source format with a new line": {"source_format": "PNG\n# Real"},
    "counts that are none": {"training": {"images": [1, 2]}},
    "a count below zero": {"training": {"images": {"a": -1}}},
    "a version with markup": {"training": {"images": {}, "ganaug": XSS}},
    "a hash that is none": {"training": {"train_manifest_sha256": "../x"}},
}


@pytest.mark.parametrize("change", FALSE.values(), ids=FALSE)
def test_a_header_with_other_fields_than_ours_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = make_model(tmp_path / FILE_NAME)
    _with_header(path, path, {**_header(path), **change})
    with pytest.raises(ModelFileError, match=FILE_NAME):
        load_model(path)


@pytest.mark.parametrize("kind", ["pickle", "zip of a pickle", "objects"])
def test_arrays_of_a_bank_are_not_unpickled(tmp_path: Path, kind: str) -> None:
    bank = SyntheticBank.generate(FakeSampler(), tmp_path / "bank", per_class=1)
    evil = b"\x80\x04cposix\nsystem\n(S'touch pwned'\ntR."
    stream = io.BytesIO()
    if kind == "objects":
        np.save(stream, np.array([{}], dtype=object), allow_pickle=True)
    elif kind == "zip of a pickle":
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("images.npy", evil)
    (bank.path / "images.npy").write_bytes(stream.getvalue() or evil)
    with pytest.raises(ModelFileError, match=r"images\.npy"):
        SyntheticBank.open(bank.path)
    assert not Path("pwned").exists()


# --- what people look at ---


def test_names_are_escaped_in_the_report_of_a_training(tmp_path: Path) -> None:
    run = Run(tmp_path)
    write_json(run.config_path, {"settings": FitConfig().to_dict(), "images": {XSS: 3}})
    row = {"kimg": 1, "seconds": 1, "images_per_second": 1, "skipped_steps": 0, "diversity": 1, "diversity_least": 1,
           "diversity_by_class": {XSS: 1.0}, "alarm": XSS, "unwatched": XSS}  # fmt: skip
    run.metrics_path.write_text(json.dumps(row) + "\n")
    run.images.mkdir()
    (run.images / "1.png").write_bytes(picture("PNG"))
    write_report(run)
    page = run.report_path.read_text()
    assert XSS not in page
    assert page.count("&lt;script&gt;alert(1)") >= 2


def test_names_are_escaped_in_the_pages_of_study_and_evaluation() -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().set_title(XSS)
    drawing = pages.inline_svg(figure, XSS)
    one = {"uri": "data:,", "alt": XSS, "caption": XSS}
    said = {"word": XSS, "sentence": XSS}
    common = {"title": XSS, "about": XSS, "network": XSS}
    study = pages.render(
        "study.html.j2", **common, said=said, site_said=said, forest=drawing, note=XSS, chosen=XSS, tuning=[[XSS, XSS]],
        tables=[{"caption": XSS, "head": [XSS], "rows": [[XSS, XSS]]}], pictures=[one], banks=[[XSS] * 5], size=XSS,
        settings=XSS,
    ).decode()  # fmt: skip
    texts = ("walked", "judge", "copies", "duplicates", "membership", "shortcut", "wave_text", "metrics")
    evaluation = pages.render(
        "evaluation.html.j2", **common, boxes=[{"kind": XSS, "title": XSS, "text": XSS}], beside=one, closest=one,
        walk=[{"uri": "data:,", "alt": XSS}], fidelity=[[XSS] * 9], labels=[[XSS] * 7], spaces=[[XSS] * 7],
        attacks=[[XSS] * 4], waves=drawing, **dict.fromkeys(texts, XSS),
    ).decode()  # fmt: skip
    for page in (study, evaluation):
        assert XSS not in page
        assert "alert(1)" in page
        assert page.count("<script>") == page.count("<script>\nconst walk")


def test_a_terminal_is_not_obeyed_by_names_in_a_file(tmp_path: Path) -> None:
    path = make_model(tmp_path / FILE_NAME, classes=("a", "b", "\x1b]0;owned\x07\x1b[31m"))
    for arguments in (["sample", str(path), "--out", str(tmp_path / "out"), "--counts", "none=1"],
                      ["preview", str(path), "--out", str(tmp_path / "x.png"), "--classes", "none"]):  # fmt: skip
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2
        assert "\x1b" not in result.output


# --- where an image comes from ---


def test_every_format_carries_its_origin_or_is_known_not_to() -> None:
    origin = provenance(label=XSS, seed=1, index=2, model_sha256="ab" * 32, truncation=1.0)
    silent = set()
    for name in writer_names():
        data = load_writer(name).encode(np.zeros((1, 8, 6), np.uint8), geometry=None, origin=origin)
        found, where = origin_in(data)
        silent |= set() if found else {name}
        assert found in (None, origin)
        assert bool(found) == bool(load_writer(name).ORIGIN) == bool(where)
    # Its folder has a metadata.csv, as that of every format has.
    assert silent == {"npy"}


@pytest.mark.parametrize("form", [*writer_names(), "npz"])
def test_every_export_has_a_table_with_the_origin_of_every_image(tmp_path: Path, form: str) -> None:
    gan = FakeSampler(classes=("a", "b"), shape=(1, 8, 6))
    export_folder(gan, tmp_path / "out", counts={"a": 2, "b": 1}, format=form)
    table = (tmp_path / "out" / "metadata.csv").read_text()
    assert table.count(gan.model_sha256) == table.count(",True,noise,") == 3


@pytest.mark.parametrize("scores", ["[1]", "3", '"x"', '{"\x1b[31m": 1}', "[" * 5000])
def test_scores_that_are_none_do_not_hurt(tmp_path: Path, scores: str) -> None:
    origin = {**provenance(label="a", seed=0, index=0, model_sha256="ab" * 32, truncation=1.0), "scores": scores}
    path = tmp_path / "x.png"
    path.write_bytes(load_writer("png").encode(np.zeros((1, 8, 6), np.uint8), geometry=None, origin=origin))
    assert "\x1b" not in str(trace(path))


# --- helpers ---


def _header(path: Path) -> dict[str, Any]:
    raw = path.read_bytes()
    outer = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    return json.loads(outer["__metadata__"]["ganaug"])


def _with_header(source: Path, target: Path, header: dict[str, Any]) -> None:
    target.write_bytes(save(load_file(source), metadata={"ganaug": json.dumps(header)}))
