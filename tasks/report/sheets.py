"""Sheets of pictures: before and after, rank lists. Pillow in, Pillow out.

A sheet is drawn at twice the size at which it is shown, so that it stays sharp on any screen.
Right and wrong are told by a mark as well as by colour, for readers who do not tell green from
red.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from tasks.lettering import INK, MUTED, font, wrap

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LINE = "#e3e6ea"
EMPTY = "#f1f3f5"
RIGHT = "#15924b"
WRONG = "#d13438"
NEUTRAL = "#8b95a1"
PAPER = "white"

HEIGHT = 280
"""Height of one picture in a sheet, pixels; `cell_for` chooses the width."""
GAP = 14
MARGIN = 24


def fit(image: Image.Image | None, size: tuple[int, int]) -> Image.Image:
    """Scale a picture into a cell, keeping its shape; a missing one gives a grey cell."""
    cell = Image.new("RGB", size, EMPTY)
    if image is None:
        draw = ImageDraw.Draw(cell)
        draw.text((size[0] / 2, size[1] / 2), "missing", MUTED, font(17), anchor="mm")
        return cell
    scale = min(size[0] / image.width, size[1] / image.height)
    shape = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    scaled = image.convert("RGB").resize(shape, Image.Resampling.BICUBIC)
    cell.paste(scaled, ((size[0] - shape[0]) // 2, (size[1] - shape[1]) // 2))
    return cell


def cell_for(images: Iterable[Image.Image | None], height: int = HEIGHT) -> tuple[int, int]:
    """Choose a cell that suits most pictures: their median shape, within bounds."""
    shapes = [image.width / image.height for image in images if image is not None]
    return round(height * min(max(median(shapes or [0.5]), 0.35), 1.2)), height


@dataclass(frozen=True)
class SheetRow:
    """One row of a contact sheet."""

    title: str
    detail: str
    images: Sequence[Image.Image | None]


def card_sheet(cards: Sequence[Image.Image], columns: int, width: int, gap: int) -> Image.Image:
    """Put cards into a grid; a row of it is as high as its highest card.

    Args:
        cards: At least one.
        columns: Cards in a row.
        width: Of a column, pixels.
        gap: Between two columns, pixels.
    """
    rows = [cards[at : at + columns] for at in range(0, len(cards), columns)]
    heights = [max(card.height for card in row) for row in rows]
    step = width + gap
    size = (
        2 * MARGIN + min(columns, len(cards)) * step - gap,
        2 * MARGIN + sum(heights) + 3 * GAP * (len(rows) - 1),
    )
    sheet = Image.new("RGB", size, PAPER)
    top = MARGIN
    for row, height in zip(rows, heights, strict=True):
        for at, card in enumerate(row):
            sheet.paste(card, (MARGIN + at * step, top))
        top += height + 3 * GAP
    return sheet


def contact_sheet(rows: Sequence[SheetRow], height: int = HEIGHT) -> Image.Image:
    """Draw rows of pictures with their names at the left.

    A column is one thing seen several ways; a row is one way of seeing many things.

    Args:
        rows: The rows, of equal length or shorter at the end.
        height: Height of one picture, pixels.

    Returns:
        The sheet.

    Raises:
        ValueError: There is no row.
    """
    if not rows:
        raise ValueError("a contact sheet of 0 rows was asked for; it needs one; give one")
    label = 236
    cell = cell_for((image for row in rows for image in row.images), height)
    columns = max(len(row.images) for row in rows)
    width = 2 * MARGIN + label + columns * (cell[0] + GAP) - GAP
    whole = 2 * MARGIN + len(rows) * (cell[1] + GAP) - GAP
    lines = max(1, (cell[1] - 44) // 29)
    sheet = Image.new("RGB", (width, whole), PAPER)
    draw = ImageDraw.Draw(sheet)
    for r, row in enumerate(rows):
        y = MARGIN + r * (cell[1] + GAP)
        title = font(28, bold=True)
        narrow = min(1.0, (label - GAP) / max(title.getlength(row.title), 1))
        draw.text((MARGIN, y), row.title, INK, font(int(28 * narrow), bold=True))
        for n, line in enumerate(wrap(row.detail, label - 20, 22, min(7, lines))):
            draw.text((MARGIN, y + 44 + 29 * n), line, MUTED, font(22))
        for c, image in enumerate(row.images):
            sheet.paste(fit(image, cell), (MARGIN + label + c * (cell[0] + GAP), y))
    return sheet


@dataclass(frozen=True)
class RankedImage:
    """One picture of a rank list; ``correct`` is None where the truth is unknown."""

    image: Image.Image | None
    correct: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class RankList:
    """A query and what was found for it, best first."""

    query: str
    detail: str
    found: Sequence[RankedImage] = field(default_factory=tuple)
    truth: Image.Image | None = None
    """The picture that the query was written for."""


def rank_sheet(lists: Sequence[RankList], *, with_truth: bool = True) -> Image.Image:
    """Draw rank lists: the sentence, its own picture, then the gallery's answers in order.

    Args:
        lists: One entry a query.
        with_truth: Show the picture that the query was written for.

    Returns:
        The sheet.

    Raises:
        ValueError: There is no list.
    """
    if not lists:
        raise ValueError("a sheet of 0 rank lists was asked for; it needs one; give one")
    label, header, footer = 430, 50, 40
    cell = cell_for(ranked.image for entry in lists for ranked in entry.found)
    columns = max(1, max(len(entry.found) for entry in lists))
    truth_width = cell[0] + 2 * GAP if with_truth else 0
    left = MARGIN + label + truth_width
    step = cell[1] + footer + GAP
    size = (
        left + columns * (cell[0] + GAP) - GAP + MARGIN,
        2 * MARGIN + header + len(lists) * step,
    )
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    top = MARGIN + 6
    draw.text((MARGIN, top), "query", MUTED, font(22))
    if with_truth:
        draw.text((MARGIN + label + cell[0] / 2, top), "its image", MUTED, font(22), anchor="ma")
    for c in range(columns):
        x = left + c * (cell[0] + GAP) + cell[0] / 2
        draw.text((x, top), f"{c + 1}", MUTED, font(22), anchor="ma")
    for r, entry in enumerate(lists):
        y = MARGIN + header + r * step
        draw.line([(MARGIN, y - 10), (size[0] - MARGIN, y - 10)], LINE, 2)
        lines = wrap(entry.query, label - 40, 24, 8)
        for n, line in enumerate(lines):
            draw.text((MARGIN, y + 31 * n), line, INK, font(24))
        draw.text((MARGIN, y + 31 * len(lines) + 10), entry.detail, MUTED, font(20))
        if with_truth:
            sheet.paste(fit(entry.truth, cell), (MARGIN + label, y))
        for c, ranked in enumerate(entry.found):
            x = left + c * (cell[0] + GAP)
            sheet.paste(fit(ranked.image, cell), (x, y))
            colour = _colour(ranked.correct)
            if ranked.correct is not None:
                # The few right ones are to leap to the eye among the many wrong ones.
                border = 7 if ranked.correct else 3
                box = (x - border, y - border, x + cell[0] + border - 1, y + cell[1] + border - 1)
                draw.rectangle(box, outline=colour, width=border)
            mark = {True: "✓ ", False: "✗ ", None: ""}[ranked.correct]
            # A long name ends in an ellipsis before it reaches its neighbour's.
            note = "".join(wrap((mark + ranked.note).strip(), cell[0] + GAP // 2, 20, 1))
            draw.text((x + cell[0] / 2, y + cell[1] + 10), note, colour, font(20), anchor="ma")
    return sheet


def _colour(correct: bool | None) -> str:
    return {True: RIGHT, False: WRONG, None: NEUTRAL}[correct]
