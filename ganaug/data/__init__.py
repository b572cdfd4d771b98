"""A folder of files to a `Manifest` to arrays; intensity there and back; splits. NumPy and Pillow only."""

from ganaug.data.inspect import format_report, inspect_manifest
from ganaug.data.intensity import IntensityMap
from ganaug.data.manifest import (
    Item,
    Manifest,
    hash_group,
    left_out,
    require_readable,
    require_trainable,
    resolve_channels,
    resolve_dtype,
    scan,
)
from ganaug.data.split import split_by_group
from ganaug.data.tensors import choose_size, load_images, resize_image

__all__ = [
    "IntensityMap",
    "Item",
    "Manifest",
    "choose_size",
    "format_report",
    "hash_group",
    "inspect_manifest",
    "left_out",
    "load_images",
    "require_readable",
    "require_trainable",
    "resize_image",
    "resolve_channels",
    "resolve_dtype",
    "scan",
    "split_by_group",
]
