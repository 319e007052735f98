"""Batch-hard triplets by hand, and that they are another loss than the pairs' ranking loss."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.dual.losses import bidirectional_ranking, cosines
from models.reid.losses import batch_hard_triplet, distances

ON_A_LINE = torch.tensor([[0.0], [1.0], [3.0], [4.5]])
PERSON = torch.tensor([0, 0, 1, 1])


def slow(feature, person, margin):
    """The definition, row by row; None where nobody is an anchor."""
    losses = []
    for a in range(len(person)):
        positives = [math.dist(feature[a], feature[p]) for p in range(len(person))
                     if person[p] == person[a] and p != a]  # fmt: skip
        negatives = [math.dist(feature[a], feature[n]) for n in range(len(person))
                     if person[n] != person[a]]  # fmt: skip
        if positives and negatives:
            losses.append(max(0.0, margin + max(positives) - min(negatives)))
    return sum(losses) / len(losses) if losses else 0.0


def test_hand_worked_triplets():
    # Anchors at 0, 1, 3, 4.5: farthest positives 1, 1, 1.5, 1.5; nearest strangers 3, 2, 2, 3.5.
    found = batch_hard_triplet(ON_A_LINE, PERSON, 0.3)
    assert float(found) == 0.0
    # With margin 1.2 the second pays 0.2, the third 0.7, the others nothing.
    assert float(batch_hard_triplet(ON_A_LINE, PERSON, 1.2)) == pytest.approx(0.9 / 4)


def test_the_farthest_of_several_positives_and_the_nearest_stranger_count():
    feature = torch.tensor([[0.0], [1.0], [5.0], [2.0]])
    person = torch.tensor([0, 0, 0, 1])
    # Anchors 0, 1, 5: positives 5, 4, 5; stranger at 2, 1, 3. The stranger has no positive.
    expected = ((0.3 + 5 - 2) + (0.3 + 4 - 1) + (0.3 + 5 - 3)) / 3
    assert float(batch_hard_triplet(feature, person, 0.3)) == pytest.approx(expected)


def test_anchors_that_have_nobody_to_compare_with_are_left_out():
    feature = torch.tensor([[0.0], [1.0]], requires_grad=True)
    for person in (torch.tensor([0, 0]), torch.tensor([0, 1])):
        loss = batch_hard_triplet(feature, person, 0.3)
        assert float(loss) == 0.0
        loss.backward()
        assert torch.isfinite(feature.grad).all()


def test_equal_rows_have_distance_zero_and_a_finite_slope():
    feature = torch.full((4, 3), 7.25, requires_grad=True)
    assert float(distances(feature).max()) < 1e-5
    loss = batch_hard_triplet(feature, PERSON, 0.3)
    assert float(loss) == pytest.approx(0.3)  # nobody is nearer than anybody
    loss.backward()
    assert torch.isfinite(feature.grad).all()


def test_it_is_not_the_ranking_loss_of_pairs():
    # The pairs' loss knows one positive, the row's own, and semi-hard negatives alone: rows that
    # lie on top of each other cost it nothing, for there is no negative that is less similar.
    feature = torch.ones(4, 2)
    pairs = bidirectional_ranking(cosines(feature, feature), PERSON, margin=0.3)
    assert float(pairs) == 0.0
    assert float(batch_hard_triplet(feature, PERSON, 0.3)) == pytest.approx(0.3)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 3), st.integers(-8, 8), st.integers(-8, 8)), min_size=1, max_size=9
    ),
    margin=st.sampled_from([0.0, 0.3, 2.0]),
)
def test_equals_the_definition(rows, margin):
    person = torch.tensor([row[0] for row in rows])
    feature = torch.tensor([[row[1] / 2, row[2] / 2] for row in rows])
    found = float(batch_hard_triplet(feature, person, margin))
    assert found == pytest.approx(slow(feature.tolist(), person.tolist(), margin), abs=1e-4)
