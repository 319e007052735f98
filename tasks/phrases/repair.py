"""spaCy component ``pedalign_noun_chunks``: a trained pipeline's noun chunks, repaired.

A general parser is trained on news. On captions its noun chunks err in known ways, and each is
mended here, mostly with what `tagging` says of the same words:

- several things in one chunk are parted: at a comma, a conjunction, a slash or a colon after a
  noun, at a possessive, and where a new modifier follows a noun ("white tshirt blue jeans");
- verbs, pronouns and markup are cut off the front ("holding tennis rackets", "She leggings");
- "a pair of" is joined with its shoes, modifiers left outside are taken in ("light grey [hooded
  sweatshirt]"), and so is the noun that was taken for a verb ("a wrist [watch]");
- pronouns, abstract nouns and what is denied are dropped, and so are the keys of a list;
- a known thing that is in no chunk at all, because its noun was taken for a verb, is added.

Unusual: it needs dependencies only. Where the pipeline has no parts of speech (a parser alone, a
tagger without its attribute ruler), the lexicon's are filled in.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

import numpy as np
from spacy.attrs import POS
from spacy.language import Language
from spacy.parts_of_speech import IDS

from tasks.phrases.chunking import Caption, Knowledge, set_phrases
from tasks.phrases.lexicon import GROUP_OF, TAGS
from tasks.phrases.tagging import PhraseTagger

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from spacy.tokens import Doc
    from spacy.vocab import Vocab

    Piece = tuple[int, int]

_NOUNS = frozenset("NEJX")
_MODIFIERS = frozenset("CAMR#")
_FRONT = frozenset("WVb_.,&oh-:SPI")  # never opens a phrase
_BACK = frozenset("_.,&oh-:SPDIRZ")  # never closes one
_POS = {tag: IDS[pos] for tag, (pos, _) in TAGS.items()}


class NounChunkRepair:
    """Turns ``doc.noun_chunks`` into the phrases of `tasks.phrases.chunking`."""

    def __init__(
        self,
        vocab: Vocab,
        words: Mapping[str, str] | None = None,
        groups: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare the lexicon.

        Args:
            vocab: The pipeline's.
            words: Words to add, see `tagging.PhraseTagger`.
            groups: Groups of nouns, see `chunking.Knowledge`.
        """
        self._tagger = PhraseTagger(vocab, words or {})
        self._knowledge = Knowledge(vocab, groups or {})

    def __call__(self, doc: Doc, *, spans: bool = True) -> Doc:
        """Set ``doc._.phrases`` and, if asked, ``doc.spans["phrases"]``.

        Raises:
            ValueError: The document has no dependencies.
        """
        if not len(doc):
            set_phrases(doc, [], spans)
            return doc
        if not doc.has_annotation("DEP"):
            raise ValueError(
                "pedalign_noun_chunks: a document without dependencies; noun chunks are read off "
                "a syntactic parse; put a trained parser before this component"
            )
        tags = self._tagger.tags_of(doc)
        if not doc.has_annotation("POS"):
            doc.from_array([POS], np.array([[_POS[tag]] for tag in tags], dtype=np.uint64))
        caption = Caption(doc, "".join(tags), self._knowledge)
        for i, tag in zip(caption.place, caption.tags, strict=True):
            tags[i] = tag  # the nouns that end a phrase
        pieces = [
            piece for chunk in doc.noun_chunks for piece in _parts(chunk.start, chunk.end, tags)
        ]
        kept = _joined(pieces, tags)
        kept = [piece for piece in kept if _counts(piece, tags)]
        kept = _with_missed(kept, caption)
        found = []
        for first, end in kept:
            head_at = _head_at(first, end, tags)
            after = bisect_right(caption.place, end - 1)
            found.append((caption.read(first, end - 1, head_at, after), first, end - 1))
        set_phrases(doc, found, spans)
        return doc


def _parts(start: int, end: int, tags: Sequence[str]) -> Iterator[Piece]:
    """The things of one chunk, without what belongs to none."""
    first = start
    for i in range(start, end):
        tag, before = tags[i], tags[i - 1] if i > first else ""
        joint = before == "h" or (i + 1 < end and tags[i + 1] == "h")  # short-sleeved
        listed = tag == "," and tags[first] != "D"  # "a tall, thin hat" is one thing
        separates = tag in "&o-,." and before in _NOUNS | {"B"}
        if tag in "S:" or separates or listed or (tag in "VbPWZ" and not joint):
            yield from _trimmed(first, i, tags)
            first = i + 1
        elif (before in _NOUNS and tag in "CAD#") or (before == "E" and tag in _NOUNS):
            yield from _trimmed(first, i, tags)
            first = i
    yield from _trimmed(first, end, tags)


def _trimmed(first: int, end: int, tags: Sequence[str]) -> Iterator[Piece]:
    while first < end and tags[first] in _FRONT:
        first += 1
    while end > first and tags[end - 1] in _BACK:
        end -= 1
    if first < end:
        yield first, end


def _joined(pieces: Sequence[Piece], tags: Sequence[str]) -> list[Piece]:
    """Pieces with what was left outside, quantities together with what they measure."""
    joined: list[Piece] = []
    for k, (first, end) in enumerate(pieces):
        start, stop = joined[-1] if joined else (0, 0)
        most = pieces[k + 1][0] if k + 1 < len(pieces) else len(tags)
        if tags[first] != "D":
            while first > stop and tags[first - 1] in _MODIFIERS:
                first -= 1
            if first > stop and tags[first - 1] == "D":
                first -= 1
        while end < most and tags[end] in "NJ" and tags[end - 1] in "NJCAM":
            end += 1
        if first < stop:  # inside the one before
            continue
        measured = first == stop + 1 and tags[stop] == "I" and tags[stop - 1] in "QJ"
        unfinished = first == stop and tags[first - 1] in "MAC"
        if joined and (measured or unfinished):
            joined[-1] = (start, end)
        else:
            joined.append((first, end))
    return joined


def _counts(piece: Piece, tags: Sequence[str]) -> bool:
    """Whether a piece is a thing: not abstract, not denied, no key of a list."""
    first, end = piece
    if tags[end - 1] not in _NOUNS or tags[first] == "Z":
        return False
    if end < len(tags) and tags[end] == ":":
        return False
    alone = end == first + 1 and tags[first] == "N"
    if alone and end < len(tags) and tags[end] == "-" and (not first or tags[first - 1] in ".,"):
        return False
    for i in range(first - 1, max(-1, first - 5), -1):
        if tags[i] == "Z":
            return False
        if tags[i] not in "VbRP":
            break
    return True


def _with_missed(pieces: Sequence[Piece], caption: Caption) -> list[Piece]:
    """Pieces and the known things that the grammar finds where no piece is."""
    starts = [first for first, _ in pieces]
    more = []
    for first, last, head_at, _ in caption.found():
        at = bisect_left(starts, last + 1)
        if caption.words[head_at] in GROUP_OF and (not at or pieces[at - 1][1] <= first):
            more.append((first, last + 1))
    return sorted([*pieces, *more])


def _head_at(first: int, end: int, tags: Sequence[str]) -> int:
    """The head: the last noun, or of "a bottle of water" the bottle."""
    for i in range(first, end - 1):
        if tags[i] == "J" and tags[i + 1] == "I":
            return i
    return end - 1


@Language.factory(
    "pedalign_noun_chunks",
    default_config={"words": {}, "groups": {}},
    requires=["token.dep"],
    assigns=["doc._.phrases"],
)
def make_repair(
    nlp: Language, name: str, words: dict[str, str], groups: dict[str, str]
) -> NounChunkRepair:
    """Factory of `NounChunkRepair`; its settings are kept in the pipeline's config.cfg."""
    del name
    return NounChunkRepair(nlp.vocab, words, groups)
