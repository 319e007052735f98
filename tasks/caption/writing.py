"""Write captions: templates whose blanks fit what was seen, filled with words chosen by the uid.

Which template and which words a caption has follow from the picture's uid, the seed and the number
of the caption alone, so neither the order of rows nor batches nor workers change one. The captions
of a picture have different frames, as long as there are any.

Unusual: it is made for millions of captions on one core. Templates are cut at their blanks once,
values bring all their phrases (`vocabulary`), and a choice is the remainder of one large number,
whose quotient makes the next choice.

    writer = Writer(vocabulary)
    writer.write(uid, kept, captions=2, seed=0)      # [Sentence(text, template), ...]
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from tasks.caption.templates import (
    SYNONYMS,
    Template,
    fitting_frames,
    fitting_tails,
    orders,
    parts,
)
from tasks.caption.vocabulary import OPTIONAL, REQUIRED, with_article
from tasks.shards import item_seed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tasks.caption.entries import Pronoun
    from tasks.caption.templates import Frame, Tail
    from tasks.caption.vocabulary import Value, Vocabulary


class Sentence(NamedTuple):
    """A caption and where it comes from."""

    text: str
    template: str
    """Name of its template."""


Forms = dict[str, tuple[str, ...]]
"""Ways to fill a blank by its form: "" a phrase, "is" a statement, "does" a verb with phrase."""

_PERSON = "person"
"""What the blanks of age and gender together belong to."""
_CLOSED = frozenset(REQUIRED) - {"age", "gender"}


class _Blank(NamedTuple):
    """Words of a template and the blank after them."""

    words: str
    owner: str
    """Attribute whose value fills the blank; empty where `choice` does."""
    form: str
    choice: tuple[str, ...]


class Writer:
    """Writes captions in the words of a vocabulary.

    Args:
        vocabulary: From `read_vocabulary`.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._forms = {
            (value.attribute, value.name): _forms(value)
            for values in vocabulary.values.values()
            for value in values
        }
        self._people = {
            (age.name, gender.name): _person(age, gender)
            for age, gender in itertools.product(
                vocabulary.values["age"], vocabulary.values["gender"]
            )
        }
        self._fitting: dict[tuple[str, ...], tuple[tuple[Frame, ...], tuple[Tail, ...]]] = {}

    def write(
        self, uid: str, kept: Iterable[Value], captions: int = 1, seed: int = 0
    ) -> list[Sentence]:
        """Say what was seen.

        Args:
            uid: Of the picture.
            kept: A value of each required attribute, and of the optional ones that were seen.
            captions: How many; each by another template, as long as there are frames.
            seed: Of the stage.

        Returns:
            The captions, in their order.
        """
        values = {value.attribute: value for value in kept if not value.absent}
        gender, age = values["gender"], values["age"]
        pronoun: Pronoun = gender.pronoun or "they"
        table = {name: self._forms[name, value.name] for name, value in values.items()}
        table[_PERSON] = self._people[age.name, gender.name]
        frames, tails = self._fit(values)
        said: list[Sentence] = []
        used: list[int] = []
        for number in range(captions):
            draw = item_seed(uid, seed, f"template {number}")
            if len(used) == len(frames):
                used = []
            draw, at = divmod(draw, len(frames) - len(used))
            for taken in sorted(used):
                at += at >= taken
            used.append(at)
            draw, other = divmod(draw, len(tails))
            frame, tail = frames[at], tails[other]
            ways = orders(frame, tail)
            template = Template(frame, tail, ways[draw % len(ways)])
            words = item_seed(uid, seed, f"words {number}")
            said.append(Sentence(_filled(template, pronoun, table, words), template.name))
        return said

    def _fit(self, values: Mapping[str, Value]) -> tuple[Sequence[Frame], Sequence[Tail]]:
        """Frames and tails for what is there; few combinations recur in all pictures."""
        left_out = {name for value in values.values() for name in value.instead_of}
        key = (
            *sorted(values.keys() - left_out),
            *sorted(f"{name}.is" for name, value in values.items() if value.statements),
        )
        found = self._fitting.get(key)
        if found is None:
            there = values.keys() - left_out
            found = self._fitting[key] = (
                fitting_frames(
                    frozenset(there & _CLOSED), frozenset(b for b in key if b.endswith(".is"))
                ),
                fitting_tails(frozenset(there & set(OPTIONAL))),
            )
        return found


def _filled(template: Template, pronoun: Pronoun, table: Mapping[str, Forms], draw: int) -> str:
    sentences = [template.frame.first, template.frame.hair, template.tail.text]
    if template.hair_last:
        sentences[1:] = sentences[:0:-1]
    out: list[str] = []
    for sentence in sentences:
        if not sentence:
            continue
        if out:
            out.append(" ")
        for words, owner, form, choice in _blanks(sentence, pronoun):
            out.append(words)
            ways = table[owner][form] if owner else choice
            draw, at = divmod(draw, len(ways))
            out.append(ways[at])
    return "".join(out)


@cache
def _blanks(text: str, pronoun: Pronoun) -> tuple[_Blank, ...]:
    """A template's text at its blanks, each with what fills it."""
    return tuple(_blank(words, blank) for words, blank in parts(text, pronoun))


def _blank(words: str, blank: str) -> _Blank:
    if not blank:
        return _Blank(words, "", "", ("",))
    if blank in SYNONYMS:
        return _Blank(words, "", "", SYNONYMS[blank])
    if blank.endswith(_PERSON) or blank == "noun":
        return _Blank(words, _PERSON, blank, ())
    owner, _, form = blank.partition(".")
    return _Blank(words, owner, form, ())


def _forms(value: Value) -> Forms:
    """Everything that a value can fill a blank with."""
    found: Forms = {"": value.phrases, "is": value.statements}
    for at, form in enumerate(("do", "does", "doing")):
        found[form] = tuple(
            f"{verb[at]} {phrase}" for verb, phrase in itertools.product(value.verbs, value.phrases)
        )
    return found


def _person(age: Value, gender: Value) -> Forms:
    """What somebody of an age and gender is called."""
    nouns = tuple(age.nouns.get(gender.name, gender.phrases))
    who = tuple(f"{word} {noun}" for word, noun in itertools.product(age.phrases, nouns))
    some = tuple(with_article(words) for words in who)
    return {
        "noun": nouns, "person": who, "a person": some,
        "A person": tuple(words[0].upper() + words[1:] for words in some),
    }  # fmt: skip
