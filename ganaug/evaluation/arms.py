"""The arms of a study: one entry for each way to train, and the training of one classifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganaug.evaluation.classifier import Augment, train_classifier
from ganaug.evaluation.draws import balanced_batches
from ganaug.mixing import SyntheticMix, SyntheticMixDataset

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits N×K and labels (N, or N×K probabilities) to the mean loss."""


@dataclass(frozen=True)
class Arm:
    """One way to train."""

    title: str
    """What a table calls it."""
    balanced: bool = True
    """Draw each class equally often; otherwise every image as often as any other."""
    augmented: bool = True
    """Change the images at random."""
    loss: Literal["plain", "weights", "logit"] = "plain"
    """`weights`: each class by the inverse of its share. `logit`: logits raised by the logarithm of the share (Menon et
    al. 2021, "Long-tail learning via logit adjustment", eq. 10, τ = 1)."""
    mixup: float = 0.0
    """α of MixUp's Beta distribution (Zhang et al. 2018); 0 is none."""
    batch_p: float = 0.0
    """Probability that an item of a batch gives way to a synthetic image of its class, by `SyntheticMix`."""
    synthetic_until: float = 0.0
    """The fraction of the training, from its start, in which images of a bank take part."""
    source: Literal["", "duplicates", "synthetic", "filtered", "translated", "site"] = ""
    """Of a study of a folder: where the added images come from; `duplicates` are real images in their places."""
    ratio: float = 1.0
    """Of a study of a folder: at most so many added images for each real one of a class."""

    @property
    def generated(self) -> bool:
        """Whether a generator takes part."""
        return self.source not in ("", "duplicates")


ARMS = {
    "as-is": Arm("as it is", balanced=False, augmented=False),
    "classical": Arm("oversampled + classical"),
    "synthetic": Arm("the same + synthetic", synthetic_until=1.0),
    "synthetic-batch": Arm("the same + synthetic by batch", batch_p=0.25),
    "synthetic-early": Arm("the same + synthetic, first half", synthetic_until=0.5),
}
"""The arms of `run_study` by name. "classical" is the baseline that a verdict is held against: against training on the
data as they are nearly everything helps, oversampling and small rotations too."""

FOLDER_ARMS = {
    "as-is": ARMS["as-is"],
    "weights": Arm("class weights", balanced=False, loss="weights"),
    "oversampled": Arm("oversampled, images unchanged", augmented=False),
    "augmented": Arm("oversampled + tuned augmentation"),
    "logit": Arm("logit adjustment", balanced=False, loss="logit"),
    "mixup": Arm("oversampled + augmentation + MixUp", mixup=0.2),
    "duplicates": Arm("+ as many duplicates", synthetic_until=1.0, source="duplicates"),
    "synthetic": Arm("+ synthetic", synthetic_until=1.0, source="synthetic"),
    "synthetic-third": Arm("+ synthetic, a third", synthetic_until=1.0, source="synthetic", ratio=1 / 3),
    "filtered": Arm("+ synthetic, filtered", synthetic_until=1.0, source="filtered"),
    "filtered-third": Arm("+ filtered, a third", synthetic_until=1.0, source="filtered", ratio=1 / 3),
    "translated": Arm("+ translated, filtered", synthetic_until=1.0, source="translated"),
    "site": Arm("+ translated to the other site", synthetic_until=1.0, source="site"),
}
"""The arms of the study of a folder. All from `weights` on but `oversampled` have the tuned augmentation; those with a
plus add images to `augmented`, and have its plan of draws with some draws replaced."""


def train_arm(
    arm: Arm,
    real: Any,
    *,
    mixed: SyntheticMixDataset | None = None,
    bank: Any = None,
    classes: int,
    steps: int,
    batch: int,
    seed: int,
    synthetic_share: float = 1.0,
    augment: Augment | None,
    model: Callable[[tuple[int, ...], int], nn.Module] | None = None,
    lr: float | None = None,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Train one classifier the way of `arm`.

    Arms of one seed have the same initial weights and number of steps; balanced arms also have the same plan of draws,
    except those that go to added images.

    Args:
        real: the real images, with `targets`.
        mixed: the same with added images behind them, for arms with `synthetic_until`.
        bank: for arms with `batch_p`.
        synthetic_share: see `ganaug.evaluation.draws.balanced_batches`.
        augment: of the augmented arms.
        model, lr, device: see `ganaug.evaluation.classifier.train_classifier`.
    """
    dataset: Any = real
    if arm.synthetic_until:
        assert mixed is not None
        dataset = mixed
    plan = None
    if arm.balanced:
        plan = balanced_batches(
            dataset.targets,
            steps=steps,
            batch=batch,
            seed=seed,
            is_synthetic=dataset.is_synthetic if arm.synthetic_until else None,
            synthetic_share=synthetic_share,
            synthetic_until=arm.synthetic_until,
        )
        if arm.source == "duplicates":
            plan = _real_instead(plan, dataset.targets, dataset.is_synthetic, seed)
    return train_classifier(
        dataset,
        classes=classes,
        steps=steps,
        batch=batch,
        seed=seed,
        batches=plan,
        mix=SyntheticMix(bank, p=arm.batch_p, classes="same", seed=seed) if arm.batch_p else None,
        augment=augment if arm.augmented else None,
        loss=loss_of(arm, np.bincount(real.targets, minlength=classes)),
        mixup=arm.mixup,
        model=model,
        lr=lr,
        device=device,
    )


def loss_of(arm: Arm, counts: np.ndarray) -> Loss:
    """Return the arm's loss for training images of `counts` (K): cross-entropy with label smoothing, as `arm` wants."""
    shares = torch.from_numpy(counts / counts.sum()).float().clamp(min=1e-12)
    weight = 1 / shares / (1 / shares).mean() if arm.loss == "weights" else None
    shift = shares.log() if arm.loss == "logit" else torch.zeros(len(counts))

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        weights = None if weight is None else weight.to(logits.device)
        return F.cross_entropy(logits + shift.to(logits.device), labels, weight=weights, label_smoothing=0.05)

    return loss


def _real_instead(plan: Tensor, targets: np.ndarray, is_synthetic: np.ndarray, seed: int) -> Tensor:
    """Replace each draw of an added image by one of a real image of its class: the control that adds nothing new."""
    flat = plan.numpy().ravel().copy()
    random = np.random.default_rng((seed, 1))
    for label in np.unique(targets):
        places = np.flatnonzero(is_synthetic[flat] & (targets[flat] == label))
        flat[places] = random.choice(np.flatnonzero(~is_synthetic & (targets == label)), len(places))
    return torch.from_numpy(flat.reshape(plan.shape))
