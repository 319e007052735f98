"""From where a body is seen, read off its keypoints: proportions, place in the picture, pose.

A camera that looks down makes the head end of a person large and the feet small, shortens the
torso and moves the body in the frame. Image to image keeps all that as it was; only new pictures
can change it. So the domains are compared in these measures besides light and colour.

What is unusual: nothing here needs a camera's calibration, or ground truth. Everything is a ratio
of keypoints' distances, the same for a person near and far, or a distance between histograms of
joints in the body's own frame. A joint that the poser is not sure of is NaN, and a measure that
needs it is NaN for that picture.

    joints = seen_joints(pose.points_BK2, pose.scores_BK, aspect=width / height)
    body_measures(joints)["head_to_foot"]

Shapes: N pictures, K = 17 joints in COCO's order; x and y in units of the picture's height.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import numpy as np

from models.poser import KEYPOINTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MEASURES = {
    "head_to_foot": "head and neck over lower leg; a camera that looks down makes it greater",
    "head_share": "head and neck, share of the body's height",
    "torso_share": "shoulders to hips, share of the body's height",
    "leg_share": "hips to ankles, share of the body's height",
    "shoulder_width": "between the shoulders, in torso lengths; small where seen from the side",
    "facing": "the same with a sign: above 0 faces the camera, below 0 turns its back to it",
    "lean": "how far the head stands right of the ankles, in body heights",
    "body_height": "head to ankles, share of the picture's height",
    "body_middle": "middle of the body, share of the picture's height from above",
}
"""Every measure of a body and what it says."""

BINS = 12
_ACROSS, _DOWN = (-0.45, 0.45), (-0.15, 1.15)
"""Range of the histograms in body heights: sideways from the middle, down from the head."""
_LEAST = 8
"""Fewest values of a joint for a histogram."""

_HEAD, _SHOULDERS, _HIPS, _KNEES, _ANKLES = (
    [i for i, name in enumerate(KEYPOINTS) if name.endswith(parts)]
    for parts in (("nose", "eye", "ear"), "shoulder", "hip", "knee", "ankle")
)


def seen_joints(
    points_NK2: NDArray[np.floating],
    scores_NK: NDArray[np.floating],
    aspect: float,
    score: float = 0.3,
) -> NDArray[np.float64]:
    """Joints in units of the picture's height; unseen ones are NaN.

    Args:
        points_NK2: x and y as shares of the picture's width and height (`models.poser.Pose`).
        scores_NK: The poser's confidence.
        aspect: Width over height of the pictures.
        score: Confidence from which a joint counts as seen.

    Returns:
        (N, K, 2).

    Raises:
        ValueError: Another number of joints, or shapes that do not fit each other.
    """
    if (
        points_NK2.ndim != 3
        or points_NK2.shape[1:] != (len(KEYPOINTS), 2)
        or (scores_NK.shape != points_NK2.shape[:2])
    ):
        raise ValueError(
            f"keypoints of shape {points_NK2.shape} with scores of shape {scores_NK.shape}; "
            f"they are (N, {len(KEYPOINTS)}, 2) and (N, {len(KEYPOINTS)}); take both from one Pose"
        )
    joints = points_NK2.astype(np.float64) * np.array([aspect, 1.0])
    joints[scores_NK < score] = np.nan
    return joints


def body_measures(joints_NK2: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Measure each body; see `MEASURES`.

    Args:
        joints_NK2: From `seen_joints`.

    Returns:
        Name -> a value a picture (N,), NaN where a joint that it needs is not seen or the body
        stands on its head.
    """
    head, shoulders, hips, knees, ankles = (
        _middle(joints_NK2, part) for part in (_HEAD, _SHOULDERS, _HIPS, _KNEES, _ANKLES)
    )
    height = _positive(ankles[:, 1] - head[:, 1])
    neck = shoulders[:, 1] - head[:, 1]
    torso = _positive(hips[:, 1] - shoulders[:, 1])
    # In front view a person's left stands at the picture's right.
    left, right = (joints_NK2[:, at, 0] for at in _SHOULDERS)
    return {
        "head_to_foot": neck / _positive(ankles[:, 1] - knees[:, 1]),
        "head_share": neck / height,
        "torso_share": (hips[:, 1] - shoulders[:, 1]) / height,
        "leg_share": (ankles[:, 1] - hips[:, 1]) / height,
        "shoulder_width": np.abs(left - right) / torso,
        "facing": (left - right) / torso,
        "lean": (head[:, 0] - ankles[:, 0]) / height,
        "body_height": height,
        "body_middle": (head[:, 1] + ankles[:, 1]) / 2,
    }


def pose_distance(first_NK2: NDArray[np.float64], second_MK2: NDArray[np.float64]) -> float:
    """How differently two sets of bodies hold their joints.

    Every joint is placed in its body's own frame (down from the head, sideways from the hips, in
    body heights), and its histograms of x and of y over the two sets are compared by their
    Jensen-Shannon distance in bits: 0 for the same, 1 where they share no bin.

    Args:
        first_NK2: From `seen_joints`.
        second_MK2: From `seen_joints`.

    Returns:
        The mean over the joints and axes that are seen at least eight times in both sets; NaN
        where there is none. Of few pictures it is above 0 for two halves of one set as well.
    """
    first, second = _in_body(first_NK2), _in_body(second_MK2)
    found = []
    for joint in range(len(KEYPOINTS)):
        for axis, bounds in enumerate((_ACROSS, _DOWN)):
            shares = [_histogram(each[:, joint, axis], bounds) for each in (first, second)]
            if shares[0] is not None and shares[1] is not None:
                found.append(jensen_shannon(shares[0], shares[1]))
    return float(np.mean(found)) if found else math.nan


def jensen_shannon(first_B: NDArray[np.float64], second_B: NDArray[np.float64]) -> float:
    """Jensen-Shannon distance of two histograms of shares, base 2: 0 to 1."""
    between = (first_B + second_B) / 2

    def divergence(shares: NDArray[np.float64]) -> float:
        held = shares > 0
        return float((shares[held] * np.log2(shares[held] / between[held])).sum())

    return math.sqrt(max(0.0, (divergence(first_B) + divergence(second_B)) / 2))


def _histogram(
    values: NDArray[np.float64], bounds: tuple[float, float]
) -> NDArray[np.float64] | None:
    values = values[np.isfinite(values)]
    if len(values) < _LEAST:
        return None
    counts, _ = np.histogram(np.clip(values, *bounds), bins=BINS, range=bounds)
    return counts / len(values)


def _in_body(joints_NK2: NDArray[np.float64]) -> NDArray[np.float64]:
    head, hips, ankles = (_middle(joints_NK2, part) for part in (_HEAD, _HIPS, _ANKLES))
    height = _positive(ankles[:, 1] - head[:, 1])
    origin = np.stack([hips[:, 0], head[:, 1]], axis=-1)
    return (joints_NK2 - origin[:, None]) / height[:, None, None]


def _middle(joints_NK2: NDArray[np.float64], part: Sequence[int]) -> NDArray[np.float64]:
    """Mean place (N, 2) of those of some joints that are seen; NaN where none is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing is NaN, as wanted
        return np.asarray(np.nanmean(joints_NK2[:, part], axis=1))


def _positive(lengths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lengths, NaN where they are not above a hundredth of the picture."""
    return np.where(lengths > 0.01, lengths, np.nan)
