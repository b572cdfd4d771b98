"""Small labelled folders for the tests of this room."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def pixels(seed: int, height: int = 12, width: int = 10, channels: int = 1, dtype: str = "uint8") -> np.ndarray:
    """Return random pixels, H×W for one channel and H×W×C for more."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def save(path: Path, array: np.ndarray) -> Path:
    """Write an array in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def make_folder(root: Path, counts: dict[str, int], **kwargs: int | str) -> Path:
    """Write `counts` random PNG files a class, all different."""
    seed = 0
    for name, n in counts.items():
        for index in range(n):
            seed += 1
            save(root / name / f"{index:03d}.png", pixels(seed, **kwargs))  # type: ignore[arg-type]
    return root
