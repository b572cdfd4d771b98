"""`ganaug demo`: the whole story on a data set that is at hand everywhere, scikit-learn's 1,797 handwritten digits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from ganaug.data import (
    Grid,
    Manifest,
    format_report,
    inspect_manifest,
    load_images,
    scan,
    split_by_group,
)
from ganaug.data.pictures import save_picture
from ganaug.errors import ConfigError
from ganaug.evaluation.cas import cas
from ganaug.evaluation.leak import refuse_leak
from ganaug.evaluation.study import run_study
from ganaug.files import disk_errors, prepare_output, write_json
from ganaug.models.device import choose_device
from ganaug.sampling import Sampler, SyntheticBank
from ganaug.sampling.counts import balancing_counts
from ganaug.sampling.export import export_folder
from ganaug.sampling.preview import preview
from ganaug.sampling.sampler import load_sampler
from ganaug.training.fit import fit
from ganaug.training.plan import make_plan

RARE = {"2": 12, "5": 12, "8": 12}
"""The classes that are cut, and to how many images."""
TEST_FRACTION = 0.25
ARMS_SHOWN = ("as-is", "classical", "synthetic", "synthetic-batch")


def write_digits(train: Path, test: Path, *, seed: int = 0) -> None:
    """Write the digits as two labelled folders of 8×8 gray PNG files; the test part is split off before the cut.

    Pen strokes are 0 to 16 in the original (UCI Optical Recognition of Handwritten Digits, CC BY 4.0), 0 to 255 here.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    names = [f"digit-{i:04d}" for i in range(len(digits.target))]
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    kept, held_out = split_by_group(digits.target, names, test_fraction=TEST_FRACTION, seed=seed)
    used: dict[str, int] = {}
    for folder, indices in ((test, held_out), (train, kept)):
        for i in indices:
            label = str(digits.target[i])
            used[label] = used.get(label, 0) + (folder == train)
            if folder == train and used[label] > RARE.get(label, len(names)):
                continue
            (folder / label).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[i]).save(folder / label / f"{names[i]}.png")


def run_demo(
    out: Path,
    *,
    minutes: float = 2.5,
    seeds: int = 8,
    steps: int = 600,
    device: str = "auto",
    overwrite: bool = False,
    talk: bool = True,
) -> dict[str, Any]:
    """Run inspect → fit → sample → train with and without → verdict, and write everything under `out`.

    Args:
        minutes: time for the training of the generator.
        seeds: trainings of each arm of the study.
        steps: optimizer steps of each training.
        talk: tell the story on standard output, with progress on standard error.

    Returns:
        What `result.json` holds: the study, the classification accuracy score, times and paths.
    """
    if minutes <= 0:
        raise ConfigError(f"--minutes {minutes} was given; it must be above 0.")
    say = click.echo if talk else (lambda *_: None)
    seconds: dict[str, float] = {}

    @contextmanager
    def chapter(title: str) -> Iterator[None]:
        say(f"\n== {title}")
        start = time.monotonic()
        yield
        seconds[title] = round(time.monotonic() - start, 1)

    with disk_errors(out):
        prepare_output(out, overwrite=overwrite)
        train_path, test_path = out / "data" / "train", out / "data" / "test"
        with chapter("The data: handwritten digits, three classes cut to 12 images each"):
            write_digits(train_path, test_path)
            train, test = scan(train_path), scan(test_path)
            say(f"{len(train)} images to train in {train_path}, {len(test)} held out in {test_path}")
        with chapter("ganaug inspect"):
            say(format_report(inspect_manifest(train)))
        with chapter(f"ganaug fit  (at most {minutes:g} minutes)"):
            plan = make_plan(train, settings={"minutes": minutes, "device": device})
            for reason in plan.reasons:
                say(reason)
            run = fit(train_path, out / "run", planned=plan, show_progress=talk)
            refuse_leak(run.train_manifest(), test)
            last = run.metrics()[-1]
            say(
                f"{last['kimg']:.0f} thousand images shown; diversity within classes {last['diversity']:.2f} of the "
                f"real images' (least: '{last['diversity_least_class']}' {last['diversity_least']:.2f})"
            )
        with chapter("ganaug sample  (balanced)"):
            gan = load_sampler(run.path, device=device)
            missing = balancing_counts(train.counts)
            export_folder(gan, out / "synthetic", counts=missing, show_progress=talk)
            # Twice what balance asks for, so that each seed of the study mixes other images; and as many of every class
            # as there are real ones, for the score below.
            largest = max(train.counts.values())
            bank = SyntheticBank.generate(gan, out / "bank", per_class=2 * largest, seed=1, show_progress=talk)
            picture = preview(gan, columns=10, real=train)
            save_picture(picture, out / "real-and-synthetic.png")
            say(
                f"{sum(missing.values())} images as files in {out / 'synthetic'}, "
                f"{len(bank)} in the bank {out / 'bank'}"
            )
            say(f"A picture, real beside synthetic: {out / 'real-and-synthetic.png'}")
        place = choose_device(device)
        arrays = (*_arrays(train, gan), *_arrays(test, gan))
        with chapter("Does the generator know the classes?  (train on synthetic alone, test on real)"):
            score = cas(
                arrays[0], arrays[1], np.asarray(bank.images), np.asarray(bank.labels), arrays[2], arrays[3],
                classes=gan.classes, steps=steps, seeds=range(3), device=place, show_progress=talk,
            )  # fmt: skip
            say(_score_text(score))
        with chapter("Does it help?  (the same classifier, equal steps, paired seeds)"):
            study = run_study(
                *arrays,
                bank,
                classes=gan.classes,
                arms=ARMS_SHOWN,
                seeds=range(seeds),
                steps=steps,
                device=place,
                show_progress=talk,
            )
            verdict = study.verdict
            assert verdict is not None
            say(study.table())
            say(f"\nVerdict: {verdict.word}.\n{verdict.sentence}")
        result = {
            "verdict": verdict.to_dict(),
            "study": study.to_dict(),
            "classification_accuracy_score": score,
            "diversity": last["diversity_by_class"],
            "seconds": seconds,
            "paths": {name: str(out / name) for name in ("data", "run", "synthetic", "bank")},
        }
        write_json(out / "result.json", result)
    say(_four_lines(out))
    return result


def _arrays(manifest: Manifest, gan: Sampler) -> tuple[np.ndarray, np.ndarray]:
    channels, height, width = gan.shape
    return load_images(manifest, Grid((height, width), channels, "stretch", "uint8")), manifest.labels


def _score_text(score: dict[str, Any]) -> str:
    images = sum(score["images_per_class"].values())
    return (
        f"Trained on {images} synthetic images alone: accuracy {score['synthetic_accuracy']:.3f} on the real "
        "test images.\n"
        f"Trained on as many real images of the same classes: {score['real_accuracy']:.3f}. "
        f"Ratio: {score['ratio']:.3f}"
    )


def _four_lines(out: Path) -> str:
    return f"""
== In your own training

    import ganaug
    bank = ganaug.SyntheticBank.open("{out / "bank"}")
    train_set = ganaug.SyntheticMixDataset(train_set, bank, sampling_strategy="auto", seed=0)
    # train_set is your own Dataset of (image, label); go on as before: DataLoader(train_set, shuffle=True, …)

Everything is in {out}; result.json holds every figure."""
