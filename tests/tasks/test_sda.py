"""SDA's released layout: what an entry carries there and back, and what it cannot carry."""

import json
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.errors import PedAlignError
from tasks.phrases import load_parser, parse
from tasks.sda import KEYS, from_sda, from_sda_list, shortest, thick_enough, to_sda, to_sda_counted
from tests.sda import bits, placed, released_pixels, rows


def phrase(caption, text, nth=0):
    """The phrase of a text where it stands for the n-th time; -1: it is not taken from there."""
    start = -1
    for _ in range(nth + 1):
        start = caption.find(text, start + 1)
    place = (-1, -1) if nth < 0 else (start, start + len(text))
    return {"text": text, "start": place[0], "end": place[1]}


def row(caption, *told):
    """A row with a region for each phrase (text, n-th time), boxes and scores all different."""
    phrases = [phrase(caption, *one) for one in told]
    regions = [
        {"phrase": n, "box": [0.5, 0.5, 0.1 + 0.01 * n, 0.2], "score": 0.9 - 0.01 * n}
        for n in range(len(told))
    ]
    return {"caption": caption, "phrases": phrases, "regions": regions}


def there_and_back(annotation):
    entry, unclear = to_sda_counted(annotation, "c_0/0_0.jpg", 3)
    assert tuple(entry) == KEYS
    return from_sda(json.loads(json.dumps(entry, ensure_ascii=False))), unclear


# ------------------------------------------------------------------ numbers

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(deadline=None)
@given(st.lists(FLOATS, min_size=5, max_size=5))
@example([1e-45, 1.1754944e-38, 3.4028235e38, -0.0, 0.1])
@example([1 / 3, 2 / 3, 1 - 2**-24, 2**-24, 16777217.0])
def test_every_32_bit_float_reads_back_to_the_bit(values):
    annotation = row("a hat", ("a hat",))
    annotation["regions"][0] |= {"box": values[:4], "score": values[4]}
    back, _ = there_and_back(annotation)
    assert bits(back) == bits(annotation)


def test_numbers_are_as_short_as_the_release_has_them():
    assert [shortest(np.float32(v)) for v in (0.5621, 0.1, 1.0, 1 / 3)] == [
        0.5621, 0.1, 1.0, 0.33333334
    ]  # fmt: skip


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_has_no_such_numbers(value):
    annotation = row("a hat", ("a hat",))
    annotation["regions"][0]["score"] = value
    with pytest.raises(PedAlignError, match=r"c/1\.jpg.*not finite"):
        to_sda(annotation, "c/1.jpg", 0)


# ------------------------------------------------------------------ places

TWICE = "a man in a red hat with a bag and a red hat"


@pytest.mark.parametrize(
    "told",
    [
        [("a red hat", 0)],
        [("a red hat", 0), ("a red hat", 1)],
        [("a red hat", 0), ("a bag", 0)],
        [("a bag", 0), ("a red hat", 1)],
        [("a man", 0), ("a red hat", 1)],  # only a list that runs backward says so
        [("a man", 0), ("a red hat", 0), ("a bag", 0), ("a red hat", 1)],
        [("a red hat", 1), ("a bag", 0), ("a red hat", 0), ("a man", 0)],
        [("a man", 0), ("somebody", -1), ("a red hat", 0)],
        [("A MAN", -1), ("a bag", 0)],
    ],
    ids=str,
)
def test_the_order_of_a_list_says_which_of_two_is_meant(told):
    annotation = row(TWICE, *told)
    if told[0] == ("A MAN", -1):  # another case is found, so it has a place
        annotation["phrases"][0] |= {"start": 0, "end": 5}
    back, unclear = there_and_back(annotation)
    assert unclear == 0
    assert placed(back) == placed(annotation)
    starts = [p["start"] for p in back["phrases"]]
    assert starts == sorted(s for s in starts if s >= 0) + [s for s in starts if s < 0]


def test_what_no_order_can_say_is_counted_and_read_as_the_first():
    annotation = row(TWICE, ("a red hat", 1))
    back, unclear = there_and_back(annotation)
    assert unclear == 1
    assert bits(back) == bits(annotation)
    assert back["phrases"][0]["start"] == TWICE.index("a red hat")
    # A word that was asked for everywhere and is in this caption all the same.
    assert there_and_back(row(TWICE, ("bag", -1)))[1] == 1


def test_regions_keep_their_order_unless_another_one_is_needed():
    own = row(TWICE, ("a bag", 0), ("a man", 0))
    assert to_sda(own, "x", 0)["phrases"] == ["a bag", "a man"]
    needed = row(TWICE, ("a red hat", 1), ("a man", 0), ("a bag", 0))
    assert to_sda(needed, "x", 0)["phrases"] == ["a man", "a bag", "a red hat"]


def test_words_come_before_parts_of_words_and_phrases_before_other_words():
    caption = "women and men, a manly man, red shirts, a shirt and the shirt"
    back, _ = there_and_back(row(caption, ("men", 1)))
    assert back["phrases"][0]["start"] == caption.index("men,")
    (said,) = parse(load_parser(), [caption])
    assert "the shirt" in [p.text for p in said]
    # "man" is a whole word once; "a man" is only the beginning of "a manly".
    assert from_sda_entry(caption, "man")["start"] == caption.index("man,")
    assert from_sda_entry(caption, "a man")["end"] == caption.index("ly man")


def from_sda_entry(caption, *texts):
    entry = {"boxes": [[0.5, 0.5, 1, 1]] * len(texts), "logits": [0.5] * len(texts)}
    return from_sda(entry | {"phrases": list(texts), "caption": caption})["phrases"][0]


def test_a_letter_that_grows_with_its_case_moves_no_other():
    caption = "İSTANBUL, A Red Hat"  # its first letter is two in lower case
    found = from_sda_entry(caption, "a red hat")
    assert (found["start"], found["end"]) == (10, 19)
    assert from_sda_entry(caption, "")["start"] == -1


def test_two_boxes_of_one_phrase_and_the_release_in_no_order():
    texts = ["a bag", "a man", "a bag", "a man"]
    entry = {"boxes": [[0.5, 0.5, 1, 1]] * 4, "logits": [0.5] * 4, "phrases": texts}
    back = from_sda(entry | {"caption": TWICE})
    assert [p["text"] for p in back["phrases"]] == ["a man", "a bag"]
    assert [r["phrase"] for r in back["regions"]] == [1, 0, 1, 0]


def test_a_text_that_is_no_phrase_of_its_caption_is_named_by_itself():
    first = from_sda_entry("walking", "a man in a red shirt")
    assert (first["head"], first["group"], first["start"]) == ("man", "person", -1)
    odd = from_sda_entry("walking", "striped red")
    assert (odd["head"], odd["colours"]) == ("red", ["red"])
    assert from_sda_entry("walking", "")["text"] == ""


def test_a_phrase_in_its_caption_is_read_as_the_parser_finds_it_there():
    caption = "her coat is white and she holds a striped umbrella"
    (said,) = parse(load_parser(), [caption])
    records = [p.record() for p in said]
    annotation = row(caption, *[(p["text"], 0) for p in records])
    back, _ = there_and_back(annotation)
    assert back["phrases"] == records
    assert back["phrases"][0]["colours"] == ["white"]  # which the text by itself does not say


@settings(deadline=None)  # The parser's first word of a kind takes its time.
@given(rows())
def test_a_row_is_read_back_or_counted(annotation):
    back, unclear = there_and_back(annotation)
    assert back["caption"] == annotation["caption"]
    assert bits(back) == bits(annotation)
    if not unclear:
        assert placed(back) == placed(annotation)
    told = [annotation["phrases"][region["phrase"]] for region in annotation["regions"]]
    low = annotation["caption"].lower()
    once = all(low.count(p["text"].lower()) == 1 for p in told if p["start"] >= 0)
    if once and annotation["caption"].isascii() and all(p["start"] >= 0 for p in told):
        assert unclear == 0
    for read in back["phrases"]:
        if read["start"] >= 0:
            assert len(read["text"]) == read["end"] - read["start"]
            there = back["caption"][read["start"] : read["end"]]
            assert there == read["text"] or [c.lower() for c in there] == [
                c.lower() for c in read["text"]
            ]
    again = there_and_back(back)
    assert again == (back, 0)  # what was read is written and read without a doubt


@settings(deadline=None)
@given(st.lists(rows(), max_size=4))
def test_many_are_read_as_one_by_one(annotations):
    entries = [to_sda(annotation, f"{n}.jpg", n) for n, annotation in enumerate(annotations)]
    assert from_sda_list(entries) == [from_sda(entry) for entry in entries]


# ------------------------------------------------------------------ the released loader


SHARE = st.floats(0, 1, width=32)


@given(SHARE, SHARE, SHARE, SHARE, st.integers(1, 500), st.integers(1, 500))
@example(0.5, 0.5, np.float32(1 / 48), 0.5, 48, 96)
@example(0.5, 0.5, np.nextafter(np.float32(1 / 48), np.float32(0)), 0.5, 48, 96)
def test_a_box_that_is_thick_enough_passes_the_released_loader(cx, cy, w, h, width, height):
    box = [shortest(value) for value in (cx, cy, w, h)]
    if thick_enough(box, width, height):
        released_pixels(box, width, height)
    else:
        assert min(box[2] * width, box[3] * height) < 1


def test_a_pixel_is_thick_enough():
    assert thick_enough([0.5, 0.5, 1 / 48, 1.0], 48, 96)
    assert not thick_enough([0.5, 0.5, 0.99 / 48, 1.0], 48, 96)
    assert not thick_enough([0.5, 0.5, 1.0, 0.99 / 96], 48, 96)


# ------------------------------------------------------------------ entries that are none


@pytest.mark.parametrize(
    "change",
    [
        {"boxes": [[0, 0, 1]]}, {"logits": []}, {"boxes": "0011"}, {"logits": ["1"]},
        {"boxes": [[0, 0, 1, None]]}, {"phrases": [1]}, {"phrases": None}, {"caption": None},
        {"boxes": [[0, 0, 1, True]]},
    ],
    ids=str,
)  # fmt: skip
def test_a_broken_entry_is_explained(change):
    entry = {"image": "x", "boxes": [[0, 0, 1, 1]], "logits": [1], "phrases": ["a"], "caption": "a"}
    with pytest.raises(PedAlignError, match="SDA entry 'x'"):
        from_sda(entry | change)
    for key in change:
        del entry[key]
    with pytest.raises(PedAlignError, match=f"no {next(iter(change))}"):
        from_sda(entry)


def test_an_entry_without_regions_is_one():
    entry = to_sda({"caption": "walking", "phrases": [], "regions": []}, "x.jpg", 0)
    assert (entry["boxes"], entry["logits"], entry["phrases"]) == ([], [], [])
    assert from_sda(entry) == {"caption": "walking", "phrases": [], "regions": [], "rejected": []}
