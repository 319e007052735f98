"""spaCy component ``pedalign_noun_chunks``: a trained pipeline's noun chunks, repaired.

A general parser is trained on news. On captions its noun chunks err in known ways, and each is
mended here: pronouns and abstract nouns are dropped, "a pair of" is joined with its shoes, what a
negation covers is dropped, verbs that were taken for modifiers ("wearing black pants") and list
keys are cut off, and modifiers that were left outside ("light grey [hooded sweatshirt]") are
taken in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spacy.language import Language
from spacy.tokens import Span, SpanGroup

from tasks.phrases.chunking import Phrase, colours_of, group_of
from tasks.phrases.lexicon import GROUP_OF, TAG_OF, correct

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

_QUANTITIES = frozenset(w for w, t in TAG_OF.items() if t in {"Q", "J"})
_ABSTRACT = frozenset(w for w, t in TAG_OF.items() if t == "B")
_NEGATIONS = frozenset(w for w, t in TAG_OF.items() if t == "Z")
_MODIFIERS = frozenset(w for w, t in TAG_OF.items() if t in {"A", "C", "M"})
_VERBS = frozenset(w for w, t in TAG_OF.items() if t in {"V", "b"})


def _bounds(chunk: Span) -> tuple[int, int]:
    """Cut verbs off the front of a chunk and take in the modifiers left outside it."""
    doc = chunk.doc
    start, end = chunk.start, chunk.end
    while start < end - 1 and doc[start].lower_ in _VERBS and doc[start].lower_ not in GROUP_OF:
        start += 1
    if doc[start].pos_ not in {"DET", "PRON"}:
        while start > 0 and _outside_modifier(doc[start - 1]):
            start -= 1
        if start > 0 and doc[start - 1].pos_ == "DET":
            start -= 1
    return start, end


def _outside_modifier(token: Token) -> bool:
    word = token.lower_
    return word in _MODIFIERS and token.pos_ in {"ADJ", "NOUN", "PROPN", "VERB", "ADV"}


def _denied(doc: Doc, start: int) -> bool:
    """Whether a negation governs the phrase: no bag, doesn't carry any bag, without a hat."""
    if doc[start].lower_ in _NEGATIONS:
        return True
    for i in range(start - 1, max(-1, start - 5), -1):
        token = doc[i]
        if token.lower_ in _NEGATIONS:
            return True
        if token.pos_ not in {"VERB", "AUX", "DET", "PART"}:
            return False
    return False


class NounChunkRepair:
    """Turns ``doc.noun_chunks`` into the phrases of `tasks.phrases.chunking`."""

    def __call__(self, doc: Doc) -> Doc:
        """Set ``doc.spans["phrases"]`` and ``doc._.phrases``."""
        merged: list[tuple[int, int, Token]] = []
        for chunk in doc.noun_chunks:
            start, end = _bounds(chunk)
            root = chunk.root
            quantity = (
                merged
                and merged[-1][1] == start - 1
                and doc[start - 1].lower_ == "of"
                and merged[-1][2].lower_ in _QUANTITIES
            )
            if quantity:
                first, _, old = merged.pop()
                root = old if GROUP_OF.get(old.lower_) else root
                merged.append((first, end, root))
            elif not merged or start >= merged[-1][1]:
                merged.append((start, end, root))
        spans: list[Span] = []
        phrases: list[Phrase] = []
        previous = ""
        words = [t.lower_ for t in doc]
        for start, end, root in merged:
            head = root.lower_
            if root.pos_ == "PRON" or head in _ABSTRACT or (head in TAG_OF and TAG_OF[head] == "W"):
                continue
            if _denied(doc, start) or (end < len(doc) and doc[end].text == ":"):
                continue
            head = head if head in GROUP_OF else correct(head) or head
            group = group_of(head, words[:start], previous)
            previous = group if group != "person" else previous
            span = Span(doc, start, end, label=group, span_id=head)
            spans.append(span)
            colours = colours_of(words[start:end])
            phrases.append(Phrase(span.text, span.start_char, span.end_char, head, group, colours))
        doc.spans["phrases"] = SpanGroup(doc, name="phrases", spans=spans)
        doc._.phrases = phrases
        return doc


@Language.factory("pedalign_noun_chunks", requires=["token.dep"], assigns=["doc._.phrases"])
def make_repair(nlp: Language, name: str) -> NounChunkRepair:
    """Factory of `NounChunkRepair`."""
    del nlp, name
    return NounChunkRepair()
