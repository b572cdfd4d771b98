"""The setting that a study recommends, as arguments of `ganaug.SyntheticMixDataset`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from ganaug.errors import ModelFileError
from ganaug.files import read_json

FILE = "verdict.json"
FORMAT = "ganaug-verdict"
ARGUMENTS = ("sampling_strategy", "ratio", "symmetric", "balance")
_HINT = "Run ganaug study DATA --out DIR, and give DIR."


def read_verdict(path: Path) -> dict[str, Any]:
    """Return the bank and the other arguments that the study in `path` (its folder or ``verdict.json``) recommends.

    Warns where the verdict is not to use generated images.

    Raises:
        ModelFileError: no such file, a damaged one, or a study without a bank.
    """
    file = path / FILE if path.is_dir() else path
    found = read_json(file, ModelFileError, _HINT)
    try:
        if found["format"] != FORMAT or found["version"] != 1:
            raise ValueError(f"format {found['format']!r}, version {found['version']!r}")
        recommended = found["recommended"]
        bank = recommended["bank"]
        mixture = {name: recommended["mixture"][name] for name in ARGUMENTS if name in recommended["mixture"]}
        title = str(recommended["title"])
        word = None if found["verdict"] is None else str(found["verdict"]["word"])
        folder = (file.parent / str(bank)).resolve()
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise ModelFileError(
            f"{file} is no verdict that this ganaug reads ({type(problem).__name__}: {problem!s:.500}). {_HINT}"
        ) from None
    if not isinstance(bank, str):
        raise ModelFileError(f"The study of {file} made no synthetic images, and recommends nothing to add. {_HINT}")
    if not folder.is_relative_to(file.parent.resolve()):
        raise ModelFileError(f"{file} names the bank {bank!r:.200}, which is outside of the study's folder. {_HINT}")
    if word != "use":
        warnings.warn(
            f"The verdict of {file} is {word!r}: no synthetic images are added; what did best was {title!r}.",
            stacklevel=3,
        )
    return {"bank": folder, **mixture}
