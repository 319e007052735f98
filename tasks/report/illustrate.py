"""Which pictures and queries the report shows, and the sheets made of them.

Rows are chosen by uid alone, so the same pictures appear in every report until the data change.
Only the rows that are shown are read.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.images import ImageError, decode
from tasks.lookup import Row, fetch, fetch_any, sample
from tasks.report.sheets import (
    RankedImage,
    RankList,
    SheetRow,
    contact_sheet,
    rank_sheet,
)
from tasks.shards import item_seed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from PIL import Image

    from tasks.report.gather import Evaluation
    from tasks.report.sources import Sources

log = logging.getLogger(__name__)

Query = tuple[str, str]
"""uid of the image that a query was written for, and the query."""


def picture(row: Mapping[str, Any] | None) -> Image.Image | None:
    """Decode a row's image; None where there is no row or no readable image."""
    if row is None or not row.get("image"):
        return None
    try:
        return decode(row["image"])
    except ImageError as error:
        log.warning("row %s cannot be shown: %s", row.get("uid"), error)
        return None


_GENERATED = ".g"
"""Part of the uid of a picture made from a caption alone."""


def _parents(sources: Sources, children: Iterable[Mapping[str, Any]]) -> dict[str, Row]:
    uids = {row["parent_uid"] for row in children if row["parent_uid"]}
    return fetch_any(sources.ingested, uids, ["image", "dataset"])


def before_after(sources: Sources, count: int, seed: int) -> Image.Image | None:
    """Source pictures above their restyled children, and below them the target's own pictures."""
    if sources.restyled is None:
        return None
    uids = sample(sources.restyled, count, seed, "contact sheet")
    children = fetch(sources.restyled, uids, ["image", "parent_uid", "base_revision"])
    shown = [children[uid] for uid in uids]
    parents = _parents(sources, shown)
    above = [picture(parents.get(row["parent_uid"])) for row in shown]
    below = [picture(row) for row in shown]
    if any(_GENERATED in uid for uid in uids):
        rows = [
            SheetRow("prompt of", "whose caption was the prompt", above),
            SheetRow("generated", "from the caption alone", below),
        ]
    elif all(row["base_revision"] == "none" for row in shown):
        rows = [
            SheetRow("source", "as it came", above),
            SheetRow("passed on", "no diffusion in this run", below),
        ]
    else:
        rows = [
            SheetRow("source", "as it came", above),
            SheetRow("restyled", "the picture above, through DaD", below),
        ]
    target = sources.target_folder
    if target is not None:
        names = sample(target, count, seed, "contact sheet")
        real = fetch(target, names, ["image"])
        detail = "other people, as the target's cameras see them"
        rows.append(SheetRow("target", detail, [picture(real[uid]) for uid in names]))
    return contact_sheet(rows)


def choose_queries(evaluation: Evaluation, count: int, seed: int) -> list[Query]:
    """Choose queries, half of them answered right at once and half not, as far as there are such.

    Returns:
        (uid, caption) of each, at most one of an image.
    """
    path = evaluation.folder / "queries.parquet"
    if not path.exists():
        return []
    table = pq.read_table(path, columns=["uid", "caption", "first_rank"])
    rows = sorted(
        zip(*(table[name].to_pylist() for name in table.column_names), strict=True),
        key=lambda row: (item_seed(f"{row[0]} {row[1]}", seed, "rank lists"), row),
    )
    once = {uid: (uid, caption, rank) for uid, caption, rank in reversed(rows)}
    ordered = sorted(once.values(), key=rows.index)
    hits = [(uid, caption) for uid, caption, rank in ordered if rank == 1]
    misses = [(uid, caption) for uid, caption, rank in ordered if rank != 1]
    wrong = min(len(misses), max(count // 2, count - len(hits)))
    return hits[: count - wrong] + misses[:wrong]


def rank_lists(
    evaluation: Evaluation, galleries: Sequence[Path], queries: Sequence[Query]
) -> Image.Image | None:
    """What an evaluation found for some queries; those that it did not ask are left out."""
    path = evaluation.folder / "queries.parquet"
    if not path.exists() or not queries:
        return None
    asked = pa.array([uid for uid, _ in queries])
    wanted = pc.is_in(pq.read_table(path, columns=["uid"])["uid"], asked)
    rows = {(r["uid"], r["caption"]): r for r in pq.read_table(path).filter(wanted).to_pylist()}
    shown = [rows[query] for query in queries if query in rows]
    uids = {row["uid"] for row in shown} | {uid for row in shown for uid in row["top10"]}
    images = fetch_any(galleries, uids, ["image", "camera"])
    lists = []
    for row in shown:
        found = [
            RankedImage(picture(images.get(uid)), correct, images.get(uid, {}).get("camera") or "")
            for uid, correct in zip(row["top10"], row["correct"], strict=True)
        ]
        first = f"right at rank {row['first_rank']}" if row["first_rank"] else "nobody to find"
        detail = f"{first} · AP {row['ap']:.2f}"
        lists.append(RankList(row["caption"], detail, found, picture(images.get(row["uid"]))))
    return rank_sheet(lists) if lists else None
