"""What `SyntheticMix` costs beside a training step of a ResNet-18: from a bank, from a sampler's pool, from a sampler.

    OMP_NUM_THREADS=1 python -m benchmarks.mix_step              # half a minute on a CPU
    python -m benchmarks.mix_step --device cuda                  # by CUDA graph

The generator has random weights and the networks of the recipe px64. On a CPU times are seconds of one thread's CPU
clock, so that other work on the machine disturbs them little; on a GPU they are of the wall clock, and the device is
waited for. A step is forward, backward and SGD on a float batch. The pool's row is the mean over as many steps as renew
it by whole passes; its first filling is a row of its own.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models import resnet18

from benchmarks.measure import cell_text, synchronize
from ganaug.config import FitConfig, load_recipe
from ganaug.data.intensity import IntensityMap
from ganaug.mixing import SyntheticMix
from ganaug.models import build_network
from ganaug.models.modelfile import ModelHeader, save_model
from ganaug.sampling import Sampler, SyntheticBank, load

CLASSES = ("common", "rare")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--side", type=int, default=64, help="pixels a side")
    parser.add_argument("--batch", type=int, default=64, help="images in a batch")
    parser.add_argument("--p", type=float, default=0.25, help="share of the items that are replaced")
    parser.add_argument("--steps", type=int, default=4, help="training steps that are timed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(options.device)
    images, labels = torch.rand(options.batch, 3, options.side, options.side), torch.arange(options.batch) % 2
    with tempfile.TemporaryDirectory() as folder:
        gan = random_sampler(Path(folder) / "generator.safetensors", options.side, options.device)
        bank = SyntheticBank.generate(gan, Path(folder) / "bank", per_class=256)
        rows = costs(gan, bank, images.to(device), labels.to(device), p=options.p, steps=options.steps)
    step = rows["ResNet-18, forward, backward, SGD"]
    print(
        f"Batch {options.batch}, {options.side} px RGB, p {options.p}, {device}, {platform.machine()}, "
        f"torch {torch.__version__}\n"
    )
    print("| | ms | % of the step |\n|---|---|---|")
    for name, seconds in rows.items():
        print(f"| {name} | {cell_text(1e3 * seconds)} | {cell_text(100 * seconds / step)} |")


def costs(
    gan: Sampler, bank: SyntheticBank, images: Tensor, labels: Tensor, *, p: float, steps: int
) -> dict[str, float]:
    """Return the seconds of a training step and of each way to mix, by name."""
    device = images.device
    model = resnet18(num_classes=len(CLASSES)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def train() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    from_bank = SyntheticMix(bank, p=p, seed=0)
    same = SyntheticMix(bank, p=p, classes="same", seed=0)
    uint8 = SyntheticMix(bank, p=p, seed=0)
    bytes_ = (images * 255).to(torch.uint8)
    pooled = SyntheticMix(gan, p=p, seed=0)
    each = SyntheticMix(gan, p=p, pool=0, seed=0)
    filling = seconds_a_call(lambda: pooled(images, labels), 1, device, warm_up=0)
    return {
        "ResNet-18, forward, backward, SGD": seconds_a_call(train, steps, device),
        "from the bank": seconds_a_call(lambda: from_bank(images, labels), 50, device),
        'from the bank, classes="same"': seconds_a_call(lambda: same(images, labels), 50, device),
        "from the bank, uint8 batch": seconds_a_call(lambda: uint8(bytes_, labels), 50, device),
        "from a sampler, pool of 1024, 4 images made anew a step": seconds_a_call(
            lambda: pooled(images, labels), 64, device, warm_up=0
        ),
        "from a sampler, all images made in the step": seconds_a_call(lambda: each(images, labels), 8, device),
        "the pool's first filling, once": filling,
    }


def seconds_a_call(work: Callable[[], object], calls: int, device: torch.device, *, warm_up: int = 2) -> float:
    """Return the mean time of a call: of the CPU clock, or on an accelerator of the wall clock."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    for _ in range(warm_up):
        work()
    synchronize(device)
    start = clock()
    for _ in range(calls):
        work()
    synchronize(device)
    return (clock() - start) / calls


def random_sampler(path: Path, side: int, device: str) -> Sampler:
    """Write a model file with random weights, of the recipe px64 and for RGB, and load it."""
    settings = FitConfig.from_dict(load_recipe("px64")).updated({"size": (side, side), "channels": 3}).to_dict()
    generator = build_network("modern", "Generator", settings, size=(side, side), channels=3, classes=len(CLASSES))
    intensity = IntensityMap("uint8", 0, 255, "uint8")
    header = ModelHeader("conditional", CLASSES, (side, side), 3, intensity, settings, {"images": {}})
    save_model(path, generator, header)
    return load(path, device=device)


if __name__ == "__main__":
    main()
