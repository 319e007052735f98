"""Retrieval metrics: a value for every query first, the mean last; and score fusion.

On whole matrices of queries by images, stated plainly. `models.ranking` gives the same values
without such a matrix; the tests compare the two.

Shapes: Q queries, G gallery images, K candidates a query, M most matches of a query.

Ties: images of equal score are ranked in gallery order (a stable sort), whatever the chunk size.
Queries without any match in the gallery have no value: they are counted and left out of the means.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, fields

import torch
from torch import Tensor

RANKS = (1, 5, 10)


@dataclass(frozen=True)
class QueryMetrics:
    """What each query scored; rows without a match hold 0 matches and rank 0."""

    first_rank_Q: Tensor
    """1-based rank of the first match; 0 without one."""
    average_precision_Q: Tensor
    """Mean of the precisions at its matches, in [0, 1]."""
    inverse_negative_penalty_Q: Tensor
    """Matches divided by the rank of the last one, in [0, 1]."""
    matches_Q: Tensor
    """Matching images in the gallery."""

    @classmethod
    def joined(cls, parts: list[QueryMetrics]) -> QueryMetrics:
        """The metrics of some queries and then some more."""
        names = [field.name for field in fields(cls)]
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))

    def hits(self, rank: int) -> Tensor:
        """Whether each query has a match among its first `rank` images: boolean (Q,)."""
        return (self.first_rank_Q > 0) & (self.first_rank_Q <= rank)

    def cmc(self, length: int) -> Tensor:
        """Cumulative match characteristic in percent: entry k - 1 is R@k, (length,)."""
        ranks = self.first_rank_Q[self.matches_Q > 0]
        counts = torch.bincount(ranks, minlength=length + 1)[1 : length + 1]
        return 100 * counts.cumsum(0).double() / max(len(ranks), 1)

    def means(self, ranks: tuple[int, ...] = RANKS) -> dict[str, float]:
        """R@k, mAP and mINP in percent, the queries counted and those without a match.

        Without a single query that has a match, every mean is 0.
        """
        found = self.matches_Q > 0
        counted = max(int(found.sum()), 1)

        def percent(values_Q: Tensor) -> float:
            return 100 * float(values_Q[found].double().sum()) / counted

        means = {f"R{rank}": percent(self.hits(rank)) for rank in ranks}
        return means | {
            "mAP": percent(self.average_precision_Q),
            "mINP": percent(self.inverse_negative_penalty_Q),
            "queries": float(found.sum()),
            "without_match": float((~found).sum()),
        }


def query_metrics(
    scores_QG: Tensor, query_ids_Q: Tensor, gallery_ids_G: Tensor, *, chunk: int = 1024
) -> QueryMetrics:
    """Rank the gallery for every query (release: eval.py).

    Args:
        scores_QG: The higher the better.
        query_ids_Q: Person of each query.
        gallery_ids_G: Person of each gallery image.
        chunk: Queries ranked at a time: memory is about 30 bytes * chunk * G.

    Raises:
        ValueError: Shapes that do not fit, or scores that are NaN.
    """
    if scores_QG.shape != (len(query_ids_Q), len(gallery_ids_G)):
        raise ValueError(
            f"scores of shape {tuple(scores_QG.shape)} for {len(query_ids_Q)} queries and "
            f"{len(gallery_ids_G)} images: one row a query, one column an image"
        )
    return QueryMetrics.joined(
        [
            _ranked(scores, ids, gallery_ids_G)
            for scores, ids in zip(scores_QG.split(chunk), query_ids_Q.split(chunk), strict=True)
        ]
    )


def _ranked(scores_QG: Tensor, query_ids_Q: Tensor, gallery_ids_G: Tensor) -> QueryMetrics:
    """`query_metrics` of some queries."""
    if scores_QG.isnan().any():
        raise ValueError("scores contain NaN: a ranking needs numbers; look for it in the features")
    order_QG = scores_QG.argsort(dim=1, descending=True, stable=True)
    match_QG = gallery_ids_G[order_QG] == query_ids_Q[:, None]
    gallery = match_QG.shape[1]
    rank_G = torch.arange(1, gallery + 1, device=scores_QG.device)
    matches_Q = match_QG.sum(1)
    most = int(matches_Q.max()) if len(matches_Q) else 0
    rank_QM = torch.where(match_QG, rank_G, gallery + 1).sort(dim=1).values[:, :most]
    return from_ranks(rank_QM, matches_Q)


def from_ranks(rank_QM: Tensor, matches_Q: Tensor) -> QueryMetrics:
    """Metrics of queries whose matches' ranks are known.

    Args:
        rank_QM: Ranks from 1, ascending; anything behind a query's last match.
        matches_Q: How many of them count.
    """
    number_M = torch.arange(1, rank_QM.shape[1] + 1, device=rank_QM.device)
    counts_QM = number_M <= matches_Q[:, None]
    least_Q = matches_Q.clamp(min=1)
    average_Q = (counts_QM * (number_M / rank_QM.double())).sum(1) / least_Q
    none_Q = torch.zeros_like(matches_Q)
    first_Q = (rank_QM * counts_QM)[:, 0] if rank_QM.shape[1] else none_Q
    last_Q = (rank_QM * counts_QM).amax(1) if rank_QM.shape[1] else none_Q
    return QueryMetrics(first_Q, average_Q, matches_Q / last_Q.clamp(min=1).double(), matches_Q)


def fill_candidates(logits_QK: Tensor, candidates_QK: Tensor, gallery: int) -> Tensor:
    """Matching logits of the candidates as rows over the gallery (Q, G).

    Images that are not candidates get their row's lowest logit (release: eval.py).

    Args:
        logits_QK: Logit of class 1 for each candidate.
        candidates_QK: Gallery index of each candidate.
        gallery: G.
    """
    scores = logits_QK.amin(1, keepdim=True).expand(-1, gallery).clone()
    return scores.scatter_(1, candidates_QK, logits_QK)


FILLER = 1000.0
"""What the released evaluation leaves in the rows of queries that another process ranks."""


def fuse_scores(
    similarity_QG: Tensor,
    matching: list[Tensor],
    *,
    similarity_weight: float = 0.002,
    processes: int = 1,
) -> Tensor:
    """The released mixture of matching and similarity scores (eval.py).

    Every matrix is scaled to [0, 1] by its own extremes over ALL queries; the result is the mean
    of the scaled matching scores + `similarity_weight` * scaled similarity.

    With several processes the released code scales each process's matching scores together with
    filler rows of 1000 and then sums over the processes, so that similarity weighs far more
    (about 8 logits over four processes, against a tie-break on one). Published numbers very likely
    have that; `processes` reproduces it, with queries dealt in runs as released (`own_run`).

    Args:
        similarity_QG: Cosines.
        matching: `fill_candidates` of the images, and of the flipped images where used.
        similarity_weight: 0.002 as released.
        processes: How many processes to imitate.

    Returns:
        Scores (Q, G); only their order within a row matters.
    """
    queries = len(similarity_QG)
    mixed = processes * similarity_weight * _scale(similarity_QG)
    run = own_run(queries, processes)
    for scores_QG in matching:
        if processes == 1:
            scaled = _scale(scores_QG)
        else:
            # A process's filler is the highest value; on the other processes a row of filler
            # adds 1 to all images of a query, which does not change its ranking.
            scaled = torch.cat(
                [(rows - rows.min()) / (FILLER - rows.min()) for rows in scores_QG.split(run)]
            )
        mixed = mixed + scaled / len(matching)
    return mixed


def own_run(queries: int, processes: int) -> int:
    """Queries that each of several processes ranks; the last ones get what is left, if anything.

    A process that gets none adds NaN to every score in the release; here it adds nothing.
    """
    return queries // processes + 1


def _scale(scores: Tensor) -> Tensor:
    """Scores scaled to [0, 1] by their extremes; zeros where all are equal."""
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low) if high > low else torch.zeros_like(scores)


def chance_recall(
    matches_Q: Tensor, gallery_Q: Tensor, ranks: tuple[int, ...] = RANKS
) -> dict[str, float]:
    """R@k in percent of a random ranking, 1 - C(G - n, k) / C(G, k).

    Args:
        matches_Q: Matches of each query, n; a query without any is left out.
        gallery_Q: Gallery images that count for it, G.
        ranks: k; of a smaller gallery all of it.

    Returns:
        ``R1`` and so on, averaged over the queries.
    """
    pairs = Counter(zip(matches_Q.tolist(), gallery_Q.tolist(), strict=True))
    counted = {pair: count for pair, count in pairs.items() if pair[0] > 0}

    def hit(matches: int, gallery: int, rank: int) -> float:
        k = min(rank, gallery)
        return 1 - math.comb(gallery - matches, k) / math.comb(gallery, k)

    whole = max(1, sum(counted.values()))
    return {
        f"R{rank}": 100 * sum(count * hit(*pair, rank) for pair, count in counted.items()) / whole
        for rank in ranks
    }
