"""When is somebody whole? The rule on keypoints that screening follows.

The paper drops malformed people by OpenPose and gives no rule (sec. 3.2), so this is one to
read, to measure (`benchmarks/screening.py`) and to change. A joint is *seen* if its confidence is
at least `keypoint_score`.

- head: nose, an eye or an ear is seen; torso: a shoulder and a hip; legs: a knee and an ankle.
- disorder, where all three parts are there: not so that the mean heights of head, shoulders, hips,
  knees and ankles descend in this order, each allowed to fall short by `order_slack`, that the
  torso (shoulders to hips) is between the two `torso_share` of the body (head to ankles), and that
  the body is at least `body_height` of the picture.
- ambiguous: the joints' heatmaps point at second places far from the first with more than
  `rival_share` of their confidence: two people in one box, or one put together from parts.
- unsure: the mean confidence of the 17 joints is below `pose_score`. Each may pass for a joint;
  together they make nobody.

Unusual: arms are not asked for. People carry things and cross their arms, and half of all good
pictures would go. What generators do to hands is too small for 384x256 keypoints.

Shapes: B bodies, K joints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.poser import KEYPOINTS, Pose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.screen.rules import ScreenParams

_HEAD, _SHOULDERS, _HIPS, _KNEES, _ANKLES = (
    [i for i, name in enumerate(KEYPOINTS) if name.endswith(parts)]
    for parts in (("nose", "eye", "ear"), "shoulder", "hip", "knee", "ankle")
)


def body_faults(pose: Pose, section: ScreenParams) -> list[tuple[str, ...]]:
    """Judge bodies by the rule at the top of this file.

    Args:
        pose: Keypoints of B people.
        section: The thresholds.

    Returns:
        For each body the reasons against it, in the order of `tasks.screen.reasons.REASONS`; none
        for a whole person.
    """
    seen_BK = pose.scores_BK >= section.keypoint_score
    height_BK = pose.points_BK2[..., 1]

    def seen(part: Sequence[int]) -> np.ndarray:
        return np.asarray(seen_BK[:, part].any(axis=1))

    def level(part: Sequence[int]) -> np.ndarray:
        weight = seen_BK[:, part]
        return (height_BK[:, part] * weight).sum(axis=1) / np.maximum(weight.sum(axis=1), 1)

    head = seen(_HEAD)
    torso = seen(_SHOULDERS) & seen(_HIPS)
    legs = seen(_KNEES) & seen(_ANKLES)
    levels = np.stack([level(p) for p in (_HEAD, _SHOULDERS, _HIPS, _KNEES, _ANKLES)], axis=1)
    body = levels[:, 4] - levels[:, 0]
    share = (levels[:, 2] - levels[:, 1]) / np.maximum(body, 1e-6)
    low, high = section.torso_share
    fine = (
        (np.diff(levels, axis=1) >= -section.order_slack).all(axis=1)
        & (body >= section.body_height)
        & (share >= low)
        & (share <= high)
    )
    # Heatmaps of a network that is sure of nothing may dip below zero.
    rivals = pose.rivals_BK.sum(axis=1) / np.maximum(pose.scores_BK.sum(axis=1), 1e-6)
    whole = head & torso & legs
    nobody = ~(head | torso | legs)
    verdicts = {
        "no-person": nobody,
        "no-head": ~head & ~nobody,
        "no-torso": ~torso & ~nobody,
        "no-legs": ~legs & ~nobody,
        "disorder": whole & ~fine,
        "ambiguous": rivals > section.rival_share,
        "unsure": pose.scores_BK.mean(axis=1) < section.pose_score,
    }
    return [
        tuple(name for name, hits in verdicts.items() if hits[row]) for row in range(len(seen_BK))
    ]


def pose_to_bytes(pose: Pose) -> list[bytes]:
    """Write each body as x, y, confidence and rival of its joints, joint by joint, float32."""
    values_BK4 = np.concatenate(
        [pose.points_BK2, pose.scores_BK[..., None], pose.rivals_BK[..., None]], axis=-1
    )
    return [row.tobytes() for row in values_BK4.astype("<f4")]


def pose_from_bytes(rows: Sequence[bytes]) -> Pose:
    """Read what `pose_to_bytes` wrote."""
    values_BK4 = np.frombuffer(b"".join(rows), dtype="<f4").reshape(-1, len(KEYPOINTS), 4)
    return Pose(values_BK4[..., :2], values_BK4[..., 2], values_BK4[..., 3])
