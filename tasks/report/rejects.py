"""What screening refused: counts by reason beside the paper's, and a sheet of examples.

Numbers come from narrow columns, one shard at a time; of pictures only the examples are read.
Examples are chosen by uid alone, so the same ones are shown until the data change.

    counts = tally(screened)
    print(counts.beside_paper())
    sheet = reject_sheet(images, screened)     # a row a reason, the kept ones first
"""

from __future__ import annotations

import heapq
import logging
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.images import ImageError, decode
from tasks.lookup import Row, fetch
from tasks.report.sheets import SheetRow, contact_sheet
from tasks.screen.reasons import REASONS
from tasks.shards import item_seed, iter_tables

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from PIL import Image

log = logging.getLogger(__name__)

_UPSTREAM, _DUPLICATE = "upstream", "duplicate"
_KEPT = "kept"


@dataclass(frozen=True)
class Published:
    """What a paper says about its own filters."""

    generated: int
    """Pictures made."""
    kept: int
    """Pictures left."""

    @property
    def dropped(self) -> float:
        """Share of the pictures that were refused."""
        return 1 - self.kept / self.generated


PAPER = Published(generated=1_362_520, kept=1_217_750)
"""MRA, section 3.2: grey or blank, and malformed; no near-duplicates."""


@dataclass(frozen=True)
class Tally:
    """How many pictures were refused, and why."""

    rows: int
    """All rows."""
    arrived: int
    """Rows that no earlier stage had refused."""
    kept: int
    """Pictures that go on."""
    first: Mapping[str, int]
    """Refused pictures by their first reason, in the order of `tasks.screen.reasons.REASONS`."""
    among: Mapping[str, int]
    """Pictures that have the reason, maybe among others; the same keys."""

    @property
    def filtered(self) -> float:
        """Share of the pictures that the filters on one picture refuse: what the paper counts."""
        ours = sum(
            count for reason, count in self.first.items() if reason not in (_UPSTREAM, _DUPLICATE)
        )
        return ours / max(self.arrived, 1)

    @property
    def repeated(self) -> float:
        """Share of the pictures that are refused for nothing but repeating another."""
        return self.first.get(_DUPLICATE, 0) / max(self.arrived, 1)

    def table(self) -> list[dict[str, object]]:
        """Rows to show: a reason each, then what is kept, then the paper's share."""
        rows: list[dict[str, object]] = [
            {
                "reason": reason,
                "pictures": count,
                "also": self.among[reason] - count,
                "share": f"{count / max(self.rows, 1):.2%}",
                "meaning": REASONS.get(reason, ""),
            }
            for reason, count in self.first.items()
        ]
        share = f"{self.kept / max(self.rows, 1):.2%}"
        rows.append(
            {"reason": _KEPT, "pictures": self.kept, "also": 0, "share": share, "meaning": ""}
        )
        rows.append(
            {
                "reason": "the paper's two filters",
                "pictures": PAPER.generated - PAPER.kept,
                "also": 0,
                "share": f"{PAPER.dropped:.2%}",
                "meaning": f"of {PAPER.generated:,} generated pictures; here {self.filtered:.2%}",
            }
        )
        return rows

    def beside_paper(self) -> str:
        """One sentence for a caption."""
        more = f", and {self.repeated:.2%} more as repeats" if self.repeated else ""
        return (
            f"{self.filtered:.2%} of {self.arrived:,} pictures refused as grey, blank or malformed"
            f" (the paper: {PAPER.dropped:.2%} of {PAPER.generated:,}){more}"
        )


def tally(screened: Path) -> Tally:
    """Count screening decisions.

    Args:
        screened: Folder of the ``screened`` table.
    """
    first: Counter[str] = Counter()
    among: Counter[str] = Counter()
    rows = kept = 0
    for table in iter_tables(screened, ["keep", "reason"], verify=False):
        rows += table.num_rows
        for keep, reason in zip(
            table["keep"].to_pylist(), table["reason"].to_pylist(), strict=True
        ):
            if keep:
                kept += 1
                continue
            reasons = str(reason).split("+")
            first[reasons[0]] += 1
            among.update(reasons)
    names = sorted(among, key=_order)
    return Tally(
        rows=rows,
        arrived=rows - first[_UPSTREAM],
        kept=kept,
        first={name: first[name] for name in names},
        among={name: among[name] for name in names},
    )


def reject_sheet(images: Path, screened: Path, each: int = 8, seed: int = 0) -> Image.Image | None:
    """Draw examples of what was refused, a row a reason, below pictures that were kept.

    A picture stands in the row of its first reason. A repeat stands right of what it repeats.

    Args:
        images: Folder of the pictures that were screened.
        screened: Folder of the ``screened`` table.
        each: Most pictures of a row.
        seed: Seed of the choice.

    Returns:
        The sheet; None where no picture that can be shown was refused.
    """
    counts = tally(screened)
    chosen = _examples(screened, each, seed)
    if not set(chosen) - {_KEPT, _UPSTREAM}:
        return None
    wanted = {uid for uids in chosen.values() for uid in uids}
    columns = ["grey_variance", "jpeg_bytes", "pose_score", "duplicate_of"]
    findings = fetch(screened, wanted, columns)
    originals = {str(row["duplicate_of"]) for row in findings.values() if row["duplicate_of"]}
    pictures = {
        uid: _picture(row) for uid, row in fetch(images, wanted | originals, ["image"]).items()
    }
    rows = []
    for reason in [_KEPT, *(name for name in counts.first if name in chosen)]:
        if reason not in chosen or reason == _UPSTREAM:
            continue
        uids = chosen[reason]
        if reason == _KEPT:
            detail = f"{counts.kept:,} of {counts.rows:,}"
        else:
            detail = f"{counts.first[reason]:,}: {REASONS.get(reason, '')}"
        if reason == _DUPLICATE:
            uids = [
                uid
                for repeat in uids[: max(each // 2, 1)]
                for uid in (str(findings[repeat]["duplicate_of"]), repeat)
            ]
            detail += "; in pairs, left the one that stays"
        detail += _measured(reason, [findings[uid] for uid in uids if uid in findings])
        rows.append(SheetRow(reason, detail, [pictures.get(uid) for uid in uids]))
    return contact_sheet(rows)


def _examples(screened: Path, each: int, seed: int) -> dict[str, list[str]]:
    """Choose uids for each first reason, and kept ones."""
    best: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for table in iter_tables(screened, ["uid", "keep", "reason"], verify=False):
        drawn: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for uid, keep, reason in zip(
            *(table[name].to_pylist() for name in ("uid", "keep", "reason")), strict=True
        ):
            slug = _KEPT if keep else str(reason).split("+")[0]
            drawn[slug].append((item_seed(uid, seed, "rejects"), uid))
        for slug, found in drawn.items():
            best[slug] = heapq.nsmallest(each, [*best[slug], *found])
    return {slug: [uid for _, uid in found] for slug, found in best.items()}


def _measured(reason: str, rows: list[Row]) -> str:
    """What was measured on the examples, where one number says why."""
    column, unit = {
        "file-small": ("jpeg_bytes", "bytes"),
        "file-large": ("jpeg_bytes", "bytes"),
        "grey": ("grey_variance", "variance"),
    }.get(reason, ("", ""))
    values = [row[column] for row in rows] if column else []
    return f"; here {min(values):,.0f} to {max(values):,.0f} {unit}" if values else ""


def _picture(row: Row) -> Image.Image | None:
    try:
        return decode(row["image"]) if row["image"] else None
    except ImageError as error:
        log.warning("row %s cannot be shown: %s", row["uid"], error)
        return None


def _order(reason: str) -> tuple[int, str]:
    known = list(REASONS)
    return (known.index(reason) if reason in known else len(known), reason)
