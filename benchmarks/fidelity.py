"""How near translated images are to hidden true ones, and what simple maps of the intensities reach.

Images are N×H×W uint8. The metrics are those of values in [0, 1]: the mean absolute error, the peak signal-to-noise
ratio in dB, and the structural similarity with the window of Wang et al. 2004 (a Gaussian of σ 1.5 pixels over 11×11,
K1 .01, K2 .03, biased covariances). Each is found for every slice, over the whole of it and over the head alone, since
a black background, which nobody can get wrong, flatters everything.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from skimage.exposure import match_histograms
from skimage.metrics import structural_similarity

HEAD = 26
"""A pixel belongs to the head where the brighter of both true contrasts is above this level, a tenth of the range: well
above the noise of the air, and darker in either contrast alone than fluid is in FLAIR."""
LEAST_ERROR = 1e-10
"""Mean squared error at which the peak signal-to-noise ratio ends, at 100 dB."""
METRICS = ("mae", "psnr", "ssim")


def head_of(*contrasts: np.ndarray) -> np.ndarray:
    """Return where the head is, of true images of one slice in several contrasts."""
    return np.maximum.reduce(contrasts) > HEAD


def fidelity(made: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> dict[str, list[float]]:
    """Return each metric for each slice; with `mask` (N×H×W bool), those ending in `_head` over its pixels too.

    The similarity over the mask is the mean of the similarity map there.
    """
    found: dict[str, list[float]] = {
        f"{name}{part}": [] for part in ("", "_head")[: 1 if mask is None else 2] for name in METRICS
    }
    for i in range(len(truth)):
        one, other = made[i].astype(np.float64) / 255, truth[i].astype(np.float64) / 255
        error = np.abs(one - other)
        mean, similarity = structural_similarity(
            one, other, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
        )
        _note(found, "", error, float(mean))
        if mask is not None:
            _note(found, "_head", error[mask[i]], float(similarity[mask[i]].mean()))
    return found


def _note(found: dict[str, list[float]], part: str, error: np.ndarray, similarity: float) -> None:
    found[f"mae{part}"].append(float(error.mean()))
    found[f"psnr{part}"].append(float(-10 * np.log10(max(np.square(error).mean(), LEAST_ERROR))))
    found[f"ssim{part}"].append(similarity)


Baseline = Callable[[np.ndarray], np.ndarray]


def intensity_baselines(source: np.ndarray, target: np.ndarray) -> dict[str, Baseline]:
    """Fit maps of the intensity alone to training images of two contrasts, and return them by name.

    - ``identity``: nothing is done.
    - ``histogram``: the histogram of all training images of the source matched to that of the target, as one curve for
      every test image. It needs no pairs.
    - ``histogram, each``: each test image by itself matched to the pooled target, as scikit-image users do it.
    - ``table``: E[target | source intensity] of the training pairs; no map of the intensity has a smaller squared error
      on them. ``table, median`` has the smallest absolute error.
    """
    curve = pooled_curve(source, target)
    counts = np.bincount(source.ravel().astype(np.int64) * 256 + target.ravel(), minlength=256 * 256).reshape(256, 256)
    seen = counts.sum(1)
    mean = counts @ np.arange(256) / np.maximum(seen, 1)
    median = (counts.cumsum(1) * 2 >= seen[:, None]).argmax(1)
    tables = {"table": _filled(mean, seen > 0), "table, median": _filled(median, seen > 0)}
    return {
        "identity": lambda images: images,
        "histogram": curve.__getitem__,
        "histogram, each": lambda images: matched_each(images, target),
        **{name: table.__getitem__ for name, table in tables.items()},
    }


def pooled_curve(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the curve (256 uint8) that gives the pooled intensities of `source` the histogram of those of `target`."""
    levels, first = np.unique(source, return_index=True)
    matched = match_histograms(source.reshape(1, -1), target.reshape(1, -1)).ravel()[first]
    curve = np.zeros(256)
    curve[levels] = matched
    return _filled(curve, np.isin(np.arange(256), levels))


def matched_each(images: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return each image with the histogram of all of `target`."""
    pooled = target.reshape(1, -1)
    flat = [match_histograms(image.reshape(1, -1), pooled) for image in images]
    return np.rint(np.stack(flat)).astype(np.uint8).reshape(images.shape)


def _filled(curve: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return a curve over the 256 levels as uint8; unknown levels lie on straight lines between known ones."""
    levels = np.arange(256)
    return np.rint(np.interp(levels, levels[known], curve[known])).astype(np.uint8)
