"""How far apart two sets of pictures are: domain-gap distances and plain picture statistics.

Distances take features (N, D) of any frozen extractor: KID (unbiased polynomial maximum mean
discrepancy over subsets; Binkowski et al., 2018), FID (Frechet distance of two Gaussians; Heusel
et al., 2017), CMMD (of CLIP's features; Jayasumana et al., 2024) and a classifier two-sample test
(Lopez-Paz and Oquab, 2017). Statistics take the pictures themselves: illumination, colour and
sharpness, each with a distance of its own. What the camera's place does to a body is measured in
`models.viewpoint`.

What is unusual: a distance alone says little, since two halves of one set differ as well and FID
grows when samples are few. `normalised_gap` puts it between the floor (target against target) and
the value before: 1 means nothing was gained, 0 that the sets cannot be told apart any better than
two halves of the target.

    before, floor = kid(source, target), kid(target_a, target_b)
    normalised_gap(before.mean, kid(restyled, target).mean, floor.mean)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy.stats import wasserstein_distance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


People = tuple["ArrayLike", "ArrayLike"] | None
"""Who is on each row of two sets: numbers or names."""


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
    people: People = None,
    subsets: int = 50,
    subset_size: int = 1000,
    seed: int = 0,
) -> Kid:
    """Kernel distance with the kernel (x.y/D + 1)^3: the unbiased estimate over random subsets.

    Where a subset would hold everything, one pass over everything is the answer. Two pictures of
    one person are no two draws: as such they would make a set of few people look farther from
    every other set than it is, and a floor between two such sets too high.

    Args:
        first_ND: Features (N, D).
        second_MD: Features (M, D).
        people: Who is on each row, (N,) and (M,); None where every row is of another person.
        subsets: Number of random subsets.
        subset_size: Rows of a subset; at most N and M, less if there are fewer.
        seed: Of the subsets; the global state of torch is left as it was.

    Raises:
        ValueError: Fewer than two rows or people, other widths, or values that are not finite.
    """
    first, second = _pair(first_ND, second_MD)
    who = _people(people, first, second)
    size = min(subset_size, len(first), len(second))
    draws = torch.Generator().manual_seed(seed)
    whole = size == len(first) == len(second)
    values = []
    for _ in range(1 if whole else subsets):
        at = [torch.randperm(len(each), generator=draws)[:size].numpy() for each in (first, second)]
        x, y = first[at[0]], second[at[1]]
        within = sum(
            _within(each, names[rows], np.ones((1, size)))[0]
            for each, names, rows in zip((x, y), who, at, strict=True)
        )
        values.append(within - 2 * _kernel(x, y).mean())
    return Kid(float(np.mean(values)), float(np.std(values)))


def kid_left_interval(
    before_ND: NDArray[np.floating],
    after_ND: NDArray[np.floating],
    halves: tuple[NDArray[np.floating], NDArray[np.floating]],
    *,
    people: People = None,
    resamples: int = 200,
    seed: int = 0,
    coverage: float = 0.95,
) -> tuple[float, float]:
    """Bootstrap the share of the KID gap that is left, over pictures.

    Each resample draws pictures of the two sets, and people of the target's halves, with
    replacement, and takes `normalised_gap` of the distances to both halves, averaged. Pairs of a
    picture with its own copy, or with another of its person, count as little as in `kid` itself.

    Args:
        before_ND: Features of the source (N, D).
        after_ND: Features of what was made (N, D); of as many rows, they are taken for the same
            pictures in the same order and drawn together.
        halves: Features of two halves of the target.
        people: Who is on each row of the two halves; None where every row is of another person.
        resamples: Number of resamples.
        seed: Of the draws.
        coverage: Share of the resamples within the interval.

    Returns:
        Lower and upper end; NaN where no resample has a gap to begin with.

    Raises:
        ValueError: As `kid`.
    """
    sets = [*_pair(before_ND, after_ND), *_pair(*halves)]
    who = [*_people(None, *sets[:2]), *_people(people, *sets[2:])]
    rng = np.random.default_rng(seed)
    draws = [_counts(rng, resamples, names) for names in who]
    if len(sets[0]) == len(sets[1]):
        draws[1] = draws[0]
    within = [_within(*each) for each in zip(sets, who, draws, strict=True)]

    def apart(a: int, b: int) -> NDArray[np.float64]:
        across = np.einsum("rn,rn->r", draws[a] @ _kernel(sets[a], sets[b]), draws[b])
        pairs = draws[a].sum(1) * draws[b].sum(1)
        return within[a] + within[b] - 2 * across / pairs

    before, after = ((apart(each, 2) + apart(each, 3)) / 2 for each in (0, 1))
    floor = apart(2, 3)
    usable = before > floor
    if not usable.any():
        return math.nan, math.nan
    left = ((after - floor) / np.where(usable, before - floor, 1))[usable]
    low, high = np.quantile(left, [(1 - coverage) / 2, (1 + coverage) / 2])
    return float(low), float(high)


def _counts(
    rng: np.random.Generator, resamples: int, people_N: NDArray[np.int64]
) -> NDArray[np.float64]:
    """How often each row is drawn in each resample (R, N): as often as its person."""
    count = int(people_N.max()) + 1
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    return drawn[:, people_N].astype(np.float64)


def _within(
    features_ND: NDArray[np.float64],
    people_N: NDArray[np.int64],
    counts_RN: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Mean kernel between rows of different people of a set, for each resample (R,)."""
    others = (people_N[:, None] != people_N).astype(np.float64)
    pairs = np.einsum("rn,rn->r", counts_RN @ others, counts_RN)
    total = np.einsum("rn,rn->r", counts_RN @ (_kernel(features_ND, features_ND) * others),
                      counts_RN)  # fmt: skip
    return np.asarray(total / np.maximum(pairs, 1))


def _people(
    people: People, first_ND: NDArray[np.float64], second_MD: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number the people of two sets, each from 0."""
    if people is None:
        return np.arange(len(first_ND)), np.arange(len(second_MD))
    found = []
    for names, features in zip(people, (first_ND, second_MD), strict=True):
        numbers = np.unique(np.asarray(names), return_inverse=True)[1].reshape(-1)
        if len(numbers) != len(features) or numbers.max(initial=0) < 1:
            raise ValueError(
                f"{len(numbers)} names of {numbers.max(initial=-1) + 1} people for {len(features)} "
                "rows; one name a row, of at least 2 people; add pictures of others"
            )
        found.append(numbers.astype(np.int64))
    return found[0], found[1]


def _kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)


def cmmd(first_ND: NDArray[np.floating], second_MD: NDArray[np.floating]) -> float:
    """Distance of two sets of CLIP features (Jayasumana et al., CVPR 2024).

    Features of unit length, a Gaussian kernel of deviation 10, times 1000, as published. It means
    what it says for CLIP's features only.

    Raises:
        ValueError: As `kid`.
    """
    first, second = (
        each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-12)
        for each in _pair(first_ND, second_MD)
    )

    def mean(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
        apart = np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * x @ y.T
        return float(np.exp(-apart.clip(0) / 200).mean())

    return 1000 * (mean(first, first) + mean(second, second) - 2 * mean(first, second))


def statistic_distance(values_N: NDArray[np.floating], target_M: NDArray[np.floating]) -> float:
    """Wasserstein-1 distance of one statistic's values, in standard deviations of the target.

    0 where both sets spread alike, 1 where the values would have to move by one deviation of the
    target on average. Values that are not finite are left out; NaN where a set has none.
    """
    here, there = (each[np.isfinite(each)] for each in (values_N, target_M))
    if not len(here) or not len(there):
        return math.nan
    spread = float(there.std())
    return float(wasserstein_distance(here, there)) / max(spread, 1e-9)


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
    people: People = None,
    folds: int = 5,
    seed: int = 0,
    strength: float = 0.01,
) -> TwoSample:
    """How well a linear classifier tells two sets apart that it was not trained on.

    Standardised features, logistic regression with equal weight for both sets, cross-validated.
    All pictures of a person are in one fold: else the classifier would know a set by its people.

    Args:
        first_ND: Features (N, D).
        second_MD: Features (M, D).
        people: As in `kid`.
        folds: Number of folds; at most the smaller set's people.
        seed: Of the folds.
        strength: Inverse of the regularisation (scikit-learn's C).

    Raises:
        ValueError: As `kid`.
    """
    first, second = _pair(first_ND, second_MD)
    who = _people(people, first, second)
    kind = np.repeat([0, 1], [len(first), len(second)])
    # The sets' people are different ones, whatever their names.
    apart = None if people is None else np.concatenate([who[0], who[0].max() + 1 + who[1]])
    folds = min(folds, *(int(names.max()) + 1 for names in who))
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=strength, class_weight="balanced", max_iter=1000)
    )
    split = (
        StratifiedKFold(folds, shuffle=True, random_state=seed)
        if people is None
        else StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    )
    scores = cross_val_score(
        model, np.concatenate([first, second]), kind, cv=split, groups=apart,
        scoring="balanced_accuracy",
    )  # fmt: skip
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
