"""What captions name: the colour and the kind of each thing that they speak of, in one vocabulary.

A phrase ("a pair of scarlet sneakers") comes from the phrase parser with its group and its colours;
`kinds.json`, beside this file and meant to be edited, says which wordings mean the same ("scarlet"
is red, "sneakers" are shoes). What comes out is what a judge is trained on and asked for.

What is unusual: silence says nothing. A thing that no caption names has no value, never "absent",
and where captions contradict each other, or a phrase has two colours, there is no value either.

    named_attributes([["A man in a scarlet tee.", "a guy, black jeans"]])
    # [{"gender": "man", "lower colour": "black", "lower kind": "jeans",
    #   "upper colour": "red", "upper kind": "t-shirt"}]
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import PedAlignError
from tasks.phrases import EMBEDDED, GROUPS, load_parser, parse
from tasks.phrases.lexicon import SHADES, TAG_OF, correct

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tasks.phrases import Phrase

__all__ = ["COLOUR", "named_attributes", "read_vocabulary"]

COLOUR = "colour"
"""Colour attributes end with this word."""

_TABLE = Path(__file__).with_name("kinds.json")
_WORD = re.compile(r"[a-z0-9]+")
_TAIL = 2
"""Most words between a phrase and the part that places it: "a bag [on] his back"."""

Named = dict[str, str]
"""Attribute -> value, of one picture; attributes that are not named are not in it."""


@dataclass(frozen=True)
class Wording:
    """One way to say a value."""

    words: tuple[str, ...]
    value: str


@dataclass(frozen=True)
class Thing:
    """A thing that captions speak of."""

    name: str
    group: str
    place: float
    """Height at which an upright person has it, 0 the top of the picture and 1 the bottom."""
    nouns: frozenset[str]
    """Stems of the head nouns that count; empty: all but parts."""
    colour: str | None
    """Name of its colour attribute."""
    kinds: Mapping[str, tuple[Wording, ...]]
    """Attribute -> wordings."""

    def named_by(self, head: str) -> bool:
        """Whether a phrase with this head noun (its stem) speaks of it."""
        return not self.nouns or head in self.nouns


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """`kinds.json` in memory."""

    colours: Mapping[str, str]
    parts: frozenset[str]
    things: Mapping[str, tuple[Thing, ...]]
    """By group."""

    def all_things(self) -> list[Thing]:
        """Every thing, in the order of the file but for those of one group, which stay together."""
        return [thing for own in self.things.values() for thing in own]


@lru_cache(maxsize=4)
def read_vocabulary(path: Path = _TABLE) -> Vocabulary:
    """Read a file of wordings.

    Args:
        path: JSON of the shape that `kinds.json` explains in its first line.

    Raises:
        PedAlignError: It is not such a file, or two values of an attribute share a wording.
    """
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        things: dict[str, list[Thing]] = defaultdict(list)
        for each in body["things"]:
            kinds = {name: _wordings(name, values) for name, values in each["kinds"].items()}
            nouns = frozenset(map(_stem, each.get("nouns", "").split()))
            if each["group"] not in GROUPS:
                raise ValueError(f"group {each['group']!r} is none of {', '.join(GROUPS)}")
            colour = each.get("colour")
            if colour is not None and not colour.endswith(COLOUR):
                raise ValueError(f"the colour attribute {colour!r} does not end with {COLOUR!r}")
            place = float(each["place"])
            things[each["group"]].append(
                Thing(each["name"], each["group"], place, nouns, colour, kinds)
            )
        return Vocabulary(
            colours=dict(body["colours"]),
            parts=frozenset(map(_stem, body["parts"].split())),
            things={group: tuple(found) for group, found in things.items()},
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise PedAlignError(
            f"{path}: {type(error).__name__}: {error}",
            "it says how captions name colours and kinds, in the shape that its own first line "
            "explains",
            "compare it with tasks/judge/kinds.json of the release",
        ) from error


def _wordings(name: str, values: Mapping[str, Sequence[str]]) -> tuple[Wording, ...]:
    found = [Wording(_words(text), value) for value, texts in values.items() for text in texts]
    meanings: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for wording in found:
        meanings[wording.words].add(wording.value)
    for words, meant in meanings.items():
        if not words or len(meant) > 1:
            raise ValueError(f"{name}: {' '.join(words)!r} means {sorted(meant)}, not one value")
    return tuple(found)


def named_attributes(
    captions: Sequence[Sequence[str]], parser: str = EMBEDDED, vocabulary: Vocabulary | None = None
) -> list[Named]:
    """Read off captions what they say about the pictures.

    Args:
        captions: The captions of each picture; may be none.
        parser: See `tasks.phrases.load_parser`.
        vocabulary: Wordings; `kinds.json` by default.

    Returns:
        One mapping a picture, attribute -> value: what all its captions that speak of it agree on.
    """
    words = vocabulary or read_vocabulary()
    flat = [caption for own in captions for caption in own]
    told = iter(
        _read(caption, phrases, words)
        for caption, phrases in zip(flat, parse(load_parser(parser), flat), strict=True)
    )
    result: list[Named] = []
    for own in captions:
        values: dict[str, set[str]] = defaultdict(set)
        for _ in own:
            for name, value in next(told):
                values[name].add(value)
        result.append({name: v for name, found in sorted(values.items()) for v in found
                       if len(found) == 1})  # fmt: skip
    return result


def _read(
    caption: str, phrases: Sequence[Phrase], vocabulary: Vocabulary
) -> Iterator[tuple[str, str]]:
    """Every attribute and value that one caption names; contradictions and all."""
    for phrase, text, place in _joined(caption, phrases, vocabulary):
        head = _stem(phrase.head)
        yield from _kinds(vocabulary, phrase.group, head, text.lower(), place)
        for thing in vocabulary.things.get(phrase.group, ()):
            if thing.colour is not None and thing.named_by(head):
                for colour in _colours(phrase.colours, vocabulary):
                    yield thing.colour, colour


@lru_cache(maxsize=50_000)
def _kinds(
    vocabulary: Vocabulary, group: str, head: str, text: str, place: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    """Attributes and values of one phrase, colours apart; captions repeat their phrases."""
    words = _words(text)
    found = (
        (name, _kind(words, place, head, wordings))
        for thing in vocabulary.things.get(group, ())
        if thing.named_by(head)
        for name, wordings in thing.kinds.items()
    )
    return tuple((name, value) for name, value in found if value is not None)


def _joined(
    caption: str, phrases: Sequence[Phrase], vocabulary: Vocabulary
) -> Iterator[tuple[Phrase, str, tuple[str, ...]]]:
    """Phrases of things, each with its whole text and the words that place it.

    "a white button" and "up shirt" are one; so are "a bag" and "his back" in "a bag on his back",
    where the back names no thing of its own.
    """
    colours: tuple[str, ...] = ()
    start: int | None = None
    for i, phrase in enumerate(phrases):
        after = phrases[i + 1] if i + 1 < len(phrases) else None
        gap = caption[phrase.end : after.start] if after is not None else "."
        is_part = _stem(phrase.head.split("-")[-1]) in vocabulary.parts
        if is_part and after is not None and after.group == phrase.group and not gap.strip():
            start = phrase.start if start is None else start
            colours += phrase.colours
            continue
        if not is_part:
            place: tuple[str, ...] = ()
            if (
                after is not None
                and _stem(after.head) in vocabulary.parts
                and len(gap.split()) <= _TAIL
                and not re.search(r"[.,;:]", gap)
            ):
                place = (_stem(after.head),)
            text = caption[phrase.start if start is None else start : phrase.end]
            named = tuple(dict.fromkeys((*colours, *phrase.colours)))
            yield replace(phrase, colours=named), text, place
        colours, start = (), None


def _colours(colours: Sequence[str], vocabulary: Vocabulary) -> set[str]:
    """Canonical colours: no shade, one name a colour."""
    plain = [c.split(" ", 1)[1] if c.split(" ", 1)[0] in SHADES else c for c in colours]
    return {vocabulary.colours.get(colour, colour) for colour in plain}


def _kind(
    words: Sequence[str], place: Sequence[str], head: str, wordings: Sequence[Wording]
) -> str | None:
    """The value whose wording fits best, or None."""
    fitting = [
        (head in w.words or "t" in w.words, len(w.words), w.value)
        for w in wordings
        if _holds((*words, *place), w.words)
    ]
    return max(fitting, key=lambda each: each[:2])[2] if fitting else None


def _holds(words: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether `words` holds `wanted` in this order, with anything between."""
    rest = iter(words)
    return all(word in rest for word in wanted)


@lru_cache(maxsize=50_000)
def _words(text: str) -> tuple[str, ...]:
    return tuple(_stem(_mend(word)) for word in _WORD.findall(text.lower()))


def _mend(word: str) -> str:
    return word if word in TAG_OF else correct(word) or word


def _stem(word: str) -> str:
    """A word without its plural, crudely; the same on both sides of every comparison."""
    return word.removesuffix("s") if len(word) > 3 else word


def most_common(named: Sequence[Named]) -> dict[str, list[tuple[str, int]]]:
    """Values of each attribute with their counts, most frequent first, then by name."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for own in named:
        for name, value in own.items():
            counts[name][value] += 1
    return {
        name: sorted(found.items(), key=lambda each: (-each[1], each[0]))
        for name, found in sorted(counts.items())
    }
