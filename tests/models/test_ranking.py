"""Ranking by chunks: whatever the sizes, ties and chunks, what the plain functions give."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models import ranking
from models.metrics import QueryMetrics, fill_candidates, fuse_scores, query_metrics
from models.ranking import (
    BYTES_A_SCORE,
    Mixture,
    choose_candidates,
    chunks,
    counted_metrics,
    first_in_order,
    rank,
    rank_by_features,
)

FIELDS = ("first_rank_Q", "average_precision_Q", "inverse_negative_penalty_Q", "matches_Q")


def equal(found: QueryMetrics, expected: QueryMetrics) -> None:
    for name in FIELDS:
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), msg=name)


def plain_top(scores: Tensor, k: int) -> list[list[int]]:
    """The k best by sorting Python tuples."""
    return [
        sorted(range(len(row)), key=lambda g, row=row: (-row[g], g))[:k] for row in scores.tolist()
    ]


def levels(shape: tuple[int, ...], many: int, generator: torch.Generator) -> Tensor:
    """Numbers of few levels, so that ties are common, that floats hold exactly."""
    return torch.randint(-many, many + 1, shape, generator=generator) / 4


@given(
    queries=st.integers(1, 9),
    gallery=st.integers(1, 12),
    k=st.integers(1, 12),
    people=st.integers(1, 6),
    processes=st.integers(1, 5),
    views=st.integers(1, 2),
    many=st.integers(0, 3),
    rows=st.integers(1, 10),
    weight=st.sampled_from([0.0, 0.25, 1.0]),
    counted=st.sampled_from([0, 24]),
    seed=st.integers(0, 999),
)
@settings(deadline=None, max_examples=150)
def test_chunks_give_what_whole_matrices_give(
    queries, gallery, k, people, processes, views, many, rows, weight, counted, seed
):
    generator = torch.Generator().manual_seed(seed)
    k = min(k, gallery)
    text, image = levels((queries, 2), many, generator), levels((gallery, 2), many, generator)
    memory = rows * BYTES_A_SCORE * gallery
    query_ids = torch.randint(people, (queries,), generator=generator)
    gallery_ids = torch.randint(people, (gallery,), generator=generator)
    logits = [levels((queries, k), many, generator) for _ in range(views)]

    similarity = text @ image.T
    candidates = torch.tensor(plain_top(similarity, k))
    filled = [fill_candidates(each, candidates, gallery) for each in logits]
    mixed = fuse_scores(similarity, filled, similarity_weight=weight, processes=processes)

    chosen = choose_candidates(text, image, k, memory)
    assert chosen.index_QK.tolist() == candidates.tolist()
    mixture = Mixture.of(chosen, logits, similarity_weight=weight, processes=processes)
    whole, matching = mixture.scores(slice(0, queries), similarity)
    torch.testing.assert_close(whole, mixed)
    torch.testing.assert_close(matching, torch.stack(filled).mean(0))

    before = ranking.COUNTED
    ranking.COUNTED = counted  # 0: by sorting, as with many matches a query
    try:
        found = rank(text, image, mixture, query_ids, gallery_ids, top=k, memory=memory)
        by_features = rank_by_features(text, image, query_ids, gallery_ids, memory=memory)
    finally:
        ranking.COUNTED = before
    # Ranks are compared on the very scores that the chunks have: the two sums may round apart.
    equal(found.reranked, query_metrics(whole, query_ids, gallery_ids))
    equal(found.itc, query_metrics(similarity, query_ids, gallery_ids))
    equal(by_features, found.itc)
    equal(found.matching, query_metrics(matching, query_ids, gallery_ids))
    assert found.top_QT.tolist() == plain_top(whole, k)
    torch.testing.assert_close(found.top_score_QT, whole.gather(1, found.top_QT))


def test_chunks_cover_all_queries_and_hold_at_least_one():
    assert [(c.start, c.stop) for c in chunks(5, 10, 2 * 10 * BYTES_A_SCORE)] == [
        (0, 2), (2, 4), (4, 5),
    ]  # fmt: skip
    assert len(list(chunks(3, 1000, 1))) == 3


def test_candidates_that_tie_at_the_edge_come_in_gallery_order():
    assert first_in_order(torch.tensor([[1.0, 2, 1, 2, 1]]), 3).tolist() == [[1, 3, 0]]
    assert first_in_order(torch.ones(2, 4), 2).tolist() == [[0, 1]] * 2


def test_nan_is_an_error_not_a_rank():
    bad, ids = torch.tensor([[0.0, math.nan]]), torch.tensor([1])
    with pytest.raises(ValueError, match="NaN"):
        first_in_order(bad, 1)
    with pytest.raises(ValueError, match="NaN"):
        counted_metrics(bad, ids, torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="NaN"):
        choose_candidates(bad[:, 1:], torch.ones(2, 1), 1, 1 << 20)


def test_what_the_cosine_weighs_in_logits():
    """As written about a tie-break; as four processes very likely published it, about 8 logits."""
    candidates = choose_candidates(torch.rand(8, 2), torch.rand(5, 2), 5, 1 << 20)
    logits = torch.linspace(-6.0, 4.0, 40).view(8, 5)
    one = Mixture.of(candidates, [logits], similarity_weight=0.002, processes=1)
    four = Mixture.of(candidates, [logits], similarity_weight=0.002, processes=4)
    assert one.similarity_logits == pytest.approx(0.002 * 10)
    # Runs of 3 queries: their lowest logits are those of queries 0, 3 and 6.
    ranges = 1000 - logits[:, 0][[0, 0, 0, 3, 3, 3, 6, 6]]
    assert four.similarity_logits == pytest.approx(4 * 0.002 / float((1 / ranges).mean()))
    assert 7.9 < four.similarity_logits < 8.1
