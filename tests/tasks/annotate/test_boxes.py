"""The box filter: its rules by hand, and what holds for any boxes at all."""

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.regions.proposals import Proposals
from tasks.annotate.boxes import filter_boxes
from tasks.annotate.clashes import clash
from tasks.annotate.reasons import REASONS
from tasks.annotate.single import DEFAULT
from tasks.annotate.words import Word
from tasks.phrases import Attribute, Phrase, load_parser, parse

NLP = load_parser()
WHOLE, CHEST, LEGS = (0.5, 0.5, 1, 1), (0.5, 0.3, 0.5, 0.3), (0.5, 0.7, 0.4, 0.4)


def phrases(caption):
    return parse(NLP, [caption])[0]


PLACES = count(0, 100)


def named(head, group, *colours, text="", **attributes):
    """A phrase at a place of its own in the caption."""
    said = tuple(Attribute(kind, value) for kind, value in attributes.items())
    text, at = text or " ".join([*colours, *attributes.values(), head]), next(PLACES)
    return Phrase(text, at, at + len(text), head, group, colours, said)


def proposals(*rows):
    boxes, scores, of = zip(*rows, strict=True)
    return Proposals(np.array(boxes, np.float32), np.array(scores, np.float32), np.array(of))


def verdicts(said, *rows, **changes):
    """(phrase, score) of what stays, (phrase, score, reason) of what does not."""
    kept, refused = filter_boxes(proposals(*rows), said, replace(DEFAULT, **changes))
    return (
        [(r["phrase"], round(r["score"], 2)) for r in kept],
        [(r["phrase"], round(r["score"], 2), r["reason"]) for r in refused],
    )


def test_the_filter_by_hand():
    said = phrases("a man in a red shirt and blue jeans with a blue shirt")
    assert [p.group for p in said] == ["person", "upper", "lower", "upper"]
    kept, refused = verdicts(
        said,
        (WHOLE, 0.5, 0),  # a person may fill the picture
        (WHOLE, 0.9, 1),  # a shirt may not
        (CHEST, 0.8, 1),
        (CHEST, 0.7, 1),  # again
        ((0.5, 0.3, 0.5, 0.29), 0.6, 3),  # another colour, IoU 0.97
        (LEGS, 0.34, 2),  # not sure
        ((0.5, 0.5, 0.0, 0.5), 0.91, 2),  # no width
        ((1.3, 0.5, 0.2, 0.2), 0.92, 2),  # outside
        ((0.5, 0.5, -0.2, 0.2), 0.93, 2),  # inside out
        ((np.nan, 0.5, 0.2, 0.2), 0.94, 2),
        (LEGS, np.nan, 2),
        (LEGS, 0.5, 2),
        ((0.3, 0.7, 0.2, 0.4), 0.4, 2),  # one too many
    )
    assert kept == [(0, 0.5), (1, 0.8), (2, 0.5)]
    assert refused == [
        (1, 0.9, "full-image"), (1, 0.7, "duplicate"),
        (2, 0.93, "degenerate"), (2, 0.92, "degenerate"), (2, 0.91, "degenerate"),
        (2, 0.4, "surplus"), (2, 0.34, "low-confidence"),
        (2, 0.0, "degenerate"), (2, 0.0, "degenerate"), (3, 0.6, "contradiction"),
    ]  # fmt: skip


def test_the_first_broken_rule_is_the_reason():
    hat = phrases("a hat")
    assert verdicts(hat, (WHOLE, 0.1, 0), ((0.5, 0.5, 1, 0), 0.1, 0), (CHEST, 0.1, 0))[1] == [
        (0, 0.1, "low-confidence"), (0, 0.1, "degenerate"), (0, 0.1, "full-image"),
    ]  # fmt: skip
    assert filter_boxes(Proposals.none(), [], DEFAULT) == ([], [])


def test_boxes_are_cut_at_the_border():
    (kept,), refused = filter_boxes(
        proposals(((0.9, 0.1, 0.4, 0.4), 1, 0)), phrases("a hat"), DEFAULT
    )
    assert not refused
    # x from 0.7 to 1, y from 0 to 0.3
    assert kept["box"] == pytest.approx([0.85, 0.15, 0.3, 0.3])
    # A part that fills the picture once it is cut.
    assert verdicts(phrases("a hat"), ((0.5, 0.5, 3, 3), 0.9, 0))[1] == [(0, 0.9, "full-image")]


def test_what_is_refused_refuses_nobody():
    shirts = phrases("a red shirt, a blue shirt, a red shirt")
    # The blue one is no red one, whose second mention lies on the blue one's box alone.
    near, far = (0.5, 0.33, 0.5, 0.3), (0.5, 0.36, 0.5, 0.3)
    found = verdicts(shirts, (CHEST, 0.9, 0), (near, 0.8, 1), (far, 0.7, 2), same_box_iou=0.8)
    assert found == ([(0, 0.9), (2, 0.7)], [(1, 0.8, "contradiction")])
    # Three sure boxes of one phrase: the third may not push another phrase's off its place.
    two = phrases("a red shirt, a blue shirt")
    assert verdicts(two, (CHEST, 0.9, 0), (LEGS, 0.8, 0), (LEGS, 0.7, 1)) == (
        [(0, 0.9), (1, 0.7)], [(0, 0.8, "surplus")],
    )  # fmt: skip


def test_the_person_stays_where_a_part_is_as_large():
    said = phrases("a man with a backpack in a long coat")
    box = (0.5, 0.5, 0.5, 0.9)
    kept, refused = verdicts(said, (box, 0.4, 0), (box, 0.9, 1), (box, 0.8, 2))
    assert (kept, refused) == ([(0, 0.4), (2, 0.8)], [(1, 0.9, "contradiction")])
    # A bag on a coat: the surer; between equals the first of the caption.
    assert verdicts(said, (CHEST, 0.6, 1), (CHEST, 0.7, 2))[0] == [(2, 0.7)]
    assert verdicts(said, (CHEST, 0.7, 2), (CHEST, 0.7, 1))[0] == [(1, 0.7)]


def test_a_scene_behind_everything_contradicts_nothing():
    said = phrases("a man on a street, a car on the street")
    assert [p.group for p in said] == ["person", "scene", "scene", "scene"]
    person = (0.5, 0.5, 0.98, 0.98)
    found = verdicts(said, (person, 0.9, 0), (WHOLE, 0.8, 1), (CHEST, 0.5, 2), (WHOLE, 0.7, 1))
    assert found == ([(0, 0.9), (1, 0.8), (2, 0.5)], [(1, 0.7, "duplicate")])
    # A car that is where a man is, is not.
    tall = (0.5, 0.5, 0.4, 0.9)
    assert verdicts(said, (tall, 0.5, 0), (tall, 0.9, 2))[1] == [(2, 0.9, "contradiction")]


SHIRT = named("shirt", "upper", "red", text="a red shirt")


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (SHIRT, SHIRT, "duplicate"),
        (SHIRT, named("shirt", "upper", "red", text="A red  Shirt"), "duplicate"),
        # one thing under two names
        (SHIRT, named("shirt", "upper", text="the shirt"), ""),
        (named("shoes", "footwear", "white"), named("shoes", "footwear", text="his shoes"), ""),
        (named("man", "person"), named("pedestrian", "person"), ""),
        (named("jeans", "lower", "dark blue"), named("pants", "lower", "navy"), ""),
        (named("jeans", "lower", "blue"), named("pants", "lower", "dark blue"), ""),
        (named("shirt", "upper", "black", "white"), named("top", "upper", "white"), ""),
        (named("bag", "carried"), named("backpacks", "carried"), ""),
        (named("hat", "head", "black"), named("cap", "head"), ""),
        (named("gizmo", "carried"), named("phone", "carried"), ""),
        # one over another
        (named("jacket", "upper"), named("shirt", "upper", "white"), ""),
        (named("gloves", "accessory", "black"), named("hands", "upper"), ""),
        (named("hair", "hair", "black"), named("head", "head"), ""),
        (named("dress", "upper", "red"), named("woman", "person"), ""),
        # not both
        (SHIRT, named("shirt", "upper", "blue"), "contradiction"),
        (named("a", "upper", "dark blue"), named("b", "upper", "light blue"), "contradiction"),
        (named("a", "upper", "chartreuse"), named("b", "upper", "red"), "contradiction"),
        (named("bag", "carried"), named("coat", "upper"), "contradiction"),
        (named("glasses", "head"), named("cap", "head"), "contradiction"),
        (named("bag", "carried"), named("phones", "carried"), "contradiction"),
        (named("shirt", "upper"), named("woman", "person"), "contradiction"),
        (named("hair", "hair"), named("hat", "head"), "contradiction"),
        (*phrases("a man, a woman"), "contradiction"),
        (*phrases("an old man, a young man"), "contradiction"),
        (*phrases("her left hand, the right hand"), "contradiction"),
        (named("hand", "upper", side="left"), named("arm", "upper", side="right"), "contradiction"),
        (named("hand", "upper", side="left"), named("arm", "upper", text="an arm"), ""),
        (named("shirt", "upper", sleeve="long"), named("shirt", "upper", sleeve="short"),
         "contradiction"),
        (named("vest", "upper", sleeve="sleeveless"), named("shirt", "upper", sleeve="long"), ""),
        (named("top", "upper", pattern="striped"), named("top", "upper", material="silk"), ""),
    ],
)  # fmt: skip
def test_what_one_place_can_be(one, other, expected):
    assert clash(one, other) == clash(other, one) == expected


def test_two_cuts_of_one_mention_are_one():
    caption = "a man in a red shirt, a red shirt"
    cut = [
        Phrase(caption[a:b], a, b, head, group, colours)
        for a, b, head, group, colours in (
            (0, 20, "man", "person", ()), (2, 5, "man", "person", ()),
            (9, 20, "shirt", "upper", ("red",)), (15, 20, "shirt", "upper", ()),
            (24, 33, "shirt", "upper", ("red",)),
        )
    ]  # fmt: skip
    assert clash(cut[0], cut[1]) == clash(cut[2], cut[3]) == "duplicate"
    assert clash(cut[0], cut[2]) == "contradiction"
    assert clash(cut[3], cut[4]) == ""


def test_two_names_of_one_thing_share_a_box():
    box = (0.5, 0.5, 0.4, 0.9)
    kept, refused = verdicts(phrases("a man. the person"), (box, 0.9, 0), (box, 0.8, 1))
    assert (kept, refused) == ([(0, 0.9), (1, 0.8)], [])


def test_words_that_no_caption_names_are_rivals_for_a_place():
    pants, skirt, belt = (
        Word(text, group, 1).phrase()
        for text, group in (("pants", "lower"), ("skirt", "lower"), ("belt", "accessory"))
    )
    near = (0.5, 0.71, 0.4, 0.4)
    found = verdicts(
        [pants, skirt, belt], (LEGS, 0.5, 0), (near, 0.6, 1), (CHEST, 0.4, 2), (LEGS, 0.6, 1)
    )
    assert found == ([(1, 0.6), (2, 0.4)], [(0, 0.5, "contradiction"), (1, 0.6, "duplicate")])
    assert clash(pants, phrases("a skirt")[0]) == ""


SAID = phrases("a man in a red shirt and blue jeans with a blue shirt on a street with the man")
NUMBER = st.floats(-2, 3, width=32) | st.sampled_from([0.5, 1.0, np.nan, np.inf, -np.inf, 3e38])
SCORE = st.sampled_from([0.3, 0.35, 0.5, 0.9, 1.0, np.nan]) | st.floats(0, 1, width=32)
# Few places, so that boxes meet; and any numbers at all.
PLACE = st.sampled_from([WHOLE, CHEST, LEGS, (0.5, 0.31, 0.5, 0.3), (0.5, 0.5, 0.99, 1.2)])
BOXES = st.lists(
    st.tuples(PLACE | st.tuples(*[NUMBER] * 4), SCORE, st.integers(0, len(SAID) - 1)), max_size=12
)
LIMIT = st.integers(1, 3)


def made(rows):
    boxes = np.array([row[0] for row in rows], np.float32).reshape(-1, 4)
    scores, of = np.array([r[1] for r in rows], np.float32), np.array([r[2] for r in rows], int)
    return Proposals(boxes, scores, of)


@given(BOXES, LIMIT)
def test_no_box_is_lost_and_what_stays_is_a_box(rows, limit):
    kept, refused = filter_boxes(made(rows), SAID, replace(DEFAULT, boxes_per_phrase=limit))
    assert sorted(r["phrase"] for r in kept + refused) == sorted(row[2] for row in rows)
    assert {r["reason"] for r in refused} <= set(REASONS)
    for record in kept + refused:
        cx, cy, w, h = record["box"]
        assert -2e-6 <= cx - w / 2 <= cx + w / 2 <= 1 + 2e-6
        assert -2e-6 <= cy - h / 2 <= cy + h / 2 <= 1 + 2e-6
        assert all(v == np.float32(v) for v in (*record["box"], record["score"]))
    # A box that lies in the picture comes out bit for bit.
    found = [(r["phrase"], tuple(r["box"]), r["score"]) for r in kept + refused]
    for box, score, phrase in rows:
        ends = np.array([[box[0] - box[2] / 2, box[0] + box[2] / 2],
                         [box[1] - box[3] / 2, box[1] + box[3] / 2]])  # fmt: skip
        if np.isfinite([*box, score]).all() and (np.clip(np.sort(ends), 0, 1) == ends).all():
            assert (phrase, tuple(np.float32(box).tolist()), float(np.float32(score))) in found
    assert all(min(r["box"][2:]) > 0 and r["score"] >= DEFAULT.box_threshold for r in kept)
    assert max([0, *np.bincount([r["phrase"] for r in kept])]) <= limit


@given(BOXES, LIMIT, st.randoms())
def test_the_order_of_the_boxes_does_not_matter(rows, limit, random):
    section = replace(DEFAULT, boxes_per_phrase=limit)
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert filter_boxes(made(shuffled), SAID, section) == filter_boxes(made(rows), SAID, section)


@given(BOXES, LIMIT)
def test_what_has_stayed_stays(rows, limit):
    section = replace(DEFAULT, boxes_per_phrase=limit)
    kept, _ = filter_boxes(made(rows), SAID, section)
    again = [(r["box"], r["score"], r["phrase"]) for r in kept]
    assert filter_boxes(made(again), SAID, section) == (kept, [])
