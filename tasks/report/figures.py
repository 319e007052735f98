"""Charts of the report, each a Matplotlib figure: CMC, losses, counts, timings.

Every function takes plain numbers and returns a `Figure`; `png` encodes it to the same bytes every
time (no date, no version). Axes say what they measure; a line or bar carries its own value, so
that nobody has to read across to a scale.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

INK = "#1c2128"
MUTED = "#6b7280"
LINE = "#e3e6ea"
# Told apart with any colour vision (after Okabe and Ito), darkened for thin lines on white.
PALETTE = ("#1667b7", "#d9730d", "#12876f", "#a2559c", "#b8922a", "#4b5563", "#3aa0d8", "#c2413b")
KEPT = "#1667b7"
EARLIER = {"upstream": "refused earlier", "screened": "refused earlier"}
"""Slugs of rows that a stage passes over because an earlier one refused them."""

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": "#c5cad1",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": True,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
}


def png(figure: Figure, dpi: int = 160) -> bytes:
    """Encode a figure; the same figure gives the same bytes."""
    sink = io.BytesIO()
    with mpl.rc_context(STYLE):
        if isinstance(engine := figure.get_layout_engine(), ConstrainedLayoutEngine):
            engine.set(w_pad=0.14, h_pad=0.12)
        figure.savefig(sink, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return sink.getvalue()


@dataclass(frozen=True)
class Curve:
    """One training run: its losses over steps."""

    title: str
    steps: np.ndarray
    losses: Mapping[str, np.ndarray]
    lr: np.ndarray | None = None


def cmc_chart(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Draw the cumulative matching characteristic of every evaluation in one plot.

    Args:
        curves: Evaluation to (ranks, percent of queries with a right image at that rank or
            before).

    Returns:
        The figure.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 4.4), layout="constrained")
        axes = figure.subplots()
        last = max((float(np.max(ranks)) for ranks, _ in curves.values()), default=1.0)
        for n, (name, (ranks, recall)) in enumerate(curves.items()):
            colour = PALETTE[n % len(PALETTE)]
            first = float(recall[0]) if len(recall) else math.nan
            label = f"{name}  (R@1 {first:.1f})"
            axes.plot(ranks, recall, color=colour, lw=2.2, label=label)
            axes.plot(ranks[:1], recall[:1], "o", color=colour, ms=6)
        axes.set(xlabel="rank k", ylabel="queries answered within k (%)", ylim=(0, 102))
        axes.set_xlim(0.5, max(last, 2))
        axes.set_xticks([k for k in (1, 5, 10, 20, 30, 40, 50) if k <= last])
        axes.legend(loc="lower right")
    return figure


def smooth(values: np.ndarray, weight: float = 0.9) -> np.ndarray:
    """Exponential moving average with the start's bias removed (as in Adam); NaN is skipped."""
    out = np.empty(len(values))
    mean = norm = 0.0
    for n, value in enumerate(values):
        if math.isfinite(value):
            mean = weight * mean + (1 - weight) * float(value)
            norm = weight * norm + 1 - weight
        out[n] = mean / norm if norm else math.nan
    return out


def loss_chart(curves: Sequence[Curve]) -> Figure:
    """Draw a panel for every training run: raw losses faint, their moving mean strong."""
    columns = min(2 if len(curves) in {2, 4} else 3, len(curves))
    rows = -(-len(curves) // max(1, columns))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12, 3.3 * rows), layout="constrained")
        panels = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
        for axes, curve in zip(panels, curves, strict=False):
            _loss_panel(axes, curve)
        for axes in panels[len(curves) :]:
            axes.set_axis_off()
    return figure


def _loss_panel(axes: Axes, curve: Curve) -> None:
    axes.set_title(curve.title)
    ends: list[float] = []
    for n, (name, values) in enumerate(curve.losses.items()):
        colour = PALETTE[n % len(PALETTE)]
        kept = np.isfinite(values)
        if not kept.any():
            continue
        mean = smooth(values)
        axes.plot(curve.steps[kept], values[kept], color=colour, lw=0.8, alpha=0.25)
        axes.plot(curve.steps, mean, color=colour, lw=2, label=f"{name}  {mean[-1]:.3g}")
        ends.append(float(np.nanmax(mean)))
    # The first steps tower over the rest; the moving means alone decide the scale.
    if ends:
        axes.set_ylim(0, 1.12 * max(ends) or 1)
    axes.set(xlabel="step", ylabel="loss")
    axes.legend(loc="upper right", fontsize=9, title="last mean", title_fontsize=8.5)
    if curve.lr is not None and np.isfinite(curve.lr).any() and float(np.nanmax(curve.lr)) > 0:
        twin = axes.twinx()
        twin.fill_between(curve.steps, curve.lr, color="#9aa3ad", alpha=0.13, lw=0)
        twin.set_ylim(0, 1.05 * float(np.nanmax(curve.lr)))
        twin.set_axis_off()


def counts_chart(stages: Mapping[str, Mapping[str, int]]) -> Figure:
    """Draw what every stage kept and what it refused, by reason.

    Args:
        stages: Stage to rows by outcome, "ok" first in meaning: the rest are reasons.

    Returns:
        The figure.
    """
    reasons = sorted({r for counts in stages.values() for r in counts if r != "ok"})
    # What an earlier stage refused is told apart from what this one refuses.
    reasons = [r for r in reasons if r not in EARLIER] + [r for r in reasons if r in EARLIER]
    tints = {r: PALETTE[1:][n % (len(PALETTE) - 1)] for n, r in enumerate(reasons)}
    tints |= dict.fromkeys(EARLIER, "#d5d9df")
    names = list(stages)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 0.9 + 0.5 * len(names)), layout="constrained")
        axes = figure.subplots()
        widest = max((sum(counts.values()) for counts in stages.values()), default=1) or 1
        for y, name in enumerate(names):
            counts = stages[name]
            left = counts.get("ok", 0)
            axes.barh(y, left, color=KEPT, height=0.62, label="kept" if y == 0 else None)
            for reason in reasons:
                if counts.get(reason):
                    axes.barh(y, counts[reason], left=left, color=tints[reason], height=0.62)
                    left += counts[reason]
            refused = left - counts.get("ok", 0)
            note = f"{counts.get('ok', 0):,} kept" + (f", {refused:,} refused" if refused else "")
            axes.text(left + 0.01 * widest, y, note, va="center", fontsize=9.5, color=INK)
        for name, tint in {EARLIER.get(r, r): tints[r] for r in reasons}.items():
            axes.barh([0], [0], color=tint, label=name)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.28 * widest)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
        axes.set_xlabel("rows")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        if reasons:
            figure.legend(loc="outside lower center", ncols=4, fontsize=9)
    return figure


def timings_chart(stages: Sequence[tuple[str, float, float | None]]) -> Figure:
    """Draw how long every stage took.

    Args:
        stages: (stage, seconds, peak memory in MB or None), in the order of the pipeline.

    Returns:
        The figure.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 0.8 + 0.42 * len(stages)), layout="constrained")
        axes = figure.subplots()
        seconds = [s for _, s, _ in stages]
        axes.barh(range(len(stages)), seconds, color=PALETTE[2], height=0.6)
        widest = max(seconds, default=1) or 1
        for y, (_, spent, peak) in enumerate(stages):
            memory = f"   {peak:,.0f} MB" if peak else ""
            note = f"{duration(spent)}{memory}"
            axes.text(spent + 0.01 * widest, y, note, va="center", fontsize=9.5, color=INK)
        axes.set_yticks(range(len(stages)), [name for name, _, _ in stages])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.22 * widest)
        axes.set_xlabel("seconds (beside the bar: time, peak memory)")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0, labelcolor=INK)
    return figure


def number(value: float) -> str:
    """Write a value with three digits and never with an exponent of thousands."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Write a time as people say it: ``8.3 s``, ``4 min 10 s``, ``3 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"
