"""Parts that are found by their file name: a new loss, reader or architecture is a new file, never a longer list."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from ganaug.errors import ConfigError


def plugin_names(package: str) -> list[str]:
    """Return the names of the modules in `package`, such as ``ganaug.training.losses``."""
    found = importlib.import_module(package)
    return sorted(module.name for module in pkgutil.iter_modules(found.__path__) if module.name[0] != "_")


def load_plugin(package: str, name: str) -> ModuleType:
    """Import the module `name` of `package`; an unknown name is a ConfigError that lists the known ones."""
    module = name.replace("-", "_")
    names = plugin_names(package)
    if module not in names:
        kind = package.rpartition(".")[2]
        raise ConfigError(f"There is no {name!r} among the {kind}. Known: {', '.join(names)}. Use one of these.")
    return importlib.import_module(f"{package}.{module}")
