"""Charts of phrases and regions: how many a picture has, how sure they are, what is named most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.colors import is_color_like
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tasks.lettering import clean
from tasks.report.figures import KEPT, MUTED, PALETTE, STYLE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from tasks.report.region_tally import Regions

_REFUSED, _OTHERWISE = "#c5cad1", "#8b95a1"
_MOST_EACH = 16
"""Pictures with more phrases or regions than that share the last bar."""
_LONGEST = 26
"""Letters of a word at a bar."""
_ALSO = {"blonde": "sandy", "blond": "sandy"}


def counts_chart(counts: Regions, typical: tuple[int, int]) -> Figure:
    """Draw how many phrases and regions a picture has, and how sure the boxes are.

    Args:
        counts: The numbers.
        typical: Regions of the paper's pictures, least and most.

    Returns:
        The figure.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 3.7), layout="constrained")
        left, right = figure.subplots(1, 2)
        _each(left, counts, typical)
        _confidences(right, counts)
    return figure


def _each(axes: Axes, counts: Regions, typical: tuple[int, int]) -> None:
    axes.axvspan(
        typical[0] - 0.5, typical[1] + 0.5, color="#fdf1e3", lw=0,
        label=f"the paper: typically {typical[0]} to {typical[1]} regions",
    )  # fmt: skip
    last = 0
    for shift, name, each, colour in (
        (-0.2, "phrases", counts.phrases_each, _REFUSED),
        (0.2, "regions", counts.regions_each, KEPT),
    ):
        most = min(len(each) - 1, _MOST_EACH)
        heights = [*each[:most], sum(each[most:])]
        mean = sum(n * count for n, count in enumerate(each)) / max(counts.pictures, 1)
        label = f"{name} (mean {mean:.1f})"
        axes.bar(np.arange(most + 1) + shift, heights, 0.4, color=colour, label=label)
        last = max(last, most)
    axes.set_xlim(-0.6, max(last, typical[1]) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if last == _MOST_EACH:
        axes.set_xlabel(f"in a picture ({_MOST_EACH}: or more)")
    else:
        axes.set_xlabel("in a picture")
    axes.set_ylabel("pictures")
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}")
    axes.grid(visible=False, axis="x")
    axes.set_ylim(0, 1.05 * max(axes.get_ylim()[1] / 1.05, 1))
    _legend(axes)


def _confidences(axes: Axes, counts: Regions) -> None:
    edges = np.linspace(0, 1, len(counts.kept) + 1)
    width = edges[1]
    below = np.zeros(len(counts.kept))
    for name, heights, colour in (
        ("kept", counts.kept, KEPT),
        ("refused: low confidence", counts.unsure, _REFUSED),
        ("refused for another reason", counts.otherwise, _OTHERWISE),
    ):
        if sum(heights):
            label = f"{name} ({sum(heights):,})"
            axes.bar(edges[:-1], heights, 0.9 * width, below, align="edge", color=colour,
                     label=label)  # fmt: skip
            below += np.asarray(heights)
    if counts.threshold is not None:
        axes.axvline(
            counts.threshold, color=PALETTE[1], lw=1.6, ls="--",
            label=f"kept from {counts.threshold:g}",
        )  # fmt: skip
    axes.set(xlabel="confidence", ylabel="boxes", xlim=(0, 1))
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}")
    axes.grid(visible=False, axis="x")
    if axes.get_legend_handles_labels()[0]:
        _legend(axes)


def _legend(axes: Axes) -> None:
    """Above the plot, where it covers nothing."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=2, fontsize=9, columnspacing=1.2,
        handlelength=1.6,
    )  # fmt: skip


def words_chart(
    named: Mapping[str, Sequence[tuple[str, int]]], different: Mapping[str, int]
) -> Figure:
    """Draw what is named most: a panel a kind; colours in themselves.

    Args:
        named: Kind to words and their counts, most frequent first; kinds without one are left out.
        different: Kind to the number of different words.

    Returns:
        The figure.
    """
    kinds = [kind for kind, words in named.items() if words]
    most = max((len(named[kind]) for kind in kinds), default=1)
    with mpl.rc_context(STYLE):
        size = (12, 0.9 + 0.27 * most)
        figure = Figure(figsize=size, layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, max(len(kinds), 1)))
        for axes, kind in zip(panels, kinds, strict=False):
            _words_panel(axes, kind, named[kind], different[kind], most)
    return figure


def _words_panel(
    axes: Axes, kind: str, words: Sequence[tuple[str, int]], different: int, most: int
) -> None:
    names, heights = zip(*words, strict=True)
    tints = [_tint(name) for name in names] if kind == "colours" else KEPT
    axes.barh(range(len(names)), heights, 0.72, color=tints, edgecolor=_OTHERWISE, lw=0.6)
    axes.set_yticks(range(len(names)), [_short(name) for name in names])
    for y, height in enumerate(heights):
        axes.text(height, y, f" {height:,}", va="center", fontsize=8.5, color=MUTED)
    axes.set_ylim(most - 0.4, -0.6)
    axes.set_xlim(0, 1.32 * heights[0])
    axes.set_title(f"{kind} ({different:,})", fontsize=10.5)
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0, labelsize=9)


def _tint(name: str) -> str:
    """A colour word as a colour, with its shade; grey where nobody knows it."""
    words = name.lower().split()
    for word in (" ".join(words), words[-1] if words else ""):
        word = _ALSO.get(word, word)
        # The names that people gave to colours in a survey, not those of screens.
        if is_color_like(f"xkcd:{word}"):
            return f"xkcd:{word}"
    return _REFUSED


def _short(text: str) -> str:
    """A word for an axis: no line breaks, no mathematics, not too long."""
    text = " ".join(clean(text).split()).replace("$", r"\$")
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
