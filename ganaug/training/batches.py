"""Which images each step sees: a function of (seed, step) alone, so that resuming needs no loader state."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ganaug.data.intensity import IntensityMap


def derived_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on all `parts` (BLAKE2b, so that near seeds are unrelated)."""
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def class_probabilities(counts: Sequence[int], power: float) -> np.ndarray:
    """Return p(c) ∝ n_c^power."""
    weights = np.asarray(counts, dtype=np.float64) ** power
    return weights / weights.sum()


def apportion(total: int, shares: np.ndarray) -> np.ndarray:
    """Divide `total` draws by `shares` (which sum to 1), to within one draw and at least one each."""
    counts = np.maximum(np.floor(total * shares).astype(np.int64), 1)
    remainders = total * shares - counts
    while counts.sum() != total:  # largest remainders up, smallest down
        step = 1 if counts.sum() < total else -1
        i = int(np.argmax(np.where(counts + step >= 1, step * remainders, -np.inf)))
        counts[i] += step
        remainders[i] -= step
    return counts


class BalancedBatches:
    """Class-balanced batches without replacement inside each class.

    An epoch is as many draws as there are images, of which class c gets its share p(c). Its draws walk through
    permutations of the class's images, so that every image of a class is shown once before any is shown twice; the
    order inside an epoch is shuffled. Everything follows from (seed, epoch); only the current epoch's order is cached.

    Args:
        labels: N class indices.
        power: p(c) ∝ n_c^power.
        seed: of the order.
        draws: draws of each class in an epoch, instead of what `power` makes of the classes' sizes.
        name: tells several instances with one seed apart: they draw the same classes, and walk differently through
            their images.
    """

    def __init__(
        self, labels: np.ndarray, *, power: float, seed: int, draws: np.ndarray | None = None, name: str = ""
    ) -> None:
        classes = int(labels.max()) + 1 if draws is None else len(draws)
        self.members = [np.flatnonzero(labels == c) for c in range(classes)]
        if draws is None:
            draws = apportion(len(labels), class_probabilities([len(m) for m in self.members], power))
        self.draws, self.length = draws, int(draws.sum())
        self.name = (name,) if name else ()
        self.seed = seed
        self._epoch: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def batch(self, step: int, size: int) -> np.ndarray:
        """Return the positions (int64, `size`) of the images of step `step`."""
        first = step * size
        parts = []
        while size > 0:
            epoch, offset = divmod(first, self.length)
            part = self._order(epoch)[offset : offset + size]
            parts.append(part)
            first, size = first + len(part), size - len(part)
        return np.concatenate(parts)

    def _order(self, epoch: int) -> np.ndarray:
        if self._epoch[0] != epoch:
            slots = np.repeat(np.arange(len(self.members)), self.draws)
            np.random.default_rng(derived_seed(self.seed, "order", epoch)).shuffle(slots)
            order = np.empty(self.length, dtype=np.int64)
            for c in range(len(self.members)):
                order[slots == c] = self._walk(c, epoch)  # in the order of the walk: all once before any twice
            self._epoch = (epoch, order)
        return self._epoch[1]

    def _walk(self, label: int, epoch: int) -> np.ndarray:
        """Return the epoch's part of a class's endless walk through permutations of its members."""
        members, draws = self.members[label], int(self.draws[label])
        start, stop = epoch * draws, (epoch + 1) * draws
        first = start // len(members)
        walk = np.concatenate(
            [
                np.random.default_rng(derived_seed(self.seed, *self.name, "class", label, k)).permutation(members)
                for k in range(first, -(-stop // len(members)))
            ]
        )
        offset = start - first * len(members)
        return walk[offset : offset + draws]


class DeviceImages:
    """The training images in their stored dtype, as float batches on the training device.

    Images of 0 to 255 live on the device where they fit; others are read and mapped batch by batch, so that a memory
    map may be larger than memory.

    Args:
        images: N×C×H×W or N×C×D×H×W of any stored dtype, an array or a memory map.
        labels: N integers.
        intensity: the way to [-1, 1].
        device: where the batches are wanted.
        knots: N×4, the intensity window of each file, where each has its own.
        resident_bytes: the most that is kept on a device other than the CPU.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        intensity: IntensityMap,
        device: torch.device,
        *,
        knots: np.ndarray | None = None,
        resident_bytes: int = 4 << 30,
    ) -> None:
        self.intensity, self.device = intensity, device
        self.images, self.knots = images, knots
        self.labels = torch.as_tensor(labels, dtype=torch.int64, device=device)
        resident = device.type != "cpu" and images.nbytes <= resident_bytes and intensity.kind == "uint8"
        self.resident = torch.from_numpy(np.ascontiguousarray(images)).to(device) if resident else None

    def batch(self, positions: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return (images float32 in [-1, 1], labels int64) on the device."""
        index = self._sent(torch.from_numpy(positions))
        if self.resident is not None:
            unit = self.resident[index].float() * (2 / 255) - 1
            return unit.clamp_(-1, 1), self.labels[index]
        knots = None if self.knots is None else self.knots[positions]
        unit = torch.from_numpy(self.intensity.forward(self.images[positions], knots=knots))
        return self._sent(unit), self.labels[index]

    def _sent(self, tensor: Tensor) -> Tensor:
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()  # only from pinned memory does a copy run beside the device's work
        return tensor.to(self.device, non_blocking=True)
