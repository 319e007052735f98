"""Ranking a gallery for pictures: what the query's own camera saw of its person is left out.

The field's protocol (Zheng et al. 2015, Market-1501): for each query, gallery pictures of the same
person *and* the same camera are junk, neither right nor wrong, and so is the query itself where it
stands in the gallery. Ranks count what is left. Ties, means, and queries without a match are
handled as `models.metrics` does it. Average precision is the mean of the precisions at the matches,
as in today's libraries; the release of Market-1501 takes the area under a curve through the
midpoints, which is a little less.

Nothing grows with queries times gallery: scores exist for a chunk of queries at a time.

Shapes: Q queries, G gallery pictures, C queries of a chunk, D width, M most matches, T first ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.metrics import QueryMetrics, from_ranks
from models.ranking import chunks, first_in_order


@dataclass(frozen=True)
class Seen:
    """Pictures with who is seen on them and where, row by row."""

    feature_ND: Tensor
    """Normalised features."""
    person_N: Tensor
    """Identity from 0; negative where unknown or a distractor, which matches nobody."""
    camera_N: Tensor
    """Camera from 0; where it is unknown, a negative number of the picture's own."""

    def __len__(self) -> int:
        """Count the pictures."""
        return len(self.person_N)


@dataclass(frozen=True)
class PeopleFound:
    """What remains of a ranking: a few values a query."""

    metrics: QueryMetrics
    junk_Q: Tensor
    """Gallery pictures that were left out for each query."""
    top_QT: Tensor
    """The first pictures that count, best first; -1 where there are fewer."""
    top_score_QT: Tensor
    """Their cosines."""


def rank_people(query: Seen, gallery: Seen, *, top: int, memory: int) -> PeopleFound:
    """Rank the gallery for every query by the cosine.

    Args:
        query: Whom to look for; all known.
        gallery: Where to look; on the same device.
        top: First pictures to keep; no more than G.
        memory: Bytes for the scores of a chunk.

    Raises:
        ValueError: Scores that are NaN, or queries of nobody known.
    """
    if bool((query.person_N < 0).any()):
        raise ValueError(
            "queries of people who are not known: nobody could be found for them; leave them out"
        )
    parts, junks, tops, values = [], [], [], []
    for rows in chunks(len(query), len(gallery), memory):
        score_CG = query.feature_ND[rows] @ gallery.feature_ND.T
        if score_CG.isnan().any():
            raise ValueError(
                "scores contain NaN: a ranking needs numbers; look for it in the features"
            )
        same_CG = query.person_N[rows, None] == gallery.person_N
        junk_CG = same_CG & (query.camera_N[rows, None] == gallery.camera_N)
        # Behind everything that counts: ranks of the others are as if junk were not there.
        kept_CG = score_CG.masked_fill(junk_CG, -torch.inf)
        parts.append(_metrics(kept_CG, same_CG & ~junk_CG))
        junks.append(junk_CG.sum(1).cpu())
        first_CT = first_in_order(kept_CG, top)
        value_CT = kept_CG.gather(1, first_CT)
        tops.append(first_CT.masked_fill(value_CT == -torch.inf, -1).cpu())
        values.append(value_CT.cpu())
    return PeopleFound(
        QueryMetrics.joined(parts), torch.cat(junks), torch.cat(tops), torch.cat(values)
    )


def _metrics(kept_CG: Tensor, match_CG: Tensor) -> QueryMetrics:
    """Metrics of some queries, by sorting: a person has many matches."""
    order_CG = kept_CG.argsort(dim=1, descending=True, stable=True)
    hit_CG = match_CG.gather(1, order_CG)
    matches_C = match_CG.sum(1)
    gallery = kept_CG.shape[1]
    most = int(matches_C.max()) if len(matches_C) else 0
    place_G = torch.arange(1, gallery + 1, device=kept_CG.device)
    rank_CM = torch.where(hit_CG, place_G, gallery + 1).sort(dim=1).values[:, :most]
    return from_ranks(rank_CM.cpu(), matches_C.cpu())
