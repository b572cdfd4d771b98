"""Train `torch-mimicry`'s cGAN with projection discriminator (PyPI) on labeled images under a budget of CPU seconds.

Class-conditional: one model. It comes in two sizes, 32 and 128, always in color: gray images are shown as three equal
channels and samples averaged over them. Other sizes are resized to the next one up (`--size 32` forces the small one).

The package imports TensorFlow for its metrics and reads data sets of its own; neither is used here, and both parts
(`metrics`, `datasets`) are empty modules. Training is the peer's `Trainer` on its CPU device with its own settings (1
discriminator step for each generator step, no decay) and what its example gives it: Adam 2e-4, betas (0, 0.9), batch
64. `--defaults command` takes the rest of the example and its tables too: 5 discriminator steps, at 32 with linear
decay over 100,000 steps. The loader raises KeyboardInterrupt at the first step after the budget, which the Trainer
takes as its user's wish to stop. Its prints, summaries, previews and checkpoints during training are off. It has no
EMA; samples come from the generator in evaluation mode, as in the peer's metrics.

--small sets ngf 56, ndf 68 at 32 and ngf 64, ndf 104 at 128.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import types
from collections.abc import Iterator
from typing import Any

import harness
import torch
from torch.utils.data import DataLoader, Dataset

SIZES = (32, 128)
SMALL = {32: (56, 68), 128: (64, 104)}


class Images(Dataset):
    """Color images in [-1, 1] and class indices, made float when asked for."""

    def __init__(self, images: torch.Tensor, targets: torch.Tensor) -> None:
        self.images, self.targets = images, targets

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.images[index].expand(3, -1, -1).float() / 127.5 - 1, self.targets[index]


class BudgetLoader:
    """A loader that counts its images and interrupts training between steps once the budget is spent."""

    def __init__(self, loader: DataLoader, budget: harness.Budget, batches_per_step: int) -> None:
        self.loader, self.budget, self.batches_per_step = loader, budget, batches_per_step
        self.batch_size = loader.batch_size
        self.batches = self.shown = 0

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for images, targets in self.loader:
            if not self.batches:
                self.budget.start()
            elif self.batches % self.batches_per_step == 0 and self.budget.over():
                self.budget.stop()
                raise KeyboardInterrupt
            self.batches += 1
            self.shown += len(images)
            yield images, targets


def load_peer(size: int) -> tuple[Any, Any, Any]:
    """Import the peer's generator and discriminator of a size, and its Trainer."""
    for unused in ("metrics", "datasets"):
        sys.modules[f"torch_mimicry.{unused}"] = types.ModuleType(unused)
    networks = importlib.import_module(f"torch_mimicry.nets.cgan_pd.cgan_pd_{size}")
    trainer = importlib.import_module("torch_mimicry.training").Trainer
    return getattr(networks, f"CGANPDGenerator{size}"), getattr(networks, f"CGANPDDiscriminator{size}"), trainer


def train(options: argparse.Namespace, data: harness.Data) -> harness.Trained:
    """Train and sample."""
    generator_class, discriminator_class, trainer_class = load_peer(options.size)
    ngf, ndf = SMALL[options.size]
    classes = data.classes
    generator = generator_class(num_classes=len(classes), **({"ngf": ngf} if options.small else {}))
    discriminator = discriminator_class(num_classes=len(classes), **({"ndf": ndf} if options.small else {}))
    targets = torch.searchsorted(torch.tensor(classes), data.labels)
    settings: dict[str, Any] = {"num_steps": 100_000 if options.size == 32 else 450_000}
    if options.defaults == "command":
        settings |= {"n_dis": 5, "lr_decay": "linear" if options.size == 32 else None}
    budget = harness.Budget(options.cpu_seconds)
    images = Images(harness.resize_uint8(data.images, options.size), targets)
    loader = BudgetLoader(DataLoader(images, batch_size=64, shuffle=True), budget, settings.get("n_dis", 1))
    never = settings["num_steps"] + 1
    with tempfile.TemporaryDirectory() as scratch:
        trainer = trainer_class(
            netD=discriminator,
            netG=generator,
            optD=torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.0, 0.9)),
            optG=torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.0, 0.9)),
            dataloader=loader,
            log_dir=scratch,
            device=torch.device("cpu"),
            **dict.fromkeys(("print_steps", "vis_steps", "log_steps", "save_steps"), never),
            **settings,
        )
        trainer.train()
    labels = torch.arange(len(classes)).repeat_interleave(torch.tensor(options.per_class))
    generator.eval()
    with torch.no_grad():
        parts = [generator(torch.randn(len(part), generator.nz), part) for part in labels.split(64)]
    return harness.Trained(
        images=torch.cat(parts) / 2 + 0.5,
        labels=torch.tensor(classes)[labels],
        images_shown=loader.shown,
        cpu_seconds=budget.spent,
        generator=generator,
        discriminator=discriminator,
        settings={
            "models": "one, conditional",
            "defaults": options.defaults,
            "weights": "current (the peer has no EMA)",
            "steps": loader.batches // loader.batches_per_step,
            "batch_size": loader.batch_size,
            "ngf": generator.ngf,
            "ndf": discriminator.ndf,
            **settings,
        },
    )


if __name__ == "__main__":
    harness.main("torch-mimicry", train, description=__doc__, sizes=SIZES)
