"""Charts of pseudo texts: shares of the optional attributes, and which values were seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from tasks.caption.vocabulary import ATTRIBUTES
from tasks.report.figures import KEPT, MUTED, PALETTE, STYLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes

    from tasks.caption.shares import TextFigures

_MOST = 12
"""Values of an attribute that are shown."""
_PUBLISHED = "#b9c0c9"
_COLUMNS = 4


def shares_chart(figures: TextFigures) -> Figure:
    """Draw the share of each optional attribute among all that were seen, beside LUPerson-T's."""
    names = list(figures.shares)
    at = np.arange(len(names))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 3.6), layout="constrained")
        axes = figure.subplots()
        for shift, colour, label, values in (
            (-0.2, KEPT, "here", [s.share for s in figures.shares.values()]),
            (0.2, _PUBLISHED, "LUPerson-T", [s.published for s in figures.shares.values()]),
        ):
            heights = [100 * value for value in values]
            axes.bar(at + shift, heights, 0.38, color=colour, label=label)
            for x, height in zip(at + shift, heights, strict=True):
                text = f"{height:.1f}" if 0 < height < 10 else f"{height:.0f}"
                axes.text(x, height, text, ha="center", va="bottom", fontsize=9, color=MUTED)
        axes.set_xticks(at, names)
        axes.set_ylabel("% of the optional attributes seen")
        axes.grid(visible=False, axis="x")
        axes.margins(y=0.12)
        axes.legend(loc="upper right")
    return figure


def values_chart(figures: TextFigures) -> Figure:
    """Draw how often each value was seen, a panel an attribute, as shares of the pictures."""
    names = [name for name in ATTRIBUTES if figures.values.get(name)]
    rows = -(-len(names) // _COLUMNS)
    most = [
        max(min(len(figures.values[n]), _MOST) for n in names[r * _COLUMNS : (r + 1) * _COLUMNS])
        for r in range(rows)
    ]
    with mpl.rc_context(STYLE):
        size = (12.6, sum(0.75 + 0.25 * count for count in most))
        figure = Figure(figsize=size, layout="constrained")
        ratios = [1 + count for count in most]
        panels = np.atleast_2d(
            figure.subplots(rows, _COLUMNS, squeeze=False, gridspec_kw={"height_ratios": ratios})
        )
        for axes, name in zip(panels.flat, names, strict=False):
            place = names.index(name)
            _values(axes, name, figures.values[name], figures.pictures, most[place // _COLUMNS])
        for axes in panels.flat[len(names) :]:
            axes.axis("off")
    return figure


def _values(axes: Axes, name: str, values: Mapping[str, int], pictures: int, most: int) -> None:
    shown = list(values.items())[:_MOST]
    shares = [100 * count / max(pictures, 1) for _, count in shown]
    axes.barh(range(len(shown)), shares, 0.72, color=KEPT if len(values) > 1 else PALETTE[5])
    axes.set_yticks(range(len(shown)), [_short(value) for value, _ in shown])
    for y, share in enumerate(shares):
        text = f" {share:.1f} %" if share < 10 else f" {share:.0f} %"
        axes.text(share, y, text, va="center", fontsize=8.5, color=MUTED)
    axes.set_ylim(most - 0.4, -0.6)
    axes.set_xlim(0, 1.45 * max(shares))
    title = f"{name} ({len(values)})" if len(values) > _MOST else name
    axes.set_title(title, fontsize=10.5)
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0, labelsize=9)


def _short(text: str) -> str:
    return text if len(text) <= 24 else text[:23] + "…"
