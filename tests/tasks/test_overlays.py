"""Cards: where labels stand, in which colours, and that no box or text stops the drawing."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tasks.callouts import (
    COLOURS,
    REFUSED,
    Card,
    Mark,
    arrange,
    caption_lines,
    marks_of,
    phrase_colours,
    place,
)
from tasks.lettering import MUTED, font
from tasks.overlays import draw_card, draw_refusal, draw_regions
from tasks.phrases import GROUPS

CARD = Card((100, 200), 130, 12, 4)
CAPTION = "a man in a red shirt and a white shirt, no hat"


def phrase(text, group, caption=CAPTION):
    start = caption.find(text)
    end = start + len(text) if start >= 0 else -1
    return {"text": text, "start": start, "end": end, "head": text, "group": group, "colours": []}


def entry():
    return {
        "caption": CAPTION,
        "phrases": [
            phrase("a man", "person"), phrase("a red shirt", "upper"),
            phrase("a white shirt", "upper"), phrase("hat", "head"),
        ],
        "regions": [
            {"phrase": 0, "box": (0.5, 0.5, 0.9, 0.9), "score": 0.9},
            {"phrase": 1, "box": (0.5, 0.5, 0.5, 0.5), "score": 0.5},
            {"phrase": 2, "box": (0.5, 0.5, 0.4, 0.4), "score": 0.25},
            {"phrase": 2, "box": (0.5, 0.8, 0.1, 0.1), "score": 0.125},
        ],
        "rejected": [
            {"phrase": 3, "box": (0.5, 0.1, 0.2, 0.1), "score": 0.1, "reason": "low-confidence"}
        ],
    }  # fmt: skip


def rgb(colour):
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def colours_in(image):
    return {colour for _, colour in image.getcolors(1 << 24)}


# -- where labels stand -----------------------------------------------------------------------


def test_places_by_hand():
    # Both fit where they want to be.
    assert place([10, 50], [20, 20], 0, 100) == [0, 40]
    # Tops wanted at 40 and 42, 20 apart: 31 and 51 are 9 away each.
    assert place([50, 52], [20, 20], 0, 100) == [31, 51]
    # At the upper end, at the lower end, and where there is too little room.
    assert place([0, 1], [20, 20], 0, 100) == [0, 20]
    assert place([99, 100], [20, 20], 0, 100) == [60, 80]
    assert place([5, 5, 5], [20, 20, 20], 0, 50) == [0, 20, 40]
    assert place([], [], 0, 50) == []


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.floats(-50, 350), st.integers(1, 60)), max_size=12), st.data())
def test_places_are_apart_inside_and_as_near_as_can_be(wanted, data):
    wanted = sorted(wanted)
    centres, heights = [c for c, _ in wanted], [h for _, h in wanted]
    tops = place(centres, heights, 0, 300)
    ends = [top + height for top, height in zip(tops, heights, strict=True)]
    assert all(end <= top + 1e-6 for end, top in zip(ends, tops[1:], strict=False))
    assert all(top >= 0 for top in tops)
    fits = sum(heights) <= 300
    assert not wanted or not fits or ends[-1] <= 300 + 1e-6
    if not (wanted and fits):
        return
    # Any other arrangement that is allowed is no nearer: spare room handed out at will.
    spare = 300 - sum(heights)
    shifts = sorted(
        data.draw(st.lists(st.floats(0, spare), min_size=len(tops), max_size=len(tops)))
    )
    above = list(itertools.accumulate(heights, initial=0))[:-1]
    other = [shift + room for shift, room in zip(shifts, above, strict=True)]

    def cost(candidate):
        return sum(
            (top + height / 2 - centre) ** 2
            for top, height, centre in zip(candidate, heights, centres, strict=True)
        )

    assert cost(tops) <= cost(other) + 1e-6


boxes = st.tuples(st.floats(0, 100), st.floats(0, 200), st.floats(0, 100), st.floats(0, 200)).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)
marks = st.builds(
    Mark,
    text=st.text(min_size=1, max_size=80),
    detail=st.floats(0, 1).map(lambda v: f"{v:.2f}"),
    colour=st.sampled_from(list(COLOURS.values())),
    boxes=st.lists(boxes, max_size=3).map(tuple),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(marks, max_size=24))
def test_labels_cover_neither_each_other_nor_the_picture(found):
    labels = arrange(found, CARD)
    assert sorted(id(label.mark) for label in labels) == sorted(map(id, found))
    for above, below in itertools.pairwise(labels):
        assert above.place[3] <= below.place[1]
    for label in labels:
        left, top, right, bottom = label.place
        assert CARD.pane[0] < left < right <= CARD.width
        assert 0 <= top < bottom
        assert label.lines
        # What the label says of confidence is never cut away, and no line leaves the card.
        assert label.mark.detail in "".join(run.text for run in label.lines[-1])
        for line in label.lines:
            wide = sum(run.width(CARD.text) for run in line)
            assert left + 3 * CARD.stroke + wide <= CARD.width or len(line[0].text) == 1
    if sum(label.place[3] - label.place[1] + 3 for label in labels) <= CARD.pane[1]:
        assert all(label.place[3] <= CARD.pane[1] for label in labels)


def test_a_label_stands_beside_its_box_and_near_the_top_of_a_large_one():
    found = [
        Mark("shoes", "0.50", "#000000", ((40, 170, 60, 190),)),
        Mark("person", "0.50", "#000000", ((10, 10, 90, 190),)),
        Mark("nowhere", "0.50", "#000000", ()),
    ]
    person, shoes, nowhere = arrange(found, CARD)
    assert (person.mark.text, shoes.mark.text, nowhere.mark.text) == ("person", "shoes", "nowhere")
    assert person.place[1] < 40
    assert shoes.place[1] < 180
    assert nowhere.place[3] <= 200


# -- what is drawn ----------------------------------------------------------------------------


def test_regions_are_drawn_in_their_groups_colours():
    blank = Image.new("RGB", (48, 96), "white")
    row = {
        "phrases": [phrase("a red shirt " * 20, "upper"), phrase("x", "hair")],
        "regions": [{"phrase": 0, "box": (0.5, 0.5, 0.5, 0.5), "score": 0.5}],
        "rejected": [{"phrase": 1, "box": (0.5, 0.9, 2, 0.1), "score": 0.1, "reason": "surplus"}],
    }
    drawn = np.asarray(draw_regions(blank, row))
    # The picture is 420 high, 210 wide, with a margin of the type size, 16, around everything.
    assert drawn.shape[0] == 420 + 32
    assert tuple(drawn[16 + 200, 16 + 53]) == rgb(COLOURS["upper"])  # a quarter of the width
    assert tuple(drawn[16 + 200, 16 + 105]) == (255, 255, 255)
    assert rgb(REFUSED) not in colours_in(draw_regions(blank, row))
    assert rgb(REFUSED) in colours_in(draw_regions(blank, row, refused=True))
    assert blank.getextrema() == ((255, 255),) * 3
    assert set(COLOURS) == set(GROUPS)


def test_the_caption_has_each_phrase_in_its_boxs_colour():
    (line,) = caption_lines(entry(), Card((800, 20), 100, 12))
    colours = phrase_colours(entry())
    told = [(run.text, run.style.colour, run.style.bold, run.style.dotted) for run in line]
    plain = [text for text, _, bold, dotted in told if not bold and not dotted]
    assert plain == [" in ", " and ", ", no "]
    assert [each for each in told if each[2]] == [
        ("a man", COLOURS["person"], True, False),
        ("a red shirt", COLOURS["upper"], True, False),
        ("a white shirt", colours[2], True, False),
    ]
    assert told[-1] == ("hat", MUTED, False, True)  # without a box
    # The second phrase of a group has a shade of its own.
    assert colours[1] == COLOURS["upper"]
    assert colours[2] not in COLOURS.values()
    assert 3 not in colours
    # Two phrases on the same words, as a detector may name them: the one with a box counts.
    row = entry()
    row["phrases"] = [phrase("hat", "upper"), phrase("hat", "head")]
    row["regions"] = [{"phrase": 0, "box": (0.5, 0.5, 0.5, 0.5), "score": 0.5}]
    (line,) = caption_lines(row, Card((800, 20), 100, 12))
    assert (line[-1].text, line[-1].style.colour) == ("hat", COLOURS["upper"])


def test_one_label_a_phrase_and_one_a_refused_box():
    found, more = marks_of(entry(), (0, 0, 100, 200), refused=True)
    assert [(m.text, m.detail, len(m.boxes), m.refused) for m in found] == [
        ("a man", "0.90", 1, False),
        ("a red shirt", "0.50", 1, False),
        ("a white shirt", "0.25, 0.12", 2, False),
        ("hat", "0.10, low-confidence", 1, True),
    ]
    assert found[1].boxes == ((25, 50, 75, 150),)
    assert more == 0
    assert len(marks_of(entry(), (0, 0, 100, 200))[0]) == 3
    row = entry() | {"regions": [{"phrase": 9, "box": (0.5,) * 4, "score": 1.0}]}
    assert marks_of(row, (0, 0, 9, 9)) == ([], 0)


def test_words_that_are_not_in_the_caption_are_labelled_beside_it():
    row = entry()
    row["phrases"][1] |= {"text": "shirt", "start": -1, "end": -1}
    (line,) = caption_lines(row, Card((800, 20), 100, 12))
    assert " in a red shirt and " in [run.text for run in line]
    assert "shirt" in [m.text for m in marks_of(row, (0, 0, 9, 9))[0]]


def test_a_card_grows_by_its_labels_and_says_what_it_leaves_out():
    phrases = [phrase(f"thing {n}", "carried") for n in range(60)]
    regions = [{"phrase": n, "box": (0.5, 0.05, 0.1, 0.05), "score": 0.5} for n in range(60)]
    row = {"phrases": phrases, "regions": regions}
    found, more = marks_of(row, (0, 0, 100, 200))
    assert (len(found), more) == (40, 20)
    assert draw_card(None, row, CARD).height >= 40 * font(12).getbbox("x")[3]


ANY = st.floats(width=32) | st.sampled_from([0.0, 0.5, 1.0, -1.0, math.nan, math.inf])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(max_size=60), st.sampled_from([*COLOURS, "odd"]), st.integers(-3, 90),
            st.integers(-3, 90), st.tuples(ANY, ANY, ANY, ANY), st.floats(0, 1),
        ),
        max_size=8,
    ),
    st.text(max_size=90),
    st.sampled_from([(1, 1), (48, 96), (300, 2), (2, 300)]),
)  # fmt: skip
def test_odd_boxes_and_texts_are_drawn(rows, caption, size):
    row = {
        "caption": caption,
        "phrases": [
            {"text": text, "start": start, "end": end, "head": "", "group": group, "colours": []}
            for text, group, start, end, _, _ in rows
        ],
        "regions": [
            {"phrase": n, "box": box, "score": score} for n, (*_, box, score) in enumerate(rows)
        ],
        "rejected": [
            {"phrase": n, "box": box, "score": score, "reason": "x"}
            for n, (*_, box, score) in enumerate(rows)
        ],
    }
    image = Image.new("RGB", size, "white")
    card = draw_card(image, row, CARD, refused=True)
    assert card.width == CARD.width
    assert card.height >= CARD.pane[1]
    for refused in row["rejected"]:
        winner = row["regions"][0]
        drawn = draw_refusal(image, row["phrases"], refused, winner, (90, 180))
        assert drawn.size == draw_refusal(None, row["phrases"], refused, None, (90, 180)).size


@pytest.mark.parametrize("size", [(1, 1), (5000, 3), (3, 5000), (2000, 3000)])
def test_a_card_has_a_size_that_a_screen_can_show(size):
    drawn = draw_regions(Image.new("RGB", size), entry())
    assert 100 < drawn.width < 2100
    assert 100 < drawn.height < 2100
