from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.metrics import (
    chance_recall,
    fill_candidates,
    fuse_scores,
    own_run,
    query_metrics,
)


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


def released_scores(similarity, matching, weight: float, processes: int) -> torch.Tensor:
    """What the processes of the released evaluation compute each, summed (eval.py)."""
    queries, step = len(similarity), len(similarity) // processes + 1
    total = torch.zeros_like(similarity)
    for process in range(processes):
        own = slice(process * step, min(queries, (process + 1) * step))
        parts = []
        for logits in matching:
            scores = torch.full_like(logits, 1000.0)
            scores[own] = logits[own]
            parts.append((scores - scores.min()) / (scores.max() - scores.min()))
        scaled = (similarity - similarity.min()) / (similarity.max() - similarity.min())
        total += sum(parts) / len(parts) + weight * scaled
    return total


@given(st.integers(1, 4), st.integers(4, 12), st.booleans(), st.integers(0, 99))
def test_several_processes_mix_as_the_released_code_does(processes, queries, flip, seed) -> None:
    """Up to what the other processes' filler adds to all images of a query alike."""
    generator = torch.Generator().manual_seed(seed)
    shape = (queries, 5)
    similarity = torch.rand(shape, generator=generator, dtype=torch.float64)
    matching = [
        6 * torch.rand(shape, generator=generator, dtype=torch.float64) - 3 for _ in range(1 + flip)
    ]
    step = queries // processes + 1
    if step * (processes - 1) >= queries:  # a process without queries: NaN in the release
        processes = 1
    found = fuse_scores(similarity, matching, similarity_weight=0.002, processes=processes)
    expected = released_scores(similarity, matching, 0.002, processes)
    torch.testing.assert_close(found, expected - (processes - 1))


def test_a_process_without_queries_adds_nothing() -> None:
    """Five queries over four processes are dealt 2, 2, 1, 0; the release divides zero by zero."""
    assert own_run(5, 4) == 2
    scores = torch.rand(5, 3)
    assert released_scores(scores, [scores], 0.002, 4).isnan().all()
    assert fuse_scores(scores, [scores], processes=4).isfinite().all()


def test_four_processes_make_the_cosine_weigh_eight_logits() -> None:
    similarity = torch.tensor([[0.0, 1.0], [0.3, 0.7]])
    logits = torch.tensor([[2.0, -5.0], [1.0, -1.0]])
    # One image has 7 logits more, the other the whole range of the cosine.
    written = fuse_scores(similarity, [logits], processes=1)
    published = fuse_scores(similarity, [logits], processes=4)
    assert written[0].argmax() == 0
    assert published[0].argmax() == 1


# ------------------------------------------------------------------ beside public evaluators
# Each is written down from its documentation or its code, in this project's words.


def whole_matrix_rank(scores, query_ids, gallery_ids, longest: int):
    """`rank()` of IRRA, which RaSa, APTM, RDE and most others carry: an unstable argsort, CMC over
    all queries, AP divided by a query's matches even if there are none, no guard in mINP."""
    order = scores.argsort(dim=1, descending=True)
    match = gallery_ids[order] == query_ids[:, None]
    found = match.cumsum(1)
    cmc = (found[:, :longest] > 0).float().mean(0) * 100
    places = torch.arange(1, match.shape[1] + 1)
    average = (found / places * match).sum(1) / match.sum(1)
    last = [row.nonzero()[-1] + 1 for row in match]  # IndexError without a match
    penalty = torch.cat([row.sum() / at for row, at in zip(match, last, strict=True)])
    return cmc, 100 * average.mean(), 100 * penalty.mean()


def market_rank(scores, query_ids, gallery_ids, longest: int):
    """torchreid, fast-reid, ReID-Survey: a query without a match is left out; none at all is an
    AssertionError. (They also leave out images of the query's own camera: no such thing here.)"""
    cmc, average, penalty = [], [], []
    for row, person in zip(scores.numpy(), query_ids.tolist(), strict=True):
        match = gallery_ids.numpy()[np.argsort(-row)] == person
        if not match.any():
            continue
        ranks = np.flatnonzero(match) + 1
        cmc.append(np.arange(1, longest + 1) >= ranks[0])
        average.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
        penalty.append(len(ranks) / ranks[-1])
    assert cmc, "no query has a match"
    return tuple(100 * np.mean(each, axis=0) for each in (cmc, average, penalty))


def map_at_r(scores, query_ids, gallery_ids) -> float:
    """pytorch-metric-learning: precision at the matches among the first R, divided by R, the
    number of matches; queries without one left out."""
    values = []
    for row, person in zip(scores.numpy(), query_ids.tolist(), strict=True):
        match = gallery_ids.numpy()[np.argsort(-row)] == person
        if count := match.sum():
            ranks = np.flatnonzero(match[:count]) + 1
            values.append(sum(i / rank for i, rank in enumerate(ranks, start=1)) / count)
    return 100 * float(np.mean(values))


def scene(seed: int, *, missing: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores without ties, 8 queries, 20 images of 5 people; missing: two queries of nobody."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.stack([1 + torch.randperm(20, generator=generator) for _ in range(8)]) / 20
    gallery = torch.arange(20) % 5
    query = torch.arange(8) % 5
    if missing:
        query[2], query[5] = 77, 78
    return scores, query, gallery


@pytest.mark.parametrize("seed", range(5))
def test_all_public_evaluators_agree_without_ties_and_gaps(seed: int) -> None:
    scores, query, gallery = scene(seed, missing=False)
    ours = query_metrics(scores, query, gallery)
    means = ours.means()
    for rank in (whole_matrix_rank, market_rank):
        cmc, average, penalty = rank(scores, query, gallery, 10)
        assert ours.cmc(10).tolist() == pytest.approx(list(map(float, cmc)), rel=1e-5)
        assert means["mAP"] == pytest.approx(float(average), rel=1e-5)
        assert means["mINP"] == pytest.approx(float(penalty), rel=1e-5)
    # MAP@R leaves out every match behind the first R.
    assert map_at_r(scores, query, gallery) < means["mAP"]


@pytest.mark.parametrize("seed", range(5))
def test_a_query_without_a_match(seed: int) -> None:
    """As torchreid: left out, and here counted too. IRRA's function has no answer."""
    scores, query, gallery = scene(seed, missing=True)
    ours = query_metrics(scores, query, gallery)
    means = ours.means()
    assert (means["queries"], means["without_match"]) == (6, 2)
    cmc, average, penalty = market_rank(scores, query, gallery, 10)
    assert ours.cmc(10).tolist() == pytest.approx(cmc.tolist())
    assert (means["mAP"], means["mINP"]) == pytest.approx((average, penalty))
    with pytest.raises(IndexError):
        whole_matrix_rank(scores, query, gallery, 10)


@pytest.mark.parametrize("seed", range(3))
def test_libraries_on_missing_matches(seed: int) -> None:
    """torchmetrics counts such a query as 0 unless told to skip it, which is the rule here. Matches
    whose score is not positive, as cosines may be, it takes for no matches at all."""
    retrieval = pytest.importorskip("torchmetrics.retrieval")
    scores, query, gallery = scene(seed, missing=True)
    target = gallery == query[:, None]
    rows = torch.arange(8)[:, None].expand(-1, 20)
    ours = query_metrics(scores, query, gallery).means()
    skipping = retrieval.RetrievalMAP(empty_target_action="skip")(scores, target, indexes=rows)
    default = retrieval.RetrievalMAP()(scores, target, indexes=rows)
    assert ours["mAP"] == pytest.approx(100 * float(skipping), rel=1e-5)
    assert ours["mAP"] * 6 / 8 == pytest.approx(100 * float(default), rel=1e-5)
    hits = retrieval.RetrievalHitRate(top_k=5, empty_target_action="skip")
    assert ours["R5"] == pytest.approx(100 * float(hits(scores, target, indexes=rows)), rel=1e-5)
    lowered = retrieval.RetrievalMAP(empty_target_action="skip")(scores - 1, target, indexes=rows)
    assert float(lowered) < float(skipping)
    assert query_metrics(scores - 1, query, gallery).means() == ours


def test_ties() -> None:
    """Here gallery order decides. scikit-learn takes all images of one score at once, so that its
    value does not depend on the order; argsort without ``stable`` promises no order at all."""
    sklearn = pytest.importorskip("sklearn.metrics")
    tied, query = torch.full((1, 4), 0.5), torch.tensor([1])
    early, late = torch.tensor([1, 0, 0, 0]), torch.tensor([0, 0, 0, 1])
    ours = [query_metrics(tied, query, people).means()["mAP"] for people in (early, late)]
    assert ours == [100.0, 25.0]
    theirs = [
        100 * sklearn.average_precision_score(people.numpy() == 1, tied[0].numpy())
        for people in (early, late)
    ]
    assert theirs == [25.0, 25.0]
    scores, query, gallery = scene(0, missing=False)
    ours = query_metrics(scores, query, gallery).average_precision_Q.tolist()
    theirs = [
        sklearn.average_precision_score((gallery == person).numpy(), row.numpy())
        for row, person in zip(scores, query, strict=True)
    ]
    assert ours == pytest.approx(theirs)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(6, 9), st.integers(1, 5))
def test_chance_by_counting_every_ranking(matches, gallery, rank):
    def hits(right: int) -> float:
        tops = list(combinations(range(gallery), rank))
        return sum(any(i < right for i in top) for top in tops) / len(tops)

    galleries = torch.full((len(matches),), gallery)
    found = chance_recall(torch.tensor(matches), galleries, (rank,))
    assert found[f"R{rank}"] == pytest.approx(100 * np.mean([hits(m) for m in matches]))


def test_chance_by_hand():
    # One match among four: 1/4; two among three: within 2 always but (1/3 * 0) -> rank 1 is 2/3.
    found = chance_recall(torch.tensor([1, 2, 0]), torch.tensor([4, 3, 5]))
    assert found["R1"] == pytest.approx(100 * (1 / 4 + 2 / 3) / 2)
    assert found["R5"] == found["R10"] == 100
    # Ten ranks of a smaller gallery are all of it, under the same name.
    assert list(found) == ["R1", "R5", "R10"]
