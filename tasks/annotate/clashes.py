"""What is wrong when two phrases name one place: nothing, a repetition, or a contradiction.

Captions name a thing twice ("a red shirt ... the shirt"), things lie on each other (a jacket over a
shirt) and on the body (gloves on hands): such phrases share a place and both keep it. What one
place cannot be is another part of the person, or the same part in another colour or on the other
side. Two words that no caption names (``phrases: words``) are rivals for a place: it gets one.
Words alone decide; the picture has had its say in the scores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from models.colour import palette_indices
from tasks.phrases.lexicon import wordset

if TYPE_CHECKING:
    from tasks.phrases import Phrase

Clash = Literal["", "duplicate", "contradiction"]

_COVERING = wordset(
    """dress gown robe burqa kimono jumpsuit bodysuit tracksuit uniform suit outfit clothes
    clothing attire apparel costume garment sportswear wear coat overcoat raincoat trenchcoat
    cloak cape poncho scrubs overall overalls romper pantsuit"""
)
"""Garments that can reach from neck to feet, so that their box is the person's."""
_BODY = wordset(
    """head face neck hand hands wrist wrists finger fingers arm arms elbow shoulder shoulders
    chest waist hip hips leg legs knee knees ankle ankles ear ears eye eyes"""
)
_ON_BODY = frozenset({"accessory", "hair", "head"})
"""Groups of what grows on the body or is worn on a part of it."""
_KINDS = tuple(
    wordset(words)
    for words in (
        "hat cap beanie helmet beret fedora visor hood turban",
        "glasses glass eyeglasses sunglasses spectacles goggles",
        "mask facemask",
        "headphone earphone headset earbud",
        "beard mustache moustache goatee stubble",
        """bag backpack rucksack knapsack schoolbag satchel handbag purse tote briefcase pouch pack
        bagpack fannypack sack messenger""",
        "suitcase luggage trolley",
        "phone cellphone smartphone mobile iphone",
        "book notebook magazine newspaper folder document paper",
        "umbrella parasol",
        "bottle cup can mug jar drink coffee",
        "belt sash",
        "necklace chain pendant",
        "scarf kerchief",
        "tie necktie bowtie",
        "watch wristwatch bracelet wristband bangle",
        "glove mitten",
    )
)
"""Things of the groups head, carried and accessory: one is never at the very place of another, as a
garment may be. What is in none may be anything."""
_SHADE = {"dark": -1, "deep": -1, "light": 1, "pale": 1, "bright": 1}
_TELLING = ("side", "gender")
"""Kinds of attributes of which all that is at one place has the same value."""
_OF_ONE = ("sleeve", "length", "age")
"""Kinds of which one and the same thing has one value: a vest over a long-sleeved shirt has not."""


def clash(one: Phrase, other: Phrase) -> Clash:
    """Say what is wrong if two phrases name the same place; their order does not matter."""
    if _folded(one) == _folded(other) or _same_mention(one, other):
        return "duplicate"
    if one.start < 0 and other.start < 0:  # no caption says that both are there
        return "contradiction"
    if one.group != other.group:
        return "" if _worn(one, other) or _worn(other, one) else "contradiction"
    kinds = _TELLING + _OF_ONE if one.head == other.head else _TELLING
    same = (
        _agree(one.colours, other.colours)
        and all(_alike(one, other, kind) for kind in kinds)
        and _kind(one.head) & _kind(other.head)
    )
    return "" if same else "contradiction"


def _folded(phrase: Phrase) -> list[str]:
    return phrase.text.lower().split()


def _same_mention(one: Phrase, other: Phrase) -> bool:
    """Whether both are of one noun in the caption: "a red shirt" and "shirt", as detectors cut."""
    return 0 <= one.start < other.end and 0 <= other.start < one.end and one.head == other.head


def _kind(head: str) -> int:
    """The kinds of things that a noun can be of, a bit each; all of them for one in no list."""
    names = {head, head.removesuffix("s"), head.removesuffix("es")}
    return next((1 << n for n, kind in enumerate(_KINDS) if kind & names), (1 << len(_KINDS)) - 1)


def _worn(over: Phrase, under: Phrase) -> bool:
    """Whether the first covers the second, so that they are at one place by right."""
    if under.group == "person":
        return over.head in _COVERING
    return under.head in _BODY and over.group in _ON_BODY


def _agree(some: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """Whether one thing can be called both: "dark blue" and "navy", not "dark" and "light blue"."""
    pairs = [(a.split(), b.split()) for a in some for b in others]
    return not pairs or any(
        (palette_indices(a) or a[-1:]) == (palette_indices(b) or b[-1:])
        and _SHADE.get(a[0], 0) * _SHADE.get(b[0], 0) >= 0
        for a, b in pairs
    )


def _alike(one: Phrase, other: Phrase, kind: str) -> bool:
    """Whether two phrases agree on a kind of attribute, or one of them says nothing."""
    some = {value for k, value in one.attributes if k == kind}
    others = {value for k, value in other.attributes if k == kind}
    return not some or not others or bool(some & others)
