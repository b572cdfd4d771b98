"""The one training loop: batches in, steps, snapshots, checkpoints; it can stop at any moment and go on."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ganaug.config import FitConfig
from ganaug.data.names import few
from ganaug.data.pictures import picture_grid, save_picture
from ganaug.distributed import (
    copy_from_main,
    digest_of,
    from_main,
    is_main,
    of_any,
    of_main,
    require_same,
    wait,
    world_size,
)
from ganaug.errors import DivergedError, Interrupted
from ganaug.files import FULL, append_line, write_json
from ganaug.models.modelfile import ModelHeader, save_model
from ganaug.progress import Progress
from ganaug.training.checkpoint import checkpoints, drop_later, load_checkpoint, make_room, save_checkpoint
from ganaug.training.feeds import Feed, Look, unseen
from ganaug.training.guards import COLLAPSED, CollapseGuard, FiniteGuard
from ganaug.training.monitor import Monitor, load_monitor, train_monitor
from ganaug.training.run import Run


class TrainableGAN(Protocol):
    """What the loop asks of a GAN; see `ganaug.training.gans`."""

    average: torch.nn.Module
    attempt: int
    device: torch.device

    def step(self, *batch_step_progress: Any) -> dict[str, Tensor]: ...
    def tensors(self) -> dict[str, Tensor]: ...
    def load_tensors(self, tensors: dict[str, Tensor]) -> None: ...


_ROOM = 3
"""Times the size of a checkpoint that a disk has free where there is room for pictures too."""

_MONITOR = "monitor/"
"""What the names of the monitor's tensors begin with in a checkpoint."""


@dataclass
class _State:
    step: int = 0
    elapsed_s: float = 0.0
    snapshots: int = 0
    snapshot_step: int = 0
    """The step of the last snapshot."""


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
        self.collapse = CollapseGuard()
        self.monitor: Monitor | None = None
        """Of rank 0, which tells the others what it saw."""
        self.unwatched = ""
        """Why there is no monitor, or what it leaves out."""
        self.losses: Mapping[str, Tensor | float] = {}
        """Of the last step."""
        self.without_pictures = False
        """Whether the disk is nearly full, and the pictures give way."""

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
        self._start_monitor()
        # The seed makes them the same already, unless the machines have other versions of PyTorch.
        copy_from_main(self.gan.tensors().values())
        with _stop_signal() as stop:
            if not from_main("".join(path.name for path in checkpoints(self.run.checkpoints))):
                self.save()  # there is always a state to roll back to, or to resume from
            while True:
                if self._snapshot_is_due():
                    start = time.monotonic()
                    metrics = self._snapshot()
                    self.state.elapsed_s = of_main(self.state.elapsed_s + time.monotonic() - start)
                    if "alarm" in metrics:
                        self._return_to_best(metrics["collapsed"])
                    note = f"diversity {metrics['diversity']:.2f} (least {metrics['diversity_least']:.2f})"
                if (done := self.fraction()) >= 1:
                    break
                start = time.monotonic()
                batch = self.feed.batch(self.state.step)
                losses = self.gan.step(*batch, self.state.step, done)
                self.state.step += 1
                finite = bool(torch.isfinite(sum(losses.values(), torch.zeros((), device=batch[0].device))))
                self.losses = losses
                self.state.elapsed_s = of_main(self.state.elapsed_s + time.monotonic() - start)
                if self.guard.must_roll_back(finite):
                    self._roll_back()
                    continue
                progress.update(100 * self.fraction(), f"{self._kimg:.1f} kimg, {self._rate:.0f} images/s  {note}")
                # Before the snapshot, which may take longer than a system that shuts down will wait.
                if of_any(stop.is_set()):
                    self.save()
                    raise Interrupted(f"Stopped. The state is saved; go on with:\n  {self.resume_command}")
        if metrics and not metrics["diversity"] >= COLLAPSED:  # NaN is neither
            raise DivergedError(
                f"The generator collapsed: within a class its images differ {metrics['diversity']:.2f} times as much "
                "as the real ones. The run is kept for a look. Try a larger --set gamma=…, or more images."
            )
        return metrics

    def _snapshot_is_due(self) -> bool:
        done = self.fraction()
        due = done * self.config.snapshots >= self.state.snapshots + 1 or done >= 1
        return due and self.state.snapshot_step != self.state.step

    @property
    def _kimg(self) -> float:
        """Real images shown so far, in thousands."""
        return self.state.step * self.config.batch / 1000

    @property
    def _rate(self) -> float:
        """Images shown in a second."""
        return 1000 * self._kimg / max(self.state.elapsed_s, 1e-9)

    def save(self) -> None:
        """Write a checkpoint of the present state (rank 0; the others only wait for it).

        Raises:
            ProcessesError: the processes have drifted apart; nothing is written.
        """
        if world_size() > 1:
            require_same(digest_of(self.gan.tensors()), f"the weights after step {self.state.step}")
        if is_main():
            self._save()
        wait()

    def _save(self) -> None:
        guards = {"guard": self.guard.state(), "collapse": self.collapse.state()}
        losses = {name: float(value) for name, value in self.losses.items()}
        state = {**vars(self.state), "losses": losses, "attempt": self.gan.attempt, **guards}
        tensors = self.gan.tensors()
        if self.monitor is not None:
            tensors |= {f"{_MONITOR}{name}": value for name, value in self.monitor.tensors().items()}
        save_checkpoint(self.run.checkpoints, self.state.step, tensors, state, best=self.collapse.best_step)

    def resume(self, step: int | None = None) -> list[str]:
        """Load the newest good checkpoint, or that of `step`; return a line for each damaged one passed over."""
        tensors, state, damaged = load_checkpoint(self.run.checkpoints, step)
        self.gan.load_tensors(tensors)
        self.gan.attempt = int(state["attempt"])
        self.guard = FiniteGuard(**state["guard"])
        self.collapse = CollapseGuard(**state.get("collapse", {}))  # runs of before have none
        # Runs of before saved right after a snapshot, or did not mind one that was due.
        self.state = _State(
            int(state["step"]),
            float(state["elapsed_s"]),
            int(state["snapshots"]),
            int(state.get("snapshot_step", state["step"])),
        )
        self.losses = dict(state.get("losses", {}))
        if self.monitor is None and self.config.monitor and is_main():
            self._load_monitor({k.removeprefix(_MONITOR): v for k, v in tensors.items() if k.startswith(_MONITOR)})
        return damaged

    def _roll_back(self, step: int | None = None) -> None:
        elapsed, attempt, guards = self.state.elapsed_s, self.gan.attempt + 1, (self.guard, self.collapse)
        self.resume(step)
        # Not the same numbers again: another attempt draws other latents, at half the learning rate.
        self.state.elapsed_s, self.gan.attempt, (self.guard, self.collapse) = elapsed, attempt, guards

    def _return_to_best(self, collapsed: list[str]) -> None:
        """Go back to the best snapshot at half the learning rate.

        Raises:
            DivergedError: that was done before, or the time is up. The model file is that of the best snapshot.
        """
        self._roll_back(self.collapse.best_step)
        # By the clock, the snapshots of the time that is lost are lost too.
        self.state.snapshots = max(self.state.snapshots, int(self.fraction() * self.config.snapshots))
        wait()  # until all have read what rank 0 is about to replace
        if is_main() and self.collapse.best_step is not None:
            self._write_model()
        self.collapse.roll_back(collapsed)
        if is_main():
            # First the state that knows of the rollback: a run that is killed here resumes from one that does not, and
            # comes to the same rollback.
            self._save()
            drop_later(self.run.checkpoints, self.state.step)
        wait()
        if self.fraction() >= 1:
            raise DivergedError(
                f"At the end of the time the samples of {few(collapsed)} became one image, or left the real ones. The "
                "generator in the run folder is that of the best snapshot before. Try a larger --set gamma=… or a "
                "smaller --set lr=…, or go on for longer with --resume."
            )

    def _start_monitor(self) -> None:
        """Train the monitor, unless there is one, or there shall be none; its time is time of the training."""
        start, real = time.monotonic(), self.feed.real
        wanted = self.config.monitor and self.monitor is None and self.fraction() < 1
        if is_main() and wanted and real is not None:
            found = train_monitor(real, self.config, self.gan.device)
            if isinstance(found, str):
                self.unwatched = found
            else:
                self._use_monitor(found)
                write_json(self.run.monitor_path, found.to_dict())
        self.state.elapsed_s = of_main(self.state.elapsed_s + time.monotonic() - start)

    def _load_monitor(self, tensors: dict[str, Tensor]) -> None:
        if tensors and (real := self.feed.real) is not None:
            self._use_monitor(load_monitor(tensors, real, seed=self.config.seed, device=self.gan.device))

    def _use_monitor(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.unwatched = "; ".join(f"{name}: {why}" for name, why in monitor.unwatched.items())

    def _snapshot(self) -> dict[str, Any]:
        self.state.snapshot_step = self.state.step
        self.state.snapshots = max(self.state.snapshots + 1, int(self.fraction() * self.config.snapshots))
        look = self.feed.look(self.gan, self.monitor.see if self.monitor else unseen)
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
            **self._watched(),
            "attempt": self.gan.attempt,
            "skipped_steps": self.guard.skipped,
            **{key: round(float(value), 5) for key, value in self.losses.items()},
        }
        if is_main():
            self._write_snapshot(metrics, look)
        if "alarm" not in metrics:
            if "coverage" in metrics:
                self.collapse.note(self.state.step, metrics["coverage"])
            self.save()
        return metrics

    def _watched(self) -> dict[str, Any]:
        """Return what the monitor says of this snapshot's samples, and the alarm, the same in every process."""
        figures: dict[str, Any] = {}
        if self.monitor is not None:
            figures = self.monitor.figures()
            # A translation begins with images of the other domain, whose spread may be as small as it likes.
            young = self.collapse.is_young(self.state.step, self.fraction())
            watches = self.header.translation is None and not young
            if watches and (collapsed := self.monitor.collapsed(figures)):
                kind = "class" if len(collapsed) == 1 else "classes"
                figures |= {"alarm": f"collapse: {kind} {few(collapsed)}", "collapsed": collapsed}
        if self.unwatched:
            figures["unwatched"] = self.unwatched
        found: dict[str, Any] = json.loads(from_main(json.dumps(figures)))
        return found

    def _write_snapshot(self, metrics: dict[str, Any], look: Look) -> None:
        self._with_room(lambda: append_line(self.run.metrics_path, json.dumps(metrics)))
        self._write_picture(look)
        if "alarm" not in metrics or not self.run.model_path.exists():  # a collapsed one only for want of another
            self._with_room(self._write_model)

    def _with_room(self, write: Callable[[], None]) -> None:
        """Write; on a full disk again, when older checkpoints have given way."""
        try:
            write()
        except OSError as problem:
            if problem.errno not in FULL or not make_room(self.run.checkpoints, best=self.collapse.best_step):
                raise
            write()

    def _write_picture(self, look: Look) -> None:
        """Write the snapshot's picture, unless the disk has hardly more room than the next checkpoints want."""
        newest = checkpoints(self.run.checkpoints)[-1:]
        wanted = sum(path.stat().st_size for folder in newest for path in folder.iterdir())
        full = shutil.disk_usage(self.run.path).free < _ROOM * wanted
        if not full:
            try:
                picture = picture_grid(look.rows, look.names)
                save_picture(picture, self.run.images / f"kimg-{self._kimg:08.1f}.png")
            except OSError as problem:
                if problem.errno not in FULL:
                    raise
                full = True
        if full and not self.without_pictures:
            print(f"The disk that holds {self.run.path} is nearly full: pictures are left out.", file=sys.stderr)
        self.without_pictures = full

    def _write_model(self) -> None:
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
