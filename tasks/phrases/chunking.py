"""spaCy component ``pedalign_chunker``: tags to phrases, by a regular expression over them.

Unusual: a caption is a string of one character a token ("DNVDACN" for "the man wears a short red
shirt"), and `CHUNK` is the grammar. Matching is linear: every repetition in it is bounded. Its
alternatives are tried in order, so that what must *not* become a phrase (denied things, keys of a
list) is matched and thrown away before the phrases are.

Sets ``doc.spans["phrases"]`` (label = group, id = head noun) and ``doc._.phrases``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spacy.attrs import IDX, LOWER, ORTH, SPACY, TAG
from spacy.language import Language
from spacy.tokens import Doc, Span, SpanGroup

from tasks.phrases.lexicon import (
    COLOUR_BASE,
    COLOURS,
    GROUP_OF,
    GROUPS,
    SHADES,
    TAGS,
    correct,
    wordset,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spacy.vocab import Vocab


@dataclass(frozen=True)
class Phrase:
    """A part of a caption that a person could point at."""

    text: str
    start: int
    """First character, in code points."""
    end: int
    """One past the last character, in code points."""
    head: str
    """Head noun, lower case, a typing error mended."""
    group: str
    """One of `GROUPS`."""
    colours: tuple[str, ...]
    """Colours named in it or of it ("his shirt is white"), with their shade: "dark blue"."""


# -- the grammar ---------------------------------------------------------------------------------
# Possessive (++ and the like): a piece is never given back, or "a-b-c-d" would take forever.
_PIECES = r"(?:[^\sh]h){1,4}+[CAMVPBIW]?+"  # short-sleeved, black-and-white, knee-length
_PLAIN = rf"(?:R{{0,3}}(?:{_PIECES}|[CAM#]|R(?=[NJM])))"  # a frilly skirt
_AHEAD = r"(?=[CAMR#]|[^\sh]h)"
_LOOSE = rf"(?:{_PLAIN}(?:(?:&|o|-){_AHEAD})?|X|t-?)"  # black and white
_TIGHT = rf"(?:{_PLAIN}(?:(?:&|o|-|,&?){_AHEAD})?|X|t-?)"  # an article allows commas, too
_COMPOUND = r"(?:[NXBMJQ]h?|t[h-]?){0,6}"  # wrist watch, t - shirt
_WITH_ARTICLE = rf"D{{1,3}}{_TIGHT}{{0,12}}{_COMPOUND}[NXJ]"
_BARE = rf"(?:{_LOOSE}{{0,12}}{_COMPOUND}[NJ]|{_PLAIN}{_LOOSE}{{0,12}}X)"
_SIMPLE = rf"(?:{_WITH_ARTICLE}|{_BARE})"
_QUANTITY = rf"D{{0,3}}{_LOOSE}{{0,4}}QI?{_SIMPLE}"  # a pair of white shoes
_CONTENT = rf"D{{0,3}}{_LOOSE}{{0,4}}(?:[NX]h?){{0,3}}JI{_LOOSE}{{0,4}}{_COMPOUND}[NX]"
_PHRASE = rf"(?:{_QUANTITY}|{_CONTENT}|{_SIMPLE})"
CHUNK = re.compile(
    rf"(?P<denied>Z[VRbPZ]{{0,4}}{_PHRASE}(?:o{_PHRASE}){{0,6}})"
    rf"|(?P<key>{_PHRASE}:)"
    rf"|(?P<content>{_CONTENT})|(?P<phrase>{_PHRASE})"
)
"""Phrases and what only looks like one, over a string of tags."""

PREDICATE = re.compile(
    r"(?:[DWP]?b[RA]{0,3}|[PI])C(?:[&,o-]{1,2}[RA]{0,3}C){0,3}(?!&?[CAMRX]{0,4}[NJX])"
)
"""What may follow a phrase and name its colour: is (very) black and white, in red."""

_CARRYING = wordset(
    """hold carry push pull hang drag use take bring grip grab clutch sling swing raise lift"""
)
_WEARING = frozenset(["wear", "dress", "clad", "don", "put"])
_PLACING = wordset(
    """on along near beside past across through down at behind toward towards by around"""
)
_HOSTS = frozenset(["upper", "lower", "footwear", "carried", "head", "accessory", "hair"])


def colours_of(words: Sequence[str]) -> tuple[str, ...]:
    """The colours that a phrase's words name, in order, each once.

    Args:
        words: Lower-case words.

    Returns:
        Names such as "gray" or "dark blue".
    """
    found: list[str] = []
    for i, word in enumerate(words):
        name = word if word in COLOURS else None
        if name is None and word.endswith(("ish", "ey")):
            stem = word.removesuffix("ish")
            name = next((c for c in (stem, stem[:-1], stem + "e") if c in COLOURS), None)
        if name is None and 5 <= len(word) <= 8:
            near = correct(word) if word not in GROUP_OF else None
            name = near if near in COLOURS else None
        if name is None:
            continue
        name = COLOUR_BASE.get(name, name)
        if i and words[i - 1] in SHADES:
            name = f"{words[i - 1]} {name}"
        if name not in found:
            found.append(name)
    return tuple(found)


def group_of(head: str, before: Sequence[str], previous: str) -> str:
    """The group of a head noun, from the lexicon or from the words before its phrase.

    Args:
        head: Lower-case noun.
        before: Lower-case words of the caption before the phrase.
        previous: Group of the phrase before, "" at the beginning.

    Returns:
        One of `GROUPS`.
    """
    group = GROUP_OF.get(head)
    if group:
        return group
    if group == "":  # stripes, a logo, fur: they sit on what was named before
        return previous if previous in _HOSTS else "upper"
    for word in reversed(before[-6:]):
        stems = {word, word.removesuffix("s"), word.removesuffix("ing"), word.removesuffix("ed")}
        if stems & _CARRYING:
            return "carried"
        if stems & _WEARING:
            return "upper"
        if word in _PLACING:
            return "scene"
    return "accessory"


class PhraseChunker:
    """Finds phrases in a tagged document."""

    def __init__(self, vocab: Vocab) -> None:
        """Prepare the table from tag hashes to characters."""
        self._strings = vocab.strings
        self._tag = {vocab.strings.add(t): t for t in TAGS}
        self._label = {g: vocab.strings.add(g) for g in GROUPS}

    def __call__(self, doc: Doc) -> Doc:
        """Set ``doc.spans["phrases"]`` and ``doc._.phrases``."""
        phrases: list[Phrase] = []
        spans: list[Span] = []
        if len(doc):
            columns = doc.to_array([TAG, LOWER, ORTH, SPACY, IDX])
            known = self._tag
            # Tags of somebody else's tagger count as ignored.
            tags = "".join([known.get(t, "_") for t in columns[:, 0].tolist()])
            place: list[int] | range = range(len(tags))
            if "_" in tags:
                place = [i for i, t in enumerate(tags) if t != "_"]
                tags = tags.replace("_", "")
            words: list[str] | None = None
            written: list[str] = []
            starts: list[int] = []
            previous = ""
            for match in CHUNK.finditer(tags):
                if match.lastgroup not in {"phrase", "content"}:
                    continue
                if words is None:
                    strings = self._strings
                    words = [strings[key] for key in columns[:, 1].tolist()]
                    # Text from the columns: Span.text makes a Python object of every token.
                    written = [
                        strings[key] + (" " if space else "")
                        for key, space in columns[:, 2:4].tolist()
                    ]
                    starts = columns[:, 4].tolist()
                first, last = place[match.start()], place[match.end() - 1]
                head_at = last
                if match.lastgroup == "content":
                    head_at = place[match.start() + match.group().rindex("JI")]
                head = _head(words, head_at)
                pair = f"{words[head_at - 1]} {head}" if head_at else ""
                group = GROUP_OF.get(pair) or group_of(head, words[:first], previous)
                previous = group if group != "person" else previous
                named = words[first : last + 1]
                after = PREDICATE.match(tags, match.end())
                if after:
                    named = named + words[place[after.start()] : place[after.end() - 1] + 1]
                span = Span(doc, first, last + 1, label=self._label[group], span_id=head)
                spans.append(span)
                text = "".join(written[first : last + 1]).removesuffix(" ")
                at = starts[first]
                phrases.append(Phrase(text, at, at + len(text), head, group, colours_of(named)))
        doc.spans["phrases"] = SpanGroup(doc, name="phrases", spans=spans)
        doc._.phrases = phrases
        return doc


def _head(words: Sequence[str], at: int) -> str:
    word = words[at]
    if word not in GROUP_OF:
        word = correct(word) or word
    if word in {"shirt", "shirts"} and at and "t" in words[max(0, at - 2) : at]:
        return "t-" + word
    return word


if not Doc.has_extension("phrases"):
    Doc.set_extension("phrases", default=())


@Language.factory("pedalign_chunker", requires=["token.tag"], assigns=["doc._.phrases"])
def make_chunker(nlp: Language, name: str) -> PhraseChunker:
    """Factory of `PhraseChunker`."""
    del name
    return PhraseChunker(nlp.vocab)
