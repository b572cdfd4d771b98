"""A folder of files to a `Manifest` to training tensors; intensity and geometry there and back; splits. No torch."""

from ganaug.data.geometry import Geometry
from ganaug.data.grid import Grid, choose_grid, choose_size, resize_image, to_grid
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
)
from ganaug.data.reading import scan, scan_unlabelled
from ganaug.data.scales import choose_map
from ganaug.data.split import split_by_group, split_three
from ganaug.data.tensors import load_images, load_tensor, read_item

__all__ = [
    "Geometry",
    "Grid",
    "IntensityMap",
    "Item",
    "Manifest",
    "choose_grid",
    "choose_map",
    "choose_size",
    "format_report",
    "hash_group",
    "inspect_manifest",
    "left_out",
    "load_images",
    "load_tensor",
    "read_item",
    "require_readable",
    "require_trainable",
    "resize_image",
    "resolve_channels",
    "scan",
    "scan_unlabelled",
    "split_by_group",
    "split_three",
    "to_grid",
]
