"""Ranking with junk: by hand, and against the obvious way of doing it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.reid.ranking import Seen, rank_people

LOTS = 1 << 20


def seen(angles, person, camera):
    """Pictures whose features are directions in a plane, in degrees."""
    angle = torch.deg2rad(torch.tensor(angles, dtype=torch.float64))
    feature = torch.stack([angle.cos(), angle.sin()], 1).float()
    return Seen(feature, torch.tensor(person), torch.tensor(camera))


def slow(query, gallery):
    """One query after the other, in plain Python: first rank, AP, INP, matches, junk, order."""
    scores = (query.feature_ND @ gallery.feature_ND.T).tolist()
    rows = []
    for q in range(len(query)):
        person, camera = int(query.person_N[q]), int(query.camera_N[q])
        order = sorted(range(len(gallery)), key=lambda g: (-scores[q][g], g))
        kept = [g for g in order if not (int(gallery.person_N[g]) == person
                                         and int(gallery.camera_N[g]) == camera)]  # fmt: skip
        ranks = [at for at, g in enumerate(kept, 1) if int(gallery.person_N[g]) == person]
        precision = [number / at for number, at in enumerate(ranks, 1)]
        rows.append(
            (
                ranks[0] if ranks else 0,
                float(np.mean(precision)) if ranks else 0.0,
                len(ranks) / ranks[-1] if ranks else 0.0,
                len(ranks),
                len(gallery) - len(kept),
                kept,
            )
        )
    return rows


def test_what_the_querys_own_camera_saw_is_neither_right_nor_wrong():
    query = seen([0], [7], [1])
    # Nearest first: own camera, stranger, the person by camera 2, own camera, the person by 3.
    gallery = seen([1, 2, 3, 4, 5], [7, 8, 7, 7, 7], [1, 2, 2, 1, 3])
    found = rank_people(query, gallery, top=5, memory=LOTS)
    assert found.junk_Q.tolist() == [2]
    assert found.metrics.matches_Q.tolist() == [2]
    assert found.metrics.first_rank_Q.tolist() == [2]
    assert float(found.metrics.average_precision_Q) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert float(found.metrics.inverse_negative_penalty_Q) == pytest.approx(2 / 3)
    assert found.top_QT.tolist() == [[1, 2, 4, -1, -1]]


def test_a_stranger_by_the_same_camera_counts():
    found = rank_people(seen([0], [7], [1]), seen([1, 2], [8, 7], [1, 2]), top=1, memory=LOTS)
    assert found.metrics.first_rank_Q.tolist() == [2]


def test_distractors_match_nobody_and_stay():
    gallery = seen([1, 2, 3], [-1, -1, 7], [1, 2, 2])
    found = rank_people(seen([0], [7], [1]), gallery, top=3, memory=LOTS)
    assert found.metrics.first_rank_Q.tolist() == [3]
    assert found.junk_Q.tolist() == [0]


def test_ties_are_ranked_in_gallery_order():
    found = rank_people(seen([0], [7], [1]), seen([2] * 3, [8, 7, 7], [2] * 3), top=3, memory=LOTS)
    assert found.top_QT.tolist() == [[0, 1, 2]]
    assert found.metrics.first_rank_Q.tolist() == [2]


def test_a_query_whose_person_only_its_own_camera_saw_has_no_value():
    both = seen([0, 10, 20], [7, 7, 8], [1, 1, 2])
    found = rank_people(both, both, top=3, memory=LOTS)
    means = found.metrics.means()
    assert (means["queries"], means["without_match"]) == (0, 3)
    assert means["R1"] == means["mAP"] == 0


def test_an_unknown_camera_leaves_out_the_picture_itself_alone():
    both = seen([0, 10, 20], [7, 7, 7], [-1, -2, -3])
    found = rank_people(both, both, top=3, memory=LOTS)
    assert found.junk_Q.tolist() == [1, 1, 1]
    assert found.metrics.matches_Q.tolist() == [2, 2, 2]
    assert [row[0] for row in found.top_QT.tolist()] == [1, 0, 1]


def test_what_no_ranking_can_be_made_of():
    one = seen([0], [7], [1])
    with pytest.raises(ValueError, match="not known"):
        rank_people(seen([0], [-1], [1]), one, top=1, memory=LOTS)
    broken = Seen(torch.full((1, 2), torch.nan), one.person_N, one.camera_N)
    with pytest.raises(ValueError, match="NaN"):
        rank_people(broken, one, top=1, memory=LOTS)


rows = st.tuples(st.integers(0, 12), st.integers(-1, 3), st.integers(0, 2))


@settings(max_examples=60, deadline=None)
@given(
    queries=st.lists(rows, min_size=1, max_size=6),
    gallery=st.lists(rows, min_size=1, max_size=12),
    memory=st.sampled_from([1, LOTS]),
)
def test_equals_the_obvious_way_whatever_the_chunk(queries, gallery, memory):
    # Whole numbers of 15 degrees: many ties.
    query = seen(
        [15 * r[0] for r in queries], [abs(r[1]) for r in queries], [r[2] for r in queries]
    )
    behind = seen([15 * r[0] for r in gallery], [r[1] for r in gallery], [r[2] for r in gallery])
    found = rank_people(query, behind, top=len(gallery), memory=memory)
    metrics = found.metrics
    # Cosines of equal angles may differ in the last bit with the chunk: the reference takes these.
    for at, (first, ap, inp, matches, junk, kept) in enumerate(slow(query, behind)):
        assert int(metrics.matches_Q[at]) == matches
        assert int(found.junk_Q[at]) == junk
        assert sorted(n for n in found.top_QT[at].tolist() if n >= 0) == sorted(kept)
        if memory == LOTS:
            assert int(metrics.first_rank_Q[at]) == first
            assert float(metrics.average_precision_Q[at]) == pytest.approx(ap)
            assert float(metrics.inverse_negative_penalty_Q[at]) == pytest.approx(inp)
