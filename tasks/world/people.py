"""Who lives in a target of the built-in world, and in which split.

Families of near-twins (`attributes.near_twin`) share the colours of upper and lower garment and
stay in one split, where their members compete. No two people share all nameable attributes. A seed
has one endless row of families, of which a target takes as many as it needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Final

import numpy as np

from tasks.world.attributes import Person, belongs_to_target, near_twin, sample_resident

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

SPLITS: Final = (("train", 0.72), ("val", 0.08), ("test", 0.20))
"""Shares of the target's people."""

# First words of the seed sequences, beside those of `tasks.world.dataset`.
_PEOPLE_STREAM, _SPLIT_STREAM = 2, 4

Name = tuple[str, ...]
"""The nameable attributes of a person."""


@dataclass(frozen=True)
class Resident:
    """A person of the target."""

    number: int
    """Identity, from 1, contiguous; train first, as in CUHK-PEDES."""
    person: Person
    split: str
    """train | val | test"""


def name_of(person: Person) -> Name:
    """Return what tells a person from others."""
    return tuple(person.labels().values())


def families(
    seed: int, stream: int = _PEOPLE_STREAM, taken: Collection[Name] = ()
) -> Iterator[list[Person]]:
    """Invent families of one to three, without end.

    Args:
        seed: Everything follows from it, and from `stream`.
        stream: First word of the seed sequence.
        taken: Whoever is not to be met.

    Yields:
        People who differ from all before them.
    """
    rng = np.random.default_rng([stream, seed])
    seen = set(taken)
    while True:
        family: list[Person] = []
        wanted = int(rng.choice([1, 2, 3], p=[0.50, 0.32, 0.18]))
        for _ in range(200):
            if len(family) == wanted:
                break
            new = near_twin(family[0], rng) if family else sample_resident(rng, target=True)
            name = name_of(new)
            if name not in seen and belongs_to_target(new):
                seen.add(name)
                family.append(new)
        yield family


def residents(people: int | Mapping[str, int], seed: int) -> list[Resident]:
    """Invent the people of the target; about half of them have near-twins.

    Args:
        people: How many, split nearly by `SPLITS`; or how many each of train, val and test has,
            and then a number changes nobody of the splits before it.
        seed: Everything follows from it.

    Returns:
        The people in the order of their numbers.
    """
    if not isinstance(people, int):
        return settle(families(seed), people)
    return share_out(families(seed), people, seed)


def share_out(row: Iterator[list[Person]], people: int, seed: int) -> list[Resident]:
    """Fill the splits by their shares, nearly: families stay whole, and come in a drawn order."""
    invented = list(_first(row, people))
    order = np.random.default_rng([_SPLIT_STREAM, seed]).permutation(len(invented))
    queue = [invented[int(i)] for i in order]
    out: list[Resident] = []
    filled = 0.0
    for split, share in SPLITS:
        filled += share
        until = people if split == SPLITS[-1][0] else round(people * filled)
        while queue and len(out) < until:
            out += [Resident(len(out) + 1 + i, p, split) for i, p in enumerate(queue.pop(0))]
    return out


def settle(row: Iterator[list[Person]], people: Mapping[str, int]) -> list[Resident]:
    """Fill the splits one after the other, each with exactly as many people as it is to have.

    Of a family that is larger than the room left, the last members live nowhere.
    """
    out: list[Resident] = []
    for split, _ in SPLITS:
        for family in _first(row, people[split]):
            out += [Resident(len(out) + 1 + i, p, split) for i, p in enumerate(family)]
    return out


def _first(row: Iterator[list[Person]], people: int) -> Iterator[list[Person]]:
    """Take families until there are so many people, the last of them in part."""
    while people > 0:
        family = next(row)[:people]
        people -= len(family)
        yield family


@cache
def first_people(seed: int, count: int) -> frozenset[Name]:
    """Name the people of whom every target of a seed with up to so many people consists."""
    row = (person for family in families(seed) for person in family)
    return frozenset(name_of(person) for person in islice(row, count))
