"""The words of person descriptions: what the embedded parser knows before it reads a caption.

A word's *tag* is one character (see `TAGS`), so that a caption's tags are a string and its phrases
a regular expression over it. Nouns carry in addition the *group*: the part of the picture where
such a thing is found. Plurals are derived; words that are not here are guessed by `guess`, from
their ending or from a known word one typing error away.

Everything is lower case. Extend it for a domain with the tagger's ``words`` setting, not here.
"""

from __future__ import annotations

import re
from functools import lru_cache

from tasks.phrases.spelling import Spelling
from tasks.phrases.vocabulary import (
    COLOURS,
    CONTAINERS,
    LISTS,
    NOUN_OR_VERB,
    PAIRS,
    SHADES,
    THINGS,
    wordset,
)

__all__ = [
    "COLOURS",
    "GROUPS",
    "GROUP_OF",
    "SHADES",
    "TAGS",
    "TAG_OF",
    "correct",
    "guess",
    "unglued",
    "wordset",
]

TAGS = {
    "D": ("DET", "article, possessive or quantity that opens a phrase"),
    "C": ("ADJ", "colour"),
    "A": ("ADJ", "other modifier"),
    "R": ("ADV", "degree"),
    "M": ("NOUN", "material or pattern, a modifier that is no head"),
    "N": ("NOUN", "thing one can point at"),
    "B": ("NOUN", "abstract noun, or the name of a place on a thing; never a head"),
    "Q": ("NOUN", "quantity: pair, group"),
    "J": ("NOUN", "container: bottle, bag; a thing, and with 'of' a quantity"),
    "X": ("X", "unknown word that may be a noun or a modifier"),
    "V": ("VERB", "verb"),
    "b": ("AUX", "form of be, seem, look"),
    "P": ("ADP", "preposition or particle"),
    "I": ("ADP", "of"),
    "W": ("PRON", "pronoun"),
    "&": ("CCONJ", "and, &, plus"),
    "o": ("CCONJ", "or, nor"),
    "Z": ("PART", "negation"),
    "S": ("PART", "possessive 's"),
    "t": ("NOUN", "the letter of t-shirt"),
    "E": ("NOUN", "thing that never describes the next, marked by the chunker only"),
    "#": ("NUM", "number"),
    "h": ("PUNCT", "hyphen or slash inside a word"),
    "-": ("PUNCT", "dash or slash between words"),
    ",": ("PUNCT", "comma"),
    ":": ("PUNCT", "colon"),
    ".": ("PUNCT", "any other mark"),
    "_": ("X", "ignored"),
}
"""One character a token -> (universal part of speech, meaning)."""

GROUPS = (
    "person",
    "head",
    "hair",
    "upper",
    "lower",
    "footwear",
    "carried",
    "accessory",
    "scene",
)
"""Where in the picture a phrase's thing is found."""


_VOWELS = "aeiou"


def _plural(word: str) -> str:
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2] not in _VOWELS:
        return word[:-1] + "ies"
    return word + "s"


def _build() -> tuple[dict[str, str], dict[str, str]]:
    tags: dict[str, str] = dict.fromkeys(COLOURS, "C")
    groups: dict[str, str] = {}
    for tag, words in LISTS.items():
        if tag != "M":
            tags.update((word, tag) for word in words.split() if word not in tags)
    for tag, table in (("J", CONTAINERS), ("N", THINGS)):
        for group, words in table.items():
            for word in words.split():
                for form in (word, _plural(word)):
                    groups.setdefault(form, group)
                    tags.setdefault(form, tag)
    # Last, because a noun modifies the noun after it anyhow ("ankle boots"); M never heads.
    for word in LISTS["M"].split():
        tags.setdefault(word, "M")
    groups |= {"scarves": "accessory", "cut": "hair", "wear": "upper"} | PAIRS
    for word in ("scarves", *NOUN_OR_VERB):
        tags[word] = "N"
    return tags, groups


TAG_OF, GROUP_OF = _build()
"""Word -> tag character; noun -> group."""

_ADJECTIVE = re.compile(r".+(ish|ful|less|ous|able|ible|ive|ic|al|esque|like|most)$")
_SPELLING = Spelling(w for w, t in TAG_OF.items() if t in "NJCVM" and len(w) > 3)
_SPELLING_SHORT = Spelling(COLOURS)


@lru_cache(maxsize=50_000)
def correct(word: str) -> str | None:
    """The known word that one typing error would turn into this one, if there is a good one.

    Only words of five letters and more, whose first letter stands (swaps apart): in a shorter word
    one letter often makes another real word. Of four letters, only a colour's with a letter left
    out or two swapped: "blak", "gery".

    Args:
        word: A lower-case word that `TAG_OF` does not hold.

    Returns:
        A noun, colour or verb of the lexicon, or None.
    """
    if len(word) == 4:
        near = [w for w in _SPELLING_SHORT.near(word) if len(w) == 5 or sorted(w) == sorted(word)]
    else:
        near = _SPELLING.near(word) if len(word) > 4 else []
    kept = [w for w in near if w[0] == word[0] or sorted(w) == sorted(word)]
    return kept[0] if kept else None


@lru_cache(maxsize=50_000)
def unglued(word: str) -> tuple[str, str] | None:
    """A modifier and the noun that were typed as one word: "blackpants".

    Args:
        word: A lower-case word that `TAG_OF` does not hold.
    """
    for at in range(3, len(word) - 3):
        first, noun = word[:at], word[at:]
        if TAG_OF.get(first) in {"C", "M"} and TAG_OF.get(noun) in {"N", "J"}:
            return first, noun
    return None


@lru_cache(maxsize=50_000)
def guess(word: str) -> str:
    """Tag of a word that the lexicon does not hold, from its ending or a near word.

    Args:
        word: Lower case.

    Returns:
        A key of `TAGS`. ``V?`` never: words in -ing and -ed are settled in context by the tagger,
        which asks for the ending itself.
    """
    if any(c.isdigit() for c in word):
        return "#" if not word.endswith(("s", "'s")) else "B"
    if word[0] == "<" or not any(c.isalpha() for c in word):
        return "."
    near = correct(word)
    if near is not None:
        return TAG_OF[near]
    if unglued(word) is not None:
        return "N"
    if word.endswith("ly") and len(word) > 4:
        return "R"
    if word.endswith(("ing", "ed")) and len(word) > 5:
        return "V"
    if _ADJECTIVE.match(word) and len(word) > 5:
        return "A"
    return "X"
