"""Charts of an ablation, in the style of `tasks.report.figures`: plain numbers in, a figure out.

A filled dot is a mean, a line through it its 95 % interval over people and seeds, a small dot one
seed. What is of a paper stands in a panel of its own, never on the axes of ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from tasks.ablate.mentions import Group
from tasks.report.figures import INK, MUTED, PALETTE, STYLE

DIRECT, TUNED = "#8fa3b8", PALETTE[0]
SEEDS_BELOW = 0.24
"""By how much of a row."""
NOT_SURE = "#9aa3ad"
"""Of what is not told from the value that it is held against."""


@dataclass(frozen=True)
class Dot:
    """A mean, its interval and its seeds."""

    value: float
    low: float
    high: float
    seeds: Sequence[float] = ()


@dataclass(frozen=True)
class ArmRow:
    """An arm in the chart of arms."""

    name: str
    group: str
    direct: Dot | None
    tuned: Dot | None
    said: str
    """How many seeds."""


def arms_chart(rows: Sequence[ArmRow], measure: str = "R@1") -> Figure:
    """Draw every arm's direct transfer and fine-tuned figure, a row an arm, groups apart."""
    places, at, before = [], 0.0, None
    for row in rows:
        at += 1.0 if before in {None, row.group} else 1.7
        places.append(at)
        before = row.group
    with mpl.rc_context(STYLE):
        figure = Figure(
            figsize=(11, 1.3 + 0.47 * (places[-1] if places else 1)), layout="constrained"
        )
        axes = figure.subplots()
        for y, row in zip(places, rows, strict=True):
            for dot, colour in ((row.direct, DIRECT), (row.tuned, TUNED)):
                if dot is not None:
                    _dot(axes, dot, y, colour)
        dots = [dot for row in rows for dot in (row.direct, row.tuned) if dot is not None]
        told = [each for dot in dots for each in (dot.value, dot.high, *dot.seeds)]
        ends = [each for each in told if np.isfinite(each)]
        for colour, label in ((DIRECT, "direct transfer"), (TUNED, "fine-tuned")):
            axes.plot([], [], "o-", color=colour, label=label)
        axes.set_yticks(places, [f"{row.name}  ({row.said})" for row in rows])
        axes.set_ylim((places[-1] if places else 1) + 0.7, 0.3)
        axes.set_xlim(0, min(100, 1.08 * max(ends, default=100)))
        axes.set_xlabel(f"{measure} (%), 95 % intervals over people and seeds; small dots: seeds")
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.grid(visible=False, axis="y")
        figure.legend(loc="outside upper right", ncols=2, fontsize=9)
    return figure


def _dot(axes: Axes, dot: Dot, y: float, colour: str, said: str = "{:.1f}") -> None:
    # Seeds below the interval's line, which would hide them (the axis points down).
    below = [y + SEEDS_BELOW] * len(dot.seeds)
    axes.plot(dot.seeds, below, "o", color=colour, alpha=0.6, ms=3.5, mew=0)
    axes.plot([dot.low, dot.high], [y, y], color=colour, lw=2.4, solid_capstyle="butt")
    axes.plot(dot.value, y, "o", color=colour, ms=8)
    text = axes.annotate(
        said.format(dot.value), (dot.value, y), (0, 6), textcoords="offset points", ha="center",
        fontsize=9, color=colour, fontweight="bold",
    )  # fmt: skip
    text.set_path_effects([withStroke(linewidth=3, foreground="white")])


@dataclass(frozen=True)
class ContrastRow:
    """A contrast in the chart of contrasts."""

    name: str
    dot: Dot
    smallest: float
    """Smallest detectable difference; NaN where there is none."""
    said: str
    sure: bool
    """Whether the corrected p-value tells it from 0."""


def contrasts_chart(rows: Sequence[ContrastRow], measure: str) -> Figure:
    """Draw differences with their intervals, and how small a difference would have been found."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 1.4 + 0.72 * len(rows)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color=INK, lw=1)
        for y, row in enumerate(rows):
            if np.isfinite(row.smallest):
                span = (-row.smallest, row.smallest)
                axes.fill_betweenx((y - 0.34, y + 0.34), *span, color=NOT_SURE, alpha=0.18, lw=0)
            _dot(axes, row.dot, y, TUNED if row.sure else NOT_SURE, "{:+.1f}")
            axes.annotate(
                row.said, (1.0, y), (8, 0), xycoords=axes.get_yaxis_transform(),
                textcoords="offset points", va="center", fontsize=9.5, color=MUTED,
                annotation_clip=False,
            )  # fmt: skip
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(f"difference of {measure}, points, 95 % intervals; grey: power below 80 %")
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.grid(visible=False, axis="y")
    return figure


def cmc_chart(panels: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> Figure:
    """Draw the cumulative match characteristic, a panel an evaluation, a line an arm.

    Args:
        panels: Title to arm to R@k in percent by seed, (S, k).

    Returns:
        The figure: the mean over seeds, in a band from the lowest to the highest seed.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12, 4.4), layout="constrained")
        axes_of = np.atleast_1d(figure.subplots(1, len(panels), squeeze=False)).ravel()
        for axes, (title, arms) in zip(axes_of, panels.items(), strict=True):
            axes.set_title(title)
            longest = 1
            lowest = 100.0
            for n, (name, curves) in enumerate(arms.items()):
                colour, ranks = PALETTE[n % len(PALETTE)], np.arange(1, curves.shape[1] + 1)
                mean = curves.mean(0)
                axes.fill_between(
                    ranks, curves.min(0), curves.max(0), color=colour, alpha=0.15, lw=0
                )
                axes.plot(ranks, mean, color=colour, lw=2, label=f"{name}  ({mean[0]:.1f})")
                longest, lowest = max(longest, len(ranks)), min(lowest, float(curves.min()))
            axes.set(xlabel="rank k", ylabel="queries answered within k (%)")
            axes.set_ylim(max(0.0, lowest - 4), 101)
            axes.set_xlim(0.7, longest + 0.3)
            axes.set_xticks([k for k in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 50) if k <= longest])
            axes.legend(loc="best", fontsize=9, title="R@1", title_fontsize=8.5)
    return figure


@dataclass(frozen=True)
class Epochs:
    """How the epochs of an arm's fine-tunings rank."""

    name: str
    epochs: Sequence[int]
    val: NDArray[np.float64]
    """(S, epochs), percent."""
    test: NDArray[np.float64] | None


def epochs_chart(arms: Sequence[Epochs], measure: str = "R@1") -> Figure:
    """Draw validation and test by epoch, a panel an arm; bands from lowest to highest seed."""
    columns = min(3, max(1, len(arms)))
    rows = -(-len(arms) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12, 0.4 + 3.2 * rows), layout="constrained")
        panels = np.atleast_1d(figure.subplots(rows, columns, squeeze=False, sharey=True)).ravel()
        for axes, arm in zip(panels, arms, strict=False):
            axes.set_title(f"{arm.name}  ({len(arm.val)} seeds)" if len(arm.val) > 1 else arm.name)
            for values, label, colour in (
                (arm.val, "validation", PALETTE[0]),
                (arm.test, "test", PALETTE[1]),
            ):
                if values is None:
                    continue
                ends = (values.min(0), values.max(0))
                axes.fill_between(arm.epochs, *ends, color=colour, alpha=0.15, lw=0)
                axes.plot(arm.epochs, values.mean(0), "o-", color=colour, ms=3.5, lw=2, label=label)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
            axes.set(xlabel="epoch", ylabel=f"{measure} (%)")
            axes.legend(loc="upper left", fontsize=9)
        for axes in panels[len(arms) :]:
            axes.set_axis_off()
    return figure


def mentions_chart(groups: Sequence[Group], better: str, plain: str, overall: float) -> Figure:
    """Draw failures at rank 1 by what the query mentions: both arms, and their difference.

    Args:
        groups: Kind after kind.
        better: Name of the first arm.
        plain: Of the second.
        overall: Difference of R@1 over all queries, which each group's is held against.
    """
    places, at, before = [], 0.0, None
    for group in groups:
        at += 1.0 if before in {None, group.kind} else 1.8
        places.append(at)
        before = group.kind
    last = places[-1] if places else 1
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12, 1.2 + 0.29 * last), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        for y, group in zip(places, groups, strict=True):
            misses = (100 - group.plain, 100 - group.better)
            left.plot(misses, (y, y), color="#c5cad1", lw=1.5, zorder=1)
            left.plot(misses[0], y, "o", color=DIRECT, ms=7)
            left.plot(misses[1], y, "o", color=TUNED, ms=7)
            found = group.difference
            several = found.fewest > 1  # one seed has no interval
            apart = several and not found.low <= overall <= found.high
            colour = TUNED if apart else NOT_SURE
            if several:
                right.plot((found.low, found.high), (y, y), color=colour, lw=2.4)
            right.plot(found.value, y, "o", color=colour, ms=6)
        for colour, label in ((DIRECT, plain), (TUNED, better)):
            left.plot([], [], "o", color=colour, label=label)
        left.set_yticks(places, [f"{g.name}  ({g.queries:,})" for g in groups])
        left.set_ylim(last + 0.8, 0.2)
        left.set_xlabel("queries not answered right at rank 1 (%)")
        right.axvline(overall, color=INK, lw=1)
        right.axvline(0, color=MUTED, lw=1, ls=":")
        right.set_xlabel(f"fails less by (points, 95 %); line: all queries, {overall:+.1f}")
        for axes in (left, right):
            axes.tick_params(axis="y", length=0, labelcolor=INK)
            axes.grid(visible=False, axis="y")
        figure.legend(loc="outside upper right", ncols=2, fontsize=9)
    return figure


@dataclass(frozen=True)
class Line:
    """A figure by a setting: ours with seeds and intervals, and the paper's."""

    title: str
    label: str
    """Of the abscissa."""
    ours: Mapping[float, Dot]
    theirs: Sequence[tuple[float, float]]


def lines_chart(lines: Sequence[Line], ours: str, theirs: str) -> Figure:
    """Draw ours and the paper's curve of each setting in panels of their own, with own scales."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12, 3.6 * len(lines)), layout="constrained")
        grid = figure.subplots(len(lines), 2, squeeze=False)
        for (left, right), line in zip(grid, lines, strict=True):
            left.set_title(f"{line.title}: {ours}")
            settings = sorted(line.ours)
            # Settings that lie far apart or close together stand evenly: 0, 5, 50 and 100 %.
            places = sorted({at for at, _ in line.theirs} | set(settings))
            where = {at: float(n) for n, at in enumerate(places)}
            values = [line.ours[at].value for at in settings]
            left.plot([where[at] for at in settings], values, color=TUNED, lw=1.6)
            for at in settings:
                dot, x = line.ours[at], where[at]
                beside = [x - 0.06] * len(dot.seeds)
                left.plot(beside, dot.seeds, "o", color=TUNED, alpha=0.6, ms=3.5, mew=0)
                left.plot((x, x), (dot.low, dot.high), color=TUNED, lw=2.4)
                left.plot(x, dot.value, "o", color=TUNED, ms=8)
            for at, after in zip(settings, [*settings[1:], None], strict=True):
                value = line.ours[at].value
                rises = after is not None and line.ours[after].value > value
                _value(left, where[at], value, TUNED, below=rises)
            right.set_title(f"{line.title}: {theirs}")
            at_theirs = [where[at] for at, _ in line.theirs]
            right.plot(at_theirs, [r1 for _, r1 in line.theirs], "s-", color=MUTED, lw=1.6, ms=6)
            for (at, value), follows in zip(line.theirs, [*line.theirs[1:], None], strict=True):
                rises = follows is not None and follows[1] > value
                _value(right, where[at], value, MUTED, below=rises)
            for axes in (left, right):
                axes.set(xlabel=line.label, ylabel="R@1 (%)")
                axes.margins(y=0.2)
                axes.set_xlim(-0.35, len(places) - 0.5)
                axes.set_xticks(list(where.values()), [f"{at:g}" for at in places])
    return figure


def _value(axes: Axes, at: float, value: float, colour: str, *, below: bool) -> None:
    """Write a figure to the right of its point, where the line does not go on."""
    text = axes.annotate(
        f"{value:.1f}", (at, value), (9, -14 if below else 5), textcoords="offset points",
        fontsize=9.5, color=colour, fontweight="bold",
    )  # fmt: skip
    text.set_path_effects([withStroke(linewidth=3, foreground="white")])
