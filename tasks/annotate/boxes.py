"""Which proposed boxes stay, and why the others do not.

The paper draws a "bbox filtering" and never defines it (fig. 2); here it is written down as
`tasks.annotate.reasons.REASONS`. Nothing is dropped: a refused box stays in its row with the
reason. What comes out depends neither on the order in which the boxes come nor on whether they have
been through the filter before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.annotate.clashes import clash

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from models.regions.proposals import Proposals
    from tasks.annotate.shard import AnnotateParams
    from tasks.phrases import Phrase

_WHOLE = frozenset({"person", "scene"})
"""Groups whose box may fill the picture."""
_OVER = 1e-6
"""How far a box may stand over the border: what rounding to 32 bits can do."""


def filter_boxes(
    proposals: Proposals, phrases: Sequence[Phrase], section: AnnotateParams
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Decide which boxes of a picture stay, by the rules of `REASONS`.

    Boxes are first cut at the picture's border. Between two boxes at one place the person's stays,
    since no part is where the whole person is; else the surer one; between equals, the one that
    stands first in the caption. A scene that fills the picture is behind everything else
    and contradicts none of it.

    Args:
        proposals: The boxes of one picture.
        phrases: Its phrases.
        section: The thresholds.

    Returns:
        What stays and what does not, as records of the ``annotated`` schema, both in the order of
        the phrases, then of the confidence. Numbers that are none are recorded as 0.
    """
    boxes, scores, finite = _cut(proposals.boxes_N4, proposals.scores_N)
    of = proposals.phrase_N
    groups = [phrases[p].group for p in of]
    part = np.array([group not in _WHOLE for group in groups], bool)
    person = np.array([group == "person" for group in groups], bool)
    large = boxes[:, 2] * boxes[:, 3] >= section.full_image
    reason = np.full(len(of), "", object)
    # The first rule that is broken is the reason.
    reason[scores < section.box_threshold] = "low-confidence"
    reason[part & large] = "full-image"
    reason[~finite | (boxes[:, 2:] < max(section.side_min, _OVER)).any(axis=1)] = "degenerate"
    # The last key counts first.
    order = np.lexsort((*boxes.T[::-1], of, -scores, ~person))
    behind = (large & np.array([group == "scene" for group in groups], bool)).tolist()
    same = _iou(boxes) >= section.same_box_iou
    kept: list[int] = []
    for n in order:
        if reason[n]:
            continue
        verdicts = {
            clash(phrases[of[n]], phrases[of[m]])
            for m in kept
            if same[n, m] and (groups[n] == groups[m] or not (behind[n] or behind[m]))
        }
        if "duplicate" in verdicts or "contradiction" in verdicts:
            reason[n] = "duplicate" if "duplicate" in verdicts else "contradiction"
        elif sum(of[m] == of[n] for m in kept) >= section.boxes_per_phrase:
            reason[n] = "surplus"
        else:
            kept.append(n)
    ranks = np.lexsort((*boxes.T[::-1], -scores, of))
    records = [
        {"phrase": p, "box": box, "score": score}
        for p, box, score in zip(of.tolist(), boxes.tolist(), scores.tolist(), strict=True)
    ]
    return (
        [records[n] for n in ranks if not reason[n]],
        [{**records[n], "reason": reason[n]} for n in ranks if reason[n]],
    )


def _cut(
    boxes_N4: NDArray[np.float32], scores_N: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Cut (cx, cy, w, h) boxes at the picture's border, in numbers that 32 bits hold.

    Returns:
        Boxes and scores, 0 where they are no numbers, and which are.
    """
    finite = np.isfinite(boxes_N4).all(axis=1) & np.isfinite(scores_N)
    boxes = np.where(finite[:, None], boxes_N4, 0).astype(np.float64)
    scores = np.where(finite, scores_N, 0).astype(np.float64)
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    # One that lies inside stays bit for bit.
    over = ((low < -_OVER) | (high > 1 + _OVER) | (boxes[:, 2:] < 0)).any(axis=1)
    low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
    cut = np.concatenate([(low + high) / 2, np.maximum(high - low, 0)], axis=1)
    boxes[over] = cut[over].astype(np.float32)
    return boxes, scores, finite


def _iou(boxes_N4: NDArray[np.float64]) -> NDArray[np.float64]:
    """Overlap (N, N) of all pairs of boxes."""
    low, high = boxes_N4[:, :2] - boxes_N4[:, 2:] / 2, boxes_N4[:, :2] + boxes_N4[:, 2:] / 2
    side = np.minimum(high[:, None], high[None]) - np.maximum(low[:, None], low[None])
    both = np.prod(np.maximum(side, 0), axis=2)
    area = np.prod(boxes_N4[:, 2:], axis=1)
    union = area[:, None] + area[None] - both
    found: NDArray[np.float64] = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return found
