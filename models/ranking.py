"""Ranking without a matrix of all queries by all images: the same values by chunks of queries.

`models.metrics` states the protocol plainly, on whole matrices: that is what the tests compare
with. Here only (Q, K) logits of the candidates and the features exist; cosines are computed again
by chunks wherever they are needed, and the extremes over the whole matrix, by which the released
mixture scales, in a pass of their own. A chunk's ranks are counted instead of sorted: a match's
rank is one more than the images that come before it.

Shapes: Q queries, G gallery images, K candidates a query, C queries of a chunk, M most matches of
a query, V views of an image (plain, flipped).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from models.metrics import FILLER, QueryMetrics, fill_candidates, from_ranks, own_run

BYTES_A_SCORE = 96
"""About what a chunk needs for each of its scores: cosines, mixture, filled logits, comparisons."""

COUNTED = 24
"""Up to so many matches a query, counting is faster than sorting."""


def chunks(queries: int, gallery: int, memory: int) -> Iterator[slice]:
    """Rows of Q queries whose scores against G images fit into `memory` bytes."""
    size = max(1, memory // (BYTES_A_SCORE * max(1, gallery)))
    for start in range(0, queries, size):
        yield slice(start, min(start + size, queries))


def first_in_order(scores_CG: Tensor, k: int) -> Tensor:
    """The k best images of each query, best first, ties in gallery order: (C, k).

    Raises:
        ValueError: Scores that are NaN.
    """
    if scores_CG.isnan().any():
        raise ValueError("scores contain NaN: a ranking needs numbers; look for it in the features")
    least_C1 = scores_CG.topk(k, dim=1).values[:, -1:]
    above_CG, tied_CG = scores_CG > least_C1, scores_CG == least_C1
    room_C1 = k - above_CG.sum(1, keepdim=True)
    if bool((tied_CG.sum(1, keepdim=True) > room_C1).any()):
        tied_CG &= tied_CG.cumsum(1) <= room_C1
    # Exactly k a row, in gallery order, which the stable sort keeps where scores are equal.
    column_Ck = (above_CG | tied_CG).nonzero()[:, 1].view(len(scores_CG), k)
    order_Ck = scores_CG.gather(1, column_Ck).argsort(dim=1, descending=True, stable=True)
    return column_Ck.gather(1, order_Ck)


def counted_metrics(scores_CG: Tensor, query_ids_C: Tensor, gallery_ids_G: Tensor) -> QueryMetrics:
    """What `query_metrics` gives, by counting instead of sorting; in main memory.

    Raises:
        ValueError: Scores that are NaN.
    """
    if scores_CG.isnan().any():
        raise ValueError("scores contain NaN: a ranking needs numbers; look for it in the features")
    match_CG = gallery_ids_G == query_ids_C[:, None]
    matches_C = match_CG.sum(1)
    most = int(matches_C.max()) if matches_C.numel() else 0
    gallery = scores_CG.shape[1]
    if most > COUNTED:
        order_CG = scores_CG.argsort(dim=1, descending=True, stable=True)
        hit_CG = match_CG.gather(1, order_CG)
        place_G = torch.arange(1, gallery + 1, device=scores_CG.device)
        rank_CM = torch.where(hit_CG, place_G, gallery + 1).sort(dim=1).values[:, :most]
        return from_ranks(rank_CM.cpu(), matches_C.cpu())
    column_CM = match_CG.int().topk(most, dim=1).indices
    place_G = torch.arange(gallery, device=scores_CG.device)
    rank_CM = torch.full_like(column_CM, gallery + 1)
    for at in range(most):
        column_C1 = column_CM[:, at : at + 1]
        score_C1 = scores_CG.gather(1, column_C1)
        before = (scores_CG > score_C1) | ((scores_CG == score_C1) & (place_G < column_C1))
        rank_CM[:, at] = torch.where(at < matches_C, before.sum(1) + 1, gallery + 1)
    return from_ranks(rank_CM.sort(dim=1).values.cpu(), matches_C.cpu())


@dataclass(frozen=True)
class Candidates:
    """The images that are looked at again, and the extremes of the cosine over all pairs."""

    index_QK: Tensor
    """Gallery index, best first, int32."""
    low: float
    high: float


def choose_candidates(text_QE: Tensor, image_GE: Tensor, k: int, memory: int) -> Candidates:
    """Choose the k images of each query whose features are nearest; ties in gallery order.

    Args:
        text_QE: Features of the queries.
        image_GE: Features of the gallery, on the same device.
        k: Candidates; no more than G.
        memory: Bytes for the scores of a chunk.

    Raises:
        ValueError: Features that are NaN.
    """
    parts, lows, highs = [], [], []
    for rows in chunks(len(text_QE), len(image_GE), memory):
        similarity_CG = text_QE[rows] @ image_GE.T
        parts.append(first_in_order(similarity_CG, k).int())
        lows.append(similarity_CG.amin())
        highs.append(similarity_CG.amax())
    low, high = float(torch.stack(lows).amin()), float(torch.stack(highs).amax())
    return Candidates(torch.cat(parts).cpu(), low, high)


@dataclass(frozen=True)
class Mixture:
    """`fuse_scores` by chunks: what has to be known of the whole matrix beforehand."""

    candidates: Candidates
    logit_VQK: list[Tensor]
    """Matching logits of the candidates, one tensor a view."""
    low_VQ: list[Tensor]
    high_VQ: list[Tensor]
    """What each row's logits are scaled by."""
    similarity_weight: float
    processes: int

    @classmethod
    def of(
        cls,
        candidates: Candidates,
        logit_VQK: list[Tensor],
        *,
        similarity_weight: float,
        processes: int,
    ) -> Mixture:
        """Find the extremes; see `models.metrics.fuse_scores` for what they are."""
        lows, highs = [], []
        for logit_QK in logit_VQK:
            run = own_run(len(logit_QK), processes)
            low = [part.amin().expand(len(part)) for part in logit_QK.split(run)]
            lows.append(torch.cat(low))
            high = FILLER if processes > 1 else float(logit_QK.amax())
            highs.append(torch.full_like(lows[-1], high))
        return cls(candidates, logit_VQK, lows, highs, similarity_weight, processes)

    @property
    def similarity_logits(self) -> float:
        """What the cosine's whole range weighs, in matching logits (about 8 as published)."""
        scale = torch.stack(
            [
                1 / (high - low).clamp(min=torch.finfo(low.dtype).tiny)
                for low, high in zip(self.low_VQ, self.high_VQ, strict=True)
            ]
        )
        return self.processes * self.similarity_weight / float(scale.mean())

    def scores(self, rows: slice, similarity_CG: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed scores and mean matching logits of some queries over the gallery: (C, G) each.

        Args:
            rows: Which queries.
            similarity_CG: Their cosines.
        """
        gallery, device = similarity_CG.shape[1], similarity_CG.device
        low, high = self.candidates.low, self.candidates.high
        weight = self.processes * self.similarity_weight
        mixed_CG = torch.zeros_like(similarity_CG)
        if high > low:
            mixed_CG = weight * ((similarity_CG - low) / (high - low))
        index_CK = self.candidates.index_QK[rows].long().to(device)
        matching_CG = torch.zeros_like(similarity_CG)
        views = len(self.logit_VQK)
        for logit_QK, low_Q, high_Q in zip(self.logit_VQK, self.low_VQ, self.high_VQ, strict=True):
            logit_CG = fill_candidates(logit_QK[rows].to(device), index_CK, gallery)
            low_C1, high_C1 = (each[rows, None].to(device) for each in (low_Q, high_Q))
            range_C1 = torch.where(high_C1 > low_C1, high_C1 - low_C1, 1)
            mixed_CG += (logit_CG - low_C1) / range_C1 / views
            matching_CG += logit_CG / views
        return mixed_CG, matching_CG


@dataclass(frozen=True)
class Ranked:
    """What remains of a ranking: a few values a query."""

    reranked: QueryMetrics
    """By the mixture; by the cosine where nothing was judged a second time."""
    itc: QueryMetrics
    """By the cosine."""
    matching: QueryMetrics | None
    """By the mean matching logit alone; images that are no candidates are tied at the end. None
    where nothing was judged."""
    top_QT: Tensor
    """The first images of the (re-)ranked gallery, best first."""
    top_score_QT: Tensor


def rank(
    text_QE: Tensor,
    image_GE: Tensor,
    mixture: Mixture | None,
    query_ids_Q: Tensor,
    gallery_ids_G: Tensor,
    *,
    top: int,
    memory: int,
) -> Ranked:
    """Rank the gallery for every query by the mixture, the cosine and the logits alone.

    Args:
        text_QE: Features of the queries.
        image_GE: Features of the gallery, on the same device.
        mixture: The logits and how they are mixed; None ranks by the cosine alone.
        query_ids_Q: Person of each query.
        gallery_ids_G: Person of each gallery image.
        top: First images to keep; no more than G.
        memory: Bytes for the scores of a chunk.

    Raises:
        ValueError: Scores that are NaN.
    """
    device = text_QE.device
    gallery_ids_G = gallery_ids_G.to(device)
    found: list[list[QueryMetrics]] = [[], [], []]
    tops, values = [], []
    for rows in chunks(len(text_QE), len(image_GE), memory):
        similarity_CG = text_QE[rows] @ image_GE.T
        scores = [similarity_CG]
        if mixture is not None:
            scores += mixture.scores(rows, similarity_CG)
        ids_C = query_ids_Q[rows].to(device)
        for kept, scores_CG in zip(found, scores, strict=False):
            kept.append(counted_metrics(scores_CG, ids_C, gallery_ids_G))
        final_CG = scores[0] if mixture is None else scores[1]
        tops.append(first_in_order(final_CG, top))
        values.append(final_CG.gather(1, tops[-1]).cpu())
        tops[-1] = tops[-1].cpu()
    similarity, *judged = (QueryMetrics.joined(parts) for parts in found if parts)
    mixed, matching = judged or (similarity, None)
    return Ranked(mixed, similarity, matching, torch.cat(tops), torch.cat(values))


def rank_by_features(
    text_QE: Tensor,
    image_GE: Tensor,
    query_ids_Q: Tensor,
    gallery_ids_G: Tensor,
    *,
    memory: int,
) -> QueryMetrics:
    """Rank the gallery by the cosine alone; see `rank`."""
    device = text_QE.device
    ids_G = gallery_ids_G.to(device)
    parts = []
    for rows in chunks(len(text_QE), len(image_GE), memory):
        similarity_CG = text_QE[rows] @ image_GE.T
        parts.append(counted_metrics(similarity_CG, query_ids_Q[rows].to(device), ids_G))
    return QueryMetrics.joined(parts)
