"""Drive the two peers that share an author and a shape: a `Trainer` whose `train()` is one step on a folder of images.

Both are unconditional, so one model is trained for each class and the budget is divided equally between the classes,
which is what their user would have to do. What had to be done to run them on a CPU, and how the runs are kept fair:

- Both refuse to be imported without CUDA and call `.cuda(rank)` on every tensor. `torch.cuda.is_available` says yes
  while they are imported, `.cuda()` returns the tensor or module itself, and the name `torch` in the peer's module has
  a `device` that is always the CPU. Their code is not edited.
- Settings are those of the peer's `Trainer` or, with `--defaults command`, of its command (read from the signature,
  not copied). They differ: the command accumulates gradients over several batches, and one step can outlast a budget.
- A class with fewer images than a batch gets a batch as large as the class (their loader drops incomplete batches and
  would never yield one).
- Data are loaded in the process (no workers): their CPU time counts, and one thread does all the work.
- The previews every 100 steps and the checkpoint at step 0 are switched off; they are not training.
- Samples come from the averaged weights only when averaging has begun. Both peers begin it after 20,000 steps; before
  that their "ema" network is a copy of the weights of the last step ≡ 2 (mod 1000), noise in a short run, and the
  weights in training are the better ones to show.
- As in their commands, a step that meets a NaN is tried three times.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import inspect
import sys
import tempfile
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from harness import Budget, Data, Trained, resize_uint8, seed_all
from torchvision.io import write_png

AVERAGING_BEGINS = 20_000
TRIES = 3

# Names of the command's options that the Trainer calls otherwise, and those that only say where files go.
RENAMED = {"learning_rate": "lr"}
PLACES = {"name", "results_dir", "models_dir"}


class CpuTorch(types.ModuleType):
    """The module torch, but every device is the CPU."""

    def __init__(self) -> None:
        super().__init__("torch")

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def device(*_: object) -> torch.device:
        """Return the CPU."""
        return torch.device("cpu")


def itself(self: Any, *_: object, **__: object) -> Any:
    """Stand in for `.cuda()`."""
    return self


def load_peer(package: str) -> tuple[types.ModuleType, types.ModuleType]:
    """Import a peer's module and its command for use on the CPU."""
    with mock.patch.object(torch.cuda, "is_available", return_value=True):
        library = importlib.import_module(f"{package}.{package}")
        command = importlib.import_module(f"{package}.cli")
    vars(library)["torch"] = CpuTorch()
    torch.Tensor.cuda = itself  # type: ignore[method-assign]
    torch.nn.Module.cuda = itself  # type: ignore[method-assign]
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    return library, command


def command_settings(library: types.ModuleType, command: types.ModuleType) -> dict[str, Any]:
    """Return the defaults of the peer's command for those of its options that the Trainer takes."""
    taken = inspect.signature(library.Trainer.__init__).parameters
    given = inspect.signature(command.train_from_folder).parameters
    named = {RENAMED.get(name, name): parameter.default for name, parameter in given.items()}
    return {name: value for name, value in named.items() if name in taken and name not in PLACES}


def train_each_class(
    options: argparse.Namespace,
    data: Data,
    package: str,
    *,
    small: dict[str, Any],
    fixed: dict[str, Any],
    sample: Callable[[Any, int, bool], torch.Tensor],
    generators: Callable[[Any], list[torch.nn.Module]],
) -> Trained:
    """Train one model for each class and sample it.

    Args:
        options: From the command line.
        data: Images and labels.
        package: The peer's import name.
        small: Settings that make its networks small.
        fixed: Settings that this comparison needs.
        sample: From (trainer, number, whether the averaged weights are wanted) to N×C×H×W images in [0, 1].
        generators: The modules of a trainer that make an image.
    """
    library, command = load_peer(package)
    settings = command_settings(library, command) if options.defaults == "command" else {}
    settings |= fixed | {"image_size": options.size, "num_workers": 0} | (small if options.small else {})
    initial = inspect.signature(library.Trainer.__init__).parameters
    usual_batch = settings.get("batch_size", initial["batch_size"].default)
    budget = Budget(options.cpu_seconds, len(data.classes))
    images, labels, steps, batches, shown = [], [], {}, {}, 0
    trainer: Any = None
    for number, label in enumerate(data.classes):
        seed_all(options.seed * 1009 + number)
        members = resize_uint8(data.images[data.labels == label], options.size)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "images"
            folder.mkdir()
            for index, image in enumerate(members):
                write_png(image, str(folder / f"{index:06d}.png"))
            settings["batch_size"] = batches[label] = min(usual_batch, len(members))
            trainer = None  # the last class's networks, before the next are made
            gc.collect()
            trainer = library.Trainer(name="peer", base_dir=scratch, **settings)
            trainer.set_data_src(str(folder))
            trainer.init_GAN()
            trainer.evaluate = trainer.save = lambda *_, **__: None
            budget.start()
            while True:
                step(trainer, library.NanException)
                shown += trainer.batch_size * trainer.gradient_accumulate_every
                if budget.over(number):
                    break
            budget.stop()
        averaged = trainer.steps > AVERAGING_BEGINS
        steps[label] = trainer.steps
        seed_all(options.seed * 1009 + number)
        images.append(sample(trainer, options.per_class[number], averaged))
        labels.append(torch.full((options.per_class[number],), label))
    recorded = {
        name: getattr(trainer, name) for name in initial if isinstance(getattr(trainer, name, None), int | float | list)
    }
    return Trained(
        images=torch.cat(images),
        labels=torch.cat(labels),
        images_shown=shown,
        cpu_seconds=budget.spent,
        generator=generators(trainer),
        discriminator=trainer.GAN.D,
        settings={
            "models": f"one for each of {len(data.classes)} classes, equal budgets",
            "defaults": options.defaults,
            "weights": "averaged" if averaged else "current (the peer averages after 20,000 steps)",
            "steps": steps,
            **recorded,
            **(small if options.small else {}),
            "batch_size": batches,
        },
    )


def step(trainer: Any, nan: type[Exception]) -> None:
    """Take one step, again where it met a NaN."""
    for left in reversed(range(TRIES)):
        try:
            trainer.train()
            return
        except nan:
            if not left:
                sys.exit(f"step {trainer.steps} gave NaN {TRIES} times; try another --seed")
