"""Which pictures the arms are made of and compared with: a few rows of large folders.

The choice follows the rows' uids alone, and a smaller number chooses a part of a larger one, so
more data or more pictures keep what was chosen before.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import pyarrow as pa

from tasks.lookup import fetch, sample
from tasks.schemas import IMAGES
from tasks.shards import item_seed, iter_tables
from tasks.target import TRAIN

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

_PURPOSE = "gap"


def pick_source(folder: Path, count: int, seed: int) -> pa.Table:
    """Choose source pictures for the arms; rows of ``images`` in uid order."""
    return _rows(folder, sample(folder, count, seed, _PURPOSE))


def pick_prompts(folder: Path, count: int, seed: int, captions: Path | None = None) -> pa.Table:
    """Choose captions of the target's train split: an arm that generates draws one picture each.

    Args:
        folder: The target's shards.
        count: How many at most.
        seed: Of the choice.
        captions: Side table of the target's captions; None where those of its shards count.

    Returns:
        Rows of ``images`` in uid order, each with its first caption only; a row without one is
        left out.
    """
    table = _rows(folder, sample(folder, 2 * count, seed, _PURPOSE, {"split": TRAIN}), captions)
    told = [[text for text in texts if text.strip()][:1] for texts in table["captions"].to_pylist()]
    at = table.schema.get_field_index("captions")
    table = table.set_column(at, table.schema.field(at), pa.array(told, pa.list_(pa.string())))
    kept = [n for n, texts in enumerate(told) if texts]
    # Of those with a caption the ones that were drawn first.
    kept.sort(key=lambda n: item_seed(table["uid"][n].as_py(), seed, _PURPOSE))
    return table.take(pa.array(sorted(kept[:count]), pa.int64()))


def pick_target(
    folder: Path, count: int, seed: int, splits: Collection[str]
) -> tuple[pa.Table, pa.Table]:
    """Choose two halves of the target's held-out pictures, with nobody in both.

    One person's pictures are alike; were they in both halves, the floor would be too low for
    pictures of other people to reach.

    Args:
        folder: The target's shards.
        count: Most pictures of a half.
        seed: Of the choice.
        splits: Held-out splits.

    Returns:
        Two tables of ``images`` of equal length, at most ``count`` rows each; empty where the
        target has no held-out picture.
    """
    people: dict[str, list[str]] = defaultdict(list)
    for table in iter_tables(folder, ["uid", "split", "status", "person_id"], verify=False):
        for row in table.to_pylist():
            if row["split"] in splits and row["status"] == "ok":
                people[row["person_id"] or row["uid"]].append(row["uid"])
    halves: tuple[list[str], list[str]] = ([], [])
    for person in sorted(people, key=lambda name: (item_seed(name, seed, _PURPOSE), name)):
        min(halves, key=len).extend(sorted(people[person]))
    size = min(count, *map(len, halves))
    first, second = (_rows(folder, half[:size]) for half in halves)
    return first, second


def _rows(folder: Path, uids: list[str], captions: Path | None = None) -> pa.Table:
    columns = IMAGES.names
    found = fetch(folder, uids, columns)
    said = {} if captions is None else fetch(captions, found, ["captions"])
    rows = [found[uid] | said.get(uid, {}) for uid in sorted(found)]
    return pa.Table.from_pylist(rows, schema=IMAGES)
