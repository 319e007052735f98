"""A few rows out of a large folder of shards, by uid, without reading the rest.

A rank list shows ten pictures out of a hundred thousand. `fetch` finds each one's shard in the
manifest, its row group in the Parquet footer (64 rows at most) and decodes that group only.
`sample` picks rows whose choice depends on their uids alone: adding images changes a picture sheet
by those that rank before the others, and the order of shards or workers changes nothing.
"""

from __future__ import annotations

import bisect
import heapq
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.schemas import OK
from tasks.shards import item_seed, iter_tables, open_parquet, read_manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

Row = dict[str, Any]


def fetch(folder: Path, uids: Iterable[str], columns: Sequence[str]) -> dict[str, Row]:
    """Read the rows of a folder that carry the given uids.

    Args:
        folder: A folder of shards.
        uids: Wanted uids, in any order; one that the folder lacks is left out of the result.
        columns: Columns to read; ``uid`` is added.

    Returns:
        Rows as dictionaries by uid.
    """
    shards = read_manifest(folder).shards
    last = [shard.last_uid for shard in shards]
    wanted: dict[int, set[str]] = defaultdict(set)
    for uid in uids:
        at = bisect.bisect_left(last, uid)
        if at < len(shards) and shards[at].first_uid <= uid:
            wanted[at].add(uid)
    names = list(dict.fromkeys(["uid", *columns]))
    found: dict[str, Row] = {}
    for at, names_here in sorted(wanted.items()):
        with open_parquet(folder / shards[at].name) as file:
            for group in _row_groups(file, names_here):
                table = file.read_row_group(group, columns=names)
                here = pc.is_in(table["uid"], value_set=pa.array(sorted(names_here), pa.string()))
                found |= {row["uid"]: row for row in table.filter(here).to_pylist()}
    return found


def _row_groups(file: pq.ParquetFile, uids: set[str]) -> list[int]:
    """Row groups whose range of uids, from the footer's statistics, holds any of ``uids``."""
    metadata = file.metadata
    column = file.schema_arrow.get_field_index("uid")
    groups = []
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(column).statistics
        if (
            statistics is None
            or not statistics.has_min_max
            or any(statistics.min <= uid <= statistics.max for uid in uids)
        ):
            groups.append(group)
    return groups


def fetch_any(
    folders: Iterable[Path], uids: Iterable[str], columns: Sequence[str]
) -> dict[str, Row]:
    """Read rows by uid from whichever of several folders holds them (the first one wins)."""
    missing, found = set(uids), dict[str, Row]()
    for folder in folders:
        if not missing:
            break
        rows = fetch(folder, missing, columns)
        found |= rows
        missing -= rows.keys()
    return found


def sample(
    folder: Path,
    count: int,
    seed: int,
    purpose: str,
    where: Mapping[str, object] | None = None,
) -> list[str]:
    """Choose uids of usable rows, at random but by uid alone.

    Args:
        folder: A folder of shards.
        count: How many at most.
        seed: Seed of the choice.
        purpose: What the choice is for; other purposes choose other rows.
        where: Further columns and the value that each must have.

    Returns:
        At most ``count`` uids in the order of their draw.
    """
    wanted = {"status": OK, **(where or {})}
    best: list[tuple[int, str]] = []
    # Only narrow columns are read, so the digest of the pictures beside them is left unchecked.
    for table in iter_tables(folder, ["uid", *wanted], verify=False):
        columns = [table[name].to_pylist() for name in wanted]
        uids = table["uid"].to_pylist()
        drawn = [
            (item_seed(uid, seed, purpose), uid)
            for uid, *values in zip(uids, *columns, strict=True)
            if values == list(wanted.values())
        ]
        best = heapq.nsmallest(count, [*best, *drawn])
    return [uid for _, uid in best]
