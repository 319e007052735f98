"""Where things are on a standing person: the prior of the embedded region proposer.

The body frame has its origin at the top of the head on the body's axis; its unit is the body's
height. A `Place` is a soft box in it. Proportions are those of a standing adult (a head is two
fifteenths of the height, the crotch is at half), widened for walking; nothing here was fitted to
photographs.

Parts are what the proposer separates in the picture; each query group belongs to one, and a head
noun may narrow it ("her left knee" is a place inside the part lower).
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Place:
    """A soft box in the body frame.

    Attributes:
        top: Upper edge.
        bottom: Lower edge.
        half: Half of the width.
        soft: How far the upper and lower edges wander, one standard deviation.
        weight: How much of it the thing covers, against other parts at the same place.
    """

    top: float
    bottom: float
    half: float
    soft: float = 0.02
    weight: float = 1.0


PARTS = ("background", "hair", "skin", "upper", "lower", "footwear", "carried", "hat", "accessory")
"""What a pixel may show. The last three exist only where a phrase names them."""

BODY: dict[str, Place] = {
    "hair": Place(0.00, 0.10, 0.065, 0.02, 1.0),
    "skin": Place(0.05, 0.165, 0.055, 0.02, 1.0),
    "upper": Place(0.165, 0.53, 0.150, 0.025, 1.0),
    "lower": Place(0.47, 0.955, 0.125, 0.03, 1.0),
    "footwear": Place(0.92, 1.00, 0.110, 0.02, 1.2),
    "carried": Place(0.20, 0.75, 0.20, 0.05, 0.35),
    "hat": Place(0.00, 0.075, 0.075, 0.012, 1.2),
    "accessory": Place(0.15, 0.55, 0.12, 0.05, 0.15),
}
"""The parts' places when no word says otherwise."""

_UPPER = {
    "dress": Place(0.17, 0.72, 0.155, 0.04),
    "gown": Place(0.17, 0.92, 0.155, 0.05),
    "robe": Place(0.17, 0.90, 0.155, 0.05),
    "jumpsuit": Place(0.17, 0.93, 0.14, 0.03),
    "romper": Place(0.17, 0.64, 0.14, 0.04),
    "bodysuit": Place(0.17, 0.60, 0.14, 0.05),
    "tracksuit": Place(0.17, 0.95, 0.15, 0.03),
    "uniform": Place(0.17, 0.93, 0.15, 0.06),
    "suit": Place(0.17, 0.93, 0.15, 0.06),
    "outfit": Place(0.17, 0.93, 0.15, 0.06),
    "clothes": Place(0.17, 0.93, 0.15, 0.06),
    "coat": Place(0.165, 0.67, 0.155, 0.05),
    "overcoat": Place(0.165, 0.68, 0.155, 0.05),
    "raincoat": Place(0.165, 0.66, 0.155, 0.05),
    "trenchcoat": Place(0.165, 0.68, 0.155, 0.05),
    "parka": Place(0.165, 0.62, 0.155, 0.04),
    "tunic": Place(0.17, 0.60, 0.15, 0.04),
    "jacket": Place(0.165, 0.545, 0.155, 0.03),
    "hoodie": Place(0.155, 0.55, 0.155, 0.03),
    "vest": Place(0.17, 0.53, 0.11, 0.03),
    "tank": Place(0.17, 0.52, 0.10, 0.02),
    "cape": Place(0.16, 0.50, 0.17, 0.05),
}
_LOWER = {
    "shorts": Place(0.46, 0.74, 0.115, 0.035),
    "skirt": Place(0.45, 0.72, 0.125, 0.05),
    "miniskirt": Place(0.45, 0.64, 0.115, 0.03),
    "trunks": Place(0.46, 0.74, 0.115, 0.03),
    "capris": Place(0.47, 0.84, 0.115, 0.03),
    "leggings": Place(0.48, 0.95, 0.11, 0.03),
    "tights": Place(0.60, 0.95, 0.11, 0.06),
    "stockings": Place(0.60, 0.95, 0.11, 0.06),
}
_FOOTWEAR = {
    "boot": Place(0.84, 1.00, 0.135, 0.03),
    "boots": Place(0.84, 1.00, 0.135, 0.03),
    "sock": Place(0.90, 0.97, 0.12, 0.02),
    "socks": Place(0.90, 0.97, 0.12, 0.02),
}
_CARRIED = {
    "backpack": Place(0.17, 0.47, 0.13, 0.03, 0.55),
    "rucksack": Place(0.17, 0.47, 0.13, 0.03, 0.55),
    "schoolbag": Place(0.17, 0.47, 0.13, 0.03, 0.55),
    "knapsack": Place(0.17, 0.47, 0.13, 0.03, 0.55),
    "handbag": Place(0.45, 0.74, 0.21, 0.04, 0.5),
    "purse": Place(0.36, 0.66, 0.20, 0.06, 0.45),
    "clutch": Place(0.38, 0.56, 0.18, 0.05, 0.3),
    "wallet": Place(0.38, 0.56, 0.18, 0.05, 0.3),
    "bag": Place(0.28, 0.70, 0.20, 0.07, 0.4),
    "tote": Place(0.35, 0.72, 0.20, 0.05, 0.45),
    "satchel": Place(0.25, 0.60, 0.17, 0.05, 0.45),
    "briefcase": Place(0.50, 0.76, 0.22, 0.04, 0.5),
    "suitcase": Place(0.55, 1.00, 0.30, 0.06, 0.4),
    "luggage": Place(0.55, 1.00, 0.30, 0.06, 0.4),
    "umbrella": Place(-0.10, 0.20, 0.30, 0.06, 0.4),
    "phone": Place(0.08, 0.50, 0.16, 0.05, 0.08),
    "book": Place(0.28, 0.55, 0.16, 0.05, 0.2),
    "skateboard": Place(0.40, 0.80, 0.22, 0.06, 0.3),
}
_ACCESSORY = {
    "belt": Place(0.375, 0.43, 0.08, 0.025, 0.35),
    "scarf": Place(0.13, 0.34, 0.075, 0.03, 0.6),
    "tie": Place(0.17, 0.42, 0.03, 0.02, 0.4),
    "necklace": Place(0.155, 0.26, 0.05, 0.02, 0.2),
    "gloves": Place(0.46, 0.58, 0.20, 0.03, 0.25),
    "watch": Place(0.45, 0.53, 0.20, 0.03, 0.1),
    "lanyard": Place(0.17, 0.42, 0.05, 0.03, 0.2),
}

WITHIN: dict[str, Place] = {
    "head": Place(0.00, 0.17, 0.075),
    "face": Place(0.045, 0.15, 0.05),
    "beard": Place(0.11, 0.16, 0.045),
    "mask": Place(0.09, 0.15, 0.05),
    "glasses": Place(0.050, 0.085, 0.042),
    "sunglasses": Place(0.050, 0.085, 0.042),
    "eyeglasses": Place(0.050, 0.085, 0.042),
    "goggles": Place(0.050, 0.085, 0.045),
    "nose": Place(0.08, 0.11, 0.02),
    "mouth": Place(0.11, 0.135, 0.025),
    "chin": Place(0.12, 0.15, 0.03),
    "forehead": Place(0.03, 0.07, 0.045),
    "eyes": Place(0.07, 0.09, 0.045),
    "ears": Place(0.07, 0.11, 0.07),
    "neck": Place(0.13, 0.18, 0.045),
    "headphones": Place(0.01, 0.12, 0.075),
    "earphones": Place(0.05, 0.25, 0.06),
    "hood": Place(0.00, 0.20, 0.085),
    "collar": Place(0.145, 0.20, 0.06),
    "shoulder": Place(0.17, 0.24, 0.14),
    "shoulders": Place(0.17, 0.24, 0.14),
    "chest": Place(0.20, 0.34, 0.11),
    "back": Place(0.18, 0.46, 0.12),
    "torso": Place(0.17, 0.50, 0.13),
    "body": Place(0.00, 1.00, 0.17),
    "waist": Place(0.40, 0.48, 0.10),
    "stomach": Place(0.34, 0.46, 0.10),
    "belly": Place(0.34, 0.46, 0.10),
    "arms": Place(0.20, 0.55, 0.17),
    "sleeves": Place(0.19, 0.48, 0.165),
    "hand": Place(0.46, 0.56, 0.18),
    "hands": Place(0.46, 0.56, 0.18),
    "palm": Place(0.46, 0.56, 0.18),
    "fist": Place(0.46, 0.56, 0.18),
    "finger": Place(0.48, 0.57, 0.18),
    "elbow": Place(0.33, 0.40, 0.16),
    "forearm": Place(0.34, 0.48, 0.17),
    "wrist": Place(0.44, 0.50, 0.17),
    "pocket": Place(0.44, 0.54, 0.13),
    "pockets": Place(0.44, 0.54, 0.13),
    "zipper": Place(0.18, 0.50, 0.03),
    "buttons": Place(0.20, 0.48, 0.03),
    "logo": Place(0.22, 0.36, 0.07),
    "letters": Place(0.22, 0.36, 0.08),
    "print": Place(0.22, 0.38, 0.08),
    "cartoon": Place(0.22, 0.38, 0.08),
    "legs": Place(0.50, 0.95, 0.12),
    "hips": Place(0.44, 0.54, 0.11),
    "thighs": Place(0.52, 0.70, 0.12),
    "knee": Place(0.70, 0.78, 0.10),
    "knees": Place(0.70, 0.78, 0.10),
    "calves": Place(0.76, 0.90, 0.11),
    "ankle": Place(0.91, 0.96, 0.11),
    "ankles": Place(0.91, 0.96, 0.11),
    "feet": Place(0.94, 1.00, 0.13),
    "foot": Place(0.94, 1.00, 0.13),
    "soles": Place(0.98, 1.00, 0.13),
}
"""Things that are a place on the body rather than a stretch of colour: boxed by layout alone."""

SETTLED = frozenset(
    ["head", "face", "body", "torso", "chest", "back", "shoulders", "arms", "legs", "feet", "hips"]
)
"""Places that layout alone settles; the others are too small or move too much."""

EYEWEAR = frozenset(["glasses", "sunglasses", "eyeglasses", "goggles"])
"""Places that are looked for among candidates all the same."""

KINDS = ("hair", "hat", "eyewear", "upper", "lower", "footwear", "carried", "accessory")
"""Kinds of things that are looked for among candidate boxes; see `kind_of`."""

_HAT_WORDS = "hat cap beanie helmet visor beret fedora turban headscarf hijab bandana headband"
HATS = frozenset(_HAT_WORDS.split())
"""Head nouns of the part hat."""

_TABLES = {
    "upper": _UPPER,
    "lower": _LOWER,
    "footwear": _FOOTWEAR,
    "carried": _CARRIED,
    "accessory": _ACCESSORY,
}

LONG_HAIR = Place(0.00, 0.27, 0.085, 0.05, 1.0)
ANY_HAIR = Place(0.00, 0.16, 0.075, 0.05, 1.0)
_TIED = frozenset(["ponytail", "braid", "braids", "pigtails"])


def words_of(text: str) -> frozenset[str]:
    """The lower-case words of a phrase, as `place_of` wants them."""
    return frozenset(text.lower().replace("-", " ").split())


def _entry(head: str) -> Place | None:
    return WITHIN.get(head) or WITHIN.get(head + "s") or WITHIN.get(head.removesuffix("s"))


def within(group: str, head: str) -> Place:
    """The place of something that is no part: a hand, a face, a person.

    Args:
        group: Group of the phrase.
        head: Head noun.
    """
    return _entry(head) or (WITHIN["head"] if group == "head" else Place(0, 1, 0.2))


def part_of(group: str, head: str) -> str | None:
    """The part of the picture that a phrase names.

    Args:
        group: Group of the phrase.
        head: Head noun.

    Returns:
        One of `PARTS`, or None where there is none: a person, a scene object, or a place.
    """
    if _entry(head):
        return None
    if group == "head":
        return "hat" if head in HATS else None
    return group if group in BODY else None


def kind_of(group: str, head: str) -> str:
    """How a phrase's thing is looked for.

    Args:
        group: Group of the phrase.
        head: Head noun.

    Returns:
        One of `KINDS`, ``person``, or ``place`` for what layout alone boxes.
    """
    if head in EYEWEAR:
        return "eyewear"
    return part_of(group, head) or ("person" if group == "person" else "place")


def known_places(kind: str) -> list[Place]:
    """Every place that the layout knows for a kind, the common one first."""
    if kind == "eyewear":
        return [WITHIN[head] for head in sorted(EYEWEAR)]
    extra = [ANY_HAIR, LONG_HAIR] if kind == "hair" else []
    return [BODY[kind], *extra, *_TABLES.get(kind, {}).values()]


def place_of(part: str, head: str, words: frozenset[str]) -> Place:
    """Where a part is, given the words of the phrase that names it.

    Args:
        part: One of the keys of `BODY`.
        head: Head noun.
        words: Lower-case words of the phrase.

    Returns:
        A place in the body frame.
    """
    if part == "hair":
        if "long" in words or head in _TIED:
            return LONG_HAIR
        if "shoulder" in words:
            return replace(LONG_HAIR, bottom=0.19)
        return BODY["hair"] if "short" in words else ANY_HAIR
    table = _TABLES.get(part, {})
    place = table.get(head) or table.get(head.removesuffix("s"))
    for word in sorted(words):  # "a tank top", "trench coat dress"
        place = place or table.get(word)
    place = place or BODY[part]
    if part in {"upper", "lower"}:
        if "long" in words and head not in {"pants", "trousers", "jeans"}:
            sleeves = "sleeved" in words or "sleeve" in words
            place = place if sleeves else replace(place, bottom=min(0.95, place.bottom + 0.12))
        if part == "lower" and "short" in words:
            place = replace(place, bottom=min(place.bottom, 0.70))
    if part == "carried" and words & {"luggage", "trolley", "rolling"}:
        place = _CARRIED["suitcase"]
    return place
