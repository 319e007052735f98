from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.mra.losses import (
    contrastive_loss,
    hard_negatives,
    matching_loss,
    matching_pairs,
    positive_targets,
    summed_token_loss,
)


def features(rows: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pair = torch.randn(2, rows, 4, generator=generator, dtype=torch.float64)
    image, text = torch.nn.functional.normalize(pair, dim=-1)
    return image, text


def test_targets_are_shared_by_the_same_person_and_smoothed() -> None:
    ids = torch.tensor([7, 3, 7])
    assert positive_targets(ids, ids).tolist() == [[0.5, 0, 0.5], [0, 1, 0], [0.5, 0, 0.5]]
    smoothed = positive_targets(ids, ids, 0.3)
    torch.testing.assert_close(smoothed[1], torch.tensor([0.1, 0.8, 0.1]))


def test_two_opposite_pairs_by_hand() -> None:
    """cos = [[1, 0], [0, 1]] at temperature 0.5: logits 2 and 0 in either direction."""
    unit = torch.eye(2)
    loss = contrastive_loss(unit, unit, torch.tensor(0.5), torch.tensor([0, 1]))
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-2)), abs=1e-6)


@given(st.integers(1, 6), st.floats(0, 0.5), st.integers(0, 99))
def test_contrastive_loss_against_loops(rows: int, smoothing: float, seed: int) -> None:
    image, text = features(rows, seed)
    ids = torch.randint(0, 3, (rows,), generator=torch.Generator().manual_seed(seed))
    temperature = 0.2
    total = 0.0
    for one, other in ((image, text), (text, image)):
        for i in range(rows):
            logits = [float(one[i] @ other[j]) / temperature for j in range(rows)]
            log_sum = math.log(sum(math.exp(value) for value in logits))
            positives = sum(int(ids[j] == ids[i]) for j in range(rows))
            for j in range(rows):
                share = (1 - smoothing) * int(ids[j] == ids[i]) / positives + smoothing / rows
                total -= share * (logits[j] - log_sum) / rows / 2
    found = contrastive_loss(image, text, torch.tensor(temperature), ids, label_smoothing=smoothing)
    assert float(found) == pytest.approx(total, rel=1e-5, abs=1e-6)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=8), st.integers(0, 99))
def test_negatives_are_somebody_else(people: list[int], seed: int) -> None:
    image, text = features(len(people), seed)
    ids = torch.tensor(people)
    generator = torch.Generator().manual_seed(seed)
    negatives = hard_negatives(image, text, torch.tensor(0.07), ids, generator)
    others = torch.tensor([len(set(people)) > 1] * len(people))
    assert negatives.valid_B.tolist() == others.tolist()
    assert (ids[negatives.image_B] != ids)[others].all()
    assert (ids[negatives.text_B] != ids)[others].all()


def test_similar_rows_are_drawn_more_often() -> None:
    """Row 0 sees rows 1 and 2 with cosines 0.8 and 0: odds exp(0.8 / 0.5) = 4.95 to 1."""
    image = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack(
        [
            hard_negatives(image, image, torch.tensor(0.5), torch.arange(3), generator).text_B
            for _ in range(2000)
        ]
    )
    share = (drawn[:, 0] == 1).double().mean()
    assert float(share) == pytest.approx(4.95 / 5.95, abs=0.03)


def test_each_direction_draws_by_its_own_rows() -> None:
    """Text 0 resembles image 1 only, image 0 resembles text 2 only; nearly no temperature."""
    image = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    text = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    generator = torch.Generator().manual_seed(0)
    negatives = hard_negatives(image, text, torch.tensor(0.05), torch.arange(3), generator)
    assert int(negatives.image_B[0]) == 1
    assert int(negatives.text_B[0]) == 2


def test_the_draw_depends_on_the_generator_alone() -> None:
    image, text = features(8)
    first, again = (
        hard_negatives(
            image, text, torch.tensor(1.0), torch.arange(8), torch.Generator().manual_seed(3)
        )
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_pairs_and_their_loss_by_hand() -> None:
    image, text = features(3)
    ids = torch.tensor([0, 1, 2])
    negatives = hard_negatives(image, text, torch.tensor(1.0), ids)
    texts, images, labels, weights = matching_pairs(negatives)
    assert texts[:6].tolist() == [0, 1, 2, 0, 1, 2]
    assert images[6:].tolist() == [0, 1, 2]
    assert labels.tolist() == [1] * 3 + [0] * 6
    assert weights.tolist() == [1.0] * 9
    logits = torch.zeros(9, 2)
    logits[:3, 1] = 2.0
    expected = (3 * math.log(1 + math.exp(-2)) + 6 * math.log(2)) / 9
    assert float(matching_loss(logits, labels, weights)) == pytest.approx(expected, abs=1e-6)


def test_a_batch_of_one_person_trains_on_its_positives_only() -> None:
    image, text = features(2)
    negatives = hard_negatives(image, text, torch.tensor(1.0), torch.tensor([5, 5]))
    _, _, labels, weights = matching_pairs(negatives)
    assert weights.tolist() == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    logits = torch.full((6, 2), 9.0)
    assert float(matching_loss(logits, labels, weights)) == pytest.approx(math.log(2), abs=1e-6)


def test_nothing_masked_costs_nothing() -> None:
    logits = torch.randn(2, 5)
    assert float(summed_token_loss(logits, torch.tensor([-100, -100]))) == 0.0
    assert float(summed_token_loss(logits[:0], torch.empty(0, dtype=torch.int64))) == 0.0
    one = summed_token_loss(torch.zeros(2, 5), torch.tensor([-100, 3]))
    assert float(one) == pytest.approx(math.log(5), abs=1e-6)
