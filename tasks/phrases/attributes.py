"""What a phrase says of its thing besides the colour: pattern, material, sleeves, side, age, ...

Read off a phrase's words and off a predicate about it ("his shirt is striped and long sleeved"), by
the tables of `wordings`. One value has many wordings: "stripy", "stripes" and "stripped" (the
commonest slip of all) are ``("pattern", "striped")``.

Unusual: the same word means different things of different things. "Short" is the build of a man and
the length of a coat, "loose" the fit of trousers and the state of hair. Of nouns, only those for
persons say anything (age, gender); where people come from and the colour of their skin are not
recorded.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from tasks.phrases.lexicon import TAG_OF
from tasks.phrases.spelling import Spelling
from tasks.phrases.vocabulary import COLOURS, HYPHENS, SHADES
from tasks.phrases.wordings import KINDS, OF_GROUP, OF_HEAD, WORDINGS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["KINDS", "Attribute", "attributes_of"]


class Attribute(NamedTuple):
    """What a phrase says of its thing besides its colour."""

    kind: str
    """A key of `KINDS`."""
    value: str
    """Lower-case canonical word: "striped" for stripes, striped and stripy."""


def _read(wordings: Mapping[str, str]) -> dict[str, Attribute]:
    """Wordings, their words joined by spaces, -> what they say."""
    found: dict[str, Attribute] = {}
    for kind, values in wordings.items():
        for value in values.split(";"):
            for wording in value.split():
                attribute = Attribute(kind, value.split()[0])
                found.setdefault(wording.replace("-", " "), attribute)
    return found


_TABLE = _read(WORDINGS)
_OF_GROUP = {group: _TABLE | _read(own) for group, own in OF_GROUP.items()}
_OF_HEAD = {
    word: Attribute("gender" if value in {"male", "female"} else "age", value)
    for value, words in OF_HEAD.items()
    for word in words.split()
}
_STARTS = frozenset(w.split()[0] for t in (_TABLE, *_OF_GROUP.values()) for w in t if " " in w)
_LONGEST = max(len(w.split()) for t in (_TABLE, *_OF_GROUP.values()) for w in t)
_SPELLING = Spelling(w for w in _TABLE if len(w) > 4 and " " not in w)


@lru_cache(maxsize=50_000)
def _mended(word: str) -> str:
    """A word, or the wording that one typing error would turn into it."""
    if word in TAG_OF or len(word) < 6:
        return word
    return next((w for w in _SPELLING.near(word) if w[0] == word[0]), word)


def attributes_of(
    words: Sequence[str], head_at: int, head: str, group: str
) -> tuple[Attribute, ...]:
    """What a phrase's words say of its thing besides the colour.

    Args:
        words: Lower-case words of the phrase and of what is said of it after.
        head_at: Place of the head noun among them, which alone is no attribute of itself.
        head: The head noun, mended.
        group: Its group.

    Returns:
        Attributes in the order of the words, each once; what the noun says comes last.
    """
    table = _OF_GROUP.get(group, _TABLE)
    parts: list[str] = []
    of_head = -1
    for i, word in enumerate(words):
        if i == head_at:
            of_head = len(parts)
        if i == head_at or word not in HYPHENS:  # a hyphen joins as a space does
            parts.append(word if word in table else _mended(word))
    found: list[Attribute] = []
    at = 0
    while at < len(parts):
        word, size = parts[at], 1
        hit = None
        if word in _STARTS:
            for size in range(min(_LONGEST, len(parts) - at), 1, -1):
                hit = table.get(" ".join(parts[at : at + size]))
                if hit is not None:
                    break
        if hit is None:
            size = 1
            hit = table.get(word) or table.get(word.replace("-", " "))
            if hit is not None and (at == of_head or not _stands(parts, at, hit)):
                hit = None
        if hit is not None and hit not in found:
            found.append(hit)
        at += size
    said = _OF_HEAD.get(head) if group == "person" else None
    if said is not None and all(each.kind != said.kind for each in found):
        found.append(said)
    return tuple(found)


def _stands(parts: Sequence[str], at: int, hit: Attribute) -> bool:
    """Whether a word says here what it says alone."""
    if hit.kind == "count":  # not: a number 7 jersey
        return at < 2
    following = parts[at + 1] if at + 1 < len(parts) else ""
    return not (parts[at] in SHADES and following in COLOURS)  # dark blue
