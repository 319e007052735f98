"""A fine-tuning by epoch: its loss, and how well each epoch ranks validation and test.

A panel each for the loss, R@1 and mAP, a row a training; the epoch whose weights are kept is ringed
in the panel that chose it and a line in the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tasks.report.figures import MUTED, PALETTE, STYLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Judge:
    """How the epochs of a training rank the people of one split."""

    label: str
    scores: Sequence[float]
    """R@1 of each epoch, percent."""
    kept: int | None
    """The epoch, from 1, that is kept for its score here."""
    tests: bool
    """Whether it is the test split; it has one colour everywhere."""
    means: Sequence[float] = ()
    """mAP of each epoch, percent; empty where an older version did not write it down."""


@dataclass(frozen=True)
class Epochs:
    """How the loss of a training fell, how well its epochs rank, and which are kept."""

    title: str
    measure: str
    judges: tuple[Judge, ...]
    last: int | None = None
    """The last epoch where that one is kept, whatever the scores say."""
    losses: Sequence[float] = ()
    """Mean loss of each epoch; empty where there is no curve."""

    @property
    def kept(self) -> dict[int, bool]:
        """Epochs that are kept, to whether the test split alone says so."""
        found = {judge.kept: judge.tests for judge in self.judges if judge.kept}
        found |= {judge.kept: False for judge in self.judges if judge.kept and not judge.tests}
        return found | ({self.last: False} if self.last is not None else {})


def epochs_chart(runs: Sequence[Epochs]) -> Figure:
    """Draw a row for every fine-tuning: loss, R@1 and mAP by epoch, kept epochs marked."""
    wide = [
        any(run.losses for run in runs),
        True,
        any(judge.means for run in runs for judge in run.judges),
    ]
    columns = sum(wide)
    with mpl.rc_context(STYLE):
        figure = Figure(
            figsize=(8.6 if columns == 1 else 12, 3.7 * len(runs)), layout="constrained"
        )
        panels = figure.subplots(len(runs), columns, squeeze=False)
        for row, run in zip(panels, runs, strict=True):
            left = list(row)
            if wide[0]:
                _loss_panel(left.pop(0), run)
            _score_panel(left.pop(0), run)
            if wide[2]:
                _mean_panel(left.pop(0), run)
    return figure


def _loss_panel(axes: Axes, run: Epochs) -> None:
    axes.set_title(f"{run.title}: loss")
    if not run.losses:
        axes.set_axis_off()
        return
    epochs = np.arange(1, len(run.losses) + 1)
    axes.plot(epochs, run.losses, "o-", color=PALETTE[2], lw=2, ms=4, label="training")
    for epoch, by_test in run.kept.items():
        said = f"kept: {epoch}" + (", by test" if by_test else "")
        axes.axvline(epoch, color=PALETTE[by_test], lw=1.2, ls="--", alpha=0.7, label=said)
    axes.set_ylim(0, 1.12 * max(run.losses))
    _by_epoch(axes, len(epochs), "mean loss of the epoch")
    axes.legend(loc="lower left", fontsize=9)


def _score_panel(axes: Axes, run: Epochs) -> None:
    axes.set_title(run.title if not run.losses else "R@1")
    for judge in run.judges:
        scores, colour = judge.scores, PALETTE[judge.tests]
        epochs = np.arange(1, len(scores) + 1)
        axes.plot(epochs, scores, "o-", color=colour, lw=2, ms=4, label=judge.label)
        if judge.kept:
            best = scores[judge.kept - 1]
            axes.plot(judge.kept, best, "o", ms=13, mfc="none", mec=colour, mew=2)
            # The higher curve is written above, the lower one below.
            above = all(best >= other.scores[judge.kept - 1] for other in run.judges)
            axes.annotate(
                f"{best:.1f}", (judge.kept, best), (0, 10 if above else -19), color=colour,
                textcoords="offset points", ha="center", fontsize=9.5, fontweight="bold",
            )  # fmt: skip
    if run.last is not None:
        axes.axvline(run.last, color=MUTED, lw=1.2, ls="--", label="kept: the last")
    _room(axes, [score for judge in run.judges for score in judge.scores])
    _by_epoch(axes, max(len(judge.scores) for judge in run.judges), f"{run.measure} (%)")
    axes.legend(loc="lower right", fontsize=9)


def _mean_panel(axes: Axes, run: Epochs) -> None:
    axes.set_title("mAP")
    told = [judge for judge in run.judges if judge.means]
    if not told:
        axes.set_axis_off()
        return
    for judge in told:
        epochs = np.arange(1, len(judge.means) + 1)
        colour = PALETTE[judge.tests]
        axes.plot(epochs, judge.means, "o-", color=colour, lw=2, ms=4, label=judge.label)
    for epoch, by_test in run.kept.items():
        axes.axvline(epoch, color=PALETTE[by_test], lw=1.2, ls="--", alpha=0.7)
    _room(axes, [mean for judge in told for mean in judge.means])
    _by_epoch(axes, max(len(judge.means) for judge in told), "mAP (%)")
    axes.legend(loc="lower right", fontsize=9)


def _room(axes: Axes, values: Sequence[float]) -> None:
    room = max(1.0, max(values) - min(values))
    axes.set_ylim(max(0, min(values) - 0.15 * room), max(values) + 0.2 * room)


def _by_epoch(axes: Axes, epochs: int, what: str) -> None:
    axes.set_xlim(0.6, epochs + 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
    axes.set(xlabel="epoch", ylabel=what)
