"""A run's own figures among those that were published on its benchmark, and how both came about.

The published ones are `tasks.published`'s; the run's own protocol is what its evaluation wrote
down (`tasks.evaluate.protocol`). Terminal, Prefect and the page show the same rows.

There are two boards, because two things are measured: what a model reaches that was fine-tuned on
the benchmark's own train split, and what one reaches that was not. An evaluation stands on the one
that its checkpoint's record puts it on, and on none where there is no record.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.evaluate.protocol import epoch_words, ranking_words, read_protocol, words
from tasks.published import NOT_SAID, RESULTS, TRANSFERRED, Result, why_none
from tasks.report.parts import Grid
from tasks.report.records import MEASURES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tasks.report.gather import Facts

HEADER = ("method", *MEASURES, "epoch by", "ranked by", "encoders", "seen before", "given in")
OWN = "this run"
_FIRST_TEXT = 1 + len(MEASURES)
_NOTE = (
    "– stands for what the source does not say. Figures of others are as the named source prints "
    "them; nobody has measured them here."
)


@dataclass(frozen=True)
class Board:
    """One kind of figures that may stand under each other."""

    tuned: bool
    """Whether every model on it was fine-tuned on the benchmark's train split."""
    words: str
    results: Mapping[str, tuple[Result, ...]]
    note: str


BOARDS = (
    Board(
        True,
        "fine-tuned on it",
        RESULTS,
        "An epoch chosen on the test split flatters its figure, so a row of ours may only be set "
        "against those if it was chosen so too.",
    ),
    Board(
        False,
        "not fine-tuned on it",
        TRANSFERRED,
        "Pretraining through DaD has still seen the train split of the dataset that DaD was "
        "adapted to.",
    ),
)


@dataclass(frozen=True)
class Own:
    """One evaluation of this run."""

    name: str
    measures: Mapping[str, float]
    """R@1, R@5, R@10, mAP, mINP in percent."""
    protocol: Mapping[str, Any]

    @property
    def board(self) -> Board | None:
        """Where it belongs; None where nothing says what its checkpoint was fine-tuned on."""
        stage, on = self.protocol.get("stage"), self.protocol.get("trained_on")
        if stage == "finetune" and on:
            tuned = _last(on) == self.protocol.get("dataset")
        elif stage == "pretrain":
            tuned = False
        else:
            return None
        return next(board for board in BOARDS if board.tuned is tuned)

    @property
    def seen(self) -> str:
        """What it was fine-tuned on, where that is not the benchmark."""
        if self.protocol.get("stage") == "pretrain":
            return "pretraining alone"
        board = self.board
        if board is None or board.tuned:
            return NOT_SAID
        return f"fine-tuned on {_last(self.protocol['trained_on'])}"

    @property
    def benchmark(self) -> str:
        """Format of its dataset, as its manifest has it; empty on the built-in world."""
        return "" if self.protocol.get("drawn") else str(self.protocol.get("format", ""))


def read_own(name: str, folder: Path, measures: Mapping[str, float]) -> Own | None:
    """Read an evaluation with its protocol; None where an older version left none."""
    protocol = read_protocol(folder)
    return Own(name, measures, protocol) if protocol else None


def standing(board: Board, benchmark: str, own: Sequence[Own]) -> list[tuple[str, ...]]:
    """Rows under `HEADER`: the published ones and the run's own, the best R@1 first.

    Args:
        board: Which published ones.
        benchmark: Key of `RESULTS`.
        own: Evaluations on that benchmark, of that board.
    """
    rows: list[tuple[float, tuple[str, ...]]] = []
    for result in board.results[benchmark]:
        how = result.how
        text = (how.chosen_on, how.ranked, how.encoders, how.seen, how.given_in)
        rows.append((result.R1, (result.method, *_cells(result.measures), *text)))
    for each in own:
        by = {"test": "test", "val": "validation", "held-out": "held-out train"}
        chosen = by.get(str(each.protocol.get("chosen_on")), epoch_words(each.protocol))
        flips = ", flips" if each.protocol.get("flip") else ""
        text = (chosen, ranking_words(each.protocol) + flips, NOT_SAID, each.seen, OWN)
        first = each.measures.get("R@1", 0.0)
        rows.append((first, (each.name, *_cells(each.measures), *text)))
    rows.sort(key=lambda row: (-row[0], row[1][-1] == OWN))
    return [cells for _, cells in rows]


def nothing_published(own: Own) -> str:
    """Say in one line why no published figure stands beside an evaluation; empty where some do."""
    form = str(own.protocol.get("format", ""))
    drawn = bool(own.protocol.get("drawn"))
    if reason := why_none(str(own.protocol.get("dataset")), form, drawn=drawn):
        return reason
    if own.board is None:
        return (
            f"No published figure stands beside {own.name}: its checkpoint has no record of what "
            "it was fine-tuned on."
        )
    return ""


def tables(facts: Facts) -> list[Grid]:
    """How each evaluation was done, and the boards of every benchmark that this run asks."""
    own = [
        found
        for name, entry in facts.evaluations.items()
        if (found := read_own(name, entry.folder, entry.measures))
    ]
    if not own:
        return []
    grids = [_protocols(own)]
    for benchmark in dict.fromkeys(each.benchmark for each in own):
        if benchmark not in RESULTS:
            continue
        for board in BOARDS:
            here = [each for each in own if each.benchmark == benchmark and each.board is board]
            if here:
                grids.append(_grid(board, benchmark, here))
    return grids


def _grid(board: Board, benchmark: str, here: Sequence[Own]) -> Grid:
    rows = standing(board, benchmark, here)
    bold = {(n, c) for n, row in enumerate(rows) if row[-1] == OWN for c in range(_FIRST_TEXT)}
    columns = frozenset({0, *range(_FIRST_TEXT, len(HEADER))})
    datasets = ", ".join(dict.fromkeys(str(each.protocol["dataset"]) for each in here))
    text = (
        f"Published on {benchmark}, {board.words}, percent, beside this run's own on {datasets} in "
        "bold."
    )
    if any(each.protocol.get("official") is not True for each in here):
        text += " The copy that was ingested here is not exactly the published split."
    text = f"{text} {board.note} {_NOTE}"
    return Grid(text, HEADER, rows, text=columns, best=frozenset(bold))


def _last(folder: object) -> str:
    return str(folder).rstrip("/").rsplit("/", 1)[-1]


def _protocols(own: Sequence[Own]) -> Grid:
    """How each evaluation was done; a column that says the same of all is told once, above."""
    said = {each.name: words(each.protocol) for each in own}
    headings = list(dict.fromkeys(heading for row in said.values() for heading in row))
    alike = {
        heading: next(iter(said.values()))[heading]
        for heading in headings
        if len({row.get(heading) for row in said.values()}) == 1
    }
    if len(own) == 1:
        alike = {}
    shown = [heading for heading in headings if heading not in alike]
    rows = [(name, *(row.get(h, NOT_SAID) for h in shown)) for name, row in said.items()]
    text = "How each evaluation was done."
    if alike:
        text += " In all of them: " + "; ".join(f"{k}: {v}" for k, v in alike.items()) + "."
    reasons = dict.fromkeys(reason for each in own if (reason := nothing_published(each)))
    text = " ".join([text, *reasons])
    header = ("evaluation", *shown)
    return Grid(text, header, rows, text=frozenset(range(len(header))))


def _cells(measures: Mapping[str, float]) -> list[str]:
    return [f"{measures[m]:.2f}" if m in measures else "" for m in MEASURES]
