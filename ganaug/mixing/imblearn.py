"""Synthetic images for imbalanced-learn: an over-sampler that takes them from a bank or a model, or trains one."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

try:
    from imblearn.over_sampling.base import BaseOverSampler
except ImportError as problem:
    raise ImportError("GANOverSampler needs imbalanced-learn: pip install imbalanced-learn.") from problem
from scipy import sparse
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval
from sklearn.utils.validation import validate_data

from ganaug.errors import ConfigError
from ganaug.mixing.stored import same_units
from ganaug.sampling.bank import SyntheticBank
from ganaug.sampling.request import ImageSource, Request
from ganaug.sampling.sampler import load_sampler

_REMEDY = "Scale behind the over-sampler (a later step of the pipeline), or bring X to the units of the training files."


class GANOverSampler(BaseOverSampler):
    """Over-samples images with those that a GAN makes.

    `fit_resample` returns the rows of X, untouched, and after them synthetic images with their labels, as many as
    `sampling_strategy` says. X holds images as flat rows or as N×H×W, N×C×H×W, N×H×W×C or volumes likewise, with 1 or
    3 channels, in any numeric type, which is kept. Synthetic images are in the units of X: put steps that scale behind
    this one in the pipeline.

    Images come from `source`, or, without one, from a GAN that is trained on X and y for some minutes each time: fine
    for a first try, but a generator for real use is trained with ``ganaug fit``, which also keeps and reports it.

    Args:
        source: None to train; a bank, or the folder of one; or a model: a run folder, a model file, or a `Sampler`.
            Labels of y are then its class names, or positions in its class list.
        sampling_strategy: "auto", "minority", "not minority", "not majority", "all", a float (two classes), a dict
            label → wanted total, or a function that gets y and returns such a dict; see imbalanced-learn.
        random_state: seeds the training and the choice of images: an integer, a RandomState, or None. A training for
            `minutes` differs from run to run all the same; ``settings={"kimg": ...}`` does not.
        shape: the shape of one image where X has flat rows, such as ``(28, 28)``, ``(3, 32, 32)`` or ``(32, 32, 3)``;
            None takes rows as gray square images.
        minutes: length of the training.
        settings: further arguments of `ganaug.fit`, such as ``{"recipe": "px32", "device": "cpu"}``.

    Attributes:
        sampling_strategy_: label → number of synthetic images.
        classes_: the labels, sorted.
        source_: the bank or sampler that the images came from; not pickled, so that a saved pipeline stays small.
        provenance_: of each synthetic row, in their order: a dict with ``synthetic, label, source, seed, index,
            model_sha256, truncation, accepted, scores``.
        n_features_in_: as in scikit-learn; the second side of X where X is no table.

    Raises:
        ConfigError: X is no set of images, does not fit the source, or the bank has too few images.
        DataError: X and y cannot be trained on, for example a class of a single image.

    Example:
        >>> import numpy as np
        >>> X = np.random.default_rng(0).integers(0, 256, (24, 64)).astype("uint8")  # 24 images of 8×8 pixels
        >>> y = [0] * 16 + [1] * 8
        >>> settings = {"recipe": "smoke", "kimg": 0.05, "device": "cpu"}  # seconds, to see that it runs
        >>> X_mixed, y_mixed = GANOverSampler(random_state=0, settings=settings).fit_resample(X, y)
        >>> X_mixed.shape, y_mixed.count(1)
        ((32, 64), 16)
    """

    _parameter_constraints: dict = {  # noqa: RUF012 - scikit-learn's own declaration
        **BaseOverSampler._parameter_constraints,
        "source": [None, str, os.PathLike, SyntheticBank, HasMethods("sample")],
        "shape": ["array-like", None],
        "minutes": [Interval(Real, 0, None, closed="neither")],
        "settings": [Mapping, None],
    }

    def __init__(
        self,
        source: Any = None,
        *,
        sampling_strategy: Any = "auto",
        random_state: Any = None,
        shape: tuple[int, ...] | None = None,
        minutes: float = 5.0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(sampling_strategy=sampling_strategy)
        self.source = source
        self.random_state = random_state
        self.shape = shape
        self.minutes = minutes
        self.settings = settings

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        state.pop("source_", None)
        return state

    def _check_X_y(self, X: Any, y: Any, accept_sparse: Any = None) -> tuple[Any, Any, bool]:  # noqa: N802, N803
        from imblearn.utils import check_target_type

        y, one_versus_all = check_target_type(y, indicate_one_vs_all=True)
        X, y = validate_data(self, X, y, reset=True, accept_sparse=accept_sparse or ["csr", "csc"], allow_nd=True)  # noqa: N806
        return X, y, one_versus_all

    def _fit_resample(self, X: Any, y: np.ndarray, **params: Any) -> tuple[Any, np.ndarray]:  # noqa: N803
        rows = X.toarray() if sparse.issparse(X) else X
        shape, axis = _image_shape(self.shape, rows.shape[1:])
        images = rows.reshape(len(rows), *shape)
        images = images[:, np.newaxis] if axis is None else np.moveaxis(images, axis + 1, 1)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.classes_ = np.unique(y)
        self.provenance_: list[dict[str, Any]] = []
        self.source_: SyntheticBank | ImageSource | None = None
        added = {label: count for label, count in self.sampling_strategy_.items() if count}
        if not added:
            return X, y
        known = self.classes_.tolist()
        source: SyntheticBank | ImageSource
        if self.source is None:
            source = self._trained(images, y, seed)
            places = {label: place for place, label in enumerate(known)}
        else:
            source = _opened(self.source)
            places = {label: _place(label, source.classes) for label in known}
            _check_shape(images, source)
        self.source_ = source
        new = np.concatenate([self._draw(source, label, places[label], count, seed) for label, count in added.items()])
        if self.source is not None:
            same_units(float(images.min()), float(images.max()), new, source.intensity, remedy=_REMEDY)
        new = np.moveaxis(new, 1, 1 if axis is None else axis + 1)
        new = _as_type(new, rows.dtype).reshape(len(new), *rows.shape[1:])
        labels = np.repeat(np.array(list(added), dtype=y.dtype), list(added.values()))
        stacked = sparse.vstack([X, new], format=X.format) if sparse.issparse(X) else np.concatenate([rows, new])
        return stacked, np.concatenate([y, labels])

    def _draw(self, source: SyntheticBank | ImageSource, label: Any, place: int, count: int, seed: int) -> np.ndarray:
        """Return `count` images of a class, channels first, in stored units, and note where they come from."""
        name = source.classes[place]
        if isinstance(source, SyntheticBank):
            if count > source.counts[name]:
                raise ConfigError(
                    f"{count} images of {name!r} are wanted, but the bank {source.path} has {source.counts[name]}. "
                    f"Make a larger one (ganaug sample RUN --out DIR --format bank --counts {name}={count}), or ask "
                    "for fewer."
                )
            drawn = np.random.default_rng((seed, place)).choice(source.positions(place), count, replace=False)
            self.provenance_ += [{**source.provenance(int(position)), "label": label} for position in drawn]
            return source.images[drawn]
        request = Request.of(source, {name: count}, format="bank", seed=seed, truncation=1.0)
        self.provenance_ += [{**request.origin(i), "label": label} for i in range(count)]
        starts = range(0, count, request.batch)
        return np.concatenate([request.make(source, slice(start, start + request.batch)) for start in starts])

    def _trained(self, images: np.ndarray, y: np.ndarray, seed: int) -> ImageSource:
        """Train on the images; class i of the sampler is the i-th label."""
        from ganaug.training.fit import fit

        if images.shape[1] not in (1, 3):
            raise ConfigError(f"X has images of {images.shape[1]} channels; 1 or 3 were wanted to train on them.")
        # Other integers are often counts or levels that use little of their range.
        kept = images if images.dtype in (np.uint8, np.uint16, np.int16) else images.astype(np.float32)
        settings = {"minutes": self.minutes, "size": images.shape[2:], "seed": seed, **(self.settings or {})}
        if "kimg" in settings and "minutes" not in (self.settings or {}):
            del settings["minutes"]
        with tempfile.TemporaryDirectory(prefix="ganaug-") as folder:
            data = Path(folder, "images.npz")
            np.savez(data, images=np.moveaxis(kept, 1, -1), labels=np.searchsorted(self.classes_, y))
            return load_sampler(fit(data, Path(folder, "run"), **settings).path, device=settings.get("device", "auto"))


def _opened(source: Any) -> SyntheticBank | ImageSource:
    if not isinstance(source, str | os.PathLike):
        return source
    path = Path(source)
    return SyntheticBank.open(path) if (path / "bank.json").is_file() else load_sampler(path)


def _place(label: Any, classes: Sequence[str]) -> int:
    """Return the place of a label of y in a class list."""
    if label in classes:
        return classes.index(label)
    if not isinstance(label, str) and label in range(len(classes)):
        return int(label)
    raise ConfigError(
        f"y holds the label {label!r}; one of the source's classes {', '.join(classes)}, or 0 to {len(classes) - 1}, "
        "was wanted. Use the bank or model of these classes."
    )


def _check_shape(images: np.ndarray, source: SyntheticBank | ImageSource) -> None:
    if images.shape[1:] != tuple(source.shape):
        raise ConfigError(
            f"X holds images of {images.shape[1:]}, channels first, the source of {tuple(source.shape)}; the same "
            "shape was wanted. Pass shape= if rows were taken apart wrongly, or make a model of your size (ganaug fit "
            "--size)."
        )


def _image_shape(asked: tuple[int, ...] | None, given: tuple[int, ...]) -> tuple[tuple[int, ...], int | None]:
    """Return the shape of one image, of rows of the shape `given`, and its axis of channels, None if it has none."""
    shape = tuple(asked or given)
    if asked is None and len(given) == 1:
        shape = (math.isqrt(given[0]),) * 2
    axis = next((axis for axis in (0, len(shape) - 1) if len(shape) > 2 and shape[axis] in (1, 3)), None)
    if len(shape) - (axis is not None) not in (2, 3) or math.prod(shape) != math.prod(given):
        raise ConfigError(
            f"X has rows of the shape {given}{f', and shape= is {asked}' if asked else ''}; images were wanted. Pass "
            "shape=, such as (28, 28), (3, 32, 32) or (32, 32, 3), with as many values as a row has."
        )
    return shape, axis


def _as_type(images: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        images = np.clip(np.rint(images.astype(np.float64)), limits.min, limits.max)
    return images > 0.5 if dtype.kind == "b" else images.astype(dtype)
