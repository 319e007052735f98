"""How far apart two sets of pictures are: domain-gap distances and plain picture statistics.

Distances take features (N, D) of any frozen extractor: KID (unbiased polynomial maximum mean
discrepancy over subsets; Binkowski et al., 2018), FID (Frechet distance of two Gaussians; Heusel
et al., 2017) and a classifier two-sample test (Lopez-Paz and Oquab, 2017). Statistics take the
pictures themselves: illumination, colour and sharpness.

What is unusual: a distance alone says little, since two halves of one set differ as well and FID
grows when samples are few. `normalised_gap` puts it between the floor (target against target) and
the value before: 1 means nothing was gained, 0 that the sets cannot be told apart any better than
two halves of the target.

    before, floor = kid(source, target), kid(target_a, target_b)
    normalised_gap(before.mean, kid(restyled, target).mean, floor.mean)
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torchmetrics.image.kid import KernelInceptionDistance

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Kid(NamedTuple):
    """Kernel distance over subsets."""

    mean: float
    """May be a little below 0, since it is unbiased."""
    std: float
    """Deviation over the subsets."""


class TwoSample(NamedTuple):
    """Classifier two-sample test."""

    accuracy: float
    """Balanced accuracy on held-out folds; 0.5 means that the sets cannot be told apart."""
    std: float
    """Deviation over the folds."""


def kid(
    first_ND: NDArray[np.floating],
    second_MD: NDArray[np.floating],
    *,
    subsets: int = 50,
    subset_size: int = 1000,
    seed: int = 0,
) -> Kid:
    """Kernel distance with the kernel (x.y/D + 1)^3, by torchmetrics.

    Args:
        first_ND: Features (N, D).
        second_MD: Features (M, D).
        subsets: Number of random subsets.
        subset_size: Rows of a subset; at most N and M, less if there are fewer.
        seed: Of the subsets; the global state of torch is left as it was.

    Raises:
        ValueError: Fewer than two rows, other widths, or values that are not finite.
    """
    first, second = _pair(first_ND, second_MD)
    size = min(subset_size, len(first), len(second))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it keeps all features: here they are given
        metric = KernelInceptionDistance(_Given(), subsets=subsets, subset_size=size)
    metric.set_dtype(torch.float64)
    metric.update(torch.from_numpy(first), real=True)
    metric.update(torch.from_numpy(second), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, std = metric.compute()
    return Kid(float(mean), float(std))


class _Given(nn.Module):
    """Stands for an extractor: the features are there already."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def fid(
    first_ND: NDArray[np.floating],
    second_MD: NDArray[np.floating],
) -> float:
    """Frechet distance of the Gaussians of two sets, in double precision.

    Own arithmetic instead of torchmetrics': that takes eigenvalues of a product that is not
    symmetric, which few samples make ill-conditioned. Here the trace of the root of A B is that of
    the root of A^(1/2) B A^(1/2), which is symmetric and positive semi-definite.

    Raises:
        ValueError: As `kid`.
    """
    first, second = _pair(first_ND, second_MD)
    apart = np.square(first.mean(0) - second.mean(0)).sum()
    a, b = (np.atleast_2d(np.cov(each, rowvar=False)) for each in (first, second))
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ b @ root).clip(0)).sum()
    return float(max(0.0, apart + np.trace(a) + np.trace(b) - 2 * shared))


def two_sample(
    first_ND: NDArray[np.floating],
    second_MD: NDArray[np.floating],
    *,
    folds: int = 5,
    seed: int = 0,
    strength: float = 0.01,
) -> TwoSample:
    """How well a linear classifier tells two sets apart that it was not trained on.

    Standardised features, logistic regression with equal weight for both sets, cross-validated.

    Args:
        first_ND: Features (N, D).
        second_MD: Features (M, D).
        folds: Number of folds; at most the smaller set's rows.
        seed: Of the folds.
        strength: Inverse of the regularisation (scikit-learn's C).

    Raises:
        ValueError: As `kid`.
    """
    first, second = _pair(first_ND, second_MD)
    kind = np.repeat([0, 1], [len(first), len(second)])
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=strength, class_weight="balanced", max_iter=1000)
    )
    split = StratifiedKFold(min(folds, len(first), len(second)), shuffle=True, random_state=seed)
    scores = cross_val_score(
        model, np.concatenate([first, second]), kind, cv=split, scoring="balanced_accuracy"
    )
    return TwoSample(float(scores.mean()), float(scores.std()))


def normalised_gap(before: float, after: float, floor: float) -> float:
    """Share of the gap that is left: (after - floor) / (before - floor).

    Args:
        before: Distance of the source to the target.
        after: Distance of the restyled set to the target.
        floor: Distance of one part of the target to the other, with as many rows.

    Returns:
        1 where nothing was gained, 0 at the floor, below 0 beyond it; NaN where there is no gap
        to begin with.
    """
    return (after - floor) / (before - floor) if before > floor else math.nan


def image_statistics(pixels_NHW3: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """Measure illumination, colour and sharpness of each picture.

    Args:
        pixels_NHW3: Pictures (N, H, W, 3), at least 3 x 3 pixels.

    Returns:
        Name -> a value a picture (N,):

        - ``luminance``: mean luma, 0 to 255 (Rec. 601 weights);
        - ``contrast``: standard deviation of luma;
        - ``red_cast``, ``blue_cast``: mean of R - G and of B - G, in levels: colour temperature;
        - ``colourfulness``: Hasler and Suesstrunk's (2003) measure;
        - ``saturation``: mean of (max - min) / max over the channels, 0 to 1;
        - ``sharpness``: variance of the 4-neighbour Laplacian of luma.

    Raises:
        ValueError: Another shape or type.
    """
    if (
        pixels_NHW3.ndim != 4
        or pixels_NHW3.shape[3] != 3
        or pixels_NHW3.dtype != np.uint8
        or min(pixels_NHW3.shape[1:3]) < 3
    ):
        raise ValueError(
            f"pictures of shape {pixels_NHW3.shape} and type {pixels_NHW3.dtype}; the statistics "
            "take uint8 (N, H, W, 3) of at least 3 x 3 pixels; stack pictures of one size"
        )
    chunks = [
        _statistics(pixels_NHW3[start : start + 256]) for start in range(0, len(pixels_NHW3), 256)
    ]
    names = chunks[0] if chunks else _statistics(np.zeros((1, 3, 3, 3), np.uint8))
    return {name: np.concatenate([np.empty(0), *(c[name] for c in chunks)]) for name in names}


def _statistics(pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    levels = pixels.astype(np.float64)
    red, green, blue = np.moveaxis(levels, -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    inner = luma[:, 1:-1, 1:-1]
    around = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    rg, yb = red - green, (red + green) / 2 - blue
    highest = levels.max(-1)
    places = (1, 2)
    return {
        "luminance": luma.mean(places),
        "contrast": luma.std(places),
        "red_cast": (red - green).mean(places),
        "blue_cast": (blue - green).mean(places),
        "colourfulness": np.hypot(rg.std(places), yb.std(places))
        + 0.3 * np.hypot(rg.mean(places), yb.mean(places)),
        "saturation": ((highest - levels.min(-1)) / np.maximum(highest, 1)).mean(places),
        "sharpness": (around - 4 * inner).var(places),
    }


def _pair(
    first: NDArray[np.floating], second: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    shapes = f"{first.shape} and {second.shape}"
    if first.ndim != 2 or second.ndim != 2 or first.shape[1:] != second.shape[1:]:
        raise ValueError(
            f"features of shape {shapes}; both are (rows, width) with one width; "
            "take them from the same extractor, one row a picture"
        )
    if min(len(first), len(second)) < 2:
        raise ValueError(
            f"features of shape {shapes}; a distance needs at least 2 rows a set; add pictures"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError(
            "features that are not finite; a distance of such rows means nothing; "
            "find the pictures whose features overflow"
        )
    return first.astype(np.float64), second.astype(np.float64)
