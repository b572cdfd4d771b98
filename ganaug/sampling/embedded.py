"""The provenance that a file carries inside: what the writers put there is read back, whatever else the file is."""

from __future__ import annotations

import gzip
import io
import json
import re
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from ganaug.sampling.writers import load_writer

_MOST = 2**20
"""Bytes of provenance, and of what stands before it, at most."""
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_SHA256 = re.compile("[0-9a-f]{64}")
_SOURCE = re.compile(r"([0-9a-f]{64})#(\d+)")
_SYNTHETIC_DATA, _IMAGE_COMMENTS = 0x0008_001C, 0x0020_4000
_SAYS_SYNTHETIC = "YES"


def origin_in(raw: bytes) -> tuple[dict[str, Any] | None, str]:
    """Return the provenance inside a file, and where it stands or what stands there instead, in words.

    Args:
        raw: the file's bytes; PNG, TIFF, NIfTI and DICOM have a place for it, whatever the file is called.

    Returns:
        The provenance, with values of the kinds that `provenance` gives; None if there is none that can be read.
        Never raises: a damaged file has none.
    """
    for name, matches, read in _FORMATS:
        if matches(raw):
            try:
                text = read(raw)
            except Exception:  # other people's parsers raise anything on a damaged file
                return None, ""
            if text is None:
                return None, ""
            if text == _SAYS_SYNTHETIC:
                return None, "the DICOM element SyntheticData (0008,001C) says that it is synthetic, and not by what"
            where = load_writer(name).ORIGIN
            try:
                origin = origin_of(json.loads(text))
            except (ValueError, RecursionError):
                origin = None
            # A description that somebody else wrote is no damaged provenance.
            damaged = f"{where} holds a provenance that is damaged" if "model_sha256" in text else ""
            return origin, damaged if origin is None else where
    return None, ""


def origin_of(values: Any) -> dict[str, Any] | None:
    """Return a provenance with values of the right kinds, from those of JSON or of a table; None if it is none."""
    if not isinstance(values, Mapping) or str(values.get("synthetic")).lower() != "true":
        return None
    try:
        scores = values.get("scores") or "{}"
        scores = json.loads(scores) if isinstance(scores, str) else scores
        if not isinstance(scores, Mapping):
            return None
        origin: dict[str, Any] = {
            "synthetic": True,
            "label": str(values["label"]),
            "source": str(values["source"]),
            "seed": int(values["seed"]),
            "index": int(values["index"]),
            "model_sha256": str(values["model_sha256"]),
            "truncation": float(values["truncation"]),
            "accepted": str(values.get("accepted", True)).lower() == "true",
            "scores": json.dumps(dict(scores), sort_keys=True),
        }
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        return None
    good = _SHA256.fullmatch(origin["model_sha256"]) and min(origin["seed"], origin["index"]) >= 0
    return origin if good else None


def source_sha256(origin: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the real image that a translated one was made from; empty for one made from noise."""
    match = _SOURCE.fullmatch(str(origin["source"]))
    return match[1] if match else ""


def _png(raw: bytes) -> str | None:
    at = 8
    while at + 8 <= len(raw):
        length, kind = struct.unpack_from(">I4s", raw, at)
        content = raw[at + 8 : at + 8 + min(length, _MOST)]
        # A picture that another program saved anew may have it compressed, or as international text.
        if kind in (b"tEXt", b"zTXt", b"iTXt") and content.startswith(b"ganaug\0"):
            rest = content[7:]
            if kind == b"zTXt":
                rest = zlib.decompressobj().decompress(rest[1:], _MOST)
            elif kind == b"iTXt":
                packed, rest = rest[0], rest[2:].split(b"\0", 2)[2]
                rest = zlib.decompressobj().decompress(rest, _MOST) if packed else rest
            return rest.decode("utf-8", "replace")
        at += 12 + length
    return None


def _tiff(raw: bytes) -> str | None:
    import tifffile

    with tifffile.TiffFile(io.BytesIO(raw)) as file:
        tag = file.pages.first.tags.get("ImageDescription")
        return None if tag is None else str(tag.value)


def _nifti(raw: bytes) -> str | None:
    """Read header extensions: size, code and content one after the other. Source: nifti1.h, "header extensions"."""
    if raw[:2] == b"\x1f\x8b":
        with gzip.open(io.BytesIO(raw)) as stream:
            raw = stream.read(_MOST)
    order = next((order for order in "<>" if struct.unpack_from(f"{order}i", raw)[0] in (348, 540)), None)
    if order is None:
        return None
    at = int(struct.unpack_from(f"{order}i", raw)[0])
    if not raw[at]:
        return None
    at += 4
    while at + 8 <= len(raw):
        size, code = struct.unpack_from(f"{order}2i", raw, at)
        if size < 8:
            return None
        text = raw[at + 8 : at + size].rstrip(b"\0").decode("utf-8", "replace")
        if code == 6 and "model_sha256" in text:
            return text
        at += size
    return None


def _dicom(raw: bytes) -> str | None:
    from pydicom import dcmread

    if _DEFLATED in raw[:2048]:  # pydicom would unpack all of it, whatever its size; no writer of ours packs it so
        return None
    dataset = dcmread(
        io.BytesIO(raw), stop_before_pixels=True, force=True, specific_tags=[_IMAGE_COMMENTS, _SYNTHETIC_DATA]
    )
    text = str(dataset[_IMAGE_COMMENTS].value) if _IMAGE_COMMENTS in dataset else ""
    if "model_sha256" in text:
        return text
    return _SAYS_SYNTHETIC if _SYNTHETIC_DATA in dataset and str(dataset[_SYNTHETIC_DATA].value) == "YES" else None


def _is_nifti(raw: bytes) -> bool:
    return raw[:2] == b"\x1f\x8b" or raw[344:348] in (b"n+1\0", b"ni1\0") or raw[4:8] in (b"n+2\0", b"ni2\0")


_FORMATS: tuple[tuple[str, Callable[[bytes], bool], Callable[[bytes], str | None]], ...] = (
    ("png", lambda raw: raw[:8] == b"\x89PNG\r\n\x1a\n", _png),
    ("tiff", lambda raw: raw[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _tiff),
    ("nifti", _is_nifti, _nifti),
    ("dicom", lambda raw: raw[128:132] == b"DICM", _dicom),
)
"""Writer, how its files are known, and what reads the text of their provenance; a writer of another has no place."""
