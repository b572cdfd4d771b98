"""What a bank costs: time to open it, memory of a data-loading worker, and time of an item beside a training step.

    python -m benchmarks.mixing                     # a million images of 28², half a minute on a CPU
    python -m benchmarks.mixing --images 10000 --reads 1000
    python -m benchmarks.mixing --epochs 5          # whole epochs of a ResNet-18 as well, a minute and a half

The bank's images are a hole in a sparse file (zeros, no disk space); its columns are real. A worker reads items of a
`SyntheticMixDataset` whose added items are nearly the whole bank. What it adds is its resident memory (VmRSS, so mapped
pages count) at the end, less that of a worker that does the same with a data set of two images in memory. The last rows
hold an item of a small bank, read and made a float tensor, against the same images in memory, and against the forward
and backward pass of a ResNet-18; all in seconds of one thread's CPU clock. `--epochs` trains: epochs with the bank and
epochs with the same images in memory take turns; loading and steps are timed apart, as a step varies by more than
loading costs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.models import resnet18
from torchvision.transforms import v2

from ganaug.mixing import SyntheticMixDataset
from ganaug.sampling import SyntheticBank

CLASSES = ("rare", "common")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000, help="images in the bank")
    parser.add_argument("--side", type=int, default=28, help="pixels a side")
    parser.add_argument("--reads", type=int, default=100_000, help="items that the worker reads")
    parser.add_argument("--repeats", type=int, default=20, help="times the bank is opened; the median counts")
    parser.add_argument("--epochs", type=int, default=0, help="pairs of epochs that a ResNet-18 is trained")
    options = parser.parse_args()
    print("| measure | value |\n|---|---|")
    for name, value in bank_cost(options.images, options.side, reads=options.reads, repeats=options.repeats).items():
        print(f"| {name} | {value} |")
    for name, value in (item_cost(64) | epoch_cost(64, options.epochs)).items():
        print(f"| {name} | {value} |")


def bank_cost(images: int, side: int, *, reads: int, repeats: int) -> dict[str, str]:
    """Return what a bank of `images` images of `side`² costs, as text by name of the measure."""
    with tempfile.TemporaryDirectory() as folder:
        write_hollow_bank(Path(folder), images, side)
        opened = [_seconds(lambda: SyntheticBank.open(folder)) for _ in range(repeats)]
        bank = SyntheticBank.open(folder)
        added = {name: count for name, count in bank.counts.items() if count}
        strategy = {name: count + 1 for name, count in added.items()}
        made: list[SyntheticMixDataset] = []
        built = _seconds(lambda: made.append(SyntheticMixDataset(Two(side), bank, sampling_strategy=strategy)))
        found = {
            "images in the bank": f"{images:,}",
            "open the bank, median": f"{1e3 * float(np.median(opened)):.2f} ms",
            "wrap the data set": f"{1e3 * built:.1f} ms",
        }
        for context in ("fork", "spawn"):
            base = worker_memory(Two(side), reads, context)
            full = worker_memory(made[0], reads, context)
            found[f"a {context} worker adds"] = f"{(full - base) / 2**20:.1f} MiB ({full / 2**20:.0f} in all)"
    return found


def item_cost(side: int, *, images: int = 2000, batch: int = 32, steps: int = 5) -> dict[str, str]:
    """Return what an item costs from the bank and from memory, and how that compares with a step of a ResNet-18."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        seconds = {}
        for name, dataset in zip(("bank", "memory"), bank_and_memory(Path(folder), images, side), strict=True):
            dataset[len(dataset) - 1]
            order = np.random.default_rng(0).integers(2, len(dataset), 5 * images).tolist()
            start = time.process_time()
            for i in order:
                dataset[i]
            seconds[name] = (time.process_time() - start) / len(order)
    model = resnet18(num_classes=2)
    inputs, labels = torch.rand(batch, 3, side, side), torch.arange(batch) % 2
    torch.nn.functional.cross_entropy(model(inputs), labels).backward()
    start = time.process_time()
    for _ in range(steps):
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
    step = (time.process_time() - start) / steps / batch
    more = (seconds["bank"] - seconds["memory"]) / (step + seconds["memory"])
    return {
        f"an item of {side} px from the bank, from memory": ", ".join(f"{1e6 * s:.1f} µs" for s in seconds.values()),
        f"ResNet-18, {side} px, forward and backward": f"{1e3 * step:.1f} ms an image",
        "epoch with the bank over one from memory": f"{1 + more:.4f}",
    }


def epoch_cost(side: int, pairs: int, *, images: int = 512, batch: int = 32) -> dict[str, str]:
    """Return the ratio of an epoch with a bank to one with the same images in memory, over `pairs` of them."""
    if not pairs:
        return {}
    torch.set_num_threads(1)
    model = resnet18(num_classes=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    loading, stepping = np.zeros((2, pairs + 1)), np.zeros((2, pairs + 1))
    with tempfile.TemporaryDirectory() as folder:
        datasets = list(enumerate(bank_and_memory(Path(folder), images, side)))
        for pair in range(pairs + 1):
            for which, dataset in datasets if pair % 2 else datasets[::-1]:
                start = time.process_time()
                for inputs, labels in DataLoader(dataset, batch, shuffle=True, drop_last=True):  # equally many steps
                    loaded = time.process_time()
                    loss = torch.nn.functional.cross_entropy(model(inputs.expand(-1, 3, -1, -1)), labels)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    loading[which, pair] += loaded - start
                    start = time.process_time()
                    stepping[which, pair] += start - loaded
    load, step = np.median(loading[:, 1:], axis=1), np.median(stepping[:, 1:], axis=1)  # the first ones warm up
    same, timed = (load[0] + step[1]) / (load[1] + step[1]), (load[0] + step[0]) / (load[1] + step[1])
    return {
        f"loading of {images} images, bank and memory, median of {pairs} epochs": f"{load[0]:.4f} s, {load[1]:.4f} s",
        "training steps on them, bank and memory": f"{step[0]:.2f} s, {step[1]:.2f} s",
        "epoch with the bank over one from memory, the steps the same": f"{same:.4f}",
        "epoch with the bank over one from memory, as timed": f"{timed:.4f}",
    }


def bank_and_memory(folder: Path, images: int, side: int) -> tuple[SyntheticMixDataset, Transformed]:
    """Return two data sets of float tensors with the same images, those of one in a bank, of the other in memory."""
    write_hollow_bank(folder, images, side)
    to_float = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    zeros = np.zeros((images, side, side), np.uint8)
    memory = [(Image.fromarray(image), i % 2) for i, image in enumerate(zeros)]
    real = Transformed(memory[:2], to_float)
    strategy = dict.fromkeys(CLASSES, images // 2 + 1)
    return SyntheticMixDataset(real, SyntheticBank.open(folder), sampling_strategy=strategy), Transformed(
        memory, to_float
    )


def write_hollow_bank(folder: Path, images: int, side: int) -> None:
    """Write a bank of black images that takes no place on a disk that knows sparse files."""
    labels = np.repeat(np.arange(2), [images // 2, images - images // 2])
    indices = np.concatenate([np.arange(images // 2), np.arange(images - images // 2)])
    np.save(folder / "labels.npy", labels)
    np.save(folder / "indices.npy", indices)
    np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=(images, 1, side, side))
    header = {
        "format": "ganaug-bank",
        "version": 1,
        "classes": CLASSES,
        "counts": dict(zip(CLASSES, np.bincount(labels).tolist(), strict=True)),
        "shape": [1, side, side],
        "dtype": "uint8",
        "intensity": {"kind": "uint8", "low": 0, "high": 255, "dtype": "uint8", "minimum": None, "maximum": None},
        "seed": 0,
        "truncation": 1.0,
        "model_sha256": "0" * 64,
        "sha256": {
            name: hashlib.sha256(a.tobytes()).hexdigest() for name, a in (("labels", labels), ("indices", indices))
        },
    }
    (folder / "bank.json").write_text(json.dumps(header))


class Two(Dataset):
    """A real image of each class, in memory, as dictionary items, whose synthetic ones need the provenance too."""

    targets = (0, 1)

    def __init__(self, side: int) -> None:
        self.image = torch.zeros(1, side, side, dtype=torch.uint8)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"image": self.image, "label": self.targets[i]}


class Transformed(Dataset):
    """Pairs in memory, with a transform of the image as torchvision's data sets have it."""

    def __init__(self, items: list[tuple[Any, int]], transform: Any) -> None:
        self.items, self.transform = items, transform

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        image, label = self.items[i]
        return self.transform(image), label


class Measured(Dataset):
    """Another data set's items, of which it only tells the worker's resident memory, at item 0."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> torch.Tensor:
        self.dataset[i]
        return torch.tensor(resident_bytes() if i == 0 else 0)


def worker_memory(dataset: Any, reads: int, context: str) -> int:
    """Return the resident bytes of a worker after `reads` random items of `dataset`."""
    order = [*RandomSampler(dataset, replacement=True, num_samples=reads), 0]
    told = list(
        DataLoader(Measured(dataset), batch_size=512, sampler=order, num_workers=1, multiprocessing_context=context)
    )
    return int(told[-1][-1])


def resident_bytes() -> int:
    """Return the resident memory of this process (Linux)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmRSS:")[1].split()[0])


def _seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
