"""Viewpoint measures on bodies whose joints were placed by hand."""

import math

import numpy as np
import pytest
import scipy.spatial.distance
from hypothesis import given, settings
from hypothesis import strategies as st

from models.poser import KEYPOINTS
from models.viewpoint import (
    MEASURES,
    body_measures,
    jensen_shannon,
    pose_distance,
    seen_joints,
)


def body(
    head: float = 0.1, shoulders: float = 0.3, hips: float = 0.5, knees: float = 0.7,
    ankles: float = 0.9, width: float = 0.2, middle: float = 0.5,
) -> np.ndarray:  # fmt: skip
    """A body that faces the camera: its left at the picture's right."""
    heights = {"shoulder": shoulders, "hip": hips, "knee": knees, "ankle": ankles}
    points = np.empty((len(KEYPOINTS), 2))
    for n, name in enumerate(KEYPOINTS):
        side = {"left": 0.5, "right": -0.5}.get(name.partition("_")[0], 0.0)
        height = next((y for part, y in heights.items() if name.endswith(part)), head)
        points[n] = middle + side * width, height
    return points


def joints(*bodies: np.ndarray) -> np.ndarray:
    return seen_joints(np.stack(bodies), np.ones((len(bodies), len(KEYPOINTS))), aspect=0.5)


def test_proportions_of_a_body_by_hand() -> None:
    found = {name: values[0] for name, values in body_measures(joints(body())).items()}
    assert list(found) == list(MEASURES)
    # Head at 0.1 and ankles at 0.9: 0.8 high. Shoulders 0.2 wide in widths of 0.5 heights.
    assert found == pytest.approx(
        {
            "head_to_foot": 0.2 / 0.2, "head_share": 0.25, "torso_share": 0.25, "leg_share": 0.5,
            "shoulder_width": 0.1 / 0.2, "facing": 0.5, "lean": 0.0, "body_height": 0.8,
            "body_middle": 0.5,
        }
    )  # fmt: skip


def test_a_camera_that_looks_down_and_a_turned_back() -> None:
    plain, down = joints(body(), body(shoulders=0.36, knees=0.76)), body_measures
    assert down(plain)["head_to_foot"][1] == pytest.approx(0.26 / 0.14)
    turned = body(width=-0.2)
    found = body_measures(joints(turned))
    assert found["facing"][0] == pytest.approx(-0.5)
    assert found["shoulder_width"][0] == pytest.approx(0.5)


def test_what_is_not_seen_is_not_measured() -> None:
    scores = np.ones((2, len(KEYPOINTS)))
    scores[0, [n for n, name in enumerate(KEYPOINTS) if name.endswith("ankle")]] = 0.1
    seen = seen_joints(np.stack([body(), body(ankles=0.05)]), scores, aspect=0.5, score=0.3)
    found = body_measures(seen)
    # Without ankles no height; with ankles above the head neither.
    assert np.isnan(found["body_height"]).all()
    assert np.isnan(found["head_to_foot"]).all()
    assert found["shoulder_width"] == pytest.approx([0.5, 0.5])


def test_one_ear_is_head_enough() -> None:
    scores = np.zeros((1, len(KEYPOINTS)))
    for part in ("left_ear", "shoulder", "ankle"):
        scores[0, [n for n, name in enumerate(KEYPOINTS) if name.endswith(part)]] = 1
    found = body_measures(seen_joints(body()[None], scores, aspect=0.5))
    assert found["head_share"][0] == pytest.approx(0.25)


def test_shapes_that_are_no_keypoints() -> None:
    with pytest.raises(ValueError, match="take both from one Pose"):
        seen_joints(np.zeros((2, 16, 2)), np.zeros((2, 16)), 0.5)
    with pytest.raises(ValueError, match="take both from one Pose"):
        seen_joints(np.zeros((2, 17, 2)), np.zeros((3, 17)), 0.5)


def test_pose_distance_sees_pose_and_not_size_or_place() -> None:
    rng = np.random.default_rng(0)

    def crowd(knees: float, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
        bodies = [body(knees=knees + rng.normal(0, 0.01)) for _ in range(40)]
        return joints(*(0.5 + (each - 0.5) * scale + shift for each in bodies))

    same, far = crowd(0.7), crowd(0.7, scale=0.5, shift=0.1)
    bent = crowd(0.55)
    assert pose_distance(same, same) == 0
    assert pose_distance(same, far) < 0.1
    # Only the two knees' heights move out of their bins: 2 of 34 histograms.
    assert pose_distance(same, bent) > pose_distance(same, far)
    assert 2 / 34 - 0.01 < pose_distance(same, bent) < 3 / 34
    assert math.isnan(pose_distance(same, same[:3]))


@given(st.lists(st.integers(0, 9), min_size=3, max_size=6), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_jensen_shannon_is_scipys(counts: list[int], at: int) -> None:
    first = np.array(counts, float) + 1e-9
    second = np.roll(first, at) + np.arange(len(counts))
    first, second = first / first.sum(), second / second.sum()
    expected = scipy.spatial.distance.jensenshannon(first, second, base=2)
    assert jensen_shannon(first, second) == pytest.approx(float(np.nan_to_num(expected)), abs=1e-6)
    assert jensen_shannon(np.array([1.0, 0]), np.array([0, 1.0])) == 1
