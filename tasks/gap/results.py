"""The stage's files: figures that DVC compares, tables for reading on, all plain text.

- ``metrics.json``: what the run makes, in a few numbers (``dvc metrics diff``);
- ``arms.csv``: a row an arm, the target's own row last;
- ``curve.csv``: the arms that differ in strength alone;
- ``statistics.csv``: light, colour, sharpness and viewpoint of each arm;
- ``attributes.csv``: what the judge reads of every attribute in every arm.

An empty cell is a figure that there is none of, and ``reason`` says why.
"""

from __future__ import annotations

import csv
import io
import json
import math
from typing import TYPE_CHECKING, Any

from tasks.gap.measuring import TOLD_APART
from tasks.gap.rendering import PLAIN
from tasks.shards import atomic_write

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from tasks.gap.measuring import ArmFigures, Findings, Spread
    from tasks.judge.content import Content, Kept
    from tasks.restyle.shard import RestyleParams

Cell = str | int | float | None

METRICS, ARMS, CURVE = "metrics.json", "arms.csv", "curve.csv"
STATISTICS, ATTRIBUTES = "statistics.csv", "attributes.csv"
DETAILS = "details"
"""Folder of the tables and pictures that DVC keeps in its cache."""

ARM_COLUMNS = (
    "arm", "changes", "mode", "strength", "pictures", "KID", "KID_left", "KID_low", "KID_high",
    "FID", "FID_left", "CMMD", "CMMD_left", "told_apart", "content_kept", "colours_kept",
    "least_kept", "least_attribute", "head_to_foot", "pose_distance", "reason",
)  # fmt: skip
_STATISTIC_COLUMNS = ("arm", "kind", "statistic", "mean", "distance")
_ATTRIBUTE_COLUMNS = (
    "arm", "attribute", "pictures", "accuracy", "error", "frequent", "chance", "corrected",
    "kept", "corrected_kept", "reason",
)  # fmt: skip
_CURVE_COLUMNS = ("strength", "KID_left", "FID_left", "told_apart", "content_kept", "colours_kept")


def write_results(
    folder: Path,
    findings: Findings | None,
    arms: Mapping[str, RestyleParams],
    changes: Mapping[str, str],
    curve: Sequence[tuple[float, str]],
    reason: str = "",
) -> None:
    """Write all files.

    Args:
        folder: Where to; created, with `DETAILS` in it.
        findings: The figures; None where there are none.
        arms: Every arm's section.
        changes: What each arm changes, in words (`tasks.gap.arms.changed`).
        curve: From `tasks.gap.arms.curve_arms`.
        reason: Why there are no figures.
    """
    details = folder / DETAILS
    details.mkdir(parents=True, exist_ok=True)
    figures = findings.arms if findings else ()
    rows = [arm_row(each, arms[each.name], changes[each.name]) for each in figures]
    if findings:
        rows.append(arm_row(findings.target, None, "half of it against the other: the floor"))
    named = {row["arm"]: row for row in rows}
    strengths = [
        {**named[name], "strength": strength}
        for strength, name in curve
        if name in named and not named[name]["reason"]
    ]
    everyone = [*figures, findings.target] if findings else []
    _write(folder / ARMS, ARM_COLUMNS, rows)
    _write(folder / CURVE, _CURVE_COLUMNS, strengths)
    _write(details / STATISTICS, _STATISTIC_COLUMNS, _statistic_rows(everyone))
    _write(details / ATTRIBUTES, _ATTRIBUTE_COLUMNS, _attribute_rows(everyone))
    body = metrics(findings) if findings else {"reason": reason}
    text = json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    atomic_write(folder / METRICS, text.encode())


def metrics(findings: Findings) -> dict[str, Any]:
    """The few numbers that one run is compared with another by; absent ones are left out."""
    by_name = {each.name: each for each in findings.arms}
    main, start = by_name.get(findings.main or ""), by_name.get(findings.start or "")
    found: dict[str, Any] = {"features": findings.features}
    if main is not None and main.reason is None:
        least, share = main.least_kept()
        found |= {
            "arm": main.name,
            "start": start.name if start is not None else None,
            "pictures": main.pictures,
            "KID left": main.left.get("KID", math.nan),
            "FID left": main.left.get("FID", math.nan),
            "CMMD left": main.left.get("CMMD", math.nan),
            TOLD_APART: main.distances[TOLD_APART],
            "content kept": main.content_kept(colours=False),
            "colours kept": main.content_kept(colours=True),
            "least kept": share,
            "least kept is": least or None,
            "pose distance": main.pose,
        }
    ends = {"before": start, "after": main, "floor": findings.target}
    found["distances"] = {
        measure: {
            end: each.distances.get(measure, math.nan)
            for end, each in ends.items()
            if each is not None
        }
        for measure in findings.target.distances
    }
    others = [each for each in findings.arms if each not in (main, start) and not each.reason]
    found["arms"] = {
        each.name: {
            "KID left": each.left.get("KID", math.nan),
            "FID left": each.left.get("FID", math.nan),
            "content kept": each.content_kept(colours=False),
            "colours kept": each.content_kept(colours=True),
        }
        for each in others
    }
    return dict(_rounded(found))


def _rounded(body: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Leave out what there is not; four decimals say all that these pictures can tell."""
    for name, value in body.items():
        if isinstance(value, dict):
            yield name, dict(_rounded(value))
        elif isinstance(value, float):
            if math.isfinite(value):
                yield name, round(value, 4)
        elif value is not None:
            yield name, value


def arm_row(each: ArmFigures, section: RestyleParams | None, changes: str) -> dict[str, Cell]:
    """One arm as a row of arms.csv; ``section`` is None for the target."""
    least, share = each.least_kept()
    low, high = each.interval
    plain = section is None or section.mode in PLAIN
    bodies = each.bodies.get("head_to_foot")
    row: dict[str, Cell] = {
        "arm": each.name,
        "changes": changes,
        "mode": section.mode if section else "target",
        "strength": None if plain or section is None or section.mode == "generate"
        else section.strength,
        "pictures": each.pictures,
        "KID_low": low,
        "KID_high": high,
        "told_apart": each.distances.get(TOLD_APART),
        "content_kept": each.content_kept(colours=False),
        "colours_kept": each.content_kept(colours=True),
        "least_kept": share,
        "least_attribute": least or None,
        "head_to_foot": bodies.mean if bodies else None,
        "pose_distance": each.pose,
        "reason": each.reason,
    }  # fmt: skip
    for measure in ("KID", "FID", "CMMD"):
        row |= {measure: each.distances.get(measure), f"{measure}_left": each.left.get(measure)}
    return row


def _statistic_rows(figures: Sequence[ArmFigures]) -> Iterable[dict[str, Cell]]:
    for each in figures:
        kinds: tuple[tuple[str, Mapping[str, Spread]], ...] = (
            ("light", each.light), ("viewpoint", each.bodies),
        )  # fmt: skip
        for kind, spreads in kinds:
            for name, spread in spreads.items():
                yield {
                    "arm": each.name, "kind": kind, "statistic": name,
                    "mean": spread.mean, "distance": spread.distance,
                }  # fmt: skip


def _attribute_rows(figures: Sequence[ArmFigures]) -> Iterable[dict[str, Cell]]:
    for each in figures:
        for name, read in each.content.items():
            yield {"arm": each.name, **_attribute(read, each.kept.get(name))}


def _attribute(read: Content, share: Kept | None) -> dict[str, Cell]:
    return {
        "attribute": read.attribute,
        "pictures": read.count,
        "accuracy": read.accuracy,
        "error": read.error,
        "frequent": read.frequent,
        "chance": read.chance,
        "corrected": read.corrected,
        "kept": share.accuracy if share else None,
        "corrected_kept": share.corrected if share else None,
        "reason": share.reason if share else read.reason,
    }


def _write(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Cell]]) -> None:
    """Write a table: four significant decimals, an empty cell for what there is not."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_text(row.get(name)) for name in columns])
    atomic_write(path, sink.getvalue().encode())


def _text(value: Cell) -> str:
    if isinstance(value, float):
        return f"{value:.5g}" if math.isfinite(value) else ""
    return "" if value is None else str(value)
