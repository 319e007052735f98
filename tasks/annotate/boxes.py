"""Which proposed boxes stay, and why the others do not.

The paper draws a "bbox filtering" and never defines it (PAPERS.md 1.4); here it is written down as
`REASONS`. Nothing is dropped: a refused box stays in its row with the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from models.regions.proposals import Proposals
    from tasks.annotate.shard import AnnotateParams
    from tasks.phrases import Phrase

REASONS = (
    "degenerate",  # no number, no area, or outside the picture
    "full-image",  # nearly the whole picture for a part of the person
    "low-confidence",  # below the threshold
    "duplicate",  # the same words on nearly the same box, with a better one
    "contradiction",  # other things, or other colours, on nearly the same box, with a better one
    "surplus",  # more boxes than a phrase may have
)
"""Why a box is refused, in the order in which the rules are asked."""

_WHOLE = frozenset({"person", "scene"})
"""Groups whose box may fill the picture."""


def filter_boxes(
    proposals: Proposals, phrases: Sequence[Phrase], section: AnnotateParams
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Decide which boxes of a picture stay, by the rules of `REASONS`.

    Boxes are first cut at the picture's border. Between two boxes at one place the surer stays;
    between equals, the one that stands first in the caption.

    Args:
        proposals: The boxes of one picture.
        phrases: Its phrases.
        section: The thresholds.

    Returns:
        What stays and what does not, as records of the ``annotated`` schema; what stays is in the
        order of the phrases, then of the confidence.
    """
    boxes, scores = _cut(proposals.boxes_N4), proposals.scores_N.astype(np.float64)
    of = proposals.phrase_N
    reason: list[str] = [""] * len(scores)
    finite = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
    boxes, scores = np.nan_to_num(boxes), np.nan_to_num(scores)
    part = np.array([phrases[p].group not in _WHOLE for p in of], bool)
    thin = ~finite | (boxes[:, 2:] < max(section.side_min, 1e-6)).any(axis=1)
    full = part & (boxes[:, 2] * boxes[:, 3] >= section.full_image)
    unsure = scores < section.box_threshold
    for slug, wrong in (("degenerate", thin), ("full-image", full), ("low-confidence", unsure)):
        for n in np.flatnonzero(wrong):
            reason[n] = reason[n] or slug
    overlap = _iou(boxes)
    kept: list[int] = []
    for n in np.lexsort((of, -scores)):
        if reason[n]:
            continue
        same = [m for m in kept if overlap[n, m] >= section.same_box_iou]
        verdicts = {_clash(phrases[of[n]], phrases[of[m]]) for m in same}
        if "duplicate" in verdicts or "contradiction" in verdicts:
            reason[n] = "duplicate" if "duplicate" in verdicts else "contradiction"
        elif sum(of[m] == of[n] for m in kept) >= section.boxes_per_phrase:
            reason[n] = "surplus"
        else:
            kept.append(int(n))
    records = [
        {"phrase": int(of[n]), "box": boxes[n].tolist(), "score": float(scores[n])}
        for n in range(len(scores))
    ]
    kept.sort(key=lambda n: (of[n], -scores[n]))
    refused = [{**records[n], "reason": reason[n]} for n in range(len(scores)) if reason[n]]
    return [records[n] for n in kept], refused


def _cut(boxes_N4: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cut (cx, cy, w, h) boxes at the picture's border."""
    centre, half = boxes_N4[:, :2].astype(np.float64), boxes_N4[:, 2:].astype(np.float64) / 2
    low, high = np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)
    return np.concatenate([(low + high) / 2, high - low], axis=1)


def _iou(boxes_N4: NDArray[np.float64]) -> NDArray[np.float64]:
    """Overlap (N, N) of all pairs of boxes."""
    low, high = boxes_N4[:, :2] - boxes_N4[:, 2:] / 2, boxes_N4[:, :2] + boxes_N4[:, 2:] / 2
    side = np.minimum(high[:, None], high[None]) - np.maximum(low[:, None], low[None])
    both = np.prod(np.maximum(side, 0), axis=2)
    area = np.prod(boxes_N4[:, 2:], axis=1)
    union = area[:, None] + area[None] - both
    found: NDArray[np.float64] = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return found


def _clash(one: Phrase, other: Phrase) -> str:
    """What is wrong if two phrases name the same place: nothing, a repetition, a contradiction."""
    if one is other or one.text.lower() == other.text.lower():
        return "duplicate"
    if one.group != other.group:
        return "contradiction"
    if one.colours and other.colours and not set(one.colours) & set(other.colours):
        return "contradiction"
    return ""
