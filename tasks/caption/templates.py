"""The sentences that attributes are put into: a grammar of templates with blanks.

UniPT's authors wrote 456 templates by hand and published two (sec. 3). Here templates are
composed. A *frame* says what every caption says: who it is, the clothes, the action, the hair, in
one of some ways to begin, to join the clothes and to bring in the hair. A *tail* says what the
person carries and wears besides, in one of some ways. A template is a frame with a tail and has a
name that says how it was composed: ``the.trailing.and.has-he/bag+hat.finite.noun``. All can be
listed and counted (`count`), and each frame has the same chance wherever it fits.

A template fits where it names exactly the required attributes that are there to be named, and as
many of the optional ones as a tail can hold (`MOST`). Blanks are written in braces:

- ``{upper clothes}`` a phrase with its article, ``{upper clothes.is}`` a statement ("coat is red");
- ``{bag.does}``, ``{bag.do}``, ``{bag.doing}`` a verb with its phrase ("carries a backpack");
- ``{A person}``, ``{a person}`` "an elderly man"; ``{person}`` the same without article;
  ``{noun}`` "man";
- ``{wears}`` and the like: a word of `SYNONYMS`, chosen for each caption;
- ``{He}``, ``{His}``, ``{his}``, and verbs in both numbers, ``{has|have}``: settled by the pronoun.

Everything here is words; choosing values and words for the blanks is done in `writing`.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from tasks.caption.vocabulary import OPTIONAL, REQUIRED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tasks.caption.entries import Pronoun
    from tasks.caption.vocabulary import Vocabulary

MOST = 3
"""Optional attributes that one caption names at most; more would be a list and no description."""

SYNONYMS: dict[str, tuple[str, ...]] = {
    "wearing": ("wearing", "dressed in", "clad in"),
    "wears": ("wears", "is wearing", "is dressed in", "has on"),
    "wear": ("wear", "are wearing", "are dressed in", "have on"),
    "Wearing": ("Wearing", "Dressed in", "Clad in"),
    "picture": ("picture", "photo", "image"),
}
"""Words of the templates themselves that may stand for one another."""

DETERMINERS = {"a": ("{A person}", "{a person}"), "the": ("The {person}", "the {person}"),
               "this": ("This {person}", "this {person}")}  # fmt: skip
"""How the person is named first: at the beginning of a sentence, and within."""

JOINS = {
    "and": "{upper clothes} and {lower clothes}",
    "with": "{upper clothes} with {lower clothes}",
    "below": "{lower clothes} and {upper clothes}",
}
"""How two pieces of clothing are named together."""

# Ways to begin. PERSON is the person, named first, with the hair where it stands beside the person;
# CLOTHES is what is worn, in one phrase, and STATED the same as statements.
_ACTING = {
    "trailing": "PERSON is {action}, {wearing} CLOTHES.",
    "inside": "PERSON in CLOTHES is {action}.",
    "wears-and": "PERSON {wears} CLOTHES and is {action}.",
    "and-wears": "PERSON is {action} and {wears} CLOTHES.",
    "who-is": "PERSON who is {action} {wears} CLOTHES.",
    "fronted": "{Wearing} CLOTHES, PERSON is {action}.",
    "acts-first": "PERSON is {action}. {He} {wears|wear} CLOTHES.",
    "wears-first": "PERSON {wears} CLOTHES. {He} {is|are} {action}.",
    "stated": "PERSON is {action}. STATED.",
    "there": "There is PERSON {action}, {wearing} CLOTHES.",
    "shown": "The {picture} shows PERSON who is {action} and {wears} CLOTHES.",
}
_STILL = {
    "wears": "PERSON {wears} CLOTHES.",
    "seen": "PERSON can be seen in CLOTHES.",
    "there-wears": "There is PERSON {wearing} CLOTHES.",
    "shown-in": "The {picture} shows PERSON in CLOTHES.",
    "this-is": "This is PERSON. STATED.",
}
_HAIR = {
    "with": "",
    "has-he": "{He} {has|have} {hair length}.",
    "has-noun": "The {noun} has {hair length}.",
    "stated": "{His} {hair length.is}.",
}
"""How the hair is brought in: beside the person, or in a sentence of its own."""

_SUBJECTS = {"he": "{He}", "noun": "The {noun}"}
_FORMS = ("finite", "doing", "apart")
"""One sentence of finite verbs; one of participles; a sentence for each."""


@dataclass(frozen=True)
class Frame:
    """What a caption says of everybody."""

    name: str
    first: str
    """The sentence or two that it begins with."""
    hair: str
    """The sentence on the hair; empty where the beginning says it."""
    blanks: frozenset[str]
    """Required attributes that it names, and statements that it makes: ``upper clothes.is``."""
    names: frozenset[str]
    """Required attributes that it names, one way or the other."""


@dataclass(frozen=True)
class Tail:
    """What a caption says of some people."""

    name: str
    text: str
    names: frozenset[str]
    """Optional attributes that it names."""


NO_TAIL = Tail("", "", frozenset())

_BLANK = re.compile(r"\{([^{}]+)\}")


def _attributes(text: str) -> frozenset[str]:
    """The blanks of a text that stand for attributes, age and gender apart."""
    found = {blank.rpartition(".")[0] or blank for blank in _BLANK.findall(text)}
    return frozenset(found & {*REQUIRED, *OPTIONAL})


@cache
def frames() -> tuple[Frame, ...]:
    """All frames, for captions with and without an action and lower clothes."""
    made = []
    for acting, two in itertools.product((True, False), (True, False)):
        for way, pattern in (_ACTING if acting else _STILL).items():
            stated = "STATED" in pattern
            joins = {"": ""} if stated or not two else JOINS
            # In the middle of a sentence that points at somebody, only "a" will do.
            only_a = way in ("there", "shown", "there-wears", "shown-in", "this-is")
            determiners = ["a"] if only_a else list(DETERMINERS)
            for determiner, join, hair in itertools.product(determiners, joins, _HAIR):
                text = _filled(pattern, determiner, JOINS.get(join, "{upper clothes}"), hair, two)
                sentence = _HAIR[hair]
                blanks = {b for b in _BLANK.findall(text + sentence) if b.endswith(".is")}
                named = _attributes(text + sentence)
                name = ".".join(filter(None, (determiner, way, join, hair)))
                made.append(
                    Frame(
                        name if two else f"{name}.one", text, sentence,
                        frozenset(blanks | named), named,
                    )
                )  # fmt: skip
    return tuple(made)


def _filled(pattern: str, determiner: str, clothes: str, hair: str, two: bool) -> str:
    opening, inner = DETERMINERS[determiner]
    looks = " with {hair length}" if hair == "with" else ""
    stated = "{His} {upper clothes.is}" + (" and {his} {lower clothes.is}" if two else "")
    starts = pattern.startswith("PERSON")
    person = (opening if starts else inner) + looks
    return pattern.replace("PERSON", person).replace("CLOTHES", clothes).replace("STATED", stated)


@cache
def tails(names: frozenset[str]) -> tuple[Tail, ...]:
    """All tails that name exactly these optional attributes; the empty one where there are none."""
    if not names:
        return (NO_TAIL,)
    order = [name for name in OPTIONAL if name in names]
    made = []
    for form, (subject, who) in itertools.product(_FORMS, _SUBJECTS.items()):
        if form == "apart" and len(order) == 1:
            continue
        # A noun takes the third person; what a pronoun takes, the pronoun settles.
        verb = {"he": "does|do", "noun": "does"}[subject]
        if form == "finite":
            text = f"{who} {_listed([_verb(name, verb) for name in order])}."
        elif form == "doing":
            be = {"he": "{is|are}", "noun": "is"}[subject]
            text = f"{who} {be} {_listed([_verb(name, 'doing') for name in order])}."
        else:
            first, *others = order
            text = " ".join(
                [f"{who} {_verb(first, verb)}."]
                + [f"{{He}} {_verb(name, 'does|do')}." for name in others]
            )
        made.append(Tail(f"{'+'.join(order)}.{form}.{subject}", text, names))
    return tuple(made)


def _verb(name: str, form: str) -> str:
    return "{" + "|".join(f"{name}.{part}" for part in form.split("|")) + "}"


def _listed(parts: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


# ------------------------------------------------------------------ which fit


@cache
def fitting_frames(names: frozenset[str], blanks: frozenset[str]) -> tuple[Frame, ...]:
    """The frames that name exactly these required attributes.

    Args:
        names: Required attributes to be named, age and gender apart.
        blanks: Statements that their values can make: ``upper clothes.is``.
    """
    return tuple(f for f in frames() if f.names == names and f.blanks <= names | blanks)


@cache
def fitting_tails(names: frozenset[str]) -> tuple[Tail, ...]:
    """The tails that name as many as they can, `MOST`, of these optional attributes."""
    few = min(MOST, len(names))
    order = [name for name in OPTIONAL if name in names]
    chosen = itertools.combinations(order, few)
    return tuple(tail for some in chosen for tail in tails(frozenset(some)))


@dataclass(frozen=True)
class Template:
    """A frame with a tail."""

    frame: Frame
    tail: Tail
    hair_last: bool
    """Whether the sentence on the hair, if there is one, follows the tail."""

    @property
    def name(self) -> str:
        """How it is composed."""
        order = ".hair-last" if self.hair_last else ""
        return self.frame.name + (f"/{self.tail.name}{order}" if self.tail.name else "")

    @property
    def text(self) -> str:
        """The whole, with its blanks."""
        rest = [self.frame.hair, self.tail.text]
        if self.hair_last:
            rest.reverse()
        return " ".join(filter(None, (self.frame.first, *rest)))


def orders(frame: Frame, tail: Tail) -> tuple[bool, ...]:
    """Whether the hair may come last: only where it and the tail are sentences of their own."""
    return (False, True) if frame.hair and tail.text else (False,)


def templates(vocabulary: Vocabulary) -> Iterator[Template]:
    """List every template that some values of a vocabulary fit."""
    for names, some in _possible(vocabulary):
        for frame in fitting_frames(names, _statable(vocabulary)):
            for tail in tails(some):
                for last in orders(frame, tail):
                    yield Template(frame, tail, last)


def count(vocabulary: Vocabulary) -> int:
    """How many templates there are that some values of a vocabulary fit."""
    return sum(1 for _ in templates(vocabulary))


def _statable(vocabulary: Vocabulary) -> frozenset[str]:
    return frozenset(
        f"{name}.is"
        for name, values in vocabulary.values.items()
        if any(value.statements for value in values)
    )


def _possible(vocabulary: Vocabulary) -> Iterator[tuple[frozenset[str], frozenset[str]]]:
    """Required attributes that a caption names, with optional ones that a tail may name beside."""
    named = frozenset(REQUIRED) - {"age", "gender"}
    always = [name for name in REQUIRED if name in vocabulary.values]
    optional = [name for name in OPTIONAL if name in vocabulary.values]
    for size in range(MOST + 1):
        for some in itertools.combinations(optional, size):
            effects: set[frozenset[str]] = {frozenset()}
            for name in (*always, *some):
                own = {v.instead_of for v in vocabulary.values[name] if not v.absent}
                effects = {a | b for a, b in itertools.product(effects, own)}
            # Of more than `MOST` that were seen, one that is not named may leave a thing unsaid.
            for name in optional if size == MOST else ():
                for value in vocabulary.values[name]:
                    effects |= {effect | value.instead_of for effect in effects}
            for effect in sorted(effects, key=sorted):
                yield named - effect, frozenset(some)


# ------------------------------------------------------------------ parts


_HE: Mapping[Pronoun, tuple[str, str]] = {
    "he": ("he", "his"), "she": ("she", "her"), "they": ("they", "their"),
}  # fmt: skip


def parts(text: str, pronoun: Pronoun) -> tuple[tuple[str, str], ...]:
    """Cut a template's text into literal words and the blanks that are left for each caption.

    Args:
        text: Of a template.
        pronoun: Settles pronouns and the number of the verbs after them.

    Returns:
        ``(words, blank)`` pairs in their order: the words before a blank, and its name; the last
        blank is empty.
    """
    he, his = _HE[pronoun]
    own = {"He": he.capitalize(), "he": he, "His": his.capitalize(), "his": his}

    def settle(match: re.Match[str]) -> str:
        blank = match.group(1)
        if blank in own:
            return own[blank]
        single, bar, plural = blank.partition("|")
        word = plural if bar and pronoun == "they" else single
        return f"{{{word}}}" if word in SYNONYMS or not bar or "." in word else word

    pieces = _BLANK.split(_BLANK.sub(settle, text))
    return tuple(zip(pieces[::2], [*pieces[1::2], ""], strict=True))
