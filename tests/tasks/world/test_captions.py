"""Captions are checked against words of this file's own, not against the grammar's tables."""

import re

import numpy as np
import pytest

from tasks.world.attributes import sample_person
from tasks.world.captions import compose, describe
from tasks.world.drawing import draw

# What a word says about colour; several may fit one word ("dark" says nothing).
COLOUR_OF = {
    "black": "black", "jet": "black", "white": "white", "off": "white", "grey": "grey",
    "gray": "grey", "ash": "grey", "red": "red", "scarlet": "red", "orange": "orange",
    "yellow": "yellow", "mustard": "yellow", "green": "green", "emerald": "green", "blue": "blue",
    "royal": "blue", "navy": "blue", "purple": "purple", "violet": "purple", "pink": "pink",
    "rose": "pink", "brown": "brown", "chocolate": "brown", "blond": "blond", "blonde": "blond",
    "fair": "blond", "tan": "brown", "beige": "brown", "maroon": "red",
}  # fmt: skip
# Words that, when read, commit the speaker to a thing.
KIND_OF = {
    "jeans": {"jeans"}, "denim": {"jeans"}, "trousers": {"trousers"}, "slacks": {"trousers"},
    "shorts": {"shorts"}, "skirt": {"skirt"}, "dress": {"dress"}, "coat": {"coat"},
    "overcoat": {"coat"}, "jacket": {"jacket"}, "hoodie": {"hoodie"}, "hooded": {"hoodie"},
    "sweatshirt": {"hoodie"}, "sweater": {"sweater"}, "pullover": {"sweater"},
    "jumper": {"sweater"}, "tank": {"tank top"}, "sleeveless": {"tank top"}, "tee": {"t-shirt"},
    "boots": {"boots"}, "sneakers": {"shoes"}, "trainers": {"shoes"}, "backpack": {"backpack"},
    "rucksack": {"backpack"}, "messenger": {"shoulder bag"}, "purse": {"handbag"},
    "handbag": {"handbag"}, "cap": {"cap", "beanie"}, "beanie": {"beanie"}, "woolly": {"beanie"},
    "baseball": {"cap"}, "knit": {"beanie"}, "brim": {"cap"},
}  # fmt: skip
WOMEN = {"woman", "lady", "girl", "female", "she", "her"}
MEN = {"man", "guy", "male", "gentleman", "he", "his", "boy"}


def pairs(n, style, seed=0):
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        person = sample_person(rng)
        drawing = draw(person, rng, (96, 48))
        yield person, drawing, compose(person, style, rng, drawing)


@pytest.mark.parametrize("style", ["source", "target"])
def test_no_word_contradicts_the_person(style):
    for person, _, caption in pairs(500, style):
        words = set(re.findall(r"[a-z]+", caption.text.lower()))
        labels = person.labels()
        colours = {v for k, v in labels.items() if k.endswith("colour")}
        for word in words & set(COLOUR_OF):
            assert COLOUR_OF[word] in colours, caption.text
        kinds = set(labels.values())
        for word in words & set(KIND_OF):
            assert KIND_OF[word] & kinds, caption.text
        assert not words & (MEN if person.gender == "woman" else WOMEN), caption.text
        if words & {"striped", "stripy"}:
            assert person.upper_pattern == "striped"
        if words & {"checked", "plaid", "checkered"}:
            assert person.upper_pattern == "checked"
        if words & {"logo", "print", "picture", "design"}:
            assert person.upper_pattern == "logo"


def adjacent(text, noun):
    """Return the colour words directly before or, with "in", after a noun."""
    before = re.findall(rf"([a-z]+) (?:(?:striped|checked) )?{noun}\b", text)
    before += re.findall(rf"([a-z]+) {noun}\b", text)
    return {COLOUR_OF[w] for w in before if w in COLOUR_OF}


def test_each_thing_has_its_own_colour_in_source_captions():
    """A colour that stands at a thing is that thing's, not another's."""
    checked = 0
    for person, _, caption in pairs(500, "source"):
        for noun, colour in (
            (person.upper_kind, person.upper_colour),
            (person.lower_kind, person.lower_colour),
            (person.shoe_kind, person.shoe_colour),
            (person.bag, person.bag_colour),
            ("hair", person.hair_colour),
        ):
            found = adjacent(caption.text, noun)
            assert found <= {colour}, caption.text
            checked += len(found)
    assert checked > 1000


def test_the_clothes_are_always_named():
    for person, _, caption in pairs(200, "target"):
        assert "upper" in caption.mentioned
        assert ("hat" in caption.mentioned) <= (person.hat != "none")
        assert ("bag" in caption.mentioned) <= (person.bag != "none")
        assert "lower" not in caption.mentioned or person.lower_kind != "dress"


def test_what_cannot_be_seen_is_not_said():
    for i in range(40):
        rng = np.random.default_rng([5, i])
        person = sample_person(rng)
        wall = [([(0, 86), (96, 86), (96, 192), (0, 192)], (90, 90, 90))]
        drawing = draw(person, rng, foreground=wall)
        for style in ("source", "target"):
            caption = compose(person, style, rng, drawing)
            assert "shoes" not in caption.mentioned
            assert not re.search(r"shoes|sneakers|boots|trainers", caption.text.lower())


def test_where_somebody_looks_is_true():
    for _, drawing, caption in pairs(600, "target"):
        text = caption.text.lower()
        if "facing away" in text:
            assert drawing.view.startswith("back")
        if "facing the camera" in text or "facing forward" in text:
            assert drawing.view.startswith("front")
        if "walking" in text:
            assert drawing.action == "walking"


def test_the_two_styles_differ_as_in_life():
    source = [c.text for _, _, c in pairs(400, "source")]
    target = [c.text for _, _, c in pairs(400, "target")]

    def words(texts):
        return [re.findall(r"[a-z'-]+", t.lower()) for t in texts]

    def length(texts):
        return np.mean([len(t.split()) for t in texts])

    def vocabulary(texts):
        return {w for t in words(texts) for w in t}

    assert 12 <= length(source) <= 20
    assert 20 <= length(target) <= 26
    assert len(vocabulary(target)) > 2 * len(vocabulary(source))
    assert all(t == t.lower() and "." not in t for t in source)
    starts = [t.split()[0] for t in source]
    assert set(starts) <= {"a", "an"}
    assert 0.5 < np.mean([t[0].isupper() for t in target]) < 0.97
    assert np.mean([t.count(".") >= 2 for t in target]) > 0.4


def test_captions_follow_from_the_seed_and_vary_with_it():
    person = sample_person(np.random.default_rng(0))
    for style in ("source", "target"):
        one, same = (describe(person, style, np.random.default_rng(1)) for _ in range(2))
        assert one == same
    many = {describe(person, "target", np.random.default_rng(i)) for i in range(60)}
    assert len(many) > 50


def test_no_caption_is_malformed():
    for style in ("source", "target"):
        for _, _, caption in pairs(300, style, seed=9):
            assert "  " not in caption.text
            assert "{" not in caption.text
            assert "none" not in caption.text.lower().split()
            assert not re.search(r"\ba [aeio]\w+", caption.text) or "one" in caption.text
            assert caption.text == caption.text.strip()
