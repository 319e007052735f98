"""Who fails: queries grouped by what they mention, read off the sentences by the phrase parser.

Works on any domain: a colour is one that `tasks.phrases` knows, a thing the head noun of a phrase
about the person (what is worn, carried, hair), and other attributes are those of the parser
(pattern, sleeves, material, age). A query stands in every group that it mentions. Exploratory: so
many groups are looked at that some differ by chance, and no p-value is given.

Shapes: S seeds, Q queries.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.ablate.records import Answers
from tasks.ablate.statistics import Estimate, contrast
from tasks.phrases import load_parser, parse
from tasks.report import mentions

KINDS = ("colour", "thing", "attribute")


@dataclass(frozen=True)
class Group:
    """Queries that mention one thing, and how two arms answer them."""

    kind: str
    """One of `KINDS`."""
    name: str
    queries: int
    people: int
    better: float
    """Percent of the first arm's answers that are right at rank 1."""
    plain: float
    """Of the second arm's."""
    difference: Estimate


def mentioned(captions: Sequence[str]) -> list[frozenset[tuple[str, str]]]:
    """(kind, word) of everything that each sentence mentions."""
    out = []
    for phrases in parse(load_parser(), captions):
        found: set[tuple[str, str]] = set()
        for kind, value in mentions.mentioned(phrases):  # as the report of a run groups them
            if kind == "colour":
                found.add((kind, value))
            elif kind in mentions.THINGS:
                found.add(("thing", value))
            elif kind != mentions.GROUP:
                found.add(("attribute", f"{kind}: {value}"))
        out.append(frozenset(found))
    return out


def grouped(
    better: Answers,
    plain: Answers,
    *,
    least_people: int = 20,
    most: int = 12,
    measure: str = "R1",
    resamples: int = 2000,
) -> list[Group]:
    """Group the queries of two arms by what they mention.

    Args:
        better: An arm.
        plain: Another, asked the same queries.
        least_people: Of a group that is shown.
        most: Groups of a kind, those of the most queries.
        measure: A rate of hits.
        resamples: Of the interval of each difference.

    Returns:
        Groups, kind after kind, in each the most frequent first.
    """
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    counted = np.isfinite(better.rank_SQ[0])
    for at, found in enumerate(mentioned(better.captions)):
        if counted[at]:
            for each in found:
                members[each].append(at)
    out: list[Group] = []
    for kind in KINDS:
        ranked = sorted((-len(rows), name) for (k, name), rows in members.items() if k == kind)
        shown = 0
        for _, name in ranked:
            rows = members[kind, name]
            people = len({better.people[row] for row in rows})
            # What every query mentions tells nobody from nobody.
            if people < least_people or len(rows) > 0.95 * counted.sum() or shown == most:
                continue
            shown += 1
            chosen: NDArray[np.bool_] = np.zeros(len(counted), dtype=bool)
            chosen[rows] = True
            one, other = better.scores(measure, chosen), plain.scores(measure, chosen)
            out.append(
                Group(
                    kind,
                    name,
                    len(rows),
                    people,
                    float(one.means.mean()),
                    float(other.means.mean()),
                    contrast(one, other, resamples=resamples),
                )
            )
    return out
