"""Charts and sheets of measured regions.

On a sheet the true box is dashed and the proposed one solid, both in the colour that the group has
everywhere (`tasks.callouts.COLOURS`); a phrase without an answer has a dashed box only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from benchmarks.regions.measures import RIGHT, Answers, Floats, calibration, interval, rows
from tasks.callouts import COLOURS
from tasks.report.figures import INK, MUTED, PALETTE, STYLE

COLUMNS = 7


def save(figure: Figure, path: Path) -> None:
    """Write a chart (PNG) or a sheet (JPEG), as small as it can be read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    how = {"quality": 80} if path.suffix == ".jpg" else {}
    figure.savefig(path, dpi=110, pil_kwargs=how)


def reliability(sides: Mapping[str, Answers], bins: int = 15) -> Figure:
    """Share of right answers by confidence, over a count of phrases; a column of panels a side."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.4 * len(sides), 5.6), layout="constrained")
        grid = figure.subplots(
            2, len(sides), squeeze=False, sharex=True, height_ratios=(3.2, 1), sharey="row"
        )
        for column, (name, answers) in enumerate(sides.items()):
            found = calibration(answers.score_N, answers.right, bins)
            top, below = grid[0, column], grid[1, column]
            top.plot([0, 1], [0, 1], color=MUTED, lw=1.2, ls="--")
            top.vlines(found.confidence_K, found.confidence_K, found.right_K, PALETTE[1], lw=1.6)
            size = 14 + 260 * found.count_K / found.count_K.sum()
            top.scatter(found.confidence_K, found.right_K, size, PALETTE[0], zorder=3)
            top.set(
                title=f"{name}\nexpected calibration error {found.error:.3f}",
                xlim=(-0.02, 1.02), ylim=(-0.02, 1.02),
            )  # fmt: skip
            counts, starts = np.histogram(answers.score_N, 20, (0, 1))
            share = 100 * counts / len(answers.score_N)
            colours = np.where(starts[:-1] >= RIGHT - 1e-9, PALETTE[0], "#c5cad1").tolist()
            below.bar(starts[:-1] + 0.025, share, 0.045, color=colours)
            sure = np.mean(answers.score_N >= RIGHT)
            below.annotate(
                f"{sure:.0%} at 0.5 or more", (0.97, 0.94), xycoords="axes fraction",
                ha="right", va="top", fontsize=9, color=PALETTE[0],
            )  # fmt: skip
            below.set(xlabel="confidence")
            below.margins(y=0.35)
        grid[0, 0].set_ylabel("share with IoU of 0.5 or more")
        grid[1, 0].set_ylabel("% of the phrases")
    return figure


def by_group(answers: Answers, layout_N: NDArray[np.bool_], baseline: str) -> Figure:
    """Shares of hits by group beside the baseline's, with the interval of the difference."""
    found = rows(answers, answers.group_N)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 0.55 * len(found) + 1.4), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.7, 1))
        for y, mask in enumerate(found.values()):
            hits = (answers.right[mask], layout_N[mask])
            for side, (shift, colour) in enumerate(((-0.19, PALETTE[0]), (0.19, "#b9c0c9"))):
                share = 100 * hits[side].mean()
                left.barh(y + shift, share, 0.36, color=colour)
                left.annotate(f"{share:.0f}", (share, y + shift), (3, 0), va="center",
                              textcoords="offset points", fontsize=9, color=INK)  # fmt: skip
            difference = hits[0].astype(float) - hits[1]
            low, high = interval(difference, answers.picture_N[mask])
            right.plot([100 * low, 100 * high], [y, y], color=PALETTE[0], lw=2)
            right.plot(100 * difference.mean(), y, "o", color=PALETTE[0], ms=6)
        right.axvline(0, color=MUTED, lw=1.2)
        left.set_yticks(range(len(found)), [f"{g} ({m.sum()})" for g, m in found.items()])
        left.invert_yaxis()
        left.margins(x=0.1)
        left.set(xlabel="% of the regions with IoU of 0.5 or more")
        right.set(xlabel="gain, points, 95 % over photos")
        handles = [
            Rectangle((0, 0), 1, 1, color=PALETTE[0]), Rectangle((0, 0), 1, 1, color="#b9c0c9"),
        ]  # fmt: skip
        figure.legend(handles, ["proposer", f"layout alone: {baseline}"], ncols=2, fontsize=9.5,
                      loc="outside upper left")  # fmt: skip
    return figure


def sheet(pictures: Sequence[NDArray[np.uint8]], answers: Answers, what: str) -> Figure:
    """The best, the middle and the worst pictures by mean overlap, with their boxes.

    Args:
        pictures: uint8 (H, W, 3) each, by the numbers in ``answers``.
        answers: What was answered.
        what: Stands above.
    """
    mean = np.bincount(answers.picture_N, answers.overlap, len(pictures))
    count = np.bincount(answers.picture_N, minlength=len(pictures))
    order = np.argsort(-np.divide(mean, count, out=np.zeros_like(mean), where=count > 0))
    order = order[count[order] > 0]
    middle = len(order) // 2 - COLUMNS // 2
    chosen = {
        "best": order[:COLUMNS],
        "middle": order[middle : middle + COLUMNS],
        "worst": order[-COLUMNS:],
    }
    shape = np.median([each.shape[0] / each.shape[1] for each in pictures])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(COLUMNS * 1.65, 3 * (1.65 * shape + 0.3) + 0.5))
        figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02)
        grid = figure.subplots(3, COLUMNS, squeeze=False)
        for line, (name, numbers) in zip(grid, chosen.items(), strict=True):
            for axes in line:
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
            for axes, number in zip(line, numbers, strict=False):
                _draw(axes, pictures[number], answers, answers.picture_N == number)
            line[0].set_ylabel(name, fontsize=11)
        used = [group for group in COLOURS if (answers.group_N == group).any()]
        handles = [
            Line2D([], [], color=INK, ls="--", lw=1.5), Line2D([], [], color=INK, lw=1.5),
            *(Rectangle((0, 0), 1, 1, color=COLOURS[group]) for group in used),
        ]  # fmt: skip
        figure.legend(handles, ["truth", "proposed", *used], ncols=len(handles), fontsize=9,
                      loc="outside upper center", title=what)  # fmt: skip
    return figure


def _draw(
    axes: Axes, picture: NDArray[np.uint8], answers: Answers, which: NDArray[np.bool_]
) -> None:
    axes.imshow(picture)
    size = np.array([picture.shape[1], picture.shape[0]] * 2, float)
    for n in np.flatnonzero(which):
        colour = COLOURS.get(str(answers.group_N[n]), INK)
        for box, style, width in (
            (answers.truth_N4[n], (0, (3, 2)), 1.1),
            (answers.box_N4[n], "-", 1.4),
        ):
            if np.isfinite(box).all():
                _frame(axes, box * size, colour, style, width)
    overlap = answers.overlap[which].mean()
    right = answers.right[which].sum()
    axes.set_title(f"{overlap:.2f}  {right} of {which.sum()}", fontsize=8.5, pad=2, loc="left")


def _frame(
    axes: Axes, box: Floats, colour: str, style: str | tuple[int, tuple[int, int]], width: float
) -> None:
    cx, cy, w, h = box
    for edge, lw in (("white", width + 1.2), (colour, width)):
        axes.add_patch(
            Rectangle(
                (cx - w / 2 - 0.5, cy - h / 2 - 0.5),
                w,
                h,
                fill=False,
                ec=edge,
                lw=lw,
                ls=style,
                alpha=0.6 if edge == "white" else 1,
            )
        )
