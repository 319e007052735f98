from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.metrics import fill_candidates, fuse_scores, query_metrics


def test_one_query_by_hand() -> None:
    """Ranking b a d c e; matches a, c, e at ranks 2, 4, 5."""
    scores = torch.tensor([[0.8, 0.9, 0.3, 0.5, 0.1]])
    metrics = query_metrics(scores, torch.tensor([1]), torch.tensor([1, 2, 1, 3, 1]))
    assert metrics.first_rank_Q.tolist() == [2]
    assert metrics.matches_Q.tolist() == [3]
    assert float(metrics.average_precision_Q[0]) == pytest.approx((1 / 2 + 2 / 4 + 3 / 5) / 3)
    assert float(metrics.inverse_negative_penalty_Q[0]) == pytest.approx(3 / 5)
    assert metrics.cmc(3).tolist() == [0.0, 100.0, 100.0]
    assert [bool(metrics.hits(k)) for k in (1, 2, 5)] == [False, True, True]


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=8),
    st.lists(st.integers(0, 4), min_size=1, max_size=12),
    st.integers(1, 5),
    st.integers(0, 999),
)
def test_against_the_definition(
    queries: list[int], gallery: list[int], chunk: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Few levels: ties are common.
    scores = torch.randint(0, 4, (len(queries), len(gallery)), generator=generator) / 4
    metrics = query_metrics(scores, torch.tensor(queries), torch.tensor(gallery), chunk=chunk)
    counted = []
    for q, person in enumerate(queries):
        ranking = sorted(range(len(gallery)), key=lambda g, q=q: (-float(scores[q, g]), g))
        ranks = [r for r, g in enumerate(ranking, start=1) if gallery[g] == person]
        precisions = [hit / rank for hit, rank in enumerate(ranks, start=1)]
        assert int(metrics.matches_Q[q]) == len(ranks)
        assert int(metrics.first_rank_Q[q]) == (ranks[0] if ranks else 0)
        ap = sum(precisions) / len(ranks) if ranks else 0.0
        assert float(metrics.average_precision_Q[q]) == pytest.approx(ap)
        inp = len(ranks) / ranks[-1] if ranks else 0.0
        assert float(metrics.inverse_negative_penalty_Q[q]) == pytest.approx(inp)
        if ranks:
            counted.append((ranks[0], ap, inp))
    means = metrics.means((1, 3))
    assert means["queries"] == len(counted)
    assert means["without_match"] == len(queries) - len(counted)
    if counted:
        n = len(counted)
        assert means["R1"] == pytest.approx(100 * sum(first <= 1 for first, _, _ in counted) / n)
        assert means["R3"] == pytest.approx(100 * sum(first <= 3 for first, _, _ in counted) / n)
        assert means["mAP"] == pytest.approx(100 * sum(ap for _, ap, _ in counted) / n)
        assert means["mINP"] == pytest.approx(100 * sum(inp for _, _, inp in counted) / n)
        assert float(metrics.cmc(3)[2]) == pytest.approx(means["R3"])


def test_no_query_with_a_match_gives_zeros_not_nan() -> None:
    metrics = query_metrics(torch.rand(2, 3), torch.tensor([1, 2]), torch.tensor([3, 4, 5]))
    means = metrics.means()
    assert means["without_match"] == 2
    assert all(math.isfinite(value) for value in means.values())
    assert metrics.cmc(2).tolist() == [0.0, 0.0]


def test_ties_are_ranked_in_gallery_order() -> None:
    people = torch.tensor([0, 1, 0, 1])
    metrics = query_metrics(torch.ones(2, 4), torch.tensor([0, 1]), people)
    assert metrics.first_rank_Q.tolist() == [1, 2]


def test_wrong_shapes_and_nan_are_errors() -> None:
    ids = torch.tensor([1, 2])
    with pytest.raises(ValueError, match="one row a query"):
        query_metrics(torch.zeros(2, 3), ids, ids)
    with pytest.raises(ValueError, match="NaN"):
        query_metrics(torch.tensor([[0.0, math.nan]]), ids[:1], ids)


def test_images_that_are_no_candidates_get_the_rows_lowest_logit() -> None:
    logits = torch.tensor([[3.0, -1.0], [0.5, 2.0]])
    candidates = torch.tensor([[2, 0], [1, 3]])
    assert fill_candidates(logits, candidates, 4).tolist() == [[-1, -1, 3, -1], [0.5, 0.5, 0.5, 2]]


def test_fusion_by_hand() -> None:
    similarity = torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    matching = torch.tensor([[2.0, -2.0], [0.0, 2.0]])
    flipped = torch.tensor([[4.0, 0.0], [2.0, 2.0]])
    fused = fuse_scores(similarity, [matching, flipped])
    # Scaled over the whole matrix: matching 1 0 0.5 1, flipped 1 0 0.5 0.5.
    expected = torch.tensor([[1.0, 0.0], [0.5, 0.75]]) + 0.002 * similarity
    torch.testing.assert_close(fused, expected)


def test_equal_scores_do_not_divide_by_zero() -> None:
    flat = torch.ones(2, 3)
    assert fuse_scores(flat, [flat]).tolist() == [[0.0] * 3] * 2


def test_several_processes_weigh_similarity_as_the_released_code_does() -> None:
    """In logits: logit + 0.002 * W * (1000 - min) * scaled similarity (PAPERS 1.9)."""
    generator = torch.Generator().manual_seed(0)
    similarity = torch.rand(4, 5, generator=generator, dtype=torch.float64)
    logits = 6 * torch.rand(4, 5, generator=generator, dtype=torch.float64) - 3
    fused = fuse_scores(similarity, [logits], processes=4)
    scaled = (similarity - similarity.min()) / (similarity.max() - similarity.min())
    for row in range(4):  # one query a process
        low = float(logits[row].min())
        in_logits = fused[row] * (1000 - low) + low
        torch.testing.assert_close(in_logits, logits[row] + 0.002 * 4 * (1000 - low) * scaled[row])
