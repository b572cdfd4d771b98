"""A labelled folder of synthetic images: files by class, `metadata.csv`, a data set card."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ganaug.files import check_output, disk_errors, write_atomic
from ganaug.progress import progress_bar
from ganaug.sampling.folder import OVERWRITE, complete_or_absent
from ganaug.sampling.provenance import provenance
from ganaug.sampling.sampler import Sampler

BATCH = 256
COLUMNS = (
    "file_name", "label", "synthetic", "source", "seed", "index", "model_sha256", "truncation", "accepted", "scores",
)  # fmt: skip


@dataclass(frozen=True)
class _Item:
    label: int
    index: int
    file_name: str


def export_folder(
    gan: Sampler,
    out: str | Path,
    *,
    counts: Mapping[str, int],
    seed: int = 0,
    truncation: float = 1.0,
    overwrite: bool = False,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Write ``OUT/<class>/<file>.png``, 8 or 16 bit as the training images were, with `metadata.csv` and `README.md`.

    The folder appears under its name when it is complete. Each PNG carries its provenance in the text chunk "ganaug".

    Args:
        counts: how many images of each class.
        seed: image i of a class is always the same under a seed.

    Returns:
        A summary: the folder, the number of images in all and for each class.

    Raises:
        ConfigError: `out` holds something and may not be replaced.
        GanaugError: the disk is full or cannot be written.
    """
    out = Path(out)
    check_output(out, overwrite=overwrite, options=OVERWRITE)
    items = _items(gan.classes, counts, seed)
    total = len(items)
    with (
        disk_errors(out),
        complete_or_absent(out) as folder,
        ThreadPoolExecutor() as pool,
        progress_bar("sample", total, unit="images", show=show_progress) as progress,
    ):
        for name in _folder_names(gan.classes):  # also of a class with no image, so that label indices stay the same
            (folder / name).mkdir()
        rows = []
        for start in range(0, total, BATCH):
            part = items[start : start + BATCH]
            labels, indices = [item.label for item in part], [item.index for item in part]
            images = gan.stored(gan.sample(labels, seed=seed, indices=indices, truncation=truncation)).numpy()
            origins = [_origin(gan, item, seed, truncation) for item in part]
            list(pool.map(_write_png, images, [folder / item.file_name for item in part], origins))
            rows += [{"file_name": item.file_name, **origin} for item, origin in zip(part, origins, strict=True)]
            progress.update(start + len(part))
        write_atomic(folder / "metadata.csv", _table(rows).encode())
        write_atomic(folder / "README.md", _card(gan, counts, seed, truncation).encode())
    return {
        "out": str(out),
        "images": total,
        "counts": dict(counts),
        "seed": seed,
        "model_sha256": gan.model_sha256,
    }


def _items(classes: tuple[str, ...], counts: Mapping[str, int], seed: int) -> list[_Item]:
    folders = dict(zip(classes, _folder_names(classes), strict=True))
    return [
        _Item(label, index, f"{folders[name]}/synthetic-{seed}-{index:06d}.png")
        for label, name in enumerate(classes)
        for index in range(counts.get(name, 0))
    ]


def _folder_names(classes: tuple[str, ...]) -> Iterator[str]:
    """Yield a safe and unique folder name for each class; labels from a CSV may hold any character."""
    used: set[str] = set()
    for label, name in enumerate(classes):
        safe = re.sub(r"[^\w .+()-]", "_", name).encode()[:100].decode(errors="ignore").strip(" .") or "class"
        stem, number = safe, label
        while safe.casefold() in used:
            safe, number = f"{stem}-{number}", number + 1
        used.add(safe.casefold())
        yield safe


def _origin(gan: Sampler, item: _Item, seed: int, truncation: float) -> dict[str, Any]:
    return provenance(
        label=gan.classes[item.label],
        seed=seed,
        index=item.index,
        model_sha256=gan.model_sha256,
        truncation=truncation,
    )


def _write_png(pixels: np.ndarray, path: Path, origin: dict[str, Any]) -> None:
    text = PngInfo()
    text.add_text("ganaug", json.dumps(origin))
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", pnginfo=text)
    path.write_bytes(buffer.getvalue())


def _table(rows: list[dict[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(row)
    return stream.getvalue()


def _card(gan: Sampler, counts: Mapping[str, int], seed: int, truncation: float) -> str:
    trained = gan.header.training.get("images", {})
    lines = "\n".join(f"| {name} | {counts.get(name, 0)} | {trained.get(name, '?')} |" for name in gan.classes)
    channels, height, width = gan.shape
    return f"""---
pretty_name: Synthetic images made by ganaug
tags:
- synthetic
- ganaug
task_categories:
- image-classification
size_categories:
- {_size_category(sum(counts.values()))}
---
# Synthetic images

Every image here was made by a generative model; none shows a real case. Use them to train, never to test or to
diagnose. They may repeat biases, and faint traces, of the images that the model was trained on: the same terms hold.

| class | images here | real images the model saw |
|---|---|---|
{lines}

- {height}×{width} pixels, {channels} channel{"s" if channels > 1 else ""}, {gan.intensity.dtype}
- model SHA-256 `{gan.model_sha256}`, kind `{gan.header.model}`, seed {seed}, truncation {truncation}
- made {datetime.now(UTC).date().isoformat()} with ganaug {gan.header.training.get("ganaug", "?")}

`metadata.csv` describes each file; so does the text chunk "ganaug" in each PNG. The same model, class, seed and index
give the same image again.
"""


def _size_category(images: int) -> str:
    for limit, name in (
        (1_000, "n<1K"),
        (10_000, "1K<n<10K"),
        (100_000, "10K<n<100K"),
        (1_000_000, "100K<n<1M"),
    ):
        if images < limit:
            return name
    return "n>1M"
