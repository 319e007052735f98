"""Charts of the domain gap: over strengths, and every arm by gap and content."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure

from tasks.report.figures import INK, MUTED, PALETTE, STYLE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Point:
    """One arm in the chart of gap against content; shares, not percent."""

    name: str
    left: float
    content: float
    colours: float
    is_main: bool


def curve_chart(
    strengths: Sequence[float], lines: Mapping[str, Sequence[float]], chosen: float | None
) -> Figure:
    """Draw shares over strength; what is to fall in warm colours, what is to stay in cold ones.

    Args:
        strengths: Ascending.
        lines: Name to a share a strength; those that end in "left" are to fall.
        chosen: The strength to mark.

    Returns:
        The figure.
    """
    falling = iter((PALETTE[7], PALETTE[1]))
    staying = iter((PALETTE[0], PALETTE[2]))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 4.4), layout="constrained")
        axes = figure.subplots()
        if chosen is not None:
            axes.axvline(chosen, color=MUTED, lw=1.2, ls="--")
        axes.axhline(100, color="#c5cad1", lw=1.2)
        for name, shares in lines.items():
            left = name.endswith("left")
            colour = next(falling if left else staying)
            values = [100 * share for share in shares]
            axes.plot(strengths, values, "o-" if left else "s-", color=colour, lw=2, ms=5,
                      label=name)  # fmt: skip
            last = [(x, y) for x, y in zip(strengths, values, strict=True) if math.isfinite(y)]
            if last:
                axes.annotate(f"{last[-1][1]:.0f}", last[-1], (7, -3), color=colour,
                              textcoords="offset points", fontsize=9)  # fmt: skip
        finite = [100 * v for shares in lines.values() for v in shares if math.isfinite(v)]
        axes.set_ylim(min(0, *finite) - 3, max(105, *finite) + 5)
        axes.set(xlabel="strength", ylabel="% (gap: of the start; content: of the target)")
        figure.legend(loc="outside upper left", ncols=4, fontsize=9.5)
    return figure


def trade_chart(points: Sequence[Point]) -> Figure:
    """Draw every arm by the gap that it leaves and the content that it keeps.

    Args:
        points: The arms; a value that is not finite is left out.

    Returns:
        The figure.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 5.2), layout="constrained")
        axes = figure.subplots()
        values = [100 * v for p in points for v in (p.content, p.colours) if math.isfinite(v)]
        across = [100 * p.left for p in points]
        low, high = min(values) - 6, max(100.0, *values) + 22
        left, right = min(0.0, *across) - 6, max(100.0, *across) + 14
        name_at, names_y = left, 100 * max(p.content for p in points) + (high - low) / 22
        for point in sorted(points, key=lambda p: (p.left, p.name)):
            colour = PALETTE[1] if point.is_main else PALETTE[0]
            x, y = 100 * point.left, 100 * point.content
            if math.isfinite(point.colours):
                ring = 100 * point.colours
                axes.plot([x, x], [y, ring], color=colour, lw=1, alpha=0.35)
                axes.plot(x, ring, "o", mfc="white", mec=colour, mew=1.8, ms=7)
            axes.plot(x, y, "o", color=colour, ms=8)
            # Names stand aslant in one row, in the order of their points and apart.
            name_at = max(x, name_at + (right - left) / 32)
            axes.annotate(
                point.name, (x, y), (name_at, names_y), rotation=40, ha="left",
                va="bottom", rotation_mode="anchor", fontsize=9.5, color=INK,
                fontweight="bold" if point.is_main else "normal",
                arrowprops={"arrowstyle": "-", "color": "#c5cad1", "lw": 0.7},
            )  # fmt: skip
        axes.set(xlabel="gap to the target that is left, KID (%)", ylabel="content kept (%)")
        axes.set(xlim=(left, right), ylim=(low, high))
        axes.plot([], [], "o", color=PALETTE[0], label="kinds: clothes, bags, hair, person")
        axes.plot([], [], "o", mfc="white", mec=PALETTE[0], mew=1.8, label="their colours")
        axes.plot([], [], "o", color=PALETTE[1], label="as this run does it")
        figure.legend(loc="outside upper left", ncols=3, fontsize=9.5)
    return figure
