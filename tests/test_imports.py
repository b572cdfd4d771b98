"""The architecture: rooms import downwards only, the package is lazy, and nothing in it can run foreign code."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ganaug

PACKAGE = Path(ganaug.__file__).parent
TOP = {"config", "errors", "files", "pages", "progress", "plugins", "distributed"}
MAY_IMPORT = {
    "data": set(),
    "models": {"data"},
    "training": {"data", "models"},
    "sampling": {"data", "models"},
    "mixing": {"data", "sampling", "training"},  # an over-sampler of imbalanced-learn trains in fit_resample
    "evaluation": {"data", "models", "sampling", "mixing", "training"},  # it trains classifiers, generators, judges
    **{name: set[str]() for name in TOP},
}
MAY_IMPORT_ALL = {"cli", "demo", "__main__", "__init__"}
MODULES = sorted(PACKAGE.rglob("*.py"))
IDS = [path.relative_to(PACKAGE).as_posix() for path in MODULES]


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _room(path: Path) -> str:
    """Return the room of a module: its folder, or its own name at the top."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def _imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield (module, name) for each import, wherever it stands; the name is empty for ``import module``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            yield from ((node.module or "", alias.name) for alias in node.names)


def _forbidden_imports(room: str, tree: ast.Module) -> list[str]:
    allowed = MAY_IMPORT[room] | TOP | {room}
    wrong = []
    for module, name in _imported(tree):
        parts = module.split(".")
        if parts[0] != "ganaug":
            continue
        target = parts[1] if len(parts) > 1 else name
        if target and target != "__version__" and target not in allowed:
            wrong.append(f"{module} {name}".strip())
    # `import ganaug` reaches every room through its lazy names, so that only the version may be taken from it.
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ganaug":
            wrong += [] if node.attr == "__version__" else [f"ganaug.{node.attr}"]
    return wrong


def test_every_room_is_known() -> None:
    assert {_room(path) for path in MODULES} == {*MAY_IMPORT, *MAY_IMPORT_ALL}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_rooms_below_it(room: str) -> None:
    for path in MODULES:
        if _room(path) == room:
            assert _forbidden_imports(room, _tree(path)) == [], path


@pytest.mark.parametrize(
    ("room", "code"),
    [
        ("models", "from ganaug.training.loop import Trainer"),
        ("data", "import ganaug.models.conv"),
        ("training", "from ganaug import sampling"),
        ("sampling", "def f():\n    from ganaug.training.run import Run"),
        ("files", "from ganaug.data import scan"),
        ("models", "import ganaug\nganaug.fit"),
    ],
)
def test_the_import_check_sees_an_import_upwards(room: str, code: str) -> None:
    assert _forbidden_imports(room, ast.parse(code))


def _dangers(tree: ast.Module) -> list[str]:
    """Return what could run code from a file: pickle and its kin, torch.load, eval, exec, unsafe YAML."""
    found = []
    for module, name in _imported(tree):
        parts = {*module.split("."), name}
        found += sorted(parts & {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"})
        found += ["torch.load"] if (module, name) == ("torch", "load") else []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found += [node.func.id] if node.func.id in {"eval", "exec", "compile", "__import__"} else []
        if isinstance(node, ast.Attribute):
            found += [ast.unparse(node)] if ast.unparse(node) in {"torch.load", "torch.save", "yaml.load"} else []
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            found += [] if ast.unparse(node.value) == "False" else ["allow_pickle"]
        if isinstance(node, ast.keyword) and node.arg == "shell":
            found += [] if ast.unparse(node.value) == "False" else ["shell"]
    return found


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_nothing_can_run_code_from_a_file(path: Path) -> None:
    assert _dangers(_tree(path)) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from torch import load",
        "torch.load('x')",
        "eval('1')",
        "exec('1')",
        "np.load(f, allow_pickle=True)",
        "from multiprocessing.reduction import pickle",
    ],
)
def test_the_danger_check_sees_a_danger(code: str) -> None:
    assert _dangers(ast.parse(code))


def test_the_danger_check_lets_a_network_go_into_evaluation_mode() -> None:
    assert _dangers(ast.parse("network.eval()")) == []


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_every_module_imports(path: Path) -> None:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))


def _loaded_after(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has loaded after `code`."""
    script = f"import sys\n{code}\nprint('\\n' + ' '.join({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.splitlines()[-1].split())


def test_import_ganaug_does_not_import_torch() -> None:
    loaded = _loaded_after("import ganaug")
    assert "ganaug" in loaded
    assert not loaded & {"torch", "numpy", "click", "yaml"}


@pytest.mark.parametrize("command", ["--help", "fit --help", "sample --help"])
def test_help_answers_without_the_heavy_libraries(command: str) -> None:
    code = (
        f"from ganaug.cli import main\ntry: main({command.split()!r})\nexcept SystemExit as end: assert end.code == 0"
    )
    assert not _loaded_after(code) & {"torch", "numpy", "PIL", "matplotlib", "monai", "sklearn"}


def test_every_public_name_exists() -> None:
    for name in ganaug.__all__:
        assert callable(getattr(ganaug, name)), name
        assert name in dir(ganaug)
    with pytest.raises(AttributeError, match="nothing"):
        ganaug.nothing  # noqa: B018
