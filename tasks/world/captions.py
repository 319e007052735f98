"""Says a person of the built-in world in words, in the two styles that real data have.

- source: what a captioner writes: one clean lower-case sentence, attributes in a fixed order, the
  plain name of each thing;
- target: what annotators write: two or three sentences in any order, synonyms, hedges, things
  left out, and now and then no capitals, no full stops or a slip of the keyboard.

A caption says only what is true of the person and, where a drawing is given, only what can be seen
in it. The words here and a parser's lexicon are kept apart on purpose: a parser that read this
grammar backwards would prove nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from tasks.world.attributes import Person
    from tasks.world.drawing import Drawing

Style = Literal["source", "target"]

COLOUR_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "black": ("black", "black", "black", "black", "black", "dark black", "jet black"),
    "white": ("white", "white", "white", "white", "white", "bright white", "off-white"),
    "grey": ("grey", "gray", "gray", "ash gray"),
    "red": ("red", "red", "red", "bright red", "scarlet"),
    "orange": ("orange", "orange", "bright orange"),
    "yellow": ("yellow", "yellow", "bright yellow", "mustard yellow"),
    "green": ("green", "green", "dark green", "emerald green"),
    "blue": ("blue", "blue", "blue", "royal blue", "bright blue"),
    "purple": ("purple", "purple", "violet"),
    "pink": ("pink", "pink", "light pink", "rose pink"),
    "brown": ("brown", "brown", "brown", "dark brown", "chocolate brown"),
    "blond": ("blond", "blonde", "fair"),
}
"""Colour -> what people call it."""

GARMENT_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "t-shirt": (
        "t-shirt",
        "t-shirt",
        "tee shirt",
        "tee",
        "short sleeved shirt",
        "short sleeve top",
    ),
    "shirt": ("shirt", "button up shirt", "long sleeved shirt", "buttoned shirt", "collared shirt"),
    "sweater": ("sweater", "sweater", "pullover", "jumper", "long sleeved top"),
    "hoodie": ("hoodie", "hoodie", "hooded sweatshirt", "hooded top"),
    "jacket": ("jacket", "jacket", "zip-up jacket", "zipped jacket", "zip up top"),
    "coat": ("coat", "coat", "long coat", "overcoat", "knee length coat"),
    "tank top": ("tank top", "tank top", "sleeveless top", "sleeveless shirt"),
    "dress": ("dress", "dress", "short sleeved dress", "knee length dress"),
    "trousers": ("trousers", "pants", "pants", "slacks", "long pants"),
    "jeans": ("jeans", "jeans", "denim jeans", "denim pants"),
    "shorts": ("shorts", "shorts", "short pants", "knee length shorts"),
    "skirt": ("skirt", "skirt", "knee length skirt"),
    "shoes": ("shoes", "shoes", "sneakers", "trainers", "sports shoes"),
    "boots": ("boots", "boots", "tall boots", "high boots"),
    "cap": ("cap", "cap", "baseball cap", "hat with a brim"),
    "beanie": ("beanie", "knit cap", "woolly hat", "winter hat"),
    "backpack": ("backpack", "backpack", "rucksack", "back pack", "bag on {his} back"),
    "shoulder bag": ("shoulder bag", "messenger bag", "cross body bag", "bag over {his} shoulder"),
    "handbag": ("handbag", "hand bag", "purse", "bag in {his} hand"),
}
"""Thing -> what people call it; `{his}` is filled with the possessive."""

_PEOPLE: Final = {
    "woman": ("woman", "woman", "lady", "girl", "young woman", "female", "person", "pedestrian"),
    "man": ("man", "man", "guy", "young man", "male", "gentleman", "person", "pedestrian"),
}
_PLURAL: Final = frozenset({"trousers", "jeans", "shorts", "shoes", "boots"})
_HEDGES: Final = ("what looks like", "what appears to be", "what seems to be")
_PATTERN_WORDS: Final = {
    "striped": ("striped", "stripy", "horizontally striped"),
    "checked": ("checked", "plaid", "checkered"),
}


@dataclass(frozen=True)
class Caption:
    """A caption and what it speaks of."""

    text: str
    mentioned: frozenset[str]
    """Attribute groups: gender, hair, hat, upper, lower, shoes, bag."""


def _choose(rng: np.random.Generator, words: Sequence[str]) -> str:
    return words[int(rng.integers(len(words)))]


def with_article(words: str) -> str:
    """Put a or an before words."""
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def visible_groups(person: Person, drawing: Drawing | None) -> set[str]:
    """Return the groups that can be spoken of."""
    groups = {"gender", "hair", "hat", "upper", "lower", "shoes", "bag"}
    if person.hat == "none":
        groups -= {"hat"}
    if person.bag == "none":
        groups -= {"bag"}
    if person.lower_kind == "dress":
        groups -= {"lower"}
    if drawing is not None:
        parts = {"hair": "hair", "hat": "hat", "shoes": "footwear", "bag": "bag", "lower": "lower"}
        groups -= {group for group, part in parts.items() if part not in drawing.boxes}
    return groups


class _Speaker:
    """Puts one person into phrases, with one choice of pronouns for the whole caption."""

    def __init__(
        self, person: Person, drawing: Drawing | None, rng: np.random.Generator, plain: bool
    ) -> None:
        self.person, self.drawing, self.rng, self.plain = person, drawing, rng, plain
        woman = person.gender == "woman"
        self.he, self.his = ("she", "her") if woman else ("he", "his")

    def colour(self, name: str) -> str:
        return name if self.plain else _choose(self.rng, COLOUR_WORDS[name])

    def thing(self, name: str) -> str:
        if self.plain:
            return name
        return _choose(self.rng, GARMENT_WORDS[name]).format(his=self.his)

    def noun(self, name: str, colour: str, pattern: str = "plain", hedge: bool = True) -> str:
        """Return a noun phrase with its article: a red striped shirt, black shoes."""
        rng, thing, hue = self.rng, self.thing(name), self.colour(colour)
        seen_logo = pattern == "logo" and (
            self.drawing is None or self.drawing.view in ("front", "front left", "front right")
        )
        if pattern in _PATTERN_WORDS:
            word = pattern if self.plain else _choose(rng, _PATTERN_WORDS[pattern])
            phrase = f"{hue} {word} {thing}" if rng.random() < 0.6 else f"{word} {hue} {thing}"
        elif not self.plain and rng.random() < 0.08:
            phrase = f"{thing} in {hue}" if " " not in thing else f"{hue} colored {thing}"
        else:
            phrase = f"{hue} {thing}"
        if name in _PLURAL:
            pair = "" if self.plain or rng.random() < 0.8 else "a pair of "
            phrase = pair + phrase
        else:
            phrase = with_article(phrase)
        if seen_logo and (self.plain or rng.random() < 0.6):
            mark = "logo" if self.plain else _choose(rng, ("logo", "print", "design", "picture"))
            phrase += f" with a {mark}" if self.plain else f" with a {mark} on the front"
        if hedge and not self.plain and rng.random() < 0.06:
            phrase = f"{_choose(rng, _HEDGES)} {phrase}"
        return phrase

    def upper(self) -> str:
        p = self.person
        return self.noun(p.upper_kind, p.upper_colour, p.upper_pattern)

    def lower(self) -> str:
        return self.noun(self.person.lower_kind, self.person.lower_colour)

    def shoes(self) -> str:
        return self.noun(self.person.shoe_kind, self.person.shoe_colour)

    def bag(self) -> str:
        return self.noun(self.person.bag, self.person.bag_colour)

    def hat(self) -> str:
        return self.noun(self.person.hat, self.person.hat_colour)

    def hair(self) -> str:
        return f"{self.person.hair_length} {self.colour(self.person.hair_colour)} hair"


def _source(person: Person, drawing: Drawing | None, rng: np.random.Generator) -> Caption:
    """One sentence, fixed order."""
    say = _Speaker(person, drawing, rng, plain=True)
    groups = visible_groups(person, drawing)
    groups -= {group for group, odds in (("hair", 0.35), ("shoes", 0.3)) if rng.random() < odds}
    text = with_article(person.gender)
    if "hair" in groups:
        text += f" with {say.hair()}"
    action = drawing.action if drawing is not None and rng.random() < 0.3 else ""
    worn = [say.hat()] if "hat" in groups else []
    worn.append(say.upper())
    worn += [say.lower()] if "lower" in groups else []
    worn += [say.shoes()] if "shoes" in groups else []
    joined = worn[0] if len(worn) == 1 else f"{', '.join(worn[:-1])} and {worn[-1]}"
    text += f" {action} in {joined}" if action else f" wearing {joined}"
    if "bag" in groups:
        text += f" {'with' if rng.random() < 0.3 else 'carrying'} {say.bag()}"
    return Caption(text, frozenset(groups))


def listed(items: Sequence[str]) -> str:
    """Join words with commas and an and."""
    if len(items) < 2:
        return "".join(items)
    if len(items) == 2:
        return f"{items[0]} and {items[1]}"
    return f"{', '.join(items[:-1])}, and {items[-1]}"


def _target(person: Person, drawing: Drawing | None, rng: np.random.Generator) -> Caption:
    """Two or three sentences as a human annotator writes them."""
    say = _Speaker(person, drawing, rng, plain=False)
    groups = visible_groups(person, drawing)
    drops = {"hair": 0.60, "shoes": 0.58, "bag": 0.10, "hat": 0.18, "lower": 0.06}
    groups -= {group for group, odds in drops.items() if rng.random() < odds}
    who = _choose(rng, _PEOPLE[person.gender])
    if who in ("person", "pedestrian"):
        groups -= {"gender"}
        say.he, say.his = ("they", "their")
    subject = f"{_choose(rng, ('the', 'the', 'a', 'this'))} {who}"
    verb = {"they": ("are", "have", "wear", "carry")}.get(say.he, ("is", "has", "wears", "carries"))

    clothes: list[str] = [g for g in ("upper", "lower", "shoes") if g in groups]
    if rng.random() < 0.25:
        clothes = [clothes[int(i)] for i in rng.permutation(len(clothes))]
    rest: list[str] = [g for g in ("hair", "hat", "bag") if g in groups]
    rest = [rest[int(i)] for i in rng.permutation(len(rest))]
    phrase: dict[str, str] = {g: getattr(say, g)() for g in (*clothes, *rest)}

    def wearing(g: str) -> str:
        return _choose(rng, {
            "hair": (f"with {phrase[g]}", f"has {phrase[g]}"),
            "hat": (f"wearing {phrase[g]}", f"with {phrase[g]} on"),
            "bag": (f"carrying {phrase[g]}", f"holding {phrase[g]}", f"with {phrase[g]}"),
        }[g])  # fmt: skip

    form = rng.random()
    moving = drawing.action if drawing is not None else ""
    opening = subject
    if moving and rng.random() < 0.25:
        extra = {
            "walking": ("walking", "walking forward", "walking along", "taking a step"),
            "standing": ("standing", "standing still", "standing there"),
        }[moving]
        opening = f"{subject} who is {_choose(rng, extra)}"
    sentences: list[str] = []
    if form < 0.48:  # all clothes in one sentence, the rest in another
        sentences.append(f"{opening} is wearing {listed([phrase[g] for g in clothes])}")
        if rest:
            sentences.append(_rest(say, rest, phrase, verb, rng))
    elif form < 0.72:  # the person described first, clothes later
        first = rest[:1]
        if first and first[0] == "hair":
            sentences.append(f"{subject} has {phrase['hair']}")
        elif first:
            sentences.append(f"{subject} is {wearing(first[0]).replace('with ', 'seen with ', 1)}")
        elif drawing is None:
            sentences.append(f"{subject} is seen outside")
        else:
            sentences.append(f"{opening} is facing {_facing(drawing, rng)}")
        sentences.append(f"{say.he} {verb[0]} {_choose(rng, ('wearing', 'dressed in'))} "
                         f"{listed([phrase[g] for g in clothes])}")  # fmt: skip
        if rest[1:]:
            sentences.append(_rest(say, rest[1:], phrase, verb, rng))
    elif form < 0.88:  # one thing a sentence
        sentences.append(
            f"{opening} {_choose(rng, ('wears', 'is in', 'has on'))} {phrase[clothes[0]]}"
        )
        for g in (*clothes[1:], *rest):
            own = phrase[g]
            if g in ("hair", "bag"):
                sentences.append(f"{say.he} {verb[3] if g == 'bag' else verb[1]} {own}")
            else:
                sentences.append(f"{say.he} {verb[0]} wearing {own}" if rng.random() < 0.5
                                 else f"{say.he} {verb[2]} {own}")  # fmt: skip
            if len(sentences) > 1 and rng.random() < 0.45:
                last = sentences.pop()
                sentences[-1] += f" and {last}"
    else:  # a telegram
        items = [who, *(phrase[g] for g in (*clothes, *rest))]
        sentences.append(", ".join(items))
    if drawing is not None and rng.random() < 0.10:
        sentences.append(f"{say.he} {verb[0]} facing {_facing(drawing, rng)}")
    return Caption(_noise(sentences, rng), frozenset(groups))


def _rest(
    say: _Speaker, rest: Sequence[str], phrase: dict[str, str], verb: Sequence[str],
    rng: np.random.Generator,
) -> str:  # fmt: skip
    """One sentence for hair, hat and bag."""
    bits = []
    for g in rest:
        if g == "hair":
            bits.append(f"{verb[1]} {phrase[g]}")
        elif g == "hat":
            bits.append(f"{verb[0]} wearing {phrase[g]}")
        else:
            bits.append(
                f"{_choose(rng, (verb[3], f'{verb[0]} carrying', f'{verb[1]}'))} {phrase[g]}"
            )
    return f"{say.he} {_choose(rng, ('', '', 'also ')) if len(bits) == 1 else ''}{listed(bits)}"


def _facing(drawing: Drawing, rng: np.random.Generator) -> str:
    """Say where somebody looks."""
    view = drawing.view
    if view.startswith("front"):
        return _choose(rng, ("the camera", "forward", "towards the camera"))
    if view.startswith("back"):
        return _choose(rng, ("away from the camera", "away"))
    return "to the side"


def _slip(word: str, rng: np.random.Generator) -> str:
    """Make a slip of the keyboard in a word: two letters swapped, or one lost or doubled."""
    i = int(rng.integers(1, len(word) - 2))
    kind = int(rng.integers(3))
    if kind == 0:
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    if kind == 1:
        return word[:i] + word[i + 1 :]
    return word[: i + 1] + word[i:]


def _noise(sentences: Sequence[str], rng: np.random.Generator) -> str:
    """Write sentences as people do: capitals and stops mostly, slips now and then."""
    careless = rng.random()
    if careless < 0.08:
        text = " ".join(sentences)
    elif careless < 0.18:
        text = ". ".join(sentences) + ("." if rng.random() < 0.5 else "")
    else:
        text = " ".join(f"{s[0].upper()}{s[1:]}." for s in sentences)
    if rng.random() < 0.07:
        words = text.split(" ")
        long = [i for i, word in enumerate(words) if len(word) > 5 and word.isalpha()]
        if long:
            i = long[int(rng.integers(len(long)))]
            words[i] = _slip(words[i], rng)
            text = " ".join(words)
    return text


def compose(
    person: Person, style: Style, rng: np.random.Generator, drawing: Drawing | None = None
) -> Caption:
    """Write a caption and note what it mentions.

    Args:
        person: Who.
        style: source (as captioners write) or target (as annotators write).
        rng: Source of all randomness.
        drawing: The image; given, the caption keeps to what is seen in it.

    Returns:
        The caption.
    """
    return (_source if style == "source" else _target)(person, drawing, rng)


def describe(
    person: Person, style: Style, rng: np.random.Generator, drawing: Drawing | None = None
) -> str:
    """Write a caption; see `compose`."""
    return compose(person, style, rng, drawing).text
