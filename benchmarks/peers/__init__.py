"""Other GANs of PyPI under the same budget: each is run by its script here, in an environment of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.environments import interpreter, script


def run_peer(
    peer: str,
    images: np.ndarray,
    labels: np.ndarray,
    counts: Sequence[int] | np.ndarray,
    *,
    cpu_seconds: float,
    seed: int,
    out: Path,
    arguments: Sequence[str] = (),
) -> tuple[np.ndarray, dict[str, Any]]:
    """Train a peer and sample it.

    The peer's environment is made on first use; make it before trainings run side by side (environments.py).

    Args:
        peer: A key of `environments.REQUIREMENTS`.
        images: N×H×W, N×H×W×1 or N×H×W×3 uint8.
        labels: N integers.
        counts: Samples of each class that occurs in `labels`, ascending.
        cpu_seconds: Budget of training.
        seed: Of training and samples.
        out: Stem of the files that are written: `-images.npz`, `-samples.npz` and `.log` are added to its name.
        arguments: More arguments of the runner: `--small`, `--size N`, `--defaults command`.

    Returns:
        Samples, uint8, N×H×W or N×H×W×3, ordered by class; and the facts of `harness.Facts`, where the two numbers of
        parameters are under `parameters`, and the peer's settings and version are `peer_settings` and `peer_version`.

    Raises:
        RuntimeError: the runner failed; the message ends with its last line and names its log.
    """
    python = interpreter(peer)
    out.parent.mkdir(parents=True, exist_ok=True)
    given, made, log = (out.with_name(out.name + end) for end in ("-images.npz", "-samples.npz", ".log"))
    np.savez(given, images=images[..., 0] if images.ndim == 4 and images.shape[3] == 1 else images, labels=labels)
    numbers = ",".join(str(int(count)) for count in counts)
    command = [python, script(peer), "--images", given, "--out", made, "--cpu-seconds", cpu_seconds]
    command += ["--per-class", numbers, "--seed", seed, *arguments]
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run([str(word) for word in command], stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        last = (log.read_text(encoding="utf-8").strip().splitlines() or ["no output"])[-1]
        raise RuntimeError(f"{peer} ended with {done.returncode}; see {log}: {last}")
    with np.load(made) as arrays:
        facts = json.loads(str(arrays["facts"]))
        facts |= {f"peer_{name}": facts.pop(name) for name in ("version", "settings")}
        facts["parameters"] = {part: facts.pop(f"parameters_{part}") for part in ("generator", "discriminator")}
        return arrays["images"], facts
