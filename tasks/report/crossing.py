"""From one domain to another: every fine-tuned checkpoint on every dataset that the run evaluates.

A row is a checkpoint, named by the dataset that it was fine-tuned on (the first, without one, is
direct transfer); a column is the dataset that it is asked about. Own domain is the framed diagonal.
There is a section only where some checkpoint meets a dataset that it was not fine-tuned on.

What was published on crossing between CUHK-PEDES, ICFG-PEDES and RSTPReid stands in a table of its
own, as the papers print it; it is of photographs, and nobody has measured it here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tasks.report import figures
from tasks.report.parts import Grid, Picture, Section
from tasks.report.records import settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tasks.report.gather import Facts

DIRECT: Final = "nothing (direct transfer)"
SHOWN: Final = ("R@1", "mAP")
MRA, GA_DMS = "MRA's paper", "GA-DMS's paper, table 3"
PUBLISHED: Final = (
    ("WebPerson-5M + IRRA", GA_DMS, "as IRRA", {
        "C to I": (58.91,), "I to C": (69.83,), "C to R": (61.80,), "I to R": (60.05,),
        "R to C": (69.19,), "R to I": (57.13,),
    }),
    ("MRA", MRA, "fusion, first 512, flips", {
        "C to I": (50.01, 67.13, 74.24), "I to C": (47.66, 68.70, 76.82),
    }),
    ("MALS + IRRA", GA_DMS, "as IRRA", {
        "C to I": (46.02,), "I to C": (43.11,), "C to R": (55.05,),
    }),
    ("IRRA", GA_DMS, "cosine", {
        "C to I": (43.04,), "I to C": (33.90,), "C to R": (52.55,), "R to C": (35.25,),
    }),
    ("UniPT, DeiT-Small", "UniPT's paper, table 8", "cosine", {
        "C to I": (35.51, 54.25, 62.69), "I to C": (28.48, 48.02, 57.65),
    }),
    ("LGUR", MRA, "cosine", {"C to I": (34.25, 52.58, 60.85), "I to C": (25.44, 44.48, 54.39)}),
    ("SSAN", MRA, "–", {"C to I": (29.24, 49.00, 58.53)}),
)  # fmt: skip
"""Method, who gives the figures, how it ranked, and way to R@1, R@5, R@10 or R@1 alone; percent.
MRA's ranking is what its released configs say, the others' as in `tasks.published`. Ways that are
absent are not on record here."""
WAYS: Final = ("C to I", "I to C", "C to R", "I to R", "R to C", "R to I")
_THREE_RANKS: Final = WAYS[:2]
ON_OWN: Final = {"CUHK-PEDES": 77.21, "ICFG-PEDES": 68.93}
"""R@1 of MRA fine-tuned on the very benchmark, from its paper."""


@dataclass(frozen=True)
class Matrix:
    """Checkpoints by datasets; what was not evaluated is absent."""

    rows: tuple[str, ...]
    """What each checkpoint was fine-tuned on; `DIRECT` where on nothing."""
    columns: tuple[str, ...]
    """Datasets that were evaluated on."""
    cells: Mapping[tuple[str, str], Mapping[str, float]]
    """Row and column to R@1, R@5, R@10, mAP, mINP in percent."""
    own: Mapping[str, str]
    """Row to the column of its own domain."""

    def is_own(self, row: str, column: str) -> bool:
        """Whether a checkpoint was fine-tuned on what it is asked about."""
        return self.own.get(row) == column

    def share(self, row: str, column: str, measure: str = "R@1") -> float | None:
        """What a checkpoint from elsewhere reaches of one fine-tuned on the column, 0-1."""
        at_home = [r for r in self.rows if self.is_own(r, column) and (r, column) in self.cells]
        if (row, column) not in self.cells or not at_home:
            return None
        best = max(self.cells[r, column].get(measure, 0.0) for r in at_home)
        return self.cells[row, column].get(measure, 0.0) / best if best else None


def matrix(facts: Facts) -> Matrix | None:
    """Lay out the evaluations; None where no checkpoint meets a dataset that is not its own.

    Left out are evaluations whose epoch was chosen on the test split, and of checkpoints that do
    not say what they were trained on, as imported ones. Where a checkpoint was evaluated on a
    dataset more than once, the first evaluation counts.
    """
    runs = {name: run for name, run in facts.sources.runs.items() if name in facts.fair}
    told = {run.checkpoint: _trained_on(run.checkpoint) for run in runs.values()}
    trained = {path: on for path, on in told.items() if on is not None}
    runs = {name: run for name, run in runs.items() if run.checkpoint in trained}
    columns = tuple(dict.fromkeys(_last(run.images) for run in runs.values()))
    crossed = any(trained[run.checkpoint] not in {"", _last(run.images)} for run in runs.values())
    if not crossed:
        return None
    # Direct transfer first, then in the order of the columns.
    places = {name: at for at, name in enumerate(("", *columns))}
    order = sorted(trained, key=lambda path: places.get(trained[path], len(places)))
    labels = _labels(order, trained)
    cells: dict[tuple[str, str], Mapping[str, float]] = {}
    for name, run in runs.items():
        cells.setdefault((labels[run.checkpoint], _last(run.images)), facts.fair[name].measures)
    own = {labels[path]: on for path, on in trained.items() if on}
    return Matrix(tuple(labels[path] for path in order), columns, cells, own)


def _trained_on(checkpoint: Path) -> str | None:
    """The dataset that a checkpoint was fine-tuned on: empty for none, None where nobody says."""
    body = settings(checkpoint)
    if body.get("stage") == "pretrain":
        return ""
    images = body.get("params", {}).get("images") if body.get("stage") == "finetune" else None
    return _last(str(images)) if images else None


def _last(folder: str) -> str:
    return folder.rstrip("/").rsplit("/", 1)[-1]


def _labels(order: Sequence[Path], trained: Mapping[Path, str]) -> dict[Path, str]:
    """Name checkpoints by their dataset; where several share one, by their folder as well."""
    often = Counter(trained[path] for path in order)
    return {
        path: (trained[path] or DIRECT) + (f", {path.name}" if often[trained[path]] > 1 else "")
        for path in order
    }


def section(facts: Facts) -> Section:
    """Say how much of its own domain's figure a model keeps elsewhere."""
    found = Section(
        "Across domains", "What is left of a model where cameras, people and writers are others."
    )
    told = matrix(facts)
    if told is None:
        return found
    text = (
        "Every checkpoint on the test split of every dataset, percent; rows say what it was "
        "fine-tuned on. Frames are of a dataset's own checkpoint; under R@1 stands the share of "
        "the own checkpoint's that one from elsewhere reaches."
    )
    chart = figures.png(heat_chart(told))
    found.parts.append(Picture("across-domains", text, chart, narrow=len(told.columns) < 3))
    found.parts.append(_grid(told))
    drawn = [name for name in told.columns if name in facts.drawn]
    found.parts.append(_published(drawn))
    return found


def _grid(told: Matrix) -> Grid:
    header = ["fine-tuned on"]
    header += [f"{measure}, {column}" for column in told.columns for measure in SHOWN]
    rows, best = [], set()
    for at, row in enumerate(told.rows):
        line = [row]
        for column in told.columns:
            measures = told.cells.get((row, column), {})
            if told.is_own(row, column):
                best |= {(at, len(line) + k) for k in range(len(SHOWN))}
            line += [f"{measures[m]:.2f}" if m in measures else "" for m in SHOWN]
        rows.append(line)
    text = "The same in numbers, percent; own domain is bold."
    return Grid(text, header, rows, best=frozenset(best))


def _published(drawn: Sequence[str]) -> Grid:
    text = (
        "Published, on photographs: fine-tuned on CUHK-PEDES and asked on ICFG-PEDES (C to I), and "
        "so on, R being RSTPReid; percent. Figures by the cosine and figures that a fusion encoder "
        "ranked again are of two kinds. On its own benchmark MRA has R@1 "
        f"{ON_OWN['CUHK-PEDES']:.2f} on CUHK-PEDES and {ON_OWN['ICFG-PEDES']:.2f} on ICFG-PEDES."
    )
    if drawn:
        names = " and ".join(drawn)
        text += (
            f" The pictures of {names} above are drawings: of the two tables only the shape can "
            "be compared, no figure."
        )
    columns = [
        (way, at, f"{way} R@{k}")
        for way in WAYS
        for at, k in enumerate((1, 5, 10))
        if at == 0 or way in _THREE_RANKS
    ]
    header = ("method", "given in", "ranked by", *(heading for _, _, heading in columns))
    rows = [
        (method, source, ranked, *(_figure(ways.get(way, ()), at) for way, at, _ in columns))
        for method, source, ranked, ways in PUBLISHED
    ]
    return Grid(text, header, rows, text=frozenset({0, 1, 2}))


def _figure(figures: Sequence[float], at: int) -> str:
    return f"{figures[at]:.2f}" if at < len(figures) else "–"


_TINTS = LinearSegmentedColormap.from_list("house", ["#f2f6fb", "#8db9e2", "#1667b7", "#0d3f72"])


def heat_chart(told: Matrix) -> Figure:
    """Draw checkpoints by datasets as a panel a measure, values written into the cells.

    Args:
        told: The matrix.

    Returns:
        The figure.
    """
    columns, rows = len(told.columns), len(told.rows)
    style = figures.STYLE | {"axes.grid": False}
    with mpl.rc_context(style):
        size = (2.6 + 1.75 * columns * len(SHOWN), 1.3 + 0.85 * rows)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(1, len(SHOWN), sharey=True, squeeze=False)[0]
        for axes, measure in zip(panels, SHOWN, strict=True):
            values = np.array(
                [
                    [told.cells.get((row, column), {}).get(measure, np.nan)
                     for column in told.columns]
                    for row in told.rows
                ]
            )  # fmt: skip
            top = max(float(np.nanmax(values)), 1.0) if np.isfinite(values).any() else 1.0
            axes.imshow(values, cmap=_TINTS, vmin=0, vmax=top, aspect="auto")
            axes.set_title(f"{measure} (%)")
            axes.set_xticks(range(columns), told.columns)
            axes.set_yticks(range(rows), told.rows)
            axes.tick_params(length=0, labelcolor=figures.INK)
            axes.set_xlabel("asked on the test split of")
            axes.spines[:].set_visible(False)
            for y, row in enumerate(told.rows):
                for x, column in enumerate(told.columns):
                    value = float(values[y, x])
                    if not np.isfinite(value):
                        axes.text(x, y, "–", ha="center", va="center", color=figures.MUTED)
                        continue
                    ink = "white" if value > 0.5 * top else figures.INK
                    share = told.share(row, column) if measure == "R@1" else None
                    apart = share is not None and not told.is_own(row, column)
                    axes.text(x, y - (0.1 if apart else 0), f"{value:.1f}", ha="center",
                              va="center", color=ink, fontsize=13, fontweight="bold")  # fmt: skip
                    if apart and share is not None:
                        axes.text(x, y + 0.24, f"{100 * share:.0f} % of own", ha="center",
                                  va="center", color=ink, fontsize=8.5)  # fmt: skip
                    if told.is_own(row, column):
                        frame = Rectangle((x - 0.47, y - 0.46), 0.94, 0.92, fill=False,
                                          edgecolor=figures.PALETTE[1], lw=2.4)  # fmt: skip
                        axes.add_patch(frame)
        panels[0].set_ylabel("fine-tuned on")
    return figure
