"""How the second target's writers describe a picture: one long caption, thorough and careful.

Everything that is seen of a person is named, nearly nothing is left out; there are three or four
whole sentences in one order (who and what they do, clothes from top to bottom, what they carry),
without hedges, telegrams or slips. Half the words are others than those of the first target.

A caption says only what is true of the person and seen in the drawing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tasks.world.captions import listed, visible_groups, with_article

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from tasks.world.attributes import Person
    from tasks.world.drawing import Drawing

COLOUR_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "black": ("black", "black", "solid black", "ebony"),
    "white": ("white", "white", "plain white", "ivory"),
    "grey": ("grey", "grey", "ashen grey"),
    "red": ("red", "red", "crimson", "vivid red"),
    "orange": ("orange", "orange", "vivid orange"),
    "yellow": ("yellow", "yellow", "golden yellow"),
    "green": ("green", "green", "emerald", "vivid green"),
    "blue": ("blue", "blue", "deep blue", "royal blue"),
    "purple": ("purple", "violet", "deep purple"),
    "pink": ("pink", "pink", "rosy pink"),
    "brown": ("brown", "brown", "chestnut"),
    "blond": ("blond", "golden blond", "fair"),
}
"""Colour -> what the second target's writers call it."""

GARMENT_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "t-shirt": ("t-shirt", "short sleeved tee"),
    "shirt": ("collared shirt", "long sleeved buttoned shirt"),
    "sweater": ("pullover", "jumper", "sweater"),
    "hoodie": ("hooded sweatshirt", "hoodie"),
    "jacket": ("jacket", "zipped jacket"),
    "coat": ("long overcoat", "long coat"),
    "tank top": ("sleeveless vest", "tank top"),
    "dress": ("short sleeved frock", "knee length frock"),
    "trousers": ("long trousers", "trousers", "slacks"),
    "jeans": ("denims", "jeans"),
    "shorts": ("shorts", "bermudas"),
    "skirt": ("skirt", "knee length skirt"),
    "shoes": ("shoes", "sneakers", "low shoes"),
    "boots": ("boots", "high boots"),
    "cap": ("baseball cap", "cap with a brim"),
    "beanie": ("winter hat", "woolly hat"),
    "backpack": ("rucksack", "knapsack", "backpack"),
    "shoulder bag": ("cross body bag", "satchel", "messenger bag"),
    "handbag": ("handbag", "purse"),
}
"""Thing -> what the second target's writers call it."""

_PEOPLE: Final = {
    "woman": ("woman", "woman", "female pedestrian", "young lady"),
    "man": ("man", "man", "male pedestrian", "young man"),
}
_WORN: Final = {"backpack": "on {his} back", "shoulder bag": "across {his} body",
                "handbag": "in {his} hand"}  # fmt: skip
_LEFT_OUT: Final = {"hair": 0.12, "shoes": 0.12, "bag": 0.04, "hat": 0.05}


def _choose(rng: np.random.Generator, words: Sequence[str]) -> str:
    return words[int(rng.integers(len(words)))]


def _thing(rng: np.random.Generator, kind: str, colour: str) -> str:
    return f"{_choose(rng, COLOUR_WORDS[colour])} {_choose(rng, GARMENT_WORDS[kind])}"


def _upper(person: Person, drawing: Drawing, rng: np.random.Generator) -> str:
    """Name the upper garment with its pattern; a logo only where its side is seen."""
    words = _thing(rng, person.upper_kind, person.upper_colour)
    match person.upper_pattern:
        case "striped":
            return f"{with_article(words)} with {_choose(rng, ('stripes', 'stripes across'))}"
        case "checked":
            return with_article(f"{_choose(rng, ('checked', 'plaid'))} {words}")
        case "logo" if drawing.view.startswith("front"):
            return f"{with_article(words)} with {_choose(rng, ('a logo', 'a print'))} on the chest"
        case _:
            return with_article(words)


def _doing(drawing: Drawing, rng: np.random.Generator) -> str:
    """Say what somebody does and from which side they are seen."""
    side = next((word for word in ("front", "back") if drawing.view.startswith(word)), "side")
    seen = {
        "front": (", seen from the front", " with the front to the camera"),
        "back": (", seen from the back", " with the back to the camera"),
        "side": (", seen from one side", " with one side to the camera"),
    }[side]
    return f"{drawing.action}{_choose(rng, seen)}"


def describe_at_length(person: Person, drawing: Drawing, rng: np.random.Generator) -> str:
    """Write a caption of the second target.

    Args:
        person: Who.
        drawing: The picture; the caption keeps to what is seen in it.
        rng: Source of all randomness.

    Returns:
        About 35 words.
    """
    groups = visible_groups(person, drawing)
    groups -= {group for group, odds in _LEFT_OUT.items() if rng.random() < odds}
    he, his = ("she", "her") if person.gender == "woman" else ("he", "his")
    who = with_article(_choose(rng, _PEOPLE[person.gender]))
    if "hair" in groups:
        length, colour = person.hair_length, _choose(rng, COLOUR_WORDS[person.hair_colour])
        who += f" with {length} {colour} hair"
    first = f"{who} is {_doing(drawing, rng)}"
    clothes = [_upper(person, drawing, rng)]
    if "lower" in groups:
        clothes.append(_thing(rng, person.lower_kind, person.lower_colour))
        if person.lower_kind == "skirt":
            clothes[-1] = with_article(clothes[-1])
    shoes = _thing(rng, person.shoe_kind, person.shoe_colour) if "shoes" in groups else ""
    apart = rng.random() < 0.6
    clothes += [shoes] if shoes and not apart else []
    sentences = [first, f"{he} {_choose(rng, ('wears', 'is dressed in'))} {listed(clothes)}"]
    if shoes and apart:
        sentences.append(f"{his} footwear is a pair of {shoes}")
    more = []
    if "hat" in groups:
        hat = with_article(_thing(rng, person.hat, person.hat_colour))
        more.append(f"{he} also has on {hat}")
    if "bag" in groups:
        bag = with_article(_thing(rng, person.bag, person.bag_colour))
        more.append(f"{he} carries {bag} {_WORN[person.bag].format(his=his)}")
    sentences += [" and ".join(more)] if more else []
    return " ".join(f"{s[0].upper()}{s[1:]}." for s in sentences)
