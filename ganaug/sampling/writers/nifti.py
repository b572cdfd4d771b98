"""NIfTI-1, compressed: volumes with their place in the world, and images as volumes of one slice.

Provenance is JSON in a header extension of code 6, "comment". More than one channel becomes the fourth axis.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ganaug.data.geometry import Geometry
from ganaug.sampling.writers import describe

SUFFIX = ".nii.gz"
FORMATS = ("NIfTI",)
ORIGIN = 'a header extension of code 6, "comment"'

_DTYPES = ("uint8", "uint16", "int16", "int32", "float32")
_LONGEST = 32_767
_LEVEL = 3
_SOMEWHERE = Geometry(spacing=(1.0, 1.0, 1.0), orientation="LPS", center=(0.0, 0.0, 0.0))


def problem(shape: tuple[int, ...], dtype: str) -> str | None:
    """Return why NIfTI cannot hold images of `shape` (C×H×W or C×D×H×W) and `dtype`; None if it can."""
    if dtype in _DTYPES and max(shape) <= _LONGEST:
        return None
    return (
        f"NIfTI holds sides of at most {_LONGEST} and one of {', '.join(_DTYPES)}; these are {describe(shape, dtype)}."
    )


def encode(pixels: np.ndarray, *, geometry: Geometry | None, origin: Mapping[str, Any]) -> bytes:
    """Return a compressed NIfTI file with `pixels`, C×H×W or C×D×H×W.

    Images, and volumes without a geometry, have voxels of 1 mm that run toward the patient's left, back and head.
    """
    import nibabel as nib
    from nibabel.nifti1 import Nifti1Extension

    if pixels.ndim == 3:
        pixels, geometry = pixels[:, np.newaxis], None
    volume = pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)
    array, affine = (geometry or _SOMEWHERE).to_file(volume)
    image = nib.Nifti1Image(array, affine, dtype=pixels.dtype)
    image.set_sform(affine, code="aligned")
    image.set_qform(affine, code="aligned")
    image.header.set_xyzt_units("mm")
    image.header.extensions.append(Nifti1Extension("comment", json.dumps(dict(origin)).encode("ascii")))
    return gzip.compress(image.to_bytes(), compresslevel=_LEVEL, mtime=0)
