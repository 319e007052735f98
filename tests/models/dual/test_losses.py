from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.dual.losses import (
    Negatives,
    PeopleClassifiers,
    bidirectional_ranking,
    cosines,
    info_nce,
)

PEOPLE = st.lists(st.integers(0, 3), min_size=1, max_size=7)


def features(rows: int, seed: int, width: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image, text = torch.randn(2, rows, width, generator=generator)
    return image, text


def ranking(
    cosine: Tensor | Sequence[Sequence[float]],
    people: Sequence[int],
    margin: float = 0.2,
    negatives: Negatives = "semi-hard",
    seed: int = 0,
) -> float:
    generator = torch.Generator().manual_seed(seed)
    loss = bidirectional_ranking(
        torch.as_tensor(cosine),
        torch.tensor(people),
        margin=margin,
        negatives=negatives,
        generator=generator,
    )
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    return float(loss)


# ------------------------------------------------------------------ InfoNCE


def test_info_nce_of_two_opposite_pairs_by_hand() -> None:
    """Cosines [[1, 0], [0, 1]]: -log(e / (e + 1)) either way, and at temperature 0.5 of e^2."""
    unit, people = torch.eye(2) * 7, torch.arange(2)  # lengths do not count
    plain = math.log(1 + math.exp(-1))
    assert float(info_nce(unit, unit, people)) == pytest.approx(plain, abs=1e-6)
    assert float(info_nce(unit, unit, people, temperature=1.0)) == pytest.approx(plain, abs=1e-6)
    found = info_nce(unit, unit, people, temperature=0.5)
    assert float(found) == pytest.approx(math.log(1 + math.exp(-2)), abs=1e-6)


def test_info_nce_of_lopsided_pairs_by_hand() -> None:
    """Cosines [[1, .6], [0, .8]]: both directions differ, and their mean counts."""
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    text = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    rows = (math.log(1 + math.exp(0.6 - 1)) + math.log(1 + math.exp(0 - 0.8))) / 2
    columns = (math.log(1 + math.exp(0 - 1)) + math.log(1 + math.exp(0.6 - 0.8))) / 2
    found = info_nce(image, text, torch.arange(2))
    assert float(found) == pytest.approx((rows + columns) / 2, abs=1e-6)


@pytest.mark.parametrize("temperature", [None, 0.07])
def test_info_nce_is_cross_entropy_written_out(temperature: float | None) -> None:
    image, text = features(6, 1)
    logits = F.normalize(image, dim=1) @ F.normalize(text, dim=1).t() / (temperature or 1)
    own = torch.arange(6)
    wanted = (F.cross_entropy(logits, own) + F.cross_entropy(logits.t(), own)) / 2
    found = info_nce(image, text, own, temperature=temperature)
    torch.testing.assert_close(found, wanted)


def test_another_pair_of_the_same_person_is_no_negative() -> None:
    """As if it were not in the row: three pairs, of which the last two are one person's."""
    image, text = features(3, 2)
    cos = cosines(image, text)
    kept = [[0, 1, 2], [0, 1], [0, 2]]  # what row i compares, and, being symmetric, column i too
    terms = [
        torch.logsumexp(side[i][kept[i]], 0) - side[i][i]
        for side in (cos, cos.t())
        for i in (0, 1, 2)
    ]
    found = info_nce(image, text, torch.tensor([4, 9, 9]))
    torch.testing.assert_close(found, torch.stack(terms).mean())


@given(PEOPLE, st.integers(2, 4), st.integers(0, 99))
def test_info_nce_in_chunks_is_the_mean_of_the_chunks(
    people: list[int], chunks: int, seed: int
) -> None:
    person = torch.tensor(people * chunks)
    image, text = features(len(person), seed)
    parts = zip(*(rows.chunk(chunks) for rows in (image, text, person)), strict=True)
    wanted = torch.stack([info_nce(*part) for part in parts]).mean()
    torch.testing.assert_close(info_nce(image, text, person, chunks=chunks), wanted)


@given(PEOPLE, st.integers(0, 99), st.sampled_from([None, 0.1]))
def test_info_nce_takes_images_and_texts_alike_in_any_order(
    people: list[int], seed: int, temperature: float | None
) -> None:
    person = torch.tensor(people)
    image, text = features(len(person), seed)
    found = info_nce(image, text, person, temperature=temperature)
    torch.testing.assert_close(found, info_nce(text, image, person, temperature=temperature))
    order = torch.randperm(len(person), generator=torch.Generator().manual_seed(seed))
    mixed = info_nce(image[order], text[order], person[order], temperature=temperature)
    torch.testing.assert_close(found, mixed)
    assert found >= 0
    if len(set(people)) == 1:
        assert found == 0


# ------------------------------------------------------------------ ranking


def test_semi_hard_ranking_by_hand() -> None:
    """Margin 0.2; every anchor has one semi-hard negative at most, so nothing is left to chance.

    Images: 0 has text 1 at .8 - .9, hinge .1 (text 2 is .5 behind: no loss); 1 has text 0 above its
    own: harder than semi-hard; 2 has none within .2. Texts: 0 has image 1 at .75 - .9, hinge .05;
    1 has image 0 above its own .7; 2 has image 1 at .45 - .6, hinge .05.
    """
    cosine = [[0.9, 0.8, 0.4], [0.75, 0.7, 0.45], [0.1, 0.2, 0.6]]
    assert ranking(cosine, [0, 1, 2]) == pytest.approx(0.1 + 0.05 + 0.05, abs=1e-6)


def test_hardest_ranking_by_hand() -> None:
    """The same cosines: hinges .1, .25, 0 of the images, .05, .3, .05 of the texts."""
    cosine = [[0.9, 0.8, 0.4], [0.75, 0.7, 0.45], [0.1, 0.2, 0.6]]
    found = ranking(cosine, [0, 1, 2], negatives="hardest")
    assert found == pytest.approx(0.1 + 0.25 + 0 + 0.05 + 0.3 + 0.05, abs=1e-6)


@pytest.mark.parametrize("negatives", ["semi-hard", "hardest"])
def test_the_same_person_is_never_a_negative(negatives: Negatives) -> None:
    """Pairs 0 and 1 are one person's, .1 behind each other; pair 2 is far from both."""
    cosine = [[0.9, 0.8, 0.0], [0.8, 0.9, 0.0], [0.0, 0.0, 0.9]]
    assert ranking(cosine, [5, 5, 7], negatives=negatives) == 0
    assert ranking(cosine, [5, 6, 7], negatives=negatives) == pytest.approx(0.4, abs=1e-6)
    assert ranking(cosine, [5, 5, 5], negatives=negatives) == 0


def test_a_tie_and_the_margin_itself_are_not_semi_hard() -> None:
    """An equal cosine is as hard as the positive; exactly the margin behind gives no loss."""
    tie = torch.full((2, 2), 0.9)
    assert ranking(tie, [0, 1]) == 0
    assert ranking(tie, [0, 1], negatives="hardest") == pytest.approx(4 * 0.2)
    behind = [[0.75, 0.5], [0.5, 0.75]]
    assert ranking(behind, [0, 1], margin=0.25) == 0
    assert ranking(behind, [0, 1], margin=0.25, negatives="hardest") == 0


def hinges(
    cosine: Tensor, people: Sequence[int], margin: float, hardest: bool
) -> list[list[float]]:
    """Slowly: what each anchor's loss may be; 0 alone where it has no negative."""
    found = []
    for side in (cosine, cosine.t()):
        for i, row in enumerate(side):
            others = [j for j in range(len(row)) if people[j] != people[i]]
            all_hinges = [margin + float(row[j] - row[i]) for j in others]
            if hardest:
                found.append([max(0.0, *all_hinges)] if others else [0.0])
            else:
                semi = [
                    h for h, j in zip(all_hinges, others, strict=True) if h > 0 and row[j] < row[i]
                ]
                found.append(semi or [0.0])
    return found


def sums(choices: list[list[float]]) -> set[float]:
    """Every sum of one of each, rounded."""
    reached = {0.0}
    for options in choices:
        reached = {round(base + option, 4) for base in reached for option in options}
    return reached


@settings(max_examples=60)
@given(PEOPLE, st.floats(0.05, 1.0), st.integers(0, 9999), st.booleans())
def test_ranking_against_an_obvious_slow_reference(
    people: list[int], margin: float, seed: int, hardest: bool
) -> None:
    image, text = features(len(people), seed, width=2)
    # In steps of 1/8, exact in float32: many ties, many negatives just at or inside the margin.
    cosine, margin = (cosines(image, text) * 8).round() / 8, round(margin * 8) / 8
    if margin == 0:
        margin = 0.125
    found = ranking(cosine, people, margin, "hardest" if hardest else "semi-hard", seed)
    assert round(found, 4) in sums(hinges(cosine, people, margin, hardest))


def test_semi_hard_negatives_are_drawn_evenly_from_the_generator() -> None:
    """Image 0 has texts 1, 2 and 3 at hinges .15, .1 and .05; text 4 is harder and never drawn."""
    cosine = torch.full((5, 5), -1.0)
    cosine[0] = torch.tensor([0.5, 0.45, 0.4, 0.35, 0.6])
    cosine[range(1, 5), range(1, 5)] = 1.0
    drawn = [round(ranking(cosine, range(5), seed=seed), 4) for seed in range(600)]
    shares = {value: drawn.count(value) / 600 for value in set(drawn)}
    assert shares == pytest.approx({0.15: 1 / 3, 0.1: 1 / 3, 0.05: 1 / 3}, abs=0.06)
    assert ranking(cosine, range(5), seed=3) == ranking(cosine, range(5), seed=3)


@given(PEOPLE, st.integers(0, 99))
def test_ranking_takes_images_and_texts_alike_in_any_order(people: list[int], seed: int) -> None:
    image, text = features(len(people), seed)
    found = ranking(cosines(image, text), people, negatives="hardest")
    assert ranking(cosines(text, image), people, negatives="hardest") == pytest.approx(
        found, abs=1e-5
    )
    order = torch.randperm(len(people), generator=torch.Generator().manual_seed(seed))
    cosine = cosines(image[order], text[order])
    mixed = [people[i] for i in order.tolist()]
    assert ranking(cosine, mixed, negatives="hardest") == pytest.approx(found, abs=1e-5)


def test_ranking_moves_the_pair_together_and_the_negative_away() -> None:
    cosine = torch.tensor([[0.9, 0.8], [0.0, 0.9]], requires_grad=True)
    bidirectional_ranking(cosine, torch.arange(2), margin=0.2).backward()
    # Image 0 with text 1 and text 1 with image 0: each once for its positive, both for the pair.
    assert cosine.grad is not None
    torch.testing.assert_close(cosine.grad, torch.tensor([[-1.0, 2.0], [0.0, -1.0]]))


# ------------------------------------------------------------------ identities


def test_identity_loss_by_hand() -> None:
    """Logits (2, 0) for an image of person 0, (0, 1) for its text; at first, log C either way."""
    classifiers = PeopleClassifiers(1, 2, 2)
    with torch.no_grad():
        classifiers.weight.copy_(torch.eye(2)[None])
    image, text = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    found = classifiers.loss(image, text, torch.tensor([0]))
    wanted = math.log(1 + math.exp(-2)) + math.log(1 + math.exp(1))
    assert float(found.detach()) == pytest.approx(wanted, abs=1e-6)
    fresh = PeopleClassifiers(3, 4, 5).loss(
        torch.ones(2, 12), torch.ones(2, 12), torch.tensor([1, 4])
    )
    assert float(fresh.detach()) == pytest.approx(2 * math.log(5), abs=0.02)


def test_each_part_has_a_classifier_of_its_own_and_all_count_alike() -> None:
    torch.manual_seed(0)
    classifiers = PeopleClassifiers(3, 4, 5)
    with torch.no_grad():
        classifiers.weight.normal_()
        classifiers.bias.normal_()
    image, text = torch.randn(2, 6, 12)
    person = torch.tensor([0, 1, 2, 3, 4, 0])
    terms = [
        F.cross_entropy(
            rows[:, 4 * k : 4 * k + 4] @ classifiers.weight[k] + classifiers.bias[k], person
        )
        for k in range(3)
        for rows in (image, text)
    ]
    torch.testing.assert_close(classifiers.loss(image, text, person), sum(terms) / 3)
    torch.testing.assert_close(
        classifiers.loss(image, text, person), classifiers.loss(text, image, person)
    )


# ------------------------------------------------------------------ extremes


@pytest.mark.parametrize(
    "case", ["one row", "one person", "equal", "duplicated", "opposite", "zero"]
)
@pytest.mark.parametrize("half", [False, True])
def test_gradients_are_finite_in_extreme_cases(case: str, half: bool) -> None:
    rows, people = 4, [0, 1, 2, 3]
    image, text = features(rows, 3)
    if case == "one row":
        image, text, people = image[:1], text[:1], [0]
    elif case == "one person":
        people = [1] * 4
    elif case == "equal":
        image, text = torch.ones(4, 4), torch.ones(4, 4)
    elif case == "duplicated":
        image, text = (each[[0, 0, 1, 1]] for each in (image, text))
    elif case == "opposite":
        text = -image
    else:
        image = torch.zeros(4, 4)
    image, text = image.clone().requires_grad_(), text.clone().requires_grad_()
    person = torch.tensor(people)
    classifiers = PeopleClassifiers(2, 2, 4)
    for negatives in ("semi-hard", "hardest"):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses = [
                info_nce(image, text, person, temperature=0.01),
                bidirectional_ranking(
                    cosines(image, text), person, margin=0.2, negatives=negatives
                ),
                classifiers.loss(image, text, person),
            ]
        assert [loss.dtype for loss in losses] == [torch.float32] * 3
        total = torch.stack(losses).sum()
        gradients = torch.autograd.grad(total, [image, text, *classifiers.parameters()])
        assert torch.isfinite(total)
        assert all(torch.isfinite(each).all() for each in gradients)
        if case in ("one row", "one person"):
            assert float(losses[0].detach()) == float(losses[1].detach()) == 0


def test_half_precision_around_them_changes_nothing() -> None:
    image, text = features(8, 5)
    person = torch.arange(8)
    classifiers = PeopleClassifiers(1, 4, 8)
    whole = [
        info_nce(image, text, person),
        cosines(image, text),
        classifiers.loss(image, text, person),
    ]
    with torch.autocast("cpu", torch.bfloat16):
        half = [
            info_nce(image, text, person),
            cosines(image, text),
            classifiers.loss(image, text, person),
        ]
    for one, other in zip(whole, half, strict=True):
        assert torch.equal(one, other)
