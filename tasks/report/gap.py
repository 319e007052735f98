"""What the stage `gap` found, as the report shows it: arms, curve, statistics, attributes, sheet.

Nothing is measured here: the numbers are those of the stage's tables (`tasks.gap.results`), and the
pictures those that were measured. What they mean is in docs/gap.md.
"""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
from PIL import Image

from tasks.images import decode
from tasks.report import figures
from tasks.report.domains import picture as draw_map
from tasks.report.gap_figures import Point, curve_chart, trade_chart
from tasks.report.parts import Grid, Picture, Section, Tile
from tasks.report.records import read_json
from tasks.report.sheets import SheetRow, contact_sheet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tasks.report.domains import DomainMap

Row = dict[str, str]

TARGET = "target"
_COLUMNS = 7
"""Most arms beside each other in a table."""
_FIXED = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Gap:
    """The stage's tables."""

    metrics: Mapping[str, Any]
    arms: tuple[Row, ...]
    """Rows of arms.csv but the target's."""
    target: Row
    curve: tuple[Row, ...]
    statistics: Mapping[str, Mapping[str, Row]]
    """Statistic to arm to its row; the statistic in the form ``light/luminance``."""
    attributes: Mapping[str, Mapping[str, Row]]
    """Attribute to arm to its row."""
    examples: Path

    @property
    def main(self) -> str:
        """The arm that is what the run makes; empty where there is none."""
        return str(self.metrics.get("arm", ""))

    @property
    def start(self) -> str:
        """The arm where the gap starts; empty where there is none."""
        return str(self.metrics.get("start", ""))

    @property
    def measured(self) -> tuple[Row, ...]:
        """The arms that have figures."""
        return tuple(row for row in self.arms if not row["reason"])

    @property
    def columns(self) -> tuple[str, ...]:
        """Arms for tables with a column each: start and main first, the curve's others last."""
        strengths = {row["strength"] for row in self.curve}
        varied = {row["arm"] for row in self.arms if row["mode"] == "restyle"
                  and row["changes"].startswith("strength") and "," not in row["changes"]
                  and row["strength"] in strengths}  # fmt: skip
        names = [row["arm"] for row in self.measured]
        names.sort(key=lambda name: (name != self.start, name != self.main, name in varied))
        return tuple(names[:_COLUMNS])


def read_gap(folder: Path) -> Gap | None:
    """Read what the stage left; None where it found nothing to measure.

    Raises:
        PedAlignError: A file is damaged.
    """
    if not (folder / "metrics.json").exists():
        return None
    metrics = read_json(folder / "metrics.json")
    arms = _read(folder / "arms.csv")
    if not arms:
        return None
    statistics: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in _read(folder / "details" / "statistics.csv"):
        statistics[f"{row['kind']}/{row['statistic']}"][row["arm"]] = row
    attributes: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in _read(folder / "details" / "attributes.csv"):
        attributes[row["attribute"]][row["arm"]] = row
    return Gap(
        metrics,
        tuple(row for row in arms if row["mode"] != TARGET),
        next(row for row in arms if row["mode"] == TARGET),
        tuple(_read(folder / "curve.csv")),
        statistics,
        attributes,
        folder / "details" / "examples.parquet",
    )


def _read(path: Path) -> list[Row]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


# ------------------------------------------------------------------ what the page shows


def section(gap: Gap | None, domains: DomainMap | None = None) -> Section:
    """Arrange the figures, and the map of the domains; without parts where nothing is measured."""
    found = Section(
        "Domain gap",
        "How near each way of making pictures comes to held-out pictures of the target, and how "
        "much of what the captions name can still be read off them.",
    )
    if gap is None or not gap.measured:
        return found
    found.parts.append(_arms(gap))
    if domains is not None:
        found.parts.append(draw_map(domains))
    for name, text, chart in _charts(gap):
        found.parts.append(Picture(name, text, chart, narrow=True))
    sheet = arm_sheet(gap)
    if sheet is not None:
        sink = io.BytesIO()
        sheet.save(sink, "PNG", compress_level=2)
        found.parts.append(Picture("arms", SHEET_TEXT, sink.getvalue(), narrow=True, photos=True))
    found.parts += [*_statistics(gap), *_attributes(gap)]
    return found


SHEET_TEXT = (
    "A row an arm: the same source pictures in each, at the top as they came; arms that generate "
    "show the target's captions instead, and the last row the target's own pictures."
)


def tiles(gap: Gap) -> list[Tile]:
    """The headline: what is left of the gap, and of the content."""
    shown = [
        (gap.metrics.get("KID left"), "of the gap to the target is left (KID)"),
        (gap.metrics.get("content kept"), "of the kinds of things are kept"),
    ]
    return [Tile(f"{100 * share:.0f} %", text) for share, text in shown if share is not None]


def distances(gap: Gap) -> list[tuple[str, str, str, str, str]]:
    """Measure, start, what the run makes, floor and share left, of each distance."""
    kinds = {"KID": "KID left", "FID": "FID left", "CMMD": "CMMD left"}
    found = []
    for name, ends in gap.metrics.get("distances", {}).items():
        before, after, floor = (
            figures.number(ends[end]) if end in ends else "–"
            for end in ("before", "after", "floor")
        )
        left = gap.metrics.get(kinds.get(name, ""))
        found.append(
            (name, before, after, floor, f"{100 * left:.0f} %" if left is not None else "–")
        )
    return found


def told(gap: Gap) -> str:
    """What is kept of the content, as a sentence; empty where nobody read it."""
    kept, colours = gap.metrics.get("content kept"), gap.metrics.get("colours kept")
    if kept is None:
        return ""
    said = f"Of the kinds of things that captions name, {100 * kept:.0f} % of what a judge reads "
    said += "off true target pictures can be read off these"
    if colours is not None:
        said += f", of colours {100 * colours:.0f} %, corrected for chance"
    least, which = gap.metrics.get("least kept"), gap.metrics.get("least kept is")
    return said + (f"; least of {which}, {100 * least:.0f} %." if least is not None else ".")


def rows(gap: Gap) -> list[dict[str, Any]]:
    """The arms as a table of Prefect's."""
    grid = _arms(gap)
    return [dict(zip(grid.header, row, strict=True)) for row in grid.rows]


def pictures(gap: Gap) -> list[tuple[str, Image.Image, str]]:
    """The sheet and the charts: name, picture and what it shows."""
    found: list[tuple[str, Image.Image, str]] = [
        (name, Image.open(io.BytesIO(chart)), text) for name, text, chart in _charts(gap)
    ]
    if (sheet := arm_sheet(gap)) is not None:
        found.append(("arms", sheet, SHEET_TEXT))
    return found


def _arms(gap: Gap) -> Grid:
    with_cmmd = any(row["CMMD"] for row in gap.arms)
    header = ["arm", "what it changes", "KID left", "FID left", *(["CMMD left"] * with_cmmd),
              "told apart", "kinds kept", "least kind kept", "colours kept"]  # fmt: skip
    cells: list[Sequence[str]] = []
    for row in gap.arms:
        if row["reason"]:
            cells.append((row["arm"], row["reason"][:200], *[""] * (len(header) - 2)))
            continue
        interval = ""
        if row["KID_low"] and row["arm"] != gap.start:
            ends = (f"{100 * _number(row[end]):.0f}" for end in ("KID_low", "KID_high"))
            interval = f"{_FIXED}({' to '.join(ends)})".replace("-", "−").replace(" ", _FIXED)
        least = f"{_share(row['least_kept'])} {row['least_attribute']}" if row["least_kept"] else ""
        least = least.replace(" ", _FIXED)
        cells.append((
            row["arm"], row["changes"], _share(row["KID_left"]) + interval,
            _share(row["FID_left"]), *([_share(row["CMMD_left"])] * with_cmmd),
            f"{_number(row['told_apart']):.0f} %", _share(row["content_kept"]), least,
            _share(row["colours_kept"]),
        ))  # fmt: skip
    told = _number(gap.target["told_apart"])
    cells.append(("target", gap.target["changes"], "0 %", "0 %", *(["0 %"] * with_cmmd),
                  f"{told:.0f} %", "100 %", "", "100 %"))  # fmt: skip
    text = (
        f"Arms on {gap.target['pictures']} held-out target pictures. Left: (distance − floor) / "
        f"(distance of {gap.start or 'the source'} − floor), for KID with 95 % of the resamples; "
        "told apart: hits of a linear classifier, 50 % is chance. Kept: what the judge reads right "
        "of what captions name, over the same on true target pictures; least: the kind, colours "
        "aside, that suffers most; colours are corrected for chance."
    )
    return Grid(text, header, cells, text=frozenset({0, 1}))


def _charts(gap: Gap) -> list[tuple[str, str, bytes]]:
    found = []
    if len(gap.curve) > 1:
        lines = {
            "KID left": [_number(row["KID_left"]) for row in gap.curve],
            "FID left": [_number(row["FID_left"]) for row in gap.curve],
            "kinds kept": [_number(row["content_kept"]) for row in gap.curve],
            "colours kept": [_number(row["colours_kept"]) for row in gap.curve],
        }
        strengths = [_number(row["strength"]) for row in gap.curve]
        at = next((_number(r["strength"]) for r in gap.arms if r["arm"] == gap.main), None)
        chart = figures.png(curve_chart(strengths, lines, at))
        text = (
            "Gap and content over strength, all else as this run has it; the vertical line is this "
            "run's. A gap that closes while content falls is no gain."
        )
        found.append(("curve", text, chart))
    points = [
        Point(row["arm"], _number(row["KID_left"]), _number(row["content_kept"]),
              _number(row["colours_kept"]), row["arm"] == gap.main)
        for row in gap.measured
    ]  # fmt: skip
    points = [p for p in points if math.isfinite(p.left) and math.isfinite(p.content)]
    if len(points) > 1:
        chart = figures.png(trade_chart(points))
        text = (
            "Every arm by the gap that it leaves (left is better) and the content that it keeps "
            "(up is better): a dot for kinds, a ring for colours, corrected for chance."
        )
        found.append(("domain-gap", text, chart))
    return found


def arm_sheet(gap: Gap) -> Image.Image | None:
    """Rows of pictures, an arm each, the target's last; None where there are none."""
    if not gap.examples.exists():
        return None
    images: dict[str, list[Image.Image]] = defaultdict(list)
    for row in pq.read_table(gap.examples, columns=["arm", "image"]).to_pylist():
        images[row["arm"]].append(decode(row["image"]))
    by_name = {row["arm"]: row for row in gap.arms}
    sheet = [SheetRow(name, _under(name, by_name), shown) for name, shown in images.items()]
    return contact_sheet(sheet, height=170) if sheet else None


def _under(name: str, arms: Mapping[str, Row]) -> str:
    if name not in arms:
        return "held-out pictures"
    changes = arms[name]["changes"]
    return "" if changes == name else changes


def _statistics(gap: Gap) -> list[Grid]:
    grids = []
    for kind, text in (
        ("light", "Light, colour and sharpness: means, and in brackets the distance to the target "
         "(Wasserstein-1, in the target's deviations)."),
        ("viewpoint", "From where bodies are seen: proportions of keypoints, and in brackets the "
         "distance to the target likewise. Image to image keeps the viewpoint of its source."),
    ):  # fmt: skip
        named = {k: v for k, v in gap.statistics.items() if k.startswith(f"{kind}/")}
        arms = [name for name in gap.columns if any(name in arms for arms in named.values())]
        if not named or not arms:
            continue
        rows = [
            (key.partition("/")[2].replace("_", " "),
             *(_spread(by_arm.get(name)) for name in [*arms, TARGET]))
            for key, by_arm in named.items()
        ]  # fmt: skip
        if kind == "viewpoint":
            poses = {row["arm"]: row["pose_distance"] for row in (*gap.arms, gap.target)}
            rows.append(("pose histogram", *(_distance(poses[n]) for n in [*arms, TARGET])))
        header = ("statistic", *arms, "target")
        grids.append(Grid(text, header, rows))
    return grids


def _attributes(gap: Gap) -> list[Grid]:
    if not gap.attributes:
        return []
    arms = [name for name in gap.columns if any(name in a for a in gap.attributes.values())]
    rows: list[Sequence[str]] = []
    for name, by_arm in gap.attributes.items():
        true = by_arm.get(TARGET)
        if true is None or true["reason"]:
            rows.append((name, true["reason"] if true else "", *[""] * (len(arms) + 1)))
            continue
        colour = name.endswith("colour")
        column = "corrected_kept" if colour else "kept"
        read = f"{_share(true['accuracy'])} of {true['pictures']}"
        rows.append(
            (name, read, _share(true["chance"]), *(_kept(by_arm.get(a), column) for a in arms))
        )
    text = (
        "What the judge reads right: off true held-out target pictures, by chance, and the share "
        "of that which each arm keeps (colours corrected for chance). In brackets: too few named."
    )
    return [Grid(text, ("attribute", "target", "chance", *arms), rows)]


def _kept(row: Row | None, column: str) -> str:
    if row is None or not row[column]:
        return "–"
    return f"({_share(row[column])})" if row["reason"] else _share(row[column])


def _spread(row: Row | None) -> str:
    if row is None or not row["mean"]:
        return "–"
    return f"{figures.number(float(row['mean']))} ({_distance(row['distance'])})"


def _distance(text: str) -> str:
    return f"{float(text):.2f}" if text else "–"


def _share(text: str) -> str:
    return f"{100 * float(text):.0f} %".replace("-", "−") if text else "–"


def _number(text: str) -> float:
    return float(text) if text else math.nan
