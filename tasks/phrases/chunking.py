"""spaCy component ``pedalign_chunker``: tags to phrases, by the grammar of `grammar`.

Sets ``doc._.phrases`` and ``doc.spans["phrases"]`` (label = group, id = head noun).

Unusual: speed. Texts are put together from the document's columns, and what a phrase's words say is
remembered, for captions repeat their phrases; spaCy's `Span` objects cost as much as all the rest,
so whoever does not need them says so (``component_cfg={"pedalign_chunker": {"spans": False}}``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from spacy.attrs import IDX, LOWER, ORTH, SPACY, TAG
from spacy.language import Language
from spacy.tokens import Doc, Span, SpanGroup

from tasks.phrases.attributes import Attribute, attributes_of
from tasks.phrases.grammar import CLOSED, PREDICATE, chunks
from tasks.phrases.lexicon import GROUP_OF, GROUPS, TAG_OF, TAGS, correct, unglued
from tasks.phrases.vocabulary import (
    CLOSING,
    COLOUR_BASE,
    COLOURS,
    HYPHENS,
    SHADES,
    TINTED,
    TINTS,
    wordset,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from spacy.vocab import Vocab

    Plain = tuple[str, int, int, str, str, tuple[str, ...], tuple[Attribute, ...]]


_KEY = "pedalign_phrases"


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
    attributes: tuple[Attribute, ...] = ()
    """What else is said in it or of it, each once, in the order of the text."""

    def record(self) -> dict[str, Any]:
        """The phrase as plain data, for JSON and Parquet."""
        return {
            "text": self.text,
            "start": self.start,
            "end": self.end,
            "head": self.head,
            "group": self.group,
            "colours": list(self.colours),
            "attributes": [{"kind": kind, "value": value} for kind, value in self.attributes],
        }


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
        if name is None and 4 <= len(word) <= 16 and word not in TAG_OF:
            near = correct(word)
            name = near if near in COLOURS else None
            if near is None and (glued := unglued(word)) is not None:
                name = glued[0] if glued[0] in COLOURS else None
        if name is None:
            continue
        name = COLOUR_BASE.get(name, name)
        before = words[i - 1] if i else ""
        if before in HYPHENS and i > 1:
            before = words[i - 2]
        if before in TINTS and name in TINTED:  # navy blue is one colour
            continue
        if before in SHADES:
            name = f"{before} {name}"
        if name not in found:
            found.append(name)
    return tuple(found)


@lru_cache(maxsize=100_000)
def said_of(
    words: tuple[str, ...], head_at: int, head: str, group: str
) -> tuple[tuple[str, ...], tuple[Attribute, ...]]:
    """Colours and attributes of a phrase; captions repeat their phrases, so they are remembered.

    Args:
        words: Lower-case words of the phrase and of its predicate.
        head_at: Place of the head noun among them.
        head: The head noun, mended.
        group: Its group.
    """
    return colours_of(words), attributes_of(words, head_at, head, group)


def group_of(head: str, before: Sequence[str], previous: str) -> str:
    """The group of a head noun, from the lexicon or from the words before its phrase.

    Args:
        head: Lower-case noun.
        before: The last few lower-case words before the phrase.
        previous: Group of the phrase before, "" at the beginning.

    Returns:
        One of `GROUPS`.
    """
    group = GROUP_OF.get(head)
    if group:
        return group
    if group == "":  # stripes, a logo, fur: they sit on what was named before
        return previous if previous in _HOSTS else "upper"
    for word in reversed(before):
        stems = {word, word.removesuffix("s"), word.removesuffix("ing"), word.removesuffix("ed")}
        if stems & _CARRYING:
            return "carried"
        if stems & _WEARING:
            return "upper"
        if word in _PLACING:
            return "scene"
    return "accessory"


class Knowledge:
    """What a component knows of words.

    Attributes:
        closing: Keys of the words of `vocabulary.CLOSING`.
        groups: Noun -> group.
    """

    def __init__(self, vocab: Vocab, groups: Mapping[str, str]) -> None:
        """Add to what the lexicon knows.

        Args:
            vocab: The pipeline's.
            groups: Lower-case nouns -> one of `GROUPS`.

        Raises:
            ValueError: There is no such group.
        """
        wrong = {noun: group for noun, group in groups.items() if group not in GROUPS}
        if wrong:
            raise ValueError(
                f"pedalign: unknown groups {wrong}; a group is one of {', '.join(GROUPS)}; "
                "correct the `groups` setting"
            )
        self.closing = frozenset(vocab.strings.add(word) for word in CLOSING)
        self.groups: Mapping[str, str] = {**GROUP_OF, **groups} if groups else GROUP_OF


class Caption:
    """A document's words and tags as plain columns, from which phrases are read.

    Attributes:
        tags: One character a token that counts, the ignored ones left out.
        place: The token of each of them.
        words: Lower-case words of all tokens.
    """

    def __init__(self, doc: Doc, tags: str, knowledge: Knowledge) -> None:
        """Take the columns.

        Args:
            doc: The document.
            tags: One character a token.
            knowledge: The words that are known.
        """
        columns = doc.to_array([LOWER, ORTH, SPACY, IDX])
        keys: list[int] = columns[:, 0].tolist()
        if "NN" in tags or "NJ" in tags:
            tags = _parted(tags, keys, knowledge.closing)
        self.place: Sequence[int] = range(len(tags))
        if "_" in tags:
            self.place = [i for i, t in enumerate(tags) if t != "_"]
            tags = tags.replace("_", "")
        self.tags = tags
        strings = doc.vocab.strings
        self.words = [strings[key] for key in keys]
        # Text from the columns: Span.text makes a Python object of every token.
        self._written = [
            strings[key] + (" " if space else "") for key, space in columns[:, 1:3].tolist()
        ]
        self._starts = columns[:, 3].tolist()
        self._groups = knowledge.groups
        self._previous = ""

    def read(self, first: int, last: int, head_at: int, after: int) -> Plain:
        """The fields of a phrase, in order; to be called from left to right.

        Args:
            first: Its first token.
            last: Its last token.
            head_at: Its head.
            after: Place in `tags` of what follows it.
        """
        words, groups = self.words, self._groups
        head = _head(words, head_at, groups)
        group = groups.get(f"{words[head_at - 1]} {head}" if head_at else "") or groups.get(head)
        if not group:
            group = group_of(head, words[max(0, first - 6) : first], self._previous)
        if group != "person":
            self._previous = group
        said = words[first : last + 1]
        match = PREDICATE.match(self.tags, after)
        if match:
            more = words[self.place[after] : self.place[match.end() - 1] + 1]
            if match.lastgroup != "made" or "made" in more:
                said += more
        colours, attributes = said_of(tuple(said), head_at - first, head, group)
        text = "".join(self._written[first : last + 1]).removesuffix(" ")
        at = self._starts[first]
        return text, at, at + len(text), head, group, colours, attributes

    def found(self) -> Iterator[tuple[int, int, int, int]]:
        """Arguments of `read` for every phrase of the grammar."""
        place = self.place
        for match in chunks(self.tags):
            start, end = match.span()
            last = head_at = place[end - 1]
            if match.lastgroup == "content":
                head_at = place[start + match.group().rindex("JI")]
            yield place[start], last, head_at, end


def set_phrases(doc: Doc, found: Sequence[tuple[Plain, int, int]], spans: bool) -> None:
    """Set ``doc._.phrases`` and, if asked, ``doc.spans["phrases"]``.

    The document itself keeps plain tuples, so that spaCy can send it between processes.

    Args:
        doc: The document.
        found: Fields of phrases, each with its first and its last token.
        spans: Whether to make spaCy's spans, too.
    """
    doc.user_data[_KEY] = [plain for plain, _, _ in found]
    if spans:
        made = [Span(doc, i, j + 1, label=p[4], span_id=p[3]) for p, i, j in found]
        doc.spans["phrases"] = SpanGroup(doc, name="phrases", spans=made)


class PhraseChunker:
    """Finds phrases in a tagged document."""

    def __init__(self, vocab: Vocab, groups: Mapping[str, str] | None = None) -> None:
        """Prepare the table from tag hashes to characters.

        Args:
            vocab: The pipeline's.
            groups: Groups of nouns of one's own, see `Knowledge`.
        """
        self._tag = {vocab.strings.add(t): t for t in TAGS}
        self._knowledge = Knowledge(vocab, groups or {})

    def __call__(self, doc: Doc, *, spans: bool = True) -> Doc:
        """Set ``doc._.phrases`` and, if asked, ``doc.spans["phrases"]``."""
        known = self._tag
        # Tags of somebody else's tagger count as ignored.
        tags = "".join([known.get(t, "_") for t in doc.to_array(TAG).tolist()])
        caption = Caption(doc, tags, self._knowledge) if tags else None
        found = [(caption.read(*at), at[0], at[1]) for at in caption.found()] if caption else []
        set_phrases(doc, found, spans)
        return doc


def _parted(tags: str, keys: Sequence[int], closing: Collection[int]) -> str:
    """Mark the nouns that end a phrase though a noun follows: "blouse sunglasses"."""
    marked = list(tags)
    for match in CLOSED.finditer(tags):
        if keys[match.start()] in closing:
            marked[match.start()] = "E"
    return "".join(marked)


def _head(words: Sequence[str], at: int, groups: Mapping[str, str]) -> str:
    word = words[at]
    if word not in groups:
        glued = None if word in TAG_OF else unglued(word)
        word = correct(word) or (glued[1] if glued else word)
    if word in {"shirt", "shirts"} and at and "t" in words[max(0, at - 2) : at]:
        return "t-" + word
    return word


def _phrases(doc: Doc) -> list[Phrase]:
    """What ``doc._.phrases`` gives."""
    return [
        Phrase(*plain) if isinstance(plain, tuple) else _restored(plain)
        for plain in doc.user_data.get(_KEY, ())
    ]


def _restored(fields: list[Any]) -> Phrase:
    """A phrase whose document has been to bytes and back, which makes lists of tuples."""
    text, start, end, head, group, colours, attributes = fields
    said = tuple(Attribute(*each) for each in attributes)
    return Phrase(text, start, end, head, group, tuple(colours), said)


if not Doc.has_extension("phrases"):
    Doc.set_extension("phrases", getter=_phrases)


@Language.factory(
    "pedalign_chunker",
    default_config={"groups": {}},
    requires=["token.tag"],
    assigns=["doc._.phrases"],
)
def make_chunker(nlp: Language, name: str, groups: dict[str, str]) -> PhraseChunker:
    """Factory of `PhraseChunker`; ``groups`` is kept in the pipeline's config.cfg."""
    del name
    return PhraseChunker(nlp.vocab, groups)
