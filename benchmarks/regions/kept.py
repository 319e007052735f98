"""The regions of a rebuild against the truth: what the filter keeps and what it throws away.

Pictures of a rebuild in mode ``restyle`` show what their source pictures show, at the same place,
and the world's truth.parquet beside the raw source says where that is. A caption may name what is
not there (the captioner's mistake): such a region is wrong wherever it is, and counted apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.regions.measures import RIGHT, Floats, iou
from benchmarks.regions.world import truth_key
from tasks.annotate.shard import AnnotateParams, annotate_table, load_proposer
from tasks.params import read_section
from tasks.phrases import load_parser
from tasks.runtime import device
from tasks.shards import iter_tables, join_side, read_manifest, read_named

KEPT, UNSURE = "kept", "low-confidence"
THRESHOLDS = (0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9)


@dataclass
class Pile:
    """Boxes that met the same fate: their overlap with the truth, NaN where nothing is there."""

    overlap: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """By group."""

    def row(self, name: str, group: str | None = None) -> str:
        """A row of the table."""
        every = [o for g, of in self.overlap.items() if group in (None, g) for o in of]
        values = np.array(every)
        there = values[~np.isnan(values)]
        right = (there >= RIGHT).sum()
        return (
            f"| {name} | {len(values)} | {right / max(len(values), 1):.3f} "
            f"| {there.mean() if len(there) else 0:.3f} "
            f"| {np.isnan(values).mean() if len(values) else 0:.3f} |"
        )


@dataclass
class Fates:
    """What became of the boxes of a rebuild."""

    piles: dict[str, Pile] = field(default_factory=lambda: defaultdict(Pile))
    """`KEPT`, or the reason."""
    pictures: int = 0
    kept: int = 0
    """Regions kept, those without truth (scenes, faces) as well."""
    phrases: int = 0
    empty: int = 0
    """Pictures without a region."""
    scored: list[tuple[float, float]] = field(default_factory=list)
    """Confidence and overlap (NaN: not there) of boxes whose fate the threshold decides."""

    def add(self, row: dict[str, Any], truth: dict[str, Any]) -> None:
        """Count a picture."""
        self.pictures += 1
        self.phrases += len(row["phrases"])
        self.kept += len(row["regions"])
        self.empty += not row["regions"]
        for record in [*row["regions"], *row["rejected"]]:
            phrase = row["phrases"][record["phrase"]]
            key = truth_key(phrase["group"], phrase["head"], person=True)
            if key is not None:
                fate = record.get("reason", KEPT)
                overlap = _overlap(record["box"], truth[f"box_{key}"])
                self.piles[fate].overlap[phrase["group"]].append(overlap)
                if fate in {KEPT, UNSURE} and phrase["group"] != "person":
                    self.scored.append((record["score"], overlap))

    def at_threshold(self, least: float) -> tuple[int, float, float]:
        """What another `box_threshold` would do to the parts of the person.

        Returns:
            Number of regions, share of them that is right, share of all right ones that is kept.
        """
        score, overlap = np.array(self.scored).reshape(-1, 2).T
        right, kept = overlap >= RIGHT, score >= least
        count, good = int(kept.sum()), int((right & kept).sum())
        return count, good / max(count, 1), good / max(int(right.sum()), 1)


def _overlap(box: Floats, truth: Floats | None) -> float:
    return float("nan") if truth is None else float(iou(np.array(box), np.array(truth)))


def fates(data: Path, raw: Path, *, anew: bool = False) -> Fates:
    """Compare the regions of a rebuild with the truth.

    Args:
        data: With ``ingested/source``, ``restyled``, ``captioned`` and ``annotated``.
        raw: The raw source, with ``truth.parquet``.
        anew: Annotate the pictures again, by params.yaml and today's code, and not take the
            published regions.
    """
    truth = {row["source_path"]: row for row in pq.read_table(raw / "truth.parquet").to_pylist()}
    paths: dict[str, str] = {}
    for table in iter_tables(data / "ingested/source", ["uid", "source_path"]):
        paths |= zip(table["uid"].to_pylist(), table["source_path"].to_pylist(), strict=True)
    found = Fates()
    for table in _anew(data) if anew else iter_tables(data / "annotated"):
        for row in table.to_pylist():
            if row["status"] == "ok":
                found.add(row, truth[paths[row["uid"].split(".")[0]]])
    return found


def _anew(data: Path) -> Iterator[pa.Table]:
    section = read_section(AnnotateParams, "annotate")
    nlp, proposer = load_parser(section.parser), load_proposer(section, device())
    for shard in read_manifest(data / "restyled").shards:
        images = read_named(data / "restyled", shard.name)
        table = join_side(images, read_named(data / "captioned", shard.name))
        yield annotate_table(table, nlp, proposer, section)


def tables(found: Fates) -> str:
    """Say it in words and two tables."""
    kept = found.piles[KEPT]
    head = "| regions | IoU >= 0.5 | mean IoU | not there |\n|---|---|---|---|---|"
    lines = [
        f"{found.pictures} pictures, {found.phrases / found.pictures:.2f} phrases and "
        f"{found.kept / found.pictures:.2f} regions a picture, {found.empty} without any",
        f"\n| kept {head}",
        kept.row("all"),
        *(kept.row(group, group) for group in sorted(kept.overlap)),
        f"\n| thrown away {head}",
        *(found.piles[reason].row(reason) for reason in sorted(found.piles) if reason != KEPT),
    ]
    for reason in sorted(found.piles):
        if reason != KEPT:
            pile = found.piles[reason]
            lines += [pile.row(f"{reason}, {group}", group) for group in sorted(pile.overlap)]
    lines.append(
        "\n| box_threshold | regions | IoU >= 0.5 | of all right ones |\n|---|---|---|---|"
    )
    for least in THRESHOLDS:
        count, right, recall = found.at_threshold(least)
        lines.append(f"| {least} | {count} | {right:.3f} | {recall:.3f} |")
    return "\n".join(lines)
