"""Sheets of annotated pictures: those with their regions, and refused boxes by reason.

Rows are chosen by uid alone, so the same pictures appear until the data change, and only those that
are shown are read.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
from PIL import Image

from tasks.annotate.reasons import REASONS
from tasks.callouts import Card
from tasks.lookup import Row, fetch, sample
from tasks.overlays import draw_card, draw_refusal
from tasks.report.illustrate import picture
from tasks.report.region_tally import in_order
from tasks.report.sheets import GAP, SheetRow, card_sheet, cell_for, contact_sheet
from tasks.schemas import OK
from tasks.shards import item_seed, iter_tables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

COLUMNS = 4
_HEIGHT, _TEXT, _WIDTH = 560, 24, 550
"""Of a card: height of its picture, type size, whole width. Shown at half the size."""
_WIDEST = 320
"""Of a picture, so that there is room for the labels."""
_LINES = 7
"""Most lines of a caption."""
_ENTRY = ["caption", "phrases", "regions", "rejected"]


def region_sheet(
    images: Path,
    annotated: Path,
    count: int,
    seed: int,
    *,
    screened: Path | None = None,
    columns: int = COLUMNS,
) -> Image.Image | None:
    """Draw annotated pictures with their regions, labels and captions.

    Args:
        images: Folder of the pictures.
        annotated: Folder of the ``annotated`` table.
        count: Most pictures.
        seed: Seed of the choice.
        screened: Folder of the screening's decisions, to show only what it keeps.
        columns: Pictures in a row.

    Returns:
        The sheet; None where nothing is annotated.
    """
    uids = sample(annotated, 4 * count, seed, "regions")
    if screened is not None:
        kept = fetch(screened, uids, ["keep"])
        uids = [uid for uid in uids if kept.get(uid, {}).get("keep")]
    entries = fetch(annotated, uids, _ENTRY)
    # Rows without a region stay in, but behind: a sheet of bare pictures would show nothing.
    uids = sorted(uids, key=lambda uid: not entries[uid]["regions"])[:count]
    rows = fetch(images, uids, ["image"])
    items = [(picture(rows.get(uid)), entries[uid]) for uid in uids]
    return cards(items, columns) if items else None


def cards(
    items: Sequence[tuple[Image.Image | None, Mapping[str, Any]]], columns: int = COLUMNS
) -> Image.Image:
    """Draw cards in a grid; a row of it is as high as its highest card.

    Args:
        items: Pictures and their annotated rows.
        columns: Cards in a row.
    """
    wide, high = cell_for((image for image, _ in items), _HEIGHT)
    shrunk = min(1.0, _WIDEST / wide)
    pane = (round(wide * shrunk), round(high * shrunk))
    sizes = Card(pane, 0, _TEXT, _LINES)
    sizes = replace(sizes, column=_WIDTH - sizes.width)
    drawn = [draw_card(image, entry, sizes) for image, entry in items]
    return card_sheet(drawn, columns, _WIDTH, 2 * GAP)


def refused_sheet(
    images: Path, annotated: Path, each: int = 8, seed: int = 0
) -> Image.Image | None:
    """Draw examples of refused boxes, a row a reason, each with the box that stays in its place.

    Args:
        images: Folder of the pictures.
        annotated: Folder of the ``annotated`` table.
        each: Most pictures of a row.
        seed: Seed of the choice.

    Returns:
        The sheet; None where no box was refused.
    """
    counts, chosen = _examples(annotated, each, seed)
    uids = {uid for found in chosen.values() for uid in found}
    entries, pictures = fetch(annotated, uids, _ENTRY), fetch(images, uids, ["image"])
    shown = {uid: picture(pictures.get(uid)) for uid in uids}
    shape = cell_for(shown.values(), 300)
    found = {
        reason: [(uid, *_refusal(entries[uid], reason, seed)) for uid in chosen[reason]]
        for reason in in_order(chosen)
    }
    lines = 4 if any(winner for rows in found.values() for _, _, winner in rows) else 2
    sheet, height = [], 0
    for reason, rows in found.items():
        drawn = [
            draw_refusal(shown[uid], entries[uid]["phrases"], refused, winner, shape, lines=lines)
            for uid, refused, winner in rows
        ]
        height = drawn[0].height
        meaning = REASONS.get(reason, "")
        detail = f"{counts[reason]:,}: {meaning}" if meaning else f"{counts[reason]:,}"
        sheet.append(SheetRow(reason, detail, drawn))
    return contact_sheet(sheet, height) if sheet else None


def _examples(annotated: Path, each: int, seed: int) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Count refused boxes by reason, and choose uids for each."""
    counts: dict[str, int] = defaultdict(int)
    best: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for table in iter_tables(annotated, ["uid", "rejected", "status"], verify=False):
        usable = table.filter(pc.equal(table["status"], OK))
        rejected = usable["rejected"].combine_chunks()
        reasons = pc.list_flatten(rejected).field("reason").to_pylist()
        uids = usable["uid"].take(pc.list_parent_indices(rejected)).to_pylist()
        drawn: dict[str, set[str]] = defaultdict(set)
        for reason, uid in zip(reasons, uids, strict=True):
            slug = str(reason).split(":", 1)[0]
            counts[slug] += 1
            drawn[slug].add(uid)
        for slug, found in drawn.items():
            seeds = [(item_seed(uid, seed, "refused boxes"), uid) for uid in found]
            best[slug] = heapq.nsmallest(each, [*best[slug], *seeds])
    return dict(counts), {slug: [uid for _, uid in found] for slug, found in best.items()}


def _refusal(entry: Row, reason: str, seed: int) -> tuple[Row, Row | None]:
    """One of a row's boxes refused for a reason, and the one that stays in its place."""
    found = [box for box in entry["rejected"] if _slug(box) == reason]
    # Not the first: that is the whole person's wherever it was refused as well.
    refused = found[item_seed(entry["uid"], seed, "refused box") % len(found)]
    return refused, standing(refused, entry["regions"])


def _slug(refused: Mapping[str, Any]) -> str:
    return str(refused["reason"]).split(":", 1)[0]


def standing(refused: Mapping[str, Any], regions: Sequence[Row]) -> Row | None:
    """Find the box that a refused one gave way to: None where it was judged by itself."""
    slug = _slug(refused)
    if slug == "surplus":
        mine = [region for region in regions if region["phrase"] == refused["phrase"]]
        return max(mine, key=lambda region: region["score"], default=None)
    if slug in {"duplicate", "contradiction"}:
        return max(regions, key=lambda region: overlap(region["box"], refused["box"]), default=None)
    return None


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two (cx, cy, w, h) boxes."""
    shared = 1.0
    for axis in (0, 1):
        low = max(box[axis] - box[axis + 2] / 2 for box in (one, other))
        high = min(box[axis] + box[axis + 2] / 2 for box in (one, other))
        shared *= max(high - low, 0.0)
    union = one[2] * one[3] + other[2] * other[3] - shared
    return shared / union if union > 0 else 0.0
