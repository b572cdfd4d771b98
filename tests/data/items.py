"""Items of manifests that no file stands behind, for the tests of what is told about them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ganaug.data.manifest import Item, Manifest

UINT16 = {"dtype": "uint16", "minimum": 0.0, "low": 1.0, "high": 3000.0, "maximum": 4095.0}


def make_item(path: str, **fields: Any) -> Item:
    """Return a gray 8-bit 12×10 PNG whose content is its own: its class is 0, its group the content."""
    sha256 = fields.pop("sha256", hashlib.sha256(path.encode()).hexdigest())
    usual: dict[str, Any] = {
        "label": 0,
        "group": sha256,
        "shape": (12, 10),
        "channels": 1,
        "dtype": "uint8",
        "format": "PNG",
        "mode": "L",
    }
    return Item(path=path, sha256=sha256, **{**usual, **fields})


def make_manifest(*items: Item, classes: tuple[str, ...] = ("a", "b")) -> Manifest:
    """Return a manifest of a folder that does not exist."""
    return Manifest(Path("/nowhere"), classes, items)


def kinds(problems: Any) -> dict[str, list[str]]:
    """Return the files of each kind of problem."""
    return {found["kind"]: found["files"] for found in problems}
