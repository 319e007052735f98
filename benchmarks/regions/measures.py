"""What is measured of regions: overlap, shares, calibration, and how sure the figures are.

Shapes: N phrases (or regions, one a phrase).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from models.regions.proposals import Proposals

Floats = NDArray[np.float64]
Groups = NDArray[np.str_]

RIGHT = 0.5
"""Overlap (IoU) from which a box counts as right."""

RESAMPLES = 2000


def iou(one_N4: Floats, other_N4: Floats) -> Floats:
    """Overlap (N,) of (cx, cy, w, h) boxes, pair by pair; 0 where a box is NaN or has no area.

    Args:
        one_N4: Boxes (..., 4).
        other_N4: Boxes that broadcast against them.
    """
    half, other_half = one_N4[..., 2:] / 2, other_N4[..., 2:] / 2
    low = np.maximum(one_N4[..., :2] - half, other_N4[..., :2] - other_half)
    high = np.minimum(one_N4[..., :2] + half, other_N4[..., :2] + other_half)
    both = np.prod(np.clip(high - low, 0, None), axis=-1)
    union = np.prod(one_N4[..., 2:], axis=-1) + np.prod(other_N4[..., 2:], axis=-1) - both
    found: Floats = np.nan_to_num(both / np.where(union > 0, union, np.inf))
    return found


def best_boxes(proposals: Proposals, count: int) -> tuple[Floats, Floats]:
    """The surest box of each phrase of a picture.

    Args:
        proposals: Of one picture.
        count: Number of its phrases.

    Returns:
        Boxes (count, 4), NaN for a phrase without one, and confidences (count,), 0 for those.
    """
    boxes, scores = np.full((count, 4), np.nan), np.zeros(count)
    order = np.argsort(proposals.scores_N, kind="stable")  # the surest is written last
    boxes[proposals.phrase_N[order]] = proposals.boxes_N4[order]
    scores[proposals.phrase_N[order]] = proposals.scores_N[order]
    return boxes, scores


@dataclass(frozen=True)
class Answers:
    """What was answered to phrases whose true box is known; one row a phrase."""

    picture_N: NDArray[np.int64]
    """Number of the picture: phrases of one picture are no independent draws."""
    group_N: Groups
    head_N: Groups
    truth_N4: Floats
    box_N4: Floats
    """NaN where nothing was answered."""
    score_N: Floats
    """Confidence; 0 where nothing was answered."""

    @property
    def overlap(self) -> Floats:
        """(N,) IoU with the truth; 0 where nothing was answered."""
        return iou(self.box_N4, self.truth_N4)

    @property
    def right(self) -> NDArray[np.bool_]:
        """(N,) whether the overlap is at least `RIGHT`."""
        return self.overlap >= RIGHT

    @property
    def abstained(self) -> NDArray[np.bool_]:
        """(N,) whether nothing was answered."""
        return np.isnan(self.box_N4[:, 0])

    @classmethod
    def join(
        cls,
        found: Iterable[Proposals],
        truths: Sequence[Floats],
        groups: Sequence[Sequence[str]],
        heads: Sequence[Sequence[str]],
        asked: Sequence[Sequence[int]] | None = None,
    ) -> Answers:
        """Put the answers of several pictures beside their truth.

        Args:
            found: Proposals of each picture.
            truths: True boxes (phrases, 4) of each.
            groups: Groups of the phrases of each.
            heads: Their head nouns.
            asked: Which of the picture's queries these phrases are; all, in their order, if left
                out.
        """
        boxes, scores = [], []
        for picture, proposals in enumerate(found):
            which = asked[picture] if asked else range(len(truths[picture]))
            count = max([*which, *proposals.phrase_N.tolist()], default=-1) + 1
            box, score = best_boxes(proposals, count)
            boxes.append(box[list(which)])
            scores.append(score[list(which)])
        return cls(
            np.repeat(np.arange(len(truths)), [len(each) for each in truths]),
            np.array([g for each in groups for g in each]),
            np.array([h for each in heads for h in each]),
            np.concatenate([np.reshape(each, (-1, 4)) for each in truths]),
            np.concatenate(boxes),
            np.concatenate(scores),
        )


def interval(value_N: Floats, picture_N: NDArray[np.int64]) -> tuple[float, float]:
    """95 % interval of a mean over phrases, by a bootstrap that draws whole pictures.

    Args:
        value_N: A value a phrase (an overlap, a hit, a difference of two hits).
        picture_N: The picture of each.

    Returns:
        Lower and upper end (percentiles); NaN with fewer than two pictures.
    """
    _, number_N = np.unique(picture_N, return_inverse=True)
    sums, counts = np.bincount(number_N, value_N), np.bincount(number_N)
    if len(sums) < 2:
        return float("nan"), float("nan")

    def mean(sums: Floats, counts: Floats, axis: int = -1) -> Floats:
        found: Floats = sums.sum(axis=axis) / counts.sum(axis=axis)
        return found

    ends = bootstrap(
        (sums, counts), mean, paired=True, vectorized=True, n_resamples=RESAMPLES,
        method="percentile", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return float(ends.low), float(ends.high)


@dataclass(frozen=True)
class Calibration:
    """How well confidences say how often an answer is right; a row a bin that is not empty."""

    confidence_K: Floats
    """Mean confidence."""
    right_K: Floats
    """Share that is right."""
    count_K: NDArray[np.int64]

    @property
    def error(self) -> float:
        """Expected calibration error: mean of |share right - confidence|, a phrase one vote."""
        gap = np.abs(self.right_K - self.confidence_K)
        return float((gap * self.count_K).sum() / max(self.count_K.sum(), 1))


def calibration(score_N: Floats, right_N: NDArray[np.bool_], bins: int = 15) -> Calibration:
    """Sort answers into bins of equal width by confidence (Guo et al., ICML 2017, equation 3).

    Args:
        score_N: Confidences in [0, 1].
        right_N: Whether each answer is right.
        bins: Number of bins; (0, 1/bins] is the first, and 0 belongs to it.
    """
    index = np.clip(np.ceil(score_N * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    used = count > 0
    confidence = np.bincount(index, score_N, bins)[used] / count[used]
    right = np.bincount(index, right_N.astype(float), bins)[used] / count[used]
    return Calibration(confidence, right, count[used])


def rows(answers: Answers, by: Groups) -> dict[str, NDArray[np.bool_]]:
    """The phrases of each row of a table: all, then each value of a column, commonest first."""
    values, counts = np.unique(by, return_counts=True)
    order = np.lexsort((values, -counts))
    every = {"all": np.ones(len(answers.score_N), bool)}
    return every | {str(values[i]): by == values[i] for i in order}
