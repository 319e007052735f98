"""Attributes of phrases, worked out by hand."""

import pytest

from tasks.phrases.attributes import KINDS, Attribute, attributes_of
from tasks.phrases.wordings import OF_GROUP, OF_HEAD, WORDINGS


def said(phrases_in, caption):
    """What is said of each phrase: "kind value" in order."""
    return {
        phrase.text: [f"{kind} {value}" for kind, value in phrase.attributes]
        for phrase in phrases_in(caption)
    }


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        ("a black and white striped shirt", ["pattern striped"]),
        ("a stripped polo, stripy", ["pattern striped"]),
        ("a chequered wool coat", ["pattern checkered", "material wool"]),
        ("a red polka dot dress", ["pattern polka-dot"]),
        ("a grey pure color blouse", ["pattern plain"]),
        ("blue denim shorts", ["material denim"]),
        ("jean shorts", ["material denim"]),
        ("a knee-length skirt", ["length knee-length"]),
        ("a knee length skirt", ["length knee-length"]),
        ("ankle boots", ["length ankle-length"]),
        ("a long sleeved shirt", ["sleeve long-sleeved"]),
        ("a short - sleeve t - shirt", ["sleeve short-sleeved"]),
        ("long sleeves", ["sleeve long-sleeved"]),
        ("a sleeveless v-neck top", ["sleeve sleeveless", "neck v-neck"]),
        ("loose fitting trousers", ["fit loose"]),
        ("skinny jeans", ["fit skinny"]),
        ("a skinny man", ["build thin", "gender male"]),
        ("a short woman", ["build short", "gender female"]),
        ("a short coat", ["length short"]),
        ("a thick, loose hair", ["detail thick", "state loose"]),
        ("a zip-up hooded sweatshirt", ["closure zipped", "detail hooded"]),
        ("high heels", ["detail high-heeled"]),
        ("her left hand", ["side left"]),
        ("2 dark bags", ["count two", "tone dark"]),
        ("a dark blue bag", []),
        ("a pair of ripped jeans", ["count pair", "detail ripped"]),
        ("a number 7 jersey", []),
        ("an old man", ["age old", "gender male"]),
        ("an old coat", ["state old"]),
        ("a middle aged lady", ["age middle-aged", "gender female"]),
        ("a child", ["age child"]),
        ("a checkred coat", ["pattern checkered"]),
        ("a flat cap", []),
        ("flat shoes", ["detail flat"]),
    ],
)  # fmt: skip
def test_attributes_in_a_phrase(phrases_in, caption, wanted):
    assert next(iter(said(phrases_in, caption).values())) == wanted


@pytest.mark.parametrize(
    ("caption", "phrase", "wanted"),
    [
        ("his shirt is striped and long sleeved .", "his shirt",
         ["pattern striped", "sleeve long-sleeved"]),
        ("Her hair is long , yellow and curly", "Her hair", ["length long", "shape curly"]),
        ("a coat , which is unbuttoned ,", "a coat", ["closure unbuttoned"]),
        ("a bag made of brown leather", "a bag", ["material leather"]),
        ("a jacket zipped up to the neck", "a jacket", ["closure zipped"]),
        ("a shirt that is very loose", "a shirt", ["fit loose"]),
        ("The woman is young and slim .", "The woman",
         ["age young", "build slim", "gender female"]),
        ("his shirt is white and black pants", "his shirt", []),
        ("The man is a student in loose trousers", "The man", ["gender male"]),
        ("his shirt is not striped", "his shirt", []),
        ("a man in loose trousers", "a man", ["gender male"]),
        ("dressed in black , his shoes", "his shoes", []),
    ],
)  # fmt: skip
def test_attributes_said_after_it(phrases_in, caption, phrase, wanted):
    assert said(phrases_in, caption)[phrase] == wanted


def test_colours_of_a_longer_predicate(phrases_in):
    shirt, pants = phrases_in("his shirt is white and black pants")
    assert shirt.colours == ("white",)
    assert pants.text == "white and black pants"
    (bag,) = phrases_in("a bag which is made of dark brown leather")
    assert bag.colours == ("dark brown",)
    assert bag.attributes == (Attribute("material", "leather"),)


def test_the_tables_are_of_the_closed_set():
    assert set(WORDINGS) <= set(KINDS)
    assert {kind for own in OF_GROUP.values() for kind in own} <= set(KINDS)
    for head in ["man", "woman", "child", "teenager", "elder"]:
        (attribute,) = attributes_of((head,), 0, head, "person")
        assert attribute.value in OF_HEAD
    assert attributes_of((), 0, "", "upper") == ()
