"""The report's section on failures: what queries mention that fail, and what wrong pictures share.

The numbers are `tasks.report.mentions`'; here they become one figure and two tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure

from tasks.report import figures
from tasks.report.figures import INK, MUTED, PALETTE, STYLE
from tasks.report.mentions import LEAST_PEOPLE, LEAST_QUERIES, RESAMPLES
from tasks.report.parts import Grid, Picture, Section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from tasks.report.mentions import Failures, Mention, Shared

SHOWN = 12
"""Best mentions, and as many worst ones."""


def section(found: Failures | None) -> Section:
    """Lay out what failures have in common; without parts where nobody was asked for."""
    laid = Section("Failures", "Which queries fail, by what their sentence mentions.")
    if found is None or not found.mentions:
        return laid
    shown = chosen(found.mentions)
    left_out = len(found.mentions) - len(shown)
    text = (
        f"R@1 of {found.evaluation} by what a query mentions, as the phrase parser reads it; the "
        f"line is all {found.queries:,} queries ({found.rank1:.1f}). Whiskers hold 95 % of "
        f"{RESAMPLES:,} resamples of people, for captions of one person fail together. "
        f"Told are the {len(found.mentions)} mentions with {LEAST_QUERIES} queries of "
        f"{LEAST_PEOPLE} people or more; with so many, one interval in twenty misses by chance."
    )
    if left_out:
        text += f" Shown are the {SHOWN} best and the {SHOWN} worst."
    if found.shared:
        text += (
            f" Right: how often the {found.wrong:,} wrong first pictures show what the caption "
            "asked for; the tick is any other person's picture."
        )
    chart = figures.png(chart_of(found, shown))
    laid.parts.append(Picture("failures", text, chart))
    laid.parts.append(_mention_table(shown, left_out))
    if found.shared:
        laid.parts.append(_shared_table(found))
    return laid


def chosen(mentions: Sequence[Mention]) -> list[Mention]:
    """The best and the worst, or all where there are not more."""
    if len(mentions) <= 2 * SHOWN:
        return list(mentions)
    return [*mentions[:SHOWN], *mentions[-SHOWN:]]


def chart_of(found: Failures, shown: Sequence[Mention]) -> Figure:
    """Draw R@1 by mention with whiskers, and beside it what wrong first pictures share.

    Args:
        found: The failures.
        shown: Of its mentions, those to draw, the best first.
    """
    rows = max(len(shown), len(found.shared))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12, 1.3 + 0.27 * rows), layout="constrained")
        if found.shared:
            left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
            _shared_panel(right, found.shared)
        else:
            left = figure.subplots()
        _mention_panel(left, found, shown)
    return figure


def _mention_panel(axes: Axes, found: Failures, shown: Sequence[Mention]) -> None:
    kinds = sorted({each.kind for each in found.mentions})
    tints = {kind: PALETTE[n % len(PALETTE)] for n, kind in enumerate(kinds)}
    axes.axvline(found.rank1, color=MUTED, lw=1.3, ls="--")
    for y, each in enumerate(shown):
        tint = tints[each.kind]
        axes.plot(
            [each.low, each.high], [y, y], color=tint, lw=2, alpha=0.45, solid_capstyle="butt"
        )
        axes.plot(each.rank1, y, "o", color=tint, ms=6)
        axes.text(101, y, f"{each.rank1:.0f}  ({each.queries:,})", va="center", fontsize=8.5,
                  color=INK)  # fmt: skip
    if len(found.mentions) > len(shown):
        axes.axhline(SHOWN - 0.5, color="#c5cad1", lw=1)
    axes.set_yticks(range(len(shown)), [label(each) for each in shown], fontsize=9)
    axes.set(xlim=(0, 100), ylim=(len(shown) - 0.4, -0.6))
    axes.set(xlabel="R@1 (%); beside it the value and the queries", title="by what is mentioned")
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(visible=False, axis="y")


def _shared_panel(axes: Axes, shared: Sequence[Shared]) -> None:
    for y, each in enumerate(shared):
        axes.barh(y, each.shared, color=PALETTE[1], height=0.62, alpha=0.85)
        axes.plot([each.chance] * 2, [y - 0.4, y + 0.4], color=INK, lw=2)
        axes.text(101, y, f"{each.shared:.0f}  ({each.queries:,})", va="center", fontsize=8.5,
                  color=INK)  # fmt: skip
    axes.set_yticks(range(len(shared)), [each.attribute for each in shared], fontsize=9)
    axes.set(xlim=(0, 100), ylim=(len(shared) - 0.4, -0.6))
    axes.set(xlabel="wrong first pictures that show it (%); tick: by chance",
             title="what wrong first pictures share")  # fmt: skip
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(visible=False, axis="y")


def label(each: Mention) -> str:
    """A mention as it is written: ``red (colour)``, but ``shoes`` where the thing alone counts."""
    return f"any: {each.value}" if each.kind == "names" else f"{each.value} ({each.kind})"


def _mention_table(shown: Sequence[Mention], left_out: int) -> Grid:
    text = "The same in numbers: R@1 in percent, and of all queries that do not mention it."
    if left_out:
        text += f" {left_out} mentions between the best and the worst are left out."
    rows = [
        (
            label(each), f"{each.queries:,}", f"{each.people:,}", f"{each.rank1:.1f}",
            f"{each.low:.1f} to {each.high:.1f}", f"{each.without:.1f}",
        )
        for each in shown
    ]  # fmt: skip
    header = ("mentioned", "queries", "people", "R@1", "95 % over people", "R@1 of the others")
    return Grid(text, header, rows, narrow=True)


def _shared_table(found: Failures) -> Grid:
    text = (
        f"What the {found.wrong:,} wrong first pictures have in common with the person who was "
        "asked for, by the drawn world's truth, least first: of captions that name it, percent. "
        "Chance is the same of any picture of another person in the gallery; what is shared about "
        "as often, the ranking has hardly used."
    )
    rows = [
        (each.attribute, f"{each.queries:,}", f"{each.shared:.1f}", f"{100 - each.shared:.1f}",
         f"{each.chance:.1f}")
        for each in found.shared
    ]  # fmt: skip
    return Grid(text, ("attribute", "queries", "shared", "missed", "chance"), rows, narrow=True)
