"""The report's part on re-identification: figures, what was published, and rank lists.

The stage `reid` leaves a folder a name: metrics.json, cmc.csv and queries.parquet in
``data/reports/reid``, training.json in ``data/checkpoints/reid``. Published figures stand in a
table of their own, and only where Market-1501 itself was ranked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.market import FORMAT
from tasks.report import figures, illustrate
from tasks.report.gather import Evaluation, read_evaluation
from tasks.report.parts import Grid, Picture, Section
from tasks.report.records import MEASURES, read_json
from tasks.shards import read_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from PIL import Image

CHECKPOINTS = "checkpoints/reid"

MRA, LUO = "MRA's paper", "michuanhaohao/reid-strong-baseline, README"
PUBLISHED: tuple[tuple[str, str, str, str, str, str], ...] = (
    ("Swin-B 224, pretrained on SDA (MRA)", MRA, "94.39", "97.86", "98.63", "84.26"),
    ("Swin-B 224, from ImageNet-1K", MRA, "91.12", "96.62", "98.22", "76.31"),
    (
        "ResNet-50, last stride 1, centre loss (Luo et al. 2019)",
        LUO,
        "94.5",
        "",
        "",
        "85.9",
    ),
    ("the same without centre loss", LUO, "94.1", "", "", "85.7"),
)
"""Market-1501: method, who gives it, R@1, R@5, R@10, mAP, with as many decimals as the source has.
For the first mAP MRA's prose has 82.46; the table's 84.26 fits its "+7.95"."""

HEADER = ("method", "given in", "R@1", "R@5", "R@10", "mAP")


@dataclass(frozen=True)
class Found:
    """One re-identification."""

    name: str
    evaluation: Evaluation
    metrics: Mapping[str, Any]
    """metrics.json whole."""
    record: Mapping[str, Any]
    """training.json whole; empty where there is none."""

    @property
    def images(self) -> str:
        """Name of the dataset."""
        return str(self.record.get("params", {}).get("images", "")).rstrip("/").rpartition("/")[2]

    @property
    def start(self) -> str:
        """What its image encoder started from."""
        return str(self.record.get("params", {}).get("start", "unknown"))


def read(folders: Mapping[str, Path]) -> tuple[Found, ...]:
    """Read what the stage left.

    Args:
        folders: Name of an entry to its folder below ``data/reports/reid``.
    """
    found = []
    for name, path in folders.items():
        training = path.parents[2] / CHECKPOINTS / name / "training.json"
        record = read_json(training) if training.exists() else {}
        metrics = read_json(path / "metrics.json")
        found.append(Found(name, read_evaluation(path), metrics, record))
    return tuple(found)


def sheets_of(
    found: Sequence[Found], galleries: Sequence[Path], count: int, seed: int
) -> dict[str, Image.Image | None]:
    """Rank lists by name ``ranks-reid-NAME``; entries of one dataset show the same queries."""
    asked: dict[str, Sequence[illustrate.Query]] = {}
    sheets = {}
    for one in found:
        if one.images not in asked:
            asked[one.images] = illustrate.choose_queries(one.evaluation, count, seed)
        folders = [path for path in galleries if path.name == one.images] or galleries
        lists = illustrate.rank_lists(one.evaluation, folders, asked[one.images])
        sheets[f"ranks-reid-{one.name}"] = lists
    return sheets


def section(
    found: Sequence[Found], galleries: Sequence[Path], pictures: Mapping[str, bytes]
) -> Section:
    """The section; without parts where nothing was ranked."""
    made = Section("Re-identification", "How well a picture finds its person by other cameras.")
    if not found:
        return made
    text = (
        "Pictures found by pictures on the test split, percent, by the cosine of one feature each. "
        "What the query's own camera saw of its person is left out; trained on the train split's "
        "people, nobody of whom is in the test split."
    )
    header = ("entry", "dataset", "started from", *MEASURES, "queries", "gallery")
    made.parts.append(Grid(text, header, _rows(found), text=frozenset({0, 1, 2})))
    made.parts += _published(found, galleries)
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = {
        one.name: (one.evaluation.ranks, one.evaluation.recall)
        for one in found
        if len(one.evaluation.ranks)
    }
    if curves:
        text = "Share of query pictures with a right picture among the first k (CMC)."
        chart = figures.png(figures.cmc_chart(curves))
        made.parts.append(Picture("cmc-reid", text, chart, narrow=True))
    for one in found:
        name = f"ranks-reid-{one.name}"
        if name in pictures:
            text = (
                f"Rank lists of {one.name}: the query at the left; green ✓ is the same person by "
                "another camera, red ✗ somebody else."
            )
            made.parts.append(Picture(name, text, pictures[name], photos=True))
    return made


def _rows(found: Sequence[Found]) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    for one in found:
        counts = (f"{one.metrics.get(name, 0):,}" for name in ("queries", "gallery"))
        measures = one.evaluation.measures
        rows.append((one.name, one.images, one.start, *_percent(measures), *counts))
        by_chance = one.evaluation.besides.get("by chance")
        if by_chance:
            rows.append(("– by chance", "", "", *_percent(by_chance), "", ""))
    return rows


def _published(found: Sequence[Found], galleries: Sequence[Path]) -> list[Grid]:
    """What others have reached, where Market-1501 was ranked."""
    real = {path.name for path in galleries if read_manifest(path).meta.get("format") == FORMAT}
    names = sorted({one.images for one in found} & real)
    if not names:
        return []
    text = (
        "Published on Market-1501, percent. Luo et al.'s are without re-ranking; how MRA asked and "
        "ranked is not known. Average precision here is the mean of the precisions at the matches; "
        "the release of Market-1501 takes the area under a curve, which is a little less. Pictures "
        "of Market-1501's people are in CUHK-PEDES: what was adapted to or fine-tuned on that, as "
        "MRA's pretraining on SDA was, may have seen people who are looked for here."
    )
    for path in galleries:
        report = read_manifest(path).meta.get("report") or {}
        if path.name in names and not (report.get("comparison") or {}).get("exact", False):
            text += f" {path.name} is not exactly the published split."
    return [Grid(text, HEADER, PUBLISHED, text=frozenset({1}))]


def _percent(measures: Mapping[str, float]) -> list[str]:
    return [f"{measures[name]:.2f}" if name in measures else "" for name in MEASURES]
