"""Which queries fail: rank-1 by what a caption mentions, and what wrong first pictures got right.

A caption mentions colours, things and their attributes as the project's own phrase parser reads
them (`tasks.phrases`), so this works on any dataset whose captions are English. Its R@1 has an
interval over *people*: several captions of one person fail together, and an interval over queries
would be too narrow. Resampled are the people, with everything that was asked about them.

Where a dataset lies beside its ``truth.parquet`` (the built-in world), what a wrong first picture
has in common with the person who was asked for is told too, beside what any other picture of the
gallery would have: of the captions that name the thing at all.

Shapes: Q queries, P people, M mentions, R resamples, W wrong queries, G gallery pictures.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.phrases import load_parser, parse
from tasks.shards import iter_tables

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tasks.phrases import Phrase

LEAST_QUERIES = 20
LEAST_PEOPLE = 10
"""Of a mention that is told; below, its interval means nothing."""
RESAMPLES = 1000
TRUTH = "truth.parquet"
_THINGS = {
    "hair": "hair",
    "upper": "something on the upper body",
    "lower": "something on the legs",
    "footwear": "shoes",
    "carried": "a bag or a thing carried",
    "head": "something on the head",
    "accessory": "an accessory",
}
_IDLE_KINDS = frozenset({"count", "side"})
_BODY = frozenset(
    {"back", "hand", "arm", "shoulder", "side", "chest", "body", "hair", "head", "face"}
)
"""Heads that are part of a body and tell nobody apart."""
_PARTS = {"hair": "hair", "hat": "head", "upper": "upper", "lower": "lower",
          "shoe": "footwear", "bag": "carried"}  # fmt: skip
"""How an attribute of the world begins, to the phrases' group that speaks of it."""
_TABLE_KINDS = {"hair": "hair", "head": "on the head", "upper": "upper body", "lower": "legs",
                "footwear": "footwear", "carried": "carried",
                "accessory": "accessory"}  # fmt: skip

THINGS = frozenset(_TABLE_KINDS.values())
"""Kinds whose values are things."""
GROUP = "names"
"""The kind whose values are groups of things."""

Mentioned = tuple[str, str]
"""Kind ("colour", "upper body", "pattern", "names") and value ("red", "coat", "striped")."""


@dataclass(frozen=True)
class Mention:
    """How well the queries that mention something are answered."""

    kind: str
    value: str
    queries: int
    people: int
    rank1: float
    """Percent of them."""
    low: float
    high: float
    """Between which 95 % of the resamples of people lie."""
    without: float
    """R@1 of all other queries, percent."""


@dataclass(frozen=True)
class Shared:
    """How often a wrong first picture has an attribute of the person who was asked for."""

    attribute: str
    queries: int
    """Wrong first pictures of captions that name it."""
    shared: float
    """Percent of them."""
    chance: float
    """Percent of the other people's pictures in the gallery, for the same queries."""


@dataclass(frozen=True)
class Failures:
    """What an evaluation's failures have in common."""

    evaluation: str
    queries: int
    people: int
    rank1: float
    mentions: tuple[Mention, ...]
    """The best first."""
    shared: tuple[Shared, ...]
    """The least shared first; empty where nobody knows the truth."""
    wrong: int
    """Queries whose first picture is of another person."""


def mentioned(phrases: Iterable[Phrase]) -> set[Mentioned]:
    """What a caption's phrases mention; the surroundings count for nothing."""
    found: set[Mentioned] = set()
    for phrase in phrases:
        if phrase.group == "scene":
            continue
        # "dark blue" is blue: shades of their own would be too few to tell.
        found |= {("colour", colour.rpartition(" ")[2]) for colour in phrase.colours}
        found |= {(a.kind, a.value) for a in phrase.attributes if a.kind not in _IDLE_KINDS}
        if phrase.group in _THINGS:
            found.add((GROUP, _THINGS[phrase.group]))
            if phrase.head not in _BODY:
                found.add((_TABLE_KINDS[phrase.group], phrase.head))
    return found


def failures(
    name: str, queries: Path, datasets: Sequence[Path], seed: int, split: str = "test"
) -> Failures | None:
    """Group an evaluation's failures.

    Args:
        name: The evaluation.
        queries: Its queries.parquet.
        datasets: Ingested datasets, of which one was evaluated.
        seed: Of the resamples.
        split: What was asked.

    Returns:
        The groups; None where there is no query with a match.
    """
    columns = ["uid", "caption", "person_id", "first_rank", "top10"]
    table = pq.read_table(queries, columns=columns)
    table = table.filter(pc.greater(table["first_rank"], 0))
    if not table.num_rows:
        return None
    said = parse(load_parser(), table["caption"].to_pylist())
    # A picture of nobody known is of a person of its own.
    names = pc.coalesce(table["person_id"], table["uid"]).to_numpy(zero_copy_only=False)
    person_Q = np.unique(names.astype(str), return_inverse=True)[1]
    hit_Q = table["first_rank"].to_numpy() == 1
    groups: dict[Mentioned, list[int]] = defaultdict(list)
    for row, phrases in enumerate(said):
        for each in mentioned(phrases):
            groups[each].append(row)
    return Failures(
        name,
        table.num_rows,
        int(person_Q.max()) + 1,
        100 * float(hit_Q.mean()),
        _mentions(groups, hit_Q, person_Q, seed),
        _shared(table.filter(pa.array(~hit_Q)), np.flatnonzero(~hit_Q), said, datasets, split),
        int((~hit_Q).sum()),
    )


def _mentions(
    groups: Mapping[Mentioned, Sequence[int]],
    hit_Q: NDArray[np.bool_],
    person_Q: NDArray[np.int64],
    seed: int,
) -> tuple[Mention, ...]:
    """R@1 of every mention that is frequent enough, the best first."""
    people = int(person_Q.max()) + 1
    kept = [
        each
        for each, rows in sorted(groups.items())
        if LEAST_QUERIES <= len(rows) < len(hit_Q)
        and len(np.unique(person_Q[list(rows)])) >= LEAST_PEOPLE
    ]
    if not kept:
        return ()
    asked_PM, hits_PM = np.zeros((people, len(kept))), np.zeros((people, len(kept)))
    for m, each in enumerate(kept):
        rows = np.asarray(groups[each])
        np.add.at(asked_PM[:, m], person_Q[rows], 1.0)
        np.add.at(hits_PM[:, m], person_Q[rows], hit_Q[rows].astype(float))
    low_M, high_M = interval(hits_PM, asked_PM, seed)
    found = []
    for m, (kind, value) in enumerate(kept):
        asked, hits = asked_PM[:, m].sum(), hits_PM[:, m].sum()
        others = len(hit_Q) - asked
        found.append(
            Mention(
                kind, value, int(asked), int((asked_PM[:, m] > 0).sum()),
                100 * float(hits / asked), float(low_M[m]), float(high_M[m]),
                100 * float((hit_Q.sum() - hits) / others),
            )
        )  # fmt: skip
    return tuple(sorted(found, key=lambda each: (-each.rank1, each.kind, each.value)))


def interval(
    hits_PM: NDArray[np.float64], asked_PM: NDArray[np.float64], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Percentile bootstrap over people of a share of queries: 2.5 % and 97.5 %, in percent.

    Args:
        hits_PM: Answered queries of each person, by mention.
        asked_PM: All of them; a resample in which nobody was asked says nothing.
        seed: Of the resamples.
    """
    people = len(hits_PM)
    drawn_RP = np.random.default_rng(seed).multinomial(
        people, np.full(people, 1 / people), size=RESAMPLES
    ).astype(np.float64)  # fmt: skip
    asked_RM, hits_RM = drawn_RP @ asked_PM, drawn_RP @ hits_PM
    share_RM = np.where(asked_RM > 0, hits_RM / np.maximum(asked_RM, 1), np.nan)
    low_M, high_M = np.nanpercentile(100 * share_RM, [2.5, 97.5], axis=0)
    return low_M, high_M


# ------------------------------------------------------------------ what wrong pictures share


def _shared(
    wrong: pa.Table,
    places_W: NDArray[np.int64],
    said: Sequence[Sequence[Phrase]],
    datasets: Sequence[Path],
    split: str,
) -> tuple[Shared, ...]:
    """Compare the wrong first pictures with who was asked for, where the truth is known."""
    if not wrong.num_rows:
        return ()
    firsts = pc.list_element(wrong["top10"], 0).to_pylist()
    uids = wrong["uid"].to_pylist()
    for folder in datasets:
        if not (folder / TRUTH).exists():
            continue
        gallery = _gallery(folder, split)
        place = {uid: n for n, uid in enumerate(gallery["uid"].to_pylist())}
        if all(uid in place for uid in [*uids, *firsts]):
            query_W = np.asarray([place[uid] for uid in uids])
            first_W = np.asarray([place[uid] for uid in firsts])
            return _compared(gallery, query_W, first_W, [said[n] for n in places_W])
    return ()


def _gallery(folder: Path, split: str) -> pa.Table:
    """uid, person and true attributes of a split's pictures; needs the world's truth."""
    truth = pq.read_table(folder / TRUTH)
    told = [f.name for f in truth.schema if (f.metadata or {}).get(b"meaning", b"")
            .startswith(b"attribute ")]  # fmt: skip
    columns = ["uid", "person_id", "source_path", "split"]
    parts = iter_tables(folder, columns, verify=False)
    rows = pa.concat_tables(part.filter(pc.equal(part["split"], split)) for part in parts)
    joined = rows.join(truth.select(["source_path", *told]), "source_path", join_type="inner")
    return joined.drop_columns(["source_path", "split"])


def _compared(
    gallery: pa.Table,
    query_W: NDArray[np.int64],
    first_W: NDArray[np.int64],
    said: Sequence[Sequence[Phrase]],
) -> tuple[Shared, ...]:
    person_G = gallery["person_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    found = []
    for name in gallery.column_names:
        if name in {"uid", "person_id"}:
            continue
        value_G = gallery[name].combine_chunks().dictionary_encode().indices.to_numpy()
        asks_W = np.asarray([names_it(name, phrases) for phrases in said])
        if asks_W.sum() < LEAST_QUERIES:
            continue
        query, first = query_W[asks_W], first_W[asks_W]
        same = value_G[query] == value_G[first]
        # Of the gallery's pictures of anybody else: counts of the value, less one's own.
        alike = np.bincount(value_G)[value_G[query]] - np.bincount(person_G)[person_G[query]]
        others = len(person_G) - np.bincount(person_G)[person_G[query]]
        chance = float((alike / np.maximum(others, 1)).mean())
        words = name.replace("_", " ")
        found.append(Shared(words, int(asks_W.sum()), 100 * float(same.mean()), 100 * chance))
    return tuple(sorted(found, key=lambda each: (each.shared, each.attribute)))


def names_it(attribute: str, phrases: Iterable[Phrase]) -> bool:
    """Whether a caption says something about an attribute of the world, such as upper_colour."""
    part, _, what = attribute.partition("_")
    if part == "gender":
        return any(a.kind == "gender" for phrase in phrases for a in phrase.attributes)
    spoken = [phrase for phrase in phrases if phrase.group == _PARTS.get(part)]
    if what == "colour":
        return any(phrase.colours for phrase in spoken)
    if what in {"pattern", "length"}:
        return any(a.kind == what for phrase in spoken for a in phrase.attributes)
    return bool(spoken)
