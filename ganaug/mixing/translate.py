"""A batch transform that turns real images into another class or the style of another site, by any translator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ganaug.data.intensity import IntensityMap
from ganaug.errors import ConfigError, ModelFileError
from ganaug.mixing.pairs import LabelMap, LabelsGetter, Pair
from ganaug.mixing.replacing import Kept, NewItems, ReplaceItems
from ganaug.mixing.values import BatchValues, Normalize
from ganaug.sampling.provenance import provenance


class Translator(Protocol):
    """What `TranslateMix` needs of a model that turns real images into others."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of what it translates to: classes, or sites or contrasts under the rule "style"."""

    @property
    def rule(self) -> Literal["style", "class"]:
        """Whether a translated image keeps the label of the real one, or takes that of the target."""

    @property
    def shape(self) -> Sequence[int]:
        """Shape of one image, channels first: (C, H, W) or (C, D, H, W)."""

    @property
    def intensity(self) -> IntensityMap:
        """The way between the stored values of its training images and [-1, 1]."""

    @property
    def model_sha256(self) -> str:
        """SHA-256 of the model file."""

    def translate(self, images: Tensor, *, to: Tensor) -> Tensor:
        """Return images (N×C×H×W or N×C×D×H×W float32 in [-1, 1], on any device) as they would be in `to`.

        `to` are N positions in `classes`, int64, on the device of the images. The result has their shape and range.
        """


class TranslateMix(ReplaceItems):
    """Turns real images of a batch into another class or style: ``images, labels = mix(images, labels)``.

    Each item is translated with probability `p`, to a target drawn evenly from `to`. Under the translator's rule
    "class" the target is another class than the item's own, and the label becomes the target's; items whose class the
    translator does not know, or for which `to` leaves no other, stay. Under the rule "style" labels stay, whatever they
    are. `num_classes` and `class_names` are for the rule "class" alone.

    Batches, values, draws and provenance are as with `SyntheticMix`, but channels must agree. The translator works in
    the training process, in inference mode: the transform cannot be pickled, nor be used in a DataLoader's worker;
    ``copy.deepcopy`` shares the translator, and no ``state_dict`` contains it. In ``mix.provenance`` the `source` of a
    translated item is ``real item I of batch STEP``; it has neither seed nor index (-1).

    Args:
        translator: see `Translator`.
        p: probability of each item, 0 to 1.
        to: names of the targets, among the translator's classes; all by default. ``to=["lesion"]`` makes a rare class.
        num_classes, class_names, labels_getter, normalize, scale, seed: see `SyntheticMix`.

    Raises:
        ConfigError: a setting does not fit, or the batch does not fit the translator.
        ModelFileError: the translator returns another shape than it was given, or NaN or infinity.
    """

    def __init__(
        self,
        translator: Translator,
        *,
        p: float = 0.25,
        to: Sequence[str] | None = None,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        labels_getter: LabelsGetter = "default",
        normalize: Normalize | None = None,
        scale: tuple[float, float] | None = None,
        seed: int | None = None,
    ) -> None:
        classes = tuple(translator.classes)
        if translator.rule not in ("style", "class"):
            raise ConfigError(f"The translator's rule is {translator.rule!r}; 'style' or 'class' was wanted.")
        if translator.rule == "style" and (num_classes is not None or class_names is not None):
            raise ConfigError(
                "num_classes= or class_names= was given, but under the translator's rule 'style' labels stay as they "
                "are. Leave them out."
            )
        targets = list(classes if to is None else to)
        if isinstance(to, str) or not targets or not set(targets) <= set(classes):
            raise ConfigError(f"to is {to!r}; a list with some of the translator's {', '.join(classes)} was wanted.")
        labels = None
        if translator.rule == "class":
            labels = LabelMap(classes, num_classes=num_classes, class_names=class_names)
        super().__init__(
            translator,
            p=p,
            labels=labels,
            values=BatchValues(translator.intensity, normalize=normalize, scale=scale),
            labels_getter=labels_getter,
            seed=seed,
        )
        self.to_classes = tuple(targets)
        self._kept = Kept(translator)
        self._allowed = torch.tensor([float(name in targets) for name in classes])

    def extra_repr(self) -> str:
        return f"{self._kept.model!r}, p={self.p}, to={list(self.to_classes)}"

    def _new_items(self, rows: Tensor, pair: Pair, generator: torch.Generator | None) -> NewItems | None:
        self._kept.refuse_workers()
        weights = self._allowed.repeat(len(rows), 1)
        if self._labels is not None:
            own = self._classes_in(pair.labels)[rows]
            weights[torch.arange(len(rows)), own.clamp(min=0)] = 0
            weights[own < 0] = 0
            rows, weights = rows[weights.any(1)], weights[weights.any(1)]
        if not len(rows):
            return None
        targets = torch.multinomial(weights, 1, generator=generator)[:, 0]
        real = self._values.to_stored(pair.images.as_subclass(Tensor)[rows.to(pair.images.device)])
        step = self.step

        def origin(i: int) -> dict[str, Any]:
            translator: Translator = self._kept.model
            label = translator.classes[int(targets[i])]
            return {
                **provenance(label=label, seed=-1, index=-1, model_sha256=translator.model_sha256, truncation=1.0),
                "source": f"real item {int(rows[i])} of batch {step}",
            }

        return NewItems(rows, self._translated(real, targets), None if self._labels is None else targets, origin)

    @torch.inference_mode()
    def _translated(self, real: Tensor, targets: Tensor) -> Tensor:
        """Return real images (n×C×… stored values) as the translator turns them into `targets`, as stored values."""
        translator: Translator = self._kept.model
        images = torch.from_numpy(translator.intensity.forward(real.cpu().numpy())).to(real.device)
        with torch.autocast(real.device.type, enabled=False):
            made = translator.translate(images, to=targets.to(real.device))
        if made.shape != images.shape or not bool(made.isfinite().all()):
            raise ModelFileError(
                f"The translator made images of shape {tuple(made.shape)} from {tuple(images.shape)}, or some with NaN "
                "or infinity; finite ones of the same shape were wanted. Train it again."
            )
        return torch.from_numpy(translator.intensity.inverse(made.cpu().float().numpy(), tails=False).astype("float32"))
