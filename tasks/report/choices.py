"""Which epoch each fine-tuned checkpoint keeps, and what a choice on the test split is worth.

Published figures of MRA and APTM are those of the epoch that ranks best on the test split; a fair
figure is of an epoch chosen on other people (`tasks.selection`). Where a run has both, they stand
under each other with the difference.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow.csv as pa_csv

from tasks.report.epoch_figures import Epochs, Judge
from tasks.report.records import MEASURES, settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tasks.report.gather import Facts

HEADER = ("evaluation", "epoch chosen on", "epoch", *MEASURES)
EXPLANATION = (
    "Which epoch each fine-tuned checkpoint keeps. The published figures of MRA and APTM are of "
    "the epoch that was best on the test split itself: only rows chosen on test may stand beside "
    "them, and only the other rows say what to expect of a choice that has not seen the test."
)
WORDS = {
    "last": "nothing: the last",
    "val": "validation",
    "held-out": "held-out train people",
    "test": "test, as published",
}


@dataclass(frozen=True)
class Run:
    """One entry of ``evaluate.runs``: what was evaluated, on what, and how."""

    checkpoint: Path
    images: str
    how: Mapping[str, Any] = field(default_factory=dict)
    """The rest of the entry."""


@dataclass(frozen=True)
class Chosen:
    """How a fine-tuned checkpoint's epoch was chosen."""

    on: str
    """A key of `WORDS`; empty where its training does not say."""
    epoch: int | None
    epochs: int | None
    people: int | None
    """How many people the choice was made on."""
    trained_on: str
    """The shards of its fine-tuning."""

    @property
    def words(self) -> str:
        """Say on whom."""
        said = WORDS.get(self.on, "not on record")
        return f"{said} ({self.people:,} people)" if self.people else said

    @property
    def place(self) -> str:
        """Say which epoch of how many."""
        return f"{self.epoch or '?'} of {self.epochs or '?'}"


def read_chosen(checkpoint: Path) -> Chosen | None:
    """Read how a checkpoint's epoch was chosen; None where it is of no fine-tuning."""
    body = settings(checkpoint)
    if body.get("stage") != "finetune":
        return None
    on = str(body.get("chosen_on", ""))
    judges = body.get("selection", {}).get("judges", {})
    return Chosen(
        on,
        body.get("kept_epoch"),
        body.get("params", {}).get("training", {}).get("epochs"),
        judges.get(on, {}).get("people"),
        str(body.get("params", {}).get("images", "")),
    )


def read_epochs(title: str, folder: Path) -> Epochs | None:
    """Read how well each epoch of a training ranked; None where none was ranked."""
    body = settings(folder)
    selection = body.get("selection") or {}
    scores = selection.get("scores") or {}
    if not scores:
        return None
    judges = selection.get("judges", {})
    curve = selection.get("curve") or []
    kept = {str(body["chosen_on"]): int(body["kept_epoch"])}
    if (folder / "by-test").is_dir():
        kept.setdefault("test", int(settings(folder / "by-test")["kept_epoch"]))
    lines = tuple(
        Judge(
            f"{WORDS[judge].split(',')[0]} ({judges.get(judge, {}).get('people', 0):,} people)",
            each,
            kept.get(judge),
            judge == "test",
            [row[judge]["mAP"] for row in curve if row.get(judge)],
        )
        for judge, each in scores.items()
    )
    measure = str(selection.get("measure", "R@1"))
    return Epochs(title, measure, lines, kept.get("last"), _epoch_losses(folder / "curve.csv"))


def _epoch_losses(path: Path) -> list[float]:
    """Mean loss of every epoch of a training's curve; empty where there is none."""
    if not path.exists():
        return []
    table = pa_csv.read_csv(path)
    if not {"epoch", "loss"} <= set(table.column_names):
        return []
    means = table.group_by("epoch").aggregate([("loss", "mean")]).sort_by("epoch")
    return [float(loss) for loss in means["loss_mean"].to_pylist()]


def rows(facts: Facts) -> list[Sequence[str]]:
    """Lay out the fine-tuned checkpoints: both choices of a training under each other."""
    found: list[Sequence[str]] = []
    pairs = dict(_pairs(facts))
    for name in facts.chosen:
        if name in pairs.values():
            continue
        found.append(_row(facts, name))
        if name in pairs:
            fair, test = facts.evaluations[name].measures, facts.evaluations[pairs[name]].measures
            found.append(_row(facts, pairs[name]))
            points = (
                _points(test[m] - fair[m]) if m in fair and m in test else "" for m in MEASURES
            )
            held = facts.chosen[name].on == "held-out"
            said = "– gained by choosing on test" + (" and training on all" if held else "")
            found.append((said, "", "", *points))
    return found


def _points(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−") if round(value, 2) else "0"


def _row(facts: Facts, name: str) -> Sequence[str]:
    chosen, measures = facts.chosen[name], facts.evaluations[name].measures
    cells = (f"{measures[m]:.2f}" if m in measures else "" for m in MEASURES)
    return (name, chosen.words, chosen.place, *cells)


def _pairs(facts: Facts) -> list[tuple[str, str]]:
    """Fair evaluations with those of the test's choice: same data, same ranking, a partner each."""
    runs, found = facts.sources.runs, []
    fair = [name for name, chosen in facts.chosen.items() if chosen.on not in {"test", ""}]
    # A validation's choice is set against the test's before a training that chose nothing.
    fair.sort(key=lambda name: facts.chosen[name].on == "last")
    for test in (name for name, chosen in facts.chosen.items() if chosen.on == "test"):
        alike = [
            name
            for name in fair
            if facts.chosen[name].trained_on == facts.chosen[test].trained_on
            and (runs[name].images, runs[name].how) == (runs[test].images, runs[test].how)
        ]
        same = [name for name in alike if runs[test].checkpoint.parent == runs[name].checkpoint]
        if partner := next(iter(same or alike), None):
            fair.remove(partner)
            found.append((partner, test))
    return found
