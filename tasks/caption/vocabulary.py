"""The words of `method: clip_attributes`: what may be seen on a person, asked for and said.

UniPT (its sec. 3) knows 14 attributes of a person, six of which every caption names. The values
that each may have, how a prompt asks for them and how a sentence names them stand in a YAML file
that a user edits for an own domain; here it is read, checked and multiplied out.

Unusual: nothing of grammar is left for later. A value comes with every phrase that it can be named
by, article and all ("an orange coat", "a pair of black trousers", "black leggings"), and with every
statement ("trousers are black"), so that writing a caption is choosing and joining. And clothes are
written as colours x patterns x garments: forty lines of the shipped file are 337 prompts.

    words = read_vocabulary(Path("tasks/caption/attributes.yaml"))
    words.values["gender"][0].prompt                     # "A photo of a man."
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tasks.caption.entries import (
    AttributeEntry,
    CombineEntry,
    GarmentEntry,
    Pronoun,
    ValueEntry,
    Verb,
    VocabularyFile,
)
from tasks.errors import PedAlignError
from tasks.params import Strings, check_section, read_yaml

REQUIRED = ("age", "gender", "upper clothes", "lower clothes", "action", "hair length")
"""Attributes that every caption names, whichever value is the likeliest."""
OPTIONAL = ("bag", "glasses", "smoke", "hat", "cellphone", "umbrella", "gloves", "vehicle")
"""Attributes that are named where one of their values is likely enough."""
ATTRIBUTES = REQUIRED + OPTIONAL
"""UniPT's 14, in the order of the paper."""
REPLACEABLE = ("action", "lower clothes")
"""What a caption can do without beside another value: the templates know how."""

SHIPPED = "tasks/caption/attributes.yaml"
"""The file of this project, named in messages."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """One value of an attribute: how it is asked for and how it is said."""

    attribute: str
    """One of `ATTRIBUTES`."""
    name: str
    """What the tables call it: "white pure color t-shirt"."""
    prompt: str
    """What a picture is compared with."""
    phrases: tuple[str, ...]
    """Ways to name it, with the article that each needs. Adjectives of an age, nouns of a gender
    and actions have none."""
    statements: tuple[str, ...] = ()
    """Ways to say how it is, to stand after a possessive: "trousers are black". May be empty."""
    verbs: tuple[Verb, ...] = ()
    """What one does with it; of optional attributes."""
    absent: bool = False
    """Whether it is the option that there is none."""
    instead_of: frozenset[str] = frozenset()
    """Attributes that are left unsaid beside it."""
    pronoun: Pronoun | None = None
    """Of a gender."""
    nouns: Mapping[str, Strings] = field(default_factory=dict)
    """Of an age: words for the person by gender, instead of the gender's own."""
    colour: str | None = None
    """Of clothes: key of the file's ``colours``."""
    pattern: str | None = None
    """Of clothes: key of the file's ``patterns``."""
    garment: str | None = None
    """Of clothes: its name in the file."""


@dataclass(frozen=True)
class Vocabulary:
    """All attributes with all their values."""

    values: Mapping[str, tuple[Value, ...]]
    """By attribute, in the order of `ATTRIBUTES`; of each in the order of the file."""

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """All prompts, attribute after attribute."""
        return tuple(value.prompt for values in self.values.values() for value in values)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of values of each attribute."""
        return tuple(len(values) for values in self.values.values())

    @cached_property
    def _by_name(self) -> dict[tuple[str, str], Value]:
        return {(v.attribute, v.name): v for values in self.values.values() for v in values}

    def find(self, attribute: str, name: str) -> Value:
        """A value by what the tables call it."""
        return self._by_name[attribute, name]


def read_vocabulary(path: Path) -> Vocabulary:
    """Read, check and multiply out a file of attributes.

    Raises:
        PedAlignError: There is no such file, or something in it is missing, unknown, empty, said
            twice or contradictory; the message names it.
    """
    if not path.is_file():
        raise PedAlignError(
            f"caption.clip_attributes.attributes: {path}: no such file",
            "it is a YAML file of attributes with their phrases",
            f"name {SHIPPED}, or a changed copy of it",
        )
    loaded = check_section(VocabularyFile, read_yaml(path), "", path, SHIPPED)
    return _Reading(path, loaded).vocabulary()


_VOWEL = re.compile(
    r"(?!u(?:ni[cfoqstv]|se|su|fo)|eu|on(?:e|ce)\b)[aeiou]|hour|honest|hono|heir", re.IGNORECASE
)


def with_article(phrase: str) -> str:
    """Put the indefinite article before a phrase by the sound that it begins with."""
    return f"{'an' if _VOWEL.match(phrase) else 'a'} {phrase}"


# Small letters: the grammar decides what begins a sentence. No full stop: it decides that, too.
_WORDS = re.compile(r"[a-z0-9]+(?:[-'’ ][a-z0-9]+)*")
_BLANK = re.compile(r"\{([^{}]*)\}")


class _Reading:
    """A file on its way to a vocabulary."""

    def __init__(self, path: Path, loaded: VocabularyFile) -> None:
        self.path, self.loaded = path, loaded

    def vocabulary(self) -> Vocabulary:
        """Check the file as a whole, and multiply it out."""
        there = self.loaded.attributes
        for name in there:
            if name not in ATTRIBUTES:
                self._refuse(
                    "attributes", name, f"the attributes are {', '.join(ATTRIBUTES)}",
                    "correct the name, or remove it: the templates have no blank for another",
                )  # fmt: skip
        for name in REQUIRED:
            if name not in there:
                self._refuse(
                    "attributes", f"without {name}", f"every caption names {', '.join(REQUIRED)}",
                    f"copy `{name}` from {SHIPPED}",
                )  # fmt: skip
        for colour, words in self.loaded.colours.items():
            self._words(f"colours.{colour}", (colour, *self._some(f"colours.{colour}", words)))
        for name, pattern in self.loaded.patterns.items():
            for side, forms in (("before", pattern.before), ("after", pattern.after)):
                where = f"patterns.{name}.{side}"
                for form in self._some(where, forms):
                    if _BLANK.findall(form) != ["colour"]:
                        self._refuse(
                            where, form, "a pattern has the blank {colour} once",
                            'write it as in "{colour} striped"',
                        )  # fmt: skip
                self._words(where, [form.replace("{colour}", "colour") for form in forms])
        return Vocabulary(
            {name: self._attribute(name, there[name]) for name in ATTRIBUTES if name in there}
        )

    # -------------------------------------------------------------- one attribute

    def _attribute(self, name: str, entry: AttributeEntry) -> tuple[Value, ...]:
        where = f"attributes.{name}"
        if len(_BLANK.findall(entry.prompt)) != 1:
            self._refuse(
                f"{where}.prompt", entry.prompt, "a prompt has one blank, {phrase} or {a}",
                'write it as in "A photo of a person wearing {a}."',
            )  # fmt: skip
        if entry.verbs and name in REQUIRED:
            self._refuse(
                f"{where}.verbs", entry.verbs, "only optional attributes have verbs of their own",
                "remove them: the templates bring those of the others",
            )  # fmt: skip
        values = (
            *(self._value(name, entry, key, one or ValueEntry())
              for key, one in entry.values.items()),
            *(value for at, group in enumerate(entry.combine)
              for value in self._product(name, entry, group, f"{where}.combine.{at}")),
        )  # fmt: skip
        self._whole(name, where, values)
        return values

    def _whole(self, name: str, where: str, values: tuple[Value, ...]) -> None:
        """Check an attribute's values together."""
        for what in ("prompt", "name"):
            for text, times in Counter(getattr(value, what) for value in values).items():
                if times > 1:
                    self._refuse(
                        where, f"{what} {text!r}, {times} times",
                        "every value of an attribute stands once: two alike would share the "
                        "probability of one", "remove the others",
                    )  # fmt: skip
        said = [value for value in values if not value.absent]
        if len(said) < (2 if name in REQUIRED else 1):
            self._refuse(
                where, f"{len(said)} values that can be said",
                "a required attribute has two or more, an optional one or more",
                f"add values, as in {SHIPPED}"
                + ("" if name in REQUIRED else ", or remove the attribute"),
            )  # fmt: skip
        if name in OPTIONAL and len(said) == len(values):
            self._refuse(
                where, "no value that is absent",
                "an optional attribute has an option that there is none: without it one of the "
                "others would always be likely",
                f'add one, as in "no {name}: {{prompt: ..., absent: true}}"',
            )  # fmt: skip

    def _value(self, name: str, entry: AttributeEntry, key: str, one: ValueEntry) -> Value:
        where = f"attributes.{name}.values.{key}"
        self._words(where, [key])
        say = self._words(f"{where}.say", self._some(f"{where}.say", _said(one.say, key)))
        # Adjectives, nouns and participles get their article, if any, from the sentence.
        said_as = "mass" if name in ("age", "gender", "action") else one.number
        verbs = one.verbs or entry.verbs
        for test, wrong, rule, remedy in (
            (one.absent and name in REQUIRED, "absent", "only an optional attribute can be absent",
             "remove `absent`"),
            (one.absent and not one.prompt, "absent without a prompt",
             "that there is none is asked for in words of its own",
             'add one, as in "A photo of a person who does not carry a bag."'),
            (name == "gender" and one.pronoun is None, "no pronoun",
             "a gender says which pronoun it takes", "add `pronoun`: he, she or they"),
            (name != "gender" and one.pronoun is not None, one.pronoun,
             "only a gender has a pronoun", "remove `pronoun`"),
            (bool(one.nouns) and name != "age", dict(one.nouns), "only an age has nouns",
             "remove `nouns`"),
            (name in OPTIONAL and not one.absent and not verbs, "no verbs",
             "an optional attribute says what one does with it", "add `verbs`, as in "
             "[[carry, carries, carrying]]"),
            (name in REQUIRED and bool(one.verbs), one.verbs, "only an optional attribute has some",
             "remove `verbs`"),
            (bool(one.after) != bool(one.noun), one.after or one.noun,
             "`noun` and `after` stand together", "add the other, or remove both"),
        ):  # fmt: skip
            if test:
                self._refuse(where, wrong, rule, remedy)
        for gender, words in one.nouns.items():
            self._known(f"{where}.nouns", gender, self.loaded.attributes["gender"].values)
            self._words(f"{where}.nouns", self._some(f"{where}.nouns.{gender}", words))
        for form in itertools.chain.from_iterable(verbs):
            self._words(f"{where}.verbs", [form])
        self._words(where, [*one.after, *([one.noun] if one.noun else [])])
        return Value(
            attribute=name,
            name=key,
            prompt=self._prompt(f"{where}.prompt", one.prompt or entry.prompt, key, one.number),
            phrases=() if one.absent else _phrases(say, said_as, one.pair),
            statements=_statements([one.noun], one.after, one.number) if one.noun else (),
            verbs=verbs,
            absent=one.absent,
            instead_of=self._instead(where, name, one.instead_of),
            pronoun=one.pronoun,
            nouns=dict(one.nouns),
        )

    def _product(
        self, name: str, entry: AttributeEntry, group: CombineEntry, where: str
    ) -> Iterator[Value]:
        if name not in ("upper clothes", "lower clothes"):
            self._refuse(
                where, name, "only upper and lower clothes are combined",
                "write the values out under `values`",
            )  # fmt: skip
        for colour in group.colours:
            self._known(f"{where}.colours", colour, self.loaded.colours)
        for pattern in group.patterns:
            self._known(f"{where}.patterns", pattern, self.loaded.patterns)
        for colour, pattern, garment in itertools.product(
            group.colours, group.patterns, group.garments
        ):
            one = group.garments[garment] or GarmentEntry()
            here = f"{where}.garments.{garment}"
            things = self._words(here, self._some(here, _said(one.say, garment)))
            self._words(here, [garment])
            style, colours = self.loaded.patterns[pattern], self.loaded.colours[colour]
            worn = f"{style.before[0].replace('{colour}', colour)} {garment}"
            described = [
                f"{form.replace('{colour}', word)} {thing}"
                for form, word, thing in itertools.product(style.before, colours, things)
            ]
            alone = [
                form.replace("{colour}", word)
                for form, word in itertools.product(style.after, colours)
            ]
            yield Value(
                attribute=name,
                name=worn,
                prompt=self._prompt(f"{where}.prompt", entry.prompt, worn, one.number),
                phrases=_phrases(described, one.number, one.pair),
                statements=_statements(things, alone, one.number),
                instead_of=self._instead(here, name, one.instead_of),
                colour=colour,
                pattern=pattern,
                garment=garment,
            )

    # -------------------------------------------------------------- checks

    def _prompt(self, where: str, prompt: str, name: str, number: str) -> str:
        filled = with_article(name) if number == "one" else name
        found = prompt.replace("{phrase}", name).replace("{a}", filled)
        if _BLANK.search(found) or not found.strip() or "  " in found:
            self._refuse(
                where, prompt, "the blanks are {phrase} and {a}, between single spaces",
                'write it as in "A photo of a person wearing {a}."',
            )  # fmt: skip
        return found

    def _instead(self, where: str, name: str, others: Strings) -> frozenset[str]:
        for other in others:
            if other not in REPLACEABLE or other == name:
                self._refuse(
                    f"{where}.instead_of", other,
                    f"a caption can do without {' or '.join(REPLACEABLE)}, of another attribute",
                    "remove it, or name one of these",
                )  # fmt: skip
        return frozenset(others)

    def _known(self, where: str, name: str, among: Iterable[str]) -> None:
        if name not in among:
            self._refuse(
                where, name, f"it is one of {', '.join(among)}", "correct it, or add it there"
            )

    def _some(self, where: str, words: Strings) -> Strings:
        """Refuse an empty list, and one that says a thing twice."""
        if not words:
            self._refuse(where, "[]", "a list of words is not empty", "add a word, or remove it")
        for word, times in Counter(words).items():
            if times > 1:
                self._refuse(
                    where, f"{word!r}, {times} times", "every word stands once", "remove it"
                )
        return words

    def _words(self, where: str, words: Iterable[str]) -> Strings:
        checked = tuple(words)
        for word in checked:
            if not _WORDS.fullmatch(word):
                self._refuse(
                    where, repr(word),
                    "words are small letters and digits with single spaces, hyphens and "
                    "apostrophes between", "write it so; the grammar adds capitals and full stops",
                )  # fmt: skip
        return checked

    def _refuse(self, where: str, value: object, rule: str, remedy: str) -> None:
        raise PedAlignError(f"{self.path}: `{where}` has {value}", rule, remedy)


def _said(words: Strings | None, name: str) -> Strings:
    """The words for a thing; its name where none are given."""
    return (name,) if words is None else words


def _phrases(words: Iterable[str], number: str, pair: bool) -> tuple[str, ...]:
    """Words with the articles that they need, each way once."""
    found = [with_article(word) if number == "one" else word for word in words]
    if pair:
        found += [f"a pair of {word}" for word in found]
    return tuple(dict.fromkeys(found))


def _statements(nouns: Iterable[str], after: Iterable[str], number: str) -> tuple[str, ...]:
    verb = "are" if number == "plural" else "is"
    return tuple(
        dict.fromkeys(f"{noun} {verb} {word}" for noun, word in itertools.product(nouns, after))
    )
