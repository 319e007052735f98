"""Batch-hard triplets: each image's farthest picture of its person against its nearest stranger.

Hermans et al. 2017, "In Defense of the Triplet Loss for Person Re-Identification", eq. 5, with
Euclidean distances that are not squared. This is not the ranking loss of `models.dual.losses`:
there an anchor has one positive, its own pair of the other modality, and its negative is any within
the margin; here there are several positives and the hardest counts.

Shapes: B rows of a batch, D width of a feature.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def distances(feature_BD: Tensor) -> Tensor:
    """Euclidean distance of every row to every row, (B, B), in float32.

    By differences and not by products: rows that are alike have distance 0, not noise.
    """
    with torch.autocast(feature_BD.device.type, enabled=False):
        rows_BD = feature_BD.float()
        squared_BB = (rows_BD[:, None] - rows_BD[None]).square().sum(-1)
        # The root's slope at 0 is infinite; a row is at 0 from itself.
        return squared_BB.clamp(min=1e-12).sqrt()


def batch_hard_triplet(feature_BD: Tensor, person_B: Tensor, margin: float) -> Tensor:
    """Mean over anchors of max(0, margin + farthest positive - nearest negative): ().

    Args:
        feature_BD: Features, not normalised.
        person_B: Who each row is.
        margin: In units of distance.

    Returns:
        The loss; anchors without another row of their person, or without a stranger, are left out.
        0 where nobody is left.
    """
    distance_BB = distances(feature_BD)
    same_BB = person_B[:, None] == person_B[None, :]
    other_BB = ~torch.eye(len(person_B), dtype=torch.bool, device=person_B.device)
    positive_BB, negative_BB = same_BB & other_BB, ~same_BB
    farthest_B = distance_BB.masked_fill(~positive_BB, -torch.inf).amax(1)
    nearest_B = distance_BB.masked_fill(~negative_BB, torch.inf).amin(1)
    counts_B = positive_BB.any(1) & negative_BB.any(1)
    hinge_B = F.relu(margin + farthest_B - nearest_B)
    # `where`, so that the infinities of anchors that are left out have no gradient.
    kept_B = torch.where(counts_B, hinge_B, torch.zeros_like(hinge_B))
    return kept_B.sum() / counts_B.sum().clamp(min=1)
