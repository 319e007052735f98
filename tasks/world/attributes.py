"""What a person of the built-in world is: a small record of visible attributes.

Everything that a caption may say about an identity and everything that the drawing needs to
show it is in `Person`; pose, view, camera and light belong to one image and are not here.
The colour names are eleven that people tell apart without training. Frequencies are skewed
as in a street (much black, grey and blue), so that people of one gallery share colours and
only the conjunction of attributes tells them apart.

The 27 attribute labels are those of MALS (Market-1501 Attribute), in its order: 0 is the
first prompt of a pair, 1 the second, -1 unknown (APTM release, `trains.py`).
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import numpy as np

COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "black": (30, 30, 34),
    "white": (242, 242, 240),
    "grey": (138, 140, 143),
    "red": (205, 28, 36),
    "orange": (243, 126, 24),
    "yellow": (246, 216, 48),
    "green": (38, 142, 62),
    "blue": (38, 84, 200),
    "purple": (124, 50, 168),
    "pink": (247, 148, 188),
    "brown": (106, 62, 32),
}
"""Colour name -> its sRGB anchor, 0-255; drawings jitter a little around it."""

HAIR_COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "black": (26, 23, 24),
    "brown": (98, 58, 30),
    "blond": (226, 188, 104),
    "grey": (172, 172, 176),
}
"""Hair colour name -> sRGB anchor."""

UPPER_KINDS: Final = (
    "t-shirt", "shirt", "sweater", "hoodie", "jacket", "coat", "tank top", "dress",
)  # fmt: skip
LOWER_KINDS: Final = ("trousers", "jeans", "shorts", "skirt")
PATTERNS: Final = ("plain", "striped", "checked", "logo")
SHOE_KINDS: Final = ("shoes", "boots")
HATS: Final = ("none", "cap", "beanie")
BAGS: Final = ("none", "backpack", "shoulder bag", "handbag")
SHORT_SLEEVES: Final = frozenset({"t-shirt", "tank top", "dress"})

_UPPER_WEIGHTS: Final = {
    "black": 16, "white": 14, "grey": 10, "red": 10, "blue": 12, "green": 8,
    "yellow": 7, "orange": 6, "purple": 6, "pink": 6, "brown": 5,
}  # fmt: skip
_LOWER_WEIGHTS: Final = {
    "black": 24, "blue": 16, "grey": 13, "brown": 9, "white": 9, "green": 6, "red": 5,
    "purple": 4, "pink": 4, "yellow": 4,
}  # fmt: skip
_JEANS_WEIGHTS: Final = {"blue": 7, "black": 2, "grey": 1}
_SHOE_WEIGHTS: Final = {"black": 8, "white": 8, "brown": 4, "red": 3, "grey": 2, "blue": 2}
_BAG_WEIGHTS: Final = {
    "black": 6, "red": 4, "blue": 4, "brown": 4, "yellow": 2, "green": 3, "white": 2, "pink": 2,
}  # fmt: skip
_HAT_WEIGHTS: Final = {"black": 4, "red": 3, "white": 3, "blue": 3, "yellow": 1, "green": 2}

_LOOKALIKE: Final[dict[str, frozenset[str]]] = {
    "black": frozenset({"black"}),
    "white": frozenset({"white"}),
    "grey": frozenset({"grey"}),
    "red": frozenset({"red", "orange", "pink"}),
    "orange": frozenset({"orange", "red", "yellow", "brown"}),
    "yellow": frozenset({"yellow", "orange"}),
    "green": frozenset({"green"}),
    "blue": frozenset({"blue", "purple"}),
    "purple": frozenset({"purple", "blue", "pink"}),
    "pink": frozenset({"pink", "red", "purple"}),
    "brown": frozenset({"brown", "orange", "black"}),
}
"""Colours too close to be told apart when one lies on the other (a bag on a coat)."""

MALS_ATTRIBUTES: Final = (
    "gender", "age", "hair", "hat", "backpack", "handbag", "bag", "sleeve", "lower length",
    "lower type",
    *(f"upper {c}" for c in ("black", "white", "red", "purple", "yellow", "blue", "green", "grey")),
    *(f"lower {c}" for c in (
        "black", "white", "purple", "yellow", "blue", "green", "pink", "grey", "brown",
    )),
)  # fmt: skip
"""Names of the 27 labels, in the order of MALS."""


@dataclass(frozen=True)
class Person:
    """The visible attributes of one identity; the same in all its images."""

    gender: str
    """woman | man"""
    skin: int
    """Skin tone, 0 (light) to 3 (dark). Never named in a caption."""
    build: float
    """Breadth of the body, 1 is average. Never named in a caption."""
    hair_colour: str
    """A key of `HAIR_COLOURS`."""
    hair_length: str
    """short | long"""
    hat: str
    """One of `HATS`."""
    hat_colour: str
    """A key of `COLOURS`, or none."""
    upper_kind: str
    """One of `UPPER_KINDS`; a dress is upper and lower garment at once."""
    upper_colour: str
    """A key of `COLOURS`."""
    upper_pattern: str
    """One of `PATTERNS`."""
    lower_kind: str
    """One of `LOWER_KINDS`, or dress."""
    lower_colour: str
    """A key of `COLOURS`; a dress repeats its upper colour."""
    shoe_kind: str
    """One of `SHOE_KINDS`."""
    shoe_colour: str
    """A key of `COLOURS`."""
    bag: str
    """One of `BAGS`."""
    bag_colour: str
    """A key of `COLOURS`, or none."""

    def labels(self) -> dict[str, str]:
        """Return the nameable attributes, flat: attribute name -> value."""
        hidden = ("skin", "build")
        return {k: v for k, v in vars(self).items() if k not in hidden}


def _pick(rng: np.random.Generator, weights: Mapping[str, float]) -> str:
    """Draw one key with probability proportional to its weight."""
    point = rng.random() * sum(weights.values())
    for key, weight in weights.items():
        point -= weight
        if point < 0:
            return key
    return key


def _without(weights: Mapping[str, float], banned: Collection[str]) -> dict[str, float]:
    return {k: w for k, w in weights.items() if k not in banned}


def sample_person(rng: np.random.Generator) -> Person:
    """Draw a person with street-like attribute frequencies.

    A bag never has a colour that vanishes against the garment behind it, nor trousers the
    colour of the top (a stranger could not tell where one ends), nor a hat that of the hair.

    Args:
        rng: Source of all randomness.

    Returns:
        A new person.
    """
    woman = rng.random() < 0.5
    upper_weights = {
        "t-shirt": 24, "shirt": 16, "sweater": 12, "hoodie": 12, "jacket": 14, "coat": 11,
        "tank top": 6, "dress": 14 if woman else 0,
    }  # fmt: skip
    upper_kind = _pick(rng, upper_weights)
    upper_colour = _pick(rng, _UPPER_WEIGHTS)
    patterns: dict[str, dict[str, float]] = {
        "t-shirt": {"plain": 5, "striped": 2, "logo": 3},
        "shirt": {"plain": 4, "striped": 2, "checked": 4},
        "sweater": {"plain": 5, "striped": 4},
        "hoodie": {"plain": 6, "logo": 3},
        "dress": {"plain": 6, "striped": 2, "checked": 1},
    }
    pattern = _pick(rng, patterns.get(upper_kind, {"plain": 1}))
    if upper_kind == "dress":
        lower_kind, lower_colour = "dress", upper_colour
    else:
        lower_kinds: dict[str, float] = {
            "trousers": 10,
            "jeans": 7,
            "shorts": 0 if upper_kind == "coat" else 6,
            "skirt": 6 if woman and upper_kind != "coat" else 0,
        }
        if upper_colour == "blue":
            lower_kinds["jeans"] = 3
        lower_kind = _pick(rng, lower_kinds)
        weights = _JEANS_WEIGHTS if lower_kind == "jeans" else _LOWER_WEIGHTS
        lower_colour = _pick(rng, _without(weights, {upper_colour}))
    carried = {"none": 8, "backpack": 6, "shoulder bag": 4, "handbag": 5 if woman else 2}
    if upper_kind == "tank top":
        carried["backpack"] = 0  # from behind it would hide the whole garment
    bag = _pick(rng, carried)
    near = _LOOKALIKE[upper_colour]
    if bag in ("handbag", "shoulder bag") or upper_kind == "coat":
        near = near | _LOOKALIKE[lower_colour]
    bag_colour = "none" if bag == "none" else _pick(rng, _without(_BAG_WEIGHTS, near))
    hair_colour = _pick(rng, {"black": 8, "brown": 7, "blond": 5, "grey": 2})
    hat = _pick(rng, {"none": 11, "cap": 3, "beanie": 2})
    return Person(
        gender="woman" if woman else "man",
        skin=int(rng.integers(4)),
        build=float(rng.uniform(0.92, 1.12)),
        hair_colour=hair_colour,
        hair_length="long" if rng.random() < (0.75 if woman else 0.06) else "short",
        hat=hat,
        hat_colour="none" if hat == "none" else _pick(rng, _without(_HAT_WEIGHTS, {hair_colour})),
        upper_kind=upper_kind,
        upper_colour=upper_colour,
        upper_pattern=pattern,
        lower_kind=lower_kind,
        lower_colour=lower_colour,
        shoe_kind=_pick(rng, {"shoes": 4, "boots": 0 if upper_kind == "coat" else 1}),
        shoe_colour=_pick(rng, _without(_SHOE_WEIGHTS, {lower_colour})),
        bag=bag,
        bag_colour=bag_colour,
    )


def belongs_to_target(person: Person) -> bool:
    """Tell whether an identity is reserved for the target data set.

    A hash of the nameable attributes gives a quarter of all possible people to the target and the
    others to everything else. So whatever the seeds, a model made on `batches` or on the source
    has not met anybody of the target, while every single attribute is as frequent on both sides.
    """
    text = "|".join(f"{k}={v}" for k, v in sorted(person.labels().items()))
    return hashlib.blake2b(text.encode(), digest_size=2).digest()[0] % 4 == 0


def sample_resident(rng: np.random.Generator, target: bool) -> Person:
    """Draw a person of the target (or one who is not)."""
    while belongs_to_target(person := sample_person(rng)) != target:
        pass
    return person


def near_twin(person: Person, rng: np.random.Generator) -> Person:
    """Return a person who differs from `person` in one or two nameable attributes.

    Upper colour and lower colour stay, so the pair can only be told apart by the rest.

    Args:
        person: The original.
        rng: Source of all randomness.

    Returns:
        Another valid person, never with the same `labels()`.
    """
    free = ("hair", "hat", "shoes", "bag", "pattern", "lower")
    while True:
        other = sample_person(rng)
        changes: dict[str, Any] = {"skin": other.skin, "build": other.build}
        count = 1 + int(rng.random() < 0.4)
        for what in rng.permutation(len(free))[:count]:
            match free[int(what)]:
                case "hair":
                    changes |= {"hair_colour": other.hair_colour, "hair_length": other.hair_length}
                case "hat" if other.hat_colour != person.hair_colour:
                    changes |= {"hat": other.hat, "hat_colour": other.hat_colour}
                case "shoes" if other.shoe_colour != person.lower_colour and (
                    other.shoe_kind,
                    person.upper_kind,
                ) != ("boots", "coat"):
                    changes |= {"shoe_kind": other.shoe_kind, "shoe_colour": other.shoe_colour}
                case "bag" if other.bag_colour not in _LOOKALIKE[person.upper_colour] | _LOOKALIKE[
                    person.lower_colour
                ] and not (other.bag == "backpack" and person.upper_kind == "tank top"):
                    changes |= {"bag": other.bag, "bag_colour": other.bag_colour}
                case "pattern" if other.upper_kind == person.upper_kind:
                    changes |= {"upper_pattern": other.upper_pattern}
                case "lower" if {other.lower_kind, person.lower_kind} <= {
                    "trousers",
                    "shorts",
                } and person.upper_kind != "coat":
                    changes |= {"lower_kind": other.lower_kind}
                case _:
                    pass
        twin = dataclasses.replace(person, **changes)
        if twin.labels() != person.labels() and twin.hat_colour != twin.hair_colour:
            return twin


def mals_labels(person: Person, mentioned: Collection[str] | None = None) -> list[int]:
    """Return the 27 labels of MALS for a person.

    MALS labels by keywords of the caption: what a caption does not mention is unknown.

    Args:
        person: The person.
        mentioned: Attribute groups that the caption names (gender, hair, hat, upper, lower,
            bag); None labels everything.

    Returns:
        27 values of 0, 1 or -1 in the order of `MALS_ATTRIBUTES`.
    """

    def known(group: str, first: bool) -> int:
        if mentioned is not None and group not in mentioned:
            return -1
        return 0 if first else 1

    short_legs = person.lower_kind in ("shorts", "skirt", "dress")
    values = [
        known("gender", person.gender == "woman"),
        known("gender", False),  # every person of this world is an adult
        known("hair", person.hair_length == "short"),
        known("hat", person.hat != "none"),
        known("bag", person.bag == "backpack"),
        known("bag", person.bag == "handbag"),
        known("bag", person.bag == "shoulder bag"),
        known("upper", person.upper_kind not in SHORT_SLEEVES),
        known("lower", not short_legs),
        known("lower", person.lower_kind in ("skirt", "dress")),
    ]
    for name in MALS_ATTRIBUTES[10:]:
        group, colour = name.split(" ")
        value = person.upper_colour if group == "upper" else person.lower_colour
        values.append(known(group, value == colour))
    return values
