"""A batch transform that turns real images into another class or the style of another site, by any translator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from ganaug.data.intensity import IntensityMap
from ganaug.data.scales import file_knots
from ganaug.errors import ConfigError, ModelFileError
from ganaug.mixing.pairs import LabelMap, LabelsGetter, Pair
from ganaug.mixing.replacing import Kept, NewItems, ReplaceItems
from ganaug.mixing.values import BatchValues, Normalize
from ganaug.sampling.provenance import provenance


class Translator(Protocol):
    """What `TranslateMix` needs of a model that turns real images into others.

    A model may also have `targets`, names of those of `classes` that it can translate to (all without it), and
    `intensities`, the map of each of `classes` (all `intensity` without it); `ganaug.Translator` has both.
    """

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
    are, and the batch's images are all of one domain: `source`, and `to` is another. `num_classes` and `class_names`
    are for the rule "class" alone. Where domains have intensity maps of their own, an image goes in by the map of its
    domain and comes out by that of its target, in the target's units.

    Batches, values, draws and provenance are as with `SyntheticMix`, but channels must agree. The translator works in
    the training process, in inference mode: the transform cannot be pickled, nor be used in a DataLoader's worker;
    ``copy.deepcopy`` shares the translator, and no ``state_dict`` contains it. In ``mix.provenance`` the `source` of a
    translated item is ``real item I of batch STEP``; it has neither seed nor index (-1).

    Args:
        translator: see `Translator`.
        p: probability of each item, 0 to 1.
        to: names of the targets, among the translator's classes; by default all that it translates to, but `source`.
            ``to=["lesion"]`` makes a rare class.
        source: under the rule "style", the domain of the batch's images. Of two domains it is by default the one that
            is not in `to`; it must be given where intensity maps differ and nothing else tells.
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
        source: str | None = None,
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
        if source is not None and (translator.rule == "class" or source not in classes):
            raise ConfigError(
                f"source is {source!r}; under the rule 'style' one of the translator's {', '.join(classes)} was "
                "wanted, and under the rule 'class', where labels tell, none."
            )
        reachable = tuple(getattr(translator, "targets", classes))
        targets = [name for name in reachable if name != source] if to is None else list(to)
        if isinstance(to, str) or not targets or not set(targets) <= {*reachable} - {source}:
            wanted = ", ".join(name for name in reachable if name != source)
            raise ConfigError(f"to is {to!r}; a list with some of the translator's {wanted} was wanted.")
        labels = None
        if translator.rule == "class":
            labels = LabelMap(classes, num_classes=num_classes, class_names=class_names)
        super().__init__(
            translator,
            p=p,
            labels=labels,
            values=BatchValues(_map_of_batch(translator, targets, source), normalize=normalize, scale=scale),
            labels_getter=labels_getter,
            seed=seed,
        )
        self.to_classes = tuple(targets)
        self.source = source
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
        stored, maps = real.cpu().numpy(), _intensities(translator)
        there = self._values.intensity
        own = [there.for_file(file_knots(image)) if there.kind == "per-file" else there for image in stored]
        unit = np.empty(stored.shape, np.float32)
        for row, image in enumerate(stored):
            unit[row] = own[row].forward(image)
        images = torch.from_numpy(unit).to(real.device)
        with torch.autocast(real.device.type, enabled=False):
            made = translator.translate(images, to=targets.to(real.device))
        if made.shape != images.shape or not bool(made.isfinite().all()):
            raise ModelFileError(
                f"The translator made images of shape {tuple(made.shape)} from {tuple(images.shape)}, or some with NaN "
                "or infinity; finite ones of the same shape were wanted. Train it again."
            )
        values = made.cpu().float().numpy()
        for row, target in enumerate(targets.tolist()):
            back = own[row] if maps[target] == there else maps[target]
            values[row] = back.inverse(values[row], tails=False)
        return torch.from_numpy(values)


def _intensities(translator: Translator) -> tuple[IntensityMap, ...]:
    """Return the intensity map of each class or domain."""
    found = getattr(translator, "intensities", None)
    return (translator.intensity,) * len(translator.classes) if found is None else tuple(found)


def _map_of_batch(translator: Translator, targets: Sequence[str], source: str | None) -> IntensityMap:
    """Return the map of the batch's images. Raises ConfigError if it is not known, or no target's type fits."""
    maps = _intensities(translator)
    names = tuple(translator.classes)
    left = [name for name in names if name not in targets] if source is None else [source]
    if len({*maps}) == 1:
        return maps[0]
    if len(left) != 1:
        raise ConfigError(
            f"The translator's domains {', '.join(names)} have intensities of their own, so that it must be known "
            "which one the batch's images are of. Pass source=."
        )
    own = maps[names.index(left[0])]
    others = {maps[names.index(name)].dtype for name in targets} - {own.dtype}
    if others and "uint8" in {own.dtype, *others}:
        raise ConfigError(
            f"The images of {left[0]!r} are stored as {own.dtype}, those of {', '.join(targets)} as "
            f"{', '.join(sorted(others))}, which one batch cannot hold. Make a bank: SyntheticBank.translate."
        )
    return own
