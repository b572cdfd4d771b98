"""ganaug: synthetic data augmentation for classifiers, with an honest verdict.

Names are loaded when they are first used: ``import ganaug`` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ganaug.mixing import SyntheticMix, SyntheticMixDataset
    from ganaug.sampling import Sampler, SyntheticBank, Translator, load
    from ganaug.training.fit import fit
    from ganaug.training.run import Run

__version__ = "0.1.0"

_HOMES = {
    "fit": "ganaug.training.fit",
    "Run": "ganaug.training.run",
    "load": "ganaug.sampling",
    "Sampler": "ganaug.sampling",
    "Translator": "ganaug.sampling",
    "SyntheticBank": "ganaug.sampling",
    "SyntheticMixDataset": "ganaug.mixing",
    "SyntheticMix": "ganaug.mixing",
}

__all__ = ["Run", "Sampler", "SyntheticBank", "SyntheticMix", "SyntheticMixDataset", "Translator", "fit", "load"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ganaug' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
