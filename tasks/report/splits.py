"""Who and what stands in which split of a dataset, and what stands in two: the leak check."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from tasks.schemas import OK
from tasks.shards import iter_tables

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class SplitCheck:
    """Who and what stands in which split of a dataset, and what stands in two."""

    people: Mapping[str, int]
    images: Mapping[str, int]
    captions: Mapping[str, int]
    shared_people: Mapping[str, int]
    """ "train/test" to the number of identities in both."""
    shared_captions: int
    """Sentences that stand word for word with more than one person."""


def check_splits(folder: Path) -> SplitCheck:
    """Count people, images and captions a split, and what several splits or people share.

    Memory holds narrow columns only: a person's name and a caption for every row.
    """
    parts, said = [], []
    for table in iter_tables(folder, ["split", "person_id", "captions", "status"], verify=False):
        usable = table.filter(pc.equal(table["status"], OK))
        count = pc.list_value_length(usable["captions"])
        parts.append(usable.select(["split", "person_id"]).append_column("captions", count))
        parents = pc.list_parent_indices(usable["captions"])
        said.append(
            pa.table(
                {
                    "person": usable["person_id"].take(parents),
                    "caption": pc.list_flatten(usable["captions"]),
                }
            )
        )
    rows = pa.concat_tables(parts)
    totals = rows.group_by("split").aggregate([([], "count_all"), ("captions", "sum")])
    order = {"train": 0, "val": 1, "test": 2}
    by_split = sorted(totals.to_pylist(), key=lambda t: (order.get(t["split"], 3), t["split"]))
    pairs = rows.drop_null().group_by(["split", "person_id"]).aggregate([]).to_pydict()
    people: dict[str, set[str]] = {t["split"]: set() for t in by_split}
    for split, person in zip(pairs["split"], pairs["person_id"], strict=True):
        people[split].add(person)
    shared = {
        f"{a}/{b}": len(people[a] & people[b]) for a, b in combinations(people, 2) if people[a]
    }
    spoken = pa.concat_tables(said).drop_null().group_by("caption")
    owners = spoken.aggregate([("person", "count_distinct")])["person_count_distinct"]
    return SplitCheck(
        people={split: len(names) for split, names in people.items()},
        images={t["split"]: t["count_all"] for t in by_split},
        captions={t["split"]: t["captions_sum"] or 0 for t in by_split},
        shared_people=shared,
        shared_captions=int(pc.sum(pc.greater(owners, 1)).as_py() or 0),
    )
