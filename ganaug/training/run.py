"""The run folder: what a training leaves behind, and where."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganaug.config import FitConfig
from ganaug.errors import ConfigError
from ganaug.files import read_json
from ganaug.models.modelfile import FILE_NAME

_HINT = "Is this a run folder that 'ganaug fit' wrote?"


@dataclass(frozen=True)
class Run:
    """A run folder on disk."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    @property
    def model_path(self) -> Path:
        """The averaged generator."""
        return self.path / FILE_NAME

    @property
    def config_path(self) -> Path:
        """The resolved settings."""
        return self.path / "config.json"

    @property
    def manifest_path(self) -> Path:
        """SHA-256 and group hash of every training file, and hashes of the images' contents."""
        return self.path / "train_manifest.json"

    @property
    def metrics_path(self) -> Path:
        """One JSON object a line, one line a snapshot."""
        return self.path / "metrics.jsonl"

    @property
    def monitor_path(self) -> Path:
        """What the monitor watches, and what real images would be told."""
        return self.path / "monitor.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of the full states."""
        return self.path / "checkpoints"

    @property
    def images(self) -> Path:
        """Folder of one picture for each snapshot, always of the same latents."""
        return self.path / "images"

    @property
    def report_path(self) -> Path:
        """A page for people."""
        return self.path / "report.html"

    def config(self) -> FitConfig:
        """Read the settings of the run."""
        return FitConfig.from_dict(self.config_file()["settings"], source=str(self.config_path))

    def config_file(self) -> dict[str, Any]:
        """Read config.json: the settings, and how they came about."""
        values = read_json(self.config_path, ConfigError, _HINT)
        if not isinstance(values, dict) or not isinstance(values.get("settings"), dict):
            raise ConfigError(f"{self.config_path} has no settings. {_HINT}")
        return values

    def train_manifest(self) -> dict[str, Any]:
        """Read the manifest of the training files."""
        values = read_json(self.manifest_path, ConfigError, _HINT)
        if not isinstance(values, dict):
            raise ConfigError(f"{self.manifest_path} holds no object. {_HINT}")
        return values

    def metrics(self) -> list[dict[str, Any]]:
        """Read the snapshots' metrics, oldest first; a line cut short by a crash is left out."""
        if not self.metrics_path.exists():
            return []
        rows = []
        for line in self.metrics_path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            rows += [row] if isinstance(row, dict) else []
        return rows
