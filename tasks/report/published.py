"""What has been published on a benchmark, to stand beside a run's own figures on it.

Numbers are as the two papers that this project rebuilds give them, their own and those that they
quote; nobody has measured them here. A run on another dataset, or on drawings, has none of this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.report.parts import Grid

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tasks.report.gather import Facts

MRA, UNIPT = "MRA's paper", "UniPT's paper"

Row = tuple[str, str, float, float, float, float | None]
"""Method, who gives the figures, R@1, R@5, R@10 and, where it is given, mAP; percent."""

RESULTS: dict[str, tuple[Row, ...]] = {
    "cuhk-pedes": (
        ("MRA, pretrained on SDA", MRA, 77.21, 90.66, 94.46, 68.50),
        ("MRA, without pretraining", MRA, 71.23, 87.54, 92.43, 64.75),
        ("APTM", MRA, 76.53, 90.04, 94.15, 66.91),
        ("RaSa", MRA, 76.51, 90.29, 94.25, 69.38),
        ("SAMC", MRA, 74.03, 89.18, 93.31, 68.42),
        ("IRRA", MRA, 73.38, 89.93, 93.71, 66.13),
        ("CFine", MRA, 69.57, 85.93, 91.15, None),
        ("UniPT, ViT-B/16", UNIPT, 68.50, 84.67, 90.38, None),
        ("UniPT, DeiT-Small", UNIPT, 66.83, 84.16, 89.42, None),
        ("IVT, ViT-B", UNIPT, 65.59, 83.11, 89.21, None),
        ("LGUR, DeiT-Small", UNIPT, 65.25, 83.12, 89.00, None),
        ("CAIBC", UNIPT, 64.43, 82.87, 88.37, None),
        ("LGUR, ResNet-50", UNIPT, 64.21, 81.94, 87.93, None),
        ("SSAN", UNIPT, 61.37, 80.15, 86.73, None),
        ("DSSL", UNIPT, 59.98, 80.41, 87.56, None),
        ("ViTAA", MRA, 55.97, 75.84, 83.52, 51.60),
    ),
    "icfg-pedes": (
        ("MRA, pretrained on SDA", MRA, 68.93, 83.46, 88.07, 41.38),
        ("MRA, without pretraining", MRA, 66.02, 81.67, 86.78, 39.04),
        ("APTM", MRA, 68.51, 82.99, 87.56, 41.22),
        ("RaSa", MRA, 65.28, 80.40, 85.12, 41.29),
        ("SAMC", MRA, 63.68, 79.69, 85.21, 42.41),
        ("IRRA", MRA, 63.46, 80.25, 85.82, 38.06),
        ("CFine", MRA, 60.83, 76.55, 82.42, None),
        ("UniPT, ViT-B/16", UNIPT, 60.09, 76.19, 82.46, None),
        ("UniPT, DeiT-Small", UNIPT, 59.08, 75.92, 82.08, None),
        ("LGUR, DeiT-Small", UNIPT, 59.02, 75.32, 81.56, None),
        ("LGUR, ResNet-50", UNIPT, 57.42, 74.97, 81.45, None),
        ("IVT, ViT-B", UNIPT, 56.04, 73.60, 80.22, None),
        ("SSAN", UNIPT, 54.23, 72.63, 79.53, None),
    ),
    "rstpreid": (
        ("MRA, pretrained on SDA", MRA, 68.15, 86.30, 91.10, 53.77),
        ("MRA, without pretraining", MRA, 56.30, 77.55, 85.20, 45.88),
        ("APTM", MRA, 67.50, 85.70, 91.45, 52.56),
        ("RaSa", MRA, 66.90, 86.50, 91.35, 52.31),
        ("SAMC", MRA, 60.80, 82.35, 89.00, 49.67),
        ("IRRA", MRA, 60.20, 81.30, 88.20, 47.17),
        ("UniPT, ViT-B/16", UNIPT, 51.85, 74.85, 82.85, None),
        ("CFine", MRA, 50.55, 72.50, 81.60, None),
        ("UniPT, DeiT-Small", UNIPT, 49.45, 72.75, 80.35, None),
        ("LGUR, DeiT-Small", UNIPT, 47.95, 71.85, 80.25, None),
        ("CAIBC", UNIPT, 47.35, 69.55, 79.00, None),
        ("LGUR, ResNet-50", UNIPT, 46.95, 69.90, 79.12, None),
        ("IVT, ViT-B", UNIPT, 46.70, 70.00, 78.80, None),
        ("SSAN", UNIPT, 43.50, 67.80, 77.15, None),
        ("DSSL", UNIPT, 32.43, 55.08, 63.19, None),
    ),
}
"""Format of the dataset to what was published on its test split, fine-tuned on its train split."""

HEADER = ("method", "given in", "R@1", "R@5", "R@10", "mAP")


def tables(facts: Facts) -> Iterator[Grid]:
    """A table for every benchmark that this run evaluates on."""
    evaluated = {run.images.rstrip("/").rsplit("/", 1)[-1] for run in facts.sources.runs.values()}
    for path in facts.sources.ingested:
        meta = facts.tables[f"ingest {path.name}"].meta
        results = RESULTS.get(str(meta.get("format")))
        if results is None or path.name not in evaluated:
            continue
        text = (
            f"Published on {path.name}, percent, each fine-tuned on its train split. MRA's and "
            "APTM's figures are of the epoch that is best on the test split itself, and re-ranked "
            "by a fusion encoder; UniPT's and LGUR's are by the cosine alone."
        )
        compared = (meta.get("report") or {}).get("comparison") or {}
        if not compared.get("exact", False):
            text += " The copy that was ingested here is not exactly the published split."
        yield Grid(text, HEADER, [_cells(row) for row in results], text=frozenset({1}))


def _cells(row: Row) -> Sequence[str]:
    method, source, *values = row
    return (method, source, *("" if value is None else f"{value:.2f}" for value in values))
