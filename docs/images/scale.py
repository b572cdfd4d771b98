"""Draw docs/images/scale.png: the efficiency that the model of docs/concepts/scale.md expects of 1 to 64 GPUs.

    python -m docs.images.scale

Its figures are those of docs/results/scale.json, which benchmarks/scale.py writes; what no machine was at hand for is
declared in `GPU`, `INSIDE`, `BETWEEN` and `WIDE` and comes from data sheets.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from benchmarks.scale import Machine, predict

HERE = Path(__file__).parent
GPU = {"flops": 100e12, "fixed_s": 10e-3}
"""A tenth of an H100's 989 TFLOP/s in bfloat16, and 10 ms of a step that no further GPU shortens: assumed."""
INSIDE = (450e9, 3e-6)
"""NVLink among the 8 GPUs of a machine: bytes a second in one direction, and seconds of a message. The rate is from
the data sheet, the latency assumed, here and below."""
BETWEEN = {
    "8 × InfiniBand NDR a machine": (400e9, 5e-6),
    "100 Gb Ethernet a machine": (12.5e9, 30e-6),
}
"""The same between machines: a ring leaves each machine once, and there are as many rings as network cards."""
WIDE = (60e6, 60e9)
"""Parameters of each network, and operations of an image in a step, of a wide network at 256 pixels: assumed."""
COUNTS = [1, 2, 4, 8, 16, 32, 64]


def curves(found: dict[str, Any]) -> dict[str, list[float]]:
    """Return efficiencies over `COUNTS`: 1 image in N times less time on N GPUs is 1."""
    small = found["files"]["px256"]
    cases = {
        "px256, 1,024 images a step": (small["flops_per_image"], tuple(small["reduced_bytes"]), 1024),
        "wide, 1,024 images a step": (WIDE[1], (int(4 * WIDE[0]),) * 2, 1024),
        "wide, 64 images for each GPU": (WIDE[1], (int(4 * WIDE[0]),) * 2, 0),
    }
    drawn = {}
    for link, between in BETWEEN.items():
        machines = [Machine(**GPU, **_link(INSIDE if count <= 8 else between)) for count in COUNTS]
        for name, (flops, sizes, batch) in cases.items():
            images = [batch or 64 * count for count in COUNTS]
            speeds = [
                size / predict(count, size, flops, sizes, machine) / count
                for count, size, machine in zip(COUNTS, images, machines, strict=True)
            ]
            drawn[f"{name}; {link}"] = [speed / speeds[0] for speed in speeds]
    return drawn


def _link(values: tuple[float, float]) -> dict[str, float]:
    return {"bytes_per_second": values[0], "latency_s": values[1]}


def main() -> None:
    """Draw the picture, and print the figures."""
    found = json.loads((HERE.parent / "results" / "scale.json").read_text())
    figure, axes = plt.subplots(figsize=(7.5, 4.2), dpi=90)
    drawn = curves(found)
    for number, (name, values) in enumerate(drawn.items()):
        half = len(drawn) // 2
        axes.plot(COUNTS, values, "o-" if number < half else "s--", color=f"C{number % half}", ms=4, label=name)
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    axes.set(xscale="log", xticks=COUNTS, xticklabels=COUNTS, ylim=(0, 1.05), xlabel="GPUs", ylabel="efficiency")
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="lower left")
    figure.tight_layout()
    figure.savefig(HERE / "scale.png")


if __name__ == "__main__":
    main()
