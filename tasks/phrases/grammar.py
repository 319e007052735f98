"""What a phrase is, as regular expressions over a string of one tag a token (`lexicon.TAGS`).

"the man wears a short red shirt" is ``DNVDACN``. Alternatives are tried in order, so that what must
*not* become a phrase (denied things, keys of a list) is matched and thrown away before the phrases
are.

Unusual: the time is linear in the tags. Every repetition is bounded or possessive, so what one
start can cost is bounded too; a test times the worst string of each alternative. Captions differ in
which alternatives can match at all: `chunks` leaves out those whose own mark is missing (no colon,
no key), which halves the time of a common caption.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Possessive (++ and the like): a piece is never given back, or "a-b-c-d" would take forever.
_PIECES = r"(?:[^\sh]h){1,4}+[CAMVPBIW]?+"  # short-sleeved, black-and-white, knee-length
_PLAIN = rf"(?:R{{0,3}}(?:{_PIECES}|[CAM#]|R(?=[NJ])))"  # a frilly skirt
_AHEAD = r"(?=[CAMR#]|[^\sh]h)"
_LOOSE = rf"(?:{_PLAIN}(?:(?:&|o|-){_AHEAD})?|X|t-?)"  # black and white
_TIGHT = rf"(?:{_PLAIN}(?:(?:&|o|-|,&?){_AHEAD})?|X|t-?)"  # an article allows commas, too
_COMPOUND = r"(?:[NXBMJQ]h?|t[h-]?){0,6}"  # wrist watch, t - shirt
_WITH_ARTICLE = rf"D{{1,3}}{_TIGHT}{{0,12}}{_COMPOUND}(?:[NEJ]|X(?!B))"
_BARE = rf"(?:{_LOOSE}{{0,12}}{_COMPOUND}[NEJ]|{_PLAIN}{_LOOSE}{{0,12}}X(?!B))"
_SIMPLE = rf"(?:{_WITH_ARTICLE}|{_BARE})"
_QUANTITY = rf"D{{0,3}}{_LOOSE}{{0,4}}QI?{_SIMPLE}"  # a pair of white shoes
_CONTENT = rf"D{{0,3}}{_LOOSE}{{0,4}}(?:[NX]h?){{0,3}}JI{_LOOSE}{{0,4}}{_COMPOUND}[NEX]"

_SAID = rf"(?:R{{0,3}}(?:{_PIECES}|[CAM]))"
PREDICATE = re.compile(
    rf"(?:(?P<is>(?:,?[DWP])?b)|(?P<made>(?:(?:,?[DWP])?b)?V[IP])|(?P<after>)){_SAID}"
    rf"(?:[&,o-]{{0,2}}{_SAID}){{0,6}}(?![CAMRX]{{0,4}}[NEJX])(?(after)(?=[P.,;]|$))"
    r"|[PI]R{0,3}A{0,2}[CM](?:[&,o-]{1,2}[RA]{0,3}C){0,3}(?!&?[CAMRX]{0,4}[NEJX])"
)
"""What may follow a phrase and say more of it: is (very) black and long sleeved, which is striped,
made of leather, zipped up, in red."""

CLOSED = re.compile("N(?=[NJ])")
"""A noun before a noun: it may end a phrase of its own (`vocabulary.CLOSING`)."""


@lru_cache(maxsize=16)
def _chunk(denied: bool, key: bool, content: bool, quantity: bool) -> re.Pattern[str]:
    plain = [_QUANTITY] * quantity + [_SIMPLE]
    every = rf"(?:{'|'.join([_CONTENT] * content + plain)})"
    colon = "(:)?" if key else ""  # no name: `lastgroup` is None then, and the match is a key
    kinds = [
        rf"(?P<denied>Z[VRbPZ]{{0,4}}{every}(?:o{every}){{0,6}})" if denied else "",
        r"(?P<dashed>(?:(?<=[.,])|^)N-)" if key else "",  # Top - green sweater
        rf"(?P<content>{_CONTENT}){colon}" if content else "",
        rf"(?P<phrase>{'|'.join(plain)}){colon}",
    ]
    return re.compile("|".join(filter(None, kinds)))


def chunks(tags: str) -> Iterator[re.Match[str]]:
    """Phrases in a string of tags, from left to right.

    Args:
        tags: One character of `lexicon.TAGS` a token, none of them ignored ones.

    Yields:
        Matches whose ``lastgroup`` is "content" (a bottle of water: the head is the bottle) or
        "phrase" (the head is the last token).
    """
    pattern = _chunk("Z" in tags, ":" in tags or "N-" in tags, "JI" in tags, "Q" in tags)
    for match in pattern.finditer(tags):
        if match.lastgroup in {"phrase", "content"}:
            yield match
