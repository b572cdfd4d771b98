"""The one training loop: batches in, steps, snapshots, checkpoints; it can stop at any moment and go on."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ganaug.config import FitConfig
from ganaug.data.pictures import picture_grid, save_picture
from ganaug.distributed import from_main, is_main, of_any, of_main, wait
from ganaug.errors import DivergedError, Interrupted
from ganaug.models.modelfile import ModelHeader, save_model
from ganaug.progress import Progress
from ganaug.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from ganaug.training.feeds import Feed, Look
from ganaug.training.guards import COLLAPSED, FiniteGuard
from ganaug.training.run import Run


class TrainableGAN(Protocol):
    """What the loop asks of a GAN; see `ganaug.training.gans`."""

    average: torch.nn.Module
    attempt: int

    def step(self, *batch_step_progress: Any) -> dict[str, Tensor]: ...
    def tensors(self) -> dict[str, Tensor]: ...
    def load_tensors(self, tensors: dict[str, Tensor]) -> None: ...


@dataclass
class _State:
    step: int = 0
    elapsed_s: float = 0.0
    snapshots: int = 0


class Trainer:
    """Trains a GAN into a run folder.

    Args:
        gan: networks, optimizers and the step.
        feed: its batches, and what a snapshot looks at.
        header: what the model file will say.
        run: where everything goes.
        resume_command: what the user types to go on after an interruption.
    """

    def __init__(
        self,
        gan: TrainableGAN,
        feed: Feed,
        *,
        config: FitConfig,
        header: ModelHeader,
        run: Run,
        resume_command: str,
    ) -> None:
        self.gan, self.feed, self.config = gan, feed, config
        self.header, self.run, self.resume_command = header, run, resume_command
        self.state = _State()
        self.guard = FiniteGuard()

    def fraction(self) -> float:
        """Return how much of the training is done, in [0, 1]: by the clock, or by the images shown."""
        if self.config.minutes is not None:
            return min(1.0, self.state.elapsed_s / (60 * self.config.minutes))
        return min(1.0, self.state.step * self.config.batch / (1000 * self.config.kimg))

    def train(self, progress: Progress) -> dict[str, Any]:
        """Train to the end and return the last snapshot's metrics.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; the state is saved.
            DivergedError: rollbacks did not help, or the classes collapsed (on average).
        """
        metrics: dict[str, Any] = (self.run.metrics() or [{}])[-1]
        note = ""
        if not from_main("".join(path.name for path in checkpoints(self.run.checkpoints))):
            self.save()  # there is always a state to roll back to, or to resume from
        with _stop_signal() as stop:
            while (done := self.fraction()) < 1.0:
                start = time.monotonic()
                batch = self.feed.batch(self.state.step)
                losses = self.gan.step(*batch, self.state.step, done)
                self.state.step += 1
                finite = bool(torch.isfinite(sum(losses.values(), torch.zeros((), device=batch[0].device))))
                self.state.elapsed_s = of_main(self.state.elapsed_s + time.monotonic() - start)
                if self.guard.must_roll_back(finite):
                    self._roll_back()
                    continue
                if self.fraction() * self.config.snapshots >= self.state.snapshots + 1 or self.fraction() >= 1:
                    start = time.monotonic()
                    metrics = self._snapshot(losses)
                    self.state.elapsed_s = of_main(self.state.elapsed_s + time.monotonic() - start)
                    note = f"diversity {metrics['diversity']:.2f} (least {metrics['diversity_least']:.2f})"
                progress.update(100 * self.fraction(), f"{self._kimg:.1f} kimg, {self._rate:.0f} images/s  {note}")
                if of_any(stop.is_set()):
                    self.save()
                    raise Interrupted(f"Stopped. The state is saved; go on with:\n  {self.resume_command}")
        if metrics and not metrics["diversity"] >= COLLAPSED:  # NaN is neither
            raise DivergedError(
                f"The generator collapsed: within a class its images differ {metrics['diversity']:.2f} times as much "
                "as the real ones. The run is kept for a look. Try a larger --set gamma=…, or more images."
            )
        return metrics

    @property
    def _kimg(self) -> float:
        """Real images shown so far, in thousands."""
        return self.state.step * self.config.batch / 1000

    @property
    def _rate(self) -> float:
        """Images shown in a second."""
        return 1000 * self._kimg / max(self.state.elapsed_s, 1e-9)

    def save(self) -> None:
        """Write a checkpoint of the present state (rank 0; the others only wait for it)."""
        if is_main():
            self._save()
        wait()

    def _save(self) -> None:
        state = {**vars(self.state), "attempt": self.gan.attempt, "guard": self.guard.state()}
        save_checkpoint(self.run.checkpoints, self.state.step, self.gan.tensors(), state)

    def resume(self) -> list[str]:
        """Load the newest good checkpoint; return a line for each damaged one that was passed over."""
        tensors, state, damaged = load_checkpoint(self.run.checkpoints)
        self.gan.load_tensors(tensors)
        self.gan.attempt = int(state["attempt"])
        self.guard = FiniteGuard(**state["guard"])
        self.state = _State(int(state["step"]), float(state["elapsed_s"]), int(state["snapshots"]))
        return damaged

    def _roll_back(self) -> None:
        elapsed, attempt, guard = self.state.elapsed_s, self.gan.attempt + 1, self.guard
        self.resume()
        # Not the same numbers again: another attempt draws other latents, at half the learning rate.
        self.state.elapsed_s, self.gan.attempt, self.guard = elapsed, attempt, guard

    def _snapshot(self, losses: dict[str, Tensor]) -> dict[str, Any]:
        self.state.snapshots = max(self.state.snapshots + 1, int(self.fraction() * self.config.snapshots))
        look = self.feed.look(self.gan)
        least = min(look.diversity, key=lambda name: look.diversity[name])
        metrics: dict[str, Any] = {
            "kimg": round(self._kimg, 3),
            "seconds": round(self.state.elapsed_s, 1),
            "images_per_second": round(self._rate, 1),
            "diversity": round(sum(look.diversity.values()) / len(look.diversity), 4),
            "diversity_least": round(look.diversity[least], 4),
            "diversity_least_class": least,
            "diversity_by_class": {name: round(ratio, 4) for name, ratio in look.diversity.items()},
            **look.metrics,
            "skipped_steps": self.guard.skipped,
            **{key: round(float(value), 5) for key, value in losses.items()},
        }
        if is_main():
            self._write_snapshot(metrics, look)
        self.save()
        return metrics

    def _write_snapshot(self, metrics: dict[str, Any], look: Look) -> None:
        with self.run.metrics_path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(metrics) + "\n")
        picture = picture_grid(look.rows, look.names)
        save_picture(picture, self.run.images / f"kimg-{self._kimg:08.1f}.png")
        training = {**self.header.training, "kimg": self._kimg, "seconds": self.state.elapsed_s}
        save_model(self.run.model_path, self.gan.average, ModelHeader(**{**vars(self.header), "training": training}))


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C or SIGTERM sets; a second Ctrl-C stops at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def stop(number: int, _frame: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
