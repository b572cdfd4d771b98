"""The data set card: `README.md` with a YAML head that the Hugging Face hub and `datasets` understand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

from ganaug import __version__
from ganaug.data.names import printable
from ganaug.sampling.request import Request
from ganaug.sampling.writers import Writer

if TYPE_CHECKING:
    from ganaug.models.modelfile import ModelHeader

_LOADABLE = (".png", ".tif")
"""Files that `datasets` opens as images; of the others, and of volumes, it loads the table."""

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def data_card(header: ModelHeader, request: Request, writer: Writer | None) -> str:
    """Return the card of a folder that was made on `request`.

    Args:
        header: of the model file.
        writer: of the files; None for an archive.
    """
    trained = header.training.get("images", {})
    rows = "\n".join(
        f"| {_cell(name)} | {count} | {trained.get(name, '?')} |" for name, count in request.counts.items()
    )
    facts = "\n".join(f"- {fact}" for fact in _facts(header, request))
    front = yaml.safe_dump(_front_matter(request, writer), sort_keys=False)
    where = f"\nSo does each file, in {writer.ORIGIN}." if writer and writer.ORIGIN else ""
    return f"""---
{front}---
# Synthetic images

Every image here was made by a generative model; none shows a real case. Use them to train, never to test or to
diagnose.

| class | images here | real images the model saw |
|---|---|---|
{rows}

{facts}

`metadata.csv` says of each image where it comes from.{where}
The same model, class, seed and index give the same image again.

## Limits

- The images may repeat biases, and faint traces, of the images that the model was trained on: keep them as carefully.
- An image may show another class than its label, or nothing that exists. No expert has looked at them.
- That they help a classifier is not certain: measure it on real images that the model has never seen.

## License

The same terms as the training data.
"""


def recounted(card: str, removed: Mapping[str, int]) -> str | None:
    """Return a card after so many images of each class were removed; None if it is none that `data_card` wrote."""
    _, front, body = card.split("---\n", 2) if card.count("---\n") > 1 else ("", "", "")
    try:
        values = yaml.safe_load(front)
        counts = {name: int(n) - removed.get(name, 0) for name, n in values["ganaug"]["counts"].items()}
        values["ganaug"]["counts"] = counts
        values["size_categories"] = [_size(sum(counts.values()))]
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError):
        return None
    lines = body.splitlines(keepends=True)
    for name, n in counts.items():
        start = f"| {_cell(name)} | "
        found = [at for at, line in enumerate(lines) if line.startswith(start)]
        if len(found) != 1 or n < 0:
            return None
        lines[found[0]] = f"{start}{n} |{lines[found[0]].removeprefix(start).partition(' |')[2]}"
    return f"---\n{yaml.safe_dump(values, sort_keys=False)}---\n{''.join(lines)}"


def _size(images: int) -> str:
    return next((name for limit, name in _SIZES if images < limit), "n>1M")


def _front_matter(request: Request, writer: Writer | None) -> dict[str, Any]:
    """Return the YAML head: the hub's keys, and our own record under `ganaug`."""
    files = ["metadata.csv"]
    if writer is not None and writer.SUFFIX in _LOADABLE and len(request.shape) == 3:
        files.append(f"*/*{writer.SUFFIX}")
    return {
        "pretty_name": "Synthetic images made by ganaug",
        "license": "other",
        "license_name": "same-terms-as-the-training-data",
        "tags": ["synthetic", "ganaug"],
        "task_categories": ["image-classification"],
        "size_categories": [_size(len(request))],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": files}]}],
        "ganaug": {
            "version": __version__,
            "model_sha256": request.model_sha256,
            "seed": request.seed,
            "truncation": request.truncation,
            "counts": request.counts,
        },
    }


def _facts(header: ModelHeader, request: Request) -> list[str]:
    channels, *sides = request.shape
    volume, geometry = len(sides) == 3, header.geometry
    facts = [
        f"{'×'.join(map(str, sides))} {'voxels (D×H×W)' if volume else 'pixels (H×W)'}, "
        f"{channels} channel{'s' if channels > 1 else ''}, {request.dtype}, values as in the training files"
    ]
    if geometry is not None:
        spacing = " × ".join(f"{side:.4g}" for side in geometry.spacing)
        facts.append(f"{spacing} mm between voxels along D, H and W; NIfTI files are oriented {geometry.orientation}")
    elif volume:
        facts.append("spacing and orientation unknown: the training files did not tell")
    return [
        *facts,
        f"model SHA-256 `{request.model_sha256}`, kind `{header.model}`, trained with ganaug "
        f"{header.training.get('ganaug', '?')}",
        f"seed {request.seed}, truncation {request.truncation:g}; written with ganaug {__version__}",
        *_left_out(request),
    ]


def _left_out(request: Request) -> list[str]:
    if request.blocks is None or "max_similarity" not in request.blocks:
        return []
    limit = request.blocks["max_similarity"]
    return [f"near copies of training images were left out: similarity at most {limit:g} (1: the same picture)"]


def _cell(name: str) -> str:
    return printable(name).replace("\\", "\\\\").replace("|", "\\|")
