"""The file of attributes, as it is written: see attributes.yaml for an example of everything.

Keys and types are checked here; what makes sense together is checked in `vocabulary`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from tasks.params import Strings, params

Pronoun = Literal["he", "she", "they"]
Verb = tuple[str, str, str]
"""Base form, third person, participle: carry, carries, carrying."""
Number = Literal["one", "plural", "mass"]
"""A coat, trousers, sportswear."""


@params
class PatternEntry:
    """A pattern of cloth."""

    before: Strings
    """Before the garment, with ``{colour}``; the first stands in the prompt."""
    after: Strings
    """After "is", with ``{colour}``."""


@params
class GarmentEntry:
    """A piece of clothing, to be multiplied with colours and patterns."""

    say: Strings | None = None
    """Words for it in a sentence; its name where none are given."""
    number: Number = "one"
    """A coat, trousers, sportswear."""
    pair: bool = False
    """Whether "a pair of" may stand before it."""
    instead_of: Strings = ()
    """Attributes that are left unsaid beside it."""


@params
class ValueEntry:
    """A value that is written out."""

    prompt: str = ""
    """A prompt of its own; the attribute's where it is empty."""
    say: Strings | None = None
    """Words for it in a sentence; its name where none are given."""
    number: Number = "one"
    """A bag, glasses, long hair."""
    pair: bool = False
    """Whether "a pair of" may stand before it."""
    instead_of: Strings = ()
    """Attributes that are left unsaid beside it."""
    absent: bool = False
    """Optional attributes: the option that there is none."""
    verbs: tuple[Verb, ...] = ()
    """Optional attributes: what one does with it; the attribute's where there are none."""
    pronoun: Pronoun | None = None
    """Gender: what the person is called later."""
    nouns: Mapping[str, Strings] = Field(default_factory=dict)
    """Age: words for the person by gender, instead of the gender's own."""
    noun: str = ""
    """What ``after`` is said of: hair."""
    after: Strings = ()
    """Words after "is", of the noun."""


@params
class CombineEntry:
    """Clothes as a product."""

    colours: Annotated[Strings, Field(min_length=1)]
    """Keys of ``colours``."""
    patterns: Annotated[Strings, Field(min_length=1)]
    """Keys of ``patterns``."""
    garments: Annotated[Mapping[str, GarmentEntry | None], Field(min_length=1)]
    """What is worn."""


@params
class AttributeEntry:
    """One of the 14 attributes."""

    prompt: str
    """What a picture is compared with: ``{phrase}`` is the value's name, ``{a}`` with article."""
    verbs: tuple[Verb, ...] = ()
    """Optional attributes: what one does with it."""
    values: Mapping[str, ValueEntry | None] = Field(default_factory=dict)
    """Values that are written out."""
    combine: tuple[CombineEntry, ...] = ()
    """Clothes as products."""


@params
class VocabularyFile:
    """The whole file."""

    colours: Mapping[str, Strings]
    """How a colour may be called."""
    patterns: Mapping[str, PatternEntry]
    """Patterns of cloth."""
    attributes: Mapping[str, AttributeEntry]
    """The attributes; an optional one may be left out."""
