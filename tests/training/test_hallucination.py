"""A translation between domains with different shares of lesions leaves lesions, and healthy brains, as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ganaug
from ganaug.sampling.translator import Translator
from tests.phantom import Domain, cohort, draw_anatomy, lesion_found, scan, truth, write_phantoms

SIZE, HEADS = (32, 32), 40
DOMAINS = {"a": Domain("a", lesions=0.1), "b": Domain("b", lesions=0.5)}


@pytest.mark.slow
def test_class_matched_translations_are_near_the_truth_and_keep_lesions_as_they_are(tmp_path: Path) -> None:
    """After about a minute of CPU; benchmarks/hallucination.py has longer trainings, and ones without matching."""
    data = write_phantoms(tmp_path / "data", cohort(DOMAINS, 200, SIZE, seed=0))
    run = ganaug.fit(
        data, tmp_path / "run", model="cyclegan", widths=(48, 32, 24), blocks=2, batch=4, kimg=9,
        ema_half_life_kimg=(0, 0.2), snapshots=1, device="cpu", threads=1,
    )  # fmt: skip
    translator = ganaug.load(run.path, device="cpu")
    for source, target in (("a", "b"), ("b", "a")):
        error, created, lost = _measured(translator, source, target)
        told = f"{source} to {target}: {error:.2f} of the source's error, created {created:.0%}, lost {lost:.0%}"
        assert error < 0.5, told
        assert (created + lost) / 2 < 0.25, told


def _measured(translator: Translator, source: str, target: str) -> tuple[float, float, float]:
    """Return the mean absolute error over that of the source, and the shares of created and of lost lesions."""
    heads = [draw_anatomy(np.random.default_rng([1, head]), SIZE) for head in range(HEADS)]
    scans = [scan(head, contrast=source, lesion=lesion) for head in heads for lesion in (False, True)]
    given = np.stack([np.rint(255 * of.image).astype(np.uint8) for of in scans])
    made = translator.translate_stored(given[:, None], to=target, source=source).numpy()[:, 0] / 255
    wanted = np.stack([truth(of, target) for of in scans])
    found = np.array([lesion_found(image, of, target) for image, of in zip(made, scans, strict=True)])
    error = np.abs(made - wanted).mean() / np.abs(given / 255 - wanted).mean()
    return float(error), float(found[::2].mean()), float(1 - found[1::2].mean())
