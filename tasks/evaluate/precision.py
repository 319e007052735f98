"""Evaluation in reduced precision, and the check that it moves no rank.

A seeded sample of the queries is ranked against the whole gallery in float32 and in bfloat16.
Where more than `LIMIT` of them gain or lose a hit at rank 1, 5 or 10, the evaluation is done in
float32 after all. What was found goes into metrics.json either way.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.metrics import RANKS
from models.ranking import Mixture, Ranked, rank
from tasks.evaluate.ranking import Embedded, Judged

log = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16"]

SAMPLE = 256
"""Queries that are ranked in both precisions."""

LIMIT = 0.01
"""Share of them that may gain or lose a hit at rank 1, 5 or 10."""


def computing(precision: Precision, device: torch.device) -> torch.autocast:
    """The context in which a model computes in a precision; weights stay as they are."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def sample(queries: int) -> NDArray[np.int64]:
    """Numbers of the queries to check, ascending; the same ones for the same number of queries."""
    chosen = np.random.default_rng(0).permutation(queries)[:SAMPLE]
    return np.sort(chosen).astype(np.int64)


@dataclass(frozen=True)
class Difference:
    """How two rankings of the same queries differ."""

    queries: int
    hits_changed: float
    """Share of the queries that gain or lose a hit at rank 1, 5 or 10."""
    first_rank_changed: float
    """Share whose first match has another rank, however deep."""
    top10_changed: float
    """Share with other pictures among the first ten, whatever their order."""
    largest_cosine_difference: float
    largest_logit_difference: float | None
    """Over pairs that are candidates in both; None where nothing was judged."""

    @property
    def moved(self) -> bool:
        """Whether ranks move more than is allowed."""
        return self.hits_changed > LIMIT

    def report(self) -> dict[str, Any]:
        """For metrics.json."""
        body = {k: round(v, 6) for k, v in asdict(self).items() if v is not None}
        return body | {"limit": LIMIT}


@dataclass(frozen=True)
class Sampled:
    """One side of the comparison."""

    text_QE: Tensor
    image_GE: Tensor
    judged: Judged | None
    """What the fusion encoder said; None where it was not asked."""
    ranked: Ranked

    @classmethod
    def of(
        cls,
        text_QE: Tensor,
        embedded: Embedded,
        judged: Judged | None,
        mixture: Mixture | None,
        query_ids_Q: Tensor,
        gallery_ids_G: Tensor,
        *,
        memory: int,
    ) -> Sampled:
        """Rank some queries by themselves: scaled by their own extremes.

        Args:
            text_QE: Features of these queries.
            embedded: The split.
            judged: What the fusion encoder said of them, if it was asked.
            mixture: How that is mixed with the cosine.
            query_ids_Q: Person of each of these queries.
            gallery_ids_G: Person of each gallery image.
            memory: Bytes for the scores of a chunk.
        """
        top = min(10, len(gallery_ids_G))
        image_GE = embedded.image_GE
        ranked = rank(
            text_QE, image_GE, mixture, query_ids_Q, gallery_ids_G, top=top, memory=memory
        )
        return cls(text_QE, image_GE, judged, ranked)


def compare(full: Sampled, reduced: Sampled) -> Difference:
    """Say how a ranking in reduced precision differs from that in full precision."""
    first, second = full.ranked.reranked, reduced.ranked.reranked
    changed = [first.hits(k) != second.hits(k) for k in RANKS]
    tops = [each.ranked.top_QT.sort(dim=1).values for each in (full, reduced)]
    gallery, queries = len(full.image_GE), len(full.text_QE)
    logit = None
    if full.judged is not None and reduced.judged is not None:
        logit = _largest_logit(full.judged, reduced.judged, queries, gallery)
    cosines = [each.text_QE @ each.image_GE.T for each in (full, reduced)]
    return Difference(
        queries=queries,
        hits_changed=_share(torch.stack(changed).any(0)),
        first_rank_changed=_share(first.first_rank_Q != second.first_rank_Q),
        top10_changed=_share((tops[0] != tops[1]).any(1)),
        largest_cosine_difference=float((cosines[0] - cosines[1]).abs().amax()),
        largest_logit_difference=logit,
    )


def _largest_logit(full: Judged, reduced: Judged, queries: int, gallery: int) -> float:
    """The largest difference of a logit of a pair that is a candidate in both."""
    largest = 0.0
    for a, b in zip(full.logit_VQK, reduced.logit_VQK, strict=True):
        # In each the pairs that are no candidates are marked, and so is every difference to them.
        nan = torch.full((queries, gallery), torch.nan)
        sides = [
            nan.scatter(1, each.candidates.index_QK.long(), logits)
            for each, logits in ((full, a), (reduced, b))
        ]
        largest = max(largest, float((sides[0] - sides[1]).abs().nan_to_num(0).amax()))
    return largest


def _share(which_Q: Tensor) -> float:
    return float(which_Q.double().mean())
