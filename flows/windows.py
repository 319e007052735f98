"""What a run shows in the Prefect UI: progress, pictures and tables, as artifacts.

All of them are views of files that the stage writes anyway. Outside a run they do nothing, and a
server that has gone away never stops a stage.
"""

from __future__ import annotations

import base64
import functools
import io
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, cast
from uuid import UUID

from PIL import Image
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.context import FlowRunContext, TaskRunContext

log = logging.getLogger(__name__)
P = ParamSpec("P")


def _inside_run() -> bool:
    return FlowRunContext.get() is not None or TaskRunContext.get() is not None


def _shown(function: Callable[P, None]) -> Callable[P, None]:
    """Skip outside a run, and let no fault of the window reach the work."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        if not _inside_run():
            return
        try:
            function(*args, **kwargs)
        except Exception as error:  # the stage's result does not depend on being watched
            log.warning("the Prefect UI was not updated: %s", error)

    return guarded


class Progress:
    """A bar in the UI; the terminal's bar is tqdm's."""

    def __init__(self, description: str, total: int) -> None:
        """Start at nothing of ``total`` steps."""
        self.total, self.done = max(total, 1), 0
        self.artifact: UUID | None = None
        self._start(description)

    @_shown
    def _start(self, description: str) -> None:
        # The stub allows for an async caller; this one is not.
        self.artifact = cast("UUID", create_progress_artifact(0.0, description=description))

    def reach(self, share: float, note: str = "") -> None:
        """Move the bar to a share of the whole; the note is logged at every tenth."""
        percent = int(100 * share)
        if note and percent // 10 != 100 * self.done // self.total // 10:
            log.info("%d %%: %s", percent, note)
        self.advance(percent * self.total // 100 - self.done)

    @_shown
    def advance(self, steps: int = 1) -> None:
        """Count some steps as done."""
        if steps <= 0:
            return
        before = 100 * self.done // self.total
        self.done += steps
        percent = 100 * self.done // self.total
        if self.artifact is not None and percent != before:
            update_progress_artifact(self.artifact, progress=float(percent))


class Steps:
    """A training's bar: give its `show` to the loop as the progress callback."""

    def __init__(self, stage: str) -> None:
        """Begin a bar of a hundred parts."""
        self.stage, self.bar = stage, Progress(f"{stage}: steps", 100)

    def show(self, step: int, steps: int, row: Mapping[str, float]) -> None:
        """Show a step and its newest losses."""
        losses = ", ".join(f"{name} {value:.3f}" for name, value in row.items() if name != "lr")
        self.bar.reach(step / steps, f"{self.stage} {step} of {steps}: {losses}")


def _named(key: str) -> str:
    """Make a key of what Prefect allows in one: small letters, digits, dashes."""
    return re.sub(r"[^a-z0-9]+", "-", key.lower()).strip("-")


@_shown
def picture(key: str, image: Image.Image, caption: str) -> None:
    """Show a picture, such as a contact sheet, on the run's page."""
    sink = io.BytesIO()
    image.convert("RGB").save(sink, format="JPEG", quality=85)
    encoded = base64.b64encode(sink.getvalue()).decode()
    url = f"data:image/jpeg;base64,{encoded}"
    # As Markdown: an image artifact's page prints its address, here the whole picture, as a line.
    text = f"![{caption}]({url})\n\n{caption}"
    create_markdown_artifact(text, key=_named(key), description=caption)


@_shown
def sheet(key: str, rows: Sequence[tuple[str, Sequence[Image.Image | None]]], caption: str) -> None:
    """Show named rows of pictures as one contact sheet on the run's page."""
    from tasks.report.sheets import SheetRow, contact_sheet  # the fonts take half a second

    picture(key, contact_sheet([SheetRow(name, "", images) for name, images in rows]), caption)


@_shown
def table(key: str, rows: Sequence[dict[str, Any]], caption: str) -> None:
    """Show a table on the run's page."""
    create_table_artifact(list(rows), key=_named(key), description=caption)


@_shown
def rejects(images: Path, screened: Path) -> None:
    """Show what screening refused: counts by reason beside the paper's, and examples of each."""
    from tasks.report.rejects import reject_sheet, tally  # the fonts take half a second

    counts = tally(screened)
    table("screened", counts.table(), counts.beside_paper())
    drawn = reject_sheet(images, screened)
    if drawn is not None:
        picture("rejects", drawn, counts.beside_paper())


@_shown
def regions(images: Path, annotated: Path, pictures: int = 8) -> None:
    """Show what annotation found: pictures with their regions, refused boxes, groups in numbers."""
    from tasks.report.region_sheets import refused_sheet, region_sheet  # the fonts take a second
    from tasks.report.region_tally import tally_regions
    from tasks.report.regions import group_rows

    counts = tally_regions(annotated)
    table("annotated-groups", group_rows(counts), f"Phrases and boxes by group. {counts.how()}")
    drawn = region_sheet(images, annotated, pictures, seed=0)
    if drawn is not None:
        picture("annotated", drawn, "A box for each phrase; dots mark phrases without one")
    refused = refused_sheet(images, annotated)
    if refused is not None:
        picture("refused-boxes", refused, "Boxes that the filter refused, by reason")


@_shown
def losses(stage: str, output: Path) -> None:
    """Show a training's loss curve, from ``curve.csv``, and how its epochs ranked, if they did."""
    from tasks.report.choices import read_epochs
    from tasks.report.epoch_figures import epochs_chart
    from tasks.report.figures import loss_chart, png  # matplotlib takes a second
    from tasks.report.gather import read_curve

    drawn = png(loss_chart([read_curve(stage, output / "curve.csv")]), dpi=100)
    picture(f"{stage}-losses", Image.open(io.BytesIO(drawn)), f"Losses of {stage} over its steps")
    if (epochs := read_epochs(stage, output)) is not None:
        drawn = png(epochs_chart([epochs]), dpi=100)
        caption = f"Loss, R@1 and mAP of {stage} by epoch; a ring marks a kept epoch"
        picture(f"{stage}-epochs", Image.open(io.BytesIO(drawn)), caption)


@_shown
def gap(folder: Path) -> None:
    """Show the arms that a gap was measured of: their sheet, their figures, the curve."""
    from tasks.report import gap as drawn

    found = drawn.read_gap(folder)
    if found is None or not found.arms:
        return
    table("gap", drawn.rows(found), "Share of the gap that is left, and of the content, by arm")
    for name, image, caption in drawn.pictures(found):
        picture(f"gap-{name}", image, caption)


def standing(name: str, evaluation: Path) -> None:
    """Show how an evaluation was done, and its figures among the published ones of its benchmark.

    Those are of models that were fine-tuned on the benchmark if this one was, and of models that
    were not if this one was not. In the terminal and on the run's page. Nothing that a stage writes
    depends on published figures, so they are imported here and not there.

    Args:
        name: The evaluation.
        evaluation: Its folder.
    """
    from rich.console import Console
    from rich.table import Table

    from tasks.evaluate.protocol import words
    from tasks.report import published
    from tasks.report.gather import read_evaluation
    from tasks.report.records import MEASURES

    own = published.read_own(name, evaluation, read_evaluation(evaluation).measures)
    if own is None:
        return
    console = Console()
    if not console.is_terminal:  # a log file has no width, and a column of three letters none
        console = Console(width=180)
    how = words(own.protocol)
    console.print(f"{name}: " + "; ".join(f"{heading} {said}" for heading, said in how.items()))
    table(f"protocol-{name}", [how], f"How {name} was evaluated")
    if reason := published.nothing_published(own):
        console.print(reason)
    board = own.board
    if reason or board is None:
        return
    rows = published.standing(board, own.benchmark, [own])
    title = f"{name} among published figures on {own.benchmark}, {board.words}"
    shown = Table(title=f"{title}, percent")
    for heading in published.HEADER:
        shown.add_column(heading, justify="right" if heading in MEASURES else "left")
    for row in rows:
        shown.add_row(*row, style="bold" if row[-1] == published.OWN else None)
    console.print(shown)
    listed = [dict(zip(published.HEADER, row, strict=True)) for row in rows]
    table(f"published-{name}", listed, title)


@_shown
def rank_lists(name: str, evaluation: Path, gallery: Path, queries: int = 6) -> None:
    """Show what an evaluation found for some captions, best first, and where it was right."""
    from tasks.report import illustrate
    from tasks.report.gather import read_evaluation

    entry = read_evaluation(evaluation)
    chosen = illustrate.choose_queries(entry, queries, seed=0)
    lists = illustrate.rank_lists(entry, [gallery], chosen)
    if lists is not None:
        picture(f"ranks-{name}", lists, f"{name}: the caption's own picture, then what was found")
